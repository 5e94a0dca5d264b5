"""TileMap: a number for every link, indexed [batch, head, query, key], and never built."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.maps import statistics
from wqkv.maps.picks import Index, Line, numbers, pick
from wqkv.maps.statistics import Top
from wqkv.maps.weights import Numbers, aside

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
