"""The words of a card have the numbers of its experiment, and JSON has all of them."""

import json
import re

import pytest

from tests.tiny import TARGET, text, tiny_bart, tiny_llama
from wqkv import experiments
from wqkv.draw.cards import card, digits, experiment_as_json
from wqkv.experiments import HEAD_QUESTIONS
from wqkv.experiments.asked_of_heads import head_questions
from wqkv.experiments.guesses import guesses, number_of, right_guess

#: What can be asked of a model with RoPE whose WK has no bias.
ASKED = sorted({*HEAD_QUESTIONS} - {"merged", "low_rank", "no_key_bias"})


@pytest.fixture(scope="module")
def view():
    return tiny_llama().view(text(22))


def of(view, name):
    return getattr(experiments, name)(view, 1, 4, 19)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("name", ASKED)
def test_every_place_is_filled(view, name, lang):
    found = of(view, name)
    said = card(found, lang)
    for sentence in (*said.guesses, said.headline, said.answer, said.reason):
        assert not re.search(r"[{}]|“”", sentence), sentence
    assert len({*said.guesses}) == 3 and said.answer


def test_the_numbers_of_a_sentence(view):
    found = of(view, "swapped")
    back = number_of(found, "the link back")
    assert card(found, "en").answer == (
        f"“{view.reading.shown[19]}” gives “{view.keys.shown[found.key]}” {digits(back.before)} of"
        f" its weight, and “{view.keys.shown[found.key]}” gives “{view.reading.shown[19]}”"
        f" {digits(back.after)}."
    )


def test_between_two_texts_nothing_is_on_itself():
    found = experiments.same_matrix(tiny_bart().views(text(9), TARGET)["cross"], 1, 1, 3)
    large = number_of(found, "largest weight")
    said = card(found, "en")
    assert said.headline == "largest weight"
    assert f"from {digits(large.before)} to {digits(large.after)}" in said.answer


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6768, "0.677"), (-0.0578, "-0.058"), (10.557, "10.6"), (147456, "147,456"), (0.0, "0.000")],
)
def test_digits(value, text):
    assert digits(value) == text


@pytest.mark.parametrize("name", ["no_projection", "value_is_key", "variance"])
def test_json(view, name):
    found = of(view, name)
    told = json.loads(json.dumps(experiment_as_json(found), allow_nan=False))
    for lang in ("en", "zh"):
        asked = head_questions(lang)[name]
        assert told["asked"][lang] == asked._asdict()
        assert told["cards"][lang]["answer"] == card(found, lang).answer
    assert told["guesses"] == list(guesses(found)) and told["right"] == right_guess(found)
    assert told["numbers"] == [one._asdict() for one in found.numbers]
    assert told["after"]["weights"] == found.after.weights.tolist()
    assert told["after"]["output"] == found.after.output.tolist()
    assert told["before"]["scores"][20] is None  # hidden: minus infinity has no number in JSON
    assert told["proof"]["holds"] and told["python"] == found.python
