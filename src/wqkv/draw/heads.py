"""The layer x head table of what heads do: in a terminal, as JSON, CSV or a picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wqkv import __version__
from wqkv.draw import steps
from wqkv.draw.plots import check_format, wrapped
from wqkv.draw.to_json import Json, plain
from wqkv.errors import need
from wqkv.fonts import drawable, fonts
from wqkv.maps.display import visible
from wqkv.sentences import say, translated
from wqkv.sentences.counts import count_of
from wqkv.sentences.errors import mistake
from wqkv.sentences.heads import BRIEF, TABLE
from wqkv.sentences.heads import LABELS as NAMES
from wqkv.study.heads import LABELS, UNCLASSIFIED, Head, Heads, Score
from wqkv.study.patterns import (
    EVEN,
    LIFT,
    PATTERNS,
    RARE_LIFT,
    RARE_SHARE,
    SHARE,
    SOME_LIFT,
    SOME_SHARE,
)

if TYPE_CHECKING:  # JSON and CSV need no rich
    from rich.console import Console
    from rich.text import Text

    from wqkv.draw.terminal import Pen


class Sign(NamedTuple):
    """How a label is shown where there is little room."""

    letter: str
    color: str


#: The sign of each label. Color-blind people can tell the colors of the first eight apart too;
#: the others are told apart by their letters as well.
#: Sources: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/; Tol 2021 (muted).
SIGNS = {
    "previous": Sign("P", "#0072b2"),
    "next": Sign("N", "#56b4e9"),
    "first-token sink": Sign("F", "#d55e00"),
    "separator sink": Sign("S", "#e69f00"),
    "duplicate-token": Sign("D", "#cc79a7"),
    "induction": Sign("I", "#009e73"),
    "subword": Sign("W", "#88ccee"),
    "verb to object": Sign("V", "#332288"),
    "object to verb": Sign("O", "#aa4499"),
    "opening to closing": Sign("(", "#117733"),
    "closing to opening": Sign(")", "#44aa99"),
    "rare token": Sign("R", "#882255"),
    "local": Sign("L", "#f0e442"),
    "delimiter": Sign("M", "#ddcc77"),
    "uniform": Sign("U", "#bbbbbb"),
    UNCLASSIFIED: Sign("-", "#ffffff"),
}
#: The widths of a cell as "prev .98", "P.98" and "P".
_WIDE, _MIDDLE, _NARROW = 8, 4, 1


def name_of(label: str) -> str:
    """Return a label as a person reads it."""
    return say(NAMES[label])


def rule() -> str:
    """Return in one sentence when a head gets a label."""
    return say(
        TABLE["rule"],
        share=SHARE,
        lift=LIFT,
        even=EVEN,
        some=SOME_SHARE,
        times=SOME_LIFT,
        rare=RARE_SHARE,
        most=RARE_LIFT,
    )


def title(heads: Heads, model: str) -> str:
    """Return what was read: `tiny, 2 layers x 3 heads, over 85 tokens: a built-in text`."""
    which = TABLE["title_of" if heads.source else "title"]
    return say(which, model=model, size=heads.size, tokens=heads.tokens, source=heads.source)


# Terminal


def show(heads: Heads, model: str, console: Console, lang: str = "en") -> None:
    """Print the table of labels, and for each label how many heads have it and the strongest one.

    The table fits the console's width. There are no escape codes unless the console shows colors.
    """
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console, lang)
    n_head = max((len(row) for row in heads.table), default=0)
    gutter = 1 + len(str(max(len(heads.table) - 1, 0))) + 1
    cell, blocks = _layout(n_head, console.width - gutter)
    pen.write(Text(pen.said(title(heads, model)), "bold"), indent=0)
    if unread := steps.cannot_read(heads.unread, model, pen.lang):
        pen.write(Text(visible(unread, pen.encoding)), indent=0)
    for block in blocks:
        pen.write(Text())
        names = [f"{'H' if at == block.start else ''}{at}" for at in block]
        step = 1 if cell > _NARROW else 4  # a column of one letter has no room for "10"
        header = "".join(f"{name:<{(cell + 1) * step}}" for name in names[::step])
        pen.write(Text(" " * gutter + header.rstrip(), "dim"), indent=0)
        for layer, row in enumerate(heads.table):
            line = Text(f"{f'L{layer}':<{gutter}}", "dim")
            for at in block:
                line.append_text(_cell(pen, row[at], cell) if at < len(row) else Text(" " * cell))
                line.append(" ")
            pen.write(line, indent=0)
    pen.write(Text())
    for label in LABELS:
        if found := heads.labelled(label):
            short = pen.said(say(BRIEF[label])) if cell == _WIDE else SIGNS[label].letter
            number = pen.said(say(TABLE["counted"], heads=count_of(len(found), "head")))
            name = pen.said(name_of(label))
            pen.write(
                Text.assemble(_painted(f" {short} ", label), (f" {name}", "bold"), number),
                indent=0,
            )
            if label != UNCLASSIFIED:
                best = found[0]
                said = best.evidence
                place = {"layer": best.layer, "head": best.head}
                pen.write(Text(pen.said(say(TABLE["strongest"], **place, evidence=said))))
    pen.write(Text())
    pen.write(Text(pen.said(rule()), "dim"), indent=0)


def _layout(n_head: int, room: int) -> tuple[int, list[range]]:
    """Return the width of a cell, and the heads of each block of columns.

    The widest cell is taken that needs one block, then the one that needs two, else the narrow one.
    """
    for cell, most in ((_WIDE, 1), (_MIDDLE, 2)):
        fits = max(1, (room + 1) // (cell + 1))
        if math.ceil(n_head / fits) <= most:
            return cell, _blocks(n_head, fits)
    return _NARROW, _blocks(n_head, max(1, (room + 1) // (_NARROW + 1)))


def _blocks(n_head: int, fits: int) -> list[range]:
    """Split the heads into blocks of at most `fits`, as equal as they can be."""
    count = max(1, math.ceil(n_head / fits))
    each = math.ceil(n_head / count)
    return [range(at, min(at + each, n_head)) for at in range(0, max(n_head, 1), max(each, 1))]


def _cell(pen: Pen, head: Head, width: int) -> Text:
    from rich.cells import set_cell_size

    letter, brief = SIGNS[head.label].letter, pen.said(say(BRIEF[head.label]))
    if head.score is None or width == _NARROW:
        shown = f"{letter if width < _WIDE else brief:^{width}}"
    elif width == _MIDDLE:
        shown = f"{letter}{_two_digits(head.score)}"
    else:
        shown = f"{set_cell_size(brief, 4)} {_two_digits(head.score)}"
    return _painted(shown, head.label)


def _painted(shown: str, label: str) -> Text:
    from rich.text import Text

    return Text(shown, "dim" if label == UNCLASSIFIED else f"black on {SIGNS[label].color}")


def _two_digits(score: float) -> str:
    """A score from 0 to 1 in three characters: `.98`, `1.0`."""
    return "1.0" if score >= 0.995 else f"{score:.2f}"[1:]


# Data


def as_json(heads: Heads, model: str) -> dict[str, Json]:
    """Return every score of every head for strict JSON; None where a pattern cannot be scored.

    >>> as_json(Heads((), 0), "tiny")["heads"]
    []
    """
    return {
        "wqkv": __version__,
        "model": model,
        "source": heads.source,
        "tokens": heads.tokens,
        "unread": plain(heads.unread),
        "thresholds": {
            name: {"share": one.share, "lift": one.lift} for name, one in PATTERNS.items()
        },
        "heads": [
            {
                "layer": head.layer,
                "head": head.head,
                "label": head.label,
                "score": _finite(head.score),
                "evidence": head.evidence,
                "scores": {name: _score(score) for name, score in head.scores.items()},
            }
            for head in heads.all
        ],
    }


def _score(score: Score | None) -> Json:
    if score is None:
        return None
    flat = _finite(score.flat)
    return {"value": _finite(score.value), "equal_weights": flat, "tokens": score.tokens}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def save_csv(heads: Heads, path: str | Path) -> None:
    """Write one line per head: layer, head, label, score, every pattern's score, evidence."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["layer", "head", "label", "score", *PATTERNS, "evidence"])
        for head in heads.all:
            scores = [head.scores[name] for name in PATTERNS]
            numbers = [head.score, *(None if score is None else score.value for score in scores)]
            shown = ["" if number is None else f"{number:.6g}" for number in numbers]
            writer.writerow([head.layer, head.head, head.label, *shown, head.evidence])


# Picture


def save_png(heads: Heads, model: str, path: str | Path, lang: str = "en") -> None:
    """Draw the table to a file: one square per head, its color the label, its depth the score.

    Raises:
        ArgumentError: the suffix is not one of `plots.FORMATS`.
        MissingExtraError: matplotlib is not installed.
    """
    check_format(path)
    need("matplotlib", "show", mistake("table_picture"))
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    layers, n_head = len(heads.table), max((len(row) for row in heads.table), default=0)
    wide, high = 0.46 * max(n_head, 1), 0.34 * max(layers, 1)
    figure = Figure(figsize=(wide + 3.2, max(high, 2.6) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    paper = (1.0, 1.0, 1.0)
    pixels = [[paper] * n_head for _ in range(layers)]
    for head in heads.all:
        if head.score is None:
            pixels[head.layer][head.head] = (0.97, 0.97, 0.97)
            continue
        depth = min(max(head.score, 0.25), 1.0)
        ink = to_rgb(SIGNS[head.label].color)
        mixed = tuple(depth * part + (1 - depth) for part in ink)
        pixels[head.layer][head.head] = (mixed[0], mixed[1], mixed[2])
        shown = f"{SIGNS[head.label].letter} {_two_digits(head.score)}"
        bright = 0.3 * mixed[0] + 0.59 * mixed[1] + 0.11 * mixed[2]
        color = "black" if bright > 0.5 else "white"
        at = (head.head, head.layer)
        axes.text(*at, shown, ha="center", va="center", fontsize=8, color=color)
    axes.imshow(pixels or [[paper]], aspect="auto")
    axes.set_xticks(range(n_head), [str(i) for i in range(n_head)], fontsize=8)
    axes.set_yticks(range(layers), [str(i) for i in range(layers)], fontsize=8)
    axes.set_xticks([i - 0.5 for i in range(1, n_head)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, layers)], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    lang = drawable(lang)
    named = visible(translated(title(heads, model), lang))
    families, missing = fonts(named, lang)  # a folder or a file may be named in any script
    # Keyword arguments of matplotlib. A name may hold "$", which is not a formula.
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families}
    axes.set_xlabel(translated(say(TABLE["head"]), lang), **font)
    axes.set_ylabel(translated(say(TABLE["layer"]), lang), **font)
    found = [(label, len(heads.labelled(label))) for label in LABELS]
    patches = [
        Patch(
            facecolor="#f7f7f7" if label == UNCLASSIFIED else SIGNS[label].color,
            edgecolor="#cccccc",
            label=translated(_counted(label, count), lang),
        )
        for label, count in found
        if count
    ]
    axes.legend(
        handles=patches, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False,
        prop={"family": families, "size": 9},
    )  # fmt: skip
    named = "\n".join(wrapped(named.translate(missing), round(11 * (wide + 3))))
    figure.suptitle(named, fontsize=10, x=0.02, ha="left", **font)
    note = translated(say(TABLE["rule_of_picture"], rule=rule()), lang)
    note = "\n".join(wrapped(note, round(14 * (wide + 3))))
    figure.supxlabel(note, fontsize=8, color="#555555", **font)
    figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.15)


def _counted(label: str, count: int) -> str:
    letter = SIGNS[label].letter
    return say(TABLE["labelled"], letter=letter, label=name_of(label), count=count)
