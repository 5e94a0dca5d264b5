"""What is asked of a head, and why a head may have no answer: in English and Chinese."""

from __future__ import annotations

from typing import NamedTuple

from wqkv.errors import ArgumentError
from wqkv.sentences import LANGUAGES, in_language
from wqkv.sentences.experiments import CHANGES, LIMITS, QUESTIONS, REFUSALS


class HeadQuestion(NamedTuple):
    """A question about q, k and v, the change that answers it, and what the answer leaves open."""

    question: str
    change: str  # in the paper's notation
    limits: str


def head_questions(lang: str) -> dict[str, HeadQuestion]:
    """The questions by the name of their experiment, in the order in which a learner asks them."""
    asked, changes, limits = (in_language(one, lang) for one in (QUESTIONS, CHANGES, LIMITS))
    return {name: HeadQuestion(asked[name], changes[name], limits[name]) for name in asked}


HEAD_QUESTIONS = head_questions("en")


class NoExperiment(ArgumentError):
    """An experiment that cannot be made of a head; `said` is why, also in Chinese."""

    def __init__(self, reason: str, **given: str | int | tuple[str, str]) -> None:
        """Keep the reason; a pair in `given` is said in the language of the sentence."""
        self.reason, self.given = reason, given
        super().__init__(self.said("en"))

    def said(self, lang: str) -> str:
        """The sentence in one of LANGUAGES; its last line says what to do."""
        at = LANGUAGES.index(lang)
        given = {k: v[at] if isinstance(v, tuple) else v for k, v in self.given.items()}
        return REFUSALS[self.reason][at].format(**given)
