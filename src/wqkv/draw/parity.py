"""The parity of a model's layers, in a terminal or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wqkv import __version__
from wqkv.draw.to_json import Json, plain
from wqkv.sentences import say
from wqkv.sentences.parity import PARITY
from wqkv.study.parity import Parity

if TYPE_CHECKING:  # JSON needs no rich
    from rich.console import Console

_STYLES = {"holds": "", "EXCEEDS": "bold red", "not compared": "dim"}


def show(parity: Parity, model: str, console: Console, lang: str = "en") -> None:
    """Print one line per layer, and how many hold.

    The lines fit the console's width. There are no escape codes unless the console shows colors.
    """
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console, lang)
    title = say(PARITY["title"], model=model, inputs=parity.inputs)
    pen.write(Text(pen.said(title), "bold"), indent=0)
    pen.write(Text())
    for line, verdict in parity.lines():
        pen.write(Text(pen.said(line), _STYLES[verdict]), indent=0)
    pen.write(Text())
    pen.write(Text(pen.said(parity.end), "bold green" if parity.holds else "bold red"), indent=0)


def as_json(parity: Parity, model: str) -> dict[str, Json]:
    """Return every number of every layer for strict JSON; None where a layer has no proof.

    >>> as_json(Parity("bert", "", ()), "tiny")["layers"]
    []
    """
    return {"wqkv": __version__, "model": model, "holds": parity.holds, **plain(parity)}
