"""What an answer rests on as a picture: the text as a line of tokens, the links as arcs over it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

from wqkv.draw import effects
from wqkv.draw.plots import check_format, wrapped
from wqkv.effects.records import LinkEffect, Why
from wqkv.errors import need
from wqkv.fonts import drawable, fonts
from wqkv.maps import display
from wqkv.maps.display import MARK, short, visible
from wqkv.sentences import say, translated
from wqkv.sentences.errors import mistake
from wqkv.sentences.why import LISTED, PICTURED

#: The colors of links that speak for the answer, and against it; and of what is less important.
FOR, AGAINST, PALE = "#{:02x}{:02x}{:02x}".format(*display.LIGHT[1]), MARK, "#666666"
#: Inches: the margin, the narrowest and the widest picture, and the blank between two tokens.
MARGIN, NARROW, WIDE, BLANK = 0.35, 10.0, 15.0, 0.13
#: Inches: the least between two tokens that stand upright; the lowest and the highest arc.
UPRIGHT, LOW, HIGH = 0.115, 0.3, 2.4
#: Inches: between the lines of two texts.
BETWEEN = 1.3
#: Inches: from one line of the list to the next, and from one arc to the next of the same tokens.
LINE, STEP = 0.215, 0.24
#: Points: the widths of the thinnest and of the thickest arc.
THIN, THICK = 0.8, 8.0


def save_png(found: Why, path: str | Path, lang: str = "en") -> None:
    """Draw the text as a line of tokens, links as arcs over it, and the list of these links.

    The width of an arc shows its |true effect|, and its arrow points at the key. A model of two
    texts has a line for each, the written text above; arcs of cross-attention go between them.

    Raises:
        ArgumentError: the suffix is not one of `plots.FORMATS`.
        MissingExtraError: matplotlib is not installed.
    """
    check_format(path)
    need("matplotlib", "show", mistake("links_picture"))
    sheet, arcs = _Sheet(found, drawable(lang)), _arcs(found)
    lines = _lines(sheet, arcs)
    _heading(sheet)
    _text(sheet, lines, arcs)
    _list(sheet, arcs)
    for sentence in (*effects.together(found), *effects.unchecked(found)):
        sheet.paragraph(sentence)
    sheet.save(path)


class _Arc(NamedTuple):
    """A link, its name in the list, and its two ends, each as the number of a line and a token.

    The name is a number, or a letter if the link goes to the first token.
    """

    name: str
    link: LinkEffect
    query: tuple[int, int]
    key: tuple[int, int]


def _arcs(found: Why) -> list[_Arc]:
    """The links that are shown; of two lines, the first has the text that was written."""
    below = len(effects.texts(found)) - 1
    ends = {"encoder": (below, below), "cross": (0, below)}  # the lines of the two tokens
    arcs = []
    for removed in effects.lists(found):
        if removed.name in ("links", "resting"):
            resting = removed.name == "resting"
            names = ascii_lowercase if resting else map(str, range(1, len(removed.links) + 1))
            for name, link in zip(names, removed.links, strict=False):
                query, key = ends.get(link.part, (0, 0))
                arcs.append(_Arc(name, link, (query, link.query), (key, link.key)))
    return arcs


class _Sheet:
    """Paper that is measured in inches; `y` is where the next line stands, and falls."""

    def __init__(self, found: Why, lang: str) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        every = [token for tokens in effects.texts(found).values() for token in tokens]
        said = " ".join([found.model, translated(effects.asked(found), lang), *every])
        families, self.missing = fonts(visible(said), lang)
        # Keyword arguments of matplotlib. A token may be "$", which is not a formula.
        self.font: dict[str, Any] = {"parse_math": False, "fontfamily": families}
        self.figure = Figure(dpi=160)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.canvas = FigureCanvasAgg(self.figure)
        self.found, self.lang, self.width, self.y = found, lang, NARROW, 0.0

    def shown(self, text: str) -> str:
        """A text as it is drawn: what no font has stands there as its code."""
        return text and visible(translated(text, self.lang)).translate(self.missing)

    def wide(self, text: str, size: float = 9) -> float:
        """How wide a text is, in inches."""
        drawn = self.axes.text(0, 0, text, fontsize=size, **self.font)
        wide: float = drawn.get_window_extent().width / self.figure.dpi
        drawn.remove()
        return wide

    # Keyword arguments of matplotlib's Text.
    def write(self, x: float, text: str, **style: Any) -> None:
        """Write a text at x, on the line that y stands at."""
        self.axes.text(x, self.y, text, **{"fontsize": 9, "va": "center", **self.font, **style})

    # Keyword arguments of matplotlib's Text.
    def paragraph(self, text: str, size: float = 9, **style: Any) -> None:
        """Write a text from the left margin on, wrapped to the paper's width, and go below it."""
        letter = 0.49 * size / 72  # inches, of the mean letter
        letters = int((self.width - 2 * MARGIN) / letter)
        for line in wrapped(self.shown(text), letters):
            self.write(MARGIN, line, fontsize=size, **style)
            self.y -= 1.6 * size / 72

    def save(self, path: str | Path) -> None:
        bottom, top = self.y, LINE
        self.figure.set_size_inches(self.width, top - bottom)
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(bottom, top)
        self.figure.savefig(path, bbox_inches="tight", pad_inches=0.15)


def _color(found: Why, link: LinkEffect) -> str:
    if effects.unsaid(found, effects.value(link)):
        return PALE
    return FOR if effects.value(link) < 0 else AGAINST


# The text and its arcs


class _Line(NamedTuple):
    """A text as a line of tokens: what is written of each, and where it stands."""

    names: list[str]  # "" where there is no room for it
    x: list[float]
    gap: float  # inches that a token has, at least
    high: float  # inches that the names take
    upright: bool


def _lines(sheet: _Sheet, arcs: Sequence[_Arc]) -> list[_Line]:
    """Place the tokens of each text on a line, and make the paper wide enough for them.

    The first line is the text whose prediction or similarity was asked for.
    """
    ends = [(0, sheet.found.question.at or 0), *(end for arc in arcs for end in arc[2:])]
    lines = [
        _line(sheet, tokens, [token for on, token in ends if on == at])
        for at, tokens in enumerate([*effects.texts(sheet.found).values()][::-1])
    ]
    sheet.width = max(NARROW, *(line.x[0] + line.x[-1] for line in lines))
    return [
        line._replace(x=[x + (sheet.width - line.x[0] - line.x[-1]) / 2 for x in line.x])
        for line in lines
    ]


def _line(sheet: _Sheet, tokens: Sequence[str], touched: Sequence[int]) -> _Line:
    """Lay out one text: its tokens side by side, or upright where they are too many for that."""
    names = [short(sheet.shown(token)) for token in tokens]
    room = WIDE - 2 * MARGIN
    if len(names) * 2 * BLANK < room:  # else they are not measured, because that takes time
        wide = [sheet.wide(name, 10) + BLANK for name in names]
        if sum(wide) <= room:
            more = min((NARROW - 2 * MARGIN - sum(wide)) / len(wide), 3 * BLANK)
            wide = [one + max(more, 0) for one in wide]
            ends = accumulate(wide, initial=MARGIN)
            x = [end + part / 2 for end, part in zip(ends, wide, strict=False)]
            return _Line(names, x, min(wide), 0.28, False)
    gap = min(max(UPRIGHT, (NARROW - 2 * MARGIN) / len(names)), room / len(names))
    x = [MARGIN + gap * (at + 0.5) for at in range(len(names))]
    if gap < UPRIGHT:  # letters are higher than that, so only tokens that links touch are named
        kept: list[int] = []
        for at in touched:
            if all(abs(at - other) * gap >= UPRIGHT for other in kept):
                kept.append(at)
        names = [f"{name}@{at}" if at in kept else "" for at, name in enumerate(names)]
    high = max(sheet.wide(name, 7) for name in {*names}) + 0.12
    return _Line(names, x, gap, high, True)


def _heights(lines: Sequence[_Line], arcs: Sequence[_Arc]) -> list[float]:
    """How high each arc rises: the further its ends, the higher; step by step over the same two."""
    times: Counter[frozenset[tuple[int, int]]] = Counter()
    heights = []
    for arc in arcs:
        far = abs(_x(lines, arc.query) - _x(lines, arc.key)) / WIDE
        both = frozenset((arc.query, arc.key))
        heights.append(LOW + (HIGH - LOW) * math.sqrt(far) + STEP * times[both])
        times[both] += 1
    return heights


def _x(lines: Sequence[_Line], end: tuple[int, int]) -> float:
    line, token = end
    return lines[line].x[token]


def _text(sheet: _Sheet, lines: Sequence[_Line], arcs: Sequence[_Arc]) -> None:
    """Draw the lines of tokens, and the arcs over the first, under the last and between them."""
    heights = _heights(lines, arcs)
    pairs = [(arc.link.part, high) for arc, high in zip(arcs, heights, strict=True)]
    sheet.y -= LOW + max((high for part, high in pairs if part in ("text", "decoder")), default=0)
    edges = []  # the upper and the lower edge of each line
    for at, line in enumerate(lines):
        edges.append((sheet.y, sheet.y - line.high))
        _names(sheet, line, sheet.found.question.at if at == 0 else None)
        sheet.y -= line.high + BETWEEN
    sheet.y += BETWEEN - LOW
    sheet.y -= max((LOW + high for part, high in pairs if part == "encoder"), default=0)
    ends = _shifted(lines, arcs, heights)
    largest = max(map(effects.size, (arc.link for arc in arcs)), default=0) or 1
    drawn = zip(arcs, heights, ends, strict=True)
    for arc, high, (start, stop) in sorted(drawn, key=lambda one: -effects.size(one[0].link)):
        (top, bottom), (other, _) = edges[arc.query[0]], edges[arc.key[0]]
        first, middle, last = {
            "cross": (bottom, (bottom + other) / 2, other),
            "encoder": (bottom, bottom - 4 / 3 * high, bottom),
        }.get(arc.link.part, (top, top + 4 / 3 * high, top))
        bow = 0.25 if arc.query == arc.key else 0  # a token that looks at itself
        points = [(start, first), (start + bow, middle), (stop - bow, middle), (stop, last)]
        _arc(sheet, arc, points, effects.size(arc.link) / largest)


def _names(sheet: _Sheet, line: _Line, chosen: int | None) -> None:
    """Write the tokens of a line below y, and mark the one that is asked about."""
    style: dict[str, Any]  # keyword arguments of matplotlib's Text
    style = {"fontsize": 7, "rotation": 90} if line.upright else {"fontsize": 10}
    if line.upright:
        sheet.axes.plot([line.x[0], line.x[-1]], [sheet.y] * 2, color="#cccccc", linewidth=0.8)
    box = {"boxstyle": "round,pad=0.2", "facecolor": "#fff3c4", "edgecolor": "#b59a3a"}
    for at, (name, x) in enumerate(zip(line.names, line.x, strict=True)):
        more = {"bbox": box} if at == chosen else {}
        if name:
            sheet.axes.text(
                x, sheet.y - 0.07, name, ha="center", va="top", **style, **more, **sheet.font
            )


def _shifted(
    lines: Sequence[_Line], arcs: Sequence[_Arc], heights: Sequence[float]
) -> list[tuple[float, float]]:
    """Where each arc starts and stops, beside the middle of its tokens so that arcs do not cross.

    Of arcs to the left the highest ends furthest to the right, and of arcs to the right furthest to
    the left.
    """
    fans = defaultdict(list)  # what ends at one side of one token, from left to right
    for at, (arc, high) in enumerate(zip(arcs, heights, strict=True)):
        way = _x(lines, arc.key) - _x(lines, arc.query)
        for end, far in ((0, way), (1, -way)):
            order = (far > 0 or (far == 0 and end == 0), -high if far > 0 else high)
            if arc.link.part == "cross":
                order = (True, far)
            fans[arc[2:][end], arc.link.part].append((order, at, end))
    x = [[_x(lines, arc.query), _x(lines, arc.key)] for arc in arcs]
    for ((line, _), _), fan in fans.items():
        step = min(0.07, 0.8 * lines[line].gap / len(fan))
        for place, (_, at, end) in enumerate(sorted(fan)):
            x[at][end] += step * (place - (len(fan) - 1) / 2)
    return [(start, stop) for start, stop in x]


def _arc(sheet: _Sheet, arc: _Arc, points: Sequence[tuple[float, float]], share: float) -> None:
    """Draw one curve, the arrow at its key, and its name in the middle."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    color, width = _color(sheet.found, arc.link), THIN + (THICK - THIN) * share
    resting = arc.name.isalpha()
    codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    sheet.axes.add_patch(
        PathPatch(
            Curve(points, codes),
            fill=False,
            edgecolor=color,
            linewidth=width,
            alpha=0.4 if resting else 0.8,
            linestyle=(0, (2, 1)) if resting else "-",
        )
    )
    (x, y), falls = points[3], points[2][1] > points[3][1]
    size = 4 + 0.6 * width
    sheet.axes.plot(x, y, "v" if falls else "^", color=color, markersize=size, markeredgewidth=0)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points
    sheet.axes.text(
        (x0 + 3 * x1 + 3 * x2 + x3) / 8,
        (y0 + 3 * y1 + 3 * y2 + y3) / 8,
        arc.name,
        ha="center",
        va="center",
        fontsize=7,
        bbox=_badge(sheet, arc),
    )


def _badge(sheet: _Sheet, arc: _Arc) -> dict[str, str]:
    color = _color(sheet.found, arc.link)
    return {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": color}


# The sentences above and below the arcs


def _heading(sheet: _Sheet) -> None:
    """Write the question and its number, what was removed and how, and what the colors mean."""
    found = sheet.found
    sheet.paragraph(effects.title(found), 14)
    sheet.y -= 0.05
    sheet.paragraph(effects.asked(found), 10)
    sheet.paragraph(effects.counted(found), 8, color=PALE)
    sheet.paragraph(effects.meant(found), 8, color=PALE)
    sheet.paragraph(say(PICTURED["arcs"]), 8, color=PALE)
    if len(effects.texts(found)) > 1:
        sheet.paragraph(say(PICTURED["two_lines"]), 8, color=PALE)
    sheet.y -= 0.1
    x, down_and_up = MARGIN, effects.sides(found)
    for color, dashed, said in (
        (FOR, False, down_and_up.speaks_for),
        (AGAINST, False, down_and_up.speaks_against),
        (PALE, True, say(PICTURED["to_first"])),
    ):
        if dashed and not found.resting:
            continue
        line = (0, (2, 1)) if dashed else "-"
        sheet.axes.plot([x, x + 0.35], [sheet.y] * 2, color=color, linewidth=4, linestyle=line)
        said = sheet.shown(said)
        sheet.write(x + 0.45, said)
        x += 0.75 + sheet.wide(said)
    sheet.y -= LINE


def _list(sheet: _Sheet, arcs: Sequence[_Arc]) -> None:
    """Write a line for each arc: its name, link, weight, predicted and true effect, and mark."""
    found = sheet.found

    def cut(token: str) -> str:
        return short(sheet.shown(token))

    titles = {one.links[0]: one.title for one in effects.lists(found)}
    parts = len(found.tokens) > 1
    names = ("layer", "head", "from_to", "weight", "predicted_effect", "true")
    head = [sheet.shown(say(LISTED[name])) if name else "" for name in ("part" * parts, *names)]
    rows = [
        (
            sheet.shown(say(LISTED[link.part])) if parts else "",
            str(link.layer),
            str(link.head),
            effects.named(found, link, cut),
            display.weight(link.weight),
            effects.cell(found, link.predicted),
            effects.cell(found, link.true),
            sheet.shown(effects.mark(found, link)),
        )
        for link in (arc.link for arc in arcs)
    ]
    left = MARGIN + (0.85 if parts else 0.25)
    middle = left + 1.15
    right = middle + max(map(sheet.wide, (head[3], *(row[3] for row in rows))))
    columns = (
        *((MARGIN + 0.3, "left"), (left + 0.45, "right"), (left + 0.95, "right")),
        *((middle, "left"), (right + 0.7, "right"), (right + 1.5, "right")),
        *((right + 2.15, "right"), (right + 2.35, "left")),
    )
    for arc, row in zip(arcs, rows, strict=True):
        if title := titles.get(arc.link):
            sheet.y -= 0.05
            sheet.paragraph(title, color=PALE)
            sheet.y -= 0.05
        if arc == arcs[0]:
            for (x, side), cell in zip(columns, head, strict=False):
                sheet.write(x, cell, ha=side, color=PALE)
            sheet.y -= LINE
        sheet.write(MARGIN + 0.1, arc.name, ha="center", fontsize=7, bbox=_badge(sheet, arc))
        for (x, side), cell in zip(columns, row, strict=True):
            sheet.write(x, cell, ha=side)
        sheet.y -= LINE
    if any(effects.mark(found, arc.link).startswith("!") for arc in arcs):
        sheet.y -= 0.05
        sheet.paragraph(say(LISTED["marks"]), 8, color=PALE)
    sheet.y -= 0.1
