"""`wqkv open TEXT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from wqkv.commands.given import (
    EXAMPLE,
    MODEL,
    Commands,
    add_language,
    check_file,
    check_utf8,
    read_texts,
)
from wqkv.commands.progress import bar, spinner
from wqkv.commands.screen import say_written, tell
from wqkv.explorer.hosts import canonical_host, is_loopback
from wqkv.sentences import LANGUAGES, say
from wqkv.sentences.commands import PROGRESS, RESULT
from wqkv.sentences.errors import mistake


def add(commands: Commands) -> None:
    what = "open a text in the browser: every number of every head, on this machine alone"
    parser = commands.add_parser(
        "open",
        help=what,
        description=what.capitalize() + ".",
        allow_abbrev=False,
        epilog=f'example: wqkv open "{EXAMPLE}"',
    )
    parser.set_defaults(command=run)
    add_language(parser)
    arg = parser.add_argument
    arg(
        "text",
        nargs="?",
        metavar="TEXT",
        help="in quotes, or the file of a picture, if --model reads pictures; - reads stdin "
        "(default: an example)",
    )
    arg("--model", metavar="NAME", help=MODEL)
    arg("--text", dest="file", type=Path, metavar="FILE", help="read this file")
    arg("--pair", metavar="TEXT", help="a second sentence, which an encoder reads with the first")
    arg("--picture", metavar="FILE", help="a picture, which a model of both reads with the text")
    arg("--chat", action="store_true", help="the text is what a user says to a chat model, or JSON")
    arg("--window", type=int, default=0, metavar="N", help="of a long text, the window to begin at")
    arg("--target", metavar="TEXT", help="what a model of two texts writes (default: it decides)")
    arg(
        *("--save", "--export"),
        dest="export",
        type=Path,
        metavar="FILE",
        help="write one page instead of serving it",
    )
    arg("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    arg("--port", type=int, default=0, help="the port to listen on (default: a free one)")
    arg("--others", action="store_true", help="allow a --host that other machines can reach")
    arg("--no-browser", action="store_true", help="print the address, and open no browser")


def run(args: argparse.Namespace) -> None:
    from wqkv.errors import ArgumentError, need

    texts, _ = read_texts([args.text] if args.text is not None else [], args.file)
    text = texts[0] if texts else EXAMPLE
    check_utf8("text", [text, args.target or "", args.pair or "", args.picture or ""])
    check_file("page", args.export, ".html", ".htm")
    if not 0 <= args.port < 2**16:
        raise ArgumentError(mistake("no_port", port=args.port, last=2**16 - 1))
    if canonical_host(args.host) in ("0.0.0.0", "[::]", ""):
        raise ArgumentError(mistake("host_any", host=args.host))
    if not is_loopback(args.host) and not args.others:
        raise ArgumentError(mistake("host_reachable", host=args.host))
    if not args.export:
        need("starlette", "show", mistake("explorer"))
        need("uvicorn", "show", mistake("explorer"))

    from wqkv.study.chat import chat_text, read_messages
    from wqkv.study.opening import open_any
    from wqkv.study.vision import OpenVision, is_picture_file
    from wqkv.study.vision_language import OpenVisionLanguage

    with spinner(args.lang) as opening:
        model = open_any(args.model, opening)
        if isinstance(model, OpenVision):
            if not texts or args.pair is not None or args.picture is not None or args.chat:
                raise ArgumentError(mistake("reads_picture", model=model.name))
            model.tokens(text)  # said here if it is no picture, and not on the page alone
        elif is_picture_file(text):
            raise ArgumentError(mistake("is_picture", model=model.name, path=text))
        elif args.picture is not None:
            if not isinstance(model, OpenVisionLanguage):
                raise ArgumentError(mistake("no_picture_beside", model=model.name))
            model.tokens(text, args.picture)
        elif args.chat:
            text = chat_text(model.tokenizer, model.name, read_messages(text))
    if args.export:
        from wqkv.explorer.api import Api
        from wqkv.explorer.export import export

        with bar(say(PROGRESS["recording"]), "layers", args.lang) as progress:
            api = Api(model, args.model)
            seen = api.open(text, progress, args.target, args.window, args.pair, args.picture)
            page = export(api, seen, seen.first[1:], args.lang, progress)
        args.export.write_text(page, encoding="utf-8")
        say_written(args.export, args.lang)
        return

    from wqkv.explorer.server import serve
    from wqkv.explorer.ticket import address_with_ticket

    # A page without a language in its address speaks that of the browser.
    place = "" if args.lang == LANGUAGES[0] else f"#lang={args.lang}"

    def ready(address: str) -> None:
        tell(f"{address}{place}", args.lang)
        tell(say(RESULT["ends"]), args.lang)
        if not args.no_browser:
            import webbrowser

            webbrowser.open(f"{address_with_ticket(address)}{place}")

    serve(
        model,
        text,
        target=args.target,
        pair=args.pair,
        picture=args.picture,
        window=args.window,
        source=args.model,
        host=args.host,
        port=args.port,
        ready=ready,
    )
