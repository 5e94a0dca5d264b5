"""Rolling keeps what its window shows, and no more."""

import copy
import itertools

import pytest
import torch

from tests.unit.layer.caches.test_base import KV_HEADS, B, N, in_steps, qkv, same
from wqkv import Causal, Full, Lengths, Rolling, Window, attention
from wqkv.errors import ArgumentError


def places(pieces):
    """(start, how many, mask) of each piece."""
    return [(piece.start, piece.k.shape[2], repr(piece.mask)) for piece in pieces]


def appended(window, first, cuts):
    """What each append returned."""
    cache, found = Rolling(window, first), []
    for some in zip(*(x.split(cuts, dim=2) for x in qkv(sum(cuts))[1:]), strict=True):
        found.append(cache.append(*some))
    return cache, found


def test_pieces():
    window, full, causal = repr(Window(2, 0)), repr(Full()), repr(Causal())
    _, found = appended(3, 0, (5, 1, 2, 1))
    assert [places(pieces) for pieces in found] == [
        [(0, 5, window)],
        [(3, 3, full)],
        [(4, 4, window)],
        [(6, 3, full)],
    ]
    _, found = appended(3, 2, (1, 3, 1, 9, 1))
    assert [places(pieces) for pieces in found] == [
        [(0, 1, causal)],
        [(0, 2, causal), (2, 2, window)],
        [(0, 2, full), (2, 3, full)],
        [(0, 2, full), (3, 11, window)],
        [(0, 2, full), (12, 3, full)],
    ]


def test_pieces_hold_their_positions():
    for cuts in ((5, 1, 2, 1, 9, 3, 2), (1,) * 23, (23,)):
        _, k, v = qkv(sum(cuts))
        for first in (0, 4):
            for pieces in appended(3, first, cuts)[1]:
                for some_k, some_v, start, _ in pieces:
                    end = start + some_k.shape[2]
                    assert torch.equal(some_k, k[:, :, start:end])
                    assert torch.equal(some_v, v[:, :, start:end])


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("rule", [Causal(), Window(1, 0), Window(9, 0), Causal() & Lengths([9, 7])])
def test_the_mask_of_the_layer_counts_too(rule, first):
    """A narrower one narrows; a wider one does not widen."""
    q, k, v = qkv()

    def so_far(end):
        return Causal() & Lengths([min(9, end), min(7, end)]) if repr(rule)[0] == "(" else rule

    stepped = in_steps(Rolling(5, first), q, k, v, (4, 1, 11, 7), so_far)
    whole = attention(q, k, v, mask=rule & (Window(4, 0) | Lengths([first])))
    torch.testing.assert_close(stepped, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "cuts", [(1,) * 400, (400,), (300, 7, 93), (5,) * 80, (6,) * 66, (7,) * 50]
)
def test_memory_does_not_grow(cuts):
    cache, _ = appended(5, 3, cuts)
    room = 3 + 2 * 5
    for name in ("k", "v"):
        assert cache._tensors[name].shape[2] == room
        assert cache._tensors[name].untyped_storage().nbytes() <= room * B * KV_HEADS * 7 * 8
    assert sum(piece.k.shape[2] for piece in cache.held()) <= room


def test_appends_copy_little():
    """The buffer is moved once in window + 1 steps."""
    cache, k, homes = Rolling(50), torch.zeros(1, 1, 1, 2), []
    for _ in range(1000):
        homes.append(cache.append(k, k)[0].k.untyped_storage().data_ptr())
    assert sum(a != b for a, b in itertools.pairwise(homes)) <= 1000 // 51 + 1


@pytest.mark.parametrize("first", [0, 3])
def test_going_back(first):
    """Where the window before is still there; where it is not, the error says which positions."""
    cache, _ = appended(5, first, (20, 6))
    oldest = cache.held()[-1].start
    assert oldest == 16  # 20 - (window - 1): what came with 6 can be taken back
    with pytest.raises(
        ArgumentError,
        match=rf"back to length 19: a query there sees position 15, and positions {first} to 15 "
        rf"are gone.\nPass 20 or more, or {first} or less",
    ):
        cache.rewind(19)
    assert cache.length == 26
    for length in (26, 23, 20):
        cache.rewind(length)
        assert cache.length == length and cache.held()[-1].start == oldest
    if first:
        cache.rewind(2)
        assert places(cache.held()) == [(0, 2, "Full()")]
        _, k, v = qkv(9, seed=4)
        fresh = Rolling(5, first)
        fresh.append(*(x[:, :, :2] for x in qkv(26)[1:]))
        for one in (cache, fresh):
            one.append(k, v)
        same(cache, fresh)


def test_going_back_before_anything_is_gone():
    cache, _ = appended(5, 0, (9,))
    cache.rewind(2)
    assert places(cache.held()) == [(0, 2, "Full()")]


def test_caches_that_evicted_at_other_times_merge():
    one, _ = appended(5, 2, (1,) * N)
    other, _ = appended(5, 2, (20, 3))
    before = copy.deepcopy(one), copy.deepcopy(other)
    both = Rolling.merge([one, other])
    for cache, kept in zip((one, other), before, strict=True):
        same(cache, kept)
    _, k, v = qkv(3, batch=2 * B, seed=3)
    alone, _ = appended(5, 2, (N,))
    for b, part in enumerate(both.split()):
        pieces = part.append(k[b : b + 1], v[b : b + 1])
        fresh = copy.deepcopy(alone)
        fresh.reorder([b % B])
        expected = fresh.append(k[b : b + 1], v[b : b + 1])
        assert places(pieces) == places(expected)
        for ours, theirs in zip(pieces, expected, strict=True):
            assert torch.equal(ours.k, theirs.k) and torch.equal(ours.v, theirs.v)


def test_a_window_of_one_goes_back_anywhere():
    cache, _ = appended(1, 2, (9,))
    cache.rewind(5)
    assert places(cache.held()) == [(0, 2, "Full()")]
    _, k, v = qkv(1)
    assert places(cache.append(k, v)) == [(0, 2, "Full()"), (5, 1, "Full()")]


def test_a_window_of_one():
    q, k, v = qkv()
    for first in (0, 1):
        stepped = in_steps(Rolling(1, first), q, k, v, (2, 1, 1, 19), lambda end: Causal())
        whole = attention(q, k, v, mask=Window(0, 0) | (Causal() & Lengths([first])))
        torch.testing.assert_close(stepped, whole, rtol=1e-12, atol=1e-13)
