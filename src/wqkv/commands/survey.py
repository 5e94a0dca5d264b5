"""`wqkv survey MODEL`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from wqkv.commands.given import MODEL, Commands, add_language
from wqkv.commands.progress import bar
from wqkv.commands.screen import console, say_written, tell
from wqkv.sentences import say
from wqkv.sentences.errors import mistake
from wqkv.sentences.survey import COUNTED


def add(commands: Commands) -> None:
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
    parser.set_defaults(command=run)
    add_language(parser)
    arg = parser.add_argument
    arg("model", nargs="?", metavar="MODEL", help=MODEL)
    kinds = ".jsonl, .parquet, any other file of text, or a folder of them"
    arg("--data", nargs="+", required=True, metavar="PATH", help=kinds)
    arg("--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    arg("--field", default="text", metavar="NAME", help="the field of the text (default: text)")
    arg("--workers", type=int, metavar="N", help="default: one a core; 1 needs no ray")
    arg("--address", metavar="ADDR", help="of a Ray cluster; all its machines see PATH and FOLDER")
    arg("--part", type=int, default=128, metavar="N", help="documents a part holds (default: 128)")


def run(args: argparse.Namespace) -> None:
    from wqkv.errors import need

    need("rich", "show", mistake("terminal"))

    from wqkv.corpus.survey import survey
    from wqkv.corpus.worker import write_whole
    from wqkv.draw.survey import page, show

    with bar(say(COUNTED["surveying"]), "documents", args.lang) as progress:
        found = survey(
            args.model,
            args.data,
            args.out,
            field=args.field,
            workers=(os.cpu_count() or 1) if args.workers is None else args.workers,
            address=args.address,
            documents=args.part,
            progress=progress,
        )
    write_whole(args.out / "survey.html", page(found, args.lang).encode())
    show(found, console(), args.lang)
    for path in found.damaged:
        tell(say(COUNTED["made_again"], path=path), args.lang)
    say_written(args.out / "survey.html", args.lang)
