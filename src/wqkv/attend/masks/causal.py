"""Masks that follow from the positions alone: Causal, Window, Chunked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wqkv.attend.forms import tagged
from wqkv.attend.geometry import At, Rect
from wqkv.attend.masks.algebra import Mask, Reach
from wqkv.doors import door
from wqkv.errors import ArgumentError


@door
@dataclass(frozen=True)
@tagged
class Causal(Mask):
    """A query at position i sees the keys at positions j <= i.

    >>> print(Causal())
    Causal()
    1 0 0 0 0 0
    1 1 0 0 0 0
    1 1 1 0 0 0
    1 1 1 1 0 0
    1 1 1 1 1 0
    1 1 1 1 1 1
    """

    by_position = True
    by_shift = True

    def visible(self, at: At) -> Tensor:
        return at.key_pos <= at.query_pos

    def region(self, rect: Rect) -> bool | None:
        return self.reach().region(rect)

    def reach(self) -> Reach:
        return Reach(None, 0)


@door
@dataclass(frozen=True)
@tagged
class Window(Mask):
    """A query at i sees the keys i - before <= j <= i + after; None means no limit.

    Both count *other* positions: `Window(511, 0)` is what others call a causal window of 512.

    >>> print(Window(1, 1))
    Window(before=1, after=1)
    1 1 0 0 0 0
    1 1 1 0 0 0
    0 1 1 1 0 0
    0 0 1 1 1 0
    0 0 0 1 1 1
    0 0 0 0 1 1
    """

    before: int | None
    after: int | None
    by_position = True
    by_shift = True

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            count = getattr(self, name)
            if count is not None and count < 0:
                raise ArgumentError(
                    f"Window's `{name}` is {count}, but it counts the other positions seen.\n"
                    "Pass 0 for none of them, or None for no limit."
                )

    def visible(self, at: At) -> Tensor:
        ahead = at.key_pos - at.query_pos
        visible = torch.ones_like(ahead, dtype=torch.bool)
        if self.before is not None:
            visible = visible & (ahead >= -self.before)
        if self.after is not None:
            visible = visible & (ahead <= self.after)
        return visible

    def region(self, rect: Rect) -> bool | None:
        return self.reach().region(rect)

    def reach(self) -> Reach:
        return Reach(None if self.before is None else -self.before, self.after)


@door
@dataclass(frozen=True)
@tagged
class Chunked(Mask):
    """Chunks of `size` tokens: a query at i sees the keys j with j // size == i // size.

    >>> print(Chunked(3) & Causal())
    (Chunked(size=3) & Causal())
    1 0 0 0 0 0
    1 1 0 0 0 0
    1 1 1 0 0 0
    0 0 0 1 0 0
    0 0 0 1 1 0
    0 0 0 1 1 1
    """

    size: int
    by_position = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ArgumentError(f"Chunked's `size` is {self.size}.\nPass 1 token or more.")

    def visible(self, at: At) -> Tensor:
        return at.key_pos // self.size == at.query_pos // self.size

    def region(self, rect: Rect) -> bool | None:
        # the chunks of the first and last query, and of the first and last key
        first_q, last_q = rect.q0 // self.size, (rect.q1 - 1) // self.size
        first_k, last_k = rect.k0 // self.size, (rect.k1 - 1) // self.size
        if last_q < first_k or last_k < first_q:
            return False
        return True if first_q == last_q == first_k == last_k else None
