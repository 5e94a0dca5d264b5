"""Dynamic, Static and Cross: keys and values in one buffer each, all samples of one length."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, describe, message
from wqkv.layer.caches.base import (
    KeyPiece,
    KVCache,
    check,
    check_alike,
    check_count,
    check_rewind,
    chosen,
    lasting,
    refuse_gradients,
)


@door
class Buffered(KVCache):
    """What kinds share whose tensors are (batch, heads, room, ...), the first rows taken."""

    #: The names of the constructor's arguments, and of what else changes.
    _arguments: ClassVar[tuple[str, ...]] = ()
    _counts: ClassVar[tuple[str, ...]] = ("_length",)
    #: The names of the tensors.
    _names: ClassVar[tuple[str, ...]] = ("k", "v")

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def held(self) -> tuple[KeyPiece, ...]:
        rows = self._rows()
        return (KeyPiece(rows["k"], rows["v"]),) if self._length else ()

    def rewind(self, length: int | Tensor) -> None:
        self._length = check_rewind(length, self._length)

    def reorder(self, index: Sequence[int] | Tensor) -> None:
        order = chosen(index, self._batch)
        self._tensors = lasting(
            lambda: {
                name: x.index_select(0, order.to(x.device)) for name, x in self._tensors.items()
            }
        )

    def split(self) -> list[Self]:
        rows = self._rows()
        return [
            self._over({name: x[b : b + 1] for name, x in rows.items()}) for b in range(self._batch)
        ]

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        check_alike(cls, caches)
        first, *others = caches
        for other in others:
            if other._signature() != first._signature():
                raise ArgumentError(
                    f"These caches do not merge:\n  {first!r}\n  {other!r}\n"
                    "Pass caches of one length, which keep the same sizes."
                )
        parts = [cache._rows() for cache in caches]
        return first._over(
            {name: torch.cat([rows[name] for rows in parts]) for name in first._tensors}
        )

    @property
    def _used(self) -> int:
        """How many rows are taken."""
        return self._length

    @property
    def _batch(self) -> int:
        return next((len(x) for x in self._tensors.values()), 0)

    def _rows(self) -> dict[str, Tensor]:
        """The rows that are taken, as views."""
        return {name: x[:, :, : self._used] for name, x in self._tensors.items()}

    def _like(self, name: str) -> Tensor | None:
        """What appended keys or values must be like."""
        return self._tensors.get(name)

    def _check(self, k: Tensor, v: Tensor) -> None:
        check(k, v, self._like("k"), self._like("v"))

    def _room(self, needed: int, had: int) -> int:
        """How many rows a buffer gets in place of one that had fewer."""
        return needed

    def _laid(self, x: Tensor, room: int) -> Tensor:
        """A new buffer that begins with these rows."""
        buffer = lasting(lambda: x.new_empty((*x.shape[:2], room, *x.shape[3:])))
        buffer[:, :, : x.shape[2]] = x
        return buffer

    def _write(self, new: dict[str, Tensor]) -> None:
        """Put rows behind those that are taken, in place where there is room."""
        used = self._used
        for name, x in new.items():
            end = used + x.shape[2]
            buffer = self._tensors.get(name)
            if buffer is None or buffer.shape[2] < end or buffer.requires_grad:
                had = x[:, :, :0] if buffer is None else buffer
                buffer = self._laid(had[:, :, :used], self._room(end, had.shape[2]))
                self._tensors[name] = buffer
            buffer[:, :, used:end] = x
        self._length += x.shape[2]

    def _over(self, rows: dict[str, Tensor]) -> Self:
        """The same numbers over a copy of other rows."""
        other = copy.copy(self)
        room = self._room(self._used, 0)
        other._tensors = {name: self._laid(x, room) for name, x in rows.items()}
        return other

    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*self._arguments, *self._counts)}

    def _signature(self) -> object:
        layout = {
            name: (x.shape[1], x.shape[3:], x.dtype, x.device) for name, x in self._tensors.items()
        }
        return self._numbers(), layout

    def _state(self) -> dict[str, Any]:
        return {**self._numbers(), **{name: x.detach().clone() for name, x in self._rows().items()}}

    @classmethod
    def _from(cls, state: dict[str, Any]) -> Self:
        made = cls(**{name: state.pop(name) for name in cls._arguments})
        for name in cls._counts:
            setattr(made, name, state.pop(name))
        if state and set(state) != set(cls._names):
            raise ValueError(f"its tensors are {sorted(state)}, not {sorted(cls._names)}")
        for name, x in state.items():
            if x.ndim != 4 or x.shape[:3:2] != (len(state[cls._names[0]]), made._used):
                raise ValueError(f"{made._used} positions in {name} {describe(x)}")
        made = made._over(state)
        for piece in made.held():
            check(piece.k, piece.v)
        return made

    def __repr__(self) -> str:
        parts = [f"{name.strip('_')}={value}" for name, value in self._numbers().items()]
        parts += [f"{name}: {describe(x)}" for name, x in self._rows().items()]
        return f"{type(self).__name__}({', '.join(parts)})"


@door
class Dynamic(Buffered):
    """Keeps all keys and values, in buffers that double when they are full.

    An append copies the past only when its buffer is full, so n steps copy less than 2 n positions.
    Under a Window it is right too, but keeps what no query will see again: Rolling does not.
    Gradients: with gradients on (no torch.no_grad()) each append joins by a copy instead, for
    writing into a buffer would falsify what earlier steps keep; so gradients are right.

    >>> cache = Dynamic()
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> [piece.k.shape for piece in cache.append(k, v)], cache.length
    ([torch.Size([2, 3, 5, 7])], 5)
    """

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check(k, v)
        new = {"k": k, "v": v}
        if torch.is_grad_enabled():
            rows = self._rows()
            self._tensors = {
                name: torch.cat((rows[name], x) if rows else (x,), dim=2) for name, x in new.items()
            }
            self._length += k.shape[2]
        else:
            self._write(new)
        return self.held()

    def _room(self, needed: int, had: int) -> int:
        return max(needed, 2 * had)


@door
class Static(Buffered):
    """Room for `capacity` positions, taken at the first append; one more is an error.

    Under torch.compile the third step and all later ones run the graph of the second. The length
    is a number outside the graph, so a step reads the positions that came, not the capacity.
    Gradients: none; an append that would need one is an error.

    >>> cache = Static(16)
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> [piece.k.shape for piece in cache.append(k, v)], cache.length
    ([torch.Size([2, 3, 5, 7])], 5)
    """

    _arguments = ("capacity",)

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = check_count("capacity", capacity)

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check(k, v)
        refuse_gradients("Static", k, v)
        if self._length + k.shape[2] > self.capacity:
            raise ArgumentError(
                f"Static has room for {self.capacity} positions: {self._length} are taken and "
                f"{k.shape[2]} came.\nMake a larger one, rewind, or use Dynamic or Rolling."
            )
        self._write({"k": k, "v": v})
        return self.held()

    def _room(self, needed: int, had: int) -> int:
        # One more, so that no slice is ever the whole: the tracer would take that for another case.
        return self.capacity + 1


@door
class Cross(Buffered):
    """Cross-attention: the keys and values of another text, computed once.

    The first call of a layer fills it; from then on `filled` is True, and the layer takes `held()`
    and calls neither WK nor WV. Its length counts those keys and says nothing of the queries, whose
    place stays the caller's `query_offset`. `rewind(0)` empties it, for another text.
    Gradients: right, because it keeps the tensors themselves (of torch.inference_mode() copies).

    >>> cache = Cross()
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> cache.filled, len(cache.append(k, v)), cache.filled
    (False, 1, True)
    """

    @property
    def filled(self) -> bool:  # type: ignore[override]
        return self._length > 0

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        check(k, v)
        if self.filled:
            raise ArgumentError(
                message(
                    f"Cross is filled with {self._length} keys, and {k.shape[2]} more came.",
                    {"k": k, "held": self._tensors["k"]},
                    "Take `held()`; for another text, rewind(0) or make a new one.",
                )
            )
        if not torch.compiler.is_compiling() and k.is_inference():
            k, v = lasting(lambda: (k.clone(), v.clone()))
        self._tensors, self._length = {"k": k, "v": v}, k.shape[2]
        return self.held()

    def rewind(self, length: int | Tensor) -> None:
        length = check_rewind(length, self._length)
        if length not in (0, self._length):
            raise ArgumentError(
                f"Cross holds its {self._length} keys whole, and cannot go back to {length}.\n"
                "Pass 0 to empty it."
            )
        if length == 0:
            self._tensors, self._length = {}, 0
