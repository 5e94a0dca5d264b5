"""What the commands are given: texts to read and files to write, checked before any work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from wqkv.sentences import LANGUAGES, say
from wqkv.sentences.errors import mistake, one_of
from wqkv.sentences.reading import SOURCES

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
            raise ArgumentError(mistake("two_texts", file=file))
        try:
            texts = [file.read_text(encoding="utf-8-sig")]
        except UnicodeDecodeError as error:
            raise ArgumentError(
                mistake("file_not_utf8", file=str(file), **bad_byte(error))
            ) from None
        if not texts[0].strip():
            raise ArgumentError(mistake("file_empty", file=str(file)))
        return texts, say(SOURCES["file"], file=file.name)
    texts = []
    for number, text in enumerate(given, start=1):
        try:
            texts.append(sys.stdin.read() if text == "-" else text)
        except UnicodeDecodeError as error:
            raise ArgumentError(mistake("stdin_not_utf8", **bad_byte(error))) from None
        if not texts[-1].strip():
            if text == "-":
                raise ArgumentError(mistake("stdin_empty"))
            raise ArgumentError(mistake("text_empty", number=number, count=len(given)))
    return texts, say(SOURCES["given" if len(texts) < 2 else "several"], count=len(texts))


def bad_byte(error: UnicodeDecodeError) -> dict[str, int]:
    """Return the first byte that is not UTF-8, and where it stands."""
    return {"byte": error.object[error.start], "at": error.start}


def check_utf8(what: str, texts: Sequence[str]) -> None:
    """Refuse a text that is not Unicode; the shell passes such bytes as halves of surrogate pairs.

    Args:
        what: the name of the text in GIVEN, such as "answer".
    """
    from wqkv.errors import ArgumentError

    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(mistake("not_utf8", what=mistake(what), text=text)) from None


def check_outputs(args: argparse.Namespace, picture: str) -> None:
    """Refuse a --csv or --png that cannot be written, and what a terminal or picture lacks.

    Args:
        picture: the name of the picture in PURPOSES, such as "links_picture".
    """
    from wqkv.errors import need

    check_file("table", args.csv, ".csv")
    check_file("image", args.png, ".png")
    if args.png:
        need("matplotlib", "show", mistake(picture))
    if not args.json:
        need("rich", "show", mistake("terminal"))


def check_file(what: str, path: Path | None, *suffixes: str) -> None:
    """Refuse a file to write if its suffix is not in `suffixes`, or its folder is not there."""
    from wqkv.errors import ArgumentError

    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        names = one_of(suffixes)
        raise ArgumentError(mistake("suffix", what=mistake(what), file=str(path), names=names))
    if not path.parent.is_dir():
        raise ArgumentError(mistake("no_parent", folder=str(path.parent), file=str(path)))
    if path.is_dir():
        raise ArgumentError(mistake("is_folder", file=str(path)))
