"""What a View answers, as records of plain numbers; words, heads and layers count from 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from wqkv.maps.proof import Proof


class Term(NamedTuple):
    """One of the d_k products of a score."""

    q: float
    k: float
    product: float


@dataclass(frozen=True)
class Cell:
    """How one weight comes about: exp(score - lse), score = cap(q . k * scale) + bias.

    The terms, `dot` and what follows from it are float64 sums of the model's own q and k. A learned
    sink is one more score in lse. `hidden` says that the mask hides the key: the score is -inf.
    """

    terms: tuple[Term, ...]
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
class Row:
    """Where one word looks: every weight, and the length of what comes of it, |weight v WO|.

    A learned sink takes the share `sink` of the row, and adds nothing. `output` is the length of
    the sum, which the head adds to the word. `residual` is the proof of this one word, all heads
    together; None where the model's own number was not kept.
    """

    weights: Tensor  # (m,), one a word that can be looked at
    effects: Tensor  # (m,)
    sink: float | None
    lse: float
    output: float
    residual: Proof | None


@dataclass(frozen=True)
class Column:
    """Who looks at one word; `received` is the sum."""

    weights: Tensor  # (n,)
    received: float


@dataclass(frozen=True)
class Blocks:
    """Exact means of blocks: block b holds the words edges[b] to edges[b + 1] - 1.

    `keys` are the edges of the words that are looked at, which may be fewer or more.
    """

    edges: tuple[int, ...]
    keys: tuple[int, ...]
    values: Tensor


@dataclass(frozen=True)
class Distances:
    """How far a head looks: the mean weight of a row at edges[b] to edges[b + 1] - 1 words away."""

    edges: tuple[int, ...]
    mass: Tensor
    mean: float  # in words


class Link(NamedTuple):
    """The weight from word i to word j."""

    i: int
    j: int
    weight: float


@dataclass(frozen=True)
class Grid:
    """One number a head, (n_layer, n_head); NaN where there is none. `low` to `high` is its scale.

    `labels` and `evidence` say what a head does, where that is the statistic.
    """

    statistic: str
    unit: str
    low: float
    high: float
    values: Tensor
    labels: tuple[tuple[str, ...], ...] | None = None
    evidence: tuple[tuple[str, ...], ...] | None = None
