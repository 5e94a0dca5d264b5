"""The modules of a model: which are attention, of what kind, and how one is called."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from wqkv.record.inputs.moment import OTHER_TEXTS
from wqkv.upstream.of_torch import is_compiled
from wqkv.upstream.of_transformers import updated

#: What a layer looks at, in this order: a whole text, a text while it is written, or another text
#: or picture.
AttentionKind = Literal["encoder", "decoder", "cross"]

_CROSS = re.compile(r"cross|encoder_attn|encdec|enc_dec|encoder_decoder", re.IGNORECASE)
#: The arguments by which models are given token ids, the decoder's first.
_TOKEN_IDS = ("decoder_input_ids", "input_ids")


class ModuleCall(NamedTuple):
    """One call of a module, as its hooks are told."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]  # keyword arguments of each model's own code

    def given(self) -> dict[str, Any]:
        """All arguments by name, also those that were passed by position."""
        if not self.args:
            return self.kwargs
        try:
            bound = _signature(self.module.forward).bind_partial(*self.args, **self.kwargs)
        except (TypeError, ValueError):
            return self.kwargs
        return {**bound.arguments.pop("kwargs", {}), **bound.arguments}

    @property
    def reads_other_text(self) -> bool:
        """Whether it was given another text than its own to look at."""
        given = self.given()
        if isinstance(self.module, nn.MultiheadAttention):
            return given.get("key") is not given.get("query")
        return any(given.get(name) is not None for name in OTHER_TEXTS)

    @property
    def joint_len(self) -> int:
        """How many tokens its own text, which it is given first, and the other have together."""
        given = self.given()
        own = next(iter(given.values()), None)
        texts = {id(x): x for x in (own, *(given.get(name) for name in OTHER_TEXTS))}
        return sum(x.shape[1] for x in texts.values() if isinstance(x, Tensor) and x.ndim == 3)

    @property
    def reads_other_keys(self) -> bool:
        """Whether keys are made of another tensor than queries: of our own layers, and torch's."""
        given = self.given()
        pairs = ((given.get("Q"), given.get("K")), (given.get("query"), given.get("key")))
        return any(key is not None and key is not query for query, key in pairs)

    @property
    def token_ids(self) -> Tensor | None:
        """The token ids (batch, length) that it was given, if any."""
        given = self.given()
        ids = next((given[name] for name in _TOKEN_IDS if name in given), None)
        return ids if isinstance(ids, Tensor) and ids.ndim == 2 else None

    def finds_stored_keys(self) -> bool:
        """Whether cross-attention will read keys that an earlier step of the text has stored."""
        layer: Any = getattr(self.module, "layer_idx", None)
        stored = (updated(value) or {} for value in (*self.args, *self.kwargs.values()))
        return any(bool(one.get(layer)) for one in stored)


def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    """The signature of a method, which is the same for all modules of a class."""
    function = getattr(forward, "__func__", None)
    if function is None or not hasattr(forward, "__self__"):
        return inspect.signature(forward)
    return _signature_of(function)


@functools.lru_cache(1000)
def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function without its first argument, the module."""
    found = inspect.signature(function)
    return found.replace(parameters=[*found.parameters.values()][1:])


def compiled(model: nn.Module) -> set[nn.Module]:
    """The modules that run compiled, where no hook sees them: a compiled one and all inside it."""
    return {
        inner for module in model.modules() if is_compiled(module) for inner in module.modules()
    }


def reached(function: object, model: nn.Module, depth: int = 3) -> set[nn.Module]:
    """The modules of a model that a function may run, because what it names leads to them.

    That is followed for `depth` steps, such as function -> closure -> server -> model.
    """
    own = set(model.modules())
    found, seen, level = set[nn.Module](), set[int](), list[object]([function])
    for _ in range(depth + 1):
        level = [one for one in level if id(one) not in seen]
        seen.update(map(id, level))
        for one in level:
            if isinstance(one, nn.Module):
                found |= own & set(one.modules())
        level = [other for one in level for other in islice(_named_in(one), 1000)]
    return found


def _named_in(one: object) -> Iterator[object]:
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


def kind_of(name: str, module: nn.Module) -> AttentionKind | None:
    """What a layer looks at, by the names of its module; None if they do not tell."""
    if _CROSS.search(f"{name} {type(module).__name__}"):
        return "cross"
    found = re.findall(r"encoder|decoder|vision|visual", name)
    if found:
        return "decoder" if found[-1] == "decoder" else "encoder"
    causal = getattr(module, "is_causal", None)
    return None if causal is None else "decoder" if causal else "encoder"


def ended_by(model: nn.Module) -> list[int]:
    """The token ids that end a text, or fill what is left after its end."""
    found: list[int] = []
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    return found
