"""Caches: any cut of a sequence into steps is one pass, and what is done to samples is done."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.properties.strategies import BATCH, D_K, D_V, HEADS, close, qkv, seeds
from tests.unit.layer.caches.test_base import in_steps, kept, seen_by
from wqkv import (
    Causal,
    Cross,
    Dynamic,
    KeyPiece,
    KVCache,
    Lengths,
    MultiheadAttention,
    Paged,
    Pool,
    Quantized,
    Rolling,
    RoPE,
    Static,
    Window,
    attention,
)
from wqkv.attend.masks import Mask
from wqkv.errors import ArgumentError

Rule = Callable[[int], Mask]  # the mask over so many keys
cuts = st.lists(st.integers(1, 9), min_size=1, max_size=8)
small = st.integers(1, 6)


@st.composite
def caches(draw: st.DrawFn, rounds: bool = True) -> KVCache:
    """An empty one of any kind that counts positions."""
    pick = draw(st.integers(0, 4 if rounds else 3))
    if pick == 0:
        return Dynamic()
    if pick == 1:
        return Static(draw(st.integers(81, 97)))
    if pick == 2:
        return Rolling(draw(small), draw(st.integers(0, 4)))
    if pick == 3:
        return Paged(Pool(1009, draw(small)))
    return Quantized(draw(st.sampled_from([8, 4])), draw(st.sampled_from([None, 1])))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    kind = draw(st.sampled_from(["causal", "window", "lengths", "left padding", "all"]))
    before = draw(st.integers(0, 12))
    ends = draw(st.lists(st.integers(0, 40), min_size=BATCH, max_size=BATCH))

    def rule(end: int) -> Mask:
        clipped = [min(length, end) for length in ends]
        return {
            "causal": Causal(),
            "window": Window(before, 0),
            "lengths": Causal() & Lengths(clipped),
            "left padding": Causal() & ~Lengths(clipped),
            "all": Window(before, 0) & Lengths(clipped) | Causal() & Lengths([min(2, end)]),
        }[kind]

    return rule


@given(caches(), cuts, rules(), st.sampled_from([1, HEADS]), seeds, st.booleans())
def test_any_cut_is_one_pass(
    cache: KVCache, cut: list[int], rule: Rule, n_kv_head: int, seed: int, grad: bool
) -> None:
    """Of q, k and v; what Quantized rounds is rounded for the one pass too."""
    n = sum(cut)
    q, k, v = (x.detach() for x in qkv(seed, n, n, n_kv_head))
    with torch.set_grad_enabled(grad):  # Dynamic writes in place without gradients, else joins
        stepped = in_steps(cache, q, k, v, cut, rule)
    close(stepped, attention(q, *kept(cache, k, v), mask=seen_by(cache, rule)(n)))
    assert cache.length == n


@given(caches(rounds=False), cuts, rules(), st.sampled_from([1, HEADS]), seeds)
def test_any_cut_of_a_layers_words_is_one_pass(
    cache: KVCache, cut: list[int], rule: Rule, n_kv_head: int, seed: int
) -> None:
    torch.manual_seed(seed % 2**32)
    n, d_model = sum(cut), 2 * HEADS
    rope = RoPE(256.0, d=2)  # a frequency of 1, exact
    layer = MultiheadAttention(
        d_model, HEADS, n_kv_head=n_kv_head, d_k=4, d_v=D_V, position=rope, mask=Causal()
    ).double()
    x = torch.randn(BATCH, n, d_model, dtype=torch.float64)
    with torch.no_grad():
        ends = list(torch.tensor(cut).cumsum(0).tolist())
        steps = [
            layer(part, mask=rule(end), cache=cache)
            for part, end in zip(x.split(cut, dim=1), ends, strict=True)
        ]
        close(torch.cat(steps, dim=1), layer(x, mask=seen_by(cache, rule)(n)))


@given(
    st.sampled_from([8, 4]),
    st.sampled_from([None, 1]),
    cuts,
    seeds,
    st.floats(-3, 3),
    st.floats(-2, 2),
)
def test_quantized_is_within_its_bound(
    bits: int, group: int | None, cut: list[int], seed: int, loud: float, shift: float
) -> None:
    """Half a step off in k moves a score by up to scale |q|_1 half, and so a weight by e^(2 that).

    |out - exact| <= half a step of v + (e^(2 s) - 1) max |v|, for scores that are s off.
    """
    n = sum(cut)
    q, k, v = (x.detach() for x in qkv(seed, n, n))
    k, v = k * 10**loud + shift, v * 10**loud + shift
    cache = Quantized(bits, group)
    stepped = in_steps(cache, q, k, v, cut, lambda end: Causal())
    (piece,) = cache.held()
    halves = []
    for came, back in ((k, piece.k), (v, piece.v)):
        groups = came.unflatten(3, (-1, group or came.shape[3]))
        half = (groups.amax(4) - groups.amin(4)) / (2**bits - 1) / 2
        half = half.repeat_interleave(group or came.shape[3], dim=3)
        assert ((back - came).abs() <= half * (1 + 1e-9) + 1e-12).all()
        halves.append(half)
    off = D_K**-0.5 * (q.abs().unsqueeze(3) * halves[0].unsqueeze(2)).sum(-1)  # a pair of places
    moved = torch.expm1(2 * off.amax(dim=3, keepdim=True)) * v.abs().amax()
    exact = attention(q, k, v, mask=Causal())
    assert ((stepped - exact).abs() <= halves[1].amax() + moved + 1e-9).all()


class Model:
    """What a cache should keep: the keys and values of each sample, one after the other."""

    def __init__(self) -> None:
        self.samples: list[tuple[Tensor, Tensor]] = []

    @property
    def lengths(self) -> list[int]:
        return [k.shape[1] for k, _ in self.samples]

    def append(self, k: Tensor, v: Tensor) -> None:
        past = self.samples or [(k[0, :, :0], v[0, :, :0])] * len(k)
        self.samples = [
            (torch.cat((old_k, new_k), dim=1), torch.cat((old_v, new_v), dim=1))
            for (old_k, old_v), new_k, new_v in zip(past, k, v, strict=True)
        ]

    def rewind(self, lengths: list[int]) -> None:
        self.samples = [
            (k[:, :n], v[:, :n]) for (k, v), n in zip(self.samples, lengths, strict=True)
        ]

    def check(self, cache: KVCache, pieces: tuple[KeyPiece, ...]) -> None:
        """Every piece holds the numbers of its positions; only Rolling leaves positions out."""
        expected = self.lengths if len(set(self.lengths)) > 1 else self.lengths[0]
        assert torch.as_tensor(cache.length).tolist() == expected
        seen = [torch.zeros(n, dtype=torch.bool) for n in self.lengths]
        for piece in pieces:
            for b, ((k, v), n) in enumerate(zip(self.samples, self.lengths, strict=True)):
                place = slice(piece.start, min(piece.start + piece.k.shape[2], n))
                count = max(0, place.stop - place.start)
                assert torch.equal(piece.k[b, :, :count], k[:, place])
                assert torch.equal(piece.v[b, :, :count], v[:, place])
                assert not seen[b][place].any()
                seen[b][place] = True
        for whole, n in zip(seen, self.lengths, strict=True):
            if isinstance(cache, Rolling):
                whole = torch.cat((whole[: cache.first], whole[max(0, n - cache.window + 1) :]))
            assert whole.all()


@given(caches(rounds=False), st.data(), seeds)
def test_a_life(cache: KVCache, data: st.DataObject, seed: int) -> None:
    """Any sequence of appends, rewinds, reorders, splits, merges, copies and files."""
    torch.manual_seed(seed % 2**32)
    first, model, room = cache, Model(), 81
    for _ in range(data.draw(st.integers(1, 12))):
        batch, longest = len(model.samples), max(model.lengths, default=0)
        do = data.draw(st.sampled_from(["append", "append", "rewind", "samples", "file", "copy"]))
        if do == "append" or not batch:
            n = min(data.draw(small), room - longest)
            if n == 0:
                continue
            k, v = (
                torch.randn(batch or BATCH, HEADS, n, d, dtype=torch.float64) for d in (D_K, D_V)
            )
            model.append(k, v)
            with torch.set_grad_enabled(data.draw(st.booleans())):
                pieces = cache.append(k, v)
            assert pieces[-1].start + pieces[-1].k.shape[2] == max(model.lengths)
        elif do == "rewind":
            to = data.draw(st.integers(0, min(model.lengths)))
            lengths = [to] * batch
            if isinstance(cache, Paged):
                lengths = [data.draw(st.integers(0, n)) for n in model.lengths]
                cache.rewind(torch.tensor(lengths))
            elif isinstance(cache, Rolling) and gone(cache, to):
                with pytest.raises(ArgumentError, match=f"back to length {to}"):
                    cache.rewind(to)
                continue
            else:
                cache.rewind(to)
            model.rewind(lengths)
        elif do == "samples":
            index = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=3))
            if data.draw(st.booleans()):
                cache.reorder(index)
            else:
                parts = cache.split()
                cache = type(cache).merge([parts[i] for i in index])
                del parts  # whose blocks would stay taken
            model.samples = [model.samples[i] for i in index]
        elif do == "file":
            with tempfile.TemporaryDirectory() as folder:
                cache.save(Path(folder) / "cache")
                cache = type(cache).load(Path(folder) / "cache")
        else:
            cache = copy.deepcopy(cache)
        model.check(cache, cache.held())
    if isinstance(cache, Paged):  # hypothesis holds the first cache, too
        live = {id(one): one for one in (cache, first) if one.pool is cache.pool}.values()
        taken = {block for one in live for each in one._sequences for block in each.blocks}
        assert cache.pool.free == cache.pool.blocks - len(taken)


def gone(cache: Rolling, to: int) -> bool:
    """Whether a query at this position would see one that is not kept."""
    held = {piece.start + i for piece in cache.held() for i in range(piece.k.shape[2])}
    return (
        not set(range(min(to, cache.first))) <= held
        or not set(range(max(0, to - cache.window + 1), to)) <= held
    )


@given(st.integers(1, 23), cuts, rules(), seeds)
def test_cross_is_one_pass(key_len: int, cut: list[int], rule: Rule, seed: int) -> None:
    q, k, v = (x.detach() for x in qkv(seed, sum(cut), key_len))
    cache, outs, first = Cross(), [], 0
    for part in q.split(cut, dim=2):
        (piece,) = cache.held() if cache.filled else cache.append(k, v)
        rules = {"mask": rule(key_len), "query_offset": first}
        outs.append(attention(part, piece.k, piece.v, **rules))  # type: ignore[arg-type]
        first += part.shape[2]
    whole = attention(q, k, v, mask=rule(key_len), query_offset=0)
    close(torch.cat(outs, dim=2), whole)


@given(st.lists(st.integers(1, 11), min_size=BATCH, max_size=BATCH), cuts, small, seeds)
def test_pages_of_different_lengths_are_one_pass_each(
    lengths: list[int], cut: list[int], size: int, seed: int
) -> None:
    n = sum(cut)
    q, k, v = (x.detach() for x in qkv(seed, n, n))
    _, k0, v0 = (x.detach() for x in qkv(seed + 1, 1, max(lengths)))
    cache = Paged(Pool(1009, size))
    cache.append(k0, v0)
    cache.rewind(torch.tensor(lengths))
    stepped = in_steps(cache, q, k, v, cut, lambda end: Causal())
    for b, first in enumerate(lengths):
        one = slice(b, b + 1)
        alone = [
            torch.cat((old[one, :, :first], new[one]), dim=2) for old, new in ((k0, k), (v0, v))
        ]
        close(stepped[one], attention(q[one], *alone, mask=Causal(), query_offset=first))
