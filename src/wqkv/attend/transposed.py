"""A mask and a bias read the other way round, by whom a key is seen: for column statistics."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from wqkv.attend.algebra import Mask
from wqkv.attend.places import At, Rect
from wqkv.attend.positions import Bias


def _swap(at: At, offset: int | Tensor) -> At:
    """The places with exchanged roles; the old queries, now keys, stand at `offset` + row."""
    row = at.key_pos
    start = offset.to(row.device)[at.batch] if isinstance(offset, Tensor) else offset
    return At(at.batch, at.head, row, row + start, at.query_pos)


class Transposed(Mask):
    """Query i sees key j where, in `inner`, query j (which stands at `offset` + j) sees key i.

    >>> from wqkv import Causal
    >>> print(Transposed(Causal(), 0))
    Transposed(Causal(), 0)
    1 1 1 1 1 1
    0 1 1 1 1 1
    0 0 1 1 1 1
    0 0 0 1 1 1
    0 0 0 0 1 1
    0 0 0 0 0 1
    """

    by_position = True

    def __init__(self, inner: Mask, offset: int | Tensor) -> None:
        self.inner, self.offset = inner, offset
        self._starts = None
        if isinstance(offset, Tensor) and offset.device.type == "cpu":
            self._starts = [int(start) for start in offset]

    @property
    def by_shift(self) -> bool:  # type: ignore[override]
        return self.inner.by_shift and isinstance(self.offset, int)

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return self.inner.per_sample or (self._starts is not None and self.inner.by_position)

    def visible(self, at: At) -> Tensor:
        return self.inner.visible(_swap(at, self.offset))

    def region(self, rect: Rect) -> bool | None:
        start = self.offset
        if isinstance(start, Tensor):
            if self.inner.by_position and (self._starts is None or rect.sample is None):
                return None
            start = self._starts[rect.sample] if self._starts and rect.sample is not None else 0
        if rect.q0 < 0:
            return None
        return self.inner.region(
            Rect(rect.sample, rect.k0 + start, rect.k1 + start, rect.q0, rect.q1)
        )

    def cuts(self, sample: int | None) -> Iterable[int]:
        return self.inner.cuts(sample)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.inner.tensors()

    def _extent(self) -> tuple[int, int]:
        return self.inner._extent()

    def __repr__(self) -> str:
        return f"Transposed({self.inner!r}, {self.offset!r})"


class TransposedBias(Bias):
    """What `inner` adds to the score of query j and key i, for query i and key j."""

    def __init__(self, inner: Bias, offset: int | Tensor) -> None:
        self.inner, self.offset = inner, offset

    def tile(self, at: At) -> Tensor:
        return self.inner.tile(_swap(at, self.offset))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor.detach() for tensor in self.inner.tensors())

    def add_gradient(self, total: Tensor, at: At, d_tile: Tensor) -> None:
        raise NotImplementedError("a map is looked at, not learned through")
