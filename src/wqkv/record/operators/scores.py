"""What was done to a product of q and k, read as the formula of attention.

    P = softmax(cap(scale q k^T) + bias, hidden -> -inf, sinks)

`read` goes along the Nodes, from the product to the weights. Steps that the formula does not have
are Unreadable: replay.py computes them again as the model did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from wqkv.record.mask_pattern import HIDDEN
from wqkv.record.operators.layout import (
    Axis,
    Layout,
    Unreadable,
    broadcast,
    current_parts,
    moved,
    product_axes,
    reshaped,
    size_of,
)
from wqkv.record.operators.nodes import LAYOUTS, PRODUCTS, Argument, Leaf, Node, softmax_input


class Term(NamedTuple):
    """A tensor that met the scores, and where its axes are theirs."""

    tensor: Tensor
    layout: Layout
    factor: float = 1.0


@dataclass(frozen=True)
class Scores:
    """A product of q and k, and what was done to it so far."""

    left: Tensor  # (batch, n, d), whose rows are one side of the scores
    right: Tensor  # (batch, d, m), whose columns are the other
    batch: Axis  # the axes of the product, as they were there
    rows: Axis
    columns: Axis
    layout: Layout
    scale: float = 1.0
    factors: tuple[Term, ...] = ()  # that it is multiplied by, before the cap
    cap: float | None = None
    added: tuple[Term, ...] = ()
    hidden: tuple[Term, ...] = ()  # True hides
    sink: Term | None = None  # joined to the keys
    sink_first: bool = False
    keys: Axis | None = None  # over which the softmax was taken
    weights: Layout | None = None  # at the softmax
    after: tuple[str, ...] = ()  # what the weights went through that is no rule


def read(node: Node) -> Scores:
    """What a Node stands for.

    Raises:
        Unreadable: it is not in the formula.
    """
    name = node.name
    if node in node.products and name in PRODUCTS:
        return _product(node)
    if node in node.softmaxes:
        score, dim = softmax_input(node)
        return _softmax(read(score), dim)
    before = next((x for x in node.args if isinstance(x, Node)), None)
    if before is None and name == "cat":
        return _joined(node)
    if before is None:
        raise Unreadable(f"`{name}` takes its scores in a way that is not followed")
    if name == "as_strided_scatter":
        return _laid_back(node)
    if name in _STEPS:
        return _STEPS[name](node)
    if name in ("slice", "narrow"):
        return _cut(node)
    if name in LAYOUTS:
        found = read(before)
        return replace(found, layout=moved(node, found.layout))
    if (node.odd - before.odd) & {"heads mixed", "heads mixed by weights"} and "norm" not in name:
        raise Unreadable(f"`{name}` takes a matrix into its scores, as where heads are mixed")
    raise Unreadable(f"`{name}` is no rule of attention")


def _product(node: Node) -> Scores:
    left, right = (one.tensor for one in node.args[-2:])
    batch, rows, columns = product_axes(node)
    layout = (batch, rows, columns)[3 - left.ndim :]
    found = Scores(left, right, batch, rows, columns, layout)
    if node.name == "baddbmm":
        beta, alpha = (float(node.kwargs.get(name, 1)) for name in ("beta", "alpha"))
        found = replace(found, scale=alpha)
        start = node.args[0]
        if beta:
            if not isinstance(start, Leaf):
                raise Unreadable("another product was added to its scores")
            found = _add(found, start, node.shape, beta)
    return found


def _softmax(found: Scores, dim: int) -> Scores:
    if found.keys is not None:
        raise Unreadable("a softmax was taken of its weights")
    return replace(found, keys=found.layout[dim], weights=found.layout)


def _pair(node: Node) -> tuple[Node, Argument, bool]:
    """The scores, and what they met in an operator of two; whether the scores came first."""
    a, b = node.args[:2]
    if isinstance(a, Node) and isinstance(b, Node):
        raise Unreadable(f"`{node.name}` joins two products")
    return (a, b, True) if isinstance(a, Node) else (b, a, False)


def _number(x: Argument) -> float | None:
    """A number, or a tensor that holds one; else None."""
    if isinstance(x, Leaf):
        return float(x.tensor.item()) if x.tensor.numel() == 1 else None
    return float(x) if isinstance(x, int | float) else None


def _met(
    found: Scores, leaf: Leaf, shape: tuple[int, ...], factor: float = 1.0
) -> tuple[Scores, Term]:
    """The scores, spread to a shape, and a tensor that meets them there."""
    if found.sink is not None:  # one axis stands for the keys and the sink
        raise Unreadable(f"a tensor of shape {list(leaf.tensor.shape)} met its scores and sinks")
    layout = broadcast(found.layout, shape)
    tensor = leaf.tensor
    own = layout[len(layout) - tensor.ndim :] if tensor.ndim else ()
    return replace(found, layout=layout), Term(tensor, own, factor)


def _multiplied(node: Node) -> Scores:
    before, other, first = _pair(node)
    found, number = read(before), _number(other)
    divides = node.name == "div"
    if divides and not first:
        raise Unreadable("something is divided by its scores")
    if found.keys is not None:
        if number == 1:
            return found
        what = f"{number:g}" if number is not None else "a tensor, as dropout does"
        found = replace(found, layout=broadcast(found.layout, node.shape))
        said = f"the map is the softmax, which was multiplied by {what}, before it met v"
        return replace(found, after=(*found.after, said))
    if number is not None:
        return _times(found, 1 / number if divides else number)
    assert isinstance(other, Leaf)
    if found.added or found.hidden or found.cap is not None:
        raise Unreadable("a tensor multiplies its scores after a mask, a bias or a softcap")
    found, term = _met(found, other, node.shape)
    if divides:
        term = term._replace(tensor=term.tensor.reciprocal())
    return replace(found, factors=(*found.factors, term))


def _added(node: Node) -> Scores:
    a, b = node.args[:2]
    alpha = _alpha(node)
    if node.name == "sub":
        alpha = -alpha
    if isinstance(a, Node) and isinstance(b, Node):
        if b.name in ("amax", "max", "logsumexp") and b.first() is a:
            return read(a)  # a number per row, which a softmax does not see
        raise Unreadable("two products were added")
    before, other, first = _pair(node)
    found = read(before)
    if node.name == "rsub":  # b - alpha a
        first, alpha = not first, -alpha
    if not first:  # other + alpha scores
        found = _times(found, alpha) if alpha != 1 else found
        alpha = 1.0
    if found.keys is not None:
        raise Unreadable("something was added to its weights")
    number = _number(other)
    if number is not None and not (isinstance(other, Leaf) and other.tensor.ndim):
        return found  # one number for all scores, which a softmax does not see
    assert isinstance(other, Leaf)
    return _add(found, other, node.shape, alpha)


def _alpha(node: Node) -> float:
    """What the second term of a sum is multiplied by."""
    return _number(node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)) or 0.0


def _add(found: Scores, leaf: Leaf, shape: tuple[int, ...], factor: float) -> Scores:
    found, term = _met(found, leaf, shape, factor)
    return replace(found, added=(*found.added, term))


def _times(found: Scores, number: float) -> Scores:
    if found.hidden and number <= 0:
        raise Unreadable("its scores are multiplied by a negative number after the mask")
    added = tuple(one._replace(factor=one.factor * number) for one in found.added)
    if found.cap is not None:
        return replace(found, cap=found.cap * number, added=added)
    return replace(found, scale=found.scale * number, added=added)


def _negated(node: Node) -> Scores:
    return _times(read(node.args[0]), -1.0)


def _filled(node: Node) -> Scores:
    found, mask, value = read(node.args[0]), node.args[1], _number(node.args[2])
    return _hide(found, mask, value, node.shape)


def _chosen(node: Node) -> Scores:
    """where(condition, a, b): one of them is what hidden scores are replaced by."""
    condition, a, b = node.args[:3]
    if isinstance(a, Node) and isinstance(b, Node):
        raise Unreadable("`where` chooses between two products")
    if isinstance(a, Node):
        return _hide(read(a), condition, _most(b), node.shape, shown=True)
    return _hide(read(b), condition, _most(a), node.shape)


def _most(x: Argument) -> float | None:
    """The largest of what replaces scores: if that one hides, all of them do."""
    number = _number(x)
    if number is None and isinstance(x, Leaf) and x.tensor.numel():
        return float(x.tensor.max())
    return number


def _hide(
    found: Scores,
    mask: Argument,
    value: float | None,
    shape: tuple[int, ...],
    shown: bool = False,
) -> Scores:
    if found.keys is not None:
        if value == 0:  # NaN in rows that see nothing, or what is hidden already
            return found
        raise Unreadable("its weights were filled in places")
    if not isinstance(mask, Leaf) or value is None or not value <= HIDDEN:
        raise Unreadable(f"its scores are replaced by {value} in places, which hides none")
    found, term = _met(found, mask, shape)
    if shown:
        term = term._replace(tensor=~term.tensor.bool())
    return replace(found, hidden=(*found.hidden, term))


def _bounded(node: Node) -> Scores:
    """Bounds that hold for the scores anyway. Where they do not, the proof fails."""
    before = next(x for x in node.args if isinstance(x, Node))
    if len(node.shape) < len(before.shape) or node.numel < before.numel:  # max along an axis
        raise Unreadable(f"`{node.name}` leaves out a part of its scores")
    found = read(before)
    return replace(found, layout=broadcast(found.layout, node.shape))


def _tanh(node: Node) -> Scores:
    found = read(node.args[0])
    if found.added or found.hidden or found.cap is not None or found.keys is not None:
        raise Unreadable("`tanh` follows a mask, a bias or another `tanh`")
    return replace(found, cap=1.0)


def _joined(node: Node) -> Scores:
    """cat([scores, sinks]) or cat([sinks, scores]) along the keys."""
    parts, dim = node.args[0], node.args[1] if len(node.args) > 1 else 0
    scores = [one for one in parts if isinstance(one, Node)]
    if len(parts) != 2 or len(scores) != 1:
        raise Unreadable("`cat` joins more than its scores and one sink")
    found, at = read(scores[0]), dim % len(node.shape)
    other = parts[1] if parts[0] is scores[0] else parts[0]
    if found.keys is not None or not isinstance(other, Leaf) or other.tensor.shape[at] != 1:
        raise Unreadable("`cat` joins its scores and something that is no sink")
    layout = (*found.layout[:at], (), *found.layout[at + 1 :])
    sink = Term(other.tensor, layout)
    # The axis stands for the keys and the sink from here on, until the sink is cut off.
    return replace(found, sink=sink, sink_first=parts[0] is not scores[0])


def _cut(node: Node) -> Scores:
    """A slice that leaves out the sink, or nothing."""
    before = node.args[0]
    assert isinstance(before, Node)
    found = read(before)
    if node.shape == before.shape:
        return found
    dim = (node.args[1] if len(node.args) > 1 else 0) % len(node.shape)
    start = node.args[2] if len(node.args) > 2 and node.args[2] is not None else 0
    of_keys = found.keys is not None and found.layout[dim] == found.keys
    leaves_keys = node.shape[dim] == size_of(found.layout[dim])
    if of_keys and leaves_keys and found.sink is not None and (start == 1) == found.sink_first:
        return found
    raise Unreadable("a part of its scores is cut out")


def _laid_back(node: Node) -> Scores:
    """A tensor whose memory was written through a view of all of it."""
    whole, new = node.args[:2]
    if not isinstance(whole, Node) or not isinstance(new, Node) or whole.numel != new.numel:
        raise Unreadable("a part of its scores was written over")
    found = read(new)
    sizes, strides = node.args[2], node.args[3]
    order = sorted(range(len(sizes)), key=lambda n: (-strides[n], n))
    in_order = tuple(found.layout[n] for n in order)
    parts = tuple(part for axis in in_order for part in current_parts(axis))
    flat: Layout = (parts,)
    return replace(found, layout=reshaped(flat, node.shape))


def _same(node: Node) -> Scores:
    before = node.args[0]
    assert isinstance(before, Node)
    return read(before)


def _dropped(node: Node) -> Scores:
    """Dropout, which does nothing in eval."""
    found = _same(node)
    share, training = node.args[1], node.args[2] if len(node.args) > 2 else True
    if not training or not share:
        return found
    said = f"the map is the softmax, of which dropout {share:g} was taken before it met v"
    return replace(found, after=(*found.after, said))


_STEPS: dict[str, Callable[[Node], Scores]] = {
    "mul": _multiplied,
    "div": _multiplied,
    "add": _added,
    "sub": _added,
    "rsub": _added,
    "neg": _negated,
    "masked_fill": _filled,
    "where": _chosen,
    "clamp": _bounded,
    "clamp_min": _bounded,
    "clamp_max": _bounded,
    "maximum": _bounded,
    "minimum": _bounded,
    "max": _bounded,
    "nan_to_num": _bounded,
    "tanh": _tanh,
    "native_dropout": _dropped,
    "dropout": _dropped,
}
