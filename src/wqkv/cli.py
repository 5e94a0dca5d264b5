"""The command line: `wqkv see | open | heads | why | rate | diff | parity | survey | models`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from wqkv import __version__
from wqkv.commands import diff, heads, models, open, parity, rate, see, survey, why
from wqkv.commands.given import add_language, locale_language
from wqkv.commands.screen import clean_streams
from wqkv.sentences import say, translated
from wqkv.sentences.usage import FRAME, said_by_argparse, said_by_system


def main(argv: list[str] | None = None) -> int:
    """Run one command, and return the exit status.

    That is 0; 1 if the command's answer is no, or who reads its output has gone; 2 after an error;
    130 after Ctrl-C.
    """
    try:
        with clean_streams():
            return _run(argv)
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would print a traceback then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: list[str] | None) -> int:
    lang = _language(argv)
    try:
        args = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], bool | None] = args.command
        answer_is_no = command(args) is False
        sys.stdout.flush()
        return int(answer_is_no)
    except SystemExit as stop:  # argparse has printed what was asked for, such as --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print(f"wqkv: {translated(say(FRAME['interrupted']), lang)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        print(f"wqkv: {_message(error, lang)}", file=sys.stderr)
        return 2


def _language(argv: list[str] | None) -> str:
    """The language that is asked for, also where nothing else of the command line can be read."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_language(early)
    try:
        lang: str = early.parse_known_args(argv)[0].lang
    except argparse.ArgumentError:  # no language, or one that is not spoken here
        return locale_language()
    return lang


class _UsageError(Exception):
    """What is wrong with the command line."""


def _message(error: Exception, lang: str) -> str:
    """Return what is wrong on one line, or the traceback if it is not the user's mistake."""
    from wqkv.errors import WqkvError

    if isinstance(error, WqkvError | _UsageError):
        return one_line(translated(error.args[0], lang))
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        reason = translated(said_by_system(error.strerror or str(error)), lang)
        return one_line(f"{where}{reason}")
    return "".join(traceback.format_exception(error)).rstrip()


def one_line(message: str) -> str:
    r"""Return a message on one line, with its indented lines in parentheses.

    Lines of Python, which are indented by four and end a message, stay lines of their own.

    >>> one_line("No token 'x'.\n  tokens: a, b\n  layer: int 3\nPass one of them.")
    "No token 'x'. (tokens: a, b; layer: int 3) Pass one of them."
    >>> one_line("No model.\nMake it:\n    model = MyModel()")
    'No model. Make it:\n    model = MyModel()'
    """
    found = re.search(r"(\n {4}.*)+\Z", message)
    python = found[0] if found else ""
    inline = re.sub(
        r"(?:\n {2,}.*)+",
        lambda facts: f" ({'; '.join(line.strip() for line in facts[0].strip().splitlines())})",
        message.removesuffix(python),
    )
    # Chinese has no blank behind its full stop.
    return " ".join(inline.split()).replace("。 ", "。") + python


class _Parser(argparse.ArgumentParser):
    # argparse ends a list of texts at the first option: `wqkv diff A --cache-bits 4 TEXT` would be
    # refused. Its signature has one overload per kind of namespace.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "texts") and not any(one.startswith("-") and one != "-" for one in rest):
            found.texts, rest = [*found.texts, *rest], []
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise _UsageError(say(FRAME["usage"], what=said_by_argparse(message), program=self.prog))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wqkv", description="Multi-head attention that you can open.")
    parser.add_argument("--version", action="version", version=f"wqkv {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (see, open, heads, why, rate, diff, parity, survey, models):
        command.add(commands)
    return parser
