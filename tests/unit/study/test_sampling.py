"""Temperature, top-k and top-p: the distributions are exactly those of transformers."""

import math

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from wqkv.errors import ArgumentError
from wqkv.study.sampling import check_sampling, filtered

VOCABULARY = 997


def theirs(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The scores that transformers' `generate` draws from."""
    warpers = LogitsProcessorList()
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers(torch.zeros(1, 1, dtype=torch.long), logits[None])[0]


def some_logits(kind: str) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(11)
    if kind == "alike":  # with many ties, at the border of every k too
        return torch.randint(0, 5, (VOCABULARY,), generator=generator).float()
    logits = 4 * torch.randn(VOCABULARY, generator=generator)
    return logits.index_fill(0, torch.arange(7), -torch.inf) if kind == "hidden" else logits


@pytest.mark.parametrize("kind", ["random", "alike", "hidden"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 13, 2000])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.93, 1.0])
def test_the_distribution_is_exactly_that_of_transformers(kind, temperature, top_k, top_p):
    logits = some_logits(kind)
    found = filtered(logits, temperature, top_k, top_p)
    scores = theirs(logits, temperature, top_k, top_p)
    assert torch.equal(found.after, scores.softmax(dim=0))
    assert torch.equal(found.before, logits.softmax(dim=0))
    stay = scores > -torch.inf
    assert found.kept == int(stay.sum())
    held = (logits / temperature).double().softmax(dim=0)[stay].sum()
    assert found.held == pytest.approx(held.item(), rel=1e-5)


def test_what_is_kept_is_divided_by_what_it_held():
    logits = some_logits("random")
    found = filtered(logits, 0.7, 50, 0.9)
    tempered = (logits / 0.7).softmax(dim=0)
    stay = found.after > 0
    assert torch.allclose(found.after[stay], tempered[stay] / found.held)
    assert 0.9 * tempered.topk(50).values.sum() <= found.held + 1e-6 < 1


def test_top_p_keeps_the_fewest_that_reach_it():
    """Two of four equal tokens have exactly one half."""
    assert filtered(torch.zeros(4), 1.0, 0, 0.5).kept == 2
    assert filtered(torch.zeros(4), 1.0, 0, 0.51).kept == 3


def test_the_order_matters():
    """Of 13 tokens left by top-k, top-p keeps a share of what those 13 have, not of all."""
    logits = some_logits("random")
    found = filtered(logits, 2.0, 13, 0.9)
    alone = filtered(logits, 2.0, 0, 0.9)
    assert found.kept < alone.kept


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temperature": 0.0}, "`temperature` is 0.0, and the logits are divided by it"),
        ({"temperature": -1.0}, "`temperature` is -1.0"),
        ({"temperature": math.nan}, "`temperature` is nan"),
        ({"temperature": math.inf}, "`temperature` is inf"),
        ({"top_k": -1}, "`top_k` is -1.\nPass how many tokens may be drawn; 0 is all."),
        ({"top_p": 0.0}, "`top_p` is 0.0, and the tokens that stay add up to it"),
        ({"top_p": 1.01}, "`top_p` is 1.01"),
        ({"top_p": math.nan}, "`top_p` is nan"),
    ],
)
def test_values_that_nothing_can_be_drawn_with(given, says):
    with pytest.raises(ArgumentError, match=says):
        check_sampling(**given)
