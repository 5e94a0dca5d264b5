"""The algebra of masks is that of their matrices, and no mask is ever wrong about a rectangle."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import BATCH, HEADS, Masks, close, masks, qkv, seeds
from wqkv import Full, attention, merge
from wqkv.attend.geometry import Rect


@given(masks(3))
def test_algebra(drawn: Masks) -> None:
    (a, b, c), dense = drawn.masks, drawn.dense
    A, B, C = (dense(mask) for mask in (a, b, c))
    assert torch.equal(dense(a & b), A & B)
    assert torch.equal(dense(a | b), A | B)
    assert torch.equal(dense(~a), ~A)
    assert torch.equal(dense(~~a), A)
    assert torch.equal(dense(~(a & b)), dense(~a | ~b))
    assert torch.equal(dense(~(a | b)), dense(~a & ~b))
    assert torch.equal(dense(a & (b & c)), dense(c & a & b))
    assert torch.equal(dense(a | (b | c)), dense(c | a | b))
    assert torch.equal(dense(a & (b | c)), A & B | A & C)
    assert torch.equal(dense(a & Full()), A) and torch.equal(dense(Full() & a), A)
    assert torch.equal(dense(a | ~Full()), A) and dense(a | Full()).all()
    assert not dense(a & ~a).any() and dense(a | ~a).all()


@given(masks(depth=3), st.data())
def test_a_region_is_never_wrong(drawn: Masks, data: st.DataObject) -> None:
    """True means all visible, False all hidden, for the rectangle's samples and all heads."""
    mask, seen = drawn.masks[0], drawn.dense(drawn.masks[0])

    def span(length: int) -> tuple[int, int]:
        start = data.draw(st.integers(0, length - 1))
        return start, data.draw(st.integers(start + 1, length))

    (q0, q1), (k0, k1) = span(drawn.query_len), span(drawn.key_len)
    sample = data.draw(st.sampled_from([None, *range(BATCH)]))
    first = drawn.query_offset
    answer = mask.region(Rect(sample, q0 + first, q1 + first, k0, k1))
    pairs = seen[slice(None) if sample is None else sample, ..., q0:q1, k0:k1]
    assert answer is None or bool((pairs == answer).all())


@given(masks(depth=3))
def test_single_pairs_are_known_where_nothing_is_stored(drawn: Masks) -> None:
    """A region may be unknown; of what it does know, every single pair agrees with the matrix."""
    mask, seen = drawn.masks[0], drawn.dense(drawn.masks[0])
    first = drawn.query_offset
    for sample in range(BATCH):
        for i in range(0, drawn.query_len, 3):
            for j in range(0, drawn.key_len, 3):
                answer = mask.region(Rect(sample, i + first, i + first + 1, j, j + 1))
                assert answer is None or bool((seen[sample, :, i, j] == answer).all())


@given(masks(depth=3), st.data())
def test_a_part_is_the_mask_of_some_of_its_keys(drawn: Masks, data: st.DataObject) -> None:
    """Attention over the parts, merged, is attention over the whole; with gradients."""
    mask, seen = drawn.masks[0], drawn.dense(drawn.masks[0])
    cut = data.draw(st.integers(0, drawn.key_len))
    q, k, v = qkv(data.draw(seeds), drawn.query_len, drawn.key_len)
    parts = []
    for start, end in ((0, cut), (cut, drawn.key_len)):
        if start == end:
            continue
        part, first = mask.part(start, drawn.key_len), drawn.query_offset - start
        matrix = part.dense(drawn.query_len, end - start, first)
        assert torch.equal(matrix.expand(BATCH, HEADS, -1, -1), seen[..., start:end])
        for sample in range(BATCH):
            answer = part.region(Rect(sample, first, first + drawn.query_len, 0, end - start))
            assert answer is None or bool((seen[sample, ..., start:end] == answer).all())
        rest = {"mask": part, "query_offset": first, "return_lse": True}
        parts.append(attention(q, k[:, :, start:end], v[:, :, start:end], **rest))
    whole = attention(q, k, v, mask=mask, query_offset=drawn.query_offset)
    merged = merge(*parts).out
    close(merged, whole)
    up = torch.ones_like(whole)
    leaves = (q, k, v)
    for a, b in zip(
        torch.autograd.grad(merged, leaves, up), torch.autograd.grad(whole, leaves, up), strict=True
    ):
        close(a, b)
