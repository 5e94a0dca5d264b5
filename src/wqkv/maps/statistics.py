"""Statistics, search and proof over a whole map: no N x N, memory in O(N).

Sums along a row, P X, are fused calls with the values replaced by X. Sums along a column, P^T Y,
go through the map in blocks: one matrix product and one exp2, cheaper than a fused call, which
would have to compute with a value for every channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.engines.reference import repeat_heads
from wqkv.attend.geometry import check_held
from wqkv.attend.masks import Causal
from wqkv.attend.partial import share
from wqkv.errors import ArgumentError, KindError, message
from wqkv.maps.picks import Line, cut, numbers, take
from wqkv.maps.weights import Numbers, Weights


class Top(NamedTuple):
    """The strongest links of every head, by falling weight: each (batch, n_head, k)."""

    weights: Tensor  # of a LinkMap its numbers, by falling absolute value, NaN last
    queries: Tensor  # rows, counted from 0
    keys: Tensor


def times(P: Weights, X: Tensor) -> Tensor:
    """P X."""
    key = P.call.key
    floats("X", X, P.device)
    return P.times(spread("X", X, "keys", key.shape[:3]).to(key))[0]


def t_times(P: Weights, Y: Tensor) -> Tensor:
    """P^T Y."""
    floats("Y", Y, P.device)
    Y = spread("Y", Y, "queries", P.sizes[:3]).to(P.lse)
    batch, n_head, _, key_len = P.sizes
    sums = Y.new_zeros((batch, n_head, key_len, Y.shape[3]))
    for block in P.blocks():
        sums[block.keys] += P.block(block).mT @ Y[block.rows]
    return sums


def received(P: Weights) -> Tensor:
    """P^T 1."""
    batch, n_head, _, key_len = P.sizes
    sums = P.lse.new_zeros((batch, n_head, key_len))
    for block in P.blocks():
        sums[block.keys] += P.block(block).sum(dim=2)
    return sums


def entropy(P: Weights) -> Tensor:
    """-sum_j P_ij ln P_ij = lse_i m_i - sum_j P_ij score_ij, with m_i the row's sum."""
    call, rules = P.call, P.given.rules
    # With either of them the scores are not linear in the keys.
    if rules.bias is not None or rules.softcap is not None:
        total = torch.zeros_like(P.lse)
        for block in P.blocks():
            total[block.rows] += torch.special.entr(P.block(block)).sum(dim=-1)
        return total
    PK, mine = P.times(call.key)
    lse = P.lse
    mean_score = (call.query * PK).sum(dim=-1) * call.scale
    sinks = rules.sinks
    mass = mine if sinks is None else mine - (sinks.view(1, -1, 1) - lse).exp()
    return (lse * mass - mean_score).masked_fill(lse == -torch.inf, 0)


def mass(P: Weights, keys: Line) -> Tensor:
    """P X with one column, 1 at the keys."""
    column = torch.zeros(P.sizes[3], 1, device=P.device)
    column[numbers(keys, P.device)] = 1
    return times(P, column).squeeze(-1)


def mean_distance(P: Weights) -> Tensor:
    """sum_j P_ij |i - j|."""
    call, offset = P.call, P.given.query_offset
    _, _, query_len, key_len = P.sizes
    position = numbers(range(key_len), P.device).to(P.dtype)
    X = torch.stack((torch.ones_like(position), position), dim=1)
    X = X.expand(*call.key.shape[:2], key_len, 2)
    start = offset.to(P.device)[:, None, None] if isinstance(offset, Tensor) else offset
    i = numbers(range(query_len), P.device) + start
    sums, _ = P.times(X)
    # the same sums over the keys that do not stand after the query, times their share of the row
    rules = call.rules.without_sinks()
    back, back_lse = P.attend(X, replace(rules, mask=rules.mask & Causal()))
    back = back * share(back_lse, P.lse)
    ahead = sums - back
    return (i * back[..., 0] - back[..., 1]) + (ahead[..., 1] - i * ahead[..., 0])


def thumbnail(P: Weights, n: int, row: int, query_len: int) -> Tensor:
    """The means of n x n blocks: P X with one column per block of keys, then means of rows.

    P has the rows from `row` on of `query_len`; the other rows count as 0 in the means.
    """
    if n < 1:
        raise ArgumentError(f"`n` is {n}, the blocks of a side.\nPass 1 or more.")
    key_len = P.sizes[3]
    rows, cols = min(n, query_len), min(n, key_len)
    of_key = numbers(range(key_len), P.device) * cols // key_len
    of_row = numbers(range(query_len), P.device) * rows // query_len
    here = of_row[row : row + P.sizes[2]]
    X = (of_key[:, None] == numbers(range(cols), P.device)).to(P.dtype)
    by_row = times(P, X / X.sum(dim=0))
    sums = by_row.new_zeros((*by_row.shape[:2], rows, cols)).index_add_(2, here, by_row)
    return sums / torch.bincount(of_row, minlength=rows).view(-1, 1)


def absolute_means(
    x: Numbers, n: int, lengths: tuple[int, int], progress: Callable[[int, int], None]
) -> Tensor:
    """The means of the absolute values of n x n blocks; NaN counts as 0. One pass over rows.

    The map begins one of `lengths`, whose rest is 0.
    """
    batch, n_head, query_len, _ = x.sizes
    rows, cols = (min(n, length) for length in lengths)
    of_row, of_key = (
        numbers(range(length), x.device) * blocks // length
        for length, blocks in zip(lengths, (rows, cols), strict=True)
    )
    sums = torch.zeros((batch, n_head, rows, cols), dtype=torch.float64, device=x.device)
    for b, h, i, j in x.parts(numbers(range(query_len), x.device)):
        sizes = x.tile(b, h, i, j).nan_to_num(nan=0).abs().double()
        by_key = sizes.new_zeros((*sizes.shape[:3], cols)).index_add_(3, of_key[cut(j)], sizes)
        sums[cut(b), cut(h)] = sums[cut(b), cut(h)].index_add(2, of_row[numbers(i)], by_key)
        progress(int(numbers(i)[-1]) + 1, query_len)
    counts = torch.bincount(of_row, minlength=rows)[:, None] * torch.bincount(
        of_key, minlength=cols
    )
    return (sums / counts).to(x.dtype)


def top(P: Numbers, k: int, queries: Tensor, progress: Callable[[int, int], None]) -> Top:
    """Search the k strongest links of every head among some rows, block by block."""
    wanted(k, queries)
    batch, n_head, _, key_len = P.sizes
    k, done = min(k, len(queries) * key_len), 0
    best: dict[tuple[int, int], Top] = {}  # by the first sample and head of each tile
    for b, h, here, j in P.parts(queries, at_least=k):
        tile = P.tile(b, h, here, j)
        at = _largest(strength(tile), k)
        width, of = max(1, len(j)), (b.start, h.start)
        found = Top(
            tile.flatten(2).gather(2, at),
            numbers(here, at.device)[at // width],
            at % width + j.start,
        )
        if of in best:
            both = zip(best[of], found, strict=True)
            found = strongest(Top(*(torch.cat(pair, dim=2) for pair in both)), k)
        best[of] = found
        if (b.stop, h.stop) == (batch, n_head):
            done += len(here)
            progress(done, len(queries))
    # Tiles are of whole samples, or of heads of one sample: in order, all heads of all samples.
    columns = zip(*best.values(), strict=True)
    return Top(
        *(torch.cat([x.flatten(0, 1) for x in one]).view(batch, n_head, k) for one in columns)
    )


def _largest(x: Tensor, k: int) -> Tensor:
    """Where the k largest of each (row, key) of x (batch, head, row, key) are, counted flat.

    They lie in the k rows with the largest maxima, which are found faster than they are.
    """
    _, _, rows, width = x.shape
    k = min(k, rows * width)
    if rows <= k or not width:
        return x.flatten(2).topk(k, dim=2).indices
    best = x.amax(dim=3).topk(k, dim=2).indices
    there = x.gather(2, best.unsqueeze(-1).expand(-1, -1, -1, width))
    at = there.flatten(2).topk(k, dim=2).indices
    return best.gather(2, at // width) * width + at % width


def strength(x: Tensor) -> Tensor:
    """By what numbers are ranked: their absolute value; NaN comes last."""
    return x.abs().nan_to_num_(nan=-1.0, posinf=torch.inf)


def wanted(k: int, queries: Tensor) -> None:
    """Raise where no link is asked for."""
    if k < 1:
        raise ArgumentError(f"`k` is {k}, how many links to find.\nPass 1 or more.")
    some(queries)


def strongest(found: Top, k: int) -> Top:
    """The k strongest of some links."""
    order = strength(found.weights).argsort(dim=2, descending=True, stable=True)[:, :, :k]
    return Top(*(part.gather(2, order) for part in found))


def proof(P: Weights, value: Tensor, output: Tensor, queries: Tensor) -> float:
    """The largest difference between P V and an output, among some rows."""
    fits(P.sizes, P.given.key.shape[1], value, {"output": output}, P.device)
    v = repeat_heads(value.detach().to(P.dtype), P.given.group)
    worst = 0.0
    for b, h, here, j in P.parts(some(queries)):
        ours = P.tile(b, h, here, j) @ v[cut(b), cut(h), cut(j)]
        theirs = take(output, b, h, here).to(v.dtype)
        if ours.numel():
            difference = float((ours - theirs).abs().max())
            worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst


def fits(
    sizes: Sequence[int],
    n_kv_head: int,
    value: Tensor,
    outputs: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Raise unless a map of these sizes times the value may be each of the outputs."""
    batch, n_head, query_len, key_len = sizes
    kv_shape, out_shape = (batch, n_kv_head, key_len), (batch, n_head, query_len)
    floats("value", value, device)
    for name, output in outputs.items():
        floats(name, output, device)
        if (
            value.shape[:3] != kv_shape
            or output.shape[:3] != out_shape
            or value.shape[3:] != output.shape[3:]
            or value.ndim != 4
        ):
            raise ArgumentError(
                message(
                    f"P V cannot be the {name}: the sizes disagree.",
                    {"map": list(sizes), "value": value, name: output},
                    f"Pass a value ({', '.join(map(str, kv_shape))}, d_v) and an {name} "
                    f"({', '.join(map(str, out_shape))}, d_v).",
                )
            )


def floats(name: str, x: Tensor, device: torch.device) -> None:
    """Raise unless a tensor holds floats that can be read."""
    check_held(name, x, device)
    if not x.is_floating_point():
        raise KindError(message("A map is multiplied with floats.", {name: x}, "Cast it."))


def some(queries: Tensor) -> Tensor:
    """Return the rows; raise if there are none."""
    if not len(queries):
        raise ArgumentError("There are no rows to look through.\nPass at least one.")
    return queries


def spread(name: str, X: Tensor, what: str, sizes: Sequence[int]) -> Tensor:
    """X for every sample and head of `sizes` (batch, head, rows): (batch, head, rows, c)."""
    batch, heads, rows = sizes
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
