"""The attention modules of a Hugging Face model: which they are, and what they were called with."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wqkv.upstream.of_torch import is_compiled
from wqkv.upstream.of_transformers import updated

Kind = Literal["encoder", "decoder", "cross"]

_ATTENTION = re.compile(r"atten|attn", re.IGNORECASE)
_PROJECTION = re.compile(
    r"w?(q|k|qk|qkv|query|key|query_key_value|c_attn|in_proj|to_q|to_k|to_qkv)(_|\d|$)",
    re.IGNORECASE,
)
_CROSS = re.compile(r"cross|encoder_attn|encdec|enc_dec|encoder_decoder", re.IGNORECASE)
_OTHER_WORDS = (
    "key_value_states",
    "encoder_hidden_states",
    "cross_attention_states",
    "kv_states",
    "memory",
)


def attention_like(model: nn.Module) -> set[nn.Module]:
    """The innermost modules that are named attention and project queries or keys."""
    like = {}
    for name, module in model.named_modules():
        parts = [part for part, _ in module.named_children()]
        parts += [part for part, _ in module.named_parameters(recurse=False)]
        own = next((part for part in reversed(name.split(".")) if not part.isdecimal()), "")
        titles = [type(module).__name__] + [own] * ("linear" not in own)  # no softmax there
        named = any(map(_ATTENTION.search, titles))
        if named and any(map(_PROJECTION.match, parts)):
            like[name] = module
    outer = {name for name in like for other in like if other.startswith(f"{name}.")}
    return {module for name, module in like.items() if name not in outer and name}


def compiled(model: nn.Module) -> set[nn.Module]:
    """The modules that run compiled, where no hook sees them: a compiled one and all inside it."""
    return {
        inner for module in model.modules() if is_compiled(module) for inner in module.modules()
    }


def reached(function: Any, model: nn.Module, depth: int = 3) -> set[nn.Module]:
    """The modules of a model that a function may run: it is bound to them, or names what is."""
    own = set(model.modules())
    found, seen, level = set[nn.Module](), set[int](), [function]
    for _ in range(depth + 1):
        level = [one for one in level if id(one) not in seen]
        seen.update(map(id, level))
        for one in level:
            if isinstance(one, nn.Module):
                found |= own & set(one.modules())
        level = [other for one in level for other in islice(_named_in(one), 1000)]
    return found


def _named_in(one: Any) -> Iterator[Any]:
    """What a function or value leads to: its closure, the globals it names, what it holds."""
    if isinstance(one, functools.partial):
        yield from (one.func, *one.args, *one.keywords.values())
    elif isinstance(one, MethodType):
        yield from (one.__self__, one.__func__)
    elif isinstance(one, FunctionType):
        yield from (cell.cell_contents for cell in one.__closure__ or () if cell != CellType())
        yield from (one.__globals__[name] for name in _names(one.__code__) & set(one.__globals__))
    elif isinstance(one, list | tuple):
        yield from one
    elif isinstance(one, dict):
        yield from one.values()
    elif not isinstance(one, nn.Module | ModuleType | type | Tensor):
        yield from getattr(one, "__dict__", {}).values()


def _names(code: CodeType) -> set[str]:
    """The names that a function's code uses, and those of functions inside it."""
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def kind(name: str, module: nn.Module) -> Kind | None:
    if _CROSS.search(f"{name} {type(module).__name__}"):
        return "cross"
    found = re.findall(r"encoder|decoder|vision|visual", name)
    if found:
        return "decoder" if found[-1] == "decoder" else "encoder"
    causal = getattr(module, "is_causal", None)
    return None if causal is None else "decoder" if causal else "encoder"


def bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a module was called with, by name."""
    try:
        bound = inspect.signature(module.forward).bind_partial(*args, **kwargs)
    except (TypeError, ValueError):
        return dict(kwargs)
    return {**bound.arguments.pop("kwargs", {}), **bound.arguments}


def reads_others(given: dict[str, Any]) -> bool:
    """Whether a module was given other words to read than its own."""
    return any(given.get(name) is not None for name in _OTHER_WORDS)


def goes_on(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether cross-attention will read the keys that an earlier step of the text has stored."""
    layer: Any = getattr(module, "layer_idx", None)
    stored = (updated(value) or {} for value in (*args, *kwargs.values()))
    return any(bool(one.get(layer)) for one in stored)


def device(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
    return next((x.device for x in tensors), torch.device("cpu"))


def ended_by(model: nn.Module) -> list[int]:
    """The token ids that end a text, or fill what is left after its end."""
    found: list[int] = []
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    return found
