"""Resolve an index along one axis to a range, which is sliced, or positions, which are gathered."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from wqkv.attend.geometry import check_held, is_whole
from wqkv.doors import check_tensor
from wqkv.errors import ArgumentError, KindError, describe

Index = SupportsIndex | slice | Sequence[SupportsIndex] | Tensor
#: Positions along one axis, from 0 on.
Line = range | Tensor


def pick(given: Any, size: int, name: str) -> tuple[Line, bool]:
    """The positions that an index picks, and whether it was a single int.

    Raises:
        ArgumentError: a position out of range.
        KindError: no int, slice or list of ints (or of `size` bools).
    """
    if isinstance(given, slice):
        try:
            found = range(size)[given]
        except (TypeError, ValueError) as error:  # ends that are no ints, a step of 0
            raise KindError(f"{given} picks no part of the {name} axis: {error}.") from None
        return (
            found if found.step == 1 else torch.tensor(found, dtype=torch.long, device="cpu")
        ), False
    if not isinstance(given, bool) and _is_int(given):
        position = _within(operator.index(given), size, name)
        return range(position, position + 1), True
    if isinstance(given, Tensor):
        check_tensor(name, given)
        check_held(name, given)
    what = f"The {name} axis takes an int, a slice or a list of ints, not {describe(given)}."
    try:
        picked = torch.as_tensor(given, device="cpu")
    except (TypeError, ValueError, RuntimeError):  # what torch cannot read as numbers
        raise KindError(what) from None
    if picked.dtype == torch.bool and picked.shape == (size,):
        return picked.nonzero().flatten().cpu(), False
    if picked.shape == (0,):
        return range(0), False  # torch would make an empty list a tensor of floats
    if not is_whole(picked) or picked.ndim != 1:
        raise KindError(what)
    picked = picked.cpu().long()
    for end in (picked.max(), picked.min()):
        _within(int(end), size, name)
    return picked % size, False


def _within(position: int, size: int, name: str) -> int:
    """Turn a position, which may count from the end as -1, into one that counts from 0."""
    if not -size <= position < size:
        raise ArgumentError(f"There is no {name} {position}: the map has {size}, 0 to {size - 1}.")
    return position % size


def _is_int(given: Any) -> bool:
    """Whether it counts as one int, as a number of NumPy's and a tensor of no axis do."""
    if isinstance(given, Tensor) and (given.ndim or given.dtype == torch.bool):
        return False
    try:
        operator.index(given)
    except TypeError:
        return False
    return True


def numbers(line: Line, device: torch.device | None = None) -> Tensor:
    """The positions as a tensor."""
    if isinstance(line, range):
        return torch.arange(line.start, line.stop, device=device)
    return line.to(device)


def take(x: Tensor, *lines: Line) -> Tensor:
    """x at every combination of positions along its first axes."""
    x = x[tuple(cut(line) if isinstance(line, range) else slice(None) for line in lines)]
    for axis, line in enumerate(lines):
        if not isinstance(line, range):
            x = x.index_select(axis, line.to(x.device))
    return x


def cut(line: range) -> slice:
    """A range as a slice."""
    return slice(line.start, line.stop)
