"""Dynamic, Static and Cross: keys and values in one buffer each, all samples of one length."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, describe, message
from wqkv.layer.caches.base import (
    KeyPiece,
    KVCache,
    Saved,
    check_count,
    check_new,
    check_rewind,
    check_same_kind,
    check_samples,
    outside_inference_mode,
    refuse_gradients,
)


@door
class Buffered(KVCache):
    """Base of the kinds with one buffer per tensor, (batch, heads, room, ...).

    A row of a buffer is one position; the first `_used` rows are taken, the others are free.
    """

    #: The names of the constructor's arguments; an attribute of that name has the value.
    _arguments: ClassVar[tuple[str, ...]] = ()
    #: The names of the other attributes that a file has to keep.
    _counts: ClassVar[tuple[str, ...]] = ("_length",)
    #: The names of the tensors.
    _tensor_names: ClassVar[tuple[str, ...]] = ("k", "v")

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
        order = check_samples(index, self._batch)
        self._tensors = outside_inference_mode(
            lambda: {
                name: x.index_select(0, order.to(x.device)) for name, x in self._tensors.items()
            }
        )

    def split(self) -> list[Self]:
        rows = self._rows()
        return [
            self._with_rows({name: x[b : b + 1] for name, x in rows.items()})
            for b in range(self._batch)
        ]

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        check_same_kind(cls, caches)
        first, *others = caches
        for other in others:
            if other._signature() != first._signature():
                raise ArgumentError(
                    f"These caches do not merge:\n  {first!r}\n  {other!r}\n"
                    "Pass caches of one length, which keep the same sizes."
                )
        parts = [cache._rows() for cache in caches]
        return first._with_rows(
            {name: torch.cat([rows[name] for rows in parts]) for name in first._tensors}
        )

    @property
    def _used(self) -> int:
        """How many rows of the buffers are taken."""
        return self._length

    @property
    def _batch(self) -> int:
        return next((len(x) for x in self._tensors.values()), 0)

    def _rows(self) -> dict[str, Tensor]:
        """The rows that are taken, as views."""
        return {name: x[:, :, : self._used] for name, x in self._tensors.items()}

    def _like(self, name: str) -> Tensor | None:
        """A tensor that appended keys ("k") or values ("v") must be like; None before the first."""
        return self._tensors.get(name)

    def _check_new(self, k: Tensor, v: Tensor) -> None:
        check_new(k, v, self._like("k"), self._like("v"))

    def _room(self, needed: int, had: int) -> int:
        """How many rows a new buffer gets: at least `needed`, in place of one that had `had`."""
        return needed

    def _new_buffer(self, x: Tensor, room: int) -> Tensor:
        """A new buffer of `room` rows that begins with those of x."""
        buffer = outside_inference_mode(lambda: x.new_empty((*x.shape[:2], room, *x.shape[3:])))
        buffer[:, :, : x.shape[2]] = x
        return buffer

    def _append_rows(self, new: dict[str, Tensor]) -> None:
        """Write rows behind those that are taken; a buffer without room is replaced first."""
        used = self._used
        for name, x in new.items():
            end = used + x.shape[2]
            buffer = self._tensors.get(name)
            if buffer is None or buffer.shape[2] < end or buffer.requires_grad:
                had = x[:, :, :0] if buffer is None else buffer
                buffer = self._new_buffer(had[:, :, :used], self._room(end, had.shape[2]))
                self._tensors[name] = buffer
            buffer[:, :, used:end] = x
        self._length += x.shape[2]

    def _with_rows(self, rows: dict[str, Tensor]) -> Self:
        """A cache with the same settings and counts, and a copy of other rows."""
        other = copy.copy(self)
        room = self._room(self._used, 0)
        other._tensors = {name: self._new_buffer(x, room) for name, x in rows.items()}
        return other

    def _signature(self) -> object:
        """What caches must have alike to be merged."""
        layout = {
            name: (x.shape[1], x.shape[3:], x.dtype, x.device) for name, x in self._tensors.items()
        }
        return [getattr(self, name) for name in (*self._arguments, *self._counts)], layout

    def _to_saved(self) -> Saved:
        numbers = {name: getattr(self, name) for name in (*self._arguments, *self._counts)}
        return {**numbers, **{name: x.detach().clone() for name, x in self._rows().items()}}

    @classmethod
    def _from_saved(cls, state: Saved) -> Self:
        made = cls(**{name: state.pop(name) for name in cls._arguments})
        for name in cls._counts:
            setattr(made, name, state.pop(name))
        if state and set(state) != set(cls._tensor_names):
            raise ValueError(f"its tensors are {sorted(state)}, not {sorted(cls._tensor_names)}")
        for name, x in state.items():
            if x.ndim != 4 or x.shape[:3:2] != (len(state[cls._tensor_names[0]]), made._used):
                raise ValueError(f"{made._used} positions in {name} {describe(x)}")
        made = made._with_rows(state)
        for piece in made.held():
            check_new(piece.k, piece.v)
        return made

    def __repr__(self) -> str:
        names = (*self._arguments, *self._counts)
        parts = [f"{name.strip('_')}={getattr(self, name)}" for name in names]
        parts += [f"{name}: {describe(x)}" for name, x in self._rows().items()]
        return f"{type(self).__name__}({', '.join(parts)})"


@door
class Dynamic(Buffered):
    """Keep all keys and values, in buffers that double when they are full.

    An append copies the past only when its buffer is full, so n steps copy less than 2 n positions.
    Under a Window the result is right, but what no query will see again is kept: Rolling evicts it.
    Gradients are right: while they are on (no torch.no_grad()), each append makes a joined copy,
    because writing into a buffer would change what earlier steps keep for their backward pass.

    >>> cache = Dynamic()
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> [piece.k.shape for piece in cache.append(k, v)], cache.length
    ([torch.Size([2, 3, 5, 7])], 5)
    """

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check_new(k, v)
        new = {"k": k, "v": v}
        if torch.is_grad_enabled():
            rows = self._rows()
            self._tensors = {
                name: torch.cat((rows[name], x) if rows else (x,), dim=2) for name, x in new.items()
            }
            self._length += k.shape[2]
        else:
            self._append_rows(new)
        return self.held()

    def _room(self, needed: int, had: int) -> int:
        return max(needed, 2 * had)


@door
class Static(Buffered):
    """Keep up to `capacity` positions, in memory taken at the first append; one more is an error.

    Under torch.compile the third step and all later ones run the graph of the second. The length
    is a number outside the graph, so a step reads the positions that are there, not the capacity.
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
        self._check_new(k, v)
        refuse_gradients("Static", k, v)
        if self._length + k.shape[2] > self.capacity:
            raise ArgumentError(
                f"Static has room for {self.capacity} positions: {self._length} are taken and "
                f"{k.shape[2]} came.\nMake a larger one, rewind, or use Dynamic or Rolling."
            )
        self._append_rows({"k": k, "v": v})
        return self.held()

    def _room(self, needed: int, had: int) -> int:
        # The buffer is one row longer than needed, because the compiler specializes on slices that
        # cover a whole tensor: the step that fills the last row would be compiled anew.
        return self.capacity + 1


@door
class Cross(Buffered):
    """Keep the keys and values of another text for cross-attention, computed once.

    The first call of a layer fills it. From then on `filled` is True, and the layer takes `held()`
    and calls neither WK nor WV. Its length counts those keys and says nothing of the queries: their
    position is the caller's `query_offset`. `rewind(0)` empties it, for another text.
    Gradients are right, because it keeps the tensors themselves; it copies those that were made
    inside torch.inference_mode().

    >>> cache = Cross()
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> cache.filled, len(cache.append(k, v)), cache.filled
    (False, 1, True)
    """

    @property
    def filled(self) -> bool:  # type: ignore[override]
        return self._length > 0

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        check_new(k, v)
        if self.filled:
            raise ArgumentError(
                message(
                    f"Cross is filled with {self._length} keys, and {k.shape[2]} more came.",
                    {"k": k, "held": self._tensors["k"]},
                    "Take `held()`; for another text, rewind(0) or make a new one.",
                )
            )
        if not torch.compiler.is_compiling() and k.is_inference():
            k, v = outside_inference_mode(lambda: (k.clone(), v.clone()))
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
