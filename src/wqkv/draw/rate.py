"""How often a head looks where it was expected to: in a terminal, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wqkv import __version__
from wqkv.draw.to_json import Json, plain
from wqkv.maps.display import visible, weight
from wqkv.sentences import say
from wqkv.sentences.rate import RATE
from wqkv.study.hit_rate import HitRate, Tried

if TYPE_CHECKING:  # JSON needs no rich
    from rich.console import Console


def show(found: HitRate, console: Console, lang: str = "en") -> None:
    """Print the rate and the rules, and then every sentence: met or not, and what got the weight.

    The lines fit the console's width. There are no escape codes unless the console shows colors.
    """
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console, lang)
    first, *rest = map(pen.said, found.report())
    pen.write(Text(first, "bold"), indent=0)
    for line in rest:
        pen.write(Text(line.strip()), indent=2 if line.startswith(" ") else 0)
    pen.write(Text())
    marks = {met: pen.said(say(RATE["met" if met else "missed"])) for met in (True, False)}
    width = max(map(cell_len, marks.values())) + 2
    for one, met in zip(found.tried, found.hit, strict=True):
        mark = set_cell_size(marks[met], width)
        text = visible(one.expectation.text, pen.encoding)
        pen.write(Text.assemble((mark, "green" if met else "red"), text), indent=0)
        told = visible(_strongest(found, one), pen.encoding)
        pen.write(Text(told, "dim"), indent=width)


def _strongest(found: HitRate, one: Tried) -> str:
    """The query and the three candidates with the most weight: `it: animal 0.677, street 0.050`."""
    weights: list[float] = one.weights[found.layer, found.head].tolist()
    ranked = sorted(zip(one.candidates, weights, strict=True), key=lambda pair: -pair[1])
    return f"{one.expectation.query}: " + ", ".join(
        f"{word} {weight(value)}" for word, value in ranked[:3]
    )


def as_json(found: HitRate) -> dict[str, Json]:
    """Return the rate, the rules, and for every sentence its candidates and weights."""
    return {
        "wqkv": __version__,
        "model": found.model,
        "layer": found.layer,
        "head": found.head,
        "chosen": found.chosen,
        "heldOut": found.held_out if found.chosen else None,
        "hits": sum(found.hit),
        "of": len(found.tried),
        "meanWeight": found.mean_weight,
        "chance": found.chance,
        "rules": plain(found.rules),
        "sentences": [
            {
                **plain(one.expectation),
                "hit": met,
                "candidates": plain(one.candidates),
                "right": plain(one.right),
                "weights": plain(one.weights[found.layer, found.head]),
            }
            for one, met in zip(found.tried, found.hit, strict=True)
        ],
    }
