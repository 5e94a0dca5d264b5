"""One worker: which documents and which model it takes, and how it writes."""

import json
import re

import pytest

from wqkv.corpus import worker as module
from wqkv.corpus.documents import chunks
from wqkv.corpus.worker import Recipe, Worker, fingerprint, write_whole
from wqkv.errors import ArgumentError

pytest.importorskip("pyarrow", reason="the survey needs the extra `survey`")


def test_a_corpus_that_changes_meanwhile(name, opened, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "the lamp"}\n')
    recipe = Recipe(name, fingerprint(opened), "text", str(tmp_path))
    (chunk,) = chunks([path], key=recipe.key)
    path.write_text('{"text": "the sea."}\n')
    says = f"{path} changed while it was read.\nRun the command again."
    with pytest.raises(ArgumentError, match=re.escape(says)):
        Worker(recipe, opened).make(chunk)
    rows = Worker(recipe, opened)({"chunk": [json.dumps(chunk)]})
    assert rows == {"documents": [0], "tokens": [0], "error": [says]}


def test_another_model_under_the_same_name(name, opened, tmp_path):
    recipe = Recipe(name, "0" * 32, "text", str(tmp_path))
    says = f"its digest is {fingerprint(opened)} for a worker and {'0' * 32} for the command."
    with pytest.raises(ArgumentError, match=re.escape(says)):
        _ = Worker(recipe).reader


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_whole(path, b"one")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"another")
    assert path.read_bytes() == b"one"
