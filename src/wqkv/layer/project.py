"""From tokens to q, k and v: the first half of a layer. The second half is attention.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.attend.bias import Bias
from wqkv.attend.engines import reference
from wqkv.attend.geometry import check_offset
from wqkv.attend.masks import Dense, Mask
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.rope import RoPE, rotate
from wqkv.doors import door
from wqkv.errors import ArgumentError, message
from wqkv.layer import checks
from wqkv.layer.caches.base import KeyPiece, KVCache
from wqkv.layer.metadata import SavesRules
from wqkv.layer.norms import Normalize, QKNorm, Temperature, local_shard


class Where(NamedTuple):
    """Where the tokens of one call stand, and who may see whom."""

    mask: Mask  # the layer's own and the call's
    query_offset: int | Tensor | None  # the position of the first query
    first_key: int | Tensor  # the position of this call's first key; cached keys come before it
    positions: Tensor | None  # of the queries, given by the caller; None counts from query_offset
    keys_are_queries: bool  # K is Q, so that `positions` are those of the keys too
    length: int  # how many keys there are after this call, on all ranks together


class Projection(SavesRules):
    """What a layer does before it attends: project, norm, clip, rotate, scale by position, cache.

    Its subclass MultiheadAttention documents and makes the parts that are named here.
    """

    #: How many attention maps one head computes; they share its value.
    maps_per_head: ClassVar[int] = 1

    d_model: int
    n_head: int
    n_kv_head: int
    d_k: int
    d_v: int
    kdim: int
    vdim: int
    # Typed as they are made, so that type checkers know `WQ.weight`; any module may replace them.
    WQ: nn.Linear
    WK: nn.Linear
    WV: nn.Linear
    mask: Mask
    norm: QKNorm | None
    q_norm: Normalize | None
    k_norm: Normalize | None
    v_norm: Normalize | None
    clip: float | None
    temperature: Temperature | None
    sinks: nn.Parameter | None
    position_0: nn.Parameter  # what `position` learns, where it learns
    mesh: Ranks | None

    @property
    def position(self) -> RoPE | Bias | None:
        """RoPE, ALiBi, T5Bias or None, with the numbers that it has now.

        A learned tensor of it is this layer's parameter `position_0`, and is read from there alone.
        So whatever loads, replaces, prunes, shards or maps parameters changes the position too.
        """
        value = self._position
        if isinstance(value, Bias) and hasattr(self, "position_0"):
            return value._with_tensor(local_shard(self.position_0))
        return value

    @position.setter
    def position(self, value: RoPE | Bias | None) -> None:
        if hasattr(self, "position_0"):
            del self.position_0
        (tensor,) = value.tensors() if isinstance(value, Bias) else (None,)
        if isinstance(value, Bias) and isinstance(tensor, nn.Parameter):
            self.register_parameter("position_0", tensor)
            # The parameter holds the numbers. `value` keeps only type and sizes, on device meta.
            value = value._with_tensor(tensor.detach().to("meta"))
        self._position = value

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """(input size, output size) of each matrix that makes q, k or v."""
        return {
            "WQ": (self.d_model, self.maps_per_head * self.n_head * self.d_k),
            "WK": (self.kdim, self.maps_per_head * self.n_kv_head * self.d_k),
            "WV": (self.vdim, self.n_kv_head * self.d_v),
        }

    # The door is here and not at `forward`: with ranks, an error on one rank has to reach the
    # others, and forward calls this inside `together`, which tells them.
    @door
    def _project(
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
        if cache is not None and cache.filled:  # Cross: the keys are there, K and V are not read
            checks.inputs(Q, Q, Q, (self.d_model,) * 3, self.WQ)
            held = cache.held()
            where = self._where(Q, None, mask, positions, query_offset, 0, end_of(held))
            return self._queries(Q, where), held, where
        keys_are_queries = K is None
        K = Q if K is None else K
        V = K if V is None else V
        sizes = self.d_model, self.kdim, self.vdim
        checks.inputs(Q, K, V, sizes, self.WQ)
        first = 0 if cache is None else cache.length
        if cache is not None and query_offset is None:
            query_offset = first
        where = self._where(
            Q, None if keys_are_queries else K, mask, positions, query_offset, first,
            K.shape[1] * self._rank_count + (first if isinstance(first, int) else 0),
        )  # fmt: skip
        q = self._queries(Q, where)
        k, v = self._keys(K, V, where)
        return q, ((KeyPiece(k, v),) if cache is None else cache.append(k, v)), where

    @property
    def _rank_count(self) -> int:
        """How many ranks share the tokens of a call."""
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
        """Check a call's positions, and join its mask with the layer's; K None means K is Q."""
        if query_offset is not None:
            query_offset = check_offset(query_offset, Q.shape[0], Q.device)
        query_len = Q.shape[1] * self._rank_count
        rotates = isinstance(self.position, RoPE) and positions is None
        if rotates and query_offset is None and query_len != length:
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
        """q of all tokens of Q, (batch, n_head, query_len, d_k), ready for the scores."""
        q = self._norm_and_clip(self._split_heads(self.WQ(Q), self.d_k), self.q_norm)
        q = self._rotate(q, where.query_offset, where.positions, where.length)
        return self._scale_by_position(self._norm_after_position(q, self.q_norm), where)

    def _keys(self, K: Tensor, V: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        """k and v of these tokens, (batch, n_kv_head, key_len, d_k or d_v), ready to be cached."""
        k = self._norm_and_clip(self._split_heads(self.WK(K), self.d_k), self.k_norm)
        v = self._split_heads(self.WV(V), self.d_v)
        v = self._clip(v if self.v_norm is None else _normalize(self.v_norm, v))
        positions = where.positions if where.keys_are_queries else None
        k = self._rotate(k, where.first_key, positions, where.length)
        return self._norm_after_position(k, self.k_norm), v

    def _split_heads(self, x: Tensor, d: int) -> Tensor:
        """(batch, length, heads * d) -> (batch, heads, length, d).

        How many heads there are is read off x: with `shard_heads` a rank projects its own alone.
        """
        checks.columns(x, d)
        return torch.unflatten(x, -1, (-1, d)).transpose(1, 2)

    def _norm_and_clip(self, x: Tensor, norm: Normalize | None) -> Tensor:
        """Apply the norm, unless it comes after the position, then clip."""
        if norm is not None and self.norm is not None and not self.norm.after_position:
            x = _normalize(norm, x)
        return self._clip(x)

    def _clip(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def _norm_after_position(self, x: Tensor, norm: Normalize | None) -> Tensor:
        """Apply the norm if it comes after the position."""
        if norm is not None and self.norm is not None and self.norm.after_position:
            x = _normalize(norm, x)
        return x

    def _rotate(
        self, x: Tensor, first: int | Tensor | None, positions: Tensor | None, length: int
    ) -> Tensor:
        """Rotate x (RoPE) by `positions`, or by first, first + 1, ... where they are None."""
        rope = self.position
        if not isinstance(rope, RoPE):
            return x
        n, first = x.shape[2], 0 if first is None else first
        if positions is not None:
            turns = rope.turns(x, positions)
        elif isinstance(first, Tensor) or self.mesh is not None:
            counted = self._count_from(first, n, x.device)
            if rope.axes is not None and counted.ndim == 2:  # (2, n) would be taken for two axes
                counted = counted.expand(max(rope.axes) + 1, -1, -1)
            turns = rope.turns(x, counted, length or None)
        else:
            # The common case: the angles of n neighboring positions are cut out of a table.
            turns = rope.span(x, first, n, length)
        return rotate(x, *turns, interleaved=rope.interleaved)

    def _count_from(self, first: int | Tensor, n: int, device: torch.device) -> Tensor:
        """The positions of n tokens: (n,), or (batch, n) where `first` differs between samples."""
        start = first.view(-1, 1).to(device) if isinstance(first, Tensor) else first
        steps = torch.arange(n, device=device)
        return start + (steps if self.mesh is None else self.mesh.positions(n, device))

    def _scale_by_position(self, q: Tensor, where: Where) -> Tensor:
        """Multiply q by the temperature of its position."""
        if self.temperature is None:
            return q
        position = where.positions
        if position is None:
            offset = 0 if where.query_offset is None else where.query_offset
            position = self._count_from(offset, q.shape[2], q.device)
        factor = self.temperature.at(position, reference.exact(q)).unsqueeze(-1)
        # (n, 1) fits every head; (batch, n, 1) needs an axis for them
        return q * (factor.unsqueeze(1) if factor.ndim == 3 else factor).to(q.dtype)

    def _check_heads_of_rank(self, q: Tensor, k: Tensor) -> None:
        """Raise unless q and k have all heads of the layer, or a part of them in whole groups.

        A part comes from tensor parallelism: `shard_heads`, or torch's own plan on the matrices.
        """
        q_heads, k_heads = q.shape[1], k.shape[1]
        n_head = self.maps_per_head * self.n_head
        n_kv_head = self.maps_per_head * self.n_kv_head
        if q_heads * n_kv_head != k_heads * n_head and not k_heads == n_kv_head == 1:
            raise ArgumentError(
                message(
                    f"WQ gives {q_heads} of {n_head} heads, and WK {k_heads} of {n_kv_head}.",
                    {"q": q, "k": k},
                    checks.SHARE,
                )
            )
        if self.maps_per_head > 1 and q_heads != n_head:
            raise ArgumentError(
                f"WQ gives {q_heads} of {n_head} heads, and {type(self).__name__} needs all: its "
                "first maps stand before its second ones.\nKeep its matrices whole on every rank."
            )
        if q_heads != n_head:
            whole = {"WK": [k] if k_heads == n_kv_head else []}
            for name in ("q_norm", "k_norm", "v_norm"):
                norm = getattr(self, name)
                whole[name] = [] if norm is None else [*norm.parameters()]
            for name, tensors in whole.items():
                for tensor in tensors:
                    checks.no_gradient(name, tensor, q_heads, n_head)
        if self.sinks is not None:
            checks.each_head("`sinks`", len(local_shard(self.sinks)), q_heads)


def end_of(held: Sequence[KeyPiece]) -> int:
    """The first position after all pieces."""
    return max(piece.start + piece.k.shape[2] for piece in held)


def _normalize(norm: Normalize, x: Tensor) -> Tensor:
    """Norm x, (batch, heads, length, d); the module takes (batch, length, heads, d)."""
    normed: Tensor = norm(x.transpose(1, 2))
    return normed.transpose(1, 2)
