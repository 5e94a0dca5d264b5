"""A recording out of a file answers every question as the Seen did that was saved."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from transformers import AutoModelForSeq2SeqLM

from tests.tiny import SEQ2SEQ, generate, loss, padded, tiny, tokens
from tests.unit.record.test_listen import in_threads
from tests.unit.record.test_run import Attends
from tests.unit.record.test_seen_effects import FAMILIES
from wqkv import AttentionMap, Seen, load_recording, watch
from wqkv.errors import ArgumentError, KindError, MissedError, MissingExtraError

STATISTICS = {
    "lse": lambda m: m.lse,
    "entropy": lambda m: m.entropy(),
    "received": lambda m: m.received(),
    "effective": lambda m: m.effective(),
    "mean_distance": lambda m: m.mean_distance(),
    "largest": lambda m: m.largest(),
    "thumbnail": lambda m: m.thumbnail(3),
    "top": lambda m: m.top(3).weights,
    "mass": lambda m: m.mass([0]),
    "coverage": lambda m: m.coverage(0.9).most,
    "tile": lambda m: m[:],
    "row": lambda m: m[0, -1, -1],
    "at": lambda m: m.at([-1, 0], [0, -1]),
}


def same_maps(ours, theirs) -> None:
    """Bit for bit, and in what they say of themselves."""
    assert type(ours) is type(theirs)
    assert (repr(ours), ours.shape) == (repr(theirs), theirs.shape)
    asked = STATISTICS if isinstance(ours, AttentionMap) else {"entropy", "received"}
    for name in asked:
        a, b = (STATISTICS[name](m) for m in (ours, theirs))
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(nan=-7.0), b.nan_to_num(nan=-7.0)), name


def same(seen: Seen, kept: Seen) -> None:
    assert isinstance(kept, Seen)
    assert (repr(kept), len(kept)) == (repr(seen), len(seen))
    assert (kept.report(), kept.layers, kept.thread) == (seen.report(), seen.layers, seen.thread)
    for layer, (state, theirs) in enumerate(zip(seen.layers, kept.layers, strict=True)):
        assert state == theirs
        if state.state in ("missed", "not asked for"):
            for one in (seen, kept):
                with pytest.raises(MissedError) as error:
                    one[layer]
                assert str(error.value) == f"There is no map of {state.name}: {state.reason}."
        else:
            same_maps(seen[layer], kept[layer])
        for a, b in zip(seen.runs(layer), kept.runs(layer), strict=True):
            same_maps(a, b)
    for name in ("encoder", "decoder", "cross"):
        assert len(getattr(seen, name)) == len(getattr(kept, name))
    assert [repr(m) for m in kept] == [repr(m) for m in seen]
    assert [repr(m) for m in kept[1:]] == [repr(m) for m in seen[1:]]
    assert kept._repr_html_() == seen._repr_html_()


def saved(seen: Seen, path, **given) -> Seen:
    seen.save(path, **given)
    return load_recording(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "seen.safetensors"


# Every question


@pytest.mark.parametrize(
    ("family", "implementation"),
    [*((name, "sdpa") for name in ("llama", "mistral", "gpt2")), ("gpt2", "eager"),
     ("gemma2", "eager"), ("gpt_oss", "eager")],
)  # fmt: skip
def test_families(family, implementation, path):
    model = tiny(family, implementation, **FAMILIES.get(family, {"sliding_window": 4}))
    if family == "gpt_oss":
        model.set_experts_implementation("eager")  # the others take no tensors as small as these
    with torch.no_grad(), watch(model) as seen:
        model(tokens(), attention_mask=padded(7, 2, 1))
    assert not any(layer.reason for layer in seen.layers)
    same(seen, saved(seen, path))


def test_encoder_and_decoder(path):
    model = tiny("t5", "eager", AutoModelForSeq2SeqLM, **SEQ2SEQ, dropout_rate=0.0)
    ids = tokens(11)
    with torch.no_grad(), watch(model) as seen:
        text = model.generate(ids, max_new_tokens=5, num_beams=3, do_sample=False)
    kept = saved(seen, path)
    same(seen, kept)
    assert (len(kept.encoder), len(kept.decoder), len(kept.cross)) == (2, 2, 2)
    same_maps(seen.cross[1], kept.cross[1])
    assert [kept.sample_of(one) for one in text] == [seen.sample_of(one) for one in text]


def test_the_same_text_of_two_sources(path):
    model = tiny("bart", "sdpa", AutoModelForSeq2SeqLM, **SEQ2SEQ)
    ids, text = tokens(11), tokens(5, 1).expand(2, -1)
    with torch.no_grad(), watch(model) as seen:
        model(input_ids=ids, decoder_input_ids=text)
    for one in (seen, saved(seen, path)):
        with pytest.raises(MissedError, match=r"Samples \[0, 1\] hold this text, and do not read"):
            one.sample_of(text[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_stay(dtype, path):
    model = tiny("llama").to(dtype)
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    kept = saved(seen, path)
    same(seen, kept)
    assert kept[0]._numbers.given.query.dtype == dtype


def test_a_generation_and_its_token_ids(path):
    text, seen = generate(tiny("llama"), tokens(7, 1), num_beams=3)
    kept = saved(seen, path)
    same(seen, kept)
    assert kept.sample_of(text[0]) == seen.sample_of(text[0])
    with pytest.raises(MissedError, match="None of the 3 samples holds these 7 tokens"):
        kept.sample_of([2, 2, 2, 2, 2, 2, 2])


def test_several_runs_and_layers_that_were_not_asked_for(path):
    model = tiny("llama")
    with torch.no_grad(), watch(model, layers=[1, 40]) as seen:
        model(tokens(5))
        model(tokens(7))
    kept = saved(seen, path)
    same(seen, kept)
    assert [m.shape[3] for m in kept.runs(1)] == [5, 7]
    assert kept.layers[0].state == "not asked for"
    with pytest.raises(IndexError, match="There is no layer 2: 2 ran"):
        kept[2]


def test_missed_layers_are_saved_as_missed(path):
    model, ids = tiny("llama"), tokens()
    with torch.no_grad(), watch(model) as seen:
        model(ids)
        model.model.layers[1].self_attn.forward = lambda *args, **kwargs: (
            torch.zeros(*ids.shape, 24),
            None,
        )
        model(ids)
    assert seen.layers[1].state == "missed"
    kept = saved(seen, path)
    same(seen, kept)
    assert len(kept.runs(1)) == 1


def test_documents_and_a_mask_without_a_pattern(path):
    place = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    with torch.no_grad(), watch(tiny("llama")) as seen:
        seen._watched.model(tokens(11, 1), position_ids=place, use_cache=False)
    assert "Segments" in seen.report()
    same(seen, saved(seen, path))
    holes = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(3)) > 0.7  # empty rows
    with torch.no_grad(), watch(tiny("llama")) as seen:
        seen._watched.model(tokens(7, 1), attention_mask=holes)
    assert "Dense" in seen.report()
    same(seen, saved(seen, path))


class Own(nn.Module):
    """Attention as a user writes it: plain, or with heads that are mixed before the softmax."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.WQKV, self.WO = nn.Linear(24, 72), nn.Linear(24, 24)
        self.mix = nn.Parameter(torch.randn(3, 3)) if mixes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (y.unflatten(2, (3, 8)).transpose(1, 2) for y in self.WQKV(x).split(24, dim=2))
        score = (q @ k.mT) * 8**-0.5
        if self.mix is not None:
            score = torch.einsum("bhij,hg->bgij", score, self.mix)
        hidden = torch.ones(score.shape[2:], dtype=torch.bool).triu(1)
        P = score.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        return self.WO((P @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("mixes", [False, True])
def test_a_model_of_torch_alone(path, mixes):
    torch.manual_seed(0)
    model = nn.Sequential(Own(mixes), Own(False))
    with torch.no_grad(), watch(model) as seen:
        model(torch.randn(2, 7, 24))
    assert [one.state for one in seen.layers] == ["captured" if mixes else "proved", "proved"]
    same(seen, saved(seen, path))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_padding_on_the_fast_path_of_an_encoder(path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 29, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    with torch.no_grad(), watch(model) as seen:
        model(torch.randn(2, 7, 24), src_key_padding_mask=padded(7, right=2) == 0)
    assert "Lengths([7, 5])" in seen.report()
    same(seen, saved(seen, path))


def test_a_tensor_that_was_changed_since_it_was_recorded(path):
    model, x = nn.ModuleDict({"a": Attends(), "b": Attends()}), torch.randn(2, 3, 5, 8)
    model.forward = lambda x: model["b"](model["a"](x, torch.zeros(5, 5)), torch.zeros(5, 5))
    with torch.no_grad(), watch(model) as seen:
        model(x)
    assert seen[1].shape == (2, 3, 5, 5)
    model["b"].k.mul_(2)
    model["b"].q.mul_(2)
    says = r"Layer 1, b, cannot be saved\.\nA tensor that this map is made of was changed in place"
    with pytest.raises(ArgumentError, match=says):
        seen.save(path)
    assert not path.exists()


def test_statistics(path):
    model = tiny("llama")
    with torch.no_grad(), watch(model, keep="statistics") as seen:
        model(tokens(), attention_mask=padded(7, 2))
        model(tokens())
    kept = saved(seen, path)
    same(seen, kept)
    with pytest.raises(MissedError, match="q and k were not kept, so there is no `thumbnail`"):
        kept[0].thumbnail(3)


def test_nothing_ran(path):
    with watch(tiny("llama")) as seen:
        pass
    same(seen, saved(seen, path))


def test_threads(path):
    model = tiny("llama")
    with torch.no_grad(), watch(model) as seen:
        in_threads(2, lambda number: model(tokens(5 + number)))
    kept = saved(seen, path)
    assert kept.report() == seen.report()
    assert [one.thread for one in kept.threads] == [one.thread for one in seen.threads]
    for one, theirs in zip(seen.threads, kept.threads, strict=True):
        same(one, theirs)
    with pytest.raises(MissedError, match="2 other threads ran LlamaForCausalLM: number "):
        kept[0]
    same(seen.threads[1], saved(seen.threads[1], path))


def test_it_can_be_drawn(path):
    pytest.importorskip("matplotlib")
    with torch.no_grad(), watch(tiny("llama")) as seen:
        seen._watched.model(tokens())
    figures = [one.plot() for one in (seen, saved(seen, path))]
    ours, theirs = (
        [image.get_array() for axes in figure.axes for image in axes.images] for figure in figures
    )
    assert len(ours) == 2
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


def test_a_recording_can_be_saved_again_where_it_is(path):
    with torch.no_grad(), watch(tiny("llama"), gradients=True) as seen:
        seen._watched.model(tokens())
    kept = saved(seen, path, values=True)
    before = path.read_bytes()
    kept.save(path, values=True)
    assert path.read_bytes() == before
    kept.save(path)
    assert path.stat().st_size < len(before)
    same(seen, kept)  # it still reads the file that was there
    same(seen, load_recording(path))


# v, and what needs the model


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_effects(family, path):
    model = tiny(family, "eager", **FAMILIES[family])
    with watch(model, gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    kept = saved(seen, path, values=True)
    same(seen, kept)
    for how in ("renormalize", "zero"):
        ours, theirs = seen.effects(how), kept.effects(how)
        assert repr(ours) == repr(theirs)
        assert torch.equal(ours[1][:].nan_to_num(), theirs[1][:].nan_to_num())
        assert ours.top(5) == theirs.top(5)


def test_effects_of_runs_without_gradients(path):
    model = tiny("llama")
    with torch.no_grad(), watch(model, gradients=True) as seen:
        model(tokens())
    kept = saved(seen, path, values=True)
    for one in (seen, kept):
        with pytest.raises(MissedError, match=r"no effects of model\.layers\.0\.self_attn: it ran"):
            one.effects()[0]


def test_what_was_not_kept(path):
    model = tiny("llama")
    with watch(model, gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    kept = saved(seen, path)
    says = "The gradients of LlamaForCausalLM were not kept.\nWatch it with gradients=True; to have"
    with pytest.raises(MissedError, match=says):
        kept.effects()
    with pytest.raises(MissedError, match="What stands behind the heads of LlamaForCausalLM was"):
        kept.writes(0)
    assert seen.writes(0).total  # which has it
    with torch.no_grad(), watch(model) as seen:
        model(tokens())
    says = "v of LlamaForCausalLM was not kept, and `values` is True.\nWatch it with gradients=True"
    with pytest.raises(MissedError, match=says):
        seen.save(path, values=True)
    same_maps(kept[0], load_recording(path)[0])  # the file that was there


# Loading


def test_it_cannot_be_entered(path):
    with torch.no_grad(), watch(tiny("llama")) as seen:
        seen._watched.model(tokens())
    with pytest.raises(ArgumentError, match="a recording of LlamaForCausalLM out of a file, which"):
        saved(seen, path).__enter__()


def test_a_device_that_is_not_there(path):
    with watch(tiny("llama")) as seen:
        pass
    seen.save(path)
    with pytest.raises(ArgumentError, match="`device` is 'cuda:99'"):
        load_recording(path, device="cuda:99")
    with pytest.raises(KindError, match="`path` is a string or a path, not int 3"):
        load_recording(3)


def test_without_safetensors(path, monkeypatch):
    with watch(tiny("llama")) as seen:
        pass
    monkeypatch.setitem(sys.modules, "safetensors", None)
    says = r"A recording in a file needs the package `safetensors`: .*\n.*pip install 'wqkv\[hf\]'"
    for ask in (lambda: seen.save(path), lambda: load_recording(path)):
        with pytest.raises(MissingExtraError, match=says):
            ask()


@pytest.mark.process
def test_torch_and_safetensors_are_enough(path):
    with torch.no_grad(), watch(tiny("llama")) as seen:
        seen._watched.model(tokens())
    seen.save(path)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('transformers', 'numpy')))\n"
        "import warnings; warnings.simplefilter('ignore')\n"  # torch misses numpy
        f"import wqkv; kept = wqkv.load_recording({str(path)!r})\n"
        "print(kept.report()); print(kept[1].top(1).weights.sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{seen.report()}\n{seen[1].top(1).weights.sum().item()}\n"
