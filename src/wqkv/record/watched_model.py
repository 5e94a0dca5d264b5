"""What is known of a watched model before it runs, and what is wanted of it."""

from __future__ import annotations

from typing import Any

from torch import nn

from wqkv.named_attention import attention_like
from wqkv.record.inputs.moment import is_convolution
from wqkv.upstream import of_torch


class WatchedModel:
    """What is known of a model before it runs, and which layers are wanted."""

    def __init__(
        self,
        model: nn.Module,
        wanted: list[int] | None,
        keep: str,
        gradients: bool,
        processor: Any = None,  # a tokenizer or processor of any library
    ) -> None:
        self.model, self.wanted, self.keep, self.gradients = model, wanted, keep, gradients
        self.processor = processor
        self.names = {module: of_torch.plain_name(name) for name, module in model.named_modules()}
        self.like = attention_like(model)
        #: The modules whose hooks are followed. The others are torch's own and have no parts, so
        #: none of them calls attention. `gradients` needs them all the same, because WO, the last
        #: norm and the output matrix are among them.
        self.followed = {
            module
            for module in self.names
            if gradients or module is model or next(module.children(), None) is not None
            or not type(module).__module__.startswith("torch.nn.")
            or is_convolution(module)
        }  # fmt: skip

    def follow(self, whole: nn.Module) -> None:
        """Follow also what is called in the model's place; it may be the model."""
        self.names.setdefault(whole, "")
        self.followed.add(whole)
