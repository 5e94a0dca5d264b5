"""Open a model and its tokenizer, and read a text with it."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress, silent
from wqkv.study.loading import load
from wqkv.study.part import ONLY_PART, ModelPart, TextReading
from wqkv.study.tokens import TokenizedText, edit, extend, tokenize
from wqkv.study.view import EachLayer, View
from wqkv.study.windows import TextWindow, text_windows

#: What a model reads.
Reads = Literal["text", "picture", "both"]


class TextModel(Protocol):
    """What every opened model answers: of one text, of two, of a picture, of a text with one."""

    opener: ClassVar[str]  # the function that opens such a model, such as "open_model"
    reads: ClassVar[Reads]
    main: ClassVar[str]  # the part that is shown first
    name: str
    family: str
    model: nn.Module
    speaker: nn.Module | None  # the model with its head for the next token, if it has one
    bits: int | None  # per weight in a packaged file, if fewer than in training

    @property
    def parts(self) -> dict[str, ModelPart]:
        """Its attentions by name: one, or "encoder", "decoder" and "cross"."""

    @property
    def longest(self) -> int | None:
        """How many tokens a text may have; None is any number."""

    def windows(self, text: str, room: int) -> Sequence[TextWindow | None]:
        """The windows in which a text is read, of at most `room` tokens; None is the whole."""

    def named(self, number: int) -> str:
        """What the model calls one of its outputs: a token of its vocabulary, or a class."""

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


class OneSequence(ModelPart, TextModel):
    """A model that runs once on one sequence of tokens, and its attention layers as ours."""

    main: ClassVar[str] = ONLY_PART

    @property
    def parts(self) -> dict[str, ModelPart]:
        """Itself, as the only part."""
        return {self.part: self}

    @abstractmethod
    def tokens(self, given: str) -> TokenizedText:
        """What was given, as the model's tokens."""

    @abstractmethod
    def edited(self, text: TokenizedText, edits: Mapping[int, str]) -> TokenizedText:
        """A text with other text in place of some tokens, by their numbers, cut anew."""

    @abstractmethod
    def _call(self, text: TokenizedText) -> Tensor | None:
        """Run the model, and return the logits of what follows the text, if it has a head."""

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
                logits = self._call(text)
        finally:
            hook.remove()
        return replace(reading, final=last[0], logits=logits)

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


def one_sequence(model: ModelPart, what: str) -> OneSequence:
    """The model of a view, if it runs on one sequence of tokens; `what` is asked of it."""
    if not isinstance(model, OneSequence):
        raise ArgumentError(
            f"{what} is for models of one text, and {model.name} reads one and writes another."
            "\nOpen it again with another text, or another target."
        )
    return model


class OpenModel(OneSequence):
    """A model of one text, its tokenizer, and its attention layers as ours.

    `speaker` is the model with its head for the next token, and `filler` the model with its head
    for masked tokens, if it has one of them. `bits` is how many bits the file of a packaged model
    holds per weight, if fewer than in training: whoever shows numbers of the model says so. (The
    name of a .gguf file says it of that.)
    """

    opener: ClassVar[str] = "open_model"
    reads: ClassVar[Reads] = "text"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        speaker: nn.Module | None = None,
        filler: nn.Module | None = None,
        bits: int | None = None,
        inside: str | None = None,
    ) -> None:
        config: Any = model.config
        if config.is_encoder_decoder:
            raise ArgumentError(mistake("two_texts_read", model=name))
        super().__init__(model, name, inside=inside)
        self.tokenizer, self.speaker, self.filler = tokenizer, speaker, filler
        self.bits = bits

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

    def windows(self, text: str, room: int) -> Sequence[TextWindow | None]:
        """The windows in which a text is read."""
        return text_windows(self.tokenizer, text, room)

    def named(self, number: int) -> str:
        """A token of the vocabulary as text."""
        return str(self.tokenizer.decode([number]))

    def tokens(self, sentence: str, pair: str | None = None) -> TokenizedText:
        """A text as the model's tokens; with `pair`, two sentences that are read together."""
        return tokenize(self.tokenizer, sentence, self.name, self.longest, pair=pair)

    def edited(self, text: TokenizedText, edits: Mapping[int, str]) -> TokenizedText:
        """A text with some tokens replaced, cut into tokens again."""
        return self.tokens(edit(text, edits))

    def beginning(self, text: TokenizedText, count: int) -> TokenizedText:
        """The first `count` tokens of a text, as the model reads them."""
        return TokenizedText.of_ids(text.ids[:count])

    def extended(self, text: TokenizedText, ids: list[int]) -> TokenizedText:
        """The text that goes on; `ids` begins with those of `text`."""
        return extend(self.tokenizer, text, ids)

    def _types(self, text: TokenizedText) -> dict[str, Tensor]:
        """What says which sentence of a pair a token belongs to, if the model asks for it."""
        if not text.types or "token_type_ids" not in self.tokenizer.model_input_names:
            return {}
        return {"token_type_ids": torch.tensor([text.types], device="cpu")}

    def _call(self, text: TokenizedText) -> Tensor | None:
        """Run the model; if it has a head, return the logits of the last token alone."""
        if self.speaker is None:
            self.model(**text.called_with, **self._types(text))
            return None
        # Logits of all tokens would be n x vocabulary numbers. Some families cannot leave them out.
        takes = inspect.signature(self.speaker.forward).parameters
        keep = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        logits: Tensor = self.speaker(**text.called_with, **keep).logits
        return logits[0, -1].float()


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
