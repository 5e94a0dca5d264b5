"""On which cell of a picture each position stands, where a model does not see it row by row.

The cells of a grid (rows, columns) have the numbers 0, 1, 2, ... row by row. Each function moves
the numbers as a model moves its hidden states, so that in the end each position has the number of
its cell; -1 is padding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows and columns.
Pair = tuple[int, int]


def cells(grid: Pair) -> Tensor:
    """The numbers of the cells, (rows, columns)."""
    return torch.arange(grid[0] * grid[1], device="cpu").view(grid)


def padded(numbers: Tensor, size: Pair) -> Tensor:
    """Add rows and columns of padding behind the last ones, up to multiples of a size.

    >>> padded(cells((1, 3)), (2, 2))
    tensor([[ 0,  1,  2, -1],
            [-1, -1, -1, -1]])
    """
    rows, columns = (-n % s for n, s in zip(numbers.shape, size, strict=True))
    return F.pad(numbers, (0, columns, 0, rows), value=-1)


def rolled(numbers: Tensor, shift: Pair) -> Tensor:
    """Move all cells up and to the left; those that leave come back on the other side.

    >>> rolled(cells((2, 3)), (0, 1))
    tensor([[1, 2, 0],
            [4, 5, 3]])
    """
    return numbers.roll((-shift[0], -shift[1]), (0, 1))


def windows(numbers: Tensor, size: Pair) -> Tensor:
    """Cut into windows of a size, row by row: (windows, rows * columns of one).

    Source: Liu et al. 2021, "Swin Transformer", section 3.2.

    >>> windows(cells((2, 4)), (2, 2))
    tensor([[0, 1, 4, 5],
            [2, 3, 6, 7]])
    """
    rows, columns = (n // s for n, s in zip(numbers.shape, size, strict=True))
    cut = numbers.view(rows, size[0], columns, size[1])
    return cut.permute(0, 2, 1, 3).reshape(rows * columns, -1)


def sparse(numbers: Tensor, size: Pair) -> Tensor:
    """Take for each window a size of cells that stand evenly over the whole picture.

    Source: Tu et al. 2022, "MaxViT", section 3.1, grid attention.

    >>> sparse(cells((2, 4)), (2, 2))
    tensor([[0, 2, 4, 6],
            [1, 3, 5, 7]])
    """
    rows, columns = (n // s for n, s in zip(numbers.shape, size, strict=True))
    cut = numbers.view(size[0], rows, size[1], columns)
    return cut.permute(1, 3, 0, 2).reshape(rows * columns, -1)


def unrolled(numbers: Tensor, strides: Iterable[Pair]) -> Tensor:
    """Put cells of one place within their block of `stride` side by side, once for each stride.

    So a maximum over each block is one over equal parts of the sequence, (length,).

    Source: Ryali et al. 2023, "Hiera"; `unroll` in its code.

    >>> unrolled(cells((2, 4)), [(2, 2)])
    tensor([0, 2, 1, 3, 4, 6, 5, 7])
    """
    parts = numbers[None]
    for stride in strides:
        rows, columns = (n // s for n, s in zip(parts.shape[1:], stride, strict=True))
        cut = parts.view(-1, rows, stride[0], columns, stride[1])
        parts = cut.permute(0, 2, 4, 1, 3).reshape(-1, rows, columns)
    return parts.flatten()


def merged(grid: Pair, size: int, window: int = 0) -> Tensor:
    """Put the cells of each block of size x size side by side, which are merged later: (length,).

    Args:
        window: how many blocks wide the windows are whose blocks stand side by side; 0 for none.

    Source: Wang et al. 2024, "Qwen2-VL"; Bai et al. 2025, "Qwen2.5-VL", its windows.

    >>> merged((2, 4), 2)
    tensor([0, 1, 4, 5, 2, 3, 6, 7])
    >>> merged((2, 6), 2, window=2)
    tensor([ 0,  1,  6,  7,  2,  3,  8,  9,  4,  5, 10, 11])
    """
    blocks = windows(cells(grid), (size, size))
    if window:
        order = cells((grid[0] // size, grid[1] // size))
        order = windows(padded(order, (window, window)), (window, window)).flatten()
        blocks = blocks[order[order >= 0]]
    return blocks.flatten()
