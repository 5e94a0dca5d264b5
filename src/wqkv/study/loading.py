"""Find a model and its tokenizer, by folder, .gguf file, hub name, alias or default; load them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from wqkv.errors import ArgumentError, need, watch_instead
from wqkv.layer.convert.checkpoint import INDEX, PICKLED, is_pickle, shards
from wqkv.layer.convert.huggingface import has_row, known_stacks, language_inside, no_row
from wqkv.layer.convert.pretrained import configuration, opened
from wqkv.sentences import say
from wqkv.sentences.commands import PROGRESS
from wqkv.sentences.errors import mistake
from wqkv.study.e5 import FILE, E5File, read_e5
from wqkv.study.foreign import check_file, check_folder, of_library
from wqkv.study.packaged import E5, MINILM, PACKAGED
from wqkv.upstream import of_transformers as upstream

#: A name of the hub: gpt2, or Qwen/Qwen3-0.6B.
_HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
#: How many seconds the hub has to answer.
_PATIENCE = 10


class LoadedModel(NamedTuple):
    """What an OpenModel or an OpenPair is made of."""

    model: nn.Module
    tokenizer: Any  # one of transformers' tokenizers
    name: str
    speaker: nn.Module | None  # the model with its head for the next token, if it has one
    filler: nn.Module | None  # the model with its head for masked tokens, if it has one
    bits: int | None = None  # per weight in a packaged file, if fewer than in training


class LoadedVision(NamedTuple):
    """What an OpenVision is made of."""

    model: nn.Module
    processor: Any  # one of transformers' image processors
    name: str
    classifier: nn.Module | None  # the model with its head for classes, if it has one


class LoadedVisionLanguage(NamedTuple):
    """What an OpenVisionLanguage is made of."""

    model: nn.Module
    processor: Any  # one of transformers' processors, of texts with pictures
    name: str
    speaker: nn.Module | None  # the model with its head for the next token, if it has one


def load(name: str | None, progress: Callable[[str], None]) -> LoadedModel:
    """A model and its tokenizer; see `open_model`."""
    loaded = load_any(name, progress, pictures=False)
    assert isinstance(loaded, LoadedModel)
    return loaded


def load_any(
    name: str | None, progress: Callable[[str], None], pictures: bool = True
) -> LoadedModel | LoadedVision | LoadedVisionLanguage:
    """A model and what it reads texts with, or pictures, unless there may be none."""
    if name == E5.alias:
        file = _read_e5(progress)
        progress(say(PROGRESS["matrices"], model=E5.name))
        return LoadedModel(file.model(), file.tokenizer(), E5.name, None, None, E5.bits)
    source = _find(name)
    transformers: Any = need("transformers", "hf", mistake("opening"))
    config = source.load(configuration)
    reads = _reads(transformers, config)
    if pictures and reads == "pixel_values" and has_row(config.model_type):
        return _load_vision(transformers, config, source, progress)
    if pictures and config.model_type in upstream.WITH_PICTURES and _joins(config):
        return _load_vision_language(transformers, config, source, progress)
    if reads != "input_ids":
        raise _reads_no_text(reads, config, source)
    progress(say(PROGRESS["tokenizer"], model=source.shown))
    tokenizer = source.tokenizer(transformers)
    progress(say(PROGRESS["weights"], model=source.shown))
    speaks = _class_with_head(transformers, config, source)
    fills = None if speaks else _class_for_masked(transformers, config)
    kind = speaks or fills or transformers.AutoModel
    model, complete = _load_weights(transformers, kind, config, source)
    _check_known(model, source)
    progress(say(PROGRESS["matrices"], model=source.shown))
    # A head whose weights were missing is filled with random numbers, so it is not used.
    speaker = model if speaks is not None and complete else None
    filler = model if fills is not None and complete else None
    return LoadedModel(model.base_model, tokenizer, source.shown, speaker, filler)


def _load_vision(
    transformers: Any, config: Any, source: _ModelSource, progress: Callable[[str], None]
) -> LoadedVision:
    """A model of pictures and its image processor, with its head for classes if it has one."""
    classes = upstream.CLASSES.get(config.model_type) or ()
    named = {classes} if isinstance(classes, str) else {*classes}  # DeiT has two such classes
    has_head = bool(named & {*(config.architectures or [])})
    processor = _load_processor(transformers.AutoImageProcessor, "no_processor", source, progress)
    kind = transformers.AutoModelForImageClassification if has_head else transformers.AutoModel
    model, complete = _load_weights(transformers, kind, config, source)
    progress(say(PROGRESS["matrices"], model=source.shown))
    classifier = model if has_head and complete else None
    return LoadedVision(model.base_model, processor, source.shown, classifier)


def _load_processor(
    kind: Any, missing: str, source: _ModelSource, progress: Callable[[str], None]
) -> Any:
    """What makes the inputs of a model, before its weights are read.

    Args:
        kind: the class of transformers that opens it.
        missing: the name of the sentence for a folder that has none.
    """
    progress(say(PROGRESS["processor"], model=source.shown))
    found = source.reader(kind, missing)
    progress(say(PROGRESS["weights"], model=source.shown))
    return found


def _joins(config: Any) -> bool:
    """Whether a configuration has a tower that reads pictures, and a token that stands for them."""
    return hasattr(config, "vision_config") and hasattr(config, "image_token_id")


def _load_vision_language(
    transformers: Any, config: Any, source: _ModelSource, progress: Callable[[str], None]
) -> LoadedVisionLanguage:
    """A model of a text with a picture and its processor, with its head for the next token."""
    processor = _load_processor(transformers.AutoProcessor, "no_joint_processor", source, progress)
    has_head = upstream.WITH_PICTURES[config.model_type] in (config.architectures or [])
    kind = transformers.AutoModelForImageTextToText if has_head else transformers.AutoModel
    model, complete = _load_weights(transformers, kind, config, source)
    if language_inside(model.base_model) is None:
        raise source.watch_instead(mistake("reads_more", name=source.name, more=""))
    progress(say(PROGRESS["matrices"], model=source.shown))
    speaker = model if has_head and complete else None
    return LoadedVisionLanguage(model.base_model, processor, source.shown, speaker)


def load_bare(
    name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> tuple[nn.Module, str]:
    """The model without tokenizer and head, and the name it is shown by; see `open_model`."""
    if name == E5.alias:
        return _read_e5(progress).model(), E5.name
    source = _find(name)
    transformers: Any = need("transformers", "hf", mistake("opening"))
    progress(say(PROGRESS["weights"], model=source.shown))
    config = source.load(configuration)
    model: nn.Module = _load_weights(transformers, transformers.AutoModel, config, source)[0]
    return model, source.shown


def _read_e5(progress: Callable[[str], None]) -> E5File:
    path = E5.need_folder() / FILE
    progress(say(PROGRESS["weights"], model=E5.name))
    return read_e5(path)


def _reads(transformers: Any, config: Any) -> str:
    """What a model is called with, such as "input_ids": known before its weights are read."""
    kind = transformers.MODEL_MAPPING.get(type(config), None)
    return str(getattr(kind, "main_input_name", "input_ids"))


def _reads_no_text(reads: str, config: Any, source: _ModelSource) -> ArgumentError:
    """The error for a model of pictures, sounds or series."""
    known = mistake("has_row") if has_row(config.model_type) else ""
    if known and reads == "pixel_values":
        known = mistake("opens_on_picture", name=source.name) + known
    return source.watch_instead(mistake("no_text_read", name=source.name, reads=reads, known=known))


def _check_known(model: Any, source: _ModelSource) -> None:
    """Raise unless the table finds the matrices of every layer, and what reads a text has them."""
    known = known_stacks(model)
    if not known:
        raise source.watch_instead(no_row(model))
    first: Any = next(iter(known.values()))
    if first.prefix and (len(known) > 1 or first.base.main_input_name != "input_ids"):
        joins = _joins(model.config) and language_inside(model) is not None
        more = mistake("opens_with_picture", name=source.name) if joins else ""
        raise source.watch_instead(mistake("reads_more", name=source.name, more=more))
    try:
        for part in known.values():
            for layer in range(len(part)):
                part.spot(layer)
    except ArgumentError as error:
        raise source.watch_instead(error.args[0]) from error


def _class_with_head(transformers: Any, config: Any, source: _ModelSource) -> Any:
    """The class of transformers that opens the model with its head for the next token, or None."""
    kind = transformers.AutoModelForCausalLM
    speaks = upstream.CAUSAL.get(config.model_type)
    if config.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
        speaks = upstream.SEQ2SEQ.get(config.model_type)
    # A .gguf file names no architecture, and holds language models alone.
    named = [speaks] if source.gguf else config.architectures or []
    return kind if speaks in named and speaks else None


def _class_for_masked(transformers: Any, config: Any) -> Any:
    """The class of transformers that opens the model with its head for masked tokens, or None."""
    fills = upstream.MASKED.get(config.model_type)
    return transformers.AutoModelForMaskedLM if fills in (config.architectures or []) else None


def _load_weights(
    transformers: Any, kind: Any, config: Any, source: _ModelSource
) -> tuple[Any, bool]:
    """A model in float32, and whether all of its weights were there."""
    # Keyword arguments of transformers' from_pretrained.
    rest: dict[str, Any] = {"config": config, "use_safetensors": not source.pickled}
    if source.gguf:
        rest["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, info = source.load(
        opened, kind.from_pretrained, dtype=torch.float32, output_loading_info=True, **rest
    )
    return model.eval(), not info["missing_keys"]


@dataclass(frozen=True)
class _ModelSource:
    """Where a model is: a folder or a hub name, and the file in the folder that was named."""

    name: str  # as it was asked for
    where: str
    shown: str
    file: str | None = None

    @property
    def pickled(self) -> bool:
        """Whether the weights are pickles: these are read only if they were named."""
        return self.file in PICKLED

    @property
    def gguf(self) -> bool:
        return self.file is not None and not self.pickled

    def load(self, make: Callable[..., Any], *given: Any, **rest: Any) -> Any:
        """Call make(name, *given, where, **rest), a loader of transformers, without its output."""
        try:
            return self._load(make, *given, **rest)
        except ArgumentError:
            raise
        except Exception as error:  # whatever a foreign loader raises for a foreign file
            raise ArgumentError(mistake("not_opened", name=self.name, **_reason(error))) from error

    def tokenizer(self, transformers: Any) -> Any:
        """The tokenizer of the model."""
        return self.reader(transformers.AutoTokenizer, "no_tokenizer")

    def reader(self, kind: Any, wrong: str) -> Any:
        """What the model reads texts or pictures with, of a kind of transformers.

        Args:
            wrong: the name of the mistake that there is none.
        """
        try:
            return self._load(opened, kind.from_pretrained)
        except ArgumentError:
            raise
        except Exception as error:  # as above
            why = mistake(wrong, name=self.name, **_reason(error))
            raise self.watch_instead(why) from error

    def watch_instead(self, why: str) -> ArgumentError:
        """The error for a model of transformers that does not open here, and how to watch it."""
        where = repr(self.name)
        if self.file is not None:
            where = repr(self.where) + (f", gguf_file={self.file!r}" if self.gguf else "")
        make = f"model = transformers.AutoModel.from_pretrained({where})"
        return watch_instead(why, "import transformers, wqkv", make, call="model(**inputs)")

    def _load(self, make: Callable[..., Any], *given: Any, **rest: Any) -> Any:
        if self.gguf:
            rest["gguf_file"] = self.file
        # The progress bar of .gguf files obeys no setting of transformers, so that stderr is held
        # back too.
        with upstream.quiet(), redirect_stderr(StringIO()):
            return make(self.name, *given, self.where, **rest)


def _reason(error: Exception) -> dict[str, str]:
    """What a foreign loader raised, and the first line of what it said."""
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    return {"kind": type(error).__name__, "reason": reason[:200].rstrip(": ")}


def _find(name: str | None) -> _ModelSource:
    if name is None or name == MINILM.alias:
        return _ModelSource(MINILM.alias, str(MINILM.need_folder() / "model"), MINILM.name)
    path = Path(name).expanduser()
    if path.exists():
        folder, file = _folder_and_file(path)
        source = _ModelSource(name, str(folder), folder.resolve().name, file)
        if file is None or source.pickled:
            return source
        need("gguf", "gguf", mistake("opening_gguf"))
        need("accelerate", "gguf", mistake("opening_gguf"))
        return replace(source, shown=Path(file).stem)
    if not _HUB_NAME.fullmatch(name):
        raise _no_model(name, mistake("no_hub_name"))
    return _on_hub(name)


def _on_hub(name: str) -> _ModelSource:
    """A model of the hub, found by one question before transformers asks for many files.

    Without a network transformers would ask for each file six times, with pauses in between.
    """
    hub: Any = need("huggingface_hub", "hf", mistake("opening_hub"))
    cached = hub.try_to_load_from_cache(name, "config.json")
    # The folder of a downloaded model, so that nothing in transformers asks the hub for more.
    here = _ModelSource(name, str(Path(cached).parent), name) if isinstance(cached, str) else None
    try:
        info = hub.model_info(name, timeout=_PATIENCE)
    except hub.errors.RepositoryNotFoundError:  # also a private one, which is as good as none
        if here is None:
            raise _no_model(name, mistake("none_on_hub")) from None
        return here
    except Exception as error:  # whatever a foreign client raises where there is no network
        if here is not None:
            return here
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ArgumentError(mistake("no_network", name=name, reason=reason, **_known())) from error
    files = {file.rfilename for file in info.siblings or ()}
    if (foreign := of_library(name, info.library_name, files, "hf-hub:")) is not None:
        raise foreign
    return _ModelSource(name, name, name)


def _no_model(name: str, hub: str) -> ArgumentError:
    """The error that there is no such model; `hub` says it of the hub."""
    return ArgumentError(mistake("no_model", name=name, hub=hub, **_known()))


def _known() -> dict[str, str]:
    """The names that open, and what is done with models that have none."""
    return {"known": ", ".join(PACKAGED), "others": mistake("others")}


def _folder_and_file(path: Path) -> tuple[Path, str | None]:
    """The folder to open, and the file in it if one was named or it holds a .gguf file alone."""
    if path.is_file():
        if path.suffix != ".gguf":
            check_file(path)
        if path.name.endswith(INDEX):
            shards(path)
        return path.parent, path.name
    whole = (path / "config.json").is_file()
    found = [] if whole else sorted(file.name for file in path.glob("*.gguf"))
    if len(found) == 1:
        return path, found[0]
    if found:
        names = ", ".join(found)
        raise ArgumentError(mistake("several_files", path=str(path), count=len(found), names=names))
    _check_safe(check_folder(path))
    return path, None


def _check_safe(file: Path | None) -> None:
    """Raise if this file is made of pickles, or is an index that names such files.

    Pickles can run programs when they are read, so they are read only if the user named them.
    """
    if file is None:
        return
    if is_pickle(file):
        raise ArgumentError(mistake("pickles", file=str(file)))
    if file.name.endswith(INDEX):
        shards(file)
