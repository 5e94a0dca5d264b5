"""Rules: numbers are checked when they are made, sizes when they meet a call."""

import dataclasses
import inspect
import math

import pytest
import torch

import wqkv
from wqkv import ALiBi, Causal, Lengths
from wqkv.attend.bias import StoredBias
from wqkv.attend.call import request
from wqkv.attend.masks import Dense, Full
from wqkv.attend.rules import FULL, Rules, as_bias, as_mask
from wqkv.errors import ArgumentError, KindError

QUERY = torch.zeros(2, 3, 5, 7)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scale": math.nan}, "`scale` is nan"),
        ({"softcap": -1.0}, "`softcap` is -1.0"),
        ({"dropout_p": 1.0}, "`dropout_p` is 1.0"),
    ],
)
def test_numbers(given, says):
    with pytest.raises(ArgumentError, match=says):
        Rules(**{"mask": FULL, **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mask": Lengths([1, 2, 3])}, "3 lengths for a batch of 2"),
        ({"bias": ALiBi(4), "query_offset": 0}, "for 4 heads, and the call has 3"),
        ({"sinks": torch.zeros(4)}, r"shape \(4,\) for 3 heads"),
        ({"query_offset": torch.tensor([1, 2, 3])}, "for a batch of 2"),
        ({"mask": Causal()}, "Where do 5 queries stand among 11 keys"),
    ],
)
def test_sizes(given, says):
    rules = Rules(**{"mask": FULL, **given})
    with pytest.raises(ArgumentError, match=says):
        rules.fit(QUERY, 5, 11)


def test_fitting_rules_are_the_same():
    for rules in (Rules(FULL), Rules(Causal(), query_offset=6), Rules(FULL, sinks=torch.zeros(3))):
        assert rules.fit(QUERY, 5, 11) is rules
    placed = Rules(Causal(), query_offset=torch.tensor(6)).fit(QUERY, 5, 11)
    assert placed.query_offset.tolist() == [6, 6]


def test_without_sinks():
    rules = Rules(Causal(), sinks=torch.zeros(3))
    rest = rules.without_sinks()
    assert rest.sinks is None and rest.mask is rules.mask
    assert rest.without_sinks() is rest


def test_tensors():
    matrix, slopes, sinks = torch.ones(5, 11).bool(), torch.ones(3), torch.zeros(3)
    offset = torch.tensor([0, 1])
    rules = Rules(Dense(matrix), ALiBi(slopes), sinks=sinks, query_offset=offset)
    assert [x.data_ptr() for x in rules.tensors()] == [
        x.data_ptr() for x in (matrix, slopes, sinks, offset)
    ]
    assert Rules(FULL).tensors() == ()


def test_tensors_as_rules():
    assert isinstance(as_mask(torch.ones(5, 5).bool()), Dense) and as_mask(Full()) == Full()
    assert isinstance(as_bias(torch.ones(5, 5)), StoredBias) and as_bias(None) is None
    with pytest.raises(KindError, match="bool tensor as `mask`"):
        as_bias(torch.ones(5, 5).bool())


def parameters(function):
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


def test_rules_are_spelled_alike_wherever_they_are_arguments():
    """The public signatures repeat them, so that `help()` and type checkers know the names."""
    known = parameters(wqkv.attention)
    rules = {field.name: known[field.name] for field in dataclasses.fields(Rules)}
    asked = {wqkv.explain: set(), wqkv.AttentionMap: {"dropout_p"}, request: set()}
    for function, without in {**asked, wqkv.SharedMap.tokens: {"dropout_p"}}.items():
        found = parameters(function)
        assert {name: found.get(name, "missing") for name in rules.keys() - without} == {
            name: value for name, value in rules.items() if name not in without
        }, function
