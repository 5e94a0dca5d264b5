"""Which tensors are known to come from scores, while a model runs, and in what state each was.

A tensor is known by its identity, as long as it lives and nobody has written into it. Nothing here
keeps a tensor alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from wqkv.record.operators.learned import Learned
from wqkv.record.operators.nodes import Argument, Leaf, Node
from wqkv.upstream import of_torch
from wqkv.upstream.of_torch import storage_number

#: Up to how many numbers of a parameter are copied, such as a scale or a table of positions.
COPIED = 2**16


class Step(NamedTuple):
    """An operator that moved an output, or a part of it, and the shape that it gave."""

    name: str
    args: tuple[Any, ...]  # torch's own: numbers and shapes, no tensor
    shape: tuple[int, ...]
    pieces: int = 1  # in which it is cut, where it returned several

    def joined(self, dim: int) -> Step:
        """The step of pieces that were joined again: `args` are both axes."""
        return self._replace(args=(*self.args, dim))


#: How many ways of moving an output are followed, and how far: its heads show in the first steps.
PATHS = 16


class OutputTrail:
    """What attention has returned, as long as it is only moved.

    Args:
        channels: the size of its last axis.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.paths: list[tuple[Step, ...]] = []  # what was made of it by views
        self.shape: tuple[int, ...] | None = None  # of what was made of it first: its heads show
        self.factor: Node | None = None  # made of its own scores, with which it was multiplied
        self.product: Leaf | None = None  # the output times that factor
        self.batch: int | None = None  # samples of the forward, as far as it is known


class Moved(NamedTuple):
    """Stands for an output, or what views have made of it."""

    output: OutputTrail
    path: tuple[Step, ...] = ()

    def by(self, step: Step) -> Moved:
        """What another step has made of it."""
        return Moved(self.output, (*self.path, step)[:PATHS])

    def is_apart(self, x: Tensor) -> bool:
        """Whether heads still have axes of their own in what was made of it."""
        return x.ndim > 0 and x.shape[-1] == self.output.channels

    def note(self) -> None:
        """Keep how it was moved."""
        paths = self.output.paths
        if paths and paths[-1] == self.path[:-1]:
            paths[-1] = self.path
        elif len(paths) < PATHS:
            paths.append(self.path)


class _Entry(NamedTuple):
    tensor: weakref.ref[Tensor]
    what: Node | Moved
    state: int  # `Trails.state` when it was put in: another one tells of a write since then


class Trails:
    """What each living tensor was made by."""

    def __init__(self, learned: Learned) -> None:
        self._learned = learned
        self._known: dict[int, _Entry] = {}
        self.keys: tuple[Any, Any] = (None, None)  # as of_torch.as_called takes them
        # What is kept of the memory of each storage; a copy is made before anybody writes into it.
        self._kept: dict[int, list[weakref.ref[Leaf]]] = {}
        # Writes into each storage. A tensor's own count is late: it rises when an operator has
        # ended for autograd too, and that of an inference tensor never does.
        self._writes: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def state(self, x: Tensor) -> int:
        """How often the memory of a tensor was written into since the forward began."""
        return self._writes.get(storage_number(x), 0) if self._writes else 0

    def writes(self, x: Tensor) -> None:
        """An operator is about to write into a tensor."""
        if not self._kept:
            return
        for reference in self._kept.pop(storage_number(x), ()):
            if (leaf := reference()) is not None:
                with of_torch.no_modes():
                    leaf.tensor = leaf.tensor.clone()

    def wrote(self, x: Tensor) -> None:
        """An operator has written into a tensor."""
        number = storage_number(x)
        self._writes[number] = self._writes.get(number, 0) + 1

    def put(self, x: Tensor, what: Node | Moved) -> None:
        key, known = id(x), self._known

        def gone(reference: weakref.ref[Tensor]) -> None:
            if (entry := known.get(key)) is not None and entry.tensor is reference:
                del known[key]

        known[key] = _Entry(weakref.ref(x, gone), what, self.state(x))

    def find(self, x: object) -> _Entry | None:
        entry = self._known.get(id(x))
        return entry if entry is not None and entry.tensor() is x else None

    def node(self, x: object) -> Node | None:
        """The Node of a tensor; marked as lost if somebody wrote into the tensor since then."""
        entry = self.find(x)
        if entry is None or not isinstance(entry.what, Node):
            return None
        assert isinstance(x, Tensor)
        if entry.state != self.state(x):
            entry.what.lost = "its scores were changed in place through another tensor"
        return entry.what

    def moved(self, x: Tensor) -> Moved | None:
        """How an output was moved; None for a tensor that comes from no output."""
        entry = self.find(x)
        return entry.what if entry is not None and isinstance(entry.what, Moved) else None

    def drop(self, x: Tensor) -> None:
        if self.find(x) is not None:
            del self._known[id(x)]

    def leaf(self, x: Tensor) -> Leaf:
        learned = isinstance(x, nn.Parameter) or self._learned.owns(x)
        if x.requires_grad:
            small = x.is_leaf and x.numel() <= COPIED  # a step of an optimizer would change it
            # Without its graph, which would be kept alive, but with the count of its changes, which
            # a mode would not share.
            with of_torch.as_called(self.keys):
                x = x.detach().clone() if small else x.detach()
        leaf = Leaf(x, learned)
        self._kept.setdefault(storage_number(x), []).append(weakref.ref(leaf))
        return leaf

    def argument(self, x: object) -> Argument:
        """What a Node keeps of something that an operator is given."""
        return (isinstance(x, Tensor) and self.node(x)) or self.value(x)

    def value(self, x: object) -> Argument:
        """The tensor itself in a Leaf, whatever it comes from; anything else as it is."""
        return self.leaf(x) if isinstance(x, Tensor) else x

    def aliases(self, x: Tensor) -> Iterator[tuple[Tensor, Node]]:
        """The other living tensors that share memory with one and are as they were."""
        number = storage_number(x)
        for entry in tuple(self._known.values()):
            other = entry.tensor()
            if other is None or other is x or not isinstance(entry.what, Node):
                continue
            if storage_number(other) == number and entry.state == self.state(other):
                yield other, entry.what

    def clear(self) -> None:
        for what in (self._known, self._kept, self._writes):
            what.clear()
