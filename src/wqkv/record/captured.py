"""What is kept of one layer: q and k over absolute positions, the mask as a value, and the proof.

Several calls with a cache become one run: the queries are gathered, every key is held once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from wqkv.attend.masks import Dense, Mask
from wqkv.errors import MissedError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.mask_pattern import Pattern, Visible


class Asked(NamedTuple):
    """One call of a model's attention, and what it answered."""

    query: Tensor  # (batch, n_head, query_len, d_k)
    key: Tensor  # (batch, n_kv_head, key_len, d_k)
    value: Tensor
    output: Tensor  # (batch, n_head, query_len, d_v)
    readings: list[Reading]
    cross: bool
    goes_on: bool  # whether cross-attention uses the keys of the call before
    scale: float | None
    softcap: float | None
    sinks: Tensor | None
    bias: Tensor | None  # (batch | 1, head | 1, query | 1, key)
    causal: bool  # hints for masks too short to tell
    window: int | None


class Reading(NamedTuple):
    """One way to read the mask of a call: in rows, and as a pattern where that is known.

    A pattern is said for queries that stand among the last keys, or with `first` among the first.
    `all` tells that every query is known to see every key.
    """

    visible: Visible
    pattern: Pattern | None = None
    first: bool = False
    all: bool = False


class Proof(NamedTuple):
    """|P V - output|: the largest share of the allowed difference, and what it is made of."""

    error: float = 0.0
    share: float = 0.0
    rows: int = 0
    empty: int = 0
    refused: str | None = None  # why there is none, or why it failed

    def plus(self, other: Proof) -> Proof:
        """Both as one."""
        worst = (max(self.error, other.error), max(self.share, other.share))
        return Proof(*worst, self.rows + other.rows, self.empty + other.empty)


class Rows:
    """A tensor that grows along axis 2 without being copied at every step."""

    def __init__(self, x: Tensor, *, copy: bool) -> None:
        shared = x.untyped_storage().nbytes() > x.numel() * x.element_size()
        self._data = x.detach().clone() if copy or shared else x.detach()
        self.len = x.shape[2]

    @property
    def data(self) -> Tensor:
        return self._data[:, :, : self.len]

    def append(self, x: Tensor) -> None:
        need = self.len + x.shape[2]
        if need > self._data.shape[2]:
            batch, n_head, _, d = self._data.shape
            grown = self._data.new_empty((batch, n_head, need + max(need // 4, 16), d))
            grown[:, :, : self.len] = self.data
            self._data = grown
        # Room that no map has seen: through `.data`, which does not count as a change of `data`.
        self._data.data[:, :, self.len : need] = x.detach()
        self.len = need

    def crop(self, length: int) -> None:
        """Only the first. Maps made before keep the others, so these are not written over."""
        if length < self.len:
            self._data, self.len = self._data[:, :, :length], length

    def select(self, order: Tensor) -> None:
        """Only the samples `order`."""
        self._data = self.data[order]


@dataclass
class Run:
    """One text through one layer: a forward, or all steps of a generation."""

    asked: Asked
    key: Rows
    query: Rows
    start: int  # where the first recorded query stands
    pattern: Pattern | None
    dense: list[Tensor] = field(default_factory=list)  # rows of a mask that has no pattern
    bias: list[Tensor] = field(default_factory=list)  # rows of a stored bias
    refused: str | None = None
    found: bool = True  # whether `start` is known; if not, it counts from its cache's first key
    began: str = ""  # why it does not go on the run before it
    proof: Proof = field(default_factory=Proof)
    kept: bool = True
    statistics: tuple[Tensor, Tensor] | None = None  # entropy and received
    size: tuple[int, int, int, int] = (0, 0, 0, 0)
    rules: str = ""

    @property
    def end(self) -> int:
        """Where the next query will stand, if the text goes on."""
        return self.start + self.query.len

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, n_head, query_len, key_len)."""
        if not self.kept:
            return self.size
        batch, n_head, query_len, _ = self.query.data.shape
        return batch, n_head, query_len, self.key.len

    @property
    def shown(self) -> str:
        """The mask and whatever else enters the scores, in words."""
        if not self.kept:
            return self.rules
        parts = [repr(self.mask())]
        parts += ["a stored bias"] if self.bias else []
        parts += [f"softcap {self.asked.softcap:g}"] if self.asked.softcap else []
        parts += ["sinks"] if self.asked.sinks is not None else []
        return ", ".join(parts)

    def mask(self) -> Mask:
        return mask_of(self.pattern, self.dense, self.key.len)

    def map(self) -> AttentionMap | Statistics:
        if self.refused is not None:
            raise MissedError(self.refused)
        if self.statistics is not None:
            return Statistics(*self.statistics, self.size)
        bias = _stack(self.bias, self.key.len) if self.bias else None
        asked = self.asked
        return AttentionMap(
            self.query.data,
            self.key.data,
            mask=self.mask(),
            bias=bias,
            scale=asked.scale,
            softcap=asked.softcap,
            sinks=asked.sinks,
            query_offset=self.start,
        )

    def reduce(self) -> None:
        """Keep the statistics, and let q and k go."""
        if self.refused is None and self.statistics is None:
            found = self.map()
            assert isinstance(found, AttentionMap)
            self.size, self.rules = found.shape, self.shown
            self.statistics = (found.entropy(), found.received())
        self.let_go()

    def let_go(self) -> None:
        """Free everything big."""
        empty = self.query.data.new_empty((0, 0, 0, 0))
        self.asked = self.asked._replace(
            query=empty, key=empty, value=empty, output=empty, readings=[], bias=None
        )
        if self.statistics is not None or self.refused is not None:
            self.query, self.key = Rows(empty, copy=True), Rows(empty, copy=True)
            self.dense, self.bias, self.kept = [], [], False


class Statistics:
    """What keep="statistics" keeps of a layer: the entropy of rows, and what keys received."""

    def __init__(self, entropy: Tensor, received: Tensor, shape: tuple[int, int, int, int]) -> None:
        self._entropy, self._received, self.shape = entropy, received, shape

    def entropy(self) -> Tensor:
        """As `AttentionMap.entropy`: (batch, n_head, query_len)."""
        return self._entropy

    def received(self) -> Tensor:
        """As `AttentionMap.received`: (batch, n_head, key_len)."""
        return self._received

    def __getitem__(self, index: object) -> NoReturn:
        raise MissedError(
            'q and k were not kept, so there are no tiles.\nWatch with keep="all" to see them.'
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or not hasattr(AttentionMap, name):
            raise AttributeError(name)
        raise MissedError(
            f'q and k were not kept, so there is no `{name}`.\nWatch with keep="all" to see it.'
        )

    def __repr__(self) -> str:
        return f"Statistics{list(self.shape)}"


def mask_of(pattern: Pattern | None, dense: Sequence[Tensor], key_len: int) -> Mask:
    """The mask of a run: its pattern, or else its rows."""
    return pattern.mask() if pattern is not None else _dense(_stack(dense, key_len))


def _stack(pieces: Sequence[Tensor], key_len: int) -> Tensor:
    """Rows of a stored matrix from several calls, as one: later keys are hidden from earlier."""
    if len(pieces) == 1:
        return pieces[0]
    batch, n_head = (max(piece.shape[axis] for piece in pieces) for axis in (0, 1))
    padded = [
        torch.nn.functional.pad(piece, (0, key_len - piece.shape[3])).expand(batch, n_head, -1, -1)
        for piece in pieces
    ]
    return torch.cat(padded, dim=2)


def _dense(matrix: Tensor) -> Dense:
    with warnings.catch_warnings():  # padding may well leave most rows empty
        warnings.simplefilter("ignore", UserWarning)
        return Dense(matrix)
