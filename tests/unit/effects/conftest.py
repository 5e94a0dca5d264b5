"""Models of several families in float64, and the numbers that are asked about them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from tests.tiny import MARKS, WORDS, shake, tiny_bart, tiny_llama, tiny_t5, tokenizer
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair

VOCABULARY = len(MARKS) + len(WORDS)
COMMON = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), 36),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "hidden_dim"), 37),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 6),
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 53,
    "n_positions": 53,
    "sliding_window": 5,
    "word_embed_proj_dim": 36,
    "embedding_size": 11,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 1,
    "initializer_range": 0.4,
}
#: Causal families, with what their configuration needs besides COMMON.
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {},  # packed matrices, learned positions
    "opt": {"do_layer_norm_before": True},  # learned positions that begin at 2
    "mistral": {},  # a window
    "gemma2": {"query_pre_attn_scalar": 6, "attn_logit_softcapping": 3.0},  # softcap, windows
    "gpt_oss": {
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "experts_implementation": "eager",
    },  # sinks, windows
    "qwen3": {},  # norms of q and k
    "phi3": {},
    "gpt_neox": {"rotary_pct": 1.0},  # attention beside the MLP
}
BOTH_WAYS: dict[str, dict[str, Any]] = {
    "bert": {},  # norms behind
    "albert": {},  # layers that share their weights
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 6},
}


def of_family(name: str, head: Any) -> OpenModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**COMMON, **{**CAUSAL, **BOTH_WAYS}[name]})
    whole = shake(head.from_config(config, dtype=torch.float64)).double().eval()
    speaker = whole if head is AutoModelForCausalLM else None
    filler = whole if head is AutoModelForMaskedLM else None
    return OpenModel(whole.base_model, tokenizer(), f"tiny-{name}", speaker, filler)


def as_double(model: OpenModel | OpenPair) -> OpenModel | OpenPair:
    """The same model in float64; its layers as ours are made anew."""
    assert model.speaker is not None
    speaker = model.speaker.double()
    return type(model)(speaker.base_model, model.tokenizer, model.name, speaker)


@cache
def opened(name: str) -> OpenModel | OpenPair:
    match name:
        case "llama":
            return as_double(tiny_llama())
        case "t5":
            return as_double(tiny_t5())
        case "bart":
            return as_double(tiny_bart())
    return of_family(name, AutoModelForCausalLM if name in CAUSAL else AutoModel)


@pytest.fixture
def model() -> Callable[[str], OpenModel | OpenPair]:
    """Open a model by the name of its family, once."""
    return opened
