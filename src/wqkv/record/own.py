"""The calls of our own attention, taken as they are: q, k, v and the rules, beside the output.

No mask is read and nothing is computed a second time: a map shows the call by its own rules, which
stay values. The steps of a generation are one run where that is sure: the kept keys are bit for bit
those of the run, the rules are the same, and they hide the new keys from the older rows. Every
other call begins a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.geometry import Rect
from wqkv.attend.heard import HeardCall
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.packed import pack, unpack
from wqkv.attend.partial import logaddexp
from wqkv.attend.rules import FULL, Rules
from wqkv.attend.values import is_traced, transformed
from wqkv.errors import WqkvError
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.record.backward import Backward
from wqkv.record.captured import CapturedCall, Refusal
from wqkv.record.prove_call import prove_heard
from wqkv.record.run import GrowingTensor, Run


@dataclass(kw_only=True)
class OwnRun(Run):
    """One text through our own attention. With dropout, the map is the softmax before it."""

    given: Rules
    beside: tuple[Call, ...]  # keys that have no column in the map, and take a part of its rows
    dropout_p: float

    def __post_init__(self) -> None:
        high = self.given.mask.reach().high
        self._causal = high is not None and high <= 0
        self.look()

    def look(self) -> None:
        """Make its maps, which from now on notice if what they are made of is changed in place."""
        query, key = self.query.data, self.key.data
        first = Call(query, key, key, self.given)
        self.mapped = (first, *(replace(one, query=query) for one in self.beside))
        self._maps = [map_of(one) for one in self.mapped]

    @property
    def causal(self) -> bool:
        return self._causal

    @property
    def shown(self) -> str:
        parts = [super().shown]
        if self.kept and self.beside:
            parts.append(f"keys without a column: {sum(one.sizes[3] for one in self.beside)}")
        if self.kept and self.dropout_p:
            parts.append(f"before dropout {self.dropout_p:g}")
        return ", ".join(parts)

    @property
    def without_effects(self) -> str | None:
        if self.refused is None and self.dropout_p:
            return f"dropout {self.dropout_p:g} was on, and effects are those of a call without"
        return super().without_effects

    def mask(self) -> Mask:
        return self.given.mask

    def rules(self) -> Rules:
        return self.given

    def _weights(self) -> AttentionMap:
        if not self.beside:
            return self._maps[0]
        return map_of(self.mapped[0], lse=reduce(logaddexp, (one.lse for one in self._maps)))

    def release(self) -> None:
        super().release()
        if not self.kept:
            self.given, self.beside = Rules(FULL), ()
            self.look()


def record_own(run: Run | None, heard: HeardCall, backward: Backward | None) -> OwnRun:
    """The run that a call belongs to: `run`, if it surely goes on there, or a new one.

    Args:
        run: the last of the layer.
        backward: where the gradient of the call goes, if gradients are asked for.

    Raises:
        Refusal: no map can be made of it.
    """
    call, why = heard.call, ""
    if call.rules.dropout_p and call.seed is None:
        raise Refusal(
            f"dropout {call.rules.dropout_p:g} was on, and it cannot be drawn again for a proof: "
            "the engine 'reference' and keys in several pieces draw it without a seed"
        )
    if isinstance(run, OwnRun) and run.kept:
        try:
            _go_on(run, heard)
            return run
        except Refusal as refusal:
            why = str(refusal)
    made = _begin(heard, backward)
    made.began = why if made.start else ""
    return made


def unreadable(heard: HeardCall) -> str | None:
    """Why the numbers of a call cannot be read; None if they can."""
    query = heard.call.query
    if query.is_meta:
        return "its tensors are on the device meta, which holds no numbers"
    if is_traced(query):
        return "a graph was made of it, and its tensors held no numbers"
    return "a transform of torch.func ran it, such as vmap" if transformed() else None


def _begin(heard: HeardCall, backward: Backward | None) -> OwnRun:
    call, given = heard.call, _kept_rules(heard.call)
    offset = given.query_offset
    run = OwnRun(
        first=_captured(heard, backward),
        key=GrowingTensor(call.key, copy=True),  # a cache may be written over
        query=GrowingTensor(call.query, copy=False),
        start=offset if isinstance(offset, int) else 0,
        start_known=True,
        pattern=None,
        dense=[],
        bias=[],
        backward=backward,
        given=given,
        beside=tuple(_copied(one) for one in heard.beside),
        dropout_p=call.rules.dropout_p,
    )
    if backward is not None:
        backward.keep(call.value, heard.out)
    try:
        run.proof = prove_heard(heard, given)
    except Refusal as refusal:
        run.refused = str(refusal)
    run.release()
    return run


def _captured(heard: HeardCall, backward: Backward | None) -> CapturedCall:
    call = heard.call
    return CapturedCall(
        query=call.query, key=call.key, value=call.value, output=heard.out, readings=[],
        cross=False, stored_keys=False, scale=call.rules.scale, softcap=call.rules.softcap,
        sinks=None, bias=None, causal=False, window=None, backward=backward,
    )  # fmt: skip


def _kept_rules(call: Call) -> Rules:
    """The rules with copies of what they are made of, so that they stay what they were.

    A tensor that is larger than q and k together, such as a stored matrix, is kept itself: if it is
    changed in place, the map says so. An inference tensor could not say so, and is copied.
    """
    most = call.query.numel() + call.key.numel()

    def kept(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        copy = x.numel() <= most or x.is_inference()
        return x.detach().clone() if copy else x.detach()

    packed, tensors = pack(call)
    rules = unpack(packed, call.query, call.key, call.value, [kept(x) for x in tensors]).rules
    offset = None if call.rules.query_offset is None else rules.query_offset
    return replace(rules, sinks=kept(call.rules.sinks), query_offset=offset, dropout_p=0.0)


def _copied(call: Call) -> Call:
    """A call with keys of its own, and without what a map does not need."""
    query, key = call.query.detach()[:, :, :0], call.key.detach().clone()
    return replace(call, query=query, key=key, value=key, rules=_kept_rules(call))


def _go_on(run: OwnRun, heard: HeardCall) -> None:
    """Take a call into its run as its next rows.

    Keys of the same text grow with the queries; those of another text (cross-attention) stay.

    Raises:
        Refusal: it is not sure that it goes on there; the run is as it was.
    """
    call, had, offset = heard.call, run.key.len, heard.call.rules.query_offset
    n, m = call.query.shape[2], call.key.shape[2]
    grows = had == run.end
    past, whole = (had, had + n) if grows else (had, had)
    if offset != run.end or m != whole or isinstance(offset, Tensor):
        raise Refusal("it does not stand behind the rows of the run before it")
    if not _same_rules(run, heard):
        raise Refusal("its rules, or the sizes of q and k, are not those of the run before it")
    if not torch.equal(call.key[:, :, :past], run.key.data):
        raise Refusal("its cache does not hold the keys of the run before it")
    new_keys = Rect(None, run.start, offset, past, m)
    if grows and run.given.mask.region(new_keys) is not False:
        raise Refusal("its mask does not hide the new keys from the rows of the run before it")
    row = run.query.len
    try:
        run.given.fit(call.query, row + n, m)
    except WqkvError as error:
        raise Refusal("its mask or bias is made for one length") from error
    proof = prove_heard(heard, run.given, row)
    run.query.append(call.query)
    run.key.append(call.key[:, :, past:])
    run.add(proof)
    run.look()


def _same_rules(run: OwnRun, heard: HeardCall) -> bool:
    """Whether a call has heads of the same sizes, the rules of the run and its keys beside."""
    calls = (heard.call, *heard.beside)
    beside = zip(run.beside, heard.beside, strict=False)
    return (
        len(run.mapped) == len(calls)
        and run.dropout_p == heard.call.rules.dropout_p
        and all(map(_alike, run.mapped, calls))
        and all(not a.rules.by_position and torch.equal(a.key, b.key) for a, b in beside)
    )


def _alike(a: Call, b: Call) -> bool:
    """Whether two calls have heads of the same sizes, and the same rules but for dropout."""
    sizes = [
        [(*x.shape[:2], x.shape[3], x.dtype, x.device) for x in (one.query, one.key)]
        for one in (a, b)
    ]
    if sizes[0] != sizes[1]:
        return False
    (rules, tensors), (others, more) = (
        pack(replace(one, seed=None, rules=replace(one.rules, query_offset=0, dropout_p=0.0)))
        for one in (a, b)
    )
    pairs = zip((*tensors, a.rules.sinks), (*more, b.rules.sinks), strict=False)
    return rules == others and all(
        x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs
    )
