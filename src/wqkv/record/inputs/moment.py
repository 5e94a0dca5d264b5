"""What is kept of a moment at which an attention ran, to find what its positions are.

Nothing is found while the model runs. Kept are the modules that ran then, with their arguments: of
tensors only those that the watched model itself was given, and whole numbers; of others the shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from wqkv.maps.axis import Axes
from wqkv.upstream.of_torch import version

#: The arguments by which modules are given another text, or a picture, to look at.
OTHER_TEXTS = (
    "key_value_states",
    "encoder_hidden_states",
    "cross_attention_states",
    "kv_states",
    "memory",
    "context",
    "xa",
)


class Sized(NamedTuple):
    """Stands for a tensor that is not kept, such as hidden states."""

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Running(NamedTuple):
    """A module that ran at the moment, and what it was given, by name.

    A tensor is there if the watched model was given it, or if it holds whole numbers or bools;
    of another there is a Sized.
    """

    module: nn.Module
    name: str  # in the watched model
    given: Mapping[str, Any]  # keyword arguments of each model's own code
    versions: Sequence[tuple[Tensor, int]]

    @property
    def changed(self) -> bool:
        """Whether one of its tensors was changed in place since."""
        return any(version(x) != then for x, then in self.versions)

    def tensors(self, *, floating: bool) -> dict[str, Tensor]:
        """Its tensors by the name of the argument: those of floats, or those of whole numbers."""
        return {
            name: x.detach()
            for name, x in self.given.items()
            if isinstance(x, Tensor) and x.is_floating_point() == floating and x.dtype.itemsize > 1
        }


class Convolved(NamedTuple):
    """A convolution that ran earlier in the forward: the shapes of what it was given and made."""

    module: nn.Module
    name: str
    given: tuple[int, ...]
    made: tuple[int, ...]


class Embedded(NamedTuple):
    """Whole numbers (batch, length) that an embedding was given."""

    ids: Tensor
    convolved: int  # how many convolutions had run then
    joined: int  # how many of `Before.joined` were there then
    moved: int


class Before(NamedTuple):
    """Which operators ran earlier in the forward that look up, join or move positions."""

    embedded: Sequence[Embedded] = ()
    #: The lengths of (batch, length, d) that were put one behind the other.
    joined: Sequence[tuple[int, ...]] = ()
    #: The shapes of hidden states, or pictures, whose positions were put into another order.
    moved: Sequence[tuple[int, ...]] = ()
    remade: bool = False  # whether pictures were resized, or put together as others


class HasRuns(Protocol):
    """A layer and its runs: see `layer_runs.LayerRuns`."""

    @property
    def runs(self) -> Sequence[HasAxes]:
        """Its runs, the oldest first."""


class HasAxes(Protocol):
    """A run of a layer: see `run.Run`."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, n_head, query_len, key_len)."""

    @property
    def pieces(self) -> Sequence[RunCall]:
        """Its calls."""

    def axes(self) -> Axes:
        """What its positions are."""


class Moment(NamedTuple):
    """The moment at which an attention ran."""

    number: int  # moments are counted through the whole watch
    modules: Sequence[Running]  # from the outermost to that of the attention
    convolved: Sequence[Convolved]
    layers: Mapping[Any, HasRuns]  # all of the thread, also those that ran earlier
    processor: Any  # a tokenizer or processor of transformers, or one like it; None if not given
    before: Before = Before()

    @property
    def source(self) -> Running | None:
        """The innermost module that was given something that the watched model was given."""
        return next((one for one in reversed(self.modules) if _own_tensors(one)), None)

    def inside(self, *kinds: str) -> Running | None:
        """The innermost module that runs whose class, or a class that it extends, has a name."""
        return next((one for one in reversed(self.modules) if is_kind(one.module, *kinds)), None)

    @property
    def changed(self) -> bool:
        """Whether a tensor that was kept of it was changed in place since."""
        return any(one.changed for one in self.modules)


class RunCall(NamedTuple):
    """One call of a run: its moment, how many queries it had, and which of them go on."""

    moment: Moment
    batch: int
    query_len: int
    kept: int  # how many of its first queries are left: a cache may be cut back
    order: Tensor | None = None  # the samples that go on; None: all of them, as they were


class CallSizes(NamedTuple):
    """The sizes of a call."""

    batch: int
    query_len: int
    key_len: int
    cross: bool  # whether its keys belong to another text


def _own_tensors(one: Running) -> dict[str, Tensor]:
    return {**one.tensors(floating=True), **one.tensors(floating=False)}


def is_kind(module: nn.Module, *names: str) -> bool:
    """Whether a module is of a class of one of these names, or of a class that extends one.

    Models are known by the names of their classes, because their libraries may not be installed.
    """
    return any(kind.__name__ in names for kind in type(module).__mro__)


# `given` is keyword arguments of each model's own code.
def running(module: nn.Module, name: str, given: Mapping[str, Any], own: set[int]) -> Running:
    """What is kept of a module that runs.

    Args:
        own: the ids of the tensors that the watched model was given.
    """
    kept = {key: _kept(value, own) for key, value in given.items()}
    tensors = [x for x in kept.values() if isinstance(x, Tensor)]
    return Running(module, name, kept, [(x, version(x)) for x in tensors])


def _kept(value: object, own: set[int]) -> object:
    if isinstance(value, Tensor):
        if value.is_nested:
            return None
        whole = not value.is_floating_point() and not value.is_complex()
        # One that was computed with gradients would keep all that it was computed of.
        plain = value.grad_fn is None and (whole or id(value) in own)
        return value if plain else Sized(tuple(value.shape))
    if isinstance(value, int | float | str | None | bool):
        return value
    if isinstance(value, list | tuple):
        return tuple(_kept(one, own) for one in value)
    if isinstance(value, Mapping):  # such as the output of a tower: the shapes of its states alone
        return {key: _kept(one, set()) for key, one in value.items()}
    return None  # caches and other objects that hold states


def is_convolution(module: nn.Module) -> bool:
    """Whether it is a convolution, which may cut a picture into patches or a sound into pieces."""
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
