"""`wqkv why TEXT --answer ANSWER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from wqkv.commands.given import MODEL, Commands, add_language, check_outputs, check_utf8, read_texts
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import console, print_json, say_picture, say_written, tell
from wqkv.sentences import say
from wqkv.sentences.errors import mistake
from wqkv.sentences.why import BESIDES

#: Long enough for a causal model to have learned from it what comes next.
CAPITALS = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
#: What may be chosen. A test compares them with the computation's own, which would import torch.
HOWS, BYS = ("renormalize", "zero"), ("head", "token", "span")


def add(commands: Commands) -> None:
    what = "which links between tokens an answer of a trained model rests on, each removed for real"
    parser = commands.add_parser(
        "why",
        help=what,
        description=f"Show {what}.",
        allow_abbrev=False,
        epilog="A causal model is asked for the next token: --answer is that token, with the blank "
        "before it. An encoder, as the packaged model is one, is asked how alike two texts are, "
        "unless a token of TEXT is masked: --answer is the other text, and the number is their "
        "cosine similarity. "
        f'examples: wqkv why "{CAPITALS}" --model HuggingFaceTB/SmolLM2-135M-Instruct '
        '--answer " Madrid" --against " Rome"; wqkv why "A cat sleeps." --answer "A dog rests."',
    )
    parser.set_defaults(command=run)
    add_language(parser)
    arg = parser.add_argument
    arg("text", nargs="?", metavar="TEXT", help="in quotes; - reads stdin")
    arg("--model", metavar="NAME", help=MODEL)
    arg("--text", dest="file", type=Path, metavar="FILE", help="read this file")
    arg("--answer", help="the token (default: the likeliest), or the other text")
    arg("--against", help="its rival (default: the likeliest other token, or no other text)")
    arg("--target", metavar="TEXT", help="what a model of two texts has written so far")
    at = "ask for the token after token N, or for masked token N (default: the last, or the masked)"
    arg("--at", type=int, default=-1, metavar="N", help=at)
    how = (
        "renormalize: a removed link's weight goes to the row's other keys; zero: the value that "
        "it carries becomes 0 (default: %(default)s)"
    )
    arg("--how", choices=HOWS, default=HOWS[0], help=how)
    by = "remove every head, token or span too, each as a whole; may be given several times"
    arg("--by", choices=BYS, action="append", default=[], help=by)
    links = "how many links to remove for real (default: %(default)s)"
    arg("--budget", type=int, default=200, metavar="N", help=links)
    arg("--json", action="store_true", help="print JSON, with every removed link, instead of lists")
    arg("--csv", type=Path, metavar="FILE", help="also write links and groups as .csv")
    arg("--png", type=Path, metavar="FILE", help="also draw the links over the text as .png")


def run(args: argparse.Namespace) -> None:
    from wqkv.errors import ArgumentError

    texts, _ = read_texts([args.text] if args.text is not None else [], args.file)
    if not texts:
        raise ArgumentError(mistake("no_text", example=CAPITALS))
    check_utf8("text", texts)
    check_utf8("answer", [args.answer or ""])
    check_utf8("rival", [args.against or ""])
    check_utf8("target", [args.target or ""])
    check_outputs(args, "links_picture")

    from wqkv.draw.arcs import save_png
    from wqkv.draw.why import as_json, save_csv, show
    from wqkv.effects.why import why
    from wqkv.study.opening import open_of_texts

    with spinner(args.lang) as opening:
        model = open_of_texts(args.model, opening)
    with bar(say(BESIDES["asking"], model=model.name), "steps", args.lang) as told:
        found = why(
            model,
            texts[0],
            args.answer,
            args.against,
            args.at,
            target=args.target,
            how=args.how,
            by=args.by,
            budget=args.budget,
            progress=told,
        )

    if found.question.kind == "similarity" and args.model is None:
        tell(say(BESIDES["similarity"], model=found.model), args.lang)
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
