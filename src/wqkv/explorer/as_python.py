"""The lines of Python that give what the page shows: its button "Copy as Python"."""

from __future__ import annotations

from wqkv.study.model import TextModel
from wqkv.study.windows import TextWindow

#: A text of up to so many characters stands in the lines; a longer one is read from a file.
SPELLED = 2000


def opening(model: TextModel, source: str | None) -> str:
    """The lines that open `model`; `source` is what it was opened by, None by default."""
    name = "" if source is None else repr(source)
    return f"import wqkv\nmodel = wqkv.{model.opener}({name})"


def reading(
    text: str,
    window: TextWindow | None,
    target: str | None = None,
    pair: str | None = None,
    picture: str | None = None,
) -> str:
    """The lines that read a window of `text` with `model`, as `views` by its attentions' names.

    Args:
        window: None where the text is the first of a pair, which is read whole.
        target: what a model of two texts was told to write; None lets it write.
        pair: the second sentence of a pair.
        picture: what is read with the text.
    """
    given, call = _spelled("text", text), "views = model.views(text)"
    if pair is not None:
        given = f"{given}\n{_spelled('pair', pair)}"
        call = "views = model.views(model.tokens(text, pair))"
    if picture is not None:
        given = f"{given}\n{_spelled('picture', picture)}"
        call = "views = model.views(model.tokens(text, picture))"
    if window is not None and window.windows > 1:
        which = f"  # tokens {window.first} to {window.last} of {window.tokens:,}"
        given += f"\ntext = text[{window.start}:{window.stop}]{which}"
    if target is not None:
        given, call = f"{given}\n{_spelled('target', target)}", "views = model.views(text, target)"
    return f"{given}\n{call}"


def _spelled(name: str, text: str) -> str:
    """The line of Python that has a text."""
    if len(text) <= SPELLED:
        return f"{name} = {text!r}"
    what = f"  # the {len(text):,} characters that were opened"
    return f'from pathlib import Path\n{name} = Path("{name}.txt").read_text("utf-8"){what}'
