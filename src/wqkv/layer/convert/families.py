"""Which models are supported: where each family keeps its attention, and what it does.

To add a family, give it a FamilyRow in FAMILIES: the path of its attention modules, the paths of
its matrices in them, and whatever is not the default, as a value or as a function in traits.py.
tests/conformance compares every family with the model's own attention.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wqkv.attend.masks import Causal
from wqkv.layer.convert import traits as of
from wqkv.layer.convert.rows import FamilyRow, PackedMatrices

QKV = ("WQ", "WK", "WV")


def paths(text: str) -> dict[str, str]:
    """{path: matrix}, from the paths of WQ, WK, WV and WO."""
    return dict(zip(text.split(), (*QKV, "WO"), strict=True))


def _albert(config: Any, layer: int) -> str | None:
    """The path of a layer: ALBERT's layers share their weights in groups."""
    turn, number = divmod(layer, config.inner_group_num)
    if turn >= config.num_hidden_layers:
        return None
    group = turn * config.num_hidden_groups // config.num_hidden_layers
    return f"encoder.albert_layer_groups.{group}.albert_layers.{number}.attention"


# Texts read as a whole

BERT = FamilyRow(
    "encoder.layer.{}.attention",
    paths("self.query self.key self.value output.dense"),
    mask=of.decoding,
)
ALBERT = FamilyRow(_albert, paths("query key value dense"))
DISTILBERT = FamilyRow("transformer.layer.{}.attention", paths("q_lin k_lin v_lin out_lin"))
MPNET = FamilyRow(
    "encoder.layer.{}.attention.attn",
    paths("q k v o"),
    position=of.buckets("encoder", bidirectional=True, most=128),
)
MODERNBERT = FamilyRow(
    "layers.{}.attn",
    {"Wqkv": PackedMatrices(QKV), "Wo": "WO"},
    mask=of.around,
    position=of.rotary,
)

# Texts read from left to right

LLAMA = FamilyRow(
    "layers.{}.self_attn",
    paths("q_proj k_proj v_proj o_proj"),
    mask=of.causal,
    position=of.rotary,
)
WINDOW, WINDOWS = replace(LLAMA, mask=of.window), replace(LLAMA, mask=of.windows)
INTERLEAVED = replace(LLAMA, position=of.interleaved)
RMS, RMS_PLUS_ONE = of.normed("rms"), of.normed_plus_one()
RMS_WHOLE = of.normed("rms", "projection")
RMS_AFTER_ROTATION = of.normed("rms", q="query_layernorm", k="key_layernorm", after_position=True)
LAYER = of.normed("layer", q="q_layernorm", k="k_layernorm")
LAYER_EACH = of.normed("layer", "each head")
LAYER_LISTS = of.normed_by_lists("q_layernorm.norms", "k_layernorm.norms")
NORMED = WINDOWS.with_norm(RMS)
SINKS = replace(WINDOWS.also_holds({"sinks": "sinks"}), sinks=of.sinks)
MIMO = replace(SINKS, made={f"WV.{part}": of.scaled_values(part) for part in ("weight", "bias")})
EXAONE4 = replace(
    NORMED,
    position=of.rotary_in(lambda spot: not spot.config.sliding_window or of.sliding(spot)),
)
SMOLLM3 = replace(WINDOWS, position=of.rotary_in(lambda spot: spot.get("use_rope")))
LLAMA4 = replace(
    LLAMA,
    mask=of.chunked,
    position=of.rotary_in(lambda spot: spot.get("use_rope"), of.interleaved),
    norm=of.rms_after_rotation,
    temperature=of.temperature_without_rope,
)
GATED = replace(
    NORMED.also_holds({"gate_proj": "WG"}), gate="channel", position=of.rotary_in(of.sliding)
)
GATED_BY_HEAD = replace(NORMED.also_holds({"g_proj": "WG"}), gate=of.gate_by_head)
GATED_WITH_Q = replace(
    LLAMA.with_norm(RMS_PLUS_ONE).also_holds({"q_proj": PackedMatrices(("WQ", "WG"), "n_head")}),
    gate="channel",
)
LATENT = FamilyRow(
    "layers.{}.self_attn",
    {
        "q_proj": "WQ",
        "q_a_proj": "WQ.0",
        "q_a_layernorm": "WQ.1",
        "q_b_proj": "WQ.2",
        "kv_a_proj_with_mqa": PackedMatrices(("WC", "WR")),
        "kv_a_layernorm": "c_norm",
        "kv_b_proj": PackedMatrices(("WK", "WV"), "n_head"),
        "o_proj": "WO",
    },
    make=of.make_latent,
    mask=Causal(),
    position=of.interleaved,
)
LATENT_EITHER = replace(LATENT, position=lambda spot: of.rotary(spot, spot.config.rope_interleave))
DIFFERENTIAL = replace(
    LLAMA.also_holds({f"lambda_{name}": f"lambda_{name}" for name in ("q1", "k1", "q2", "k2")}),
    make=of.make_differential,
    made={f"WV.{part}": of.halves_beside(part) for part in ("weight", "bias")},
)
PHI3 = FamilyRow(
    "layers.{}.self_attn",
    {"qkv_proj": PackedMatrices(QKV), "o_proj": "WO"},
    mask=of.window,
    position=of.rotary,
)
DBRX = FamilyRow(
    "blocks.{}.norm_attn_norm.attn",
    {"Wqkv": PackedMatrices(QKV), "out_proj": "WO"},
    mask=Causal(),
    position=of.rotary,
    clip=of.clip,
)
MPT = FamilyRow(
    "blocks.{}.attn",
    {"Wqkv": PackedMatrices(QKV), "out_proj": "WO"},
    mask=Causal(),
    position=of.alibi,
    clip=of.clip,
)
GPT2 = FamilyRow(
    "h.{}.attn",
    {"c_attn": PackedMatrices(QKV), "c_proj": "WO"},
    transposed=True,
    mask=Causal(),
)
NEOX = FamilyRow(
    "layers.{}.attention",
    {"query_key_value": PackedMatrices(QKV, "n_head"), "dense": "WO"},
    mask=Causal(),
    position=of.rotary,
)
PROJ = paths("q_proj k_proj v_proj out_proj")
GPTJ = FamilyRow("h.{}.attn", PROJ, mask=Causal(), position=of.old_rotary)
CODEGEN = GPTJ.also_holds({"qkv_proj": PackedMatrices(("WQ", "WV", "WK"), 4)})
GPT_NEO = FamilyRow("h.{}.attn.attention", PROJ, mask=of.local, scale=1.0)
BLOOM = replace(NEOX, at="h.{}.self_attention", position=of.alibi)
FALCON = replace(
    BLOOM.also_holds({"query_key_value": PackedMatrices(QKV, "n_kv_head")}),
    position=of.alibi_or_rotary,
)

# One text read, another written: three attentions

BART = {
    "decoder": FamilyRow(
        "decoder.layers.{}.self_attn", PROJ, mask=Causal(), n_head="decoder_attention_heads"
    ),
    "encoder": FamilyRow("encoder.layers.{}.self_attn", PROJ, n_head="encoder_attention_heads"),
    "cross": FamilyRow("decoder.layers.{}.encoder_attn", PROJ, n_head="decoder_attention_heads"),
}


def t5(keeper: str) -> dict[str, FamilyRow]:
    """T5's three attentions.

    Args:
        keeper: the number of the layer that keeps the bias of its stack, or "{}" where each layer
            has its own.
    """
    stack, most = "block.{}.layer.0.SelfAttention", "relative_attention_max_distance"
    table, matrices = stack.format(keeper), paths("q k v o")
    read = of.buckets(f"encoder.{table}", bidirectional=True, most=most)
    written = of.buckets(f"decoder.{table}", bidirectional=False, most=most)
    return {
        "decoder": FamilyRow(f"decoder.{stack}", matrices, mask=Causal(), position=written),
        "encoder": FamilyRow(f"encoder.{stack}", matrices, position=read),
        "cross": FamilyRow("decoder.block.{}.layer.1.EncDecAttention", matrices),
    }


QFORMER = FamilyRow(
    "encoder.layer.{}.attention",
    paths("attention.query attention.key attention.value output.dense"),
)

# Pictures and sounds

VIT = FamilyRow("layers.{}.attention", paths("q_proj k_proj v_proj o_proj"))
DINOV2 = "encoder.layer.{}.attention"
CLIP = FamilyRow("encoder.layers.{}.self_attn", PROJ)
QWEN2_VL_VISION = FamilyRow(
    "blocks.{}.attn",
    {"qkv": PackedMatrices(QKV), "proj": "WO"},
    n_head="num_heads",
    position=of.grid,
)


def _all(names: str, parts: dict[str, FamilyRow]) -> dict[str, dict[str, FamilyRow]]:
    return dict.fromkeys(names.split(), parts)


#: {what a configuration calls the family (`model_type`): {the part of the model: its row}}.
FAMILIES: dict[str, dict[str, FamilyRow]] = {
    **_all("bert camembert electra roberta xlm-roberta", {"encoder": BERT}),
    "albert": {"encoder": ALBERT},
    "distilbert": {"encoder": DISTILBERT},
    "modernbert": {"encoder": MODERNBERT},
    "mpnet": {"encoder": MPNET},
    **_all("arcee gemma granite llama nemotron seed_oss", {"decoder": LLAMA}),
    **_all("mistral mixtral starcoder2", {"decoder": WINDOW}),
    **_all("ministral qwen2 qwen2_moe qwen2_vl_text qwen2_5_vl_text", {"decoder": WINDOWS}),
    **_all("glm glm4 ernie4_5 helium", {"decoder": INTERLEAVED}),
    "afmoe": {"decoder": GATED},
    "apertus": {"decoder": LLAMA.with_norm(RMS)},
    "bloom": {"decoder": BLOOM},
    "codegen": {"decoder": CODEGEN},
    "cohere": {"decoder": INTERLEAVED.with_norm(LAYER_EACH)},
    "cohere2": {"decoder": replace(WINDOWS, position=of.rotary_in(of.sliding, of.interleaved))},
    "dbrx": {"decoder": DBRX},
    "deepseek_v2": {"decoder": LATENT},
    "deepseek_v3": {"decoder": LATENT_EITHER},
    "diffllama": {"decoder": DIFFERENTIAL},
    "exaone4": {"decoder": EXAONE4},
    "falcon": {"decoder": FALCON},
    "gemma2": {"decoder": replace(WINDOWS, softcap=of.softcap)},
    "gemma3_text": {"decoder": WINDOWS.with_norm(RMS_PLUS_ONE)},
    "gemma3n_text": {"decoder": replace(NORMED, v_norm=of.bare("v_norm"))},
    "gpt2": {"decoder": GPT2},
    "gpt_neo": {"decoder": GPT_NEO},
    "gpt_neox": {"decoder": NEOX},
    "gpt_oss": {"decoder": SINKS},
    "gptj": {"decoder": GPTJ},
    "hunyuan_v1_dense": {"decoder": LLAMA.with_norm(RMS_AFTER_ROTATION)},
    "lfm3": {"decoder": GATED_BY_HEAD},
    "llama4_text": {"decoder": LLAMA4},
    "mimo_v2_flash": {"decoder": MIMO},
    "ministral3": {"decoder": replace(WINDOW, temperature=of.temperature)},
    "mpt": {"decoder": MPT},
    "olmo": {"decoder": replace(LLAMA, clip=of.clip)},
    "olmo2": {"decoder": LLAMA.with_norm(RMS_WHOLE)},
    "olmo3": {"decoder": WINDOWS.with_norm(RMS_WHOLE)},
    "olmoe": {"decoder": replace(LLAMA.with_norm(RMS_WHOLE), clip=of.clip)},
    "opt": {"decoder": FamilyRow("decoder.layers.{}.self_attn", PROJ, mask=Causal())},
    "persimmon": {"decoder": replace(NEOX, at="layers.{}.self_attn").with_norm(LAYER)},
    "phi": {"decoder": LLAMA.also_holds({"dense": "WO"}).with_norm(LAYER)},
    "phi3": {"decoder": PHI3},
    "qwen3": {"decoder": NORMED},
    "qwen3_vl_text": {"decoder": replace(LLAMA.with_norm(RMS), position=of.woven)},
    "qwen3_moe": {"decoder": WINDOW.with_norm(RMS)},
    "qwen3_next": {"decoder": GATED_WITH_Q},
    "smollm3": {"decoder": SMOLLM3},
    "stablelm": {"decoder": LLAMA.with_norm(LAYER_LISTS)},
    **_all("bart blenderbot m2m_100 marian mbart pegasus whisper", BART),
    **_all("t5 mt5", t5("0")),
    "umt5": t5("{}"),
    "blip_2_qformer": {
        "encoder": QFORMER,
        "cross": replace(QFORMER, at="encoder.layer.{}.crossattention"),
    },
    **_all("deit vit", {"encoder": VIT}),
    **_all("clip_vision_model siglip_vision_model", {"encoder": CLIP}),
    "clip_text_model": {"encoder": replace(CLIP, mask=Causal())},
    **_all("dinov2 dinov2_with_registers", {"encoder": replace(VIT, at=DINOV2)}),
    "qwen2_vl_vision": {"encoder": QWEN2_VL_VISION},
    **_all("hubert wav2vec2", {"encoder": replace(CLIP, at="encoder.layers.{}.attention")}),
}
