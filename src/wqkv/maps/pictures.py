"""Maps as pictures with tokens on their axes: HTML for a notebook, and matplotlib figures.

A picture has at most SIDE rows and columns. Of a longer map it shows blocks: the weight that a
block's queries, in the mean, give to a block's keys together. So a row of a picture has the sum
that a row of the map has, and one fixed scale fits maps of any length.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from functools import cache
from html import escape
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from wqkv.errors import need
from wqkv.fonts import fonts
from wqkv.maps.axis import Axis, Parts
from wqkv.maps.display import MARK, number, points, short, visible, weight
from wqkv.maps.scales import WEIGHTS, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure, SubFigure

#: The most that one HTML text holds: how many pictures, how many blocks per side of each, and how
#: many weights are read for all pictures.
PICTURES, SIDE, LOOKED = 8, 64, 2**24
#: Up to so many cells of all pictures together, each tells its query, key and number; of more,
#: each row tells its query and its STRONGEST keys. So one HTML text stays below 1.25 MiB.
CELLS, STRONGEST = 4096, 3
#: The size of a picture, its letters and the least distance of its ticks, in pixels.
PIXELS, LETTER, TICK = 288, 10, 11
#: The color of letters, which are seen on a light and on a dark ground.
GRAY = "#777777"
#: How many ticks a side of a matplotlib picture has at most, and letters a tick.
TICKS, LETTERS = 32, 12


class Side(NamedTuple):
    """What stands along one side of a picture: blocks of the positions of some axes."""

    parts: Parts
    blocks: int

    @property
    def length(self) -> int:
        """How many positions."""
        return sum(map(len, self.parts))

    @property
    def sizes(self) -> Tensor:
        """How many positions each block has."""
        return torch.bincount(self.block(torch.arange(self.length, device="cpu")))

    def block(self, position: Any) -> Any:  # an int, or a tensor of them
        """The block in which a position is."""
        return position * self.blocks // self.length

    def names(self) -> list[str]:
        """The name of each block: its position's, or those of its first and its last."""
        labels = [_named(axis.label(i)) for axis in self.parts for i in range(len(axis))]
        ends = self.sizes.cumsum(0).tolist()
        return [
            labels[first] if end - first == 1 else f"{labels[first]} … {labels[end - 1]}"
            for first, end in zip([0, *ends], ends, strict=False)
        ]

    def ticks(self, most: int) -> list[tuple[int, str]]:
        """At most about `most` of the blocks, each with the name of its first position.

        Of a grid, they stand at the begin of its rows.
        """
        apart = math.ceil(self.blocks / max(1, most))  # how many blocks
        step = math.ceil(apart * self.length / max(1, self.blocks))
        found: list[tuple[int, str]] = []
        first = 0
        for axis in self.parts:
            own = step
            if step > 1 and axis.grid is not None and axis.places is None:
                columns = axis.grid[-1]
                own = columns * math.ceil(step / columns)
            for at in range(0, len(axis), own):
                block = self.block(first + at)
                if not found or block - found[-1][0] >= apart:
                    found.append((block, _cut(axis.label(at))))
            first += len(axis)
        return found

    def cuts(self) -> list[float]:
        """Where one part ends and the next begins, counted in blocks."""
        ends = torch.tensor([0, *map(len, self.parts)], device="cpu").cumsum(0)[1:-1]
        return (ends * self.blocks / self.length).tolist()

    def says(self) -> str:
        """The kinds of the parts, such as " ([CLS] | picture 14 x 14)"; "" if all are tokens."""
        kinds = [_kind(axis) for axis in self.parts]
        return "" if kinds in ([], ["tokens"]) else f" ({' | '.join(kinds)})"


class Picture(NamedTuple):
    """The numbers of some queries and keys, or of blocks of them, and what these are."""

    name: str
    numbers: Tensor  # (rows, columns)
    queries: Side
    keys: Side

    @property
    def in_blocks(self) -> bool:
        """Whether it shows blocks."""
        return any(side.blocks < side.length for side in (self.queries, self.keys))


def picture(name: str, numbers: Tensor, queries: Parts, keys: Parts) -> Picture:
    """The picture of all numbers (query_len, key_len) of a head."""
    rows, columns = (
        Side(parts, min(n, SIDE)) for parts, n in zip((queries, keys), numbers.shape, strict=True)
    )
    found = Picture(name, numbers.detach().float().cpu(), rows, columns)
    if not found.in_blocks:
        return found
    sums = found.numbers.nan_to_num(0)  # what is not a number adds nothing to its block
    for axis, side in ((0, rows), (1, columns)):
        shape = list(sums.shape)
        shape[axis] = side.blocks
        of = side.block(torch.arange(side.length, device="cpu"))
        sums = sums.new_zeros(shape).index_add_(axis, of, sums)
    return found._replace(numbers=sums / rows.sizes[:, None])


def of_means(name: str, means: Tensor, queries: Parts, keys: Parts) -> Picture:
    """The picture of a map's means of blocks, as `thumbnail` gives them."""
    rows, columns = (Side(parts, n) for parts, n in zip((queries, keys), means.shape, strict=True))
    return Picture(name, means.detach().float().cpu() * columns.sizes, rows, columns)


# HTML


def html(title: str, pictures: Sequence[Picture], note: str = "", scale: Scale = WEIGHTS) -> str:
    """HTML of a title and at most PICTURES pictures. It runs no script and loads nothing."""
    shown, more = pictures[:PICTURES], len(pictures) - PICTURES
    each = sum(one.numbers.numel() for one in shown) <= CELLS
    notes = [note, f"and {more} more" if more > 0 else ""]
    if shown:
        notes += [*_said(shown[0], scale), "hover: query, key, number" if each else "hover: a row"]
    said = "; ".join(filter(None, notes))
    drawn = "".join(_figure_html(one, scale, each) for one in shown)
    return (
        f"<div><pre>{escape(title)}</pre>{drawn}{_legend_html(scale) if shown else ''}"
        f"<div><small>{escape(said)}</small></div></div>"
    )


def _figure_html(one: Picture, scale: Scale, each: bool) -> str:
    """One picture, with an area for each cell or row, whose title a browser shows on hover.

    It is an image, and the areas have no text of their own: a notebook that is not trusted drops
    SVG that stands in the page and leaves the text that was in it.
    """
    rows, columns = one.numbers.shape
    high, wide = (max(4.0, min(20.0, PIXELS / max(1, n))) for n in (rows, columns))
    lefts, belows = (
        side.ticks(int(n * size / TICK))
        for side, n, size in ((one.queries, rows, high), (one.keys, columns, wide))
    )
    left, below = (
        math.ceil(4 + max((points(text, LETTER) for _, text in ticks), default=0))
        for ticks in (lefts, belows)
    )
    width, height = columns * wide, rows * high
    across, down = (
        "".join(f"M{cut * wide:g} 0v{height:g}" for cut in one.keys.cuts()),
        "".join(f"M0 {cut * high:g}h{width:g}" for cut in one.queries.cuts()),
    )
    texts = "".join(
        f'<text x="-3" y="{(at + 0.5) * high + 3.5:.4g}">{escape(text)}</text>'
        for at, text in lefts
    ) + "".join(
        f'<text transform="translate({(at + 0.5) * wide + 3.5:.4g},{height + 3:g}) rotate(-90)">'
        f"{escape(text)}</text>"
        for at, text in belows
    )
    drawn = (
        f'<image width="{width:g}" height="{height:g}" preserveAspectRatio="none"'
        f' style="image-rendering:pixelated" href="{scale.image(one.numbers)}"/>'
        f'<path d="{across}{down}" stroke="{MARK}" stroke-width=".7"/>'
        f'<g text-anchor="end">{texts}</g>'
    )
    areas = _areas(one, each, left, wide, high)
    # Names of maps belong to the whole page. Two pictures may have one name only if their areas are
    # the same, so the name is made of the areas.
    name = f"wqkv{zlib.crc32(areas.encode()):08x}"
    return (
        '<figure style="display:inline-block;margin:4px;vertical-align:top">'
        f"<figcaption>{escape(one.name)}, up to {_largest(one.numbers):.3g}</figcaption>"
        f"{_image(one.name, drawn, (-left, -1, width + left + 2, height + below + 2), name)}"
        f'<map name="{name}">{areas}</map></figure>'
    )


def _image(name: str, drawn: str, box: tuple[float, float, float, float], areas: str = "") -> str:
    """A drawing in SVG as an image.

    Args:
        box: left, top, width and height of what is seen of it, in pixels.
        areas: the name of the map of its areas.
    """
    *_, width, height = box
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
        f' viewBox="{" ".join(f"{x:g}" for x in box)}" fill="{GRAY}" font-family="sans-serif"'
        f' font-size="{LETTER}">{drawn}</svg>'
    )
    coded = base64.b64encode(svg.encode()).decode()
    using = f' usemap="#{areas}"' if areas else ""
    return (
        f'<img alt="{escape(name)}" width="{width:g}" height="{height:g}"{using}'
        f' src="data:image/svg+xml;base64,{coded}">'
    )


def _areas(one: Picture, each: bool, left: int, wide: float, high: float) -> str:
    """The cells, or the rows, as areas of an image, which say what is there."""
    queries, keys = one.queries.names(), one.keys.names()
    say = number if bool((one.numbers < 0).any()) else weight

    def area(i: int, j: int, until: int, said: str) -> str:
        edges = (left + j * wide, 1 + i * high, left + until * wide, 1 + (i + 1) * high)
        at = ",".join(f"{edge:.0f}" for edge in edges)
        return f'<area shape=rect coords={at} title="{escape(said)}">'

    if each:
        return "".join(
            area(i, j, j + 1, f"{query} → {key}: {say(cell)}")
            for i, (query, row) in enumerate(zip(queries, one.numbers.tolist(), strict=True))
            for j, (key, cell) in enumerate(zip(keys, row, strict=True))
        )
    found = one.numbers.nan_to_num(0).abs().topk(min(STRONGEST, len(keys)), dim=1).indices
    best = [
        ", ".join(f"{keys[j]}: {say(float(row[j]))}" for j in at)
        for row, at in zip(one.numbers, found.tolist(), strict=True)
    ]
    return "".join(
        area(i, 0, len(keys), f"{query} → {said}")
        for i, (query, said) in enumerate(zip(queries, best, strict=True))
    )


def _legend_html(scale: Scale) -> str:
    """The colors from level 0 to level 1, and the numbers that they stand for."""
    width = 320
    stops = "".join(
        f'<stop offset="{at}" stop-color="#{bytes(color).hex()}"/>'
        for at, color in zip((0, 0.5, 1), scale.stops, strict=True)
    )
    marks = "".join(
        f'<text x="{level * width:.4g}" y="24">{escape(name)}</text>'
        for level, name in scale.marks()
    )
    drawn = (
        f'<linearGradient id="colors">{stops}</linearGradient>'
        f'<rect width="{width}" height="12" fill="url(#colors)"/>'
        f'<g text-anchor="middle">{marks}</g>'
    )
    return f"<div>{_image('legend', drawn, (-40, 0, width + 80, 28))}</div>"


# Figures


def figure(title: str, pictures: Sequence[Picture], scale: Scale = WEIGHTS) -> Figure:
    """The pictures side by side, on one scale.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    need("matplotlib", "show", "A plot")
    columns = min(4, max(1, len(pictures)))
    rows = max(1, math.ceil(len(pictures) / columns))
    made = new_figure(3.2 * columns + 1, 3.2 * rows + 0.9)
    panels = made.subplots(rows, columns, squeeze=False).flatten()
    for one in panels[len(pictures) :]:
        one.set_visible(False)
    said = "; ".join(_said(pictures[0], scale)) if pictures else ""
    told = [title, said, *(one.name for one in pictures)]
    told += [text for one in pictures for side in one[2:] for _, text in side.ticks(TICKS)]
    families, missing = fonts("".join(told))
    # Keyword arguments of matplotlib's own texts. A token may be "$", which is not a formula.
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families}
    for panel, one in zip(panels, pictures, strict=False):
        _draw(panel, one, scale, missing, font)
    if pictures:
        draw_scale(made, list(panels[: len(pictures)]), scale)
        made.supxlabel(folded(said.translate(missing), made, 7), fontsize=7, **font)
    made.suptitle(folded(title.translate(missing), made, 9), fontsize=9, **font)
    return made


def new_figure(wide: float, high: float) -> Figure:
    """An empty figure, in inches, that a notebook shows."""
    return _shown_figure()(figsize=(wide, high), layout="constrained")


@cache
def _shown_figure() -> type[Figure]:
    """The class of a figure that a notebook shows as an image.

    Of matplotlib's own a notebook shows the text alone, as long as nobody has imported pyplot.
    """
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            written = BytesIO()
            self.savefig(written, format="png")
            return written.getvalue()

    return Shown


# `font` is keyword arguments of matplotlib's own texts.
def _draw(
    panel: Axes, one: Picture, scale: Scale, missing: dict[int, str], font: dict[str, Any]
) -> None:
    rows, columns = one.numbers.shape
    panel.imshow(
        scale.levels(one.numbers).numpy(),
        cmap=color_map(scale),
        vmin=0,
        vmax=1,
        interpolation="nearest",
        # one query of many keys would be a thin line
        aspect="auto" if min(rows, columns) * 4 < max(rows, columns) else 1,
    )
    panel.set_title(one.name.translate(missing), fontsize=9, **font)
    # a panel has room for about TICKS letters on each side
    for side, put in ((one.keys, panel.set_xticks), (one.queries, panel.set_yticks)):
        ticks = side.ticks(TICKS)
        size = max(4, min(7, 200 / max(1, len(ticks))))
        put(
            [at for at, _ in ticks],
            [text.translate(missing) for _, text in ticks],
            fontsize=size,
            **(font | ({"rotation": 90} if side is one.keys else {})),
        )
    panel.tick_params(length=2, pad=1)
    for cut in one.keys.cuts():
        panel.axvline(cut - 0.5, color=MARK, linewidth=0.7)
    for cut in one.queries.cuts():
        panel.axhline(cut - 0.5, color=MARK, linewidth=0.7)


def folded(text: str, made: Figure, size: float) -> str:
    """A text of some size (in points) in lines that a figure has room for."""
    # In the mean a letter of DejaVu Sans is 0.6 of its size wide.
    return "\n".join(wrap(text, int(made.get_figwidth() * 72 / (0.6 * size))))


def color_map(scale: Scale) -> Any:
    """The colors of a scale, as matplotlib has them; gray is what is not a number."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = [[part / 255 for part in stop] for stop in scale.stops]
    return LinearSegmentedColormap.from_list("wqkv", stops).with_extremes(bad="#808080")


def draw_scale(made: Figure | SubFigure, panels: Sequence[Axes], scale: Scale) -> Colorbar:
    """Draw the colors of a scale beside some panels, with the numbers that they stand for."""
    from matplotlib.cm import ScalarMappable

    bar = made.colorbar(ScalarMappable(cmap=color_map(scale)), ax=panels, shrink=0.8, aspect=30)
    levels, names = zip(*scale.marks(), strict=True)
    bar.set_ticks(levels, labels=names, fontsize=8)
    return bar


# What is said of a picture


def _said(one: Picture, scale: Scale) -> list[str]:
    """The note below a picture: what its rows, columns and colors mean."""
    said = [f"one row a query{one.queries.says()}, one column a key{one.keys.says()}"]
    if one.in_blocks:
        said.append(
            f"blocks of {one.queries.length} x {one.keys.length} positions: a cell is the sum over "
            "its keys, in the mean over its queries"
        )
    return [*said, scale.says]


def _kind(axis: Axis) -> str:
    """The kind of an axis, as the note below a picture names it."""
    if axis.grid is not None:
        kind = "video" if len(axis.grid) == 3 else "picture"
        return f"{kind} {' x '.join(map(str, axis.grid))}"
    if axis.seconds is not None:
        return "sound"
    if len(axis) == 1:
        return _cut(axis.label(0))
    return "tokens"


def _named(label: str) -> str:
    """A label as it is shown when the pointer is on a cell."""
    return short(visible(label)) if label else ""


def _cut(label: str) -> str:
    """A label as it stands beside a tick."""
    text = _named(label)
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"


def _largest(numbers: Tensor) -> float:
    return float(numbers.nan_to_num(0, 0, 0).abs().max()) if numbers.numel() else 0.0
