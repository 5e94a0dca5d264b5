"""One pass over the whole map of a head: received weight, distances, and the strongest links.

The map is gone through tile by tile, so that nothing N x N is held.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wqkv.attend.geometry import Rect
from wqkv.maps.attention_map import AttentionMap
from wqkv.study.callbacks import Progress

#: The side of a tile: its 4 MiB stay in a processor's cache.
SIDE = 1024


class Sweep(NamedTuple):
    """The result of one pass over a map of n x m: float64, but for the weights of the links."""

    received: Tensor  # (m,) the weight that every key token receives
    by_distance: Tensor  # (max(n, m),) the weight at |i - j| = 0, 1, ... tokens
    links: tuple[
        Tensor, Tensor, Tensor
    ]  # of the k strongest: query tokens i, key tokens j, weights


def sweep(m: AttentionMap, k: int, progress: Progress) -> Sweep:
    """Go through a map of one head, [1, 1, n, m], tile by tile; `progress` counts rows."""
    n, keys = m.shape[2:]
    received = torch.zeros(keys, dtype=torch.float64, device="cpu")
    # The weight at each j - i, from 1 - n to m - 1: one number per diagonal of the map.
    by_offset = torch.zeros(n + keys - 1, dtype=torch.float64, device="cpu")
    best, places = torch.zeros(0, device="cpu"), torch.zeros(0, dtype=torch.long, device="cpu")
    for i in range(0, n, SIDE):
        progress(i, n)
        for j in range(0, keys, SIDE):
            q1, k1 = min(i + SIDE, n), min(j + SIDE, keys)
            if m.mask.region(Rect(0, i, q1, j, k1)) is False:
                continue
            tile = m[0, 0, i:q1, j:k1]
            received[j:k1] += tile.sum(dim=0)
            diagonals = _diagonals(tile)
            first = j - q1 + n  # where j - i of the lower left corner, j - (q1 - 1), is counted
            by_offset[first : first + len(diagonals)] += diagonals
            if len(best) < k or float(tile.max()) > float(best[-1]):
                weights, at = tile.flatten().topk(min(k, tile.numel()))
                at = (i + at // tile.shape[1]) * keys + j + at % tile.shape[1]
                weights, at = torch.cat((best, weights)), torch.cat((places, at))
                # Stable: of equal weights the one that was found first goes first.
                order = weights.argsort(descending=True, stable=True)[:k]
                best, places = weights[order], at[order]
    progress(n, n)
    # Distance d adds up the diagonals j - i = d and j - i = -d.
    by_distance = by_offset.new_zeros(max(n, keys))
    by_distance[:keys] += by_offset[n - 1 :]
    by_distance[1:n] += by_offset[: n - 1].flip(0)
    return Sweep(received, by_distance, (places // keys, places % keys, best))


def _diagonals(tile: Tensor) -> Tensor:
    """The sums of a tile's diagonals, from the lower left corner to the upper right one.

    Each row is padded to one number more than the length it is viewed at, so that every next row
    begins one step further to the right, and the diagonals become columns.
    """
    rows, cols = tile.shape
    longer = F.pad(tile.flip(0), (0, rows)).flatten()
    return longer[: rows * (cols + rows - 1)].view(rows, cols + rows - 1).sum(dim=0)
