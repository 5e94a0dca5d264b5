"""The model inside its wrappers: torch.compile, data parallelism, PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn

from wqkv.upstream import of_torch

_PARALLEL, _PEFT = ("torch.nn.parallel.", "torch.distributed."), "peft."


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside all of its wrappers; a model without wrappers is returned as it is.

    The inner model runs as it does inside its wrappers, and its modules have their own names.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def stand_in(model: nn.Module) -> nn.Module:
    """Return the wrapper that is called where the model inside it is not; else that model.

    PEFT runs `forward` of the model that it wraps, whose hooks are not run then.
    """
    around = model
    while (inner := _inside(around)) is not None:
        if type(around).__module__.startswith(_PEFT):
            return around
        around = inner
    return around


def _inside(model: nn.Module) -> nn.Module | None:
    """Return what the outermost wrapper holds; None if there is no wrapper."""
    home = type(model).__module__
    inner: Any = None
    if (original := of_torch.original(model)) is not model:  # torch.compile(model)
        inner = original
    elif home.startswith(_PARALLEL):  # DataParallel, DistributedDataParallel, FSDP
        inner = getattr(model, "module", None)
    elif home.startswith(_PEFT):  # the adapters stay: they are inside the base model
        base: Any = getattr(model, "get_base_model", None)
        inner = None if base is None else base()
    return inner if isinstance(inner, nn.Module) else None
