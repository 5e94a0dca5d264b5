"""The axes of a map in the JSON text of a recording, their pictures and sounds as its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.forms import Json
from wqkv.maps.axis import Axes, Axis, Find, Parts

#: Takes in a tensor by a name, and returns what stands for it in the JSON text.
Add = Callable[[str, Tensor], Json]
#: The tensor that a JSON value stands for.
Read = Callable[[Any], Tensor]


def write_axes(axes: Axes, add: Add) -> Json:
    """What stands for the axes of a map; a source that is no tensor is left out."""
    return {"queries": _samples(axes.queries(), add), "keys": _samples(axes.keys(), add)}


def _samples(samples: Sequence[Parts] | None, add: Add) -> Json:
    if samples is None:
        return None
    # Most samples have the same axes, which are written once.
    each: list[Parts] = []
    numbers: list[Json] = []
    for parts in samples:
        found = next((n for n, one in enumerate(each) if one is parts), len(each))
        if found == len(each):
            each.append(parts)
        numbers.append(found)
    return {"each": [[_axis(one, add) for one in parts] for parts in each], "samples": numbers}


def _axis(axis: Axis, add: Add) -> Json:
    source: Json = None
    if isinstance(axis.source, Tensor):
        source = {"picture": add("source", axis.source)}
    elif isinstance(axis.source, tuple) and isinstance(axis.source[0], Tensor):
        source = {"samples": add("source", axis.source[0]), "rate": axis.source[1]}
    return {
        "labels": axis.count if axis.numbered else list(axis.labels),
        "grid": axis.grid,
        "seconds": axis.seconds,
        "places": None if axis.places is None else axis.places.tolist(),
        "source": source,
    }


def read_axes(told: Any, read: Read) -> Axes:  # JSON
    """The axes that `write_axes` wrote. Nothing is read before somebody asks for them."""
    told = told or {"queries": None, "keys": None}
    return Axes(_finder(told["queries"], read), _finder(told["keys"], read))


def _finder(told: Any, read: Read) -> Find:  # JSON
    def find() -> Sequence[Parts] | None:
        if told is None:
            return None
        each = [tuple(_made(one, read) for one in parts) for parts in told["each"]]
        return [each[number] for number in told["samples"]]

    return find


def _made(told: Mapping[str, Any], read: Read) -> Axis:  # JSON
    source: Any = told["source"]
    if source is not None:
        source = (
            read(source["picture"])
            if "picture" in source
            else (read(source["samples"]), source["rate"])
        )
    places = told["places"]
    return Axis(
        told["labels"],
        told["grid"],
        told["seconds"],
        source,
        None if places is None else torch.tensor(places, dtype=torch.long, device="cpu"),
    )
