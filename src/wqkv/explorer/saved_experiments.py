"""What the experiments of a saved page need beside q, k, v and x: q, k and v of changed heads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from wqkv import experiments
from wqkv.attend.call import Call
from wqkv.errors import ArgumentError
from wqkv.experiments.asked_of_heads import NoExperiment
from wqkv.experiments.changed_head import Experiment, HeadState, TrainedHead
from wqkv.experiments.guesses import number_of
from wqkv.experiments.how_often import OF_LAYERS
from wqkv.experiments.switches import same_scores, same_weights
from wqkv.explorer.cards import KEPT_RANK
from wqkv.maps.proof import Proof
from wqkv.sentences import LANGUAGES
from wqkv.study.view import View

Ask = Callable[[View, int, int, int], Experiment]

#: Numbers that agree so far are those of the trained head, computed another way.
CLOSE = 1e-5


def changed_numbers(view: View, layer: int) -> dict[str, Tensor]:
    """The q, k and v of the changed heads of a layer by name, where they are not the trained ones.

    Missing are "same_keys" where WK := WQ makes keys of q, "key_values" where WV := WK makes values
    of k, "plain_keys" where WK has no bias; and all that an experiment is refused for.
    """
    opened = view.layer(layer)
    group = view.model.sizes.n_head // view.model.sizes.n_kv_head
    found = {
        "same_keys": _calls(view, layer, experiments.same_matrix, 1, lambda call: call.key),
        "key_values": _calls(view, layer, experiments.value_is_key, group, lambda call: call.value),
        "plain_keys": _calls(view, layer, experiments.no_key_bias, group, lambda call: call.key),
        "low_rank_queries": _calls(view, layer, _low_rank, 1, lambda call: call.query),
    }
    for name, own in (("same_keys", opened.q), ("key_values", opened.k)):
        part = found[name]
        alike = part is not None and part.shape == own[0].shape
        if part is not None and alike and torch.allclose(part, own[0], CLOSE, CLOSE):
            found[name] = None
    if found["low_rank_queries"] is not None:  # nothing stands between WQ and WK
        heads = [TrainedHead(view, layer, head, 0) for head in range(view.model.sizes.n_head)]
        found["query_bias"] = torch.stack([head.part_of("WQ")[1] for head in heads])
    return {name: part for name, part in found.items() if part is not None}


def refused(view: View, layer: int) -> dict[str, dict[str, str]]:
    """The experiments that are refused for every head and token of a layer, each with its reason.

    The reason is in every language.
    """
    found = {}
    for name in experiments.HEAD_QUESTIONS:
        try:
            _ask(name)(view, layer, 0, view.n - 1)  # of a causal text the last token sees all
        except NoExperiment as error:
            found[name] = {lang: error.said(lang) for lang in LANGUAGES}
    return found


def proofs(view: View, layer: int) -> dict[str, list[list[Proof | None]]]:
    """Of each experiment that says so, the proof that it changes nothing: by head and token.

    Those of all heads together have one head. A change of scores is made once for each head, since
    it is the same for all tokens.
    """
    found = {}
    heads = range(view.model.sizes.n_head)
    for name, compare in (("merged", same_scores), ("no_key_bias", same_weights)):
        with suppress(ArgumentError):
            made = [_ask(name)(view, layer, head, view.n - 1) for head in heads]
            found[name] = [_proofs_of_head(one, compare) for one in made]
    for name in OF_LAYERS:
        with suppress(ArgumentError):
            found[name] = [[_ask(name)(view, layer, 0, i).same for i in range(view.n)]]
    return found


def _proofs_of_head(
    made: Experiment, compare: Callable[[TrainedHead, HeadState], Proof]
) -> list[Proof | None]:
    """What the experiment says of its own row, for every row of the head."""
    view = made.trained.view
    if made.same is None:
        return [None] * view.n
    rows = (TrainedHead(view, made.layer, made.head, i) for i in range(view.n))
    return [compare(at, at.state(made.after.call)) for at in rows]


def ranks(view: View, layer: int) -> list[tuple[int, float]]:
    """Of each head the rank of WQ WK^T, and the share that its largest singular values have."""
    try:
        return [_rank(view, layer, head) for head in range(view.model.sizes.n_head)]
    except ArgumentError:  # something stands between WQ and WK
        return []


def shuffled(view: View, layer: int) -> list[tuple[float, float, float, float]]:
    """Of each token what the order of the heads changes of its output.

    Four numbers: the largest one of the output, the largest change, its share, and the cosine.
    """
    found = []
    for i in range(view.n):
        made = experiments.shuffled_heads(view, layer, 0, i)
        names = "largest number of the output", "largest change of it", "change of the output"
        largest, change, share = (number_of(made, name).before for name in names)
        cosine = number_of(made, "cosine with the trained output").after
        assert cosine is not None
        found.append((largest, change, share, cosine))
    return found


def _rank(view: View, layer: int, head: int) -> tuple[int, float]:
    at = view, layer, head, view.n - 1
    whole = {one.name: one.after or one.before for one in experiments.merged(*at).numbers}
    low = _low_rank(*at).numbers[-1].after
    assert low is not None
    return int(whole["rank of WQ WK^T"]), low


def _ask(name: str) -> Ask:
    """An experiment by its name; low_rank with the rank that is kept."""
    if name == "low_rank":
        return _low_rank
    ask: Ask = getattr(experiments, name)
    return ask


def _low_rank(view: View, layer: int, head: int, i: int) -> Experiment:
    return experiments.low_rank(view, layer, head, i, max(1, view.model.sizes.d_k // KEPT_RANK))


def _calls(
    view: View,
    layer: int,
    ask: Ask,
    step: int,
    part: Callable[[Call], Tensor],
) -> Tensor | None:
    """A part of the changed call of every `step`-th head, or None where the change is refused."""
    heads = range(0, view.model.sizes.n_head, step)
    try:
        found = [part(ask(view, layer, head, view.n - 1).after.call)[0, 0] for head in heads]
    except ArgumentError:
        return None
    return torch.stack(found)
