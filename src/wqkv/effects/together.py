"""What is removed together: the links that are shown, a head, a token, or a sentence of a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from wqkv.attend.call import call_of
from wqkv.effects.asked import AskedText
from wqkv.effects.blocks import AttentionSite
from wqkv.effects.passes import HiddenSpan, ModelChange, SiteLink
from wqkv.effects.records import By, GroupEffect, Joint, LinkEffect
from wqkv.effects.rerun import Rerun
from wqkv.maps.link_map import How
from wqkv.maps.weights import Weights, aside
from wqkv.study.callbacks import Progress
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair
from wqkv.study.tokens import TokenizedText

#: How many links are removed together, and how many draws of other links stand beside them.
SHOWN, DRAWS = 8, 20
#: A draw takes one of this many links of the same query, in any layer and head, whose weights are
#: nearest.
NEAREST = 20


def site_link(one: LinkEffect) -> SiteLink:
    """The link itself."""
    return SiteLink(AttentionSite(one.part, one.layer), one.head, one.query, one.key)


def joint(rerun: Rerun, links: Sequence[LinkEffect], how: How, progress: Progress) -> Joint | None:
    """The strongest links removed together, and draws of other links like them."""
    shown = [one for one in links[:SHOWN] if abs(one.true or 0) > rerun.rounding]
    if not shown:
        return None
    after, kept = rerun.together([site_link(one) for one in shown], how)
    draws = [ModelChange(links=draw) for draw in _draws(rerun, shown)]
    others = rerun.after(draws, how, progress)
    return Joint(len(shown), after, kept, tuple(others))


def _draws(rerun: Rerun, shown: Sequence[LinkEffect]) -> Iterator[tuple[SiteLink, ...]]:
    """Draws of as many other links: for each one that is shown, one of its query and like weight.

    They come from all layers and heads. There are DRAWS of them, or none where there are not as
    many other links.
    """
    near: list[list[SiteLink]] = []
    places = set(map(site_link, shown))
    for one in shown:
        own = site_link(one).site
        apart = int(rerun.plain.sees_no_later(own)) if one.part != "cross" else 0
        found: list[tuple[float, SiteLink]] = []
        for site in rerun.sites:
            if site.part == one.part:
                found += _nearest(rerun, site, one.query, one.weight, apart)
        others = [link for _, link in sorted(found, key=lambda pair: pair[0])]
        near.append([link for link in others if link not in places][:NEAREST])
    chance = torch.Generator(device="cpu").manual_seed(0)
    for _ in range(DRAWS):
        draw: list[SiteLink] = []
        for some in near:
            if left := [link for link in some if link not in draw]:
                draw.append(left[int(torch.randint(len(left), (), generator=chance, device="cpu"))])
        if len(draw) == len(shown):
            yield tuple(draw)


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

#: A group as a record without its effect, and what removes it: a change, or what is hidden by part.
Member: TypeAlias = tuple[GroupEffect, ModelChange | Mapping[str, HiddenSpan]]

#: A sentence ends at a line's end, and at its marks; not inside "3.14".
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+[\"'”’)\]]*(?=\s|\Z)|[。！？]+[”’」』）]*|\n|\Z)", re.DOTALL)


def groups_of(model: OpenModel | OpenPair, asked: AskedText, by: By) -> Iterator[Member]:
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
            label = keys.shown[first] if by == "token" else _text_of(keys, first, last)
            spans = {name: HiddenSpan(first, last)}
            if name == "encoder":
                spans["cross"] = HiddenSpan(first, last, own=False)
            yield GroupEffect(by, name, label, 0.0, first=first, last=last), spans


def _spans(text: TokenizedText, by: By) -> Iterator[tuple[int, int]]:
    """The tokens, or the sentences, of a text: first and last token of each."""
    if by == "token":
        yield from ((n, n) for n in range(len(text.ids)))
        return
    ends = [match.end() for match in _SENTENCE.finditer(text.sentence)]
    start = 0
    for end in ends:
        inside = [n for n, (a, b) in enumerate(text.spans) if start <= a < end and b > a]
        start = end
        if inside:
            yield inside[0], inside[-1]


def _text_of(text: TokenizedText, first: int, last: int) -> str:
    return text.sentence[text.spans[first][0] : text.spans[last][1]]


def group_effects(
    rerun: Rerun, members: Sequence[Member], progress: Progress
) -> tuple[GroupEffect, ...]:
    """The true effect of each group, by falling size; none of those that no token sees."""
    heads = [(group, what) for group, what in members if isinstance(what, ModelChange)]
    after = rerun.after([what for _, what in heads], progress=progress)
    found = [(group, number) for (group, _), number in zip(heads, after, strict=True)]
    for done, (group, what) in enumerate(members, start=1):
        if not isinstance(what, ModelChange):
            if not rerun.seen_by_nobody(what):
                found.append((group, rerun.without_tokens(what)))
            progress(done, len(members))
    effects = [replace(group, true=number - rerun.before) for group, number in found]
    return tuple(sorted(effects, key=lambda one: -abs(one.true)))
