"""MultiheadAttention: project, place, attend, project."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from wqkv.attend.bias import Bias
from wqkv.attend.call import call_of
from wqkv.attend.engines import reference
from wqkv.attend.functional import attend
from wqkv.attend.geometry import check_offset
from wqkv.attend.masks import Dense, Full, Mask
from wqkv.attend.parallel.agreement import together
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.partial import Partial, logaddexp, merge, with_sinks
from wqkv.attend.rope import RoPE, rotate
from wqkv.attend.rules import FULL, Rules
from wqkv.doors import door
from wqkv.errors import ArgumentError, EngineError
from wqkv.layer import checks
from wqkv.layer.caches.base import KeyPiece, KVCache
from wqkv.layer.metadata import Ruled, has_bias
from wqkv.layer.node import one_node
from wqkv.layer.norms import Norm, Normalise, QKNorm, Temperature, own
from wqkv.layer.trace import Trace, all_steps
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.shared import shared_map_of

MATRICES = ("WQ", "WK", "WV", "WO")


class Where(NamedTuple):
    """Where the words of a call stand: the queries and keys, and what turns them."""

    mask: Mask
    query_offset: int | Tensor | None
    first_key: int | Tensor  # what stands in the cache comes before it
    positions: Tensor | None  # of the queries' words, if they are not counted from query_offset
    own: bool  # whether the keys are the queries' own words
    length: int  # how many keys there are in the end


class CommonArguments(TypedDict, total=False):
    """Arguments of MultiheadAttention that LatentAttention and DifferentialAttention hand on."""

    WO: bool
    mask: Mask | None
    temperature: Temperature | None
    softcap: float | None
    sinks: bool
    gate: Literal["head", "channel"] | None
    scale: float | None
    dropout: float
    engine: str


class MultiheadAttention(Ruled):
    """output = concat_h(softmax(q_h k_h^T * scale) v_h) WO, with q = Q WQ, k = K WK, v = V WV.

    The matrices are the modules `WQ`, `WK`, `WV`, `WO` (nn.Linear; a Linear keeps the transpose of
    the paper's matrix, x W is `x @ WQ.weight.T`), and they are called, so hooks, adapters and
    quantizers on them work. Each starts as nn.Linear does: uniform in +-1/sqrt(input size).

    In this order: project; norm and v_norm; clip; position turns q and k; a norm that comes after
    the position; temperature; the cache; attention (see `attention` for the order inside); gate;
    project.

    Heads: columns h * d_k to (h + 1) * d_k - 1 of WQ belong to head h. With n_kv_head < n_head,
    query head h reads key and value head h // (n_head / n_kv_head).
    Dtype: that of the inputs; scores and softmax in float32 (float64 for float64).
    Empty rows: a query that may see no key has context 0.

    Args:
        n_kv_head: how many key and value heads there are; None is n_head.
        d_k, d_v: the size of a query or key, and of a value; None is d_model // n_head, and d_k.
        kdim, vdim: the last size of K and V; None is d_model.
        bias: True, False, or the names of the matrices that carry one, such as ("WQ", "WK", "WV").
        WO: False leaves out the last projection; the result is the context, n_head * d_v wide.
        mask: who may see whom in every call, such as Causal(). This and each other value may be
            given as its JSON form too (see Form).
        position: RoPE, which turns q and k; ALiBi or T5Bias, which add to the scores; None.
        norm, v_norm: QKNorm of q and k (modules `q_norm`, `k_norm`); Norm of v (`v_norm`).
        clip: q, k and v are clamped to plus and minus it.
        temperature: what q is multiplied by, by its position.
        softcap: scores become softcap * tanh(scores / softcap).
        sinks: True learns one more logit a head, `sinks`, whose value is zero; it starts at 0.
        persistent: how many keys and values per head are learned (`persistent_k`, `persistent_v`).
            Every query sees them, whatever the mask; no position turns them, no bias is added.
        gate: context * sigmoid(Q WG), with one number a "head" or a "channel" (module `WG`).
        scale: None is 1 / sqrt(d_k).
        dropout: the share of weights set to zero while training.
        engine: see `attention`.

    Raises:
        ArgumentError, KindError: sizes that cannot be, or inputs that disagree with them.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2; the gate: Qiu et al. 2025
    (arXiv:2505.06708); persistent keys and values: Sukhbaatar et al. 2019 (arXiv:1907.01470).

    >>> layer = MultiheadAttention(512, 8)
    >>> layer(torch.randn(2, 17, 512)).shape
    torch.Size([2, 17, 512])
    """

    #: How many query maps a head has; they share its value.
    maps = 1

    # As they are made, so that type checkers know `WQ.weight`; any module may take their place.
    WQ: nn.Linear
    WK: nn.Linear
    WV: nn.Linear
    WO: nn.Linear | None
    WG: nn.Linear
    q_norm: Normalise | None
    k_norm: Normalise | None
    v_norm: Normalise | None
    sinks: nn.Parameter | None
    position_0: nn.Parameter  # what `position` learns, where it learns
    persistent_k: nn.Parameter | None
    persistent_v: nn.Parameter | None
    #: Ring(mesh), AllToAll(mesh) or Ranks(mesh): Q, K and V are this rank's share of the words.
    mesh: Ranks | None = None

    @door
    def __init__(
        self,
        d_model: int,
        n_head: int,
        *,
        n_kv_head: int | None = None,
        d_k: int | None = None,
        d_v: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool | Collection[str] = True,
        WO: bool = True,
        mask: Mask | None = None,
        position: RoPE | Bias | None = None,
        norm: QKNorm | None = None,
        v_norm: Norm | None = None,
        clip: float | None = None,
        temperature: Temperature | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        persistent: int = 0,
        gate: Literal["head", "channel"] | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        engine: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        checks.counts(
            d_model=d_model, n_head=n_head, n_kv_head=n_kv_head,
            d_k=d_k, d_v=d_v, kdim=kdim, vdim=vdim, persistent=persistent or None,
        )  # fmt: skip
        checks.heads(d_model, n_head, n_kv_head, d_k)
        checks.values(position, temperature)
        checks.numbers(dropout=dropout, clip=clip, softcap=softcap, scale=scale)
        checks.engine(engine)
        if gate not in (None, "head", "channel"):
            raise ArgumentError(f"`gate` is {gate!r}.\nPass 'head', 'channel' or None.")

        self.d_model, self.n_head, self.n_kv_head = d_model, n_head, n_kv_head
        self.d_k = d_model // n_head if d_k is None else d_k
        self.d_v = self.d_k if d_v is None else d_v
        self.kdim, self.vdim = kdim or d_model, vdim or d_model
        self.mask: Mask = Full() if mask is None else mask
        self.position, self.scale, self.dropout, self.engine = position, scale, dropout, engine
        self.norm, self.clip, self.temperature, self.softcap = norm, clip, temperature, softcap
        self.gate, self.persistent = gate, persistent
        where = checks.where(device, dtype)
        sizes = self._sizes()
        sizes["WO"] = (n_head * self.d_v, d_model)
        if gate is not None:
            sizes["WG"] = (d_model, n_head * (self.d_v if gate == "channel" else 1))
        biased = _biased(bias, sizes)
        for name, size in sizes.items():
            matrix = nn.Linear(*size, bias=name in biased, **where) if WO or name != "WO" else None
            self.register_module(name, matrix)
        self.q_norm = self.k_norm = self.v_norm = None
        if norm is not None:
            self.q_norm = Normalise(norm, self.maps * n_head, self.d_k, **where)
            self.k_norm = Normalise(norm, self.maps * n_kv_head, self.d_k, **where)
        if v_norm is not None:
            self.v_norm = Normalise(v_norm, n_kv_head, self.d_v, **where)
        self.register_parameter("sinks", None)
        if sinks:
            self.sinks = nn.Parameter(torch.zeros(self.maps * n_head, **where))
        for name, heads, d in (("k", self.maps * n_kv_head, self.d_k), ("v", n_kv_head, self.d_v)):
            self.register_parameter(f"persistent_{name}", None)
            if persistent:
                made = torch.randn(heads, persistent, d, **where) / math.sqrt(heads * d)
                self.register_parameter(f"persistent_{name}", nn.Parameter(made))

    @property
    def position(self) -> RoPE | Bias | None:
        """RoPE, ALiBi, T5Bias or None, as it is now.

        A learned tensor of it is this layer's parameter `position_0`, and is read from there alone:
        what loads, replaces, prunes, shards or maps parameters changes the position too.
        """
        value = self._position
        if isinstance(value, Bias) and hasattr(self, "position_0"):
            return value._with_tensor(own(self.position_0))
        return value

    @position.setter
    def position(self, value: RoPE | Bias | None) -> None:
        if hasattr(self, "position_0"):
            del self.position_0
        (tensor,) = value.tensors() if isinstance(value, Bias) else (None,)
        if isinstance(value, Bias) and isinstance(tensor, nn.Parameter):
            self.register_parameter("position_0", tensor)
            value = value._with_tensor(tensor.detach().to("meta"))  # its kind and sizes alone
        self._position = value

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """The matrices that make q, k and v: the sizes of what goes in and what comes out."""
        return {
            "WQ": (self.d_model, self.maps * self.n_head * self.d_k),
            "WK": (self.kdim, self.maps * self.n_kv_head * self.d_k),
            "WV": (self.vdim, self.n_kv_head * self.d_v),
        }

    def arguments(self) -> dict[str, Any]:
        """What its constructor takes to make it again, as `to_dict` writes it.

        Not in it: device, dtype, mesh, and the numbers of its parameters, which a state_dict has. A
        subclass with arguments of its own adds them.
        """
        matrices = [name for name in (*self._sizes(), "WO", "WG") if hasattr(self, name)]
        return {
            "d_model": self.d_model, "n_head": self.n_head, "n_kv_head": self.n_kv_head,
            "d_k": self.d_k, "d_v": self.d_v, "kdim": self.kdim, "vdim": self.vdim,
            "bias": [name for name in matrices if has_bias(getattr(self, name))],
            "WO": self.WO is not None, "mask": self.mask, "position": self._position,
            "norm": self.norm, "v_norm": self.v_norm and self.v_norm.norm, "clip": self.clip,
            "temperature": self.temperature, "softcap": self.softcap,
            "sinks": self.sinks is not None, "gate": self.gate,
            "persistent": self.persistent, "scale": self.scale,
            "dropout": self.dropout, "engine": self.engine,
        }  # fmt: skip

    def forward(
        self,
        Q: Tensor,
        K: Tensor | None = None,
        V: Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
        positions: Tensor | None = None,
        query_offset: int | Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Attend from Q to K and V: (batch, query_len, d_model), without a WO (..., n_head * d_v).

        Args:
            Q: (batch, query_len, d_model).
            K: (batch, key_len, kdim); None is Q.
            V: (batch, key_len, vdim); None is K.
            mask: a second mask, for this call; a pair must be visible in it and in the layer's own.
                With a cache its keys are all that came so far.
            positions: by what the words of Q turn, (query_len,) or (batch, query_len), and those of
                K if it is None; None counts them. The mask counts words whatever they turn by.
            query_offset: the position of the first query, an int or one a sample (see `attention`);
                None with a cache is the cache's length.
            cache: keys and values of earlier calls, which this call's are added to.
        """
        rest = {"mask": mask, "positions": positions, "query_offset": query_offset, "cache": cache}
        if (node := one_node(self, Q, K, V, **rest)) is not None:
            return node  # type: ignore[no-any-return]
        ranks = self.mesh or getattr(cache, "ranks", None)
        with together(None if ranks is None else ranks.group):
            q, held, where = self._prepare(Q, K, V, mask, positions, query_offset, cache)
            alone = cache is None or cache.ranks is None
            key_len = sum(piece.k.shape[2] for piece in held) if alone else where.length
            q, held, finish = self._opened(q, held, key_len)
            pieces = self._rules_per_piece(held, where)
        heads = self._attended(q, pieces, cache)
        return self._output(finish(heads), Q)

    if TYPE_CHECKING:  # what nn.Module declares takes and returns Any

        def __call__(
            self,
            Q: Tensor,
            K: Tensor | None = None,
            V: Tensor | None = None,
            *,
            mask: Mask | Tensor | None = None,
            positions: Tensor | None = None,
            query_offset: int | Tensor | None = None,
            cache: KVCache | None = None,
        ) -> Tensor: ...

    def trace(
        self,
        Q: Tensor,
        K: Tensor | None = None,
        V: Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
        positions: Tensor | None = None,
        query_offset: int | Tensor | None = None,
    ) -> Trace:
        """The same call with every intermediate kept and no dropout. Builds the whole matrix.

        Persistent keys and values stand behind the others.

        >>> layer = MultiheadAttention(6, 2)
        >>> layer.trace(torch.randn(1, 3, 6)).weights.shape
        torch.Size([1, 2, 3, 3])
        """
        if self.mesh is not None:
            raise ArgumentError(
                "A layer over words has no trace: no rank has all of them.\n"
                "Use layer.map, or set layer.mesh to None and pass the whole text."
            )
        q, held, where = self._prepare(Q, K, V, mask, positions, query_offset, None)
        q, held, finish = self._opened(q, held)
        pieces = [*self._rules_per_piece(held, where), *self._beside(q)]
        calls = [call_of(q, piece.k, piece.v, rules) for piece, rules in pieces]
        if reasons := reference.reasons_against(calls[0]):
            raise EngineError(
                f"A trace keeps every weight: {reasons[0]}.\nTrace fewer queries at a time."
            )
        scores, weights, heads = all_steps(calls)
        k = torch.cat([call.key for call in calls], dim=2)
        v = torch.cat([call.value for call in calls], dim=2)
        context = finish(heads)
        output = self._output(context, Q)
        return Trace(calls[0].query, k, v, scores, weights, _join(context), output)

    def map(
        self,
        Q: Tensor,
        K: Tensor | None = None,
        V: Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
        positions: Tensor | None = None,
        query_offset: int | Tensor | None = None,
    ) -> AttentionMap:
        """The weights of the same call as a lazy map, at any length; there is no dropout in it.

        Over words (`mesh`) it is the map of the whole text, a SharedMap, which every rank asks for.
        Where the heads are shared it has this rank's: see `SharedMap.heads`.
        Persistent keys have no column; like a sink they take a part of every row.

        >>> layer = MultiheadAttention(6, 2)
        >>> layer.map(torch.randn(1, 3, 6))[0, 1, 2].shape
        torch.Size([3])
        """
        with together(None if self.mesh is None else self.mesh.group):
            q, held, where = self._prepare(Q, K, V, mask, positions, query_offset, None)
            q, held, _ = self._opened(q, held)
            (piece, rules), *_ = self._rules_per_piece(held, where)
            if self.mesh is not None and self.persistent:
                raise ArgumentError(
                    "A layer over words with persistent keys has no map.\n"
                    "Set layer.mesh to None and pass the whole text."
                )
        if self.mesh is not None:
            ask = partial(call_of, q, piece.k, piece.k, rules, ranks=self.mesh.size)
            return shared_map_of(self.mesh, ask)
        call = call_of(q, piece.k, piece.k, rules)
        seen = map_of(call)
        for beside, others in self._beside(q):
            rest = map_of(call_of(q, beside.k, beside.k, others))
            seen = map_of(call, lse=logaddexp(seen.lse, rest.lse))
        return seen

    def qkv(
        self,
        Q: Tensor,
        K: Tensor | None = None,
        V: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        query_offset: int | Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of the same call, (batch, heads, length, d), as they go into the scores.

        >>> q, k, v = MultiheadAttention(6, 2).qkv(torch.randn(1, 3, 6))
        >>> q.shape
        torch.Size([1, 2, 3, 3])
        """
        q, held, _ = self._prepare(Q, K, V, None, positions, query_offset, None)
        q, (piece,), _ = self._opened(q, held)
        return q, piece.k, piece.v

    @door  # not at `forward`: with ranks, an error of one is told to the others
    def _prepare(
        self,
        Q: Tensor,
        K: Tensor | None,
        V: Tensor | None,
        mask: Mask | Tensor | None,
        positions: Tensor | None,
        query_offset: int | Tensor | None,
        cache: KVCache | None,
    ) -> tuple[Tensor, Sequence[KeyPiece], Where]:
        """q (batch, n_head, query_len, d_k), and all keys and values that it may see."""
        if cache is not None and self.mesh is not None:
            raise ArgumentError(
                "A layer over ranks keeps no cache.\nSet layer.mesh to None; Spread(ranks) gives "
                "each rank a share of the keys."
            )
        if cache is not None and cache.filled:
            checks.inputs(Q, Q, Q, (self.d_model,) * 3, self.WQ)
            held = cache.held()
            where = self._where(Q, None, mask, positions, query_offset, 0, _end(held))
            return self._queries(Q, where), held, where
        own = K is None
        K = Q if K is None else K
        V = K if V is None else V
        sizes = self.d_model, self.kdim, self.vdim
        checks.inputs(Q, K, V, sizes, self.WQ)
        first = 0 if cache is None else cache.length
        if cache is not None and query_offset is None:
            query_offset = first
        where = self._where(
            Q, None if own else K, mask, positions, query_offset, first,
            K.shape[1] * self._ranks + (first if isinstance(first, int) else 0),
        )  # fmt: skip
        q = self._queries(Q, where)
        k, v = self._keys(K, V, where)
        return q, ((KeyPiece(k, v),) if cache is None else cache.append(k, v)), where

    @property
    def _ranks(self) -> int:
        """How many ranks share the words."""
        return 1 if self.mesh is None else self.mesh.size

    def _where(
        self,
        Q: Tensor,
        K: Tensor | None,
        mask: Mask | Tensor | None,
        positions: Tensor | None,
        query_offset: int | Tensor | None,
        first_key: int | Tensor,
        length: int,
    ) -> Where:
        if query_offset is not None:
            query_offset = check_offset(query_offset, Q.shape[0], Q.device)
        query_len = Q.shape[1] * self._ranks
        turned = isinstance(self.position, RoPE) and positions is None
        if turned and query_offset is None and query_len != length:
            raise ArgumentError(
                f"Where do {query_len} queries stand among {length} keys? RoPE depends on it.\n"
                f"Pass query_offset=0 for the first at the first, {length - query_len} for the "
                "last at the last, or another position."
            )
        if positions is not None:
            checks.positions(positions, Q, self.position)
        if mask is None:
            rule = self.mask
        else:
            rule = self.mask & (mask if isinstance(mask, Mask) else Dense(mask))
        return Where(rule, query_offset, first_key, positions, K is None, length)

    def _queries(self, Q: Tensor, where: Where) -> Tensor:
        q = self._clipped(self._split(self.WQ(Q), self.d_k), self.q_norm)
        q = self._turned(q, where.query_offset, where.positions, where.length)
        return self._warmed(self._placed(q, self.q_norm), where)

    def _keys(self, K: Tensor, V: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        k = self._clipped(self._split(self.WK(K), self.d_k), self.k_norm)
        v = self._split(self.WV(V), self.d_v)
        v = self._clipped(v if self.v_norm is None else _normed(self.v_norm, v), None)
        positions = where.positions if where.own else None
        k = self._turned(k, where.first_key, positions, where.length)
        return self._placed(k, self.k_norm), v

    def _split(self, x: Tensor, d: int) -> Tensor:
        """The heads of a projection, d numbers each: where ranks share its columns, their own."""
        checks.columns(x, d)
        return torch.unflatten(x, -1, (-1, d)).transpose(1, 2)

    def _clipped(self, x: Tensor, norm: Normalise | None) -> Tensor:
        """After the norm that comes before the position, and the clip."""
        if norm is not None and self.norm is not None and not self.norm.after_position:
            x = _normed(norm, x)
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def _placed(self, x: Tensor, norm: Normalise | None) -> Tensor:
        """After the norm that comes after the position."""
        if norm is not None and self.norm is not None and self.norm.after_position:
            x = _normed(norm, x)
        return x

    def _turned(
        self, x: Tensor, first: int | Tensor | None, positions: Tensor | None, length: int
    ) -> Tensor:
        """x turned by its positions, which are counted from `first` unless they are given."""
        rope = self.position
        if not isinstance(rope, RoPE):
            return x
        n, first = x.shape[2], 0 if first is None else first
        if positions is not None:
            turns = rope.turns(x, positions)
        elif isinstance(first, Tensor) or self.mesh is not None:
            line = self._line(n, first, x.device)
            if rope.axes is not None and line.ndim == 2:  # (2, n) would be taken for two axes
                line = line.expand(max(rope.axes) + 1, -1, -1)
            turns = rope.turns(x, line, length or None)
        else:
            turns = rope.span(x, first, n, length)
        return rotate(x, *turns, interleaved=rope.interleaved)

    def _line(self, n: int, first: int | Tensor, device: torch.device) -> Tensor:
        """The positions of n words, (n,), or (batch, n) where samples differ."""
        start = first.view(-1, 1).to(device) if isinstance(first, Tensor) else first
        line = torch.arange(n, device=device)
        return start + (line if self.mesh is None else self.mesh.positions(n, device))

    def _warmed(self, q: Tensor, where: Where) -> Tensor:
        """q times the temperature of its position."""
        if self.temperature is None:
            return q
        position = where.positions
        if position is None:
            offset = 0 if where.query_offset is None else where.query_offset
            position = self._line(q.shape[2], offset, q.device)
        factor = self.temperature.at(position, reference.exact(q)).unsqueeze(-1)
        return q * (factor.unsqueeze(1) if factor.ndim == 3 else factor).to(q.dtype)

    def _rules_per_piece(
        self, held: Sequence[KeyPiece], where: Where
    ) -> list[tuple[KeyPiece, Rules]]:
        """Each piece of the keys, and the rules by which the queries attend to it."""
        offset, end, found = where.query_offset, max(where.length, _end(held)), []
        bias = self.position if isinstance(self.position, Bias) else None
        sinks = own(self.sinks)
        for piece in held:
            # the rules of a mesh are already those of the whole text
            whole = self.mesh is not None or (piece.start, piece.k.shape[2]) == (0, end)
            mask = where.mask if whole else where.mask.part(piece.start, end)
            rules = Rules(
                piece.mask & mask, bias, self.scale, self.softcap, sinks,
                query_offset=None if offset is None else offset - piece.start,
            )  # fmt: skip
            found.append((piece, rules))
        return found

    def _beside(self, q: Tensor) -> list[tuple[KeyPiece, Rules]]:
        """The persistent keys, which stand at no position, and their rules; none where none are."""
        if self.persistent_k is None:
            return []
        k, v = (
            own(x).to(q.dtype).expand(len(q), -1, -1, -1)
            for x in (self.persistent_k, self.persistent_v)
        )
        _, (piece,), _ = self._opened(q, [KeyPiece(k, v)])
        return [(piece, Rules(FULL, None, self.scale, self.softcap))]

    def _attended(
        self, q: Tensor, pieces: Sequence[tuple[KeyPiece, Rules]], cache: KVCache | None = None
    ) -> Tensor:
        """The heads' results: attention to every piece, merged."""
        dropout_p = self.dropout if self.training else 0.0
        beside = self._beside(q)
        if len(pieces) == 1 and not beside and (cache is None or cache.ranks is None):
            ((piece, rules),) = pieces
            rules = rules if dropout_p == 0 else replace(rules, dropout_p=dropout_p)
            return attend(
                q, piece.k, piece.v, rules, engine=self.engine, mesh=self.mesh, return_lse=False
            ).out

        def part_of(piece: KeyPiece, rules: Rules, mesh: Ranks | None) -> Partial:
            rules = replace(rules, sinks=None, dropout_p=dropout_p)
            return attend(q, piece.k, piece.v, rules, engine=self.engine, mesh=mesh)

        # what stands at no position once, after the merge over all ranks
        ranks = self.mesh or getattr(cache, "ranks", None)
        with together(None if ranks is None else ranks.group):
            part = merge(*(part_of(*piece, self.mesh) for piece in pieces))
        part = part if cache is None else cache.whole(part)
        part = merge(part, *(part_of(*piece, None) for piece in beside))
        return with_sinks(part, own(self.sinks)).out

    def _opened(
        self, q: Tensor, held: Sequence[KeyPiece], key_len: int | None = None
    ) -> tuple[Tensor, Sequence[KeyPiece], Callable[[Tensor], Tensor]]:
        """What attends, to which keys and values, and what makes the context of the result.

        The cheapest for `key_len` keys, or the formula's own queries and keys where it is None.
        """
        checks.share(self, q, held[0].k)
        return q, held, lambda heads: heads

    def _output(self, context: Tensor, Q: Tensor) -> Tensor:
        if self.gate is not None:
            gate = self._split(self.WG(Q), self.d_v if self.gate == "channel" else 1)
            checks.each_head("The gate", gate.shape[1], context.shape[1])
            context = context * torch.sigmoid(gate)
        joined = _join(context)
        if self.WO is None:
            return joined
        output: Tensor = self.WO(joined)
        return output

    def extra_repr(self) -> str:
        parts = [f"d_model={self.d_model}", f"n_head={self.n_head}"]
        if self.n_kv_head != self.n_head:
            parts.append(f"n_kv_head={self.n_kv_head}")
        parts.append(f"d_k={self.d_k}")
        if self.persistent:
            parts.append(f"persistent={self.persistent}")
        if not isinstance(self.mask, Full):
            parts.append(f"mask={self.mask!r}")
        for name in ("position", "clip", "temperature", "softcap", "gate"):
            if getattr(self, name) is not None:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)


def _end(held: Sequence[KeyPiece]) -> int:
    """How many positions there are up to the end of the last piece."""
    return max(piece.start + piece.k.shape[2] for piece in held)


def _normed(norm: Normalise, x: Tensor) -> Tensor:
    normed: Tensor = norm(x.transpose(1, 2))
    return normed.transpose(1, 2)


def _join(heads: Tensor) -> Tensor:
    """(batch, head, length, d) -> (batch, length, head * d)."""
    return heads.transpose(1, 2).flatten(2)


def _biased(bias: bool | Collection[str], names: Collection[str]) -> Collection[str]:
    if isinstance(bias, bool):
        return names if bias else ()
    if not isinstance(bias, Collection) or isinstance(bias, str) or not set(bias) <= set(names):
        raise ArgumentError(
            f"`bias` is {bias!r}.\nPass True, False, or names out of {', '.join(names)}."
        )
    return bias
