"""What rows of the table say of a layer: functions that read a mask, a norm, ... off a Spot."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wqkv.attend.bias import ALiBi, T5Bias
from wqkv.attend.masks import Causal, Chunked, Full, Mask, Window
from wqkv.attend.rope import RoPE
from wqkv.layer.convert import positions as rope
from wqkv.layer.convert.rows import FamilyNorm, Spot, check_read
from wqkv.layer.differential import DifferentialAttention
from wqkv.layer.latent import LatentAttention
from wqkv.layer.norms import Norm, QKNorm, Temperature

# Numbers and switches


def clip(spot: Spot) -> float | None:
    rules = getattr(spot.config, "attn_config", spot.config)
    most: float | None = rules.clip_qkv
    return most


def softcap(spot: Spot) -> float | None:
    most: float | None = spot.config.attn_logit_softcapping
    return most


def sinks(spot: Spot) -> bool:
    return spot.get("sinks") is not None


def gate_by_head(spot: Spot) -> Literal["head"] | None:
    return "head" if spot.get("g_proj") else None


# Masks


def sliding(spot: Spot) -> bool:
    return spot.kind == "sliding_attention"


def decoding(spot: Spot) -> Mask:
    """Causal where the configuration tells an encoder (BERT) to decode."""
    return Causal() if spot.config.is_decoder else Full()


def causal(spot: Spot) -> Mask:
    """Causal, unless the module says that this decoder looks both ways."""
    return Causal() if getattr(spot.home, "is_causal", True) else Full()


def window(spot: Spot) -> Mask:
    """The window of all layers, if the configuration has one."""
    reach = spot.config.sliding_window  # it counts the token itself, as Window does not
    return Window(reach - 1, 0) if reach else Causal()


def windows(spot: Spot) -> Mask:
    """The window in the layers that the configuration calls sliding, none in the others."""
    whole, reach = causal(spot), spot.config.sliding_window
    if not sliding(spot) or not reach:
        return whole
    return Window(reach - 1, 0 if whole == Causal() else reach - 1)


def around(spot: Spot) -> Mask:
    """Windows to both sides, in the sliding layers; this one does not count the token itself."""
    reach = spot.config.sliding_window
    return Window(reach, reach) if sliding(spot) else Full()


def local(spot: Spot) -> Mask:
    """GPT Neo's window, in the layers that its configuration calls local."""
    here = spot.config.attention_layers[spot.layer] == "local"
    return Window(spot.config.window_size - 1, 0) if here else Causal()


def chunked(spot: Spot) -> Mask:
    size = spot.config.attention_chunk_size
    return Causal() & Chunked(size) if spot.kind == "chunked_attention" else Causal()


# Positions


def rotary(spot: Spot, interleaved: bool = False) -> RoPE:
    """RoPE with the scaling of the configuration, which positions.py reads."""
    return rope.from_config(spot.config, spot.kind, interleaved=interleaved)


interleaved = partial(rotary, interleaved=True)


def woven(spot: Spot) -> RoPE:
    """Qwen3-VL's: pairs of channels take turns to rotate by frame, row and column."""
    return rope.from_config(spot.config, spot.kind, woven=True)


def rotary_in(
    test: Callable[[Spot], Any], position: Callable[[Spot], RoPE] = rotary
) -> Callable[[Spot], RoPE | None]:
    """A position in the layers for which `test` is true, none in the others."""
    return lambda spot: position(spot) if test(spot) else None


def old_rotary(spot: Spot) -> RoPE:
    """GPT-J's, from the time before configurations named a theta."""
    return RoPE(d=spot.config.rotary_dim, interleaved=True)


def grid(spot: Spot) -> RoPE:
    """RoPE over the rows and columns of a picture."""
    d = spot.size("WO")[0] // getattr(spot.config, spot.row.n_head)
    return RoPE.grid(d, spot.config.rope_parameters["rope_theta"])


def alibi(spot: Spot) -> ALiBi:
    return ALiBi(spot.config.num_attention_heads)


def alibi_or_rotary(spot: Spot) -> ALiBi | RoPE:
    """Falcon's; its ALiBi is added before the scores are scaled, so the slopes are scaled here."""
    if not spot.config.alibi:
        return rotary(spot)
    # Falcon rounds the slopes to bfloat16, and slope * position too. The second rounding is not
    # copied here: at token 1000 it moves a score by up to 2 / sqrt(d_k).
    slopes = ALiBi(spot.config.num_attention_heads).slopes.bfloat16().float()
    return ALiBi(slopes / math.sqrt(spot.config.head_dim))


def buckets(table: str, *, bidirectional: bool, most: str | int) -> Callable[[Spot], T5Bias]:
    """T5's relative position bias.

    Args:
        table: the path of the module that keeps the table; {} stands for the layer's number.
        most: its max_distance, or what the configuration calls it.
    """

    def position(spot: Spot) -> T5Bias:
        reach = getattr(spot.config, most) if isinstance(most, str) else most
        learned = spot.tensor(table.format(spot.layer) + ".relative_attention_bias.weight")
        if not isinstance(learned, nn.Parameter):
            learned = nn.Parameter(learned)
        return T5Bias(learned, bidirectional=bidirectional, max_distance=reach)

    return position


# Norms. A layer that has no norm at the path gets none.


def normed(
    kind: Literal["rms", "layer"],
    over: Literal["head", "each head", "projection"] = "head",
    q: str = "q_norm",
    k: str = "k_norm",
    *,
    after_position: bool = False,
) -> FamilyNorm:
    """The norm of q and k, whose modules are at the paths `q` and `k` of the attention module."""

    def norm(spot: Spot) -> QKNorm | None:
        if (module := spot.get(q)) is None:
            return None
        weight, bias = (getattr(module, name, None) is not None for name in ("weight", "bias"))
        return QKNorm(kind, over, _eps(spot, q), weight, bias, after_position)

    return FamilyNorm(norm, holds={q: "q_norm", k: "k_norm"})


def normed_plus_one() -> FamilyNorm:
    """An RMS norm of a model that stores each weight minus 1; the 1 is added here."""
    made = {f"{name}.weight": partial(_plus_one, f"{name}.weight") for name in ("q_norm", "k_norm")}
    return FamilyNorm(normed("rms").norm, made=made)


def _plus_one(path: str, spot: Spot) -> Tensor:
    return spot.take(path).detach() + 1


def normed_by_lists(q: str, k: str) -> FamilyNorm:
    """LayerNorm with a list of modules, one per head."""

    def stacked(path: str) -> Callable[[Spot], Tensor]:
        return lambda spot: torch.stack(
            [spot.take(f"{path}.{i}.weight").detach() for i in range(len(spot.get(path)))]
        )

    made = {"q_norm.weight": stacked(q), "k_norm.weight": stacked(k)}
    return FamilyNorm(normed("layer", "each head", f"{q}.0").norm, made=made)


def bare(path: str) -> Callable[[Spot], Norm]:
    """An RMS norm without weights, with the eps of the module at a path."""
    return lambda spot: Norm(eps=_eps(spot, path), weight=False)


def rms_after_rotation(spot: Spot) -> QKNorm | None:
    """Llama 4's norm; it is called L2 there, and divides by the root of the mean square."""
    module = spot.get("qk_norm")
    return module and QKNorm(eps=_eps(spot, "qk_norm"), weight=False, after_position=True)


def _eps(spot: Spot, path: str) -> float:
    module = spot.get(path)
    check_read(f"{spot.at}.{path}", module)
    stated: float = getattr(module, "variance_epsilon", None) or module.eps
    return stated


# Temperatures


def temperature_without_rope(spot: Spot) -> Temperature | None:
    config = spot.config
    if not config.attn_temperature_tuning or spot.get("use_rope"):
        return None
    return Temperature(int(config.floor_scale), config.attn_scale, shift=1)


def temperature(spot: Spot) -> Temperature | None:
    rules = spot.config.rope_parameters
    by = rules.get("llama_4_scaling_beta")
    return Temperature(rules["original_max_position_embeddings"], by) if by else None


# The functions that a row may have as its `make`, for layers of other classes


def make_latent(spot: Spot, bias: Collection[str]) -> LatentAttention:
    config, row = spot.config, spot.row
    position = spot.read(row.position)
    assert isinstance(position, RoPE)
    return LatentAttention(
        spot.size("WO")[1],
        config.num_attention_heads,
        rank=config.kv_lora_rank,
        q_rank=config.q_lora_rank,
        d_rope=config.qk_rope_head_dim,
        d_k=config.qk_nope_head_dim + config.qk_rope_head_dim,
        d_v=config.v_head_dim,
        c_norm=Norm(eps=_eps(spot, "kv_a_layernorm")),
        bias=bias,
        mask=spot.read(row.mask),
        position=position,
        scale=spot.read(row.scale),
        dropout=spot.read(row.dropout),
        device="meta",
    )


def make_differential(spot: Spot, bias: Collection[str]) -> DifferentialAttention:
    """Two heads of theirs, which share a value, are one head of ours with two maps."""
    n_head, n_kv_head = spot.config.num_attention_heads, spot.config.num_key_value_heads
    d_model, q_out = spot.size("WQ")
    row = spot.row
    return DifferentialAttention(
        d_model,
        n_head // 2,
        n_kv_head=n_kv_head // 2,
        d_k=q_out // n_head,
        start=spot.get("lambda_init"),
        c_norm=bare("groupnorm")(spot),
        bias=bias,
        mask=spot.read(row.mask),
        position=spot.read(row.position),
        scale=spot.read(row.scale),
        dropout=spot.read(row.dropout),
        device="meta",
    )


def halves_beside(part: str) -> Callable[[Spot], Tensor]:
    """Value head g is head g of the first half beside head g of the second."""

    def value(spot: Spot) -> Tensor:
        tensor = spot.take(f"v_proj.{part}").detach()
        heads: Tensor = tensor.unflatten(0, (2, spot.config.num_key_value_heads // 2, -1))
        return heads.transpose(0, 1).flatten(0, 2).clone()

    return value


def scaled_values(part: str) -> Callable[[Spot], Tensor]:
    return lambda spot: spot.take(f"v_proj.{part}").detach() * spot.get("v_scale")
