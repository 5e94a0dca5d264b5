"""The model inside its wrappers: torch.compile, data parallelism, PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn

from wqkv.upstream import of_torch

_PARALLEL = ("torch.nn.parallel.", "torch.distributed.")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside all of its wrappers; a model without wrappers is returned as it is.

    The inner model runs as it does inside its wrappers, and its modules have their own names.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    """Return what the outermost wrapper holds; None if there is no wrapper."""
    home = type(model).__module__
    inner: Any = None
    if (original := of_torch.original(model)) is not model:  # torch.compile(model)
        inner = original
    elif home.startswith(_PARALLEL):  # DataParallel, DistributedDataParallel, FSDP
        inner = getattr(model, "module", None)
    elif home.startswith("peft."):  # the adapters stay: they are inside the base model
        base: Any = getattr(model, "get_base_model", None)
        inner = None if base is None else base()
    return inner if isinstance(inner, nn.Module) else None
