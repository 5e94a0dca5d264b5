import math

import pytest
import torch

from tests.unit.show.stories import make
from wqkv.look.story import Proof
from wqkv.show import steps


@pytest.mark.parametrize(
    ("word", "encoding", "shown"),
    [
        ("[CLS]", "utf-8", "[CLS]"),
        ("", "utf-8", "''"),
        ("  ", "utf-8", "'  '"),
        ("a\n\tb", "utf-8", r"a\n\tb"),
        ("\x1b[31m", "utf-8", r"\x1b[31m"),
        ("\u202eabc", "utf-8", r"\u202eabc"),
        ("\ud800", "utf-8", r"\ud800"),
        ("猫", "utf-8", "猫"),
        ("猫é", "latin-1", r"\u732bé"),
    ],
)
def test_visible(word, encoding, shown):
    assert steps.visible(word, encoding) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-4.2149, "-4.21"),
        (-0.001, "0.00"),
        (31415.9, "3.1e+04"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_number(value, shown):
    assert steps.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.6774, "0.677"), (0.0, "0.000"), (0.0005, "0.001"), (4.2e-6, "4.2e-06"), (math.nan, "nan")],
)
def test_weight(value, shown):
    assert steps.weight(value) == shown


@pytest.mark.parametrize(
    ("n", "word", "most", "window"),
    [
        (7, 3, 11, range(7)),
        (101, 0, 5, range(5)),
        (101, 50, 5, range(48, 53)),
        (101, 99, 5, range(96, 101)),
    ],
)
def test_window(n, word, most, window):
    assert steps.window(n, word, most) == window


def test_bars():
    values = torch.tensor([1.0, 3.0, 5.0, 7.0, 11.0])
    assert steps.bars(values, 5) == ([1, 3, 5, 7, 11], 1)
    assert steps.bars(values, 3) == ([2, 6, 11], 2)


def test_formulas_hold_the_numbers():
    story = make()
    best = story.ranked[0]
    score, total = story.scores[best].item(), story.scores.double().exp().sum().item()
    told = steps.tell(story)
    assert len(told) == 7
    assert told[3].formula == f"score(it, {story.words[best]}) = q . k / sqrt(17) = {score:.2f}"
    assert f"exp({score:.2f}) / {total:.4g} = {story.weights[best]:.3f}" in told[4].formula
    assert told[4].sentence.startswith('No word is hidden from "it" (Full()).')
    assert told[5].formula.startswith(
        f"context = {story.weights[best]:.3f} v({story.words[best]}) + "
    )
    assert "17 for q, 17 for k and 13 for v" in told[1].sentence


@pytest.mark.parametrize(
    ("changes", "formula"),
    [
        ({"scale": 1.0}, "= q . k = "),
        ({"scale": 0.31}, "= q . k x 0.31 = "),
        ({"position": "ALiBi(slopes=3)"}, "= q . k / sqrt(17) + ALiBi = "),
        ({"position": "RoPE(theta=10000.0)"}, "= q . k / sqrt(17) = "),
    ],
)
def test_score_formula(changes, formula):
    told = steps.tell(make(**changes))
    assert formula in told[3].formula
    assert ("RoPE turns q and k" in told[1].formula) == changes.get("position", "").startswith(
        "RoPE"
    )


def test_hidden_words():
    told = steps.tell(make(causal=True))
    assert told[4].sentence.startswith('3 of 11 words are hidden from "it" (Causal()).')
    told = steps.tell(make(causal=True, word=9))
    assert told[4].sentence.startswith('1 of 11 words is hidden from "tired" (Causal()).')


def test_every_word_hidden():
    nothing = torch.full((11,), -math.inf)
    told = steps.tell(make(scores=nothing, weights=torch.zeros(11)))
    assert "no score" in told[3].formula
    assert "every weight is 0" in told[4].formula
    assert told[5].formula == "context = 0"


def test_huge_scores_keep_their_sum_as_a_logarithm():
    scores = torch.tensor([900.0, 899.0] + [0.0] * 9)
    told = steps.tell(make(scores=scores, weights=scores.softmax(0)))
    assert "exp(900.00) / exp(900.31) = 0.731" in told[4].formula


def test_same_sizes_are_said_once():
    values = torch.ones(17)
    assert "into 17 each." in steps.tell(make(v=values))[1].sentence


@pytest.mark.parametrize(
    ("difference", "start", "facts"),
    [
        (1.9e-7, "PROOF HOLDS: ", "1.9e-07"),
        (0.5, "FAILED ITS PROOF: ", "0.5"),
        (math.nan, "FAILED", "nan"),
    ],
)
def test_prove(difference, start, facts):
    line = steps.prove(make(proof=Proof(difference, 2.3, 4.1e-6)))
    assert line.startswith(start)
    assert f"differ by at most {facts} (numbers up to 2.30; allowed 4.1e-06)" in line
    assert ("Do not trust" in line) == start.startswith("FAILED")
