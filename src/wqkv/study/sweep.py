"""One pass over the whole map of a head: who is looked at, how far, and the strongest links."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.geometry import Rect
from wqkv.maps.attention_map import AttentionMap

#: The side of a tile: its 4 MiB stay in a processor's cache.
SIDE = 1024


class Sweep(NamedTuple):
    """What one pass over a map of n x m finds, all in float64 but for the weights of the links."""

    received: Tensor  # (m,) the weight that every word receives
    by_distance: Tensor  # (max(n, m),) the weight at |i - j| = 0, 1, ... words
    links: tuple[Tensor, Tensor, Tensor]  # the k strongest: words i, words j, weights


def sweep(m: AttentionMap, k: int, step: Callable[[int, int], None]) -> Sweep:
    """Go through a map of one head, [1, 1, n, m], tile by tile; `step` is told the rows done."""
    n, keys = m.shape[2:]
    received = torch.zeros(keys, dtype=torch.float64, device="cpu")
    ahead = torch.zeros(n + keys - 1, dtype=torch.float64, device="cpu")  # by j - i, from 1 - n on
    best, places = torch.zeros(0, device="cpu"), torch.zeros(0, dtype=torch.long, device="cpu")
    for i in range(0, n, SIDE):
        step(i, n)
        for j in range(0, keys, SIDE):
            q1, k1 = min(i + SIDE, n), min(j + SIDE, keys)
            if m.mask.region(Rect(0, i, q1, j, k1)) is False:
                continue
            tile = m[0, 0, i:q1, j:k1]
            received[j:k1] += tile.sum(dim=0)
            lines = _diagonals(tile)
            first = j - q1 + 1 + n - 1
            ahead[first : first + len(lines)] += lines
            if len(best) < k or float(tile.max()) > float(best[-1]):
                weights, at = tile.flatten().topk(min(k, tile.numel()))
                at = (i + at // tile.shape[1]) * keys + j + at % tile.shape[1]
                weights, at = torch.cat((best, weights)), torch.cat((places, at))
                order = weights.argsort(descending=True, stable=True)[:k]
                best, places = weights[order], at[order]
    step(n, n)
    by_distance = ahead.new_zeros(max(n, keys))
    by_distance[:keys] += ahead[n - 1 :]
    by_distance[1:n] += ahead[: n - 1].flip(0)
    return Sweep(received, by_distance, (places // keys, places % keys, best))


def _diagonals(tile: Tensor) -> Tensor:
    """The sums of a tile's diagonals, from the lower left corner to the upper right one.

    Rows that are one longer than the view's rows move one step to the right each.
    """
    rows, cols = tile.shape
    longer = F.pad(tile.flip(0), (0, rows)).flatten()
    return longer[: rows * (cols + rows - 1)].view(rows, cols + rows - 1).sum(dim=0)
