"""Paged: blocks are shared, counted, copied on writing, and given back."""

import pytest
import torch

from tests.unit.layer.caches.test_base import B, N, in_steps, look, qkv
from wqkv import Causal, Lengths, Paged, Pool, Window, attention
from wqkv.errors import ArgumentError, KindError


def filled(pool, n=8, **rest):
    cache = Paged(pool)
    cache.append(*qkv(n, **rest)[1:])
    return cache


def test_blocks_are_counted():
    pool = Pool(11, 3)
    assert pool.free == 11
    cache = filled(pool)  # 8 positions are 3 blocks, for each of 2 samples
    assert pool.free == 5
    _, k, v = qkv(1)
    for free in (5, 3, 3, 3, 1):
        cache.append(k, v)
        assert pool.free == free
    cache.rewind(10)
    assert pool.free == 3
    cache.rewind(torch.tensor([3, 4]))
    assert pool.free == 8
    cache.reorder([1])
    assert pool.free == 9
    del cache
    assert pool.free == 11


def test_sequences_share_a_pool():
    pool = Pool(20, 3)
    one, other = filled(pool, seed=1), filled(pool, n=5, batch=1, seed=2)
    for cache, n, batch, seed in ((one, 8, B, 1), (other, 5, 1, 2)):
        _, k, v = qkv(n, batch=batch, seed=seed)
        (piece,) = cache.held()
        assert torch.equal(piece.k, k) and torch.equal(piece.v, v)


def test_blocks_are_used_again():
    pool = Pool(6, 3)
    for seed in range(5):
        cache = filled(pool, seed=seed)
        assert pool.free == 0
        assert torch.equal(cache.held()[0].k, qkv(8, seed=seed)[1])
        del cache


def test_a_fork_shares_until_one_writes():
    pool = Pool(11, 3)
    cache = filled(pool)
    twin = cache.fork(1)
    assert pool.free == 5 and twin.length == 8
    _, k, v = qkv(1, batch=1, seed=3)
    (mine,) = twin.append(k, v)  # its last block is written into: a copy
    assert pool.free == 4
    assert torch.equal(mine.k[:, :, :8], qkv(8)[1][1:]) and torch.equal(mine.k[:, :, 8:], k)
    (theirs,) = cache.held()
    assert torch.equal(theirs.k, qkv(8)[1]) and torch.equal(theirs.v, qkv(8)[2])
    cache.append(*qkv(1, seed=4)[1:])  # now alone with its last block: no copy
    assert pool.free == 4
    (mine,) = twin.held()
    assert torch.equal(mine.k[:, :, 8:], k)
    del cache
    assert pool.free == 11 - 3


def test_full_blocks_are_never_copied():
    pool = Pool(7, 4)
    cache = filled(pool, batch=1)  # 2 full blocks
    cache.reorder([0, 0, 0])
    assert pool.free == 5
    cache.append(*qkv(1, batch=3)[1:])
    assert pool.free == 2


def test_two_of_one_batch_that_share_a_block():
    """Both write into the shared block in one append: one copies, the other keeps it."""
    pool = Pool(4, 4)
    cache = filled(pool, n=5, batch=1)
    cache.reorder([0, 0, 0])
    _, k, v = qkv(2, batch=3, seed=5)
    (piece,) = cache.append(k, v)
    assert pool.free == 0
    assert torch.equal(piece.k[:, :, 5:], k) and torch.equal(piece.v[:, :, 5:], v)
    assert torch.equal(piece.k[:, :, :5], qkv(5, batch=1)[1].expand(3, -1, -1, -1))


def test_the_pool_is_empty():
    pool = Pool(7, 3)
    cache = filled(pool)
    before = cache.held()[0].k
    _, k, v = qkv(2)
    with pytest.raises(
        ArgumentError, match=r"2 more blocks of 3 positions are needed, and 1 of 7 are free.\nRewi"
    ):
        cache.append(k, v)
    with pytest.raises(ArgumentError, match="4 more blocks of 3 positions are needed, and 1 of 7"):
        filled(pool, n=5)
    assert pool.free == 1 and torch.equal(cache.held()[0].k, before)
    twin = cache.fork(0)
    (copied,) = twin.append(k[:1, :, :1], v[:1, :, :1])  # the last free block, for the copy
    assert pool.free == 0 and copied.k.shape[2] == 9
    other = cache.fork(1)
    with pytest.raises(ArgumentError, match="1 more blocks of 3 positions are needed, and 0 of 7"):
        other.append(k[:1, :, :1], v[:1, :, :1])
    del twin
    assert pool.free == 1
    other.append(k[:1, :, :1], v[:1, :, :1])


def test_sequences_of_different_lengths():
    """A batch that is padded at the end, rewound to the true lengths."""
    q, k, v = qkv()
    cache = Paged(Pool(30, 3))
    cache.append(k[:, :, :11], v[:, :, :11])
    cache.rewind(torch.tensor([11, 4]))
    assert cache.length.tolist() == [11, 4]
    rest = slice(11, N)
    stepped = in_steps(cache, *(x[:, :, rest] for x in (q, k, v)), (1, 4, 7), lambda end: Causal())
    for b, n in enumerate((11, 4)):
        alone = [torch.cat((x[b : b + 1, :, :n], x[b : b + 1, :, rest]), dim=2) for x in (k, v)]
        whole = attention(q[b : b + 1, :, rest], *alone, mask=Causal(), query_offset=n)
        torch.testing.assert_close(stepped[b : b + 1], whole, rtol=1e-12, atol=1e-13)
    (piece,) = cache.held()
    assert repr(piece.mask) == repr(Lengths([23, 16]))
    cache.rewind(16)
    assert cache.length == 16 and repr(cache.held()[0].mask) == "Full()"


def test_a_bad_sequence_harms_no_other():
    """Beyond the end of a shorter sample stands its own first position, not what others keep."""
    pool = Pool(9, 3)
    bad = filled(pool, n=1)
    for x in pool._slots:
        x.fill_(torch.nan)
    q, k, v = qkv(8)
    cache = Paged(pool)
    cache.append(k, v)
    cache.rewind(torch.tensor([8, 1]))
    (piece,) = cache.append(*(x[:, :, :1] for x in (k, v)))
    for x, own in ((piece.k, k), (piece.v, v)):
        assert torch.equal(x[1, :, 2:], own[1, :, :1].expand(-1, 7, -1))
    out = attention(q, piece.k, piece.v, mask=piece.mask)
    assert out.isfinite().all() and bad.held()[0].k.isnan().all()


def test_lengths_of_a_batch():
    cache = filled(Pool(11, 3))
    with pytest.raises(ArgumentError, match="3 lengths came for 2 samples"):
        cache.rewind(torch.tensor([1, 2, 3]))
    with pytest.raises(ArgumentError, match="back to length 9: the cache has 8 positions"):
        cache.rewind(torch.tensor([1, 9]))
    assert cache.length == 8
    cache.rewind(torch.tensor(5))
    assert cache.length == 5
    with pytest.raises(KindError, match=r"`length` is an int, not float 2\.0"):
        cache.rewind(torch.tensor([2.0, 1.0]))
    with pytest.raises(ArgumentError, match="no sample 2: the cache has 2"):
        cache.fork(2)


def test_merging_keeps_lengths_and_pool():
    pool = Pool(30, 3)
    one, other = filled(pool, n=8), filled(pool, n=5, seed=2)
    free = pool.free
    both = Paged.merge([one, other])
    assert pool.free == free and both.length.tolist() == [8, 8, 5, 5]
    with pytest.raises(ArgumentError, match="2 pools, and blocks do not leave"):
        Paged.merge([one, filled(Pool(30, 3))])


def test_other_sizes_in_one_pool():
    pool = Pool(30, 3)
    first = filled(pool)
    with pytest.raises(ArgumentError, match="`k` has 2 heads; the cache keeps 3"):
        Paged(pool).append(*(x[:, :2] for x in qkv(4)[1:]))
    assert first.length == 8


def test_a_file_keeps_what_is_shared(tmp_path):
    pool = Pool(9, 3)
    cache = filled(pool, batch=1)
    cache.reorder([0, 0, 0])
    cache.append(*qkv(2, batch=3, seed=1)[1:])
    cache.rewind(torch.tensor([10, 9, 8]))
    cache.save(tmp_path / "paged")
    found = Paged.load(tmp_path / "paged")
    assert (found.pool.blocks, found.pool.size, found.pool.free) == (9, 3, pool.free)
    _, k, v = qkv(1, batch=3, seed=6)
    for ours, theirs in zip(found.append(k, v), cache.append(k, v), strict=True):
        assert torch.equal(ours.k, theirs.k) and torch.equal(ours.v, theirs.v)
    assert found.pool.free == pool.free
    state = torch.load(tmp_path / "paged")
    for wrong in (
        {"tables": [[0, 1, 99]] * 3},
        {"tables": [[0, 1, -1]] * 3},
        {"lengths": [10, 9, 80]},
        {"lengths": [10, 9, 8.0]},
        {"lengths": [10, 9]},
        {"blocks": 2},
        {"size": 4},
        {"v": state["v"][:1]},
    ):
        torch.save(state | wrong, tmp_path / "wrong")
        with pytest.raises(ArgumentError, match="wrong' holds no Paged cache"):
            Paged.load(tmp_path / "wrong")


@pytest.mark.parametrize("rule", [Causal(), Window(3, 0)])
def test_beams(rule):
    """Three beams from one prompt, chosen anew at each step: as if each had run alone."""
    q, k, v = qkv(N, batch=3)
    cache, pool = (cache := Paged(Pool(40, 4))), cache.pool
    cache.append(k[:1, :, :9], v[:1, :, :9])
    cache.reorder([0, 0, 0])
    past = [x[:1, :, :9].expand(3, -1, -1, -1) for x in (k, v)]
    for i, order in enumerate(([0, 1, 2], [2, 2, 0], [1, 0, 0], [0, 0, 0], [2, 1, 0])):
        new = [x[:, :, 9 + i : 10 + i] for x in (q, k, v)]
        out = look(new[0], cache.append(*new[1:]), lambda end: rule, 9 + i)
        past = [torch.cat((old, x), dim=2) for old, x in zip(past, new[1:], strict=True)]
        whole = attention(new[0], *past, mask=rule, query_offset=9 + i)
        torch.testing.assert_close(out, whole, rtol=1e-12, atol=1e-13)
        cache.reorder(order)
        past = [x[order] for x in past]
    assert pool.blocks - pool.free <= 2 + 3 * 2
