"""How a tensor was made of a product of q and k: a Node for each operator, which holds no score.

A Node keeps what the operator was given: earlier Nodes, numbers, and other tensors by reference
(Leaf). So a chain of Nodes tells all that was done to the scores, in O(q and k) memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from wqkv.attend.values import is_traced
from wqkv.upstream import of_torch


def _split(names: str) -> frozenset[str]:
    return frozenset(names.split())


#: Operators that move numbers and change none.
LAYOUTS = _split("""
view _unsafe_view expand transpose permute t clone reshape unsqueeze squeeze alias detach
_reshape_alias contiguous slice select narrow split split_with_sizes chunk unbind unflatten
flatten _to_copy to type_as as_strided as_strided_scatter repeat swapaxes swapdims mT mH adjoint
movedim lift_fresh expand_as view_as reshape_as
""")
#: Operators that may stand between the scores and their softmax, or behind it, in the formula of
#: attention: scale, mask, bias, softcap, sinks, and what makes a softmax stable.
RULES = _split("""
mul div add sub rsub neg masked_fill where tanh clamp clamp_min clamp_max maximum minimum
nan_to_num cat max amax copy fill eq all any logical_not isneginf isinf isnan scalar_tensor
native_dropout dropout
""")
PRODUCTS = frozenset(("bmm", "baddbmm", "mm"))
SOFTMAXES = frozenset(("_softmax", "_safe_softmax", "softmax"))
LOG_SOFTMAXES = frozenset(("_log_softmax", "log_softmax"))
#: Operators whose result holds none of the numbers that they are given.
SHAPES = _split("""
zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty rand_like
bernoulli randn_like is_same_size
""")
#: Operators that mix channels by weights: what comes out of them is a new activation.
PROJECTIONS = _split("""
addmm linear native_layer_norm layer_norm convolution native_batch_norm batch_norm
_native_batch_norm_legit_no_training native_group_norm rms_norm _fused_rms_norm conv1d conv2d
embedding
""")


class Operator(NamedTuple):
    """What is known of an operator by its schema."""

    name: str  # without its namespace and overload, and without the _ of an in-place one
    writes: tuple[int, ...]  # the places of arguments that it writes into
    written: tuple[str, ...]  # their names, as of one that is called out=
    whole: bool  # made of other operators: in inference mode it arrives as it was called


@cache
def operator_of(func: Any) -> Operator:  # Any: torch's own type, which is private
    """What the schema of an operator says."""
    schema = of_torch.schema(func)
    raw = schema.name.partition("::")[2]
    found = [(n, one) for n, one in enumerate(schema.arguments)
             if one.alias_info is not None and one.alias_info.is_write]  # fmt: skip
    writes, written = tuple(n for n, _ in found), tuple(one.name for _, one in found)
    name = raw[:-1] if raw.endswith("_") and not raw.endswith("__") else raw
    return Operator(name, writes, written, of_torch.is_composite(func))


class Leaf:
    """A tensor that was no score when it was used, kept by reference.

    Args:
        learned: whether it is a parameter or buffer of the model, or was made of one.
    """

    __slots__ = ("__weakref__", "closed", "learned", "tensor", "version")

    def __init__(self, tensor: Tensor, learned: bool = False) -> None:
        self.tensor, self.learned = tensor, learned
        self.version = of_torch.version(tensor)  # `close` looks again when its forward ends
        self.closed = False  # whether that has come

    def close(self) -> None:
        """Its forward ends: whoever writes into it from here on changes what it says."""
        if not self.closed:
            self.version, self.closed = of_torch.version(self.tensor), True

    @property
    def is_stale(self) -> bool:
        """Whether it was changed in place since the end of its forward."""
        return of_torch.version(self.tensor) != self.version


def close_all(leaves: Iterable[Leaf]) -> bool:
    """Close leaves. Return whether one of them cannot tell later that it was changed in place."""
    any_inference = False
    for leaf in leaves:
        leaf.close()
        any_inference |= leaf.tensor.is_inference()
    return any_inference


Argument = Any  # of an operator: a Node, a Leaf, a number, None, or a list or tuple of these


class Applied(NamedTuple):
    """An operator, and what it was given."""

    func: Any  # torch's own type, which is private
    name: str
    args: tuple[Argument, ...]
    kwargs: dict[str, Argument]  # keyword arguments of a foreign call


class Node:
    """One operator on the way from a product of two activations to the weights."""

    __slots__ = (
        "__weakref__", "args", "dtype", "func", "kwargs", "lost", "map_numel", "name", "numel",
        "odd", "output", "products", "shape", "softmaxes",
    )  # fmt: skip

    def __init__(self, applied: Applied, out: Tensor, output: int | None = None) -> None:
        self.func, name, args, kwargs = applied
        self.name, self.args, self.kwargs = name, args, kwargs
        self.shape, self.dtype, self.numel = tuple(out.shape), out.dtype, out.numel()
        self.output = output  # which of several outputs this is
        before = nodes_in(args, kwargs)
        #: The products that it comes from.
        self.products: frozenset[Node] = union(one.products for one in before)
        #: The operators on the way that are no rule of attention.
        self.odd: frozenset[str] = union(one.odd for one in before)
        #: The softmaxes on the way; each Node that is one stands for itself.
        self.softmaxes: frozenset[Node] = union(one.softmaxes for one in before)
        #: Why what was done cannot be followed; empty if it can.
        self.lost: str = next((one.lost for one in before if one.lost), "")
        #: How many numbers one product has per batch entry.
        self.map_numel: int = max((one.map_numel for one in before), default=1)
        if name in PRODUCTS and not any(isinstance(one, Node) for one in args[-2:]):
            self.products |= {self}  # perhaps onto another, by baddbmm
            self.map_numel = max(self.map_numel, self.shape[-1] * self.shape[-2])
        elif name in SOFTMAXES or self._is_quotient() or self._is_difference():
            self.softmaxes |= {self}
            self.odd -= {"exp", "sum", "logsumexp", *LOG_SOFTMAXES}
        elif name not in LAYOUTS and name not in RULES and name not in PRODUCTS:
            self.odd |= {name}

    @property
    def is_weights(self) -> bool:
        """Whether a softmax was taken."""
        return bool(self.softmaxes)

    def first(self) -> Argument:
        """The first thing that the operator was given; None if it was given nothing by place."""
        return self.args[0] if self.args else None

    def _is_quotient(self) -> bool:
        """Whether it is exp(s) / exp(s).sum(): a softmax that is written out.

        A number may keep the sum from being 0. Whether it changed the weights, the proof shows.
        """
        if self.name != "div" or len(self.args) < 2:
            return False
        above, below = self.args[0], _bare_sum(self.args[1])
        found = isinstance(above, Node) and isinstance(below, Node)
        return found and above.name == "exp" and below.name == "sum" and below.first() is above

    def _is_difference(self) -> bool:
        """Whether it is exp(s - logsumexp(s)), or exp(log_softmax(s))."""
        inner = self.first()
        if self.name != "exp" or not isinstance(inner, Node):
            return False
        if inner.name in LOG_SOFTMAXES:
            return isinstance(inner.first(), Node)
        if inner.name != "sub":
            return False
        score, lse = inner.args[:2]
        return isinstance(lse, Node) and lse.name == "logsumexp" and lse.first() is score


#: A number up to this one that is added to a sum, or bounds it from below, keeps it from being 0.
_LEAST = 1e-4


def _bare_sum(below: Argument) -> Argument:
    """A sum without the number that keeps it from being 0."""
    if isinstance(below, Node) and below.name in ("add", "clamp", "clamp_min"):
        number = below.args[1] if len(below.args) > 1 else below.kwargs.get("min")
        if isinstance(number, float) and 0 < number <= _LEAST:
            return below.first()
    return below


# Keyword arguments of a foreign call.
def nodes_in(args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> list[Node]:
    """The Nodes among the arguments of an operator, which may stand in a list."""
    found = [one for one in args if isinstance(one, Node)]
    for one in (*args, *kwargs.values()):
        if isinstance(one, list | tuple):
            found += [inner for inner in one if isinstance(inner, Node)]
    return found + [one for one in kwargs.values() if isinstance(one, Node)]


def union(sets: Any) -> frozenset[Any]:
    return frozenset().union(*sets)


def leaves(value: Argument) -> Iterator[Argument]:
    """All Nodes, Leaves, tensors and numbers inside lists, tuples and mappings, in order."""
    if isinstance(value, tuple | list):
        for one in value:
            yield from leaves(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from leaves(one)
    else:
        yield value


def mapped(value: Argument, of: Any) -> Argument:
    """The same lists, tuples and dicts, with `of(x)` in place of each thing x inside them."""
    if isinstance(value, tuple | list):
        return type(value)(mapped(one, of) for one in value)
    if isinstance(value, dict):
        return {name: mapped(one, of) for name, one in value.items()}
    return of(value)


def softmax_input(softmax: Node) -> tuple[Node, int]:
    """The scores of a softmax, and the axis over which it was taken, counted from the end."""
    if softmax.name == "div":
        below: Any = _bare_sum(softmax.args[1])
        score, dim = softmax.args[0].args[0], below.args[1]
    elif softmax.name == "exp" and softmax.args[0].name in LOG_SOFTMAXES:
        score, dim = softmax.args[0].args[:2]
    elif softmax.name == "exp":
        score, dim = softmax.args[0].args[0], softmax.args[0].args[1].args[1]
    else:
        score, dim = softmax.args[:2]
    (dim,) = dim if isinstance(dim, list | tuple) else (dim,)
    # by its own axes, because the scores may be no Node, as those of a router
    return score, dim if dim < 0 else dim - len(softmax.shape)


def all_nodes(node: Node) -> list[Node]:
    """A Node and all before it, each once, the earlier first."""
    found: dict[Node, None] = {}
    open_ = [node]
    while open_:  # without a call for each, because a model may change its scores in a loop
        one = open_[-1]
        before = [other for other in nodes_in(one.args, one.kwargs) if other not in found]
        if before:
            open_ += before
        else:
            found[open_.pop()] = None
    return list(found)


def hides(tensor: Tensor, most: float) -> bool:
    """Whether every number is 0 or at most `most`: a mask as it is added to the scores."""
    if tensor.is_meta or is_traced(tensor):  # there are no numbers
        return False
    return bool(((tensor == 0) | (tensor <= most)).all())
