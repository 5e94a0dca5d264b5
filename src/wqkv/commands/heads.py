"""`wqkv heads`."""

from __future__ import annotations

import argparse
from pathlib import Path

from wqkv.commands.given import MODEL, Commands, add_language, check_outputs, check_utf8, read_texts
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import console, print_json, say_picture, say_written
from wqkv.sentences import say
from wqkv.sentences.commands import PROGRESS


def add(commands: Commands) -> None:
    what = "what every head of a trained model does: previous token, sink, induction, ..."
    heads = commands.add_parser(
        "heads",
        help=what,
        description=f"Show {what}",
        allow_abbrev=False,
        epilog="A text longer than the model takes is read in windows, and the scores are means "
        "over all their tokens. example: wqkv heads --text book.txt --png heads.png",
    )
    heads.set_defaults(command=run)
    add_language(heads)
    arg = heads.add_argument
    default = "a causal model reads random tokens twice, others a built-in text"
    arg("texts", nargs="*", metavar="TEXT", help=f"in quotes; - reads stdin (default: {default})")
    arg("--model", metavar="NAME", help=MODEL)
    arg("--text", type=Path, metavar="FILE", help="read this file, of any length")
    arg("--json", action="store_true", help="print JSON, with every score, instead of the table")
    arg("--csv", type=Path, metavar="FILE", help="also write the scores as .csv")
    arg("--png", type=Path, metavar="FILE", help="also write the table as .png")


def run(args: argparse.Namespace) -> None:
    texts, source = read_texts(args.texts, args.text)
    check_utf8("text", texts)
    check_outputs(args, "table_picture")

    from wqkv.draw.heads import as_json, save_csv, save_png, show
    from wqkv.study.heads import label_model, read
    from wqkv.study.model import open_model

    with spinner(args.lang) as progress:
        model = open_model(args.model, progress)
    with bar(say(PROGRESS["reading"], model=model.name), lang=args.lang) as told:
        found = read(model, texts, source, told) if texts else label_model(model, told)

    if args.csv:
        save_csv(found, args.csv)
        say_written(args.csv, args.lang)
    if args.png:
        save_png(found, model.name, args.png, args.lang)
        say_picture(args.png, args.lang)
    if args.json:
        print_json(as_json(found, model.name))
    else:
        show(found, model.name, console(), args.lang)
