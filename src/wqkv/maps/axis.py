"""Axis: what the positions of a map are: tokens, patches of a picture, pieces of a sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from wqkv.attend.geometry import check_held, is_whole
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe, message


@door
class Axis:
    """What the keys or the queries of a map are: a name per position, and where each one stands.

    The positions of an axis are of one kind: tokens, patches of a picture, or pieces of a sound.
    Where several stand together, as [CLS] and patches, or a text and a picture, the map has a tuple
    of axes, one behind the other. An axis holds `source` by reference.

    Args:
        labels: a name for each cell, or how many there are: then a cell of a grid is named by its
            row and column ("3,5"), a piece of a sound by its begin ("1.20 s"), others by number.
        grid: (rows, columns) of a picture, or (frames, rows, columns) of a video. The cells stand
            row by row.
        seconds: how long one position of a sound lasts. The first begins at 0.
        source: what was looked at. A picture: (channels, height, width) as models take it, or
            (height, width, channels) or (height, width) as an image file has it, a tensor, an array
            or an image of Pillow. A sound: (samples, rate), or its features (mels, frames).
        places: (length,), the cell on which each position stands, or -1 where it stands on none,
            such as padding. None: position i stands on cell i.

    Raises:
        ArgumentError, KindError: a grid that does not have as many cells as labels, places that are
            no cells, two positions on one cell.

    >>> patches = Axis(6, grid=(2, 3))
    >>> len(patches), patches.labels
    (6, ('0,0', '0,1', '0,2', '1,0', '1,1', '1,2'))
    >>> patches.cells(torch.arange(6.0))
    tensor([[0., 1., 2.],
            [3., 4., 5.]])
    """

    def __init__(
        self,
        labels: Sequence[str] | int,
        grid: Sequence[int] | None = None,
        seconds: float | None = None,
        source: Any = None,
        places: Tensor | None = None,
    ) -> None:
        self._labels = labels if isinstance(labels, int) else tuple(labels)
        self.grid = None if grid is None else tuple(grid)
        self.seconds, self.source, self.places = seconds, source, places
        self._check()

    def _check(self) -> None:
        count, places = self.count, self.places
        if count < 0:
            raise ArgumentError(f"`labels` is {count}, how many there are.\nPass 0 or more.")
        if self.grid is not None:
            if len(self.grid) not in (2, 3) or min(self.grid) < 1:
                raise ArgumentError(
                    f"`grid` is {self.grid}.\nPass (rows, columns) or (frames, rows, columns)."
                )
            if math.prod(self.grid) != count:
                raise ArgumentError(
                    f"A grid of {' x '.join(map(str, self.grid))} has {math.prod(self.grid)} "
                    f"cells, and there are {count} labels.\nPass one label for each cell."
                )
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ArgumentError(
                f"`seconds` is {self.seconds}, how long one position lasts.\nPass more than 0."
            )
        if places is None:
            return
        check_held("places", places)
        if places.ndim != 1 or not is_whole(places):
            raise KindError(
                message("`places` is no list of cells.", {"places": places}, "Pass whole numbers.")
            )
        on = places[places >= 0]
        if len(places) and not -1 <= int(places.min()) <= int(places.max()) < count:
            raise ArgumentError(
                f"`places` goes from {int(places.min())} to {int(places.max())}, and the cells "
                f"from 0 to {count - 1}.\nPass the number of a cell, or -1 for none."
            )
        if len(on.unique()) != len(on):
            raise ArgumentError(
                "`places` sets two positions on one cell.\nPass a cell of its own for each."
            )

    @property
    def numbered(self) -> bool:
        """Whether no labels were given, so that they are made of the cells."""
        return isinstance(self._labels, int)

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self._labels if isinstance(self._labels, int) else len(self._labels)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The name of each cell."""
        if not isinstance(self._labels, int):
            return self._labels
        if self.grid is not None:
            each = torch.unravel_index(torch.arange(self.count, device="cpu"), self.grid)
            return tuple(
                ",".join(map(str, at)) for at in zip(*map(torch.Tensor.tolist, each), strict=True)
            )
        if self.seconds is not None:
            return tuple(f"{i * self.seconds:.2f} s" for i in range(self.count))
        return tuple(map(str, range(self.count)))

    def label(self, position: int) -> str:
        """The name of what stands at a position; "" where that is padding.

        Raises:
            ArgumentError: no such position.
        """
        if not 0 <= position < len(self):
            raise ArgumentError(
                f"There is no position {position}: the axis has {len(self)}, from 0 on.\n"
                f"Pass 0 to {len(self) - 1}."
            )
        cell = position if self.places is None else int(self.places[position])
        return self.labels[cell] if cell >= 0 else ""

    def position(self, cell: int) -> int | None:
        """The position that stands on a cell; None if none does."""
        if self.places is None:
            return cell if 0 <= cell < self.count else None
        found = (self.places == cell).nonzero().flatten().tolist()
        return found[0] if found else None

    def cell(self, *place: int) -> int | None:
        """The number of the cell at (row, column) or (frame, row, column), if there is one."""
        grid = self.grid
        if grid is None or len(place) != len(grid):
            return None
        if not all(0 <= at < size for at, size in zip(place, grid, strict=True)):
            return None
        found = 0
        for at, size in zip(place, grid, strict=True):
            found = found * size + at
        return found

    def __len__(self) -> int:
        return self.count if self.places is None else len(self.places)

    def __repr__(self) -> str:
        said = [f"{len(self)} positions"]
        if self.grid is not None:
            said.append(f"on a grid of {' x '.join(map(str, self.grid))}")
        elif self.seconds is not None:
            said.append(f"of {self.seconds:g} s each")
        elif self.count:
            some = self.labels[:4] + (("...",) if self.count > 4 else ())
            said.append(" ".join(some))
        return f"Axis({', '.join(said)})"

    def cells(self, numbers: Tensor) -> Tensor:
        """Numbers of the positions (..., length), put on the cells: (..., rows, columns).

        Without a grid it is (..., cells). A cell on which no position stands is NaN.

        Raises:
            ArgumentError: another count of numbers than positions.
        """
        if numbers.shape[-1:] != (len(self),):
            raise ArgumentError(
                message(
                    f"There are {len(self)} positions.",
                    {"numbers": numbers},
                    "Pass one number for each, on the last axis.",
                )
            )
        if self.places is not None:
            places = self.places.to(numbers.device)
            kind = numbers.dtype if numbers.is_floating_point() else torch.float32
            found = numbers.new_full((*numbers.shape[:-1], self.count), torch.nan, dtype=kind)
            found[..., places[places >= 0]] = numbers[..., places >= 0].to(kind)
            numbers = found
        return numbers.unflatten(-1, self.grid) if self.grid is not None else numbers

    def pixels(self, numbers: Tensor, smooth: bool = False) -> Tensor:
        """Numbers of the positions (..., length), put on the pixels of the source: (..., h, w).

        A pixel has the number of the cell that covers it; with `smooth`, it is interpolated between
        the centers of the cells (bilinear), and a cell without a position counts as 0.

        Raises:
            ArgumentError: the source is no picture, or there is no grid.
        """
        picture = self.picture()
        if picture is None or self.grid is None:
            raise ArgumentError(
                f"{self!r} has no picture with a grid.\n"
                "Pass Axis(..., grid=(rows, columns), source=picture)."
            )
        cells = self.cells(numbers).float()
        size = picture.shape[-2:]
        # rows and columns last, and all that stands before them as samples
        flat = cells.reshape(1, -1, *cells.shape[-2:])
        if smooth:
            made = torch.nn.functional.interpolate(
                flat.nan_to_num(0), size, mode="bilinear", align_corners=False
            )
        else:
            made = torch.nn.functional.interpolate(flat, size, mode="nearest-exact")
        return made.reshape(*cells.shape[:-2], *size)

    def picture(self) -> Tensor | None:
        """The source as a picture (3, height, width) from 0 to 1; None if it is none.

        A picture with other numbers, such as one that was normalized for a model, is stretched from
        its smallest number to its largest. A video is (frames, 3, height, width).
        """
        if self.source is None or self.grid is None or isinstance(self.source, tuple):
            return None
        return as_picture(self.source)


def as_picture(source: Any) -> Tensor:  # a tensor, an array of any library, an image of Pillow
    """A picture (3, height, width), or a video (frames, 3, height, width), from 0 to 1.

    Raises:
        KindError: it is no picture.
    """
    x, file = source, not isinstance(source, Tensor)
    if file:
        if not hasattr(source, "__array_interface__") and not hasattr(source, "__array__"):
            raise KindError(
                f"`source` is {describe(source)}, which is no picture.\n"
                "Pass a tensor, an array or an image of Pillow."
            )
        import numpy

        x = torch.from_numpy(numpy.asarray(source).copy())
    x = x.detach().cpu()
    if x.ndim == 2:
        x = x[None]
    elif x.ndim in (3, 4) and x.shape[-1] in (1, 3, 4) and (file or x.shape[-3] not in (1, 3)):
        x = x[..., :3].movedim(-1, -3)
    if x.ndim not in (3, 4) or x.shape[-3] not in (1, 3):
        raise KindError(
            message(
                "`source` is no picture.",
                {"source": source},
                "Pass (channels, height, width) or (height, width, channels) with 1 or 3 channels.",
            )
        )
    whole = x.dtype == torch.uint8
    x = x.float().nan_to_num(0)
    if whole:
        x = x / 255
    elif x.numel() and not 0 <= float(x.min()) <= float(x.max()) <= 1:
        low, high = x.min(), x.max()
        x = (x - low) / (high - low).clamp(min=1e-12)
    made: Tensor = x.expand(*x.shape[:-3], 3, *x.shape[-2:])
    return made


#: The axes of one sample, one behind the other.
Parts: TypeAlias = tuple[Axis, ...]
#: What the keys, or the queries, of one sample are, as a user says it.
OfSample: TypeAlias = Axis | tuple[Axis, ...]
#: The same of all samples: one for all, or a list with one for each.
OfMap: TypeAlias = OfSample | list[OfSample]
#: Finds the axes of every sample, when somebody asks; None where they are not known.
Find: TypeAlias = Callable[[], Sequence[Parts] | None]


def known(samples: Sequence[Parts] | None) -> Find:
    """Finds what is known already."""
    return lambda: samples


@dataclass(frozen=True)
class Axes:
    """What the queries and the keys of a map are. A copy of it holds what was found."""

    queries: Find
    keys: Find

    def __reduce__(self) -> tuple[Callable[..., Axes], tuple[object, object]]:
        return _found, (self.queries(), self.keys())


def _found(queries: Sequence[Parts] | None, keys: Sequence[Parts] | None) -> Axes:
    return Axes(known(queries), known(keys))


#: Axes that are not known.
UNKNOWN = Axes(known(None), known(None))


def parts_of(given: OfSample) -> Parts:
    """The axes of one sample."""
    return (given,) if isinstance(given, Axis) else given


def of_samples(name: str, given: OfMap, batch: int, length: int) -> tuple[Parts, ...]:
    """The axes of every sample, as a user gives them for the argument `name`.

    Raises:
        ArgumentError: they do not name as many samples, or positions, as there are.
    """
    if isinstance(given, list) and len(given) != batch:
        raise ArgumentError(
            f"`{name}` is a list of {len(given)}, and there are {batch} samples.\n"
            "Pass one axis, or tuple of axes, for each sample, or one for all."
        )
    each = [parts_of(one) for one in given] if isinstance(given, list) else [parts_of(given)]
    for parts in each:
        if sum(map(len, parts)) != length:
            raise ArgumentError(
                f"`{name}` names {' + '.join(str(len(p)) for p in parts)} positions, and there "
                f"are {length}.\nPass an axis, or a tuple of axes, of all of them."
            )
    return tuple(each) * (1 if isinstance(given, list) else batch)


def as_given(samples: Sequence[Parts] | None) -> OfMap | None:
    """The axes of every sample as a user reads them: see `TileMap.keys`."""
    if not samples:
        return None
    each: list[OfSample] = [parts[0] if len(parts) == 1 else parts for parts in samples]
    first = samples[0]
    same = all(
        len(parts) == len(first) and all(a is b for a, b in zip(parts, first, strict=True))
        for parts in samples
    )
    return each[0] if same else each


def axis_at(parts: Parts, position: int) -> tuple[Axis, int]:
    """The axis that holds a position of all axes together, and the position within that axis."""
    for axis in parts[:-1]:
        if position < len(axis):
            return axis, position
        position -= len(axis)
    return parts[-1], position


def named(parts: Parts, label: str) -> list[int]:
    """The positions with a name; a token that begins with a space may be named without it."""
    labels = [axis.label(at) for axis in parts for at in range(len(axis))]
    exact = [at for at, one in enumerate(labels) if one == label]
    return exact or [at for at, one in enumerate(labels) if one.strip(" \u2581\u0120") == label]


def standing(parts: Parts, place: Sequence[int]) -> list[int]:
    """The positions that stand on a cell, (row, column) or (frame, row, column), of any picture."""
    found, first = [], 0
    for axis in parts:
        cell = axis.cell(*place)
        position = None if cell is None else axis.position(cell)
        if position is not None:
            found.append(first + position)
        first += len(axis)
    return found
