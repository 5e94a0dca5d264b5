"""The Python of both READMEs runs, as it stands."""

import re
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import wqkv

transformers = pytest.importorskip("transformers", reason="the READMEs open a transformers model")

ROOT = Path(__file__).parents[2]


def blocks(readme):
    return re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL)


def run(page, count, given):
    """Run the blocks of a page, one after the other, with and into what is given."""
    found = blocks(page)
    assert len(found) == count
    for block in found:
        exec(block, given)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What the blocks take as there: a model of four layers, what it reads, one rank."""
    monkeypatch.chdir(tmp_path)  # they write a file
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=29, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    model = transformers.LlamaModel(config).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield {
        "model": model,
        "inputs": {"input_ids": torch.arange(13)[None]},
        "torch_model": nn.Transformer(12, 2, 1, 1, 17, batch_first=True),
        "mask": wqkv.Causal(),
        "mesh": init_device_mesh("cpu", (1,)),
        "path/to/checkpoint": str(tmp_path / "checkpoint"),
    }
    dist.destroy_process_group()


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_python_runs(readme, given, capsys):
    found = blocks(readme)
    assert len(found) == 5
    for block in found:  # as printed: with gradients on
        exec(block.replace("path/to/checkpoint", given["path/to/checkpoint"]), given)
    shown = capsys.readouterr().out
    assert "engine: tiled" in shown and "captured 4 of 4 layers" in shown
    assert given["y"].shape == (2, 1, 512)  # the last one, of a cache


def test_the_python_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {}
    run("docs/configuration.md", 4, given)
    assert given["again"].to_dict() == given["mask"].to_dict()
    assert given["twin"].to_dict() == given["form"]
    assert given["model"].attend.mask.to_dict() == given["mask"].to_dict()
    assert given["mine"].mask == wqkv.Causal()


def test_both_languages_have_the_same_python():
    english, chinese = (
        [re.sub(r"\s*#.*", "", block) for block in blocks(readme)]
        for readme in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese


def test_the_python_of_the_page_on_any_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {}
    run("docs/any-model.md", 2, given)
    report = given["seen"].report()
    assert report.startswith("captured 2 of 2 layers of TransformerEncoder")
    assert given["again"].report() == report


def test_the_python_of_the_page_on_what_was_looked_at():
    class Words:
        """A tokenizer of three words."""

        def decode(self, ids):
            return ("the", "cat", "sat")[ids[0]]

    config = transformers.LlamaConfig(
        vocab_size=3, hidden_size=24, intermediate_size=29, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    given = {
        "model": transformers.LlamaModel(config).eval(),
        "inputs": {"input_ids": torch.arange(3)[None]},
        "processor": Words(),
    }
    run("docs/looked-at.md", 2, given)
    assert repr(given["m"].keys) in "\n".join(blocks("docs/looked-at.md"))
    assert given["seen"][5].keys.labels == ("the", "cat", "sat")
