"""What every head does in a batch of windows: its measures at every token, and its strongest links.

The weights are computed block by block. A block is small enough for the processor's cache, and all
measures are taken of it before the next one is computed, so no N x N matrix is ever held.

A token counts in a measure unless it is special ([CLS], <s> and their like) or padding.
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
from wqkv.sentences import say
from wqkv.sentences.survey import MEASURED
from wqkv.study.patterns import COMMON, NEAR, SURVEYED
from wqkv.study.tokens import TokenWindow

#: How many weights a block has, so that it stays in the processor's cache.
CACHED = 2**20
#: How many bins a histogram has.
BINS = 20
SHARES = torch.arange(1, BINS, device="cpu") / BINS
#: Every measure, with its unit and the BINS - 1 values at which one bin ends and the next begins.
MEASURES: dict[str, tuple[str, Tensor]] = {
    **dict.fromkeys(SURVEYED, (say(MEASURED["share"]), SHARES)),
    "uniform": (say(MEASURED["evenness"]), SHARES),
    "entropy": (say(MEASURED["nats"]), torch.arange(1, BINS, device="cpu") / 2),
    "distance": (say(MEASURED["tokens"]), 2.0 ** torch.arange(-4, BINS - 5, device="cpu")),
    "received": (
        say(MEASURED["weight"]),
        2.0 ** torch.arange(-12, BINS - 13, device="cpu"),
    ),
}


class LayerSums(NamedTuple):
    """Sums over the tokens of a batch that count, for every measure of one layer."""

    counts: Tensor  # (measure,) int64: how many tokens
    total: Tensor  # (measure, n_head) float64: of the values
    squares: Tensor  # (measure, n_head) float64: of their squares
    equal: Tensor  # (measure,) float64: of the values that equal weights would have
    bins: Tensor  # (measure, n_head, BINS) int64: how many values lie in each bin


class StrongestLinks(NamedTuple):
    """The strongest link of every window and head in one layer, each (window, n_head)."""

    weight: Tensor  # -1 where a window has no pair that may be a link
    query: Tensor
    key: Tensor


class Batch:
    """Windows side by side, padded at their ends. All tensors are (window, longest length).

    `ids` are the token ids, `real` is False for padding, `counted` is False for padding and special
    tokens, `separator` marks separators, and `common` marks tokens that occur more than COMMON
    times in their window.
    """

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
        self.counted = ~padded(special, True)
        self.separator = padded(separators, False)
        self.common = torch.stack([_occurrences(row) for row in self.ids]) > COMMON

    @property
    def mask(self) -> Tensor | None:
        """The `attention_mask` of a Hugging Face model: 1 for tokens, 0 for padding."""
        return None if bool(self.real.all()) else self.real.long()


def _occurrences(ids: Tensor) -> Tensor:
    """How often the token at each position occurs in `ids`."""
    _, of, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    found: Tensor = counts[of]
    return found


def measure(
    batch: Batch, maps: Sequence[AttentionMap]
) -> tuple[list[LayerSums], list[StrongestLinks]]:
    """Take all measures of all layers, and the strongest link of every window and head.

    A token counts for a measure where study/patterns.py counts it. The strongest link is the
    largest weight between two different tokens of which neither is special, a separator, or the
    first of the window: heads put the weight that they have no use for on those.

    Args:
        maps: one per layer, each (window, n_head, n, n).
    """
    maps = list(maps)  # `watch` makes a new map every time that one is taken from it
    entropies = [m.entropy() for m in maps]  # first, because the maps keep the lse it computes
    first_like = _first_layers_with_equal_masks(batch, maps)
    # What equal weights over the visible keys would give depends on the mask alone.
    equal = {layer: _TokenValues(batch, 1) for layer in first_like}
    found = [_TokenValues(batch, m.shape[1]) for m in maps]
    for block in _blocks(batch, maps):
        for layer, values in equal.items():
            visible = block.visible(maps[layer].mask)
            count = visible.sum(dim=-1, keepdim=True)
            values.add(block, visible / count.clamp(min=1))
            values.by_name["entropy"][block.b, :, block.i] = count[..., 0].log()
        for values, m in zip(found, maps, strict=True):
            values.add(block, m[block.b, :, block.i, block.j])
    sums = []
    for values, layer, entropy in zip(found, first_like, entropies, strict=True):
        values.by_name["entropy"][:] = entropy
        values.by_name["uniform"][:] = entropy / equal[layer].by_name["entropy"]
        sums.append(_sums(batch, values, equal[layer]))
    return sums, [values.links for values in found]


def _first_layers_with_equal_masks(batch: Batch, maps: Sequence[AttentionMap]) -> list[int]:
    """For every layer the first layer whose mask shows the same pairs, mostly 0."""
    count, n = batch.ids.shape
    everything = places((slice(0, count), 1, slice(0, n), slice(0, n)), 0)
    known: dict[int, Tensor] = {}
    first = []
    for at, m in enumerate(maps):
        visible = m.mask.visible(everything)[:, :1]
        same = next((k for k, other in known.items() if torch.equal(visible, other)), at)
        known.setdefault(same, visible)
        first.append(same)
    return first


@dataclass(frozen=True)
class _Block:
    """Some windows `b`, some of their queries `i`, and the keys `j`: (b, 1, i, j)."""

    b: slice
    i: slice
    j: slice
    shares: dict[str, Tensor]  # by measure, (b, 1, i, j): its value is the sum of share * weight
    real: Tensor  # (b, 1, 1, i): 0 for padding
    near: Tensor  # (b, 1, i, 2 * NEAR + 1): positions, from NEAR before the query to NEAR after it
    counts: Tensor  # of the same shape: 1 where that position exists and its token counts
    linked: Tensor  # (b, 1, i, j): 1 where a link may be

    def visible(self, mask: Mask) -> Tensor:
        """1 where the query may see the key, (b, 1, i, j)."""
        visible = mask.visible(places((self.b, 1, self.i, self.j), 0))
        return visible[:, :1].expand_as(self.linked).float()


def _blocks(batch: Batch, maps: Sequence[AttentionMap]) -> Iterator[_Block]:
    """Cut the batch into blocks of at most CACHED weights.

    Left out are padding at the end of all windows of a block, and keys that no query may see.
    """
    count, n = batch.ids.shape
    n_head = max(m.shape[1] for m in maps)
    samples = max(1, CACHED // (n_head * n * n))
    for b in (slice(at, min(at + samples, count)) for at in range(0, count, samples)):
        end = int(batch.real[b].sum(dim=-1).max())
        rows = max(1, CACHED // (n_head * end))
        for i in (slice(at, min(at + rows, end)) for at in range(0, end, rows)):
            after = Rect(None, i.start, i.stop, i.stop, end)  # these queries, all keys after them
            hidden = all(m.mask.region(after) is False for m in maps)
            yield _block(batch, b, i, slice(0, i.stop if hidden else end))


def _block(batch: Batch, b: slice, i: slice, j: slice) -> _Block:
    n = j.stop
    key, query = torch.arange(n, device="cpu"), torch.arange(i.start, i.stop, device="cpu")[:, None]
    counted, real, separator = (
        part[b, None, j] for part in (batch.counted, batch.real, batch.separator)
    )
    same = (batch.ids[b, i, None] == batch.ids[b, None, j]) & real
    repeated = same & counted & (batch.counted & ~batch.common)[b, i, None]
    after_repeated = torch.zeros_like(repeated)  # one key later: what followed the same token
    after_repeated[..., 1:] = repeated[..., :-1]
    may_link = counted & ~separator & (key > 0)
    near = query + torch.arange(-NEAR, NEAR + 1, device="cpu")
    inside = near.clamp(0, n - 1)  # so that `gather` has a position; `counts` is 0 outside
    shares = {
        "separator sink": separator.expand_as(same),
        "delimiter": (separator | (real & ~counted)).expand_as(same),
        "duplicate-token": repeated & (key != query),
        "induction": after_repeated & counted & (key < query),
        "distance": (key - query).abs().expand_as(same),
    }
    return _Block(
        b,
        i,
        j,
        {name: share[:, None].float() for name, share in shares.items()},
        real[:, :, None, i].float(),
        inside.expand(len(counted), 1, *inside.shape),
        ((near == inside) & counted[:, 0, inside])[:, None].float(),
        (may_link & may_link[:, 0, i, None] & ~same)[:, None].float(),
    )


class _TokenValues:
    """The values of all measures at every token, in one layer, filled block by block.

    `values` is (measure, window, n_head, n), and `by_name` its parts by measure.
    """

    def __init__(self, batch: Batch, n_head: int) -> None:
        count, n = batch.ids.shape
        self.values = torch.zeros(len(MEASURES), count, n_head, n, device="cpu")
        self.by_name = dict(zip(MEASURES, self.values, strict=True))
        self.links = StrongestLinks(
            torch.full((count, n_head), -1.0, device="cpu"),
            *torch.zeros(2, count, n_head, dtype=torch.long, device="cpu").unbind(),
        )

    def add(self, block: _Block, weights: Tensor) -> None:
        """Fill in what the weights of one block (b, n_head, i, j) tell."""
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
        self._keep_stronger_links(block, weights)

    def _keep_stronger_links(self, block: _Block, weights: Tensor) -> None:
        by_row = (weights * block.linked).amax(dim=-1)
        row = by_row.argmax(dim=-1)
        best = by_row.gather(2, row[..., None])[..., 0]
        every = (
            torch.arange(len(row), device="cpu")[:, None],
            torch.arange(row.shape[1], device="cpu"),
        )
        key = (weights[(*every, row)] * block.linked[every[0], 0, row]).argmax(dim=-1)
        held = StrongestLinks(*(part[block.b] for part in self.links))
        better = best > held.weight  # of equal ones the first is kept
        for part, new in zip(held, (best, row + block.i.start, key), strict=True):
            part[better] = new[better]


def _sums(batch: Batch, found: _TokenValues, equal: _TokenValues) -> LayerSums:
    n = batch.ids.shape[1]
    flat = equal.by_name
    # Which tokens count in each measure. A token counts in a pattern if some key fits the pattern:
    # then equal weights put at least 1 / n on it, up to rounding, hence the bound 0.5 / n. In
    # "uniform" it counts if it sees two keys or more: their entropy is at least log(2) > 0.5.
    rows = torch.stack([batch.counted] * len(MEASURES))
    by_name = dict(zip(MEASURES, rows, strict=True))
    for name in SURVEYED:
        seen = flat[name][:, 0] > 0.5 / n if name != "uniform" else flat["entropy"][:, 0] > 0.5
        by_name[name] &= seen
    by_name["first-token sink"][:, 0] = False  # its own row tells nothing
    by_name["separator sink"] &= ~batch.separator
    by_name["delimiter"] &= ~batch.separator
    every = rows[:, :, None]
    values = found.values.masked_fill(~every, 0).double()
    return LayerSums(
        rows.sum(dim=(1, 2)),
        values.sum(dim=(1, 3)),
        values.square().sum(dim=(1, 3)),
        equal.values.masked_fill(~every, 0).double().sum(dim=(1, 2, 3)),
        _histograms(found.values, every),
    )


def _histograms(values: Tensor, rows: Tensor) -> Tensor:
    """How many values of each measure and head lie in each bin; a border is in the bin above."""
    count, _, n_head, _ = values.shape
    ends = zip(values, (ends for _, ends in MEASURES.values()), strict=True)
    bins = torch.stack([torch.bucketize(x, edges, right=True) for x, edges in ends])
    # One bincount for all: every (measure, head) has its own BINS numbers.
    bins += BINS * torch.arange(count * n_head, device="cpu").view(count, 1, n_head, 1)
    found = torch.bincount(bins[rows.expand_as(bins)], minlength=count * n_head * BINS)
    return found.view(count, n_head, BINS)
