"""Numbers of the links of one call, made of its weights: P_ij R_i . C_j, and effects of removal.

A tile costs that of the weights and one product more. What is a sum over keys or queries costs
fused calls, because it is linear in P (F3 in DESIGN.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from wqkv.attend.engines.reference import repeat_heads
from wqkv.attend.masks import Dense
from wqkv.attend.partial import logaddexp, share
from wqkv.errors import ArgumentError, message
from wqkv.maps import statistics, weights
from wqkv.maps.picks import Line, cut, numbers, take
from wqkv.maps.weights import LOG2E, Numbers, Weights, key_heads

#: A link of more weight than this is removed by computing its row again without it: 1 - P would
#: have lost digits. At most one link of a row is heavier, whatever rounding does.
HEAVY = 0.75


class Links(Numbers):
    """P_ij R_i . C_j of one call.

    Args:
        C: (batch, n_head or n_kv_head, key_len, c).
        R: (batch, n_head, query_len, c); None is 1 everywhere, and then c is 1.
        made_of: the tensors of the caller that R and C were made of.
    """

    def __init__(self, P: Weights, C: Tensor, R: Tensor | None, made_of: Sequence[Tensor]) -> None:
        super().__init__(P.sizes, P.device, [*(x for x, _ in P.made_of), *made_of])
        self.P, self.C, self.dtype = P, C, P.dtype
        self.R = R
        self.group = P.sizes[1] // max(1, C.shape[1])
        # A value that is hidden may be NaN, and 0 * NaN is not 0: see `_where_seen`.
        self.spoiled = not bool(C.isfinite().all())

    def parts(
        self, queries: Tensor, at_least: int = 1
    ) -> Iterator[tuple[range, range, Line, range]]:
        return self.P.parts(queries, at_least)

    def tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        return self.with_weights(b, h, i, j)[1]

    def with_weights(self, b: Line, h: Line, i: Line, j: Line) -> tuple[Tensor, Tensor]:
        """The weights of a tile, and its numbers."""
        P = self.P.tile(b, h, i, j)
        return P, self._where_seen(P, P * self._factors(b, h, i, j))

    def pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        P = self.P.pairs(queries, keys)
        return self._where_seen(P, P * self._factors_of_pairs(queries, keys))

    def of_rows(self) -> Tensor:
        """The sum over all keys."""
        return self._summed(self.C)

    def of_some(self, keys: Tensor) -> Tensor:
        """The sum over some keys, which are True in `keys` (key_len,)."""
        return self._summed(self.C * keys.to(self.C).unsqueeze(-1))

    def _summed(self, C: Tensor) -> Tensor:
        """sum_j P_ij R_i . C_j: one call."""
        if self.R is not None:
            return (self.R * self.P.times(C)[0]).sum(dim=-1)
        # The query heads that share a key head each have a column of its values.
        n_kv_head, group = self.P.given.key.shape[1], self.P.given.group
        sums, _ = self.P.times(C.squeeze(-1).unflatten(1, (n_kv_head, group)).mT)
        own: Tensor = sums.unflatten(1, (n_kv_head, group)).diagonal(dim1=2, dim2=4)
        return own.mT.flatten(1, 2)

    def of_keys(self) -> Tensor:
        """The sum over all queries: one pass over tiles."""
        if self.R is None:
            weight = statistics.received(self.P)
            return self._where_seen(weight, weight * self.C.squeeze(-1))
        sums = statistics.t_times(self.P, self.R)
        return self._where_seen(sums, sums * repeat_heads(self.C, self.group)).sum(dim=-1)

    def _factors(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        """R_i . C_j at every combination of batch, head, query and key; C_j without R."""
        if self.R is None:
            return take(self.C, b, h, j).mT
        shared = key_heads(h, self.group)
        rows, keys = take(self.R, b, h, i), take(self.C, b, shared, j)
        heads = len(h) // max(1, len(shared))
        folded = rows.reshape(len(b), len(shared), heads * len(i), rows.shape[3])
        return (folded @ keys.mT).view(len(b), len(h), len(i), len(j))

    def _factors_of_pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        """R_i . C_j of the pairs (queries[n], keys[n])."""
        batch, n_head, _, _ = self.sizes
        C = repeat_heads(take(self.C, range(batch), range(self.C.shape[1]), keys), self.group)
        if self.R is None:
            return C[..., 0]
        return (take(self.R, range(batch), range(n_head), queries) * C).sum(dim=-1)

    def _where_seen(self, P: Tensor, x: Tensor) -> Tensor:
        """x with 0 where the weight is 0, because a value that nobody sees may be NaN."""
        return x.masked_fill_(P == 0, 0) if self.spoiled else x


class Removals(Links):
    """What removing each link does to a scalar L, to first order: -gradient_ij / (1 - P_ij).

    The gradient is P_ij R_i . C_j, where R is (g, -g . o), C is (v, 1), and g the gradient of L
    with respect to the head's output o. A link that is all of its row is NaN.
    """

    R: Tensor  # never None here

    @property
    def whole(self) -> Tensor:
        """g . o of every row."""
        return -self.R[..., -1]

    def with_weights(self, b: Line, h: Line, i: Line, j: Line) -> tuple[Tensor, Tensor]:
        reach = self.P.reach(numbers(i))
        # A tile that holds all of its rows has what a heavy link needs.
        if isinstance(j, range) and j.start <= reach.start and reach.stop <= j.stop:
            return self._whole_rows(b, h, i, j)
        P = self.P.tile(b, h, i, j)
        found = self._where_seen(P, _light(P, self._factors(b, h, i, j)))
        heavy = _of_any_head(P.amax(dim=3) > HEAVY) if found.numel() else numbers(range(0))
        for here in heavy.split(max(1, weights.BLOCK // max(1, len(b) * len(h) * self.sizes[3]))):
            some, whole = numbers(i, heavy.device)[here], range(self.sizes[3])
            _, rows = self._whole_rows(b, h, some, whole)
            found[:, :, here] = rows.index_select(3, numbers(j, heavy.device))
        return P, found

    def pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        batch, n_head, _, key_len = self.sizes
        P = self.P.pairs(queries, keys)
        found = self._where_seen(P, _light(P, self._factors_of_pairs(queries, keys)))
        heavy = _of_any_head(P > HEAVY)
        for here in heavy.split(max(1, weights.BLOCK // max(1, batch * n_head * key_len))):
            i = queries.to(heavy.device)[here]
            _, rows = self._whole_rows(range(batch), range(n_head), i, range(key_len))
            j = keys.to(heavy.device)[here].view(1, 1, -1, 1).expand(batch, n_head, -1, 1)
            found[:, :, here] = rows.gather(3, j).squeeze(3)
        return found

    def of_rows(self) -> Tensor:
        sums = torch.zeros_like(self.whole)
        for b, h, here, j in self.parts(numbers(range(self.sizes[2]))):
            sums[cut(b), cut(h), numbers(here)] = self.tile(b, h, here, j).nansum(dim=3)
        return sums

    def of_keys(self) -> Tensor:
        batch, n_head, query_len, key_len = self.sizes
        sums = self.whole.new_zeros((batch, n_head, key_len))
        for b, h, here, j in self.parts(numbers(range(query_len))):
            sums[cut(b), cut(h), cut(j)] += self.tile(b, h, here, j).nansum(dim=2)
        return sums

    def of_some(self, keys: Tensor) -> Tensor:
        """What removing some keys of a row together does; they are True in `keys` (key_len,).

        Both sums are kept and divided once. Where most of the row goes, the row is computed again
        without them.
        """
        if not bool(keys.any()):
            return torch.zeros_like(self.whole)
        rules = self.P.given.rules
        sums, _ = self.P.times(self.C * keys.to(self.C).unsqueeze(-1))
        mass = sums[..., -1]
        found = -(self.R * sums).sum(dim=-1) / (1 - mass)
        others = replace(rules, mask=rules.mask & ~Dense(keys.view(1, 1, 1, -1)))
        out, lse = self.P.attend(self.C, others)
        removed = self._removed(self._carried(out), lse - _finite(self.P.lse), lambda x: x)
        return torch.where(mass > HEAVY, removed, found)

    def _whole_rows(self, b: Line, h: Line, i: Line, j: range) -> tuple[Tensor, Tensor]:
        logs, factors = self.P.logs(b, h, i, j), self._factors(b, h, i, j)
        P = (logs * LOG2E).exp2_()
        if not P.numel():
            return P, factors
        heavy = P.amax(dim=3) > HEAVY  # (batch, head, query)
        if not bool(heavy.any()):
            return P, self._where_seen(P, _light(P, factors))

        def pick(x: Tensor) -> Tensor:
            return take(x, b, h, i)[heavy]

        # The rows that have a heavy link, as (row, key), are computed again without it.
        away = P[heavy] > HEAVY
        logs = logs[heavy].masked_fill_(away, -torch.inf)
        lse = logs.logsumexp(dim=-1)
        if self.P.given.rules.sinks is not None:
            lse = logaddexp(lse, pick(self.P.log_sinks))
        W = (logs - _finite(lse).unsqueeze(-1)).exp_()
        carried = self._where_seen(W, W * (factors[heavy] + pick(self.whole).unsqueeze(-1)))
        removed = self._removed(carried.sum(dim=-1), lse, pick)
        found = self._where_seen(P, _light(P, factors))
        found[heavy] = torch.where(away, removed.unsqueeze(-1), found[heavy])
        return P, found

    def _removed(self, carried: Tensor, lse: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """How g . o changes if some rows become others, which give `carried` for g . o.

        Args:
            lse: of the other keys and the sink, less that of the row.
            pick: these rows of a tensor (batch, n_head, query_len).
        """
        if self._beyond is not None:
            mass, more = map(pick, self._beyond)
            total = logaddexp(lse, mass)
            carried = carried * share(lse, total)[..., 0] + more * (-_finite(total)).exp()
            lse = total
        return (carried - pick(self.whole)).masked_fill(lse == -torch.inf, torch.nan)

    def _carried(self, out: Tensor) -> Tensor:
        """g . (P v) of P C: R . (P C) is g . (P v) - g . o sum_j P."""
        return (self.R * out).sum(dim=-1) + self.whole * out[..., -1]

    @cached_property
    def _beyond(self) -> tuple[Tensor, Tensor] | None:
        """For keys that only a given lse counts: the log of their weight, and g . (P v).

        None if no lse was given.
        """
        if not self.P.open:
            return None
        out, mine = self.P.times(self.C)
        mass = self.P.log_beyond(mine)
        return mass, (self.whole - self._carried(out)).masked_fill(mass == -torch.inf, 0)


def contributions(P: Weights, value: Tensor, WO: Tensor) -> Links:
    """P_ij ||v_j WO_h||."""
    v, W = _parts_of_output(P, value, WO)
    # The norm of v WO is that of v R^T, with WO^T = Q R: no tensor (n_head, key_len, d_out).
    factor = torch.linalg.qr(W.mT, mode="r").R.mT
    norms = (repeat_heads(v, P.given.group) @ factor).norm(dim=-1, keepdim=True)
    return Links(P, norms, None, [value, WO])


def split(P: Weights, value: Tensor, WO: Tensor, direction: Tensor) -> Links:
    """P_ij v_j . (WO_h direction)."""
    v, W = _parts_of_output(P, value, WO)
    statistics.floats("direction", direction, P.device)
    if direction.shape != WO.shape[2:]:
        raise ArgumentError(
            message(
                f"`direction` is no direction of the output, which has {WO.shape[2]} channels.",
                {"direction": direction, "WO": WO},
                f"Pass ({WO.shape[2]},).",
            )
        )
    along = (W @ direction.detach().to(W)).unsqueeze(-1)
    return Links(P, repeat_heads(v, P.given.group) @ along, None, [value, WO, direction])


def gradients(P: Weights, value: Tensor, output: Tensor, grad_output: Tensor) -> Links:
    """P_ij (g_i . v_j - g_i . o_i)."""
    return Links(P, *_of_gradient(P, value, output, grad_output), [value, output, grad_output])


def removals(P: Weights, value: Tensor, output: Tensor, grad_output: Tensor) -> Removals:
    """What removing each link does to L, its weight going to the row's others."""
    return Removals(P, *_of_gradient(P, value, output, grad_output), [value, output, grad_output])


def zeroings(P: Weights, value: Tensor, output: Tensor, grad_output: Tensor) -> Links:
    """-P_ij g_i . v_j: what setting the value of each link to 0 does to L."""
    C, R = _of_gradient(P, value, output, grad_output)
    return Links(P, C[..., :-1], -R[..., :-1], [value, output, grad_output])


def _parts_of_output(P: Weights, value: Tensor, WO: Tensor) -> tuple[Tensor, Tensor]:
    """The value and WO in the dtype of the weights; raise unless their sizes fit."""
    batch, n_head, _, key_len = P.sizes
    came = {"value": value, "WO": WO}
    for name, x in came.items():
        statistics.floats(name, x, P.device)
    of_keys = (batch, P.given.key.shape[1], key_len)
    if (
        value.ndim != 4
        or value.shape[:3] != of_keys
        or WO.ndim != 3
        or WO.shape[:2] != (n_head, value.shape[3])
    ):
        raise ArgumentError(
            message(
                "The value and WO do not fit the map: the sizes disagree.",
                {"map": list(P.sizes), **came},
                f"Pass a value ({', '.join(map(str, of_keys))}, d_v) "
                f"and WO ({n_head}, d_v, d_out).",
            )
        )
    return value.detach().to(P.device, P.dtype), WO.detach().to(P.device, P.dtype)


def _of_gradient(
    P: Weights, value: Tensor, output: Tensor, grad_output: Tensor
) -> tuple[Tensor, Tensor]:
    """(v, 1) and (g, -g . o), whose product is g . v - g . o; raise unless all sizes fit."""
    if P.given.rules.dropout_p:
        raise ArgumentError(
            f"The call has dropout {P.given.rules.dropout_p}, and this map does not know which "
            "weights were dropped.\nMake the map, the output and its gradient in eval()."
        )
    outputs = {"output": output, "grad_output": grad_output}
    statistics.fits(P.sizes, P.given.key.shape[1], value, outputs, P.device)
    v, o, g = (x.detach().to(P.device, P.dtype) for x in (value, output, grad_output))
    whole = (g * o).sum(dim=-1, keepdim=True)
    one = v.new_ones((*v.shape[:3], 1))
    return torch.cat((v, one), dim=3), torch.cat((g, -whole), dim=3)


def _light(P: Tensor, factors: Tensor) -> Tensor:
    """-P factors / (1 - P), in place of the factors."""
    return factors.mul_(P).div_(P - 1)


def _finite(lse: Tensor) -> Tensor:
    """lse with 0 for empty rows, so that -inf - lse is -inf."""
    return lse.masked_fill(lse == -torch.inf, 0)


def _of_any_head(heavy: Tensor) -> Tensor:
    """The rows of (batch, head, row) that are True for any sample and head."""
    return heavy.flatten(0, 1).any(dim=0).nonzero().flatten()
