"""why: the links that an answer rests on, predicted for all and removed for real where shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.call import call_of
from wqkv.doors import door
from wqkv.effects.asked import AskedText, ask
from wqkv.effects.blocks import AttentionSite
from wqkv.effects.candidates import Candidates, PredictedLink
from wqkv.effects.passes import HiddenSpan, ModelChange, SiteLink
from wqkv.effects.records import (
    Checked,
    GroupEffect,
    Joint,
    LinkEffect,
    Why,
)
from wqkv.effects.rerun import Rerun
from wqkv.errors import ArgumentError
from wqkv.maps.link_map import HOWS, How
from wqkv.maps.weights import Weights, aside
from wqkv.study.callbacks import Progress, silent
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair
from wqkv.study.tokens import TokenizedText

#: What may be removed together.
GROUPS = ("head", "token", "span")
#: How many links of each kind are predicted a second time, with their own block computed exactly.
JUDGED = 600
#: Which share of the budget goes to links to the first token, where a model has them.
RESTING_SHARE = 0.35
#: How many links are removed together, and how many draws of other links stand beside them.
SHOWN, DRAWS = 8, 20
#: A draw takes one of the links of the same row whose weights are nearest.
NEAREST = 20
#: How many links that were not removed are listed as predicted.
LISTED = 20

_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]*")


@door
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
    """The links that carry an answer: predicted for all of them, removed for real where shown.

    One forward and one backward pass predict, to first order, what removing each link of every
    layer and head does to one number. The strongest links are then removed one by one: the row is
    computed again without that key, and the model runs on from there. No N x N matrix is made.

    The number is, for a causal model or a pair: the logit of `answer` for the token after token
    `at`, less that of `against`. For a model of masked tokens and a text with one: the same for the
    masked token. For any other encoder: the cosine of the means of the last hidden states of the
    text and of the text `answer`. Or `answer(output)`, a function of the model's output.

    Args:
        answer: a token, as text with its leading blank; None is the likeliest. A function returns
            one number per sample, (batch,).
        against: None is the likeliest other token.
        target: what a pair has written so far; None is nothing.
        how: "renormalize" gives a removed link's weight to the row's other keys; "zero" keeps the
            weights and sets the value that the link carries to 0. These answer two questions.
        by: what is removed together as well: "head" (its output is 0), "token" (all later tokens do
            not see it, in any head) or "span" (a sentence of the text).
        budget: how many links are removed for real.
        progress: is called with (steps done, steps in all); raise from it to cancel.

    Raises:
        ArgumentError: no such token, an answer without a token, `answer` and `against` that begin
            with the same token, or a model whose attention cannot be changed from outside.

    Source: the first order is that of attribution patching (Syed et al. 2023, arXiv:2310.10348),
    for the removal of a link instead of the replacement of a head.
    """
    if how not in HOWS:
        raise ArgumentError(f"`how` is {how!r}.\nPass one of {', '.join(map(repr, HOWS))}.")
    for name in by:
        if name not in GROUPS:
            raise ArgumentError(f"`by` names {name!r}.\nPass some of {', '.join(GROUPS)}.")
    if budget < 1:
        raise ArgumentError(f"`budget` is {budget}, how many links to remove.\nPass 1 or more.")
    asked = ask(model, text, answer, against, at, target)
    groups = {name: list(_groups(model, asked, name)) for name in dict.fromkeys(by)}
    layers = sum(part.sizes.n_layer for part in model.parts.values())
    total = layers + budget + DRAWS + 1 + sum(map(len, groups.values()))
    done = 0

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(done, total)

    candidates = Candidates(how, lambda site: step())
    rerun = Rerun(model, asked, candidates)
    others, resting = (
        _judge(rerun, candidates, found, how) for found in (candidates.others, candidates.resting)
    )
    removed = _remove(rerun, *_choose(others, resting, budget), how, step)
    done = layers + budget
    links, at_rest = (tuple(sorted(found, key=_by_truth)) for found in removed)
    together = _together(rerun, links, how, step)
    found = {name: tuple(_group_effects(rerun, members, step)) for name, members in groups.items()}
    progress(total, total)
    return Why(
        model=model.name,
        question=asked.question,
        how=how,
        tokens={part: queries.tokens for part, (queries, _) in asked.texts.items()},
        keys={part: keys.tokens for part, (_, keys) in asked.texts.items()},
        before=rerun.before,
        off=rerun.off,
        rounding=rerun.rounding,
        count=candidates.count,
        links=links,
        resting=at_rest,
        predicted=tuple(_left([*others, *resting], removed)[:LISTED]),
        checked=_check(rerun, candidates, [*others, *resting], removed),
        together=together,
        groups=found or None,
    )


# Predicted


def _judge(
    rerun: Rerun, candidates: Candidates, found: Sequence[PredictedLink], how: How
) -> list[LinkEffect]:
    """The strongest links, each predicted a second time with its own block computed exactly."""
    strongest = sorted(found, key=lambda one: -abs(one.effect))[:JUDGED]
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
    rerun: Rerun,
    others: Sequence[LinkEffect],
    resting: Sequence[LinkEffect],
    how: How,
    step: Callable[[int], None],
) -> tuple[list[LinkEffect], list[LinkEffect]]:
    before, told = [*others, *resting], 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        step(done - told)
        told = done

    after = rerun.after([ModelChange(links=(_site_link(one),)) for one in before], how, progress)
    found = [
        replace(one, true=number - rerun.before) for one, number in zip(before, after, strict=True)
    ]
    return found[: len(others)], found[len(others) :]


def _site_link(one: LinkEffect) -> SiteLink:
    return SiteLink(AttentionSite(one.part, one.layer), one.head, one.query, one.key)


def _by_truth(one: LinkEffect) -> float:
    return -abs(one.true or 0)


def _left(
    judged: Sequence[LinkEffect], removed: Sequence[Sequence[LinkEffect]]
) -> list[LinkEffect]:
    """The links that were not removed, by falling prediction."""
    gone = {_site_link(one) for some in removed for one in some}
    left = [one for one in judged if _site_link(one) not in gone]
    return sorted(left, key=lambda one: -abs(one.predicted))


def _check(
    rerun: Rerun,
    candidates: Candidates,
    judged: Sequence[LinkEffect],
    removed: Sequence[Sequence[LinkEffect]],
) -> Checked:
    some = [one for found in removed for one in found]
    real = [(one.predicted, one.true or 0.0) for one in some]
    clear = [(p, true) for p, true in real if abs(true) > rerun.rounding]
    left = _left(judged, removed)
    return Checked(
        removed=len(some),
        judged=len(clear),
        sign=sum(p * true > 0 for p, true in clear),
        close=sum(abs(p - true) <= abs(true) / 2 for p, true in clear),
        left=candidates.count - len(some),
        share=1 - sum(abs(p) for p, _ in real) / candidates.total if candidates.total else 0.0,
        largest=abs(left[0].predicted) if left else 0.0,
    )


def _together(
    rerun: Rerun, links: Sequence[LinkEffect], how: How, step: Callable[[], None]
) -> Joint | None:
    """The strongest links removed together, and draws of other links like them."""
    shown = [_site_link(one) for one in links[:SHOWN] if abs(one.true or 0) > rerun.rounding]
    if not shown:
        return None
    after, kept = rerun.together(shown, how)
    step()
    draws = [
        ModelChange(links=draw) for draw in _draws(rerun, shown, [one.weight for one in links])
    ]
    others = rerun.after(draws, how)
    return Joint(len(shown), after, kept, tuple(others))


def _draws(
    rerun: Rerun, shown: Sequence[SiteLink], weights: Sequence[float]
) -> Iterator[tuple[SiteLink, ...]]:
    """DRAWS times as many other links, each of the row of one that is shown and of like weight."""
    near: list[list[SiteLink]] = []
    for link, weight in zip(shown, weights, strict=False):
        apart = int(rerun.plain.sees_no_later(link.site)) if link.site.part != "cross" else 0
        found: list[tuple[float, SiteLink]] = []
        for site in rerun.sites:
            if site.part == link.site.part:
                found += _nearest(rerun, site, link.query, weight, apart)
        kept = [one for _, one in sorted(found, key=lambda pair: pair[0]) if one not in shown]
        near.append(kept[:NEAREST])
    chance = torch.Generator(device="cpu").manual_seed(0)
    for _ in range(DRAWS):
        yield tuple(
            dict.fromkeys(
                some[int(torch.randint(len(some), (), generator=chance, device="cpu"))]
                for some in near
                if some
            )
        )


def _nearest(
    rerun: Rerun, site: AttentionSite, row: int, weight: float, first_key: int
) -> list[tuple[float, SiteLink]]:
    """The links of a row of an attention whose weights are nearest, each with the difference."""
    given = rerun.plain.given[site]
    call = call_of(given.query, given.key, given.value, rerun.plain.rules[site])
    with aside(given.query.device):
        n_head, key_len = call.sizes[1], call.sizes[3]
        here = torch.tensor([row], device="cpu")
        P = Weights(call).tile(range(1), range(n_head), here, range(first_key, key_len))[0, :, 0]
        off = (P - weight).abs().masked_fill(P == 0, torch.inf).flatten()
        best = off.topk(min(2 * NEAREST, len(off)), largest=False)
    width = P.shape[1]
    return [
        (difference, SiteLink(site, n // width, row, n % width + first_key))
        for difference, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        if difference != torch.inf
    ]


# Groups


def _groups(
    model: OpenModel | OpenPair, asked: AskedText, by: str
) -> Iterator[tuple[GroupEffect, ModelChange | Mapping[str, HiddenSpan]]]:
    """The groups of a text: each as a record without its effect, and what removes it."""
    if by == "head":
        for name, part in model.parts.items():
            for layer in range(part.sizes.n_layer):
                for head in range(part.sizes.n_head):
                    label = f"layer {layer}, head {head}"
                    change = ModelChange(heads=((AttentionSite(name, layer), head),))
                    yield GroupEffect("head", name, label, 0.0, layer, head), change
        return
    for name, (queries, keys) in asked.texts.items():
        if queries is not keys:  # the source of cross-attention is the text of the encoder
            continue
        for first, last in _spans(keys, by):
            label = keys.tokens[first] if by == "token" else _text_of(keys, first, last)
            spans = {name: HiddenSpan(first, last)}
            if name == "encoder":
                spans["cross"] = HiddenSpan(first, last, own=False)
            kind: Any = by
            yield GroupEffect(kind, name, label, 0.0, first=first, last=last), spans


def _spans(text: TokenizedText, by: str) -> Iterator[tuple[int, int]]:
    """The tokens, or the sentences, of a text: first and last token of each."""
    if by == "token":
        yield from ((n, n) for n in range(len(text.ids)))
        return
    ends = [match.end() for match in _SENTENCE.finditer(text.sentence) if match[0].strip()]
    start = 0
    for end in ends:
        inside = [n for n, (a, b) in enumerate(text.spans) if start <= a < end and b > a]
        start = end
        if inside:
            yield inside[0], inside[-1]


def _text_of(text: TokenizedText, first: int, last: int) -> str:
    return text.sentence[text.spans[first][0] : text.spans[last][1]]


def _group_effects(
    rerun: Rerun,
    members: Sequence[tuple[GroupEffect, ModelChange | Mapping[str, HiddenSpan]]],
    step: Callable[[], None],
) -> list[GroupEffect]:
    """The true effect of each group, by falling size."""
    members = [
        (group, what)
        for group, what in members
        if isinstance(what, ModelChange) or not rerun.seen_by_nobody(what)
    ]
    changes = [what for _, what in members if isinstance(what, ModelChange)]
    after = iter(rerun.after(changes, progress=lambda done, total: None))
    found = []
    for group, what in members:
        number = next(after) if isinstance(what, ModelChange) else rerun.without_tokens(what)
        step()
        found.append(replace(group, true=number - rerun.before))
    return sorted(found, key=lambda one: -abs(one.true))
