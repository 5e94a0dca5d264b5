"""A layer in a graph of torch.fx: one node that calls it, and no look inside."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy, Tracer

from wqkv.attend.masks.algebra import Mask
from wqkv.errors import ArgumentError
from wqkv.upstream.of_torch import hooks


# Any: the arguments and the result of whatever module is recorded; a Proxy may stand for each.
def one_node(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The Proxy of a module call, if torch.fx traces it; None if it does not.

    torch.fx records torch's own modules as one node too. It could not look inside a layer, because
    a trace has no shapes and values, and what a layer does depends on both.
    """
    for given in (*args, *kwargs.values()):
        if isinstance(given, Proxy) and isinstance(given.tracer, Tracer):
            return _recorded(given.tracer, module, args, kwargs)
    return None


# The keyword arguments of any module, as torch.fx hands them on.
def _recorded(
    tracer: Tracer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Proxy:
    path, name = tracer.path_of_module(module), type(module).__name__
    if not path:
        raise ArgumentError(
            f"torch.fx records {name} as one call, and it is the whole model.\n"
            f"Trace a model that holds it, such as nn.Sequential({name}(...))."
        )
    if found := [kind for kind in hooks(module) if kind.endswith("ward_hooks")]:
        raise ArgumentError(
            f"`{path}` has {', '.join(found)}, which would run now and in every call again.\n"
            "Remove them, or trace with a torch.fx.Tracer whose is_leaf_module is True for it."
        )
    for key, value in kwargs.items():
        kwargs[key] = _constant(tracer, value) if isinstance(value, Mask) else value
    return tracer.create_proxy("call_module", path, args, kwargs)


def _constant(tracer: Tracer, value: object) -> Proxy:
    """Keep a value in the graph as an attribute, as torch.fx keeps a tensor that never changes."""
    n = 0
    while hasattr(tracer.root, f"_mask_constant{n}"):
        n += 1
    setattr(tracer.root, f"_mask_constant{n}", value)
    return tracer.create_proxy("get_attr", f"_mask_constant{n}", (), {})
