"""torch's fused kernels that return lse beside the output: all private operators are here.

q is (batch, n_head, query_len, d), k and v (batch, n_kv_head, key_len, d), all with one last size.
`tile` is a float mask that broadcasts to (batch, n_head, query_len, key_len). `causal` asks for the
kernel's own causal mask, which is aligned at the upper left.

On CUDA it is the memory-efficient kernel, because no other takes a mask. It has not run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.engines.reference import repeat_heads, sum_heads

_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}
_aten: Any = torch.ops.aten


def reasons_against(device: torch.device, dtype: torch.dtype) -> list[str]:
    if device.type not in _DTYPES:
        return [f"no kernel on {device.type} returns lse"]
    if dtype not in _DTYPES[device.type]:
        return [f"no kernel on {device.type} takes {str(dtype).removeprefix('torch.')}"]
    return []


def forward(
    q: Tensor, k: Tensor, v: Tensor, tile: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """out (batch, n_head, query_len, d) and lse (batch, n_head, query_len)."""
    if q.device.type != "cpu":
        return efficient_forward(q, k, v, tile, causal, scale)
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=tile, scale=scale
    )
    return out, lse


def backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    tile: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """This rectangle's share of dq, dk, dv, given out and lse merged over all keys (see F2)."""
    if q.device.type != "cpu":
        return efficient_backward(grad_out, q, k, v, out, lse, tile, causal, scale)
    dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, q, k, v, out, lse, 0.0, causal, attn_mask=tile, scale=scale
    )
    return dq, dk, dv


def efficient_forward(
    q: Tensor, k: Tensor, v: Tensor, tile: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    group = q.shape[1] // k.shape[1]
    k, v = repeat_heads(k, group), repeat_heads(v, group)
    out, lse, _, _ = _aten._scaled_dot_product_efficient_attention(
        q, k, v, _aligned(tile, q, k), True, 0.0, causal, scale=scale
    )
    return out, lse[:, :, : q.shape[2]]  # it pads the rows to a multiple of 32


def efficient_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    tile: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    group = q.shape[1] // k.shape[1]
    k, v = repeat_heads(k, group), repeat_heads(v, group)
    state = torch.zeros((), dtype=torch.int64, device=q.device)  # for dropout, which is off
    dq, dk, dv, _ = _aten._scaled_dot_product_efficient_attention_backward(
        grad_out,
        q,
        k,
        v,
        _aligned(tile, q, k),
        out,
        F.pad(lse, (0, -lse.shape[2] % 32)).contiguous(),
        state,
        state,
        0.0,
        [True, True, True, False],
        causal,
        scale=scale,
    )
    return dq, sum_heads(dk, group), sum_heads(dv, group)


def _aligned(tile: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The mask in q's dtype, expanded; its rows begin at multiples of 16 numbers in memory."""
    if tile is None:
        return None
    n = k.shape[2]
    padded = F.pad(tile.to(q.dtype).expand(*tile.shape[:3], n), (0, -n % 16))[..., :n]
    return padded.expand(q.shape[0], q.shape[1], q.shape[2], n)
