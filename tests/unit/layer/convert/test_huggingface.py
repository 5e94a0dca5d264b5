"""What from_hf makes of a model: parts, masks, positions, whose tensors they are, and errors.

That the output of every family is the model's own: tests/conformance/test_from_hf.py.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from wqkv import (
    Causal,
    Chunked,
    DifferentialAttention,
    Full,
    LatentAttention,
    RoPE,
    T5Bias,
    Window,
    from_hf,
    parity,
)
from wqkv.attend.scalings import (
    DynamicNTK,
    GivenFrequencies,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    YaRN,
)
from wqkv.errors import ArgumentError, KindError
from wqkv.layer.convert.families import FAMILIES
from wqkv.layer.convert.huggingface import block_path, check_plain, matrices, sizes, stacks

transformers = pytest.importorskip("transformers")
from tests.tiny import of_config  # noqa: E402

TEXT = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 13,
    "max_position_embeddings": 37,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
WINDOWS = {
    "sliding_window": 5,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}
SEQ2SEQ = {"d_model": 48, "d_kv": 10, "num_heads": 6, "num_layers": 3, "d_ff": 13}
IMAGE = {**TEXT, "image_size": 12, "patch_size": 4}
CONFIGS = {
    "bert": TEXT,
    "modernbert": {**TEXT, **WINDOWS},
    "gpt2": {"vocab_size": 101, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 37},
    "gpt_neo": {
        "vocab_size": 101,
        "hidden_size": 48,
        "num_layers": 3,
        "num_heads": 6,
        "window_size": 4,
        "attention_types": [[["global", "local", "global"], 1]],
    },
    "gpt_neox": {
        **TEXT,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 9.0,
            "partial_rotary_factor": 0.5,
        },
    },
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 3},
    "qwen2": {**GROUPED, **WINDOWS, "use_sliding_window": True},
    "phi3": GROUPED,
    "gemma3_text": {**GROUPED, **WINDOWS, "head_dim": 10},
    "gemma3n_text": {
        **GROUPED,
        **WINDOWS,
        "head_dim": 10,
        "vocab_size_per_layer_input": 101,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": [13] * 3,
        "activation_sparsity_pattern": [0.0] * 3,
        "num_kv_shared_layers": 1,
    },
    "qwen3_next": {
        **GROUPED,
        "head_dim": 16,
        "num_experts": 2,
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
    },
    "llama4_text": {
        **GROUPED,
        "head_dim": 10,
        "intermediate_size_mlp": 13,
        "num_local_experts": 2,
        "attention_chunk_size": 5,
        "layer_types": ["chunked_attention"] * 2 + ["full_attention"],
    },
    "deepseek_v2": {**TEXT, "num_key_value_heads": 6, "n_routed_experts": 2, "q_lora_rank": None},
    "diffllama": GROUPED,
    "t5": {**SEQ2SEQ, "vocab_size": 101, "dropout_rate": 0.3},
    "clip": {"text_config": TEXT, "vision_config": IMAGE},
    "vit": {**IMAGE, "attention_probs_dropout_prob": 0.2},
}


def tiny(kind: str, name: str = "Model", **changes) -> nn.Module:
    return of_config(transformers.CONFIG_MAPPING[kind](**{**CONFIGS[kind], **changes}), name)


# Masks and positions


@pytest.mark.parametrize(
    ("kind", "masks"),
    [
        ("bert", [Full()] * 3),
        ("gpt2", [Causal()] * 3),
        ("mistral", [Window(2, 0)] * 3),
        ("qwen2", [Causal(), Window(4, 0), Causal()]),
        ("gpt_neo", [Causal(), Window(3, 0), Causal()]),
        ("modernbert", [Full(), Window(5, 5), Full()]),
        ("llama4_text", [Causal() & Chunked(5), Causal() & Chunked(5), Causal()]),
    ],
)
def test_masks(kind, masks):
    model = tiny(kind)
    assert [from_hf(model, i).mask for i in range(3)] == masks


def test_masks_of_models_told_otherwise():
    assert from_hf(tiny("bert", is_decoder=True), 0).mask == Causal()
    model = tiny("gemma3_text", use_bidirectional_attention=True)  # whose window is halved, plus 1
    assert [from_hf(model, i).mask for i in range(3)] == [Full(), Window(2, 2), Full()]


LONG = {"short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [2.0, 2.3, 2.9, 3.1]}
YARN = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 7}
LONGROPE = {"rope_type": "longrope", **LONG}
ROPES = [
    ({"rope_type": "linear", "factor": 3.0}, LinearScaling(3.0)),
    ({"rope_type": "dynamic", "factor": 3.0}, DynamicNTK(3.0, 17)),
    (
        {
            "rope_type": "llama3",
            "factor": 5.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 7,
        },
        Llama3Scaling(5.0, 1.0, 4.0, 7),
    ),
    (YARN, YaRN(3.0, 7)),
    (
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
        YaRN(3.0, 7, gain=(0.07 * math.log(3) + 1) / (0.13 * math.log(3) + 1)),
    ),
    (
        {**YARN, "beta_fast": 11.0, "beta_slow": 0.5, "attention_factor": 1.5, "truncate": False},
        YaRN(3.0, 7, 11.0, 0.5, 1.5, False),
    ),
    (
        {**LONGROPE, "original_max_position_embeddings": 13},
        LongRoPE(*LONG.values(), 13, 17 / 13),
    ),
    (
        {**LONGROPE, "original_max_position_embeddings": 13, "factor": 7.0},
        LongRoPE(*LONG.values(), 13, 7.0),
    ),
    ({**LONGROPE, "factor": 7.0}, LongRoPE(*LONG.values(), 17, 7.0)),
    (
        {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0},
        GivenFrequencies((0.5, 500.0 ** -(2 / 8) / 2, 0.0, 0.0)),
    ),
]


@pytest.mark.parametrize("n", [11, 23])
@pytest.mark.parametrize(("rules", "scaling"), ROPES)
def test_every_scaling(rules, scaling, n):
    """Below and above the trained length."""
    rules = {"rope_theta": 500.0, **rules}
    model = tiny("llama", rope_parameters=rules, max_position_embeddings=17)
    ids = torch.randint(3, 101, (1, n), generator=torch.Generator().manual_seed(0))
    found = parity(model, {"input_ids": ids})
    assert found.holds, found
    position = from_hf(model, 0).position
    assert (position.theta, position.scaling) == (500.0, scaling)


def test_unknown_scaling():
    model = tiny("llama")
    model.config.rope_parameters = {"rope_type": "spiral", "rope_theta": 500.0}
    with pytest.raises(ArgumentError, match=r"(?s)positions by 'spiral'.*default, linear, dyn"):
        from_hf(model, 0)


def test_partial_rotation():
    layer = from_hf(tiny("gpt_neox"), 0)
    assert (layer.position.d, layer.d_k) == (4, 8)
    assert from_hf(tiny("llama"), 0).position.d is None


def test_one_rope_a_kind_of_layer():
    plain = {"rope_type": "default"}
    rules = {
        "full_attention": {**plain, "rope_theta": 70.0},
        "sliding_attention": {**plain, "rope_theta": 30.0},
    }
    model = tiny("gemma3_text", rope_parameters=rules)
    assert [from_hf(model, i).position for i in range(3)] == [RoPE(70), RoPE(30), RoPE(70)]


def test_scale_and_dropout_are_what_the_module_states():
    model = tiny("llama", attention_dropout=0.25)
    assert from_hf(model, 0).dropout == 0.25
    for layer in model.layers:
        layer.self_attn.scaling = 0.7
    assert from_hf(model, 0).scale == 0.7
    assert parity(model).holds
    assert from_hf(tiny("gpt2", attn_pdrop=0.15), 0).dropout == 0.15  # a module there
    assert from_hf(tiny("t5"), 0).dropout == 0.3
    assert from_hf(tiny("vit"), 0).dropout == 0.2


def test_kinds_of_layers():
    assert type(from_hf(tiny("deepseek_v2"), 1)) is LatentAttention
    layer = from_hf(tiny("diffllama"), 1)
    assert type(layer) is DifferentialAttention
    assert (layer.n_head, layer.n_kv_head, layer.d_k, layer.d_v) == (3, 1, 8, 16)


# Whose tensors they are


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "gpt_neox", "phi3"])
def test_matrices_are_shared_or_cut_out(kind):
    model = tiny(kind)
    ours, theirs = from_hf(model, 1), matrices(model, 1)
    packed = theirs["WQ"] is theirs["WV"]
    assert packed == (kind in ("gpt2", "gpt_neox", "phi3"))
    assert (ours.WQ.weight is theirs["WQ"].weight) == (not packed)
    assert (ours.WO.weight is theirs["WO"].weight) == (kind != "gpt2")
    for tensor in ours.parameters():
        assert tensor.is_leaf and tensor.requires_grad


def test_training_reaches_the_model():
    model = tiny("t5")
    table = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    layer = from_hf(model, 2)
    assert layer.position.table is table is layer.get_parameter("position_0")
    layer(torch.randn(1, 5, 48)).sum().backward()
    assert table.grad.abs().sum() > 0
    assert model.decoder.block[2].layer[0].SelfAttention.q.weight.grad.abs().sum() > 0


def test_training_mode_is_the_models():
    assert not from_hf(tiny("bert"), 0).training
    assert from_hf(tiny("bert").train(), 0).training


def test_sizes_and_a_head_on_top():
    model = tiny("gpt2", "LMHeadModel")
    assert matrices(model, 2)["WO"] is model.transformer.h[2].attn.c_proj
    assert sizes(model) == {"n_layer": 3, "n_head": 6, "n_kv_head": 6, "d_model": 48, "d_k": 8}
    assert sizes(tiny("llama"))["n_kv_head"] == 2


# Modules that are more than their weights


class Adapted(nn.Module):
    """A module with something beside it, and the numbers of the bare one in plain sight."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_layer, name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.5 * self.base_layer(x)


def put(model: nn.Module, path: str) -> None:
    model.set_submodule(path, Adapted(model.get_submodule(path)))


MORE = {
    "an adapter": put,
    "a hook": lambda model, path: model.get_submodule(path).register_forward_hook(
        lambda module, _, y: 1.5 * y
    ),
    "a hook before": lambda model, path: model.get_submodule(path).register_forward_pre_hook(
        lambda module, given: (1.5 * given[0],)
    ),
    "pruned": lambda model, path: prune.random_unstructured(
        model.get_submodule(path), "weight", 0.5
    ),
}


@pytest.mark.parametrize("what", MORE)
@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("llama", "layers.1.self_attn.q_proj", "WQ"),
        ("llama", "layers.1.self_attn.o_proj", "WO"),
        ("bert", "encoder.layer.1.attention.self.value", "WV"),
        ("t5", "decoder.block.1.layer.0.SelfAttention.k", "WK"),
        ("gpt2", "h.1.attn.c_proj", "WO"),
        ("gemma3_text", "layers.1.self_attn.v_proj", "WV"),
    ],
)
def test_a_projection_that_is_more_than_its_weight_is_kept(what, kind, path, name):
    model = tiny(kind)
    MORE[what](model, path)
    layer = from_hf(model, 1)
    assert getattr(layer, name) is model.get_submodule(path)
    assert type(getattr(from_hf(model, 0), name)) is nn.Linear
    assert parity(model).holds
    assert layer(torch.randn(1, 5, 48)).shape == (1, 5, 48)


@pytest.mark.parametrize("what", MORE)
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("gpt2", "h.1.attn.c_attn"),
        ("phi3", "layers.1.self_attn.qkv_proj"),
        ("deepseek_v2", "layers.1.self_attn.kv_a_layernorm"),
        ("deepseek_v2", "layers.1.self_attn.kv_b_proj"),
        ("diffllama", "layers.1.self_attn.v_proj"),
        ("gemma3_text", "layers.1.self_attn.k_norm"),
    ],
)
def test_what_would_be_copied_is_refused_by_name(what, kind, path):
    model = tiny(kind)
    MORE[what](model, path)
    has = {
        "an adapter": r"the part base_layer, the class .*\.Adapted",
        "a hook": "_forward_hooks",
        "a hook before": "_forward_pre_hooks",
        "pruned": "_forward_pre_hooks",
    }[what]
    with pytest.raises(ArgumentError, match=f"(?s)computes more than its weight says.*has {has}"):
        from_hf(model, 1)
    from_hf(model, 0)


def test_a_module_whose_size_cannot_be_known():
    model = tiny("llama")
    model.layers[1].self_attn.q_proj = nn.Sequential(nn.Linear(48, 48))
    with pytest.raises(ArgumentError, match=r"`layers\.1\.self_attn\.q_proj` .* has the part 0"):
        from_hf(model, 1)


def test_a_model_inside_what_adapts_it():
    class Outside(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.base_model = model

    model = tiny("llama", "ForCausalLM")
    found = from_hf(Outside(Outside(model)), 1)
    assert found.WQ.weight is model.model.layers[1].self_attn.q_proj.weight


def test_what_is_shown_needs_plain_matrices():
    model = tiny("llama")
    check_plain(from_hf(model, 1))
    put(model, "layers.1.self_attn.v_proj")
    with pytest.raises(ArgumentError, match=r"(?s)`WV` computes more.*Adapted\.\nMerge an adapter"):
        check_plain(from_hf(model, 1))
    layer = LatentAttention(48, 2, rank=4, d_rope=2, q_rank=5)
    check_plain(layer)
    layer.WQ[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ArgumentError, match=r"`WQ\.1` computes .* has _forward_hooks"):
        check_plain(layer)


# Parts


def test_parts_of_an_encoder_with_a_decoder():
    model = tiny("t5")
    assert list(stacks(model)) == ["decoder", "encoder", "cross"]
    assert from_hf(model, 1).mask == from_hf(model, 1, part="decoder").mask == Causal()
    encoder, cross = from_hf(model, 1, part="encoder"), from_hf(model, 1, part="cross")
    assert isinstance(encoder.position, T5Bias) and encoder.position.bidirectional
    assert cross.position is None
    assert cross.WK is not from_hf(model, 1).WK
    assert cross(torch.randn(2, 5, 48), torch.randn(2, 7, 48)).shape == (2, 5, 48)


def test_models_inside_a_model():
    model = tiny("clip")
    assert list(stacks(model)) == ["text_model", "vision_model"]
    layer = from_hf(model, 2, part="vision_model")
    assert layer.mask == Full()
    assert layer.WQ.weight is model.vision_model.encoder.layers[2].self_attn.q_proj.weight
    assert from_hf(model.vision_model, 2).WQ.weight is layer.WQ.weight
    with pytest.raises(
        ArgumentError, match=r"(?s)Which part is meant\? .* text_model, vision_model"
    ):
        from_hf(model, 2)


def test_the_only_part_needs_no_name():
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=IMAGE)
    model = transformers.SiglipModel(config)  # whose text tower has no row
    assert list(stacks(model)) == ["vision_model"]
    assert from_hf(model, 2).WQ is not from_hf(model, 1).WQ
    model = transformers.T5EncoderModel(transformers.T5Config(**CONFIGS["t5"]))
    assert list(stacks(model)) == ["encoder"]
    assert from_hf(model, 2).mask == Full()


# Errors


@pytest.mark.parametrize(
    ("kind", "near"), [("gpt_bigcode", "gpt"), ("roformer", "roberta"), ("qwen4", "qwen3")]
)
def test_unknown_family(kind, near):
    model = nn.Linear(2, 3)
    model.config = type("Config", (), {"model_type": kind})()
    with pytest.raises(ArgumentError, match=rf"(?s)family '{kind}' yet.*rows are: .*{near}"):
        from_hf(model, 0)


def test_a_module_that_is_no_model():
    with pytest.raises(ArgumentError, match=r"(?s)^Linear is no model of transformers.*watch\(mod"):
        from_hf(nn.Linear(2, 3), 0)
    model = nn.Linear(2, 3)
    model.config = SimpleNamespace(model_type="0")
    with pytest.raises(ArgumentError, match=f"(?s)'0' yet.*rows are: {', '.join(FAMILIES)}"):
        from_hf(model, 0)


@pytest.mark.parametrize("layer", [3, -1])
def test_layer_out_of_range(layer):
    with pytest.raises(ArgumentError, match=f"no layer {layer}: the model has 3 layers, 0 to 2"):
        from_hf(tiny("bert"), layer)


@pytest.mark.parametrize("layer", ["1", 1.0, True])
def test_layer_that_is_no_number(layer):
    says = f"`layer` is an int, not {type(layer).__name__} {layer!r}"
    with pytest.raises(KindError, match=says):
        from_hf(tiny("bert"), layer)


def test_model_that_is_no_module():
    with pytest.raises(
        KindError, match=r"`model` is an nn.Module, not str 'bert'\.\nPass the model itself, such"
    ):
        from_hf("bert", 0)


def test_unknown_part():
    with pytest.raises(ArgumentError, match=r"(?s)no part 'cross': .* has encoder\.\nPass part"):
        from_hf(tiny("bert"), 0, part="cross")


def test_layers_that_are_not_ours():
    says = r"Layer 1, which the configuration calls 'linear_attention', has no WQ of its own at 'l"
    with pytest.raises(ArgumentError, match=says):
        from_hf(tiny("qwen3_next"), 1)
    with pytest.raises(ArgumentError, match=r"Layer 2.* has no WK of its own at 'layers.2.self_"):
        from_hf(tiny("gemma3n_text"), 2)


def test_a_model_without_a_list_of_blocks():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.Linear(2, 3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.only, self.layers = Layer(), nn.ModuleList([Layer(), Layer()])

    assert block_path(Net(), "layers.1.attention") == "layers.1"
    with pytest.raises(ArgumentError, match=r"Net are no list .*: 'only.attention' stands"):
        block_path(Net(), "only.attention")
