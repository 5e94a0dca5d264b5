"""Tiles: a rectangle's mask and bias as a kernel takes them, a float that it adds to its scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import reference
from wqkv.attend.engines.memory import Memory
from wqkv.attend.engines.plan import Piece
from wqkv.attend.geometry import Rect
from wqkv.attend.masks.algebra import Mask


class Tile(NamedTuple):
    """What a kernel is told of a rectangle's mask and bias; None where there is nothing to do."""

    added: Tensor | None = None  # (batch | 1, n_head | 1, query, key): bias, -inf where hidden
    empty: Tensor | None = None  # (batch | 1, n_head | 1, query): the rows that see nothing
    visible: Tensor | None = None  # which keys each query sees, if some key is seen by none
    causal: bool = False  # the kernel's own causal mask instead, aligned at the upper left


#: The tile of a rectangle in which a causal mask is all that there is.
CAUSAL = Tile(causal=True)

#: Kept tiles of masks that depend on key - query alone, by (key - query at the first pair, rows,
#: keys, dtype, device).
_by_shift: Memory[tuple[int, int, int, torch.dtype, torch.device], Tile] = Memory()


class Tiles:
    """The tiles of a call. One whose mask depends on key - query alone is kept for later calls."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def get(self, piece: Piece) -> Tile:
        rules, query, offset = self.call.rules, self.call.query, self.call.query_offset
        if not piece.mixed and rules.bias is None:
            return Tile()
        sample, q0, q1, k0, k1 = piece.rect
        if rules.bias is not None or isinstance(offset, Tensor):
            return self._make(piece, rules.mask)
        mask = rules.mask.within(Rect(sample, q0 + offset, q1 + offset, k0, k1))
        if not mask.by_shift:
            return self._make(piece, mask)
        key = (q0 + offset - k0, q1 - q0, k1 - k0, reference.exact(query), query.device)
        # A fake tensor holds no numbers: kept, it would be found by every later call.
        return _by_shift.get(
            mask, key, lambda: self._make(piece, mask), lambda made: type(made.added) is Tensor
        )

    def _make(self, piece: Piece, mask: Mask) -> Tile:
        call, at, bias = self.call, self.call.places(piece.rect), self.call.rules.bias
        width = piece.rect.k1 - piece.rect.k0
        added, empty, visible = None, None, None
        if bias is not None:
            added = bias.tile(at, reference.exact(call.query)).detach()
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
        if empty is None:  # there is a bias, and a bias of -inf hides keys too
            empty = (added == -torch.inf).all(dim=-1)
        if empty.device.type == "cpu" and not bool(empty.any()):
            empty = None
        return Tile(added.contiguous(), empty, visible)
