"""SharedMap: one map of which every rank has some heads or some rows; all ranks get one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from wqkv.attend.bias import Bias
from wqkv.attend.call import Call, request
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.parallel import messages
from wqkv.attend.parallel.agreement import agree, question, read, together
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.rules import FULL
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.maps import statistics
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.picks import Line, numbers
from wqkv.maps.statistics import Top
from wqkv.maps.tile_map import LIMIT, check_limit

_asked = door(request, name="SharedMap.tokens")


class Part(NamedTuple):
    """What a rank has of a map: the map of some heads and rows, and where its first ones stand."""

    map: AttentionMap
    head: int
    row: int

    @property
    def heads(self) -> tuple[slice, slice]:
        """Where its heads are in (batch, head)."""
        return slice(None), slice(self.head, self.head + self.map.shape[1])

    @property
    def rows(self) -> tuple[slice, slice, slice]:
        """Where its rows are in (batch, head, query)."""
        return *self.heads, slice(self.row, self.row + self.map.shape[2])

    def rows_of(self, queries: Tensor) -> Tensor:
        """Which of some queries are its own."""
        return _within(queries, self.rows[2])


class SharedMap(AttentionMap):
    """One AttentionMap that ranks share: P = sum over ranks of what each has, 0 where it has none.

    It has the methods of any map, which return the same on every rank. Each rank computes for its
    own heads or rows; only the answers travel. All ranks must call the same methods, in one order:
    a rank that calls alone waits for the others, and where the calls differ, all ranks raise.

    Some arguments are about this rank's share alone. An X with heads (`times`) has this rank's key
    heads. `proof` takes the values of all tokens for this rank's key heads, and the output of this
    rank's heads and rows. `progress` of `top` counts the rows of one of this rank's parts.

    >>> from torch import distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> q = torch.randn(1, 2, 5, 8)
    >>> SharedMap.tokens(Ranks(), q, q).entropy().shape
    torch.Size([1, 2, 5])
    >>> dist.destroy_process_group()
    """

    _repr_html_ = None  # type: ignore[assignment]  # one rank alone would wait

    @door
    def __init__(
        self,
        ranks: Ranks,
        parts: Sequence[Part],
        shape: tuple[int, int, int, int],
        mask: Mask,
        *,
        placed: bool,
        limit: int = LIMIT,
    ) -> None:
        self._ranks, self._parts, self._shape, self._mask = ranks, parts, shape, mask
        check_limit(limit)
        self._placed, self.limit = placed, limit
        if not parts:
            raise ArgumentError("A SharedMap has no parts.\nPass what this rank has of the map.")
        own = parts[0].map._numbers
        self._dtype, self._device = own.dtype, own.device

    @classmethod
    def heads(cls, m: AttentionMap, mesh: DeviceMesh | ProcessGroup | None = None) -> SharedMap:
        """Join the maps of each rank's heads to the map of all heads, in the order of the ranks.

        With `shard_heads` it is `SharedMap.heads(layer.map(x), mesh)`; for a model whose heads
        torch or transformers share (tensor parallelism), `SharedMap.heads(seen[layer], mesh)`.

        Args:
            mesh: as in `Ranks`; None is all ranks.

        Raises:
            KindError: no AttentionMap of this rank.
            ArgumentError: maps whose other sizes disagree, on every rank.
        """
        ranks = Ranks(mesh)
        with together(ranks.group):
            if type(m) is not AttentionMap:
                raise KindError(f"The map of a rank's heads is an AttentionMap, not {describe(m)}.")
            batch, _, query_len, key_len = m.shape
        asked = {
            "asked": "the map of all heads",
            "batch": str(batch),
            "query_len": str(query_len),
            "key_len": str(key_len),
            "dtype": str(m._numbers.dtype),
        }
        agree(ranks.group, asked)
        mine = torch.zeros(ranks.size, dtype=torch.long, device=m._numbers.device)
        mine[ranks.rank] = m.shape[1]
        counts = messages.total(ranks.group, mine).tolist()
        head, n_head = sum(counts[: ranks.rank]), sum(counts)
        return cls(
            ranks, [Part(m, head, 0)], (batch, n_head, query_len, key_len), m.mask,
            placed=m._placed, limit=m.limit,
        )  # fmt: skip

    @classmethod
    def tokens(
        cls,
        ranks: Ranks,
        query: Tensor,
        key: Tensor,
        *,
        mask: Mask | Tensor = FULL,
        bias: Bias | Tensor | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        query_offset: int | Tensor | None = None,
    ) -> SharedMap:
        """The map of a whole text, of which every rank has some tokens.

        A rank keeps its queries and gets all keys, once: key_len * d_k numbers per key head.

        Args:
            query, key: this rank's tokens, as in `attention(..., mesh=ranks)`; mask, bias and the
                rest are those of the whole text.

        Raises:
            ArgumentError, KindError: what `attention` would raise for them.
        """
        if not isinstance(ranks, Ranks):
            raise KindError(f"`ranks` is Ranks(mesh) or a kind of it, not {describe(ranks)}.")
        ask = partial(
            _asked, query, key, key, mask=mask, bias=bias, scale=scale, softcap=softcap,
            sinks=sinks, query_offset=query_offset, ranks=ranks.size,
        )  # fmt: skip
        return shared_map_of(ranks, ask)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self._shape

    @property
    def mask(self) -> Mask:
        return self._mask

    def __repr__(self) -> str:
        here = [
            f"heads {p.head} to {p.head + p.map.shape[1] - 1}"
            f" of rows {p.row} to {p.row + p.map.shape[2] - 1}"
            for p in self._parts
        ]
        whole = f"SharedMap{list(self.shape)} over {self._ranks.size} ranks, mask {self.mask!r}"
        return f"{whole}; here {' and '.join(here)}"

    def flat(self) -> AttentionMap:
        parts = [part._replace(map=part.map.flat()) for part in self._parts]
        return SharedMap(
            self._ranks, parts, self.shape, self.mask, placed=self._placed, limit=self.limit
        )

    @door
    def t_times(self, Y: Tensor) -> Tensor:
        statistics.floats("Y", Y, self._device)
        Y = statistics.spread("Y", Y, "queries", self.shape[:3])
        shares = [part.map.t_times(Y[part.rows]) for part in self._parts]
        return self._by_head(shares, _question("t_times", Y))

    @door
    def thumbnail(self, n: int = 64) -> Tensor:
        shares = [
            part.map._columns(statistics.thumbnail, n, part.row, self.shape[2])
            for part in self._parts
        ]
        return self._by_head(shares, _question("thumbnail", n))

    # Each rank puts its share in its place, and all are added up

    def _rows(self, of: Callable[..., Tensor], *args: Any) -> Tensor:
        shares = [part.map._rows(of, *args) for part in self._parts]
        shape = *self.shape[:3], *shares[0].shape[3:]
        places = [part.rows for part in self._parts]
        return self._sum(shape, zip(places, shares, strict=True), _question(of.__name__, *args))

    def _columns(self, of: Callable[..., Tensor], *args: Any) -> Tensor:
        shares = [part.map._columns(of, *args) for part in self._parts]
        return self._by_head(shares, _question(of.__name__, *args))

    def _by_head(self, shares: Sequence[Tensor], asked: str) -> Tensor:
        shape = *self.shape[:2], *shares[0].shape[2:]
        places = [part.heads for part in self._parts]
        return self._sum(shape, zip(places, shares, strict=True), asked)

    def _tile(self, b: Line, h: Line, i: Line, j: Line) -> Tensor:
        asked = _question("weights", b, h, i, j)
        h, i, shares = numbers(h), numbers(i), []
        for part in self._parts:
            heads, rows = _within(h, part.heads[1]), part.rows_of(i)
            if len(heads) and len(rows):
                tile = part.map._tile(b, h[heads] - part.head, i[rows] - part.row, j)
                shares.append(((slice(None), heads[:, None], rows), tile))
        return self._sum([len(line) for line in (b, h, i, j)], shares, asked)

    def _pairs(self, queries: Tensor, keys: Tensor) -> Tensor:
        shares = []
        for part in self._parts:
            here = part.rows_of(queries)
            own = part.map._pairs(queries[here] - part.row, keys[here])
            shares.append(((*part.heads, here), own))
        asked = _question("at", queries, keys)
        return self._sum((*self.shape[:2], len(queries)), shares, asked)

    def _top(self, k: int, queries: Tensor, progress: Callable[[int, int], None]) -> Top:
        statistics.wanted(k, queries)
        batch, n_head, _, key_len = self.shape
        slots = batch, n_head, self._ranks.size * len(self._parts), k
        found = Top(
            self._zeros(slots),
            *torch.zeros((2, *slots), dtype=torch.long, device=self._device),
        )
        for slot, part in enumerate(self._parts, self._ranks.rank * len(self._parts)):
            found.weights[:, :, slot] = torch.nan  # where this part has fewer than k links: last
            here = part.rows_of(queries)
            if len(here):
                best = part.map._top(k, queries[here] - part.row, progress)
                best = best._replace(queries=best.queries + part.row)
                for whole, own in zip(found, best, strict=True):
                    whole[(*part.heads, slot, slice(own.shape[2]))] = own
        self._agree(_question("top", k, queries))
        told = Top(*(messages.total(self._ranks.group, x).flatten(2) for x in found))
        return statistics.strongest(told, min(k, len(queries) * key_len))

    def _proof(self, value: Tensor, output: Tensor, queries: Tensor) -> float:
        statistics.some(queries)
        lengths = [part.map.shape[2] for part in self._parts]
        batch, n_head, _, key_len = self._parts[0].map.shape
        n_kv_head = self._parts[0].map._numbers.given.key.shape[1]
        statistics.fits(
            (batch, n_head, sum(lengths), key_len),
            n_kv_head,
            value,
            {"output": output},
            self._device,
        )
        worst = self._zeros([self._ranks.size])
        for part, own in zip(self._parts, output.split(lengths, dim=2), strict=True):
            here = part.rows_of(queries)
            if len(here):
                off = part.map._proof(value, own, queries[here] - part.row)
                worst[self._ranks.rank] = max(off, float(worst[self._ranks.rank]))
        self._agree(_question("proof", queries))
        return float(messages.total(self._ranks.group, worst).max())

    def _sum(
        self, shape: Sequence[int], shares: Iterable[tuple[Any, Tensor]], asked: str
    ) -> Tensor:
        """Add up all ranks' shares of a tensor; this rank's come with their places in it."""
        self._agree(asked)
        whole = self._zeros(shape)
        for place, share in shares:
            whole[place] += share
        return messages.total(self._ranks.group, whole)

    def _zeros(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _agree(self, asked: str) -> None:
        agree(self._ranks.group, {"asked": asked, "map": str(list(self.shape))})


def shared_map_of(ranks: Ranks, ask: Callable[[], Call]) -> SharedMap:
    """The map of the call that `ask` makes; its errors are raised on all ranks."""
    with together(ranks.group):
        call = ask()
        call = replace(call, query=call.query.detach(), key=call.key.detach())
        asked = question(call, f"a map of tokens, {ranks.layout}")
    agree(ranks.group, asked)
    batch, n_head, query_len, key_len = call.sizes
    query_len, key_len = query_len * ranks.size, key_len * ranks.size
    spans, _ = ranks.spans(query_len), ranks.spans(key_len)
    keys, parts, first = ranks.gather(call.key, 2), [], 0
    for a, b in spans:
        rows = slice(first, first + b - a)
        first = rows.stop
        bias = call.rules.bias
        rules = replace(
            call.rules,
            mask=call.rules.mask.part(0, key_len, a, query_len),
            bias=None if bias is None else bias.part(0, a),
            query_offset=call.query_offset + a,
        )
        own = Call(call.query[:, :, rows], keys, keys, rules)
        parts.append(Part(map_of(own), 0, a))
    placed = call.rules.query_offset is not None or query_len == key_len
    shape = batch, n_head, query_len, key_len
    return SharedMap(ranks, parts, shape, call.rules.mask, placed=placed)


def _question(name: str, *given: object) -> str:
    """A method's call as text, equal on all ranks. Of a tensor of floats, only the width is."""
    return f"{name}({', '.join(map(_shown, given))})"


def _shown(given: object) -> str:
    if isinstance(given, Tensor) and given.is_floating_point():
        return f"[..., {given.shape[-1]}]"
    return read(given)


def _within(line: Tensor, part: slice) -> Tensor:
    """The indices of those positions in `line` that lie in `part`."""
    inside: Tensor = (line >= part.start) & (line < part.stop)
    return inside.nonzero().flatten()
