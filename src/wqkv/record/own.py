"""The second door: the calls of our own attention, as they are: q, k, v, the rules and the output.

No mask is read, and q and k are not computed again: a map shows the call by its own rules, which
stay values. A call waits to be proved until somebody asks, or the next forward begins. The steps of
a generation are one run where that is sure: the kept keys are bit for bit those of the run, the
rules are the same, and they hide the new keys from the older rows. Every other call begins a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.geometry import Rect
from wqkv.attend.heard import HeardCall
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.packed import pack, unpack
from wqkv.attend.partial import logaddexp
from wqkv.attend.rules import FULL, Rules
from wqkv.errors import WqkvError
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.weights import aside
from wqkv.record.backward import Backward
from wqkv.record.captured import CapturedCall, Refusal, why_without_numbers
from wqkv.record.inputs.moment import Moment
from wqkv.record.layer_runs import LayerRuns
from wqkv.record.operators.nodes import Leaf, close_all
from wqkv.record.prove_call import prove_heard
from wqkv.record.run import GrowingTensor, Run

#: Why there is no map of a call whose tensors were written over.
CHANGED = "q, v, its output or a matrix of its rules was changed in place before it was asked for"


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


class _OwnCall(NamedTuple):
    """A call that is read when its layer is asked."""

    layer: LayerRuns
    heard: HeardCall
    backward: Backward | None  # where its gradient goes, if gradients are asked for
    kept: tuple[Leaf, Leaf, Leaf]  # q, v and the output, as they were
    matrices: list[Leaf]  # of its rules
    moment: Moment | None  # the moment, to find what its positions are

    def as_heard(self) -> HeardCall:
        """The call as it was.

        Raises:
            Refusal: that is not known any more.
        """
        if any(one.is_stale for one in (*self.kept, *self.matrices)):
            raise Refusal(CHANGED)
        query, value, out = (one.tensor for one in self.kept)
        return self.heard._replace(call=replace(self.heard.call, query=query, value=value), out=out)


class OwnDoor:
    """The calls of one thread that wait to be read, because proving costs more than hearing."""

    def __init__(self) -> None:
        self._waiting: list[_OwnCall] = []

    def add(
        self,
        layer: LayerRuns,
        heard: HeardCall,
        backward: Backward | None,
        keep: Callable[[Tensor], Leaf],
        moment: Moment | None,
    ) -> None:
        """Keep a call of a layer until somebody asks, or until the next forward begins.

        Args:
            keep: keeps a tensor as it is now, until the forward ends.
            moment: at which it ran.
        """
        layer.reason = _why_not(heard)
        if layer.reason is not None:
            return
        with aside(heard.call.query.device):
            held = _kept(heard)
        leaves = keep(held.call.query), keep(held.call.value), keep(held.out)
        matrices = [Leaf(x) for x in held.call.rules.tensors()]
        for leaf in matrices:  # the rules hold the tensor itself, so it may not change from here on
            leaf.close()
        self._waiting.append(_OwnCall(layer, held, backward, leaves, matrices, moment))

    def close(self) -> None:
        """A forward ends. From here on nothing tells that a tensor is about to be changed."""
        if close_all(leaf for one in self._waiting for leaf in one.kept):
            self.settle()

    def settle(self) -> None:
        """Read all that waits, in the order in which it ran."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            layer = one.layer
            try:
                heard = one.as_heard()
                with aside(heard.call.query.device):
                    run = _run_of(layer, heard, one.backward)
            except Refusal as refusal:
                layer.reason = str(refusal)
                continue
            layer.reason = None
            run.take(one.moment)
            if not layer.runs or run is not layer.runs[-1]:
                layer.runs.append(run)


def _why_not(heard: HeardCall) -> str | None:
    """Why no map can be made of a call; None if one can."""
    query, p = heard.call.query, heard.call.rules.dropout_p
    if why := why_without_numbers(query):
        return why
    if p and heard.call.seed is None:
        return (
            f"dropout {p:g} was on, and it cannot be drawn again for a proof: the engine "
            "'reference' and keys in several pieces draw it without a seed"
        )
    return None


# What is kept of a call


def _kept(heard: HeardCall) -> HeardCall:
    """A call with copies of its keys and rules, because caches and parameters are written over.

    q, v, the output and large matrices of its rules are kept themselves. If one is changed in place
    after the forward, there is no map.
    """
    call, query = heard.call, heard.call.query.detach()
    key, value = call.key.detach().clone(), _whole(call.value.detach())
    rules = _kept_rules(call)
    beside = (
        replace(
            one, query=query[:, :, :0], key=one.key.detach().clone(),
            value=one.value.detach().clone(), rules=_kept_rules(one),
        )
        for one in heard.beside
    )  # fmt: skip
    made = replace(call, query=_whole(query), key=key, value=value, rules=rules)
    return HeardCall(made, heard.out.detach(), tuple(beside))


def _whole(x: Tensor) -> Tensor:
    """A copy of a view, which would keep all of its storage alive, such as a whole cache."""
    is_view = x.untyped_storage().nbytes() > x.numel() * x.element_size()
    return x.clone() if is_view else x


def _kept_rules(call: Call) -> Rules:
    """Rules made of copies, but for tensors that are larger than q and k together."""
    most = call.query.numel() + call.key.numel()

    def kept(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        return x.detach().clone() if x.numel() <= most or x.is_inference() else x.detach()

    packed, tensors = pack(call)
    rules = unpack(packed, call.query, call.key, call.value, [kept(x) for x in tensors]).rules
    offset = None if call.rules.query_offset is None else rules.query_offset
    return replace(rules, sinks=kept(call.rules.sinks), query_offset=offset)


# Its run


def _run_of(layer: LayerRuns, heard: HeardCall, backward: Backward | None) -> OwnRun:
    """The run that a call belongs to: the last of its layer, if it surely goes on there."""
    last, why = layer.runs[-1] if layer.runs else None, ""
    if isinstance(last, OwnRun) and last.kept:
        try:
            _go_on(last, heard)
            return last
        except Refusal as refusal:
            why = str(refusal)
    run = _begin(heard, backward, cross=layer.known_kind == "cross")
    run.began = why if run.start else ""
    run.notes = tuple(_notes(layer, heard))
    return run


def _notes(layer: LayerRuns, heard: HeardCall) -> Iterator[str]:
    """What a reader of its map should know beside its rules."""
    beside, dropout_p = sum(one.sizes[3] for one in heard.beside), heard.call.rules.dropout_p
    if beside:
        yield f"keys that take a part of each row and have no column: {beside}"
    if dropout_p:
        yield f"the softmax before dropout {dropout_p:g}"
    if heard.call.lse:
        yield "its caller asked for lse, and may merge it with other keys"
    maps = getattr(layer.module, "maps_per_head", 1)
    if maps > 1:  # DifferentialAttention
        yield f"{maps} maps of each head: all first ones come before all second ones"


def _begin(heard: HeardCall, backward: Backward | None, cross: bool) -> OwnRun:
    call = heard.call
    given, offset = replace(call.rules, dropout_p=0.0), call.rules.query_offset
    start = offset if isinstance(offset, int) else 0
    run = OwnRun(
        first=_captured(heard, backward, cross),
        key=GrowingTensor(call.key, copy=False),
        query=GrowingTensor(call.query, copy=False),
        start=start,
        # A call counts from its first key, before which a cache may have lost others.
        start_known=cross or not start,
        pattern=None,
        dense=[],
        bias=[],
        backward=backward,
        given=given,
        beside=heard.beside,
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


def _captured(heard: HeardCall, backward: Backward | None, cross: bool) -> CapturedCall:
    call = heard.call
    return CapturedCall(
        query=call.query, key=call.key, value=call.value, output=heard.out, readings=[],
        cross=cross, stored_keys=False, scale=call.rules.scale, softcap=call.rules.softcap,
        sinks=None, bias=None, causal=False, window=None, backward=backward,
    )  # fmt: skip


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
    if isinstance(offset, Tensor) or offset != run.end or m != whole:
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
    """Whether two calls have heads of the same sizes and the same rules, wherever they stand."""
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
