"""What answers rest on, made by hand: two examples that were measured, and one of any size."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from wqkv.effects.records import Checked, GroupEffect, Joint, LinkEffect, Question, Why


def links(rows: str) -> tuple[LinkEffect, ...]:
    """Links of one text, a row each: layer, head, query, key, weight, predicted, true, change."""
    found = []
    for row in rows.split("\n"):
        layer, head, query, key, weight, predicted, true, change = row.split()
        effects = (float(weight), float(predicted), float(change))
        where = (int(layer), int(head), int(query), int(key))
        found.append(
            LinkEffect("text", *where, *effects, None, None if true == "-" else float(true))
        )
    return tuple(found)


def capitals(**changes: Any) -> Why:
    """One link is predicted far too small, and the rival wins without the seven."""
    text = "The capital of France is Paris . The capital of Italy is Rome . The capital of Spain is"
    tokens = tuple(text.split())
    found = Why(
        model="SmolLM2-135M-Instruct",
        question=Question(
            "next token", "logit of ' Madrid' less logit of ' Rome'", " Madrid", " Rome", 18
        ),
        how="renormalize",
        tokens={"text": tokens},
        keys={"text": tokens},
        before=7.8974,
        off=1.9e-6,
        rounding=1.6e-4,
        count=51_030,
        links=links(
            "23 4 18 17 0.856 -2.56 -11.34 0.11\n"
            "23 3 18 12 0.153 -1.85 -1.94 0.05\n"
            "29 1 18 18 0.502 -1.55 -1.70 0.03\n"
            "11 8 18 17 0.830 -0.56 -0.95 0.09\n"
            "29 1 18 11 0.163 +0.90 +0.89 0.02\n"
            "23 5 18 17 0.548 -0.63 -0.77 0.04\n"
            "23 1 18 17 0.653 -0.68 -0.76 0.05"
        ),
        resting=links(
            "5 6 17 0 0.812 -0.67 -2.28 0.21\n"
            "23 7 18 0 0.856 -1.41 -1.46 0.08\n"
            "8 0 17 0 0.674 -0.94 -1.38 0.07"
        ),
        predicted=links("26 2 18 5 0.211 +0.26 - 0.02\n4 7 12 10 0.347 -0.25 - 0.19"),
        checked=Checked(200, 187, 172, 122, 50_830, 0.81, 0.2612),
        together=Joint(7, -7.0731, 0, tuple(6.7 + 0.07 * draw for draw in range(20))),
    )
    return dataclasses.replace(found, **changes)


def mary(**changes: Any) -> Why:
    """Links to the first token are predicted with the wrong sign; the answer stays."""
    text = "When Mary and John went to the store , John gave a drink to"
    tokens = tuple(text.split())
    found = dataclasses.replace(
        capitals(),
        question=Question(
            "next token", "logit of ' Mary' less logit of ' John'", " Mary", " John", 13
        ),
        tokens={"text": tokens},
        keys={"text": tokens},
        before=6.1203,
        count=28_080,
        links=links(
            "23 3 13 9 0.740 -2.70 -2.79 0.23\n"
            "24 4 13 1 0.810 +1.66 +1.27 0.08\n"
            "29 0 13 13 0.632 +1.06 +1.04 0.04\n"
            "20 0 13 9 0.785 -0.40 -0.98 0.06\n"
            "23 0 13 1 0.689 -1.22 -0.90 0.05\n"
            "1 8 3 1 0.567 -1.13 -0.83 0.10\n"
            "29 1 13 13 0.605 -0.79 -0.80 0.03"
        ),
        resting=links(
            "0 2 1 0 0.914 +0.69 -7.70 0.32\n"
            "1 5 1 0 0.939 -0.24 -4.61 0.19\n"
            "7 2 1 0 0.989 -0.01 -3.91 0.12"
        ),
        predicted=(),
        checked=Checked(200, 200, 175, 125, 27_880, 0.73, 0.29),
        together=Joint(7, 1.41, 0, tuple(5.5 + 0.035 * draw for draw in range(20))),
    )
    return dataclasses.replace(found, **changes)


def long(n: int = 120, count: int = 13, **changes: Any) -> Why:
    """A text of n tokens, with links of many lengths and signs, and groups of each kind."""
    text = "the quick brown fox jumps over 17 lazy dogs , and then some extraordinarily long ones"
    pieces = text.split()
    tokens = tuple(pieces[at % len(pieces)] for at in range(n))
    found, resting = [], []
    for at in range(count):
        query, true = n - 1 - (at * 7) % (n // 2), (-1) ** (at // 2) * 3.1 / (at + 1)
        key = max(1, query - (at * at * 3) % n)
        found.append(
            LinkEffect("text", at, at % 5, query, key, 0.07 * at, true * 0.8, 0.01, None, true)
        )
        if at < 3:
            resting.append(
                LinkEffect("text", at, 2, query, 0, 0.9, 0.1, 0.2, None, -2.0 / (at + 1))
            )
    head, token, span = (
        GroupEffect("head", "text", "layer 3, head 4", -4.25, 3, 4),
        GroupEffect("token", "text", tokens[7], 0.0451, first=7, last=7),
        GroupEffect("span", "text", " ".join(tokens[:11]), math.nan, first=0, last=10),
    )
    why = dataclasses.replace(
        capitals(),
        tokens={"text": tokens},
        keys={"text": tokens},
        question=Question("next token", "logit of 'a'", "a", None, n - 1),
        links=tuple(found),
        resting=tuple(resting),
        groups={"head": (head,), "token": (token,), "span": (span,)},
    )
    return dataclasses.replace(why, **changes)


def translation(**changes: Any) -> Why:
    """A model of two texts: a link of each of its three attentions."""
    read, written = ("The", "cat", "sleeps", "</s>"), ("<s>", "Die", "Katze")
    rows = (
        LinkEffect("cross", 5, 3, 2, 1, 0.71, -0.031, 0.05, None, -0.0402),
        LinkEffect("encoder", 1, 0, 1, 2, 0.33, -0.012, 0.05, None, -0.0113),
        LinkEffect("decoder", 2, 7, 2, 1, 0.52, 0.006, 0.05, None, 0.0071),
    )
    found = dataclasses.replace(
        capitals(),
        model="tiny-marian",
        question=Question("next token", "logit of ' schläft'", " schläft", None, 2),
        how="zero",
        tokens={"encoder": read, "decoder": written, "cross": written},
        keys={"encoder": read, "decoder": written, "cross": read},
        before=0.4231,
        links=rows,
        resting=(),
        predicted=(),
        together=Joint(3, 0.3712, 1, ()),
    )
    return dataclasses.replace(found, **changes)


def similarity(**changes: Any) -> Why:
    """Two texts compared by an encoder: the number belongs to the whole text."""
    tokens = ("[CLS]", "a", "猫", "sleeps", "[SEP]")
    found = dataclasses.replace(
        capitals(),
        model="tiny-bert",
        question=Question("similarity", "cosine similarity with 'A dog rests.'", "A dog rests."),
        tokens={"text": tokens},
        keys={"text": tokens},
        before=0.4312,
        rounding=1e-5,
        links=links("3 1 0 2 0.412 -0.0312 -0.0347 0.05\n1 4 2 3 0.2 +0.0051 +0.0000001 0.02"),
        resting=(),
        predicted=(),
        together=Joint(2, 0.4001, 0, (0.43,)),
    )
    return dataclasses.replace(found, **changes)
