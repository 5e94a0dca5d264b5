"""Three guesses for every question, and which of them the numbers of a run make right.

No right answer is written down: each guess is a rule over an `Experiment`, with the thresholds
below, and the first one that holds is right. The rules of most questions leave no other case; of
the others it may be that none holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS
from wqkv.experiments.changed_head import Experiment, Measured

#: "Looks mostly at itself": at least this weight. "Keeps most of its weight": this share of it.
MOST = 0.5
#: "One takes nearly all": at least this weight.
NEARLY_ALL = 0.9
#: "Nearly even": at least this share of the largest possible entropy, log of the visible keys.
EVEN = 0.9
#: A weight that changes by less stays as it is; so does an output, relative to its length.
STAYS = 0.01
#: A weight that changes by less moves a little.
LITTLE = 0.1
#: Outputs with at least this cosine point the same way; with less than APART they are others.
ALIKE, APART = 0.9, 0.5
#: Two numbers are about the same if neither is more than this times the other; for a link and the
#: link back, `TWICE`.
ABOUT, TWICE = 1.25, 2.0

#: Where the right guess of each question stands, so that it never does twice at the same place in
#: a row.
PLACES = dict(zip(HEAD_QUESTIONS, (1, 0, 2, 1, 2, 0, 1, 2, 0, 2, 0, 1), strict=True))

Rule = Callable[[Experiment], bool]


def number_of(experiment: Experiment, name: str) -> Measured:
    """A number of an experiment by its name."""
    return next(one for one in experiment.numbers if one.name == name)


def strongest_other(experiment: Experiment) -> int:
    """The key that has the most weight as trained, without the query token itself."""
    weights = experiment.before.weights.clone()
    if experiment.trained.looks_at_itself:
        weights[experiment.row] = -1
    return int(weights.argmax())


def sees_one_alone(experiment: Experiment) -> bool:
    """Whether the row has one visible key, or none, so that no scores change its weights."""
    return int(experiment.before.scores.isfinite().sum()) <= 1


def _after(experiment: Experiment, name: str) -> float:
    found = number_of(experiment, name).after
    assert found is not None
    return found


def _itself(experiment: Experiment) -> bool:
    own = experiment.trained.looks_at_itself
    return own and float(experiment.after.weights[experiment.row]) >= MOST


def _even(experiment: Experiment) -> bool:
    seen = int(experiment.after.scores.isfinite().sum())
    return _after(experiment, "entropy") >= EVEN * math.log(seen)


def _finds(experiment: Experiment) -> bool:
    return int(experiment.after.weights.argmax()) == strongest_other(experiment)


def _one(experiment: Experiment) -> bool:
    return _after(experiment, "largest weight") >= NEARLY_ALL


def _first(experiment: Experiment) -> bool:
    """Whether the strongest link is the strongest one still."""
    return int(experiment.after.weights.argmax()) == experiment.key


def _keeps_most(experiment: Experiment) -> bool:
    name = "weight of the strongest link"
    least = MOST * number_of(experiment, name).before
    return _first(experiment) and _after(experiment, name) >= least


def _stays(experiment: Experiment) -> bool:
    return number_of(experiment, "change of the output").before < STAYS


def _cosine_above(least: float) -> Rule:
    return lambda experiment: _after(experiment, "cosine with the trained output") >= least


def _grows(by: float) -> Rule:
    """Whether the largest weight grows by more than `by`; by a negative one, it falls."""

    def holds(experiment: Experiment) -> bool:
        change = number_of(experiment, "largest weight")
        grown = _after(experiment, "largest weight") - change.before
        return grown > by if by > 0 else grown < by

    return holds


def _moved(experiment: Experiment) -> float:
    """By how much the weight of the row that changes most does."""
    return float((experiment.after.weights - experiment.before.weights).abs().max())


def _same(experiment: Experiment) -> bool:
    """The same to rounding, if the experiment says so, and else no weight that is seen to move."""
    return experiment.same.holds if experiment.same is not None else _moved(experiment) < 1e-5


#: The two numbers that a question sets against each other: its headline. Of one name they are the
#: number before and after the change, of two names the numbers as trained.
HEADLINE_OF = {
    "no_projection": ("weight on itself",),
    "same_matrix": ("weight on itself",),
    "value_is_key": ("cosine with the trained output",),
    "unscaled": ("largest weight",),
    "swapped": ("the link back",),
    "big_weight": ("weight of the strongest link", "what it adds"),
    "concat_or_sum": ("length of the output",),
    "shuffled_heads": ("cosine with the trained output",),
    "variance": ("sqrt(d_k)", "standard deviation of q . k"),
    "no_key_bias": ("weight of the strongest link",),
    "merged": ("size of the matrices",),
    "low_rank": ("weight of the strongest link",),
}


def headline_name(experiment: Experiment) -> tuple[str, ...]:
    """The numbers of a question's headline by name; between two texts nothing is on itself."""
    names = HEADLINE_OF[experiment.name]
    own = experiment.trained.looks_at_itself
    return names if own or names != ("weight on itself",) else ("largest weight",)


def headline(experiment: Experiment) -> tuple[float, float]:
    """The two numbers that the question sets against each other."""
    first, *second = headline_name(experiment)
    before = number_of(experiment, first).before
    return before, number_of(experiment, *second).before if second else _after(experiment, first)


def ratio(experiment: Experiment) -> float:
    """The second number of the headline over the first."""
    first, second = headline(experiment)
    return second / first if first else math.inf


def _otherwise(experiment: Experiment) -> bool:
    """The last guess of three that leave no other case."""
    return True


_SHARES = {"less": lambda e: ratio(e) < 1 / ABOUT, "more": lambda e: ratio(e) > ABOUT}
_LOOKS: dict[str, Rule] = {"itself": _itself, "even": _even, "finds": _finds}

#: The guesses of each question: their names, each with the rule that makes it right.
RULES: dict[str, dict[str, Rule]] = {
    "no_projection": _LOOKS,
    "same_matrix": _LOOKS,
    "value_is_key": {"same": _stays, "length": _cosine_above(ALIKE), "other": _otherwise},
    "unscaled": {"sharper": _grows(STAYS), "flatter": _grows(-STAYS), "same": _otherwise},
    "swapped": {
        "weaker": lambda e: ratio(e) < 1 / TWICE,
        "stronger": lambda e: ratio(e) > TWICE,
        "alike": _otherwise,
    },
    "big_weight": {**_SHARES, "share": _otherwise},
    "concat_or_sum": {"same": _same, "longer": lambda e: ratio(e) > 1, "shorter": _otherwise},
    "shuffled_heads": {"same": _stays, "near": _cosine_above(APART), "other": _otherwise},
    "variance": {
        "narrower": lambda e: ratio(e) < 1 / ABOUT,
        "wider": lambda e: ratio(e) > ABOUT,
        "as_said": _otherwise,
    },
    "no_key_bias": {"same": _same, "lost": lambda e: not _first(e), "moved": _otherwise},
    "merged": {"same": _same, "near": lambda e: _moved(e) < LITTLE, "other": _otherwise},
    "low_rank": {"finds": _keeps_most, "weaker": _first, "lost": _otherwise},
}


def rules_of(experiment: Experiment) -> dict[str, Rule]:
    """The guesses of a question; between two texts no token can look at itself."""
    rules = RULES[experiment.name]
    if rules is _LOOKS and not experiment.trained.looks_at_itself:
        return {"one": _one, "even": _even, "finds": _finds}
    return rules


def unanswered(experiment: Experiment) -> str | None:
    """Why no guess can be right, whatever the numbers are: a name in OTHERWISE."""
    changes_scores = experiment.name in (
        "no_projection", "same_matrix", "unscaled", "no_key_bias", "merged", "low_rank",
    )  # fmt: skip
    if changes_scores and sees_one_alone(experiment):
        return "alone"
    if experiment.name == "swapped" and experiment.key == experiment.row:
        return "own_link"
    return None


def right_guess(experiment: Experiment) -> str | None:
    """The name of the guess that the numbers make right; None where none of the three is."""
    if unanswered(experiment):
        return None
    return next((name for name, rule in rules_of(experiment).items() if rule(experiment)), None)


def guesses(experiment: Experiment) -> tuple[str, ...]:
    """The names of the three guesses as they are shown, the right one at its place in PLACES."""
    names, right = [*rules_of(experiment)], right_guess(experiment)
    turned = PLACES[experiment.name] - (names.index(right) if right else 0)
    return tuple(names[(at - turned) % len(names)] for at in range(len(names)))
