"""Everything private of torch that wqkv relies on, but its kernels (attend/engines/kernels.py).

Each name is looked up when first used.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from wqkv.upstream.names import find, member

TESTED = "2.13.0"

#: Where each name stands.
NAMES = {
    "compiler_config": "torch._dynamo.config:",
    "make_wrapper": "torch:Tensor._make_wrapper_subclass",
    "to_copy": "torch:ops.aten._to_copy.default",
    "tree_map_only": "torch.utils._pytree:tree_map_only",
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = find(NAMES[name], TESTED)
    return globals()[name]


def original(module: nn.Module) -> nn.Module:
    """The module that torch.compile(module) was called with, or the module itself."""
    found: nn.Module = getattr(module, "_orig_mod", module)
    return found


def plain_name(name: str) -> str:
    """The name of a module inside a compiled one, as it is without torch.compile."""
    return name.replace("._orig_mod", "")


def is_compiled(module: nn.Module) -> bool:
    """Whether a module runs compiled: wrapped, compiled in place, or with a compiled forward."""
    return (
        original(module) is not module
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks change what goes into a module, or what comes out of it."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return any(member(module, f"torch:nn.Module.{kind}", TESTED) for kind in kinds)
