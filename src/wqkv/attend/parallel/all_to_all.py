"""AllToAll: heads travel; every rank attends with some heads to all words."""

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
    """The call with the rules of this rank's heads."""
    heads, kv_heads = shares_of(call, ranks)
    h0, h1 = heads[ranks.rank]
    bias = None if call.rules.bias is None else call.rules.bias.heads(h0, h1)
    rules = replace(call.rules, mask=call.rules.mask.heads(h0, h1), bias=bias)
    return replace(call, rules=rules), HeadsTravel(ranks, heads, kv_heads)


class HeadsTravel(NamedTuple):
    """Every rank attends with its share of the heads to the words of all."""

    ranks: Ranks
    heads: list[Span]  # of every rank
    kv_heads: list[Span]

    def forward(self, call: Call, local: Local) -> list[Tensor]:
        """out and lse of my words; q, k, v, out and lse of my heads."""
        q = self._out(call.query, self.heads)
        k, v = (self._out(x, self.kv_heads) for x in (call.key, call.value))
        out, lse = local.forward(replace(call, query=q, key=k, value=v))
        home = self._home(out.to(q.dtype), self.heads)
        return [home, self._home(lse.unsqueeze(-1), self.heads).squeeze(-1), q, k, v, out, lse]

    def backward(
        self,
        call: Call,
        local: Local,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
    ) -> list[Tensor]:
        """The gradients of my words go out as those of my heads; dq, dk and dv come home."""
        if grad_out is not None:
            grad_out = self._out(grad_out, self.heads)
        if grad_lse is not None:
            grad_lse = self._out(grad_lse.unsqueeze(-1), self.heads).squeeze(-1)
        dq, dk, dv, *learned = local.backward(call, out, lse, grad_out, grad_lse)
        dk, dv = (self._home(x, self.kv_heads) for x in (dk, dv))
        return [self._home(dq, self.heads), dk, dv, *learned]

    def _out(self, x: Tensor, shares: Sequence[Span]) -> Tensor:
        """All heads of this rank's tokens -> all tokens of its heads."""
        ranks, (a, b) = self.ranks, shares[self.ranks.rank]
        shape = (x.shape[0], b - a, *x.shape[2:])
        parts = messages.exchange(ranks.group, [x[:, a:b] for a, b in shares], [shape] * ranks.size)
        return ranks.in_order(parts, 2)

    def _home(self, x: Tensor, shares: Sequence[Span]) -> Tensor:
        """All tokens of this rank's heads -> all heads of its tokens: `_out` backwards."""
        ranks, total = self.ranks, x.shape[2]
        rows = [
            torch.cat([x[:, :, a:b] for a, b in ranks.spans(total, rank)], 2)
            for rank in range(ranks.size)
        ]
        size, n_head = total // ranks.size, max(b for _, b in shares)
        shapes = [(x.shape[0], b - a, size, x.shape[3]) for a, b in shares]
        result = x.new_zeros((x.shape[0], n_head, size, x.shape[3]))
        for (a, b), part in zip(shares, messages.exchange(ranks.group, rows, shapes), strict=True):
            result[:, a:b] += part  # several ranks may have had the same key head
        return result


def unfit(call: Call, ranks: Ranks) -> str:
    """Why the heads do not make equal shares, or ""."""
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
    """The heads, and the key heads that they read, of every rank."""
    if reason := unfit(call, ranks):
        raise ArgumentError(f"{reason}.\nPass mesh=Ring(...), or another number of ranks.")
    step = call.query.shape[1] // ranks.size
    heads = [(i * step, (i + 1) * step) for i in range(ranks.size)]
    group = call.group
    return heads, [(a // group, -(-b // group)) for a, b in heads]


def numbers_sent(call: Call, ranks: Ranks) -> int:
    """How many numbers a rank sends forward: (size - 1) / size of its q, k, v and result."""
    batch, n_head, query_len, key_len = call.sizes
    kv_heads = max(b - a for a, b in shares_of(call, ranks)[1])
    rows = batch * (n_head // ranks.size * query_len + kv_heads * key_len)
    return (ranks.size - 1) * rows * (call.query.shape[3] + call.value.shape[3])
