"""Folders made to harm: none of their code runs, and nobody is asked whether it may."""

import builtins
import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers

from wqkv import cli
from wqkv.corpus.worker import Recipe, Worker
from wqkv.errors import ArgumentError
from wqkv.layer.convert.checkpoint import load_attention
from wqkv.layer.convert.pretrained import configuration
from wqkv.study.loading import load_bare
from wqkv.study.model import open_model
from wqkv.study.opening import open_any

HARM = "import os; os.mkdir('harmed')\n"
CLASSES = (
    "from transformers import BertConfig, BertModel, BertTokenizer\n"
    "class Config(BertConfig): model_type = 'evil'\n"
    "class Model(BertModel): config_class = Config\n"
    "class Tokenizer(BertTokenizer): pass\n"
)


@pytest.fixture
def folder(weights, tmp_path, monkeypatch):
    """A copy of the model, and no answer to questions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "input", lambda *said: pytest.fail(f"it asks: {said}"))
    copy = tmp_path / "model"
    copy.mkdir()
    for path in weights.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, copy)
    (copy / "model.safetensors").symlink_to(weights / "model.safetensors")
    yield copy
    assert not Path("harmed").exists()


def change(folder, name, **changes):
    path = folder / name
    told = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(told | changes))


def bring(folder, **auto_map):
    (folder / "evil.py").write_text(HARM + CLASSES)
    change(folder, "config.json", model_type="evil", auto_map=auto_map)


OWN = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}


@pytest.mark.parametrize(
    "open_it",
    [
        open_model,
        load_bare,
        open_any,
        lambda name: load_attention(name, 0),
        lambda name: Worker(Recipe(name, "0" * 32, "text", "parts")).reader,
    ],
)
def test_a_family_of_its_own(folder, open_it):
    bring(folder, **OWN)
    says = r"model' brings Python of its own, which wqkv never runs\.\nPass a model of a family"
    with pytest.raises(ArgumentError, match=says):
        open_it(str(folder))


@pytest.mark.parametrize(
    "argv",
    [
        ["see", "The cat sat.", "--model"],
        ["open", "The cat sat.", "--no-browser", "--model"],
        ["open", "The cat sat.", "--export", "page.html", "--model"],
        ["heads", "--model"],
        ["parity"],
        ["survey", "--workers", "1", "--data", "model/config.json", "--out", "out"],
    ],
)
def test_every_command(folder, capsys, argv):
    bring(folder, **OWN)
    assert cli.main([*argv, "model"]) == 2
    says = "wqkv: 'model' brings Python of its own, which wqkv never runs. Pass a model of"
    assert capsys.readouterr().err.startswith(says)


def test_a_known_family_with_python_beside_it(folder, minilm):
    """It opens as transformers itself has it, whatever else the folder brings."""
    bring(folder, AutoConfig="evil.Config", AutoModel="other/place--evil.Model")
    change(folder, "config.json", model_type="bert")
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Tokenizer"]})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(HARM)
    opened = open_model(str(folder))
    assert type(opened.model) is transformers.BertModel
    assert opened.read("A cat.").ids == minilm.read("A cat.").ids


def test_a_tokenizer_of_its_own(folder):
    (folder / "evil.py").write_text(HARM + CLASSES)
    own = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}}
    change(folder, "tokenizer_config.json", **own)
    change(folder, "config.json", model_type="bitnet")  # which has no tokenizer
    with pytest.raises(ArgumentError, match="model' brings Python of its own"):
        open_model(str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_that_would_be_fetched(folder, minilm, monkeypatch, key):
    known = transformers.modeling_utils
    monkeypatch.setattr(known, "is_kernel", lambda name: "/" in (name or "") and pytest.fail(name))
    change(folder, "config.json", **{key: "someone/kernel"})
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config._attn_implementation == "someone/kernel"  # so it is read
    assert configuration("it", folder)._attn_implementation is None
    ours = open_model(str(folder)).read("A cat.")
    assert torch.equal(ours.final, minilm.read("A cat.").final)
    assert load_attention(folder, 3).d_k == 32


def test_an_adapter(folder):
    change(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="other/model")
    says = r"model' has an adapter_config.json, so its weights belong on .*\n.*merge_and_unload"
    for open_it in (open_model, load_bare, lambda name: load_attention(name, 0)):
        with pytest.raises(ArgumentError, match=says):
            open_it(str(folder))


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


def pickled(folder, name="pytorch_model.bin", **more):
    file = folder / "model.safetensors"
    tensors = transformers.AutoModel.from_pretrained(folder).state_dict()
    file.unlink()
    torch.save({**tensors, **more}, folder / name)


def test_pickles_are_read_if_they_are_named(folder, minilm):
    pickled(folder)
    says = r"pytorch_model.bin' is made of pickles, which can run programs.*\n.*name of this file"
    for open_it in (open_model, load_bare):
        with pytest.raises(ArgumentError, match=says):
            open_it(str(folder))
    opened = open_model(str(folder / "pytorch_model.bin"))
    assert opened.name == "model"
    assert torch.equal(opened.read("A cat.").final, minilm.read("A cat.").final)


def test_a_named_pickle_runs_nothing(folder):
    pickled(folder, evil=Evil())
    with pytest.raises(ArgumentError, match="bin' does not open as a model"):
        open_model(str(folder / "pytorch_model.bin"))


def test_an_index_that_leads_to_pickles(folder):
    pickled(folder, "one.bin")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "one.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArgumentError, match=r"leads to 'one.bin', which is not a file of its kind"):
        open_model(str(folder))
    index["weight_map"] = {"embeddings.word_embeddings.weight": "../one.bin"}
    named = folder / "pytorch_model.bin.index.json"
    named.write_text(json.dumps(index))
    with pytest.raises(ArgumentError, match=r"leads to '../one.bin', which is not a file of its"):
        open_model(str(named))


def test_names_that_are_no_names(folder, capsys):
    """Of a model, of tensors, of files: as they are shown."""
    named = folder.rename(folder.with_name("a\x1b]0;pwned\x07"))
    change(named, "config.json", model_type="\x1b[31mred")
    for argv in (["parity", str(named)], ["see", "A cat.", "--model", str(named)]):
        assert cli.main(argv) == 2
        err = capsys.readouterr().err
        assert r"a\x1b]0;pwned\x07" in err and not {"\x1b", "\x07"} & {*err}
    change(named, "config.json", model_type="bert")
    assert cli.main(["see", "A cat.", "--model", str(named)]) == 0
    out = capsys.readouterr().out
    assert r"a\x1b]0;pwned\x07, layer" in out and not {"\x1b", "\x07"} & {*out}
    assert cli.main(["see", "A cat.", "--json", "--model", str(named)]) == 0
    assert r'"model": "a\u001b]0;pwned\u0007"' in capsys.readouterr().out


def test_a_hub_name_is_opened_in_the_same_way(folder, monkeypatch):
    asked = {}

    def local(kind):
        make = getattr(transformers, kind).from_pretrained

        def from_pretrained(where, **rest):
            asked[kind] = (rest["trust_remote_code"], rest.get("use_safetensors"))
            return make(str(folder), **rest)

        monkeypatch.setattr(getattr(transformers, kind), "from_pretrained", from_pretrained)

    for kind in ("AutoTokenizer", "AutoConfig", "AutoModel"):
        local(kind)
    monkeypatch.setattr(transformers.utils, "find_adapter_config_file", lambda where, **rest: None)
    info = huggingface_hub.ModelInfo(id="some/model")
    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, timeout: info)
    assert open_model("some/model").name == "some/model"
    assert asked == {
        "AutoTokenizer": (False, None),
        "AutoConfig": (False, None),
        "AutoModel": (False, True),
    }
