"""Sums over the tokens of a corpus per head, and how a part (a Parquet file) stores them.

The sums are exact integers, so the order in which documents are added, and how they are grouped,
cannot change a result by rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wqkv.corpus.measures import BINS, MEASURES, LayerSums
from wqkv.errors import need
from wqkv.sentences.errors import mistake
from wqkv.study.heads import Heads, label_sums
from wqkv.study.patterns import PATTERNS, SURVEYED, PatternSums
from wqkv.study.tokens import NOTHING_UNREAD, Unread

#: Sums are counted in units of 1 / UNIT. Every float64 from 2^-7 on is a whole number of them.
UNIT = 2**60
#: How many examples are kept for each head.
KEPT = 5
#: The columns of a part that hold `Tally.sums`, in this order.
SUMS = ("total", "squares", "equal")


class Example(NamedTuple):
    """The strongest link of one head in one document, and the text around it.

    Examples compare as tuples: the one of larger weight comes first, then by document. That is why
    the first field is the negative weight.
    """

    negative_weight: float
    file: str
    number: int  # the line or row, from 1; 0 is a whole file
    text: str
    query: tuple[int, int]  # where the query's token begins and ends in `text`
    key: tuple[int, int]

    @property
    def weight(self) -> float:
        return -self.negative_weight


class Skipped(NamedTuple):
    """A document that could not be read, or not in full."""

    file: str
    number: int
    reason: str


class HeadMeasure(NamedTuple):
    """One measure of one head over all tokens that count; None where there are none."""

    layer: int
    head: int
    measure: str
    tokens: int
    mean: float | None
    variance: float | None
    equal: float | None  # the mean that equal weights would have
    histogram: tuple[int, ...]


def _no_numbers() -> NDArray[Any]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Tally:
    """What is known of all heads after some documents.

    >>> Tally().plus(Tally(documents=2)).plus(Tally(documents=1)).documents
    3
    """

    heads: tuple[tuple[int, int], ...] = ()  # (layer, head); none before the first token
    #: (head, measure): how many tokens each sum is over.
    counts: NDArray[np.int64] = field(default_factory=_no_numbers)
    #: (3, head, measure) of Python's integers: sums of values, of their squares, of equal weights.
    sums: NDArray[np.object_] = field(default_factory=_no_numbers)
    #: (head, measure, BINS): the histograms.
    bins: NDArray[np.int64] = field(default_factory=_no_numbers)
    examples: tuple[tuple[Example, ...], ...] = ()  # of each head, the strongest first
    skipped: tuple[Skipped, ...] = ()
    documents: int = 0  # that were read
    windows: int = 0
    tokens: int = 0
    unread: Unread = NOTHING_UNREAD  # without what was typed, which would depend on the order

    @classmethod
    def of(cls, layers: Sequence[LayerSums]) -> Tally:
        """Return the sums of a batch, whose layers count from 0."""
        sums = [
            torch.stack((x.total, x.squares, x.equal[:, None].expand_as(x.total))) for x in layers
        ]
        heads = [(at, head) for at, x in enumerate(layers) for head in range(x.total.shape[1])]
        counts = [x.counts[:, None].expand(x.total.shape).T for x in layers]
        bins = [x.bins.transpose(0, 1) for x in layers]
        return cls(
            tuple(heads),
            torch.cat(counts).numpy(),
            _in_units(torch.cat(sums, dim=2).transpose(1, 2).numpy()),
            torch.cat(bins).numpy(),
            ((),) * len(heads),
        )

    def plus(self, other: Tally) -> Tally:
        """Return the tally of the documents of both."""
        measured = self if self.heads else other
        if self.heads and other.heads:
            pairs = zip(self.examples, other.examples, strict=True)
            measured = replace(
                self,
                counts=self.counts + other.counts,
                sums=self.sums + other.sums,
                bins=self.bins + other.bins,
                examples=tuple(tuple(nsmallest(KEPT, a + b)) for a, b in pairs),
            )
        return replace(
            measured,
            skipped=tuple(sorted(self.skipped + other.skipped)),
            documents=self.documents + other.documents,
            windows=self.windows + other.windows,
            tokens=self.tokens + other.tokens,
            unread=self.unread.plus(other.unread),
        )

    @property
    def measures(self) -> list[HeadMeasure]:
        """Every measure of every head."""
        found = []
        for at, (layer, head) in enumerate(self.heads):
            for number, name in enumerate(MEASURES):
                tokens = int(self.counts[at, number])
                mean = variance = equal = None
                if tokens:
                    total, squares, flat = (
                        Fraction(x, UNIT * tokens) for x in self.sums[:, at, number]
                    )
                    # Each square was rounded to a float64, so the difference may fall below 0.
                    mean, variance = float(total), float(max(squares - total**2, Fraction(0)))
                    equal = float(flat)
                histogram = tuple(self.bins[at, number].tolist())
                found.append(
                    HeadMeasure(layer, head, name, tokens, mean, variance, equal, histogram)
                )
        return found

    def label(self, source: str = "") -> Heads:
        """Label every head by the rules that `wqkv.study.heads` has for one text."""
        layers = []
        for layer in dict.fromkeys(layer for layer, _ in self.heads):
            here = [at for at, place in enumerate(self.heads) if place[0] == layer]
            value, _, flat = self.sums[:, here] / UNIT
            parts = np.stack([value, flat, self.counts[here]]).astype(np.float64)
            asked = [list(MEASURES).index(name) for name in SURVEYED]
            sums = torch.zeros(3, len(PATTERNS), len(here), dtype=torch.float64, device="cpu")
            places = torch.tensor([list(PATTERNS).index(name) for name in SURVEYED], device="cpu")
            measured = torch.from_numpy(parts[:, :, asked]).transpose(1, 2)
            layers.append(sums.index_copy_(1, places, measured))
        # Every token that counts has an entropy.
        tokens = int(self.counts[0, list(MEASURES).index("entropy")]) if self.heads else 0
        return replace(label_sums(PatternSums(layers, tokens), source), unread=self.unread)


def merge(tallies: Iterable[Tally]) -> Tally:
    """Return the tally of the documents of all."""
    return reduce(Tally.plus, tallies, Tally())


def _in_units(sums: NDArray[np.float64]) -> NDArray[np.object_]:
    """Turn float64 sums into whole numbers of 1 / UNIT, as Python's ints, which cannot overflow."""
    units = np.ldexp(sums, 60).ravel().tolist()
    return np.array([int(x) for x in units], dtype=object).reshape(sums.shape)


# Parts

#: A table by its columns' names, as pyarrow takes it.
Columns = Mapping[str, Sequence[object] | NDArray[Any]]


def dump(tally: Tally) -> bytes:
    """Write the tally of one chunk as a part: a Parquet file with one row per head and measure.

    The sums of one chunk came from float64, so they are exact as float64 too. Skipped documents and
    counts stand in the file's metadata; the examples of a head stand in the row of its first
    measure.
    """
    names, none = list(MEASURES), [None] * (len(MEASURES) - 1)
    some = bool(tally.heads)
    sums = (tally.sums / UNIT).astype(np.float64) if some else np.zeros((3, 0))
    columns: Columns = {
        "layer": [layer for layer, _ in tally.heads for _ in names],
        "head": [head for _, head in tally.heads for _ in names],
        "measure": names * len(tally.heads),
        "tokens": np.ravel(tally.counts) if some else [],
        **dict(zip(SUMS, sums.reshape(3, -1), strict=True)),
        "histogram": list(tally.bins.reshape(-1, BINS)) if some else [],
        "examples": [x for one in tally.examples for x in (json.dumps(one), *none)],
    }
    counts = [tally.documents, tally.windows, tally.tokens]
    note = {"skipped": tally.skipped, "counts": counts, "unread": tally.unread}
    return parquet(columns, json.dumps(note))


def load(path: str | Path) -> Tally:
    """Read a part that `dump` made."""
    table = need("pyarrow.parquet", "survey", mistake("parquet")).read_table(path)
    note = json.loads(table.schema.metadata[b"wqkv"])
    documents, windows, tokens = note["counts"]
    skipped = tuple(Skipped(*one) for one in note["skipped"])
    found = Tally(
        skipped=skipped,
        documents=documents,
        windows=windows,
        tokens=tokens,
        unread=Unread(*note["unread"]),
    )
    if not len(table):
        return found

    def column(name: str) -> NDArray[Any]:
        values: NDArray[Any] = table[name].to_numpy().reshape(-1, len(MEASURES))
        return values

    layers, heads = column("layer")[:, 0].tolist(), column("head")[:, 0].tolist()
    bins = table["histogram"].combine_chunks().flatten().to_numpy()
    return replace(
        found,
        heads=tuple(zip(layers, heads, strict=True)),
        counts=column("tokens"),
        sums=_in_units(np.stack([column(name) for name in SUMS])),
        bins=bins.reshape(-1, len(MEASURES), BINS),
        examples=tuple(
            tuple(Example(a, b, c, d, tuple(e), tuple(f)) for a, b, c, d, e, f in json.loads(row))
            for row in column("examples")[:, 0]
        ),
    )


def parquet(columns: Columns, note: str = "") -> bytes:
    """Return a Parquet file with these columns, and `note` as its metadata "wqkv"."""
    purpose = mistake("parquet")
    arrow, writer = need("pyarrow", "survey", purpose), need("pyarrow.parquet", "survey", purpose)
    table = arrow.table(columns).replace_schema_metadata({"wqkv": note})
    sink = arrow.BufferOutputStream()
    writer.write_table(table, sink, compression="zstd")
    found: bytes = sink.getvalue().to_pybytes()
    return found
