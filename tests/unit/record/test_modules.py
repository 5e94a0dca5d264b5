"""Which modules are attention, what they are made of, and what is said of those out of sight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from transformers import AutoModel, __version__

from tests.conformance.families import asking
from tests.tiny import missed, tiny, tokens
from wqkv import heads
from wqkv.errors import MissedError
from wqkv.record.watch import watch

OUTSIDE = "it does not use the attention interface"
COMPILED = "it runs compiled, out of sight"


@pytest.mark.parametrize("name", ["bloom", "deberta-v2", "gptj", "falcon"])
@pytest.mark.filterwarnings("ignore")
def test_outside_the_interface(name):
    """What no interface tells of is heard at its operators, by the name of its module."""
    others = {"rotary_dim": 4, "n_layer": 2, "n_head": 6, "n_embd": 24} if name == "gptj" else {}
    implementation = "sdpa" if name == "falcon" else "eager"
    model = tiny(name, implementation, AutoModel, **others)
    with torch.no_grad(), asking() as asked:
        model(tokens())
    if asked:
        pytest.skip(f"in transformers {__version__} {name} asks the interface")
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
        model.set_attn_implementation("eager")
        theirs = model(tokens(), output_attentions=True).attentions
    assert [layer.state for layer in seen.layers] == ["proved"] * 2, seen.report()
    for ours, weights in zip(seen, theirs, strict=True):
        assert torch.allclose(ours[:], weights, atol=2e-6)


def test_a_family_that_takes_its_function_from_the_table():
    """ALL_ATTENTION_FUNCTIONS[name] goes round the interface's own method."""
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as family

    config = family.Qwen2_5OmniDiTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, head_dim=8, emb_dim=10,
        mel_dim=6, num_embeds=11, enc_emb_dim=7, enc_dim=9, enc_channels=[8, 8, 8, 8, 24],
        enc_attention_channels=4, enc_se_channels=4, repeats=1, block_size=4,
    )  # fmt: skip
    model = family.Qwen2_5OmniToken2WavDiTModel._from_config(config, attn_implementation="sdpa")
    given = {
        "hidden_states": torch.randn(1, 7, 6),
        "condition_vector": torch.randn(1, 5, 6),
        "speaker_embedding": torch.randn(1, 7, 7),
        "quantized_code": torch.arange(7)[None],
        "time_step": torch.tensor(0.5),
    }
    with torch.no_grad(), watch(model.eval()) as seen:
        model(**given)
    assert [layer.state for layer in seen.layers] == ["proved"] * 2, seen.report()


def test_a_layer_that_goes_round_the_interface_later():
    """What was seen before is not shown for what came after."""
    model = tiny("llama")
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
        layer = model.model.layers[1].self_attn
        layer.forward = lambda hidden_states, **kwargs: (hidden_states, None)
        model(tokens())
    assert seen.report().startswith("captured 1 of 2")
    with pytest.raises(MissedError, match="no attention was heard in a later call of it"):
        seen[1]
    assert seen[0].shape == seen.runs(1)[0].shape == (2, 6, 7, 7)


# Compiled


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def its_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def both_layers(model):
    for number, layer in enumerate(model.model.layers):
        model.model.layers[number] = torch.compile(layer, backend="eager")
    return model


@pytest.mark.compile
@pytest.mark.parametrize("compiling", [whole, in_place, its_forward, both_layers])
def test_compiled(compiling):
    missed(compiling(tiny("llama")), COMPILED)


@pytest.mark.compile
@pytest.mark.parametrize("compiling", [whole, in_place, its_forward])
def test_one_layer_compiled(compiling):
    model = tiny("llama")
    model.model.layers[0] = compiling(model.model.layers[0])
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    assert seen.report().startswith("captured 1 of 2"), seen.report()
    states = {layer.name: (layer.state, layer.reason) for layer in seen.layers}
    assert states == {
        "model.layers.0.self_attn": ("missed", COMPILED),
        "model.layers.1.self_attn": ("proved", ""),
    }


# Quantized


class Int8(nn.Module):
    """A linear layer that holds bytes and no float weight, as bitsandbytes' does."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        largest = linear.weight.detach().abs().amax(dim=1, keepdim=True)
        self.register_buffer("scale", largest / 127)
        self.register_buffer("bytes", (linear.weight / self.scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.bytes * self.scale)


def by_hand(model):
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, Int8(module))
    return model


def by_torch(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("quantize", [by_hand, by_torch])
# torch says since 2.10 that it will drop it, and has it in 2.13
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
def test_quantized(quantize):
    model, ids = quantize(tiny("llama")), tokens(7, 1)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    with torch.no_grad():
        plain = model(ids)[0]
        with watch(model) as seen:
            assert torch.equal(model(ids)[0], plain)
    assert seen.report().startswith("captured 2 of 2"), seen.report()
    assert heads(list(seen), ids[0].tolist()).size == "2 layers x 6 heads"
