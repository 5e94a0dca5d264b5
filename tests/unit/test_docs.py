"""What docs/ prints is what its code prints now: the page and the notebook of what matters."""

import re
from pathlib import Path

import pytest

from tests.notebooks import cells, run, stored

ROOT = Path(__file__).parents[2]
PAGE, NOTEBOOK = ROOT / "docs/what-matters.md", ROOT / "docs/what-matters.ipynb"


@pytest.fixture
def opened(smollm, monkeypatch):
    """The trained model is opened once for all tests."""
    monkeypatch.setattr("wqkv.open_model", lambda folder: smollm)
    yield
    assert smollm.speaker.config._attn_implementation == "sdpa"
    smollm.speaker.zero_grad()


def test_the_page(opened, capsys):
    text = PAGE.read_text("utf-8")
    found = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)
    assert len(found) == 4
    given = {}
    for code, printed in found:
        exec(code, given)
        assert capsys.readouterr().out == printed


def test_the_notebook(opened):
    expected = [stored(cell) for cell in cells(NOTEBOOK)]
    assert len(expected) == 10 and any("true -11.34" in text for text in expected)
    assert run(NOTEBOOK) == expected
