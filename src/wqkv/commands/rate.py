"""`wqkv rate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wqkv.commands.given import Commands, add_language, bad_byte, check_utf8
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import console, print_json
from wqkv.sentences import say
from wqkv.sentences.commands import PROGRESS
from wqkv.sentences.errors import mistake

if TYPE_CHECKING:
    from wqkv.study.hit_rate import Expectation


def add(commands: Commands) -> None:
    what = "how often a head looks where you expect it to, beside rules that need no model"
    parser = commands.add_parser(
        "rate",
        help=what,
        description=f"Count {what}.",
        allow_abbrev=False,
        epilog='Each line of FILE is {"text": "The cat saw the dog because it barked.", "from": '
        '"it", "to": "dog", "among": ["cat"]}; without "among", all words are candidates. '
        "example: wqkv rate --data examples/it.jsonl --layer 3 --head 1",
    )
    parser.set_defaults(command=run)
    add_language(parser)
    arg = parser.add_argument
    arg("texts", nargs="*", metavar="TEXT", help="sentences, each in quotes")
    arg("--from", dest="query", metavar="WORD", help="the word of every TEXT that looks")
    arg("--to", dest="key", metavar="WORD", help="the word that it is expected to look at")
    arg("--among", nargs="+", default=(), metavar="WORD", help="the words beside it to compare")
    arg("--data", type=Path, metavar="FILE", help="read sentences and words from a .jsonl file")
    arg("--layer", type=int, metavar="L", help="with --head: this head (default: the best one)")
    arg("--head", type=int, metavar="H", help="see --layer")
    arg("--model", metavar="NAME", help="a folder or a hub name (default: the packaged model)")
    arg("--json", action="store_true", help="print JSON, with every weight, instead of the lines")


def run(args: argparse.Namespace) -> None:
    from wqkv.errors import need

    expectations = _expectations(args)
    check_utf8("sentence", [one.text for one in expectations])
    if not args.json:
        need("rich", "show", mistake("terminal"))

    from wqkv.draw.rate import as_json, show
    from wqkv.study.hit_rate import hit_rate
    from wqkv.study.model import open_model

    with spinner(args.lang) as progress:
        model = open_model(args.model, progress)
    with bar(say(PROGRESS["reading"], model=model.name), "sentences", args.lang) as told:
        found = hit_rate(model, expectations, args.layer, args.head, told)
    if args.json:
        print_json(as_json(found))
    else:
        show(found, console(), args.lang)


def _expectations(args: argparse.Namespace) -> list[Expectation]:
    """What is expected: of every TEXT, or of every line of a file."""
    from wqkv.errors import ArgumentError
    from wqkv.study.hit_rate import Expectation

    by_hand = bool(args.texts and args.query and args.key)
    if by_hand == (args.data is not None):
        raise ArgumentError(mistake("rate_of_what"))
    if by_hand:
        return [Expectation(text, args.query, args.key, (*args.among,)) for text in args.texts]
    file = str(args.data)
    try:
        lines = args.data.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ArgumentError(mistake("file_not_utf8", file=file, **bad_byte(error))) from None
    return [
        _expectation(file, number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _expectation(file: str, number: int, line: str) -> Expectation:
    from wqkv.errors import ArgumentError
    from wqkv.study.hit_rate import Expectation

    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ArgumentError(mistake("line_no_json", file=file, number=number)) from None
    fields = {"text": str, "from": str, "to": str, "among": list}
    given: dict[str, Any] = {"among": []} | found if isinstance(found, dict) else {}  # JSON
    if given.keys() != fields.keys() or not all(
        isinstance(given[name], kind) for name, kind in fields.items()
    ):
        raise ArgumentError(mistake("line_fields", file=file, number=number, line=line[:80]))
    return Expectation(given["text"], given["from"], given["to"], tuple(map(str, given["among"])))
