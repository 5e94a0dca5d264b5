"""Spread: what each rank keeps, as if this process were one of several; tests/parallel has more."""

import copy
import itertools
import math
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist

from tests.unit.layer.caches.test_base import D_K, KV_HEADS, B, N, one_rank, qkv
from wqkv import (
    Causal,
    Chunked,
    Lengths,
    MultiheadAttention,
    Ranks,
    Spread,
    Window,
    attention,
    merge,
)
from wqkv.errors import ArgumentError, KindError

__all__ = ["one_rank"]
SIZES, BLOCKS = (1, 2, 3, 5), (1, 3, 7, 29)
CUTS = [(23,), (1,) * 23, (7, 1, 1, 11, 3), (2, 5, 9, 1, 6)]


@dataclass(frozen=True)
class Seat(Ranks):
    """One of several ranks, of which there is no other."""

    rank: int = 0
    size: int = 1


def seats(size: int, block: int) -> list[Spread]:
    return [Spread(Seat(rank=rank, size=size), block) for rank in range(size)]


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", SIZES)
def test_each_keeps_its_own_positions(size, block, cuts):
    """Position t is in the pieces of rank t // block % size, and in no other."""
    _, k, v = qkv()
    caches = seats(size, block)
    for end, some in zip(
        itertools.accumulate(cuts),
        zip(k.split(cuts, 2), v.split(cuts, 2), strict=True),
        strict=True,
    ):
        for rank, cache in enumerate(caches):
            cache.append(*some)
            kept = []
            for some_k, some_v, start, _ in cache.held():
                stop = start + some_k.shape[2]
                kept += range(start, stop)
                assert torch.equal(some_k, k[:, :, start:stop])
                assert torch.equal(some_v, v[:, :, start:stop])
            assert kept == [t for t in range(end) if t // block % size == rank]
            assert len(kept) <= math.ceil(math.ceil(end / block) / size) * block
            assert cache.length == end and len(cache.held()) <= math.ceil(end / block / size)


@pytest.mark.parametrize("rule", [Causal(), Window(3, 0), Chunked(5) & Causal()])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", SIZES)
def test_the_parts_of_all_ranks_merge(size, block, rule):
    """Also where a rank has nothing that a query may see: its part is (0, -inf)."""
    q, k, v = qkv()
    caches, first, empty = seats(size, block), 0, 0
    for n in (2, 5, 9, 1, 6):
        end, parts = first + n, []
        for cache in caches:
            pieces = cache.append(k[:, :, first:end], v[:, :, first:end])
            mine = merge(
                *(
                    attention(
                        q[:, :, first:end], *piece[:2], query_offset=first - piece.start,
                        mask=piece.mask & rule.part(piece.start, end), return_lse=True,
                    )
                    for piece in pieces
                )
            )  # fmt: skip
            nothing = mine.lse == -torch.inf
            empty += int(nothing.sum())
            assert (mine.out[nothing] == 0).all()
            parts.append(mine)
        out = merge(*parts).out
        whole = attention(q[:, :, :end], k[:, :, :end], v[:, :, :end], mask=rule)
        torch.testing.assert_close(out, whole[:, :, first:], rtol=1e-12, atol=1e-13)
        first = end
    assert bool(empty) == (size > 1)


def test_a_rank_without_words():
    """It knows what fits all the same, so that it does not wait for ranks that raise."""
    cache = Spread(Seat(rank=2, size=3), 4)
    q, k, v = qkv(7)
    (piece,) = cache.append(k, v)
    assert cache.length == 7 and cache.held() == () and repr(piece.mask) == "~Full()"
    out, lse = attention(q, *piece[:2], mask=piece.mask, return_lse=True)
    assert (out == 0).all() and (lse == -torch.inf).all() and out.shape[3] == v.shape[3]
    with pytest.raises(ArgumentError, match="`k` has 2 heads; the cache keeps 3"):
        cache.append(k[:, :2], v)
    with pytest.raises(KindError, match="`v` changed its dtype"):
        cache.append(k, v.float())
    with pytest.raises(ArgumentError, match="no sample 2: the cache has 2"):
        cache.reorder([2])
    cache.reorder([1, 1, 0])
    _, k, v = qkv(3, batch=3)
    (piece,) = cache.append(k, v)  # 7, and of its own 8 and 9
    assert piece.start == 8 and torch.equal(piece.k, k[:, :, 1:])


def test_pieces_are_views():
    """An append copies what came: not the past, unless the buffer is full."""
    cache, homes = Spread(Seat(rank=1, size=2), 4), []
    for k, v in zip(*(x.split(1, dim=2) for x in qkv(64)[1:]), strict=True):
        pieces = cache.append(k, v)
        homes.append({piece.k.untyped_storage().data_ptr() for piece in pieces[-1:]})
        if cache.held():
            assert len({piece.k.untyped_storage().data_ptr() for piece in pieces}) == 1
    moves = [i for i in range(5, 64) if homes[i] != homes[i - 1]]
    assert moves == [5, 6, 12, 20, 36]  # to 2, 4, 8, 16 and 32 of the 32 that it keeps
    size = cache.held()[0].k.untyped_storage().nbytes()
    assert size == 32 * B * KV_HEADS * D_K * 8


@pytest.mark.parametrize("length", range(0, N + 1, 4))
@pytest.mark.parametrize("size", SIZES)
def test_going_back(size, length):
    _, k, v = qkv()
    for ours, fresh in zip(seats(size, 3), seats(size, 3), strict=True):
        ours.append(k + 1, v + 1)
        ours.rewind(length)
        ours.append(k, v)
        fresh.append(k[:, :, :1].expand(-1, -1, length or 1, -1), v[:, :, : length or 1])
        fresh.rewind(length)
        fresh.append(k, v)
        for a, b in zip(ours.held(), fresh.held(), strict=True):
            after = max(length - a.start, 0)
            assert a.start == b.start and torch.equal(a.k[:, :, after:], b.k[:, :, after:])
            if after:
                stop = min(a.start + a.k.shape[2], length)
                assert torch.equal(a.k[:, :, :after], k[:, :, a.start : stop] + 1)


# With one rank of gloo


def test_a_layer_on_one_rank():
    layer = MultiheadAttention(12, 3, mask=Causal() & Lengths([N]), sinks=True).double()
    layer.sinks.data += 0.7
    x = torch.randn(B, N, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cache = Spread(block=4)
    steps = [layer(some, cache=cache, mask=None) for some in x.split((N,), 1)]
    torch.testing.assert_close(torch.cat(steps, 1), layer(x), rtol=1e-12, atol=1e-13)


def test_the_queries_alone_need_a_gradient():
    layer = MultiheadAttention(12, 3).requires_grad_(False)
    layer.WQ.requires_grad_(True)
    with (
        torch.enable_grad(),
        pytest.raises(
            ArgumentError, match=r"(?s)no gradient comes back.*f32\[2, 3, 5, 4\].*no_grad"
        ),
    ):
        layer(torch.zeros(2, 5, 12), cache=Spread())


def test_a_copy_has_the_same_ranks():
    cache = Spread(Ranks(dist.group.WORLD))
    cache.append(*qkv()[1:])
    other = copy.deepcopy(cache)
    assert other.ranks is cache.ranks
    assert other.held()[0].k.data_ptr() != cache.held()[0].k.data_ptr()


# Files


def test_a_file_of_another_rank(tmp_path):
    cache = Spread(Seat(rank=1, size=2), 3)
    cache.append(*qkv()[1:])
    cache.save(tmp_path / "cache")
    found = Spread.load(tmp_path / "cache", ranks=cache.ranks)
    assert (found.length, found.block, found.ranks) == (N, 3, cache.ranks)
    for a, b in zip(found.held(), cache.held(), strict=True):
        assert a.start == b.start and torch.equal(a.k, b.k) and torch.equal(a.v, b.v)
    for ranks, here in (
        (Seat(rank=0, size=2), "0 of 2"),
        (Seat(rank=1, size=3), "1 of 3"),
        (None, "0 of 1"),
    ):
        with pytest.raises(
            ArgumentError,
            match=rf"cache' was written by rank 1 of 2, and this is rank {here}.\nLoad",
        ):
            Spread.load(tmp_path / "cache", ranks=ranks)
    state = torch.load(tmp_path / "cache")
    for wrong in ({"size": 0}, {"rank": -1}, {"block": 0}, {"rank": 0}, {"_length": N + 2}):
        torch.save(state | wrong, tmp_path / "wrong")
        with pytest.raises(ArgumentError, match="wrong' holds no Spread cache"):
            Spread.load(tmp_path / "wrong", ranks=cache.ranks)


# Mistakes


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Spread(4), KindError, r"`ranks` is a Ranks or None, not int 4"),
        (lambda: Spread(block=0), ArgumentError, "`block` is 0.\nPass 1 or more"),
        (lambda: Spread(block="3"), KindError, "`block` is an int, not str '3'"),
        (
            lambda: Spread.merge([Spread(block=3), Spread(block=4)]),
            ArgumentError,
            r"do not merge:\n  Spread\(block=3, .*\n  Spread\(block=4",
        ),
    ],
)
def test_made_wrong(make, error, says):
    with pytest.raises(error, match=says):
        make()
