"""What removing each link of a watched model does to a user's own loss, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import starmap
from typing import NamedTuple, overload

import torch

from wqkv.doors import door
from wqkv.errors import MissedError
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.link_map import EffectMap, How, check_how
from wqkv.maps.statistics import Top
from wqkv.record.kept import AnsweringRun
from wqkv.record.layer_runs import numbered


class EffectLink(NamedTuple):
    """One link: in a head of a layer, token `query` of a sample looks at token `key`.

    `effect` is what its removal does to the loss, after - before, to first order.
    """

    layer: int  # as in `Seen`
    head: int
    sample: int
    query: int
    key: int
    weight: float
    effect: float


@door
class SeenEffects(Sequence[EffectMap]):
    """What removing each link does to a user's own loss L, to first order; `Seen.effects` makes it.

    effects[layer] is the map of a layer, `AttentionMap.effects` of its last run: it is
    P_ij / (1 - P_ij) (g_i . o_i - g_i . v_j), with g the gradient of L with respect to the heads'
    output o, and with how="zero" it is -P_ij g_i . v_j. Nothing is N x N.

    Raises:
        MissedError: a layer that was missed, or that no backward pass has reached.
    """

    def __init__(self, layers: Sequence[tuple[str, AnsweringRun | str]], how: How) -> None:
        check_how(how)  # now, and not when a layer is asked for
        # By name the run of each layer, or the reason why it has no effects.
        self._layers, self.how = layers, how

    def __len__(self) -> int:
        return len(self._layers)

    @overload
    def __getitem__(self, layer: int) -> EffectMap: ...
    @overload
    def __getitem__(self, layer: slice) -> list[EffectMap]: ...
    @door
    def __getitem__(self, layer: int | slice) -> EffectMap | list[EffectMap]:
        if isinstance(layer, slice):
            return [self._map(*one) for one in self._layers[layer]]
        return self._map(*numbered(self._layers, layer))

    def __repr__(self) -> str:
        return f"SeenEffects of {len(self._known)} of {len(self)} layers, {self.how}"

    def top(
        self, k: int, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[EffectLink]:
        """The k links with the largest |effect| over all layers, heads and samples, exact.

        They stand by falling |effect|. Links whose effect is 0 are left out, and so are those that
        cannot be removed because their row sees nothing else, and layers that have no effects:
        `Seen.report` says which and why. `progress(rows done, rows in all)` is called after every
        block that was looked through.

        Raises:
            ArgumentError: `k` is less than 1.
            MissedError: no layer has effects.
        """
        known = self._known
        if not known:
            first = "".join(f"; of {name}: {why}" for name, why in self._layers[:1])
            raise MissedError(f"None of the {len(self)} layers has effects{first}.")
        total, done, best = sum(run.shape[2] for run in known.values()), 0, list[EffectLink]()
        for number, run in known.items():
            weights, effects = _maps(run, self.how)

            def tell(rows: int, _: int, before: int = done) -> None:
                progress(before + rows, total)

            links = [*best, *_links(number, effects.top(k, progress=tell), weights, k)]
            best = sorted(links, key=lambda link: -abs(link.effect))[:k]
            done += effects.shape[2]
        return best

    @property
    def _known(self) -> dict[int, AnsweringRun]:
        """The layers that have effects, by number."""
        return {n: run for n, (_, run) in enumerate(self._layers) if isinstance(run, AnsweringRun)}

    def _map(self, name: str, run: AnsweringRun | str) -> EffectMap:
        if not isinstance(run, AnsweringRun):
            raise MissedError(f"There are no effects of {name}: {run}.")
        return _maps(run, self.how)[1]


def _maps(run: AnsweringRun, how: How) -> tuple[AttentionMap, EffectMap]:
    """The weights of a run, and the effects."""
    weights, backward = run.map(), run.backward
    assert isinstance(weights, AttentionMap)
    assert backward is not None
    return weights, backward.effects(weights, how)


def _links(layer: int, found: Top, weights: AttentionMap, k: int) -> Iterator[EffectLink]:
    """The k strongest links of a layer, of those of each head."""
    effects = found.weights.flatten()
    strength = effects.abs().nan_to_num(nan=0.0)
    at = strength.topk(min(k, len(effects))).indices
    at = at[strength[at] > 0]
    sample, head, _ = torch.unravel_index(at, found.weights.shape)
    query, key = found.queries.flatten()[at], found.keys.flatten()[at]
    P = weights.at(query, key)[sample, head, torch.arange(len(at), device=at.device)]
    columns = (x.tolist() for x in (head, sample, query, key, P, effects[at]))
    return starmap(partial(EffectLink, layer), zip(*columns, strict=True))
