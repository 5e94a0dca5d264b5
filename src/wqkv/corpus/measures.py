"""What every head does in a batch of windows: each measure word by word, and its strongest links.

The weights are looked through in blocks that stay in a processor's cache, all measures of a block
at once; nothing N x N is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.geometry import Rect, places
from wqkv.attend.masks.algebra import Mask
from wqkv.maps.attention_map import AttentionMap
from wqkv.study.patterns import COMMON, NEAR, PATTERNS
from wqkv.study.tokens import TokenWindow

#: Weights of a block, which stay in a processor's cache.
CACHED = 2**20
#: A histogram has this many bins.
BINS = 20
#: Where each bin ends but the last, and what is counted in it.
SHARES = torch.arange(1, BINS, device="cpu") / BINS
MEASURES: dict[str, tuple[str, Tensor]] = {
    **dict.fromkeys(PATTERNS, ("share of the weight", SHARES)),
    "uniform": ("share of the highest entropy", SHARES),
    "entropy": ("nats", torch.arange(1, BINS, device="cpu") / 2),
    "distance": ("tokens", 2.0 ** torch.arange(-4, BINS - 5, device="cpu")),
    "received": (
        "weight, from all words of its text",
        2.0 ** torch.arange(-12, BINS - 13, device="cpu"),
    ),
}


class Sums(NamedTuple):
    """Sums over the words of a batch, of one layer."""

    counts: Tensor  # (measure,) int64
    total: Tensor  # (measure, n_head) float64
    squares: Tensor  # (measure, n_head) float64
    flat: Tensor  # (measure,) float64: of equal weights
    bins: Tensor  # (measure, n_head, BINS) int64


class Links(NamedTuple):
    """The strongest link of each window and head, of one layer: (window, n_head)."""

    weight: Tensor
    query: Tensor
    key: Tensor


class Batch:
    """Windows side by side, padded at the end."""

    def __init__(self, windows: Sequence[TokenWindow], pad: int) -> None:
        def padded(parts: Sequence[Sequence[int | bool]], fill: int | bool) -> Tensor:
            n = max(map(len, parts))
            return torch.tensor(
                [[*part, *[fill] * (n - len(part))] for part in parts], device="cpu"
            )

        ids, special, separators = zip(*windows, strict=True)
        self.ids = padded(ids, pad)
        self.real = torch.arange(self.ids.shape[1], device="cpu") < torch.tensor(
            [[len(one)] for one in ids], device="cpu"
        )
        self.token = ~padded(special, True)
        self.separator = padded(separators, False)
        self.common = torch.stack([_counts(row) for row in self.ids]) > COMMON

    @property
    def mask(self) -> Tensor | None:
        """What a model is told of the padding."""
        return None if bool(self.real.all()) else self.real.long()


def _counts(ids: Tensor) -> Tensor:
    """How often each word occurs."""
    _, of, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    found: Tensor = counts[of]
    return found


def measure(batch: Batch, maps: Sequence[AttentionMap]) -> tuple[list[Sums], list[Links]]:
    """All measures of all layers. A token counts where study/patterns.py counts it.

    The strongest link is the one of most weight between two different words of which none is
    special, a separator, or the window's first token, where heads put what they do not need.
    """
    maps = list(maps)  # what `watch` saw makes a new map whenever it is asked
    entropies = [m.entropy() for m in maps]  # lse comes with it
    kinds = _kinds(batch, maps)
    equal = {kind: _Values(batch, 1) for kind in kinds}
    found = [_Values(batch, m.shape[1]) for m in maps]
    for block in _blocks(batch, maps):
        for kind, values in equal.items():
            seen = block.seen(maps[kind].mask)
            count = seen.sum(dim=-1, keepdim=True)
            values.add(block, seen / count.clamp(min=1))
            values.by_name["entropy"][block.b, :, block.i] = count[..., 0].log()
        for values, m in zip(found, maps, strict=True):
            values.add(block, m[block.b, :, block.i, block.j])
    sums = []
    for values, kind, entropy in zip(found, kinds, entropies, strict=True):
        values.by_name["entropy"][:] = entropy
        values.by_name["uniform"][:] = entropy / equal[kind].by_name["entropy"]
        sums.append(_sums(batch, values, equal[kind]))
    return sums, [values.links for values in found]


def _kinds(batch: Batch, maps: Sequence[AttentionMap]) -> list[int]:
    """Of every layer the first one that hides the same: mostly one for all."""
    count, n = batch.ids.shape
    everything = places((slice(0, count), 1, slice(0, n), slice(0, n)), 0)
    known: dict[int, Tensor] = {}
    kinds = []
    for at, m in enumerate(maps):
        seen = m.mask.visible(everything)[:, :1]
        kind = next((k for k, other in known.items() if torch.equal(seen, other)), at)
        known.setdefault(kind, seen)
        kinds.append(kind)
    return kinds


@dataclass(frozen=True)
class _Block:
    """Some windows and some of their rows, with all their keys: (b, 1, i, j)."""

    b: slice
    i: slice
    j: slice
    shares: dict[str, Tensor]  # what the weights are multiplied with, of each measure
    real: Tensor  # (b, 1, 1, i)
    near: Tensor  # (b, 1, i, 2 NEAR + 1) the keys that are near
    counts: Tensor  # whether those are words
    linked: Tensor  # 1 where a link may be

    def seen(self, mask: Mask) -> Tensor:
        """Which keys the rows may see."""
        seen = mask.visible(places((self.b, 1, self.i, self.j), 0))
        return seen[:, :1].expand_as(self.linked).float()


def _blocks(batch: Batch, maps: Sequence[AttentionMap]) -> Iterator[_Block]:
    """All that holds anything: no padding of all windows, no keys that no row may see."""
    count, n = batch.ids.shape
    n_head = max(m.shape[1] for m in maps)
    samples = max(1, CACHED // (n_head * n * n))
    for b in (slice(at, min(at + samples, count)) for at in range(0, count, samples)):
        end = int(batch.real[b].sum(dim=-1).max())
        rows = max(1, CACHED // (n_head * end))
        for i in (slice(at, min(at + rows, end)) for at in range(0, end, rows)):
            ahead = Rect(None, i.start, i.stop, i.stop, end)
            causal = all(m.mask.region(ahead) is False for m in maps)
            yield _block(batch, b, i, slice(0, i.stop if causal else end))


def _block(batch: Batch, b: slice, i: slice, j: slice) -> _Block:
    n = j.stop
    key, query = torch.arange(n, device="cpu"), torch.arange(i.start, i.stop, device="cpu")[:, None]
    word, real, separator = (x[b, None, j] for x in (batch.token, batch.real, batch.separator))
    same = (batch.ids[b, i, None] == batch.ids[b, None, j]) & real
    again = same & word & (batch.token & ~batch.common)[b, i, None]
    after = torch.zeros_like(again)
    after[..., 1:] = again[..., :-1]
    plain = word & ~separator & (key > 0)
    near = query + torch.arange(-NEAR, NEAR + 1, device="cpu")
    inside = near.clamp(0, n - 1)
    shares = {
        "separator sink": separator.expand_as(same),
        "duplicate-token": again & (key != query),
        "induction": after & word & (key < query),
        "distance": (key - query).abs().expand_as(same),
    }
    return _Block(
        b,
        i,
        j,
        {name: share[:, None].float() for name, share in shares.items()},
        real[:, :, None, i].float(),
        inside.expand(len(word), 1, *inside.shape),
        ((near == inside) & word[:, 0, inside])[:, None].float(),
        (plain & plain[:, 0, i, None] & ~same)[:, None].float(),
    )


class _Values:
    """Each measure of one layer, word by word, filled block by block."""

    def __init__(self, batch: Batch, n_head: int) -> None:
        count, n = batch.ids.shape
        self.of = torch.zeros(len(MEASURES), count, n_head, n, device="cpu")
        self.by_name = dict(zip(MEASURES, self.of, strict=True))
        self.links = Links(
            torch.full((count, n_head), -1.0, device="cpu"),
            *torch.zeros(2, count, n_head, dtype=torch.long, device="cpu").unbind(),
        )

    def add(self, block: _Block, weights: Tensor) -> None:
        at = (block.b, slice(None), block.i)
        for name, share in block.shares.items():
            self.by_name[name][at] = (weights * share).sum(dim=-1)
        shape = (*weights.shape[:3], 2 * NEAR + 1)
        near = weights.gather(3, block.near.expand(shape)) * block.counts
        self.by_name["local"][at] = near.sum(dim=-1)
        self.by_name["previous"][at] = near[..., NEAR - 1]
        self.by_name["next"][at] = near[..., NEAR + 1]
        self.by_name["first-token sink"][at] = weights[..., 0]
        self.by_name["received"][block.b, :, block.j] += (block.real @ weights).squeeze(2)
        self._link(block, weights)

    def _link(self, block: _Block, weights: Tensor) -> None:
        by_row = (weights * block.linked).amax(dim=-1)
        row = by_row.argmax(dim=-1)
        best = by_row.gather(2, row[..., None])[..., 0]
        every = (
            torch.arange(len(row), device="cpu")[:, None],
            torch.arange(row.shape[1], device="cpu"),
        )
        key = (weights[(*every, row)] * block.linked[every[0], 0, row]).argmax(dim=-1)
        held = Links(*(part[block.b] for part in self.links))
        better = best > held.weight  # the first, where several are equal
        for part, new in zip(held, (best, row + block.i.start, key), strict=True):
            part[better] = new[better]


def _sums(batch: Batch, values: _Values, equal: _Values) -> Sums:
    n = batch.ids.shape[1]
    flat = equal.by_name
    rows = torch.stack([batch.token] * len(MEASURES))
    for row, name in zip(rows, PATTERNS, strict=False):
        row &= flat[name][:, 0] > 0.5 / n if name != "uniform" else flat["entropy"][:, 0] > 0.5
    of = dict(zip(MEASURES, rows, strict=True))
    of["first-token sink"][:, 0] = False  # a sink does not look at itself
    of["separator sink"] &= ~batch.separator
    every = rows[:, :, None]
    x = values.of.masked_fill(~every, 0).double()
    return Sums(
        rows.sum(dim=(1, 2)),
        x.sum(dim=(1, 3)),
        x.square().sum(dim=(1, 3)),
        equal.of.masked_fill(~every, 0).double().sum(dim=(1, 2, 3)),
        _bins(values.of, every),
    )


def _bins(values: Tensor, rows: Tensor) -> Tensor:
    """How many values of each measure and head fall into each bin; on a border, into the upper."""
    count, _, n_head, _ = values.shape
    ends = zip(values, (ends for _, ends in MEASURES.values()), strict=True)
    bins = torch.stack([torch.bucketize(x, edges, right=True) for x, edges in ends])
    bins += BINS * torch.arange(count * n_head, device="cpu").view(count, 1, n_head, 1)
    found = torch.bincount(bins[rows.expand_as(bins)], minlength=count * n_head * BINS)
    return found.view(count, n_head, BINS)
