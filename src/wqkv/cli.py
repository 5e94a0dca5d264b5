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
from wqkv.commands.screen import clean_streams


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
    try:
        args = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], bool | None] = args.command
        answer_is_no = command(args) is False
        sys.stdout.flush()
        return int(answer_is_no)
    except SystemExit as stop:  # argparse has printed why
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("wqkv: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        print(f"wqkv: {_message(error)}", file=sys.stderr)
        return 2


def _message(error: Exception) -> str:
    """Return what is wrong on one line, or the traceback if it is not the user's mistake."""
    from wqkv.errors import WqkvError

    if isinstance(error, WqkvError):
        return one_line(str(error))
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return one_line(f"{where}{error.strerror or error}")
    return "".join(traceback.format_exception(error)).rstrip()


def one_line(message: str) -> str:
    r"""Return a message on one line, with its indented lines in parentheses.

    >>> one_line("No token 'x'.\n  tokens: a, b\n  layer: int 3\nPass one of them.")
    "No token 'x'. (tokens: a, b; layer: int 3) Pass one of them."
    """
    inline = re.sub(
        r"(?:\n {2,}.*)+",
        lambda facts: f" ({'; '.join(line.strip() for line in facts[0].strip().splitlines())})",
        message,
    )
    return " ".join(inline.split())


class _Parser(argparse.ArgumentParser):
    # argparse ends a list of texts at the first option: `wqkv diff A --cache-bits 4 TEXT` would be
    # refused. Its signature has one overload per kind of namespace.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "texts") and not any(one.startswith("-") and one != "-" for one in rest):
            found.texts, rest = [*found.texts, *rest], []
        return found, rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"wqkv: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wqkv", description="Multi-head attention that you can open.")
    parser.add_argument("--version", action="version", version=f"wqkv {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (see, open, heads, why, rate, diff, parity, survey, models):
        command.add(commands)
    return parser
