"""Progress, on stderr: on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A spinner with one line."""
    console = _console()
    if console is None:
        yield lambda line: None
        return
    from rich.text import Text

    with console.status(Text("opening the model"), spinner="line") as status:
        yield lambda line: status.update(Text(line))


@contextmanager
def bar(what: str, unit: str = "layers") -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left."""
    console = _console()
    if console is None:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[at]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, at="")

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, at=f"{done} of {total} {unit}")

        yield told


def _console() -> Console | None:
    """A console on stderr that can draw a moving line, if there is one."""
    if not (sys.stderr.isatty() and find_spec("rich")):
        return None
    from rich.console import Console

    console = Console(stderr=True)
    if console.no_color or console.is_dumb_terminal:  # what moves is made of escape codes
        return None
    return console
