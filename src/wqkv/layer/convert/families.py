"""The table: where each family of transformers models keeps its attention, and what it does."""

from __future__ import annotations

from typing import Any

from wqkv.attend.masks import Causal
from wqkv.layer.convert import traits as of
from wqkv.layer.convert.rows import Packed, Row
from wqkv.layer.differential import DifferentialAttention
from wqkv.layer.latent import LatentAttention

QKV = ("WQ", "WK", "WV")


def row(at: Any, matrices: str | dict[str, Any], **rest: Any) -> Row:
    """A row from the paths of WQ, WK, WV and WO, or from what the modules hold."""
    if isinstance(matrices, str):
        matrices = dict(zip(matrices.split(), (*QKV, "WO"), strict=True))
    return Row(at, matrices, arguments={"scale": of.scale, "dropout": of.dropout}).but(**rest)


def _albert(config: Any, layer: int) -> str | None:
    """Its layers share their weights in groups."""
    turn, number = divmod(layer, config.inner_group_num)
    if turn >= config.num_hidden_layers:
        return None
    group = turn * config.num_hidden_groups // config.num_hidden_layers
    return f"encoder.albert_layer_groups.{group}.albert_layers.{number}.attention"


# Texts read as a whole

BERT = row(
    "encoder.layer.{}.attention", "self.query self.key self.value output.dense", mask=of.decoding
)
ALBERT = row(_albert, "query key value dense")
DISTILBERT = row("transformer.layer.{}.attention", "q_lin k_lin v_lin out_lin")
MPNET = row(
    "encoder.layer.{}.attention.attn",
    "q k v o",
    position=of.buckets("encoder", bidirectional=True, most=128),
)
MODERNBERT = row(
    "layers.{}.attn",
    {"Wqkv": Packed(QKV), "Wo": "WO"},
    mask=of.around,
    position=of.rotary,
)

# Texts read from left to right

LLAMA = row(
    "layers.{}.self_attn", "q_proj k_proj v_proj o_proj", mask=of.onwards, position=of.rotary
)
WINDOW, WINDOWS = LLAMA.but(mask=of.window), LLAMA.but(mask=of.windows)
INTERLEAVED = LLAMA.but(position=of.interleaved)
RMS, RMS_PLUS_ONE = of.normed("rms"), of.normed_plus_one()
RMS_WHOLE = of.normed("rms", "projection")
RMS_TURNED = of.normed("rms", q="query_layernorm", k="key_layernorm", after_position=True)
LAYER = of.normed("layer", q="q_layernorm", k="k_layernorm")
LAYER_EACH = of.normed("layer", "each head")
LAYER_LISTS = of.normed_by_lists("q_layernorm.norms", "k_layernorm.norms")
NORMED = WINDOWS.but(**RMS)
SINKS = WINDOWS.but(holds={"sinks": "sinks"}, sinks=of.sinks)
MIMO = SINKS.but(
    made={"WV.weight": of.scaled_values("weight"), "WV.bias": of.scaled_values("bias")}
)
EXAONE4 = NORMED.but(
    position=of.rotary_in(lambda spot: not spot.config.sliding_window or of.sliding(spot))
)
SMOLLM3 = WINDOWS.but(position=of.rotary_in(lambda spot: spot.get("use_rope")))
LLAMA4 = LLAMA.but(
    mask=of.chunked,
    position=of.rotary_in(lambda spot: spot.get("use_rope"), of.interleaved),
    norm=of.rms_after_rotation,
    temperature=of.warmed_without_rope,
)
GATED = NORMED.but(holds={"gate_proj": "WG"}, gate="channel", position=of.rotary_in(of.sliding))
GATED_BY_HEAD = NORMED.but(holds={"g_proj": "WG"}, gate=lambda spot: spot.get("g_proj") and "head")
GATED_WITH_Q = LLAMA.but(
    **RMS_PLUS_ONE, holds={"q_proj": Packed(("WQ", "WG"), "n_head")}, gate="channel"
)
LATENT = row(
    "layers.{}.self_attn",
    {
        "q_proj": "WQ",
        "q_a_proj": "WQ.0",
        "q_a_layernorm": "WQ.1",
        "q_b_proj": "WQ.2",
        "kv_a_proj_with_mqa": Packed(("WC", "WR")),
        "kv_a_layernorm": "c_norm",
        "kv_b_proj": Packed(("WK", "WV"), "n_head"),
        "o_proj": "WO",
    },
    kind=LatentAttention,
    sizes=of.latent,
    mask=Causal(),
    position=of.interleaved,
)
LATENT_EITHER = LATENT.but(position=lambda spot: of.rotary(spot, spot.config.rope_interleave))
DIFFERENTIAL = LLAMA.but(
    kind=DifferentialAttention,
    sizes=of.paired,
    made={f"WV.{part}": of.halves_beside(part) for part in ("weight", "bias")},
    holds={f"lambda_{name}": f"lambda_{name}" for name in ("q1", "k1", "q2", "k2")},
    start=lambda spot: spot.get("lambda_init"),
)
PHI3 = row(
    "layers.{}.self_attn",
    {"qkv_proj": Packed(QKV), "o_proj": "WO"},
    mask=of.window,
    position=of.rotary,
)
DBRX = row(
    "blocks.{}.norm_attn_norm.attn",
    {"Wqkv": Packed(QKV), "out_proj": "WO"},
    mask=Causal(),
    position=of.rotary,
    clip=of.clip,
)
MPT = row(
    "blocks.{}.attn",
    {"Wqkv": Packed(QKV), "out_proj": "WO"},
    mask=Causal(),
    position=of.alibi,
    clip=of.clip,
)
GPT2 = row("h.{}.attn", {"c_attn": Packed(QKV), "c_proj": "WO"}, transposed=True, mask=Causal())
NEOX = row(
    "layers.{}.attention",
    {"query_key_value": Packed(QKV, "n_head"), "dense": "WO"},
    mask=Causal(),
    position=of.rotary,
)
GPTJ = row("h.{}.attn", "q_proj k_proj v_proj out_proj", mask=Causal(), position=of.old_rotary)
CODEGEN = GPTJ.but(holds={"qkv_proj": Packed(("WQ", "WV", "WK"), 4)})
GPT_NEO = row("h.{}.attn.attention", "q_proj k_proj v_proj out_proj", mask=of.local, scale=1.0)
BLOOM = NEOX.but("h.{}.self_attention", position=of.alibi)
FALCON = NEOX.but(
    "h.{}.self_attention",
    holds={"query_key_value": Packed(QKV, "n_kv_head")},
    position=of.alibi_or_rotary,
)

# One text read, another written: three attentions

PROJ = "q_proj k_proj v_proj out_proj"
BART = {
    "decoder": row(
        "decoder.layers.{}.self_attn", PROJ, mask=Causal(), n_head="decoder_attention_heads"
    ),
    "encoder": row("encoder.layers.{}.self_attn", PROJ, n_head="encoder_attention_heads"),
    "cross": row("decoder.layers.{}.encoder_attn", PROJ, n_head="decoder_attention_heads"),
}


def t5(keeper: str) -> dict[str, Row]:
    """The layer that keeps the table of a stack is a number, or {} where each has its own."""
    stack, most = "block.{}.layer.0.SelfAttention", "relative_attention_max_distance"
    table = stack.format(keeper)
    read = of.buckets(f"encoder.{table}", bidirectional=True, most=most)
    written = of.buckets(f"decoder.{table}", bidirectional=False, most=most)
    return {
        "decoder": row(f"decoder.{stack}", "q k v o", mask=Causal(), position=written),
        "encoder": row(f"encoder.{stack}", "q k v o", position=read),
        "cross": row("decoder.block.{}.layer.1.EncDecAttention", "q k v o"),
    }


QFORMER = row(
    "encoder.layer.{}.attention",
    "attention.query attention.key attention.value output.dense",
)

# Pictures and sounds

VIT = row("layers.{}.attention", "q_proj k_proj v_proj o_proj")
CLIP = row("encoder.layers.{}.self_attn", PROJ)
QWEN2_VL_VISION = row(
    "blocks.{}.attn",
    {"qkv": Packed(QKV), "proj": "WO"},
    n_head="num_heads",
    position=of.grid,
)


def _all(names: str, parts: dict[str, Row]) -> dict[str, dict[str, Row]]:
    return dict.fromkeys(names.split(), parts)


FAMILIES: dict[str, dict[str, Row]] = {
    **_all("bert camembert electra roberta xlm-roberta", {"encoder": BERT}),
    "albert": {"encoder": ALBERT},
    "distilbert": {"encoder": DISTILBERT},
    "modernbert": {"encoder": MODERNBERT},
    "mpnet": {"encoder": MPNET},
    **_all("arcee gemma granite llama nemotron seed_oss", {"decoder": LLAMA}),
    **_all("mistral mixtral starcoder2", {"decoder": WINDOW}),
    **_all("ministral qwen2 qwen2_moe qwen2_vl_text", {"decoder": WINDOWS}),
    **_all("glm glm4 ernie4_5 helium", {"decoder": INTERLEAVED}),
    "afmoe": {"decoder": GATED},
    "apertus": {"decoder": LLAMA.but(**RMS)},
    "bloom": {"decoder": BLOOM},
    "codegen": {"decoder": CODEGEN},
    "cohere": {"decoder": INTERLEAVED.but(**LAYER_EACH)},
    "cohere2": {"decoder": WINDOWS.but(position=of.rotary_in(of.sliding, of.interleaved))},
    "dbrx": {"decoder": DBRX},
    "deepseek_v2": {"decoder": LATENT},
    "deepseek_v3": {"decoder": LATENT_EITHER},
    "diffllama": {"decoder": DIFFERENTIAL},
    "exaone4": {"decoder": EXAONE4},
    "falcon": {"decoder": FALCON},
    "gemma2": {"decoder": WINDOWS.but(softcap=of.softcap)},
    "gemma3_text": {"decoder": WINDOWS.but(**RMS_PLUS_ONE)},
    "gemma3n_text": {"decoder": NORMED.but(v_norm=of.bare("v_norm"))},
    "gpt2": {"decoder": GPT2},
    "gpt_neo": {"decoder": GPT_NEO},
    "gpt_neox": {"decoder": NEOX},
    "gpt_oss": {"decoder": SINKS},
    "gptj": {"decoder": GPTJ},
    "hunyuan_v1_dense": {"decoder": LLAMA.but(**RMS_TURNED)},
    "lfm3": {"decoder": GATED_BY_HEAD},
    "llama4_text": {"decoder": LLAMA4},
    "mimo_v2_flash": {"decoder": MIMO},
    "ministral3": {"decoder": WINDOW.but(temperature=of.warmed)},
    "mpt": {"decoder": MPT},
    "olmo": {"decoder": LLAMA.but(clip=of.clip)},
    "olmo2": {"decoder": LLAMA.but(**RMS_WHOLE)},
    "olmo3": {"decoder": WINDOWS.but(**RMS_WHOLE)},
    "olmoe": {"decoder": LLAMA.but(**RMS_WHOLE, clip=of.clip)},
    "opt": {"decoder": row("decoder.layers.{}.self_attn", PROJ, mask=Causal())},
    "persimmon": {"decoder": NEOX.but("layers.{}.self_attn", **LAYER)},
    "phi": {"decoder": LLAMA.but(holds={"dense": "WO"}).but(**LAYER)},
    "phi3": {"decoder": PHI3},
    "qwen3": {"decoder": NORMED},
    "qwen3_moe": {"decoder": WINDOW.but(**RMS)},
    "qwen3_next": {"decoder": GATED_WITH_Q},
    "smollm3": {"decoder": SMOLLM3},
    "stablelm": {"decoder": LLAMA.but(**LAYER_LISTS)},
    **_all("bart blenderbot m2m_100 marian mbart pegasus whisper", BART),
    **_all("t5 mt5", t5("0")),
    "umt5": t5("{}"),
    "blip_2_qformer": {"encoder": QFORMER, "cross": QFORMER.but("encoder.layer.{}.crossattention")},
    **_all("deit vit", {"encoder": VIT}),
    **_all("clip_vision_model siglip_vision_model", {"encoder": CLIP}),
    "clip_text_model": {"encoder": CLIP.but(mask=Causal())},
    "dinov2": {"encoder": VIT.but("encoder.layer.{}.attention")},
    "qwen2_vl_vision": {"encoder": QWEN2_VL_VISION},
    **_all("hubert wav2vec2", {"encoder": CLIP.but("encoder.layers.{}.attention")}),
}
