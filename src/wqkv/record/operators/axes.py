"""Which axes of scores are samples, heads, queries and keys: no operator says it by itself.

The softmax tells the keys, and how the model puts its heads together again tells the heads: they
are what it lays beside the channels of the output. Only where it never does, the order of the axes
and the number of heads that a module states are all that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from wqkv.record.operators.layout import (
    Axis,
    Layout,
    Unreadable,
    axis_of,
    broadcast,
    current_parts,
    moved,
    product_axes,
    reshaped,
    size_of,
)
from wqkv.record.operators.nodes import (
    LAYOUTS,
    PRODUCTS,
    Node,
    all_nodes,
    nodes_in,
    softmax_input,
)
from wqkv.record.operators.told import WrittenOut
from wqkv.record.operators.trails import Step

#: Under which names modules keep how many heads they have.
_HEADS = ("num_heads", "n_heads", "n_head", "heads", "num_attention_heads", "nhead", "nheads", "h")

#: The axes of a map: samples, heads, queries, keys.
Square = tuple[Axis, Axis, Axis, Axis]


class AxisRoles(NamedTuple):
    """Which axes of the scores are samples, heads, queries and keys."""

    batch: Axis
    heads: Axis
    queries: Axis
    keys: Axis
    group: Axis  # the last part of the heads, which share a key head
    queries_left: bool  # whether the queries are the left factor of the product

    @property
    def square(self) -> Square:
        return self.batch, self.heads, self.queries, self.keys

    @property
    def key_heads(self) -> Axis:
        shared = {id(part) for part in current_parts(self.group)}
        return tuple(part for part in current_parts(self.heads) if id(part) not in shared)


def axis_roles(
    weights: Layout, keys: Axis, met: Layout, heard: WrittenOut, modules: Iterable[nn.Module]
) -> AxisRoles:
    """Find which axes of the scores are samples, heads, queries and keys.

    Args:
        weights: the layout of the scores at their softmax.
        keys: the axis over which it was taken.
        met: the layout of the weights as they met v.
        modules: those that run, the innermost first: they may say how many heads there are.

    Raises:
        Unreadable: the softmax was not taken over one side of the product.
    """
    joined = _joined(met, heard)  # first, because views split the parts of all axes
    keys = current_parts(keys)
    axes = [current_parts(axis) for axis in weights]
    sides = {part.whence for axis in axes for part in axis} & {"left", "right"}
    whence = {part.whence for part in keys} or {"right", "left"} - sides  # a single key has no part
    if not whence or not whence <= {"right", "left"} or (keys and len(whence) > 1):
        raise Unreadable("its softmax was not taken over one side of the product of q and k")
    side = max(whence)  # "right" comes after "left": k, if there is a single query too
    other = "left" if side == "right" else "right"
    if len(keys) != sum(part.whence == side for axis in axes for part in axis):
        raise Unreadable("its softmax was taken over a part of the keys")
    for axis in axes:  # rows that were one axis in the softmax are one in the map
        own = {id(part) for part in axis if part.whence == other}
        if not own <= {id(part) for part in joined}:
            joined = tuple(part for part in joined if id(part) not in own)
    if joined:
        return _by_heads(axes, keys, joined, other)
    return _by_order(axes, keys, other, heard, modules)


def _by_heads(axes: Sequence[Axis], keys: Axis, heads: Axis, other: str) -> AxisRoles:
    """The axes where it is known which parts of them are heads."""
    known = {id(part) for part in (*keys, *heads)}
    rest = [part for axis in axes for part in axis if id(part) not in known]
    queries = tuple(part for part in rest if part.whence == other)
    batch = tuple(part for part in rest if part.whence != other)
    group = _shared(heads, other)
    return AxisRoles(batch, heads, queries, keys, group, other == "left")


def _shared(heads: Axis, other: str) -> Axis:
    """The last heads, if they were rows of one product: they share k."""
    group = tuple(part for part in heads if part.whence == other)
    return group if heads[len(heads) - len(group) :] == group else ()


def _by_order(
    axes: Sequence[Axis], keys: Axis, other: str, heard: WrittenOut, modules: Iterable[nn.Module]
) -> AxisRoles:
    """The axes as most models order them: samples, heads, queries, keys."""
    last = len(axes) - 1
    # A single key has an axis without parts. It is one of the last two, and the other the queries.
    at = axes.index(keys) if keys else last - bool(axes[last])
    rest = [*axes[:at], *axes[at + 1 :]]
    of_queries = [n for n, axis in enumerate(rest) if axis and {x.whence for x in axis} == {other}]
    beside = last if at == last - 1 else last - 1
    if not of_queries and beside >= 0 and not axes[beside]:
        # one query has an axis of size 1, which tells nothing: it stands beside the keys
        of_queries = [beside if at > beside else beside - 1]
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
        heads = rest.pop(_of_heads(rest, modules)) if rest else ()
        batch = tuple(part for axis in rest for part in axis)
    return AxisRoles(batch, heads, queries, keys, _shared(heads, other), other == "left")


def _samples_and_key_heads(axes: list[Axis], heard: WrittenOut) -> tuple[Axis, Axis]:
    """The axes before those of heads that share a key head: the last of them is the key heads."""
    *before, last = axes
    size, samples = size_of(last), heard.trail.batch or 0
    if not before and samples and size % samples == 0:  # side by side, or there is one key head
        for n in range(len(last) + 1):
            if size_of(last[:n]) == samples:
                return last[:n], last[n:]
        if len(last) == 1:
            return _cut(last, size // samples)
    return tuple(part for axis in before for part in axis), last


def followed(weights: Node) -> tuple[Layout, Axis, Layout]:
    """The layout of the scores at their softmax, its keys, and the layout of what met v.

    The rules on the way do not matter here: most operators leave the axes where they are.

    Raises:
        Unreadable: an operator on the way moves them in a way that is not followed.
    """
    layouts: dict[Node, Layout | Unreadable] = {}
    for node in all_nodes(weights):
        try:
            layouts[node] = _layout(node, layouts)
        except Unreadable as error:
            layouts[node] = error
    (softmax,) = weights.softmaxes  # one: `replay` has refused several
    score, dim = softmax_input(softmax)
    at_softmax, met = _known(layouts[score]), _known(layouts[weights])
    return at_softmax, at_softmax[dim], met


def _known(layout: Layout | Unreadable) -> Layout:
    if isinstance(layout, Unreadable):
        raise layout
    return layout


def _layout(node: Node, layouts: Mapping[Node, Layout | Unreadable]) -> Layout:
    if node in node.products:
        return product_axes(node)[3 - len(node.shape) :]
    before = max(nodes_in(node.args, node.kwargs), key=lambda one: one.numel)
    layout = _known(layouts[before])
    if node.name == "as_strided_scatter":
        return layout
    if node.name in LAYOUTS and node.name not in ("slice", "narrow"):
        return moved(node, layout)
    if node.name in PRODUCTS and node.shape != before.shape:
        raise Unreadable(f"`{node.name}` mixes its scores")
    least = (size_of(axis) for axis in layout)
    if len(node.shape) < len(layout) or any(map(int.__lt__, node.shape[-len(layout) :], least)):
        raise Unreadable(f"`{node.name}` leaves out a part of its scores")
    return broadcast(layout, node.shape) if len(node.shape) > len(layout) else layout


# How the model puts its heads together


def _joined(met: Layout, heard: WrittenOut) -> Axis:
    """The parts that end beside the channels of the output; none if the model never does so."""
    *lead, rows, columns = met
    if not heard.weights_first:
        rows, columns = columns, rows
    length = heard.value.tensor.shape[-1 if heard.weights_first else -2]
    channels = axis_of(length, "channel")
    of_output = (rows, channels) if heard.weights_first else (channels, rows)
    several = heard.trail.batch != 1
    for path in heard.trail.paths:
        if found := _beside((*lead, *of_output), path, channels, rows, several):
            return found
    return ()


def _beside(
    layout: Layout, path: Iterable[Step], channels: Axis, rows: Axis, several: bool
) -> Axis:
    """The parts that stand on one axis with the channels after a path of views.

    Args:
        rows: what the queries are a part of; heads are not all of it.
        several: whether there is an axis of samples.
    """
    found: Axis = ()
    before: Axis = ()  # parts that were joined with all rows before
    for step in path:
        try:
            layout = _after(layout, step)
        except Unreadable:
            break
        beside, every = _neighbors(layout, channels), {id(part) for part in current_parts(rows)}
        if every and every <= {id(part) for part in beside}:
            break  # all was put into one row, as before a classifier
        samples = current_parts(layout[0])[:1] if several else ()
        tokens = samples and samples[0] in beside and samples[0] not in current_parts(before)
        if tokens and before and not found:
            # They are joined with samples, as before a projection. So the rows, which were joined
            # with heads, are channels that attend to each other.
            return current_parts(before)
        found = beside or found
        if every and any(every <= {id(part) for part in current_parts(axis)} for axis in layout):
            before = _neighbors(layout, rows) or before
    return current_parts(found)


def _neighbors(layout: Layout, axis: Axis) -> Axis:
    """The parts that stand on one axis with a part of this one."""
    own = {id(part) for part in current_parts(axis)}
    axes = [one for one in map(current_parts, layout) if any(id(part) in own for part in one)]
    return tuple(part for one in axes for part in one if id(part) not in own)


def _after(layout: Layout, step: Step) -> Layout:
    if step.pieces < 2:
        return moved(step, layout)
    if len(step.args) < 2:
        raise Unreadable("its output was cut into pieces that were not joined")
    # cut into pieces along one axis, which were joined along another
    axes, source = list(layout), step.args[0] % len(layout)
    apart = reshaped((axes[source],), (step.pieces, size_of(axes[source]) // step.pieces))
    if step.name in ("unbind", "select"):
        del axes[source]
    else:
        axes[source] = apart[1]
    target = step.args[1] % len(axes)
    axes[target] = (*apart[0], *axes[target])
    return tuple(axes)


# The number of heads that a module states


def _split(axis: Axis, heard: WrittenOut, modules: Iterable[nn.Module]) -> tuple[Axis, Axis]:
    """Samples and heads that stand side by side on one axis."""
    (part,) = axis
    return _cut(axis, head_count(part.size, heard, modules))


def _of_heads(axes: Sequence[Axis], modules: Iterable[nn.Module]) -> int:
    """Which of several axes is the heads: the last, if no module says how many there are.

    A single head leaves no trace in what the model makes of its output, and windows may stand
    between it and the queries.
    """
    sizes = [size_of(axis) for axis in axes]
    stated = (getattr(module, name, None) for module in modules for name in _HEADS)
    count = next((one for one in stated if isinstance(one, int) and one in sizes), sizes[-1])
    return max(n for n, size in enumerate(sizes) if size == count or len(sizes) < 3)


def head_count(size: int, heard: WrittenOut, modules: Iterable[nn.Module]) -> int:
    """How many heads an axis of samples and heads has; all of it, if nothing says so."""
    later = heard.trail.shape
    if later is not None and len(later) >= 4 and later[0] * later[1] == size:
        return later[1]
    batch = heard.trail.batch or 0
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
