"""The command line: `wqkv see SENTENCE`, `wqkv open TEXT`, `wqkv heads`, `wqkv parity`,
`wqkv survey`."""

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
    from rich.console import Console

    from wqkv.look.story import Story

EXAMPLE = "The animal didn't cross the street because it was too tired."


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0, 1 if its answer is no or the pipe closed, 2 after an error, 130
    after Ctrl-C."""
    try:
        return _run(_parser().parse_args(argv))
    except SystemExit as stop:  # argparse has printed; or rich found the pipe closed
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("wqkv: interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    from wqkv.errors import WqkvError

    command: Callable[[argparse.Namespace], bool | None] = args.command
    try:
        no = command(args) is False
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
    return int(no)


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
    _add_open(commands)
    _add_heads(commands)
    _add_parity(commands)
    _add_survey(commands)
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

    _check_utf8("sentence", sentences)
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
    _check_places(args.html, args.output)
    if not (args.html or args.output or args.json):
        need("rich", "show", "The terminal picture")


def _check_utf8(what: str, texts: Sequence[str]) -> None:
    from wqkv.errors import ArgumentError

    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"The {what} {text!a} is not valid UTF-8.") from None


def _check_places(*paths: Path | None) -> None:
    """Refuse files that cannot be written where they are asked for."""
    from wqkv.errors import ArgumentError

    for path in filter(None, paths):
        if not path.parent.is_dir():
            raise ArgumentError(f"The folder {str(path.parent)!r} of {str(path)!r} is not there.")
        if path.is_dir():
            raise ArgumentError(f"{str(path)!r} is a folder. Pass the name of a file.")


def _print(stories: Sequence[Story]) -> None:
    from rich.console import Console

    from wqkv.show.terminal import see

    console = Console()
    for i, story in enumerate(stories):
        if i:
            console.print()
        see(story, console)


# open


def _add_open(commands: argparse._SubParsersAction[_Parser]) -> None:
    what = "open a text in the browser: every number of every head, on this machine alone"
    parser = commands.add_parser(
        "open",
        help=what,
        description=what.capitalize() + ".",
        allow_abbrev=False,
        epilog=f'example: wqkv open "{EXAMPLE}"',
    )
    parser.set_defaults(command=_open)
    add = parser.add_argument
    add("text", nargs="?", metavar="TEXT", help="in quotes; - reads stdin (default: an example)")
    add("--model", metavar="NAME", help="a folder or a hub name (default: the packaged model)")
    add("--text", dest="file", type=Path, metavar="FILE", help="read this file")
    add("--export", type=Path, metavar="FILE", help="write one page instead of serving it")
    add("--lang", choices=("en", "zh"), default="en", help="the language of an exported page")
    add("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    add("--port", type=int, default=0, help="the port to listen on (default: a free one)")
    add("--others", action="store_true", help="allow a --host that other machines can reach")
    add("--no-browser", action="store_true", help="print the address, and open no browser")


def _open(args: argparse.Namespace) -> None:
    from wqkv.errors import ArgumentError, need

    texts, _ = _texts([args.text] if args.text is not None else [], args.file)
    text = texts[0] if texts else EXAMPLE
    _check_utf8("text", [text])
    if args.export and args.export.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"The page {str(args.export)!r} needs a name ending in .html or .htm.")
    _check_places(args.export)
    if not 0 <= args.port < 2**16:
        raise ArgumentError(f"There is no port {args.port}. Pass 1 to {2**16 - 1}, or 0 for any.")
    if args.host in ("0.0.0.0", "::", ""):
        raise ArgumentError(
            f"The host {args.host!r} is no name that a browser could ask for."
            " Pass the address by which this machine is reached."
        )
    if args.host not in ("127.0.0.1", "::1", "localhost") and not args.others:
        raise ArgumentError(
            f"Other machines can reach {args.host}: whoever knows the address could read your texts"
            " and keep this machine busy, and nothing is encrypted on the way."
            " Pass --others to allow it."
        )
    if not args.export:
        need("starlette", "show", "The explorer")
        need("uvicorn", "show", "The explorer")

    from wqkv.look.models import open_model

    with _progress() as progress:
        model = open_model(args.model, progress)
    if args.export:
        from wqkv.show.api import Api
        from wqkv.show.export import export

        with _bar("recording", "answers") as told:
            api = Api(model, args.model)
            seen = api.open(text, told, api.python(text))
            page = export(api, seen, seen.first[1:], args.lang, told)
        args.export.write_text(page, encoding="utf-8")
        print(f"wqkv: wrote {args.export}", file=sys.stderr)
        return

    from wqkv.show.server import serve

    def ready(address: str) -> None:
        print(f"wqkv: {address}\nwqkv: Ctrl-C ends it", file=sys.stderr, flush=True)
        if not args.no_browser:
            import webbrowser

            webbrowser.open(address)

    serve(model, text, source=args.model, host=args.host, port=args.port, ready=ready)


# heads


def _add_heads(commands: argparse._SubParsersAction[_Parser]) -> None:
    what = "what every head of a trained model does: previous word, sink, induction, ..."
    heads = commands.add_parser(
        "heads",
        help=what,
        description=f"Show {what}",
        allow_abbrev=False,
        epilog="A text longer than the model takes is read in windows, and the scores are means "
        "over all their words. example: wqkv heads --text book.txt --png heads.png",
    )
    heads.set_defaults(command=_heads)
    add = heads.add_argument
    default = "a causal model reads random words twice, others a built-in text"
    add("texts", nargs="*", metavar="TEXT", help=f"in quotes; - reads stdin (default: {default})")
    add("--model", metavar="NAME", help="a folder or a hub name (default: the packaged model)")
    add("--text", type=Path, metavar="FILE", help="read this file, of any length")
    add("--json", action="store_true", help="print JSON, with every score, instead of the table")
    add("--csv", type=Path, metavar="FILE", help="also write the scores as .csv")
    add("--png", type=Path, metavar="FILE", help="also write the table as .png")


def _heads(args: argparse.Namespace) -> None:
    from wqkv.errors import need

    texts, source = _texts(args.texts, args.text)
    _check_utf8("text", texts)
    for path, suffix in ((args.csv, ".csv"), (args.png, ".png")):
        if path:
            _check_suffix(path, suffix)
    _check_places(args.csv, args.png)
    if args.png:
        need("matplotlib", "show", "A picture of the table")
    if not args.json:
        need("rich", "show", "The terminal picture")

    from wqkv.look.heads import TEXT, probe, read
    from wqkv.look.models import open_model
    from wqkv.show.heads import as_json, save_csv, save_png, show

    with _progress() as progress:
        model = open_model(args.model, progress)
    with _bar(f"reading with {model.name}") as told:
        if texts:
            found = read(model, texts, source, told)
        elif model.layer(0).mask.by_position:
            found = probe(model, progress=told)
        else:
            found = read(model, [TEXT], "a built-in text", told)

    if args.csv:
        save_csv(found, args.csv)
        print(f"wqkv: wrote {args.csv}", file=sys.stderr)
    if args.png:
        save_png(found, model.name, args.png)
        print(f"wqkv: wrote {args.png}", file=sys.stderr)
    if args.json:
        print(json.dumps(as_json(found, model.name), allow_nan=False))
    else:
        from rich.console import Console

        show(found, model.name, Console())


def _texts(given: Sequence[str], file: Path | None) -> tuple[list[str], str]:
    """The texts to read, none for the default, and what they are called."""
    from wqkv.errors import ArgumentError

    if file is not None:
        if given:
            raise ArgumentError(f"There is a TEXT and --text {file}. Pass one of them.")
        try:
            texts, source = [file.read_text(encoding="utf-8-sig")], f"the text of {file.name}"
        except UnicodeDecodeError as error:
            raise ArgumentError(f"{str(file)!r} is not text in UTF-8: {error}.") from None
        if not texts[0].strip():
            raise ArgumentError(f"{str(file)!r} is empty. Name a file with at least one word.")
        return texts, source
    texts = []
    for number, text in enumerate(given, start=1):
        try:
            texts.append(sys.stdin.read() if text == "-" else text)
        except UnicodeDecodeError as error:
            raise ArgumentError(f"Standard input is not text: {error}.") from None
        if not texts[-1].strip():
            what = "Standard input" if text == "-" else f"Text {number} of {len(given)}"
            raise ArgumentError(f"{what} is empty. Pass at least one word.")
    return texts, "the given text" if len(texts) < 2 else f"the {len(texts)} given texts"


def _check_suffix(path: Path, suffix: str) -> None:
    from wqkv.errors import ArgumentError

    if path.suffix.lower() != suffix:
        what = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise ArgumentError(f"The file {str(path)!r} {what}. Pass a name ending in {suffix}.")


# parity


def _add_parity(commands: argparse._SubParsersAction[_Parser]) -> None:
    what = "compare every attention layer of a model with ours, made of the same matrices"
    parser = commands.add_parser(
        "parity",
        help=what,
        description=what.capitalize() + "; exit 1 if one differs by more than its rounding allows.",
        allow_abbrev=False,
        epilog="example: wqkv parity HuggingFaceTB/SmolLM2-135M",
    )
    parser.set_defaults(command=_parity)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a folder or a hub name (default: packaged)")
    add("--json", action="store_true", help="print JSON instead of the table")


def _parity(args: argparse.Namespace) -> bool:
    from wqkv.errors import need

    if not args.json:
        need("rich", "show", "The terminal picture")

    from wqkv.look.models import open_bare
    from wqkv.look.parity import parity
    from wqkv.show.parity import as_json, show

    with _progress() as progress:
        model, name = open_bare(args.model, progress)
    with _bar(f"comparing {name}") as told:
        found = parity(model, progress=told)

    if args.json:
        print(json.dumps(as_json(found, name), allow_nan=False))
    else:
        from rich.console import Console

        show(found, name, Console())
    return found.holds


# survey


def _add_survey(commands: argparse._SubParsersAction[_Parser]) -> None:
    what = "what every head of a trained model does over a whole corpus"
    parser = commands.add_parser(
        "survey",
        help=what,
        description=f"Measure {what}.",
        allow_abbrev=False,
        epilog="The folder gets heads.parquet, examples.parquet, skipped.parquet and survey.html. "
        "Killed at any moment, the same command goes on where it was. "
        "example: wqkv survey --data docs.jsonl --out survey/",
    )
    parser.set_defaults(command=_survey)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a folder or a hub name (default: the packaged)")
    kinds = ".jsonl, .parquet, any other file of text, or a folder of them"
    add("--data", nargs="+", required=True, metavar="PATH", help=kinds)
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    add("--field", default="text", metavar="NAME", help="the field of the text (default: text)")
    add("--workers", type=int, metavar="N", help="default: one a core; 1 needs no ray")
    add("--address", metavar="ADDR", help="of a Ray cluster; all its machines see PATH and FOLDER")
    add("--part", type=int, default=128, metavar="N", help="documents a part holds (default: 128)")


def _survey(args: argparse.Namespace) -> None:
    from wqkv.errors import need

    need("rich", "show", "The terminal picture")

    from rich.console import Console

    from wqkv.look.survey import survey, write
    from wqkv.show.survey import page, show

    with _bar("surveying", "documents") as told:
        found = survey(
            args.model,
            args.data,
            args.out,
            field=args.field,
            workers=(os.cpu_count() or 1) if args.workers is None else args.workers,
            address=args.address,
            documents=args.part,
            progress=told,
        )
    write(args.out / "survey.html", page(found).encode())
    show(found, Console())
    print(f"wqkv: wrote {args.out / 'survey.html'}", file=sys.stderr)


# Progress, on stderr: on a terminal, and nothing elsewhere


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner with one line."""
    console = _console()
    if console is None:
        yield lambda line: None
        return
    from rich.text import Text

    with console.status(Text("opening the model"), spinner="line") as status:
        yield lambda line: status.update(Text(line))


@contextmanager
def _bar(what: str, unit: str = "layers") -> Iterator[Callable[[int, int], None]]:
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


if __name__ == "__main__":
    raise SystemExit(main())
