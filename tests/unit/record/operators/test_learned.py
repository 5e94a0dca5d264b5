"""Which memory holds the weights of a model."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from tests.written import heard_of, randn
from wqkv.record.operators.learned import Learned


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(3, 5))
        self.register_buffer("mean", randn(5))


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def learned(model):
    found = Learned(model)
    assert not found
    found.learn()
    assert found
    return found


def test_weights_and_their_views(model, learned):
    assert learned.holds(model.weight) and learned.holds(model.weight.T[1:])
    assert not learned.holds(model.mean) and not learned.holds(randn(3, 5))


def test_a_product_with_a_weight(model, learned):
    assert learned.among(randn(2, 3), model.weight) and learned.among(model.weight, randn(5, 2))
    assert not learned.among(randn(2, 3), randn(3, 2))
    model.later = nn.Parameter(randn(5, 2))  # weights may come while a model runs
    assert not learned.among(randn(7, 2, 3), model.later[None])
    assert learned.among(randn(2, 5), model.later)
    assert not learned.among(randn(2, 5), model.mean[:, None])


def test_weights_that_go(model, learned):
    number = len(learned._weights)
    del model.weight
    gc.collect()
    model.other = nn.Parameter(randn(2, 2))
    learned.learn()
    assert learned.holds(model.other) and len(learned._weights) == number


@pytest.mark.parametrize(
    ("name", "given", "known"),
    [
        ("mul", lambda m: (m.weight, 2.0), True),
        ("mul", lambda m: (m.weight, m.mean), True),
        ("add", lambda m: (m.weight, m.weight), True),
        ("_to_copy", lambda m: (m.weight,), True),
        ("mul", lambda m: (m.weight, randn(3, 5)), False),  # an activation
        ("mul", lambda m: (m.mean, 2.0), False),  # no weight is in it
        ("mm", lambda m: (m.weight, m.weight.T), False),  # a projection, as of a learned query
        ("clone", lambda m: (m.weight.expand(2, -1, -1),), False),  # repeated for each sample
    ],
)
def test_weights_that_are_made_of_weights(model, learned, name, given, known):
    out = torch.zeros_like(given(model)[0])
    learned.remade(name, given(model), out)
    assert learned.holds(out) == known


def test_of_several_outputs_those_of_its_size(model, learned):
    weight, norm = randn(3, 5), randn(3, 1)
    learned.remade("_weight_norm_interface", (model.weight, model.mean), (weight, norm))
    assert learned.holds(weight) and not learned.holds(norm)


def test_nothing_is_remade_of_no_weights(model):
    learned, out = Learned(model), randn(3, 5)
    learned.remade("mul", (model.weight, 2.0), out)
    assert not learned.holds(out)


@pytest.mark.parametrize(
    "weight",
    [lambda w: w, lambda w: w * 2, lambda w: w.double().float(), lambda w: w.T.contiguous().T],
)
def test_a_product_with_a_weight_makes_no_scores(weight):
    def way(q, k, v):
        return (q @ weight(parameter)).softmax(-1) @ v

    parameter = nn.Parameter(randn(11, 7))
    heard = heard_of(way, parameter=parameter)
    assert [one.lost for one in heard] == [
        "the scores of its softmax come from no product of two activations"
    ]
    (other,) = heard_of(lambda q, k, v: (q @ weight(parameter.detach().clone())).softmax(-1) @ v)
    assert other.how is not None  # what is no parameter may be an activation
