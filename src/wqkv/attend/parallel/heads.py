"""AllToAll: heads travel; every rank attends with some heads to all words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wqkv.attend import engines
from wqkv.attend.call import Call
from wqkv.attend.merge import Partial
from wqkv.attend.parallel import messages
from wqkv.attend.parallel.ranks import Ranks, Span
from wqkv.errors import ArgumentError


def run(call: Call, ranks: Ranks) -> Partial:
    """This rank's rows."""
    heads, kv_heads = shares_of(call, ranks)
    h0, h1 = heads[ranks.rank]
    q = _travel(call.query, ranks, heads)
    k, v = (_travel(x, ranks, kv_heads) for x in (call.key, call.value))
    local = replace(
        call, query=q, key=k, value=v, mask=call.mask.heads(h0, h1),
        bias=None if call.bias is None else call.bias.heads(h0, h1),
        sinks=None if call.sinks is None else call.sinks[h0:h1],
    )  # fmt: skip
    out, lse = engines.choose(local, "auto").run(local)
    back = (_travel(x, ranks, heads, home=True) for x in (out, lse.unsqueeze(-1)))
    out, lse = back
    return Partial(out, lse.squeeze(-1))


def unfit(call: Call, ranks: Ranks) -> str:
    """Why the heads do not make equal shares, or ""."""
    n_head, kv_heads, size = call.query.shape[1], call.key.shape[1], ranks.size
    if n_head % size:
        return f"{n_head} heads do not make {size} equal shares"
    if kv_heads % size and size % kv_heads:
        return f"{kv_heads} key heads make no equal shares for {size} ranks, and are not shared by"
    return ""


def shares_of(call: Call, ranks: Ranks) -> tuple[list[Span], list[Span]]:
    """The heads, and the key heads that they read, of every rank."""
    if reason := unfit(call, ranks):
        raise ArgumentError(f"{reason}.\nPass mesh=Ring(...), or another number of ranks.")
    step = call.query.shape[1] // ranks.size
    heads = [(i * step, (i + 1) * step) for i in range(ranks.size)]
    group = call.group
    return heads, [(a // group, -(-b // group)) for a, b in heads]


def _travel(x: Tensor, ranks: Ranks, shares: Sequence[Span], *, home: bool = False) -> Tensor:
    moved: Tensor = _Travel.apply(x, ranks, shares, max(b for _, b in shares), home)  # type: ignore[no-untyped-call]
    return moved


class _Travel(torch.autograd.Function):
    """All heads of my words -> all words of my heads; `home` is the way back, and its transpose."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, ranks: Ranks, shares: Sequence[Span], n_head: int, home: bool
    ) -> Tensor:
        ctx.rest = ranks, shares, n_head, home
        return _home(x, ranks, shares, n_head) if home else _out(x, ranks, shares)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ranks, shares, n_head, home = ctx.rest
        moved = _out(grad, ranks, shares) if home else _home(grad, ranks, shares, n_head)
        return moved, None, None, None, None


def _out(x: Tensor, ranks: Ranks, shares: Sequence[Span]) -> Tensor:
    a, b = shares[ranks.rank]
    shape = (x.shape[0], b - a, *x.shape[2:])
    parts = messages.exchange(ranks.group, [x[:, a:b] for a, b in shares], [shape] * ranks.size)
    return ranks.in_order(parts, 2)


def _home(x: Tensor, ranks: Ranks, shares: Sequence[Span], n_head: int) -> Tensor:
    total = x.shape[2]
    rows = [
        torch.cat([x[:, :, a:b] for a, b in ranks.spans(total, rank)], 2)
        for rank in range(ranks.size)
    ]
    size = total // ranks.size
    shapes = [(x.shape[0], b - a, size, x.shape[3]) for a, b in shares]
    result = x.new_zeros((x.shape[0], n_head, size, x.shape[3]))
    for (a, b), part in zip(shares, messages.exchange(ranks.group, rows, shapes), strict=True):
        result[:, a:b] += part  # several ranks may have had the same key head
    return result


def numbers_sent(call: Call, ranks: Ranks) -> int:
    """How many numbers a rank sends forward: (size - 1) / size of its q, k, v and result."""
    batch, n_head, query_len, key_len = call.sizes
    kv_heads = max(b - a for a, b in shares_of(call, ranks)[1])
    rows = batch * (n_head // ranks.size * query_len + kv_heads * key_len)
    return (ranks.size - 1) * rows * (call.query.shape[3] + call.value.shape[3])
