"""What a row's weights are like: how many keys count, how far two maps are apart, and why."""

from __future__ import annotations

import torch
from torch import Tensor

from wqkv.maps.picks import cut
from wqkv.maps.weights import Weights


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
    heads = range(P.sizes[1])
    for b, i, j in P.blocks():
        terms = _divergence(P.logs(b, heads, i, j), other.logs(b, heads, i, j))
        found[cut(b), :, cut(i)] += terms.sum(dim=-1)
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
