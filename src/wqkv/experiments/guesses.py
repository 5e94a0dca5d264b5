"""Three guesses for every question, and which of them the numbers of a run make right.

No right answer is written down: each guess is a rule over an `Experiment`, with the thresholds
below, and the first one that holds is right. The rules of most questions leave no other case; of
the others it may be that none holds. A rule is data, because a saved page reads it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS
from wqkv.experiments.changed_head import Experiment, Measured

#: "Keeps most of its weight": at least this share of it.
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

#: A weight that moves by less is the same to rounding.
ROUNDING = 1e-5


class GuessRule(NamedTuple):
    """A quantity of an experiment, one of QUANTITIES, and which values of it make a guess right."""

    of: str
    how: Literal["least", "above", "below"]
    bound: float

    def holds(self, experiment: Experiment) -> bool:
        """Whether the guess is right."""
        found = QUANTITIES[self.of](experiment)
        if self.how == "least":
            return found >= self.bound
        return found > self.bound if self.how == "above" else found < self.bound


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


def _itself(experiment: Experiment) -> float:
    """By how much the weight on itself exceeds all others."""
    if not experiment.trained.looks_at_itself:
        return -1.0
    others = experiment.after.weights.clone()
    others[experiment.row] = 0
    return float(experiment.after.weights[experiment.row] - others.max())


def _evenness(experiment: Experiment) -> float:
    """The entropy as a share of the largest possible one."""
    seen = int(experiment.after.scores.isfinite().sum())
    return _after(experiment, "entropy") / math.log(seen) if seen > 1 else 1.0


def _finds(experiment: Experiment) -> float:
    return float(int(experiment.after.weights.argmax()) == strongest_other(experiment))


def _first(experiment: Experiment) -> float:
    """Whether the strongest link is the strongest one still."""
    return float(int(experiment.after.weights.argmax()) == experiment.key)


def _kept(experiment: Experiment) -> float:
    """The share of its weight that the strongest link keeps, if it is the strongest one still."""
    link = number_of(experiment, "weight of the strongest link")
    assert link.after is not None
    return link.after / link.before if _first(experiment) else 0.0


def _grown(experiment: Experiment) -> float:
    name = "largest weight"
    return _after(experiment, name) - number_of(experiment, name).before


def _moved(experiment: Experiment) -> float:
    """By how much the weight of the row that changes most does."""
    return float((experiment.after.weights - experiment.before.weights).abs().max())


def _differs(experiment: Experiment) -> float:
    """0 for the same to rounding, if the experiment says so; else how far a weight moves."""
    same = experiment.same
    return _moved(experiment) if same is None else float(not same.holds)


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


def headline_name(name: str, own: bool) -> tuple[str, ...]:
    """The numbers of a question's headline by name; between two texts nothing is on itself."""
    names = HEADLINE_OF[name]
    return names if own or names != ("weight on itself",) else ("largest weight",)


def headline(experiment: Experiment) -> tuple[float, float]:
    """The two numbers that the question sets against each other."""
    first, *second = headline_name(experiment.name, experiment.trained.looks_at_itself)
    before = number_of(experiment, first).before
    return before, number_of(experiment, *second).before if second else _after(experiment, first)


def ratio(experiment: Experiment) -> float:
    """The second number of the headline over the first."""
    first, second = headline(experiment)
    return second / first if first else math.inf


#: What a rule may be about, by its name.
QUANTITIES: dict[str, Callable[[Experiment], float]] = {
    "itself": _itself,
    "evenness": _evenness,
    "finds": _finds,
    "first": _first,
    "kept": _kept,
    "largest": lambda experiment: _after(experiment, "largest weight"),
    "grown": _grown,
    "moved": _moved,
    "differs": _differs,
    "change": lambda experiment: number_of(experiment, "change of the output").before,
    "cosine": lambda experiment: _after(experiment, "cosine with the trained output"),
    "ratio": ratio,
}

_OTHERWISE = GuessRule("moved", "least", 0)  # the last guess of three that leave no other case
_SAME = GuessRule("differs", "below", ROUNDING)
_STAYS = GuessRule("change", "below", STAYS)
_EVEN, _FINDS = GuessRule("evenness", "least", EVEN), GuessRule("finds", "least", 1)
_LOOKS = {"even": _EVEN, "itself": GuessRule("itself", "above", 0), "finds": _FINDS}

#: The guesses of each question: their names, each with the rule that makes it right.
RULES: dict[str, dict[str, GuessRule]] = {
    "no_projection": _LOOKS,
    "same_matrix": _LOOKS,
    "value_is_key": {
        "same": _STAYS, "length": GuessRule("cosine", "least", ALIKE), "other": _OTHERWISE
    },
    "unscaled": {
        "sharper": GuessRule("grown", "above", STAYS),
        "flatter": GuessRule("grown", "below", -STAYS),
        "same": _OTHERWISE,
    },
    "swapped": {
        "weaker": GuessRule("ratio", "below", 1 / TWICE),
        "stronger": GuessRule("ratio", "above", TWICE),
        "alike": _OTHERWISE,
    },
    "big_weight": {
        "less": GuessRule("ratio", "below", 1 / ABOUT),
        "more": GuessRule("ratio", "above", ABOUT),
        "share": _OTHERWISE,
    },
    "concat_or_sum": {
        "same": _SAME, "longer": GuessRule("ratio", "above", 1), "shorter": _OTHERWISE
    },
    "shuffled_heads": {
        "same": _STAYS, "near": GuessRule("cosine", "least", APART), "other": _OTHERWISE
    },
    "variance": {
        "narrower": GuessRule("ratio", "below", 1 / ABOUT),
        "wider": GuessRule("ratio", "above", ABOUT),
        "as_said": _OTHERWISE,
    },
    "no_key_bias": {"same": _SAME, "lost": GuessRule("first", "below", 1), "moved": _OTHERWISE},
    "merged": {"same": _SAME, "near": GuessRule("moved", "below", LITTLE), "other": _OTHERWISE},
    "low_rank": {
        "finds": GuessRule("kept", "least", MOST), "weaker": GuessRule("first", "least", 1),
        "lost": _OTHERWISE,
    },
}  # fmt: skip

#: The questions about changes of the scores, which change nothing where a row has one key alone.
OF_SCORES = (
    "no_projection", "same_matrix", "unscaled", "no_key_bias", "merged", "low_rank",
)  # fmt: skip


def rules_of(name: str, own: bool) -> dict[str, GuessRule]:
    """The guesses of a question; between two texts (not `own`) no token can look at itself."""
    rules = RULES[name]
    if rules is _LOOKS and not own:
        return {"one": GuessRule("largest", "least", NEARLY_ALL), "even": _EVEN, "finds": _FINDS}
    return rules


def unanswered(experiment: Experiment) -> str | None:
    """Why no guess can be right, whatever the numbers are: a name in OTHERWISE."""
    if experiment.name in OF_SCORES and sees_one_alone(experiment):
        return "alone"
    if experiment.name == "swapped" and experiment.key == experiment.row:
        return "own_link"
    return None


def right_guess(experiment: Experiment) -> str | None:
    """The name of the guess that the numbers make right; None where none of the three is."""
    if unanswered(experiment):
        return None
    rules = rules_of(experiment.name, experiment.trained.looks_at_itself)
    return next((name for name, rule in rules.items() if rule.holds(experiment)), None)


def guesses(experiment: Experiment) -> tuple[str, ...]:
    """The names of the three guesses as they are shown, the right one at its place in PLACES."""
    names = [*rules_of(experiment.name, experiment.trained.looks_at_itself)]
    right = right_guess(experiment)
    turned = PLACES[experiment.name] - (names.index(right) if right else 0)
    return tuple(names[(at - turned) % len(names)] for at in range(len(names)))
