"""`wqkv diff A B TEXT` and `wqkv diff A --cache-bits 4 TEXT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from wqkv.commands.given import NAMES, Commands, add_language, check_outputs, check_utf8, read_texts
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import console, print_json, say_picture, say_written
from wqkv.sentences import say
from wqkv.sentences.diff import DIFF
from wqkv.sentences.errors import mistake


def add(commands: Commands) -> None:
    what = "where two models look differently at one text: KL of every head and row"
    diff = commands.add_parser(
        "diff",
        help=what,
        description=f"Show {what}.",
        allow_abbrev=False,
        usage="%(prog)s [options] A B [TEXT]\n       %(prog)s [options] --cache-bits 4 A [TEXT]",
        epilog="Both models cut the text into the same tokens. With --cache-bits the keys of one "
        "layer at a time are rounded, so that the error of a layer is not carried to the next. "
        'example: wqkv diff Qwen/Qwen3-0.6B Qwen/Qwen3-0.6B-Base "The capital of Spain is"',
    )
    diff.set_defaults(command=run)
    add_language(diff)
    arg = diff.add_argument
    arg("a", metavar="A", help=NAMES)
    arg(
        "texts", nargs="*", metavar="B TEXT",
        help="the second model; and a text in quotes, - reads stdin (default: a built-in text)",
    )  # fmt: skip
    arg("--text", type=Path, metavar="FILE", help="read this file")
    arg(
        "--cache-bits", type=int, choices=(8, 4),
        help="compare A with itself where a quantized cache keeps the keys in so many bits",
    )  # fmt: skip
    arg("--json", action="store_true", help="print JSON, with every head, instead of the tables")
    arg("--csv", type=Path, metavar="FILE", help="also write the heads as .csv")
    arg("--png", type=Path, metavar="FILE", help="also write both maps of the first heads as .png")


def run(args: argparse.Namespace) -> None:
    from wqkv.errors import ArgumentError

    given: list[str] = args.texts  # behind A: the second model, if there is one, and a text
    other = None if args.cache_bits is not None else next(iter(given), None)
    if args.cache_bits is None and other is None:
        raise ArgumentError(mistake("one_model"))
    given = given if other is None else given[1:]
    if len(given) > 1:
        behind = "texts_behind_two" if other else "texts_behind_bits"
        raise ArgumentError(mistake(behind, count=len(given)))
    texts, _ = read_texts(given, args.text)
    check_utf8("text", texts)
    check_outputs(args, "maps_picture")

    from wqkv.draw.diff import as_json, save_csv, save_png, show
    from wqkv.effects.diff import diff
    from wqkv.layer.caches.quantized import Quantized
    from wqkv.study.known_texts import TEXT
    from wqkv.study.model import open_model

    with spinner(args.lang) as progress:
        a = open_model(args.a, progress)
        b = Quantized(args.cache_bits) if other is None else open_model(other, progress)
    with bar(say(DIFF["comparing"], model=a.name), "steps", args.lang) as told:
        found = diff(a, b, texts[0] if texts else TEXT, progress=told)

    if args.csv:
        save_csv(found, args.csv)
        say_written(args.csv, args.lang)
    if args.png:
        save_png(found, args.png, args.lang)
        say_picture(args.png, args.lang)
    if args.json:
        print_json(as_json(found))
    else:
        show(found, console(), args.lang)
