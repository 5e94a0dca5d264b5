"""The lines of Python that give what the page shows: its button "Copy as Python"."""

from __future__ import annotations

from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair

#: A text of up to so many characters is spelled out in the lines; a longer one is read from a file.
SPELLED = 2000


def opening(model: OpenModel | OpenPair, source: str | None) -> str:
    """The lines that open `model`; `source` is what it was opened by, None by default."""
    name = "" if source is None else repr(source)
    if isinstance(model, OpenPair):
        return f"from wqkv.study.pair import open_pair\nmodel = open_pair({name})"
    return f"import wqkv\nmodel = wqkv.open_model({name})"


def reading(model: OpenModel | OpenPair, text: str, target: str | None = None) -> str:
    """The lines that read `text` with `model`: as `view`, or as `views` of a model of two texts.

    Args:
        target: what a model of two texts was told to write; None lets it write.
    """
    if not isinstance(model, OpenPair):
        return f"{_spelled('text', text)}\nview = wqkv.View.read(model, text)"
    if target is None:
        return f"{_spelled('text', text)}\nviews = model.read(text)"
    given = f"{_spelled('text', text)}\n{_spelled('target', target)}"
    return f"{given}\nviews = model.read(text, target)"


def _spelled(name: str, text: str) -> str:
    """The line of Python that has a text."""
    if len(text) <= SPELLED:
        return f"{name} = {text!r}"
    what = f"  # the {len(text):,} characters that were opened"
    return f'from pathlib import Path\n{name} = Path("{name}.txt").read_text("utf-8"){what}'
