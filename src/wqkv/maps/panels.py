"""The parts of an overlay: draw numbers on a picture, and on tokens that stand in lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.maps.display import MARK, color, number, points, weight
from wqkv.maps.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The colors of lines on a plain ground and of notes.
LINES, PALE = "#ffffff", "#666666"
#: How dark a gray picture is at its darkest, and a plain ground: so the ink on it can be seen.
DARKEST, PLAIN = 0.6, 0.92
#: How much of a picture the ink of a full number covers, and how much is left of a picture where
#: there is no key.
COVERS, FADED = 0.9, 0.25
#: The sizes of a token, of the number below it, and the height of a line of tokens, in points.
TOKEN, NUMBER, LINE = 8.0, 6.0, 25.0


class OnPicture(NamedTuple):
    """The numbers of the cells of one picture, or of one frame of a video."""

    title: str
    cells: Tensor  # (rows, columns); NaN where no position stands
    picture: Tensor | None  # (3, height, width) from 0 to 1; None: a plain ground
    framed: tuple[int, int] | None = None  # the cell of the query


class OnToken(NamedTuple):
    """The number of one token, or, where it is None, a note on what stands in its place."""

    text: str
    number: float | None


def draw_picture(panel: Axes, one: OnPicture, scale: Scale, smooth: bool) -> None:
    """Draw a picture in gray with the numbers of its cells in ink, and the query's cell framed."""
    from matplotlib.patches import Rectangle

    rows, columns = one.cells.shape
    ground = one.picture
    if ground is None:  # some pixels for each cell, to draw its edges in
        ground = torch.full((3, 16 * rows, 16 * columns), PLAIN, device="cpu")
    else:
        ground = gray(ground)
    height, width = ground.shape[-2:]
    cells = one.cells[None, None]
    covered = F.interpolate(cells, (height, width), mode="nearest-exact")[0, 0]
    drawn = covered
    if smooth:
        drawn = F.interpolate(cells.nan_to_num(0), (height, width), mode="bilinear")[0, 0]
    ink, share = scale.ink(drawn)
    share = (share * COVERS).masked_fill(covered.isnan(), 0)[..., None]
    paper = torch.where(covered.isnan(), 1 - FADED * (1 - ground), ground).movedim(0, -1)
    panel.imshow((paper + (ink - paper) * share).numpy(), interpolation="nearest", aspect="equal")
    high, wide = height / rows, width / columns
    if one.picture is None:
        panel.hlines([i * high - 0.5 for i in range(1, rows)], -0.5, width - 0.5, LINES, lw=0.6)
        panel.vlines([j * wide - 0.5 for j in range(1, columns)], -0.5, height - 0.5, LINES, lw=0.6)
    if one.framed is not None:
        row, column = one.framed
        corner = (column * wide - 0.5, row * high - 0.5)
        frame = Rectangle(corner, wide, high, fill=False, edgecolor=MARK, lw=1.8, clip_on=False)
        panel.add_patch(frame)
    panel.set_axis_off()


def gray(picture: Tensor) -> Tensor:
    """A picture in gray, from DARKEST to white, whatever its own darkest and brightest are."""
    light = torch.tensor([0.299, 0.587, 0.114], device="cpu").view(3, 1, 1)  # ITU-R BT.601
    found = (picture * light).sum(0, keepdim=True)
    low, high = found.aminmax()
    found = (found - low) / (high - low) if high > low else torch.full_like(found, PLAIN)
    return (DARKEST + (1 - DARKEST) * found).expand(3, -1, -1)


def token_lines(tokens: Sequence[OnToken], wide: float) -> list[list[tuple[float, float, OnToken]]]:
    """Tokens in lines of `wide` points: where each begins, how wide it is, and what it is."""
    lines: list[list[tuple[float, float, OnToken]]] = [[]]
    at = 0.0
    for token in tokens:
        needs = max(points(token.text, TOKEN), points(written(token), NUMBER)) + 5
        if at + needs > wide and lines[-1]:
            lines.append([])
            at = 0.0
        lines[-1].append((at, needs, token))
        at += needs + 2
    return lines


def draw_tokens(
    panel: Axes,
    lines: Sequence[Sequence[tuple[float, float, OnToken]]],
    wide: float,
    scale: Scale,
    missing: dict[int, str],
    font: dict[str, Any],  # keyword arguments of matplotlib's own texts
) -> None:
    """Draw lines of tokens, each shaded by its number, which stands below it."""
    from matplotlib.patches import Rectangle

    for i, line in enumerate(lines):
        for at, needs, token in line:
            middle, top = at + needs / 2, i * LINE
            text = token.text.translate(missing)
            if token.number is None:
                panel.text(middle, top + 9, text, ha="center", va="center", fontsize=TOKEN,
                           color=PALE, style="italic", **font)  # fmt: skip
                continue
            level = float(scale.levels(torch.tensor(token.number, device="cpu")).nan_to_num(0))
            shade = color(level, scale.stops)
            panel.add_patch(Rectangle((at, top + 2), needs, 14, facecolor=_hex(shade), lw=0))
            dark = sum(shade) < 3 * 140
            panel.text(middle, top + 9, text, ha="center", va="center", fontsize=TOKEN,
                       color="white" if dark else "black", **font)  # fmt: skip
            panel.text(middle, top + 20, written(token), ha="center", va="center",
                       fontsize=NUMBER, color=PALE)  # fmt: skip
    panel.set_xlim(0, wide)
    panel.set_ylim(max(1, len(lines)) * LINE, 0)
    panel.set_axis_off()


def written(token: OnToken) -> str:
    """The number of a token."""
    if token.number is None:
        return ""
    return weight(token.number) if 0 <= token.number <= 1 else number(token.number)


def _hex(shade: tuple[int, int, int]) -> str:
    return f"#{bytes(shade).hex()}"
