"""A call taken apart into tensors and plain values, and put together again.

What goes through torch's machinery must be tensors that it can see: an autograd function saves them
(so that it notices a change in place, offloads and frees them), an operator is traced with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from wqkv.attend.bias import Bias
from wqkv.attend.call import Call
from wqkv.attend.forms import find, parts
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.rules import Rules


class TensorAt(NamedTuple):
    """Stands for a tensor, by its place in the list of tensors."""

    place: int


class NumberAt(NamedTuple):
    """Stands for an int, by its place in the list of numbers."""

    place: int


#: A mask, bias or offset: [its type or the name of it, *its fields], down to plain values. One that
#: cannot be taken apart is kept as it is.
Structure: TypeAlias = (
    "bool | str | type | TensorAt | NumberAt | Mask | Bias | list[Structure] | None"
)


class Packed(NamedTuple):  # cheaper to make than a dataclass, in each call with gradients
    """What a call is besides tensors."""

    mask: Structure
    bias: Structure
    query_offset: Structure
    numbers: list[int]
    scale: float
    softcap: float | None
    dropout_p: float
    learned: int | None  # which of the tensors the bias is made of, if it has one


def pack(call: Call) -> tuple[Packed, list[Tensor | None]]:
    """The call without q, k, v and sinks, and its tensors; the first is the seed of dropout."""
    tensors: list[Tensor | None] = [call.seed]
    numbers: list[int] = []
    rules = call.rules
    mask = _pack(rules.mask, tensors, numbers)
    first = len(tensors)
    bias = _pack(rules.bias, tensors, numbers)
    learned = first if len(tensors) > first else None
    offset = _pack(call.query_offset, tensors, numbers)
    packed = Packed(
        mask, bias, offset, numbers, call.scale, rules.softcap, rules.dropout_p, learned
    )
    return packed, tensors


def unpack(
    packed: Packed, q: Tensor, k: Tensor, v: Tensor, tensors: Sequence[Tensor | None]
) -> Call:
    """The call again. Its sizes were checked when it was made, and are not checked twice."""
    mask, bias, offset = (
        _unpack(part, tensors, packed.numbers)
        for part in (packed.mask, packed.bias, packed.query_offset)
    )
    seed = tensors[0] if packed.dropout_p > 0 else None
    rules = Rules(
        mask, bias, packed.scale, packed.softcap, dropout_p=packed.dropout_p, query_offset=offset
    )
    return Call(q, k, v, rules, seed=seed)


def _pack(rule: Any, tensors: list[Tensor | None], numbers: list[int]) -> Structure:
    """Write a rule, or a field of one, with its tensors and numbers moved to the two lists.

    Numbers are moved because a tracer may hold them as symbols. The tensors of a rule that cannot
    be taken apart are added to the list too, so that autograd watches them.
    """
    if rule is None or isinstance(rule, bool):
        return rule
    if isinstance(rule, Tensor):
        tensors.append(rule)
        return TensorAt(len(tensors) - 1)
    if isinstance(rule, int):
        numbers.append(rule)
        return NumberAt(len(numbers) - 1)
    names = parts(type(rule))
    if names is not None:
        return [type(rule), *[_pack(getattr(rule, name), tensors, numbers) for name in names]]
    tensors.extend(rule.tensors())
    kept: Mask | Bias = rule
    return kept


def _unpack(
    packed: Structure, tensors: Sequence[Tensor | None], numbers: Sequence[int]
) -> Any:  # a rule, or the value of one of its fields
    if isinstance(packed, TensorAt):
        return tensors[packed.place]
    if isinstance(packed, NumberAt):
        return numbers[packed.place]
    if not isinstance(packed, list):
        return packed
    kind, *values = packed
    known: Any = find(kind) if isinstance(kind, str) else kind
    return known._of_fields([_unpack(value, tensors, numbers) for value in values])
