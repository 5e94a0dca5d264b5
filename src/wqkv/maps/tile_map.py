"""TileMap: a number for every link, indexed [batch, head, query, key], and never built."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.maps import pictures, statistics
from wqkv.maps.axis import (
    UNKNOWN,
    Axes,
    Axis,
    OfMap,
    Parts,
    as_given,
    axis_at,
    known,
    named,
    of_samples,
    standing,
)
from wqkv.maps.display import short, visible
from wqkv.maps.overlay import Asked, drawn
from wqkv.maps.picks import Index, Line, numbers, pick
from wqkv.maps.scales import WEIGHTS, Scale, of_keys
from wqkv.maps.statistics import Top
from wqkv.maps.weights import Numbers, aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The limit of an N x N tile: the most numbers that one holds, unless the caller raises it.
LIMIT = 64 * 2**20

_AXES = ("batch", "head", "query", "key")


def check_limit(limit: int) -> None:
    if limit < 1:
        raise ArgumentError(f"`limit` is {limit}, the most weights of a tile.\nPass 1 or more.")


Rest = ParamSpec("Rest")
Result = TypeVar("Result")
Of = TypeVar("Of", bound=Numbers)
Own = TypeVar("Own", bound="TileMap[Any]")


def computed_aside(
    method: Callable[Concatenate[Own, Rest], Result],
) -> Callable[Concatenate[Own, Rest], Result]:
    """Run a method apart from the caller's modes of torch: see `aside`."""

    def wrapped(self: Own, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        self._numbers.check()
        with aside(self._numbers.device):
            return method(self, *args, **kwargs)

    return update_wrapper(wrapped, method)


@door
class TileMap(Generic[Of]):
    """A number for every link, indexed like an array [batch, head, query, key], never built.

    `AttentionMap` has the weights, `LinkMap` what is made of them.
    """

    _numbers: Of
    limit: int
    _axes: Axes = UNKNOWN

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, n_head, query_len, key_len)."""
        return self._numbers.sizes

    def __getitem__(self, index: Index | tuple[Index | None, ...] | None) -> Tensor:
        """The numbers at [batch, head, query, key]; an int drops its axis, a slice does not."""
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) > 4 or any(part is None or part is Ellipsis for part in parts):
            raise ArgumentError(
                f"A map has the four axes batch, head, query and key, not {index!r}."
            )
        whole = (*parts, *[slice(None)] * (4 - len(parts)))
        picked = [
            pick(part, size, name)
            for part, size, name in zip(whole, self.shape, _AXES, strict=True)
        ]
        lines = [line for line, _ in picked]
        count = math.prod(map(len, lines))
        if count > self.limit:
            sides = " x ".join(str(len(line)) for line in lines)
            raise ArgumentError(
                f"A tile of {sides} weights takes {count * 4 / 2**30:.2f} GiB; "
                f"the limit is {self.limit * 4 / 2**30:.2f} GiB.\n"
                "Take fewer rows, or a statistic such as `top`, or make the map with limit=..."
            )
        tile = self._tile(*lines)
        return tile.squeeze([axis for axis, (_, single) in enumerate(picked) if single])

    def rows(self, queries: Index) -> Tensor:
        """The numbers of some rows: (batch, n_head, len(queries), key_len)."""
        return self[:, :, self._queries(queries)]

    def at(self, queries: Index, keys: Index) -> Tensor:
        """The numbers of the pairs (queries[n], keys[n]), one product each: (batch, n_head, n).

        Raises:
            ArgumentError: not as many queries as keys, or one that is out of range.
        """
        i, j = self._queries(queries), numbers(pick(keys, self.shape[3], "key")[0])
        if len(i) != len(j):
            raise ArgumentError(f"{len(i)} queries and {len(j)} keys make no pairs.\nPass as many.")
        return self._pairs(i, j)

    def top(
        self,
        k: int,
        rows: Index | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Top:
        """The k strongest links of every head among some rows (None: all), exact.

        Strong is what has a large absolute value; NaN comes last.
        `progress(rows done, rows in all)` is called after every block that was looked through.
        """
        return self._top(k, self._queries(rows), progress)

    # What the positions are

    @property
    def keys(self) -> OfMap | None:
        """What the keys are: an Axis, or a tuple of those that stand one behind the other.

        It is a list with one of these per sample where the samples differ, and None where it is not
        known: `on` tells it.
        """
        return as_given(self._axes.keys())

    @property
    def queries(self) -> OfMap | None:
        """What the queries are, as `keys`."""
        return as_given(self._axes.queries())

    def on(self, keys: OfMap | None = None, queries: OfMap | None = None) -> Self:
        """The same map with its keys or queries named; None leaves what is known.

        Args:
            keys, queries: an Axis, a tuple of those that stand one behind the other, or a list with
                one of these per sample.

        Raises:
            ArgumentError: they do not name as many positions, or samples, as the map has.

        >>> import torch
        >>> from wqkv import AttentionMap, Axis
        >>> q = torch.randn(1, 2, 5, 8)
        >>> AttentionMap(q, q).on(keys=(Axis(["[CLS]"]), Axis(4, grid=(2, 2)))).keys
        (Axis(1 positions, [CLS]), Axis(4 positions, on a grid of 2 x 2))
        """
        batch, _, query_len, key_len = self.shape
        axes = self._axes
        if keys is not None:
            axes = replace(axes, keys=known(of_samples("keys", keys, batch, key_len)))
        if queries is not None:
            found = of_samples("queries", queries, batch, query_len)
            axes = replace(axes, queries=known(found))
        return self._with(axes)

    def _with(self, axes: Axes) -> Self:
        """The same map with other axes."""
        made = copy.copy(self)
        made._axes = axes
        return made

    def overlay(
        self,
        query: int | tuple[int, ...] | str,
        head: int,
        sample: int = 0,
        smooth: bool = False,
    ) -> Figure:
        """The weights of one query, drawn on what its keys are: see `wqkv.overlay`.

        Args:
            query: its position; its cell, as (row, column) or (frame, row, column), in the first
                picture that has it; or its name, such as a token. Where the samples are windows of
                one picture, the window that holds the cell is found, from `sample` on.
            smooth: interpolate between the centers of the cells, and not one color for each cell.

        Raises:
            ArgumentError: it is not known what the keys are; no such query, or several of a name.
            MissingExtraError: matplotlib is not installed.
        """
        sample, position = self._asked(query, _one(sample, self.shape[0], "batch"))
        keys, queries = self._axes.keys(), self._axes.queries()
        if keys is None:
            raise ArgumentError(
                "It is not known what the keys of this map are.\n"
                "Name them: map.on(keys=wqkv.Axis(...)).overlay(...)."
            )
        row = self[sample, head, position][None]
        name, asked = str(position), None
        if queries:
            asked = Asked(*axis_at(queries[sample], position))
            name = asked.axis.label(asked.position)
        title = f"{short(visible(name))}, head {head}"
        return drawn(row, [keys[sample]], self._scale_on(row), smooth, title, asked)

    def _asked(self, query: int | tuple[int, ...] | str, sample: int) -> tuple[int, int]:
        """The sample and the position of a query that is asked for."""
        if isinstance(query, int):
            return sample, _one(query, self.shape[2], "query")
        queries = self._axes.queries()
        if queries is None:
            raise ArgumentError(
                f"It is not known what the queries of this map are, so there is no {query!r}.\n"
                "Pass the position of a query, or name them: map.on(queries=wqkv.Axis(...))."
            )
        if isinstance(query, str):
            found = [(sample, at) for at in named(queries[sample], query)]
        else:
            found = [
                (number, at)
                for number, parts in enumerate(queries[sample:], start=sample)
                for at in standing(parts, query)
            ][:1]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(str(at) for _, at in found)
            raise ArgumentError(
                f"{query!r} names the queries {places}.\nPass the position of one of them."
            )
        raise ArgumentError(
            f"There is no query {query!r} among {queries[sample]}.\n"
            "Pass a position, the (row, column) of a cell or the name of a token."
        )

    # In a notebook

    def _repr_html_(self) -> str:
        batch, n_head, query_len, key_len = self.shape
        most = min(pictures.PICTURES, pictures.LOOKED // max(1, query_len * key_len))
        tiles = [self[0, h] for h in range(min(n_head, most) if batch else 0)]
        sides = self._sides(0) if tiles else ((), ())
        found = [pictures.picture(f"head {h}", tile, *sides) for h, tile in enumerate(tiles)]
        notes = ["sample 0"] if batch > 1 and found else []
        if len(found) < n_head:
            notes.append(f"{n_head - len(found)} heads are not drawn")
        scale = self._scale([one.numbers for one in found])
        return pictures.html(repr(self), found, "; ".join(notes), scale)

    def _scale(self, numbers: Sequence[Tensor]) -> Scale:
        """The scale of pictures of some of its numbers."""
        return WEIGHTS

    def _scale_on(self, row: Tensor) -> Scale:
        """The scale of an overlay of one of its rows."""
        return of_keys(self.shape[3])

    def _sides(self, sample: int) -> tuple[Parts, Parts]:
        """What the queries and the keys of a sample are; by number where it is not known."""
        queries, keys = self._axes.queries(), self._axes.keys()
        return (
            queries[sample] if queries else (Axis(self.shape[2]),),
            keys[sample] if keys else (Axis(self.shape[3]),),
        )

    # How one process answers. SharedMap overrides these methods

    @computed_aside
    def _tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        return self._numbers.tile(b, h, i, j)

    @computed_aside
    def _pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self._numbers.pairs(queries, keys)

    @computed_aside
    def _rows(self, of: Callable[..., Tensor], *args: Any) -> Tensor:
        """A statistic of every row, `of(numbers, *args)`: (batch, n_head, query_len, ...)."""
        return of(self._numbers, *args)

    @computed_aside
    def _columns(self, of: Callable[..., Tensor], *args: Any) -> Tensor:
        """A statistic that is a sum over rows, `of(numbers, *args)`: (batch, n_head, ...)."""
        return of(self._numbers, *args)

    @computed_aside
    def _top(self, k: int, queries: Tensor, progress: Callable[[int, int], None]) -> Top:
        return statistics.top(self._numbers, k, queries, progress)

    def _queries(self, rows: Index | None) -> Tensor:
        """The positions of some rows; None picks all."""
        line, _ = pick(slice(None) if rows is None else rows, self.shape[2], "query")
        return numbers(line)


def _one(position: int, size: int, name: str) -> int:
    """A position, which may count from the end, as one that counts from 0."""
    return int(pick(position, size, name)[0][0])
