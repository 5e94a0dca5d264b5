"""Links of short prompts removed for real: how their predictions stand beside what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import call_of
from wqkv.attend.partial import Partial
from wqkv.effects.asked import ask
from wqkv.effects.blocks import AttentionSite
from wqkv.effects.passes import ModelChange, PlainPass, SiteLink
from wqkv.effects.records import LinkEffect
from wqkv.effects.rerun import Rerun
from wqkv.maps.attention_map import map_of
from wqkv.maps.link_map import How
from wqkv.study.model import OpenModel

#: How many links are the strongest, and among how many of the first they are looked for.
TRUE, PREDICTED, SHOWN = 10, 100, 40
#: What the targets are asked of.
FOUND = f"true top {TRUE} in predicted top {PREDICTED}"
SIGNS = f"sign right, top {SHOWN} by prediction"
CAUGHT, FLAGGED = "misses that carry the warning", "links that carry the warning"
#: A link matters if its true effect is more than this share of the number that is asked about.
MATTERS = 0.01


class Prompt(NamedTuple):
    text: str
    answer: str
    against: str


CAPITALS = Prompt(
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is",
    " Madrid",
    " Rome",
)
#: Of so few tokens that every link is removed.
SHORT = {
    "agreement": Prompt("The keys that the old man had left", " are", " is"),
    "list": Prompt("Monday, Tuesday, Wednesday, Thursday,", " Friday", " Monday"),
}
#: Every link of the last token is removed.
PROMPTS = {
    "capitals": CAPITALS,
    "fact": Prompt("The Colosseum stands in the center of", " Rome", " Paris"),
    "induction": Prompt(
        "Doctor Brill met Captain Tarn by the river. Doctor Brill waved to Captain",
        " Tarn",
        " Brill",
    ),
    "Mary and John": Prompt(
        "When Mary and John went to the store, John gave a drink to", " Mary", " John"
    ),
    **SHORT,
    "arithmetic": Prompt("1 + 1 = 2, 2 + 2 = 4, 3 + 3 = ", "6", "4"),
    "code": Prompt("def add(first, second):\n    return first +", " second", " first"),
}
#: No threshold was chosen on these.
HELD_OUT = {
    "opposites": Prompt("The opposite of hot is cold. The opposite of big is", " small", " cold"),
    "physics": Prompt("When water gets very cold, it freezes and turns into", " ice", " steam"),
    "dogs": Prompt("The dogs near the tall wooden fence", " are", " is"),
    "months": Prompt("January, February, March, April,", " May", " June"),
    "tallest": Prompt(
        "Paul is taller than Kim. Kim is taller than Ben. The tallest of them is", " Paul", " Ben"
    ),
    "loop": Prompt("for name in names:\n    print(", "name", "names"),
}


class Everything:
    """A `GradientTaken` that keeps weights, predictions and norms of all links of a short text."""

    def __init__(self, model: OpenModel, how: How) -> None:
        self._model, self._how = model, how
        self.weights: dict[AttentionSite, Tensor] = {}  # (n_head, n, n), as the others
        self.effects: dict[AttentionSite, Tensor] = {}
        self.norms: dict[AttentionSite, Tensor] = {}  # weight x ||v WO||
        self.behind: dict[AttentionSite, Tensor] = {}  # (n, d_model)

    def __call__(
        self, plain: PlainPass, site: AttentionSite, whole: Partial, grad: Tensor, behind: Tensor
    ) -> None:
        given = plain.given[site]
        seen = map_of(call_of(given.query, given.key, given.value, plain.rules[site]))
        layer: Any = self._model.layer(site.layer)
        WO = layer.WO.weight.detach().T.unflatten(0, (whole.out.shape[1], -1))
        with torch.no_grad():
            self.weights[site] = seen[0]
            self.effects[site] = seen.effects(given.value, whole.out, grad, self._how)[0]
            self.norms[site] = seen.contributions(given.value, WO)[0]
        self.behind[site] = behind[0].detach().clone()


class Removed(NamedTuple):
    """Links of one prompt, each with what was predicted and what its removal did."""

    rerun: Rerun
    links: list[LinkEffect]
    norms: list[float]  # weight x ||v WO|| of each


def remove(
    model: OpenModel,
    prompt: Prompt,
    how: How = "renormalize",
    rows: Callable[[int], Iterable[int]] = range,
    some: int | None = None,
) -> Removed:
    """Remove the links of some rows of a prompt one by one, and run the model again for each.

    Args:
        rows: is given the number of tokens, and returns the rows; all of them by default.
        some: how many of these links to draw at random, with a fixed seed; None is all of them.
    """
    asked = ask(model, *prompt)
    seen = Everything(model, how)
    rerun = Rerun(model, asked, seen)
    n = len(asked.texts[model.part][0].ids)
    chosen = [
        SiteLink(site, head, i, j)
        for site in rerun.sites
        for head in range(seen.weights[site].shape[0])
        for i in rows(n)
        for j in range(i + 1)
        if not bool(seen.effects[site][head, i, j].isnan())
    ]
    if some is not None:
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
        chosen = sorted(chosen[at] for at in order[:some].tolist())
    after = rerun.after([ModelChange(links=(link,)) for link in chosen], how)
    true = dict(zip(chosen, (number - rerun.before for number in after), strict=True))
    links, norms = [], []
    for site in rerun.sites:
        here = [link for link in chosen if link.site == site]
        if not here:
            continue
        changes, lengths = rerun.block_changes(site, here, how)
        rows_of = torch.tensor([link.query for link in here])
        own = (changes * seen.behind[site][rows_of]).sum(dim=1)
        for link, length, block in zip(here, lengths.tolist(), own.tolist(), strict=True):
            at = link.head, link.query, link.key
            weight, effect, norm = (
                float(of[site][at]) for of in (seen.weights, seen.effects, seen.norms)
            )
            links.append(
                LinkEffect(*site, *at, weight, effect, length, block=block, true=true[link])
            )
            norms.append(norm)
    return Removed(rerun, links, norms)


last_row = partial(remove, rows=lambda n: [n - 1])


# How the predictions did


def size(link: LinkEffect) -> float:
    """The absolute value of the true effect of a link."""
    return abs(link.true or 0.0)


def first_order(link: LinkEffect) -> float:
    return abs(link.predicted)


def as_ranked(link: LinkEffect) -> float:
    """What `why` chooses the links to remove by: with the own block computed exactly too."""
    return max(abs(link.predicted), abs(link.block or 0.0))


def by_weight(link: LinkEffect) -> float:
    return link.weight


def places(links: Sequence[LinkEffect], by: Callable[[LinkEffect], float]) -> list[int]:
    """Where the true top 10 stand in a ranking, 1 is the first."""
    order = sorted(links, key=by, reverse=True)
    place = {id(link): n for n, link in enumerate(order, start=1)}
    top = sorted(links, key=size, reverse=True)[:TRUE]
    return sorted(place[id(link)] for link in top)


def found(links: Sequence[LinkEffect]) -> dict[str, float]:
    """How many of the true top 10 the top 100 of a ranking holds, and where the last one stands."""
    row: dict[str, float] = {}
    for what, by in (
        (FOUND, as_ranked),
        (f"{FOUND}, first order alone", first_order),
        (f"{FOUND}, by weight", by_weight),
    ):
        at = places(links, by)
        row |= {what: sum(n <= PREDICTED for n in at), f"{what}: last at": at[-1]}
    return row


def signs(links: Sequence[LinkEffect]) -> dict[str, float]:
    """How many of the top 40 by first order were predicted with the right sign."""
    top = sorted(links, key=first_order, reverse=True)[:SHOWN]
    return {SIGNS: sum(link.predicted * (link.true or 0.0) > 0 for link in top)}


def warnings(prompts: Iterable[Removed]) -> dict[str, float]:
    """Over the links that matter: how many are off by more than half, and carry the warning."""
    some = [
        link
        for one in prompts
        for link in one.links
        if size(link) > max(MATTERS * abs(one.rerun.before), one.rerun.rounding)
    ]
    missed = [link for link in some if link.miss]
    flagged = [link for link in some if link.warning]
    both = [link for link in missed if link.warning]
    return {
        "links that matter": len(some),
        "of them off by more than half": len(missed),
        CAUGHT: len(both) / max(1, len(missed)),
        FLAGGED: len(flagged) / max(1, len(some)),
    }


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """The correlation of the ranks of absolute values."""
    ranks = [torch.tensor(some).abs().argsort().argsort().double() for some in (x, y)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def correlations(one: Removed) -> dict[str, float]:
    """Spearman of absolute values with the true effects."""
    true = [link.true or 0.0 for link in one.links]
    return {
        "Spearman, predicted": spearman([link.predicted for link in one.links], true),
        "Spearman, weight": spearman([link.weight for link in one.links], true),
        "Spearman, weight x ||v WO||": spearman(one.norms, true),
    }
