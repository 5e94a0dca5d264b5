"""The rectangles as one operator, so that torch.compile and torch.export see a call and not a plan.

A plan depends on lengths and masks; traced, it would be unrolled for one length. Inside an operator
it is made when the numbers are there, so lengths stay dynamic. Rules travel as text and tensors.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles, reference
from wqkv.attend.engines.plan import pieces_of, whole
from wqkv.attend.packed import Packed, pack, unpack
from wqkv.attend.values import derivative_reasons
from wqkv.errors import KindError


def graph_reasons(call: Call) -> list[str]:
    """Why this operator, or its twin of autograd, cannot stand where the call is made."""
    # The first half spares an eager call the import of torch.onnx.
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return ["ONNX knows no operator of ours"]
    return derivative_reasons(call.query)


def is_step(call: Call) -> bool:
    """One token that sees all keys, without gradients: a kernel call that a graph can hold."""
    if torch.is_grad_enabled() or call.sizes[2] != 1:
        return False
    return call.bias is None and not whole(call)[0].mixed


def compute(call: Call, one: bool, by_kernel: bool) -> tuple[Tensor, Tensor]:
    """out, as it is kept for the backward pass, and lse, through the operator."""
    packed, (seed, *tensors) = pack(call)
    if seed is None:  # an operator of AOTInductor is never given an empty list
        seed = torch.empty(0, dtype=torch.int64, device="cpu")
    out, lse = _attend(
        call.query,
        call.key,
        call.value,
        [seed, *(tensor for tensor in tensors if tensor is not None)],
        packed.numbers,
        _text(packed.rules),
        packed.scale,
        packed.softcap,
        packed.dropout_p,
        packed.learned,
        one,
        by_kernel,
    )
    return out, lse


def _text(rules: Any) -> str:
    """The rules as JSON, written here because torch.compile cannot look into json.dumps."""
    if isinstance(rules, list):
        return "[" + ", ".join([_text(part) for part in rules]) + "]"
    if isinstance(rules, dict):
        return "{" + ", ".join([f'"{name}": {value}' for name, value in rules.items()]) + "}"
    if isinstance(rules, type):
        return f'"{rules.__name__}"'
    if rules is None or isinstance(rules, bool):
        return {None: "null", True: "true", False: "false"}[rules]
    raise KindError(
        f"{type(rules).__name__} cannot be compiled.\n"
        "Name its fields in `__match_args__`, or put it together from masks and biases of wqkv."
    )


def _packed(rest: list[Any]) -> Packed:
    """Of the operator's arguments from `numbers` on."""
    numbers, rules, scale, softcap, dropout_p, learned, *_ = rest
    return Packed(json.loads(rules), numbers, scale, softcap, dropout_p, learned)


@torch.library.custom_op("wqkv::attend", mutates_args=())
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: list[Tensor],
    numbers: list[int],
    rules: str,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    learned: int | None,
    one: bool,
    by_kernel: bool,
) -> tuple[Tensor, Tensor]:
    packed = _packed([numbers, rules, scale, softcap, dropout_p, learned])
    call = unpack(packed, q, k, v, tensors)
    out, lse = rectangles.forward(call, pieces_of(call, one, by_kernel), by_kernel=by_kernel)
    return _laid_out(out), lse.contiguous()


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, n_head, query_len, _ = q.shape
    size = (batch, query_len, n_head, v.shape[3])
    out = q.new_empty(size, dtype=rectangles.kept(q)).transpose(1, 2)
    return out, q.new_empty((batch, n_head, query_len), dtype=reference.exact(q))


@torch.library.custom_op("wqkv::attend_backward", mutates_args=())
def _attend_backward(
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: list[Tensor],
    numbers: list[int],
    rules: str,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    learned: int | None,
    one: bool,
    by_kernel: bool,
) -> list[Tensor]:
    packed = _packed([numbers, rules, scale, softcap, dropout_p, learned])
    call = unpack(packed, q, k, v, tensors)
    grads = rectangles.backward(
        call, pieces_of(call, one, by_kernel), out, lse, grad_out, grad_lse, by_kernel=by_kernel
    )
    return [_laid_out(x) if i < 3 else x.contiguous() for i, x in enumerate(grads)]


@_attend_backward.register_fake
def _(*inputs: Any) -> list[Tensor]:
    q, k, v, tensors, *rest = inputs[4:]
    grads = [x.new_empty(x.transpose(1, 2).shape).transpose(1, 2) for x in (q, k, v)]
    learned, by_kernel = rest[5], rest[-1]
    if learned is not None and not by_kernel:
        grads.append(torch.empty_like(tensors[learned], memory_format=torch.contiguous_format))
    return grads


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tensors, *ctx.rest = inputs
    ctx.save_for_backward(*output, q, k, v, *tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
    out, lse, q, k, v, *tensors = ctx.saved_tensors
    grads = _attend_backward(grad_out, grad_lse, out, lse, q, k, v, tensors, *ctx.rest)
    by_tensor: list[Tensor | None] = [None] * len(tensors)
    if len(grads) > 3:
        by_tensor[ctx.rest[5]] = grads[3]
    # an empty list counts as one of tensors, and its gradient is a list too
    no_numbers: list[Tensor] | None = None if ctx.rest[0] else []
    return (*grads[:3], by_tensor, no_numbers, *[None] * (len(ctx.rest) - 1))


_attend.register_autograd(_backward, setup_context=_setup)


def _laid_out(x: Tensor) -> Tensor:
    """As (batch, length, head, d) in memory, which is what the tracer was told."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)
