"""Numbers of rows: how many keys count, how far two maps are apart, what RoPE's pairs add."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.rope import RoPE, pair_sums
from wqkv.errors import ArgumentError
from wqkv.maps.picks import cut, numbers
from wqkv.maps.weights import LOG2E, Weights

#: Bins of ln P, from 0 down. The last one also holds all smaller weights, and those that are 0.
BINS, WIDTH = 301, 0.1


class Coverage(NamedTuple):
    """How many keys hold a share of each row, bounded: each (batch, n_head, query_len)."""

    least: Tensor
    most: Tensor


def effective(P: Weights) -> Tensor:
    """1 / sum_j P_ij^2 = exp(2 lse_i - lse_i of all scores doubled)."""
    rules, lse = P.given.rules, P.lse
    if rules.bias is not None or rules.softcap is not None:  # what no call doubles
        squares = torch.zeros_like(lse)
        for block in P.blocks():
            squares[block.rows] += P.block(block).square_().sum(dim=-1)
        return squares.reciprocal().masked_fill(squares == 0, 0)
    doubled = replace(rules.without_sinks(), scale=2 * P.call.scale)
    twice = P.attend(P.call.key, doubled).lse
    return (2 * lse - twice).exp().masked_fill(twice == -torch.inf, 0)


def coverage(P: Weights, share: float) -> Tensor:
    """How many keys hold `share` of each row: (batch, n_head, query_len, 2), at least and at most.

    The keys of a row are counted in bins of ln P. In the bin where the share is reached, each key
    holds at most what the bin allows, and the heaviest hold at least the mean of the bin.
    """
    batch, n_head, query_len, _ = P.sizes
    edges = torch.arange(BINS + 1, dtype=torch.float64, device=P.device).mul_(-WIDTH).exp_()
    edges[-1] = 0
    bounds = edges.new_zeros((batch, n_head, query_len, 2))
    for b, h, here, j in P.parts(numbers(range(query_len))):
        rows = cut(b), cut(h), numbers(here)
        logs = P.logs(b, h, here, j)
        bins = (logs * (-1 / WIDTH)).clamp_(0, BINS - 1).long()
        # In float64, because thousands of weights of one size are added one by one.
        weights = logs.mul_(LOG2E).exp2_().double()
        empty = weights.new_zeros((len(b), len(h), len(here), BINS))
        mass = empty.scatter_add(3, bins, weights)
        count = empty.scatter_add(3, bins, weights.new_ones(()).expand_as(bins))
        mass_to, count_to = mass.cumsum(dim=3), count.cumsum(dim=3)
        total = mass_to[..., -1:]
        # what the weights, and so the sums, may be off by
        lse = P.lse[rows].abs().unsqueeze(-1)
        rounding = 4 * torch.finfo(P.dtype).eps * (1 + lse) * total
        for side, want in enumerate((share * total - rounding, share * total + rounding)):
            at = (mass_to < want).sum(dim=3, keepdim=True).clamp_(max=BINS - 1)
            in_bin, held = count.gather(3, at), mass.gather(3, at)
            rest = (want - (mass_to.gather(3, at) - held)).minimum(held).clamp_(min=0)
            before = count_to.gather(3, at) - in_bin
            if side == 0:
                lighter = (held - rest) / edges[at + 1]  # so many keys at most are not needed
                need = (rest / edges[at]).maximum(in_bin - lighter.nan_to_num(nan=torch.inf))
            else:
                need = (rest * in_bin / held).nan_to_num(nan=0.0)
            bounds[(*rows, side)] = (before + need.ceil().minimum(in_bin))[..., 0]
        bounds[rows] *= total > 0
    return bounds


def frequencies(P: Weights, rope: RoPE) -> Tensor:
    """scale q_f . (P K)_f of every pair f of channels that `rope` turns, and of all others."""
    if P.given.rules.softcap is not None:
        raise ArgumentError(
            f"The scores are capped at {P.given.rules.softcap}, and a capped score is no sum over "
            "RoPE's pairs.\nMake the map without softcap."
        )
    call = P.call
    PK, _ = P.times(call.key)
    return pair_sums(call.query * PK, rope) * call.scale


def largest(P: Weights) -> Tensor:
    """The largest scale q_i . k_j of a visible pair, before softcap and bias: (batch, n_head)."""
    rules = replace(P.given.rules, bias=None, softcap=None)
    none = torch.zeros(P.sizes[:3], dtype=P.dtype, device=P.device)
    plain = Weights(replace(P.given, rules=rules), none)  # ln P of an lse of 0 is the score
    found = none.new_full(P.sizes[:2], -torch.inf)
    for block in plain.blocks():
        scores, samples = plain.logs_of(block), cut(block.b)
        found[samples] = found[samples].maximum(scores.amax(dim=(2, 3)))
    return found


def kl(P: Weights, other: Weights) -> Tensor:
    """sum_j P_ij (ln P_ij - ln P'_ij), in which a sink counts as a key."""
    if _linear(P, other):
        call, theirs = P.call, other.call
        sums, _ = P.times(torch.cat((call.key, theirs.key), dim=3))
        own, of_theirs = sums.tensor_split((call.query.shape[3],), dim=3)
        mean = call.scale * (call.query * own).sum(dim=-1) - P.lse
        found = mean - (theirs.scale * (theirs.query * of_theirs).sum(dim=-1) - other.lse)
        return found.masked_fill(P.lse == -torch.inf, 0).clamp_(min=0)
    found = torch.zeros_like(P.lse)
    for block in P.blocks():
        terms = _divergence(P.logs_of(block), other.logs_of(block))
        found[block.rows] += terms.sum(dim=-1)
    for pair in zip(_besides(P), _besides(other), strict=True):
        found += _divergence(*pair)
    return found.clamp_(min=0)


def _linear(P: Weights, other: Weights) -> bool:
    """Whether ln P - ln P' is linear in the keys: no softcap, no bias, one mask, no other keys."""
    ours, theirs = P.given.rules, other.given.rules
    plain = not (P.open or other.open) and P.dtype == other.dtype
    for rules in (ours, theirs):
        others = (rules.softcap, rules.bias, rules.sinks)
        plain = plain and all(rule is None for rule in others)
    a, b = P.given.query_offset, other.given.query_offset
    placed = a is b or (isinstance(a, int) and isinstance(b, int) and a == b)
    heads = P.given.key.shape[1] == other.given.key.shape[1]
    return plain and heads and placed and bool(ours.mask == theirs.mask)


def _besides(P: Weights) -> list[Tensor]:
    """ln of what each row gives to its sink, and to keys that only a given lse counts."""
    nothing = torch.full_like(P.lse, -torch.inf)
    sinks = nothing if P.given.rules.sinks is None else P.log_sinks
    return [sinks, P.log_beyond(P.times(P.call.key)[1]) if P.open else nothing]


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """p (ln p - ln p') of two logarithms: 0 where p is 0, infinity where p' alone is."""
    terms = (ours.exp() * (ours - theirs)).masked_fill(ours == -torch.inf, 0)
    return terms.masked_fill((theirs == -torch.inf) & (ours > -torch.inf), torch.inf)
