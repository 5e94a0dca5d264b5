import json
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_bert, tiny_llama
from wqkv.errors import ArgumentError, KindError
from wqkv.sentences import LANGUAGES, translated
from wqkv.study.hit_rate import (
    KNOWN_RATES,
    Expectation,
    HitRate,
    Tried,
    hit_rate,
    known_rate,
)
from wqkv.study.packaged import E5, MINILM
from wqkv.study.view import View

ROOT = Path(__file__).parents[3]
TEXT = "the lamp burned because the keeper lit the boat ."


@pytest.fixture(scope="module")
def bert():
    return tiny_bert()


def made(*weights: list[float], right: int = 0, distances=(-5, -2, 3)) -> Tried:
    """An expectation of three candidates, by the weights of each head of one layer."""
    return Tried(
        Expectation("a b c d", "d", "a"),
        ("a", "b", "c"),
        tuple(at == right for at in range(3)),
        distances,
        torch.tensor([weights]),
    )


def rate(*tried: Tried, head: int = 0, chosen: bool = False) -> HitRate:
    return HitRate("tiny", tried, 0, head, chosen)


def test_weights_are_those_of_the_view(bert):
    expected = Expectation(TEXT, "boat", "lamp", ("keeper", "burned"))
    found = hit_rate(bert, [expected], 1, 2)
    (one,) = found.tried
    assert one.candidates == ("lamp", "burned", "keeper")
    assert one.right == (True, False, False) and one.distances == (-7, -6, -3)
    view = View(bert, bert.read(TEXT))
    tokens = [view.reading.tokens.index(word) for word in one.candidates]
    query = view.reading.tokens.index("boat")
    for layer in range(bert.sizes.n_layer):
        for head in range(bert.sizes.n_head):
            row = view.row(layer, head, query).weights
            torch.testing.assert_close(one.weights[layer, head], row[tokens])


def test_every_word_is_a_candidate_but_the_query_and_punctuation(bert):
    (one,) = hit_rate(bert, [Expectation(TEXT, "boat", "lamp")], 0, 0).tried
    assert one.candidates == tuple(word for word in TEXT.split() if word not in ("boat", "."))


def test_each_place_of_a_repeated_word_is_right(bert):
    (one,) = hit_rate(bert, [Expectation(TEXT, "boat", "the")], 0, 0).tried
    assert [word for word, right in zip(one.candidates, one.right, strict=True) if right] == [
        "the",
        "the",
        "the",
    ]


def test_a_causal_model_is_compared_on_what_it_can_see():
    (one,) = hit_rate(tiny_llama(), [Expectation(TEXT, "keeper", "lamp")], 0, 0).tried
    assert one.candidates == ("the", "lamp", "burned", "because", "the")


def test_a_word_of_several_tokens_has_the_sum_of_their_weights(minilm):
    """It looks from its last token."""
    text = "The tokenizer cuts unbelievably because wqkv reads."
    expected = Expectation(text, "wqkv", "unbelievably", ("tokenizer",))
    (one,) = hit_rate(minilm, [expected], 0, 0).tried
    view = View(minilm, minilm.read(text))
    spans, starts = view.reading.spans, text.index("unbelievably")
    tokens = [i for i, (a, b) in enumerate(spans) if starts <= a < b <= starts + 12]
    query = max(i for i, (a, b) in enumerate(spans) if 0 < b <= text.index(" reads"))
    assert len(tokens) > 1
    row = view.row(2, 3, query).weights
    torch.testing.assert_close(one.weights[2, 3, 1], row[tokens].sum())
    assert one.candidates == ("tokenizer", "unbelievably")


def test_rules_and_how_often_the_head_agrees():
    found = rate(
        made([0.5, 0.2, 0.1]),  # right, the first one
        made([0.5, 0.2, 0.1], right=1),  # the first one, and the nearest is right
        made([0.1, 0.2, 0.5], right=2, distances=(-5, -4, -3)),  # right, the nearest one
        made([0.1, 0.5, 0.2], right=0, distances=(-5, -4, 3)),
    )
    assert found.hit == (True, False, True, False) and found.rate == 0.5
    assert found.mean_weight == pytest.approx((0.5 + 0.2 + 0.5 + 0.1) / 4)
    assert [tuple(rule) for rule in found.rules] == [
        ("first", 0, 2, 2),
        ("nearest", 0, 2, 1),
        ("before", 5, 2, 2),
    ]
    assert found.chance == pytest.approx(1 / 3)


def test_a_distance_behind_the_query():
    found = rate(*(made([0.5, 0.2, 0.1], right=2) for _ in range(3)))
    assert tuple(found.rules[2]) == ("after", 3, 3, 0)
    assert "the word 3 places after: 3 of 3" in "\n".join(found.report())


def test_the_best_head_and_what_such_a_choice_does_on_other_sentences():
    good, bad = [0.9, 0.0, 0.1], [0.0, 0.9, 0.1]
    # Head 0 is right in the first half alone, head 1 in the second half alone.
    tried = [made(good, bad)] * 3 + [made(bad, good)] * 4
    found = rate(*tried, head=1, chosen=True)
    assert found.hits.tolist() == [[3, 4]]
    assert found.held_out == 0
    assert rate(*[made(bad, good)] * 5, head=1, chosen=True).held_out == 5
    assert rate(made(bad, good), head=1, chosen=True).held_out == 0  # one half has no sentence


def test_the_best_head_is_found(bert):
    expectations = [Expectation(TEXT, "boat", word) for word in ("lamp", "keeper", "burned")]
    found = hit_rate(bert, expectations)
    assert found.chosen and found.hits.shape == (bert.sizes.n_layer, bert.sizes.n_head)
    assert found.hits[found.layer, found.head] == found.hits.max() == sum(found.hit)
    asked = hit_rate(bert, expectations, found.layer, found.head)
    assert not asked.chosen and asked.hit == found.hit


def test_progress_counts_expectations(bert):
    told = []
    hit_rate(bert, [Expectation(TEXT, "boat", "lamp")] * 3, 0, 0, lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_report(lang):
    found = rate(made([0.5, 0.2, 0.1]), made([0.5, 0.2, 0.1], right=1), chosen=True)
    report = [translated(line, lang) for line in found.report()]
    assert len(report) == 7
    assert "0.50" in report[0] and "0.350" in report[0]
    assert all(line.isascii() is (lang == "en") for line in report)
    assert repr(found).startswith("HitRate: tiny, layer 0, head 0: 1 of 2 sentences (0.50)")
    assert len(rate(made([0.5, 0.2, 0.1])).report()) == 6


@pytest.mark.parametrize(
    "expected, message",
    [
        (Expectation(TEXT, "boat", "zebra"), "no token 'zebra'"),
        (Expectation(TEXT, "zebra", "boat"), "no token 'zebra'"),
        (Expectation(TEXT, "boat", "boat"), r"'boat' in '.*' is to look at 'boat'"),
        (Expectation("boat lamp", "boat", "lamp"), r"what it can look at: 'lamp'"),
        (Expectation(TEXT, "boat", "lamp", ("lamp",)), r"what it can look at: 'lamp'"),
    ],
)
def test_words_that_cannot_be_compared(bert, expected, message):
    with pytest.raises(ArgumentError, match=message):
        hit_rate(bert, [expected], 0, 0)


def test_what_comes_later_is_hidden_from_a_causal_model():
    with pytest.raises(ArgumentError, match=r"what it can look at: 'the', 'lamp'\n"):
        hit_rate(tiny_llama(), [Expectation(TEXT, "burned", "keeper")])


def test_wrong_calls(bert):
    expected = [Expectation(TEXT, "boat", "lamp")]
    with pytest.raises(ArgumentError, match="no expectation"):
        hit_rate(bert, [])
    with pytest.raises(ArgumentError, match="`layer` is 1 and `head` is None"):
        hit_rate(bert, expected, 1)
    with pytest.raises(ArgumentError, match="`layer` is None and `head` is 1"):
        hit_rate(bert, expected, None, 1)
    with pytest.raises(ArgumentError, match="layer"):
        hit_rate(bert, expected, 17, 0)
    with pytest.raises(KindError, match="`expectations` is a list of Expectations"):
        hit_rate(bert, [TEXT])


# The examples of the README


def example(name: str) -> list[Expectation]:
    lines = (ROOT / "examples" / name).read_text("utf-8").splitlines()
    found = map(json.loads, lines)
    return [Expectation(d["text"], d["from"], d["to"], tuple(d["among"])) for d in found]


@pytest.mark.parametrize("known", KNOWN_RATES, ids=lambda known: known.data)
def test_the_rates_that_stand_beside_examples(request, known):
    """Of `it -> animal`, which is a head for the first noun, and of a Chinese verb's object."""
    model = request.getfixturevalue({MINILM.name: "minilm", E5.name: "e5"}[known.model])
    found = hit_rate(model, example(known.data), known.layer, known.head)
    assert (sum(found.hit), len(found.tried)) == (known.hits, known.n)
    (rule,) = (one for one in found.rules if one.name == known.rule)
    assert (rule.hits, rule.agrees) == (known.right, known.agrees)
    assert rule.hits == max(one.hits for one in found.rules)
    said = known_rate(known.model, known.texts[0], known.layer, known.head)
    assert f"In {known.n} such sentences" in said and f"in {known.hits};" in said
    assert any(one.text in known.texts for one in example(known.data))


def test_what_is_missed_in_chinese_is_passive(e5):
    found = hit_rate(e5, example("verb-object.zh.jsonl"), 6, 2)
    passive = ["被" in one.expectation.text for one in found.tried]
    assert all(hit or turned for hit, turned in zip(found.hit, passive, strict=True))


def test_no_rate_is_known_of_another_text_or_head():
    known = KNOWN_RATES[0]
    assert known_rate(known.model, "Another.", 3, 1) == ""
    assert known_rate(known.model, known.texts[0], 3, 2) == ""
    assert known_rate("tiny", known.texts[0], 3, 1) == ""
