"""Attention over ranks as one step of autograd, whichever way it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from wqkv.attend.algebra import Mask
from wqkv.attend.bias import Bias
from wqkv.attend.call import Call
from wqkv.attend.parallel.agreement import agree, shown, together
from wqkv.attend.parallel.local import Local
from wqkv.attend.parallel.ranks import Ranks
from wqkv.errors import EngineError


class Way(Protocol):
    """What travels: keys (ring), or heads. Both passes send and receive."""

    ranks: Ranks

    def forward(self, call: Call, local: Local) -> list[Tensor]:
        """out and lse; then q, k, v, out and lse as the backward pass reads them, if others."""

    def backward(
        self,
        call: Call,
        local: Local,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
    ) -> list[Tensor]:
        """dq, dk, dv, and the gradient of a learned bias."""


def attended(call: Call, way: Way) -> tuple[Tensor, Tensor]:
    """out and lse of this rank's rows, without the sinks, differentiable."""
    local = Local.of(call)
    packed, rules = pack(call)
    setting = _Setting(packed, way, local.by_kernel)
    out, lse, *_ = _Attended.apply(  # type: ignore[no-untyped-call]
        setting, call.query, call.key, call.value, local.random, *rules
    )
    return out, lse


@dataclass(frozen=True)
class Packed:
    """A call without its tensors: autograd keeps those, and notices a change in place."""

    call: Any  # a Call with places where tensors were
    learned: int | None  # which of the tensors the bias is made of


@dataclass(frozen=True)
class _Place:
    index: int


def pack(call: Call) -> tuple[Packed, list[Tensor]]:
    """A call without its q, k, v and sinks, and the tensors of its rules."""
    tensors: list[Tensor] = []

    def take(x: Tensor) -> _Place:
        tensors.append(x)
        return _Place(len(tensors) - 1)

    none: Any = None
    places = _changed(replace(call, query=none, key=none, value=none, sinks=None), Tensor, take)
    mine = () if call.bias is None else call.bias.tensors()
    for x in (*call.mask.tensors(), *mine):
        if not any(x is y for y in tensors):  # a rule that keeps it in some other way
            tensors.append(x)
    learned = next((i for i, x in enumerate(tensors) if any(x is y for y in mine)), None)
    return Packed(places, learned), tensors


def unpack(packed: Packed, q: Tensor, k: Tensor, v: Tensor, tensors: Sequence[Tensor]) -> Call:
    """The call again."""
    call: Call = _changed(packed.call, _Place, lambda place: tensors[place.index])
    return replace(call, query=q, key=k, value=v)


def _changed(thing: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A copy of a call or rule in which everything of a kind is changed."""
    if isinstance(thing, kind):
        return change(thing)
    if type(thing) is tuple:
        return tuple(_changed(part, kind, change) for part in thing)
    if not isinstance(thing, Call | Mask | Bias):
        return thing
    made = copy.copy(thing)
    for name, part in vars(thing).items():
        object.__setattr__(made, name, _changed(part, kind, change))
    return made


@dataclass(frozen=True)  # torch.func would look into a tuple for tensors
class _Setting:
    """All that the passes of a call need besides tensors."""

    packed: Packed
    way: Way
    by_kernel: bool


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        setting: _Setting, q: Tensor, k: Tensor, v: Tensor, random: Tensor | None, *rules: Tensor
    ) -> tuple[Tensor, ...]:
        call, local = unpack(setting.packed, q, k, v, rules), Local(setting.by_kernel, random)
        found = setting.way.forward(call, local)
        local.settle()  # all messages have gone
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.setting, q, k, v, *rest = inputs
        ctx.save_for_backward(*(output[2:] or (q, k, v, *output)), *rest)
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, *_: None) -> Any:
        setting: _Setting = ctx.setting
        group = setting.way.ranks.group
        with together(group):  # what was changed in place on one rank is an error on all
            saved = ctx.saved_tensors
        came = {"out": grad_out, "lse": grad_lse}
        asked = {
            "asked": "the backward pass of attention",
            "gradients": f"of {' and '.join(name for name, x in came.items() if x is not None)}",
            "query": shown(saved[0]),
        }
        agree(group, asked)
        inputs = setting, grad_out, grad_lse, *saved
        dq, dk, dv, *learned = _Backward.apply(*inputs)  # type: ignore[no-untyped-call]
        rules: list[Tensor | None] = [None] * (len(saved) - 6)
        if learned:
            rules[setting.packed.learned or 0] = learned[0]
        return None, dq, dk, dv, None, *rules

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _refusal("forward-mode")


class _Backward(torch.autograd.Function):
    """The backward pass, a step of its own: only its own derivative is refused.

    create_graph=True, which torch.func always passes, does not say that one will be asked for.
    """

    @staticmethod
    def forward(
        setting: _Setting,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        random: Tensor | None,
        *rules: Tensor,
    ) -> tuple[Tensor, ...]:
        call, local = unpack(setting.packed, q, k, v, rules), Local(setting.by_kernel, random)
        found = setting.way.backward(call, local, out, lse, grad_out, grad_lse)
        local.settle()
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise _refusal("second")


def _refusal(kind: str) -> EngineError:
    return EngineError(
        f"A mesh has no {kind} derivative: what its ranks send each other is known for one pass "
        "forward and one backward.\nLeave out `mesh` and pass the whole text with "
        "engine='reference', which has all derivatives."
    )
