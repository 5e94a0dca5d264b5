"""Spread: the keys and values of one text, distributed over ranks, for decoding."""

from __future__ import annotations

from os import PathLike
from typing import Self

import torch
from torch import Tensor

from wqkv.attend.masks.algebra import Full
from wqkv.attend.parallel import messages
from wqkv.attend.parallel.agreement import agree, shown, together
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.partial import Partial, merge
from wqkv.doors import door
from wqkv.errors import ArgumentError, message
from wqkv.layer.caches.base import KeyPiece, Saved, check_count, refuse_gradients
from wqkv.layer.caches.buffered import Dynamic


@door
class Spread(Dynamic):
    """Keep one share of the keys per rank: out = merge over ranks r of attention(q, k_r, v_r).

    Position t belongs to rank t // block % size, so no rank keeps more than
    ceil(ceil(length / block) / size) * block positions, in buffers that grow as those of Dynamic.
    Every rank calls the layer with the same tokens and gets the same result, to the bit: it keeps
    the keys of its own positions, attends to them, and all ranks exchange out and lse. A rank sends
    (size - 1) * batch * n_head * query_len * (d_v + 1) numbers per call, of 4 bytes (8 for
    float64). For LatentAttention d_v is rank + d_rope where it attends to the compressed vector;
    DifferentialAttention has 2 * n_head heads here.

    A rank attends block by block: with small blocks the ranks' work is more even, with large blocks
    there are fewer kernel calls. Pass a long prompt in steps of some thousand tokens, because a
    rank holds the contexts of all ranks while they are exchanged.
    Whatever is done to the cache (rewind, reorder, ...) must be done on every rank, and each rank
    saves a file of its own. If steps, lengths or blocks differ, all ranks raise at the next call.
    Gradients: none; an append that would need one is an error.

    Args:
        ranks: which ranks share the tokens; None is all ranks. Their layout is not used here.
        block: how many neighboring positions stay together.

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
        self._check_new(k, v)
        refuse_gradients("Spread", k, v)
        first, end = self._length, self._length + k.shape[2]
        # A rank that gets none of them makes empty buffers, which later appends are checked by.
        for a, b in self._spans(first, end) or [(first, first)]:
            self._length = a
            self._append_rows(
                {"k": k[:, :, a - first : b - first], "v": v[:, :, a - first : b - first]}
            )
        self._length = end
        # A rank that keeps no key attends to a hidden one: (0, -inf), which adds nothing.
        return self.held() or (KeyPiece(k[:, :, :1], v[:, :, :1], first, ~Full()),)

    def held(self) -> tuple[KeyPiece, ...]:
        """What this rank keeps, one piece per block."""
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
        # In the order of the ranks, so that all merge to the same bits.
        came = self.ranks.every(mine)
        out, lse = merge(*(Partial(x[..., :-1], x[..., -1]) for x in came))
        return Partial(out.to(part.out.dtype), lse)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        device: torch.device | str | None = None,
        ranks: Ranks | None = None,
    ) -> Self:
        """Read the file that `save` wrote on this rank; there have to be as many ranks as then.

        Raises:
            ArgumentError: another rank wrote the file, or there were more or fewer ranks.
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
        """This rank's positions out of first, ..., end - 1: one (start, stop) per block."""
        step = self.block * self.size
        start = first // step * step + self.rank * self.block
        return [
            (max(a, first), min(a + self.block, end))
            for a in range(start, end, step)
            if a + self.block > first
        ]

    @classmethod
    def _from_saved(cls, state: Saved) -> Self:
        check_count("size", state["size"])
        check_count("rank", state["rank"], least=0)
        return super()._from_saved(state)
