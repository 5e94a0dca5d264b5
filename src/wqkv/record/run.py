"""What counts as one run of a layer, and what is kept of it: q, k, the mask as a value, the proof.

A run is one forward, or all steps of one generation: a call continues it if its keys begin, bit for
bit, with keys that the run has (follow.py decides). Queries are gathered, each key is kept once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from wqkv.attend.bias import StoredBias
from wqkv.attend.call import call_of
from wqkv.attend.masks import Dense
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.rules import Rules
from wqkv.errors import MissedError
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.axis import Axes
from wqkv.maps.proof import Proof
from wqkv.maps.weights import check_unchanged
from wqkv.record.backward import Backward
from wqkv.record.captured import CapturedCall, Refusal
from wqkv.record.inputs.find import find_axes
from wqkv.record.inputs.moment import Moment, RunCall
from wqkv.record.mask_pattern import HIDDEN, Pattern
from wqkv.record.operators.nodes import Leaf
from wqkv.upstream.of_torch import version


class GrowingTensor:
    """A tensor (batch, head, length, d) that grows along its length, with room for later steps.

    Maps that were made of it keep what they have: what they may see is never written over.
    """

    def __init__(self, x: Tensor, *, copy: bool) -> None:
        # A view would keep all of its storage alive, such as a whole static cache.
        is_view = x.untyped_storage().nbytes() > x.numel() * x.element_size()
        self._room = x.detach().clone() if copy or is_view else x.detach()
        self.len = x.shape[2]

    @property
    def data(self) -> Tensor:
        return self._room[:, :, : self.len]

    def append(self, x: Tensor) -> None:
        need = self.len + x.shape[2]
        if need > self._room.shape[2]:
            batch, n_head, _, d = self._room.shape
            grown = self._room.new_empty((batch, n_head, need + max(need // 4, 16), d))
            grown[:, :, : self.len] = self.data
            self._room = grown
        # Room that no map has seen. Through `.data`, because otherwise torch counts it as a change
        # of every tensor that shares this memory, and a map checks that its tensors are unchanged.
        self._room.data[:, :, self.len : need] = x.detach()
        self.len = need

    def crop(self, length: int) -> None:
        """Keep the first `length` positions."""
        if length < self.len:
            # The room ends here too: older maps still see what follows, so `append` must move.
            self._room, self.len = self._room[:, :, :length], length

    def select(self, order: Tensor) -> None:
        """Keep the samples `order`, in this order."""
        self._room = self.data[order]


class Scored(NamedTuple):
    """Scores that were computed again, with sinks among the keys, and where the keys begin."""

    matrix: Tensor  # (batch, n_head, query_len, key_len)
    first: int


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


@dataclass
class Run:
    """One text through one layer: a forward, or all steps of a generation."""

    first: CapturedCall  # its rules hold for the run; its tensors are released
    key: GrowingTensor
    query: GrowingTensor
    start: int  # the position of the first recorded query
    start_known: bool  # if not, positions count from the first key of its cache
    pattern: Pattern | None
    dense: list[Tensor]  # the mask's rows, call by call, where it has no pattern
    bias: list[Tensor]  # the rows of a stored bias, call by call
    began: str = ""  # why it does not continue the run before it
    proof: Proof | None = None
    refused: str | None = None  # why it is not shown
    #: Makes the proof, where it waits until somebody asks: see `prove`.
    unproved: Callable[[], Proof] | None = None
    leaves: tuple[Leaf, ...] = ()  # what that needs
    statistics: Statistics | None = None  # all that is kept of it, with keep="statistics"
    calls: int = 1  # of the attention function
    again: bool = False  # whether checkpointing ran it once more, in a backward pass
    backward: Backward | None = None  # v, the output and its gradient, of a run of one call
    notes: tuple[str, ...] = ()  # what a reader of its map should know
    scores: Callable[[], Scored] | None = None  # computes them again, where no rules give them
    captured: str = ""  # why it is not proved of q, k and rules, but computed again
    said: str = field(default="", init=False)  # what `shown` was before the mask was released
    #: Its calls, by which is found what its positions are: see `axes`.
    pieces: list[RunCall] = field(default_factory=list, init=False)
    #: The tensors that its map is made of, some of them the model's own, and their versions.
    made_of: list[tuple[Tensor, int]] = field(default_factory=list, init=False)

    @property
    def end(self) -> int:
        """The position that the next query will have if the text is continued."""
        return self.start + self.query.len

    @property
    def kept(self) -> bool:
        """Whether q and k are kept."""
        return self.refused is None and self.statistics is None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, n_head, query_len, key_len)."""
        if self.statistics is not None:
            return self.statistics.shape
        batch, n_head, query_len, _ = self.query.data.shape
        return batch, n_head, query_len, self.key.len

    @property
    def shown(self) -> str:
        """The mask and whatever else enters the scores, as the report shows it."""
        if not self.kept:
            return self.said
        if self.scores is not None:
            return "scores computed again"
        rules = self.rules()
        parts = [repr(rules.mask)]
        if rules.bias is not None:
            stored = isinstance(rules.bias, StoredBias)
            parts.append("a stored bias" if stored else repr(rules.bias))
        parts += [f"softcap {rules.softcap:g}"] if rules.softcap else []
        parts += ["sinks"] if rules.sinks is not None else []
        return ", ".join(parts)

    @property
    def causal(self) -> bool:
        """Whether its mask is known to hide every key behind a row's own."""
        return self.pattern is not None and self.pattern.after == 0

    def mask(self) -> Mask:
        return mask_of(self.pattern, self.dense, self.key.len)

    def rules(self) -> Rules:
        """What turns q k^T into the weights."""
        return Rules(
            self.mask(),
            StoredBias(_stack(self.bias, self.key.len)) if self.bias else None,
            self.first.scale,
            self.first.softcap,
            self.first.sinks,
            query_offset=self.start,
        )

    def map(self) -> AttentionMap | Statistics:
        """The map of the run.

        Raises:
            MissedError: its proof failed, or its first call was not understood.
            ArgumentError: a tensor of it was changed in place since it was recorded.
        """
        if self.refused is not None:
            raise MissedError(self.refused)
        if self.statistics is not None:
            return self.statistics
        if self.scores is not None:
            found = _of_scores(self.query.data, self.key.data, self.scores())
            return found._with(self.axes())
        check_unchanged(self.made_of)
        return self._weights()._with(self.axes())

    def axes(self) -> Axes:
        """What its queries and keys are."""
        return find_axes(self.pieces, self.shape, self.first.cross, self.start)

    def take(self, moment: Moment | None) -> None:
        """Note the moment of its next call, whose queries are its last ones."""
        new = self.shape[2] - sum(one.kept for one in self.pieces)
        if moment is None or new <= 0:
            return
        last = self.pieces[-1] if self.pieces else None
        if last is not None and moment.modules[-1] is last.moment.modules[-1]:
            # one call of its module, as of one that sees its pictures one by one
            count = last.query_len + new
            self.pieces[-1] = last._replace(query_len=count, kept=last.kept + new)
        else:
            self.pieces.append(RunCall(moment, self.shape[0], new, new))

    def select(self, order: Tensor) -> None:
        """Keep the samples `order`, in this order."""
        for rows in (self.key, self.query):
            rows.select(order)
        self.pieces = [
            one._replace(order=order if one.order is None else one.order[order])
            for one in self.pieces
        ]

    def crop(self, length: int) -> None:
        """Keep the first `length` queries."""
        self.query.crop(length)
        # the moments of the calls that have queries among them
        first, kept = 0, list[RunCall]()
        for one in self.pieces:
            if first < length:
                kept.append(one._replace(kept=min(one.kept, length - first)))
            first += one.kept
        self.pieces = kept

    def _weights(self) -> AttentionMap:
        key = self.key.data
        return map_of(call_of(self.query.data, key, key, self.rules()))

    @property
    def without_effects(self) -> str | None:
        """Why the effects of its links are not known; None if they are."""
        if self.refused is not None:
            return self.refused
        if self.backward is None and self.calls == 1:
            return "it was heard at its operators, where no gradient is kept"
        if self.backward is None:
            return f"its run has {self.calls} calls of the attention function, and this needs one"
        return self.backward.why_none

    def prove(self) -> None:
        """Make the proof, if it waits."""
        if self.unproved is None:
            return
        make, self.unproved, self.leaves = self.unproved, None, ()
        try:
            self.proof = make()
        except Refusal as refusal:
            self.refused = str(refusal)
            self.release()

    def add(self, proof: Proof) -> None:
        """Add another call, by its proof."""
        self.prove()
        self.proof = proof if self.proof is None else self.proof.plus(proof)
        self.calls, self.backward = self.calls + 1, None
        self._note_versions()

    def _note_versions(self) -> None:
        sinks = [] if self.first.sinks is None else [self.first.sinks]
        tensors = (self.query.data, self.key.data, *self.dense, *self.bias, *sinks)
        self.made_of = [(x, version(x)) for x in tensors]

    def reduce(self) -> None:
        """Compute the statistics, and release q and k."""
        found = self.map()
        if isinstance(found, AttentionMap):
            self.said = self.shown
            self.statistics = Statistics(found.entropy(), found.received(), found.shape)
            self.release()

    def release(self) -> None:
        """Release every large tensor that no map needs."""
        empty = self.query.data.new_empty((0, 0, 0, 0))
        self.first = self.first._replace(
            query=empty, key=empty, value=empty, output=empty, readings=[], bias=None,
            backward=None, finish=None, proof=None,
        )  # fmt: skip
        if not self.kept:
            self.query = self.key = GrowingTensor(empty, copy=False)
            self.dense, self.bias, self.backward, self.scores = [], [], None, None
        self._note_versions()


def replayed_run(
    shape: Sequence[int],
    scores: Callable[[], Scored],
    proof: Proof,
    captured: str,
    output: Tensor,
) -> Run:
    """A run whose scores are computed again each time that its map is asked for.

    Args:
        shape: (batch, n_head, query_len, key_len).
        captured: why it is not proved of q, k and rules; empty if it is.
        output: as the model has it, (batch, n_head, query_len, d_v).
    """
    batch, n_head, n, m = shape
    nothing = output.new_zeros((1, 1, 1, 1), dtype=torch.float32)
    query, key = (nothing.expand(batch, n_head, length, 1) for length in (n, m))
    empty = output.new_empty((0, 0, 0, 0))
    first = CapturedCall(
        empty, empty, empty, output, [], cross=False, stored_keys=False, scale=None, softcap=None,
        sinks=None, bias=None, causal=False, window=None,
    )  # fmt: skip
    return Run(
        first=first,
        key=GrowingTensor(key, copy=False),
        query=GrowingTensor(query, copy=False),
        start=0,
        start_known=True,
        pattern=Pattern(),
        dense=[],
        bias=[],
        proof=proof,
        scores=scores,
        captured=captured,
    )


def _of_scores(query: Tensor, key: Tensor, found: Scored) -> AttentionMap:
    """The map of a matrix of scores: all of them are a bias, and q and k are 0."""
    scores = found.matrix.float()
    seen = scores > HIDDEN
    # Where all are hidden, those that have a number are averaged over.
    seen = seen | (~seen.any(dim=-1, keepdim=True) & (found.matrix > -torch.inf))
    lse = scores.logsumexp(dim=-1) if scores.shape[-1] > key.shape[2] else None
    keys = slice(found.first, found.first + key.shape[2])
    seen, scores = seen[..., keys], scores[..., keys]
    bias = scores.masked_fill(~seen, 0).nan_to_num(neginf=0.0)
    return AttentionMap(
        query, key, mask=_dense(seen), bias=bias, scale=1.0, query_offset=0, lse=lse
    )


def mask_of(pattern: Pattern | None, dense: Sequence[Tensor], key_len: int) -> Mask:
    """The mask of a run: its pattern, or else its rows."""
    return pattern.mask() if pattern is not None else _dense(_stack(dense, key_len))


def _stack(pieces: Sequence[Tensor], key_len: int) -> Tensor:
    """Put the rows of several calls into one matrix; earlier rows do not see later keys."""
    if len(pieces) == 1:
        return pieces[0]
    batch, n_head = (max(piece.shape[axis] for piece in pieces) for axis in (0, 1))
    padded = [
        torch.nn.functional.pad(piece, (0, key_len - piece.shape[3])).expand(batch, n_head, -1, -1)
        for piece in pieces
    ]
    return torch.cat(padded, dim=2)


def _dense(matrix: Tensor) -> Dense:
    with warnings.catch_warnings():  # Dense warns of empty rows, which padding makes rightly
        warnings.simplefilter("ignore", UserWarning)
        return Dense(matrix)
