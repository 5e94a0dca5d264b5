"""Whether a tensor's numbers can be read now, and whether a graph is being made of it.

Several modes of torch hand over tensors without numbers: torch.compile and torch.export trace a
graph, FakeTensorMode and the meta device keep only shapes, torch.func.vmap maps one call over
samples. Whatever reads numbers (a plan, a check of a value) asks here first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wqkv.upstream import of_torch

# Looked up at import: torch.compile cannot trace the lookup of a name that was never used before.
_active, _mode, _PROXY = of_torch.transforms_active, of_torch.dispatch_mode, of_torch.PROXY


def readable(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are there, and can be read without waiting for a device."""
    return tensor.device.type == "cpu" and not (is_traced(tensor) or _is_mapped(tensor))


def is_traced(tensor: Tensor) -> bool:
    """Whether torch.compile, torch.export or make_fx makes a graph, or the tensor is fake."""
    return tracing() or _is_fake(tensor)


def tracing() -> bool:
    """Whether torch.compile, torch.export or make_fx makes a graph of what runs now."""
    return torch.compiler.is_compiling() or _mode(_PROXY) is not None


def transformed() -> bool:
    """Whether a transform of torch.func is active; none can look into plain Python code."""
    return bool(_active())


def derivative_reasons(tensor: Tensor) -> list[str]:
    """Why a function with its own backward pass cannot be used now; empty if it can."""
    if of_torch.in_forward_mode():
        return ["it has no forward-mode derivative, which torch.func.jvp asks for"]
    if transformed() and is_traced(tensor):
        return ["torch.func inside a traced graph looks into plain operators alone"]
    return []


def _is_fake(tensor: Tensor) -> bool:
    # the exact type is compared first, because most tensors are of one of these two types
    return type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "fake_mode")


def _is_mapped(tensor: Tensor) -> bool:
    """Whether vmap maps the tensor; torch.func.grad may have wrapped it once more."""
    if not transformed():
        return False
    while of_torch.is_wrapped(tensor):
        if of_torch.is_batched(tensor):
            return True
        tensor = of_torch.under(tensor)
    return False
