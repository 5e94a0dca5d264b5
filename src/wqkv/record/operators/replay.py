"""What a model did to its scores, computed again as it did it: for steps outside of the formula.

Sums are taken in float64, and rounded to the model's own dtype where that decides what is left: a
score hidden by adding -1e10 is -1e10 in float32, whatever it was.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wqkv.maps.proof import Proof
from wqkv.record.captured import Refusal
from wqkv.record.mask_pattern import HIDDEN
from wqkv.record.operators.nodes import (
    SOFTMAXES,
    Leaf,
    Node,
    all_nodes,
    mapped,
    nodes_in,
    operator_of,
    softmax_input,
)
from wqkv.record.operators.told import WrittenOut

#: Operators that change the type of numbers, or nothing.
_CASTS = frozenset(
    ("_to_copy", "to", "type_as", "clone", "contiguous", "detach", "alias", "lift_fresh")
)  # fmt: skip
#: Operators whose results are rounded to the model's own type.
_ROUNDED = frozenset(("add", "sub", "mul", "masked_fill", "where", "cat"))


class Replayed(NamedTuple):
    """The scores of the softmax, and what v made of its weights."""

    scores: Tensor  # (..., query_len, key_len), with sinks among the keys
    first: int  # place of the first key among them; sinks may stand before it
    weights: Tensor  # as they met v
    output: Tensor
    largest: float  # |score| that is not hidden


def replay(heard: WrittenOut) -> Replayed:
    """Compute an attention again.

    Raises:
        Refusal: it has several softmaxes, or an operator cannot be computed in float64.
    """
    softmaxes = [one for one in all_nodes(heard.weights) if one in one.softmaxes]
    if len(softmaxes) != 1:
        raise Refusal(f"its weights come from {len(softmaxes)} softmaxes")
    score, dim = softmax_input(softmaxes[0])
    numbers: dict[Node, Any] = {}
    try:
        weights = _value(heard.weights, numbers, score)
        v = heard.value.tensor.detach().double()
        output = weights @ v if heard.weights_first else v @ weights
    except (RuntimeError, TypeError, NotImplementedError) as error:
        line = str(error).partition("\n")[0]
        raise Refusal(f"its scores cannot be computed again: {line}") from error
    scores = numbers[score]
    seen = scores.masked_fill(~(scores > HIDDEN), 0).abs_()
    largest = float(seen.max()) if seen.numel() else 0.0
    # Sinks were joined to the keys and cut off behind the softmax.
    cuts = [one for one in all_nodes(heard.weights) if one.softmaxes and one.name == "slice"]
    first = max((one.args[2] or 0 for one in cuts if len(one.args) > 2), default=0)
    return Replayed(scores.movedim(dim, -1), first, weights, output, largest)


def compare(found: Replayed, heard: WrittenOut) -> Proof:
    """The output that was computed again, beside the model's own.

    A score is off by up to eps |score|, its weight by as much of itself, and the output by what v
    makes of that. Operators that are no rules may enlarge it, such as a norm over heads.

    Raises:
        Refusal: all numbers are NaN.
    """
    theirs = heard.output.tensor.detach().double()
    ours = found.output.reshape(theirs.shape)
    eps = torch.finfo(heard.output.tensor.dtype).eps
    tolerance = rounding(heard.output.tensor, heard.value.tensor, found.largest)
    if heard.weights.odd or len(heard.weights.products) > 1:
        size = float(theirs.abs().nan_to_num().max()) if theirs.numel() else 0.0
        tolerance = max(tolerance, 2e-4 * max(1.0, size), 4 * eps * max(1.0, size))
    both = ours.isnan() & theirs.isnan()
    if both.all():
        raise Refusal("its output has no numbers that could prove its weights")
    rows = theirs.numel() // max(1, theirs.shape[-1])
    return Proof.compare(ours[~both], theirs[~both], tolerance, rows)


def rounding(output: Tensor, value: Tensor, largest: float) -> float:
    """How far an output may be from another computation of it, if no score is above `largest`."""
    v = float(value.detach().abs().max()) if value.numel() else 0.0
    return 8 * torch.finfo(output.dtype).eps * (4 + largest) * max(v, 1e-30)


def _value(node: Node, numbers: dict[Node, Any], score: Node) -> Any:
    """What a Node gives. Of those before it only the score is kept: each is as large as the map."""
    steps = all_nodes(node)
    last = {before: one for one in steps for before in nodes_in(one.args, one.kwargs)}
    for one in steps:
        numbers[one] = _step(one, numbers)
        for before in nodes_in(one.args, one.kwargs):
            if last[before] is one and before is not score:
                numbers.pop(before, None)
    return numbers[node]


def _step(node: Node, numbers: dict[Node, Any]) -> Any:
    def given(x: Any) -> Any:
        if isinstance(x, Leaf):
            x = x.tensor.detach()
            return x.double() if x.is_floating_point() else x
        return numbers[x] if isinstance(x, Node) else x

    args, kwargs = mapped((node.args, node.kwargs), given)
    kwargs = {name: x for name, x in kwargs.items() if name not in ("dtype", "memory_format")}
    name, first = node.name, args[0]
    out: Any
    if name in _CASTS and node.dtype.is_floating_point:
        out = first
    elif name in SOFTMAXES:
        out = first.softmax(args[1])
        out = out.nan_to_num() if name == "_safe_softmax" else out
    elif name in ("native_dropout", "dropout") and not (len(args) > 2 and args[2] and args[1]):
        out = (first, None) if name == "native_dropout" else first
    elif name == "native_dropout":
        out = (first * args[3] / (1 - args[1]), None)
    elif name == "dropout":
        raise Refusal("dropout while training draws new weights every time")
    elif name in ("view", "_unsafe_view", "reshape"):
        out = first.reshape(args[1])
    elif name == "as_strided_scatter":
        out = node.func(first.contiguous(), *args[1:], **kwargs)
    else:
        if isinstance(first, Tensor) and operator_of(node.func).writes:
            args = (first.clone(), *args[1:])
        out = node.func(*args, **kwargs)
    if node.output is not None:
        out = out[node.output]
    floats = isinstance(out, Tensor) and out.is_floating_point() and node.dtype.is_floating_point
    if floats and name in _ROUNDED and node.dtype != torch.float64:
        out = out.to(node.dtype).double()
    return out
