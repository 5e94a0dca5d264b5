"""Every sentence that a person reads, in English and Chinese side by side: one file per subject."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter

#: A sentence by its name, in the order of LANGUAGES; its {places} are filled in where it is said.
Sentences = Mapping[str, tuple[str, str]]

LANGUAGES = ("en", "zh")
#: Letters of a language that not every font or encoding has.
LETTERS = {"en": "", "zh": "层头词元注意力权重，。：；（）"}


def in_language(sentences: Sentences, lang: str) -> dict[str, str]:
    """Return the sentences in one of LANGUAGES.

    >>> in_language({"word": ("word", "词")}, "zh")
    {'word': '词'}
    """
    at = LANGUAGES.index(lang)
    return {name: both[at] for name, both in sentences.items()}


class Said(str):
    """A sentence in English that knows itself in Chinese too.

    The library says it in its errors, records and progress lines, where it is a plain str; who
    shows it to a person asks for it `translated`.
    """

    both: tuple[str, ...]  # in the order of LANGUAGES

    def __new__(cls, *both: str) -> Said:
        said = super().__new__(cls, both[0])
        said.both = both
        return said

    def __getnewargs__(self) -> tuple[str, ...]:  # type: ignore[override]  # str's own has one
        return self.both


def say(sentence: tuple[str, str], /, **facts: object) -> Said:
    """Fill the places of a sentence, in both languages; a fact may be said itself.

    >>> both = say(("There is no {what}.", "没有{what}。"), what=Said("token", "词元"))
    >>> both, translated(both, "zh")
    ('There is no token.', '没有词元。')
    """
    return Said(
        *(
            text.format(
                **{
                    name: translated(fact, lang) if isinstance(fact, str) else fact
                    for name, fact in facts.items()
                }
            )
            for lang, text in zip(LANGUAGES, sentence, strict=True)
        )
    )


def translated(sentence: str, lang: str) -> str:
    """Return what was said in one of LANGUAGES; a plain str, which knows one, as it is.

    >>> translated("token", "zh")
    'token'
    """
    return sentence.both[LANGUAGES.index(lang)] if isinstance(sentence, Said) else sentence


def recognized(sentence: str, known: Sentences) -> str:
    """Return an English sentence so that it knows itself in Chinese, if it is one of `known`.

    For sentences that others make, or that were read from a file: the facts are read from their
    places, and each may be one of `known` too.

    >>> translated(recognized("no layer 7", {"none": ("no layer {n}", "没有第 {n} 层")}), "zh")
    '没有第 7 层'
    """
    for both in known.values():
        if found := re.fullmatch(_pattern(both[0]), sentence, re.DOTALL):
            facts = {name: recognized(fact, known) for name, fact in found.groupdict().items()}
            return say(both, **facts)
    return sentence


def _pattern(sentence: str) -> str:
    """The regular expression that finds the facts of a sentence in their places."""
    return "".join(
        re.escape(text) + (f"(?P<{name}>.*?)" if name else "")
        for text, name, _, _ in Formatter().parse(sentence)
    )
