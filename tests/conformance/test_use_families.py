"""transformers' families, tiny and random, on attention(): the eager path's answer or a refusal.

The batch is padded at the left and at the right. A padded word that sees nothing has output 0 here
and the average of all words in the eager path, so only real words are compared.
"""

import re

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.families import asking
from tests.tiny import shake
from wqkv.errors import EngineError

transformers = pytest.importorskip("transformers")
module = pytest.importorskip("wqkv.replace.use")

#: Given to a family as far as its configuration has the name.
COMMON = {
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim"), 48),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 6),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 6),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("intermediate_size", "d_ff", "hidden_dim"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "d_kv", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "moe_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    "sliding_window": 5,
    "attention_chunk_size": 5,
}
LATENT = {"num_key_value_heads": 6}  # its heads share one latent vector, not keys
SPARSE = {**LATENT, "index_topk": 5, "index_n_heads": 2}
AUDIO = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
AUDIO |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
IMAGE = {"image_size": 12, "patch_size": 4}

PLAIN = (
    # decoders
    "afmoe apertus arcee aria_text biogpt bitnet cohere cohere2 ctrl cwm data2vec-text deepseek_v4",
    "diffllama doge ernie4_5 exaone4 flex_olmo flint gemma gemma2 gemma3_text glm glm4 glm4_moe",
    "gpt2 gpt_bigcode gpt_neox gpt_oss granite granite_swa granitemoe granitemoe_swa helium",
    "hunyuan_v1_dense inkling2_text inkling_text jetmoe lfm2 llama llama4_text minimax ministral",
    "mistral mixtral modernbert-decoder nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi",
    "phi3 qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2",
    "vaultgemma",
    # encoders
    "albert bert camembert clip_text_model distilbert electra ernie esm eurobert layoutlm markuplm",
    "modernbert nomic_bert openai_privacy_filter roberta roberta-prelayernorm splinter xlm-roberta",
    "xlm-roberta-xl",
    # encoders with decoders
    "bart bigbird_pegasus blenderbot longt5 m2m_100 marian mbart mt5 nllb-moe pegasus pegasus_x",
    "plbart switch_transformers t5 umt5",
)
#: What is given beside COMMON.
RUN = {kind: {} for kind in " ".join(PLAIN).split()} | {
    "clip_vision_model": IMAGE,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "deit": IMAGE,
    "dinov2": IMAGE,
    "dots1": {"n_shared_experts": 1},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "layer_types": ["full_attention", "sliding_attention"],
        "intermediate_size": [32, 32],
        "activation_sparsity_pattern": None,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 101,
    },
    "glm4_moe_lite": LATENT,
    "hubert": AUDIO,
    "longcat_flash": LATENT,
    "mimo_v2_flash": {"head_dim": 24, "v_head_dim": 16, "num_key_value_heads": 1},
    "minicpm3": LATENT,
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "siglip_vision_model": IMAGE,
    "vit": IMAGE,
    "wav2vec2": AUDIO,
    "whisper": {"num_mel_bins": 10, "max_source_positions": 17},
    "youtu": LATENT,
}
#: Those of which some modules attend by code of their own (locally, linearly, to one vector).
PARTLY = {
    "bigbird_pegasus": r"encoder.layers.0.self_attn.self \(BigBirdPegasusSelfAttention\), encoder",
    "inkling2_text": r"final_input \(Inkling2BlockAttentionResidual\), layers.0.mlp_input",
    "longt5": r"encoder.block.0.layer.0.LocalSelfAttention \(LongT5LocalAttention\), encoder.block",
    "minimax": r"layers.1.self_attn \(MiniMaxLightningAttention\) without",
    "pegasus_x": r"encoder.layers.0.self_attn \(PegasusXGlobalLocalAttention\), encoder.layers.1",
    "siglip_vision_model": r"head.attention \(MultiheadAttention\) without",
}

#: Attention of their own in some version of transformers: which these are, the model says.
NAMES = (
    "big_bird bloom canine codegen convbert deberta deberta-v2 falcon flaubert fsmt gpt_neo gptj",
    "ibert imagegpt led lilt longformer megatron-bert mpnet mpt mvp nystromformer openai-gpt",
    "rembert roformer tapas xglm xlm yoso",
)
#: What the attention of OLD families that does not ask transformers' interface is refused with.
OWN = r"does not go through transformers' AttentionInterface"
OLD = {kind: {} for kind in " ".join(NAMES).split()} | {
    "gpt_neo": {"attention_types": [[["global"], 2]]}
}
INDICES = r"does not know what `indices` does"
#: What cannot run, and why: keys selected for each query.
REFUSED = {
    "axk2": (SPARSE, INDICES),
    "deepseek_v32": (SPARSE, INDICES),
    "glm_moe_dsa": (SPARSE, INDICES),
    "hy_v4": (SPARSE, INDICES),
    "minimax_m3_vl_text": (
        {"layer_types": ["full_attention", "minimax_m3_sparse"], **SPARSE},
        r"does not know what `block_indices` does",
    ),
}
#: Configurations whose names stand for others.
EXACTLY = {
    "codegen": {"n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 8, "vocab_size": 101},
    "falcon": {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2},
    "gpt_neo": {"hidden_size": 48, "num_heads": 6, "num_layers": 2, "vocab_size": 101},
    "gptj": {"n_embd": 48, "n_head": 6, "n_layer": 2, "rotary_dim": 8, "vocab_size": 101},
}


def tiny(kind: str, changes: dict[str, object]) -> nn.Module:
    torch.manual_seed(0)
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    plain = transformers.CONFIG_MAPPING[kind]()
    given = EXACTLY.get(kind) or {k: v for k, v in COMMON.items() if hasattr(plain, k)}
    config = transformers.AutoConfig.for_model(kind, **{**given, **changes})
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = 0
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    return shake(model)


def batch(model: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of three samples, padded where they are words, and which outputs are real."""
    generator = torch.Generator().manual_seed(2)
    everything = torch.tensor(True)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(3, 3, 12, 12, generator=generator)}, everything
    if model.main_input_name == "input_values":
        sound = torch.randn(3, 400, generator=generator)
        return {"input_values": sound}, everything
    ids = torch.randint(3, 101, (3, 17), generator=generator)
    words = torch.ones_like(ids)
    words[0, :4] = words[1, 13:] = 0
    inputs = {"input_ids": ids, "attention_mask": words}
    if model.main_input_name == "input_features":
        sound = torch.randn(3, 10, 34, generator=generator)
        return {"input_features": sound, "decoder_input_ids": ids[:, :11]}, everything
    if model.config.is_encoder_decoder:
        return {**inputs, "decoder_input_ids": ids[:, :11]}, everything
    return inputs, words.bool()


def answer(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs)[0]
    return found


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", [*RUN, *OLD])
def test_the_eager_answer(kind, monkeypatch):
    model, calls = tiny(kind, {**RUN, **OLD}[kind]), []
    attend = module.attend
    monkeypatch.setattr(module, "attend", lambda *a, **k: calls.append(k) or attend(*a, **k))
    inputs, real = batch(model)
    with asking() as asked:
        eager = answer(model, inputs)[real]
    if kind in OLD and not asked:
        with pytest.raises(EngineError, match=OWN):
            module.use(model)
        return
    silent = {type(m).__name__ for m in model.modules()} - {type(m).__name__ for m in asked}
    own = re.findall(r"\((\w+)\\\)", PARTLY.get(kind, ""))
    if own and silent >= {*own}:  # in another version of transformers these may ask as well
        with pytest.raises(EngineError, match=f"computes the attention of {PARTLY[kind]}"):
            answer(module.use(model), inputs)
        model.set_attn_implementation("eager")
        answer(model, inputs)  # switched back, it runs; and by its name alone there is no check
        model.set_attn_implementation("wqkv")
    else:
        module.use(model)
    ours = answer(model, inputs)[real]
    assert calls, "none of its layers called attention()"
    largest = float(eager.abs().max())
    assert largest > 0.1
    off = float((ours - eager).abs().max())
    assert off <= 64 * torch.finfo(torch.float32).eps * largest


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    changes, reason = REFUSED[kind]
    model = tiny(kind, changes)
    with pytest.raises(EngineError, match=reason):
        answer(module.use(model), batch(model)[0])


def test_enough_families():
    assert len(RUN) >= 60
    assert not (RUN.keys() & REFUSED.keys() or RUN.keys() & OLD.keys())
