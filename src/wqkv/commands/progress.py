"""Progress lines on stderr, where that is a terminal; nothing elsewhere.

While a line moves, rich takes over what others print, and puts it above the line. It would read
codes in it as styles and links, and drop some control characters. So the streams are cleaned before
rich as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from wqkv.commands.screen import clean_streams, console, escape_controls
from wqkv.sentences import LANGUAGES, say, translated
from wqkv.sentences.commands import PROGRESS

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def spinner(lang: str = LANGUAGES[0]) -> Iterator[Callable[[str], None]]:
    """Show a spinner, and give a function that changes the text beside it."""
    drawn = _console()
    if drawn is None:
        yield lambda line: None
        return
    from rich.text import Text

    def shown(line: str) -> Text:
        return Text(escape_controls(translated(line, lang)))

    opening = shown(say(PROGRESS["opening"]))
    with drawn.status(opening, spinner="line") as status, clean_streams():
        yield lambda line: status.update(shown(line))


@contextmanager
def bar(
    what: str, unit: str = "layers", lang: str = LANGUAGES[0]
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with the time that is left, and give a function (done, total) that moves it.

    Args:
        unit: what is counted, by its name in PROGRESS.
    """
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
    with Progress(*columns, console=drawn, transient=True) as drawn_bar, clean_streams():
        task = drawn_bar.add_task(escape_controls(translated(what, lang)), total=None, at="")

        def move(done: int, total: int) -> None:
            at = say(PROGRESS["at"], done=done, total=total, unit=say(PROGRESS[unit]))
            drawn_bar.update(task, completed=done, total=total, at=translated(at, lang))

        yield move


def _console() -> Console | None:
    """Return a console on stderr that can draw a moving line, or None."""
    if find_spec("rich") is None:
        return None
    drawn = console(stderr=True)
    # A moving line is made of escape codes, as colors are, so NO_COLOR turns it off too.
    moves = drawn.file.isatty() and not drawn.no_color and not drawn.is_dumb_terminal
    return drawn if moves else None
