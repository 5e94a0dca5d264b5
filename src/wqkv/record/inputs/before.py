"""What ran in a forward before an attention, as far as it tells where its positions come from.

A reader knows what a model was given. This tells whether the model has then changed the order of
the positions, or put others beside them. Only shapes and token ids are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.record.inputs.moment import Before, Convolved, Embedded


class Ran:
    """What has run in a forward until now."""

    def __init__(self) -> None:
        self._convolved: list[Convolved] = []
        self._embedded: list[Embedded] = []
        self._joined: list[tuple[int, ...]] = []
        self._moved: list[tuple[int, ...]] = []
        self._remade = False
        self._texts: set[tuple[int, ...]] = set()

    def convolved(self) -> Sequence[Convolved]:
        """The convolutions."""
        return tuple(self._convolved)

    def others(self) -> Before:
        """The lookups, and what put positions together or moved them."""
        moved = tuple(self._moved)
        return Before(tuple(self._embedded), tuple(self._joined), moved, self._remade)

    def begin(self, given: Iterable[Tensor]) -> None:
        """A forward begins, of a model that was given these tensors."""
        self._texts, self._remade = {tuple(x.shape) for x in given if x.ndim == 2}, False
        for some in (self._convolved, self._embedded, self._joined, self._moved):
            some.clear()

    def convolution(self, module: nn.Module, name: str, given: Tensor, made: Tensor) -> None:
        """A convolution has run."""
        self._convolved.append(Convolved(module, name, tuple(given.shape), tuple(made.shape)))

    # As torch tells of an operator: its arguments may be anything.
    def operator(
        self, name: str, args: Sequence[Any], made: Any, learned: Callable[[Tensor], bool]
    ) -> None:
        """One of OPERATORS has run.

        Args:
            learned: whether a tensor is a weight or a buffer, such as position embeddings.
        """
        ids = _looked_up(name, args)
        if ids is not None:
            shape = tuple(ids.shape)
            if shape in self._texts or shape[::-1] in self._texts:
                counts = (len(self._convolved), len(self._joined), len(self._moved))
                self._embedded.append(Embedded(ids, *counts))
            return
        if not self._convolved:  # what comes behind is no picture any more
            self._remade |= _remakes(name, args)
        if name in _SWAPS and not (self._convolved and args[0].ndim == 4):
            return
        parts = args[0] if name == "cat" else [args[0]]
        if name not in _AXES or not isinstance(made, Tensor) or not made.is_floating_point():
            return
        if made.ndim not in (3, 4) or any(one.ndim != made.ndim for one in parts):
            return
        if all(learned(one) for one in parts):
            return
        axes = {axis % made.ndim for axis in _AXES[name](*args[1:])}
        if name == "cat":
            if made.ndim == 3 and axes == {1}:
                self._joined.append(tuple(one.shape[1] for one in parts))
        elif self._moves(tuple(parts[0].shape), name, axes):
            self._moved.append(tuple(made.shape))

    def _moves(self, shape: tuple[int, ...], name: str, axes: set[int]) -> bool:
        """Whether an operator along some axes moves positions, and not channels or heads."""
        if len(shape) == 3:
            return name in _ORDERS and bool(axes & {0, 1})
        made = {one.made for one in self._convolved}
        last = {(one[0], *one[2:], one[1]) for one in made if len(one) == 4}  # channels last
        if name in _SWAPS:
            return (shape in made and axes >= {2, 3}) or (shape in last and axes >= {1, 2})
        pictures = shape in made or shape[1] in (1, 3)
        return (pictures and bool(axes - {1})) or (shape in last and bool(axes - {3}))


# As torch tells of an operator: its arguments may be anything.
def _looked_up(name: str, args: Sequence[Any]) -> Tensor | None:
    """The whole numbers whose rows of a table an operator takes."""
    if name == "embedding":
        found = args[1]
    elif name == "index" and args[0].ndim == 2 and len(args[1]) == 1:
        found = args[1][0]
    else:
        return None
    return found if isinstance(found, Tensor) else None


# As torch tells of an operator: its arguments may be anything.
def _remakes(name: str, args: Sequence[Any]) -> bool:
    """Whether it makes other pictures of some: of another size, or other samples."""
    first: Tensor = args[0][0] if name == "cat" else args[0]
    if first.ndim < 4 or first.shape[-3] not in (1, 3) or not first.is_floating_point():
        return False
    if name == "cat":
        return first.ndim == 4 and len(args[0]) > 1 and args[1:] in ((), (0,), (-4,))
    if name == "constant_pad_nd":
        return any(args[1][:4:2])  # on the left, or above
    if name in ("transpose", "swapaxes"):
        return first.ndim > 4 and 0 in {axis % first.ndim for axis in args[1:3]}
    if name == "permute":
        return first.ndim > 4 and bool(args[1][0] % first.ndim)
    return name in _RESIZES


def _listed(axes: int | Sequence[int]) -> Sequence[int]:
    return [axes] if isinstance(axes, int) else axes or [0]


def _reversed(order: Sequence[int]) -> Sequence[int]:
    """Of four axes, those with the next one before them in another order: rows and columns."""
    at = {axis % 4: place for place, axis in enumerate(order)}
    return [axis for one in (1, 2) if at[one + 1] < at[one] for axis in (one, one + 1)]


def _swapped(one: int, other: int) -> Sequence[int]:
    order = list(range(4))
    order[one], order[other] = order[other], order[one]
    return _reversed(order)


#: Operators that put positions into another order, and the axes along which they do it.
_ORDERS: dict[str, Callable[..., Sequence[int]]] = {
    "flip": lambda dims: dims,
    "gather": lambda dim, *_: [dim],
    "index": lambda found: [axis for axis, one in enumerate(found) if one is not None],
    "index_add": lambda dim, *_: [dim],
    "index_copy": lambda dim, *_: [dim],
    "index_put": lambda found, *_: [
        axis for axis, one in enumerate(found) if one is not None and one.dtype != torch.bool
    ],
    "index_select": lambda dim, *_: [dim],
    "scatter": lambda dim, *_: [dim],
    "scatter_add": lambda dim, *_: [dim],
    "scatter_reduce": lambda dim, *_: [dim],
    "roll": lambda shifts, dims=(0,): _listed(dims),
    "take_along_dim": lambda indices, dim=0: [dim],
}
#: Those that may put columns before rows, or make other ones of them.
_SWAPS: dict[str, Callable[..., Sequence[int]]] = {
    "permute": _reversed,
    "swapaxes": _swapped,
    "transpose": _swapped,
    "upsample_bicubic2d": lambda *_: [2, 3],
    "upsample_bilinear2d": lambda *_: [2, 3],
    "upsample_nearest2d": lambda *_: [2, 3],
}
_AXES: dict[str, Callable[..., Sequence[int]]] = {
    "cat": lambda dim=0: [dim],
    **_ORDERS,
    **_SWAPS,
}
#: Those that make a picture of another size.
_RESIZES = (
    "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
    "grid_sampler_2d",
    "upsample_bicubic2d",
    "upsample_bilinear2d",
    "upsample_nearest2d",
)
#: The operators that are noted.
OPERATORS = frozenset(("constant_pad_nd", "embedding", *_RESIZES, *_AXES))
