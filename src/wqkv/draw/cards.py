"""An experiment as a card: guesses, and an answer with its numbers, in English or Chinese; as JSON.

A card is text. Who draws it adds maps and bars.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from wqkv.draw.steps import label
from wqkv.draw.to_json import Json, plain
from wqkv.experiments.asked_of_heads import head_questions
from wqkv.experiments.changed_head import Experiment
from wqkv.experiments.guesses import (
    guesses,
    headline_name,
    number_of,
    right_guess,
    strongest_other,
    unanswered,
)
from wqkv.maps.display import weight
from wqkv.sentences import LANGUAGES, in_language
from wqkv.sentences.experiments import ANSWERS, GUESSES, HEADLINES, OTHERWISE, REASONS

#: The numbers of an experiment as the sentences name them: {own0} is before, {own1} after.
PLACES_OF = {
    "own": "weight on itself",
    "link": "weight of the strongest link",
    "large": "largest weight",
    "slope": "trace of the softmax's Jacobian",
    "change": "change of the output",
    "cosine": "cosine with the trained output",
    "back": "the link back",
    "size": "size of the matrices",
    "rank": "rank of WQ WK^T",
    "spread": "standard deviation of q . k",
    "root": "sqrt(d_k)",
    "share": "what it adds",
    "kept": "kept of WQ WK^T",
}


#: What a card draws beside its sentences, where it is not the weights of the row.
SHOWS: dict[str, Literal["outputs", "numbers"]] = {
    "value_is_key": "outputs",
    "concat_or_sum": "outputs",
    "shuffled_heads": "outputs",
    "variance": "numbers",
}


class Card(NamedTuple):
    """What a card says in one language."""

    guesses: tuple[str, ...]  # in the order of `guesses`
    headline: str  # what the two large numbers are
    answer: str
    reason: str  # why it came out so, or that it came out as none of the guesses says


def card(experiment: Experiment, lang: str) -> Card:
    """The sentences of an experiment, with its numbers, in one of LANGUAGES."""
    name, own = experiment.name, experiment.trained.looks_at_itself
    places = _places(experiment)
    return Card(
        guesses=tuple(
            in_language(GUESSES, lang)[f"{name}.{one}"].format(**places)
            for one in guesses(experiment)
        ),
        headline=in_language(HEADLINES, lang)[headline_name(name, own)[-1]].format(**places),
        answer=in_language(ANSWERS, lang)[answer_name(name, own)].format(**places),
        reason=_reason(experiment, lang).format(**places),
    )


def answer_name(name: str, own: bool) -> str:
    """The name of an answer's sentence; between two texts (not `own`) nothing is on itself."""
    return name if own or name not in ("no_projection", "same_matrix") else "cross"


def _reason(experiment: Experiment, lang: str) -> str:
    right = right_guess(experiment)
    if right is not None:
        return in_language(REASONS, lang).get(f"{experiment.name}.{right}", "")
    return in_language(OTHERWISE, lang)[unanswered(experiment) or "none"]


def _places(experiment: Experiment) -> dict[str, str]:
    """What the sentences name, as it is written."""
    view, after = experiment.trained.view, experiment.after
    tokens, keys = view.reading.shown, view.keys.shown
    most, same = int(after.weights.argmax()), experiment.same
    found = {
        "token": label(tokens, experiment.row),
        "key": label(keys, experiment.key),
        "other": label(keys, strongest_other(experiment)),
        "most": label(keys, most),
        "most_weight": digits(float(after.weights[most])),
        "d_k": str(experiment.before.call.query.shape[3]),
        # The only further argument that an experiment has is the last one of its Python.
        "r": experiment.python.rpartition(", ")[2].rstrip(")"),
        "off": "" if same is None else f"{same.difference:.1e}",
        "of": "" if same is None else digits(same.size),
    }
    known = {one.name for one in experiment.numbers}
    for place, name in PLACES_OF.items():
        if name in known:
            one = number_of(experiment, name)
            found[f"{place}0"] = digits(one.before)
            found[f"{place}1"] = "" if one.after is None else digits(one.after)
    return found | {"root": found.get("root0", "")}


def digits(value: float) -> str:
    """A number with three digits or decimals; a count with all of them.

    >>> digits(0.67684), digits(-0.2), digits(10.56), digits(24576)
    ('0.677', '-0.200', '10.6', '24,576')
    """
    if isinstance(value, int):
        return f"{value:,}"
    text = weight(abs(value)) if abs(value) < 10 else f"{abs(value):.3g}"
    return f"-{text}" if value < 0 else text


def experiment_as_json(experiment: Experiment) -> dict[str, Json]:
    """Every number of an experiment for strict JSON, and what its card says in both languages.

    A number that is not finite is None, such as the score of a hidden token. Maps are not built.
    """
    return {
        "name": experiment.name,
        "layer": experiment.layer,
        "head": experiment.head,
        "token": experiment.row,
        "key": experiment.key,
        "asked": {lang: plain(head_questions(lang)[experiment.name]) for lang in LANGUAGES},
        "cards": {lang: plain(card(experiment, lang)) for lang in LANGUAGES},
        "guesses": list(guesses(experiment)),
        "right": right_guess(experiment),
        "numbers": plain(experiment.numbers),
        **{
            name: {
                "scores": plain(state.scores),
                "weights": plain(state.weights),
                "output": plain(state.output),
            }
            for name, state in (("before", experiment.before), ("after", experiment.after))
        },
        "proof": plain(experiment.proof),
        "same": plain(experiment.same),
        "python": experiment.python,
    }
