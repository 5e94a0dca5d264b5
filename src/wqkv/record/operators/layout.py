"""Where the axes of scores went: views split and join them, permutations move them.

An axis is a tuple of parts; its size is the product of theirs. Each part began as an axis of the
product of q and k. So any tensor that met the scores on the way, and q, k, v and the output
themselves, can be brought to (batch, head, query, key) without moving a score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from wqkv.record.operators.nodes import Node
from wqkv.record.operators.trails import Step


class Unreadable(Exception):
    """Raised for steps that the formula of attention does not have; its message says which."""


class AxisPart:
    """An axis of a product of q and k, or a part of one, once a view has split it."""

    __slots__ = ("size", "whence", "within")

    def __init__(self, size: int, whence: str) -> None:
        self.size = size
        self.whence = whence  # "batch", "left", "right", "repeated", "channel" or "sink"
        self.within: tuple[AxisPart, ...] = ()  # what it was split into

    def split(self, sizes: Sequence[int]) -> tuple[AxisPart, ...]:
        self.within = tuple(AxisPart(size, self.whence) for size in sizes)
        return self.within

    def __repr__(self) -> str:
        return f"{self.whence}:{self.size}"


Axis = tuple[AxisPart, ...]
Layout = tuple[Axis, ...]


def current_parts(axis: Axis) -> Axis:
    """An axis by the parts that views have split it into since then."""
    found: list[AxisPart] = []
    for part in axis:
        found += current_parts(part.within) if part.within else [part]
    return tuple(found)


def size_of(axis: Axis) -> int:
    """The size of an axis: the product of its parts' sizes, 1 if it has none."""
    return math.prod(part.size for part in axis)


def axis_of(size: int, whence: str) -> Axis:
    """A new axis. One of size 1 has no parts, because a view can put it anywhere."""
    return (AxisPart(size, whence),) if size != 1 else ()


def product_axes(node: Node) -> tuple[Axis, Axis, Axis]:
    """The axes of a product of q and k: samples and heads, its rows, its columns."""
    shape = node.shape
    batch = axis_of(shape[0], "batch") if len(shape) == 3 else ()
    return batch, axis_of(shape[-2], "left"), axis_of(shape[-1], "right")


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout:
    """The axes after a view to another shape."""
    parts = [part for axis in layout for part in current_parts(axis)]
    found: list[Axis] = []
    for size in shape:
        axis: list[AxisPart] = []
        left = size  # factor that the next parts must give; a part that is too large is split
        while left > 1:
            if not parts:
                raise Unreadable("a view of its scores has more numbers than they have")
            part = parts.pop(0)
            if left % part.size == 0:
                axis.append(part)
                left //= part.size
            elif part.size % left == 0:
                first, rest = part.split((left, part.size // left))
                axis.append(first)
                parts.insert(0, rest)
                left = 1
            else:
                raise Unreadable(f"a view cuts an axis of {part.size} of its scores into {left}")
        found.append(tuple(axis))
    if parts:
        raise Unreadable("a view of its scores has fewer numbers than they have")
    return tuple(found)


def broadcast(layout: Layout, shape: Sequence[int]) -> Layout:
    """The axes after the scores are repeated along new axes, or along those of size 1."""
    layout = ((),) * (len(shape) - len(layout)) + tuple(layout)
    return tuple(
        axis_of(size, "repeated") if size_of(axis) == 1 and size != 1 else axis
        for axis, size in zip(layout, shape, strict=True)
    )


def moved(node: Node | Step, layout: Layout) -> Layout:
    """The axes after an operator that moves numbers and changes none."""
    name, args, shape = node.name, node.args, node.shape
    n = len(layout)
    if name in ("mT", "mH", "adjoint"):  # as they arrive in inference mode
        return (*layout[:-2], layout[-1], layout[-2])
    if name in ("transpose", "swapaxes", "swapdims"):
        order = list(range(n))
        a, b = args[1] % n, args[2] % n
        order[a], order[b] = b, a
        return tuple(layout[axis] for axis in order)
    if name == "t":
        return tuple(reversed(layout))
    if name == "permute":
        return tuple(layout[axis % n] for axis in args[1])
    if name in ("expand", "expand_as"):
        return broadcast(layout, shape)
    if name in ("slice", "narrow") and list(shape) == [size_of(axis) for axis in layout]:
        return layout  # all of it
    if name in ("slice", "narrow", "select"):
        raise Unreadable("a part of its scores is cut out")
    if name in _OTHER_ORDERS:
        raise Unreadable(f"`{name}` moves its scores in a way that is not followed")
    return reshaped(layout, shape)  # a view, an unsqueeze, a copy


_OTHER_ORDERS = frozenset(
    ("as_strided", "repeat", "split", "split_with_sizes", "chunk", "unbind", "movedim")
)  # fmt: skip


def rearranged(x: Tensor, layout: Layout, axes: Sequence[Axis], full: bool = False) -> Tensor:
    """Bring a tensor with one layout to other axes; an axis that it does not have has size 1.

    Args:
        layout: for each axis of x; an axis of x with size 1 may stand for a longer one.
        axes: the axes of the result.
        full: whether to repeat it along what it does not have.
    """
    have = [part for axis, size in zip(layout, x.shape, strict=True) if size > 1
            for part in current_parts(axis)]  # fmt: skip
    x = x.reshape([part.size for part in have])
    where = {id(part): n for n, part in enumerate(have)}
    order: list[int] = []  # which parts of x come first
    sizes: list[int] = []  # of the result's parts, 1 for those that x does not have
    spread: list[int] = []  # of the result's parts, if x were repeated along all of them
    for axis in axes:
        for part in current_parts(axis):
            if id(part) in where:
                order.append(where[id(part)])
                sizes.append(part.size)
            else:
                sizes.append(1)
            spread.append(part.size)
    if len(order) != len(have):
        raise Unreadable("a tensor that met its scores has an axis that they do not keep")
    x = x.permute(order).reshape(sizes)
    shape = []
    place = 0
    for axis in axes:
        count = len(current_parts(axis))
        own = sizes[place : place + count]
        # An axis that it has in part is repeated, because a result cannot have it in part.
        partly = math.prod(own) > 1
        if full or partly:
            sizes[place : place + count] = spread[place : place + count]
        shape.append(math.prod(sizes[place : place + count]))
        place += count
    return x.expand(sizes).reshape(shape)
