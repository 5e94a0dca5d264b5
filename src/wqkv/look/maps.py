"""The N x N map of one layer's weights, which is never built.

P[i, j] = exp(score(i, j) - lse_i), so any tile is a small matrix product, and each linear statistic
of P is a fused attention call: P X is attention with the values replaced by X; P^T Y is attention
with q and k exchanged and -lse in one more channel. Where that does not hold (a softcap, a bias)
the same sums are streamed in rectangles. All is computed in float32 (float64 for float64).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import update_wrapper
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from wqkv.attend import engines
from wqkv.attend.algebra import Full, Mask
from wqkv.attend.call import FULL, Call, request
from wqkv.attend.engines import reference
from wqkv.attend.engines.plan import ROWS, plan
from wqkv.attend.masks import Causal
from wqkv.attend.merge import Partial, logaddexp, share
from wqkv.attend.places import At, Rect
from wqkv.attend.positions import Bias
from wqkv.attend.transposed import Transposed, TransposedBias
from wqkv.errors import ArgumentError, KindError, describe, message

#: The most weights that one tile holds, unless it is raised.
LIMIT = 64 * 2**20
#: Weights are looked through in blocks of about this many.
BLOCK = 2**22

_AXES = ("batch", "head", "query", "key")

Index = int | slice | Sequence[int] | Tensor
Axis = Index | None
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def _exactly(
    method: Callable[Concatenate[AttentionMap, Rest], Result],
) -> Callable[Concatenate[AttentionMap, Rest], Result]:
    """Without gradients, and without autocast, which would round products to half precision."""

    def wrapped(self: AttentionMap, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with torch.no_grad(), torch.autocast(self._given.query.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return update_wrapper(wrapped, method)


class Top(NamedTuple):
    """The strongest links of every head, by falling weight: each (batch, n_head, k)."""

    weights: Tensor
    queries: Tensor  # rows, counted from 0
    keys: Tensor


class AttentionMap:
    """P = softmax(q k^T * scale), looked at like an array [batch, head, query, key], never built.

    A row sums to 1; to less where a sink takes a part, to 0 where nothing may be seen.

    Args:
        query: (batch, n_head, query_len, d_k); the rest is as in `attention`.
        key: (batch, n_kv_head, key_len, d_k).
        lse: the logsumexp of every row, if it is known: (batch, n_head, query_len).
        limit: the most weights that one tile may hold.

    Raises:
        ArgumentError: a tile over the limit (with the size in GiB), an index out of range.

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
            query.detach(),
            key.detach(),
            key.detach(),
            mask=mask,
            bias=bias,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
            query_offset=query_offset,
        )
        if lse is not None and lse.shape != call.query.shape[:3]:
            raise ArgumentError(
                message(
                    f"`lse` has shape {tuple(lse.shape)}, not {tuple(call.query.shape[:3])}.",
                    {"lse": lse, "query": query},
                    "Pass (batch, n_head, query_len).",
                )
            )
        self._given, self.limit = call, limit
        self._lse = None if lse is None else lse.detach().to(reference.exact(call.query))
        self._placed = query_offset is not None or call.sizes[2] == call.sizes[3]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, n_head, query_len, key_len)."""
        return self._given.sizes

    def __repr__(self) -> str:
        call = self._given
        return f"AttentionMap{list(self.shape)} of query {describe(call.query)}, mask {call.mask!r}"

    @property
    def _call(self) -> Call:
        """The call in float32 or float64: half precision could hold neither lse nor an entropy."""
        call = self._given
        dtype = reference.exact(call.query)
        return replace(
            call, query=call.query.to(dtype), key=call.key.to(dtype), value=call.key.to(dtype)
        )

    @property
    def lse(self) -> Tensor:
        """The logsumexp of every row of scores (and its sink): (batch, n_head, query_len)."""
        if self._lse is None:
            self._lse = self._attend(self._call)[1]
        return self._lse

    @_exactly
    def _attend(self, call: Call) -> Partial:
        part: Partial = engines.choose(call, "auto").run(call)
        return part

    # Tiles

    def __getitem__(self, index: Axis | tuple[Axis, ...]) -> Tensor:
        """The weights at [batch, head, query, key]; an int drops its axis, a slice does not."""
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) > 4 or any(part is None or part is Ellipsis for part in parts):
            raise ArgumentError(
                f"A map has the four axes batch, head, query and key, not {index!r}."
            )
        whole = (*parts, *[slice(None)] * (4 - len(parts)))
        picks = [
            _pick(part, size, name)
            for part, size, name in zip(whole, self.shape, _AXES, strict=True)
        ]
        count = math.prod(len(pick) for pick, _ in picks)
        if count > self.limit:
            sides = " x ".join(str(len(pick)) for pick, _ in picks)
            raise ArgumentError(
                f"A tile of {sides} weights takes {count * 4 / 2**30:.2f} GiB; "
                f"the limit is {self.limit * 4 / 2**30:.2f} GiB.\n"
                "Take fewer rows, or a statistic (times, thumbnail, top), or pass limit=..."
            )
        tile = self._tile(*(pick for pick, _ in picks))
        for axis in reversed([i for i, (_, single) in enumerate(picks) if single]):
            tile = tile.squeeze(axis)
        return tile

    def rows(self, queries: Index) -> Tensor:
        """The weights of some rows: (batch, n_head, len(queries), key_len)."""
        picked, _ = _pick(queries, self.shape[2], "query")
        return self[:, :, picked, :]

    @_exactly
    def _rows(self, queries: Tensor) -> Tensor:
        """Some rows of every head, without a limit."""
        batch, n_head, _, key_len = self.shape
        return self._tile(torch.arange(batch), torch.arange(n_head), queries, torch.arange(key_len))

    @_exactly
    def at(self, queries: Index, keys: Index) -> Tensor:
        """The weights of the pairs (queries[n], keys[n]), one product each: (batch, n_head, n)."""
        i, _ = _pick(queries, self.shape[2], "query")
        j, _ = _pick(keys, self.shape[3], "key")
        if len(i) != len(j):
            raise ArgumentError(f"{len(i)} queries and {len(j)} keys make no pairs.\nPass as many.")
        batch, n_head, _, _ = self.shape
        call, lse, dtype = self._given, self.lse, reference.exact(self._given.query)
        result = lse.new_empty((batch, n_head, len(i)))
        step = max(1, BLOCK // max(1, batch * n_head * call.query.shape[3]))
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            q = call.query[:, :, i[part]].to(dtype)
            k = call.key[:, :, j[part]].to(dtype).repeat_interleave(call.group, dim=1)
            product = (q * k).sum(dim=-1).unsqueeze(2) * call.scale
            at = self._places(
                torch.arange(batch), torch.arange(n_head), i[part], j[part], pairs=True
            )
            score = reference.rules(call, product, at).squeeze(2)
            result[:, :, part] = _exp(score, lse[:, :, i[part]])
        return result

    def top(
        self,
        k: int,
        rows: Index | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Top:
        """The k strongest links of every head among some rows (None: all), exact.

        `progress(rows done, rows in all)` is called after every block that was looked through.
        """
        if k < 1:
            raise ArgumentError(f"`k` is {k}, how many links to find.\nPass 1 or more.")
        queries = self._chosen(rows)
        batch, n_head, _, key_len = self.shape
        step = max(1, BLOCK // max(1, batch * n_head * key_len))
        best: Top | None = None
        for start in range(0, len(queries), step):
            here = queries[start : start + step]
            tile = self._rows(here).flatten(2)
            weights, at = tile.topk(min(k, tile.shape[2]), dim=2)
            found = Top(weights, here.to(at.device)[at // key_len], at % key_len)
            if best is not None:
                both = Top(*(torch.cat(pair, dim=2) for pair in zip(best, found, strict=True)))
                order = both.weights.argsort(dim=2, descending=True, stable=True)[:, :, :k]
                found = Top(*(part.gather(2, order) for part in both))
            best = found
            progress(start + len(here), len(queries))
        assert best is not None
        return best

    def _chosen(self, rows: Index | None) -> Tensor:
        """Some rows, None for all; at least one."""
        queries, _ = _pick(slice(None) if rows is None else rows, self.shape[2], "query")
        if not len(queries):
            raise ArgumentError("There are no rows to look through.\nPass at least one.")
        return queries

    def flat(self) -> AttentionMap:
        """Equal weights for all keys that a row may see; its `lse` is the log of their number.

        What a pattern is compared with: `m.mass(keys) / m.flat().mass(keys)`.
        """
        call = self._given
        batch, n_head, query_len, key_len = self.shape
        nothing = call.query.new_zeros((1, 1, 1, 1), dtype=reference.exact(call.query))
        return AttentionMap(
            nothing.expand(batch, n_head, query_len, 1),
            nothing.expand(batch, n_head, key_len, 1),
            mask=call.mask,
            query_offset=call.query_offset,
            limit=self.limit,
        )

    @property
    def mask(self) -> Mask:
        """Who may see whom."""
        return self._given.mask

    # Statistics

    @_exactly
    def times(self, X: Tensor) -> Tensor:
        """P X (batch, n_head, query_len, c); X is (key_len, c) or (batch, n_kv_head, ...)."""
        call = self._call
        X = _spread("X", X, "keys", (*call.key.shape[:2], self.shape[3]))
        return self._attend(replace(call, value=X.to(call.key)))[0]

    def t_times(self, Y: Tensor) -> Tensor:
        """P^T Y (batch, n_head, key_len, c); Y is (query_len, c) or (batch, n_head, ...)."""
        return self._columns(Y)[0]

    def received(self) -> Tensor:
        """The weight that every key receives, P^T 1: (batch, n_head, key_len)."""
        return self._columns(None)[1]

    @_exactly
    def entropy(self) -> Tensor:
        """-sum_j P_ij ln P_ij of every row, in nats: (batch, n_head, query_len).

        = lse_i m_i - sum_j P_ij score_ij, with m_i the row's sum; a sink's part does not count.
        """
        call = self._call
        if call.bias is not None or call.softcap is not None:
            total = call.query.new_zeros(self.shape[:3])
            for rect, P, score in self._stream():
                finite = score.masked_fill(score == -torch.inf, 0)
                where = _rows(rect)
                lse = self.lse[where].unsqueeze(-1)
                lse = lse.masked_fill(lse == -torch.inf, 0)  # an empty row, where P is 0
                total[where] += (P * (lse - finite)).sum(dim=-1)
            return total
        out, lse = self._attend(call)  # the values are the keys: P K
        self._lse = lse
        mean_score = (call.query * out).sum(dim=-1) * call.scale
        empty = lse == -torch.inf
        mass = 1.0 if call.sinks is None else 1 - (call.sinks.view(1, -1, 1) - lse).exp()
        return (lse * mass - mean_score).masked_fill(empty, 0)

    def mass(self, keys: Index) -> Tensor:
        """The weight that every row puts on chosen keys: (batch, n_head, query_len)."""
        picked, _ = _pick(keys, self.shape[3], "key")
        column = torch.zeros(self.shape[3], 1, device=picked.device)
        column[picked] = 1
        return self.times(column).squeeze(-1)

    @_exactly
    def mean_distance(self) -> Tensor:
        """sum_j P_ij |i - j|, to some 1e-6 of the length: (batch, n_head, query_len)."""
        call = self._call
        _, _, query_len, key_len = self.shape
        if not self._placed:
            raise ArgumentError(
                f"Where do {query_len} queries stand among {key_len} keys? A distance needs it.\n"
                f"Make the map with query_offset=0 (the first query at the first key), "
                f"{key_len - query_len} (the last at the last), or another position."
            )
        device = call.query.device
        position = torch.arange(key_len, device=device, dtype=call.query.dtype)
        X = torch.stack((torch.ones_like(position), position), dim=1)
        X = X.expand(*call.key.shape[:2], key_len, 2)
        offset = call.query_offset
        start = offset.to(device)[:, None, None] if isinstance(offset, Tensor) else offset
        i = torch.arange(query_len, device=device) + start
        sums = self._attend(replace(call, value=X))[0]
        back, back_lse = self._attend(
            replace(call, value=X, mask=call.mask & Causal(), sinks=None)
        )  # the keys that do not stand after the query, in their share of the row
        back = back * share(back_lse, self.lse)
        ahead = sums - back
        return (i * back[..., 0] - back[..., 1]) + (ahead[..., 1] - i * ahead[..., 0])

    def thumbnail(self, n: int = 64) -> Tensor:
        """Exact means of n x n blocks of the map: (batch, n_head, n, n), n at most the lengths."""
        if n < 1:
            raise ArgumentError(f"`n` is {n}, the blocks of a side.\nPass 1 or more.")
        _, _, query_len, key_len = self.shape
        rows, cols = min(n, query_len), min(n, key_len)
        device = self._given.query.device
        of_key = torch.arange(key_len, device=device) * cols // key_len
        of_row = torch.arange(query_len, device=device) * rows // query_len
        X = (of_key[:, None] == torch.arange(cols, device=device)).to(
            reference.exact(self._given.query)
        )
        X = X / X.sum(dim=0)
        by_row = self.times(X)
        sums = by_row.new_zeros((*by_row.shape[:2], rows, cols)).index_add_(2, of_row, by_row)
        counts = torch.bincount(of_row, minlength=rows)
        return sums / counts.view(-1, 1)

    @_exactly
    def proof(self, value: Tensor, output: Tensor, rows: Index | None = None) -> float:
        """The largest difference between P V, made of the weights that are shown, and an output.

        Args:
            value: (batch, n_kv_head, key_len, d_v).
            output: (batch, n_head, query_len, d_v), the heads' outputs before WO.
            rows: the rows to check; None is all of them, streamed.

        Raises:
            ArgumentError: a value or an output of another shape, no rows.
        """
        batch, n_head, query_len, key_len = self.shape
        kv_shape, out_shape = (*self._given.key.shape[:2], key_len), (batch, n_head, query_len)
        if (
            value.shape[:3] != kv_shape
            or output.shape[:3] != out_shape
            or value.shape[3:] != output.shape[3:]
            or value.ndim != 4
        ):
            raise ArgumentError(
                message(
                    "P V cannot be the output: the sizes disagree.",
                    {"map": list(self.shape), "value": value, "output": output},
                    f"Pass a value ({', '.join(map(str, kv_shape))}, d_v) and an output "
                    f"({', '.join(map(str, out_shape))}, d_v).",
                )
            )
        queries = self._chosen(rows)
        v = value.detach().to(reference.exact(self._given.query))
        v = v.repeat_interleave(n_head // v.shape[1], dim=1)
        step = max(1, BLOCK // max(1, batch * n_head * key_len))
        worst = 0.0
        for here in queries.split(step):
            ours = self._rows(here) @ v
            theirs = output[:, :, here.to(output.device)].to(v.dtype)
            if ours.numel():
                difference = float((ours - theirs).abs().max())
                worst = max(worst, math.inf if math.isnan(difference) else difference)
        return worst

    # Inside

    @_exactly
    def _columns(self, Y: Tensor | None) -> tuple[Tensor, Tensor]:
        """P^T Y and P^T 1."""
        call, lse = self._call, self.lse
        batch, n_head, query_len, key_len = self.shape
        if Y is None:
            Y = call.query.new_zeros((query_len, 1))
        Y = _spread("Y", Y, "queries", (batch, n_head, query_len)).to(call.query)
        if call.softcap is not None or call.scale == 0:  # q k^T with one more channel cannot be
            sums, ones = (
                Y.new_zeros((batch, n_head, key_len, Y.shape[3])),
                Y.new_zeros(batch, n_head, key_len),
            )
            for rect, P, _ in self._stream():
                where = _keys(rect)
                sums[where] += P.transpose(-2, -1) @ Y[_rows(rect)]
                ones[where] += P.sum(dim=2)
            return sums, ones
        known = lse.masked_fill(lse == -torch.inf, 0)  # an empty row is hidden from all keys
        one = call.key.new_ones((batch, n_head, key_len, 1))
        swapped = replace(
            call,
            query=torch.cat((call.key.repeat_interleave(call.group, dim=1), one), dim=-1),
            key=torch.cat((call.query, -known.unsqueeze(-1) / call.scale), dim=-1),
            value=Y,
            mask=call.mask
            if isinstance(call.mask, Full)
            else Transposed(call.mask, call.query_offset),
            bias=None if call.bias is None else TransposedBias(call.bias, call.query_offset),
            sinks=None,
            query_offset=0,
        )
        out, column_lse = self._attend(swapped)
        ones = column_lse.exp()
        return out * ones.unsqueeze(-1), ones

    def _stream(self) -> Iterator[tuple[Rect, Tensor, Tensor]]:
        """Every rectangle that holds something: (where, its weights, its scores)."""
        call, lse = self._call, self.lse
        for piece in plan(call, wide=None):
            rect = piece.rect
            width = max(ROWS, BLOCK // max(1, call.sizes[0] * call.sizes[1] * (rect.q1 - rect.q0)))
            for k0 in range(rect.k0, rect.k1, width):
                part = rect._replace(k0=k0, k1=min(k0 + width, rect.k1))
                cut = replace(
                    call,
                    query=call.query[_rows(part)],
                    key=call.key[_keys(part)],
                    value=call.value[_keys(part)],
                )
                score = reference.scores(cut, call.places(part))
                yield part, _exp(score, lse[_rows(part)].unsqueeze(-1)), score

    @_exactly
    def _tile(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        call, dtype = (
            self._given,
            reference.exact(self._given.query),
        )  # cast what is gathered, not all
        q = _take(call.query, b, h, i).to(dtype) * call.scale
        k = _take(call.key, b, h // call.group, j).to(dtype)
        at = self._places(b, h, i, j)
        score = reference.rules(replace(call, mask=FULL), q @ k.transpose(-2, -1), at)
        if not isinstance(call.mask, Full):  # one mask serves all heads: added, not filled in
            visible = call.mask.visible(at)
            score = score.add_(
                torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)
            )
        lse = self._lse_of(b, h, i).unsqueeze(-1)
        return score.sub_(lse.masked_fill(lse == -torch.inf, 0)).exp_()

    def _lse_of(self, b: Tensor, h: Tensor, i: Tensor) -> Tensor:
        """The lse of some rows; of a few rows of a long map computed for them alone."""
        call, (_, _, query_len, key_len) = self._given, self.shape
        few = 8 * len(i) <= query_len and query_len * key_len > BLOCK
        if self._lse is not None or not few:
            return _take(self.lse, b, h, i)
        dtype = reference.exact(call.query)
        q = _take(call.query, b, h, i).to(dtype)
        lse = q.new_full(q.shape[:3], -torch.inf)
        if call.sinks is not None:
            lse = call.sinks.to(q)[h].view(1, -1, 1).expand(lse.shape)
        for j in torch.arange(key_len).split(max(1, BLOCK // max(1, lse.numel()))):
            k = _take(call.key, b, h // call.group, j).to(dtype)
            product = q @ k.transpose(-2, -1) * call.scale
            score = reference.rules(call, product, self._places(b, h, i, j))
            lse = logaddexp(lse, score.logsumexp(dim=-1))
        return lse

    def _places(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, pairs: bool = False) -> At:
        """Chosen places; with `pairs` the queries lie along the keys."""
        device = self._given.query.device
        b, h, i, j = (x.to(device) for x in (b, h, i, j))
        batch, row = b.view(-1, 1, 1, 1), i.view((1, 1, 1, -1) if pairs else (1, 1, -1, 1))
        offset = self._given.query_offset
        start = offset.to(device)[batch] if isinstance(offset, Tensor) else offset
        return At(batch, h.view(1, -1, 1, 1), row, row + start, j.view(1, 1, 1, -1))


def rollout(maps: Sequence[AttentionMap], vector: Tensor, residual: float = 0.5) -> Tensor:
    """Where an output comes from: v <- residual v + (1 - residual) mean_h(P_h^T v), last map first.

    `vector` (query_len,) says which outputs are asked about (1 at one word, say); the result
    (batch, key_len) says how much comes from every input. Vector products only.
    Source: Abnar and Zuidema 2020 (arXiv:2005.00928), section 3, with the mean over heads.
    """
    flow = vector
    for layer, one in reversed(list(enumerate(maps))):
        batch, n_head, query_len, key_len = one.shape
        if not flow.shape[-1] == query_len == key_len:
            raise ArgumentError(
                f"Map {layer} has {query_len} queries and {key_len} keys, and {flow.shape[-1]} "
                "numbers flow back into it.\n"
                "Pass the maps of successive layers over the same words, and one number a word."
            )
        column = flow.expand(batch, query_len)[:, None, :, None].expand(-1, n_head, -1, 1)
        flow = residual * flow + (1 - residual) * one.t_times(column).squeeze(-1).mean(dim=1)
    return flow


def _spread(name: str, X: Tensor, what: str, shape: tuple[int, int, int]) -> Tensor:
    """X for every sample and head: (batch, head, rows, c)."""
    if not X.is_floating_point():
        raise KindError(message("A map is multiplied with floats.", {name: X}, "Cast it."))
    batch, heads, rows = shape
    fits = X.ndim == 2 or (X.ndim == 4 and X.shape[0] in (1, batch) and X.shape[1] in (1, heads))
    if not fits or X.shape[-2] != rows:
        raise ArgumentError(
            message(
                f"P has {rows} {what}, which are the rows of {name}.",
                {name: X},
                f"Pass ({rows}, c) or ({batch}, {heads}, {rows}, c).",
            )
        )
    return X.expand(batch, heads, *X.shape[-2:])


def _take(x: Tensor, *picks: Tensor) -> Tensor:
    """x at every combination of picks along its first axes; neighbours are cut out, not copied."""
    for axis, pick in enumerate(picks):
        start = int(pick[0]) if len(pick) else 0
        if bool((pick == torch.arange(start, start + len(pick))).all()):
            x = x.narrow(axis, start, len(pick))
        else:
            x = x.index_select(axis, pick.to(x.device))
    return x


def _exp(score: Tensor, lse: Tensor) -> Tensor:
    """exp(score - lse), 0 where the row is empty."""
    return (score - lse.masked_fill(lse == -torch.inf, 0)).exp()


def _rows(rect: Rect) -> tuple[slice, ...]:
    return (_samples(rect), slice(None), slice(rect.q0, rect.q1))


def _keys(rect: Rect) -> tuple[slice, ...]:
    return (_samples(rect), slice(None), slice(rect.k0, rect.k1))


def _samples(rect: Rect) -> slice:
    return slice(None) if rect.sample is None else slice(rect.sample, rect.sample + 1)


def _pick(given: Any, size: int, name: str) -> tuple[Tensor, bool]:
    """An index as positions, and whether it was a single int."""
    if isinstance(given, slice):
        return torch.tensor(range(size)[given], dtype=torch.long), False
    what = f"The {name} axis takes an int, a slice or a list of ints, not {describe(given)}."
    single = not isinstance(given, bool) and _is_int(given)
    try:
        picked = torch.as_tensor([operator.index(given)] if single else given)
    except (TypeError, ValueError, RuntimeError):  # what torch cannot read as numbers
        raise KindError(what) from None
    if picked.dtype == torch.bool and picked.shape == (size,):
        return picked.nonzero().flatten().cpu(), False
    if picked.shape == (0,):
        return torch.zeros(0, dtype=torch.long), False  # an empty list has no kind of number
    if picked.is_floating_point() or picked.dtype == torch.bool or picked.ndim != 1:
        raise KindError(what)
    picked = picked.cpu().long()
    if not (-size <= int(picked.min()) and int(picked.max()) < size):
        wrong = int(picked.max()) if int(picked.max()) >= size else int(picked.min())
        raise ArgumentError(f"There is no {name} {wrong}: the map has {size}, 0 to {size - 1}.")
    return picked % max(size, 1), single


def _is_int(given: Any) -> bool:
    """Whether it counts as one int, as a number of NumPy's and a tensor of no axis do."""
    if isinstance(given, Tensor) and (given.ndim or given.dtype == torch.bool):
        return False
    try:
        operator.index(given)
    except TypeError:
        return False
    return True
