"""Memory: what was computed from a mask, kept for later calls with an equal mask."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from wqkv.attend.masks.algebra import Mask
from wqkv.upstream.of_torch import version

Key = TypeVar("Key", bound=Hashable)
Kept = TypeVar("Kept")

#: How many masks are remembered by their value, and how many things of each mask.
MASKS, THINGS = 64, 128


class Memory(Generic[Key, Kept]):
    """What was computed from masks, by mask and key. Equal masks share it.

    If a mask's stored matrix is changed in place, what was computed from it before is forgotten.
    """

    def __init__(self) -> None:
        self._by_value: dict[Mask, dict[Key, Kept]] = {}
        # a mask that holds tensors is found by identity, and forgotten when nobody else holds it
        self._stored: WeakKeyDictionary[Mask, tuple[tuple[int, ...], dict[Key, Kept]]] = (
            WeakKeyDictionary()
        )

    def get(
        self,
        mask: Mask,
        key: Key,
        make: Callable[[], Kept],
        keeps: Callable[[Kept], bool] = lambda made: True,
    ) -> Kept:
        """What is kept of a mask under `key`; if nothing is, `make()`, kept if `keeps` says so."""
        things = self._of(mask)
        if key in things:
            return things[key]
        made = make()
        if keeps(made):
            if len(things) >= THINGS:
                things.clear()
            things[key] = made
        return made

    def clear(self) -> None:
        """Forget all."""
        self._by_value.clear()
        self._stored.clear()

    def _of(self, mask: Mask) -> dict[Key, Kept]:
        if tensors := mask.tensors():
            now = tuple(version(tensor) for tensor in tensors)
            then, things = self._stored.get(mask, (now, {}))
            if then != now:
                things = {}
            self._stored[mask] = now, things
            return things
        if mask not in self._by_value and len(self._by_value) >= MASKS:
            self._by_value.clear()
        return self._by_value.setdefault(mask, {})
