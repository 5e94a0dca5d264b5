"""What a request asks for: its parameters and its JSON body, checked before any work is done."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from wqkv.explorer.jobs import Refused
from wqkv.sentences.errors import mistake

#: How long a text may be on the page, in characters.
MAX_CHARACTERS = 1_000_000
#: How many tokens the model writes at most for one request.
MAX_NEW_TOKENS = 256


class AskedWhy(NamedTuple):
    """Which number of a text is asked about: see `wqkv.effects.why`; None is the default there."""

    answer: str | None
    against: str | None
    at: int


class Sampling(NamedTuple):
    """How the next token is drawn: see `wqkv.generate`."""

    seed: int
    temperature: float
    top_k: int
    top_p: float


class Parameters:
    """The parameters in a request's address. Every method raises `Refused` for a wrong one."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def integer(self, name: str, default: int | None = None) -> int:
        """The integer that `name` gives, or `default` where it is left out."""
        value = self._given.get(name)
        if value is None and default is not None:
            return default
        if value is None or not re.fullmatch(r"-?[0-9]{1,9}", value):
            came = "missing" if value is None else repr(value[:40])
            raise Refused(400, f"The parameter `{name}` is {came}.", "Pass an integer.")
        return int(value)

    def number(self, name: str, default: float) -> float:
        """The number that `name` gives, such as 0.7, or `default` where it is left out."""
        value = self._given.get(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
            wrong = f"The parameter `{name}` is {value[:40]!r}."
            raise Refused(400, wrong, "Pass a number, such as 0.7.")
        return float(value)

    def integers(self, *names: str) -> tuple[int, ...]:
        """The integers that `names` give, none of which may be left out."""
        return tuple(self.integer(name) for name in names)

    def has(self, name: str) -> bool:
        """Whether `name` is given."""
        return name in self._given

    def choice(self, name: str, default: str, *choices: str) -> str:
        """The one of `choices` that `name` gives, or `default` where it is left out."""
        value = self._given.get(name, default)
        if value not in choices:
            wrong = f"The parameter `{name}` is {value[:40]!r}."
            raise Refused(400, wrong, f"Pass one of: {', '.join(choices)}.")
        return value

    def size(self) -> int:
        """How many blocks a side of a small map has: `size`."""
        size = self.integer("size", 64)
        if not 1 <= size <= 256:
            raise Refused(413, f"A side of {size} blocks cannot be drawn.", "Pass 1 to 256.")
        return size

    def asked_why(self) -> AskedWhy:
        """The number that is asked about: `answer`, `against` and `at`, each of which may miss."""
        answer, against = map(self._given.get, ("answer", "against"))
        return AskedWhy(answer, against, self.integer("at", -1))


class Body:
    """The JSON object that a request carries. Every method raises `Refused` for a wrong value."""

    def __init__(self, data: bytes | bytearray) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            wrong = f"The request is not JSON ({type(error).__name__})."
            raise Refused(400, wrong, "Send a JSON object.") from None
        if not isinstance(value, dict):
            wrong = f"The request is {type(value).__name__}, not a JSON object."
            raise Refused(422, wrong, "Send a JSON object.")
        # JSON that anyone may have sent: nothing is known of its values until a method checks them.
        self._given: dict[str, Any] = value

    @property
    def key(self) -> str:
        """The body as JavaScript writes it."""
        return json.dumps(self._given, separators=(",", ":"), ensure_ascii=False)

    def text(self) -> str:
        """The text to read: {"text": "..."}."""
        return _checked_text(self._given.get("text"), "text")

    def view(self) -> str | None:
        """The view whose text is read on: {"view": "..."}; None if left out."""
        view = self._given.get("view")
        return None if view is None else _checked_text(view, "view")

    def window(self) -> int:
        """Which window of a long text is read: {"window": number}; the first if left out."""
        window = self._given.get("window", 0)
        if type(window) is int:
            return window
        raise Refused(422, f"`window` is {str(window)[:40]}.", "Send the number of a window.")

    def target(self) -> str | None:
        """What a model of two texts is to have written: {"target": "..."}; None if left out."""
        target = self._given.get("target")
        return None if target is None else _checked_text(target, "target")

    def pair(self) -> str | None:
        """A second sentence that is read with the text: {"pair": "..."}; None if left out."""
        pair = self._given.get("pair")
        return None if pair is None else _checked_text(pair, "pair")

    def picture(self) -> str | None:
        """A picture that is read with the text: {"picture": a data: address}; None if left out."""
        picture = self._given.get("picture")
        return None if picture is None else _checked_text(picture, "picture")

    def changes(self) -> tuple[list[tuple[int, int]], dict[int, str]]:
        """The heads to switch off as (layer, head), and the new text of tokens by position."""
        off, edits = self._given.get("off", []), self._given.get("edits", [])
        do = 'Send {"off": [[layer, head]], "edits": [{"token": number, "text": "..."}]}.'
        try:
            heads = [(_checked_integer(layer), _checked_integer(head)) for layer, head in off]
            texts = {
                _checked_integer(edit["token"]): _checked_text(edit["text"], "text")
                for edit in edits
            }
        except (TypeError, ValueError, KeyError):
            raise Refused(422, "The changes are not understood.", do) from None
        return heads, texts

    def asked_why(self) -> AskedWhy:
        """The number that is asked about: {"answer": "...", "against": "...", "at": number}."""
        answer, against = (
            None if (text := self._given.get(name)) is None else _checked_text(text, name)
            for name in ("answer", "against")
        )
        at = self._given.get("at", -1)
        if type(at) is not int:
            raise Refused(422, f"`at` is {str(at)[:40]}.", "Send the number of a token.")
        return AskedWhy(answer, against, at)

    def choice(self, name: str, *choices: str) -> str:
        """The one of `choices` that `name` gives; the first one if it is left out."""
        value = self._given.get(name, choices[0])
        if value not in choices:
            wrong = f"`{name}` is {str(value)[:40]}."
            raise Refused(422, wrong, f"Send one of: {', '.join(choices)}.")
        return str(value)

    def sampling(self) -> Sampling | None:
        """How tokens are drawn, or None where each is the likeliest one.

        {"seed": 1, "temperature": 0.7, "top_k": 50, "top_p": 0.9}: all but the seed may miss.
        """
        if "seed" not in self._given:
            return None
        seed, top_k = self._given["seed"], self._given.get("top_k", 0)
        numbers = [self._given.get(name, 1.0) for name in ("temperature", "top_p")]
        whole = all(type(one) is int and 0 <= one < 2**32 for one in (seed, top_k))
        if not whole or not all(type(one) in (int, float) and one < 1e9 for one in numbers):
            do = 'Send {"seed": 1, "temperature": 0.7, "top_k": 50, "top_p": 0.9}.'
            raise Refused(422, "How tokens are drawn is not understood.", do)
        return Sampling(seed, float(numbers[0]), top_k, float(numbers[1]))

    def count(self) -> int:
        """How many tokens the model is to write: {"count": number}."""
        count = self._given.get("count")
        if type(count) is int and 1 <= count <= MAX_NEW_TOKENS:
            return count
        wrong = f"`count` is {str(count)[:40]}."
        raise Refused(422, wrong, f"Send a number from 1 to {MAX_NEW_TOKENS}.")


def _checked_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Refused(422, f"`{name}` is {type(value).__name__}, not a string.", "Send a string.")
    if len(value) > MAX_CHARACTERS:
        too_long = mistake("characters", count=len(value), most=MAX_CHARACTERS)
        raise Refused.because(413, too_long)
    try:
        value.encode()
    except UnicodeEncodeError:
        wrong = "The text is not valid Unicode: it holds one half of a surrogate pair."
        raise Refused(422, wrong, "Send it without that character.") from None
    return value


def _checked_integer(value: object) -> int:
    if type(value) is not int:  # isinstance takes True and False for integers
        raise TypeError
    return value
