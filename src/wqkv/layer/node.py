"""A layer in a graph of torch.fx: one node that calls it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy, Tracer

from wqkv.attend.masks.algebra import Mask
from wqkv.errors import ArgumentError
from wqkv.upstream.of_torch import hooks


def one_node(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The result of a call that torch.fx traces, recorded as torch's own modules are; else None.

    A trace has no shapes or values, and what happens inside a layer depends on both.
    """
    for given in (*args, *kwargs.values()):
        if isinstance(given, Proxy) and isinstance(given.tracer, Tracer):
            return _recorded(given.tracer, module, args, kwargs)
    return None


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
    """A value that is the same in every call: an attribute of the graph, as for a tensor."""
    n = 0
    while hasattr(tracer.root, f"_mask_constant{n}"):
        n += 1
    setattr(tracer.root, f"_mask_constant{n}", value)
    return tracer.create_proxy("get_attr", f"_mask_constant{n}", (), {})
