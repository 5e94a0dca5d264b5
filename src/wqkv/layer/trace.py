"""Trace: every intermediate of one layer call, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import reference
from wqkv.attend.partial import Partial, merge, share
from wqkv.doors import door
from wqkv.errors import describe
from wqkv.maps import pictures
from wqkv.maps.axis import Axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@door
@dataclass(frozen=True)
class Trace:
    """What became of the tokens, in order: q, k, v -> scores -> weights -> context -> output.

    Heads: with n_kv_head < n_head, query head h reads key head h // (n_head / n_kv_head).
    """

    q: Tensor  # (batch, n_head, query_len, d_k), after the position's rotation
    k: Tensor  # (batch, n_kv_head, key_len, d_k), after the position's rotation
    v: Tensor  # (batch, n_kv_head, key_len, d_v)
    scores: Tensor  # (batch, n_head, query_len, key_len) = q k^T * scale; -inf where the mask hides
    weights: Tensor  # (batch, n_head, query_len, key_len) = softmax(scores); 0 where all is hidden
    context: Tensor  # (batch, query_len, n_head * d_v) = weights v of all heads, side by side
    output: Tensor  # (batch, query_len, d_model) = context WO; the context itself without a WO

    def __repr__(self) -> str:
        lines = (
            f"  {field.name:<8} {describe(getattr(self, field.name))}" for field in fields(self)
        )
        return "\n".join(["Trace", *lines])

    # In a notebook

    def _repr_html_(self) -> str:
        return pictures.html(repr(self), self._pictures(), "sample 0")

    def plot(self) -> Figure:
        """The weights of every head of the first sample, as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return pictures.figure("softmax(q k^T * scale)", self._pictures())

    def _pictures(self) -> list[pictures.Picture]:
        return [
            pictures.picture(f"head {h}", one, *((Axis(n),) for n in one.shape))
            for h, one in enumerate(self.weights[0])
        ]


def all_steps(calls: Sequence[Call]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and weights of calls with the same queries, joined along the keys, and the result."""
    first, *others = (reference.steps(call, call.places()) for call in calls)
    if not others:
        return first.scores, first.weights, first.out
    parts = [first, *others]
    whole = merge(*(Partial(part.out, part.lse) for part in parts))
    weights = [part.weights * share(part.lse, whole.lse) for part in parts]
    return torch.cat([part.scores for part in parts], -1), torch.cat(weights, -1), whole.out
