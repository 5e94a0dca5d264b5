"""The rectangles as one operator, for graphs: torch.compile, torch.export, make_fx, fake tensors.

A plan depends on lengths and masks; traced, it would be unrolled for one length. Inside an operator
it is made when the graph runs, so that lengths stay dynamic. Rules travel as text and tensors. An
eager call does not come here (see differentiable.py).
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles, reference
from wqkv.attend.engines.plan import Method, Plan, make_plan, whole
from wqkv.attend.packed import NumberAt, Packed, Structure, TensorAt, pack, unpack
from wqkv.errors import KindError


def compute(call: Call, method: Method) -> tuple[Tensor, Tensor]:
    """Call the operator: lse, and out in the dtype in which the backward pass reads it."""
    if method != "reference" and not torch.is_grad_enabled() and call.sizes[2] == 1:
        pieces = whole(call)
        # One token that sees all keys needs one kernel call, which can stand in a graph as it is.
        if call.rules.bias is None and not pieces[0].mixed:
            return rectangles.forward(call, Plan(pieces, "kernel"))
    packed, (seed, *tensors) = pack(call)
    if seed is None:  # an operator of AOTInductor is never given an empty list
        seed = torch.empty(0, dtype=torch.int64, device="cpu")
    out, lse = _attend(
        call.query,
        call.key,
        call.value,
        [seed, *(tensor for tensor in tensors if tensor is not None)],
        packed.numbers,
        _text([packed.mask, packed.bias, packed.query_offset]),
        packed.scale,
        packed.softcap,
        packed.dropout_p,
        packed.learned,
        method,
    )
    return out, lse


def _text(packed: Structure) -> str:
    """Part of a call as JSON, written here because torch.compile cannot look into json.dumps."""
    if isinstance(packed, list):
        return "[" + ", ".join([_text(part) for part in packed]) + "]"
    if isinstance(packed, TensorAt):
        return f'{{"tensor": {packed.place}}}'
    if isinstance(packed, NumberAt):
        return f'{{"number": {packed.place}}}'
    if isinstance(packed, type):
        return f'"{packed.__name__}"'
    if packed is None or isinstance(packed, bool):
        return {None: "null", True: "true", False: "false"}[packed]
    raise KindError(
        f"{type(packed).__name__} cannot be compiled.\n"
        "Name its fields in `__match_args__`, or put it together from masks and biases of wqkv."
    )


def _read(text: str) -> list[Structure]:
    """What `_text` wrote."""

    def made(written: dict[str, int]) -> TensorAt | NumberAt:  # an object of the JSON
        return TensorAt(written["tensor"]) if "tensor" in written else NumberAt(written["number"])

    found: list[Structure] = json.loads(text, object_hook=made)
    return found


class _Rest(NamedTuple):
    """The operator's arguments that are no tensors, in its order."""

    numbers: list[int]
    rules: str  # mask, bias and query_offset as JSON
    scale: float
    softcap: float | None
    dropout_p: float
    learned: int | None
    method: str

    def call(self, q: Tensor, k: Tensor, v: Tensor, tensors: list[Tensor]) -> tuple[Call, Plan]:
        """The call again, and its plan, which is made now that all numbers are there."""
        mask, bias, offset = _read(self.rules)
        packed = Packed(
            mask, bias, offset, self.numbers, self.scale, self.softcap, self.dropout_p,
            self.learned,
        )  # fmt: skip
        call = unpack(packed, q, k, v, tensors)
        return call, make_plan(call, cast("Method", self.method))


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
    method: str,
) -> tuple[Tensor, Tensor]:
    rest = _Rest(numbers, rules, scale, softcap, dropout_p, learned, method)
    out, lse = rectangles.forward(*rest.call(q, k, v, tensors))
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
    method: str,
) -> list[Tensor]:
    rest = _Rest(numbers, rules, scale, softcap, dropout_p, learned, method)
    grads = rectangles.backward(*rest.call(q, k, v, tensors), out, lse, grad_out, grad_lse)
    return [_laid_out(x) if i < 3 else x.contiguous() for i, x in enumerate(grads)]


@_attend_backward.register_fake
def _(*inputs: Any) -> list[Tensor]:
    q, k, v, tensors, *others = inputs[4:]
    rest = _Rest(*others)
    grads = [x.new_empty(x.transpose(1, 2).shape).transpose(1, 2) for x in (q, k, v)]
    if rest.learned is not None and rest.method == "reference":
        learned = tensors[rest.learned]
        grads.append(torch.empty_like(learned, memory_format=torch.contiguous_format))
    return grads


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tensors, *rest = inputs
    ctx.rest = _Rest(*rest)
    ctx.save_for_backward(*output, q, k, v, *tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
    out, lse, q, k, v, *tensors = ctx.saved_tensors
    grads = _attend_backward(grad_out, grad_lse, out, lse, q, k, v, tensors, *ctx.rest)
    by_tensor: list[Tensor | None] = [None] * len(tensors)
    if len(grads) > 3:
        by_tensor[ctx.rest.learned] = grads[3]
    # autograd takes an empty list of numbers for one of tensors, and wants a list back
    no_numbers: list[Tensor] | None = None if ctx.rest.numbers else []
    return (*grads[:3], by_tensor, no_numbers, *[None] * (len(ctx.rest) - 1))


_attend.register_autograd(_backward, setup_context=_setup)


def _laid_out(x: Tensor) -> Tensor:
    """Store x in the order (batch, length, head, d), which the fake implementations declare."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)
