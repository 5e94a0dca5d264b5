"""Numbers drawn on what was looked at: the pixels of a picture, the time of a sound, tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, message, need
from wqkv.fonts import fonts
from wqkv.maps.axis import Axis, OfMap, Parts, of_samples
from wqkv.maps.display import short, visible
from wqkv.maps.panels import (
    LINE,
    OnPicture,
    OnToken,
    draw_picture,
    draw_tokens,
    token_lines,
)
from wqkv.maps.pictures import color_map, folded, new_figure
from wqkv.maps.scales import INK, Scale, of_keys, scale_of
from wqkv.maps.sound_overlay import draw_sound

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

#: The most pictures (or frames of a video), and the most tokens, that one figure has. Of more it
#: has those with the largest numbers.
PICTURES, TOKENS = 8, 256
#: The width of a figure, the largest height of one picture alone and of several, and the heights
#: of a sound and of the legend, in inches; and how many pictures stand side by side.
WIDE, ALONE, TALL, SOUND, LEGEND, BESIDE = 7.0, 4.5, 2.8, 1.5, 0.4, 4
#: A picture is drawn with at most so many pixels on a side.
PIXELS = 1024


class Asked(NamedTuple):
    """The query whose weights are drawn: the axis on which it stands, and its position there."""

    axis: Axis
    position: int


class Parted(NamedTuple):
    """What a figure consists of."""

    pictures: list[OnPicture]
    sounds: list[tuple[Axis, Tensor]]
    tokens: list[OnToken]


@door
def overlay(numbers: Tensor, axis: OfMap, *, smooth: bool = False, title: str = "") -> Figure:
    """Numbers drawn on what they belong to, as a matplotlib figure.

    A picture is gray, with the numbers in one color on it; each frame of a video is a picture. A
    sound is drawn over its seconds. Tokens are shaded in lines, each with its number. At most 8
    pictures and 256 tokens are drawn, those with the largest numbers.

    Numbers from 0 on whose sum is at most 1 are the weights of one query: their color goes by
    log(1 + n w) / log(1 + n) with n keys, so that even weights are pale and all weight on one key
    is full, in every figure. Other numbers go from 0 to the largest, by the square root, and signed
    ones from orange to blue, up to the largest size. A legend says so.

    Args:
        numbers: one per position of `axis`: weights, or any statistic of keys or queries, such as
            `map.received()[0, head]`. Where `axis` is a list of samples, as the windows of one
            picture are, (samples, length).
        axis: an Axis, a tuple of those that stand one behind the other, or a list with one of
            these per sample: `map.keys` or `map.queries`. Axes of several samples that have the
            same picture and stand on different cells of it are drawn as one picture.
        smooth: interpolate between the centers of the cells, and not one color for each cell.

    Raises:
        ArgumentError: another count of numbers than positions.
        MissingExtraError: matplotlib is not installed.

    >>> from wqkv import Axis
    >>> patches = Axis(6, grid=(2, 3), source=torch.rand(3, 20, 30))
    >>> figure = overlay(torch.rand(7).softmax(-1), (Axis(["[CLS]"]), patches))
    >>> figure.axes[0].images[0].get_array().shape
    (20, 30, 3)
    """
    rows = numbers[None] if numbers.ndim == 1 else numbers
    if rows.ndim != 2:
        raise ArgumentError(
            message("`numbers` has too many axes.", {"numbers": numbers}, "Pass (length,).")
        )
    samples = of_samples("axis", axis, len(rows), rows.shape[1])
    return drawn(rows, samples, scale_on(rows), smooth, title)


def scale_on(rows: Tensor) -> Scale:
    """The scale of numbers (samples, length) in an overlay: see `overlay`."""
    finite = rows.detach().float().nan_to_num(0)
    if len(rows) == 1 and rows.numel() and float(finite.min()) >= 0 and finite.sum() < 1.001:
        return of_keys(rows.shape[1])
    return in_ink(scale_of([rows]))


def in_ink(scale: Scale) -> Scale:
    """A scale in the colors of an overlay."""
    return scale if scale.signed else scale._replace(stops=INK)


def drawn(
    rows: Tensor,
    samples: Sequence[Parts],
    scale: Scale,
    smooth: bool,
    title: str,
    asked: Asked | None = None,
) -> Figure:
    """A figure of the numbers (samples, length) of some axes: see `overlay`."""
    need("matplotlib", "show", "An overlay")
    parted, notes = _parted(rows.detach().float().cpu(), samples, asked)
    pictures, sounds, tokens = parted
    said = _said(parted, scale, smooth, notes)
    families, missing = fonts("".join([title, said, *(token.text for token in tokens)]))
    # Keyword arguments of matplotlib's own texts. A token may be "$", which is not a formula.
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families}

    made = new_figure(WIDE, 1)
    said, title = (folded(text.translate(missing), made, 7) for text in (said, title))
    lines = token_lines(tokens, (WIDE - 0.2) * 72) if tokens else []
    columns = min(BESIDE, len(pictures))
    heights = [
        *([_height(pictures, columns)] if pictures else []),
        *([SOUND] * len(sounds)),
        *([len(lines) * LINE / 72] if lines else []),
        LEGEND,
    ]
    above_and_below = 0.14 * (said.count("\n") + title.count("\n") + 2) + 0.2
    made.set_figheight(sum(heights) + above_and_below)
    parts = iter(made.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if pictures:
        _draw_pictures(next(parts), pictures, columns, scale, smooth)
    for sound, own in sounds:
        draw_sound(next(parts).subplots(), own, sound, scale)
    if lines:
        draw_tokens(next(parts).subplots(), lines, (WIDE - 0.2) * 72, scale, missing, font)
    _draw_legend(next(parts), scale)
    made.suptitle(title, fontsize=9, **font)
    made.supxlabel(said, fontsize=7, **font)
    return made


def _parted(
    rows: Tensor, samples: Sequence[Parts], asked: Asked | None
) -> tuple[Parted, list[str]]:
    """What stands where: the pictures, sounds and tokens, and what was left out of them."""
    found, notes = Parted([], [], []), []
    each = list(_joined(rows, samples))
    several = sum(axis.grid is not None for axis, _ in each) > 1
    count = 0
    for axis, own in each:
        if axis.grid is not None:
            count += 1
            name = _named(axis.grid, count if several else None)
            found.pictures.extend(_pictures(name, axis, own, asked))
            found.tokens.append(OnToken(f"[{name}]", None))
        elif axis.seconds is not None:
            found.sounds.append((axis, own))
            found.tokens.append(OnToken("[sound]", None))
        else:
            found.tokens.extend(
                OnToken(short(visible(axis.label(i))), x)
                for i, x in enumerate(own.tolist())
                if axis.places is None or axis.places[i] >= 0
            )
    pictures, sounds, tokens = found
    # a note tells where between tokens something else stands
    while tokens and tokens[0].number is None:
        del tokens[0]
    while tokens and tokens[-1].number is None:
        del tokens[-1]
    if len(pictures) > PICTURES:
        notes.append(f"{PICTURES} of {len(pictures)} pictures, those with the most")
        best = sorted(range(len(pictures)), key=lambda i: -_total(pictures[i].cells))[:PICTURES]
        pictures = [pictures[i] for i in sorted(best)]
    counted = [i for i, token in enumerate(tokens) if token.number is not None]
    if len(counted) > TOKENS:
        notes.append(f"{TOKENS} of {len(counted)} tokens, those with the most")
        best = sorted(counted, key=lambda i: -abs(tokens[i].number or 0))[:TOKENS]
        tokens = _with_gaps(tokens, set(best))
    return Parted(pictures, sounds, tokens), notes


def _joined(rows: Tensor, samples: Sequence[Parts]) -> Iterator[tuple[Axis, Tensor]]:
    """Each axis with its numbers; axes on different cells of one picture are one."""
    each = [
        (axis, own)
        for row, parts in zip(rows, samples, strict=True)
        for axis, own in zip(parts, row.split([len(axis) for axis in parts]), strict=True)
    ]
    while each:
        axis, own = each.pop(0)
        if axis.places is None or axis.source is None or axis.grid is None:
            yield axis, own
            continue
        cells = axis.cells(own)
        for other in list(each):
            if other[0].source is not axis.source or other[0].grid != axis.grid:
                continue
            more = other[0].cells(other[1])
            if bool((cells.isnan() | more.isnan()).all()):
                cells = torch.where(cells.isnan(), more, cells)
                each = [one for one in each if one is not other]
        yield Axis(axis.count, grid=axis.grid, source=axis.source), cells.flatten()


def _pictures(name: str, axis: Axis, own: Tensor, asked: Asked | None) -> Iterator[OnPicture]:
    """The pictures of an axis: one, or as many as a video has frames."""
    assert axis.grid is not None
    frames = axis.grid[0] if len(axis.grid) == 3 else 1
    cells, picture = axis.cells(own).float(), axis.picture()
    cells = cells.view(frames, *axis.grid[-2:])
    here = _cell(axis, asked)
    for frame in range(frames):
        ground = picture
        if picture is not None and picture.ndim == 4:  # a video, or a picture for each frame
            ground = picture[frame * len(picture) // frames]
        title = name if len(axis.grid) == 2 else f"{name}, frame {frame}"
        framed = here[1:] if here is not None and here[0] == frame else None
        yield OnPicture(title, cells[frame], _smaller(ground), framed)


def _cell(axis: Axis, asked: Asked | None) -> tuple[int, int, int] | None:
    """Return (frame, row, column) of the query; None if it is no cell of this axis's picture."""
    if asked is None or axis.grid is None or asked.axis.grid != axis.grid:
        return None
    if asked.axis is not axis and (axis.source is None or asked.axis.source is not axis.source):
        return None
    places = asked.axis.places
    at = asked.position if places is None else int(places[asked.position])
    rows, columns = axis.grid[-2:]
    frame, within = divmod(at, rows * columns)
    return (frame, *divmod(within, columns)) if at >= 0 else None


def _smaller(picture: Tensor | None) -> Tensor | None:
    """A picture of at most PIXELS pixels on a side."""
    if picture is None or max(picture.shape[-2:]) <= PIXELS:
        return picture
    share = PIXELS / max(picture.shape[-2:])
    height, width = (max(1, round(n * share)) for n in picture.shape[-2:])
    return torch.nn.functional.adaptive_avg_pool2d(picture, (height, width))


def _named(grid: Sequence[int], count: int | None) -> str:
    """A picture or a video by its number, if there are several, and else by its grid."""
    kind = "video" if len(grid) == 3 else "picture"
    return f"{kind}, {' x '.join(map(str, grid))}" if count is None else f"{kind} {count}"


def _total(cells: Tensor) -> float:
    return float(cells.nan_to_num(0).abs().sum())


def _with_gaps(tokens: Sequence[OnToken], chosen: set[int]) -> list[OnToken]:
    """The chosen tokens and all notes, with a mark where others stand between them."""
    found: list[OnToken] = []
    for i, token in enumerate(tokens):
        if i in chosen or token.number is None:
            found.append(token)
        elif not found or found[-1].text != "…":
            found.append(OnToken("…", None))
    return found


def _said(parted: Parted, scale: Scale, smooth: bool, notes: Sequence[str]) -> str:
    """What the colors and lines mean."""
    said = [scale.says, *notes]
    if parted.pictures:
        cells = "smooth: bilinear between the centers of the cells"
        said.append(cells if smooth else "one color for each cell")
        if any(one.framed for one in parted.pictures):
            said.append("framed: the query")
        if any(bool(one.cells.isnan().any()) for one in parted.pictures):
            said.append("faded: without a number")
    return "; ".join(said)


def _height(pictures: Sequence[OnPicture], columns: int) -> float:
    """The height of all rows of pictures, in inches."""
    wide, most = (WIDE - 0.3) / columns, ALONE if len(pictures) == 1 else TALL
    shapes = [(one.cells if one.picture is None else one.picture).shape[-2:] for one in pictures]
    high = min(most, max(wide * height / width for height, width in shapes))
    return math.ceil(len(pictures) / columns) * (max(0.8, high) + 0.3)


def _draw_pictures(
    figure: SubFigure, pictures: Sequence[OnPicture], columns: int, scale: Scale, smooth: bool
) -> None:
    rows = math.ceil(len(pictures) / columns)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[len(pictures) :]:
        panel.set_visible(False)
    for panel, one in zip(panels, pictures, strict=False):
        draw_picture(panel, one, scale, smooth)
        panel.set_title(one.title, fontsize=8)


def _draw_legend(figure: SubFigure, scale: Scale) -> None:
    """Draw the colors of a scale, with the numbers that they stand for."""
    from matplotlib.cm import ScalarMappable

    mappable = ScalarMappable(cmap=color_map(scale))
    bar = figure.colorbar(mappable, cax=figure.subplots(), orientation="horizontal")
    levels, names = zip(*scale.marks(), strict=True)
    bar.set_ticks(levels, labels=names, fontsize=7)
    bar.outline.set_linewidth(0.4)
