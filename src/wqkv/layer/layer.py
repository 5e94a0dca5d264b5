"""MultiheadAttention: project, place, attend, project."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from wqkv.attend.call import autocasts, request
from wqkv.attend.engines import reference
from wqkv.attend.functional import attention
from wqkv.attend.masks import Dense, Full, Mask
from wqkv.attend.positions import Bias, RoPE, rotate
from wqkv.errors import ArgumentError, EngineError, KindError, describe, message
from wqkv.layer.trace import Trace

MATRICES = ("WQ", "WK", "WV", "WO")


class MultiheadAttention(nn.Module):
    """output = concat_h(softmax(q_h k_h^T * scale) v_h) WO, with q = Q WQ, k = K WK, v = V WV.

    The matrices are the modules `WQ`, `WK`, `WV`, `WO` (nn.Linear; a Linear keeps the transpose of
    the paper's matrix, x W is `x @ WQ.weight.T`), and they are called, so hooks, adapters and
    quantisers on them work. Each starts as nn.Linear does: uniform in +-1/sqrt(input size).

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
        mask: who may see whom in every call, such as Causal().
        position: RoPE, which turns q and k; ALiBi or T5Bias, which add to the scores; None.
        scale: None is 1 / sqrt(d_k).
        dropout: the share of weights set to zero while training.
        engine: see `attention`.

    Raises:
        ArgumentError, KindError: sizes that cannot be, or inputs that disagree with them.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2.

    >>> layer = MultiheadAttention(512, 8)
    >>> layer(torch.randn(2, 17, 512)).shape
    torch.Size([2, 17, 512])
    """

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
        scale: float | None = None,
        dropout: float = 0.0,
        engine: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        counts: dict[str, int | None]
        counts = {"d_model": d_model, "n_head": n_head, "n_kv_head": n_kv_head}
        counts |= {"d_k": d_k, "d_v": d_v, "kdim": kdim, "vdim": vdim}
        for name, size in counts.items():
            if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
                raise KindError(f"`{name}` is a count, not {describe(size)}.")
            if size is not None and size < 1:
                raise ArgumentError(f"`{name}` is {size}.\nPass 1 or more.")
        if d_k is None and d_model % n_head:
            raise ArgumentError(
                f"`d_model` {d_model} is not a multiple of `n_head` {n_head}.\n"
                f"Pass n_head = {_near_divisors(d_model, n_head)}, or say d_k."
            )
        if n_head % n_kv_head:
            raise ArgumentError(
                f"`n_head` {n_head} is not a multiple of `n_kv_head` {n_kv_head}.\n"
                f"Pass n_kv_head = {_near_divisors(n_head, n_kv_head)}."
            )
        if not 0 <= dropout < 1:
            raise ArgumentError(
                f"`dropout` is {dropout}, the share of weights to drop.\nPass 0 <= dropout < 1."
            )
        if mask is not None and not isinstance(mask, Mask):
            raise KindError(f"`mask` is a mask such as Causal(), not {describe(mask)}.")
        if position is not None and not isinstance(position, RoPE | Bias):
            raise KindError(f"`position` is RoPE, ALiBi, T5Bias or None, not {describe(position)}.")

        self.d_model, self.n_head, self.n_kv_head = d_model, n_head, n_kv_head
        self.d_k = d_model // n_head if d_k is None else d_k
        self.d_v = self.d_k if d_v is None else d_v
        self.mask: Mask = Full() if mask is None else mask
        self.position, self.scale, self.dropout, self.engine = position, scale, dropout, engine
        biased = _biased(bias)
        sizes = {
            "WQ": (d_model, n_head * self.d_k),
            "WK": (kdim or d_model, n_kv_head * self.d_k),
            "WV": (vdim or d_model, n_kv_head * self.d_v),
            "WO": (n_head * self.d_v, d_model),
        }
        made = {
            name: nn.Linear(*sizes[name], bias=name in biased, device=device, dtype=dtype)
            for name in (MATRICES if WO else MATRICES[:3])
        }
        self.WQ: nn.Module = made["WQ"]
        self.WK: nn.Module = made["WK"]
        self.WV: nn.Module = made["WV"]
        self.WO: nn.Module | None = made.get("WO")
        self._input_sizes = (d_model, kdim or d_model, vdim or d_model)
        if isinstance(position, Bias):  # a learned table is trained and saved with the layer
            for i, tensor in enumerate(position.tensors()):
                if isinstance(tensor, nn.Parameter):
                    self.register_parameter(f"position_{i}", tensor)

    def forward(
        self,
        Q: Tensor,
        K: Tensor | None = None,
        V: Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
        query_offset: int | Tensor | None = None,
    ) -> Tensor:
        """Attend from Q to K and V: (batch, query_len, d_model), without a WO (..., n_head * d_v).

        Args:
            Q: (batch, query_len, d_model).
            K: (batch, key_len, kdim); None is Q.
            V: (batch, key_len, vdim); None is K.
            mask: a second mask, for this call; a pair must be visible in it and in the layer's own.
            query_offset: the position of the first query, an int or one a sample (see `attention`).
        """
        q, k, v, rules = self._prepare(Q, K, V, mask, query_offset)
        dropout_p = self.dropout if self.training else 0.0
        context = attention(q, k, v, **rules, dropout_p=dropout_p, engine=self.engine)
        return self._project(context)

    def trace(
        self,
        Q: Tensor,
        K: Tensor | None = None,
        V: Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
        query_offset: int | Tensor | None = None,
    ) -> Trace:
        """The same call with every intermediate kept and no dropout. Builds the whole matrix.

        >>> layer = MultiheadAttention(6, 2)
        >>> layer.trace(torch.randn(1, 3, 6)).weights.shape
        torch.Size([1, 2, 3, 3])
        """
        q, k, v, rules = self._prepare(Q, K, V, mask, query_offset)
        call = request(q, k, v, **rules)
        if reasons := reference.reasons_against(call):
            raise EngineError(
                f"A trace keeps every weight: {reasons[0]}.\nTrace fewer queries at a time."
            )
        steps = reference.steps(call, call.places())
        context = _join(steps.out)
        return Trace(q, k, v, steps.scores, steps.weights, context, self._project(steps.out))

    def _prepare(
        self,
        Q: Tensor,
        K: Tensor | None,
        V: Tensor | None,
        mask: Mask | Tensor | None,
        query_offset: int | Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, dict]:  # type: ignore[type-arg]
        K = Q if K is None else K
        V = K if V is None else V
        self._check(Q, K, V)
        query_len, key_len = Q.shape[1], K.shape[1]
        if isinstance(self.position, RoPE) and query_offset is None and query_len != key_len:
            raise ArgumentError(
                f"Where do {query_len} queries stand among {key_len} keys? RoPE depends on it.\n"
                f"Pass query_offset=0 for the first at the first, {key_len - query_len} for the "
                "last at the last, or another position."
            )
        if mask is None:
            rule = self.mask
        elif isinstance(mask, Mask | Tensor):
            rule = self.mask & (mask if isinstance(mask, Mask) else Dense(mask))
        else:
            raise KindError(
                f"`mask` is a mask such as Causal(), a bool tensor or None, not {describe(mask)}."
            )
        q = self._split(self.WQ(Q), self.n_head)
        k = self._split(self.WK(K), self.n_kv_head)
        v = self._split(self.WV(V), self.n_kv_head)
        if isinstance(self.position, RoPE):
            q, k = self._rotate(self.position, q, k, query_offset)
        bias = self.position if isinstance(self.position, Bias) else None
        return (
            q,
            k,
            v,
            {"mask": rule, "bias": bias, "scale": self.scale, "query_offset": query_offset},
        )

    def _check(self, Q: Tensor, K: Tensor, V: Tensor) -> None:
        came: dict[str, object] = {"Q": Q, "K": K, "V": V}
        for (name, x), size in zip(came.items(), self._input_sizes, strict=True):
            if not isinstance(x, Tensor):
                raise KindError(f"`{name}` is a tensor, not {describe(x)}.")
            if x.ndim != 3:
                raise ArgumentError(
                    message(
                        f"`{name}` has {x.ndim} axes, not 3.",
                        came,
                        f"Pass (batch, length, {size}); one sample is `{name}[None]`.",
                    )
                )
            if not x.is_floating_point():
                raise KindError(
                    message(
                        f"`{name}` holds {x.dtype}.", came, "Pass floats: embed the words first."
                    )
                )
            if x.shape[2] != size:
                raise ArgumentError(
                    message(
                        f"`{name}` has last size {x.shape[2]}; this layer takes {size}.",
                        came,
                        f"Pass (batch, length, {size}).",
                    )
                )
            if x.shape[1] == 0:
                raise ArgumentError(
                    message(f"`{name}` has length 0.", came, "Pass at least one word.")
                )
        if not Q.shape[0] == K.shape[0] == V.shape[0]:
            raise ArgumentError(
                message(
                    f"Q, K and V have batches of {Q.shape[0]}, {K.shape[0]} and {V.shape[0]}.",
                    came,
                    "Pass one batch size; `.expand` repeats a sample without copying it.",
                )
            )
        if K.shape[1] != V.shape[1]:
            raise ArgumentError(
                message(
                    f"K has {K.shape[1]} words and V has {V.shape[1]}.",
                    came,
                    "Every key needs its value.",
                )
            )
        if not Q.dtype == K.dtype == V.dtype:
            raise KindError(
                message(
                    "Q, K and V have different dtypes.", came, "Cast them to one floating dtype."
                )
            )
        if not Q.device == K.device == V.device:
            raise ArgumentError(
                message("Q, K and V are on different devices.", came, "Move them to one device.")
            )
        weight = getattr(self.WQ, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.is_floating_point():
            came["WQ.weight"] = weight
            if weight.device != Q.device:
                raise ArgumentError(
                    message("The layer is on another device.", came, "Move Q or the layer.")
                )
            if weight.dtype != Q.dtype and not autocasts(Q.device):
                raise KindError(
                    message("The layer has another dtype.", came, "Cast Q or the layer.")
                )

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)

    def _rotate(
        self, rope: RoPE, q: Tensor, k: Tensor, query_offset: int | Tensor | None
    ) -> tuple[Tensor, Tensor]:
        query_len, key_len = q.shape[2], k.shape[2]
        keys = queries = rope.turns(k, torch.arange(key_len, device=k.device), key_len)
        if query_offset is not None:
            offset = query_offset
            if isinstance(offset, Tensor):
                offset = offset.view(-1, 1).to(q.device)
            queries = rope.turns(q, torch.arange(query_len, device=q.device) + offset, key_len)
        turned = (
            rotate(x, *turns, interleaved=rope.interleaved)
            for x, turns in ((q, queries), (k, keys))
        )
        q, k = turned
        return q, k

    def _project(self, heads: Tensor) -> Tensor:
        context = _join(heads)
        if self.WO is None:
            return context
        output: Tensor = self.WO(context)
        return output

    def extra_repr(self) -> str:
        parts = [f"d_model={self.d_model}", f"n_head={self.n_head}"]
        if self.n_kv_head != self.n_head:
            parts.append(f"n_kv_head={self.n_kv_head}")
        parts.append(f"d_k={self.d_k}")
        if not isinstance(self.mask, Full):
            parts.append(f"mask={self.mask!r}")
        if self.position is not None:
            parts.append(f"position={self.position!r}")
        return ", ".join(parts)


def _join(heads: Tensor) -> Tensor:
    """(batch, head, length, d) -> (batch, length, head * d)."""
    return heads.transpose(1, 2).flatten(2)


def _biased(bias: bool | Collection[str]) -> Collection[str]:
    if isinstance(bias, bool):
        return MATRICES if bias else ()
    if isinstance(bias, str) or not set(bias) <= set(MATRICES):
        raise ArgumentError(
            f"`bias` is {bias!r}.\nPass True, False, or names out of {', '.join(MATRICES)}."
        )
    return bias


def _near_divisors(whole: int, near: int) -> str:
    divisors = [n for n in range(1, whole + 1) if whole % n == 0]
    below = [n for n in divisors if n < near][-1:]
    return " or ".join(str(n) for n in below + [n for n in divisors if n > near][:1])
