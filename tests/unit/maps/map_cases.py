"""Calls that the tests of maps look at: every mask with every rule, in small sizes that differ."""

from typing import NamedTuple

import torch
from torch import Tensor

from wqkv import ALiBi, Causal, Dense, Full, Lengths, Prefix, Segments, T5Bias, Window
from wqkv.attend.call import request
from wqkv.attend.engines import reference
from wqkv.maps.attention_map import AttentionMap

B, H, HK, Q, K, D, DV = 2, 6, 3, 13, 17, 5, 7
OFFSETS = {"int": 4, "per sample": torch.tensor([4, -3])}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hiding():
    """A bias that hides: some pairs, and all of row 2."""
    bias = draw(B, 1, Q, K, seed=5)
    bias[bias > 1] = bias[:, :, 2] = -torch.inf
    return bias


MASKS = {
    "full": Full(),
    "causal": Causal(),
    "window": Window(4, 2),
    "lengths": Lengths([17, 5]),
    "left padding": ~Lengths([3, 0]),
    "prefix": Prefix([3, 11]),
    "segments": Segments(torch.tensor([[0] * 5 + [1] * 12, [3, 1, 4, 1, 5, 9, 2, 6] * 2 + [5]])),
    "dense": Dense(draw(B, H, Q, K, seed=1) > 0),
    "combined": Causal() & ~Window(3, 0) | Prefix(2),
    "nothing": ~Full(),
}
RULES = {
    "softcap": {"softcap": 1.3},
    "sinks": {"sinks": draw(H, seed=2)},
    "stored bias": {"bias": draw(B, H, Q, K, seed=3)},
    "one bias for all": {"bias": draw(Q, K, seed=3)},
    "bias by key": {"bias": draw(1, H, 1, K, seed=3)},
    "hiding bias": {"bias": hiding()},
    "alibi": {"bias": ALiBi(H)},
    "t5": {"bias": T5Bias(draw(8, H, seed=4), bidirectional=True, max_distance=11)},
    "t5 back": {"bias": T5Bias(draw(8, H, seed=4), bidirectional=False, max_distance=11)},
    "all": {"softcap": 1.3, "sinks": draw(H, seed=2), "bias": ALiBi(H)},
    "scale": {"scale": -0.3},
    "scale 0": {"scale": 0.0},
}
CASES = {f"{mask}, {at}": (mask, at, {}) for mask in MASKS for at in OFFSETS}
CASES |= {
    f"{name}, {mask}, {at}": (mask, at, rule)
    for name, rule in RULES.items()
    for mask, at in (("full", "int"), ("causal", "per sample"), ("lengths", "per sample"))
}
V = draw(B, HK, K, DV, seed=8)


class Made(NamedTuple):
    map: AttentionMap
    exact: Tensor  # the weights in float64
    single: Tensor  # the weights by the reference in the map's own dtype
    start: int | Tensor


def arguments(case, dtype=torch.float64):
    mask, at, rules = CASES[case]
    if dtype != torch.float64 and "sinks" in rules:
        rules = {**rules, "sinks": rules["sinks"].float()}
    return {"mask": MASKS[mask], "query_offset": OFFSETS[at], **rules}


def make(case, dtype=torch.float64, n_kv_head=HK, seed=11):
    q, k = draw(B, H, Q, D, seed=seed).to(dtype), draw(B, n_kv_head, K, D, seed=seed + 1).to(dtype)
    rules = arguments(case, dtype)

    def weights(q, k):
        call = request(q, k, k, **rules)
        return reference.steps(call, call.places()).weights

    start = rules["query_offset"]
    start = start if isinstance(start, int) else start.view(-1, 1, 1, 1)
    return Made(AttentionMap(q, k, **rules), weights(q.double(), k.double()), weights(q, k), start)


def heads(x):
    return x.repeat_interleave(H // HK, dim=1)
