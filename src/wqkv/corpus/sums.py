"""Statistics of all heads that merge: exact integers, so that no order and no grouping shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from heapq import nsmallest
from typing import Any, NamedTuple

import numpy as np
import torch

from wqkv.corpus.measures import BINS, MEASURES, Sums
from wqkv.errors import need
from wqkv.study.heads import Heads, label_sums
from wqkv.study.patterns import PATTERNS, PatternSums

#: Sums are counted in units of 1 / UNIT. A float64 from 2^-7 on is a whole number of them.
UNIT = 2**60
#: So many examples are kept of each head.
KEPT = 5
SUMS = ("total", "squares", "equal")


class Example(NamedTuple):
    """The strongest link of one head in one document, and the text around it.

    Examples are ordered as they are compared: by falling weight, then by document.
    """

    less: float  # the weight, below 0
    file: str
    number: int  # the line or row, from 1; 0 is a whole file
    text: str
    query: tuple[int, int]  # where the two words stand in `text`
    key: tuple[int, int]

    @property
    def weight(self) -> float:
        return -self.less


class Skipped(NamedTuple):
    """A document that could not be read, or not in full."""

    file: str
    number: int
    reason: str


class Row(NamedTuple):
    """One measure of one head over all words."""

    layer: int
    head: int
    measure: str
    tokens: int
    mean: float | None
    variance: float | None
    equal: float | None  # the mean that equal weights would have
    histogram: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tally:
    """What is known of all heads after some documents.

    >>> Tally().plus(Tally(documents=2)).plus(Tally(documents=1)).documents
    3
    """

    heads: tuple[tuple[int, int], ...] = ()  # (layer, head); none before the first words
    counts: Any = 0  # array (head, measure) of int64: how many tokens each sum is over
    sums: Any = 0  # array (3, head, measure) of ints: of values, their squares, equal weights
    bins: Any = 0  # array (head, measure, BINS) of int64
    examples: tuple[tuple[Example, ...], ...] = ()  # of each head, the strongest first
    skipped: tuple[Skipped, ...] = ()
    documents: int = 0  # that were read
    windows: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, layers: Sequence[Sums]) -> Tally:
        """The sums of a batch."""
        sums = [
            torch.stack((x.total, x.squares, x.flat[:, None].expand_as(x.total))) for x in layers
        ]
        heads = [(at, head) for at, x in enumerate(layers) for head in range(x.total.shape[1])]
        counts = [x.counts[:, None].expand(x.total.shape).T for x in layers]
        bins = [x.bins.transpose(0, 1) for x in layers]
        return cls(
            tuple(heads),
            torch.cat(counts).numpy(),
            _exact(torch.cat(sums, dim=2).transpose(1, 2).numpy()),
            torch.cat(bins).numpy(),
            ((),) * len(heads),
        )

    def plus(self, other: Tally) -> Tally:
        """Both, exactly."""
        pairs = zip(self.examples, other.examples, strict=True)
        both = self.heads and other.heads
        return Tally(
            self.heads or other.heads,
            self.counts + other.counts,
            self.sums + other.sums,
            self.bins + other.bins,
            tuple(tuple(nsmallest(KEPT, a + b)) for a, b in pairs)
            if both
            else self.examples or other.examples,
            tuple(sorted(self.skipped + other.skipped)),
            self.documents + other.documents,
            self.windows + other.windows,
            self.tokens + other.tokens,
        )

    @property
    def rows(self) -> list[Row]:
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
                    # each square was rounded, so the difference may fall below 0
                    mean, variance = float(total), float(max(squares - total**2, Fraction(0)))
                    equal = float(flat)
                histogram = tuple(self.bins[at, number].tolist())
                found.append(Row(layer, head, name, tokens, mean, variance, equal, histogram))
        return found

    def label(self, source: str = "") -> Heads:
        """What every head does, as `heads` says it of one text."""
        layers = []
        for layer in dict.fromkeys(layer for layer, _ in self.heads):
            here = [at for at, place in enumerate(self.heads) if place[0] == layer]
            value, _, flat = self.sums[:, here] / UNIT
            parts = np.stack([value, flat, self.counts[here]]).astype(np.float64)
            layers.append(torch.from_numpy(parts[:, :, : len(PATTERNS)]).transpose(1, 2))
        tokens = int(self.counts[0, list(MEASURES).index("entropy")]) if self.heads else 0
        return label_sums(PatternSums(layers, tokens), source)


def merge(tallies: Iterable[Tally]) -> Tally:
    """All of them."""
    return reduce(Tally.plus, tallies, Tally())


def _exact(sums: Any) -> Any:
    """Floats as whole numbers of units."""
    units = np.ldexp(sums, 60).ravel().tolist()
    return np.array([int(x) for x in units], dtype=object).reshape(sums.shape)


# Parquet


def dump(tally: Tally) -> bytes:
    """A part: the sums of one chunk as a Parquet file. They came from float64 and are exact."""
    names, none = list(MEASURES), [None] * (len(MEASURES) - 1)
    some = bool(tally.heads)
    sums = (tally.sums / UNIT).astype(np.float64) if some else np.zeros((3, 0))
    columns: dict[str, Any] = {
        "layer": [layer for layer, _ in tally.heads for _ in names],
        "head": [head for _, head in tally.heads for _ in names],
        "measure": names * len(tally.heads),
        "tokens": np.ravel(tally.counts) if some else [],
        **dict(zip(SUMS, sums.reshape(3, -1), strict=True)),
        "histogram": list(tally.bins.reshape(-1, BINS)) if some else [],
        # with the first measure of each head
        "examples": [x for one in tally.examples for x in (json.dumps(one), *none)],
    }
    counts = [tally.documents, tally.windows, tally.tokens]
    return parquet(columns, json.dumps({"skipped": tally.skipped, "counts": counts}))


def load(path: Any) -> Tally:
    """A part as `dump` made it."""
    table = need("pyarrow.parquet", "survey", "Reading Parquet").read_table(path)
    note = json.loads(table.schema.metadata[b"wqkv"])
    found = Tally((), 0, 0, 0, (), tuple(Skipped(*one) for one in note["skipped"]), *note["counts"])
    if not len(table):
        return found

    def column(name: str) -> Any:
        return table[name].to_numpy().reshape(-1, len(MEASURES))

    layers, heads = column("layer")[:, 0].tolist(), column("head")[:, 0].tolist()
    bins = table["histogram"].combine_chunks().flatten().to_numpy()
    return replace(
        found,
        heads=tuple(zip(layers, heads, strict=True)),
        counts=column("tokens"),
        sums=_exact(np.stack([column(name) for name in SUMS])),
        bins=bins.reshape(-1, len(MEASURES), BINS),
        examples=tuple(
            tuple(Example(a, b, c, d, tuple(e), tuple(f)) for a, b, c, d, e, f in json.loads(row))
            for row in column("examples")[:, 0]
        ),
    )


def parquet(columns: dict[str, Any], note: str = "") -> bytes:
    """A Parquet file of some columns, with a note for programs."""
    purpose = "Writing Parquet"
    arrow, writer = need("pyarrow", "survey", purpose), need("pyarrow.parquet", "survey", purpose)
    table = arrow.table(columns).replace_schema_metadata({"wqkv": note})
    sink = arrow.BufferOutputStream()
    writer.write_table(table, sink, compression="zstd")
    found: bytes = sink.getvalue().to_pybytes()
    return found
