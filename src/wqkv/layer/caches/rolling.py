"""Rolling: keep the last positions, and the first as sinks; evict the rest."""

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
    check_count,
    check_rewind,
    check_same_kind,
    refuse_gradients,
)
from wqkv.layer.caches.buffered import Buffered


@door
class Rolling(Buffered):
    """Keep the last `window` positions and the first `first`: memory does not grow.

    A query at position i sees the keys j with i - window < j <= i, or j < first; the first ones
    serve as attention sinks, for which the paper takes 4. The pieces carry this as their mask. So a
    layer with Causal() becomes that window, a narrower mask of the layer shows what it shows, and a
    wider one no more than the window. Positions stay absolute.

    The memory has room for first + 2 * window positions. When it is full, the positions that no
    later query sees are evicted. An append of up to `window` positions can be taken back by
    `rewind`; to rewind to where a query would need an evicted position is an error.
    Gradients: none; an append that would need one is an error.

    Args:
        window: how many positions a query sees, itself counted.
        first: how many of the very first positions every later query sees too.

    Source: Xiao et al. 2023 (arXiv:2309.17453), section 3.2, without its moving of positions.

    >>> cache = Rolling(3, first=1)
    >>> k = v = torch.randn(2, 3, 9, 7)
    >>> [(piece.start, piece.k.shape[2], piece.mask) for piece in cache.append(k, v)]
    [(0, 1, Causal()), (1, 8, Window(before=2, after=0))]
    >>> [(piece.start, piece.k.shape[2]) for piece in cache.append(k[:, :, :1], v[:, :, :1])]
    [(0, 1), (7, 3)]
    """

    _arguments = ("window", "first")
    _counts = ("_length", "_evicted")

    def __init__(self, window: int, first: int = 0) -> None:
        super().__init__()
        self.window = check_count("window", window)
        self.first = check_count("first", first, least=0)
        self._evicted = 0  # how many positions after the first ones are gone

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check_new(k, v)
        refuse_gradients("Rolling", k, v)
        new, n = {"k": k, "v": v}, k.shape[2]
        if self._used + n > self._room(0, 0):
            self._evict()
        if self._used + n <= self._room(0, 0):
            self._append_rows(new)
            return self._visible_pieces(n)
        # More came than the memory holds: attend to all of it once, then evict.
        rows = self._rows()
        self._tensors = {
            name: torch.cat((rows[name], x) if rows else (x,), dim=2) for name, x in new.items()
        }
        self._length += n
        pieces = self._visible_pieces(n)
        self._evict()
        return pieces

    def held(self) -> tuple[KeyPiece, ...]:
        low = min(self.first, self._used)
        return (*self._piece(0, low, Full()), *self._piece(low, self._used, Full()))

    def rewind(self, length: int | Tensor) -> None:
        length = check_rewind(length, self._length)
        oldest = self.first + self._evicted
        needed = max(self.first, length - self.window + 1)
        if needed < min(oldest, length):
            raise ArgumentError(
                f"Rolling cannot go back to length {length}: a query there sees position {needed}, "
                f"and positions {self.first} to {oldest - 1} are gone.\n"
                f"Pass {oldest + self.window - 1} or more, or {self.first} or less."
            )
        self._evicted = max(0, min(self._evicted, length - self.first))
        self._length = length

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        check_same_kind(cls, caches)
        gone = max(cache._evicted for cache in caches)
        alike = [copy.copy(cache) for cache in caches]
        for cache in alike:
            cache._evict_oldest(gone - cache._evicted)
        return super().merge(alike)

    @property
    def _used(self) -> int:
        return self._length - self._evicted

    def _room(self, needed: int, had: int) -> int:
        return self.first + 2 * self.window

    def _piece(self, r0: int, r1: int, mask: Mask) -> tuple[KeyPiece, ...]:
        """Rows r0 to r1 as a piece, if there are any; all or none are among the first positions."""
        if r0 >= r1:
            return ()
        start = r0 + (self._evicted if r0 >= self.first else 0)
        k, v = (self._tensors[name][:, :, r0:r1] for name in ("k", "v"))
        return (KeyPiece(k, v, start, mask),)

    def _visible_pieces(self, n: int) -> tuple[KeyPiece, ...]:
        """What the queries at the last n positions see."""
        used, low = self._used, min(self.first, self._used)
        early = self._length - n < low  # some of the queries are themselves among the first
        r0 = max(low, used - n - self.window + 1)
        return (
            *self._piece(0, low, Causal() if early else Full()),
            *self._piece(r0, used, Full() if n == 1 else Window(self.window - 1, 0)),
        )

    def _evict(self) -> None:
        """Evict what no later query sees."""
        self._evict_oldest(max(0, self._used - self.first - self.window + 1))

    def _evict_oldest(self, n: int) -> None:
        """Evict the n oldest positions after the first ones."""
        if n == 0:
            return
        rows, end = self._rows(), self.first + n
        self._evicted += n
        self._tensors = {
            name: self._new_buffer(
                torch.cat((x[:, :, : self.first], x[:, :, end:]), dim=2), self._room(0, 0)
            )
            for name, x in rows.items()
        }
