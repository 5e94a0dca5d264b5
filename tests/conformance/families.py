"""Transformers' model families as tiny random models, and what of each is not proved."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel

from tests.conformance.independent import Call, Heard, softmaxes
from tests.conformance.watched import Built, Row

#: Given to a configuration under every one of these names that it has.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim"), 40),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "global_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_head_dim", "embedding_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "image_size"), 32),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 61),
    **dict.fromkeys(("patch_size", "num_mel_bins", "hidden_size_per_layer_input"), 8),
    "num_channels": 3,
    "sliding_window": 5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


class Family(NamedTuple):
    """What a family's configuration needs besides SMALL, and what of it is not proved."""

    config: Mapping[str, Any] = MappingProxyType({})
    captured: int = 0  # layers whose scores are more than q, k and rules
    missed: int = 0  # what is no attention by q and k, and is counted
    with_sinks: bool = True  # whether the eager path's weights are those with the sink's part
    returned: bool = True  # whether the eager path returns the weights that met v


def _kinds(*kinds: str, **others: Any) -> Family:
    return Family({"layer_types": list(kinds), **others})


WINDOWS = _kinds("full_attention", "sliding_attention")
HEADS = Family({"num_key_value_heads": 4})
STAGES = {"depths": [2, 2], "num_heads": [2, 4], "embed_dim": 16, "window_size": 2, "patch_size": 4}

FAMILIES: dict[str, Family] = {
    # texts read as a whole
    "albert": Family(),
    "bert": Family(),
    "big_bird": Family(),
    "camembert": Family(),
    "canine": Family(),
    "convbert": Family(missed=2),  # a convolution with weights by a softmax
    "data2vec-text": Family(),
    "deberta-v2": Family(
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 7},
        captured=2,
    ),
    "distilbert": Family(),
    "electra": Family(),
    "ernie": Family(),
    "esm": Family({"mask_token_id": 3}),
    "eurobert": Family(),
    "ibert": Family(),
    "jina_embeddings_v3": Family(),
    "layoutlm": Family(),
    "megatron-bert": Family(),
    "mobilebert": Family(),
    "modernbert": _kinds("full_attention", "sliding_attention", local_attention=4),
    "mpnet": Family(),
    "nomic_bert": Family(),
    "nystromformer": Family(),
    "rembert": Family(),
    "roberta": Family(),
    "roformer": Family(),
    "splinter": Family(),
    "squeezebert": Family({"embedding_size": 32}, returned=False),  # it returns scores
    "xlm-roberta": Family(),
    "xlnet": Family({"d_head": 8}, captured=2),
    # texts read from left to right
    "apertus": Family(),
    "arcee": Family(),
    "axk2": HEADS,
    "bamba": Family({"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]}),
    "biogpt": Family(),
    "bitnet": Family(),
    "bloom": Family(),
    "codegen": Family({"rotary_dim": 4}),
    "cohere": Family(),
    "cohere2": WINDOWS,
    "cwm": WINDOWS,
    "deepseek_v2": HEADS,
    "deepseek_v3": HEADS,
    "deepseek_v32": Family(
        {"num_key_value_heads": 4, "index_topk": 4, "index_n_heads": 2, "index_head_dim": 16}
    ),
    "deepseek_v4": Family(missed=4),  # streams mixed by a softmax
    "diffllama": Family(),
    "doge": Family(),
    "ernie4_5": Family(),
    "ernie4_5_moe": Family(),
    "exaone4": WINDOWS,
    "falcon": Family(),
    "flex_olmo": Family(),
    "gemma": Family(),
    "gemma2": WINDOWS,
    "gemma3_text": WINDOWS,
    "gemma3n_text": _kinds(
        "sliding_attention",
        "full_attention",
        activation_sparsity_pattern=[0.0, 0.0],
        laurel_rank=4,
        num_kv_shared_layers=0,
    ),
    "gemma4_text": _kinds("sliding_attention", "full_attention", per_layer_config=None),
    "glm": Family(),
    "glm4": Family(),
    "glm4_moe": Family(),
    "gpt-sw3": Family(),
    "gpt2": Family(),
    "gpt_bigcode": Family(),
    "gpt_neo": Family({"attention_types": [[["global", "local"], 1]]}),
    "gpt_neox": Family(),
    "gpt_neox_japanese": Family(),
    "gpt_oss": WINDOWS,
    "gptj": Family({"rotary_dim": 4}),
    "granite": Family(),
    "granite_swa": WINDOWS._replace(with_sinks=False),
    "granitemoe": Family(),
    "granitemoe_swa": WINDOWS._replace(with_sinks=False),
    "helium": Family(),
    "hunyuan_v1_dense": Family(),
    "inkling_text": Family(),
    "jamba": Family({"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4}),
    "jetmoe": Family(),
    "lfm2": _kinds("conv", "full_attention"),
    "llama": Family(),
    "llama4_text": _kinds("chunked_attention", "full_attention", attention_chunk_size=5),
    "longcat_flash": HEADS,
    "mimo_v2_flash": WINDOWS,
    "minimax": _kinds("linear_attention", "full_attention")._replace(missed=1, returned=False),
    "minimax_m2": Family(),
    "minimax_m3_vl_text": _kinds(
        "full_attention", "minimax_m3_sparse", index_topk=5, index_n_heads=2
    ),
    "mistral": Family(),
    "mixtral": Family(),
    "modernbert-decoder": _kinds("full_attention", "sliding_attention", local_attention=4),
    "mpt": Family(),
    "nemotron": Family(),
    "olmo": Family(),
    "olmo2": Family(),
    "olmo3": WINDOWS,
    "olmoe": Family(),
    "opt": Family(),
    "persimmon": Family(),
    "phi": Family(),
    "phi3": Family(),
    "phimoe": Family(),
    "qwen2": Family(),
    "qwen2_moe": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(),
    "qwen3_next": _kinds(
        "linear_attention",
        "full_attention",
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "seed_oss": Family(),
    "smollm3": Family(),
    "stablelm": Family(),
    "starcoder2": Family(),
    "vaultgemma": Family(),
    "xglm": Family(),
    # one text read, another written
    "bart": Family(),
    "bigbird_pegasus": Family(),
    "blenderbot": Family(),
    "fsmt": Family(),
    "longt5": Family(),
    "m2m_100": Family(),
    "marian": Family(),
    "mbart": Family(),
    "mt5": Family(),
    "nllb-moe": Family(),
    "pegasus": Family(),
    "plbart": Family(),
    "switch_transformers": Family(),
    "t5": Family(),
    "umt5": Family(),
    # pictures and sounds
    "beit": Family({"use_relative_position_bias": True}),
    "clip_vision_model": Family(),
    "data2vec-vision": Family(),
    "deit": Family(),
    "dinov2": Family(),
    "dinov3_vit": Family(),
    "hubert": Family(),
    "ijepa": Family(),
    "sam3_vit_model": Family(),
    "segformer": Family({"num_attention_heads": [1, 2, 5, 8]}),
    "siglip_vision_model": Family(),
    "swin": Family(STAGES),
    "swinv2": Family(STAGES),
    "vit": Family(),
    "wav2vec2": Family(),
    "wavlm": Family(returned=False),  # the mean of the heads
    "whisper": Family(),
}


@contextmanager
def asking() -> Iterator[set[nn.Module]]:
    """The modules that meanwhile get their attention function from transformers' interface."""
    asked: set[nn.Module] = set()
    get: Any = AttentionInterface.get_interface

    def spied(self: Any, implementation: Any, default: Any) -> Any:
        function = get(self, implementation, default)

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            asked.add(module)
            return function(module, *args, **kwargs)

        return call

    with mock.patch.object(AttentionInterface, "get_interface", spied):
        yield asked


def build(name: str, implementation: str = "default") -> nn.Module:
    """A tiny random model under sdpa, or under eager: asked for, or where sdpa is refused."""
    torch.manual_seed(0)
    known = AutoConfig.for_model(name).to_dict()
    sizes = {
        key: value
        for key, value in SMALL.items()
        if key in known and not isinstance(known[key], list | tuple | dict)
    }
    config = AutoConfig.for_model(name, **{**sizes, **FAMILIES[name].config})
    try:
        first = "eager" if implementation == "eager" else "sdpa"
        model = AutoModel.from_config(config, attn_implementation=first)
    except ValueError:
        model = AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad():  # scores that are far from alike
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= 3
    return model.eval()


#: Which queries of a text are padding: the first three of its second sample.
PADDED = torch.arange(11)[None] < torch.tensor([[0], [3]])


def inputs(model: Any) -> dict[str, Tensor]:
    """Two samples of whatever the model reads; of texts, the second begins with padding."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(3, 60, (2, 11), generator=generator)
    match model.main_input_name:
        case "pixel_values":
            size = getattr(model.config, "image_size", 32)
            size = size if isinstance(size, int) else size[0]
            return {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}
        case "input_features":
            sound = torch.randn(2, 8, 64, generator=generator)
            return {"input_features": sound, "decoder_input_ids": words[:, :5]}
        case "input_values":
            return {"input_values": torch.randn(2, 1200, generator=generator)}
    texts = {"input_ids": words, "attention_mask": (~PADDED).long()}
    if model.config.is_encoder_decoder:
        texts["decoder_input_ids"] = words[:, :5]
    return texts


def row(name: str, implementation: str) -> Row:
    """A family as a row of the table: its default implementation, or "eager"."""
    family = FAMILIES[name]

    def built() -> Built:
        return build(name, implementation), lambda m: m(**inputs(m))

    return Row(
        f"{name}, {implementation}",
        built,
        proved=None,
        captured=family.captured,
        missed=family.missed,
        library="transformers",
        weights=lambda model, call: eager_weights(name, model, call),
        compared=("eval", "inference_mode"),  # in bfloat16 the eager path is too far off
        padded=PADDED,
        normalized=not family.with_sinks,
    )


#: Modules whose softmax chooses experts or streams, and a convolution's, over one value a row.
NOT_ATTENTION = re.compile(r"(gate|router|_hc)$")


def eager_weights(name: str, model: nn.Module, call: Call) -> list[Heard]:
    """The weights of the eager path, each with its module's name; what it returns is among them.

    Raises:
        AssertionError: the model returns weights that were not heard.
    """
    twin = build(name, "eager")  # not every family can be changed afterwards
    twin.load_state_dict(model.state_dict())
    with torch.no_grad(), softmaxes(twin) as found:
        out = twin(**inputs(twin), output_attentions=True)
    parts = [value for key, value in out.items() if key.endswith("attentions")]
    returned = [P for part in parts if part is not None for P in part if P is not None]
    lengths = {P.shape[-1] for P in returned}
    if FAMILIES[name].returned:
        known = _of_attention(found, lengths)
        assert all(any(_alike(P, one.weights) for one in known) for P in returned)
    with torch.no_grad(), softmaxes(twin) as found:
        call(twin)
    return _of_attention(found, lengths)


def _of_attention(found: Iterable[Heard], lengths: Collection[int]) -> list[Heard]:
    """The weights of attention among those of all softmaxes.

    Where sinks were joined to the scores, their column is cut off, as the model does. Two calls of
    one module with the same weights (differential attention) are one layer.

    Args:
        lengths: how many keys the model's weights have.
    """
    heard: list[Heard] = []
    for module, P in found:
        if NOT_ATTENTION.search(module) or (P.ndim == 3 and P.shape[-1] == 1):
            continue
        if P.shape[-1] not in lengths and P.shape[-1] - 1 in lengths:
            P = P[..., :-1]
        if not heard or heard[-1].name != module or not _alike(heard[-1].weights, P):
            heard.append(Heard(module, P))
    return heard


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel() or a.shape[-2:] != b.shape[-2:]:
        return False
    return bool((a.to(b.dtype).reshape(b.shape) - b).abs().max() < 1e-5)
