import dataclasses
import math

import pytest

from tests.unit.draw.whys import capitals, links, long, mary, similarity, translation
from wqkv.draw.effects import (
    FEW,
    asked,
    cell,
    counted,
    effect,
    level,
    lists,
    mark,
    meant,
    named_group,
    names,
    own,
    places,
    sides,
    texts,
    title,
    together,
    unchecked,
)
from wqkv.effects.records import Checked, GroupEffect, Joint, Question
from wqkv.sentences.why import UNCHECKED


def ask(kind="next token", **fields):
    return capitals(question=Question(kind, "the number", **fields))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            capitals(),
            "logit of ' Madrid' less logit of ' Rome', for the token after is@18: 7.90,"
            " so 'Madrid' wins",
        ),
        (
            capitals(before=-0.5),
            "logit of ' Madrid' less logit of ' Rome', for the token after is@18: -0.50,"
            " so 'Rome' wins",
        ),
        (similarity(), "cosine similarity with 'A dog rests.': 0.4312"),
        (ask("masked token", answer="a", at=17), "the number, for the masked token Spain@17: 7.90"),
        (ask("function"), "the number: 7.90"),
        (ask("function", at=5), "the number, for the token Paris@5: 7.90"),
        (translation(), "logit of ' schläft', for the token after Katze@2: 0.4231"),
        (capitals(before=math.nan, question=Question("function", "a\nb")), "a\nb: -"),
    ],
)
def test_asked(found, said):
    assert asked(found) == said


@pytest.mark.parametrize(
    ("found", "down", "up"),
    [
        (capitals(), "speaks for 'Madrid'", "speaks for 'Rome'"),
        (ask(answer=" a"), "speaks for 'a'", "speaks against it"),
        (ask(), "speaks for the answer", "speaks against it"),
        (ask(answer="8", against=" 8"), "speaks for '8'", "speaks for ' 8'"),
        (ask(answer=" ", against="  "), "speaks for ' '", "speaks for '  '"),
        (ask(answer=" ", against="a"), "speaks for ' '", "speaks for 'a'"),
        (ask(answer="\n"), "speaks for '\\n'", "speaks against it"),
        (similarity(), "makes the texts more alike", "makes the texts less alike"),
        (
            ask("similarity", answer="A dog rests on the mat.", against="b"),
            "speaks for 'A dog rests on th...'",
            "speaks for 'b'",
        ),
        (ask("function"), "raises the number", "lowers the number"),
    ],
)
def test_what_the_sign_says(found, down, up):
    assert sides(found) == (down, up)
    assert meant(found).endswith(f" below 0 {down}, one above 0 {up}.")


def test_names():
    assert names(capitals()) == ("'Madrid'", "'Rome'")
    assert names(ask(against="b")) == ("the answer", "'b'")


def test_title():
    assert title(capitals()) == "What does this answer of SmolLM2-135M-Instruct rest on?"
    assert title(ask("masked token")).startswith("What does this answer of ")
    assert title(similarity()) == "What does this number of tiny-bert rest on?"


def test_what_was_removed():
    assert counted(capitals()) == (
        "19 tokens read, 51,030 links in all layers and heads. 200 of them were removed for real,"
        ' each by itself: its weight goes to the row\'s other keys ("renormalize").'
    )
    assert counted(translation()) == (
        "4 tokens read and 3 tokens written, 51,030 links in all layers and heads. 200 of them were"
        " removed for real, each by itself: its weight stays, and the value that it carries becomes"
        ' 0 ("zero").'
    )
    one = capitals(tokens={"text": ("a",)}, keys={"text": ("a",)}, count=1)
    assert counted(one).startswith("1 token read, 1 link in all layers and heads. ")
    assert list(texts(translation())) == ["read", "written"]


def test_own():
    said = "Computed with our attention; the model's own number"
    assert own(capitals(off=-0.00123)) == f"{said} differs by 1.2e-03."
    assert own(capitals(off=0.0)) == f"{said} is the same."


@pytest.mark.parametrize(
    ("true", "decimals"),
    [("-11.3", 2), ("1.0", 2), ("0.99", 3), ("-0.0451", 4), ("0.000000001", 6), ("nan", 2)],
)
def test_places(true, decimals):
    found = capitals(links=links(f"0 0 1 1 0.5 0.1 {true} 0.1"), resting=(), predicted=())
    assert places(found) == decimals
    assert places(capitals(links=(), resting=(), predicted=())) == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7.005, "+7.00"),
        (-0.001, "-1.0e-03"),
        (0.0, "+0.00"),
        (12345.6, "+1.2e+04"),
        (math.nan, "-"),
        (-math.inf, "-"),
        (None, "-"),
    ],
)
def test_effect(value, shown):
    assert effect(value, 2) == shown


def test_level_has_no_plus():
    assert (level(7.9, 2), level(-7.1, 2), level(0.00042, 2)) == ("7.90", "-7.10", "4.2e-04")


def test_below_rounding_has_no_digits():
    found = capitals()  # rounding is 1.6e-4
    shown = [cell(found, value) for value in (0.00015, -0.00015, 0.00017, None, math.nan)]
    assert shown == ["~0", "~0", "+1.7e-04", "-", "-"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("0.5 -1.0 -1.1 0.18", ""),
        ("0.5 -1.0 -1.1 0.19", "! large local change"),
        ("0.5 -1.0 -2.1 0.1", "! prediction too small"),
        ("0.5 -1.0 -0.5 0.1", "! prediction too large"),
        ("0.5 -1.0 0.1 0.2", "! large local change, wrong sign"),
        ("0.5 -1.0 0.0001 0.2", "below rounding"),
        ("0.5 -1.0 nan 0.2", "cannot be removed: a row has no other key"),
        ("0.5 -1.0 - 0.1", ""),
        ("0.5 -1.0 - 0.2", "! large local change"),
        ("0.5 -0.0001 - 0.2", "below rounding"),
    ],
)
def test_mark(numbers, said):
    (link,) = links(f"0 0 1 1 {numbers}")
    assert mark(capitals(), link) == said


def test_mark_of_its_own_block():
    (link,) = links("0 0 1 1 0.5 -1.0 -1.1 0.1")
    doubted = dataclasses.replace(link, block=-1.5)
    assert mark(capitals(), doubted) == "! its own block says otherwise"


def test_lists_are_those_removed_together_and_five_of_each_other():
    found = long(count=13, together=Joint(11, 1.0, 0, ()))
    first, resting, predicted = lists(found)
    assert (len(first.links), len(first.rest)) == (11, 2)
    assert (len(resting.links), len(predicted.links)) == (3, 2)
    assert len(lists(dataclasses.replace(found, together=None))[0].links) == FEW
    assert [one.name for one in lists(found)] == ["links", "resting", "predicted"]
    assert "switches a resting head on" in resting.title
    assert "which a resting head looks at" in lists(long(how="zero"))[1].title
    many = lists(capitals(resting=capitals().links))[1]
    assert (len(many.links), len(many.rest)) == (5, 2)
    assert lists(capitals(links=(), resting=(), predicted=())) == []


@pytest.mark.parametrize(
    ("found", "first"),
    [
        (capitals(), "All 7 links of the first list removed together: 7.90 -> -7.07, so 'Rome' w"),
        (mary(), "All 7 links of the first list removed together: 6.12 -> 1.41, so 'Mary' still w"),
        (
            capitals(before=-1.0, together=Joint(2, -3.0, 1, ())),
            "All 2 links of the first list removed together (1 stayed, because the row would have"
            " lost every key): -1.00 -> -3.00, so 'Rome' still wins.",
        ),
        (
            capitals(together=Joint(1, 3.0, 0, ())),
            "The link of the first list removed: 7.90 -> 3.00, so 'Madrid' still wins.",
        ),
        (long(), "All 7 links of the first list removed together: 7.90 -> -7.07."),
        (capitals(together=Joint(3, math.nan, 0, ())), "All 3 links of the first list removed to"),
    ],
)
def test_removed_together(found, first):
    assert together(found)[0].startswith(first)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ((), "There were no other links of like weight to compare with."),
        ((math.nan,), "There were no other links of like weight to compare with."),
        ((7.5,), "As many other links of like weight, of the same tokens: 7.90 -> 7.50 (1 draw)."),
        (
            (3.0, 1.0, math.nan, 2.0),
            "As many other links of like weight, of the same tokens: 7.90 -> 1.00 to 3.00 (3 draws,"
            " 5 to 95 %).",
        ),
        (
            tuple(float(draw) for draw in range(40)),  # two of forty lie outside on each side
            "As many other links of like weight, of the same tokens: 7.90 -> 2.00 to 37.00 (40 "
            "draws, 5 to 95 %).",
        ),
    ],
)
def test_beside_others(others, said):
    assert together(capitals(together=Joint(7, -7.07, 0, others)))[1] == said


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (-7.07, "they overlap"),
        (-8.67, "they add up"),
        (-12.0, "together they do more"),
        (9.0, "they do not add up"),
    ],
)
def test_single_effects_beside_the_joint_one(after, said):
    last = together(capitals(together=Joint(7, after, 0, ())))[-1]
    assert last.startswith("Single effects sum to -16.57, together they are ")
    assert last.endswith(f": {said}.")


def test_single_effects_are_those_of_the_links_that_were_removed_together():
    last = together(capitals(together=Joint(2, -5.0, 0, ())))[-1]
    assert last == "Single effects sum to -13.28, together they are -12.90: they add up."


def test_nothing_was_removed_together():
    assert together(capitals(together=None)) == []
    assert len(together(capitals(together=Joint(1, 3.0, 0, ())))) == 2
    assert len(together(capitals(together=Joint(3, math.nan, 0, ())))) == 2


@pytest.mark.parametrize(
    ("checked", "left", "right"),
    [
        (
            Checked(200, 187, 172, 122, 50_830, 0.81, 0.2612),
            "Not removed: 50,830 links with 81 % of all predicted effect; none is predicted beyond"
            " 0.26.",
            "Predictions can miss: of those for 187 removed links with an effect above rounding,"
            " 172 had the right sign, and 122 lay within 50 % of the true effect.",
        ),
        (
            Checked(200, 187, 172, 122, 50_830, 0.81, 0.2612, 3_041),
            "Not removed: 50,830 links with 81 % of all predicted effect, 3,041 of them of weight "
            "above 0.5; none is predicted beyond 0.26.",
            "Predictions can miss: of those for 187 removed links with an effect above rounding, "
            "172 had the right sign, and 122 lay within 50 % of the true effect.",
        ),
        (
            Checked(1, 1, 1, 0, 0, 0.0, 0.0),
            "Every link was removed for real.",
            "Predictions can miss: of those for 1 removed link, 1 had the right sign, and 0 lay"
            " within 50 % of the true effect.",
        ),
        (
            Checked(3, 0, 0, 0, 1, 0.999, 1.0),
            "Not removed: 1 link with 99.9 % of all predicted effect; none is predicted beyond"
            " 1.00.",
            "No removed link has an effect above rounding.",
        ),
    ],
)
def test_unchecked(checked, left, right):
    assert unchecked(capitals(checked=checked)) == [left, right, UNCHECKED["caveat"][0]]


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (GroupEffect("head", "text", "layer 3, head 4", 1.0, 3, 4), "layer 3, head 4"),
        (GroupEffect("token", "text", "Spain", 1.0, first=17, last=17), "Spain@17"),
        (GroupEffect("span", "text", "a\nb", 1.0, first=2, last=7), "tokens 2 to 7: a\\nb"),
    ],
)
def test_named_group(group, name):
    assert named_group(capitals(), group) == name
    part = dataclasses.replace(group, part="encoder")
    assert named_group(translation(), part) == f"encoder, {name}"
