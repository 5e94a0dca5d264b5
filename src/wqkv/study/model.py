"""Open a model and its tokenizer, and read a text with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress, silent
from wqkv.study.loading import load
from wqkv.study.part import ONLY_PART, ModelPart, TextReading
from wqkv.study.tokens import TokenizedText, tokenize
from wqkv.study.view import EachLayer, View


class TextModel(Protocol):
    """What a model of one text (OpenModel) and a model of two (OpenPair) both answer."""

    opener: ClassVar[str]  # the function that opens such a model: "open_model" or "open_pair"
    main: ClassVar[str]  # the part that is shown first
    name: str
    family: str
    model: nn.Module
    tokenizer: Any  # one of transformers' tokenizers
    speaker: nn.Module | None  # the model with its head for the next token, if it has one
    bits: int | None  # per weight in a packaged file, if fewer than in training

    @property
    def parts(self) -> dict[str, ModelPart]:
        """Its attentions by name: one, or "encoder", "decoder" and "cross"."""

    @property
    def longest(self) -> int | None:
        """How many tokens a text may have; None is any number."""

    def check_target(self, target: str | None) -> None:
        """Raise if there is a target and the model writes no second text."""

    def views(
        self,
        text: str | TokenizedText,
        target: str | None = None,
        progress: Progress = silent,
        each: EachLayer = lambda view, layer: None,
    ) -> dict[str, View]:
        """Read a text, and return a view of it per part; every layer is proved as it runs."""


class OpenModel(ModelPart):
    """A model of one text, its tokenizer, and its attention layers as ours.

    `speaker` is the model with its head for the next token, and `filler` the model with its head
    for masked tokens, if it has one of them. `bits` is how many bits the file of a packaged model
    holds per weight, if fewer than in training: whoever shows numbers of the model says so. (The
    name of a .gguf file says it of that.)
    """

    opener: ClassVar[str] = "open_model"
    main: ClassVar[str] = ONLY_PART

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        speaker: nn.Module | None = None,
        filler: nn.Module | None = None,
        bits: int | None = None,
    ) -> None:
        config: Any = model.config
        if config.is_encoder_decoder:
            raise ArgumentError(mistake("two_texts_read", model=name))
        super().__init__(model, name)
        self.tokenizer, self.speaker, self.filler = tokenizer, speaker, filler
        self.bits = bits

    @property
    def parts(self) -> dict[str, ModelPart]:
        """Itself, as the only part."""
        return {self.part: self}

    @property
    def first_position(self) -> int:
        """The position of the first token: behind that of padding, where their table has one."""
        tables = (
            m for name, m in self.model.named_modules() if name.endswith("position_embeddings")
        )
        padding = (getattr(table, "padding_idx", None) for table in tables)
        return next((place + 1 for place in padding if place is not None), 0)

    @property
    def longest(self) -> int | None:
        """How many tokens fit into the table of positions; None is any number."""
        places: int | None = getattr(self.config, "max_position_embeddings", None)
        return None if places is None else places - self.first_position

    def tokens(self, sentence: str, pair: str | None = None) -> TokenizedText:
        """A text as the model's tokens; with `pair`, two sentences that are read together."""
        return tokenize(self.tokenizer, sentence, self.name, self.longest, pair=pair)

    def read(self, text: str | TokenizedText) -> TextReading:
        """Run the model on a text, and keep what goes into and comes out of each attention."""
        return self.run(self.tokens(text) if isinstance(text, str) else text)

    @torch.no_grad()
    def run(
        self,
        text: TokenizedText,
        contexts: Mapping[tuple[int, int], Tensor] = MappingProxyType({}),
        each: Callable[[TextReading], None] = lambda reading: None,
    ) -> TextReading:
        """Run the model on a text that is cut into tokens already; see `ModelPart.record`."""
        last: list[Tensor] = []
        hook = self.model.register_forward_hook(lambda _, __, out: last.append(out[0]))
        try:
            with self.record(text, contexts, each) as reading:
                output = self._call(torch.tensor([text.ids], device="cpu"), **self._types(text))
        finally:
            hook.remove()
        logits = None if self.speaker is None else output.logits[0, -1].float()
        return replace(reading, final=last[0], logits=logits)

    def _types(self, text: TokenizedText) -> dict[str, Tensor]:
        """What says which sentence of a pair a token belongs to, if the model asks for it."""
        if not text.types or "token_type_ids" not in self.tokenizer.model_input_names:
            return {}
        return {"token_type_ids": torch.tensor([text.types], device="cpu")}

    def _call(self, ids: Tensor, **types: Tensor) -> Any:
        """The model's output; if it has a head, with the logits of the last token alone."""
        if self.speaker is None:
            return self.model(input_ids=ids, **types)
        # Logits of all tokens would be n x vocabulary numbers. Some families cannot leave them out.
        if "logits_to_keep" in inspect.signature(self.speaker.forward).parameters:
            return self.speaker(input_ids=ids, logits_to_keep=1)
        return self.speaker(input_ids=ids)

    def view(self, text: str | TokenizedText, each: EachLayer = lambda view, layer: None) -> View:
        """Read a text; every layer is proved as soon as the model has run it.

        Args:
            each: is called with the view and the number of the layer that was proved; may raise,
                which ends the reading.
        """
        views: list[View] = []

        def layer_ran(reading: TextReading) -> None:
            views[:] = views or [View(self, reading)]
            layer = len(reading.outputs) - 1
            views[0].proof(layer)
            each(views[0], layer)

        tokens = self.tokens(text) if isinstance(text, str) else text
        reading = self.run(tokens, each=layer_ran)
        views[0].reading = reading  # the same with `final` and `logits`
        return views[0]

    def check_target(self, target: str | None) -> None:
        """Raise if there is a target, because this model writes no second text."""
        if target is not None:
            raise ArgumentError(mistake("no_target", model=self.name))

    def views(
        self,
        text: str | TokenizedText,
        target: str | None = None,
        progress: Progress = silent,
        each: EachLayer = lambda view, layer: None,
    ) -> dict[str, View]:
        """Read a text, and return {name of the only part: its view}; `progress` counts layers."""
        self.check_target(target)
        progress(0, self.sizes.n_layer)

        def layer_ran(view: View, layer: int) -> None:
            each(view, layer)
            progress(layer + 1, self.sizes.n_layer)

        return {self.part: self.view(text, layer_ran)}


@door
def open_model(
    name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> OpenModel:
    """Open a model in float32 on the CPU.

    Args:
        name: a folder, a .gguf file, or a hub name, such as "gpt2" or "Qwen/Qwen3-0.6B"; None is
            the packaged default, and "e5" the packaged model that reads Chinese, whose file holds
            4 bits per weight. A model of the hub is downloaded once. A folder's
            pytorch_model.bin is read if it is named itself, and nothing but tensors of it.
        progress: is called with what is being read, as a line of text.

    Raises:
        ArgumentError: it is no model, one that is not here while there is no network, one of a
            family without a table row or of another library, one that reads no text, or one and
            writes another, or one that opens only by Python of its own. Where `watch` can show its
            attention, the error has the lines of Python for it.
        MissingExtraError: transformers, gguf or the packaged model is not installed.
    """
    return OpenModel(*load(name, progress))
