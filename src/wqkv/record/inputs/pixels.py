"""The pixels that a grid of cells covers, of what a watched model was given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from wqkv.record.inputs.moment import Convolved, Moment
from wqkv.record.inputs.places import Pair


def pictures_on(moment: Moment, count: int, grid: Pair) -> Sequence[Tensor | None]:
    """The pictures that a model was given, each exactly as large as its grid of cells; or None.

    Where a model adds to a picture what is missing to whole cells, 0 is added here; pixels on the
    right and below that no cell covers are left out.

    Args:
        count: how many pictures there are.
        grid: rows and columns of the cells, of the first stage or of one that has merged them.
    """
    unknown = [None] * count
    pixels = _pixels(moment, count)
    first = None if pixels is None else _first(moment.convolved, pixels)
    if pixels is None or first is None:
        return unknown
    cell = _cell(first, grid)
    if cell is None:
        return unknown
    height, width = (n * size for n, size in zip(grid, cell, strict=True))
    more = (0, width - pixels.shape[-1], 0, height - pixels.shape[-2])
    return list(F.pad(pixels, more) if any(more) else pixels)


def _pixels(moment: Moment, count: int) -> Tensor | None:
    """The pictures (count, channels, height, width) of the outermost module that was given them."""
    for one in moment.modules:
        for x in one.tensors(floating=True).values():
            if x.ndim >= 4 and x.shape[-3] in (1, 3) and math.prod(x.shape[:-3]) == count:
                return x.reshape(count, *x.shape[-3:])
    return None


def _first(convolved: Sequence[Convolved], pixels: Tensor) -> Convolved | None:
    """The convolution that has seen the pixels themselves, with at most some padding more."""
    for one in convolved:
        if len(one.given) == 4 and one.given[1] == pixels.shape[1]:
            near = zip(one.given[2:], pixels.shape[-2:], _stride(one), strict=True)
            return one if all(size - real >= 0 for size, real, by in near) else None
    return None


def _stride(one: Convolved) -> Pair:
    rows, columns = one.module.stride  # type: ignore[misc]
    return rows, columns


def _cell(first: Convolved, grid: Pair) -> Pair | None:
    """Height and width of a cell, if the first grid was halved some times, rounded up or down."""
    rows, columns = first.made[-2:]
    stride, merged = _stride(first), 1
    while merged <= max(rows, columns):
        both = zip((rows, columns), grid, strict=True)
        if all(n in (size // merged, -(-size // merged)) for size, n in both):
            return stride[0] * merged, stride[1] * merged
        merged *= 2
    return None
