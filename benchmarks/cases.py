"""What is timed, and what is promised: sizes, masks and targets, one row a race.

A target is the most that ours / theirs may be, in time. `fastest peer` is whoever wins among the
libraries; `floor` is the same work in bare calls of torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from tests.conformance.cases import Case
from wqkv import Causal, Lengths, Segments, Window

FLOOR, FASTEST = "floor", "fastest peer"
TORCH, TORCH_PLAIN = "nn.MHA", "nn.MHA no weights"
SDPA, SDPA_MASK, SDPA_WIDE = "SDPA", "SDPA mask", "SDPA wide mask"
FLEX = "FlexAttention"

#: On average over the layer rows.
AVERAGES = {TORCH: 0.8, TORCH_PLAIN: 0.8}
#: Twice the length may take this much more time and memory in the window rows.
LINEAR = 2.2


@dataclass(frozen=True)
class Row:
    """One race: a case, forward alone or with backward, and the targets."""

    group: str  # layer, causal, window, packed, padded, decode or overhead
    case: Case
    backward: bool
    targets: Mapping[str, float] = field(default_factory=dict)
    family: str = ""  # of a layer: "bias", "plain" (no bias) or "rope" (no bias, RoPE, causal)

    @property
    def name(self) -> str:
        parts = [self.group, self.family, self.case.name, str(self.case.keys)]
        return " ".join([*filter(None, parts), "train" if self.backward else "forward"])


def rows(shrink: int = 1) -> list[Row]:
    """The table; with `shrink` all lengths are divided by it, and each kind has one length."""
    table = [*_layers(shrink), *_causal(shrink), *_window(shrink), *_documents(shrink)]
    table += _padded(shrink), _padded(shrink, backward=True), *_decode(shrink)
    table += _both("overhead", Case("", batch=1, n_head=1, query_len=8, d_k=8, d_v=None), {})
    if shrink == 1:
        return table
    longest = {(row.group, row.family, row.case.name, row.backward): row for row in table}
    return list(longest.values())


def _both(group: str, case: Case, targets: Mapping[str, float], family: str = "") -> list[Row]:
    return [Row(group, case, backward, targets, family) for backward in (False, True)]


def _layers(shrink: int) -> Iterator[Row]:
    targets = {FASTEST: 1.05, FLOOR: 1.15}
    for family in ("bias", "plain", "rope"):
        for length in (32, 64, 128, 256, 512, 1024, 2048, 4096):
            batch = max(2048 // length, 1)
            case = Case("", batch=batch, n_head=8, query_len=length // shrink, d_k=64, d_v=None)
            yield from _both("layer", case, targets, family)


def _causal(shrink: int) -> Iterator[Row]:
    for length in (256, 512, 1024, 2048, 4096):
        case = Case(
            "",
            mask=lambda case: Causal(),
            batch=max(2048 // length, 1),
            n_head=8,
            query_len=length // shrink,
            d_k=64,
            d_v=None,
        )
        yield from _both("causal", case, {SDPA: 0.85 if length == 512 else 1.0})


def _window(shrink: int) -> Iterator[Row]:
    for length, most in ((8192, 0.12), (16384, 0.06)):
        case = Case(
            "",
            mask=lambda case: Window(512 // shrink - 1, 0),
            batch=1,
            n_head=8,
            query_len=length // shrink,
            d_k=64,
            d_v=None,
        )
        yield Row("window", case, False, {SDPA_MASK: most, FLEX: 1.0})
        if length == 8192:  # the matrix's backward at 16384 takes half a minute a call
            yield Row("window", case, True, {SDPA_MASK: most})


def _documents(shrink: int) -> Iterator[Row]:
    labels = documents(8192 // shrink, 64 // shrink, 960 // shrink)
    masks = {"": lambda case: Segments(labels), "causal": lambda case: Segments(labels) & Causal()}
    for name, mask in masks.items():
        case = Case(name, mask=mask, batch=1, n_head=8, query_len=8192 // shrink, d_k=64, d_v=None)
        yield from _both("packed", case, {SDPA_MASK: 0.07})


def _padded(shrink: int, backward: bool = False) -> Row:
    length = 512 // shrink
    short = torch.randint(1, length, (4,), generator=torch.Generator().manual_seed(3)).tolist()
    lengths = [*short, *(length - n for n in short)]  # half of the batch is padding
    case = Case(
        "",
        mask=lambda case: Lengths(lengths),
        batch=8,
        n_head=8,
        query_len=length,
        d_k=64,
        d_v=None,
    )
    return Row("padded", case, backward, {SDPA_MASK: 0.6, SDPA_WIDE: 0.6})


def _decode(shrink: int) -> Iterator[Row]:
    for length, most in ((4096, 0.8), (32768, 0.5)):
        case = Case(
            "",
            batch=1,
            n_head=32,
            n_kv_head=8,
            query_len=1,
            key_len=length // shrink,
            d_k=128,
            d_v=None,
        )
        yield Row("decode", case, False, {SDPA: most})


def documents(total: int, least: int, most: int) -> list[list[int]]:
    """Labels of documents whose lengths are drawn from least..most and fill `total`."""
    random, lengths, rest = torch.Generator().manual_seed(5), [], total
    while rest > most:
        top = min(most, rest - least)
        lengths.append(int(torch.randint(least, top + 1, (), generator=random)))
        rest -= lengths[-1]
    lengths.append(rest)
    return [[label for label, length in enumerate(lengths) for _ in range(length)]]
