"""AllToAll: heads travel; every rank attends with some of the heads to all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.parallel import messages
from wqkv.attend.parallel.local import Local
from wqkv.attend.parallel.ranks import Ranks, Span
from wqkv.errors import ArgumentError


def prepared(call: Call, ranks: Ranks) -> tuple[Call, HeadsTravel]:
    """The call with the mask and bias of this rank's heads, and who computes which heads."""
    heads, kv_heads = shares_of(call, ranks)
    h0, h1 = heads[ranks.rank]
    bias = None if call.rules.bias is None else call.rules.bias.heads(h0, h1)
    rules = replace(call.rules, mask=call.rules.mask.heads(h0, h1), bias=bias)
    return replace(call, rules=rules), HeadsTravel(ranks, heads, kv_heads)


class HeadsTravel(NamedTuple):
    """The way on which every rank attends with its share of the heads to all tokens."""

    ranks: Ranks
    heads: list[Span]  # which query heads each rank computes
    kv_heads: list[Span]  # and which key heads these read

    def forward(self, call: Call, local: Local) -> list[Tensor]:
        """out and lse of this rank's tokens; then q, k, v, out, lse of its heads, for backward."""
        q = self._to_heads(call.query, self.heads)
        k, v = (self._to_heads(x, self.kv_heads) for x in (call.key, call.value))
        out, lse = local.forward(replace(call, query=q, key=k, value=v))
        home = self._to_tokens(out.to(q.dtype), self.heads)
        return [home, self._to_tokens(lse.unsqueeze(-1), self.heads).squeeze(-1), q, k, v, out, lse]

    def backward(
        self,
        call: Call,
        local: Local,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
    ) -> list[Tensor]:
        """dq, dk, dv of this rank's tokens, computed from the gradients of its heads."""
        if grad_out is not None:
            grad_out = self._to_heads(grad_out, self.heads)
        if grad_lse is not None:
            grad_lse = self._to_heads(grad_lse.unsqueeze(-1), self.heads).squeeze(-1)
        dq, dk, dv, *learned = local.backward(call, out, lse, grad_out, grad_lse)
        dk, dv = (self._to_tokens(x, self.kv_heads) for x in (dk, dv))
        return [self._to_tokens(dq, self.heads), dk, dv, *learned]

    def _to_heads(self, x: Tensor, shares: Sequence[Span]) -> Tensor:
        """Exchange all heads of this rank's tokens for all tokens of its heads."""
        ranks, (a, b) = self.ranks, shares[self.ranks.rank]
        shape = (x.shape[0], b - a, *x.shape[2:])
        parts = messages.exchange(ranks.group, [x[:, a:b] for a, b in shares], [shape] * ranks.size)
        return ranks.in_order(parts, 2)

    def _to_tokens(self, x: Tensor, shares: Sequence[Span]) -> Tensor:
        """Exchange all tokens of this rank's heads for all heads of its tokens."""
        ranks, total = self.ranks, x.shape[2]
        rows = [
            torch.cat([x[:, :, a:b] for a, b in ranks.spans(total, rank)], 2)
            for rank in range(ranks.size)
        ]
        size, n_head = total // ranks.size, max(b for _, b in shares)
        shapes = [(x.shape[0], b - a, size, x.shape[3]) for a, b in shares]
        result = x.new_zeros((x.shape[0], n_head, size, x.shape[3]))
        for (a, b), part in zip(shares, messages.exchange(ranks.group, rows, shapes), strict=True):
            result[:, a:b] += part  # added, because several ranks may have had the same key head
        return result


def unfit(call: Call, ranks: Ranks) -> str:
    """Why the heads do not make equal shares; "" if they do."""
    n_head, kv_heads, size = call.query.shape[1], call.key.shape[1], ranks.size
    if n_head % size:
        return f"{n_head} heads do not make {size} equal shares"
    if kv_heads % size and size % kv_heads:
        return (
            f"{kv_heads} key heads make no equal shares for {size} ranks, nor {size} ranks for "
            f"{kv_heads} key heads"
        )
    return ""


def shares_of(call: Call, ranks: Ranks) -> tuple[list[Span], list[Span]]:
    """The query heads of every rank, and the key heads that they read."""
    if reason := unfit(call, ranks):
        raise ArgumentError(f"{reason}.\nPass mesh=Ring(...), or another number of ranks.")
    step = call.query.shape[1] // ranks.size
    heads = [(i * step, (i + 1) * step) for i in range(ranks.size)]
    group = call.group
    return heads, [(a // group, -(-b // group)) for a, b in heads]


def numbers_sent(call: Call, ranks: Ranks) -> int:
    """How many numbers a rank sends forward: (size - 1) / size of its q, k, v and out."""
    batch, n_head, query_len, key_len = call.sizes
    kv_heads = max(b - a for a, b in shares_of(call, ranks)[1])
    rows = batch * (n_head // ranks.size * query_len + kv_heads * key_len)
    return (ranks.size - 1) * rows * (call.query.shape[3] + call.value.shape[3])
