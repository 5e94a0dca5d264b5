"""From what was heard to q, k, v and the output, each (batch, head, length, d), and the rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wqkv.attend.masks.algebra import Full
from wqkv.record.captured import CapturedCall, MaskReading, Refusal
from wqkv.record.mask_pattern import HIDDEN, Pattern, Visible, of_tensor, rows_of
from wqkv.record.operators.layout import (
    Axis,
    Unreadable,
    axis_of,
    brought,
    settled,
    size_of,
)
from wqkv.record.operators.listening import WrittenOut
from wqkv.record.operators.scores import Scores, Term
from wqkv.record.read_mask import KnownMask, KnownMasks
from wqkv.upstream.of_torch import version

#: Under which names modules keep how many heads they have.
_HEADS = ("num_heads", "n_heads", "n_head", "heads", "num_attention_heads", "nhead", "nheads", "h")


#: The axes of a map: samples, heads, queries, keys.
Square = tuple[Axis, Axis, Axis, Axis]


class Places(NamedTuple):
    """Which axes of the scores are samples, heads, queries and keys."""

    batch: Axis
    heads: Axis
    queries: Axis
    keys: Axis
    group: Axis  # the last part of the heads, which share a key head
    queries_left: bool  # whether the queries are the left factor of the product

    @property
    def key_heads(self) -> Axis:
        shared = {id(part) for part in settled(self.group)}
        return tuple(part for part in settled(self.heads) if id(part) not in shared)


def places(scores: Scores, heard: WrittenOut, modules: Iterable[nn.Module]) -> Places:
    """Find the axes.

    Args:
        modules: those that run, the innermost first: they may say how many heads there are.

    Raises:
        Unreadable: the softmax was not taken over one side of the product.
    """
    if scores.keys is None or scores.weights is None:
        raise Unreadable("no softmax was taken of its scores")
    keys = settled(scores.keys)
    whence = {part.whence for part in keys}
    if whence not in ({"right"}, {"left"}):
        raise Unreadable("its softmax was not taken over one side of the product of q and k")
    side = whence.pop()
    other = "left" if side == "right" else "right"
    axes = [settled(axis) for axis in scores.weights]
    rest = [axis for axis in axes if axis != keys]
    of_queries = [n for n, axis in enumerate(rest) if axis and {x.whence for x in axis} == {other}]
    beside = len(axes) - (1 if axes[-2:-1] == [keys] else 2)
    if not of_queries and beside >= 0 and not axes[beside]:
        # one query has an axis of size 1, which tells nothing: it stands beside the keys
        of_queries = [beside if axes.index(keys) > beside else beside - 1]
    if len(keys) != len(_all_of(scores, side)):
        raise Unreadable("its softmax was taken over a part of the keys")
    queries = rest.pop(of_queries[-1]) if of_queries else ()
    group = tuple(part for axis in rest for part in axis if part.whence == other)
    if len(rest) == 1 and len(rest[0]) == 1 and not group:
        batch, heads = _split(rest[0], heard, modules)
    elif len(rest) == 1 and len(rest[0]) > 1 and not group:  # they were apart before
        batch, heads = rest[0][:1], rest[0][1:]
    elif group:  # heads that share k were rows of one product
        first = next(n for n, axis in enumerate(rest) if any(x.whence == other for x in axis))
        behind = [part for axis in rest[first:] for part in axis]
        start = next(n for n, part in enumerate(behind) if part.whence == other)
        before = [*rest[:first], tuple(behind[:start])] if start else rest[:first]
        batch, shared = _samples_and_key_heads(before, heard) if before else ((), ())
        heads = (*shared, *behind[start:])
    else:
        heads = rest[-1] if rest else ()
        batch = tuple(part for axis in rest[:-1] for part in axis)
    if group and heads[len(heads) - len(group) :] != group:
        group = ()
    return Places(batch, heads, queries, keys, group, other == "left")


def _all_of(scores: Scores, side: str) -> Axis:
    """All parts of one side of the product."""
    return tuple(p for axis in scores.weights or () for p in settled(axis) if p.whence == side)


def _samples_and_key_heads(axes: list[Axis], heard: WrittenOut) -> tuple[Axis, Axis]:
    """The axes before those of heads that share a key head: the last of them is the key heads."""
    *before, last = axes
    size, samples = size_of(last), heard.shape.batch or 0
    if before or len(last) != 1 or not samples or size % samples:
        return tuple(part for axis in before for part in axis), last
    return _cut(last, size // samples)  # side by side, or there is one key head


def _split(axis: Axis, heard: WrittenOut, modules: Iterable[nn.Module]) -> tuple[Axis, Axis]:
    """Samples and heads that stand side by side on one axis."""
    (part,) = axis
    return _cut(axis, head_count(part.size, heard, modules))


def head_count(size: int, heard: WrittenOut, modules: Iterable[nn.Module]) -> int:
    """How many heads an axis of samples and heads has; all of it, if nothing says so."""
    later = heard.shape.shape
    if later is not None and len(later) >= 4 and later[0] * later[1] == size:
        return later[1]
    batch = heard.shape.batch or 0
    for n, module in enumerate(modules):
        if n and size == batch:  # one head, whatever is said further out
            return 1
        for name in _HEADS:
            count = getattr(module, name, None)
            if isinstance(count, int) and count > 0 and size % count == 0:
                return count
    return size // batch if batch and size % batch == 0 else size


def _cut(axis: Axis, heads: int) -> tuple[Axis, Axis]:
    (part,) = axis
    if heads == part.size:
        return (), axis
    if heads == 1:
        return axis, ()
    first, last = part.split((part.size // heads, heads))
    return (first,), (last,)


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
    at = places(scores, heard, modules)
    square = (at.batch, at.heads, at.queries, at.keys)
    q, k = _factors(scores, at)
    for term in scores.factors:
        q, k = _multiply(q, k, term, square)
    value, output = _value_and_output(scores, heard, at)
    if scores.scale < 0 or (scores.cap or 1) < 0:
        q = -q  # a softcap and a scale are positive
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


def _factors(scores: Scores, at: Places) -> tuple[Tensor, Tensor]:
    """q and k."""
    left, right = scores.left.detach(), scores.right.detach().mT
    sides = [(left, scores.rows), (right, scores.columns)]
    (query, query_rows), (key, key_rows) = sides if at.queries_left else reversed(sides)
    d = axis_of(left.shape[-1], "channel")

    def own(x: Tensor, rows: Axis, heads: Axis, length: Axis) -> Tensor:
        layout = (scores.batch, rows, d)[3 - x.ndim :]
        return brought(x, layout, (at.batch, heads, length, d), full=True)

    return (
        own(query, query_rows, at.heads, at.queries),
        own(key, key_rows, at.key_heads, at.keys),
    )


def _multiply(q: Tensor, k: Tensor, term: Term, square: Square) -> tuple[Tensor, Tensor]:
    """Take a factor of the scores into q or k, by the one axis of them that it has."""
    x = brought(term.tensor.detach(), term.layout, square)
    if x.shape[3] == 1:
        return q * x.to(q.dtype), k
    if x.shape[2] == 1 and x.shape[1] in (1, k.shape[1]):
        return q, k * x.mT.to(k.dtype)
    raise Unreadable("its scores are multiplied by a matrix")


def _value_and_output(scores: Scores, heard: WrittenOut, at: Places) -> tuple[Tensor, Tensor]:
    """v and the output, by the axes of the weights as they met v."""
    value, output = heard.value.tensor.detach(), heard.output.tensor.detach()
    *lead, rows, columns = scores.layout
    if not heard.weights_first:
        value, output, rows, columns = value.mT, output.mT, columns, rows
    if settled(columns) != settled(at.keys):
        raise Refusal("what its weights met does not stand along the keys of its softmax")
    d = axis_of(value.shape[-1], "channel")
    v = brought(value, (*lead, columns, d), (at.batch, at.key_heads, at.keys, d), full=True)
    o = brought(output, (*lead, rows, d), (at.batch, at.heads, at.queries, d), full=True)
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
        x = ~brought(term.tensor.detach().bool(), term.layout, square)
        rows.append(of_tensor(x, n, m)[0])
        kept.append(term.tensor)
        key.append(_told_apart(term.tensor, x))
    for term in scores.added:
        x = brought(term.tensor.detach(), term.layout, square)
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
    x = brought(x, scores.sink.layout, (batch, heads, queries, ()))
    x = x.expand(-1, size_of(heads), -1, -1)
    found = x[0, :, 0, 0]
    if not torch.equal(x, found.view(1, -1, 1, 1).expand_as(x)):
        raise Unreadable("its sinks differ between samples or queries")
    return found.clone()
