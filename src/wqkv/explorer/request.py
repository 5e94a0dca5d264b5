"""What a request asks for, checked before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wqkv.explorer.jobs import Refused

#: The longest text, in characters, and the most words that are written at once.
LONGEST, WRITTEN = 1_000_000, 256


class Ask:
    """The parameters of one request."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        value = self._given.get(name)
        if value is None and default is not None:
            return default
        if value is None or not re.fullmatch(r"-?[0-9]{1,9}", value):
            came = "missing" if value is None else repr(value[:40])
            raise Refused(400, f"The parameter `{name}` is {came}.", "Pass a whole number.")
        return int(value)

    def wholes(self, *names: str) -> tuple[int, ...]:
        return tuple(self.whole(name) for name in names)

    def has(self, name: str) -> bool:
        return name in self._given

    def choice(self, name: str, default: str, *choices: str) -> str:
        """One of some words."""
        value = self._given.get(name, default)
        if value not in choices:
            wrong = f"The parameter `{name}` is {value[:40]!r}."
            raise Refused(400, wrong, f"Pass one of: {', '.join(choices)}.")
        return value


def text(value: object, name: str = "text") -> str:
    """A text that can be read."""
    if not isinstance(value, str):
        raise Refused(422, f"`{name}` is {type(value).__name__}, not a string.", "Send a string.")
    if len(value) > LONGEST:
        wrong = f"The text has {len(value):,} characters, and at most {LONGEST:,} are read."
        raise Refused(413, wrong, "Send a shorter text.")
    try:
        value.encode()
    except UnicodeEncodeError:
        wrong = "The text is no Unicode: it has one half of a pair of surrogates."
        raise Refused(422, wrong, "Send it without.") from None
    return value


def changes(body: dict[str, Any]) -> tuple[list[tuple[int, int]], dict[int, str]]:
    """The heads that a request switches off, and the words that it changes."""
    off, edits = body.get("off", []), body.get("edits", [])
    do = 'Send {"off": [[layer, head]], "edits": [{"token": number, "text": "..."}]}.'
    try:
        heads = [(_number(layer), _number(head)) for layer, head in off]
        tokens = {_number(edit["token"]): text(edit["text"]) for edit in edits}
    except (TypeError, ValueError, KeyError):
        raise Refused(422, "The changes are not understood.", do) from None
    return heads, tokens


def amount(body: dict[str, Any]) -> int:
    """How many words a request wants: {"count": number}."""
    count = body.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= WRITTEN:
        wrong = f"`count` is {str(count)[:40]}."
        raise Refused(422, wrong, f"Send a number from 1 to {WRITTEN}.")
    return count


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value
