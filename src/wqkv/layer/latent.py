"""LatentAttention: keys and values made from one compressed vector per token."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wqkv.attend.rope import RoPE
from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.layer import checks
from wqkv.layer.attention import CommonArguments, MultiheadAttention
from wqkv.layer.caches.base import KeyPiece
from wqkv.layer.norms import Norm, Normalize
from wqkv.layer.plain import plain
from wqkv.layer.project import Where

#: Arguments of MultiheadAttention that have no meaning here.
_NOT_HERE = ("n_kv_head", "vdim", "norm", "v_norm", "clip", "persistent")


@door
class LatentAttention(MultiheadAttention):
    """k_h = [c WK_h, rotate(K WR)], v_h = c WV_h, with c = norm(K WC): one small vector per token.

    All heads share the rotated part. A cache keeps [c, rotate(K WR)] alone, rank + d_rope numbers
    per token. A call with few queries attends to c itself, as (q_h WK_h^T) . c, one with many to
    k_h, whichever takes fewer multiplications; the results agree to rounding. WK and WV add no
    bias.

    Heads, dtype, empty rows: as in MultiheadAttention.

    Args:
        rank: the size of the compressed vector c.
        d_rope: how many channels of d_k `position` rotates; they come last.
        d_k, d_v: the size of a query or key, the rotated part included (None: d_model // n_head),
            and of a value (None: d_k - d_rope).
        q_rank: the size of a compressed vector for q, which makes WQ (Linear, norm, Linear); None.
        bias: True, False, or names out of WQ, WC, WR, WO and WG.
        c_norm: the norm of the compressed vectors (module `c_norm`).
        rest: further arguments of MultiheadAttention, but for n_kv_head, vdim, norm, v_norm,
            clip and persistent.

    Raises:
        ArgumentError, KindError: sizes that cannot be, or inputs that disagree with them.

    Source: DeepSeek-AI 2024 (arXiv:2405.04434), section 2.1.

    >>> layer = LatentAttention(512, 8, rank=64, d_rope=16)
    >>> layer(torch.randn(2, 17, 512)).shape
    torch.Size([2, 17, 512])
    """

    WC: nn.Linear
    WR: nn.Linear

    def __init__(
        self,
        d_model: int,
        n_head: int,
        *,
        rank: int,
        d_rope: int,
        d_k: int | None = None,
        d_v: int | None = None,
        kdim: int | None = None,
        q_rank: int | None = None,
        bias: bool | Collection[str] = False,
        position: RoPE | None = None,
        c_norm: Norm | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **rest: Unpack[CommonArguments],
    ) -> None:
        checks.counts(d_model=d_model, n_head=n_head, rank=rank, d_rope=d_rope, q_rank=q_rank)
        if odd := [name for name in _NOT_HERE if name in rest]:
            raise ArgumentError(
                f"LatentAttention has no `{odd[0]}`: one vector per token makes keys and values.\n"
                "Leave it out."
            )
        checks.heads(d_model, n_head, n_head, d_k)
        d_k = d_model // n_head if d_k is None else d_k
        if d_rope >= d_k or d_rope % 2:
            raise ArgumentError(
                f"`d_rope` is {d_rope} of `d_k` {d_k} channels.\n"
                f"Pass an even number below {d_k}: the others come from the compressed vector."
            )
        if bias is True:
            bias = ("WQ", "WC", "WR", "WO", "WG") if rest.get("gate") else ("WQ", "WC", "WR", "WO")
        if not isinstance(bias, bool) and {"WK", "WV"} & set(bias):
            raise ArgumentError(
                f"`bias` is {bias!r}, and WK and WV carry none.\nPass names out of WQ, WC, WR, WO."
            )
        c_norm = c_norm or Norm()
        self.rank, self.d_rope, self.q_rank = rank, d_rope, q_rank
        factory = checks.factory(device, dtype)
        super().__init__(
            d_model, n_head, d_k=d_k, d_v=d_k - d_rope if d_v is None else d_v,
            kdim=kdim, vdim=kdim, bias=bias, position=position or RoPE(), **factory, **rest,
        )  # fmt: skip
        self.scale = 1 / math.sqrt(d_k) if self.scale is None else self.scale
        self.c_norm = Normalize(c_norm, 1, rank, **factory)
        if q_rank is not None:
            compressed = nn.Sequential(
                nn.Linear(d_model, q_rank, bias="WQ" in (bias or ()), **factory),
                Normalize(c_norm, 1, q_rank, **factory),
                nn.Linear(q_rank, n_head * d_k, bias=False, **factory),
            )
            self.register_module("WQ", compressed)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        return {
            "WQ": (self.d_model, self.n_head * self.d_k),
            "WC": (self.kdim, self.rank),
            "WR": (self.kdim, self.d_rope),
            "WK": (self.rank, self.n_head * (self.d_k - self.d_rope)),
            "WV": (self.rank, self.n_head * self.d_v),
        }

    def arguments(self) -> dict[str, Any]:  # Any: what a JSON form holds, see Form.arguments
        rest = {k: v for k, v in super().arguments().items() if k not in _NOT_HERE}
        own = {"rank": self.rank, "d_rope": self.d_rope, "q_rank": self.q_rank}
        return {**rest, **own, "c_norm": self.c_norm.norm}

    def _queries(self, Q: Tensor, where: Where) -> Tensor:
        plain_part, rope_part = self._split_heads(self.WQ(Q), self.d_k).split(
            (self.d_k - self.d_rope, self.d_rope), dim=-1
        )
        rotated = self._rotate(rope_part, where.query_offset, where.positions, where.length)
        return self._scale_by_position(torch.cat((plain_part, rotated), dim=-1), where)

    def _keys(self, K: Tensor, V: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        if V is not K:
            raise ArgumentError(
                "LatentAttention makes keys and values from the same tokens.\nLeave V out."
            )
        c = self.c_norm(self.WC(K)).unsqueeze(1)
        positions = where.positions if where.keys_are_queries else None
        r = self._rotate(self.WR(K).unsqueeze(1), where.first_key, positions, where.length)
        k = torch.cat((c, r), dim=-1)
        return k, k[..., :0]

    def _attention_inputs(
        self, q: Tensor, held: Sequence[KeyPiece], key_len: int | None = None
    ) -> tuple[Tensor, Sequence[KeyPiece], Callable[[Tensor], Tensor]]:
        if q.shape[1] != self.n_head:
            checks.no_gradient("WC", held[0].k, q.shape[1], self.n_head)
        matrices = None if key_len is None else self._foldable_matrices()
        # `is False` and not `not`: in an exported graph the lengths are symbols, and to ask which
        # way is cheaper would be a guard, so that the graph ran at no other ratio of lengths.
        cheaper = self._folding_is_cheaper
        if key_len is None or matrices is None or cheaper(q.shape[2], key_len) is False:
            return super()._attention_inputs(q, [self._expand(piece) for piece in held], key_len)
        WK, WV = matrices
        self._check_heads_of_rank(q, WK[None])
        plain_part, rotated = q.split((self.d_k - self.d_rope, self.d_rope), dim=-1)
        q = torch.cat((plain_part @ WK.transpose(1, 2), rotated), dim=-1)
        # the values are c alone; the rotated part comes along because the kernels want one width
        held = [piece._replace(v=piece.k) for piece in held]
        return q, held, lambda heads: heads[..., : self.rank] @ WV

    def _foldable_matrices(self) -> list[Tensor] | None:
        """WK and WV as (head, rank, d), if they are plain matrices; others have to be called."""
        found: list[Tensor] = []
        for matrix, d in ((self.WK, self.d_k - self.d_rope), (self.WV, self.d_v)):
            if not plain(matrix) or matrix.bias is not None:
                return None
            found.append(self._split_heads(matrix.weight.T[None], d)[0])
        return found

    def _folding_is_cheaper(self, query_len: int, key_len: int) -> bool:
        """Whether attending to c itself takes fewer multiplications per head than to k_h."""
        # per token: k and v from c, or q into the space of c and the context back
        project = self.rank * (self.d_k - self.d_rope + self.d_v)
        expanded = key_len * project + query_len * key_len * (self.d_k + self.d_v)
        folded = query_len * project + query_len * key_len * 2 * (self.rank + self.d_rope)
        return folded < expanded

    def _expand(self, piece: KeyPiece) -> KeyPiece:
        """k and v of every head, from the compressed vectors that a piece keeps."""
        c, r = piece.k.squeeze(1).split((self.rank, self.d_rope), dim=-1)
        k = self._split_heads(self.WK(c), self.d_k - self.d_rope)
        v = self._split_heads(self.WV(c), self.d_v)
        r = r.unsqueeze(1).expand(-1, k.shape[1], -1, -1)
        return piece._replace(k=torch.cat((k, r), dim=-1), v=v)
