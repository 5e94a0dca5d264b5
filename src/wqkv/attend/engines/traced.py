"""The rectangles as one operator, so that torch.compile and torch.export see a call and not a plan.

A plan depends on lengths and masks; traced, it would be unrolled for one length. Inside an operator
it is made when the numbers are there, so lengths stay dynamic. Rules travel as text and tensors.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.algebra import And, Full, Not, Or, Part
from wqkv.attend.bias import ALiBi, StoredBias, T5Bias
from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles, reference
from wqkv.attend.engines.plan import Piece, plan, whole
from wqkv.attend.masks import Causal, Chunked, Dense, Lengths, Prefix, Segments, Window
from wqkv.errors import KindError

#: What a rule is made of: the names of the fields that tell it apart.
_FIELDS: dict[type, tuple[str, ...]] = {
    Full: (),
    Causal: (),
    Window: ("before", "after"),
    Chunked: ("size",),
    Lengths: ("ends",),
    Prefix: ("ends",),
    Segments: ("labels", "query_labels"),
    Dense: ("matrix",),
    And: ("a", "b"),
    Or: ("a", "b"),
    Not: ("inner",),
    Part: ("inner", "start", "key_len", "row", "query_len"),
    StoredBias: ("values",),
    ALiBi: ("slopes",),
    T5Bias: ("table", "bidirectional", "max_distance"),
}
_KINDS = {kind.__name__: kind for kind in _FIELDS}


def graph_reasons() -> list[str]:
    """Why the graph that is being traced cannot hold this operator."""
    # The first half spares an eager call the import of torch.onnx.
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return ["ONNX knows no operator of ours"]
    return []


def compute(call: Call, *, one: bool) -> tuple[Tensor, Tensor]:
    """out and lse of a call without its sinks: as one piece, or as planned."""
    by_kernel = not rectangles.kernel_reasons(call)
    if torch.compiler.is_compiling() and by_kernel and _is_step(call):
        return rectangles.compute(call, whole(call), by_kernel=True)
    if not torch.compiler.is_compiling():
        return rectangles.compute(call, _pieces(call, one, by_kernel), by_kernel=by_kernel)
    tensors: list[Tensor] = []
    numbers: list[int] = []
    mask, bias, offset = (
        _pack(rule, tensors, numbers) for rule in (call.mask, call.bias, call.query_offset)
    )
    out, lse, _ = _attend(
        call.query,
        call.key,
        call.value,
        tensors,
        numbers,
        f"[{mask}, {bias}, {offset}]",
        call.scale,
        call.softcap,
        call.dropout_p,
        one,
        by_kernel,
    )
    return out.to(call.query.dtype), lse


def _is_step(call: Call) -> bool:
    """One word that sees all keys, without gradients: a kernel call that a graph can hold."""
    if torch.is_grad_enabled() or call.sizes[2] != 1:
        return False
    return call.bias is None and not whole(call)[0].mixed


def _pieces(call: Call, one: bool, by_kernel: bool) -> list[Piece]:
    # Where the reference computes them, rectangles stay small: it holds the scores of one.
    return whole(call) if one else plan(call) if by_kernel else plan(call, wide=None)


def _pack(rule: Any, tensors: list[Tensor], numbers: list[int]) -> str:
    """A rule as JSON, its tensors and numbers put aside (the tracer may not know the numbers)."""
    if rule is None:
        return "null"
    if isinstance(rule, bool):
        return "true" if rule else "false"
    if isinstance(rule, int):
        numbers.append(rule)
        return f'{{"number": {len(numbers) - 1}}}'
    if isinstance(rule, Tensor):
        tensors.append(rule)
        return f'{{"tensor": {len(tensors) - 1}}}'
    if type(rule) not in _FIELDS:
        known = ", ".join(_KINDS)
        raise KindError(f"{type(rule).__name__} cannot be compiled.\nThese can: {known}.")
    text = '["' + type(rule).__name__ + '"'
    for field in _FIELDS[type(rule)]:
        text += ", " + _pack(getattr(rule, field), tensors, numbers)
    return text + "]"


def _unpack(packed: Any, tensors: list[Tensor], numbers: list[int]) -> Any:
    """The rule again. It was checked when it was made, and is not checked twice."""
    if isinstance(packed, dict):
        return tensors[packed["tensor"]] if "tensor" in packed else numbers[packed["number"]]
    if not isinstance(packed, list):
        return packed
    kind: Any = _KINDS[packed[0]]
    parts = [_unpack(part, tensors, numbers) for part in packed[1:]]
    if kind in (And, Or, Not, Part):
        return kind(*parts)
    rule = kind.__new__(kind)
    for name, part in zip(_FIELDS[kind], parts, strict=True):
        object.__setattr__(rule, name, part)
    return rule


def _call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: list[Tensor],
    numbers: list[int],
    rules: str,
    scale: float,
    softcap: float | None,
    dropout_p: float,
) -> Call:
    mask, bias, offset = (_unpack(packed, tensors, numbers) for packed in json.loads(rules))
    return Call(q, k, v, mask, bias, scale, softcap, None, dropout_p, offset)


@torch.library.custom_op("wqkv::attend", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
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
    one: bool,
    by_kernel: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _call(q, k, v, tensors, numbers, rules, scale, softcap, dropout_p)
    state = rectangles.random_state(call)
    out, lse = rectangles.forward(call, _pieces(call, one, by_kernel), by_kernel=by_kernel)
    state = torch.empty(0, dtype=torch.uint8, device="cpu") if state is None else state.cpu()
    return _laid_out(out), lse.contiguous(), state


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch, n_head, query_len, _ = q.shape
    size = (batch, query_len, n_head, v.shape[3])
    out = q.new_empty(size, dtype=rectangles.kept(q)).transpose(1, 2)
    count = torch.library.get_ctx().new_dynamic_size() if rest[5] > 0 else 0
    state = torch.empty(count, dtype=torch.uint8, device="cpu")
    return out, q.new_empty((batch, n_head, query_len), dtype=reference.exact(q)), state


@torch.library.custom_op("wqkv::attend_backward", mutates_args=())
def _attend_backward(
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: list[Tensor],
    numbers: list[int],
    rules: str,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    one: bool,
    by_kernel: bool,
) -> list[Tensor]:
    call = _call(q, k, v, tensors, numbers, rules, scale, softcap, dropout_p)
    grads = rectangles.backward(
        call,
        _pieces(call, one, by_kernel),
        out,
        lse,
        grad_out,
        grad_lse,
        by_kernel=by_kernel,
        random=state if dropout_p > 0 else None,
    )
    return [_laid_out(x) if i < 3 else x.contiguous() for i, x in enumerate(grads)]


@_attend_backward.register_fake
def _(*inputs: Any) -> list[Tensor]:
    q, k, v, tensors, _, rules, *rest = inputs[5:]
    grads = [x.new_empty(x.transpose(1, 2).shape).transpose(1, 2) for x in (q, k, v)]
    learned = _learned(rules)
    if learned is not None and not rest[-1]:
        grads.append(torch.empty_like(tensors[learned], memory_format=torch.contiguous_format))
    return grads


def _learned(rules: str) -> int | None:
    """Which of the tensors the bias is made of."""
    bias = json.loads(rules)[1]
    return None if bias is None else int(bias[1]["tensor"])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, tensors, *ctx.rest = inputs
    ctx.count = len(tensors)
    ctx.save_for_backward(*output, q, k, v, *tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, _: Any) -> Any:
    out, lse, state, q, k, v, *tensors = ctx.saved_tensors
    grads = _attend_backward(grad_out, grad_lse, out, lse, state, q, k, v, tensors, *ctx.rest)
    by_tensor: list[Tensor | None] = [None] * ctx.count
    learned = _learned(ctx.rest[1])
    if learned is not None and len(grads) > 3:
        by_tensor[learned] = grads[3]
    # an empty list counts as one of tensors, and its gradient is a list too
    no_numbers: list[Tensor] | None = None if ctx.rest[0] else []
    return (*grads[:3], by_tensor, no_numbers, *[None] * (len(ctx.rest) - 1))


_attend.register_autograd(_backward, setup_context=_setup)


def _laid_out(x: Tensor) -> Tensor:
    """As (batch, length, head, d) in memory, which is what the tracer was told."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)
