"""The JSON form of a value, and the value of a JSON form: {"type": "Window", "before": 511, ...}.

A form is the value's type and the arguments that make it again. `write` and `read` go both ways.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Self, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.upstream.of_torch import constant

#: The most numbers of a tensor that a form writes out.
LARGEST = 2**16

#: What the module `json` reads and writes.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

_Kind = TypeVar("_Kind", bound=type)


class Form:
    """A value with a JSON form, such as {"type": "Window", "before": 511, "after": 0}.

    A class of your own has a form too, if it names its constructor's arguments, which are also its
    attributes, in `__match_args__`; a dataclass has `__match_args__` already, and is decorated with
    `tagged`.

    Two values without tensors are equal if their fields are. A value with a tensor is equal to
    itself alone, because comparing numbers would wait for a GPU; compare the forms instead.
    """

    # JSON, here and below: an argument may be of any type that its constructor checks.
    def arguments(self) -> dict[str, Any]:
        """The arguments that make this value again: its fields, unless a class says otherwise.

        Raises:
            KindError: the class names no fields.
        """
        return {name: getattr(self, name) for name in fields(type(self))}

    def to_dict(self) -> dict[str, Any]:  # JSON
        """Return the type and arguments as plain values, for `json.dumps`.

        A tensor is written as {"dtype", "shape", "values"}, with "learned": true if it is a
        parameter. A tensor on the meta device has no values; `from_dict` makes a parameter of zeros
        of it, for a checkpoint to fill.

        Raises:
            KindError: an argument has no form.
            ArgumentError: a tensor has more than LARGEST numbers.

        >>> from wqkv import Causal, Chunked
        >>> (Causal() & ~Chunked(4)).to_dict()["b"]
        {'type': 'Not', 'inner': {'type': 'Chunked', 'size': 4}}
        """
        return _form(self, None)

    @classmethod
    @door  # JSON
    def from_dict(cls, form: Mapping[str, Any] | Form) -> Self:
        """Make the value of a form, of this class or a subclass; its constructor checks it.

        Raises:
            ArgumentError, KindError: it is no form of such a value.
        """
        made = read(form) if isinstance(form, Mapping) else form
        if not isinstance(made, cls):
            raise KindError(f"A form of {cls.__name__} is asked for, not of {describe(made)}.")
        return made

    @classmethod
    def _of_fields(cls, values: list[Any]) -> Self:
        """Make a value of its fields, which were checked before and are not checked again."""
        made = cls.__new__(cls)
        for name, value in zip(fields(cls), values, strict=True):
            object.__setattr__(made, name, value)
        return made


def tagged(kind: _Kind) -> _Kind:
    """Give a dataclass a field "type", so that `dataclasses.asdict` names its type as a form does.

    The mixin of huggingface_hub writes dataclasses by `asdict`, which would write {} for Causal().
    """
    kind.__annotations__ = {**inspect.get_annotations(kind), "type": "str"}
    kind.type = field(default=kind.__name__, kw_only=True, repr=False, compare=False)  # type: ignore[attr-defined]
    return kind


def fields(kind: type) -> tuple[str, ...]:
    """The names of the fields by which the values of a type differ.

    Raises:
        KindError: the type names none, so that what its values hold would be lost.
    """
    names: tuple[str, ...] | None = own_fields(kind)
    if names is None:
        raise KindError(
            f"{kind.__name__} has no form.\nName the arguments of its constructor, which are also "
            "its attributes, in `__match_args__`."
        )
    return names


@constant
def own_fields(kind: type) -> tuple[str, ...] | None:
    """The fields that a type itself names; those of its base would leave out what it adds."""
    return vars(kind).get("__match_args__")


@constant
def parts(kind: type) -> tuple[str, ...] | None:
    """The fields by which a value of one of wqkv's own types can be taken apart and put together.

    None for a type of anybody else, which may keep more than its fields.
    """
    return own_fields(kind) if kind.__module__.startswith("wqkv.") else None


def find(name: Json, base: type = Form) -> type[Any]:
    """Find the class of this name among `base` and the classes that derive from it.

    Raises:
        ArgumentError: there is no such class.
    """
    known: dict[str, type] = {}
    for kind in _below(base):
        known.setdefault(kind.__name__, kind)  # of two classes of one name, the first defined
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


def write(value: object, other: Callable[[object], Json] | None = None) -> Json:
    """A value as JSON.

    Args:
        other: writes what is neither a plain value nor a form; None writes tensors, and raises for
            anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [write(part, other) for part in value]
    if isinstance(value, dict):
        return {name: write(part, other) for name, part in value.items()}
    if isinstance(value, Form):
        try:
            return _form(value, other)
        except KindError:
            if other is None:
                raise
    return (other or _checked_tensor)(value)


def _form(value: Form, other: Callable[[object], Json] | None) -> dict[str, Json]:
    arguments = {name: write(part, other) for name, part in value.arguments().items()}
    return {"type": type(value).__name__, **arguments}


def _checked_tensor(value: object) -> Json:
    if not isinstance(value, Tensor):
        raise KindError(f"There is no form of {describe(value)}.\nPass a value that JSON knows.")
    if not value.is_meta and value.numel() > LARGEST:
        raise ArgumentError(
            f"{describe(value)} has {value.numel()} numbers, and a form holds {LARGEST} at most.\n"
            "Keep it in a file of its own, or make it a parameter on the meta device, which a "
            "checkpoint fills."
        )
    return _tensor(value) if value.is_meta else _tensor_with_values(value)


def _tensor(x: Tensor) -> dict[str, Json]:
    form: dict[str, Json] = {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape)}
    return form | ({"learned": True} if isinstance(x, nn.Parameter) or x.is_meta else {})


def _tensor_with_values(x: Tensor) -> dict[str, Json]:
    numbers = x.detach().flatten().tolist()
    # JSON has no infinity and no NaN: they are written as strings
    return {**_tensor(x), "values": [n if math.isfinite(n) else str(n) for n in numbers]}


def outline(value: object) -> Json:
    """A form that can always be made, to be compared by `alike`.

    It leaves out the numbers of a tensor that are learned, too many, or on another device.
    """

    def other(value: object) -> Json:
        if not isinstance(value, Tensor):
            return {"type": type(value).__name__}
        near = type(value) is Tensor and value.device.type == "cpu" and value.numel() <= LARGEST
        return _tensor_with_values(value) if near else _tensor(value)

    return write(value, other)


def read(
    value: Json, other: Callable[[Mapping[str, Json]], object] | None = None
) -> Any:  # Any: the value of any type that has a form
    """The value of a form; a plain value is returned as it is, and a list as a tuple.

    Args:
        other: reads what the `other` of `write` wrote: a mapping that names no type.

    Raises:
        ArgumentError, KindError: a form of no known type, or with fields that cannot be.
    """
    if isinstance(value, list):
        return tuple(read(part, other) for part in value)
    if not isinstance(value, Mapping):
        return value
    if "dtype" in value:
        return _read_tensor(value)
    if "type" not in value:
        if other is not None:
            return other(value)
        raise ArgumentError(f'A form names its "type", and this has none: {describe(value)}.')
    kind = find(value["type"])
    given = {name: read(part, other) for name, part in value.items() if name != "type"}
    try:
        return kind(**given)
    except KindError:
        raise
    except TypeError as error:  # an argument is missing, or is none of the constructor's
        raise ArgumentError(
            f"This is no form of {kind.__name__}: {error}.\n"
            f"  it has: {', '.join(given) or 'none'}\n"
            f"Its arguments are {inspect.signature(kind)}."
        ) from error


def _read_tensor(form: Mapping[str, Json]) -> Tensor:
    dtype = getattr(torch, str(form["dtype"]), None)
    # Any: checked here, entry by entry
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
    if values is None:  # a checkpoint fills it: made on the default device, as any parameter
        return nn.Parameter(torch.zeros(shape, dtype=dtype, device=None))
    numbers = [float(x) if isinstance(x, str) else x for x in values]
    x = torch.tensor(numbers, dtype=dtype, device="cpu").view(shape)
    return nn.Parameter(x) if form.get("learned") else x


def alike(a: Json, b: Json) -> bool:
    """Whether two forms agree in all that both of them say; numbers agree to six digits."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        both = (a.keys() & b.keys()) - {"dtype"}  # a layer may have been moved to another dtype
        return all(alike(a[name], b[name]) for name in both)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) or isinstance(b, float):
        if not (isinstance(a, int | float) and isinstance(b, int | float)):
            return False
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)
