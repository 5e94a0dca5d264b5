"""What a person names that does not open here, and the Python by which it is watched instead."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from wqkv.errors import ArgumentError, watch_instead
from wqkv.layer.convert.checkpoint import PICKLED, read_json, tensors_file
from wqkv.sentences.errors import mistake, one_of

#: Files of weights by their suffix: what is imported, and what reads them.
_WEIGHTS = {
    ".safetensors": ("safetensors.torch", "safetensors.torch.load_file({})"),
    **dict.fromkeys(
        (".pt", ".pth", ".bin", ".ckpt"), ("torch", "torch.load({}, weights_only=True)")
    ),
}
#: Files of models that other frameworks run.
_NOT_PYTORCH = (".onnx", ".h5", ".keras", ".tflite", ".msgpack", ".pb", ".mlmodel", ".mlpackage")


class _Library(NamedTuple):
    """How a model of another library than transformers is made and called."""

    make: str  # {name}: the folder or hub name; {place}: the same with what it is
    call: str
    model: str = "model"


_LIBRARIES = {
    "timm": _Library(
        "model = timm.create_model({place!r}, pretrained=True).eval()", "model(pictures)"
    ),
    "open_clip": _Library(
        "model = open_clip.create_model({place!r}).eval()", "model(pictures, texts)"
    ),
    "diffusers": _Library(
        "model = diffusers.AutoModel.from_pretrained({name!r})", "model(**inputs)"
    ),
}
#: The part of a pipeline of diffusers that attends, in the order in which it is looked for.
_DENOISERS = ("transformer", "unet", "prior")


def check_file(path: Path) -> None:
    """Raise unless a file holds the pickled weights of the transformers model in its folder."""
    name, folder = str(path), path.parent
    if (folder / "config.json").is_file() and tensors_file(folder) is not None:
        if path.name in PICKLED:
            return
        raise ArgumentError(mistake("a_file_of", path=name, folder=str(folder)))
    if path.suffix in _WEIGHTS:
        raise _of_own_class(mistake("weights_alone", name=name), path)
    if path.suffix == ".py":
        module = path.stem if path.stem.isidentifier() else "my_code"
        raise _of_own_class(mistake("python", name=name), module=module)
    if path.suffix in _NOT_PYTORCH:
        raise _of_own_class(mistake("not_pytorch", name=name, suffix=path.suffix))
    raise ArgumentError(mistake("a_file", path=name))


def check_folder(folder: Path) -> Path | None:
    """The file of the weights, or their index; raises unless it is a model of transformers."""
    name, files = str(folder), {path.name for path in folder.iterdir()}
    if "config.json" not in files:
        raise of_library(name, _library_of(files, ()), files, "local-dir:") or _no_model(folder)
    config = read_json(folder / "config.json")
    told = config if isinstance(config, dict) else {}
    if (library := of_library(name, _library_of(files, told), files, "local-dir:")) is not None:
        raise library
    file = tensors_file(folder)
    if "auto_map" in told:  # its own Python is what is said of it, whatever else it lacks
        return file
    if "model_type" not in told:
        raise _of_own_class(mistake("no_type", name=name), _weights_in(folder))
    if file is None:
        raise ArgumentError(mistake("no_weights", path=name))
    return file


def of_library(
    name: str, library: str | None, files: Collection[str], scheme: str
) -> ArgumentError | None:
    """The error for a model of another library; None for one that is not known here.

    Args:
        library: as the hub calls it.
        files: the names of all files, to tell a pipeline from one of its models.
        scheme: how timm and open_clip are told what the name is: "hf-hub:" or "local-dir:".
    """
    if library not in _LIBRARIES:
        return None
    made = _LIBRARIES[library]
    if "model_index.json" in files:
        parts = {file.partition("/")[0] for file in files}
        part = next((part for part in _DENOISERS if part in parts), "unet")
        pipeline = "pipeline = diffusers.DiffusionPipeline.from_pretrained({name!r})"
        made = _Library(pipeline, 'pipeline("a cat")', f"pipeline.{part}")
    make = made.make.format(name=name, place=scheme + name)
    why = mistake("of_library", name=name, library=library)
    return watch_instead(why, f"import {library}, wqkv", make, model=made.model, call=made.call)


def _library_of(files: Collection[str], told: Collection[str]) -> str | None:
    """The library that wrote a folder, by its files and what its config.json tells of."""
    if "model_index.json" in files or "_diffusers_version" in told:
        return "diffusers"
    if "model_type" in told:
        return None
    if "open_clip_config.json" in files:
        return "open_clip"
    return "timm" if {"architecture", "pretrained_cfg"} <= set(told) else None


def _no_model(folder: Path) -> ArgumentError:
    """The error for a folder without a config.json."""
    name = str(folder)
    if (folder / "adapter_config.json").is_file():
        return ArgumentError(mistake("adapter", name=name))
    if models := sorted(repr(str(path.parent)) for path in folder.glob("*/config.json")):
        return ArgumentError(mistake("models_inside", path=name, names=one_of(models)))
    if (file := _weights_in(folder)) is not None:
        return _of_own_class(mistake("weights_alone", name=name), file)
    if any(folder.glob("*.py")):
        return _of_own_class(mistake("python", name=name), module="my_code")
    return ArgumentError(mistake("no_model_in", path=name))


def _weights_in(folder: Path) -> Path | None:
    """The first file of weights in a folder."""
    return next((path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHTS), None)


def _of_own_class(why: str, weights: Path | None = None, module: str = "") -> ArgumentError:
    """The error for a model of a user's own class, which is called MyModel.

    Args:
        weights: the file that is loaded into it.
        module: where the class is imported from.
    """
    library, read = ("", "") if weights is None else _WEIGHTS[weights.suffix]
    lines = ["import " + ", ".join(filter(None, (library, "wqkv")))]
    lines += [f"from {module} import MyModel"] if module else []
    lines += ["model = MyModel().eval()"]
    lines += [f"model.load_state_dict({read.format(repr(str(weights)))})"] if read else []
    return watch_instead(why, *lines)
