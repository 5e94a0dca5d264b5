"""Which axes of scores are samples, heads, queries and keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.written import (
    BATCH,
    D_K,
    D_V,
    HEADS,
    Foreign,
    M,
    N,
    heard_of,
    is_map,
    missed,
    qkv,
    randn,
    seen_of,
)
from wqkv.record.operators.assemble import assembled
from wqkv.record.operators.axes import axis_roles, head_count
from wqkv.record.operators.layout import Unreadable
from wqkv.record.operators.scores import read


def weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1)


def flat(q, k, v):
    """Samples and heads side by side on one axis, as nn.MultiheadAttention has them."""
    return (q.flatten(0, 1) @ k.flatten(0, 1).mT).softmax(-1) @ v.flatten(0, 1)


def call(way, *given: Tensor):
    """The call that is read of one way."""
    (heard,) = heard_of(way, *given)
    heard.how.trail.batch = BATCH
    return assembled(read(heard.how.weights), heard.how, [], {})


def place(heard):
    scores = read(heard.how.weights)
    return axis_roles(scores.weights, scores.keys, scores.layout, heard.how, [])


# Layouts


def grouped(q, k, v):
    """Heads that share k are more rows of its product."""
    return (weights(q.reshape(BATCH, 3, 2 * N, D_K), k) @ v).view(BATCH, 6, N, D_V)


def grouped_apart(q, k, v):
    """The same, with the heads apart at the softmax."""
    scores = q.reshape(BATCH, 3, 2 * N, D_K) @ k.mT
    P = scores.view(BATCH, 6, N, M).softmax(-1)
    return (P.view(BATCH, 3, 2 * N, M) @ v).view(BATCH, 6, N, D_V)


def grouped_flat(q, k, v):
    """The same, with samples and key heads on one axis at the softmax."""
    scores = q.reshape(BATCH * 3, 2 * N, D_K) @ k.flatten(0, 1).mT
    P = scores.view(BATCH * 6, N, M).softmax(-1).view(BATCH * 3, 2 * N, M)
    return (P @ v.flatten(0, 1)).view(BATCH, 6, N, D_V)


def grouped_axes(q, k, v):
    """An axis for key heads, and one for the heads that share each."""
    P = torch.einsum("bghid,bgjd->bghij", q.unflatten(1, (3, 2)), k).softmax(-1)
    return torch.einsum("bghij,bgjd->bghid", P, v).flatten(1, 2)


def grouped_by_einsum_rows(q, k, v):
    q = q.unflatten(1, (3, 2)).flatten(2, 3)
    P = (q @ k.mT).unflatten(2, (2, N)).softmax(-1)
    return (P.flatten(2, 3) @ v).view(BATCH, 6, N, D_V)


def repeated(q, k, v):
    return weights(q, k.repeat_interleave(2, 1)) @ v.repeat_interleave(2, 1)


def expanded(q, k, v):
    k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v))
    return weights(q, k) @ v


@pytest.mark.parametrize(
    "way", [grouped_apart, grouped_flat, grouped_axes, grouped_by_einsum_rows, repeated, expanded]
)
def test_grouped_heads(way):
    q, k, v = qkv(heads=6, kv_heads=3)
    truth = weights(q, k.repeat_interleave(2, 1))
    seen = seen_of(way, q, k, v)
    is_map(seen, truth)
    assert "computed again" not in seen.report()


def test_grouped_heads_as_rows_alone():
    """No operator separates these heads from the queries: the map has 2 N queries per sample."""
    q, k, v = qkv(heads=6, kv_heads=3)
    is_map(seen_of(grouped, q, k, v), weights(q, k.repeat_interleave(2, 1)).view(BATCH, 3, -1, M))


@pytest.mark.parametrize("batch", [1, 2])
def test_one_key_head(batch):
    q, k, v = qkv(batch, heads=6, kv_heads=1)

    def rows(q, k, v):
        """Rows of one product, which a view takes apart before the softmax."""
        P = (q.reshape(batch, 6 * N, D_K) @ k[:, 0].mT).view(batch, 6, N, M).softmax(-1)
        return (P.view(batch, 6 * N, M) @ v[:, 0]).view(batch, 6, N, D_V)

    for way in (rows, lambda q, k, v: weights(q, k) @ v):
        is_map(seen_of(way, q, k, v), weights(q, k))
    if batch == BATCH:
        assert torch.equal(call(rows, q, k, v).key, k)


@pytest.mark.parametrize("shape", [(N, M), (M, N), (1, M), (N, N)])
def test_either_factor_may_be_q(shape):
    n, m = shape
    given = qkv(n=n, m=m)
    truth = weights(*given[:2])
    ways = [
        lambda q, k, v: (v.mT @ (k @ q.mT).softmax(-2)).mT,
        lambda q, k, v: (k @ q.mT).mT.softmax(-1) @ v,
        lambda q, k, v: flat(q, k, v).unflatten(0, (BATCH, HEADS)),
    ]
    for way in ways:
        seen = seen_of(way, *given)
        is_map(seen, truth)
        assert "computed again" not in seen.report()
        assert torch.equal(call(way, *given).query, given[0])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("n", [1, N])
def test_one_key(n, heads, batch):
    """Its axis has size 1, as that of a single sample, head or query."""
    given = qkv(batch, heads, n=n, m=1)
    ways = [
        lambda q, k, v: weights(q, k) @ v,
        lambda q, k, v: (v.mT @ (k @ q.mT).softmax(-2)).mT,
        lambda q, k, v: flat(q, k, v).unflatten(0, (batch, heads)),
        lambda q, k, v: (weights(q, k) @ v).transpose(1, 2).flatten(2),
    ]
    for way in ways:
        seen = seen_of(way, *given)
        is_map(seen, torch.ones(batch, heads, n, 1))
        assert "computed again" not in seen.report()


def test_a_product_without_samples():
    q, k, v = qkv()
    seen = seen_of(lambda q, k, v: weights(q, k) @ v, q[0, 0], k[0, 0], v[0, 0])
    is_map(seen, weights(q, k)[:1, :1])


def split_and_joined(q, k, v):
    """Heads beside samples, cut apart again and joined, as old code does it."""
    q, k, v = (torch.cat(x.transpose(1, 2).flatten(2).chunk(HEADS, -1), 0) for x in (q, k, v))
    return torch.cat((weights(q, k) @ v).chunk(HEADS, 0), -1)


#: What the model makes of its output, which shows the heads, or does not.
ENDS = {
    "joined": lambda o: o.transpose(1, 2).flatten(2),
    "cut": lambda o: o.transpose(1, 2).flatten(2)[:, :3],
    "cut before": lambda o: o[:, :, 1:3].transpose(1, 2).flatten(2),
    "all in one row": lambda o: o.transpose(1, 2).flatten(2).flatten(1),
    "summed": lambda o: o.sum(1),
    "as it is": lambda o: o,
}


@pytest.mark.parametrize("end", ENDS)
def test_ends(end):
    """Heads stand first in the products; only the joining tells them from samples."""

    def way(q, k, v):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        return ENDS[end]((weights(q, k) @ v).transpose(0, 1))

    q, k, _ = qkv()
    truth = weights(q, k)
    swapped = end in ("summed", "as it is", "cut before")
    is_map(seen_of(way), truth.transpose(0, 1) if swapped else truth)


def test_heads_that_are_joined_from_pieces():
    """The k-th piece of the output is head k."""
    seen = seen_of(split_and_joined)
    q, k, _ = qkv()
    is_map(seen, weights(q, k))


# How many heads an axis has


def test_head_count():
    (heard,) = heard_of(flat)
    count = heard.how
    count.trail.batch, count.trail.shape = None, None
    assert head_count(6, count, []) == 6  # nothing says so
    count.trail.batch = 2
    assert head_count(6, count, []) == 3
    assert head_count(7, count, []) == 7  # samples do not divide it
    assert head_count(6, count, [Foreign(None, num_heads=6)]) == 6
    assert head_count(6, count, [Foreign(None, num_heads=4, n_head=3)]) == 3  # 4 does not divide it
    assert head_count(6, count, [Foreign(None, num_heads="2")]) == 3
    assert head_count(6, count, [Foreign(None), Foreign(None, nhead=2)]) == 2  # further out
    # one head, whatever is said further out
    assert head_count(2, count, [Foreign(None), Foreign(None, nhead=2)]) == 1
    count.trail.shape = (2, 3, 5, 13)  # of a later view
    assert head_count(6, count, [Foreign(None, num_heads=6)]) == 3
    assert head_count(8, count, [Foreign(None, num_heads=4)]) == 4


def test_heads_of_a_later_view():
    truth = weights(*qkv()[:2])
    seen = seen_of(lambda q, k, v: flat(q, k, v).view(BATCH, HEADS, N, D_V), num_heads=6)
    is_map(seen, truth)
    for given in ({}, {"num_heads": HEADS}, {"heads": HEADS}):  # by the samples, or by the module
        is_map(seen_of(flat, **given), truth)
    is_map(seen_of(flat, nhead=6), truth.view(1, 6, N, M))


@pytest.mark.parametrize("heads", [1, 2])
def test_windows_between_heads_and_queries(heads):
    """As in Hiera. A single head leaves no trace, so the module has to say that there is one."""
    q, k, v = (randn(BATCH, heads, 3, n, D_K, seed=n) for n in (N, M, M))
    truth = weights(q, k)
    v = randn(BATCH, heads, 3, M, D_K, seed=2)
    seen = seen_of(lambda q, k, v: (weights(q, k) @ v).transpose(1, 3).flatten(3), q, k, v,
                   heads=heads)  # fmt: skip
    is_map(seen, truth.transpose(1, 2).flatten(0, 1))
    assert "axis 0 is 3 parts of each of 2 samples" in seen.report()


def test_parts_of_samples():
    """What the first axis is longer by than the model was given samples."""
    q, k, _ = qkv()
    seen = seen_of(flat, num_heads=1)
    is_map(seen, weights(q, k).view(6, 1, N, M))
    assert "axis 0 is 3 parts of each of 2 samples, such as windows" in seen.report()
    windows = qkv(batch=1, heads=3)
    seen = seen_of(lambda q, k, v: weights(*(x.transpose(0, 1) for x in (q, k))) @ v[0][:, None],
                   *windows)  # fmt: skip
    assert "axis 0 is 3 parts of the sample, such as windows" in seen.report()


# What is refused


def test_a_softmax_over_no_side():
    """Over samples or heads, which are keys of nothing."""
    q, k, v = qkv(heads=M)  # v meets what has the size of the keys
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT).softmax(1) @ v, q, k, v)
    with pytest.raises(Unreadable, match="not taken over one side of the product of q and k"):
        place(heard)
    assert missed(lambda q, k, v: (q @ k.mT).softmax(1) @ v, q, k, v)


def test_a_softmax_over_a_part_of_the_keys():
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT).unflatten(-1, (2, 4)).softmax(-1) @ v[0, 0, :4],
                        *qkv(m=8))  # fmt: skip
    with pytest.raises(Unreadable, match="its softmax was taken over a part of the keys"):
        place(heard)
