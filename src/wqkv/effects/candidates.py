"""The links whose removal is predicted to matter most, found while the backward pass is there."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import call_of
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.partial import Partial
from wqkv.effects.blocks import AttentionSite
from wqkv.effects.passes import PlainPass, SiteLink
from wqkv.maps.attention_map import map_of
from wqkv.maps.link_map import How
from wqkv.maps.links import removals, zeroings
from wqkv.maps.picks import numbers
from wqkv.maps.weights import Weights, aside
from wqkv.study.callbacks import Progress, silent

#: How many links of each kind are kept per attention.
KEPT = 512
#: How many of the heaviest links are kept of the whole model, and above which weight a link counts
#: as heavy: a row has one of them at most.
HEAVIEST, HEAVY = 6, 0.5


class PredictedLink(NamedTuple):
    """A link, its weight and its effect to first order."""

    link: SiteLink
    weight: float
    effect: float


class _Best:
    """The links of largest absolute effect among the tiles of one attention."""

    def __init__(self, count: int) -> None:
        self._count, self._floor = count, 0.0
        self._found: list[Tensor] = []  # each (4, links): effect, head, query, key

    def add(self, corner: tuple[int, int, int], effects: Tensor) -> None:
        """Take the links of a tile, (heads, queries, keys), whose first one is `corner`.

        NaN is left out, because such a link cannot be removed.
        """
        at = (effects.abs() > self._floor).nonzero()
        if len(at) > self._count:
            best = effects[tuple(at.T)].abs().topk(self._count)
            at, self._floor = at[best.indices], float(best.values[-1])
        if len(at):
            found = effects[tuple(at.T)].double()
            places = at.T.double() + at.new_tensor(corner).unsqueeze(1)
            self._found.append(torch.cat((found[None], places)))

    def links(self) -> Tensor:
        """(links, 4), by falling absolute effect."""
        if not self._found:
            return torch.zeros((0, 4), dtype=torch.float64, device="cpu")
        found = torch.cat(self._found, dim=1).T
        return found[found[:, 0].abs().argsort(descending=True)[: self._count]]


class Candidates:
    """A `GradientTaken` that keeps the strongest links of each attention.

    It keeps KEPT of each kind, or `at_least` if that is more. `resting` are links to the first
    token, in attentions where no token sees a later one; `others` are all other links. `heaviest`
    are the links of the largest weights, and `heavy` says how many weigh more than HEAVY. `behind`
    holds the gradient with respect to a token's hidden state after a block: the links' own blocks
    are judged by it.
    """

    def __init__(self, how: How, progress: Progress = silent, at_least: int = 0) -> None:
        self._how, self._progress, self._kept = how, progress, max(KEPT, at_least)
        self.others: list[PredictedLink] = []
        self.resting: list[PredictedLink] = []
        self.heaviest: list[PredictedLink] = []
        self.heavy = 0
        self.behind: dict[tuple[int, int], Tensor] = {}  # by block and row (d_model,)
        self.total, self._done = 0.0, 0  # the sum of all absolute effects; attentions

    def __call__(
        self, plain: PlainPass, site: AttentionSite, whole: Partial, grad: Tensor, behind: Tensor
    ) -> None:
        given, rules = plain.given[site], plain.rules[site]
        call = call_of(given.query, given.key, given.value, rules)
        square = call.sizes[2] == call.sizes[3] and site.part != "cross"
        apart = square and plain.sees_no_later(site)
        others, resting = _Best(self._kept), _Best(self._kept)
        with aside(given.query.device):
            P = Weights(call)
            if whole.lse.dtype == given.query.dtype:  # else it is that of rounded scores
                P.known = whole.lse
            of = removals if self._how == "renormalize" else zeroings
            effects = of(P, given.value, whole.out, grad)
            # Whole rows, because nearly every row has a heavy link in some head.
            for b, h, i, j in P.parts(numbers(range(call.sizes[2]), P.device)):
                (weights,), (tile,) = effects.with_weights(b, h, i, j)
                corner = (h.start, int(i[0]), j.start)
                self._weigh(site, corner, weights, tile)
                self.total += float(tile.abs().nansum(dtype=torch.float64))
                if apart and j.start == 0:
                    resting.add(corner, tile[:, :, :1])
                    tile[:, :, 0] = torch.nan
                others.add(corner, tile)
            found = [self._links(site, P, best) for best in (others, resting)]
        self.others += found[0]
        self.resting += found[1]
        number = plain.block_of[site]
        for one in (*found[0], *found[1], *self.heaviest):
            if one.link.site != site:
                continue
            row = one.link.query
            self.behind.setdefault((number, row), behind[0, row].detach().clone())
        self._done += 1
        self._progress(self._done, len(plain.given))

    def _weigh(
        self, site: AttentionSite, corner: tuple[int, int, int], weights: Tensor, effects: Tensor
    ) -> None:
        """Look for the heaviest links of a tile, see `_Best.add`, that can be removed."""
        high, at = weights.masked_fill(effects.isnan(), 0).max(dim=2)
        self.heavy += int((high > HEAVY).sum())
        for n in high.flatten().topk(min(HEAVIEST, high.numel())).indices.tolist():
            head, row = divmod(n, high.shape[1])
            j = int(at[head, row])
            place = (x + first for x, first in zip((head, row, j), corner, strict=True))
            weight, effect = float(high[head, row]), float(effects[head, row, j])
            if weight:  # else the row has no link that can be removed
                self.heaviest.append(PredictedLink(SiteLink(site, *place), weight, effect))
        self.heaviest = sorted(self.heaviest, key=lambda one: -one.weight)[:HEAVIEST]

    def count_links(self, plain: PlainPass) -> int:
        """How many links of the model can be removed."""
        counts: dict[tuple[Mask, tuple[int, ...], bool], int] = {}
        total = 0
        for site, given in plain.given.items():
            call = call_of(given.query, given.key, given.value, plain.rules[site])
            mask, n_head = call.rules.mask, call.sizes[1]
            alone = self._how == "renormalize" and call.rules.sinks is None
            key = mask, call.sizes[2:], alone
            if key not in counts:  # nearly always, all layers share one mask
                # The lse of equal scores is ln(how many keys a row sees).
                seen = map_of(call).flat().lse[0, 0].exp().round().long()
                if alone:  # the only key of a row cannot be removed
                    seen = seen.masked_fill(seen == 1, 0)
                counts[key] = int(seen.sum())
            total += n_head * counts[key]
        return total

    def _links(self, site: AttentionSite, P: Weights, best: _Best) -> list[PredictedLink]:
        found = best.links()
        effects, places = found[:, 0].tolist(), found[:, 1:].long()
        heads, queries, keys = places.T
        weights = P.pairs(queries, keys)[0].gather(0, heads[None])[0].tolist()
        return [
            PredictedLink(SiteLink(site, *place), weight, effect)
            for place, weight, effect in zip(places.tolist(), weights, effects, strict=True)
            if effect and math.isfinite(effect)
        ]
