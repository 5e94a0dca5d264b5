"""Dense: a mask that is stored as a matrix; Entries: what a mask says at places asked about."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from wqkv.attend.geometry import At, Rect, Sizes
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.values import readable
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe, message


@door
class Dense(Mask):
    """A stored matrix: bool, (query, key) or (batch | 1, head | 1, query | 1, key | 1).

    Its rows are the queries of the call, whatever their positions. A matrix on the CPU that leaves
    most rows empty gives a warning, because several libraries use True for "hidden".

    >>> print(Dense(torch.tensor([[True, False], [True, True]])))
    Dense(bool[1, 1, 2, 2] on cpu)
    1 0
    1 1
    """

    __match_args__ = ("matrix",)

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dtype != torch.bool:
            what = "A mask is bool: True = may attend."
            raise KindError(message(what, {"matrix": matrix}, _advice(matrix)))
        if matrix.ndim not in (2, 4):
            raise ArgumentError(
                message(
                    f"A dense mask has 2 or 4 axes, not {matrix.ndim}.",
                    {"matrix": matrix},
                    "Pass (query, key) or (batch, head, query, key), with 1 where all are alike; "
                    "padding (batch, key) is `mask[:, None, None, :]`, or Lengths.",
                )
            )
        self.matrix = matrix[None, None] if matrix.ndim == 2 else matrix
        if readable(self.matrix) and self.matrix.numel():
            empty = ~self.matrix.any(dim=-1)
            if bool(empty.float().mean() > 0.5):
                _warn_empty(int(empty.sum()), empty.numel())

    def visible(self, at: At) -> Tensor:
        return at.cut(self.matrix.to(at.key_pos.device))

    def heads(self, start: int, stop: int) -> Mask:
        return self if self.matrix.shape[1] == 1 else Dense(self.matrix[:, start:stop])

    def region(self, rect: Rect) -> bool | None:
        return None  # reading the matrix would cost as much as computing the rectangle

    def check(self, sizes: Sizes) -> None:
        pairs = zip(self.matrix.shape, sizes, strict=True)
        if any(size is not None and have not in (1, size) for have, size in pairs):
            shown = ", ".join("any" if size is None else str(size) for size in sizes)
            raise ArgumentError(
                message(
                    f"The mask does not fit the call: batch, heads, queries and keys are {shown}.",
                    {"mask": self.matrix},
                    "Each of its four sizes must be that number or 1.",
                )
            )

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def _extent(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    def _own_lengths(self) -> tuple[int | None, int | None]:
        query_len, key_len = self.matrix.shape[2:]
        return query_len if query_len != 1 else None, key_len if key_len != 1 else None

    def __repr__(self) -> str:
        return f"Dense({describe(self.matrix)})"


class Entries(Mask):
    """What a mask says at the places that the caller asks about: bool, broadcastable to them.

    It serves one computation by the reference, and no others.
    """

    def __init__(self, seen: Tensor) -> None:
        self.seen = seen

    def visible(self, at: At) -> Tensor:
        return self.seen


def _advice(matrix: Tensor) -> str:
    """What to pass in place of a tensor that should be a bool mask."""
    if not matrix.is_floating_point():
        return "Pass a bool tensor, such as `matrix.bool()`."
    if readable(matrix) and bool(((matrix == 0) | (matrix == 1)).all()):
        return "It holds only 0 and 1, which as a bias would hide nothing: pass `matrix.bool()`."
    return "A float that is added to the scores is a bias: pass it as `bias`."


def _warn_empty(empty: int, rows: int) -> None:
    warnings.warn(
        f"This mask leaves {empty} of {rows} queries without any key. "
        'In wqkv True means "may attend"; if yours has True for hidden tokens, pass `~mask`.',
        UserWarning,
        stacklevel=4,
    )
