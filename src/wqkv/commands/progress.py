"""Progress, on stderr: on a terminal, and nothing elsewhere.

While a line moves, rich takes what is printed, reads the codes in it as styles and links, and puts
it above: so there is a screen before rich too. A few control characters it drops, so it gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from wqkv.commands.screen import console, screens, shown

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A spinner with one line."""
    drawn = _console()
    if drawn is None:
        yield lambda line: None
        return
    from rich.text import Text

    with drawn.status(Text("opening the model"), spinner="line") as status, screens():
        yield lambda line: status.update(Text(shown(line)))


@contextmanager
def bar(what: str, unit: str = "layers") -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left."""
    drawn = _console()
    if drawn is None:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[at]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=drawn, transient=True) as bar, screens():
        task = bar.add_task(shown(what), total=None, at="")

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, at=f"{done} of {total} {unit}")

        yield told


def _console() -> Console | None:
    """A console on stderr that can draw a moving line, if there is one."""
    if find_spec("rich") is None:
        return None
    drawn = console(stderr=True)
    moves = drawn.file.isatty() and not drawn.no_color and not drawn.is_dumb_terminal
    return drawn if moves else None  # what moves is made of escape codes
