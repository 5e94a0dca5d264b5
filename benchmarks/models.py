"""Whole transformers models on our engines, beside the fastest path they have of their own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from benchmarks.cases import SDPA, Row
from benchmarks.contest import Contestant
from tests.conformance.cases import Case

Absent = dict[str, str]
EAGER = "eager"
#: What transformers calls them.
PATHS = {EAGER: "eager", SDPA: "sdpa"}
#: gpt_oss has sinks and a window in every other layer, and no fused path in transformers on a CPU.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_oss": {
        "head_dim": 64,
        "intermediate_size": 512,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
    },
    "mistral": {"head_dim": 64, "intermediate_size": 1408, "sliding_window": 512},
}


def rows(shrink: int = 1) -> list[Row]:
    """One forward pass of four layers; lengths (and windows, in `contestants`) over `shrink`."""
    return [
        Row("model", _case(2048 // shrink), False, {EAGER: 0.6}, "gpt_oss"),
        Row("model", _case(8192 // shrink), False, {SDPA: 0.4}, "mistral"),
    ]


def _case(length: int) -> Case:
    return Case("", batch=1, n_head=8, n_kv_head=2, query_len=length, d_k=64, d_v=None)


def contestants(row: Row, *, shrink: int = 1) -> tuple[list[Contestant], Absent]:
    """Ours first; the weights are the same, random."""
    try:
        from transformers import AutoConfig, AutoModel

        from wqkv.replace.use import use
    except ImportError as error:
        return [], dict.fromkeys(row.targets, f"no module {error.name}")
    case = row.case
    torch.manual_seed(2)
    config = AutoConfig.for_model(
        row.family,
        vocab_size=128,
        hidden_size=case.n_head * case.d_k,
        num_hidden_layers=4,
        num_attention_heads=case.n_head,
        num_key_value_heads=case.n_kv_head,
        max_position_embeddings=case.query_len,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **_shrunk(FAMILIES[row.family], shrink),
    )
    plain = AutoModel.from_config(config, attn_implementation="eager").train(row.backward)
    hidden = torch.randn(1, case.query_len, config.hidden_size)

    def enter(name: str, model: nn.Module) -> Contestant:
        leaf = hidden.clone().requires_grad_(row.backward)

        def run() -> torch.Tensor:
            found: torch.Tensor = model(inputs_embeds=leaf, use_cache=False).last_hidden_state
            return found

        return Contestant(name, run, [leaf], list(model.parameters()))

    ready = [enter("ours", use(copy.deepcopy(plain)))]
    for name in row.targets:
        peer = copy.deepcopy(plain)
        peer.set_attn_implementation(PATHS[name])
        ready.append(enter(name, peer))
    return ready, {}


def _shrunk(family: dict[str, Any], shrink: int) -> dict[str, Any]:
    return family | {"sliding_window": max(family["sliding_window"] // shrink, 1)}
