"""From what was heard to q, k, v and the output, each (batch, head, length, d), and the rules."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from wqkv.attend.masks.algebra import Full
from wqkv.record.captured import CapturedCall, MaskReading, Refusal
from wqkv.record.mask_pattern import HIDDEN, Pattern, Visible, of_tensor, rows_of
from wqkv.record.operators.axes import AxisRoles, Square, axis_roles
from wqkv.record.operators.layout import (
    Axis,
    Unreadable,
    axis_of,
    current_parts,
    rearranged,
    size_of,
)
from wqkv.record.operators.scores import Scores, Term
from wqkv.record.operators.told import WrittenOut
from wqkv.record.read_mask import KnownMask, KnownMasks
from wqkv.upstream.of_torch import version


def roles(scores: Scores, heard: WrittenOut, modules: Iterable[nn.Module]) -> AxisRoles:
    """Which axes of the scores are samples, heads, queries and keys.

    Raises:
        Unreadable: no softmax was taken, or not over one side of the product.
    """
    if scores.keys is None or scores.weights is None:
        raise Unreadable("no softmax was taken of its scores")
    return axis_roles(scores.weights, scores.keys, scores.layout, heard, modules)


def assembled(
    scores: Scores, heard: WrittenOut, modules: Iterable[nn.Module], known: KnownMasks
) -> CapturedCall:
    """q, k, v, the output and the rules of an attention that was heard.

    Args:
        known: the masks that were read before, because layers share them; new ones are added.

    Raises:
        Unreadable: its rules are not those of a map.
        Refusal: what its weights met is no v.
    """
    at = roles(scores, heard, modules)
    square = at.square
    q, k = _factors(scores, at)
    for term in scores.factors:
        q, k = _multiply(q, k, term, square)
    value, output = _value_and_output(scores, heard, at)
    if (scores.scale < 0) != ((scores.cap or 1) < 0):
        q = -q  # a map's scale and softcap are positive; two minus signs cancel, as tanh is odd
    cap = None if scores.cap is None else abs(scores.cap)
    scale = abs(scores.scale) * (cap or 1)
    if scale == 0:
        raise Unreadable("its scores are multiplied by 0")
    reading, bias = _mask_and_bias(scores, square, q.shape[2], k.shape[2], known)
    return CapturedCall(
        q, k, value, output, [reading],
        cross=False, stored_keys=False, scale=scale, softcap=cap,
        sinks=_sinks(scores, square), bias=bias, causal=False, window=None,
    )  # fmt: skip


def _factors(scores: Scores, at: AxisRoles) -> tuple[Tensor, Tensor]:
    """q and k."""
    left, right = scores.left.detach(), scores.right.detach().mT
    sides = [(left, scores.rows), (right, scores.columns)]
    (query, query_rows), (key, key_rows) = sides if at.queries_left else reversed(sides)
    d = axis_of(left.shape[-1], "channel")

    def own(x: Tensor, rows: Axis, heads: Axis, length: Axis) -> Tensor:
        layout = (scores.batch, rows, d)[3 - x.ndim :]
        return rearranged(x, layout, (at.batch, heads, length, d), full=True)

    return (
        own(query, query_rows, at.heads, at.queries),
        own(key, key_rows, at.key_heads, at.keys),
    )


def _multiply(q: Tensor, k: Tensor, term: Term, square: Square) -> tuple[Tensor, Tensor]:
    """Take a factor of the scores into q or k, by the one axis of them that it has."""
    x = rearranged(term.tensor.detach(), term.layout, square)
    if x.shape[3] == 1:
        return q * x.to(q.dtype), k
    if x.shape[2] == 1 and x.shape[1] in (1, k.shape[1]):
        return q, k * x.mT.to(k.dtype)
    raise Unreadable("its scores are multiplied by a matrix")


def _value_and_output(scores: Scores, heard: WrittenOut, at: AxisRoles) -> tuple[Tensor, Tensor]:
    """v and the output, by the axes of the weights as they met v."""
    value, output = heard.value.tensor.detach(), heard.output.tensor.detach()
    *lead, rows, columns = scores.layout
    if not heard.weights_first:
        value, output, rows, columns = value.mT, output.mT, columns, rows
    if current_parts(columns) != current_parts(at.keys):
        raise Refusal("what its weights met does not stand along the keys of its softmax")
    d = axis_of(value.shape[-1], "channel")
    v = rearranged(value, (*lead, columns, d), (at.batch, at.key_heads, at.keys, d), full=True)
    o = rearranged(output, (*lead, rows, d), (at.batch, at.heads, at.queries, d), full=True)
    return v, o


def _mask_and_bias(
    scores: Scores, square: Square, n: int, m: int, known: KnownMasks
) -> tuple[MaskReading, Tensor | None]:
    """Who sees whom, and what is added to the scores beside."""
    rows: list[Visible] = []
    kept: list[object] = []
    key: list[object] = []
    bias: Tensor | None = None
    for term in scores.hidden:
        x = ~rearranged(term.tensor.detach().bool(), term.layout, square)
        rows.append(of_tensor(x, n, m)[0])
        kept.append(term.tensor)
        key.append(_told_apart(term.tensor, x))
    for term in scores.added:
        x = rearranged(term.tensor.detach(), term.layout, square)
        visible, more = of_tensor(x, n, m)
        if bool((x <= HIDDEN).any()):
            rows.append(visible)
            kept.append(term.tensor)
            key.append(_told_apart(term.tensor, x))
        if more is not None:
            more = more if term.factor == 1 else more * term.factor
            bias = more if bias is None else bias + more
    name = ("operators", *key, n, m)
    if name not in known:
        known[name] = KnownMask(kept, _reading(rows, n, m, scores.left.device))
    return known[name].reading, bias


def _told_apart(x: Tensor, brought_to: Tensor) -> object:
    return x.data_ptr(), tuple(brought_to.shape), x.stride(), x.dtype, version(x)


def _reading(rows: list[Visible], n: int, m: int, device: torch.device) -> MaskReading:
    if not rows:
        return MaskReading(rows_of(Full(), n, m, 0, device), Pattern(), all=True)

    def ask(start: int, stop: int) -> Tensor:
        found = rows[0].rows(start, stop)
        for one in rows[1:]:
            found = found & one.rows(start, stop)
        return found.expand(-1, -1, -1, m)

    return MaskReading(Visible(n, m, ask))


def _sinks(scores: Scores, square: Square) -> Tensor | None:
    """One number per head."""
    if scores.sink is None:
        return None
    batch, heads, queries, _ = square
    x = scores.sink.tensor.detach()
    x = rearranged(x, scores.sink.layout, (batch, heads, queries, ()))
    x = x.expand(-1, size_of(heads), -1, -1)
    found = x[0, :, 0, 0]
    if not torch.equal(x, found.view(1, -1, 1, 1).expand_as(x)):
        raise Unreadable("its sinks differ between samples or queries")
    return found.clone()
