"""Whether a module computes what its class and parameters say, and nothing besides."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from wqkv.upstream import of_torch

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def plain(module: object) -> TypeGuard[nn.Linear]:
    """Whether a module computes x W^T + b with its own `weight` and `bias`, as nn.Linear does.

    A module that is not plain (hooks, an adapter, a quantizer, a shard) has to be called.
    """
    return type(module) is nn.Linear and not besides(module)


def besides(module: nn.Module) -> list[str]:
    """What a module does or holds besides what its class and parameters say, in words.

    Looks at the module alone, not at its children. Hooks for all modules of the process (torch's
    register_module_forward_hook and the like) do not count.
    """
    found = of_torch.hooks(module)
    if "forward" in module.__dict__:
        found.append("a replaced forward")
    if "parametrizations" in module._modules:
        found.append("parametrizations")
    for name, tensor in of_torch.parameters_of(module).items():
        if tensor is None:
            continue
        # A subclass (DTensor, a quantized tensor) computes by its own rules. A FakeTensor, which
        # export puts in place of a tensor, does what that tensor does.
        if type(tensor) not in (nn.Parameter, Tensor, of_torch.FakeTensor):
            found.append(f"a {name} of class {type(tensor).__name__}")
        elif of_torch.tensor_hooks(tensor):
            found.append(f"hooks of {name}")
    return found


def unread(module: nn.Module) -> list[str]:
    """Why the weight and bias of a module do not tell what it computes; empty if they do.

    Only a leaf of torch or transformers, without anything besides, is known to be its numbers.
    """
    found = besides(module) + [f"the part {name}" for name, _ in module.named_children()]
    if type(module).__module__.partition(".")[0] not in ("torch", "transformers"):
        found.append(f"the class {type(module).__module__}.{type(module).__name__}")
    tensors = {**of_torch.parameters_of(module), **of_torch.buffers_of(module)}
    found += [f"the tensor {name}" for name in tensors if name not in ("weight", "bias")]
    weight = tensors.get("weight")
    if weight is not None and weight.dtype not in FLOATS:
        found.append(f"a weight of {weight.dtype}")
    return found
