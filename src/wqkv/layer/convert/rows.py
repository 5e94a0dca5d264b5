"""What a row of the table of families says, and one attention layer of a model as it sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.plain import unread


class Packed(NamedTuple):
    """Matrices that share one module: in each of `blocks` equal stretches, one after the other.

    `blocks` is a number, or the name of one that our layer has, such as "n_head".
    """

    names: tuple[str, ...]
    blocks: int | str = 1

    def cut(self, packed: Tensor, layer: MultiheadAttention) -> dict[str, Tensor]:
        """Copies of the rows that belong to each matrix."""
        blocks: int = self.blocks if isinstance(self.blocks, int) else getattr(layer, self.blocks)
        weights: list[Any] = [layer.get_submodule(name).weight for name in self.names]
        parts = packed.unflatten(0, (blocks, -1)).split([len(w) // blocks for w in weights], dim=1)
        copies = [part.flatten(0, 1).clone() for part in parts]
        return dict(zip(self.names, copies, strict=True))


@dataclass(frozen=True)
class Spot:
    """One attention layer of a model; `tensor` gives a parameter of the model by its name."""

    base: nn.Module
    row: Row
    layer: int
    at: str
    tensor: Callable[[str], Tensor]

    @property
    def config(self) -> Any:
        return self.base.config

    @property
    def kind(self) -> str | None:
        """What the configuration calls this kind of layer, such as "sliding_attention"."""
        kinds = getattr(self.config, "layer_types", None)
        return kinds[self.layer] if kinds else None

    @cached_property
    def module(self) -> nn.Module:
        """The attention module."""
        return self.base.get_submodule(self.at)

    @cached_property
    def home(self) -> nn.Module:
        """The module that WQ stands in: where the scale is stated."""
        return self.module.get_submodule(self.path("WQ").rpartition(".")[0])

    def get(self, path: str) -> Any:
        """A module, parameter or number in the attention module; None if it is not there."""
        found: Any = self.base
        for name in f"{self.at}.{path}".split("."):
            found = getattr(found, name, None)
        return found

    def take(self, path: str) -> Tensor:
        """A parameter of the attention module."""
        return self.tensor(f"{self.at}.{path}")

    def holds(self, name: str) -> str | None:
        """The path of the module that holds one of our matrices, or the first part of it."""
        for path, held in self.row.holds.items():
            if {name, f"{name}.0"} & set(_names(held)) and self.get(path) is not None:
                return path
        return None

    def path(self, name: str) -> str:
        """The same, of a matrix that is there."""
        path = self.holds(name)
        assert path is not None, name
        return path

    def size(self, name: str) -> tuple[int, int]:
        """(in, out) of the module that holds one of our matrices."""
        module = self.get(self.path(name))
        if hasattr(module, "out_features"):  # also where a quantizer packed the weight
            return module.in_features, module.out_features
        if not hasattr(module, "weight"):
            raise _more(f"{self.at}.{self.path(name)}", module)
        out, into = module.weight.shape
        return (out, into) if self.row.transposed else (into, out)


def _names(held: str | Packed) -> tuple[str, ...]:
    return held.names if isinstance(held, Packed) else (held,)


def grouped(spot: Spot) -> dict[str, Any]:
    """The sizes that the shapes of the matrices tell, given the number of heads."""
    n_head: int = getattr(spot.config, spot.row.n_head)
    (d_model, q_out), (kdim, k_out), (joined, _) = map(spot.size, ("WQ", "WK", "WO"))
    d_k = d_v = joined // n_head
    if isinstance(spot.row.holds[spot.path("WQ")], str):
        d_k = q_out // n_head
    if spot.path("WK") == spot.path("WQ"):
        k_out = (q_out - n_head * d_k) // 2
    sizes = {
        "n_head": n_head,
        "n_kv_head": k_out // d_k,
        "d_model": d_model,
        "d_k": d_k,
        "d_v": d_v,
    }
    return sizes if kdim == d_model else {**sizes, "kdim": kdim, "vdim": kdim}


@dataclass(frozen=True)
class Row:
    """Where a family keeps its attention, and what it does besides projecting.

    Args:
        at: the path of layer {}'s attention module in the model without its head, or what gives
            it for (configuration, layer), None after the last.
        holds: what is at a path in that module: the name of a module or parameter of our layer, or
            several that are packed. A path that a model does not have is passed over.
        made: {the name of a tensor of ours: what makes it}, where it is no plain copy.
        transposed: a Conv1D keeps the matrix as the paper writes it, x W; a Linear its transpose.
        n_head: what the configuration calls the number of heads.
        kind, sizes: the class of our layer, and what gives the sizes it is made with.
        arguments: its other arguments, each a value or a function of the spot.
    """

    at: str | Callable[[Any, int], str | None]
    holds: Mapping[str, str | Packed]
    made: Mapping[str, Callable[[Spot], Tensor]] = field(default_factory=dict)
    transposed: bool = False
    n_head: str = "num_attention_heads"
    kind: type[MultiheadAttention] = MultiheadAttention
    sizes: Callable[[Spot], dict[str, Any]] = grouped
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def but(self, at: str | None = None, **changes: Any) -> Row:
        """The row with some fields or arguments changed; `holds` and `made` are added to."""
        own = {name: changes.pop(name) for name in _FIELDS & changes.keys()}
        for name in own.keys() & {"holds", "made"}:
            own[name] = {**getattr(self, name), **own[name]}
        return replace(self, at=at or self.at, arguments={**self.arguments, **changes}, **own)

    def where(self, base: nn.Module, layer: int) -> str | None:
        """The path of a layer's attention module, if there is such a layer."""
        if not isinstance(self.at, str):
            return self.at(base.config, layer)
        try:
            layers: Any = base.get_submodule(self.at.partition(".{}")[0])
        except AttributeError:
            return None
        return self.at.format(layer) if layer < len(layers) else None


_FIELDS = {"holds", "made", "transposed", "n_head", "kind", "sizes"}


def build(spot: Spot) -> MultiheadAttention:
    """Our layer with the tensors of a spot: those that stand alone are taken, the others copied.

    A projection that is not its weight (an adapter, a quantizer, hooks) is taken as a module.
    """
    row = spot.row
    given = row.sizes(spot)
    for name, value in row.arguments.items():
        given[name] = value(spot) if callable(value) else value
    modules = {path: module for path in row.holds if (module := spot.get(path)) is not None}
    biased = {
        name.partition(".")[0]
        for path, module in modules.items()
        if getattr(module, "bias", None) is not None
        for name in _names(row.holds[path])
        if name.startswith("W")
    }
    layer = row.kind(**given, bias=tuple(biased), device="meta")
    state: dict[str, Tensor] = {}
    kept: dict[str, nn.Module] = {}
    for path, module in modules.items():
        held = row.holds[path]
        if isinstance(module, Tensor):
            state[_names(held)[0]] = spot.take(path)
            continue
        if isinstance(held, str) and _stays(layer, held, module, row):
            kept[held] = module
            layer.set_submodule(held, nn.Identity())
            continue
        for part in ("weight", "bias"):
            if getattr(module, part, None) is None:
                continue
            tensor = spot.take(f"{path}.{part}")
            if row.transposed and part == "weight":
                tensor = tensor.T.contiguous()
            cuts = {held: tensor} if isinstance(held, str) else held.cut(tensor, layer)
            state |= {f"{name}.{part}": cut for name, cut in cuts.items()}
    state |= {name: make(spot) for name, make in row.made.items() if name in layer.state_dict()}
    for name, parameter in layer.named_parameters():
        if name.startswith("position_"):
            state[name] = parameter
    with torch.no_grad():
        layer.load_state_dict(state, assign=True)
    layer.train(spot.base.training)
    for held, module in kept.items():
        layer.set_submodule(held, module)
    return layer


def _stays(layer: MultiheadAttention, held: str, module: nn.Module, row: Row) -> bool:
    """Whether a projection does more than its weight says, and nothing but itself is needed."""
    made = any(name.startswith(f"{held}.") for name in row.made)
    return type(layer.get_submodule(held)) is nn.Linear and not made and bool(unread(module))


def parameter(base: nn.Module, name: str) -> Tensor:
    """A parameter of a model by its name, if its module does with it what the class says.

    Raises:
        ArgumentError: the module does more, such as an adapter or a quantizer.
    """
    path, _, part = name.rpartition(".")
    if part in ("weight", "bias"):
        check_read(path, base.get_submodule(path))
    return base.get_parameter(name)


def check_read(path: str, module: nn.Module) -> None:
    """Raise unless a module's numbers say what it computes."""
    if unread(module):
        raise _more(path, module)


def _more(path: str, module: nn.Module) -> ArgumentError:
    return ArgumentError(
        f"`{path}` computes more than its weight says: it has {', '.join(unread(module))}.\n"
        "Merge an adapter into the weight, dequantize it, or remove the hooks."
    )
