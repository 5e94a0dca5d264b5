"""The float masks of a call's rectangles, which the kernels add to the scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import reference
from wqkv.attend.engines.plan import Piece, memory
from wqkv.attend.geometry import Rect
from wqkv.attend.masks.algebra import Mask


class Tile(NamedTuple):
    """What a rectangle's mask and bias do to its scores; None where there is nothing to do."""

    added: Tensor | None = None  # (batch | 1, n_head | 1, query, key): bias, -inf where hidden
    empty: Tensor | None = None  # (batch | 1, n_head | 1, query): the rows that see nothing
    visible: Tensor | None = None  # which keys each query sees, if some key is seen by none


class Tiles:
    """The tiles of a call; what depends on key - query alone is made once for many calls."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def get(self, piece: Piece) -> Tile:
        call, offset = self.call, self.call.query_offset
        if not piece.mixed and call.bias is None:
            return Tile()
        sample, q0, q1, k0, k1 = piece.rect
        if call.bias is not None or isinstance(offset, Tensor):
            return self._make(piece, call.mask)
        mask = call.mask.within(Rect(sample, q0 + offset, q1 + offset, k0, k1))
        if not mask.by_shift:
            return self._make(piece, mask)
        kept = memory(mask)
        key = (q0 + offset - k0, q1 - q0, k1 - k0, reference.exact(call.query), call.query.device)
        found: Tile | None = kept.get(key)
        if found is None:
            found = self._make(piece, mask)
            if type(found.added) is Tensor:  # a fake one holds nothing, and would be found for ever
                if len(kept) >= 128:
                    kept.clear()
                kept[key] = found
        return found

    def _make(self, piece: Piece, mask: Mask) -> Tile:
        call, at = self.call, self.call.places(piece.rect)
        width = piece.rect.k1 - piece.rect.k0
        added, empty, visible = None, None, None
        if call.bias is not None:
            added = call.bias.tile(at, reference.exact(call.query)).detach()
            added = added.expand(*added.shape[:3], width)
        if piece.mixed:
            visible = mask.visible(at)
            visible = visible.expand(*visible.shape[:3], width)
            if added is None:
                added = torch.zeros(
                    visible.shape, dtype=reference.exact(call.query), device=visible.device
                )
                empty = ~visible.any(dim=-1)
            added = added.masked_fill(~visible, -torch.inf)
            if visible.device.type == "cpu" and bool(visible.any(dim=2).all()):
                visible = None
        assert added is not None
        if empty is None:  # a bias may hide too
            empty = (added == -torch.inf).all(dim=-1)
        if empty.device.type == "cpu" and not bool(empty.any()):
            empty = None
        return Tile(added.contiguous(), empty, visible)
