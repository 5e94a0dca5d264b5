"""DifferentialAttention: the difference of two attention maps per head."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wqkv.attend.bias import Bias
from wqkv.attend.engines import reference
from wqkv.attend.rope import RoPE
from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.layer import checks
from wqkv.layer.attention import CommonArguments, MultiheadAttention
from wqkv.layer.caches.base import KeyPiece
from wqkv.layer.norms import Norm, Normalize, QKNorm


class FurtherArguments(CommonArguments, total=False):
    """Arguments of MultiheadAttention that DifferentialAttention hands on, besides the common."""

    n_kv_head: int | None
    kdim: int | None
    vdim: int | None
    bias: bool | Collection[str]
    position: RoPE | Bias | None
    norm: QKNorm | None
    v_norm: Norm | None
    clip: float | None
    persistent: int


@door
class DifferentialAttention(MultiheadAttention):
    """context_h = (1 - start) norm((P1_h - lambda P2_h) v_h): P2 cancels the noise of P1.

    P1_h = softmax(q1_h k1_h^T * scale), P2_h likewise;
    lambda = exp(lambda_q1 . lambda_k1) - exp(lambda_q2 . lambda_k2) + start.

    Heads: WQ and WK make 2 * n_head and 2 * n_kv_head heads: all first maps, then all second ones.
    Empty rows: as in MultiheadAttention; the norm keeps them 0.

    Args:
        start: lambda at the beginning of training; the paper takes 0.8 - 0.6 exp(-0.3 layer).
        d_k, d_v: the size of a query or key (None: d_model // (2 n_head)) and of a value
            (None: 2 d_k).
        c_norm: the norm of every head's result (module `c_norm`).
        rest: further arguments of MultiheadAttention.

    Source: Ye et al. 2024 (arXiv:2410.05258), eq. 1 to 3.

    >>> layer = DifferentialAttention(512, 4, start=0.8)
    >>> layer(torch.randn(2, 17, 512)).shape
    torch.Size([2, 17, 512])
    """

    maps_per_head = 2

    def __init__(
        self,
        d_model: int,
        n_head: int,
        *,
        start: float,
        d_k: int | None = None,
        d_v: int | None = None,
        c_norm: Norm | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **rest: Unpack[FurtherArguments],
    ) -> None:
        checks.counts(d_model=d_model, n_head=n_head, d_k=d_k)
        if not math.isfinite(start):
            raise ArgumentError(f"`start` is {start}.\nPass a finite number.")
        checks.heads(d_model, n_head, n_head, d_k)
        d_k = max(d_model // (2 * n_head), 1) if d_k is None else d_k
        factory = checks.factory(device, dtype)
        super().__init__(
            d_model, n_head, d_k=d_k, d_v=2 * d_k if d_v is None else d_v, **factory, **rest
        )
        self.start = start
        self.c_norm = Normalize(c_norm or Norm(eps=1e-5), n_head, self.d_v, **factory)
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            self.register_parameter(name, nn.Parameter(torch.randn(d_k, **factory) * 0.1))

    def arguments(self) -> dict[str, Any]:  # Any: what a JSON form holds, see Form.arguments
        return {**super().arguments(), "start": self.start, "c_norm": self.c_norm.norm}

    def _attention_inputs(
        self, q: Tensor, held: Sequence[KeyPiece], key_len: int | None = None
    ) -> tuple[Tensor, Sequence[KeyPiece], Callable[[Tensor], Tensor]]:
        q, held, _ = super()._attention_inputs(q, held, key_len)
        held = [piece._replace(v=torch.cat((piece.v, piece.v), dim=1)) for piece in held]
        return q, held, self._difference

    def _difference(self, heads: Tensor) -> Tensor:
        """The normed difference of the two results of each head: (batch, n_head, length, d_v)."""
        exact = reference.exact(heads)
        first, second = heads.to(exact).chunk(2, dim=1)
        q1, k1, q2, k2 = (
            getattr(self, name).to(exact)
            for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
        )
        # not q1 @ k1: autocast would compute a matrix product in half precision
        weight = (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + self.start
        context = (first - weight * second).to(heads.dtype).transpose(1, 2)
        normed: Tensor = self.c_norm(context)
        return normed.transpose(1, 2) * (1 - self.start)
