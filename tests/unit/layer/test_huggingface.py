"""Our layer with a model's matrices against the model's own attention, for every family."""

import math

import pytest
import torch
from torch import nn

from wqkv import Causal, Full, Window
from wqkv.attend.positions import DynamicNTK, Linear, Llama3, LongRoPE, YaRN
from wqkv.errors import ArgumentError
from wqkv.layer.convert.huggingface import FAMILIES, family, from_hf, matrices, sizes
from wqkv.look.models import OpenModel

transformers = pytest.importorskip("transformers")

N = 11  # words
COMMON = {
    "vocab_size": 101,
    "hidden_size": 42,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "intermediate_size": 13,
    "max_position_embeddings": 37,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**COMMON, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
CONFIGS = {
    "bert": COMMON,
    "roberta": COMMON,
    "xlm-roberta": COMMON,
    "camembert": COMMON,
    "electra": {**COMMON, "embedding_size": 17},
    "distilbert": {
        "vocab_size": 101,
        "dim": 42,
        "n_layers": 3,
        "n_heads": 7,
        "hidden_dim": 13,
        "max_position_embeddings": 37,
    },
    "albert": {**COMMON, "embedding_size": 17},
    "gpt2": {
        "vocab_size": 101,
        "n_embd": 42,
        "n_layer": 3,
        "n_head": 7,
        "n_positions": 37,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": {
        **COMMON,
        "hidden_size": 56,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000.0,
            "partial_rotary_factor": 0.5,
        },
    },
    "llama": {**GROUPED, "attention_bias": True},
    "mistral": {**GROUPED, "sliding_window": 3},
    "qwen2": {
        **GROUPED,
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "gemma": {**GROUPED, "head_dim": 10},
    "phi3": GROUPED,
}


def tiny(kind: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**CONFIGS[kind], **changes})
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():  # biases too, which start as zero
        nn.init.normal_(parameter, std=0.3)
    return model


def check(model: nn.Module, n: int = N) -> OpenModel:
    """Every layer's output equals the model's own attention output."""
    opened = OpenModel(model, None, "tiny")
    ids = torch.randint(3, 101, (1, n), generator=torch.Generator().manual_seed(0))
    inputs, outputs = opened._run(ids)
    assert len(inputs) == len(outputs) == 3
    for number, (x, theirs) in enumerate(zip(inputs, outputs, strict=True)):
        assert theirs.std() > 0.1
        torch.testing.assert_close(opened.layer(number)(x), theirs, rtol=1e-4, atol=1e-4)
    return opened


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family(kind):
    opened = check(tiny(kind))
    assert opened.family == kind
    assert opened.layer(0).mask == (
        Window(2, 0) if kind == "mistral" else Causal() if FAMILIES[kind].causal else Full()
    )
    grouped = opened.sizes["n_kv_head"] < opened.sizes["n_head"]
    assert grouped == ("num_key_value_heads" in CONFIGS[kind])


def test_every_family_is_tested():
    assert set(CONFIGS) == set(FAMILIES)


def test_masks_a_layer():
    opened = OpenModel(tiny("qwen2"), None, "tiny")
    assert [opened.layer(i).mask for i in range(3)] == [Causal(), Window(4, 0), Causal()]


LONG = {"short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [2.0, 2.3, 2.9, 3.1]}
ROPES = [
    ({"rope_type": "linear", "factor": 3.0}, Linear(3.0)),
    ({"rope_type": "dynamic", "factor": 3.0}, DynamicNTK(3.0, 17)),
    (
        {
            "rope_type": "llama3",
            "factor": 5.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 7,
        },
        Llama3(5.0, 1.0, 4.0, 7),
    ),
    (
        {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 7},
        YaRN(3.0, 7),
    ),
    (
        {
            "rope_type": "yarn",
            "factor": 3.0,
            "original_max_position_embeddings": 7,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
        },
        YaRN(3.0, 7, gain_=(0.07 * math.log(3) + 1) / (0.13 * math.log(3) + 1)),
    ),
    (
        {
            "rope_type": "yarn",
            "factor": 3.0,
            "original_max_position_embeddings": 7,
            "beta_fast": 11.0,
            "beta_slow": 0.5,
            "attention_factor": 1.5,
            "truncate": False,
        },
        YaRN(3.0, 7, 11.0, 0.5, 1.5, False),
    ),
    (
        {"rope_type": "longrope", **LONG, "original_max_position_embeddings": 13},
        LongRoPE(*LONG.values(), 13, 17 / 13),
    ),
    (
        {"rope_type": "longrope", **LONG, "original_max_position_embeddings": 13, "factor": 7.0},
        LongRoPE(*LONG.values(), 13, 7.0),
    ),
    ({"rope_type": "longrope", **LONG, "factor": 7.0}, LongRoPE(*LONG.values(), 17, 7.0)),
]


@pytest.mark.parametrize("n", [11, 23])
@pytest.mark.parametrize(("rules", "scaling"), ROPES)
def test_every_scaling(rules, scaling, n):
    """Below and above the trained length."""
    rules = {"rope_theta": 500.0, **rules}
    opened = check(tiny("llama", rope_parameters=rules, max_position_embeddings=17), n)
    position = opened.layer(0).position
    assert position.theta == 500.0
    assert position.scaling == scaling


def test_scale_is_what_the_module_states():
    model = tiny("llama")
    for layer in model.layers:
        layer.self_attn.scaling = 0.7
    assert check(model).layer(0).scale == 0.7


def test_partial_rotation():
    opened = OpenModel(tiny("gpt_neox"), None, "tiny")
    assert (opened.layer(0).position.d, opened.sizes["d_k"]) == (4, 8)
    assert OpenModel(tiny("llama"), None, "tiny").layer(0).position.d is None


@pytest.mark.parametrize("kind", FAMILIES)
def test_matrices_are_shared_or_cut_out(kind):
    model = tiny(kind)
    ours, theirs = from_hf(model, 1), matrices(model, 1)
    shared = ours.WQ.weight.data_ptr() == theirs["WQ"].weight.data_ptr()
    assert shared == (FAMILIES[kind].packed is None)


def test_training_mode_is_the_models():
    assert not from_hf(tiny("bert"), 0).training
    assert from_hf(tiny("bert").train(), 0).training


def test_head_on_top_of_the_base_model():
    config = transformers.AutoConfig.for_model("gpt2", **CONFIGS["gpt2"])
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert matrices(model, 2)["WO"] is model.transformer.h[2].attn.c_proj
    assert sizes(model) == {"n_layer": 3, "n_head": 7, "n_kv_head": 7, "d_model": 42, "d_k": 6}


@pytest.mark.parametrize(
    ("kind", "near"), [("mpt", "phi3|gpt2|mistral"), ("roformer", "roberta"), ("qwen3", "qwen2")]
)
def test_unknown_family(kind, near):
    model = nn.Linear(2, 3)
    model.config = transformers.AutoConfig.for_model(kind)
    says = rf"(?s)family '{kind}' yet.*nearest rows are: .*({near})"
    with pytest.raises(ArgumentError, match=says):
        family(model)


def test_a_module_that_is_no_model():
    with pytest.raises(ArgumentError, match=r"(?s)family 'Linear' yet.*nearest rows"):
        family(nn.Linear(2, 3))
    with pytest.raises(ArgumentError, match=f"(?s)'Qj' yet.*rows are: {', '.join(FAMILIES)}"):
        family(type("Qj", (nn.Module,), {})())


@pytest.mark.parametrize("layer", [3, -1])
def test_layer_out_of_range(layer):
    with pytest.raises(ArgumentError, match=f"no layer {layer}: the model has 3 layers, 0 to 2"):
        from_hf(tiny("bert"), layer)


def test_unknown_scaling():
    model = tiny("llama")
    model.config.rope_parameters = {"rope_type": "spiral", "rope_theta": 500.0}
    with pytest.raises(ArgumentError, match=r"(?s)positions by 'spiral'.*default, linear, dyn"):
        from_hf(model, 0)
