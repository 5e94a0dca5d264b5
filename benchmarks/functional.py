"""Ours beside torch's own fused calls, on the same q, k and v."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases import FLEX, SDPA, SDPA_MASK, SDPA_WIDE, Row
from benchmarks.contest import Contestant
from tests.conformance.cases import INPUTS
from wqkv import Window, attention

Absent = dict[str, str]


def contestants(row: Row, *, compiled: bool) -> tuple[list[Contestant], Absent]:
    """Ours first. Masks are made beforehand, for all; FlexAttention only if `compiled`."""
    case = row.case
    inputs = case.make(torch.float32, learn=INPUTS if row.backward else ())
    leaves = [inputs.leaves[name] for name in INPUTS]
    mask = inputs.arguments["mask"]
    ready = [Contestant("ours", lambda: attention(*leaves, mask=mask), leaves)]
    if row.group in ("packed", "padded"):  # a mask is new in every batch, if not in every layer
        fresh = lambda: attention(*leaves, mask=case.mask(case))  # noqa: E731
        ready.append(Contestant("ours new mask", fresh, leaves))
    for name, run in _sdpa(row, leaves, mask):
        ready.append(Contestant(name, run, leaves))
    absent: Absent = {}
    if FLEX in row.targets:
        if compiled and _compiler():
            ready.append(_flex(leaves, mask))
        else:
            absent[FLEX] = "no C++ compiler" if compiled else "compiling takes long"
    return ready, absent


def _sdpa(row: Row, leaves: list[Tensor], mask: Any) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    q, k, v = leaves

    def call(**options: Any) -> Callable[[], Tensor]:
        return lambda: F.scaled_dot_product_attention(q, k, v, **options)

    query_len, key_len = row.case.query_len, row.case.keys
    if row.group == "causal":
        yield SDPA, call(is_causal=True)
    elif row.group == "decode":
        yield SDPA, call(enable_gqa=True)
    elif row.group == "padded":
        visible = mask.dense(1, key_len)
        yield SDPA_MASK, call(attn_mask=visible)
        yield SDPA_WIDE, call(attn_mask=visible.expand(-1, -1, query_len, -1))
    elif row.group == "overhead":
        yield SDPA, call()
    else:
        yield SDPA_MASK, call(attn_mask=mask.dense(query_len, key_len).contiguous())


def _compiler() -> bool:
    return any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))


def _flex(leaves: list[Tensor], mask: Window) -> Contestant:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n, before = leaves[0].shape[2], mask.before
    assert before is not None
    assert mask.after == 0

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i - j <= before)

    begun = time.perf_counter()
    blocks = create_block_mask(visible, None, None, n, n, device="cpu")
    made = time.perf_counter()
    flex: Any = torch.compile(flex_attention, dynamic=False)
    with torch.no_grad():
        flex(*leaves, block_mask=blocks)
    notes = {"block_mask_s": made - begun, "compile_s": time.perf_counter() - made}
    return Contestant(FLEX, lambda: flex(*leaves, block_mask=blocks), leaves, notes=notes)
