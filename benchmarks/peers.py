"""The peers of `watch`: who attends to what in one forward of a model, every head of every layer.

All answer the same question, the entropy of every row and the weight that every key receives.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contest import Contestant
from wqkv import watch

Absent = dict[str, str]
EAGER, LENS, READ = "eager output_attentions", "TransformerLens", "attnread"
#: It asks for torch 2.14 and transformers 5.19, so no extra of ours brings it; it runs with ours.
INSTALL = {READ: ": pip install nnsight==0.7.0; pip install --no-deps attnread==0.1.2"}
#: SmolLM2-135M's layers, two of them.
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "architectures": ["LlamaForCausalLM"],
}


def contestants(length: int) -> tuple[list[Contestant], Absent]:
    """Ours first; the weights are the same, random."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        return [], dict.fromkeys((EAGER, LENS, READ), f"no module {error.name}")
    torch.manual_seed(3)
    config = AutoConfig.for_model("llama", **SHAPE, max_position_embeddings=length)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    ids = torch.randint(0, SHAPE["vocab_size"], (1, length))
    ready, absent = [Contestant("ours", lambda: _ours(model, ids))], {}
    for name, enter in ((EAGER, _eager), (LENS, _lens), (READ, _read)):
        try:
            ready.append(Contestant(name, enter(copy.deepcopy(model), ids)))
        except ImportError as error:
            absent[name] = f"no module {error.name}{INSTALL.get(name, '')}"
    return ready, absent


def _ours(model: nn.Module, ids: Tensor) -> Tensor:
    with watch(model) as seen:
        model(ids, use_cache=False)
    return torch.stack([torch.stack((m.entropy()[0], m.received()[0])) for m in seen])


def _eager(model: Any, ids: Tensor) -> Any:
    model.set_attn_implementation("eager")
    return lambda: _dense(model(ids, use_cache=False, output_attentions=True).attentions)


def _lens(model: Any, ids: Tensor) -> Any:
    """Its tokenizer is not asked for anything, and must be there."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(3)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="1", pad_token="0", eos_token="2"
    )
    tokenizer.init_kwargs |= {"name_or_path": "numbers", "add_bos_token": True}
    bridge = TransformerBridge.boot_transformers("llama", hf_model=model, tokenizer=tokenizer)

    def run() -> Tensor:
        _, kept = bridge.run_with_cache(ids, names_filter=lambda at: at.endswith("hook_pattern"))
        return _dense(list(kept.values()))

    return run


def _read(model: Any, ids: Tensor) -> Any:
    from attnread import extract_attention

    def run() -> Tensor:
        found = extract_attention(model, {"input_ids": ids})
        layers = range(SHAPE["num_hidden_layers"])
        heads = range(SHAPE["num_attention_heads"])
        return _dense(
            [torch.stack([found["text", layer, h] for h in heads], dim=1) for layer in layers]
        )

    return run


def _dense(layers: list[Tensor]) -> Tensor:
    return torch.stack(
        [torch.stack((torch.special.entr(P[0]).sum(-1), P[0].sum(1))) for P in layers]
    )
