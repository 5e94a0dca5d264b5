"""The stream of a token, beside what plain hooks find at the modules that a family is known by."""

import threading
import warnings

import pytest
import torch
from torch import nn
from transformers import AutoModel

from tests.tiny import READ, TARGET, text, tiny, tiny_bart, tiny_llama, tiny_t5
from wqkv.errors import ArgumentError
from wqkv.study import stream
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText

IDS = torch.randint(3, 60, (11,), generator=torch.Generator().manual_seed(0)).tolist()
WORDS = TokenizedText.of_ids(IDS)
TOKEN = 7
#: The modules whose outputs attention and MLP add, by the path of a layer; a factor, if any.
FAMILIES = {
    "bert": ("encoder.layer.{}", "attention.output.dense", "output.dense", 1.0),
    "gpt2": ("h.{}", "attn.c_proj", "mlp.c_proj", 1.0),
    "llama": ("layers.{}", "self_attn.o_proj", "mlp.down_proj", 1.0),
    "gpt_neox": ("layers.{}", "attention.dense", "mlp.dense_4h_to_h", 1.0),
    "gemma2": ("layers.{}", "post_attention_layernorm", "post_feedforward_layernorm", 1.0),
    "granite": ("layers.{}", "self_attn.o_proj", "mlp.down_proj", 0.37),
    "mixtral": ("layers.{}", "self_attn.o_proj", "mlp", 1.0),
}
HALF = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
SMALL = {"num_key_value_heads": 3, "head_dim": 4}
MORE = {
    "gpt_neox": {"rope_parameters": HALF},
    "granite": {"residual_multiplier": 0.37, "num_key_value_heads": 3},
    "gemma2": SMALL,
    "mixtral": {**SMALL, "intermediate_size": 32},
}


def opened(name: str) -> OpenModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return OpenModel(tiny(name, "eager", kind=AutoModel, **MORE.get(name, {})), None, name)


def heard(model: nn.Module, paths: list[str]) -> list[torch.Tensor]:
    """What these modules return while the model runs, at TOKEN."""
    found: dict[str, torch.Tensor] = {}
    hooks = []
    for path in paths:

        def keep(module, args, out, path=path):
            found[path] = (
                (out[0] if isinstance(out, tuple) else out).detach().reshape(-1, 24)[TOKEN]
            )

        hooks.append(model.get_submodule(path).register_forward_hook(keep))
    with torch.no_grad():
        model(torch.tensor([IDS]))
    for hook in hooks:
        hook.remove()
    return [found[path] for path in paths]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_attention_and_mlp_add(name):
    model = opened(name)
    found = model.view(WORDS).stream(TOKEN)
    at, attention, mlp, factor = FAMILIES[name]
    for number, layer in enumerate(found.layers):
        here = at.format(number)
        paths = [f"{here}.{attention}", f"{here}.{mlp}", here]
        of_attention, of_mlp, state = heard(model.model, paths)
        assert layer.attention == pytest.approx(factor * float(of_attention.norm()), rel=1e-6)
        assert layer.mlp == pytest.approx(factor * float(of_mlp.norm()), rel=1e-6)
        assert layer.state == pytest.approx(float(state.norm()), rel=1e-6)
        assert torch.equal(found.states[number + 1], state)
        assert layer.cross is None and layer.cross_heads == ()
        assert layer.proof.holds and layer.proof.rows == 11
        before = found.states[number]
        assert layer.added == pytest.approx(float((state - before).norm()), rel=1e-5)
        if name not in ("bert", "gpt_neox"):
            whole = before + factor * (of_attention + of_mlp)
            torch.testing.assert_close(whole, state, rtol=1e-5, atol=1e-5)
    assert found.norm_after == (name == "bert")
    assert found.embedding == pytest.approx(float(found.states[0].norm()), rel=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_heads(name):
    view = opened(name).view(WORDS)
    for number, layer in enumerate(view.stream(TOKEN).layers):
        rows = [view.row(number, head, TOKEN).output for head in range(6)]
        assert layer.heads == pytest.approx(rows, rel=1e-4)


DECODERS = {
    "t5": ("decoder.block.{}", "layer.0.SelfAttention.o", "layer.1.EncDecAttention.o",
           "layer.2.DenseReluDense.wo"),
    "bart": ("decoder.layers.{}", "self_attn.out_proj", "encoder_attn.out_proj", "fc2"),
}  # fmt: skip
ENCODERS = {
    "t5": ("encoder.block.{}", "layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
    "bart": ("encoder.layers.{}", "self_attn.out_proj", "fc2"),
}


@pytest.mark.parametrize(("name", "make"), [("t5", tiny_t5), ("bart", tiny_bart)])
def test_two_texts(name, make):
    model = make()
    views = model.views(READ, TARGET)
    lengths: dict[str, list[float]] = {}

    def keep(path):
        def hook(module, args, out):
            lengths.setdefault(path, []).append(float(out.reshape(-1, out.shape[-1])[4].norm()))

        return model.model.get_submodule(path).register_forward_hook(hook)

    for part, (at, *ends) in (("encoder", ENCODERS[name]), ("cross", DECODERS[name])):
        view = views[part]
        layers = range(view.model.sizes.n_layer)
        paths = [[f"{at.format(number)}.{end}" for end in ends] for number in layers]
        hooks = [keep(path) for of_layer in paths for path in of_layer]
        found = view.stream(4)
        for hook in hooks:
            hook.remove()
        for number, layer in enumerate(found.layers):
            added = [layer.attention, layer.cross, layer.mlp]
            told = [one for one in added if one is not None]
            assert told == pytest.approx([lengths[path][0] for path in paths[number]], rel=1e-6)
            assert layer.proof.holds and layer.proof.share < 0.5
            assert len(told) == len(ends)
            assert len(layer.cross_heads) == (view.model.sizes.n_head if part == "cross" else 0)
        assert found.norm_after == (name == "bart")
    with pytest.raises(
        ArgumentError, match=f"The view of the decoder does not .* tiny-{name} looks"
    ):
        views["decoder"].stream(4)


def test_one_run_and_no_more(monkeypatch):
    """A short text is known after one run; of a long one each token asks for its own."""
    model, runs = tiny_llama(), []
    view, long = model.view(text(13)), model.view(text(17))
    again = type(model).again

    def counted(self, reading):
        runs.append(len(reading.ids))
        again(self, reading)

    monkeypatch.setattr(type(model), "again", counted)
    before = view.bytes
    short = [view.stream(token) for token in range(view.n)]
    assert runs == [14]
    assert view.bytes == before + 14 * 4 * 66 * 4
    monkeypatch.setattr(stream, "KEPT_STATES", 700)
    found = [long.stream(token) for token in (5, 5, 7)]
    assert runs == [14, 18, 18]
    assert long._stream.rows == [0, 4, 7, 8, 13, 17]
    assert torch.equal(found[0].states, found[1].states)
    monkeypatch.undo()
    whole = model.view(text(17)).stream(7)
    for one, other in zip(found[2].layers, whole.layers, strict=True):
        assert one.heads == pytest.approx(other.heads, rel=1e-6)
        assert (one.attention, one.mlp) == pytest.approx((other.attention, other.mlp), rel=1e-6)
    assert [one.token for one in short] == list(range(14))


def test_what_is_no_part_of_the_model_is_seen():
    """A part that is changed behind the module's back does not add up, and is not told."""
    model = opened("llama")
    layer = model.model.layers[1]

    def add(module, args, out):
        return out + 0.01 * args[0]

    hook = layer.register_forward_hook(add)
    found = model.view(WORDS).stream(TOKEN)
    hook.remove()
    assert found.layers[0].proof.holds
    last = found.layers[1]
    assert (last.attention, last.cross, last.mlp, last.proof) == (None,) * 4
    assert last.added > 0 and len(last.heads) == 6


def test_a_factor_of_a_state_that_is_not_there():
    start, part = torch.randn(5, 24), torch.randn(5, 24)
    assert stream._scaled(start, [part], start + 0.22 * part) is not None
    assert stream._scaled(start, [part], start + 0.22 * part + 1e-5) is None
    assert stream._scaled(start, [part * 0], start + part) is None


def test_states_that_are_no_text():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = opened("albert")
        found = model.view(WORDS).stream(TOKEN)
        assert found.layers[0].mlp != found.layers[0].attention  # of a block in a block
        model = OpenModel(
            tiny("albert", kind=AutoModel, num_hidden_layers=4, num_hidden_groups=2,
                 inner_group_num=2), None, "albert in groups",
        )  # fmt: skip
    with pytest.raises(ArgumentError, match="albert in groups has 4 layers in 2 blocks"):
        model.view(WORDS).stream(TOKEN)


def test_another_thread_is_not_heard():
    model, ran = opened("llama"), []
    view = model.view(WORDS)
    own = model.again

    def meanwhile(reading):
        other = threading.Thread(target=lambda: ran.append(model.model(torch.tensor([IDS[:5]]))))
        other.start()
        other.join()
        own(reading)

    model.again = meanwhile
    assert view.stream(TOKEN).layers[1].proof.holds and len(ran) == 1


def test_no_such_token():
    view = tiny_llama().view(text(5))
    with pytest.raises(ArgumentError, match="There is no token 6: the text has 6 tokens"):
        view.stream(6)
