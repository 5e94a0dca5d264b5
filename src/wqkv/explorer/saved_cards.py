"""What a saved page needs to say the cards of all heads and tokens: sentences, and rules as data.

Their numbers are computed in the page, from what explorer/saved_experiments.py records;
page/computed/cards.js fills the sentences and finds the right guess.
"""

from __future__ import annotations

from wqkv.draw.cards import PLACES_OF, SHOWS, answer_name
from wqkv.draw.to_json import plain
from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS, head_questions
from wqkv.experiments.guesses import OF_SCORES, PLACES, headline_name, rules_of
from wqkv.explorer.cards import BESIDE, KEPT_RANK, LINKS
from wqkv.explorer.schema import SavedCards, SavedQuestion, SavedSentences
from wqkv.sentences import LANGUAGES, in_language
from wqkv.sentences.experiments import (
    ANSWERS,
    GUESSES,
    HEADLINES,
    NUMBERS,
    OTHERWISE,
    REASONS,
    REFUSALS,
    UNITS,
)


def saved_cards(own: bool) -> SavedCards:
    """The questions as data; `own` is whether a text looks at itself."""
    return {
        "questions": [_question(name, own) for name in HEAD_QUESTIONS],
        "otherwise": {lang: in_language(OTHERWISE, lang) for lang in LANGUAGES},
        "alone": dict(zip(LANGUAGES, REFUSALS["alone"], strict=True)),
        "numbers": {lang: in_language(NUMBERS, lang) for lang in LANGUAGES},
        "units": {lang: in_language(UNITS, lang) for lang in LANGUAGES},
        "places": PLACES_OF,
        "links": LINKS,
        "kept": KEPT_RANK,
    }


def _question(name: str, own: bool) -> SavedQuestion:
    rules = rules_of(name, own)
    return {
        "name": name,
        "asked": {lang: plain(head_questions(lang)[name]) for lang in LANGUAGES},
        "said": {lang: _sentences(name, own, lang) for lang in LANGUAGES},
        "rules": [
            {"name": one, "of": rule.of, "how": rule.how, "bound": rule.bound}
            for one, rule in rules.items()
        ],
        "turn": PLACES[name],
        "headline": headline_name(name, own),
        "shows": SHOWS.get(name, "weights"),
        "beside": BESIDE.get(name, ()),
        "ofScores": name in OF_SCORES,
    }


def _sentences(name: str, own: bool, lang: str) -> SavedSentences:
    guesses, reasons = in_language(GUESSES, lang), in_language(REASONS, lang)
    names = {one: f"{name}.{one}" for one in rules_of(name, own)}
    return {
        "guesses": {one: guesses[key] for one, key in names.items()},
        "headline": in_language(HEADLINES, lang)[headline_name(name, own)[-1]],
        "answer": in_language(ANSWERS, lang)[answer_name(name, own)],
        "reasons": {one: reasons[key] for one, key in names.items() if key in reasons},
    }
