"""What the commands are given: texts to read and files to write, checked before any work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from wqkv.sentences import LANGUAGES

EXAMPLE = "The animal didn't cross the street because it was too tired."

#: What a model may be named by, and what --model says of it.
NAMES = "minilm, e5, a folder, a .gguf file or a hub name"
MODEL = f"{NAMES} (default: minilm); see wqkv models"
#: What a command adds itself to. Any: argparse does not name the type of its parsers.
Commands: TypeAlias = "argparse._SubParsersAction[Any]"


def add_language(parser: argparse.ArgumentParser) -> None:
    """Add `--lang`, the language that a command speaks, to its parser: `args.lang`."""
    parser.add_argument(
        "--lang",
        choices=LANGUAGES,
        default=locale_language(),
        help="the language that it speaks (default: zh in a Chinese locale, or else en)",
    )


def locale_language() -> str:
    """Return the one of LANGUAGES that the locale of this process asks for, or else the first.

    The first of LC_ALL, LC_MESSAGES and LANG that is not empty decides, as for every program.
    """
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((value for name in names if (value := os.environ.get(name))), "")
    return next((lang for lang in LANGUAGES if locale.lower().startswith(lang)), LANGUAGES[0])


def read_texts(given: Sequence[str], file: Path | None) -> tuple[list[str], str]:
    """Return the texts to read, and a phrase that says what they are.

    Args:
        given: the texts as typed; "-" stands for standard input. None given is no text.
        file: a file to read in their place.
    """
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


def check_utf8(what: str, texts: Sequence[str]) -> None:
    """Refuse a text that is not Unicode; the shell passes such bytes as halves of surrogate pairs.

    Args:
        what: what the error calls the text.
    """
    from wqkv.errors import ArgumentError

    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"The {what} {text!a} is not valid UTF-8.") from None


def check_outputs(args: argparse.Namespace, picture: str) -> None:
    """Refuse a --csv or --png that cannot be written, and what a terminal or picture lacks.

    Args:
        picture: what the error calls the picture, such as "A picture of the links".
    """
    from wqkv.errors import need

    check_file("table", args.csv, ".csv")
    check_file("image", args.png, ".png")
    if args.png:
        need("matplotlib", "show", picture)
    if not args.json:
        need("rich", "show", "The terminal picture")


def check_file(what: str, path: Path | None, *suffixes: str) -> None:
    """Refuse a file to write if its suffix is not in `suffixes`, or its folder is not there."""
    from wqkv.errors import ArgumentError

    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        names = " or ".join(suffixes)
        raise ArgumentError(f"The {what} {str(path)!r} needs a name ending in {names}.")
    if not path.parent.is_dir():
        raise ArgumentError(f"The folder {str(path.parent)!r} of {str(path)!r} is not there.")
    if path.is_dir():
        raise ArgumentError(f"{str(path)!r} is a folder. Pass the name of a file.")
