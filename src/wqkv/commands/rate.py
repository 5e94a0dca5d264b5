"""`wqkv rate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wqkv.commands.given import Commands, add_language, check_utf8
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import console, print_json

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
    add_language(parser)


def run(args: argparse.Namespace) -> None:
    from wqkv.errors import need

    expectations = _expectations(args)
    check_utf8("sentence", [one.text for one in expectations])
    if not args.json:
        need("rich", "show", "The terminal picture")

    from wqkv.draw.rate import as_json, show
    from wqkv.study.hit_rate import hit_rate
    from wqkv.study.model import open_model

    with spinner() as progress:
        model = open_model(args.model, progress)
    with bar(f"reading with {model.name}", "sentences") as told:
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
        raise ArgumentError("Pass TEXT with --from and --to, or --data with a .jsonl file.")
    if by_hand:
        return [Expectation(text, args.query, args.key, (*args.among,)) for text in args.texts]
    try:
        lines = args.data.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{str(args.data)!r} is not text in UTF-8: {error}.") from None
    return [
        _expectation(f"Line {number} of {str(args.data)!r}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _expectation(where: str, line: str) -> Expectation:
    from wqkv.errors import ArgumentError
    from wqkv.study.hit_rate import Expectation

    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{where} is no JSON: {error}.") from None
    fields = {"text": str, "from": str, "to": str, "among": list}
    given: dict[str, Any] = {"among": []} | found if isinstance(found, dict) else {}  # JSON
    if given.keys() != fields.keys() or not all(
        isinstance(given[name], kind) for name, kind in fields.items()
    ):
        raise ArgumentError(
            f'{where} is {line[:80]}.\nGive {{"text": ..., "from": ..., "to": ...}}, and '
            '"among": [...] if not all words are candidates.'
        )
    return Expectation(given["text"], given["from"], given["to"], tuple(map(str, given["among"])))
