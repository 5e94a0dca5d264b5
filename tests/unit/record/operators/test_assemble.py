"""q, k, v and the rules of what was heard."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.written import (
    BATCH,
    HEADS,
    Foreign,
    M,
    N,
    heard_of,
    proved,
    qkv,
    randn,
    replayed,
)
from wqkv.record.operators.assemble import assembled
from wqkv.record.operators.layout import Unreadable
from wqkv.record.operators.scores import read
from wqkv.record.watch import watch


def weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1)


def call(way, *given: Tensor):
    """The call that is read of one way."""
    (heard,) = heard_of(way, *given)
    heard.how.trail.batch = BATCH
    return assembled(read(heard.how.weights), heard.how, [], {})


# What is refused


def unreadable(way, *given: Tensor) -> str:
    with pytest.raises(Unreadable) as error:
        call(way, *given)
    return str(error.value)


def test_scores_that_have_no_softmax():
    (heard,) = heard_of(lambda q, k, v: weights(q, k) @ v)
    scores = read(next(iter(heard.how.weights.products)))
    with pytest.raises(Unreadable, match=r"no softmax was taken of its scores"):
        assembled(scores, heard.how, [], {})


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
    for sign in (1, -1):  # of the scale; the softcap is negative
        found = call(
            lambda q, k, v, s=14 * sign: (-7 * torch.tanh(q @ k.mT / s)).softmax(-1) @ v, *given
        )
        assert found.softcap == 7 and found.scale == 0.5
        assert torch.equal(found.query, -sign * given[0])


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
