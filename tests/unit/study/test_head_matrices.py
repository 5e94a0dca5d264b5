"""The matrices of a head, beside torch's own modules and the q, k, v that are made of them."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    CohereConfig,
    DeepseekV3Config,
    DeepseekV3Model,
    GPT2Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3Model,
)

from tests.tiny import READ, TARGET, of_config, tiny_bart, tiny_llama
from wqkv import MultiheadAttention, Norm, QKNorm, RoPE, Temperature
from wqkv.errors import ArgumentError
from wqkv.experiments.changed_head import TrainedHead
from wqkv.study.head_matrices import head_matrices
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import View

N, LAYER = 13, 1
SIZES = {
    "vocab_size": 101, "hidden_size": 66, "intermediate_size": 53, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14, "pad_token_id": 0,
}  # fmt: skip
BERT = {"vocab_size": 101, "hidden_size": 42, "intermediate_size": 53, "num_hidden_layers": 2}


def seen(config) -> View:
    model = OpenModel(of_config(config), None, "tiny")
    ids = torch.randint(3, 101, (N,), generator=torch.Generator().manual_seed(2)).tolist()
    return model.view(TokenizedText.of_ids(ids))


def rows(module: nn.Linear, at: int, d: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cut a head out of a matrix of torch, and out of its bias."""
    mine = slice(at * d, (at + 1) * d)
    return module.weight[mine].T, None if module.bias is None else module.bias[mine]


def same(found: torch.Tensor | None, theirs: torch.Tensor | None) -> None:
    assert (found is None) == (theirs is None)
    if found is not None:
        assert torch.equal(found, theirs.detach())


@pytest.mark.parametrize("head", [0, 4])
def test_grouped_heads_without_biases(head):
    view = tiny_llama().view("the lamp burned bright")
    found, theirs = view.matrices(LAYER, head), view.model.model.layers[LAYER].self_attn
    for name, module, at in (("Q", "q", head), ("K", "k", head // 3), ("V", "v", head // 3)):
        weight, bias = rows(getattr(theirs, f"{module}_proj"), at, 14)
        same(getattr(found, f"W{name}"), weight)
        same(getattr(found, f"b{name}"), bias)
    same(found.WO, theirs.o_proj.weight[:, head * 14 : (head + 1) * 14].T)
    assert found.bO is None
    assert found.to_q == found.to_k == ("RoPE",) and found.to_v == found.to_context == ()


def test_bert_has_a_bias_for_each():
    view = seen(BertConfig(**BERT, num_attention_heads=6))
    found, theirs = view.matrices(LAYER, 5), view.model.model.encoder.layer[LAYER].attention
    for name, module in (("Q", "query"), ("K", "key"), ("V", "value")):
        weight, bias = rows(getattr(theirs.self, module), 5, 7)
        same(getattr(found, f"W{name}"), weight)
        same(getattr(found, f"b{name}"), bias)
    same(found.WO, theirs.output.dense.weight[:, 35:42].T)
    same(found.bO, theirs.output.dense.bias)
    assert found.to_q == found.to_k == found.to_v == found.to_context == ()


def test_gpt2_has_one_matrix_for_all_three():
    view = seen(GPT2Config(vocab_size=101, n_layer=2, n_embd=42, n_head=6))
    found, theirs = view.matrices(LAYER, 2), view.model.model.h[LAYER].attn
    for at, name in enumerate("QKV"):
        mine = slice(at * 42 + 14, at * 42 + 21)
        same(getattr(found, f"W{name}"), theirs.c_attn.weight[:, mine])
        same(getattr(found, f"b{name}"), theirs.c_attn.bias[mine])
    same(found.WO, theirs.c_proj.weight[14:21])


CONFIGS = {
    "bert": BertConfig(**BERT, num_attention_heads=6),
    "gpt2": GPT2Config(vocab_size=101, n_layer=2, n_embd=42, n_head=6),
    "qwen2": Qwen2Config(**SIZES),  # biases of q, k and v alone
    "cohere": CohereConfig(**SIZES),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_they_make_q_k_v_and_the_share(name):
    view = seen(CONFIGS[name])
    opened, head = view.layer(LAYER), 4
    found, x = view.matrices(LAYER, head), view.reading.inputs[LAYER][0]
    kv = head // (view.model.sizes.n_head // view.model.sizes.n_kv_head)
    for part, made, at in (("Q", opened.q, head), ("K", opened.k, kv), ("V", opened.v, kv)):
        bias = getattr(found, f"b{part}")
        product = x @ getattr(found, f"W{part}") + (0 if bias is None else bias)
        if not getattr(found, f"to_{part.lower()}"):
            torch.testing.assert_close(product, made[0, at])
        else:
            assert (product - made[0, at]).abs().max() > 0.1
    assert (found.bQ is None) == (name == "cohere")
    assert found.to_q == (("RoPE",) if name in ("qwen2", "cohere") else ())
    assert torch.equal(found.WO, opened.WO(head))


def test_the_shares_of_all_heads_and_the_bias_are_the_output():
    view = seen(CONFIGS["gpt2"])
    opened = view.layer(LAYER)
    parts = [view.matrices(LAYER, head) for head in range(6)]
    contexts = [opened.row(head, 3)[2].out[0, 0, 0] for head in range(6)]
    total = sum(context @ part.WO for context, part in zip(contexts, parts, strict=True))
    torch.testing.assert_close(total + parts[0].bO, view.reading.outputs[LAYER][0, 3])


def test_what_stands_between_is_named_in_order():
    view = seen(Qwen3Config(**SIZES))
    assert isinstance(view.model.model, Qwen3Model)
    assert view.matrices(0, 0).to_q == view.matrices(0, 0).to_k == ("norm", "RoPE")


def test_between_two_texts_k_and_v_are_made_of_the_other():
    pair = tiny_bart()
    view = pair.views(READ, TARGET)["cross"]
    found, opened = view.matrices(LAYER, 2), view.layer(LAYER)
    y = view.reading.source.final[0]
    torch.testing.assert_close(y @ found.WK + found.bK, opened.k[0, 2])
    torch.testing.assert_close(y @ found.WV + found.bV, opened.v[0, 2])


def test_an_experiment_takes_the_same_numbers():
    view = seen(CONFIGS["bert"])
    found, at = view.matrices(LAYER, 3), TrainedHead(view, LAYER, 3, 2)
    weight, bias = at.part_of("WK")
    assert torch.equal(weight.T, found.WK) and torch.equal(bias, found.bK)


def test_heads_without_plain_matrices_are_refused():
    config = DeepseekV3Config(
        vocab_size=101, hidden_size=66, intermediate_size=53, num_hidden_layers=1,
        num_attention_heads=6, num_key_value_heads=6, q_lora_rank=None, kv_lora_rank=17,
        qk_rope_head_dim=4, qk_nope_head_dim=7, v_head_dim=11, first_k_dense_replace=1,
    )  # fmt: skip
    view = seen(config)
    assert isinstance(view.model.model, DeepseekV3Model)
    with pytest.raises(ArgumentError, match="Layer 0 of tiny is a LatentAttention, whose heads"):
        view.matrices(0, 1)


def test_a_hook_is_refused():
    view = seen(CONFIGS["bert"])
    view.model.layer(LAYER).WV.register_forward_hook(lambda *_: None)
    with pytest.raises(ArgumentError, match="`WV` computes more than its weight says"):
        view.matrices(LAYER, 1)


@pytest.mark.parametrize(("layer", "head", "says"), [(2, 0, "no layer 2"), (0, 6, "no head 6")])
def test_what_is_not_there(layer, head, says):
    with pytest.raises(ArgumentError, match=f"There is {says}: the model has"):
        seen(CONFIGS["bert"]).matrices(layer, head)


def test_all_that_our_layer_can_do_between():
    norm = QKNorm("rms", over="head", after_position=True)
    layer = MultiheadAttention(
        42, 6, norm=norm, v_norm=Norm("rms"), clip=2.0, position=RoPE(), gate="head",
        temperature=Temperature(4, 0.5), d_k=8,
    )  # fmt: skip
    found = head_matrices(layer, 2)
    assert found.to_q == ("clip", "RoPE", "norm", "temperature")
    assert found.to_k == ("clip", "RoPE", "norm")
    assert found.to_v == ("norm", "clip") and found.to_context == ("gate",)
