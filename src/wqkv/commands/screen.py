r"""What the commands print: no text of a file, a model or an error can send codes to the terminal.

`main` puts a `CleanStream` before stdout and stderr, so that every line passes `escape_controls`:
lines of print, of argparse, of warnings, logs and tracebacks. rich has to send codes of its own, so
it prints to `console`, which cleans the texts alone.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

from wqkv.sentences import LANGUAGES, say, translated
from wqkv.sentences.commands import RESULT

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

#: Unicode's control characters C0 (without tab and newline), DEL and C1, the halves of surrogate
#: pairs, and the characters that turn the reading direction (Bidi_Control).
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape_controls(text: str) -> str:
    r"""Return a text with its control characters as codes that can be read.

    >>> print(escape_controls("\x1b[31mred\r \u202eback"))
    \x1b[31mred\x0d \u202eback
    """
    return _CONTROLS.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class CleanStream(io.TextIOBase):
    """A stream that writes control characters as codes.

    Its `isatty` is False, so that nobody sends codes for colors through it.
    """

    def __init__(self, below: TextIO) -> None:
        self.below = below

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.below.encoding

    def write(self, text: str) -> int:
        self.below.write(escape_controls(text))
        return len(text)

    def flush(self) -> None:
        self.below.flush()

    def close(self) -> None:
        """Do nothing, because the stream below belongs to the process."""


@contextmanager
def clean_streams() -> Iterator[None]:
    """Clean all that is printed meanwhile."""
    with redirect_stdout(CleanStream(sys.stdout)), redirect_stderr(CleanStream(sys.stderr)):
        yield


def console(stderr: bool = False) -> Console:
    """Return a console of rich on stdout or stderr, which cleans texts and leaves its own codes."""
    from rich.console import Console

    class Clean(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield (
                    segment
                    if segment.control
                    else segment._replace(text=escape_controls(segment.text))
                )

        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError  # `main` ends as it does for every other line

    stream: object = sys.stderr if stderr else sys.stdout  # typed as TextIO, which is not its class
    return Clean(file=stream.below if isinstance(stream, CleanStream) else cast(TextIO, stream))


def tell(sentence: str, lang: str) -> None:
    """Print a sentence to stderr. `lang` is its language."""
    print(f"wqkv: {translated(sentence, lang)}", file=sys.stderr, flush=True)


def say_written(path: Path, lang: str = LANGUAGES[0]) -> None:
    """Tell on stderr which file was written."""
    tell(say(RESULT["wrote"], path=path), lang)


def say_picture(path: Path, lang: str) -> None:
    """Print to stderr which picture was written, and whether it lacks the letters of `lang`."""
    from wqkv.fonts import drawable

    say_written(path, lang)
    if drawable(lang) != lang:
        tell(say(RESULT["no_font"], path=path), lang)


def print_json(value: object) -> None:
    r"""Print strict JSON on one line.

    DEL is the one control character that `json.dumps` does not escape.

    >>> print_json({"token": "\x1b\x7f"})
    {"token": "\u001b\u007f"}
    """
    print(json.dumps(value, allow_nan=False).replace("\x7f", "\\u007f"))
