"""Ring: keys travel and partial results merge; a rank is never sent a key that it may not see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles, reference
from wqkv.attend.geometry import Rect
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.parallel import messages
from wqkv.attend.parallel.local import Local
from wqkv.attend.parallel.ranks import Ranks, Span
from wqkv.errors import EngineError


def prepared(call: Call, ranks: Ranks) -> tuple[Call, KeysTravel]:
    """The call, and which keys each rank sends to which, as the mask's structure says."""
    if call.rules.dropout_p > 0:
        raise EngineError("A ring has no dropout.\nPass mesh=AllToAll(...), or no dropout.")
    every = range(ranks.size)
    sent = [_sent_to(call, ranks, reader) for reader in every]
    return call, KeysTravel(ranks, sent, [seen(call, ranks, ranks.rank, i) for i in every])


def numbers_sent(call: Call, ranks: Ranks) -> int:
    """How many numbers the busiest rank sends forward: (d_k + d_v) n_kv_head per key."""
    per_key = call.key.shape[0] * call.key.shape[1] * (call.key.shape[3] + call.value.shape[3])
    every = range(ranks.size)

    def keys(source: int) -> int:
        others = (seen(call, ranks, reader, source) for reader in every if reader != source)
        return sum(b - a for spans in others for a, b in spans)

    return max(map(keys, every)) * per_key


class _Leg(NamedTuple):
    """One step round the ring: what was sent to rank `there`, and what came from rank `back`."""

    there: int
    back: int
    spans: list[Span]  # the positions of the keys that came
    received: list[tuple[Tensor, Tensor]]  # their k and v, a pair per span


class KeysTravel(NamedTuple):
    """The way on which every rank attends with its own rows to the keys that come by."""

    ranks: Ranks
    sent: list[list[Span]]  # per rank: which rows of this rank's keys it may see
    seen: list[list[Span]]  # per rank: the positions of its keys that this rank may see

    def forward(self, call: Call, local: Local) -> list[Tensor]:
        """out, in the dtype of its sums, and lse of this rank's rows."""
        q, exact = call.query, reference.exact(call.query)
        out = q.new_zeros((q.shape[0], q.shape[2], q.shape[1], call.value.shape[3]), dtype=exact)
        out, lse = out.transpose(1, 2), q.new_full(q.shape[:3], -torch.inf, dtype=exact)
        for leg in self._legs(call.key, call.value):
            for rows, _, part in _pieces(call, self.ranks, leg):
                rectangles.merge_into(out[rows], lse[rows], *local.forward(part))
        return [out, lse]

    def backward(
        self,
        call: Call,
        local: Local,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
    ) -> list[Tensor]:
        """Compute every piece's share of the gradients from the merged out and lse (F2).

        The same keys travel again, so that no rank ever holds all of them. The dk and dv of a piece
        go back to its rank at once.
        """
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        bias = call.rules.bias if local.method == "reference" else None
        like = call.query, call.key, call.value, *(() if bias is None else bias.tensors())
        dq, dk, dv, *learned = (torch.zeros_like(x, dtype=out.dtype) for x in like)
        for leg in self._legs(call.key, call.value):
            shares = [torch.zeros_like(x, dtype=out.dtype) for pair in leg.received for x in pair]
            for rows, which, part in _pieces(call, self.ranks, leg):
                d_rows, d_key, d_value, *rest = local.backward(
                    part, out[rows], lse[rows], grad_out[rows],
                    None if grad_lse is None else grad_lse[rows],
                )  # fmt: skip
                dq[rows] += d_rows
                shares[2 * which] += d_key
                shares[2 * which + 1] += d_value
                for total, share in zip(learned, rest, strict=False):
                    total += share
            self._bring_home(leg, shares, dk, dv)
        return [x.to(y.dtype) for x, y in zip((dq, dk, dv, *learned), like, strict=True)]

    def _legs(self, k: Tensor, v: Tensor) -> Iterator[_Leg]:
        """Every step round the ring. The next step's keys travel while this one's are used."""
        size, rank = self.ranks.size, self.ranks.rank
        waiting = self._keys(k, v, rank, rank)
        for step in range(size):
            leg, after = waiting(), (step + 1) % size
            if after:
                waiting = self._keys(k, v, (rank + after) % size, (rank - after) % size)
            yield leg

    def _keys(self, k: Tensor, v: Tensor, there: int, back: int) -> Callable[[], _Leg]:
        """Begin to send this rank's keys that `there` may see, and to receive those of `back`."""
        spans, group = self.seen[back], self.ranks.group
        sends = [x for a, b in self.sent[there] for x in (k[:, :, a:b], v[:, :, a:b])]
        if there == back == self.ranks.rank:
            pairs = list(zip(sends[::2], sends[1::2], strict=True))
            return lambda: _Leg(there, back, spans, pairs)
        shapes = [(*x.shape[:2], b - a, x.shape[3]) for a, b in spans for x in (k, v)]
        wait = messages.swap(group, {there: sends}, {back: shapes}, k.dtype, k.device)

        def arrive() -> _Leg:
            came = wait()[back]
            return _Leg(there, back, spans, list(zip(came[::2], came[1::2], strict=True)))

        return arrive

    def _bring_home(self, leg: _Leg, shares: list[Tensor], dk: Tensor, dv: Tensor) -> None:
        """Send back the gradients of received keys; add those of this rank's own keys to dk, dv."""
        mine, group = self.sent[leg.there], self.ranks.group
        if leg.back != self.ranks.rank:
            shapes = [(*x.shape[:2], b - a, x.shape[3]) for a, b in mine for x in (dk, dv)]
            shares = messages.swap(
                group, {leg.back: shares}, {leg.there: shapes}, dk.dtype, dk.device
            )()[leg.there]
        for (a, b), d_key, d_value in zip(mine, shares[::2], shares[1::2], strict=True):
            dk[:, :, a:b] += d_key
            dv[:, :, a:b] += d_value


def _pieces(call: Call, ranks: Ranks, leg: _Leg) -> Iterator[tuple[tuple[slice, ...], int, Call]]:
    """The calls of one step: each part of this rank's rows against each span of keys that came.

    Yields the index of the rows, the number of the span, and the call.
    """
    query_len, key_len = (n * ranks.size for n in call.sizes[2:])
    first = 0
    for q0, q1 in ranks.spans(query_len):
        rows = (slice(None), slice(None), slice(first, first + q1 - q0))
        first += q1 - q0
        for which, ((k0, k1), (key, value)) in enumerate(zip(leg.spans, leg.received, strict=True)):
            if _hull(call, q0, q1, k0, k1) is None:
                continue
            mask = call.rules.mask.part(k0, key_len, q0, query_len)
            bias = None if call.rules.bias is None else call.rules.bias.part(k0, q0)
            offset = call.query_offset + q0 - k0
            rules = replace(call.rules, mask=mask, bias=bias, sinks=None, query_offset=offset)
            yield (
                rows,
                which,
                replace(call, query=call.query[rows], key=key, value=value, rules=rules),
            )


def seen(call: Call, ranks: Ranks, reader: int, source: int) -> list[Span]:
    """The positions of the keys of `source` that `reader` may see, at most one span per part."""
    query_len, key_len = (n * ranks.size for n in call.sizes[2:])
    spans = []
    for k0, k1 in ranks.spans(key_len, source):
        hulls = [_hull(call, q0, q1, k0, k1) for q0, q1 in ranks.spans(query_len, reader)]
        found = [hull for hull in hulls if hull is not None]
        if found:
            spans.append((min(a for a, _ in found), max(b for _, b in found)))
    return spans


def _sent_to(call: Call, ranks: Ranks, reader: int) -> list[Span]:
    """The keys of this rank that rank `reader` may see, as rows of this rank's tensors."""
    rows, first = [], 0
    for k0, k1 in ranks.spans(call.sizes[3] * ranks.size):
        for a, b in seen(call, ranks, reader, ranks.rank):
            if k0 <= a < k1:
                rows.append((first + a - k0, first + b - k0))
        first += k1 - k0
    return rows


def _hull(call: Call, q0: int, q1: int, k0: int, k1: int) -> Span | None:
    """The span from the first to the last key that any of these queries may see; None: no key."""
    offset = call.query_offset
    if isinstance(offset, Tensor):  # one per sample: all keys, because a GPU's numbers are not read
        return k0, k1
    rect = Rect(None, q0 + offset, q1 + offset, k0, k1)
    start = _edge(call.rules.mask, rect, last=False)
    return None if start is None else (start, 1 + _some(_edge(call.rules.mask, rect, last=True)))


def _edge(mask: Mask, rect: Rect, *, last: bool) -> int | None:
    """The first (or last) key that any of these queries may see, found by halving the keys."""
    seen = mask.region(rect)
    if seen is False:
        return None
    if seen is True or rect.k1 - rect.k0 == 1:
        return rect.k1 - 1 if last else rect.k0
    middle = (rect.k0 + rect.k1) // 2
    halves = [rect._replace(k1=middle), rect._replace(k0=middle)]
    first, second = reversed(halves) if last else halves
    found = _edge(mask, first, last=last)
    return _edge(mask, second, last=last) if found is None else found


def _some(number: int | None) -> int:
    assert number is not None
    return number
