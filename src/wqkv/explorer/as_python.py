"""The lines of Python that give what the page shows: its button "Copy as Python"."""

from __future__ import annotations

from wqkv.study.model import TextModel

#: A text of up to so many characters stands in the lines; a longer one is read from a file.
SPELLED = 2000


def opening(model: TextModel, source: str | None) -> str:
    """The lines that open `model`; `source` is what it was opened by, None by default."""
    name = "" if source is None else repr(source)
    return f"import wqkv\nmodel = wqkv.{model.opener}({name})"


def reading(text: str, target: str | None = None) -> str:
    """The lines that read `text` with `model`, as `views` by the names of its attentions.

    Args:
        target: what a model of two texts was told to write; None lets it write.
    """
    if target is None:
        return f"{_spelled('text', text)}\nviews = model.views(text)"
    given = f"{_spelled('text', text)}\n{_spelled('target', target)}"
    return f"{given}\nviews = model.views(text, target)"


def _spelled(name: str, text: str) -> str:
    """The line of Python that has a text."""
    if len(text) <= SPELLED:
        return f"{name} = {text!r}"
    what = f"  # the {len(text):,} characters that were opened"
    return f'from pathlib import Path\n{name} = Path("{name}.txt").read_text("utf-8"){what}'
