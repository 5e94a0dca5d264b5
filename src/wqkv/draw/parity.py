"""The parity of a model's layers, in a terminal or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wqkv import __version__
from wqkv.draw import steps
from wqkv.draw.to_json import plain
from wqkv.study.parity import Parity

if TYPE_CHECKING:  # JSON needs no rich
    from rich.console import Console

_STYLES = {"holds": "", "EXCEEDS": "bold red", "not compared": "dim"}


def show(parity: Parity, model: str, console: Console) -> None:
    """Print a line a layer, and how many hold.

    It fits the console's width, and prints no escape codes unless the console shows colours.
    """
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console)
    title = f"{model}: our layers against its own, on the hidden states of {parity.inputs}"
    pen.write(Text(steps.visible(title, pen.encoding), "bold"), indent=0)
    pen.write(Text())
    for line, verdict in parity.lines():
        pen.write(Text(steps.visible(line, pen.encoding), _STYLES[verdict]), indent=0)
    pen.write(Text())
    pen.write(Text(parity.end, "bold green" if parity.holds else "bold red"), indent=0)


def as_json(parity: Parity, model: str) -> dict[str, Any]:
    """Every number of every layer, ready for strict JSON; None stands for no proof.

    >>> as_json(Parity("bert", "", ()), "tiny")["layers"]
    []
    """
    return {"wqkv": __version__, "model": model, "holds": parity.holds, **plain(parity)}
