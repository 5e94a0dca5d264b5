"""Spread: the keys and values of one text over ranks, for decoding."""

from __future__ import annotations

from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor

from wqkv.attend.masks.algebra import Full
from wqkv.attend.parallel import messages
from wqkv.attend.parallel.agreement import agree, shown, together
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.partial import Partial, merge
from wqkv.doors import door
from wqkv.errors import ArgumentError, message
from wqkv.layer.caches.base import KeyPiece, check_count, refuse_gradients
from wqkv.layer.caches.buffered import Dynamic


@door
class Spread(Dynamic):
    """Each rank keeps a share: out = merge over ranks r of attention(q, k_r, v_r) (F1).

    Position t belongs to rank t // block % size, so no rank keeps more than
    ceil(ceil(length / block) / size) * block positions, in buffers that grow as those of Dynamic.
    Every rank calls the layer with the same words and gets the same result, to the bit. It keeps
    the keys that are its own, attends to them, and all exchange out and lse: a rank sends
    (size - 1) * batch * n_head * query_len * (d_v + 1) numbers a call, of 4 bytes (8 for float64).
    For LatentAttention d_v is rank + d_rope where it attends to the compressed vector;
    DifferentialAttention has two heads for one.

    A rank attends block by block: small blocks are even, large ones are fewer calls. Give a long
    prompt in steps of some thousand words: while they are exchanged, a rank holds the contexts of
    all ranks.
    Whatever is done to the cache (rewind, reorder, ...) is done on every rank. Each saves a file.
    Ranks whose steps, lengths or blocks differ all raise at the next call.
    Gradients: none; an append that would need one is an error.

    Args:
        ranks: who shares the words; None is all ranks. A layout has no meaning here.
        block: how many neighbouring positions stay together.

    >>> import torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> cache = Spread(block=4)
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> [(piece.start, piece.k.shape[2]) for piece in cache.append(k, v)], cache.length
    ([(0, 4), (4, 1)], 5)
    >>> dist.destroy_process_group()
    """

    _arguments = ("block",)
    _counts = ("_length", "rank", "size")
    ranks: Ranks

    def __init__(self, ranks: Ranks | None = None, block: int = 2048) -> None:
        super().__init__()
        ranks = Ranks() if ranks is None else ranks
        self.ranks, self.block = ranks, check_count("block", block)
        self.rank, self.size = ranks.rank, ranks.size

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        self._check(k, v)
        refuse_gradients("Spread", k, v)
        first, end = self._length, self._length + k.shape[2]
        # a rank that gets none of them makes its buffers all the same: they know what fits
        for a, b in self._spans(first, end) or [(first, first)]:
            self._length = a
            self._write({"k": k[:, :, a - first : b - first], "v": v[:, :, a - first : b - first]})
        self._length = end
        # without a word of its own it looks at a new one and does not see it: (0, -inf)
        return self.held() or (KeyPiece(k[:, :, :1], v[:, :, :1], first, ~Full()),)

    def held(self) -> tuple[KeyPiece, ...]:
        """What this rank keeps, one piece a block."""
        rows, pieces, row = self._rows(), [], 0
        for a, b in self._spans(0, self._length):
            k, v = (rows[name][:, :, row : row + b - a] for name in ("k", "v"))
            pieces.append(KeyPiece(k, v, a))
            row += b - a
        return tuple(pieces)

    @messages.untraced
    def whole(self, part: Partial) -> Partial:
        with together(self.ranks.group):
            if part.out.requires_grad:
                raise ArgumentError(
                    message(
                        "Spread merges what the ranks found, and no gradient comes back from them.",
                        {"out": part.out},
                        "Call under torch.no_grad().",
                    )
                )
        asked = {
            "asked": "attention over a Spread cache",
            "block": str(self.block),
            "length": str(self._length),
            "out": shown(part.out),
        }
        agree(self.ranks.group, asked)
        mine = torch.cat((part.out.to(part.lse.dtype), part.lse.unsqueeze(-1)), dim=-1)
        came = self.ranks.every(mine)  # in order, so that all ranks merge to the same bits
        out, lse = merge(*(Partial(x[..., :-1], x[..., -1]) for x in came))
        return Partial(out.to(part.out.dtype), lse)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        device: torch.device | str | None = None,
        ranks: Ranks | None = None,
    ) -> Self:
        """Read what `save` wrote on this rank: a file of each, on as many ranks.

        Raises:
            ArgumentError: the file is another rank's, or of another number of ranks.
        """
        here = cls(ranks)
        made = super().load(path, device)
        if (made.rank, made.size) != (here.rank, here.size):
            raise ArgumentError(
                f"{str(path)!r} was written by rank {made.rank} of {made.size}, and this is rank "
                f"{here.rank} of {here.size}.\nLoad it on as many ranks, each its own file."
            )
        made.ranks = here.ranks
        return made

    @property
    def _used(self) -> int:
        return sum(b - a for a, b in self._spans(0, self._length))

    def _spans(self, first: int, end: int) -> list[tuple[int, int]]:
        """The positions of this rank from `first` to before `end`, one span a block."""
        step = self.block * self.size
        start = first // step * step + self.rank * self.block
        return [
            (max(a, first), min(a + self.block, end))
            for a in range(start, end, step)
            if a + self.block > first
        ]

    @classmethod
    def _from(cls, state: dict[str, Any]) -> Self:
        check_count("size", state["size"])
        check_count("rank", state["rank"], least=0)
        return super()._from(state)
