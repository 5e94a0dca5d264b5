"""`wqkv parity MODEL`."""

from __future__ import annotations

import argparse

from wqkv.commands.given import MODEL, Commands, add_language
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import console, print_json
from wqkv.sentences import say
from wqkv.sentences.errors import mistake
from wqkv.sentences.parity import PARITY


def add(commands: Commands) -> None:
    what = "compare every attention layer of a model with ours, made from the same matrices"
    parser = commands.add_parser(
        "parity",
        help=what,
        description=what.capitalize() + "; exit 1 if one differs by more than its rounding allows.",
        allow_abbrev=False,
        epilog="example: wqkv parity HuggingFaceTB/SmolLM2-135M",
    )
    parser.set_defaults(command=run)
    add_language(parser)
    arg = parser.add_argument
    arg("model", nargs="?", metavar="MODEL", help=MODEL)
    arg("--json", action="store_true", help="print JSON instead of the table")


def run(args: argparse.Namespace) -> bool:
    from wqkv.errors import need

    if not args.json:
        need("rich", "show", mistake("terminal"))

    from wqkv.draw.parity import as_json, show
    from wqkv.study.loading import load_bare
    from wqkv.study.parity import parity

    with spinner(args.lang) as progress:
        model, name = load_bare(args.model, progress)
    with bar(say(PARITY["comparing"], model=name), lang=args.lang) as told:
        found = parity(model, progress=told)

    if args.json:
        print_json(as_json(found, name))
    else:
        show(found, name, console(), args.lang)
    return found.holds
