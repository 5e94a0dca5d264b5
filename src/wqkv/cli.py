"""The command line: `wqkv see SENTENCE`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from wqkv import __version__

if TYPE_CHECKING:  # torch is imported after the arguments are read, so that --help is quick
    from wqkv.look.story import Story

EXAMPLE = "The animal didn't cross the street because it was too tired."


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0, 2 after an error, 130 after Ctrl-C, 1 after a closed pipe."""
    try:
        return _run(_parser().parse_args(argv))
    except SystemExit as stop:  # argparse has printed; or rich found the pipe closed
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("wqkv: interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    from wqkv.errors import WqkvError

    command: Callable[[argparse.Namespace], None] = args.command
    try:
        command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except WqkvError as error:
        print(f"wqkv: {one_line(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"wqkv: {where}{one_line(error.strerror or str(error))}", file=sys.stderr)
        return 2
    return 0


def one_line(message: str) -> str:
    r"""A message on one line, with its indented lines in parentheses.

    >>> one_line("No word 'x'.\n  words: a, b\n  layer: int 3\nPass one of them.")
    "No word 'x'. (words: a, b; layer: int 3) Pass one of them."
    """
    inline = re.sub(
        r"(?:\n {2,}.*)+",
        lambda facts: f" ({'; '.join(line.strip() for line in facts[0].strip().splitlines())})",
        message,
    )
    return " ".join(inline.split())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"wqkv: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wqkv", description="Multi-head attention that you can open.")
    parser.add_argument("--version", action="version", version=f"wqkv {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_see(commands)
    return parser


# see


def _add_see(commands: argparse._SubParsersAction[_Parser]) -> None:
    what = "what WQ, WK, WV and WO of one head of a trained model do to one word of a sentence"
    see = commands.add_parser(
        "see",
        help=what,
        description=f"Show {what}.",
        allow_abbrev=False,
        epilog=f'example: wqkv see "{EXAMPLE}" --word it',
    )
    see.set_defaults(command=_see)
    add = see.add_argument
    chosen = "(default: chosen for you)"
    add("sentences", nargs="*", metavar="SENTENCE", help="in quotes; - reads one a line from stdin")
    add("--model", metavar="NAME", help="a folder or a hub name (default: the packaged model)")
    add("--word", help=f"the word to follow {chosen}")
    add("--layer", type=int, metavar="L", help=f"the layer, counted from 0 {chosen}")
    add("--head", type=int, metavar="H", help=f"the head, counted from 0 {chosen}")
    add("--html", type=Path, metavar="FILE", help="write a web page instead of printing")
    add("--output", type=Path, metavar="FILE", help="write the map as .png, .svg or .pdf instead")
    add("--json", action="store_true", help="print JSON instead of the picture")


def _see(args: argparse.Namespace) -> None:
    sentences = list(_sentences(args.sentences))
    _check(args, sentences)

    from wqkv.look.models import open_model
    from wqkv.look.story import tell

    with _progress() as progress:
        model = open_model(args.model, progress)
        stories = [tell(model, text, args.word, args.layer, args.head) for text in sentences]

    if args.html:
        from wqkv.show.html import page

        args.html.write_text(page(stories), encoding="utf-8")
        print(f"wqkv: wrote {args.html}", file=sys.stderr)
    if args.output:
        from wqkv.show.plots import save_map

        save_map(stories[0], args.output)
        print(f"wqkv: wrote {args.output}", file=sys.stderr)
    if args.json:
        from wqkv.show.data import as_json

        print(json.dumps(as_json(stories), allow_nan=False))
    elif not (args.html or args.output):
        _print(stories)


def _sentences(given: Sequence[str]) -> Iterator[str]:
    """The sentences, with - replaced by the lines of standard input."""
    from wqkv.errors import ArgumentError

    if not given:
        raise ArgumentError(
            f'No sentence was given. Call wqkv see "{EXAMPLE}",'
            " or wqkv see - to read standard input."
        )
    for number, sentence in enumerate(given, start=1):
        if sentence == "-":
            try:
                lines = [line.strip() for line in sys.stdin if line.strip()]
            except UnicodeDecodeError as error:
                raise ArgumentError(f"Standard input is not text: {error}.") from None
            if not lines:
                raise ArgumentError("Standard input has no sentence. Pass one sentence a line.")
            yield from lines
        elif not sentence.strip():
            raise ArgumentError(f"Sentence {number} of {len(given)} is empty: {sentence!r}.")
        else:
            yield sentence


def _check(args: argparse.Namespace, sentences: Sequence[str]) -> None:
    """Refuse what cannot be shown or written before the model is opened, which may take minutes."""
    from wqkv.errors import ArgumentError, need

    for sentence in sentences:
        try:
            sentence.encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"The sentence {sentence!a} is not valid UTF-8.") from None
    if args.html and args.html.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"The page {str(args.html)!r} needs a name ending in .html or .htm.")
    if args.output:
        from wqkv.show.plots import check_format

        check_format(args.output)
        need("matplotlib", "show", "An image of the map")
        if len(sentences) > 1:
            raise ArgumentError(
                f"--output holds the map of one sentence, and there are {len(sentences)}."
                " Pass one sentence, or --html for a page of all."
            )
    for path in filter(None, (args.html, args.output)):
        if not path.parent.is_dir():
            raise ArgumentError(f"The folder {str(path.parent)!r} of {str(path)!r} is not there.")
        if path.is_dir():
            raise ArgumentError(f"{str(path)!r} is a folder. Pass the name of a file.")
    if not (args.html or args.output or args.json):
        need("rich", "show", "The terminal picture")


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Progress on stderr: a spinner on a terminal, nothing elsewhere."""
    if not (sys.stderr.isatty() and find_spec("rich")):
        yield lambda line: None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if console.no_color or console.is_dumb_terminal:  # a spinner is made of escape codes
        yield lambda line: None
        return
    with console.status(Text("opening the model"), spinner="line") as status:
        yield lambda line: status.update(Text(line))


def _print(stories: Sequence[Story]) -> None:
    from rich.console import Console

    from wqkv.show.terminal import see

    console = Console()
    for i, story in enumerate(stories):
        if i:
            console.print()
        see(story, console)


if __name__ == "__main__":
    raise SystemExit(main())
