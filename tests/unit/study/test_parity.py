"""Parity: what holds, what exceeds, and what is told of a layer that was not compared."""

import pytest
import torch
from torch import nn

from wqkv import Full, LayerParity, MultiheadAttention, Parity, from_hf, parity
from wqkv.errors import ArgumentError
from wqkv.maps.proof import Proof

transformers = pytest.importorskip("transformers")
from tests.tiny import of_config  # noqa: E402

TEXT = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 13,
    "max_position_embeddings": 37,
}
SEQ2SEQ = {"d_model": 48, "d_kv": 10, "num_heads": 6, "num_layers": 2, "d_ff": 13}
SPEECH = {
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 3,
    "num_mel_bins": 5,
    "max_source_positions": 19,
    "max_target_positions": 23,
    "vocab_size": 101,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
SOUND = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
CONFIGS = {
    "bert": TEXT,
    "albert": {**TEXT, "embedding_size": 13},
    "llama": {**TEXT, "num_key_value_heads": 2},
    "mpt": {"d_model": 48, "n_heads": 6, "n_layers": 3, "max_seq_len": 21, "vocab_size": 101},
    "qwen3_next": {
        **TEXT,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 2,
        "num_experts_per_tok": 2,
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
    },
    "t5": {**SEQ2SEQ, "vocab_size": 101},
    "vit": {**TEXT, "image_size": 12, "patch_size": 4},
    "wav2vec2": {**TEXT, **SOUND, "num_conv_pos_embeddings": 16},
    "whisper": SPEECH,
}


def tiny(kind: str, name: str = "Model", dtype: torch.dtype = torch.float32) -> nn.Module:
    config = transformers.CONFIG_MAPPING[kind](**CONFIGS[kind])
    config._experts_implementation = "eager"
    return of_config(config, name).to(dtype)


@pytest.mark.parametrize(
    ("kind", "layers", "read"),
    [
        ("bert", 3, "input_ids i64[1, 35] on cpu"),
        ("albert", 3, "input_ids i64[1, 35] on cpu"),
        ("llama", 3, "input_ids i64[1, 35] on cpu"),
        ("mpt", 3, "input_ids i64[1, 19] on cpu"),
        ("t5", 6, "input_ids i64[1, 64] on cpu, decoder_input_ids i64[1, 32] on cpu"),
        ("vit", 3, "pixel_values f32[1, 3, 12, 12] on cpu"),
        ("wav2vec2", 3, "input_values f32[1, 4000] on cpu"),
        ("whisper", 6, "input_features f32[1, 5, 38] on cpu, decoder_input_ids i64[1, 21] on cpu"),
    ],
)
def test_every_layer_is_compared(kind, layers, read):
    told = []
    found = parity(tiny(kind), progress=lambda done, total: told.append((done, total)))
    assert found.holds, found
    assert (found.family, found.inputs) == (kind, read)
    assert told == [(done, layers) for done in range(1, layers + 1)]
    assert [layer.verdict for layer in found.layers] == ["holds"] * layers
    for layer in found.layers:
        assert 0 <= layer.proof.difference <= layer.proof.tolerance < 1e-3 * layer.proof.size


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_wrong_layer_exceeds(dtype, monkeypatch):
    model = tiny("llama", dtype=dtype)
    assert parity(model).holds

    def wrong(model: nn.Module, layer: int, part: str) -> MultiheadAttention:
        made = from_hf(model, layer, part=part)
        made.mask = Full() if layer == 1 else made.mask
        return made

    with monkeypatch.context() as patched:
        patched.setattr("wqkv.study.parity.from_hf", wrong)
        found = parity(model)
    assert not found.holds
    assert [layer.verdict for layer in found.layers] == ["holds", "EXCEEDS", "holds"]
    nn.init.constant_(model.layers[2].self_attn.q_proj.weight, torch.nan)
    assert [layer.verdict for layer in parity(model).layers] == ["holds", "holds", "EXCEEDS"]


def test_what_the_model_is_called_with():
    ids = torch.randint(0, 101, (2, 7), generator=torch.Generator().manual_seed(0))
    found = parity(tiny("llama", "ForCausalLM"), {"input_ids": ids, "use_cache": False})
    assert found.holds
    assert found.inputs == "input_ids i64[2, 7] on cpu, use_cache bool False"
    assert {layer.proof.rows for layer in found.layers} == {14}


def test_no_hook_stays():
    model = tiny("bert")
    parity(model)
    with pytest.raises(ArgumentError, match=r"not run on input_ids \(IndexError: index out of r"):
        parity(model, {"input_ids": torch.tensor([[10**6]])})
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    assert not any(hooks)


# What is not compared says why


def test_a_layer_that_does_not_attend():
    found = parity(tiny("qwen3_next"))
    assert found.holds
    assert [layer.verdict for layer in found.layers] == ["holds", "not compared", "holds"]
    assert "'linear_attention', has no WQ" in found.layers[1].reason


def test_a_layer_that_is_not_called():
    model = tiny("llama")
    model.layers[2].forward = lambda x, *_, **__: x
    found = parity(model)
    assert found.layers[2] == LayerParity("decoder", 2, None, "the model did not call it")
    assert found.holds


def test_a_layer_that_ours_refuses(monkeypatch):
    def refuse(*_, **__):
        raise ArgumentError("It does not fit.\n  Q: 3")

    monkeypatch.setattr("wqkv.study.parity.from_hf", refuse)
    found = parity(tiny("bert"))
    assert {layer.reason for layer in found.layers} == {"It does not fit. Q: 3"}
    assert not found.holds  # nothing was compared


def visual() -> nn.Module:
    config = transformers.models.qwen2_vl.configuration_qwen2_vl.Qwen2VLVisionConfig(
        depth=2, embed_dim=48, hidden_size=24, num_heads=3, patch_size=4, temporal_patch_size=2
    )
    module = transformers.models.qwen2_vl.modeling_qwen2_vl
    return module.Qwen2VisionTransformerPretrainedModel._from_config(config).eval()


def test_samples_in_one_row():
    inputs = {"hidden_states": torch.randn(32, 96), "grid_thw": torch.tensor([[1, 4, 8]])}
    found = parity(visual(), inputs)
    assert {layer.reason for layer in found.layers} == {
        "it reads f32[32, 48] on cpu, samples in one row"
    }


# Errors


def test_a_model_in_training():
    with pytest.raises(ArgumentError, match=r"(?s)trains, so dropout.*model.eval\(\)"):
        parity(tiny("bert").train())


def test_padding():
    words = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.eye(2, 3)}
    with pytest.raises(ArgumentError, match=r"(?s)`inputs` has padding.*of one length"):
        parity(tiny("bert"), words)


def test_a_model_that_reads_something_else():
    with pytest.raises(ArgumentError, match=r"(?s)'qwen2_vl_vision' read is not known.*inputs\)`"):
        parity(visual())
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=TEXT, vision_config=CONFIGS["vit"])
    ).eval()
    model.config.vocab_size = 101
    says = r"(?s)does not run on random input_ids \([A-Za-z]+: .+\)\.\nPass `inputs`"
    with pytest.raises(ArgumentError, match=says):
        parity(model)


def test_an_unknown_family():
    with pytest.raises(ArgumentError, match="Linear is no model of transf"):
        parity(nn.Linear(2, 3))


# The table


def test_printed():
    layers = (
        LayerParity("decoder", 9, Proof(1.25e-7, 2.0, 3e-5, 5)),
        LayerParity("cross", 10, Proof(0.5, 2.0, 3e-5, 5)),
        LayerParity("cross", 11, None, "why"),
    )
    assert str(Parity("t5", "tokens", layers)).splitlines() == [
        "decoder   9  1.2e-07 of 3.0e-05 allowed  holds",
        "cross    10  5.0e-01 of 3.0e-05 allowed  EXCEEDS",
        "cross    11  not compared: why",
        "parity holds in 1 of 3 layers",
    ]
    assert str(Parity("t5", "tokens", ())) == "parity holds in 0 of 0 layers"
