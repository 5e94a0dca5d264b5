"""Random calls: every engine that can run one agrees with the reference, or the seed is printed.

`python -m tests.conformance.test_fuzz 10000` runs as many, from seed 0; a second number is the
first seed. WQKV_FUZZ sets how many the test runs.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from tests.conformance.cases import (
    Case,
    alibi,
    expanded,
    sliced,
    stored,
    t5,
    transposed,
)
from tests.conformance.test_table import differences, poisoned, results
from wqkv import Causal, Chunked, Dense, Full, Lengths, Prefix, RoPE, Segments, Window, attention
from wqkv.attend import engines
from wqkv.attend.call import request
from wqkv.attend.masks import Mask

COUNT = int(os.environ.get("WQKV_FUZZ", "2000"))
BLOCKS = 20

__all__ = ["poisoned"]  # a fixture: here too, empty buffers are full of NaN


class RandomCall(NamedTuple):
    case: Case
    dtype: torch.dtype
    learn: tuple[str, ...]  # the leaves that get a gradient
    through: tuple[str, ...]  # the results that it comes through
    return_lse: bool

    def __str__(self) -> str:
        _, *options = self._asdict().items()
        return f"{self.case} {dict(options)}"


def random_call(seed: int) -> RandomCall:
    """Any call: sizes, masks, rules, memory, dtype and gradients."""
    pick = random.Random(seed)

    def chance(share: float) -> bool:
        return pick.random() < share

    def length() -> int:
        if chance(0.04):
            return pick.choice((129, 300))
        return pick.choice((0, 1, 1, 2, 3, 5, 7, 11, 13, 17, 29))

    query_len = length()
    key_len = query_len if chance(0.5) else length()
    batch = pick.choice((0, 1, 1, 2, 2, 2, 3))
    n_kv_head = pick.choice((1, 1, 2, 3))
    d_k = pick.choice((0, 1, 3, 4, 5, 8, 8, 16, 19))
    offset: int | tuple[int, ...] | None = None
    if query_len != key_len or chance(0.3):
        reach = (-query_len - 2, key_len + 2)
        offset = tuple(pick.randint(*reach) for _ in range(pick.choice((1, batch)) or 1))
        if len(offset) not in (1, batch) or chance(0.6):
            offset = offset[0]
    rope = chance(0.1) and d_k > 0 and d_k % 2 == 0
    kinds = [None] * 5 + [alibi, t5(False), t5(True)]
    kinds += [stored("".join(axis for axis in "bhqk" if chance(0.5))) for _ in range(4)]
    sizes = (batch, n_kv_head * pick.choice((1, 1, 2, 3)), query_len, key_len)
    mask = random_mask(pick, sizes, offset, pick.choice((0, 0, 1, 1, 2, 3)))
    case = Case(
        f"seed {seed}",
        lambda case: mask,
        pick.choice(kinds),
        batch=batch,
        n_head=sizes[1],
        n_kv_head=n_kv_head,
        query_len=query_len,
        key_len=key_len,
        d_k=d_k,
        d_v=d_k if chance(0.4) else pick.choice((0, 1, 3, 8, 13, 16)),
        scale=pick.choice((None, None, None, 0.5, 0.0, -0.3)),
        softcap=pick.choice((None, None, None, 0.5, 3.0)),
        sinks=chance(0.2),
        rope=RoPE(100.0, interleaved=chance(0.5)) if rope else None,
        query_offset=offset,
        layout=pick.choice((Case.layout, Case.layout, transposed, expanded, sliced)),
    )
    dtypes = (torch.float32,) * 3 + (torch.float64, torch.bfloat16, torch.float16)
    leaves = tuple(case.make(torch.float32).leaves)
    return RandomCall(
        case,
        pick.choice(dtypes),
        leaves if chance(0.4) else tuple(leaf for leaf in leaves if chance(0.4)),
        pick.choice((("out",), ("out",), ("lse",), ("out", "lse"))),
        chance(0.5),
    )


def random_mask(
    pick: random.Random,
    sizes: tuple[int, int, int, int],
    offset: int | tuple[int, ...] | None,
    depth: int,
) -> Mask:
    """A mask of up to 2^depth leaves, each of any kind."""
    if depth > 0:
        a, b = (random_mask(pick, sizes, offset, depth - 1) for _ in range(2))
        return pick.choice((a & b, a & b, a | b, ~a, a))
    batch, _, query_len, key_len = sizes
    numbers = torch.Generator().manual_seed(pick.getrandbits(40))
    many = pick.choice((1, batch)) or 1

    def some(most: int, *shape: int) -> torch.Tensor:
        return torch.randint(most + 1, shape, generator=numbers)

    def reach() -> int | None:
        return pick.choice((None, 0, 1, 4, key_len // 2))

    def segments() -> Mask:
        labels = some(2, many, key_len)
        labels = labels if pick.random() < 0.3 else labels.sort(dim=1).values
        offsets = offset if isinstance(offset, tuple) else (offset or 0,)
        among = all(first >= 0 and first + query_len <= key_len for first in offsets)
        if among and pick.random() < 0.7:
            return Segments(labels)
        return Segments(labels, some(2, pick.choice((1, many)), query_len))

    def dense() -> Mask:
        shape = [size if pick.random() < 0.7 else 1 for size in sizes]
        matrix = torch.rand(shape, generator=numbers) < pick.choice((0.3, 0.8))
        if shape[3]:
            matrix[..., 0] |= ~matrix.any(dim=-1)  # Dense warns of many empty rows
        return Dense(matrix)

    return pick.choice(
        (
            Full,
            Causal,
            lambda: Window(reach(), reach()),
            lambda: Chunked(pick.randint(1, 7)),
            lambda: Lengths(some(key_len, many)),
            lambda: Prefix(some(key_len, many)),
            lambda: Prefix(pick.randint(0, key_len)),
            segments,
            dense,
        )
    )()


def check(seed: int, counts: Counter[str]) -> str:
    """What is wrong with the call of this seed; counts which engines ran it."""
    call = random_call(seed)
    options: dict[str, Any] = {"learn": call.learn, "through": call.through}
    try:
        same, exact = compared(call, options)
    except Exception as error:  # any crash is a finding, told with its seed
        return f"seed {seed}: the reference raises {error!r}\n  {call}"
    wrong = []
    for module in engines.PREFERENCE:
        name = engines.name(module)
        arguments = call.case.make(call.dtype, learn=call.learn).arguments
        try:
            if module.reasons_against(request(**arguments)):
                continue
            counts[name] += 1
            ours = results(name, call.case, call.dtype, **options)
            wrong += [f"{name}: {line}" for line in differences(ours, same, exact)]
            if not call.return_lse:
                alone = {"out": attention(**arguments, engine=name).detach()}
                lines = differences(alone, {"out": same["out"]}, {"out": exact["out"]})
                wrong += [f"{name} without lse: {line}" for line in lines]
        except Exception as error:
            wrong.append(f"{name} raises {error!r}")
    return "\n".join([f"seed {seed}: {call}", *wrong]) if wrong else ""


def compared(call: RandomCall, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    same = results("reference", call.case, call.dtype, **options)
    return same, results("reference", call.case, call.dtype, held=torch.float64, **options)


@cache
def ran() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_calls(block: int) -> None:
    wrong = [check(seed, ran()) for seed in range(block, COUNT, BLOCKS)]
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_most_calls_are_run() -> None:
    """Not by the reference alone."""
    counts: Counter[str] = Counter()
    for seed in range(100):
        assert check(seed, counts) == ""
    assert counts["reference"] == 100
    assert counts["tiled"] >= 50 and counts["fused"] >= 20


def test_a_seed_repeats_a_call() -> None:
    assert str(random_call(7)) == str(random_call(7)) != str(random_call(11))


def main(count: int, first: int = 0) -> int:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    counts: Counter[str] = Counter()
    start, failures = time.monotonic(), 0
    for done, seed in enumerate(range(first, first + count), 1):
        if wrong := check(seed, counts):
            failures += 1
            print(wrong, flush=True)
        if done % 500 == 0 or done == count:
            seconds = time.monotonic() - start
            print(f"{done} calls, {failures} wrong, {seconds:.0f} s, {dict(counts)}", flush=True)
    return int(failures > 0)


def numbers_of(words: Iterable[str]) -> list[int]:
    return [int(word) for word in words] or [10000]


if __name__ == "__main__":
    raise SystemExit(main(*numbers_of(sys.argv[1:])))
