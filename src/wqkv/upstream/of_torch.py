"""Every private name of torch that wqkv uses, but its kernels (attend/engines/kernels.py).

`of_torch.NAME` is looked up when it is first used; the functions below use names that every object
has.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from types import CodeType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from wqkv.upstream.names import find, member

Function = TypeVar("Function", bound=Callable[..., Any])


class StorageRef(Protocol):
    """The memory of a tensor, held weakly."""

    def expired(self) -> bool:
        """Whether it is gone."""


TESTED = "2.13.0"

#: Where each name stands.
NAMES = {
    "compiler_config": "torch._dynamo.config:",  # the settings of torch.compile
    "make_wrapper": "torch:Tensor._make_wrapper_subclass",  # a tensor without memory
    "to_copy": "torch:ops.aten._to_copy.default",  # what Tensor.to becomes
    "tree_map_only": "torch.utils._pytree:tree_map_only",  # a map over nested containers
    "backward_number": "torch:_C._current_graph_task_id",  # of what runs now, else -1
    # whether a tensor holds numbers, or stands for one in a transform or a tracer
    "FakeTensor": "torch._subclasses.fake_tensor:FakeTensor",
    "transforms_active": "torch:_C._are_functorch_transforms_active",
    "is_wrapped": "torch:_C._functorch.is_functorch_wrapped_tensor",
    "is_batched": "torch:_C._functorch.is_batchedtensor",
    "under": "torch:_C._functorch.get_unwrapped",
    "dispatch_mode": "torch:_C._get_dispatch_mode",
    "is_jit_tracing": "torch.jit:is_tracing",
    "is_fx_tracing": "torch.fx._symbolic_trace:is_fx_symbolic_tracing",
    "PROXY": "torch:_C._TorchDispatchModeKey.PROXY",
    # what a mode is told of every operator
    "DispatchMode": "torch.utils._python_dispatch:TorchDispatchMode",
    "no_modes": "torch.utils._python_dispatch:_disable_current_modes",
    "mode_at": "torch.utils._python_dispatch:_get_current_dispatch_mode",
    "modes": "torch.utils._python_dispatch:_get_current_dispatch_mode_stack",
    "pop_mode": "torch.utils._python_dispatch:_pop_mode",
    "push_mode": "torch.utils._python_dispatch:_push_mode",
    "LAY_INTO": "torch:ops.aten.as_strided_scatter.default",
    "LAY_OUT": "torch:ops.aten.as_strided.default",
    "PERMUTE": "torch:ops.aten.permute.default",
    # what an operator goes through before its kernel, such as autograd and autocast
    "keys_on": "torch:_C._dispatch_tls_local_include_set",
    "keys_off": "torch:_C._dispatch_tls_local_exclude_set",
    "with_keys": "torch:_C._ForceDispatchKeyGuard",
    "HigherOrderOperator": "torch._ops:HigherOrderOperator",
    "has_kernel": "torch:_C._dispatch_has_kernel_for_dispatch_key",
}
#: Under which names torch.compile, activation checkpointing and FSDP keep what they wrap.
_WRAPPED = re.compile(r"\._(orig_mod|checkpoint_wrapped_module|fsdp_wrapped_module)(?=\.|$)")
#: Where nn.Module keeps the hooks that run when a module is called, saved or loaded.
HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks",
    "_state_dict_pre_hooks", "_state_dict_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = find(NAMES[name], TESTED)
    return globals()[name]


def _own(name: str) -> Any:
    """A name of NAMES, for the functions of this file."""
    found = globals().get(name)
    return __getattr__(name) if found is None else found


def original(module: nn.Module) -> nn.Module:
    """The module that torch.compile was called with; a module that is not its result, itself."""
    found: nn.Module = getattr(module, "_orig_mod", module)
    return found


def plain_name(name: str) -> str:
    """The name of a module inside others that torch has wrapped, as it would be without them."""
    return _WRAPPED.sub("", name)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module runs compiled: wrapped, compiled in place, or with a compiled forward."""
    return (
        original(module) is not module
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def on_compiled_call() -> Any:  # Any: torch's own type, which is private too
    """The function that torch calls before each call of compiled code."""
    return find("torch._dynamo.eval_frame:_callback_from_stance", TESTED)


def runs_compiled(code: CodeType) -> bool:
    """Whether a function is the one that stands below compiled code that runs."""
    return code.co_name == "compile_wrapper" and code.co_filename == _eval_frame().__file__


def runs_mapped(code: CodeType) -> bool:
    """Whether a function is one that stands below what torch.func maps or differentiates."""
    return code.co_filename.endswith(("_functorch/vmap.py", "_functorch/eager_transforms.py"))


def never_compiled(function: Callable[..., Any]) -> None:
    """Keep the compiler from a function and from all that it calls, at no cost for each call."""
    frames = find("torch:_C._dynamo.eval_frame", TESTED)
    skip = frames._FrameAction.SKIP
    code = member(function, "types:FunctionType.__code__", TESTED)
    frames.set_code_exec_strategy(code, frames._FrameExecStrategy(skip, skip))


def _eval_frame() -> Any:  # Any: a module of torch
    return find("torch._dynamo:eval_frame", TESTED)


def set_on_compiled_call(function: Any) -> None:
    """Replace the function that torch calls before each call of compiled code."""
    _eval_frame()._callback_from_stance = function


@contextmanager
def hooked(
    modules: Collection[nn.Module], before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Context in which torch calls two functions for each call of any module.

    They are hooks of all modules: none of these modules has one of its own.

    Args:
        modules: those for which `before` is told keyword arguments too.
        before: is called with a module, its arguments and perhaps its keyword arguments.
        after: is called with a module, its arguments and its output; None if it has failed.
    """
    told = [
        member(one, "torch:nn.Module._forward_pre_hooks_with_kwargs", TESTED) for one in modules
    ]
    first = register_module_forward_pre_hook(before)
    last = register_module_forward_hook(after, always_call=True)
    # torch warns that a compiled module calls them once more, for the module around it.
    silence = ("ignore", re.compile(r"Using `torch.compile\(module\)` when there are global hooks"),
               UserWarning, None, 0)  # fmt: skip
    warnings.filters.insert(0, silence)  # type: ignore[attr-defined]
    try:
        for one in told:
            one[first.id] = True
        yield
    finally:
        if silence in warnings.filters:
            warnings.filters.remove(silence)  # type: ignore[attr-defined]
        first.remove()
        last.remove()
        for one in told:
            one.pop(first.id, None)


def as_called(keys: tuple[Any, Any]) -> Any:  # Any: torch's own types, which are private
    """Context in which an operator runs as it would if no mode were told of it.

    A mode is told below autograd and autocast, so an operator that is made of others would run
    them without either. A transposed weight then needs no gradient, so that `linear` in inference
    mode multiplies in another way, and rounds otherwise; a whole encoder layer would not be cast.
    An operator that returns a view may not run in it.

    Args:
        keys: (keys_on(), keys_off()), taken where no mode is told of anything.
    """
    return find(NAMES["with_keys"], TESTED)(*keys)


def hooks(module: nn.Module) -> list[str]:
    """The kinds of hooks that a module has."""
    try:  # the short way, because each call of a layer asks this
        return [kind for kind in HOOKS if getattr(module, kind)]
    except AttributeError:
        return [kind for kind in HOOKS if member(module, f"torch:nn.Module.{kind}", TESTED)]


def tensor_hooks(x: Tensor) -> bool:
    """Whether hooks run on the gradient of a tensor, before or after it is added up."""
    # not every tensor has the second attribute, which is None until a hook is registered
    before = member(x, "torch:Tensor._backward_hooks", TESTED)
    return bool(before or getattr(x, "_post_accumulate_grad_hooks", None))


def parameters_of(module: nn.Module) -> Mapping[str, Tensor | None]:
    """A module's own parameters by name; None where a parameter is registered and left out."""
    found: Mapping[str, Tensor | None] = member(module, "torch:nn.Module._parameters", TESTED)
    return found


def buffers_of(module: nn.Module) -> Mapping[str, Tensor | None]:
    """A module's own buffers by name."""
    found: Mapping[str, Tensor | None] = member(module, "torch:nn.Module._buffers", TESTED)
    return found


def said_of(state: object, prefix: str) -> dict[str, Any] | None:  # Any: JSON, as torch keeps it
    """The metadata that a state_dict keeps of the module at a prefix; a plain dict keeps none."""
    said: dict[str, Any] | None = getattr(state, "_metadata", {}).get(prefix.removesuffix("."))
    return said


def version(x: Tensor) -> int:
    """How often a tensor was changed in place; always 0 for an inference tensor."""
    return 0 if x.is_inference() else x._version


def top_mode() -> object:
    """The mode that is told of operators first; None if there is none."""
    return _own("mode_at")()


def autocast_on() -> tuple[bool, ...]:
    """Whether autocast is on, for a CPU and for each kind of accelerator."""
    return tuple(map(torch.is_autocast_enabled, _kinds()))


@cache
def _kinds() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


@contextmanager
def no_autocast() -> Iterator[None]:
    """Turn autocast off inside this context, for the CPU and the accelerator."""
    with ExitStack() as stack:
        for kind, on in zip(_kinds(), autocast_on(), strict=True):
            if on:
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def take_off(mode: Any) -> None:  # Any: torch's own type
    """Take a mode off this thread's stack, wherever it is there."""
    if not any(one is mode for one in _own("modes")()):
        return
    above = []
    pop, push = _own("pop_mode"), _own("push_mode")
    while _own("mode_at")() is not mode:
        above.append(pop())
    mode.__exit__(None, None, None)
    for one in reversed(above):
        push(one)


def storage_number(x: Tensor) -> int:
    """A number that tells the memory of a tensor from that of others, as long as it is held."""
    try:
        found: int = x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # of a tensor that stands for others
        return id(x)
    return found


def is_repeated(x: Tensor) -> bool:
    """Whether a tensor shows some of its memory several times."""
    return x.numel() * x.element_size() > x.untyped_storage().nbytes()


def storage_ref(x: Tensor) -> StorageRef | None:
    """The memory of a tensor, held weakly; None of a tensor that has none of its own."""
    try:
        found: StorageRef = find("torch.multiprocessing.reductions:StorageWeakRef", TESTED)(
            x.untyped_storage()
        )
    except (NotImplementedError, RuntimeError):
        return None
    return found


def parts_of(x: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor of a class of its own is made of; of others, itself."""
    if not hasattr(x, "__tensor_flatten__"):
        yield x
        return
    for name in x.__tensor_flatten__()[0]:
        if isinstance(part := getattr(x, name), Tensor):
            yield from parts_of(part)


def schema(operator: Any) -> Any:  # Any: torch's own types, which are private
    """The names and kinds of an operator's arguments."""
    return member(operator, "torch._ops:OpOverload._schema", TESTED)


def is_composite(operator: Any) -> bool:  # Any: torch's own type, which is private
    """Whether an operator is made of others."""
    try:
        found: bool = _own("has_kernel")(operator.name(), "CompositeImplicitAutograd")
    except RuntimeError:  # such as the device of a FakeTensor, or the sizes of a NestedTensor
        return False
    return found


def is_higher_order(operator: object) -> bool:
    """Whether an operator takes functions."""
    return isinstance(operator, _own("HigherOrderOperator"))


def is_flex(operator: Any) -> bool:
    """Whether an operator is that of FlexAttention."""
    return is_higher_order(operator) and operator.name() == "flex_attention"


def is_flex_itself(function: object) -> bool:
    """Whether a function is what flex_attention compiles where nobody compiles it."""
    return getattr(function, "__module__", "") == "torch.nn.attention.flex_attention"


def in_forward_mode() -> bool:
    """Whether forward-mode derivatives are being computed, as by torch.func.jvp."""
    return forward_ad._current_level >= 0


def constant(function: Function) -> Function:
    """Do what torch.compiler.assume_constant_result does, which would import the compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
