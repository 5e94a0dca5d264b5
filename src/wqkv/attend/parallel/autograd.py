"""Attention over ranks as one function of autograd, whether keys or heads travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from wqkv.attend.call import Call, seeded
from wqkv.attend.engines.plan import Method
from wqkv.attend.packed import Packed, pack, unpack
from wqkv.attend.parallel.agreement import agree, shown, together
from wqkv.attend.parallel.local import Local
from wqkv.attend.parallel.ranks import Ranks
from wqkv.errors import EngineError


class Way(Protocol):
    """One of the two ways, KeysTravel or HeadsTravel. Both of its passes send and receive."""

    ranks: Ranks

    def forward(self, call: Call, local: Local) -> list[Tensor]:
        """out and lse of this rank's rows.

        If the backward pass reads other q, k, v, out and lse than the call's, these follow in
        the list.
        """

    def backward(
        self,
        call: Call,
        local: Local,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
    ) -> list[Tensor]:
        """dq, dk, dv of this rank's rows, and the gradient of a learned bias if there is one."""


def attended(call: Call, way: Way) -> tuple[Tensor, Tensor]:
    """Return out and lse of this rank's rows, without the sinks, as a function of autograd."""
    local = Local.of(call)
    packed, tensors = pack(seeded(call))
    setting = _Setting(packed, way, local.method)
    out, lse, *_ = _RanksAttention.apply(  # type: ignore[no-untyped-call]
        setting, call.query, call.key, call.value, *tensors
    )
    return out, lse


@dataclass(frozen=True)  # no tuple, because torch.func would look into one for tensors
class _Setting:
    """What both passes of a call need besides tensors."""

    packed: Packed
    way: Way
    method: Method


class _RanksAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        setting: _Setting, q: Tensor, k: Tensor, v: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        call, local = unpack(setting.packed, q, k, v, tensors), Local(setting.method)
        found = setting.way.forward(call, local)
        local.raise_held_error()  # all messages have gone
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.setting, q, k, v, *rest = inputs
        # output[2:] are q, k, v, out and lse of this rank's heads, where heads travel
        ctx.save_for_backward(*(output[2:] or (q, k, v, *output)), *rest)
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, *_: None) -> Any:
        setting: _Setting = ctx.setting
        group = setting.way.ranks.group
        with together(group):  # a tensor that one rank has changed in place is an error on all
            saved = ctx.saved_tensors
        came = {"out": grad_out, "lse": grad_lse}
        asked = {
            "asked": "the backward pass of attention",
            "gradients": f"of {' and '.join(name for name, x in came.items() if x is not None)}",
            "query": shown(saved[0]),
        }
        agree(group, asked)
        inputs = setting, grad_out, grad_lse, *saved
        dq, dk, dv, *learned = _RanksBackward.apply(*inputs)  # type: ignore[no-untyped-call]
        rest: list[Tensor | None] = [None] * (len(saved) - 5)
        if learned:
            rest[setting.packed.learned or 0] = learned[0]
        return None, dq, dk, dv, *rest

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _refusal("forward-mode")


class _RanksBackward(torch.autograd.Function):
    """The backward pass as a function of its own, so that only its own derivative is refused.

    `backward` cannot refuse by create_graph=True, because torch.func always passes it.
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
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        call, local = unpack(setting.packed, q, k, v, tensors), Local(setting.method)
        found = setting.way.backward(call, local, out, lse, grad_out, grad_lse)
        local.raise_held_error()
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
