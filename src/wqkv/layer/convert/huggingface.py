"""from_hf: our layer with the matrices of a Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import count
from typing import Any

from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError, watch_instead
from wqkv.layer.attention import MATRICES, MultiheadAttention
from wqkv.layer.convert.families import FAMILIES
from wqkv.layer.convert.rows import FamilyRow, Spot, build, parameter
from wqkv.layer.norms import Normalize
from wqkv.layer.plain import besides
from wqkv.sentences.errors import mistake
from wqkv.wrappers import unwrapped


@dataclass(frozen=True)
class Stack:
    """The attention layers of one part of a model."""

    base: nn.Module
    row: FamilyRow
    prefix: str = ""  # what the names of base's parameters begin with in the whole model

    def __len__(self) -> int:
        return next(n for n in count() if self.row.where(self.base, n) is None)

    def spot(self, layer: int, tensor: Callable[[str], Tensor] | None = None) -> Spot:
        """Layer number `layer`. `tensor` gives a parameter by name, in place of the model's own.

        Raises:
            ArgumentError: no such layer, or one that does not attend with matrices of its own.
        """
        at = self.row.where(self.base, layer) if layer >= 0 else None
        if at is None:
            raise ArgumentError(
                mistake("no_layer", number=layer, count=len(self), last=len(self) - 1)
            )
        tensor = tensor or partial(parameter, self.base)
        spot = Spot(self.base, self.row, layer, at, tensor)
        missing = next((name for name in MATRICES if not spot.holds(name)), None)
        if missing:
            kind = mistake("layer_kind", kind=spot.kind) if spot.kind else ""
            raise ArgumentError(
                mistake("missing_matrix", layer=layer, kind=kind, matrix=missing, place=at)
            )
        return spot


def known_stacks(model: nn.Module) -> dict[str, Stack]:
    """The parts of a model that the table knows; the first one is meant where none is named."""
    base = _base(model)
    found = _parts_of(base)
    for name, child in base.named_children() if not found else ():
        parts = _parts_of(child, f"{name}.")
        found |= {name if len(parts) == 1 else f"{name}.{part}": parts[part] for part in parts}
    return found


def language_inside(model: nn.Module) -> str | None:
    """The part of a model that is its language model, where the table knows that one's layers."""
    whole: Any = model  # of transformers, whose method tells
    inside = whole.get_decoder()
    known = known_stacks(model).items()
    return next((name for name, stack in known if stack.prefix and stack.base is inside), None)


def stacks(model: nn.Module) -> dict[str, Stack]:
    """The parts of a model, as `known_stacks`.

    Raises:
        ArgumentError: the table knows none; the error names the nearest rows.
    """
    found = known_stacks(model)
    if not found:
        raise watch_instead(no_row(model), call="model(**inputs)")
    return found


def has_row(family: str) -> bool:
    """Whether the table knows models of a family, as their configuration calls it."""
    return family in FAMILIES


def no_row(model: nn.Module) -> str:
    """What is said of a model that the table does not know."""
    kind = _kind(_base(model))
    if not kind:
        return mistake("no_transformers", kind=type(model).__name__)
    near = get_close_matches(kind, FAMILIES, n=3, cutoff=0.3) or list(FAMILIES)
    return mistake("no_family", family=kind, near=", ".join(near))


def _base(model: nn.Module) -> nn.Module:
    """The model without its head, and without wrappers around it."""
    model = unwrapped(model)
    inner: nn.Module = getattr(model, "base_model", model)
    return model if inner is model else _base(inner)


def _parts_of(base: nn.Module, prefix: str = "") -> dict[str, Stack]:
    """The parts that the row of the model's own family names, as far as the model has them."""
    rows = FAMILIES.get(_kind(base), {})
    stacks = {part: Stack(base, row, prefix) for part, row in rows.items()}
    return {part: stack for part, stack in stacks.items() if stack.row.where(base, 0)}


def _kind(model: nn.Module) -> str:
    """What its configuration calls the family."""
    return getattr(getattr(model, "config", None), "model_type", None) or ""


def stack(model: nn.Module, part: str | None = None) -> Stack:
    """One part of a model.

    Raises:
        ArgumentError: the family has no table row, or the model no such part.
    """
    found = stacks(model)
    if part is None and (len(found) == 1 or not next(iter(found.values())).prefix):
        return next(iter(found.values()))
    if part not in found:
        asked = "Which part is meant?" if part is None else f"There is no part {part!r}:"
        raise ArgumentError(f"{asked} The model has {', '.join(found)}.\nPass part=... with one.")
    return found[part]


@door
def from_hf(model: nn.Module, layer: int, *, part: str | None = None) -> MultiheadAttention:
    """Layer number `layer` (from 0) of a transformers model as ours, with its mask and position.

    The matrices are the model's own where it keeps them apart, and copies where it packs them into
    one. A projection that computes more than its weight says (LoRA, a quantizer, hooks) is taken as
    the model's own module. If such a projection is packed, or a norm computes more than its weight
    says, that is an error.
    The caller does what the model does outside the layer: norms and residuals around it, and the
    padding and positions of a call. Rules that the model does not know are set on the result, as
    in `layer.mesh = Ring()`.

    Args:
        part: "encoder", "decoder" or "cross" (its keys are the encoder's tokens), or the name of a
            model inside, such as "vision_model"; None is the decoder, or the only one.

    Raises:
        ArgumentError: the family has no table row, or the model no such part or layer; or a module
            that would have to be copied computes more than its weight says.

    >>> import torch
    >>> from transformers import GPT2Config, GPT2Model
    >>> layer = from_hf(GPT2Model(GPT2Config(n_layer=2, n_embd=24, n_head=3)), 1)
    >>> layer(torch.randn(2, 5, 24)).shape
    torch.Size([2, 5, 24])
    """
    return build(stack(model, part).spot(layer))


def check_plain(layer: MultiheadAttention) -> None:
    """Raise unless all parts of a layer compute what their weights say, because these are shown."""
    for path, part in layer.named_modules():
        more = besides(part) if part is not layer else []
        if type(part) not in (type(layer), nn.Linear, nn.Sequential, Normalize):
            more.append(f"the class {type(part).__module__}.{type(part).__name__}")
        if more:
            raise ArgumentError(
                f"`{path}` computes more than its weight says: it has {', '.join(more)}.\n"
                "Merge an adapter into the weight, dequantize it, or remove the hooks; `from_hf` "
                "and `parity` take the layer as it is."
            )


def matrices(model: nn.Module, layer: int, part: str | None = None) -> dict[str, nn.Module]:
    """The model's own modules that hold WQ, WK, WV and WO; one module may hold several of them."""
    spot = stack(model, part).spot(layer)
    return {name: spot.get(spot.path(name)) for name in MATRICES}


def block_path(base: nn.Module, path: str) -> str:
    """The path of the block around an attention module: a member of the outermost list of modules.

    A block is a layer with its attention, its MLP and what stands between them.

    Raises:
        ArgumentError: there is no list around it.
    """
    parts = path.split(".")
    for end in range(1, len(parts)):
        if isinstance(base.get_submodule(".".join(parts[:end])), nn.ModuleList):
            return ".".join(parts[: end + 1])
    raise ArgumentError(
        f"The layers of {type(base).__name__} are no list of blocks: {path!r} stands in none."
    )


def sizes(model: nn.Module, part: str | None = None) -> dict[str, int]:
    """n_layer, n_head, n_kv_head, d_model and d_k of a part, see `from_hf`."""
    first = from_hf(model, 0, part=part)
    names = ("n_head", "n_kv_head", "d_model", "d_k")
    return {"n_layer": len(stack(model, part)), **{name: getattr(first, name) for name in names}}
