"""What runs below a watched model: a mode of torch that is told of every operator of one thread.

It changes no number, because each operator runs as it would. A tensor that descends from a product
of two activations has a Node (nodes.py). Where weights meet v in a product, that is an attention,
and so is each call of a fused kernel. What is heard is read later: scores.py, whole_calls.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from wqkv.attend.heard import is_inside
from wqkv.record.faults import Faults
from wqkv.record.inputs.before import OPERATORS
from wqkv.record.mask_pattern import HIDDEN
from wqkv.record.operators.learned import Learned
from wqkv.record.operators.nodes import (
    LAYOUTS,
    PRODUCTS,
    PROJECTIONS,
    RULES,
    SHAPES,
    SOFTMAXES,
    Applied,
    Argument,
    Leaf,
    Node,
    Operator,
    hides,
    mapped,
    operator_of,
    softmax_input,
)
from wqkv.record.operators.told import FusedCall, Heard, WrittenOut
from wqkv.record.operators.trails import Moved, OutputTrail, Step, Trails
from wqkv.upstream import of_torch

#: Operators that are heard by what they are made of. In inference mode they arrive whole.
MADE_OF_OTHERS = frozenset(
    ("scaled_dot_product_attention", "_scaled_dot_product_attention_math", "einsum", "matmul",
     "bilinear", "tensordot", "inner")
)  # fmt: skip
#: Operators that copy a tensor as it is: the weights or an output may go through them.
COPIES = frozenset(("clone", "contiguous", "_to_copy", "to", "detach", "alias"))


class _Quiet(threading.local):
    """Whether this thread runs something of ours, which no watch's mode may hear as the model's."""

    depth = 0


_QUIET = _Quiet()


class Listening(of_torch.DispatchMode):  # type: ignore[misc]  # torch's own is untyped here
    """The mode, from the beginning of a forward to its end.

    Args:
        model: its parameters are weights, which make no scores.
        tell: is told of each attention as it ends.
        faults: where a fault of ours is noted, so that the model goes on.
        place: says where the model runs now.
        note: is told of each operator of `before.OPERATORS`.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        model: nn.Module,
        tell: Callable[[Heard], None],
        faults: Faults,
        place: Callable[[], object] = lambda: None,
        note: Callable[..., object] = lambda *_: None,
    ) -> None:
        super().__init__()
        self._note_before = note
        self._place = place
        self._faults = faults
        self._tell = tell
        self._weights = Learned(model)
        self._trails = Trails(self._weights)
        #: Softmaxes over scores that have not met v yet, and what to say if they never do.
        self._open: dict[Node, str] = {}
        self._places: dict[Node, object] = {}  # where each was taken
        self._told: set[Node] = set()  # softmaxes that have met v
        self._on = False
        # as of_torch.as_called takes them: with autocast as it is now, and without it
        self._keys: tuple[Any, Any] = (None, None)
        self._plain: tuple[Any, Any] = (None, None)
        self._autocast: object = None
        self._closed = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled code stays compiled, and is not heard."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would wrap what it tells of each operator, which takes time: see never_compiled."""
        return False

    def begin(self) -> None:
        """Hear what runs from here on, in this thread."""
        self._on = True
        if not self._weights:
            self._weights.learn()
        with of_torch.no_autocast():
            self._trails.keys = self._plain = of_torch.keys_on(), of_torch.keys_off()
        self._look()
        of_torch.DispatchMode.__enter__(self)

    def _look(self) -> None:
        self._autocast = of_torch.autocast_on()
        self._keys = of_torch.keys_on(), of_torch.keys_off()

    def refresh(self) -> None:
        """A module begins or ends: the model may have turned autocast on or off."""
        if self._on and self._autocast != of_torch.autocast_on():
            with self.paused():
                self._look()

    def end(self) -> None:
        """The forward ends. What was heard and met no v is told now."""
        if self._on:
            self._on = False
            of_torch.take_off(self)
        for softmax, why in self._open.items():
            self._tell(Heard(None, why, self._places.get(softmax)))
        self._open.clear()
        self._places.clear()

    def close(self) -> None:
        """Hear nothing from here on, though a forward may still run in another thread."""
        self._closed = True
        of_torch.take_off(self)

    def keep(self, x: Tensor) -> Leaf:
        """Keep a tensor as it is now: a copy is made before the model writes into it."""
        return self._trails.leaf(x)

    def forget(self) -> None:
        self._open.clear()
        self._told.clear()
        self._places.clear()
        self._trails.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context for what is not the model's own: it is not heard, and costs nothing."""
        top = self._on and of_torch.top_mode() is self
        if top:
            of_torch.DispatchMode.__exit__(self, None, None, None)
        _QUIET.depth += 1
        try:
            yield
        finally:
            _QUIET.depth -= 1
            if top:
                of_torch.DispatchMode.__enter__(self)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Hear the operators that one is made of. A mode is off while it is told of an operator."""
        mode = of_torch.DispatchMode
        mode.__enter__(self)
        try:
            yield
        finally:
            mode.__exit__(self, None, None, None)

    # As torch calls it: func and types are private, and these are keyword arguments of a foreign
    # call.
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,  # keyword arguments of a foreign call
    ) -> Any:
        kwargs = kwargs or {}
        if self._closed or _QUIET.depth or is_inside():  # our own attention is heard as a whole
            return func(*args, **kwargs)
        if of_torch.is_higher_order(func):
            return self._higher(func, args, kwargs)
        operator = operator_of(func)
        nested = any(x.is_nested for x in args if isinstance(x, Tensor))
        if operator.name in MADE_OF_OTHERS and operator.whole and not (nested or types):
            with self._inside():
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        known: list[Tensor] = []
        with self._faults:
            known = self._known(args, kwargs) if self._trails else []
        whole = _is_whole_call(operator.name)
        if nested and operator.name in SOFTMAXES:
            self._tell(Heard(None, "its softmax is of a nested tensor, which is not followed"))
        if not whole and (nested or (not known and operator.name not in _HEARD)):
            out = self._run(func, operator, args, kwargs)
        else:
            out = self._hear(func, operator, args, kwargs, known)
        if operator.name in OPERATORS and not nested:
            with self._faults:
                self._note_before(operator.name, args, out, self._weights.owns)
        return out

    # Its keyword arguments are of a foreign call.
    def _run(
        self, func: Any, operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operator, and note what it writes into."""
        with self._faults:
            for x in written(operator, args, kwargs):
                self._trails.writes(x)
        if operator.name in _AS_CALLED:
            # autocast has cast what `linear` is given, and nothing of a whole layer
            keys = self._plain if operator.name == "linear" else self._keys
            with of_torch.as_called(keys):
                out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        with self._faults:
            for x in written(operator, args, kwargs):
                self._trails.wrote(x)
            self._weights.remade(operator.name, args, out)
        return out

    # Its keyword arguments are of a foreign call.
    def _known(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The tensors among the arguments of an operator that come from scores or an output."""
        find = self._trails.find
        found = [x for x in args if isinstance(x, Tensor) and find(x) is not None]
        for x in args:
            if isinstance(x, list | tuple):
                found += [y for y in x if isinstance(y, Tensor) and find(y) is not None]
        return found + [x for x in kwargs.values() if isinstance(x, Tensor) and find(x) is not None]

    # Its keyword arguments are of a foreign call.
    def _hear(
        self,
        func: Any,
        operator: Operator,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: list[Tensor],
    ) -> Any:
        """Run an operator that matters, and note what it made."""
        trails, name = self._trails, operator.name
        applied, aliases = None, []
        with self._faults:
            if len(known) > 1 and name in RULES:
                self._free_masks(known)
            # Before it runs, because it may write into what it is given. What a whole attention is
            # given are values, whatever made them.
            keep = trails.value if _is_whole_call(name) else trails.argument
            applied = Applied(func, name, *mapped((args, kwargs), keep))
            aliases = [(x, list(trails.aliases(x))) for x in written(operator, args, kwargs)]
        out = self._run(func, operator, args, kwargs)
        with self._faults:
            if applied is not None:
                self._note(applied, args, known, out)
            for x, others in aliases:
                self._written_through(x, others)
        return out

    def _note(self, applied: Applied, args: tuple[Any, ...], known: list[Tensor], out: Any) -> None:
        """Note what an operator made."""
        trails, name = self._trails, applied.name
        if _is_whole_call(name):
            if not name.endswith("_backward"):
                self._whole(applied, out if isinstance(out, tuple) else (out,))
        elif name in PRODUCTS:
            self._product(applied, args, out)
        elif name in SOFTMAXES and not known:
            # Of no product: whether it is used as weights shows later.
            plain = tuple(None if isinstance(x, Leaf) else x for x in applied.args)
            self._put(out, Node(applied._replace(args=plain), out))
        elif any(trails.moved(x) is not None for x in known):
            self._after(name, args, known, out)
        elif name == "mul" and self._single_key(applied, args, out):
            return
        elif name in PROJECTIONS:
            self._mix(applied, args, out)
        elif name == "native_dropout" and isinstance(out, tuple) and args[2]:
            kept = trails.leaf(out[1])  # what it drew, so that replay.py drops the same weights
            self._put(out[0], Node(applied._replace(args=(*applied.args, kept)), out[0], 0))
        elif name not in SHAPES:
            self._made(applied, out)

    # Its keyword arguments are of a foreign call.
    def _higher(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator that takes functions, such as flex_attention."""
        out = func(*args, **kwargs)
        with self._faults:
            if of_torch.is_flex(func):
                given = mapped((args, kwargs), self._trails.value)
                self._whole(Applied(func, "flex_attention", *given), out)
        return out

    def _whole(self, applied: Applied, out: tuple[Any, ...]) -> None:
        """A kernel has computed a whole attention."""
        if of_torch.backward_number() < 0:
            outputs = tuple(map(self._trails.value, out))
            self._tell(Heard(FusedCall(applied, outputs)))

    # What an operator has made

    def _made(self, applied: Applied, out: Any) -> None:
        """Every float tensor that comes out is known by its Node."""
        if isinstance(out, Tensor):
            self._put(out, Node(applied, out))
            return
        for n, x in enumerate(out if isinstance(out, tuple | list) else ()):
            if isinstance(x, Tensor):
                self._put(x, Node(applied, x, n))

    def _put(self, x: Tensor, node: Node) -> None:
        if not x.is_floating_point():  # bool and integers are values from here on
            return
        if node.is_weights and not node.products:
            weights = min(one.numel for one in node.softmaxes)
            if x.numel() > weights:  # a router's weights, multiplied into something larger
                return
        if node.products and node in node.softmaxes:
            self._open[node] = "its softmax over products of q and k never met v in a product"
            self._places[node] = self._place()
        self._trails.put(x, node)

    def _written_through(self, x: Tensor, others: list[tuple[Tensor, Node]]) -> None:
        """A tensor was written: each alias is the whole one, with the written one laid into it."""
        new = self._trails.node(x)
        wholes = [(t, node) for t, node in others if _is_whole(t)]
        if new is not None and not wholes and x._base is not None:
            self._trails.put(x._base, _lost(new, x._base, _PIECES))
        if new is None or not wholes:
            return
        whole, node = wholes[0]
        place = (list(x.shape), list(x.stride()), x.storage_offset())
        into = Applied(of_torch.LAY_INTO, "as_strided_scatter", (node, new, *place), {})
        laid = Node(into, whole)
        self._trails.put(whole, laid)
        for other, _ in others:
            if other is not whole:
                place = (list(other.shape), list(other.stride()), other.storage_offset())
                cut = Applied(of_torch.LAY_OUT, "as_strided", (laid, *place), {})
                self._trails.put(other, Node(cut, other))

    def _free_masks(self, known: list[Tensor]) -> None:
        """A term of two that only shows or hides is a value, whatever it was computed from."""
        for x in known[1:]:
            node = self._trails.node(x)
            if node is None or node.is_weights or x is known[0]:
                continue
            with of_torch.no_modes():
                hidden = hides(x, HIDDEN)
            if hidden:
                self._trails.drop(x)

    def _after(self, name: str, args: tuple[Any, ...], known: list[Tensor], out: Any) -> None:
        """An operator on an output: views may show the heads, and a factor may be a sink."""
        parts = {id(x): what for x in known if (what := self._trails.moved(x)) is not None}
        what = next(iter(parts.values()))
        factor = next((node for y in known if (node := self._trails.node(y))), None)
        if factor is not None and name in ("mul", "div") and isinstance(out, Tensor):
            what.output.factor, what.output.product = factor, self._trails.leaf(out)
        elif name in LAYOUTS:
            self._move(name, args, what, out)
        elif name == "add" and isinstance(out, Tensor) and what.is_apart(out):
            self._trails.put(out, what)  # a residual in each head, before they are put together
        elif name == "cat" and what.path and len(parts) == len(args[0]) == what.path[-1].pieces:
            dim = args[1] if len(args) > 1 else 0
            joined = Moved(what.output, what.path[:-1]).by(what.path[-1].joined(dim))
            self._trails.put(out, joined)
            joined.note()

    def _move(self, name: str, args: tuple[Any, ...], what: Moved, out: Any) -> None:
        """An operator that moves numbers was given an output."""
        dim = next(iter(args[_DIM[name] : _DIM[name] + 1]), 0) if name in _DIM else 0
        whole = args[0].shape
        if not isinstance(out, Tensor):  # cut into pieces
            for x in out if name in _DIM and len({x.shape for x in out}) == 1 else ():
                self._trails.put(x, what.by(Step(name, (dim,), tuple(x.shape), len(out))))
        elif name in _DIM and out.shape != whole:  # one piece, perhaps of several
            size = out.shape[dim] if name == "slice" else 1
            pieces = whole[dim] // size if size and whole[dim] % size == 0 else 1
            self._trails.put(out, what.by(Step(name, (dim,), tuple(out.shape), pieces)))
        else:
            given = tuple(None if isinstance(x, Tensor) else x for x in args)
            if name not in COPIES and what.output.shape is None:
                what.output.shape = tuple(out.shape)
            after = what.by(Step(name, given, tuple(out.shape)))
            after.note()
            self._trails.put(out, after)

    # Products

    def _product(self, applied: Applied, args: tuple[Any, ...], out: Tensor) -> None:
        """A matrix product: of q and k, of weights and v, or one that mixes heads or channels."""
        (a, b), (left, right) = args[-2:], applied.args[-2:]
        if self._weights.among(a, b) or self._mixes_scores(a, left, b, right):
            self._mix(applied, args, out)
            return
        weights = [one for one in (left, right) if isinstance(one, Node) and one.is_weights]
        onto_scores = applied.name == "baddbmm" and isinstance(applied.args[0], Node)
        first = bool(weights) and left is weights[0]
        if len(weights) == 1 and not _by_keys(weights[0], a.shape[-1]):
            node = Node(applied, out)
            node.odd |= {"heads mixed"}
            self._say_if_open(weights[0], _NO_KEYS)
            self._put(out, node)
        elif len(weights) == 1 and not onto_scores:
            self._attention(weights[0], b if first else a, first, out)
        elif len(weights) == 2:
            node = Node(applied, out)
            node.odd |= {"a product of two maps"}
            self._put(out, node)
        elif any(isinstance(x, Node) and x.products and "exp" in x.odd for x in (left, right)):
            self._tell(Heard(None, _NO_SOFTMAX))
        else:
            leaf = self._trails.leaf
            fresh = (*applied.args[:-2], leaf(a), leaf(b))  # q and k are taken as they are
            self._put(out, Node(applied._replace(args=fresh), out))

    def _mixes_scores(self, a: Tensor, left: Argument, b: Tensor, right: Argument) -> bool:
        """Whether scores meet a buffer of the model, such as a matrix that mixes heads."""
        return any(
            isinstance(node, Node) and node.products and not node.is_weights
            and self._weights.owns(other)
            for node, other in ((left, b), (right, a))
        )  # fmt: skip

    def _single_key(self, applied: Applied, args: tuple[Any, ...], out: Tensor) -> bool:
        """Hear weights of a single key that meet v: einsum multiplies them, without a product."""
        pairs = list(zip(applied.args[:2], args[:2], strict=True))
        for (weights, P), (_, value) in (pairs, pairs[::-1]):
            if not isinstance(weights, Node) or not weights.is_weights or not weights.products:
                continue
            # A router's weights may be multiplied into a product of an expert: no attention.
            single = any(
                one.products and one.shape[softmax_input(one)[1]] == 1 for one in weights.softmaxes
            )
            order = _rows_and_channels(P, value) if isinstance(value, Tensor) else None
            if not single or order is None:
                continue
            moved = P.permute(order), value.permute(order), out.permute(order)
            node = Node(Applied(of_torch.PERMUTE, "permute", (weights, order), {}), moved[0])
            self._attention(node, moved[1], True, moved[2])
            if (what := self._trails.moved(moved[2])) is not None:
                back = [order.index(n) for n in range(out.ndim)]
                self._trails.put(out, what.by(Step("permute", (None, back), tuple(out.shape))))
            return True
        return False

    def _attention(self, weights: Node, value: Tensor, first: bool, out: Tensor) -> None:
        if weights.odd & _REDUCTIONS and weights.numel < min(x.numel for x in weights.softmaxes):
            # Such as a mean over heads that is looked at; they may meet v later.
            for softmax in weights.softmaxes & self._open.keys():
                self._open[softmax] = _REDUCED
            return
        for softmax in weights.softmaxes:
            self._open.pop(softmax, None)
        if of_torch.backward_number() >= 0 or weights.softmaxes <= self._told:
            return  # its weights have met another v before
        self._told |= weights.softmaxes
        if not weights.products:
            self._tell(
                Heard(None, "the scores of its softmax come from no product of two activations")
            )
        elif weights.lost:
            self._tell(Heard(None, weights.lost))
        else:
            shape, leaf = OutputTrail(out.shape[-1]), self._trails.leaf
            self._trails.put(out, Moved(shape))
            self._tell(Heard(WrittenOut(weights, leaf(value), first, leaf(out), shape)))

    def _say_if_open(self, weights: Node, why: str) -> None:
        """What to say of weights that never meet v."""
        for softmax in weights.softmaxes & self._open.keys():
            self._open[softmax] = why

    def _mix(self, applied: Applied, args: tuple[Any, ...], out: Any) -> None:
        """A learned weight meets a map: heads are mixed (followed), or channels (the trail ends).

        If heads are mixed, each number of the maps goes in, and the rows of the product are made of
        whole maps.
        """
        spatial = applied.name.startswith("conv") or applied.name.endswith("norm")
        for x, node in zip(args, applied.args, strict=False):
            if not isinstance(node, Node) or not node.products or x.numel() != node.numel:
                continue
            whole_maps = any(x.numel() // d % node.map_numel == 0 for d in x.shape[-2:] if d)
            if spatial or (whole_maps and node.map_numel > 1):
                several = isinstance(out, tuple)
                first = out[0] if several else out
                mixed = Node(applied, first, 0 if several else None)
                mixed.odd |= {"heads mixed by weights"}
                self._put(first, mixed)
                return


# A compiled module that runs without its code, as nn.TransformerEncoderLayer's fast path does,
# would have the compiler look at what is called in it.
of_torch.never_compiled(Listening.__torch_dispatch__)

_PIECES = "its scores were written into a larger tensor piece by piece, which is not followed"
_NO_KEYS = "its weights met something along another axis than that of their softmax"
_REDUCED = "a mean or a sum of its weights met v, and not they themselves"
_REDUCTIONS = frozenset(("mean", "sum"))
#: Operators that cut an output into pieces, and where the axis stands among their arguments.
_DIM = {"split": 2, "chunk": 2, "unbind": 1, "slice": 1, "select": 1}
#: Whole layers of torch.nn, as its fast path calls them.
_WHOLE_LAYERS = frozenset(("_transformer_encoder_layer_fwd",))
_NO_SOFTMAX = (
    "exp of its scores met v, divided by something else than its sum, or by that only afterwards"
)
#: Operators that are made of others, which go another way below autograd and autocast.
_AS_CALLED = _WHOLE_LAYERS | {"linear", "_native_multi_head_attention", "mT", "numpy_T", "mH"}
#: Operators that are heard whatever they are given: with them a trail may begin.
_HEARD = PRODUCTS | SOFTMAXES


def _is_whole_call(name: str) -> bool:
    """Whether an operator computes a whole attention."""
    return "attention" in name or name in _WHOLE_LAYERS


def _lost(node: Node, x: Tensor, why: str) -> Node:
    """A Node of a tensor that holds scores, and cannot be followed."""
    found = Node(Applied(node.func, "copy", (node,), {}), x)
    found.lost = why
    return found


# Its keyword arguments are of a foreign call.
def written(operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
    """The arguments that an operator writes into."""
    if not operator.writes:
        return ()
    places = zip(operator.writes, operator.written, strict=True)
    found = (args[n] if n < len(args) else kwargs.get(name) for n, name in places)
    return [x for x in found if isinstance(x, Tensor)]


def _by_keys(weights: Node, size: int) -> bool:
    """Whether a product sums over the keys of its weights, as far as the size of the sum tells.

    A matrix that mixes heads need not be a parameter: it may be a buffer, or computed.
    """
    if not weights.products:
        return True
    softmax = next(iter(weights.softmaxes))
    keys = softmax.shape[softmax_input(softmax)[1]]
    # Weights of another size were cut or repeated since, as where sinks are cut off: then the size
    # of the sum tells nothing, and the proof decides.
    return size == keys or weights.numel != softmax.numel


def _rows_and_channels(P: Tensor, value: Tensor) -> list[int] | None:
    """The order in which weights of a single key and v are (..., query, 1) and (..., 1, d_v)."""
    if P.ndim != value.ndim:
        return None
    axes = range(P.ndim)
    channels = [n for n in axes if P.shape[n] == 1 < value.shape[n]]
    rows = sorted((n for n in axes if value.shape[n] == 1), key=lambda n: P.shape[n])
    if len(channels) != 1 or not rows:
        return None
    last = [rows[-1], *channels]
    return [*(n for n in axes if n not in last), *last]


def _is_whole(x: Tensor) -> bool:
    """Whether a tensor holds all of its storage, in order."""
    return x.is_contiguous() and x.numel() * x.element_size() == x.untyped_storage().nbytes()
