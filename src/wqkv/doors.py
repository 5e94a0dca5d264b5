"""The public doors: each argument is of the kind that its annotation says, or a KindError tells.

`@door` reads the annotations of a function, or of a class's constructor and public methods, at the
first call. From then on the kind of every argument is checked before the function looks at its
value, and a type that passed is remembered. While a graph is traced nothing is checked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import update_wrapper
from numbers import Real
from os import PathLike
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeVar, Union, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.masked import MaskedTensor

from wqkv.errors import KindError, describe

Door = TypeVar("Door", bound=Callable[..., Any])
Fits = Callable[[Any], bool]

_STRIDED = torch.strided
_HOLDS = list, tuple, set, frozenset, range

#: What one of a kind is called, and several of them.
_SAID: dict[object, tuple[str, str]] = {
    int: ("an int", "ints"),
    SupportsIndex: ("an int", "ints"),
    float: ("a number", "numbers"),
    bool: ("a bool", "bools"),
    str: ("a string", "strings"),
    NoneType: ("None", "None"),
    PathLike: ("a path", "paths"),
    Tensor: ("a tensor", "tensors"),
    nn.Module: ("an nn.Module", "nn.Modules"),
}
#: A method that takes one of these is called by our own modules alone, thousands of times per call.
_INSIDE = {"At", "Rect", "Sizes"}


class Kind(NamedTuple):
    """One kind of value that an argument may be of."""

    fits: Fits
    one: str  # how an error names one of them
    many: str  # and several
    by_type: bool = True  # whether the type of a value alone decides
    of: Fits | None = None  # of a list: what each value in it must fit
    from_form: Callable[[Mapping[str, Any]], Any] | None = None  # makes a value of its JSON form


ANYTHING = [Kind(lambda value: True, "anything", "anything")]


class Allowed(dict[type, Fits | None]):
    """The kinds of value that one argument may have, and a memory of the types that were seen.

    The memory maps a type to the check of its values, or to None where every value of the type is
    allowed. So a call costs one look-up of each argument's type.
    """

    def __init__(self, name: str, kinds: list[Kind]) -> None:
        self.name, self.kinds = name, kinds

    def __missing__(self, unknown: type) -> Fits:
        return self.admits  # not remembered: a type that fits is added by `admits`

    def admits(self, value: object) -> bool:
        for kind in self.kinds:
            if kind.fits(value):
                # of a list or a function the type says too little: it is checked each time
                if kind.by_type or kind.fits is _is_plain:
                    self[type(value)] = None if kind.by_type else kind.fits
                return True
        return isinstance(value, Proxy)  # torch.fx records what is done to it

    def from_form(self, value: Any) -> Any:
        """Make the value that a JSON form describes; return any other value unchanged."""
        if isinstance(value, Mapping):
            for kind in self.kinds:
                if kind.from_form is not None:
                    with suppress(KindError):  # it may be of the next kind
                        return kind.from_form(value)
        return value

    def refusal(self, value: object, door: str) -> KindError:
        name, tensors = self.name, any(kind.one == "a tensor" for kind in self.kinds)
        if tensors and isinstance(value, Tensor):
            return KindError(_not_plain(name, value))
        do = f"Pass one to {door}({name}=...)."
        if isinstance(value, Tensor) and any(kind.one == "a number" for kind in self.kinds):
            do = f"Pass `{name}.item()`, its number without a gradient, to {door}."
        elif tensors and hasattr(value, "__array__"):
            do = f"Pass `torch.as_tensor({name})` to {door}."
        elif isinstance(value, int | str) and any(k.of and k.of(value) for k in self.kinds):
            do = f"Pass [{value!r}] to {door}."
        elif any(kind.one == "an nn.Module" for kind in self.kinds):
            do = _instead_of_module(value) or do
        elif isinstance(value, nn.Module) and not tensors:
            do += " `wqkv.watch(model)` takes any nn.Module, and shows its attention."
        return KindError(f"`{name}` is {_one_of(self.kinds)}, not {describe(value)}.\n{do}")


class Signature:
    """What all arguments of a function may be, read from its annotations at its first call."""

    def __init__(self, function: Callable[..., Any], method: bool, name: str) -> None:
        self.function, self.method, self.name = function, method, name
        self.positional: list[Allowed] = []
        self.rest: Allowed | None = None  # of *args
        self.named: dict[str, Allowed] | None = None  # None until they are read

    # The keyword arguments of any function: it is this method that checks their types.
    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise for the first argument of a wrong kind; Python refuses a wrong number or name."""
        named = self._read() if self.named is None else self.named
        for rule, value in zip(self.positional, args):  # noqa: B905
            fits = rule[type(value)]
            if fits is not None and not fits(value):
                raise rule.refusal(value, self._door(args))
        if self.rest is not None:
            for value in args[len(self.positional) :]:
                if not self.rest.admits(value):
                    raise self.rest.refusal(value, self._door(args))
        for name, value in kwargs.items():
            rule = named.get(name, _UNKNOWN)
            fits = rule[type(value)]
            if fits is not None and not fits(value):
                raise rule.refusal(value, self._door(args))

    # The keyword arguments of any function.
    def from_forms(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with a value in place of each JSON form (the dict of a value)."""
        named = self._read() if self.named is None else self.named
        rules = [*self.positional, *[_UNKNOWN] * (len(args) - len(self.positional))]
        return (
            tuple(rule.from_form(value) for rule, value in zip(rules, args)),  # noqa: B905
            {name: named.get(name, _UNKNOWN).from_form(value) for name, value in kwargs.items()},
        )

    def _read(self) -> dict[str, Allowed]:
        positional, named = [], {}
        for i, (name, argument) in enumerate(inspect.signature(self.function).parameters.items()):
            is_self = self.method and i == 0
            rule = Allowed(name, ANYTHING if is_self else _kinds(self._hint(argument.annotation)))
            if argument.kind is argument.VAR_POSITIONAL:
                self.rest = rule
            elif argument.kind is not argument.VAR_KEYWORD:
                named[name] = rule
                if argument.kind is not argument.KEYWORD_ONLY:
                    positional.append(rule)
        # whole and in this order, because another thread may look at the same time
        self.positional = positional
        self.named = named
        return named

    def _hint(self, annotation: object) -> object:
        """The type that an annotation means; Any where it names what is imported for mypy alone."""
        if not isinstance(annotation, str):
            return annotation
        try:
            return eval(annotation, inspect.unwrap(self.function).__globals__)
        except NameError:
            return Any

    def _door(self, args: tuple[Any, ...]) -> str:
        """The name by which a caller knows the function: `Window`, `RoPE.rotate`, `attention`."""
        name = self.name
        if not self.method:
            return name
        owner = args[0] if isinstance(args[0], type) else type(args[0])
        return owner.__name__ if name.startswith("_") else f"{owner.__name__}.{name}"


_UNKNOWN = Allowed("", ANYTHING)  # Python refuses such an argument, or hands it on in **kwargs


def door(it: Door, name: str | None = None) -> Door:
    """Make a function check the kind of each argument first; of a class, all its public methods.

    Args:
        name: what callers know the function by, if not by its own name.
    """
    if not isinstance(it, type):
        method = "." in it.__qualname__.rpartition("<locals>.")[2]
        return _checked(it, method, name)  # type: ignore[return-value]
    for name, given in list(vars(it).items()):
        function = given.__func__ if isinstance(given, classmethod) else given
        if inspect.isfunction(function) and (name == "__init__" or name[0] != "_"):
            # `from __future__ import annotations` makes every annotation a string
            hints = {hint for key, hint in function.__annotations__.items() if key != "return"}
            if hints and not hints & _INSIDE:
                checked = _checked(function, method=True)
                setattr(it, name, checked if function is given else classmethod(checked))
    return it


def _checked(
    function: Callable[..., Any], method: bool, known: str | None = None
) -> Callable[..., Any]:
    signature = Signature(function, method, known or function.__name__)
    compiling = torch.compiler.is_compiling
    makes = method and function.__name__ == "__init__"

    def look(args: Any, kwargs: Any) -> Any:  # a function: torch.compile takes no method here
        if makes and hasattr(args[0], "from_dict"):
            args, kwargs = signature.from_forms(args, kwargs)
        signature.check(args, kwargs)
        return args, kwargs

    def checked(*args: Any, **kwargs: Any) -> Any:
        if not compiling():
            args, kwargs = look(args, kwargs)
        return function(*args, **kwargs)

    # `checked` again, with the globals of the function, by which doctest knows its module
    code, name = checked.__code__, function.__name__
    wrapper = FunctionType(code, function.__globals__, name, None, checked.__closure__)
    update_wrapper(wrapper, function)
    # torch.fx would take the code of the wrapped function for that of the wrapper
    del wrapper.__wrapped__  # type: ignore[attr-defined]
    wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return wrapper


def _kinds(hint: Any) -> list[Kind]:
    """The kinds that an annotation allows."""
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, TypeVar):
        return ANYTHING if hint.__bound__ is None else _kinds(hint.__bound__)
    if origin in (Union, UnionType):
        return [kind for part in parts for kind in _kinds(part)]
    if origin is Literal:
        said, types = " or ".join(map(repr, parts)), tuple(set(map(type, parts)))
        return [Kind(lambda value: isinstance(value, types), said, said)]  # which, says its taker
    if origin is tuple:
        return [_tuple(parts)]
    if origin in (list, Sequence, Collection, Iterable):
        return [_several(origin, _kinds(parts[0]))]
    if origin is Mapping and parts[1] is not Any:
        return [_mapping(*map(_kinds, parts))]
    if origin is Callable:
        return [Kind(callable, "a function", "functions")]
    kind = hint if origin is None else origin
    if not isinstance(kind, type) or kind in (Any, object, inspect.Parameter.empty):  # and Self
        return ANYTHING
    form = getattr(kind, "from_dict", None)
    return [Kind(_fits(kind), *_called(kind), by_type=kind is not Tensor, from_form=form)]


def _fits(kind: type) -> Fits:
    if kind is Tensor:
        return _is_plain
    if kind is int:
        return lambda value: isinstance(value, int | torch.SymInt) and not isinstance(value, bool)
    if kind is SupportsIndex:
        return lambda value: isinstance(value, SupportsIndex) and not isinstance(value, Tensor)
    if kind is float:
        numbers = Real, torch.SymInt, torch.SymFloat
        return lambda value: isinstance(value, numbers) and not isinstance(value, bool)
    return lambda value: isinstance(value, kind)


def _called(kind: type) -> tuple[str, str]:
    if kind in _SAID:
        return _SAID[kind]
    said = getattr(kind, "said", None)
    if isinstance(said, str):
        return said, said
    name = f"torch.{kind.__name__}" if kind in (torch.dtype, torch.device) else kind.__name__
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}", f"{name}s"


def _several(origin: type, of: list[Kind]) -> Kind:
    """A list of some kind, or whatever else the annotation allows; a string is no list.

    The values of a list, a range or an array are checked; those of a generator are not, because
    looking would use them up, and those of another sequence are not, because it may compute them.
    """
    fits = of[0].fits if len(of) == 1 else lambda value: any(kind.fits(value) for kind in of)

    def fit(given: Any) -> bool:
        values: Any = given  # which keeps mypy from narrowing it to an object
        if not isinstance(given, origin) or isinstance(given, str | bytes | Mapping | Tensor):
            return False
        if hasattr(given, "__array__"):
            return getattr(values, "ndim", 1) > 0 and all(map(fits, values))
        return not isinstance(given, _HOLDS) or all(map(fits, values))

    many = " or ".join(kind.many for kind in of)
    return Kind(fit, f"a list of {many}", f"lists of {many}", by_type=False, of=fits)


def _mapping(keys: list[Kind], values: list[Kind]) -> Kind:
    def fit(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            any(kind.fits(a) for kind in keys) and any(kind.fits(b) for kind in values)
            for a, b in value.items()
        )

    said = " to ".join(" or ".join(kind.many for kind in kinds) for kinds in (keys, values))
    return Kind(fit, f"a mapping of {said}", f"mappings of {said}", by_type=False)


def _tuple(parts: tuple[Any, ...]) -> Kind:
    if parts[1:] == (...,):
        return _several(tuple, _kinds(parts[0]))._replace(
            one=f"a tuple of {_kinds(parts[0])[0].many}"
        )
    rules = [_kinds(part) for part in parts]

    def fit(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) == len(rules)
            and all(any(k.fits(x) for k in kinds) for x, kinds in zip(value, rules, strict=True))
        )

    said = f"({', '.join(_one_of(kinds) for kinds in rules)})"
    return Kind(fit, said, said, by_type=False)


def _one_of(kinds: list[Kind]) -> str:
    """`a number, a tensor or None`."""
    *first, last = dict.fromkeys(kind.one for kind in kinds)
    return f"{', '.join(first)} or {last}" if first else last


def _is_plain(value: Any) -> bool:
    """Whether a value is a tensor that holds a number at every place, all of them on this rank."""
    if type(value) is not Tensor and (
        not isinstance(value, Tensor)
        or isinstance(value, MaskedTensor)
        or hasattr(value, "full_tensor")
    ):
        return False
    return value.layout is _STRIDED and not (value.is_nested or value.is_quantized)


def _instead_of_module(value: object) -> str | None:
    """What to pass where a model is wanted, if what came leads to one."""
    if isinstance(value, str):
        return f"Pass the model itself, such as transformers.AutoModel.from_pretrained({value!r})."
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"Pass a model of this class, as {value.__name__}(...) makes it."
    if isinstance(value, Mapping) and value and all(map(torch.is_tensor, value.values())):
        return "Load these weights into the model that they belong to, and pass that."
    if isinstance(getattr(value, "__self__", None), nn.Module):
        return "Pass the model itself, whose method this is."
    held = [
        name for name, part in getattr(value, "__dict__", {}).items() if isinstance(part, nn.Module)
    ]
    return f"Pass a model that it holds: its {' or '.join(held)}." if held else None


def check_tensor(name: str, value: object) -> None:
    """Raise unless a value is a tensor that holds a number at every place, all on this rank."""
    if not _is_plain(value):
        raise Allowed(name, _kinds(Tensor)).refusal(value, "it")


def _not_plain(name: str, value: Tensor) -> str:
    if value.is_nested:
        return (
            f"`{name}` is a nested tensor, whose samples have lengths of their own.\n"
            f"Pass `{name}.to_padded_tensor(0.0)`, and a mask that hides the padding."
        )
    if isinstance(value, MaskedTensor):
        return (
            f"`{name}` is a masked tensor.\n"
            f"Pass `{name}.to_tensor(0.0)`, and what it hides as a mask."
        )
    if hasattr(value, "full_tensor"):
        return (
            f"`{name}` is a DTensor, which lies on several ranks.\n"
            f"Pass this rank's part, `{name}.to_local()`."
        )
    if value.is_quantized:
        return f"`{name}` is quantized, {value.dtype}.\nPass `{name}.dequantize()`."
    layout = str(value.layout).removeprefix("torch.")
    return f"`{name}` is a tensor with the layout {layout}.\nPass `{name}.to_dense()`."
