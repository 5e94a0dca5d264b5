"""EffectMaps: what removing any link of a model does to one number, as one EffectMap per head.

One forward and one backward pass keep q, k, v, the output and its gradient of every attention. No
map is built: each is computed where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from wqkv.attend.call import call_of
from wqkv.attend.partial import Partial
from wqkv.doors import door
from wqkv.effects.asked import ask
from wqkv.effects.blocks import AttentionSite, SiteInput
from wqkv.effects.passes import PlainPass
from wqkv.effects.rerun import Rerun
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.link_map import EffectMap, How
from wqkv.study.callbacks import Progress, silent
from wqkv.study.model import OpenModel
from wqkv.study.opened_layer import rules_of
from wqkv.study.pair import OpenPair
from wqkv.study.part import in_range


class _SiteKept(NamedTuple):
    """What is kept of an attention: (1, n_head, n, d_v) each, and what its function was given."""

    given: SiteInput
    output: Tensor
    grad: Tensor


@door
class EffectMaps:
    """What removing each link of a model does to one number, to first order: an EffectMap per head.

    The number and the arguments are those of `why`: `EffectMaps(model, text).map(3, 1)` is the map
    of layer 3, head 1. `before` is the number, and `question` says it in words. Memory grows with
    the length of the text: `bytes` is how much is kept.

    Args:
        model, text, answer, against, at, target: see `why`.
        progress: is called with (layers done, layers in all) of the backward pass.

    Raises:
        ArgumentError: as `why`.
    """

    def __init__(
        self,
        model: OpenModel | OpenPair,
        text: str,
        answer: str | Callable[[Any], Tensor] | None = None,
        against: str | None = None,
        at: int = -1,
        *,
        target: str | None = None,
        progress: Progress = silent,
    ) -> None:
        self._model, self._kept = model, dict[AttentionSite, _SiteKept]()
        self._asked = ask(model, text, answer, against, at, target)
        layers = sum(part.sizes.n_layer for part in model.parts.values())

        def keep(
            plain: PlainPass, site: AttentionSite, whole: Partial, grad: Tensor, behind: Tensor
        ) -> None:
            self._kept[site] = _SiteKept(plain.given[site], whole.out, grad)
            progress(len(self._kept), layers)

        self.before = Rerun(model, self._asked, keep).before
        self.question = self._asked.question

    @property
    def bytes(self) -> int:
        """The memory of all that is kept."""
        tensors = (
            x
            for given, *rest in self._kept.values()
            for x in (given.query, given.key, given.value, *rest)
        )
        return sum(x.numel() * x.element_size() for x in tensors)

    def map(
        self, layer: int, head: int, how: How = "renormalize", part: str | None = None
    ) -> EffectMap:
        """The effects of one head: [1, 1, n, m].

        Tokens behind `at` change nothing in a causal model, and are not among the n and m.

        Args:
            part: "encoder", "decoder" or "cross" of a model of two texts; None is the main one.

        Raises:
            ArgumentError: no such part, layer or head; an unknown `how`.
        """
        P, kept, heads, of_keys = self._head(layer, head, part)
        value = kept.given.value[:, of_keys]
        return P.effects(value, kept.output[:, heads], kept.grad[:, heads], how)

    def _head(
        self, layer: int, head: int, part: str | None
    ) -> tuple[AttentionMap, _SiteKept, slice, slice]:
        """A head's map, what is kept of its attention, and its slices of q and of k."""
        name = self._model.main if part is None else part
        if name not in self._model.parts:
            known = ", ".join(self._model.parts)
            raise ArgumentError(
                f"{self._model.name} has no part {name!r}.\nPass one of: {known}, or None."
            )
        of_part = self._model.parts[name]
        in_range("layer", layer, of_part.sizes.n_layer)
        in_range("head", head, of_part.sizes.n_head)
        kept = self._kept[AttentionSite(name, layer)]
        shared = head // (kept.given.query.shape[1] // kept.given.key.shape[1])
        heads, of_keys = slice(head, head + 1), slice(shared, shared + 1)
        rules = replace(rules_of(of_part.layer(layer), heads), scale=kept.given.scale)
        q, k = kept.given.query[:, heads], kept.given.key[:, of_keys]
        return map_of(call_of(q, k, k, rules)), kept, heads, of_keys
