"""Rolling: the last positions, and the first as sinks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from wqkv.attend.masks import Causal, Full, Mask, Window
from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.layer.caches.base import (
    KeyPiece,
    check_alike,
    check_count,
    check_rewind,
    refuse_gradients,
)
from wqkv.layer.caches.buffered import Buffered


@door
class Rolling(Buffered):
    """Keeps what `Window(window - 1, 0) | the first tokens` shows: memory does not grow.

    A query at position i sees the keys j with i - window < j <= i, or j < first. The pieces carry
    this as their mask, so that a layer with Causal() becomes that window; a layer whose own mask is
    narrower sees what its mask shows, and one that is wider no more than this. Positions stay
    absolute. With `first` = 4 these are attention sinks.

    The memory has room for first + 2 * window positions. An append of up to `window` positions can
    be taken back; rewinding to where a query would need a position that is gone is an error.
    Gradients: none; an append that would need one is an error.

    Args:
        window: how many positions a query sees, itself counted.
        first: how many of the very first positions all later ones see too.

    Source: Xiao et al. 2023 (arXiv:2309.17453), section 3.2, without its moving of positions.

    >>> cache = Rolling(3, first=1)
    >>> k = v = torch.randn(2, 3, 9, 7)
    >>> [(piece.start, piece.k.shape[2], piece.mask) for piece in cache.append(k, v)]
    [(0, 1, Causal()), (1, 8, Window(before=2, after=0))]
    >>> [(piece.start, piece.k.shape[2]) for piece in cache.append(k[:, :, :1], v[:, :, :1])]
    [(0, 1), (7, 3)]
    """

    _arguments = ("window", "first")
    _counts = ("_length", "_dropped")

    def __init__(self, window: int, first: int = 0) -> None:
        super().__init__()
        self.window = check_count("window", window)
        self.first = check_count("first", first, least=0)
        self._dropped = 0  # how many positions after the first are gone

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check(k, v)
        refuse_gradients("Rolling", k, v)
        new, n = {"k": k, "v": v}, k.shape[2]
        if self._used + n > self._room(0, 0):
            self._drop_seen()
        if self._used + n <= self._room(0, 0):
            self._write(new)
            return self._seen(n)
        rows = self._rows()
        self._tensors = {
            name: torch.cat((rows[name], x) if rows else (x,), dim=2) for name, x in new.items()
        }
        self._length += n
        pieces = self._seen(n)
        self._drop_seen()
        return pieces

    def held(self) -> tuple[KeyPiece, ...]:
        low = min(self.first, self._used)
        return (*self._piece(0, low, Full()), *self._piece(low, self._used, Full()))

    def rewind(self, length: int | Tensor) -> None:
        length = check_rewind(length, self._length)
        oldest = self.first + self._dropped
        needed = max(self.first, length - self.window + 1)
        if needed < min(oldest, length):
            raise ArgumentError(
                f"Rolling cannot go back to length {length}: a query there sees position {needed}, "
                f"and positions {self.first} to {oldest - 1} are gone.\n"
                f"Pass {oldest + self.window - 1} or more, or {self.first} or less."
            )
        self._dropped = max(0, min(self._dropped, length - self.first))
        self._length = length

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        check_alike(cls, caches)
        gone = max(cache._dropped for cache in caches)
        alike = [copy.copy(cache) for cache in caches]
        for cache in alike:
            cache._drop(gone - cache._dropped)
        return super().merge(alike)

    @property
    def _used(self) -> int:
        return self._length - self._dropped

    def _room(self, needed: int, had: int) -> int:
        return self.first + 2 * self.window

    def _piece(self, r0: int, r1: int, mask: Mask) -> tuple[KeyPiece, ...]:
        """Some rows, if there are any; either all or none of them are among the first."""
        if r0 >= r1:
            return ()
        start = r0 + (self._dropped if r0 >= self.first else 0)
        k, v = (self._tensors[name][:, :, r0:r1] for name in ("k", "v"))
        return (KeyPiece(k, v, start, mask),)

    def _seen(self, n: int) -> tuple[KeyPiece, ...]:
        """What the last n positions see."""
        used, low = self._used, min(self.first, self._used)
        early = self._length - n < low  # some of the queries are themselves among the first
        r0 = max(low, used - n - self.window + 1)
        return (
            *self._piece(0, low, Causal() if early else Full()),
            *self._piece(r0, used, Full() if n == 1 else Window(self.window - 1, 0)),
        )

    def _drop_seen(self) -> None:
        """Drop what no later query sees."""
        self._drop(max(0, self._used - self.first - self.window + 1))

    def _drop(self, n: int) -> None:
        """Drop the n oldest positions after the first."""
        if n == 0:
            return
        rows, end = self._rows(), self.first + n
        self._dropped += n
        self._tensors = {
            name: self._laid(
                torch.cat((x[:, :, : self.first], x[:, :, end:]), dim=2), self._room(0, 0)
            )
            for name, x in rows.items()
        }
