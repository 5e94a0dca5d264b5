"""What is kept of one layer: q and k over absolute positions, the mask as a value, and the proof.

Several calls with a cache become one run: the queries are gathered, every key is held once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from wqkv.attend.algebra import Mask
from wqkv.attend.call import Call, request
from wqkv.attend.engines import reference
from wqkv.attend.masks import Dense
from wqkv.attend.places import At
from wqkv.errors import WqkvError, describe
from wqkv.look.maps import BLOCK, AttentionMap
from wqkv.look.recognise import Pattern, Visible, agrees, extend, recognise

#: Up to this many rows are all proved; of more, this many are sampled.
ALL_ROWS, SAMPLED_ROWS = 512, 64


class MissedError(WqkvError, LookupError):
    """A layer that was not captured, or whose proof failed; says why."""


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
    """

    visible: Visible
    pattern: Pattern | None = None
    first: bool = False


class Proof(NamedTuple):
    """|P V - output|: the largest share of the allowed difference, and what it is made of."""

    error: float
    share: float
    rows: int
    empty: int


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
        self._data[:, :, self.len : need] = x.detach()
        self.len = need

    def crop(self, length: int) -> None:
        self.len = length

    def select(self, order: Tensor) -> None:
        self._data = self._data[order]


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
    error: float = 0.0
    share: float = 0.0
    rows: int = 0
    empty: int = 0
    kept: bool = True
    statistics: tuple[Tensor, Tensor] | None = None  # entropy and received
    size: tuple[int, int, int, int] = (0, 0, 0, 0)
    rules: str = ""

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
        if self.pattern is not None:
            return self.pattern.mask()
        return _dense(_stack(self.dense, self.key.len))

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


def record(run: Run | None, asked: Asked) -> tuple[Run, bool]:
    """Take one call into a run, or begin the next one: (the run, whether it is a new one)."""
    follows = None if run is None or not run.kept or run.refused else _follow(run, asked)
    if run is None or follows is None:
        return _begin(asked), True
    _go_on(run, asked, *follows)
    return run, False


def repeat(run: Run, asked: Asked) -> None:
    """A second call with the same q and k (differential attention): proved, and nothing more."""
    n = asked.query.shape[2]
    same = run.query.len >= n and run.key.len >= asked.key.shape[2]
    same = same and torch.equal(run.query.data[:, :, -n:], asked.query)
    if same and torch.equal(run.key.data[:, :, -asked.key.shape[2] :], asked.key):
        _prove(run, asked, run.start + run.query.len - n, run.key.len - asked.key.shape[2])
    else:
        run.refused = "it asks the interface several times in a forward, with different words"


# Where a call stands


def _follow(run: Run, asked: Asked) -> tuple[int, int] | None:
    """(how many of the run's keys stay, the position of key 0 of the call), if it goes on."""
    key, had = asked.key, run.key.len
    n, m = asked.query.shape[2], key.shape[2]
    if key.shape[1::2] != run.key.data.shape[1::2] or len(key) != len(run.key.data):
        return None
    if asked.query.shape[1::2] != run.query.data.shape[1::2]:
        return None
    if asked.cross:
        same = asked.goes_on and m == had and torch.equal(key, run.key.data)
        return (had, 0) if same else None
    if m >= had + n:  # a growing cache, or a static one
        return (had, 0) if _same(run, key[:, :, :had], 0, had) else None
    past = m - n
    if past < 1:
        return None
    if _same(run, key[:, :, :past], had - past, had):  # a window: the oldest keys are gone
        return had, had - past
    if past >= run.start and _same(run, key[:, :, :past], 0, past):  # a cache that was cut
        return past, 0
    return None


def _same(run: Run, key: Tensor, start: int, stop: int) -> bool:
    """Whether these are the run's keys; a beam search changes the order of its samples."""
    ours = run.key.data[:, :, start:stop]
    if torch.equal(ours, key):
        return True
    if len(key) == 1 or stop == start:
        return False
    order = []
    for sample in key:
        found = next((b for b, own in enumerate(ours) if torch.equal(own, sample)), None)
        if found is None:
            return False
        order.append(found)
    _reorder(run, torch.tensor(order, device=key.device))
    return True


def _reorder(run: Run, order: Tensor) -> None:
    run.key.select(order)
    run.query.select(order)
    for pieces in (run.dense, run.bias):
        pieces[:] = [piece if len(piece) == 1 else piece[order] for piece in pieces]
    if run.pattern is not None:
        picks = order.tolist()

        def pick(ends: tuple[int, ...] | None) -> tuple[int, ...] | None:
            return ends if ends is None or len(ends) == 1 else tuple(ends[b] for b in picks)

        old = run.pattern
        starts = old.starts if old.starts is None or len(old.starts) == 1 else old.starts[order]
        run.pattern = replace(
            old, left=pick(old.left), right=pick(old.right), prefix=pick(old.prefix), starts=starts
        )


# A new run


def _begin(asked: Asked) -> Run:
    runs = []
    for reading in asked.readings:
        run = _read(asked, reading)
        if run.refused is None:
            return run
        runs.append(run)
    return runs[-1]


def _read(asked: Asked, reading: Reading) -> Run:
    n, m = asked.query.shape[2], asked.key.shape[2]
    visible, length, pattern = reading.visible, m, reading.pattern
    if not asked.cross and m > n:
        length = n if reading.first else max(n, visible.used())
        visible = visible.cut(length)
    start = 0 if asked.cross else length - n
    if start < 0:
        start = 0
    if pattern is None:
        causal = asked.causal and not asked.cross
        pattern = recognise(
            visible, start, causal=causal, window=None if asked.cross else asked.window
        )
    run = Run(
        asked,
        Rows(asked.key[:, :, :length], copy=True),
        Rows(asked.query, copy=False),
        start,
        pattern,
    )
    if pattern is None:
        run.dense.append(visible.whole())
    _add_bias(run, asked, length)
    _prove(run, asked, start, 0)
    run.let_go()
    return run


def _add_bias(run: Run, asked: Asked, length: int) -> None:
    if asked.bias is not None:
        bias = asked.bias[..., :length] if asked.bias.shape[3] > 1 else asked.bias
        run.bias.append(bias.detach())


# The next call of a run


def _go_on(run: Run, asked: Asked, stays: int, first_key: int) -> None:
    n, m = asked.query.shape[2], asked.key.shape[2]
    if stays < run.key.len:
        run.key.crop(stays)
        run.query.crop(stays - run.start)
        if run.dense or run.bias or (run.pattern and run.pattern.starts is not None):
            run.refused = "its cache was cut back, and its mask or bias is a stored matrix"
            return
    had = run.key.len
    position = run.start + run.query.len
    new = 0 if asked.cross else n
    length = had + new - first_key
    visible = asked.readings[0].visible
    if length > m:
        run.refused = f"a step brought {m} keys where {length} were expected"
        return
    if m > length and visible.used() > length:
        run.refused = f"its cache of {m} holds keys after position {had + new} that are seen"
        return
    visible = visible.cut(length)
    if bool(run.bias) != (asked.bias is not None):
        run.refused = "a later step has a bias and the first has none, or the other way round"
        return
    if run.pattern is not None:
        if asked.cross:
            same = agrees(run.pattern.mask(), visible, position)
            grown = run.pattern if same else None
        else:
            grown = extend(run.pattern, visible, position, first_key, had)
        if grown is None:
            run.refused = f"the mask of a later step is not what {run.mask()!r} says there"
            return
        run.pattern = grown
    else:
        run.dense.append(_shifted(visible.rows(0, n), first_key))
    if asked.bias is not None:
        cut = asked.bias[..., :length] if asked.bias.shape[3] > 1 else asked.bias
        run.bias.append(_shifted(cut.detach().expand(-1, -1, n, -1), first_key))
    run.query.append(asked.query)
    if new:
        run.key.append(asked.key[:, :, length - n : length])
    _prove(run, asked, position, first_key)


def _shifted(rows: Tensor, first_key: int) -> Tensor:
    return torch.nn.functional.pad(rows, (first_key, 0)) if first_key else rows


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


# The proof


def _prove(run: Run, asked: Asked, position: int, first_key: int) -> None:
    """Compare the weights of this call, as they will be shown, with the model's output."""
    n, m = asked.query.shape[2], asked.key.shape[2]
    m = min(m, run.key.len - first_key)
    key, value = asked.key[:, :, :m], asked.value[:, :, :m]
    bias = asked.bias
    if bias is not None and bias.shape[3] > 1:
        bias = bias[..., :m]
    try:
        call = request(
            asked.query.detach(),
            key.detach(),
            key.detach(),
            bias=bias,
            scale=asked.scale,
            softcap=asked.softcap,
            sinks=asked.sinks,
        )
    except WqkvError as error:
        run.refused = "its call is not understood: " + " ".join(str(error).splitlines()[:1])
        return
    if value.shape[:3] != (len(key), key.shape[1], m):
        run.refused = f"its values are {describe(value)} for the keys {describe(key)}"
        return
    mask = run.mask()
    if n <= ALL_ROWS:
        picked = torch.arange(n)
    else:
        picked = torch.linspace(0, n - 1, SAMPLED_ROWS, dtype=torch.float64).round().long()
    row = position - run.start  # where this call's rows lie among those of the run
    step = max(1, BLOCK // max(1, call.sizes[0] * call.sizes[1] * m))
    for rows in picked.to(key.device).split(step):
        proof = _prove_rows(call, value, asked.output, mask, rows, (row, position, first_key))
        run.error = max(run.error, proof.error)
        run.share = max(run.share, proof.share)
        run.rows += proof.rows
        run.empty += proof.empty
    if run.share > 1:
        run.refused = (
            f"its proof failed: the rebuilt output differs from the model's by {run.error:.1e}, "
            f"{run.share:.1f} times what rounding allows"
        )


def _prove_rows(
    call: Call, value: Tensor, output: Tensor, mask: Mask, rows: Tensor, at: tuple[int, int, int]
) -> Proof:
    """|P V - output| on some rows against what rounding allows there.

    If scores are off by up to e_ij = c eps (1 + |s_ij|), row i of the output is off by at most
    sum_j P_ij e_ij |v_j| + (sum_j P_ij e_ij) (sum_j P_ij |v_j|).
    """
    row, position, first_key = at
    batch, n_head, _, m = call.sizes
    device = rows.device
    some = rows.view(1, 1, -1, 1)
    keys = torch.arange(m, device=device).view(1, 1, 1, -1)
    samples = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    heads = torch.arange(n_head, device=device).view(1, -1, 1, 1)
    here = At(samples, heads, some, some, keys)  # as this call counts, for its bias
    shown = At(samples, heads, some + row, some + position, keys + first_key)
    part = replace(call, query=call.query[:, :, rows], mask=_Fixed(mask.visible(shown)))
    steps = reference.steps(replace(part, value=part.key[..., :0]), here)
    P, score = steps.weights, steps.scores
    v = value.detach().to(P.dtype).repeat_interleave(n_head // value.shape[1], dim=1)
    theirs = output[:, :, rows].to(P.dtype)
    sees = score > -torch.inf
    filled = sees.any(dim=-1)
    e = P * (1 + score.masked_fill(~sees, 0).abs())
    allowed = e @ v.abs() + e.sum(dim=-1, keepdim=True) * (P @ v.abs())
    allowed = allowed * _unit(call, value, output) + torch.finfo(P.dtype).tiny
    difference = (P @ v - theirs).abs()
    share = (difference / allowed)[filled]
    error = difference[filled]
    empty = int((~filled).any(dim=1).sum())
    if not share.numel():
        return Proof(0.0, 0.0, 0, empty)
    worst, largest = float(error.max()), float(share.max())
    if math.isnan(worst) or math.isnan(largest):
        worst = largest = math.inf
    return Proof(worst, largest, int(filled.any(dim=1).sum()), empty)


class _Fixed(Mask):
    """The entries at the places that are asked about, and no others."""

    def __init__(self, seen: Tensor) -> None:
        self._seen = seen

    def visible(self, at: At) -> Tensor:
        return self._seen


def _unit(call: Call, value: Tensor, output: Tensor) -> float:
    """What one rounding is worth in the dtype that computed, with some room."""
    eps = max(torch.finfo(x.dtype).eps for x in (call.query, value, output))
    if call.query.is_cuda and eps < 1e-6 and torch.get_float32_matmul_precision() != "highest":
        eps = 2**-10
    return eps * (2 if eps > 1e-4 else 32)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Beside the model's own computation: no gradients, no autocast, no inference mode."""
    known = torch.amp.is_autocast_available(device.type)
    with torch.inference_mode(False), torch.no_grad():
        if known:
            with torch.autocast(device.type, enabled=False):
                yield
        else:
            yield
