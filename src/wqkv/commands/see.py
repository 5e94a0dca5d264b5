"""`wqkv see SENTENCE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wqkv.commands.given import (
    EXAMPLE,
    MODEL,
    Commands,
    add_language,
    bad_byte,
    check_file,
    check_utf8,
)
from wqkv.commands.progress import spinner
from wqkv.commands.screen import console, print_json, say_written, tell
from wqkv.sentences import say
from wqkv.sentences.commands import RESULT
from wqkv.sentences.errors import mistake

if TYPE_CHECKING:
    from wqkv.study.one_token import TokenStory
    from wqkv.study.tokens import TokenizedText


def add(commands: Commands) -> None:
    what = "what WQ, WK, WV and WO of one head of a trained model do to one word of a sentence"
    see = commands.add_parser(
        "see",
        help=what,
        description=f"Show {what}.",
        allow_abbrev=False,
        epilog=f'example: wqkv see "{EXAMPLE}" --word it',
    )
    see.set_defaults(command=run)
    arg = see.add_argument
    chosen = "(default: chosen for you)"
    arg("sentences", nargs="*", metavar="SENTENCE", help="in quotes; - reads one a line from stdin")
    arg("--model", metavar="NAME", help=MODEL)
    arg("--pair", metavar="TEXT", help="a second sentence, which an encoder reads with the first")
    arg("--chat", action="store_true", help="a SENTENCE is what a user says to a chat model")
    arg("--word", help=f"the word to follow {chosen}")
    arg("--layer", type=int, metavar="L", help=f"the layer, counted from 0 {chosen}")
    arg("--head", type=int, metavar="H", help=f"the head, counted from 0 {chosen}")
    arg("--html", type=Path, metavar="FILE", help="write a web page instead of printing")
    arg(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the matrices and the map as .png, .svg or .pdf",
    )
    arg("--json", action="store_true", help="print JSON instead of the picture")
    add_language(see)


def run(args: argparse.Namespace) -> None:
    sentences = list(_sentences(args.sentences))
    _check(args, sentences)

    from wqkv.study.chat import chat_text, read_messages
    from wqkv.study.model import open_model
    from wqkv.study.one_token import clearest_story

    with spinner(args.lang) as progress:
        model = open_model(args.model, progress)
        if args.chat:
            given = (read_messages(text) for text in sentences)
            sentences = [chat_text(model.tokenizer, model.name, one) for one in given]
        texts: Sequence[str | TokenizedText] = sentences
        if args.pair is not None:
            texts = [model.tokens(text, args.pair) for text in sentences]
        stories = [clearest_story(model, text, args.word, args.layer, args.head) for text in texts]

    for story in stories if args.word else ():
        _say_which_token(story, args.word, args.lang)
    if args.html:
        from wqkv.draw.html import page

        args.html.write_text(page(stories, args.lang), encoding="utf-8")
        say_written(args.html, args.lang)
    if args.output:
        from wqkv.draw.plots import save_story

        for note in save_story(stories[0], args.output, args.lang):
            tell(note, args.lang)
        say_written(args.output, args.lang)
    if args.json:
        from wqkv.draw.to_json import as_json

        print_json(as_json(stories))
    elif not (args.html or args.output):
        _print(stories, args.lang)


def _sentences(given: Sequence[str]) -> Iterator[str]:
    """Yield the sentences, with the lines of standard input in place of "-"."""
    from wqkv.errors import ArgumentError

    if not given:
        raise ArgumentError(mistake("no_sentence", example=EXAMPLE))
    for number, sentence in enumerate(given, start=1):
        if sentence == "-":
            try:
                lines = [line.strip() for line in sys.stdin if line.strip()]
            except UnicodeDecodeError as error:
                raise ArgumentError(mistake("stdin_not_utf8", **bad_byte(error))) from None
            if not lines:
                raise ArgumentError(mistake("stdin_no_sentence"))
            yield from lines
        elif not sentence.strip():
            raise ArgumentError(
                mistake("sentence_empty", number=number, count=len(given), sentence=sentence)
            )
        else:
            yield sentence


def _check(args: argparse.Namespace, sentences: Sequence[str]) -> None:
    """Refuse what cannot be shown or written before the model is opened, which may take minutes."""
    from wqkv.errors import ArgumentError, need

    check_utf8("sentence", [*sentences, args.pair or ""])
    check_file("page", args.html, ".html", ".htm")
    if args.output:
        from wqkv.draw.plots import check_format

        check_format(args.output)
        check_file("image", args.output)
        need("matplotlib", "show", mistake("map_image"))
        if len(sentences) > 1:
            raise ArgumentError(mistake("one_map", count=len(sentences)))
    if not (args.html or args.output or args.json):
        need("rich", "show", mistake("terminal"))


def _say_which_token(story: TokenStory, word: str, lang: str) -> None:
    """Say which token is followed, if the word that was typed is not one token of the model."""
    token, wanted = story.tokens[story.token], word.strip()
    if wanted.casefold() not in (token.casefold(), str(story.token)):
        followed = {"typed": wanted, "token": token, "number": story.token}
        tell(say(RESULT["followed"], **followed), lang)


def _print(stories: Sequence[TokenStory], lang: str) -> None:
    from wqkv.draw.terminal import see

    drawn = console()
    for i, story in enumerate(stories):
        if i:
            drawn.print()
        see(story, drawn, lang)
