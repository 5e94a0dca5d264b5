"""How often an experiment comes out as it does in one head: the same in all heads of a model."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.experiments import switches
from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS, NoExperiment
from wqkv.experiments.changed_head import Experiment
from wqkv.experiments.guesses import right_guess
from wqkv.study.callbacks import Progress, silent
from wqkv.study.view import View

#: What is asked of all heads of a layer together: there layers are counted.
OF_LAYERS = ("concat_or_sum", "shuffled_heads")


def run_experiment(
    name: str, view: View, layer: int, head: int, i: int, r: int | None = None
) -> Experiment:
    """The experiment of a name; `r` is the further argument of low_rank, else None."""
    further = () if r is None else (r,)
    found: Experiment = getattr(switches, name)(view, layer, head, i, *further)
    return found


@door
def how_often(
    view: View, name: str, i: int, r: int | None = None, progress: Progress = silent
) -> dict[str | None, int]:
    """In how many heads of a model each guess is right, for query token i; None: no guess is.

    Heads of which the experiment cannot be made are not counted. What is asked of all heads of a
    layer together, `shuffled_heads` and `concat_or_sum`, is counted by layers. It costs one
    experiment for every head.

    Args:
        name: an experiment, one of HEAD_QUESTIONS.
        r: of `low_rank` alone.

    Raises:
        ArgumentError: no experiment has the name; low_rank without `r`, or another one with it.
    """
    if name not in HEAD_QUESTIONS:
        raise ArgumentError(
            f"There is no experiment {name!r}.\nPass one of: {', '.join(HEAD_QUESTIONS)}."
        )
    if (r is None) == (name == "low_rank"):
        do = "Pass r=1 to d_k." if r is None else "Leave it out, or ask low_rank."
        raise ArgumentError(f"`r` is {r}, and the experiment is {name!r}.\n{do}")
    sizes = view.model.sizes
    heads = range(1 if name in OF_LAYERS else sizes.n_head)
    places = [(layer, head) for layer in range(sizes.n_layer) for head in heads]
    counted = Counter[str | None]()
    for done, (layer, head) in enumerate(places, 1):
        with suppress(NoExperiment):
            counted[right_guess(run_experiment(name, view, layer, head, i, r))] += 1
        progress(done, len(places))
    return dict(counted)
