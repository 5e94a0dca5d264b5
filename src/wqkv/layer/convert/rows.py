"""What a row of the table of families says (FamilyRow), and how it makes our layer (build)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from wqkv.attend.bias import Bias
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.rope import RoPE
from wqkv.attend.rules import FULL
from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.norms import Norm, QKNorm, Temperature
from wqkv.layer.plain import unread


class PackedMatrices(NamedTuple):
    """Matrices that share one module: its rows are `blocks` equal blocks, with a part of each.

    `blocks` is a number, or the name of one that our layer has, such as "n_head": then each block
    has the rows of one head.
    """

    names: tuple[str, ...]
    blocks: int | str = 1

    def cut(self, packed: Tensor, layer: MultiheadAttention) -> dict[str, Tensor]:
        """Copies of the rows that belong to each matrix, by its name."""
        blocks: int = self.blocks if isinstance(self.blocks, int) else getattr(layer, self.blocks)
        weights = [layer.get_parameter(f"{name}.weight") for name in self.names]
        parts = packed.unflatten(0, (blocks, -1)).split([len(w) // blocks for w in weights], dim=1)
        copies = [part.flatten(0, 1).clone() for part in parts]
        return dict(zip(self.names, copies, strict=True))


_T = TypeVar("_T")


@dataclass(frozen=True)
class Spot:
    """One attention layer of a model, which its family's row reads."""

    base: nn.Module  # the model without its head
    row: FamilyRow
    layer: int
    at: str  # the path of the attention module in base
    tensor: Callable[[str], Tensor]  # gives a parameter of base by its name

    @property
    def config(self) -> Any:  # Any: transformers has one class per family, each with its own names
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
        """The module that WQ stands in, which also states the scale."""
        return self.module.get_submodule(self.path("WQ").rpartition(".")[0])

    def read(self, trait: Trait[_T]) -> _T:
        """What a row says of this layer: a value of every layer, or a function of the spot."""
        return trait(self) if callable(trait) else trait

    def get(self, path: str) -> Any:  # Any: whatever a foreign module has there
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
        """The path of the module that holds one of our matrices, which is known to be there."""
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


#: What a row says of an argument of our layer: its value for all layers, or a function of one.
Trait: TypeAlias = "_T | Callable[[Spot], _T]"


def _names(held: str | PackedMatrices) -> tuple[str, ...]:
    return held.names if isinstance(held, PackedMatrices) else (held,)


# Numbers that most families state on the attention module, under one of a few names


def stated_scale(spot: Spot) -> float | None:
    """What scores are multiplied by; None where the model states nothing: 1 / sqrt(d_k)."""
    for name in ("scaling", "scale", "softmax_scale"):
        if isinstance(stated := getattr(spot.home, name, None), int | float):
            return float(stated)
    return None


def stated_dropout(spot: Spot) -> float:
    for name in ("attention_dropout", "attn_dropout", "attn_dropout_p", "dropout"):
        if (stated := getattr(spot.home, name, None)) is not None:
            return float(stated.p if isinstance(stated, nn.Dropout) else stated)
    return 0.0


# Our layer without tensors, of the sizes and rules that a spot states


def make_multihead(spot: Spot, bias: Collection[str]) -> MultiheadAttention:
    """MultiheadAttention; its sizes follow from the shapes of the matrices and from n_head."""
    row = spot.row
    n_head: int = getattr(spot.config, row.n_head)
    (d_model, q_out), (kdim, k_out), (joined, _) = map(spot.size, ("WQ", "WK", "WO"))
    d_k = d_v = joined // n_head
    if isinstance(row.holds[spot.path("WQ")], str):  # WQ stands alone, so its size tells d_k
        d_k = q_out // n_head
    if spot.path("WK") == spot.path("WQ"):  # packed: k_out counts q, k and v together
        k_out = (q_out - n_head * d_k) // 2
    return MultiheadAttention(
        d_model,
        n_head,
        n_kv_head=k_out // d_k,
        d_k=d_k,
        d_v=d_v,
        kdim=kdim,
        vdim=kdim,
        bias=bias,
        mask=spot.read(row.mask),
        position=spot.read(row.position),
        norm=spot.read(row.norm),
        v_norm=spot.read(row.v_norm),
        clip=spot.read(row.clip),
        temperature=spot.read(row.temperature),
        softcap=spot.read(row.softcap),
        sinks=spot.read(row.sinks),
        gate=spot.read(row.gate),
        scale=spot.read(row.scale),
        dropout=spot.read(row.dropout),
        device="meta",
    )


class FamilyNorm(NamedTuple):
    """The norm of q and k in a family, and the tensors that it takes: see FamilyRow."""

    norm: Callable[[Spot], QKNorm | None]
    holds: Mapping[str, str] = {}
    made: Mapping[str, Callable[[Spot], Tensor]] = {}


@dataclass(frozen=True)
class FamilyRow:
    """Where a family keeps its attention, and what it does besides projecting.

    Args:
        at: the path of the attention module of layer {}, in the model without its head; or a
            function of (configuration, layer) that gives it, or None after the last layer.
        holds: {a path in that module: what of ours is there}: the name of a module or parameter of
            our layer, or several that are packed. A path that a model does not have is passed over.
        made: {the name of a tensor of ours: what computes it}, where it is no plain copy.
        transposed: a Conv1D keeps the matrix as the paper writes it, x W; a Linear its transpose.
        n_head: what the configuration calls the number of heads.
        make: makes our layer without tensors from a spot and the names of the biased matrices.

    The others are arguments of our layer: a value, or a function of the spot that gives it. A
    `make` other than make_multihead takes those of them that its class has.
    """

    at: str | Callable[[Any, int], str | None]  # Any: a configuration, see Spot.config
    holds: Mapping[str, str | PackedMatrices]
    made: Mapping[str, Callable[[Spot], Tensor]] = field(default_factory=dict)
    transposed: bool = False
    n_head: str = "num_attention_heads"
    make: Callable[[Spot, Collection[str]], MultiheadAttention] = make_multihead
    mask: Trait[Mask] = FULL
    position: Trait[RoPE | Bias | None] = None
    norm: Trait[QKNorm | None] = None
    v_norm: Trait[Norm | None] = None
    clip: Trait[float | None] = None
    temperature: Trait[Temperature | None] = None
    softcap: Trait[float | None] = None
    sinks: Trait[bool] = False
    gate: Trait[Literal["head", "channel"] | None] = None
    scale: Trait[float | None] = stated_scale
    dropout: Trait[float] = stated_dropout

    def also_holds(self, holds: Mapping[str, str | PackedMatrices]) -> FamilyRow:
        """The row with more paths; one that it has already is replaced."""
        return replace(self, holds={**self.holds, **holds})

    def with_norm(self, norm: FamilyNorm) -> FamilyRow:
        """The row with a norm of q and k, and what that holds and makes."""
        made = {**self.made, **norm.made}
        return replace(self.also_holds(norm.holds), norm=norm.norm, made=made)

    def where(self, base: nn.Module, layer: int) -> str | None:
        """The path of a layer's attention module, if there is such a layer."""
        if not isinstance(self.at, str):
            return self.at(base.config, layer)
        try:
            layers: Any = base.get_submodule(self.at.partition(".{}")[0])
        except AttributeError:
            return None
        return self.at.format(layer) if layer < len(layers) else None


def build(spot: Spot) -> MultiheadAttention:
    """Our layer with the tensors of a spot: those that stand alone are taken, the others copied.

    A projection that is more than its weight (an adapter, a quantizer, hooks) is taken as a module.
    """
    row = spot.row
    modules = {path: module for path in row.holds if (module := spot.get(path)) is not None}
    biased = {
        name.partition(".")[0]
        for path, module in modules.items()
        if getattr(module, "bias", None) is not None
        for name in _names(row.holds[path])
        if name.startswith("W")
    }
    layer = row.make(spot, tuple(biased))
    state: dict[str, Tensor] = {}
    kept: dict[str, nn.Module] = {}
    for path, module in modules.items():
        held = row.holds[path]
        if isinstance(module, Tensor):
            state[_names(held)[0]] = spot.take(path)
            continue
        if isinstance(held, str) and _stays(layer, held, module, row):
            # An empty place, so that load_state_dict does not look for its weight.
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
        if name.startswith("position_"):  # the position was made with its tensor already
            state[name] = parameter
    with torch.no_grad():
        layer.load_state_dict(state, assign=True)
    layer.train(spot.base.training)
    for held, module in kept.items():
        layer.set_submodule(held, module)
    return layer


def _stays(layer: MultiheadAttention, held: str, module: nn.Module, row: FamilyRow) -> bool:
    """Whether a projection computes more than its weight says, and can be taken as a module.

    It cannot where the row makes its weight from others.
    """
    made = any(name.startswith(f"{held}.") for name in row.made)
    return type(layer.get_submodule(held)) is nn.Linear and not made and bool(unread(module))


def parameter(base: nn.Module, name: str) -> Tensor:
    """Return the parameter of a model that has this name.

    Raises:
        ArgumentError: its module computes more than its numbers say (an adapter, a quantizer, ...).
    """
    path, _, part = name.rpartition(".")
    if part in ("weight", "bias"):
        check_read(path, base.get_submodule(path))
    return base.get_parameter(name)


def check_read(path: str, module: nn.Module) -> None:
    """Raise if a module computes more than its numbers say."""
    if unread(module):
        raise _more(path, module)


def _more(path: str, module: nn.Module) -> ArgumentError:
    return ArgumentError(
        f"`{path}` computes more than its weight says: it has {', '.join(unread(module))}.\n"
        "Merge an adapter into the weight, dequantize it, or remove the hooks."
    )
