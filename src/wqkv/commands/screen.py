r"""What the commands print: no text of a file, of a model or of an error steers the terminal.

`main` puts a `Screen` before stdout and stderr, so that every line passes `shown`: of print, of
argparse, of warnings, logs and tracebacks. What draws with rich has codes of its own, so it draws
on `console`, which cleans the texts and leaves the codes.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

#: C0 without tab and newline, DEL, C1, halves of pairs, and what Unicode calls Bidi_Control.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str) -> str:
    r"""A text with its control characters spelled out.

    >>> print(shown("\x1b[31mred\r \u202eback"))
    \x1b[31mred\x0d \u202eback
    """
    return _CONTROLS.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class Screen(io.TextIOBase):
    """A stream that shows control characters, and so is no terminal to those who ask."""

    def __init__(self, below: TextIO) -> None:
        self.below = below

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.below.encoding

    def write(self, text: str) -> int:
        self.below.write(shown(text))
        return len(text)

    def flush(self) -> None:
        self.below.flush()

    def close(self) -> None:
        """Nothing: the stream below belongs to the process."""


@contextmanager
def screens() -> Iterator[None]:
    """All that is printed meanwhile is cleaned."""
    with redirect_stdout(Screen(sys.stdout)), redirect_stderr(Screen(sys.stderr)):
        yield


def console(stderr: bool = False) -> Console:
    """A console of rich on stdout or stderr, whose texts are cleaned and whose codes are not."""
    from rich.console import Console

    class Clean(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=shown(segment.text))

        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError  # `main` ends as it does for every other line

    stream: Any = sys.stderr if stderr else sys.stdout
    return Clean(file=stream.below if isinstance(stream, Screen) else stream)


def print_json(value: object) -> None:
    r"""Print strict JSON on one line; DEL is the one control character that `dumps` leaves.

    >>> print_json({"word": "\x1b\x7f"})
    {"word": "\u001b\u007f"}
    """
    print(json.dumps(value, allow_nan=False).replace("\x7f", "\\u007f"))
