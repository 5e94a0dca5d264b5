"""What is put around a model: torch.compile, data parallelism, PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn

_PARALLEL = ("torch.nn.parallel.", "torch.distributed.")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside its wrappers, which runs as it does inside them; itself if it has none."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(model: Any) -> nn.Module | None:
    """What the outermost wrapper holds; None if there is no wrapper."""
    home, inner = type(model).__module__, None
    if hasattr(model, "_orig_mod"):  # torch.compile(model)
        inner = model._orig_mod
    elif home.startswith(_PARALLEL):  # DataParallel, DistributedDataParallel, FSDP
        inner = getattr(model, "module", None)
    elif home.startswith("peft.") and hasattr(model, "get_base_model"):  # adapters stay inside
        inner = model.get_base_model()
    return inner if isinstance(inner, nn.Module) else None
