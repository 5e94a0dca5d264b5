"""Numbers drawn on what was looked at: the pixels of a picture, the time of a sound, tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, message, need
from wqkv.maps.axis import OfMap, of_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@door
def overlay(numbers: Tensor, axis: OfMap, *, smooth: bool = False, title: str = "") -> Figure:
    """Numbers drawn on what they belong to, as a matplotlib figure.

    Args:
        numbers: one per position of `axis`: weights, or any statistic of keys or queries, such as
            `map.received()[0, head]`. Where `axis` is a list of samples, as the windows of one
            picture are, (samples, length).
        axis: an Axis, a tuple of those that stand one behind the other, or a list with one of
            these per sample: `map.keys` or `map.queries`.
        smooth: interpolate between the centers of the cells, and not one color for each cell.

    Raises:
        ArgumentError: another count of numbers than positions.
        MissingExtraError: matplotlib is not installed.
    """
    need("matplotlib", "show", "An overlay")
    from matplotlib.figure import Figure

    rows = numbers[None] if numbers.ndim == 1 else numbers
    if rows.ndim != 2:
        raise ArgumentError(
            message("`numbers` has too many axes.", {"numbers": numbers}, "Pass (length,).")
        )
    samples = of_samples("numbers", axis, len(rows), rows.shape[1])
    made = Figure(figsize=(6, 6), layout="constrained")
    panels = made.subplots(1, 1)
    for row, parts in zip(rows.float().cpu(), samples, strict=True):
        first = 0
        for part in parts:
            own, first = row[first : first + len(part)], first + len(part)
            picture = part.picture()
            if part.grid is None:
                continue
            if picture is not None:
                panels.imshow(picture.movedim(0, -1).numpy())
                panels.imshow(part.pixels(own, smooth).numpy(), alpha=0.6)
            else:
                panels.imshow(torch.nan_to_num(part.cells(own)).numpy())
    made.suptitle(title)
    return made
