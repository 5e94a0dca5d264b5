"""Tokens that are no patches and stand beside them, such as [CLS] and registers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from wqkv.maps.axis import Axis


class _Kind(NamedTuple):
    """Special tokens of one kind: what models call the parameter, and what it is called here."""

    names: tuple[str, ...]
    label: str
    last: bool = False  # they stand behind the patches


#: In the order in which they stand.
_KINDS = (
    _Kind(("cls_token", "class_token", "class_embedding"), "CLS"),
    _Kind(("dist_token", "distillation_token"), "DIST"),
    _Kind(("reg_token", "register_tokens"), "REG"),
    _Kind(("detection_tokens",), "DET", last=True),
)
#: Libraries whose towers were looked at: their tokens stand as _KINDS says. Others may have a class
#: token, which stands first everywhere; where they put tokens of another kind is not known.
_KNOWN = ("transformers", "timm", "open_clip", "torchvision")


class Special(NamedTuple):
    """The special tokens of a tower."""

    before: tuple[Axis, ...]
    after: tuple[Axis, ...]

    @property
    def total(self) -> int:
        return sum(map(len, self.before + self.after))


def special_tokens(modules: Iterable[nn.Module]) -> Special | None:
    """The special tokens whose parameters these modules hold; None if it is not known where."""
    before: list[Axis] = []
    after: list[Axis] = []
    held = [
        (module, name, parameter)
        for module in modules
        for name, parameter in module.named_parameters(recurse=False)
    ]
    for kind in _KINDS:
        for module, name, parameter in held:
            if name not in kind.names or not parameter.numel():
                continue
            last = kind.last
            if kind.label != "CLS" and not _is_known(module):
                if not _is_of(module, "vit_pytorch"):
                    return None
                last = True  # it packs [patches, registers]
            (after if last else before).append(_axis(kind, parameter))
    return Special(tuple(before), tuple(after))


def _axis(kind: _Kind, parameter: Tensor) -> Axis:
    count = parameter.numel() // parameter.shape[-1]
    numbered = count > 1 or kind.label in ("REG", "DET")
    return Axis([f"[{kind.label} {i}]" if numbered else f"[{kind.label}]" for i in range(count)])


def _is_known(module: nn.Module) -> bool:
    return any(_is_of(module, library) for library in _KNOWN)


def _is_of(module: nn.Module, library: str) -> bool:
    """Whether the class of a module, or a class that it extends, is of a library."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(module).__mro__)
