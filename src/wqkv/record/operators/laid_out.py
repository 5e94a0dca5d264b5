"""Scores that are computed again, and their output, laid out as (batch, head, query, key)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wqkv.record.operators.axes import axis_roles, followed, head_count
from wqkv.record.operators.layout import Unreadable, axis_of, rearranged, size_of
from wqkv.record.operators.replay import Replayed
from wqkv.record.operators.told import WrittenOut


class LaidOut:
    """Where the axes of an attention that is computed again belong in a map.

    If an operator moves them in a way that is not followed, their order is all that tells.
    """

    def __init__(self, how: WrittenOut, modules: Sequence[nn.Module], found: Replayed) -> None:
        self.how, self.modules = how, modules
        self.key_len = how.value.tensor.shape[-2 if how.weights_first else -1]
        self._by_axes = True
        try:
            self._layout, self._keys, self._met = followed(how.weights)
            self._at = axis_roles(self._layout, self._keys, self._met, how, modules)
            self.scores(found)  # these raise now what they would raise when a map is asked for
            self.output()
        except Unreadable:
            self._by_axes = False

    def scores(self, found: Replayed) -> Tensor:
        """Scores as (batch, head, query, key), with sinks among the keys."""
        scores = found.scores
        if not self._by_axes:
            return self._by_order(scores)
        beside = [axis for axis in self._layout if axis is not self._keys]
        sizes = [found.first, self.key_len, scores.shape[-1] - found.first - self.key_len]
        if sizes[2] < 0 or size_of(self._keys) != self.key_len:
            raise Unreadable("its softmax was taken over other keys than v has")
        axes = axis_of(sizes[0], "sink"), self._keys, axis_of(sizes[2], "sink")
        parts = zip(scores.split(sizes, dim=-1), axes, strict=True)
        pieces = [
            rearranged(part, (*beside, axis), (*self._at.square[:3], axis), full=True)
            for part, axis in parts
            if part.shape[-1]
        ]
        return torch.cat(pieces, dim=-1)

    def output(self) -> Tensor:
        """The model's own output, (batch, n_head, query_len, d_v)."""
        output = self.how.output.tensor.detach()
        output = output if self.how.weights_first else output.mT
        if not self._by_axes:
            return self._by_order(output)
        *lead, rows, columns = self._met
        rows = rows if self.how.weights_first else columns
        d = axis_of(output.shape[-1], "channel")
        return rearranged(output, (*lead, rows, d), (*self._at.square[:3], d), full=True)

    def _heads(self, lead: Sequence[int]) -> int:
        if len(lead) == 1:
            return head_count(lead[0], self.how, self.modules)
        return lead[-1] if lead else 1

    def _by_order(self, x: Tensor) -> Tensor:
        *lead, n, m = x.shape
        return x.reshape(-1, self._heads(lead), n, m)
