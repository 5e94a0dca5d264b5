"""A recording in a file: q, k, the rules and lse of every run, beside what its report said.

It is one safetensors file, whose metadata is one JSON text, `recording`: the format's number, the
names, states and reasons of the layers, the proofs, masks and biases in the form that
attend/forms.py makes, and a digest of all that. Where a tensor belongs, the text has the name of
one in the file, and its checksum.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from wqkv.attend.call import Call, request
from wqkv.attend.forms import Json, read, write
from wqkv.attend.rules import Rules
from wqkv.errors import ArgumentError, MissedError, WqkvError, describe, need
from wqkv.files import written_whole
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.proof import Proof
from wqkv.maps.weights import Weights
from wqkv.record.backward import Backward
from wqkv.record.kept_axes import read_axes, write_axes
from wqkv.record.layer_runs import State
from wqkv.record.modules import AttentionKind
from wqkv.record.run import Run, Statistics
from wqkv.record.texts import sample_with

#: Changes whenever an older wqkv could not read a file, or would read it wrongly.
FORMAT = 1
#: What needs the package `safetensors`.
PURPOSE = "A recording in a file"


class KeptLayer(NamedTuple):
    """One attention layer: what `Seen.layers` says of it, and the runs that have maps."""

    name: str
    kind: AttentionKind
    state: State
    reason: str
    runs: Sequence[AnsweringRun]


class KeptThread(NamedTuple):
    """What one thread ran of the model: what its `Seen` knows."""

    name: str
    report: str
    layers: Sequence[KeptLayer]
    text: Tensor | None  # the token ids of the last text, (batch, length)
    ends: Sequence[int]  # the token ids that end a text
    path: None = None  # what stands behind the heads is modules, which a file does not hold

    def settle(self) -> None:
        """Nothing waits to be settled, as it may in a `Listener`."""

    def sample_of(self, ids: list[int]) -> int:
        """Which sample of the last text holds these token ids: see `Seen.sample_of`."""
        cross = [one.runs[-1].map() for one in self.layers if one.kind == "cross" and one.runs]
        sources = [m._numbers.given.key for m in cross if isinstance(m, AttentionMap)]
        return sample_with(ids, self.text, self.ends, sources)


class KeptModel(NamedTuple):
    """All that a file holds: the class of the model, and what each thread ran of it."""

    name: str
    threads: Sequence[KeptThread]
    values: bool  # whether v, the outputs and their gradients were kept


# Writing


class _Tensors:
    """The tensors that a file will have, by name, each once: all layers may share a mask."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self._known: dict[object, dict[str, Json]] = {}
        self._held: list[Tensor] = []  # so that no other tensor gets the place of one in memory

    def add(self, name: str, x: object) -> Json:
        """Take in a tensor, and return what stands for it in the JSON text."""
        if not isinstance(x, Tensor):
            return write(x)  # raises, and says why it has no form
        x = x.detach()
        place = (x.device, x.data_ptr(), x.dtype, x.shape, x.stride())
        if place not in self._known:
            # An axis that is repeated, as that of a bias for all rows, is kept once.
            once = x[tuple(slice(1) if step == 0 else slice(None) for step in x.stride())]
            # A copy, because safetensors refuses tensors that share memory. The copy keeps the
            # order in which the axes lie in memory, because a matrix product sums in that order,
            # and another order rounds to other bits.
            axes = [*range(x.ndim)]
            if not once.is_contiguous():
                axes.sort(key=once.stride().__getitem__, reverse=True)
            once = once.permute(axes).to("cpu", copy=True, memory_format=torch.contiguous_format)
            while name in self.named:
                name += "+"
            self.named[name] = once
            self._known[place] = {
                "tensor": name,
                "axes": [axes.index(axis) for axis in range(x.ndim)],
                "shape": [*x.shape],
                "sum": _sum(once),
            }
            self._held.append(x)
        return self._known[place]


def write_recording(path: str | PathLike[str], kept: KeptModel) -> None:
    """Write a file that `read_recording` reads, whole or not at all.

    Raises:
        ArgumentError: it cannot be written, or a tensor was changed in place since it was kept.
        KindError: a mask or bias of a user's own class that has no form.
        MissedError: values are asked for, and no run has any.
    """
    safetensors: Any = need("safetensors", "hf", PURPOSE)
    writer: Any = need("safetensors.torch", "hf", PURPOSE)
    need("numpy", "hf", PURPOSE)  # by which safetensors takes the numbers of a tensor
    runs = (run for one in kept.threads for layer in one.layers for run in layer.runs)
    if kept.values and not any(run.backward for run in runs):
        raise MissedError(
            f"v of {kept.name} was not kept, and `values` is True.\n"
            "Watch it with gradients=True, which keeps no v of what is heard at its operators, or "
            "save it without values."
        )
    tensors = _Tensors()
    threads = [
        _thread(tensors, f"thread.{n}", one, kept.values) for n, one in enumerate(kept.threads)
    ]
    told: dict[str, Json] = {
        "format": FORMAT,
        "wqkv": _version(),
        "model": kept.name,
        "values": kept.values,
        "threads": threads,
    }
    metadata = {"recording": json.dumps(told | {"digest": _digest(told)})}
    try:
        # as torch.save does, write to where a link leads
        with written_whole(Path(path).resolve()) as unfinished:
            writer.save_file(tensors.named, unfinished, metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArgumentError(f"{str(path)!r} cannot be written: {_reason(error)}.") from error


def _thread(tensors: _Tensors, name: str, one: KeptThread, values: bool) -> Json:
    return {
        "name": one.name,
        "report": one.report,
        "text": None if one.text is None else tensors.add(f"{name}.text", one.text),
        "ends": [*one.ends],
        "layers": [
            _layer(tensors, f"{name}.layer.{n}", n, layer, values)
            for n, layer in enumerate(one.layers)
        ],
    }


def _layer(tensors: _Tensors, name: str, number: int, layer: KeptLayer, values: bool) -> Json:
    try:
        runs = [_run(tensors, f"{name}.run.{n}", run, values) for n, run in enumerate(layer.runs)]
    except WqkvError as error:
        raise type(error)(f"Layer {number}, {layer.name}, cannot be saved.\n{error}") from error
    return {**layer._asdict(), "runs": runs}


def _run(tensors: _Tensors, name: str, run: AnsweringRun, values: bool) -> Json:
    found = run.map()
    told: dict[str, Json] = {
        "shape": [*found.shape],
        "proof": None if run.proof is None else asdict(run.proof),
    }
    if isinstance(found, Statistics):
        numbers = {"entropy": found.entropy(), "received": found.received()}
    else:
        P = found._numbers
        numbers = {"query": P.given.query, "key": P.given.key, "lse": found.lse}
        told["open"] = P.open
        told["axes"] = write_axes(found._axes, lambda part, x: tensors.add(f"{name}.{part}", x))
        told["rules"] = {
            field.name: write(
                getattr(P.given.rules, field.name), partial(tensors.add, f"{name}.{field.name}")
            )
            for field in fields(Rules)
        }
    if values:
        told["without_effects"] = run.without_effects
        if (one := run.backward) is not None:
            parts = {"value": one.value, "output": one.output, "gradient": one.gradient}
            numbers |= {part: x for part, x in parts.items() if x is not None}
    return told | {part: tensors.add(f"{name}.{part}", x) for part, x in numbers.items()}


# Reading


class _File:
    """An open file: tensors by what stands for them in its JSON text, onto one device."""

    def __init__(self, path: str | PathLike[str], device: torch.device) -> None:
        safetensors: Any = need("safetensors", "hf", PURPOSE)
        self.path, self.device = str(path), device
        self._whole: set[str] = set()  # tensors whose numbers were found to be as they were saved
        try:
            self._opened = safetensors.safe_open(self.path, framework="pt")
        except Exception as error:  # whatever a file of any kind makes it raise
            raise ArgumentError(
                f"{self.path!r} is no whole safetensors file: {_reason(error)}.\n"
                "Pass a file that `Seen.save` wrote; if it was copied, copy it again."
            ) from error

    def told(self) -> dict[str, Any]:  # JSON
        """The JSON text."""
        metadata = self._opened.metadata() or {}
        if "recording" not in metadata:
            raise ArgumentError(
                f"{self.path!r} is a safetensors file, and no recording.\n"
                "Pass a file that `Seen.save` wrote."
            )
        with self.reading():
            told: dict[str, Any] = json.loads(metadata["recording"])  # JSON
            newer = told["format"] > FORMAT
            if not newer and told.pop("digest") != _digest(told):
                raise ValueError("its metadata are not those that were saved")
        if newer:
            raise ArgumentError(
                f"{self.path!r} is a recording of format {told['format']}, and this wqkv, "
                f"{_version()}, reads format {FORMAT}.\n"
                f"Install wqkv {told['wqkv']}, which wrote it, or a later one."
            )
        return told

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Say of whatever goes wrong in reading that the file is damaged."""
        try:
            yield
        except WqkvError as error:  # the text is as it was saved, so it is not damaged
            raise ArgumentError(
                f"A map of {self.path!r} cannot be made.\n{error}\n"
                "If its mask or bias is of a class of your own, import that class first."
            ) from error
        except Exception as error:  # whatever a damaged file can raise
            raise ArgumentError(
                f"{self.path!r} is a damaged recording: {_reason(error)}.\n"
                "Copy it again from where it was made, or save it again."
            ) from error

    def tensor(self, form: Mapping[str, Any]) -> Tensor:  # JSON
        """The tensor that a JSON value stands for."""
        name = form["tensor"]
        x: Tensor = self._opened.get_tensor(name)
        if name not in self._whole:
            if _sum(x) != form["sum"]:
                raise ValueError(f"the numbers of {name} are not those that were saved")
            self._whole.add(name)
        try:
            # A copy into aligned memory. A tensor in the file may begin at any address, and torch's
            # matrix product rounds to other bits where memory is not aligned.
            x = x.to(self.device, copy=True)
        except (RuntimeError, TypeError, AssertionError) as error:  # no room, no such dtype
            raise ArgumentError(
                f"{describe(x)} cannot be put on {self.device}: {_reason(error)}.\n"
                "Load it with another `device`, such as 'cpu'."
            ) from error
        return x.permute(form["axes"]).expand(form["shape"])


class _KeptWeights(Weights):
    """Weights whose lse was kept. It is taken where lse would be computed, and nowhere else.

    So every number is computed as it was before the map was saved, and has the same bits.
    """

    def __init__(self, given: Call, kept: Tensor) -> None:
        super().__init__(given)
        self._kept = kept

    @property
    def lse(self) -> Tensor:
        if self.known is None:
            self.known = self._kept
        return self.known


class KeptRun:
    """A run out of a file. Its map is made when it is asked for."""

    refused = None  # a run that was refused has no map, and is not kept

    def __init__(self, file: _File, told: dict[str, Any]) -> None:  # JSON
        self._file, self._told = file, told
        batch, n_head, query_len, key_len = told["shape"]
        self.shape: tuple[int, int, int, int] = batch, n_head, query_len, key_len
        self.proof = None if told["proof"] is None else Proof(**told["proof"])
        self.without_effects: str | None = told.get("without_effects")

    def map(self) -> AttentionMap | Statistics:
        """The map of the run."""
        told, tensor = self._told, self._file.tensor
        with self._file.reading():
            if "entropy" in told:
                return Statistics(tensor(told["entropy"]), tensor(told["received"]), self.shape)
            query, key, lse = (tensor(told[name]) for name in ("query", "key", "lse"))
            with warnings.catch_warnings():
                # Dense warns of empty rows, which padding makes rightly.
                warnings.simplefilter("ignore", UserWarning)
                rules = {name: read(form, tensor) for name, form in told["rules"].items()}
            call = request(query, key, key, **rules)
            found = map_of(call, lse if told["open"] else None)
            if not told["open"]:
                found._numbers = _KeptWeights(call, lse)
            return found._with(read_axes(told.get("axes"), self._source))

    def _source(self, form: Mapping[str, Any]) -> Tensor:  # JSON
        """A picture or a sound that the model was given."""
        with self._file.reading():
            return self._file.tensor(form)

    @property
    def backward(self) -> Backward | None:
        """v, the heads' outputs and their gradients, if they were kept."""
        told = self._told
        if "value" not in told:
            return None
        with self._file.reading():
            value, output, gradient = (
                self._file.tensor(told[name]) if name in told else None
                for name in ("value", "output", "gradient")
            )
            assert output is not None
            made = Backward(output, learns=True)
            made.value, made.output, made.gradient = value, output, gradient
            return made


#: A run of a watch, or one out of a file: both answer the same.
AnsweringRun: TypeAlias = Run | KeptRun


def read_recording(path: str | PathLike[str], device: torch.device) -> KeptModel:
    """Read what `write_recording` wrote: its tensors are read when a map is asked for.

    Raises:
        ArgumentError: no such file, none of ours, a damaged one, or one of a later format.
    """
    file = _File(path, device)
    told = file.told()
    with file.reading():
        threads = [
            KeptThread(
                one["name"],
                one["report"],
                [
                    KeptLayer(**{**layer, "runs": [KeptRun(file, run) for run in layer["runs"]]})
                    for layer in one["layers"]
                ],
                None if one["text"] is None else file.tensor(one["text"]),
                one["ends"],
            )
            for one in told["threads"]
        ]
        return KeptModel(told["model"], threads, told["values"])


def _sum(x: Tensor) -> int:
    """The sum of its bytes, eight at a time, which tells of damaged numbers."""
    raw = x.reshape(-1).view(torch.uint8)
    whole = len(raw) // 8 * 8
    return int(raw[:whole].view(torch.int64).sum() + raw[whole:].sum())


def _digest(told: Json) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _version() -> str:
    """That of wqkv; by name, because the package imports this module."""
    version: str = import_module("wqkv").__version__
    return version


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
