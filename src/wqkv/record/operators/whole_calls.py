"""Calls of kernels that compute a whole attention, read as q, k, v, the output and the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.masks.algebra import Full
from wqkv.record.captured import CapturedCall, MaskReading, Refusal
from wqkv.record.mask_pattern import Pattern, of_tensor, rows_of
from wqkv.record.operators.flex_calls import FLEX, Given, read_flex
from wqkv.record.operators.nodes import Argument, Leaf, mapped
from wqkv.record.operators.told import FusedCall
from wqkv.record.read_mask import KnownMask, KnownMasks
from wqkv.record.run import Run
from wqkv.upstream import of_torch

#: Kernels that are given q, k, v (batch, head, length, d), a mask or bias, `is_causal` and `scale`.
_KERNELS = frozenset(
    ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
     "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
     "_scaled_dot_product_fused_attention_overrideable")
)  # fmt: skip


def read_fused(heard: FusedCall, known: KnownMasks) -> CapturedCall | Run:
    """q, k, v, the output and the rules of a call.

    Raises:
        Refusal: the kernel is not known, or was asked for what a map cannot show.
    """
    applied = heard.applied
    name = applied.name
    schema = () if name == "flex_attention" else of_torch.schema(applied.func).arguments
    names = [one.name for one in schema] or FLEX
    given: Given = {}
    for what, x in (*zip(names, applied.args, strict=False), *applied.kwargs.items()):
        given[what] = mapped(x, _tensor)
    outputs = tuple(_tensor(x) for x in heard.outputs)
    if name in _KERNELS:
        return _kernel(given, outputs[0], known)
    if name == "flex_attention":
        return read_flex(given, outputs[0])
    if name == "_native_multi_head_attention":
        return _multi_head(given, outputs[0])
    if name == "_transformer_encoder_layer_fwd":
        return _encoder_layer(given, outputs[0])
    raise Refusal(f"the operator `{name}` is not known: its rules cannot be read")


def _tensor(x: Argument) -> Any:
    return x.tensor.detach() if isinstance(x, Leaf) else x


def _kernel(given: Given, output: Tensor, known: KnownMasks) -> CapturedCall:
    query, key, value = given["query"], given["key"], given["value"]
    if given.get("dropout_p"):
        raise Refusal(f"dropout {given['dropout_p']:g} while training draws new weights every time")
    n, m = query.shape[2], key.shape[2]
    mask = given.get("attn_mask", given.get("attn_bias"))
    bias = None
    reading = _plain(bool(given.get("is_causal")), n, m, query.device)
    if mask is not None:
        if given.get("is_causal"):
            raise Refusal("it was given a mask and `is_causal` together")
        mask = mask[(None,) * (4 - mask.ndim)]
        mask = mask.expand(*mask.shape[:3], m)
        name = (mask.data_ptr(), tuple(mask.shape), mask.stride(), mask.dtype, n, m)
        if name not in known:
            rows, bias = of_tensor(mask, n, m)
            known[name] = KnownMask(mask, MaskReading(rows), bias)
        reading, bias = known[name].reading, known[name].bias
    return CapturedCall(
        query, key, value, output, [reading], cross=False, stored_keys=False,
        scale=given.get("scale"), softcap=None, sinks=None, bias=bias,
        causal=bool(given.get("is_causal")), window=None,
    )  # fmt: skip


def _plain(causal: bool, n: int, m: int, device: torch.device) -> MaskReading:
    """No mask, or a causal one: it starts at the upper left corner."""
    if not causal:
        return MaskReading(rows_of(Full(), n, m, 0, device), Pattern(), all=True)
    rows = rows_of(Pattern(after=0).mask(), n, m, 0, device)
    return MaskReading(rows, Pattern(after=0), first=True)


# nn.MultiheadAttention and nn.TransformerEncoderLayer, as their fast path computes them


def _padded(x: Tensor) -> tuple[Tensor, list[int] | None]:
    """Rows of several lengths side by side, with zeros behind them, and the lengths."""
    if not x.is_nested:
        return x, None
    return x.to_padded_tensor(0.0), [len(one) for one in x.unbind()]


def _multi_head(given: Given, output: Tensor) -> CapturedCall:
    inputs = [_padded(given[name]) for name in ("query", "key", "value")]
    xs, lengths = [x for x, _ in inputs], inputs[1][1]
    q, k, v = _projected(xs, given)
    WO, bias = given["proj_weight"], given["proj_bias"]
    return _composite(
        given, (q, k, v), _padded(output)[0], lengths, lambda x: F.linear(x, WO.to(x), bias.to(x))
    )


def _encoder_layer(given: Given, output: Tensor) -> CapturedCall:
    source, lengths = _padded(given["src"])
    given = {**given, "num_head": given["num_heads"]}  # as _native_multi_head_attention calls it

    def norm(x: Tensor, number: int) -> Tensor:
        weight, bias = (given[f"norm_{name}_{number}"].to(x) for name in ("weight", "bias"))
        return F.layer_norm(x, x.shape[-1:], weight, bias, given["eps"])

    def linear(x: Tensor, name: str, number: str = "") -> Tensor:
        weight, bias = (given[f"{name}_{part}{number}"] for part in ("weight", "bias"))
        return F.linear(x, weight.to(x), bias.to(x))

    first = given["norm_first"]

    def finish(context: Tensor) -> Tensor:
        x = source.to(context) + linear(context, "proj")
        x = x if first else norm(x, 1)
        hidden = linear(norm(x, 2) if first else x, "ffn", "_1")
        hidden = F.gelu(hidden) if given["use_gelu"] else F.relu(hidden)
        x = x + linear(hidden, "ffn", "_2")
        return x if first else norm(x, 2)

    x = norm(source, 1) if first else source
    parts = _projected([x, x, x], given)
    return _composite(given, parts, _padded(output)[0], lengths, finish)


def _projected(xs: list[Tensor], given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v (batch, head, length, d_k) of the inputs."""
    weights, biases = given["qkv_weight"].chunk(3), given["qkv_bias"].chunk(3)
    found = []
    for x, weight, bias in zip(xs, weights, biases, strict=True):
        made = F.linear(x, weight.to(x), bias.to(x))
        found.append(made.unflatten(-1, (given["num_head"], -1)).transpose(1, 2))
    q, k, v = found
    return q, k, v


def _composite(
    given: Given,
    parts: tuple[Tensor, Tensor, Tensor],
    output: Tensor,
    lengths: list[int] | None,
    finish: Callable[[Tensor], Tensor],
) -> CapturedCall:
    q, k, v = parts
    n, m = q.shape[2], k.shape[2]
    mask, kind = given.get("mask"), given.get("mask_type")
    bias = None
    if lengths is not None:
        # What stands behind a row's end never ran: it is a document of its own that sees nothing.
        ends = torch.tensor(lengths, device=q.device)[:, None]
        starts = torch.where(torch.arange(m, device=q.device) < ends, 0, ends)
        pattern = Pattern(starts=starts, right=tuple(lengths))
        reading = MaskReading(rows_of(pattern.mask(), n, m, 0, q.device), pattern)
    elif mask is None:
        reading = _plain(False, n, m, q.device)
    else:
        # 0 is (query, key), 1 (batch, key), 2 one of these that was spread to all four axes
        mask = mask[:, None, None] if kind == 1 else mask[(None,) * (4 - mask.ndim)]
        visible, bias = of_tensor(~mask if mask.dtype == torch.bool else mask, n, m)
        reading = MaskReading(visible)
    return CapturedCall(
        q, k, v, output, [reading], cross=False, stored_keys=False, scale=None, softcap=None,
        sinks=None, bias=bias, causal=False, window=None, finish=finish,
    )  # fmt: skip
