"""Which modules stand between the heads of a layer and the logits, as a running model shows.

WO is the first module that reads what the heads return. What the last norm and the output matrix
read is kept, so that what a layer writes can be followed to the logits.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.record.modules import ModuleCall

#: A module of a repeated layer has a number in its name.
_REPEATED = re.compile(r"(^|\.)\d+(\.|$)")


class WritePath:
    """What one thread runs between the heads of each layer and the logits."""

    def __init__(self, model: nn.Module) -> None:
        self.norm, self.matrix = last_norm(model), output_matrix(model)
        self.stream: Tensor | None = None  # what the last norm has read, (batch, length, d_model)
        self.final: Tensor | None = None  # what the output matrix has read
        self.WO: dict[nn.Module, nn.Module] = {}  # by the module of the layer
        self.other: dict[nn.Module, str] = {}  # what else stands there, of a layer that has it
        # Each with the module of the layer: what WO is to read, WO while it runs, what it has made.
        self._heads: tuple[nn.Module, Tensor] | None = None
        self._writing: tuple[nn.Module, nn.Module, Tensor] | None = None
        self._written: tuple[nn.Module, Tensor] | None = None

    def heads(self, layer: nn.Module, output: Tensor) -> None:
        """The attention function of a layer has returned (batch, length, n_head, d_v)."""
        self._heads, self._written = (layer, output.detach()), None

    def enter(self, call: ModuleCall) -> None:
        """A module begins."""
        module, x = call.module, call.args[0] if len(call.args) == 1 and not call.kwargs else None
        if not isinstance(x, Tensor):
            return
        # A module of several parts, such as an adapter around WO, comes before its parts.
        weighs = any(True for _ in module.parameters(recurse=False))
        if self._heads is not None:
            layer, output = self._heads
            if x.numel() == output.numel() and torch.equal(x.reshape(output.shape), output):
                self.WO[layer], self._writing, self._heads = module, (layer, module, x), None
                self.other.pop(layer, None)
            elif weighs:
                self.other[layer] = f"{type(module).__name__} does not read what its heads return"
                self._heads = None
        elif self._written is not None and weighs:
            layer, output = self._written
            if x.shape == output.shape and torch.equal(x, output):
                self.other[layer] = f"{type(module).__name__} changes what WO makes of its heads"
            self._written = None

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """A module has ended. Its own hooks may have changed what it was called with."""
        x = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else None
        if x is not None and module is self.norm:
            self.stream = x.detach()
        if x is not None and module is self.matrix:
            self.final = x.detach()
        if self._writing is not None and module is self._writing[1]:
            layer, _, read = self._writing
            self._writing = None
            if x is not read:
                self.other[layer] = f"{type(module).__name__} does not read what its heads return"
            self._written = (layer, output.detach()) if isinstance(output, Tensor) else None

    def forget(self) -> None:
        """The forward ends."""
        self._heads = self._writing = self._written = None


def output_matrix(model: nn.Module) -> nn.Module | None:
    """The module that makes the logits, if the model has one."""
    get = getattr(model, "get_output_embeddings", None)
    found = None if get is None else get()
    return found if isinstance(found, nn.Module) else None


def last_norm(model: nn.Module) -> nn.Module | None:
    """The last norm of the base model that belongs to none of its repeated layers."""
    base: nn.Module = getattr(model, "base_model", model)
    norms = [
        module
        for name, module in base.named_modules()
        if "norm" in type(module).__name__.lower() and not _REPEATED.search(name)
    ]
    return norms[-1] if norms else None
