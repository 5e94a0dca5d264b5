"""why: the links that an answer rests on, all predicted, and the strongest removed for real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.effects.asked import ask
from wqkv.effects.candidates import HEAVIEST, HEAVY, Candidates, PredictedLink
from wqkv.effects.passes import ModelChange
from wqkv.effects.records import GROUPS, Checked, LinkEffect, Why
from wqkv.effects.rerun import Rerun
from wqkv.effects.together import DRAWS, group_effects, groups_of, joint, site_link
from wqkv.errors import ArgumentError
from wqkv.maps.link_map import How, check_how
from wqkv.maps.weights import aside
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress, Stages, silent
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair

#: How many links of each kind are predicted a second time, with their own block computed exactly.
#: A larger budget needs more of them.
PREDICTED_TWICE = 600
#: Which share of the budget goes to links to the first token, where a model has them.
RESTING_SHARE = 0.35
#: How many links that were not removed are listed as predicted.
LISTED = 20


@door
@aside(torch.device("cpu"))  # whatever the caller is at, such as autocast or inference mode
def why(
    model: OpenModel | OpenPair,
    text: str,
    answer: str | Callable[[Any], Tensor] | None = None,
    against: str | None = None,
    at: int = -1,
    *,
    target: str | None = None,
    how: How = "renormalize",
    by: Sequence[str] = (),
    budget: int = 200,
    progress: Progress = silent,
) -> Why:
    """The links that carry an answer: all are predicted, and the strongest removed for real.

    The effect of a link is one number without it, less the same number with it. One forward and one
    backward pass predict it for each link of every layer and head, to first order:
    P_ij / (1 - P_ij) g_i . (o_i - v_j), with g the gradient of the number with respect to a head's
    output o. The strongest links are then removed one by one: the row is computed again without
    that key, and the model runs on from there. No N x N matrix is made.

    The number is, for a causal model or a pair: the logit of `answer` for the token after token
    `at`, less that of `against`. For a model of masked tokens and a text with one: the same for the
    masked token. For any other encoder: the cosine of the means of the last hidden states of the
    text and of the text `answer`, less that of `against` if it is given. Or `answer(output)`, a
    function of what the model returns.

    Args:
        answer: the token as it is written after the text, with its leading blank (of a longer text
            the first token counts); None is the likeliest. Or the other text, which must be given.
            A function returns one number per sample, (batch,), that has a gradient, and does not
            run the model.
        against: the rival; None is the likeliest other token, or no other text. Left out where
            `answer` is a function.
        at: the number of a token of the text, or of the target; a negative one counts from the end.
            Where several tokens are masked, it is the number of one of them. It is left out where
            the number asked about is a cosine or a function.
        target: what a pair has written so far; None is nothing.
        how: "renormalize" gives a removed link's weight to the row's other keys; "zero" keeps the
            weights and sets the value that the link carries to 0. These answer two questions.
        by: what else is removed as a whole: "head" (its output is 0), "token" (it is hidden from
            all other tokens, in all layers and heads) or "span" (the same with a sentence).
        budget: how many links are removed for real at most; the few `heaviest` come on top.
        progress: is called with (steps done, steps in all); raise from it to cancel.

    Raises:
        ArgumentError: an unknown `how` or `by`, a `budget` below 1, no such token, an answer
            without a token, `answer` and `against` that begin with the same token, `at` where the
            number has none, a number that is not finite or has no gradient, a model that trains,
            or one whose attention cannot be changed from outside.

    Source: the first order is that of attribution patching (Syed et al. 2023, arXiv:2310.10348),
    for the removal of a link instead of the replacement of a head.
    """
    check_how(how)
    for name in by:
        if name not in GROUPS:
            raise ArgumentError(f"`by` names {name!r}.\nPass some of {', '.join(GROUPS)}.")
    if budget < 1:
        raise ArgumentError(mistake("budget", budget=budget))
    asked = ask(model, text, answer, against, at, target)
    groups = {name: list(groups_of(model, asked, name)) for name in GROUPS if name in by}
    layers = sum(part.sizes.n_layer for part in model.parts.values())
    stages = Stages(progress, [layers, budget, DRAWS, *map(len, groups.values())])
    candidates = Candidates(how, stages.next(), at_least=budget + 1)
    rerun = Rerun(model, asked, candidates)
    others, resting = (
        _predict_again(rerun, candidates, found, how, max(PREDICTED_TWICE, budget + LISTED))
        for found in (candidates.others, candidates.resting)
    )
    first, rest = _choose(others, resting, budget)
    chosen = _remove(rerun, [*first, *rest], how, stages.next())
    removed = chosen[: len(first)], chosen[len(first) :]
    heaviest = _predict_again(rerun, candidates, candidates.heaviest, how, HEAVIEST)
    heaviest = _remove(rerun, heaviest, how, silent)
    links, at_rest = (tuple(sorted(found, key=_by_truth)) for found in removed)
    together = joint(rerun, links, how, stages.next())
    found = {name: group_effects(rerun, members, stages.next()) for name, members in groups.items()}
    count = candidates.count_links(rerun.plain)
    progress(stages.total, stages.total)
    return Why(
        model=model.name,
        question=asked.question,
        how=how,
        tokens={part: queries.shown for part, (queries, _) in asked.texts.items()},
        keys={part: keys.shown for part, (_, keys) in asked.texts.items()},
        before=rerun.before,
        off=rerun.off,
        rounding=rerun.rounding,
        count=count,
        links=links,
        resting=at_rest,
        predicted=tuple(_left([*others, *resting], removed)[:LISTED]),
        heaviest=tuple(sorted(heaviest, key=lambda one: -one.weight)),
        checked=_check(rerun, candidates, count, removed),
        together=together,
        groups=found or None,
    )


# Predicted


def _predict_again(
    rerun: Rerun, candidates: Candidates, found: Sequence[PredictedLink], how: How, count: int
) -> list[LinkEffect]:
    """The strongest links, each predicted a second time with its own block computed exactly."""
    strongest = sorted(found, key=_by_prediction)[:count]
    judged = []
    for site in rerun.sites:
        here = [one for one in strongest if one.link.site == site]
        if not here:
            continue
        changes, lengths = rerun.block_changes(site, [one.link for one in here], how)
        block = rerun.plain.block_of[site]
        behind = torch.stack([candidates.behind[block, one.link.query] for one in here])
        effects = (changes * behind).sum(dim=1)
        for one, effect, length in zip(here, effects.tolist(), lengths.tolist(), strict=True):
            (part, layer), head, query, key = one.link
            judged.append(
                LinkEffect(
                    part, layer, head, query, key, one.weight, one.effect, length, block=effect
                )
            )
    return judged


def _choose(
    others: Sequence[LinkEffect], resting: Sequence[LinkEffect], budget: int
) -> tuple[list[LinkEffect], list[LinkEffect]]:
    """The links to remove for real: those of the largest predictions.

    A resting head that is switched on is far from linear, so for links to the first token the size
    of the local change counts too.
    """
    first = sorted(others, key=lambda one: -max(abs(one.predicted), abs(one.block or 0)))
    rest = sorted(resting, key=lambda one: -abs(one.block or 0) * one.change)
    room = min(len(rest), max(int(budget * RESTING_SHARE), budget - len(first)))
    return first[: budget - room], rest[:room]


# Removed


def _remove(
    rerun: Rerun, links: Sequence[LinkEffect], how: How, progress: Progress
) -> list[LinkEffect]:
    """The same links, each with the true effect of its removal."""
    after = rerun.after([ModelChange(links=(site_link(one),)) for one in links], how, progress)
    return [
        replace(one, true=number - rerun.before) for one, number in zip(links, after, strict=True)
    ]


def _by_truth(one: LinkEffect) -> float:
    return -abs(one.true or 0)


def _by_prediction(one: PredictedLink) -> float:
    return -abs(one.effect)


def _left(
    judged: Sequence[LinkEffect], removed: Sequence[Sequence[LinkEffect]]
) -> list[LinkEffect]:
    """The links that were not removed, by falling prediction."""
    gone = {site_link(one) for some in removed for one in some}
    left = [one for one in judged if site_link(one) not in gone]
    return sorted(left, key=lambda one: -abs(one.predicted))


def _check(
    rerun: Rerun,
    candidates: Candidates,
    count: int,
    removed: Sequence[Sequence[LinkEffect]],
) -> Checked:
    some = [one for found in removed for one in found]
    real = [(one.predicted, one.true or 0.0) for one in some]
    clear = [(p, true) for p, true in real if abs(true) > rerun.rounding]
    gone = set(map(site_link, some))
    # Each attention keeps more links than are removed, so that one of those left is its largest.
    left = (one for one in (*candidates.others, *candidates.resting) if one.link not in gone)
    seen = sum(abs(p) for p, _ in real) / (candidates.total or 1.0)
    return Checked(
        removed=len(some),
        judged=len(clear),
        sign=sum(p * true > 0 for p, true in clear),
        close=sum(abs(p - true) <= abs(true) / 2 for p, true in clear),
        left=count - len(some),
        heavy=candidates.heavy - sum(one.weight > HEAVY for one in some),
        share=max(0.0, 1 - seen) if candidates.total else 0.0,
        largest=max((abs(one.effect) for one in left), default=0.0),
    )
