"""Paged: sequences in blocks of memory, which they share until one of them writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from wqkv.attend.geometry import check_held
from wqkv.attend.masks import Full, Lengths
from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.layer.caches.base import (
    KeyPiece,
    KVCache,
    Saved,
    check_count,
    check_new,
    check_rewind,
    check_same_kind,
    check_samples,
    outside_inference_mode,
    refuse_gradients,
)


@door
class Pool:
    """Memory for `blocks` blocks of `size` positions each, shared by Paged caches.

    The memory is taken at the first append. A block is free, or used by one or more sequences.

    >>> pool = Pool(blocks=8, size=4)
    >>> cache = Paged(pool)
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> _ = cache.append(k, v)
    >>> pool.free
    4
    """

    def __init__(self, blocks: int, size: int = 16) -> None:
        self.blocks, self.size = check_count("blocks", blocks), check_count("size", size)
        self._users: list[int] = []  # how many sequences share each block that was ever taken
        self._unused: list[int] = []  # of these, the ones that no sequence has now
        self._slots: tuple[Tensor, Tensor] | None = None  # k and v, (blocks * size, heads, d)

    @property
    def free(self) -> int:
        """How many blocks can be taken."""
        return self.blocks - len(self._users) + len(self._unused)

    def _take(self) -> int:
        if not self._unused:
            self._users.append(1)
            return len(self._users) - 1
        block = self._unused.pop()
        self._users[block] = 1
        return block

    def _share(self, block: int) -> None:
        self._users[block] += 1

    def _give_back(self, block: int) -> None:
        self._users[block] -= 1
        if not self._users[block]:
            self._unused.append(block)

    def _copy(self, block: int) -> int:
        """Take a block with the same numbers, and give back one share of the block."""
        own = self._take()
        for slots in self._slots or ():
            slots[own * self.size : (own + 1) * self.size] = slots[
                block * self.size : (block + 1) * self.size
            ]
        self._give_back(block)
        return own

    def _slots_like(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The memory of keys and of values, taken now if k and v are the first."""
        if self._slots is None:
            n = self.blocks * self.size
            self._slots = outside_inference_mode(
                lambda: (
                    k.new_empty((n, k.shape[1], k.shape[3])),
                    v.new_empty((n, v.shape[1], v.shape[3])),
                )
            )
        return self._slots


class _Sequence:
    """The blocks of one sample in order, and its length: how many of their positions are taken."""

    def __init__(self, pool: Pool, blocks: Sequence[int] = (), length: int = 0) -> None:
        self.pool, self.blocks, self.length = pool, list(blocks), length

    def fork(self) -> _Sequence:
        for block in self.blocks:
            self.pool._share(block)
        return _Sequence(self.pool, self.blocks, self.length)

    def cut(self, length: int) -> None:
        needed = -(-length // self.pool.size)
        for block in self.blocks[needed:]:
            self.pool._give_back(block)
        self.blocks, self.length = self.blocks[:needed], length

    def slots(self, start: int, end: int) -> Tensor:
        """Return the rows of the pool's memory that hold the positions start to end - 1."""
        position = torch.arange(start, end, device="cpu")
        size = self.pool.size
        return torch.tensor(self.blocks, device="cpu")[position // size] * size + position % size

    def __del__(self) -> None:
        self.cut(0)


@door
class Paged(KVCache):
    """Keep each sample in blocks of a shared Pool; samples may differ in length.

    `fork`, `split`, `merge`, `reorder` and deepcopy share blocks and copy nothing; a sample that
    writes into a block that others share gets a copy of it first. `rewind` also takes one length
    per sample: append a batch that is padded at the end, then rewind to the true lengths. Where
    lengths differ, the piece hides the slots behind each with Lengths. Blocks go back to the pool
    with `rewind`, and when the cache is deleted.

    Each call gathers all positions of all samples into a copy: torch's CPU kernels read no pages.
    Gradients: none; an append that would need one is an error.

    >>> cache = Paged(Pool(blocks=8, size=4))
    >>> k = v = torch.randn(2, 3, 5, 7)
    >>> _ = cache.append(k, v)
    >>> cache.rewind(torch.tensor([5, 2]))
    >>> piece, = cache.append(k[:, :, :1], v[:, :, :1])
    >>> piece.k.shape, piece.mask, cache.length
    (torch.Size([2, 3, 6, 7]), Lengths([6, 3]), tensor([6, 3]))
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._sequences: list[_Sequence] = []

    @property
    def length(self) -> int | Tensor:
        lengths = self._lengths
        return (
            torch.tensor(lengths, device="cpu")
            if len(set(lengths)) > 1
            else max(lengths, default=0)
        )

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        batch, _, n, _ = k.shape if k.ndim == 4 else (0, 0, 0, 0)
        batch = len(self._sequences) or batch
        kept = (x.new_empty((batch, x.shape[1], 0, x.shape[2])) for x in self.pool._slots or ())
        check_new(k, v, *kept)
        refuse_gradients("Paged", k, v)
        sequences = self._sequences or [_Sequence(self.pool) for _ in range(batch)]
        self._check_blocks(sequences, n)
        keys, values = self.pool._slots_like(k, v)
        for sequence in sequences:
            self._take_blocks(sequence, n)
        self._sequences = sequences
        slots = torch.cat([s.slots(s.length - n, s.length) for s in sequences]).to(k.device)
        keys[slots] = k.transpose(1, 2).flatten(0, 1)
        values[slots] = v.transpose(1, 2).flatten(0, 1)
        return self.held()

    def held(self) -> tuple[KeyPiece, ...]:
        lengths = self._lengths
        longest = max(lengths, default=0)
        if longest == 0 or self.pool._slots is None:
            return ()
        # Pad with the sample's first slot: unused slots may hold another sequence's NaN.
        slots = torch.zeros((len(lengths), longest), dtype=torch.long, device="cpu")
        for row, sequence in zip(slots, self._sequences, strict=True):
            if sequence.length:
                row[:] = sequence.blocks[0] * self.pool.size
                row[: sequence.length] = sequence.slots(0, sequence.length)
        k, v = (memory[slots.to(memory.device)].transpose(1, 2) for memory in self.pool._slots)
        return (KeyPiece(k, v, 0, Full() if len(set(lengths)) == 1 else Lengths(lengths)),)

    def rewind(self, length: int | Tensor) -> None:
        if isinstance(length, Tensor):
            check_held("length", length)
        lengths = length.tolist() if isinstance(length, Tensor) else length
        if not isinstance(lengths, list):
            lengths = [lengths] * len(self._sequences)
        if len(lengths) != len(self._sequences):
            raise ArgumentError(
                f"{len(lengths)} lengths came for {len(self._sequences)} samples.\n"
                "Pass an int, or one per sample."
            )
        pairs = list(zip(self._sequences, lengths, strict=True))
        for sequence, to in pairs:
            check_rewind(to, sequence.length)
        for sequence, to in pairs:
            sequence.cut(to)

    def reorder(self, index: Sequence[int] | Tensor) -> None:
        order = check_samples(index, len(self._sequences)).tolist()
        self._sequences = [self._sequences[i].fork() for i in order]

    def fork(self, sample: int) -> Self:
        """A cache of one sample that shares the past and grows independently from here."""
        (sample,) = check_samples([sample], len(self._sequences)).tolist()
        return self._with_sequences([self._sequences[sample].fork()])

    def __deepcopy__(self, memo: object) -> Self:
        # The copy keeps the pool: a copy of that would hold the blocks of other caches for ever.
        return self._with_sequences([sequence.fork() for sequence in self._sequences])

    def split(self) -> list[Self]:
        return [self.fork(sample) for sample in range(len(self._sequences))]

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        check_same_kind(cls, caches)
        pools = {id(cache.pool): cache.pool for cache in caches}
        if len(pools) > 1:
            raise ArgumentError(
                f"These caches have {len(pools)} pools, and blocks do not leave their pool.\n"
                "Make the caches with one Pool."
            )
        return caches[0]._with_sequences([s.fork() for cache in caches for s in cache._sequences])

    @property
    def _lengths(self) -> list[int]:
        return [sequence.length for sequence in self._sequences]

    def _with_sequences(self, sequences: list[_Sequence]) -> Self:
        other = type(self)(self.pool)
        other._sequences = sequences
        return other

    def _check_blocks(self, sequences: list[_Sequence], n: int) -> None:
        """Raise if the pool has too few free blocks for n more positions per sequence."""
        size, needed = self.pool.size, 0
        writers: Counter[int] = Counter()
        for sequence in sequences:
            needed += -(-(sequence.length + n) // size) - len(sequence.blocks)
            # The last block is written into, and all but one of those who share it take a copy.
            if sequence.length % size:
                block = sequence.blocks[-1]
                writers[block] += 1
                needed += self.pool._users[block] > writers[block]
        if needed > self.pool.free:
            raise ArgumentError(
                f"{needed} more blocks of {size} positions are needed, and {self.pool.free} of "
                f"{self.pool.blocks} are free.\nRewind or drop a cache, or make a larger Pool."
            )

    def _take_blocks(self, sequence: _Sequence, n: int) -> None:
        """Make a sequence n positions longer: a last block of its own, and new blocks."""
        pool = self.pool
        if sequence.length % pool.size and pool._users[sequence.blocks[-1]] > 1:
            sequence.blocks[-1] = pool._copy(sequence.blocks[-1])
        sequence.length += n
        while len(sequence.blocks) * pool.size < sequence.length:
            sequence.blocks.append(pool._take())

    def _to_saved(self) -> Saved:
        pool = self.pool
        used = sorted({block for s in self._sequences for block in s.blocks})
        place = {block: i for i, block in enumerate(used)}
        state: Saved = {
            "blocks": pool.blocks,
            "size": pool.size,
            "tables": [[place[block] for block in s.blocks] for s in self._sequences],
            "lengths": self._lengths,
        }
        if used and pool._slots is not None:
            for name, slots in zip(("k", "v"), pool._slots, strict=True):
                state[name] = slots.unflatten(0, (pool.blocks, pool.size))[used]
        return state

    @classmethod
    def _from_saved(cls, state: Saved) -> Self:
        made = cls(Pool(state["blocks"], state["size"]))
        pool, tables = made.pool, list(zip(state["tables"], state["lengths"], strict=True))
        if "k" in state:
            k, v = state["k"], state["v"]  # (blocks in use, size, heads, d)
            check_new(k.transpose(1, 2), v.transpose(1, 2))
            memory = pool._slots_like(k.transpose(1, 2), v.transpose(1, 2))
            for slots, x in zip(memory, (k, v), strict=True):
                slots[: len(x) * pool.size] = x.flatten(0, 1)
            pool._users = [sum(b == i for table, _ in tables for b in table) for i in range(len(k))]
        for table, length in tables:
            needed = -(-check_count("lengths", length, least=0) // pool.size)
            if len(table) != needed or not set(table) <= set(range(len(pool._users))):
                raise ValueError(f"blocks {table} for {length} positions")
        made._sequences = [_Sequence(pool, table, length) for table, length in tables]
        return made

    def __repr__(self) -> str:
        pool = self.pool
        shown = f"{pool.free} of {pool.blocks} blocks of {pool.size} free"
        return f"Paged(lengths={self._lengths}, pool: {shown})"
