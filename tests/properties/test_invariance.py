"""What attention does not depend on, for every engine: the order of keys, where a text starts, how
heads are shared, and what stands in rows and samples that are not looked at."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import (
    BATCH,
    HEADS,
    Masks,
    able,
    close,
    engine_names,
    lengths,
    masks,
    qkv,
    seeds,
    stored,
)
from wqkv import Causal, RoPE, attention


@given(masks(), st.randoms(use_true_random=False), engine_names, seeds)
def test_the_order_of_keys(drawn: Masks, pick: object, engine: str, seed: int) -> None:
    q, k, v = qkv(seed, drawn.query_len, drawn.key_len)
    order = list(range(drawn.key_len))
    pick.shuffle(order)  # type: ignore[attr-defined]
    rules = {"mask": drawn.masks[0], "query_offset": drawn.query_offset}
    whole = attention(q, k, v, **rules, engine=able(engine, q, k, v, **rules))
    turned = (q, k[:, :, order], v[:, :, order])
    mask = stored(drawn.dense(drawn.masks[0])[..., order])
    close(attention(*turned, mask=mask, engine=able(engine, *turned, mask=mask)), whole)


@given(lengths, lengths, st.integers(-5, 5), st.integers(0, 10000), st.booleans(), seeds)
def test_rope_knows_differences_only(
    query_len: int, key_len: int, first: int, shift: int, interleaved: bool, seed: int
) -> None:
    rope = RoPE(256.0, d=4, interleaved=interleaved)  # frequencies 1 and 1 / 16, exact
    q, k, v = qkv(seed, query_len, key_len)
    at = [torch.arange(query_len) + first, torch.arange(key_len)]
    here, there = (
        attention(rope.rotate(q, at[0] + move), rope.rotate(k, at[1] + move), v)
        for move in (0, shift)
    )
    close(here, there)


@given(masks(), st.sampled_from([1, HEADS]), engine_names, seeds)
def test_grouped_heads_are_repeated_heads(drawn: Masks, group: int, engine: str, seed: int) -> None:
    tensors = qkv(seed, drawn.query_len, drawn.key_len, HEADS // group)
    q, k, v = tensors
    rules = {"mask": drawn.masks[0], "query_offset": drawn.query_offset}
    grouped = attention(q, k, v, **rules, engine=able(engine, q, k, v, **rules))
    K, V = (x.repeat_interleave(group, dim=1) for x in (k, v))
    repeated = attention(q, K, V, **rules, engine="reference")
    close(grouped, repeated)
    for ours, theirs in zip(
        torch.autograd.grad(grouped.square().sum(), tensors),
        torch.autograd.grad(repeated.square().sum(), tensors),
        strict=True,
    ):
        close(ours, theirs)


@given(masks(), engine_names, seeds)
def test_empty_rows_are_zero_and_harm_no_other(drawn: Masks, engine: str, seed: int) -> None:
    tensors = qkv(seed, drawn.query_len, drawn.key_len)
    rules = {"mask": drawn.masks[0], "query_offset": drawn.query_offset}
    engine = able(engine, *tensors, **rules)
    part = attention(*tensors, **rules, engine=engine, return_lse=True)
    seen = drawn.dense(drawn.masks[0])
    empty = ~seen.any(dim=-1)
    assert not part.out[empty].any() and (part.lse[empty] == -torch.inf).all()
    assert part.lse[~empty].isfinite().all()
    up = torch.linspace(-1, 1, part.out.numel(), dtype=torch.float64).view_as(part.out)
    dq, dk, dv = torch.autograd.grad(part.out, tensors, up)
    assert not dq[empty].any()
    unseen = ~seen.any(dim=2)
    assert not dk[unseen].any() and not dv[unseen].any()
    for gradient in (dq, dk, dv):
        assert gradient.isfinite().all()
    # what comes back through an empty row goes nowhere
    again = attention(*tensors, **rules, engine=engine)
    changed = torch.autograd.grad(again, tensors, up.masked_fill(empty[..., None], 1e9))
    for ours, theirs in zip(changed, (dq, dk, dv), strict=True):
        close(ours, theirs)


@given(lengths, engine_names, seeds, st.sampled_from([torch.nan, torch.inf, 1e300]))
def test_a_bad_sample_harms_no_other(n: int, engine: str, seed: int, bad: float) -> None:
    good, spoilt = qkv(seed, n, n), qkv(seed, n, n)
    with torch.no_grad():
        for x in spoilt:
            x[0] = bad
    engine = able(engine, *good, mask=Causal())
    found = []
    for tensors in (good, spoilt):
        out = attention(*tensors, mask=Causal(), engine=engine)
        gradients = torch.autograd.grad(
            out, tensors, torch.ones(BATCH, 1, 1, 1).expand_as(out) * 1.0
        )
        found.append([out, *gradients])
    for ours, theirs in zip(*found, strict=True):
        close(ours[1:], theirs[1:])
