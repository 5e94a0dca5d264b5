"""The calls of our own attention, taken as they are: q, k, v and the rules, beside the output.

No mask is read and nothing is computed a second time: a map shows the call by its own rules, which
stay values. The steps of a generation are one run where that is sure: the kept keys are bit for bit
those of the run, the rules are the same, and they hide the new keys from the older rows. Every
other call begins a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.geometry import Rect
from wqkv.attend.heard import HeardCall
from wqkv.attend.masks.algebra import Full, Mask
from wqkv.attend.packed import pack, unpack
from wqkv.attend.partial import logaddexp
from wqkv.attend.rules import Rules
from wqkv.attend.values import is_traced, transformed
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.record.backward import Backward
from wqkv.record.captured import CapturedCall, Refusal
from wqkv.record.prove_call import prove_heard
from wqkv.record.run import GrowingTensor, Run


@dataclass(kw_only=True)
class OwnRun(Run):
    """One text through our own attention."""

    given: Rules
    beside: tuple[Call, ...]  # keys that have no column in the map, and take a part of its rows

    def __post_init__(self) -> None:
        self.look()

    @property
    def causal(self) -> bool:
        high = self.given.mask.reach().high
        return high is not None and high <= 0

    @property
    def shown(self) -> str:
        count = sum(one.sizes[3] for one in self.beside)
        rest = f", {count} more keys, which have no column" if self.kept and count else ""
        return super().shown + rest

    def mask(self) -> Mask:
        return self.given.mask

    def rules(self) -> Rules:
        return self.given

    def call(self) -> Call:
        """The call that its map shows."""
        return Call(self.query.data, self.key.data, self.key.data, self.given)

    def look(self) -> None:
        """Make the map, which from now on notices if what it is made of is changed in place."""
        self._made = map_of(self.call())

    def _weights(self) -> AttentionMap:
        found = self._made
        for one in self.beside:
            found = map_of(self.call(), lse=logaddexp(found.lse, map_of(one).lse))
        return found

    def release(self) -> None:
        super().release()
        if not self.kept:
            self.given, self.beside = Rules(Full()), ()
            self.look()


def record_own(run: Run | None, heard: HeardCall, backward: Backward | None) -> OwnRun:
    """The run that a call belongs to: `run`, if it surely goes on there, or a new one.

    Args:
        run: the last of the layer.
        backward: where the gradient of the call goes, if gradients are asked for.

    Raises:
        Refusal: no map can be made of it.
    """
    rules = heard.call.rules
    if rules.dropout_p:
        raise Refusal(f"dropout {rules.dropout_p:g} while training draws new weights every time")
    if isinstance(run, OwnRun) and _go_on(run, heard):
        return run
    return _begin(heard, backward)


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
    )
    if backward is not None:
        backward.keep(call.value, heard.out)
    try:
        run.proof = prove_heard(heard)
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
    """A call with keys of its own; its values are not kept."""
    key = call.key.detach().clone()
    query = call.query.detach()
    return replace(call, query=query, key=key, value=key, rules=_kept_rules(call))


def _go_on(run: OwnRun, heard: HeardCall) -> bool:
    """Take a call into its run as its next rows; False, and nothing is changed, if it is not sure.

    Keys of the same text grow with the queries; those of another text (cross-attention) stay.
    """
    call, had, offset = heard.call, run.key.len, heard.call.rules.query_offset
    n, m = call.query.shape[2], call.key.shape[2]
    if heard.beside or not run.kept or not isinstance(offset, int):
        return False
    if not run.start < offset <= run.end or not _same_rules(run.call(), call):
        return False
    grows = had == run.end
    past = offset if grows else had
    if m != (offset + n if grows else had) or (offset < run.end and not grows):
        return False
    if not torch.equal(call.key[:, :, :past], run.key.data[:, :, :past]):
        return False
    if run.given.mask.region(Rect(None, run.start, offset, past, m)) is not False and past < m:
        return False
    row = offset - run.start
    try:
        run.given.fit(call.query, row + n, m)
        proof = prove_heard(heard._replace(call=replace(call, rules=run.given)), row)
    except (ArgumentError, Refusal):
        return False
    run.query.crop(row)
    run.query.append(call.query)
    if grows:
        run.key.crop(past)
        run.key.append(call.key[:, :, past:])
    run.add(proof)
    run.look()
    return True


def _same_rules(ours: Call, call: Call) -> bool:
    """Whether two calls have heads of the same sizes, and the same rules from the first row on."""
    sizes = [(*x.shape[:2], x.shape[3], x.dtype) for x in (ours.query, ours.key)]
    if sizes != [(*x.shape[:2], x.shape[3], x.dtype) for x in (call.query, call.key)]:
        return False
    a, b = (
        pack(replace(one, seed=None, rules=replace(one.rules, query_offset=0, dropout_p=0.0)))
        for one in (ours, call)
    )
    tensors = zip((*a[1], ours.rules.sinks), (*b[1], call.rules.sinks), strict=False)
    return a[0] == b[0] and all(
        x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in tensors
    )
