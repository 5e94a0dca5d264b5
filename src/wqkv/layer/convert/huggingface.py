"""Our layer with the matrices of a Hugging Face model: one table row a family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wqkv.attend.masks import Causal, Full, Mask, Window
from wqkv.attend.positions import DynamicNTK, Linear, Llama3, LongRoPE, RoPE, Scaling, YaRN
from wqkv.errors import ArgumentError
from wqkv.layer.layer import MATRICES, MultiheadAttention


@dataclass(frozen=True)
class Row:
    """Where a family keeps its matrices: paths from the base model, `{}` is the layer's number."""

    WQ: str
    WK: str
    WV: str
    WO: str
    causal: bool = False
    rotary: bool = False
    #: How one module holds WQ, WK and WV: one after the other, or head by head.
    packed: Literal["in turn", "by head"] | None = None
    #: Conv1D keeps the matrix as the paper writes it, x W; a Linear keeps its transpose.
    transposed: bool = False

    def paths(self, layer: int) -> dict[str, str]:
        return {name: getattr(self, name).format(layer) for name in MATRICES}


def _row(path: str, *names: str, **rest: Any) -> Row:
    WQ, WK, WV, WO = (path + name for name in names)
    return Row(WQ, WK, WV, WO, **rest)


_BERT = _row("encoder.layer.{}.attention.", "self.query", "self.key", "self.value", "output.dense")
_LLAMA = _row(
    "layers.{}.self_attn.", "q_proj", "k_proj", "v_proj", "o_proj", causal=True, rotary=True
)
_SHARED = "encoder.albert_layer_groups.0.albert_layers.0.attention."  # one set for all layers

FAMILIES: dict[str, Row] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "distilbert": _row("transformer.layer.{}.attention.", "q_lin", "k_lin", "v_lin", "out_lin"),
    "albert": _row(_SHARED, "query", "key", "value", "dense"),
    "gpt2": _row(
        "h.{}.attn.", *["c_attn"] * 3, "c_proj", causal=True, packed="in turn", transposed=True
    ),
    "gpt_neox": _row(
        "layers.{}.attention.", *["query_key_value"] * 3, "dense",
        causal=True, rotary=True, packed="by head",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma": _LLAMA,
    "phi3": _row(
        "layers.{}.self_attn.", *["qkv_proj"] * 3, "o_proj",
        causal=True, rotary=True, packed="in turn",
    ),
}  # fmt: skip


def family(model: nn.Module) -> Row:
    """The table row of a transformers model, or an error naming the nearest rows."""
    name = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    if name not in FAMILIES:
        near = get_close_matches(name, FAMILIES, n=3, cutoff=0.3) or list(FAMILIES)
        raise ArgumentError(
            f"There is no table row for models of the family {name!r} yet.\n"
            f"The nearest rows are: {', '.join(near)}."
        )
    return FAMILIES[name]


def sizes(model: nn.Module) -> dict[str, int]:
    """n_layer, n_head, n_kv_head, d_model and d_k, from the model's configuration."""
    config: Any = model.config
    n_head = config.num_attention_heads
    return {
        "n_layer": config.num_hidden_layers,
        "n_head": n_head,
        "n_kv_head": getattr(config, "num_key_value_heads", None) or n_head,
        "d_model": config.hidden_size,
        "d_k": getattr(config, "head_dim", None) or config.hidden_size // n_head,
    }


def matrices(model: nn.Module, layer: int) -> dict[str, nn.Module]:
    """The model's own modules that hold WQ, WK, WV and WO of a layer (packed: one module)."""
    base: nn.Module = getattr(model, "base_model", model)
    return {name: base.get_submodule(path) for name, path in family(model).paths(layer).items()}


def from_hf(model: nn.Module, layer: int) -> MultiheadAttention:
    """Layer number `layer` (from 0) of a transformers model as ours, with its mask and position.

    The matrices are the model's own where it keeps them apart, and copies where it packs them.

    Raises:
        ArgumentError: the family has no table row, or the model no such layer.
    """
    row, size, config = family(model), sizes(model), getattr(model, "config", None)
    if not 0 <= layer < size["n_layer"]:
        raise ArgumentError(
            f"There is no layer {layer}: the model has {size['n_layer']} layers, "
            f"0 to {size['n_layer'] - 1}."
        )
    modules = matrices(model, layer)
    parts = {name: _parts(module, row, size, name) for name, module in modules.items()}
    result = MultiheadAttention(
        size["d_model"],
        size["n_head"],
        n_kv_head=size["n_kv_head"],
        d_k=size["d_k"],
        bias=[name for name, (_, bias) in parts.items() if bias is not None],
        mask=_mask(config, layer) if row.causal else Full(),
        position=_rope(config, size["d_k"]) if row.rotary else None,
        scale=_scale(modules, model, layer),
        device="meta",
    )
    state = {f"{name}.weight": weight for name, (weight, _) in parts.items()}
    state |= {f"{name}.bias": bias for name, (_, bias) in parts.items() if bias is not None}
    result.load_state_dict(state, assign=True)
    return result.train(model.training)


def _parts(
    module: nn.Module, row: Row, size: dict[str, int], name: str
) -> tuple[Tensor, Tensor | None]:
    """The weight (out, in) and bias of one matrix."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    bias: Tensor | None = getattr(module, "bias", None)
    if row.transposed:
        weight = weight.T.contiguous()
    if row.packed is None or name == "WO":
        return weight, bias
    which = MATRICES.index(name)
    if row.packed == "by head":
        by_head = (size["n_head"], 3, size["d_k"])
        weight = torch.unflatten(weight, 0, by_head)[:, which].flatten(0, 1)
        if bias is not None:
            bias = torch.unflatten(bias, 0, by_head)[:, which].flatten(0, 1)
        return weight, bias
    rows, kv_rows = size["n_head"] * size["d_k"], size["n_kv_head"] * size["d_k"]
    begin = (0, rows, rows + kv_rows)[which]
    cut = slice(begin, begin + (kv_rows if which else rows))
    return weight[cut].clone(), None if bias is None else bias[cut].clone()


def _scale(modules: dict[str, nn.Module], model: nn.Module, layer: int) -> float | None:
    """The scale that the model's own attention module states, if it states one."""
    base: nn.Module = getattr(model, "base_model", model)
    for path in {path.rpartition(".")[0] for path in family(model).paths(layer).values()}:
        scale = getattr(base.get_submodule(path), "scaling", None)
        if isinstance(scale, float):
            return scale
    return None


def _mask(config: Any, layer: int) -> Mask:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window or (kinds and kinds[layer] != "sliding_attention"):
        return Causal()
    return Window(window - 1, 0)  # theirs counts the word itself


def _rope(config: Any, d_k: int) -> RoPE:
    rules = dict(config.rope_parameters)
    part = rules.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None)) or 1.0
    turned = int(d_k * part)
    return RoPE(
        theta=float(rules["rope_theta"]),
        d=None if turned == d_k else turned,
        scaling=_scaling(rules, config),
    )


def _scaling(rules: dict[str, Any], config: Any) -> Scaling | None:
    kind = rules.get("rope_type", "default")
    longest = config.max_position_embeddings
    trained = rules.get("original_max_position_embeddings") or longest
    gain = rules.get("attention_factor")
    if kind == "default":
        return None
    if kind == "linear":
        return Linear(rules["factor"])
    if kind == "dynamic":
        return DynamicNTK(rules["factor"], longest)
    if kind == "llama3":
        low, high = rules["low_freq_factor"], rules["high_freq_factor"]
        return Llama3(rules["factor"], low, high, trained)
    if kind == "longrope":
        factor = rules.get("factor") or longest / trained
        return LongRoPE(rules["short_factor"], rules["long_factor"], trained, factor, gain)
    if kind == "yarn":
        factor = rules.get("factor") or longest / trained
        above, below = rules.get("mscale"), rules.get("mscale_all_dim")
        if gain is None and above and below and factor > 1:
            gain = (0.1 * above * math.log(factor) + 1) / (0.1 * below * math.log(factor) + 1)
        return YaRN(
            factor,
            trained,
            rules.get("beta_fast") or 32.0,
            rules.get("beta_slow") or 1.0,
            gain,
            rules.get("truncate", True),
        )
    raise ArgumentError(
        f"The model scales its rotary positions by {kind!r}, which is not known here.\n"
        "Known: default, linear, dynamic, llama3, longrope, yarn."
    )
