"""The specification: softmax(q k^T * scale, softcap, bias, mask, sink) v, step by step.

Every other engine is tested against this one in float64. It builds the N x N matrix, so it serves
short texts, rectangles of long ones, and whoever wants to read what is computed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.call import Call, unrounded
from wqkv.attend.engines.plan import Plan, one_piece
from wqkv.attend.geometry import At
from wqkv.attend.masks.algebra import Full
from wqkv.attend.partial import Partial
from wqkv.attend.values import readable

#: The limit of its N x N matrix of scores, in GiB.
LIMIT_GIB = 4.0


class Steps(NamedTuple):
    """Every intermediate of one call, each (batch, n_head, query_len, ...)."""

    scores: Tensor  # after scale, softcap, bias and mask; -inf where hidden
    weights: Tensor  # rows sum to 1; to less with a sink; to 0 where nothing may be seen
    out: Tensor
    lse: Tensor


def reasons_against(call: Call) -> list[str]:
    batch, n_head, query_len, key_len = call.sizes
    count = batch * n_head * query_len * key_len
    if not isinstance(count, int):  # a graph for any length is being exported
        return []
    gib = count * (8 if call.query.dtype == torch.float64 else 4) / 2**30
    if gib > LIMIT_GIB:
        what = f"its {query_len} x {key_len} scores would take {gib:.1f} GiB"
        return [f"{what}, the limit is {LIMIT_GIB:g}"]
    return []


def plan(call: Call) -> Plan:
    return one_piece(call, "reference")


def run(call: Call) -> Partial:
    result = steps(call, call.places())
    return Partial(result.out, result.lse)


def products(call: Call) -> Tensor:
    """q k^T * scale."""
    dtype = exact(call.query)
    k = repeat_heads(call.key.to(dtype), call.group)
    return call.query.to(dtype) @ k.transpose(-2, -1) * call.scale


def capped(call: Call, product: Tensor) -> Tensor:
    """Products kept between plus and minus the softcap, if there is one."""
    if call.rules.softcap is None:
        return product
    return call.rules.softcap * torch.tanh(product / call.rules.softcap)


def apply_rules(call: Call, product: Tensor, at: At) -> Tensor:
    """The scores that products at the places `at` become: capped, biased, -inf where hidden."""
    score = capped(call, product)
    if call.rules.bias is not None:
        score = score + call.rules.bias.tile(at, score.dtype)
    if isinstance(call.rules.mask, Full):
        return score
    return score.masked_fill(~call.rules.mask.visible(at), -torch.inf)


def scores(call: Call, at: At) -> Tensor:
    """The scores of a call whose queries and keys are at the places `at`."""
    return apply_rules(call, products(call), at)


def cleared(x: Tensor, visible: Tensor) -> Tensor:
    """Keys or values (batch, n_kv_head, key, d), with zeros where no query of `visible` sees them.

    A weight of 0 does not keep out what padding holds, because 0 * NaN and 0 * inf are NaN.
    """
    unseen = ~visible.any(dim=2)  # (batch | 1, n_head | 1, key | 1)
    if readable(unseen) and not bool(unseen.any()):
        return x
    if unseen.shape[1] > x.shape[1]:  # per query head: unseen if no head that reads it sees it
        unseen = unseen.unflatten(1, (x.shape[1], -1)).all(dim=2)
    return x.masked_fill(unseen.unsqueeze(-1), 0)


def without_unseen(call: Call, at: At) -> Call:
    """The call with zeros for the keys and values that no query sees, if a mask hides any."""
    if isinstance(call.rules.mask, Full):
        return call
    visible = call.rules.mask.visible(at)
    return replace(call, key=cleared(call.key, visible), value=cleared(call.value, visible))


def steps(call: Call, at: At, kept: Tensor | None = None) -> Steps:
    """Compute the formula for a call whose queries and keys are at the places `at`.

    Args:
        kept: what dropout multiplies the weights by; None draws it, if the call has dropout.
    """
    with unrounded(call.query.device):
        return _steps(without_unseen(call, at), at, kept)


def _steps(call: Call, at: At, kept: Tensor | None) -> Steps:
    dtype = exact(call.query)
    score = scores(call, at)
    logits = score
    if call.rules.sinks is not None:
        sink = call.rules.sinks.to(dtype).view(1, -1, 1, 1).expand(*score.shape[:3], 1)
        logits = torch.cat((score, sink), dim=-1)
    # exp(scores - top) cannot overflow; a row that may see nothing has top = -inf, here 0.
    if logits.shape[-1]:
        top = logits.detach().amax(dim=-1, keepdim=True)
        top = top.masked_fill(top == -torch.inf, 0)
    else:
        top = logits.new_zeros((*score.shape[:3], 1))
    total = (logits - top).exp().sum(dim=-1, keepdim=True)
    empty = total == 0
    total = total.masked_fill(empty, 1)
    weights = (score - top).exp() / total
    lse = (top + total.log()).masked_fill(empty, -torch.inf).squeeze(-1)

    v = repeat_heads(call.value.to(dtype), call.group)
    dropped = F.dropout(weights, call.rules.dropout_p) if kept is None else weights * kept
    out = dropped @ v
    return Steps(score, weights, out.to(call.query.dtype), lse)


def repeat_heads(x: Tensor, group: int) -> Tensor:
    """Repeat each key head for the `group` query heads that read it: (batch, n_head, ...)."""
    return x if group == 1 else x.repeat_interleave(group, dim=1)


def sum_heads(x: Tensor, group: int) -> Tensor:
    """Sum over the `group` query heads that read the same key head: (batch, n_kv_head, ...)."""
    return x if group == 1 else x.unflatten(1, (-1, group)).sum(dim=2)


def exact(x: Tensor) -> torch.dtype:
    """The dtype of scores, softmax and sums: float32, or float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
