"""AttentionMap: one layer's weights, indexed like an array and never built."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from torch import Tensor

from wqkv.attend.bias import Bias
from wqkv.attend.call import Call, request
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.rules import FULL, Rules
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe, message, need
from wqkv.maps import pictures, statistics
from wqkv.maps.picks import Index, Line, numbers, pick
from wqkv.maps.statistics import Top
from wqkv.maps.weights import Weights, aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The limit of an N x N tile: the most weights that one holds, unless the caller raises it.
LIMIT = 64 * 2**20

_AXES = ("batch", "head", "query", "key")


def check_limit(limit: int) -> None:
    if limit < 1:
        raise ArgumentError(f"`limit` is {limit}, the most weights of a tile.\nPass 1 or more.")


Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def _computed_aside(
    method: Callable[Concatenate[AttentionMap, Rest], Result],
) -> Callable[Concatenate[AttentionMap, Rest], Result]:
    """Run a method apart from the caller's modes of torch: see `aside`."""

    def wrapped(self: AttentionMap, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        self._weights.check()
        with aside(self._weights.device):
            return method(self, *args, **kwargs)

    return update_wrapper(wrapped, method)


@door
class AttentionMap:
    """P = softmax(q k^T * scale), indexed like an array [batch, head, query, key], never built.

    P[i, j] = exp(score(i, j) - lse_i), so a tile costs its own small matrix product. A row sums to
    1; to less where a sink takes a part, to 0 where nothing may be seen.

    Dtype: all is computed in float32 (float64 for float64), whatever q and k are.

    Args:
        query: (batch, n_head, query_len, d_k); the rest is as in `attention`.
        key: (batch, n_kv_head, key_len, d_k).
        lse: the logsumexp of every row, if it is known: (batch, n_head, query_len). It may count
            more keys than these, whose weights are then a part of the row.
        limit: the most weights that one tile may hold.

    Raises:
        ArgumentError: a tile over the limit (with the size in GiB), an index out of range.

    >>> import torch
    >>> q = torch.randn(1, 2, 5, 8)
    >>> m = AttentionMap(q, q)
    >>> m
    AttentionMap[1, 2, 5, 5] of query f32[1, 2, 5, 8] on cpu, mask Full()
    >>> m[0, 1, 3].shape, m[0, :, 1:3, [0, 4]].shape
    (torch.Size([5]), torch.Size([2, 2, 2]))
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        *,
        mask: Mask | Tensor = FULL,
        bias: Bias | Tensor | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        query_offset: int | Tensor | None = None,
        lse: Tensor | None = None,
        limit: int = LIMIT,
    ) -> None:
        call = request(
            query.detach(), key.detach(), key.detach(), mask=mask, bias=bias, scale=scale,
            softcap=softcap, sinks=sinks, query_offset=query_offset,
        )  # fmt: skip
        self._look_at(call, lse, limit)

    def _look_at(self, call: Call, lse: Tensor | None, limit: int) -> None:
        """Make this the map of a call."""
        check_limit(limit)
        query = call.query
        if lse is not None and not lse.is_floating_point():
            raise KindError(message("`lse` holds floats.", {"lse": lse}, "Cast it."))
        if lse is not None and lse.shape != query.shape[:3]:
            raise ArgumentError(
                message(
                    f"`lse` has shape {tuple(lse.shape)}, not {tuple(query.shape[:3])}.",
                    {"lse": lse, "query": query},
                    "Pass (batch, n_head, query_len).",
                )
            )
        self._weights, self.limit = Weights(call, lse), limit
        # whether it is known where the queries stand among the keys
        self._placed = call.rules.query_offset is not None or call.sizes[2] == call.sizes[3]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, n_head, query_len, key_len)."""
        return self._weights.sizes

    @property
    def mask(self) -> Mask:
        """Who may see whom."""
        return self._weights.given.rules.mask

    @property
    def lse(self) -> Tensor:
        """The logsumexp of every row of scores (and its sink): (batch, n_head, query_len)."""
        return self._rows(lambda P: P.lse)

    def __repr__(self) -> str:
        query = describe(self._weights.given.query)
        return f"AttentionMap{list(self.shape)} of query {query}, mask {self.mask!r}"

    # In a notebook

    def _repr_html_(self) -> str:
        batch, n_head, query_len, key_len = self.shape
        count = min(n_head, pictures.LOOKED // max(1, query_len * key_len)) if batch else 0
        found = [(f"head {h}", self[0, h]) for h in range(min(count, pictures.PICTURES))]
        notes = ["sample 0"] if batch > 1 and found else []
        if len(found) < n_head:
            notes.append(f"{n_head - len(found)} heads are not drawn; `.plot()` draws all")
        return pictures.html(repr(self), found, "; ".join(notes))

    def plot(self, size: int = 64) -> Figure:
        """The exact means of size x size blocks of every head, as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        need("matplotlib", "show", "A plot")
        found = self.thumbnail(size)[0]
        return pictures.figure(repr(self), [(f"head {h}", one) for h, one in enumerate(found)])

    # Tiles

    def __getitem__(self, index: Index | tuple[Index | None, ...] | None) -> Tensor:
        """The weights at [batch, head, query, key]; an int drops its axis, a slice does not."""
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
                "Take fewer rows, or a statistic (times, thumbnail, top), or pass limit=..."
            )
        tile = self._tile(*lines)
        return tile.squeeze([axis for axis, (_, single) in enumerate(picked) if single])

    def rows(self, queries: Index) -> Tensor:
        """The weights of some rows: (batch, n_head, len(queries), key_len)."""
        return self[:, :, self._queries(queries)]

    def at(self, queries: Index, keys: Index) -> Tensor:
        """The weights of the pairs (queries[n], keys[n]), one product each: (batch, n_head, n)."""
        i, j = self._queries(queries), numbers(pick(keys, self.shape[3], "key")[0])
        if len(i) != len(j):
            raise ArgumentError(f"{len(i)} queries and {len(j)} keys make no pairs.\nPass as many.")
        return self._pairs(i, j)

    def flat(self) -> AttentionMap:
        """The map with equal weights for all keys that a row may see; `lse` is ln(their number).

        A pattern is measured against it: `m.mass(keys) / m.flat().mass(keys)`.
        """
        call = self._weights.given
        batch, n_head, query_len, key_len = self.shape
        nothing = call.query.new_zeros((1, 1, 1, 1), dtype=self._weights.dtype)
        q, k = (nothing.expand(batch, n_head, n, 1) for n in (query_len, key_len))
        rules = Rules(mask=call.rules.mask, query_offset=call.rules.query_offset)
        return map_of(Call(q, k, k, rules), limit=self.limit)

    # Statistics: no N x N

    def times(self, X: Tensor) -> Tensor:
        """P X (batch, n_head, query_len, c); X is (key_len, c) or (batch, n_kv_head, ...)."""
        return self._rows(statistics.times, X)

    def t_times(self, Y: Tensor) -> Tensor:
        """P^T Y (batch, n_head, key_len, c); Y is (query_len, c) or (batch, n_head, ...)."""
        return self._columns(statistics.t_times, Y)

    def received(self) -> Tensor:
        """The weight that every key receives, P^T 1: (batch, n_head, key_len)."""
        return self._columns(statistics.received)

    def entropy(self) -> Tensor:
        """-sum_j P_ij ln P_ij of every row, in nats: (batch, n_head, query_len).

        A sink's part does not count.
        """
        return self._rows(statistics.entropy)

    def mass(self, keys: Index) -> Tensor:
        """The weight that every row puts on chosen keys: (batch, n_head, query_len)."""
        return self._rows(statistics.mass, pick(keys, self.shape[3], "key")[0])

    def mean_distance(self) -> Tensor:
        """sum_j P_ij |i - j|, to about 1e-6 of the length: (batch, n_head, query_len).

        Raises:
            ArgumentError: it is not known where the queries stand among the keys.
        """
        _, _, query_len, key_len = self.shape
        if not self._placed:
            raise ArgumentError(
                f"Where do {query_len} queries stand among {key_len} keys? A distance needs it.\n"
                f"Make the map with query_offset=0 (the first query at the first key), "
                f"{key_len - query_len} (the last at the last), or another position."
            )
        return self._rows(statistics.mean_distance)

    def thumbnail(self, n: int = 64) -> Tensor:
        """Exact means of n x n blocks of the map: (batch, n_head, n, n), n at most the lengths."""
        return self._columns(statistics.thumbnail, n, 0, self.shape[2])

    def top(
        self,
        k: int,
        rows: Index | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Top:
        """The k strongest links of every head among some rows (None: all), exact.

        `progress(rows done, rows in all)` is called after every block that was looked through.
        """
        return self._top(k, self._queries(rows), progress)

    def proof(self, value: Tensor, output: Tensor, rows: Index | None = None) -> float:
        """The largest difference between P V, made of the weights that are shown, and an output.

        Args:
            value: (batch, n_kv_head, key_len, d_v).
            output: (batch, n_head, query_len, d_v), the heads' outputs before WO.
            rows: the rows to check; None is all of them, in blocks.

        Raises:
            ArgumentError: a value or an output of another shape, no rows.
        """
        return self._proof(value, output, self._queries(rows))

    # How one process answers. SharedMap overrides these methods

    @_computed_aside
    def _tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        return self._weights.tile(b, h, i, j)

    @_computed_aside
    def _pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self._weights.pairs(queries, keys)

    @_computed_aside
    def _rows(self, of: Callable[..., Tensor], *args: Any) -> Tensor:
        """A statistic of every row, `of(weights, *args)`: (batch, n_head, query_len, ...)."""
        return of(self._weights, *args)

    @_computed_aside
    def _columns(self, of: Callable[..., Tensor], *args: Any) -> Tensor:
        """A statistic that is a sum over rows, `of(weights, *args)`: (batch, n_head, ...)."""
        return of(self._weights, *args)

    @_computed_aside
    def _top(self, k: int, queries: Tensor, progress: Callable[[int, int], None]) -> Top:
        return statistics.top(self._weights, k, queries, progress)

    @_computed_aside
    def _proof(self, value: Tensor, output: Tensor, queries: Tensor) -> float:
        return statistics.proof(self._weights, value, output, queries)

    def _queries(self, rows: Index | None) -> Tensor:
        """The positions of some rows; None picks all."""
        line, _ = pick(slice(None) if rows is None else rows, self.shape[2], "query")
        return numbers(line)


def map_of(call: Call, lse: Tensor | None = None, limit: int = LIMIT) -> AttentionMap:
    """The map of a call, which was checked when it was made. The call's `value` is not read."""
    made = AttentionMap.__new__(AttentionMap)
    made._look_at(replace(call, query=call.query.detach(), key=call.key.detach()), lse, limit)
    return made
