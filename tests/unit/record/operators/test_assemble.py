"""q, k, v and the rules of what was heard: which axis is samples, heads, queries and keys."""

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
    proved,
    qkv,
    randn,
    replayed,
    seen_of,
)
from wqkv.record.operators.assemble import assembled, places
from wqkv.record.operators.axes import head_count
from wqkv.record.operators.layout import Unreadable
from wqkv.record.operators.scores import read
from wqkv.record.watch import watch


def weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1)


def flat(q, k, v):
    """Samples and heads side by side on one axis, as nn.MultiheadAttention has them."""
    return (q.flatten(0, 1) @ k.flatten(0, 1).mT).softmax(-1) @ v.flatten(0, 1)


def call(way, *given: Tensor):
    """The call that is read of one way."""
    (heard,) = heard_of(way, *given)
    heard.how.shape.batch = BATCH
    return assembled(read(heard.how.weights), heard.how, [], {})


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
    """Nothing tells them from queries: each sample has two texts of N queries."""
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


@pytest.mark.parametrize("n", [1, N])
def test_one_key(n):
    """Which axis is that of one key, its size does not tell: the scores are computed again."""
    replayed(weights, *qkv(n=n, m=1))


def test_a_product_without_samples():
    q, k, v = qkv()
    seen = seen_of(lambda q, k, v: weights(q, k) @ v, q[0, 0], k[0, 0], v[0, 0])
    is_map(seen, weights(q, k)[:1, :1])


# How many heads an axis has


def test_head_count():
    (heard,) = heard_of(flat)
    count = heard.how
    count.shape.batch, count.shape.shape = None, None
    assert head_count(6, count, []) == 6  # nothing says so
    count.shape.batch = 2
    assert head_count(6, count, []) == 3
    assert head_count(7, count, []) == 7  # samples do not divide it
    assert head_count(6, count, [Foreign(None, num_heads=6)]) == 6
    assert head_count(6, count, [Foreign(None, num_heads=4, n_head=3)]) == 3  # 4 does not divide it
    assert head_count(6, count, [Foreign(None, num_heads="2")]) == 3
    assert head_count(6, count, [Foreign(None), Foreign(None, nhead=2)]) == 2  # further out
    # one head, whatever is said further out
    assert head_count(2, count, [Foreign(None), Foreign(None, nhead=2)]) == 1
    count.shape.shape = (2, 3, 5, 13)  # of a later view
    assert head_count(6, count, [Foreign(None, num_heads=6)]) == 3
    assert head_count(8, count, [Foreign(None, num_heads=4)]) == 4


def test_heads_of_a_later_view():
    truth = weights(*qkv()[:2])
    seen = seen_of(lambda q, k, v: flat(q, k, v).view(BATCH, HEADS, N, D_V), num_heads=6)
    is_map(seen, truth)
    for given in ({}, {"num_heads": HEADS}, {"heads": HEADS}):  # by the samples, or by the module
        is_map(seen_of(flat, **given), truth)
    is_map(seen_of(flat, nhead=6), truth.view(1, 6, N, M))


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


def unreadable(way, *given: Tensor) -> str:
    with pytest.raises(Unreadable) as error:
        call(way, *given)
    return str(error.value)


def test_a_softmax_over_no_side():
    """Over samples or heads, which are keys of nothing."""
    q, k, v = qkv(heads=M)  # v meets what has the size of the keys
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT).softmax(1) @ v, q, k, v)
    with pytest.raises(Unreadable, match="not taken over one side of the product of q and k"):
        places(read(heard.how.weights), heard.how, [])
    assert "softmax" in missed(lambda q, k, v: (q @ k.mT).softmax(1) @ v, q, k, v)


def test_scores_that_have_no_softmax():
    (heard,) = heard_of(lambda q, k, v: weights(q, k) @ v)
    scores = read(next(iter(heard.how.weights.products)))
    with pytest.raises(Unreadable, match=r"no softmax was taken of its scores"):
        places(scores, heard.how, [])


def test_a_softmax_over_a_part_of_the_keys():
    (heard,) = heard_of(lambda q, k, v: (q @ k.mT).unflatten(-1, (2, 4)).softmax(-1) @ v[0, 0, :4],
                        *qkv(m=8))  # fmt: skip
    with pytest.raises(Unreadable, match="its softmax was taken over a part of the keys"):
        places(read(heard.how.weights), heard.how, [])


def test_a_scale_of_zero():
    assert unreadable(lambda q, k, v: (q @ k.mT * 0).softmax(-1) @ v) == (
        "its scores are multiplied by 0"
    )
    replayed(lambda q, k: (q @ k.mT * 0).softmax(-1))


def test_a_factor_of_two_axes():
    factor = randn(HEADS, N, M, seed=3)
    assert unreadable(lambda q, k, v: (q @ k.mT * factor).softmax(-1) @ v) == (
        "its scores are multiplied by a matrix"
    )
    replayed(lambda q, k: (q @ k.mT * factor).softmax(-1))


def test_sinks_that_differ():
    sink = randn(HEADS, N, 1, seed=3).expand(BATCH, -1, -1, -1)

    def way(q, k):
        return torch.cat((q @ k.mT, sink), -1).softmax(-1)[..., :-1]

    assert (
        unreadable(lambda q, k, v: way(q, k) @ v) == "its sinks differ between samples or queries"
    )
    replayed(way)


def test_what_the_call_is_made_of():
    given = qkv()
    found = call(lambda q, k, v: ((q @ k.mT) * -0.25).softmax(-1) @ v, *given)
    assert torch.equal(found.query, -given[0]) and torch.equal(found.key, given[1])
    assert torch.equal(found.value, given[2]) and found.scale == 0.25
    assert found.readings[0].all and found.bias is None and found.softcap is None
    found = call(lambda q, k, v: (7 * torch.tanh(q @ k.mT / 14)).softmax(-1) @ v, *given)
    assert found.softcap == 7 and found.scale == 0.5


def test_layers_that_share_a_mask_read_it_once():
    shown = randn(N, M, seed=4) > 0
    known = {}
    for turn in range(3):
        (heard,) = heard_of(lambda q, k, v: (q @ k.mT).masked_fill(~shown, -1e9).softmax(-1) @ v)
        hidden = heard.how  # each forward makes another tensor of the mask
        found = assembled(read(hidden.weights), hidden, [], known)
        assert len(known) == turn + 1
        assert torch.equal(found.readings[0].visible.rows(0, N), shown.expand(1, 1, N, M))
    hidden = ~shown
    known = {}
    for _ in range(3):
        (heard,) = heard_of(lambda q, k, v: (q @ k.mT).masked_fill(hidden, -1e9).softmax(-1) @ v)
        assembled(read(heard.how.weights), heard.how, [], known)
    assert len(known) == 1


def test_several_layers_of_one_model():
    model = Foreign(lambda q, k, v: weights(weights(q, k) @ v, weights(k, k) @ v) @ v)
    with watch(model) as seen:
        model(*qkv())
    assert [layer.name for layer in seen.layers] == [
        "Foreign", "Foreign (attention 2)", "Foreign (attention 3)"
    ]  # fmt: skip
    assert len(seen[:]) == 3 and proved(weights)
