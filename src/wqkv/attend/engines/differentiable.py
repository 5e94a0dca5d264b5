"""The rectangles as a function that autograd, torch.func and torch.compile know how to treat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.call import Call, seeded
from wqkv.attend.engines import operator as traced
from wqkv.attend.engines import rectangles
from wqkv.attend.engines.plan import Piece, pieces_of, whole
from wqkv.attend.packed import Packed, pack, unpack
from wqkv.attend.values import is_traced, transformed
from wqkv.errors import EngineError


def compute(call: Call, *, one: bool) -> tuple[Tensor, Tensor]:
    """out and lse of a call without its sinks: as one piece, or as planned."""
    by_kernel = not rectangles.kernel_reasons(call)
    call = seeded(call)
    if is_traced(call.query):
        if by_kernel and traced.is_step(call):
            out, lse = rectangles.forward(call, whole(call), by_kernel=True)
        else:
            out, lse = traced.compute(call, one, by_kernel)
    elif transformed():  # the plan waits until the values can be read
        out, lse = _apply(_Rectangles, call, one, by_kernel, None)
    else:
        pieces = pieces_of(call, one, by_kernel)
        if call.wants_grad() or call.wants_grad(rules=True):
            out, lse = _apply(_Recorded, call, one, by_kernel, pieces)
        else:  # autograd's books cost as much as a short call
            out, lse = rectangles.forward(call, pieces, by_kernel=by_kernel)
    return out.to(call.query.dtype), lse


def _apply(
    function: Any, call: Call, one: bool, by_kernel: bool, pieces: Sequence[Piece] | None
) -> tuple[Tensor, Tensor]:
    packed, tensors = pack(call)
    result: tuple[Tensor, Tensor] = function.apply(
        packed, one, by_kernel, pieces, call.query, call.key, call.value, *tensors
    )
    return result


class _Mapped(torch.autograd.Function):
    """A function that torch.func.vmap maps by calling it once for each sample."""

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
    """out and lse. All tensors are inputs and are saved as such; nothing else is kept for long."""

    @staticmethod
    def forward(
        packed: Packed,
        one: bool,
        by_kernel: bool,
        pieces: Sequence[Piece] | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        call = unpack(packed, q, k, v, tensors)
        pieces = pieces_of(call, one, by_kernel) if pieces is None else pieces
        return rectangles.forward(call, pieces, by_kernel=by_kernel)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *ctx.plain, q, k, v = inputs[:7]
        ctx.save_for_backward(*output, q, k, v, *inputs[7:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
        out, lse, q, k, v, *tensors = ctx.saved_tensors  # once: checkpointing gives them once
        inputs = (*ctx.plain, grad_out, grad_lse, out, lse, q, k, v, *tensors)
        if torch.is_grad_enabled() or transformed():
            grads = _Backward.apply(*inputs)  # type: ignore[no-untyped-call]
        else:
            grads = _Backward.forward(*inputs)
        rest: list[Tensor | None] = [None] * len(tensors)
        if len(grads) > 3:
            rest[ctx.plain[0].learned] = grads[3]
        return None, None, None, None, *grads[:3], *rest


class _Recorded(torch.autograd.Function):
    """The same without torch.func, in the older form, whose `apply` takes 30 us less."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _Rectangles.forward(*inputs)
        _Rectangles.setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
        return _Rectangles.backward(ctx, grad_out, grad_lse)


class _Backward(_Mapped):
    """dq, dk, dv, and by the reference the gradient of the bias; there is no second derivative.

    A function of its own, because create_graph=True (which torch.func always asks with) does not
    say that a second derivative will follow: only that one is refused, when it comes.
    """

    @staticmethod
    def forward(
        packed: Packed,
        one: bool,
        by_kernel: bool,
        pieces: Sequence[Piece] | None,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        call = unpack(packed, q, k, v, tensors)
        pieces = pieces_of(call, one, by_kernel) if pieces is None else pieces
        return tuple(
            rectangles.backward(call, pieces, out, lse, grad_out, grad_lse, by_kernel=by_kernel)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise EngineError(
            "The kernels have no second derivative, which was asked for.\n"
            "Pass engine='reference', which has all of them."
        )
