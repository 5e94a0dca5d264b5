"""Numbers of the links of one call, made of its weights: P_ij R_i . C_j, and effects of removal.

A tile costs that of the weights and one product more. What is a sum over keys or queries costs
fused calls, because it is linear in P (F3 in DESIGN.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from wqkv.attend.engines.reference import repeat_heads
from wqkv.attend.masks import Dense
from wqkv.attend.partial import logaddexp, share
from wqkv.errors import ArgumentError, message
from wqkv.maps import statistics
from wqkv.maps.picks import Line, numbers, take
from wqkv.maps.weights import Numbers, Weights, key_heads

#: A link of more weight than this is removed by computing its row again without it: 1 - P would
#: have lost digits. At most one link of a row is heavier, whatever rounding does.
HEAVY = 0.75


class Links(Numbers):
    """P_ij R_i . C_j of one call.

    Args:
        keys: C, (batch, n_head or n_kv_head, key_len, c).
        rows: R, (batch, n_head, query_len, c); None is 1 everywhere, and then c is 1.
        made_of: the tensors of the caller that R and C were made of.
    """

    def __init__(
        self, P: Weights, keys: Tensor, rows: Tensor | None, made_of: Sequence[Tensor]
    ) -> None:
        super().__init__(P.sizes, P.device, [*(x for x, _ in P.made_of), *made_of])
        self.P, self.keys, self.rows_of = P, keys, rows
        self.group = P.sizes[1] // max(1, keys.shape[1])

    def tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        P = self.P.tile(b, h, i, j)
        return _where_seen(P, P * self.factors(b, h, i, j))

    def factors(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        """R_i . C_j at every combination of batch, head, query and key; without R, 1 for all i."""
        shared = key_heads(h, self.group)
        keys = take(self.keys, b, shared, j)
        if self.rows_of is None:
            return take(self.keys, b, h, j).mT
        rows = take(self.rows_of, b, h, i)
        folded = rows.reshape(
            len(b), len(shared), len(h) // max(1, len(shared)) * len(i), rows.shape[3]
        )
        return (folded @ keys.mT).view(len(b), len(h), len(i), len(j))

    def pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        P = self.P.pairs(queries, keys)
        return _where_seen(P, P * self.factors_of_pairs(queries, keys))

    def factors_of_pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        """R_i . C_j of the pairs (queries[n], keys[n])."""
        batch, n_head, _, _ = self.sizes
        C = repeat_heads(take(self.keys, range(batch), range(self.keys.shape[1]), keys), self.group)
        if self.rows_of is None:
            return C[..., 0]
        return (take(self.rows_of, range(batch), range(n_head), queries) * C).sum(dim=-1)

    def of_rows(self) -> Tensor:
        """The sum over all keys."""
        return self._summed(self.keys)

    def of_some(self, keys: Tensor) -> Tensor:
        """The sum over some keys, which are True in `keys` (key_len,)."""
        return self._summed(self.keys * keys.to(self.keys).unsqueeze(-1))

    def _summed(self, C: Tensor) -> Tensor:
        """sum_j P_ij R_i . C_j: one call."""
        if self.rows_of is not None:
            return (self.rows_of * self.P.times(C)[0]).sum(dim=-1)
        # The query heads that share a key head each have a column of its values.
        n_kv_head, group = self.P.given.key.shape[1], self.P.given.group
        sums, _ = self.P.times(C.squeeze(-1).unflatten(1, (n_kv_head, group)).mT)
        own: Tensor = sums.unflatten(1, (n_kv_head, group)).diagonal(dim1=2, dim2=4)
        return own.mT.flatten(1, 2)

    def of_keys(self) -> Tensor:
        """The sum over all queries: one pass over tiles."""
        if self.rows_of is None:
            weight = statistics.received(self.P)
            return _where_seen(weight, weight * self.keys.squeeze(-1))
        sums = statistics.t_times(self.P, self.rows_of)
        return _where_seen(sums, sums * repeat_heads(self.keys, self.group)).sum(dim=-1)


class Removals(Links):
    """What removing each link does to a scalar L, to first order: P (g . o - g . v) / (1 - P).

    R is g, the gradient of L with respect to the head's output, C is v, and `whole` is g . o. A
    link that is all of its row is NaN.
    """

    def __init__(
        self, P: Weights, value: Tensor, grad: Tensor, whole: Tensor, made_of: Sequence[Tensor]
    ) -> None:
        super().__init__(P, value, grad, made_of)
        self.grad, self.whole = grad, whole

    def tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        if isinstance(j, range) and len(j) == self.sizes[3]:
            return self._whole_rows(b, h, i)
        P = self.P.tile(b, h, i, j)
        x, whole = self.factors(b, h, i, j), take(self.whole, b, h, i).unsqueeze(-1)
        found = _where_seen(P, _removed(P, P * x, whole))
        heavy = _any_head((P > HEAVY).any(dim=3))
        for here in self.few(heavy, len(b) * len(h)):
            rows = self._whole_rows(b, h, numbers(i, heavy.device)[here])
            found[:, :, here] = rows.index_select(3, numbers(j, heavy.device))
        return found

    def pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        batch, n_head, _, _ = self.sizes
        everything = range(batch), range(n_head)
        P = self.P.pairs(queries, keys)
        x, whole = self.factors_of_pairs(queries, keys), take(self.whole, *everything, queries)
        found = _where_seen(P, _removed(P, P * x, whole))
        heavy = _any_head(P > HEAVY)
        for here in self.few(heavy, batch * n_head):
            rows = self._whole_rows(*everything, queries.to(heavy.device)[here])
            j = keys.to(heavy.device)[here].view(1, 1, -1, 1).expand(batch, n_head, -1, 1)
            found[:, :, here] = rows.gather(3, j).squeeze(3)
        return found

    def _whole_rows(self, b: Line, h: Line, i: Line) -> Tensor:
        j = range(self.sizes[3])
        logs = self.P.logs(b, h, i, j)
        P, x, whole = logs.exp(), self.factors(b, h, i, j), take(self.whole, b, h, i)
        found = _where_seen(P, _removed(P, P * x, whole.unsqueeze(-1)))
        heavy = P > HEAVY
        rows = heavy.any(dim=3)  # (batch, head, query): these rows are computed again without it
        heavy, x = heavy[rows], x[rows]
        logs = logs[rows].masked_fill_(heavy, -torch.inf)
        lse = logs.logsumexp(dim=-1)
        if self.P.given.rules.sinks is not None:
            lse = logaddexp(lse, take(self.P.log_sinks, b, h, i)[rows])
        beyond = self._beyond and [take(part, b, h, i)[rows] for part in self._beyond]
        W = (logs - _finite(lse).unsqueeze(-1)).exp_()
        mean, lse = _with(beyond, _where_seen(W, W * x).sum(dim=-1), lse)
        removed = (mean - whole[rows]).masked_fill_(lse == -torch.inf, torch.nan)
        found[rows] = torch.where(heavy, removed.unsqueeze(-1), found[rows])
        return found

    def of_rows(self) -> Tensor:
        everything = numbers(range(self.sizes[2]), self.device)
        return torch.cat([tile.nansum(dim=3) for _, tile in self.rows(everything)], dim=2)

    def of_keys(self) -> Tensor:
        everything = numbers(range(self.sizes[2]), self.device)
        batch, n_head, _, key_len = self.sizes
        sums = self.whole.new_zeros((batch, n_head, key_len))
        for _, tile in self.rows(everything):
            sums += tile.nansum(dim=2)
        return sums

    def of_some(self, keys: Tensor) -> Tensor:
        """What removing some keys of a row together does; they are True in `keys` (key_len,).

        Both sums are kept and divided once. Where most of the row goes, the row is computed again
        without them.
        """
        if not bool(keys.any()):
            return torch.zeros_like(self.whole)
        rules, one = self.P.given.rules, self.keys.new_ones(())
        chosen = torch.cat((self.keys, one.expand(*self.keys.shape[:3], 1)), dim=3)
        sums, _ = self.P.times(chosen * keys.to(chosen).unsqueeze(-1))
        mass, carried = sums[..., -1], (self.grad * sums[..., :-1]).sum(dim=-1)
        found = _where_seen(mass, _removed(mass, carried, self.whole))
        others = replace(rules, mask=rules.mask & ~Dense(keys.view(1, 1, 1, -1)))
        out, lse = self.P.attend(self.keys, others)
        lse = lse - _finite(self.P.lse)
        mean, lse = _with(self._beyond, (self.grad * out).sum(dim=-1), lse)
        again = (mean - self.whole).masked_fill(lse == -torch.inf, torch.nan)
        return torch.where(mass > HEAVY, again, found)

    @cached_property
    def _beyond(self) -> tuple[Tensor, Tensor] | None:
        """Of the keys that a given lse counts beyond these: the log of their weight, and P g . v.

        None if no lse was given.
        """
        if not self.P.open:
            return None
        out, mine = self.P.times(self.keys)
        log_mass = self.P.log_beyond(mine)
        carried = self.whole - (self.grad * out).sum(dim=-1)
        return log_mass, carried.masked_fill(log_mass == -torch.inf, 0)


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
    v, g, whole = _with_gradient(P, value, output, grad_output)
    keys = torch.cat((v, v.new_ones((*v.shape[:3], 1))), dim=3)
    rows = torch.cat((g, -whole.unsqueeze(-1)), dim=3)
    return Links(P, keys, rows, [value, output, grad_output])


def removals(P: Weights, value: Tensor, output: Tensor, grad_output: Tensor) -> Removals:
    """What removing each link does to L, its weight going to the row's others."""
    v, g, whole = _with_gradient(P, value, output, grad_output)
    return Removals(P, v, g, whole, [value, output, grad_output])


def zeroings(P: Weights, value: Tensor, output: Tensor, grad_output: Tensor) -> Links:
    """-P_ij g_i . v_j: what setting the value of each link to 0 does to L."""
    v, g, _ = _with_gradient(P, value, output, grad_output)
    return Links(P, v, -g, [value, output, grad_output])


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


def _with_gradient(
    P: Weights, value: Tensor, output: Tensor, grad_output: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """v, g and g . o in the dtype of the weights; raise unless all sizes fit."""
    if P.given.rules.dropout_p:
        raise ArgumentError(
            f"The call has dropout {P.given.rules.dropout_p}, and this map does not know which "
            "weights were dropped.\nMake the map, the output and its gradient in eval()."
        )
    outputs = {"output": output, "grad_output": grad_output}
    statistics.fits(P.sizes, P.given.key.shape[1], value, outputs, P.device)
    v, o, g = (x.detach().to(P.device, P.dtype) for x in (value, output, grad_output))
    return v, g, (g * o).sum(dim=-1)


def _removed(mass: Tensor, carried: Tensor, whole: Tensor) -> Tensor:
    """How g . o changes when `mass` of a row goes, which carried `carried` of it."""
    return (mass * whole - carried) / (1 - mass)


def _with(beyond: Sequence[Tensor] | None, mean: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over a row's other keys and their lse, with those that only a given lse counts."""
    if beyond is None:
        return mean, lse
    log_mass, carried = beyond
    total = logaddexp(lse, log_mass)
    return mean * share(lse, total)[..., 0] + carried * (-_finite(total)).exp(), total


def _finite(lse: Tensor) -> Tensor:
    """lse with 0 for empty rows, so that -inf - lse is -inf."""
    return lse.masked_fill(lse == -torch.inf, 0)


def _any_head(heavy: Tensor) -> Tensor:
    """Which rows (batch, head, row) are True for any sample and head."""
    return heavy.flatten(0, 1).any(dim=0).nonzero().flatten()


def _where_seen(P: Tensor, x: Tensor) -> Tensor:
    """x with 0 where the weight is 0, because a value that nobody sees may be NaN."""
    return x.masked_fill_(P == 0, 0)
