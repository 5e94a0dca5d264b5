"""Every sentence that a person reads, in English and Chinese side by side: one file per subject."""

from __future__ import annotations

from collections.abc import Mapping

#: A sentence by its name, in the order of LANGUAGES; its {places} are filled in where it is said.
Sentences = Mapping[str, tuple[str, str]]

LANGUAGES = ("en", "zh")


def in_language(sentences: Sentences, lang: str) -> dict[str, str]:
    """Return the sentences in one of LANGUAGES.

    >>> in_language({"word": ("word", "词")}, "zh")
    {'word': '词'}
    """
    at = LANGUAGES.index(lang)
    return {name: both[at] for name, both in sentences.items()}
