"""load_attention: one attention layer out of a checkpoint on disk."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import reduce
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError, need
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.convert.huggingface import stack
from wqkv.layer.convert.pretrained import configuration, opened
from wqkv.layer.convert.rows import build
from wqkv.sentences.errors import mistake
from wqkv.upstream import of_transformers as upstream

INDEX = ".index.json"
#: What the file of a checkpoint may be called; the first that exists is read.
NAMES = ("model.safetensors", "pytorch_model.bin")
PICKLES = (".bin", ".pt", ".pth")
PICKLED = (NAMES[1], NAMES[1] + INDEX)
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
#: A configuration or index with more bytes, or a model with more layers, is refused.
MOST_BYTES, MOST_LAYERS = 2**27, 10_000


@door
def load_attention(
    path: str | PathLike[str], layer: int, *, part: str | None = None, pickle: bool = False
) -> MultiheadAttention:
    """Layer number `layer` (from 0) of a checkpoint as ours, like `from_hf`; nothing else is read.

    The model is made from its configuration without memory, the table of families says which
    tensors the layer takes, and only these are read, from the files that hold them. They keep their
    dtype; where dtypes differ, all get the widest.

    Args:
        path: a folder with config.json and model.safetensors, or model.safetensors.index.json and
            its shards; or a .safetensors file beside its config.json.
        part: see `from_hf`.
        pickle: whether a .bin file may be read where there is no .safetensors; of it too nothing
            but tensors is unpickled.

    Raises:
        ArgumentError: there is no such layer, or a file is broken, mislabeled or made to harm;
            then nothing is loaded.
        MissingExtraError: transformers or safetensors is not installed.

    >>> from tempfile import TemporaryDirectory
    >>> from transformers import GPT2Config, GPT2Model
    >>> with TemporaryDirectory() as folder:
    ...     GPT2Model(GPT2Config(n_layer=2, n_embd=24, n_head=3)).save_pretrained(folder)
    ...     layer = load_attention(folder, layer=1)
    >>> layer(torch.randn(2, 5, 24)).shape
    torch.Size([2, 5, 24])
    """
    transformers: Any = need("transformers", "hf", "Opening a checkpoint")
    file = _file(Path(path), pickle)
    model = _outline(transformers, file.parent)
    found = stack(model, part)
    wanted: dict[str, Tensor] = {}

    def note(name: str) -> Tensor:
        return wanted.setdefault(found.prefix + name, found.base.get_parameter(name))

    # The row runs twice: here it notes which tensors it takes, below it gets their numbers.
    spot = found.spot(layer, note)
    build(spot)
    tensors = _read(file, model, wanted, f"{found.prefix}{spot.at}.")
    return build(found.spot(layer, lambda name: tensors[found.prefix + name]))


def _file(path: Path, pickle: bool) -> Path:
    """The file that holds all tensors, or the index that says which file holds which."""
    if path.is_file():
        found = path if path.suffix in (".safetensors", *PICKLES) else None
    else:
        found = tensors_file(path)
    if found is None:
        raise ArgumentError(
            f"{str(path)!r} is no checkpoint: no .safetensors file, and no folder with "
            f"{NAMES[0]} or {NAMES[0] + INDEX}."
        )
    if is_pickle(found) and not pickle:
        raise ArgumentError(
            f"{str(found)!r} is made of pickles, which can run programs when they are read.\n"
            "Pass a .safetensors file, or pickle=True to read nothing but tensors from it."
        )
    return found


def tensors_file(folder: Path) -> Path | None:
    """The file of a folder that holds all tensors, or the index that says which file holds which.

    Safe files come before pickles.
    """
    named = (folder / (name + end) for name in NAMES for end in ("", INDEX))
    return next((file for file in named if file.is_file()), None)


def is_pickle(file: Path) -> bool:
    """Whether a file, or an index of files, is made of pickles."""
    return Path(file.name.removesuffix(INDEX)).suffix in PICKLES


# Any, here and below: the module transformers, its models, and JSON of a file.
def _outline(transformers: Any, folder: Path) -> Any:
    """The model of a configuration on the meta device, so that it takes no memory."""
    config = folder / "config.json"
    if not config.is_file():
        raise ArgumentError(f"There is no {str(config)!r}, which says what the tensors are.")
    _check_layers(read_json(config), config)
    try:
        known = configuration(str(folder), folder, local_files_only=True)
        with torch.device("meta"):
            model = opened(str(folder), transformers.AutoModel.from_config, known)
    except ArgumentError:
        raise
    except Exception as error:  # whatever a foreign library raises for a foreign file
        raise _broken(config, "the configuration of a model", error) from error
    return model.base_model.eval()


def _check_layers(told: Any, config: Path) -> None:
    """Raise if a configuration asks for too many layers: to make them would take for ever."""
    for name, value in told.items() if isinstance(told, dict) else ():
        _check_layers(value, config)
        if "layer" in name and isinstance(value, int) and value > MOST_LAYERS:
            raise ArgumentError(f"{str(config)!r} says {name} {value}, more than {MOST_LAYERS}.")


def read_json(file: Path) -> Any:
    """What a file of JSON holds; raises if it is none, or too large to be read."""
    if (size := file.stat().st_size) > MOST_BYTES:
        raise ArgumentError(mistake("index_size", file=str(file), size=size, most=MOST_BYTES))
    try:
        return json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(file, "JSON", error) from error


def _broken(file: Path, what: str, error: Exception) -> ArgumentError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")[:200]
    return ArgumentError(
        mistake("broken", file=str(file), what=what, kind=type(error).__name__, reason=reason)
    )


# Tensors


class Stored(NamedTuple):
    """A tensor in a file, which is not read before `read` is called."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None if it holds no floats
    label: str  # what the file calls its dtype
    read: Callable[[], Tensor]


def _read(file: Path, model: Any, wanted: Mapping[str, Tensor], home: str) -> dict[str, Tensor]:
    """The tensors with the names in `wanted`; all are checked before the first is read."""
    where = _where(file)
    theirs = _their_names(model, wanted, where, file)
    _check_known(model, home, where.keys() - theirs.values(), file)
    stored: dict[str, Stored] = {}
    with ExitStack() as stack:
        for shard in sorted({where[name] for name in theirs.values()}):
            find = stack.enter_context(_opened(shard))[1]
            for name in theirs:
                if where[theirs[name]] == shard:
                    stored[name] = find(theirs[name])
                    _check(stored[name], wanted[name], theirs[name], shard)
        dtype = reduce(torch.promote_types, [one.dtype for one in stored.values() if one.dtype])
        return {name: one.read().to(dtype) for name, one in stored.items()}


def _check(stored: Stored, wanted: Tensor, name: str, file: Path) -> None:
    if stored.shape != tuple(wanted.shape):
        raise ArgumentError(
            f"`{name}` has shape {stored.shape} in {str(file)!r}, and {tuple(wanted.shape)} by "
            "its config.json.\nThey do not belong together."
        )
    if stored.dtype is None:
        raise ArgumentError(
            f"`{name}` holds {stored.label} in {str(file)!r}.\n"
            f"Pass a checkpoint in {', '.join(FLOATS)}: quantized ones are not read."
        )


def _check_known(model: Any, home: str, names: Collection[str], file: Path) -> None:
    """Raise if the file has a weight or bias of the attention at `home` that the model has not."""
    known, passed = model.state_dict().keys(), upstream.passed_over(model)
    for theirs in sorted(names):
        name = theirs.removeprefix(f"{model.base_model_prefix}.")
        module, _, kind = name.removeprefix(home).rpartition(".")
        odd = name.startswith(home) and module and kind in ("weight", "bias") and name not in known
        if odd and not any(re.search(pattern, theirs) for pattern in passed):
            raise ArgumentError(
                f"`{theirs}` is in {str(file)!r}, and a {model.config.model_type} with its "
                "config.json has no place for it.\nThey do not belong together."
            )


def _where(file: Path) -> dict[str, Path]:
    """Which file holds which tensor."""
    if file.name.endswith(INDEX):
        return shards(file)
    with _opened(file) as (names, _):
        return dict.fromkeys(names, file)


def shards(file: Path) -> dict[str, Path]:
    """Which file holds which tensor, by an index; raises if it leads to any other kind of file."""
    told = read_json(file)
    shards = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ArgumentError(mistake("no_weight_map", file=str(file)))
    for name in sorted(set(shards.values())):
        # A path could lead out of the folder, and an index of safe files must not lead to pickles.
        plain = not set(name) & set("/\\:\0") and name not in (".", "..")
        if not plain or Path(name).suffix != Path(file.name.removesuffix(INDEX)).suffix:
            raise ArgumentError(mistake("leads_away", file=str(file), name=name))
    return {tensor: file.parent / name for tensor, name in shards.items()}


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Collection[str], Callable[[str], Stored]]]:
    """Open a file: the names of its tensors, and a function that finds one by its name."""
    if not file.is_file():
        raise ArgumentError(f"The shard {str(file)!r} is not there.")
    if is_pickle(file):
        try:
            tensors = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
            found = {name: _unpickled(x) for name, x in tensors.items()}
        except Exception as error:  # whatever unpickling can raise
            raise _broken(file, "a file of tensors", error) from error
        yield found, found.__getitem__
        return
    safetensors: Any = need("safetensors", "hf", "Opening a checkpoint")
    try:
        opened = safetensors.safe_open(file, framework="pt")
    except Exception as error:
        raise _broken(file, "a .safetensors file", error) from error

    def find(name: str) -> Stored:
        try:
            part = opened.get_slice(name)
        except safetensors.SafetensorError as error:
            raise _broken(file, f"a file with `{name}`, as its index says", error) from error
        label = part.get_dtype()
        return Stored(
            tuple(part.get_shape()), FLOATS.get(label), label, lambda: opened.get_tensor(name)
        )

    with opened:
        yield opened.keys(), find


def _unpickled(x: Tensor) -> Stored:
    dtype = x.dtype if x.dtype in FLOATS.values() else None
    # A clone, because a tensor that is mapped into memory would keep the whole file.
    return Stored(tuple(x.shape), dtype, str(x.dtype), x.clone)


def _their_names(
    model: Any, wanted: Mapping[str, Tensor], names: Collection[str], file: Path
) -> dict[str, str]:
    """{the model's name: the file's name}: the same, with a prefix, or an older name."""
    found: dict[str, str] = {}
    for name in wanted:
        for theirs in (name, f"{model.base_model_prefix}.{name}"):
            if theirs in names:
                found[name] = theirs
    if found.keys() != wanted.keys():
        found = {**_renamed(model, wanted, names), **found}
    for name in wanted:
        if name not in found:
            near = get_close_matches(name, names, n=3, cutoff=0.3) or sorted(names)[:3]
            raise ArgumentError(
                f"There is no tensor `{name}` in {str(file)!r}.\n"
                f"The nearest are: {', '.join(near)}."
            )
    return found


def _renamed(model: Any, wanted: Mapping[str, Tensor], names: Collection[str]) -> dict[str, str]:
    """{the model's name: the file's name} of tensors that transformers renames in reading."""
    rules = upstream.get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, upstream.WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, upstream.WeightConverter)]
    found: dict[str, str] = {}
    for theirs in sorted(names):
        name, converted = upstream.rename_source_key(
            theirs, renamings, converters, model.base_model_prefix, dict(wanted)
        )
        if name in wanted and converted is None:
            found[name] = theirs
    return found
