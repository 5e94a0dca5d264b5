"""What docs/ prints is what its code prints now: the page and the notebook of what matters."""

import re
from pathlib import Path

import pytest

from tests.notebooks import cells, run, stored

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


def test_the_notebook(opened):
    expected = [stored(cell) for cell in cells(NOTEBOOK)]
    assert len(expected) == 9 and any("-11.34" in text for text in expected)
    for printed, text in zip(run(NOTEBOOK), expected, strict=True):
        assert like(printed, text)
