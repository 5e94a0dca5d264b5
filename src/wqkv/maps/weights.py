"""The weights of one call at any places: exp(score - lse), in float32 or float64.

A tile is one matrix product and an exp in place. The product is added to a matrix that already
holds what is added to the scores: -lse, a bias, -inf where the mask hides.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wqkv.attend import engines
from wqkv.attend.call import Call, unrounded
from wqkv.attend.engines import reference
from wqkv.attend.engines.by_reference import extreme_rows
from wqkv.attend.engines.plan import ROWS, visible_pieces
from wqkv.attend.geometry import At, Rect, places
from wqkv.attend.masks.algebra import Full
from wqkv.attend.partial import Partial, logaddexp, share
from wqkv.attend.rules import Rules
from wqkv.errors import ArgumentError, message
from wqkv.maps.picks import Line, cut, numbers, take
from wqkv.upstream import of_torch
from wqkv.upstream.of_torch import version

#: Some rows are computed in blocks of about this many weights.
BLOCK = 2**22
#: The whole map is computed in blocks of about this many, which stay in a processor's cache.
CACHED = 2**20
#: e^x = 2^(LOG2E x), because torch's exp2 is three times as fast as its exp on a CPU, for -inf too
#: (2,097,152 float32, AVX-512, one thread: 0.6 ms against 1.8; of -inf 0.7 against 3.8).
#: LOG2E is multiplied after lse is subtracted, because before it the numbers are large and round.
LOG2E = math.log2(math.e)


class Block(NamedTuple):
    """A part of the map: some samples, all heads, neighboring queries and keys."""

    b: range
    i: range
    j: range

    @property
    def rows(self) -> tuple[slice, slice, slice]:
        """Where its rows are in (batch, head, query)."""
        return cut(self.b), slice(None), cut(self.i)

    @property
    def keys(self) -> tuple[slice, slice, slice]:
        """Where its keys are in (batch, head, key)."""
        return cut(self.b), slice(None), cut(self.j)


def check_unchanged(made_of: Iterable[tuple[Tensor, int]]) -> None:
    """Raise if a tensor that a map is made of is not at the version that it had."""
    for x, then in made_of:
        if version(x) != then:
            raise ArgumentError(
                message(
                    "A tensor that this map is made of was changed in place since then: "
                    f"it was at version {then} and is at {version(x)}.",
                    {"tensor": x},
                    "Make the map of a clone of it, or ask the map before the change.",
                )
            )


class Numbers(ABC):
    """A number for every link of a call, computed where it is asked for."""

    dtype: torch.dtype  # of the numbers

    def __init__(
        self, sizes: tuple[int, int, int, int], device: torch.device, tensors: Iterable[Tensor]
    ) -> None:
        self.sizes, self.device = sizes, device
        self.made_of = [(x, version(x)) for x in tensors]

    # The signatures that pickle and copy ask for.
    def __getstate__(self) -> dict[str, Any]:
        self.check()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy. The versions of its tensors start from 0, so they are read again."""
        self.__dict__.update(state)
        self.made_of = [(x, version(x)) for x, _ in self.made_of]

    def check(self) -> None:
        """Raise if a tensor that the map is made of was changed in place since then."""
        check_unchanged(self.made_of)

    @abstractmethod
    def tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        """The numbers at every combination of batch, head, query and key."""

    @abstractmethod
    def pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The numbers of the pairs (queries[n], keys[n]), one product each: (batch, n_head, n)."""

    @abstractmethod
    def parts(
        self, queries: Tensor, at_least: int = 1
    ) -> Iterator[tuple[range, range, Line, range]]:
        """Cut some rows into tiles that stay in a processor's cache: samples, heads, rows, keys.

        All other keys of these rows are hidden. Where a head has `at_least` so many keys in all its
        rows, its tiles have as many, hidden ones among them. All tiles of some rows follow one
        another, and all rows have the same samples and heads together.
        """


class Weights(Numbers):
    """P of one call. An empty row is 0."""

    def __init__(self, given: Call, lse: Tensor | None = None) -> None:
        tensors = [given.query, given.key, *given.rules.tensors(), *([] if lse is None else [lse])]
        super().__init__(given.sizes, given.query.device, tensors)
        self.given = given
        self.dtype = reference.exact(given.query)
        #: Whether the rows may hold more keys than these, which the given lse counts.
        self.open = lse is not None
        self.known = None if lse is None else lse.detach().to(self.dtype)

    @property
    def call(self) -> Call:
        """The call in float32 or float64, as lse needs. Its value is the keys, as a stand-in."""
        q, k = (x.to(self.dtype) for x in (self.given.query, self.given.key))
        return replace(self.given, query=q, key=k, value=k)

    @property
    def lse(self) -> Tensor:
        """The logsumexp of every row of scores (and its sink): (batch, n_head, query_len)."""
        if self.known is None:
            call = self.call
            self.known = self.attend(call.key, call.rules).lse
        return self.known

    @cached_property
    def log_sinks(self) -> Tensor:
        """ln of what each row gives to its sink: (batch, n_head, query_len). There must be one."""
        assert self.given.rules.sinks is not None
        lse = self.lse
        sinks = self.given.rules.sinks.to(lse).view(1, -1, 1)
        return sinks - lse.masked_fill(lse == -torch.inf, 0)

    def parts(
        self, queries: Tensor, at_least: int = 1
    ) -> Iterator[tuple[range, range, Line, range]]:
        batch, n_head, query_len, key_len = self.sizes
        if 8 * len(queries) > query_len:  # else each tile would compute the lse of its few rows
            _ = self.lse
        rows = max(1, min(ROWS, CACHED // max(1, key_len)))
        cuts = [(_line(here), self.reach(here)) for here in queries.split(rows)]
        if sum(len(here) * len(j) for here, j in cuts) < at_least:
            cuts = [(here, range(key_len)) for here, _ in cuts]
        # Whole samples, or some heads of one: whole groups that share a key head, or one head.
        together = CACHED // max(1, rows * key_len)
        step = together // self.given.group * self.given.group or 1
        samples = [*_parts(range(batch), max(1, together // max(1, n_head)))] or [range(0)]
        heads = [*_parts(range(n_head), step if together < n_head else n_head)] or [range(0)]
        for here, j in cuts:
            for b in samples:
                for h in heads:
                    yield b, h, here, j

    def reach(self, queries: Tensor) -> range:
        """Neighboring keys outside of which some rows see nothing."""
        _, _, _, key_len = self.sizes
        low, high = self.given.rules.mask.reach()
        offset = self.given.query_offset
        if not len(queries) or (isinstance(offset, Tensor) and not len(offset)):
            return range(key_len)
        offsets = offset.tolist() if isinstance(offset, Tensor) else [offset]
        first, last = int(queries.min()) + min(offsets), int(queries.max()) + max(offsets)
        start = 0 if low is None else max(0, first + low)
        stop = key_len if high is None else min(key_len, last + high + 1)
        return range(start, max(start, stop))

    def log_beyond(self, mine: Tensor) -> Tensor:
        """ln of what each row gives to keys that only a given lse counts; -inf below rounding.

        Args:
            mine: the row's share of these keys and the sink, from `times`.
        """
        rounding = 32 * torch.finfo(self.dtype).eps * (1 + self.lse.abs())
        rest = 1 - mine
        return rest.masked_fill((rest <= rounding) | (self.lse == -torch.inf), 0).log()

    def attend(self, value: Tensor, rules: Rules) -> Partial:
        """Attention with these values and rules, by fused kernels."""
        call = replace(self.call, value=value, rules=rules)
        part: Partial = engines.choose(call, "auto").run(call)
        return part

    def times(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """P X, and the share of each row, (batch, n_head, query_len), of these keys and the sink.

        The share is 1, unless the map was given an lse that counts more keys than it has.
        """
        part = self.attend(X, self.given.rules)
        if self.known is None:
            self.known = part.lse
        mine = share(part.lse, self.known)
        return part.out * mine, mine[..., 0]

    def tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        lse = self._lse_of(b, h, i)
        P = self._scores_less(lse, b, h, i, j).mul_(LOG2E).exp2_()
        extreme = extreme_rows(self.given, lse)
        return P if extreme is None else P.div_(self._sums(extreme, lse, b, h, i).unsqueeze(-1))

    def logs(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        """ln P at every combination of batch, head, query and key; -inf where hidden."""
        lse = self._lse_of(b, h, i)
        logs = self._scores_less(lse, b, h, i, j)
        extreme = extreme_rows(self.given, lse)
        if extreme is not None:
            logs -= self._sums(extreme, lse, b, h, i).log().unsqueeze(-1)
        return logs

    def _sums(self, extreme: Tensor, lse: Tensor, b: Line, h: Line, i: Line) -> Tensor:
        """sum_j exp(score - lse) of the extreme rows, whose lse is too large to hold it; else 1."""
        sums = torch.zeros_like(lse)
        for j in _parts(range(self.sizes[3]), max(1, BLOCK // max(1, lse.numel()))):
            sums += self._scores_less(lse, b, h, i, j).exp_().sum(dim=-1)
        return sums.masked_fill_(~extreme, 1)

    def pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        call, lse = self.given, self.lse
        batch, n_head, _, _ = self.sizes
        everything = range(batch), range(n_head)
        result = lse.new_empty((batch, n_head, len(queries)))
        step = max(1, BLOCK // max(1, batch * n_head * call.query.shape[3]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            i, j = queries[part], keys[part]
            q = take(call.query, *everything, i).to(self.dtype)
            k = take(call.key, range(batch), range(call.key.shape[1]), j).to(self.dtype)
            product = (q * reference.repeat_heads(k, call.group)).sum(dim=-1) * call.scale
            at = self._places(*everything, i, j)
            # Query n stands beside key n on the last axis, so that places are pairs, no rectangle.
            at = at._replace(row=at.row.mT, query_pos=at.query_pos.mT)
            score = reference.apply_rules(call, product.unsqueeze(2), at).squeeze(2)
            known = take(lse, *everything, i)
            P = (score - known.masked_fill(known == -torch.inf, 0)).exp()
            extreme = extreme_rows(call, known)
            result[:, :, part] = (
                P if extreme is None else P / self._sums(extreme, known, *everything, i)
            )
        return result

    def blocks(self) -> Iterator[Block]:
        """The parts of the map that hold visible pairs."""
        batch, n_head, _, _ = self.sizes
        for piece in visible_pieces(self.given, wide=None):
            sample, q0, q1, k0, k1 = piece.rect
            b = range(batch) if sample is None else range(sample, sample + 1)
            for i in _parts(range(q0, q1), 4 * ROWS):
                width = CACHED // max(1, len(b) * n_head * len(i))
                for j in _parts(range(k0, k1), max(1, width // ROWS) * ROWS):
                    yield Block(b, i, j)

    def block(self, block: Block) -> Tensor:
        """The weights of a part: (batch, n_head, query, key)."""
        return self.tile(block.b, range(self.sizes[1]), block.i, block.j)

    def logs_of(self, block: Block) -> Tensor:
        """ln P of a part; -inf where hidden."""
        return self.logs(block.b, range(self.sizes[1]), block.i, block.j)

    def _scores_less(self, lse: Tensor, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        """score - lse at every combination of batch, head, query and key; -inf where hidden."""
        call = self.given
        shared = key_heads(h, call.group)
        q = take(call.query, b, h, i).to(self.dtype)
        k = take(call.key, b, shared, j).to(self.dtype)

        def folded(x: Tensor) -> Tensor:  # heads that share a key head, as more queries of it
            rows = len(h) // max(1, len(shared)) * len(i)
            return x.reshape(len(b) * len(shared), rows, x.shape[3])

        start = -lse.masked_fill(lse == -torch.inf, 0).unsqueeze(-1)
        visible, first = self._visible(b, h, i, j)
        # Many queries: clear unseen keys and hide by the matrix that the product is added to.
        # Few, or some of the keys: the tile is filled with -inf afterwards, without a copy of k.
        if visible is not None and not first and len(i) >= k.shape[3]:
            k = reference.cleared(k, visible)
            start = start + torch.where(visible, 0.0, -torch.inf)
            visible = None
        q, k = folded(q), k.flatten(0, 1)
        rules = call.rules
        if rules.softcap is not None or rules.bias is not None:
            bias = start.new_zeros((1, 1, 1, 1))
            if rules.bias is not None:
                bias = rules.bias.tile(self._places(b, h, i, j), self.dtype)
            bias = bias.expand(len(b), len(h), len(i), len(j))
            if rules.softcap is None:
                tile = folded(bias).baddbmm(q, k.mT, alpha=call.scale)
            else:
                product = torch.bmm(q, k.mT).mul_(call.scale)
                tile = reference.capped(call, product).add_(folded(bias))
            # The bias first, then -lse: in this order the score is rounded as it was for lse.
            tile = tile.view_as(bias).add_(start)
        elif start.shape[3] == len(j):
            tile = folded(start).baddbmm_(q, k.mT, alpha=call.scale)
        else:
            tile = torch.baddbmm(folded(start), q, k.mT, alpha=call.scale)
        tile = tile.view(len(b), len(h), len(i), len(j))
        if visible is not None:
            tile[..., first:].masked_fill_(~visible, -torch.inf)
        return tile

    def _visible(self, b: Line, h: Line, i: Line, j: Line) -> tuple[Tensor | None, int]:
        """Who sees whom, from which key of `j` on; None where every query sees every key.

        Asking a mask for its matrix costs as much as the tile: of neighboring queries, only the
        last keys are often hidden from some.
        """
        mask, offset = self.given.rules.mask, self.given.query_offset
        if isinstance(mask, Full):
            return None, 0
        first = 0
        if isinstance(i, range) and isinstance(j, range) and isinstance(offset, int):
            sample = b[0] if isinstance(b, range) and len(b) == 1 else None
            here = Rect(sample, i.start + offset, i.stop + offset, j.start, j.stop)
            if mask.region(here) is True:
                return None, 0
            edge = j.stop - len(i)
            if edge > j.start and mask.region(here._replace(k1=edge)) is True:
                first, j = edge - j.start, range(edge, j.stop)
        return mask.visible(self._places(b, h, i, j)), first

    def _lse_of(self, b: Line, h: Line, i: Line) -> Tensor:
        """The lse of some rows. If a long map is asked for few rows, only theirs is computed."""
        call, (_, _, query_len, key_len) = self.given, self.sizes
        few = 8 * len(i) <= query_len and query_len * key_len > BLOCK
        if self.known is not None or not few:
            return take(self.lse, b, h, i)
        zero = call.query.new_zeros((len(b), len(h), len(i)), dtype=self.dtype)
        lse = zero - torch.inf
        if call.rules.sinks is not None:
            lse = zero + take(call.rules.sinks.to(zero), h).view(1, -1, 1)
        for j in _parts(range(key_len), max(1, BLOCK // max(1, lse.numel()))):
            lse = logaddexp(lse, self._scores_less(zero, b, h, i, j).logsumexp(dim=-1))
        return lse

    def _places(self, b: Line, h: Line, i: Line, j: Line) -> At:
        offset = self.given.query_offset
        whole = len(h) == self.sizes[1] and isinstance(h, range)
        if whole and isinstance(b, range) and isinstance(i, range) and isinstance(j, range):
            return places((cut(b), len(h), cut(i), cut(j)), offset, self.device)
        batch, head, row, key = (numbers(line, self.device) for line in (b, h, i, j))
        batch, row = batch.view(-1, 1, 1, 1), row.view(1, 1, -1, 1)
        start = offset.to(self.device)[batch] if isinstance(offset, Tensor) else offset
        return At(batch, head.view(1, -1, 1, 1), row, row + start, key.view(1, 1, 1, -1))


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Turn gradients, inference mode, autocast and modes off while statistics are computed.

    The caller may be a model at work. Tensors made in inference mode could not be kept, autocast
    would round, and a mode of the caller (one that counts, or selective checkpointing, which finds
    what it kept by counting) would be told of operators that are not the model's.
    """
    with of_torch.no_modes(), torch.inference_mode(False), torch.no_grad(), unrounded(device):
        yield


def key_heads(h: Line, group: int) -> Line:
    """The key heads that some heads read: each once if `h` is whole groups, else one per head."""
    if isinstance(h, range) and (len(h) == 1 or h.start % group == len(h) % group == 0):
        return range(h.start // group, -(-h.stop // group))
    return numbers(h) // group


def _line(queries: Tensor) -> Line:
    """The same rows as a range, if they are neighbors: a range is not gathered."""
    if len(queries) and bool((queries.diff() == 1).all()):
        return range(int(queries[0]), int(queries[-1]) + 1)
    return queries


def _parts(line: range, step: int) -> Iterator[range]:
    for start in range(line.start, line.stop, step):
        yield range(start, min(start + step, line.stop))
