"""A call taken apart into tensors and plain values, and put together again.

What goes through torch's machinery must be tensors that it can see: an autograd function saves them
(so that it notices a change in place, offloads and frees them), an operator is traced with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wqkv.attend.call import Call
from wqkv.attend.forms import find, parts


@dataclass(frozen=True)
class Packed:
    """What a call is besides tensors."""

    rules: list[Any]  # mask, bias, query_offset, as `_pack` makes them
    numbers: list[int]
    scale: float
    softcap: float | None
    dropout_p: float
    learned: int | None  # which of the tensors the bias is made of, if it has one


def pack(call: Call) -> tuple[Packed, list[Tensor | None]]:
    """The call without q, k, v and sinks, and its tensors; the first is the seed of dropout."""
    tensors: list[Tensor | None] = [call.seed]
    numbers: list[int] = []
    mask = _pack(call.mask, tensors, numbers)
    first = len(tensors)
    bias = _pack(call.bias, tensors, numbers)
    learned = first if len(tensors) > first else None
    rules = [mask, bias, _pack(call.query_offset, tensors, numbers)]
    return Packed(rules, numbers, call.scale, call.softcap, call.dropout_p, learned), tensors


def unpack(
    packed: Packed, q: Tensor, k: Tensor, v: Tensor, tensors: Sequence[Tensor | None]
) -> Call:
    """The call again. It was checked when it was made, and is not checked twice."""
    mask, bias, offset = (_unpack(rule, tensors, packed.numbers) for rule in packed.rules)
    seed = tensors[0] if packed.dropout_p > 0 else None
    return Call(
        q, k, v, mask, bias, packed.scale, packed.softcap, None, packed.dropout_p, offset, seed=seed
    )


def _pack(rule: Any, tensors: list[Tensor | None], numbers: list[int]) -> Any:
    """Write a rule as [type, *fields], with its tensors and numbers moved to the two lists.

    Numbers are moved because a tracer may hold them as symbols. A rule that cannot be taken apart
    is kept as it is, and its tensors are added to the list, so that autograd watches them.
    """
    if rule is None or isinstance(rule, bool):
        return rule
    if isinstance(rule, Tensor):
        tensors.append(rule)
        return {"tensor": len(tensors) - 1}
    if isinstance(rule, int):
        numbers.append(rule)
        return {"number": len(numbers) - 1}
    names = parts(type(rule))
    if names is not None:
        return [type(rule), *(_pack(getattr(rule, name), tensors, numbers) for name in names)]
    tensors.extend(rule.tensors())
    return rule


def _unpack(packed: Any, tensors: Sequence[Tensor | None], numbers: Sequence[int]) -> Any:
    if isinstance(packed, dict):
        return tensors[packed["tensor"]] if "tensor" in packed else numbers[packed["number"]]
    if not isinstance(packed, list):
        return packed
    kind, *values = packed
    known = find(kind) if isinstance(kind, str) else kind
    return known._of_fields([_unpack(value, tensors, numbers) for value in values])
