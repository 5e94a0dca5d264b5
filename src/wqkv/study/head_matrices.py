"""WQ, WK, WV and WO of one head, as they stand in q = x WQ + bQ and in share = context WO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from wqkv.attend.rope import RoPE
from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.convert.huggingface import check_plain
from wqkv.study.part import ModelPart

#: What a layer does to x W + b before it is q, k or v, and to a context before WO is applied.
Between = Literal["norm", "clip", "RoPE", "temperature", "gate"]


@dataclass(frozen=True)
class HeadMatrices:
    """The matrices of one head, in its model's dtype: q = x WQ + bQ, share = context WO.

    Heads that share a k and a v have the same WK and WV. Between two texts WK and WV multiply the
    state y of the other text. The tensors are the model's own memory: copy them to change them.
    """

    WQ: Tensor  # (d_model, d_k)
    WK: Tensor  # (d_model, d_k); between two texts (d_source, d_k)
    WV: Tensor  # (d_model, d_v); between two texts (d_source, d_v)
    WO: Tensor  # (d_v, d_model)
    bQ: Tensor | None  # (d_k,); None where the model has no bias
    bK: Tensor | None  # (d_k,)
    bV: Tensor | None  # (d_v,)
    bO: Tensor | None  # (d_model,); it is added once, to the sum over all heads
    # In which order a layer does something to a product before it is used; () is the plain product.
    to_q: tuple[Between, ...]
    to_k: tuple[Between, ...]
    to_v: tuple[Between, ...]
    to_context: tuple[Between, ...]


def has_matrices(layer: MultiheadAttention) -> bool:
    """Whether the heads of a layer have one WQ, WK, WV and WO each."""
    return type(layer) is MultiheadAttention and layer.WO is not None


def plain_layer(model: ModelPart, layer: int) -> MultiheadAttention:
    """A layer whose heads have one WQ, WK, WV and WO each, and compute what their weights say."""
    ours = model.layer(layer)
    if not has_matrices(ours):
        raise ArgumentError(
            f"Layer {layer} of {model.name} is a {type(ours).__name__}, whose heads do not have "
            "one WQ, WK, WV and WO each.\nLook at it with its `map` and `trace`."
        )
    check_plain(ours)
    return ours


def rows_of(layer: MultiheadAttention, name: str, head: int) -> slice:
    """Which rows of WQ.weight, WK.weight, WV.weight or WO.weight.T are the head's."""
    d = layer.d_k if name in ("WQ", "WK") else layer.d_v
    group = layer.n_head // layer.n_kv_head if name in ("WK", "WV") else 1
    at = head // group
    return slice(at * d, (at + 1) * d)


def head_matrices(layer: MultiheadAttention, head: int) -> HeadMatrices:
    """The matrices of a head of a layer that is plain; see `plain_layer`."""

    def of(name: str) -> tuple[Tensor, Tensor | None]:
        matrix, rows = getattr(layer, name), rows_of(layer, name, head)
        bias = matrix.bias
        return matrix.weight.detach()[rows].T, None if bias is None else bias.detach()[rows]

    (WQ, bQ), (WK, bK), (WV, bV) = map(of, ("WQ", "WK", "WV"))
    WO = layer.WO
    assert WO is not None
    return HeadMatrices(
        WQ=WQ,
        WK=WK,
        WV=WV,
        WO=WO.weight.detach().T[rows_of(layer, "WO", head)],
        bQ=bQ,
        bK=bK,
        bV=bV,
        bO=None if WO.bias is None else WO.bias.detach(),
        to_q=_to_scores(layer) + _named(("temperature", layer.temperature is not None)),
        to_k=_to_scores(layer),
        to_v=_named(("norm", layer.v_norm is not None), ("clip", layer.clip is not None)),
        to_context=_named(("gate", layer.gate is not None)),
    )


def _to_scores(layer: MultiheadAttention) -> tuple[Between, ...]:
    """What is done to q and to k alike, in the order of layer/project.py."""
    after = layer.norm is not None and layer.norm.after_position
    return _named(
        ("norm", layer.norm is not None and not after),
        ("clip", layer.clip is not None),
        ("RoPE", isinstance(layer.position, RoPE)),
        ("norm", after),
    )


def _named(*steps: tuple[Between, bool]) -> tuple[Between, ...]:
    return tuple(name for name, there in steps if there)
