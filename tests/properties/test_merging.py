"""F1 and F2: attention over disjoint sets of keys merges, forward and backward."""

from __future__ import annotations

from functools import reduce

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.properties.strategies import (
    BATCH,
    D_V,
    HEADS,
    Masks,
    able,
    close,
    engine_names,
    lengths,
    masks,
    normal,
    qkv,
    seeds,
    stored,
)
from wqkv import Partial, attention, merge


def same(a: Partial, b: Partial) -> None:
    close(a.out, b.out)
    close(a.lse, b.lse)


@st.composite
def splits(draw: st.DrawFn, key_len: int) -> list[Tensor]:
    """Disjoint sets of keys, any of them empty, in any order, together all."""
    part = draw(st.lists(st.integers(0, 3), min_size=key_len, max_size=key_len))
    sets = [torch.tensor([j for j, p in enumerate(part) if p == n]).long() for n in range(4)]
    return draw(st.permutations(sets))


@given(st.data(), masks(), engine_names, seeds)
def test_any_split_merges_to_the_whole(
    data: st.DataObject, drawn: Masks, engine: str, seed: int
) -> None:
    """The outputs, and the gradients of a random sum of out and lse."""
    tensors = qkv(seed, drawn.query_len, drawn.key_len)
    q, k, v = tensors
    seen = drawn.dense(drawn.masks[0])
    whole = attention(q, k, v, mask=drawn.masks[0], query_offset=drawn.query_offset,
                      return_lse=True, engine="reference")  # fmt: skip
    parts = []
    for keys in data.draw(splits(drawn.key_len)):
        cut = {"mask": stored(seen[..., keys])}
        some = (q, k[:, :, keys], v[:, :, keys])
        parts.append(attention(*some, **cut, return_lse=True, engine=able(engine, *some, **cut)))
    merged = merge(*parts)
    same(merged, whole)
    ups = [up.detach() for up in normal(seed + 1, whole.out.shape, whole.lse.shape)]
    for ours, theirs in zip(
        torch.autograd.grad(list(merged), tensors, ups, allow_unused=True),
        torch.autograd.grad(list(whole), tensors, ups),
        strict=True,
    ):
        close(torch.zeros_like(theirs) if ours is None else ours, theirs)


@given(st.integers(2, 5), lengths, seeds, st.data())
def test_merging_has_no_order_and_no_brackets(
    count: int, query_len: int, seed: int, data: st.DataObject
) -> None:
    rows = (BATCH, HEADS, query_len)
    parts = []
    for i in range(count):
        out, lse, empty = (x.detach() for x in normal(seed + i, (*rows, D_V), rows, rows))
        hidden = empty > 1  # some rows see nothing in this part
        parts.append(
            Partial(
                out.masked_fill(hidden[..., None], 0), (lse * 9).masked_fill(hidden, -torch.inf)
            )
        )
    merged = merge(*parts)
    same(merge(*data.draw(st.permutations(parts))), merged)
    same(reduce(lambda right, left: merge(left, right), reversed(parts)), merged)
    nothing = Partial(torch.zeros_like(merged.out), torch.full_like(merged.lse, -torch.inf))
    same(merge(merged, nothing), merged)
    same(merge(nothing, merged), merged)
    assert not merged.out[merged.lse == -torch.inf].any()
