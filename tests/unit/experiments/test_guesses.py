"""Which guess is right follows from the numbers alone, also where a head does something else."""

import dataclasses
import itertools
from collections import Counter

import pytest
import torch

from tests.tiny import TARGET, text, tiny_bart, tiny_llama
from wqkv import View, experiments
from wqkv.errors import ArgumentError
from wqkv.experiments import HEAD_QUESTIONS
from wqkv.experiments.asked_of_heads import NoExperiment, head_questions
from wqkv.experiments.changed_head import Experiment, Measured
from wqkv.experiments.guesses import (
    PLACES,
    RULES,
    guesses,
    headline,
    number_of,
    right_guess,
    strongest_other,
    unanswered,
)
from wqkv.sentences.experiments import CHANGES, GUESSES, LIMITS, QUESTIONS, REFUSALS


@pytest.fixture(scope="module")
def llama() -> View:
    """Read 23 tokens with a causal model with RoPE."""
    return tiny_llama().view(text(22))


def of(view: View, name: str, layer: int = 1, head: int = 4, i: int = 19) -> Experiment:
    return getattr(experiments, name)(view, layer, head, i)


def with_weights(found: Experiment, *weights: float) -> Experiment:
    """The same experiment, had its row come out with these weights; the rest is 0."""
    row = torch.zeros_like(found.after.weights)
    row[: len(weights)] = torch.tensor(weights)
    changed = {
        "weight of the strongest link": float(row[found.key]),
        "largest weight": float(row.max()),
        "entropy": float(torch.special.entr(row).sum()),
    }
    numbers = tuple(
        one._replace(after=changed[one.name]) if one.name in changed else one
        for one in found.numbers
    )
    return dataclasses.replace(found, after=found.after._replace(weights=row), numbers=numbers)


def with_number(found: Experiment, name: str, before: float, after: float | None = None):
    """The same experiment, had a number come out so."""
    others = tuple(one for one in found.numbers if one.name != name)
    unit = number_of(found, name).unit if name in {one.name for one in found.numbers} else ""
    return dataclasses.replace(found, numbers=(*others, Measured(name, unit, before, after)))


# Where a head looks after a change


@pytest.mark.parametrize("name", ["no_projection", "same_matrix"])
def test_itself_even_or_what_it_found(llama, name):
    found = of(llama, name, i=3)
    other = strongest_other(found)
    assert other != 3 and other == int(
        found.before.weights.index_fill(0, torch.tensor(3), 0).argmax()
    )
    assert right_guess(with_weights(found, 0, 0, 0.4, 0.6)) == "itself"
    assert right_guess(with_weights(found, 0.24, 0.25, 0.25, 0.26)) == "even"
    weights = [0.15, 0.15, 0.15, 0.15]
    weights[other] = 0.55
    assert right_guess(with_weights(found, *weights)) == "finds"
    weights = [0.15, 0.15, 0.15, 0.15]
    weights[next(j for j in range(3) if j != other)] = 0.55
    assert right_guess(with_weights(found, *weights)) is None


def test_a_token_that_sees_itself_alone(llama):
    """Its weight is 1 before and after: no guess about scores can be right."""
    for name in ("no_projection", "same_matrix", "unscaled"):
        found = of(llama, name, i=0)
        assert unanswered(found) == "alone" and right_guess(found) is None
    assert unanswered(of(llama, "value_is_key", i=0)) is None
    assert unanswered(of(llama, "unscaled", i=1)) is None


def test_no_way_back_from_a_token_to_itself(llama):
    found = dataclasses.replace(of(llama, "swapped"), key=19)
    assert unanswered(found) == "own_link" and right_guess(found) is None


def test_between_two_texts_no_token_is_itself():
    found = of(tiny_bart().views(text(9), TARGET)["cross"], "same_matrix", 1, 1, 3)
    assert set(guesses(found)) == {"one", "even", "finds"}
    found = with_number(found, "largest weight", 0.5, 0.91)
    assert right_guess(found) == "one" and headline(found) == (0.5, 0.91)


@pytest.mark.parametrize(
    ("name", "number", "before", "after", "right"),
    [
        ("value_is_key", "change of the output", 0.009, None, "same"),
        ("value_is_key", "cosine with the trained output", 1.0, 0.91, "length"),
        ("value_is_key", "cosine with the trained output", 1.0, 0.89, "other"),
        ("unscaled", "largest weight", 0.3, 0.4, "sharper"),
        ("unscaled", "largest weight", 0.4, 0.3, "flatter"),
        ("unscaled", "largest weight", 0.4, 0.405, "same"),
        ("swapped", "the link back", 0.6, 0.29, "weaker"),
        ("swapped", "the link back", 0.6, 0.31, "alike"),
        ("swapped", "the link back", 0.2, 0.41, "stronger"),
        ("swapped", "the link back", 0.2, 0.39, "alike"),
        ("shuffled_heads", "change of the output", 0.0, None, "same"),
        ("shuffled_heads", "cosine with the trained output", 1.0, 0.51, "near"),
        ("shuffled_heads", "cosine with the trained output", 1.0, 0.49, "other"),
        ("variance", "standard deviation of q . k", 1.0, None, "narrower"),
        ("variance", "standard deviation of q . k", 3.75, None, "as_said"),
        ("variance", "standard deviation of q . k", 9.0, None, "wider"),
    ],
)
def test_thresholds(llama, name, number, before, after, right):
    """sqrt(d_k) is 3.74 here."""
    assert right_guess(with_number(of(llama, name), number, before, after)) == right


def test_a_share_is_compared_with_the_weight(llama):
    found = with_number(of(llama, "big_weight"), "weight of the strongest link", 0.4, 0.0)
    for brings, right in ((0.31, "less"), (0.33, "share"), (0.49, "share"), (0.51, "more")):
        found = with_number(found, "what it adds", brings)
        assert headline(found) == (0.4, brings) and right_guess(found) == right


def test_a_proof_that_fails_is_not_the_same(llama):
    found = of(llama, "concat_or_sum")
    assert right_guess(found) == "same"
    wrong = dataclasses.replace(found, same=dataclasses.replace(found.same, difference=1.0))
    assert right_guess(with_number(wrong, "length of the output", 2.0, 3.0)) == "longer"
    assert right_guess(with_number(wrong, "length of the output", 3.0, 2.0)) == "shorter"


# How the guesses stand


def test_the_right_guess_moves():
    """Never at the same place twice in a row; each question has three guesses, with sentences."""
    places = [PLACES[name] for name in HEAD_QUESTIONS]
    assert all(a != b for a, b in itertools.pairwise(places))
    assert {*places} == {0, 1, 2}
    assert RULES.keys() == HEAD_QUESTIONS.keys() == QUESTIONS.keys()
    assert QUESTIONS.keys() == CHANGES.keys() == LIMITS.keys()
    named = {f"{name}.{one}" for name, rules in RULES.items() for one in rules}
    named |= {f"{name}.one" for name in ("no_projection", "same_matrix")}
    assert named == GUESSES.keys() and all(len(rules) == 3 for rules in RULES.values())


@pytest.mark.parametrize("name", ["no_projection", "value_is_key", "variance", "swapped"])
def test_the_right_guess_stands_at_its_place(llama, name):
    found = of(llama, name)
    names = guesses(found)
    assert {*names} == {*RULES[name]}
    if right_guess(found) is not None:
        assert names.index(right_guess(found)) == PLACES[name]


def test_guesses_are_about_equally_long():
    """So that none stands out: within a factor of two in each language."""
    said = {"token": "it", "key": "animal", "other": "animal", "root": "5.657"}
    for name in RULES:
        for lang in (0, 1):
            own = [both[lang] for key, both in GUESSES.items() if key.startswith(f"{name}.")]
            lengths = [len(one.format(**said)) for one in own]
            assert max(lengths) <= 2 * min(lengths), own


# What is refused, in both languages


def test_a_refusal_speaks_both_languages(llama):
    with pytest.raises(NoExperiment, match="between them stands RoPE") as caught:
        of(llama, "merged")
    said = caught.value.said("zh")
    assert str(caught.value) == caught.value.said("en")
    assert said.startswith("第 1 层的 WQ 和 WK 合不成一个矩阵：中间隔着 RoPE。\n请换")
    assert isinstance(caught.value, ArgumentError) and caught.value.reason in REFUSALS


def test_questions_in_chinese():
    assert head_questions("zh")["same_matrix"].question == "为什么 Q 和 K 不能用同一个矩阵？"
    assert head_questions("en") == HEAD_QUESTIONS


def test_report_in_chinese(llama):
    lines = of(llama, "swapped").report("zh").splitlines()
    assert lines[0] == "注意力是对称的吗？"
    assert lines[1] == "实验 swapped，第 1 层第 4 头，词元 19：分数(i, j) := 分数(j, i)"
    assert any(line.startswith("  反方向的权重: ") for line in lines)
    assert lines[-1] == head_questions("zh")["swapped"].limits


# In all heads of a model


def test_how_often(llama):
    """The same as one experiment after the other; progress tells of every head."""
    told = []
    found = experiments.how_often(llama, "big_weight", 19, progress=lambda *now: told.append(now))
    places = [(layer, head) for layer in range(llama.model.sizes.n_layer) for head in range(6)]
    each = [right_guess(of(llama, "big_weight", *at, 19)) for at in places]
    assert found == dict(Counter(each)) and sum(found.values()) == len(places)
    assert told == [(done, len(places)) for done in range(1, len(places) + 1)]
    layers = experiments.how_often(llama, "shuffled_heads", 19)
    assert sum(layers.values()) == llama.model.sizes.n_layer
    assert experiments.how_often(llama, "low_rank", 19, 3) == {}  # with RoPE it cannot be made
    assert experiments.how_often(llama, "unscaled", 0) == {None: len(places)}


@pytest.mark.parametrize(
    ("name", "r", "do"),
    [("low_rank", None, "Pass r=1 to d_k."), ("merged", 3, "Leave it out, or ask low_rank.")],
)
def test_r_is_of_low_rank_alone(llama, name, r, do):
    with pytest.raises(ArgumentError, match=f"`r` is {r}, and the experiment is '{name}'.\n{do}"):
        experiments.how_often(llama, name, 3, r)


def test_an_experiment_that_is_not_there(llama):
    says = "There is no experiment 'why'.\nPass one of: no_projection, same_matrix,"
    with pytest.raises(ArgumentError, match=says):
        experiments.how_often(llama, "why", 3)
