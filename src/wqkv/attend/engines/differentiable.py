"""The rectangles as a function that autograd, torch.func and torch.compile know how to treat.

An eager call is planned and computed at once, with a node of autograd where a gradient is wanted.
Only where a graph is made (values.is_traced) does the operator stand in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.call import Call, seeded
from wqkv.attend.engines import operator, rectangles
from wqkv.attend.engines.plan import Method, Plan, make_plan
from wqkv.attend.packed import Packed, pack, unpack
from wqkv.attend.values import derivative_reasons, is_traced, transformed
from wqkv.errors import EngineError


def reasons_against(call: Call) -> list[str]:
    """Why the call can be neither a node of autograd nor the operator, if so."""
    # The first half spares an eager call the import of torch.onnx.
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return ["ONNX knows no operator of ours"]
    return derivative_reasons(call.query)


def compute(call: Call, method: Method) -> tuple[Tensor, Tensor]:
    """out and lse of a call without its sinks, planned by a method."""
    call = seeded(call)
    if is_traced(call.query):
        out, lse = operator.compute(call, method)
    elif transformed():  # the plan waits until the values can be read
        out, lse = _apply(call, method, None)
    else:
        plan = make_plan(call, method)
        if call.wants_grad() or call.wants_bias_grad():
            out, lse = _apply(call, method, plan)
        else:  # a node of autograd costs as much as a short call
            out, lse = rectangles.forward(call, plan)
    return out.to(call.query.dtype), lse


@dataclass(frozen=True)  # torch.func would look into a tuple for tensors
class _Plain:
    """What the forward and backward pass of a call need besides tensors."""

    packed: Packed
    method: Method
    plan: Plan | None  # None: made in each pass, where the values can be read

    def plan_of(self, call: Call) -> Plan:
        return make_plan(call, self.method) if self.plan is None else self.plan


def _apply(call: Call, method: Method, plan: Plan | None) -> tuple[Tensor, Tensor]:
    """out and lse as a node of autograd; without a plan by the function that torch.func takes."""
    packed, tensors = pack(call)
    inputs = _Plain(packed, method, plan), call.query, call.key, call.value, *tensors
    apply: Any = _Rectangles.apply if plan is None else partial(_Recorded.apply, call)
    result: tuple[Tensor, Tensor] = apply(*inputs)
    return result


class _Mapped(torch.autograd.Function):
    """A function that torch.func.vmap maps by calling it once per sample.

    Each sample's mask and lengths are then plain numbers when its plan is made.
    """

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        found = [
            cls.apply(  # type: ignore[no-untyped-call]
                *(
                    x if dim is None else x.select(dim, i)
                    for x, dim in zip(inputs, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
        return stacked, (0,) * len(stacked)


class _Rectangles(_Mapped):
    """out and lse. All tensors are inputs and saved as such, so that autograd watches them."""

    @staticmethod
    def forward(
        plain: _Plain,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        call = unpack(plain.packed, q, k, v, tensors)
        return rectangles.forward(call, plain.plan_of(call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.plain, *tensors = inputs
        ctx.save_for_backward(*output, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
        out, lse, q, k, v, *tensors = ctx.saved_tensors  # read once: checkpointing allows it once
        inputs = (ctx.plain, grad_out, grad_lse, out, lse, q, k, v, *tensors)
        if torch.is_grad_enabled() or transformed():
            grads = _RectanglesBackward.apply(*inputs)  # type: ignore[no-untyped-call]
        else:
            grads = _RectanglesBackward.forward(*inputs)
        rest: list[Tensor | None] = [None] * len(tensors)
        if len(grads) > 3:
            rest[ctx.plain.packed.learned] = grads[3]
        return None, *grads[:3], *rest


class _Recorded(torch.autograd.Function):
    """The same function in autograd's older form, without torch.func: `apply` takes 30 us less."""

    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = rectangles.forward(call, inputs[0].plan_of(call))
        _Rectangles.setup_context(ctx, inputs, output)  # the call itself is not kept
        return output

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
        return None, *_Rectangles.backward(ctx, grad_out, grad_lse)


class _RectanglesBackward(_Mapped):
    """dq, dk, dv, and by the reference the gradient of the bias; there is no second derivative.

    It is a function of its own because create_graph=True, which torch.func always passes, does not
    mean that a second derivative follows. Only where one is computed does its backward raise.
    """

    @staticmethod
    def forward(
        plain: _Plain,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        call = unpack(plain.packed, q, k, v, tensors)
        plan = plain.plan_of(call)
        return tuple(rectangles.backward(call, plan, out, lse, grad_out, grad_lse))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise EngineError(
            "The kernels have no second derivative, which was asked for.\n"
            "Pass engine='reference', which has all of them."
        )
