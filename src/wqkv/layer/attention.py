"""MultiheadAttention: project (see project.py), attend, gate, project."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from wqkv.attend import heard
from wqkv.attend.bias import Bias
from wqkv.attend.call import call_of
from wqkv.attend.engines import reference
from wqkv.attend.functional import attend
from wqkv.attend.masks import Full, Mask
from wqkv.attend.parallel.agreement import together
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.partial import Partial, logaddexp, merge, with_sinks
from wqkv.attend.rope import RoPE
from wqkv.attend.rules import FULL, Rules
from wqkv.doors import door
from wqkv.errors import ArgumentError, EngineError
from wqkv.layer import checks
from wqkv.layer.caches.base import KeyPiece, KVCache
from wqkv.layer.metadata import has_bias
from wqkv.layer.node import one_node
from wqkv.layer.norms import Norm, Normalize, QKNorm, Temperature, local_shard
from wqkv.layer.project import Projection, Where, end_of
from wqkv.layer.trace import Trace, all_steps
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.shared import shared_map_of

MATRICES = ("WQ", "WK", "WV", "WO")


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
    mesh: Ranks | None


class MultiheadAttention(Projection):
    """output = concat_h(softmax(q_h k_h^T * scale) v_h) WO, with q = Q WQ, k = K WK, v = V WV.

    The matrices are the modules `WQ`, `WK`, `WV`, `WO` (nn.Linear; a Linear keeps the transpose of
    the paper's matrix, x W is `x @ WQ.weight.T`), and they are called, so hooks, adapters and
    quantizers on them work. Each starts as nn.Linear does: uniform in +-1/sqrt(input size).

    The steps, in order: project to q, k, v; norm and v_norm; clip; rotate q and k by position;
    norm, if it comes after the position; temperature; cache; attention (its own steps: see
    `attention`); gate; project to the output.

    Heads: columns h * d_k to (h + 1) * d_k - 1 of WQ belong to head h. With n_kv_head < n_head,
    query head h reads key and value head h // (n_head / n_kv_head).
    Dtype: that of the inputs; scores and softmax in float32 (float64 for float64).
    Empty rows: a query that may see no key has context 0.

    Args:
        n_kv_head: how many key and value heads there are; None is n_head.
        d_k, d_v: the size of a query or key, and of a value; None is d_model // n_head, and d_k.
        kdim, vdim: the last size of K and V; None is d_model.
        bias: True, False, or the names of the matrices that add a bias: ("WQ", "WK", "WV"), say.
        WO: False leaves out the last projection; the result is the context, n_head * d_v wide.
        mask: who may see whom in every call, such as Causal(). Like every value here it may be
            given as its JSON form too (see Form).
        position: RoPE, which rotates q and k; ALiBi or T5Bias, which add to the scores; None.
        norm, v_norm: QKNorm of q and k (modules `q_norm`, `k_norm`); Norm of v (`v_norm`).
        clip: q, k and v are clamped to the range from -clip to clip.
        temperature: a factor for q that depends on the position of its token.
        softcap: scores become softcap * tanh(scores / softcap).
        sinks: True learns one more logit per head, `sinks`, whose value is zero; it starts at 0.
        persistent: how many keys and values per head are learned (`persistent_k`, `persistent_v`).
            Every query sees them, whatever the mask; no position rotates them, no bias is added.
        gate: context * sigmoid(Q WG), with one number per "head" or per "channel" (module `WG`).
        scale: None is 1 / sqrt(d_k).
        dropout: the share of weights set to zero while training; none in eval().
        engine: see `attention`.
        mesh: Ring(...), AllToAll(...) or Ranks(...), if ranks share the tokens of a text: each rank
            calls the layer with its part of Q, K and V. An attribute like `mask`: it can be set
            later, and `to_dict` leaves it out, because processes have no JSON form.

    Raises:
        ArgumentError, KindError: sizes that cannot be, or inputs that disagree with them.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2; the gate: Qiu et al. 2025
    (arXiv:2505.06708); persistent keys and values: Sukhbaatar et al. 2019 (arXiv:1907.01470).

    >>> layer = MultiheadAttention(512, 8)
    >>> layer(torch.randn(2, 17, 512)).shape
    torch.Size([2, 17, 512])
    """

    WO: nn.Linear | None
    WG: nn.Linear
    persistent_k: nn.Parameter | None
    persistent_v: nn.Parameter | None

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
        mesh: Ranks | None = None,
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
        self.gate, self.persistent, self.mesh = gate, persistent, mesh
        factory = checks.factory(device, dtype)
        sizes = self._sizes()
        sizes["WO"] = (n_head * self.d_v, d_model)
        if gate is not None:
            sizes["WG"] = (d_model, n_head * (self.d_v if gate == "channel" else 1))
        biased = _biased(bias, sizes)
        for name, size in sizes.items():
            matrix = (
                nn.Linear(*size, bias=name in biased, **factory) if WO or name != "WO" else None
            )
            self.register_module(name, matrix)
        self.q_norm = self.k_norm = self.v_norm = None
        if norm is not None:
            self.q_norm = Normalize(norm, self.maps_per_head * n_head, self.d_k, **factory)
            self.k_norm = Normalize(norm, self.maps_per_head * n_kv_head, self.d_k, **factory)
        if v_norm is not None:
            self.v_norm = Normalize(v_norm, n_kv_head, self.d_v, **factory)
        self.register_parameter("sinks", None)
        if sinks:
            self.sinks = nn.Parameter(torch.zeros(self.maps_per_head * n_head, **factory))
        key_heads = self.maps_per_head * n_kv_head
        for name, heads, d in (("k", key_heads, self.d_k), ("v", n_kv_head, self.d_v)):
            self.register_parameter(f"persistent_{name}", None)
            if persistent:
                made = torch.randn(heads, persistent, d, **factory) / math.sqrt(heads * d)
                self.register_parameter(f"persistent_{name}", nn.Parameter(made))

    def arguments(self) -> dict[str, Any]:  # Any: what a JSON form holds, see Form.arguments
        """What its constructor takes to make it again, as `to_dict` writes it.

        Not in it are device, dtype and mesh, which belong to the processes that run it, and the
        numbers of its parameters, which a state_dict has. A subclass adds its own arguments.
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
        """Attend from Q to K and V: (batch, query_len, d_model); without WO (..., n_head * d_v).

        Args:
            Q: (batch, query_len, d_model).
            K: (batch, key_len, kdim); None is Q.
            V: (batch, key_len, vdim); None is K.
            mask: a second mask, for this call; a pair must be visible in it and in the layer's own.
                With a cache its keys are all that came so far.
            positions: the positions by which RoPE rotates the tokens of Q, and of K if K is None:
                (query_len,) or (batch, query_len). None: they count up from query_offset. The mask
                always counts tokens, whatever is passed here.
            query_offset: the position of the first query, an int or one per sample (see
                `attention`); None with a cache is the cache's length.
            cache: keys and values of earlier calls; those of this call are added to it.
        """
        node = one_node(
            self, Q, K, V, mask=mask, positions=positions, query_offset=query_offset, cache=cache
        )
        if node is not None:
            return node  # type: ignore[no-any-return]
        with self._together(cache):
            q, held, where = self._project(Q, K, V, mask, positions, query_offset, cache)
            alone = cache is None or cache.ranks is None
            key_len = sum(piece.k.shape[2] for piece in held) if alone else where.length
            q, held, finish = self._attention_inputs(q, held, key_len)
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
        """Make the same call without dropout, and keep every intermediate: the N x N weights too.

        Persistent keys and values stand behind the others.

        >>> layer = MultiheadAttention(6, 2)
        >>> layer.trace(torch.randn(1, 3, 6)).weights.shape
        torch.Size([1, 2, 3, 3])
        """
        if self.mesh is not None:
            raise ArgumentError(
                "A layer whose tokens are shared by ranks has no trace: no rank has all of them.\n"
                "Use layer.map, or set layer.mesh to None and pass the whole text."
            )
        q, held, where = self._project(Q, K, V, mask, positions, query_offset, None)
        q, held, finish = self._attention_inputs(q, held)
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
        return Trace(calls[0].query, k, v, scores, weights, _join_heads(context), output)

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
        """The weights of the same call without dropout, as a lazy map, at any length.

        With `mesh` it is a SharedMap of the whole text, and every rank has to ask for it.
        Where ranks share the heads (`shard_heads`) it has this rank's: see `SharedMap.heads`.
        Persistent keys have no column; like a sink they take a part of every row.

        >>> layer = MultiheadAttention(6, 2)
        >>> layer.map(torch.randn(1, 3, 6))[0, 1, 2].shape
        torch.Size([3])
        """
        with together(None if self.mesh is None else self.mesh.group):
            q, held, where = self._project(Q, K, V, mask, positions, query_offset, None)
            q, held, _ = self._attention_inputs(q, held)
            (piece, rules), *_ = self._rules_per_piece(held, where)
            if self.mesh is not None and self.persistent:
                raise ArgumentError(
                    "A layer with a mesh and persistent keys has no map.\n"
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
        q, held, _ = self._project(Q, K, V, None, positions, query_offset, None)
        q, (piece,), _ = self._attention_inputs(q, held)
        return q, piece.k, piece.v

    def _rules_per_piece(
        self, held: Sequence[KeyPiece], where: Where
    ) -> list[tuple[KeyPiece, Rules]]:
        """Each piece of the keys, and the rules by which the queries attend to it."""
        offset, end, found = where.query_offset, max(where.length, end_of(held)), []
        bias = self.position if isinstance(self.position, Bias) else None
        sinks = local_shard(self.sinks)
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
        """Persistent keys, which stand at no position, and their rules; [] if there are none."""
        if self.persistent_k is None:
            return []
        k, v = (
            local_shard(x).to(q.dtype).expand(len(q), -1, -1, -1)
            for x in (self.persistent_k, self.persistent_v)
        )
        _, (piece,), _ = self._attention_inputs(q, [KeyPiece(k, v)])
        return [(piece, Rules(FULL, None, self.scale, self.softcap))]

    def _together(self, cache: KVCache | None) -> AbstractContextManager[None]:
        """Context in which an error of one rank is raised on all, if ranks share this call."""
        # getattr: of what kind the cache is, is checked inside, so that all ranks hear of an error
        ranks = self.mesh or getattr(cache, "ranks", None)
        return together(None if ranks is None else ranks.group)

    def _attended(
        self, q: Tensor, pieces: Sequence[tuple[KeyPiece, Rules]], cache: KVCache | None = None
    ) -> Tensor:
        """Attend to every piece and merge: (batch, n_head, query_len, d_v)."""
        dropout_p = self.dropout if self.training else 0.0
        beside = self._beside(q)
        if len(pieces) == 1 and not beside and (cache is None or cache.ranks is None):
            ((piece, rules),) = pieces
            rules = rules if dropout_p == 0 else replace(rules, dropout_p=dropout_p)
            return attend(
                q, piece.k, piece.v, rules, engine=self.engine, mesh=self.mesh, return_lse=False
            ).out

        pieces, beside = (
            [(piece, replace(rules, dropout_p=dropout_p)) for piece, rules in some]
            for some in (pieces, beside)
        )
        if not heard.listened():
            return self._merged(q, pieces, beside, cache)
        with heard.inside():
            out = self._merged(q, pieces, beside, cache)
        if self.mesh is not None or (cache is not None and cache.ranks is not None):
            heard.tell_unheard(heard.SHARED)
            return out
        # of the pieces of a cache the last is shown, because others are a few first tokens
        (piece, rules), *rest = [*reversed(pieces), *beside]
        others = (call_of(q, one.k, one.v, of_one.without_sinks()) for one, of_one in rest)
        call = call_of(q, piece.k, piece.v, rules, return_lse=False)
        heard.tell(heard.HeardCall(call, out, tuple(others)))
        return out

    def _merged(
        self,
        q: Tensor,
        pieces: Sequence[tuple[KeyPiece, Rules]],
        beside: Sequence[tuple[KeyPiece, Rules]],
        cache: KVCache | None,
    ) -> Tensor:
        """Attend to every piece; persistent keys and sinks are merged once, after all ranks."""

        def part_of(piece: KeyPiece, rules: Rules, mesh: Ranks | None) -> Partial:
            return attend(q, piece.k, piece.v, rules.without_sinks(), engine=self.engine, mesh=mesh)

        with self._together(cache):
            part = merge(*(part_of(*piece, self.mesh) for piece in pieces))
        part = part if cache is None else cache.whole(part)
        part = merge(part, *(part_of(*piece, None) for piece in beside))
        return with_sinks(part, local_shard(self.sinks)).out

    def _attention_inputs(
        self, q: Tensor, held: Sequence[KeyPiece], key_len: int | None = None
    ) -> tuple[Tensor, Sequence[KeyPiece], Callable[[Tensor], Tensor]]:
        """Hook for subclasses: the q, k, v to attend with, and a function from result to context.

        With `key_len`, how many keys there are on all ranks, they may be whatever is cheapest and
        gives the same context. With None they are the q, k, v of the formula, which traces show.
        """
        self._check_heads_of_rank(q, held[0].k)
        return q, held, lambda heads: heads

    def _output(self, context: Tensor, Q: Tensor) -> Tensor:
        """Gate the context, (batch, n_head, query_len, d_v), join the heads and project by WO."""
        if self.gate is not None:
            gate = self._split_heads(self.WG(Q), self.d_v if self.gate == "channel" else 1)
            checks.each_head("The gate", gate.shape[1], context.shape[1])
            context = context * torch.sigmoid(gate)
        joined = _join_heads(context)
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
        for name in ("position", "clip", "temperature", "softcap", "gate", "mesh"):
            if getattr(self, name) is not None:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)


def _join_heads(heads: Tensor) -> Tensor:
    """(batch, heads, length, d) -> (batch, length, heads * d)."""
    return heads.transpose(1, 2).flatten(2)


def _biased(bias: bool | Collection[str], names: Collection[str]) -> Collection[str]:
    """The names of the matrices that add a bias."""
    if isinstance(bias, bool):
        return names if bias else ()
    if not isinstance(bias, Collection) or isinstance(bias, str) or not set(bias) <= set(names):
        raise ArgumentError(
            f"`bias` is {bias!r}.\nPass True, False, or names out of {', '.join(names)}."
        )
    return bias
