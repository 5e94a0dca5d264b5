"""What a View answers, as records of plain numbers; tokens, heads and layers count from 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from wqkv.maps.proof import Proof

#: The numbers that one head is summed up by, and the unit of each.
STATISTICS = {
    "entropy": "nats",  # of a row's weights, mean over all rows
    "received": "of 1",  # the largest share that one token receives, mean over all rows
    "distance": "tokens",  # from the query token to its keys, mean over all rows
    "sink": "of 1",  # the weight on the first token and a learned sink, mean over all rows
    "label": "of 1",  # the score of the pattern that the head follows, see study/heads.py
}


class ScoreTerm(NamedTuple):
    """One of the d_k products of a score."""

    q: float
    k: float
    product: float


@dataclass(frozen=True)
class WeightCell:
    """How one weight comes about: exp(score - lse), score = cap(q . k * scale) + bias.

    The terms, `dot` and what follows from it are float64 sums of the model's own q and k. A learned
    sink is one more score in lse. `hidden` says that the mask hides the key: the score is -inf.
    """

    terms: tuple[ScoreTerm, ...]
    dot: float
    scale: float
    scaled: float
    softcap: float | None
    capped: float | None
    bias: float | None
    score: float
    sink: float | None
    lse: float
    weight: float
    hidden: bool


@dataclass(frozen=True)
class WeightRow:
    """Where one token looks: its weight on every key token, and what each weight adds to it.

    A learned sink takes the share `sink` of the row, and adds nothing. `residual` is the proof of
    this one token, all heads together; None where the model's own number was not kept. `changed`
    is how far the head's output is from that of the whole row, where a link was removed.
    """

    weights: Tensor  # (m,)
    effects: Tensor  # (m,) |weight_j v_j WO|, the length of what key token j adds
    sink: float | None
    lse: float
    output: float  # the length of what the head adds to the token, the sum over all keys
    residual: Proof | None
    changed: float | None = None  # |output without the link - output|


@dataclass(frozen=True)
class WeightColumn:
    """Who looks at one key token: the weight that each query token puts on it."""

    weights: Tensor  # (n,)
    received: float  # their sum


@dataclass(frozen=True)
class BlockMeans:
    """Exact means of the weights in blocks of a map.

    Block (a, b) has the query tokens edges[a] to edges[a + 1] - 1 and the key tokens keys[b] to
    keys[b + 1] - 1.
    """

    edges: tuple[int, ...]
    keys: tuple[int, ...]
    values: Tensor  # (blocks, blocks), or (n_head, blocks, blocks)


@dataclass(frozen=True)
class Distances:
    """How far a head looks, as means over all query tokens."""

    edges: tuple[int, ...]  # in tokens
    mass: Tensor  # mass[b] is the weight on keys edges[b] to edges[b + 1] - 1 tokens away
    mean: float  # in tokens


class WeightLink(NamedTuple):
    """The weight that query token i puts on key token j."""

    i: int
    j: int
    weight: float


@dataclass(frozen=True)
class HeadGrid:
    """One number per head; NaN where a head has none. A color scale of it goes from low to high."""

    statistic: str
    unit: str
    low: float
    high: float
    values: Tensor  # (n_layer, n_head)
    labels: tuple[tuple[str, ...], ...] | None = (
        None  # of the statistic "label": per layer and head
    )
    evidence: tuple[tuple[str, ...], ...] | None = None  # of "label": a sentence for each
