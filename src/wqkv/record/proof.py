"""The proof of a layer: P V, of the weights that will be shown, against the model's own output."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import Call, request
from wqkv.attend.engines import reference
from wqkv.attend.geometry import At
from wqkv.attend.masks.algebra import Mask
from wqkv.errors import WqkvError, describe
from wqkv.maps.weights import BLOCK
from wqkv.record.captured import Asked, Proof

#: Up to this many rows of a batch are all proved; of more, this many are sampled, but no fewer of
#: each sample than FEWEST.
ALL_ROWS, SAMPLED_ROWS, FEWEST = 512, 64, 4


class Standing(NamedTuple):
    """Where a call's first query stands in its text and in its run, and its first key there."""

    position: int
    row: int = 0
    first_key: int = 0


def prove(asked: Asked, mask: Mask, at: Standing, key_len: int) -> Proof:
    """Compare the weights of a call, as a map of `key_len` keys will show them, with its output."""
    n, m = asked.query.shape[2], asked.key.shape[2]
    m = min(m, key_len - at.first_key)
    key, value = asked.key[:, :, :m], asked.value[:, :, :m]
    bias = asked.bias
    if bias is not None and bias.shape[3] > 1:
        bias = bias[..., :m]
    try:
        call = request(
            asked.query.detach(),
            key.detach(),
            key.detach(),
            bias=bias,
            scale=asked.scale,
            softcap=asked.softcap,
            sinks=asked.sinks,
        )
    except WqkvError as error:
        why = "its call is not understood: " + " ".join(str(error).splitlines()[:1])
        return Proof(refused=why)
    if value.shape[:3] != (len(key), key.shape[1], m):
        why = f"its values are {describe(value)} for the keys {describe(key)}"
        return Proof(refused=why)
    picked = torch.arange(n, device="cpu")
    if len(key) * n > ALL_ROWS:
        count = min(n, max(SAMPLED_ROWS // len(key), FEWEST))
        picked = torch.linspace(0, n - 1, count, dtype=torch.float64, device="cpu").round().long()
    step = max(1, BLOCK // max(1, call.sizes[0] * call.sizes[1] * m))
    proof = Proof()
    for rows in picked.to(key.device).split(step):
        proof = proof.plus(_prove_rows(call, value, asked.output, mask, rows, at))
    if proof.share <= 1:
        return proof
    return proof._replace(
        refused=f"its proof failed: the rebuilt output differs from the model's by "
        f"{proof.error:.1e}, {proof.share:.1f} times what rounding allows"
    )


def _prove_rows(
    call: Call, value: Tensor, output: Tensor, mask: Mask, rows: Tensor, at: Standing
) -> Proof:
    """|P V - output| on some rows against what rounding allows there.

    If scores are off by up to e_ij = c eps (1 + |s_ij|), row i of the output is off by at most
    sum_j P_ij e_ij |v_j| + (sum_j P_ij e_ij) (sum_j P_ij |v_j|).
    """
    position, row, first_key = at
    batch, n_head, _, m = call.sizes
    device = rows.device
    some = rows.view(1, 1, -1, 1)
    keys = torch.arange(m, device=device).view(1, 1, 1, -1)
    samples = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    heads = torch.arange(n_head, device=device).view(1, -1, 1, 1)
    here = At(samples, heads, some, some, keys)  # as this call counts, for its bias
    shown = At(samples, heads, some + row, some + position, keys + first_key)
    fixed = replace(call.rules, mask=_Fixed(mask.visible(shown)))
    part = replace(call, query=call.query[:, :, rows], rules=fixed)
    steps = reference.steps(replace(part, value=part.key[..., :0]), here)
    P, score = steps.weights, steps.scores
    v = value.detach().to(P.dtype).repeat_interleave(n_head // value.shape[1], dim=1)
    theirs = output[:, :, rows].to(P.dtype)
    sees = score != -torch.inf  # NaN is seen, and fails
    filled = sees.any(dim=-1)
    e = P * (1 + score.masked_fill(~sees, 0).abs())
    allowed = e @ v.abs() + e.sum(dim=-1, keepdim=True) * (P @ v.abs())
    allowed = allowed * _unit(call, value, output) + torch.finfo(P.dtype).tiny
    difference = (P @ v - theirs).abs()
    share = (difference / allowed)[filled]
    error = difference[filled]
    empty = int((~filled).any(dim=1).sum())
    if not share.numel():
        return Proof(0.0, 0.0, 0, empty)
    worst, largest = float(error.max()), float(share.max())
    if math.isnan(worst) or math.isnan(largest):
        worst = largest = math.inf
    return Proof(worst, largest, int(filled.any(dim=1).sum()), empty)


class _Fixed(Mask):
    """The entries at the places that are asked about, and no others."""

    def __init__(self, seen: Tensor) -> None:
        self._seen = seen

    def visible(self, at: At) -> Tensor:
        return self._seen


def _unit(call: Call, value: Tensor, output: Tensor) -> float:
    """What one rounding is worth in the dtype that computed, with some room."""
    eps = max(torch.finfo(x.dtype).eps for x in (call.query, value, output))
    if call.query.is_cuda and eps < 1e-6 and torch.get_float32_matmul_precision() != "highest":
        eps = 2**-10
    return eps * (2 if eps > 1e-4 else 32)
