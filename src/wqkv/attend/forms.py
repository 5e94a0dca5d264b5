"""The JSON form of a value: its type, and the fields that tell it apart; and the value again."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.upstream.of_torch import constant

#: The most numbers of a tensor that a form writes out.
LARGEST = 2**16

_Kind = TypeVar("_Kind", bound=type)


class Form:
    """A value with a JSON form: {"type": "Window", "before": 511, "after": 0}.

    A class names the fields that tell its values apart in `__match_args__`; a dataclass has that
    already, and is marked with `tagged`. So a class of your own has a form too. What has no tensor
    compares by value; what has one, by identity, because a comparison would wait for a GPU: compare
    the forms.
    """

    def arguments(self) -> dict[str, Any]:
        """What its constructor takes to make it again: the fields, unless a class says otherwise.

        Raises:
            KindError: the class names no fields.
        """
        return {name: getattr(self, name) for name in fields(type(self))}

    def to_dict(self) -> dict[str, Any]:
        """Its type and arguments as plain values, for `json.dumps`.

        A tensor is {"dtype", "shape", "values"}, with "learned": true if it is a parameter. On the
        meta device it has no values, and `from_dict` gives a parameter of zeros to be filled.

        Raises:
            KindError: something in it has no form.
            ArgumentError: a tensor has more than LARGEST numbers.

        >>> from wqkv import Causal, Chunked
        >>> (Causal() & ~Chunked(4)).to_dict()["b"]
        {'type': 'Not', 'inner': {'type': 'Chunked', 'size': 4}}
        """
        written: dict[str, Any] = write(self)
        return written

    @classmethod
    @door
    def from_dict(cls, form: Mapping[str, Any] | Form) -> Self:
        """The value of a form, checked as its constructor checks; it may be of a subclass.

        Raises:
            ArgumentError, KindError: it is no form of such a value.
        """
        made = read(form) if isinstance(form, Mapping) else form
        if not isinstance(made, cls):
            raise KindError(f"A form of {cls.__name__} is asked for, not of {describe(made)}.")
        return made

    @classmethod
    def _of_fields(cls, values: list[Any]) -> Self:
        """The value again from its fields, which are not checked twice."""
        made = cls.__new__(cls)
        for name, value in zip(fields(cls), values, strict=True):
            object.__setattr__(made, name, value)
        return made


def tagged(kind: _Kind) -> _Kind:
    """For a dataclass, whose `asdict` then names its type as its form does.

    Whoever writes a dataclass down by `dataclasses.asdict`, as the mixin of huggingface_hub does,
    would else write {} for Causal().
    """
    kind.__annotations__ = {**inspect.get_annotations(kind), "type": "str"}
    kind.type = field(default=kind.__name__, kw_only=True, repr=False, compare=False)  # type: ignore[attr-defined]
    return kind


def fields(kind: type) -> tuple[str, ...]:
    """The names of the fields that tell the values of a type apart.

    Raises:
        KindError: it names none, and what it holds would be lost.
    """
    names: tuple[str, ...] | None = named(kind)
    if names is None:
        raise KindError(
            f"{kind.__name__} has no form.\nName the arguments of its constructor, which are also "
            "its attributes, in `__match_args__`."
        )
    return names


@constant
def named(kind: type) -> tuple[str, ...] | None:
    """The fields that a type itself names: those of a base would leave out what it adds."""
    return vars(kind).get("__match_args__")


@constant
def parts(kind: type) -> tuple[str, ...] | None:
    """The fields by which a value can be taken apart and put together: of our own types alone.

    Another's type may keep what follows from its fields in other places.
    """
    return named(kind) if kind.__module__.startswith("wqkv.") else None


def find(name: str, base: type = Form) -> type[Any]:
    """The type of a name: `base` or a subclass.

    Raises:
        ArgumentError: there is none.
    """
    known: dict[str, type] = {}
    for kind in _below(base):
        known.setdefault(kind.__name__, kind)
    if not isinstance(name, str) or name not in known:
        raise ArgumentError(
            f"There is no {base.__name__} of type {name!r}.\n"
            f"These are known: {', '.join(sorted(known))}."
        )
    return known[name]


def _below(base: type[Any]) -> Iterator[type[Any]]:
    yield base
    for kind in base.__subclasses__():
        yield from _below(kind)


def write(value: Any, other: Callable[[Any], Any] | None = None) -> Any:
    """A value as JSON has it; `other` writes what is no plain value (None: tensors, or raise)."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [write(part, other) for part in value]
    if isinstance(value, dict):
        return {name: write(part, other) for name, part in value.items()}
    if isinstance(value, Form):
        try:
            parts = {name: write(part, other) for name, part in value.arguments().items()}
            return {"type": type(value).__name__, **parts}
        except KindError:
            if other is None:
                raise
    return (other or _numbers)(value)


def _numbers(value: Any) -> dict[str, Any]:
    if not isinstance(value, Tensor):
        raise KindError(f"There is no form of {describe(value)}.\nPass a value that JSON knows.")
    if not value.is_meta and value.numel() > LARGEST:
        raise ArgumentError(
            f"{describe(value)} has {value.numel()} numbers, and a form holds {LARGEST} at most.\n"
            "Keep it in a file of its own, or make it a parameter on the meta device, which a "
            "checkpoint fills."
        )
    return _tensor(value, not value.is_meta)


def _tensor(x: Tensor, values: bool) -> dict[str, Any]:
    form: dict[str, Any] = {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape)}
    if values:
        numbers = x.detach().flatten().tolist()
        form["values"] = [x if math.isfinite(x) else str(x) for x in numbers]
    return form | ({"learned": True} if isinstance(x, nn.Parameter) or x.is_meta else {})


def outline(value: Any) -> Any:
    """A form that can always be made: without the numbers that are learned, many, or far away."""

    def other(value: Any) -> dict[str, Any]:
        if not isinstance(value, Tensor):
            return {"type": type(value).__name__}
        near = type(value) is Tensor and value.device.type == "cpu" and value.numel() <= LARGEST
        return _tensor(value, near)

    return write(value, other)


def read(value: Any) -> Any:
    """The value that a form stands for; what is no form is itself.

    Raises:
        ArgumentError, KindError: it is a form of nothing known, or its fields cannot be.
    """
    if isinstance(value, list):
        return tuple(read(part) for part in value)
    if not isinstance(value, Mapping):
        return value
    if "dtype" in value:
        return _read_tensor(value)
    if "type" not in value:
        raise ArgumentError(f'A form names its "type", and this has none: {describe(value)}.')
    kind = find(value["type"])
    given = {name: read(part) for name, part in value.items() if name != "type"}
    try:
        return kind(**given)
    except KindError:
        raise
    except TypeError as error:  # an argument that is missing, or that it does not have
        raise ArgumentError(
            f"This is no form of {kind.__name__}: {error}.\n"
            f"  it has: {', '.join(given) or 'none'}\n"
            f"Its arguments are {inspect.signature(kind)}."
        ) from error


def _read_tensor(form: Mapping[str, Any]) -> Tensor:
    dtype: Any = getattr(torch, str(form["dtype"]), None)
    shape: Any = form.get("shape")
    values: Any = form.get("values")
    sized = isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)
    filled = sized and (
        form.get("learned") is True
        if values is None
        else isinstance(values, list) and len(values) == math.prod(shape)
    )
    if not isinstance(dtype, torch.dtype) or not filled:
        raise ArgumentError(
            f"This is no form of a tensor: {describe(dict(form))}.\nIt has a dtype, a shape and as "
            "many values; a learned one may have no values."
        )
    if values is None:  # a parameter that a checkpoint fills: on the default device, as any other
        return nn.Parameter(torch.zeros(shape, dtype=dtype, device=None))
    numbers = [float(x) if isinstance(x, str) else x for x in values]
    x = torch.tensor(numbers, dtype=dtype, device="cpu").view(shape)
    return nn.Parameter(x) if form.get("learned") else x


def alike(a: Any, b: Any) -> bool:
    """Whether two forms say the same, as far as both say it; numbers to six digits."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        both = (a.keys() & b.keys()) - {"dtype"}
        return all(alike(a[name], b[name]) for name in both)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return numbers and math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)
