"""Partial: (output, lse) over some keys. Two of disjoint sets merge into that of their union."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.doors import check_tensor, door
from wqkv.errors import ArgumentError, KindError, message


class Partial(NamedTuple):
    """Attention over some keys: their weighted sum, and lse = logsumexp of their scores.

    out is (batch, head, query, d_v), lse (batch, head, query) in float32 (float64 for float64).
    The identity of merging is (0, -inf): attention over no keys.
    """

    out: Tensor
    lse: Tensor


@door
def merge(first: Partial, *others: Partial) -> Partial:
    """Attention over the union of disjoint sets of keys.

    lse = log(sum_p exp(lse_p)), out = sum_p out_p exp(lse_p - lse).
    Associative and commutative up to rounding. Empty rows: without keys in any part, (0, -inf).
    Not valid in rows whose scores a bias has pushed to -1e9 or finfo.min: their lse loses ln(n).
    Source: the online softmax, Milakov and Gimelshein 2018 (arXiv:1805.02867), eq. 4.

    >>> a = Partial(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1))
    >>> merge(a, Partial(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1))).out
    tensor([[[[0.5000, 0.5000]]]])
    """
    for part in (first, *others):
        _check(part, first)
    merged = first
    for other in others:
        lse = logaddexp(merged.lse, other.lse)
        out = merged.out * share(merged.lse, lse) + other.out * share(other.lse, lse)
        merged = Partial(out.to(first.out.dtype), lse)
    return merged


def _check(part: Partial, first: Partial) -> None:
    """Raise unless a part has the queries, dtype and device of the first."""
    for name, x in part._asdict().items():
        check_tensor(name, x)
    came = {"first": first.out, "out": part.out, "lse": part.lse}
    if part.out.shape != first.out.shape or part.out.shape[:-1] != part.lse.shape:
        do = "Pass parts of the same queries, with one lse per row."
        raise ArgumentError(message("These are not parts of one attention.", came, do))
    if part.out.dtype != first.out.dtype or part.out.device != first.out.device:
        raise KindError(message("The parts differ in dtype or device.", came, "Cast or move them."))


def with_sinks(part: Partial, sinks: Tensor | None) -> Partial:
    """Merge one more key per head, whose score is the learned `sinks` (n_head,) and value zero."""
    if sinks is None:
        return part
    sink = sinks.to(part.lse.dtype).view(1, -1, 1)
    lse = logaddexp(part.lse, sink)
    return Partial((part.out * share(part.lse, lse)).to(part.out.dtype), lse)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """torch.logaddexp whose gradient is 0, not NaN, where both are -inf."""
    empty = (a == -torch.inf) & (b == -torch.inf)
    a, b = a.masked_fill(empty, 0), b.masked_fill(empty, 0)
    return torch.logaddexp(a, b).masked_fill(empty, -torch.inf)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """exp(part - whole) as (..., 1): 0 where the part is empty, whatever the whole."""
    empty = part == -torch.inf
    gap = part.masked_fill(empty, 0) - whole.masked_fill(empty, 0)
    return gap.exp().masked_fill(empty, 0).unsqueeze(-1)
