"""A model that reads one text and writes another: a view of each of its three attentions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress, silent
from wqkv.study.loading import LoadedModel, load
from wqkv.study.model import Reads
from wqkv.study.part import ModelPart, TextReading
from wqkv.study.tokens import TokenizedText, check_length, extend, tokenize
from wqkv.study.view import EachLayer, View
from wqkv.study.windows import TextWindow, text_windows
from wqkv.upstream import of_transformers as upstream

#: The attentions of such a model, in the order in which they run.
PARTS = ("encoder", "decoder", "cross")
#: The most tokens that the model writes if it is not told what to write.
MOST_WRITTEN = 256


class OpenPair:
    """An encoder-decoder model, its tokenizer, and the layers of its three attentions as ours.

    `parts` has these by name. In "cross" the tokens that are written look at those that were read.
    """

    opener: ClassVar[str] = "open_pair"
    reads: ClassVar[Reads] = "text"
    main: ClassVar[str] = "cross"

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, speaker: nn.Module | None = None
    ) -> None:
        self.model, self.tokenizer, self.name, self.speaker = model, tokenizer, name, speaker
        self.parts = {part: ModelPart(model, name, part) for part in PARTS}
        self.family = self.parts[self.main].family
        self.bits: int | None = None  # the packaged model of few bits is no such model
        self.longest: int | None = getattr(model.config, "max_position_embeddings", None)

    def windows(self, text: str, room: int) -> Sequence[TextWindow | None]:
        """The windows in which the text that is read is cut."""
        return text_windows(self.tokenizer, text, room)

    def named(self, number: int) -> str:
        """A token of the vocabulary as text."""
        return str(self.tokenizer.decode([number]))

    def check_target(self, target: str | None) -> None:
        """Accept any target: this model writes a second text."""

    def views(
        self,
        text: str | TokenizedText,
        target: str | None = None,
        progress: Progress = silent,
        each: EachLayer = lambda view, layer: None,
    ) -> dict[str, View]:
        """Read a text and write another, and return the views of the three attentions; see `run`.

        Args:
            target: what is written; None lets the model write, each time the likeliest token, at
                most MOST_WRITTEN.
        """
        if isinstance(text, str):
            text = tokenize(self.tokenizer, text, self.name, self.longest)
        given = None if target is None else self._decoder_input(target)
        return self.run(text, given, progress, each)

    @torch.no_grad()
    def run(
        self,
        text: TokenizedText,
        target: TokenizedText | None,
        progress: Progress = silent,
        each: EachLayer = lambda view, layer: None,
    ) -> dict[str, View]:
        """The views of two texts that are cut into tokens; `target` is what the decoder reads.

        Every layer is proved as soon as the model has run it. The decoder has read what it wrote up
        to the token before the last: the row of a token says where it looks to choose the next one.

        Args:
            progress: counts layers; before the decoder runs, also the tokens that it may write.
            each: is called with a view and the number of the layer that was proved.
        """
        layers = sum(part.sizes.n_layer for part in self.parts.values())
        room = MOST_WRITTEN if target is None else 0
        done, total = 0, layers + room

        def layer_ran(view: View, layer: int) -> None:
            nonlocal done
            each(view, layer)
            done += 1
            progress(done, total)

        model: Any = self.model
        with self._view("encoder", text, layer_ran) as encoder:
            states = model.get_encoder()(input_ids=torch.tensor([text.ids], device="cpu"))[0]
        source = encoder.reading = replace(encoder.reading, final=states)
        if target is None:
            before = done  # how many layers of the encoder
            target = self._write(states, lambda at, _: progress(before + at, total))
            done += room
        with (
            self._view("decoder", target, layer_ran) as decoder,
            self._view("cross", target, layer_ran, source) as cross,
        ):
            ids = torch.tensor([target.ids], device="cpu")
            model(encoder_outputs=_states(states), decoder_input_ids=ids, use_cache=False)
        return dict(zip(PARTS, (encoder, decoder, cross), strict=True))

    @contextmanager
    def _view(
        self, part: str, text: TokenizedText, each: EachLayer, source: TextReading | None = None
    ) -> Iterator[View]:
        """A view of one attention, which grows, and is proved, while the caller runs the model."""

        def layer_ran(reading: TextReading) -> None:
            layer = len(reading.outputs) - 1
            view.proof(layer)
            each(view, layer)

        with self.parts[part].record(text, each=layer_ran, source=source) as reading:
            view = View(self.parts[part], reading)
            yield view

    def read_texts(self, text: str, target: str | None) -> tuple[TokenizedText, TokenizedText]:
        """A text that is read and one that was written, as tokens; None: only the start token."""
        read = tokenize(self.tokenizer, text, self.name, self.longest)
        if target is not None:
            return read, self._decoder_input(target)
        start = self._start_id()
        if start is None:
            raise ArgumentError(mistake("no_start", model=self.name))
        return read, self._special([start])

    # What is written

    def _decoder_input(self, target: str) -> TokenizedText:
        """A text as the decoder reads it: behind its start token, without the end token."""
        tokens = tokenize(self.tokenizer, target, self.name, None, side="text_target")
        start = self._start_id()
        if start is None:  # mBART starts with the token of the language, which ends a text
            start = tokens.ids[-1]
        # Nothing follows the end token, so the decoder need not read it.
        kept = len(tokens.ids) - tokens.special[-1]
        check_length(1 + kept, self.name, self.longest)
        first = self._special([start])
        return TokenizedText(
            tokens.sentence,
            (*first.tokens, *tokens.tokens[:kept]),
            (True, *tokens.special[:kept]),
            (*first.spans, *tokens.spans[:kept]),
            (*first.ids, *tokens.ids[:kept]),
            (False, *tokens.unknown[:kept]),
        )

    def _start_id(self) -> int | None:
        """The id of the token that the decoder starts with, if the model says it."""
        for holder in (self.speaker, self.model):
            for kind in ("generation_config", "config"):
                found = getattr(getattr(holder, kind, None), "decoder_start_token_id", None)
                if found is not None:
                    return int(found)
        return None

    def _write(self, states: Tensor, progress: Progress) -> TokenizedText:
        """What the model writes by itself, without the end token; `progress` counts tokens."""
        if self.speaker is None:
            raise ArgumentError(mistake("no_next_token", model=self.name))
        speaker: Any = self.speaker
        most = min(MOST_WRITTEN, self.longest or MOST_WRITTEN)
        runs, layers = 0, self.parts["decoder"].sizes.n_layer

        def layer_ran(_: Tensor) -> None:
            nonlocal runs
            runs += 1
            progress(runs // layers, most)

        with self.parts["decoder"].after_each_layer(layer_ran):
            # Greedy, whatever the model's generation_config says.
            ids = speaker.generate(
                encoder_outputs=_states(states),
                attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device="cpu"),
                num_beams=1,
                do_sample=False,
                early_stopping=False,
                length_penalty=1.0,
                max_length=most,
            )[0].tolist()
        known = set(self.tokenizer.all_special_ids)
        if len(ids) > 1 and ids[-1] in known:
            ids.pop()
        # The special tokens at the start are no text; the rest is written behind them.
        start = next((at for at, id in enumerate(ids) if id not in known), len(ids))
        return extend(self.tokenizer, self._special(ids[: max(start, 1)]), ids)

    def _special(self, ids: list[int]) -> TokenizedText:
        """Special tokens, which stand in no text."""
        tokens, n = self.tokenizer.convert_ids_to_tokens(ids), len(ids)
        places, unknown = ((0, 0),) * n, (False,) * n
        return TokenizedText("", tuple(tokens), (True,) * n, places, tuple(ids), unknown)


def _states(states: Tensor) -> Any:
    """The encoder's output in the class of transformers that a decoder takes."""
    return upstream.BaseModelOutput(last_hidden_state=states)


@door
def open_pair(name: str, progress: Callable[[str], None] = lambda _: None) -> OpenPair:
    """Open a model that reads one text and writes another, in float32 on the CPU.

    Args:
        name: a folder or a hub name.
        progress: is called with what is being read, as a line of text.

    Raises:
        ArgumentError: it is no such model, or one of a family without a table row.
    """
    loaded = load(name, progress)
    if not writes_second_text(loaded):
        raise ArgumentError(f"{loaded.name} reads one text.\nOpen it with `open_model`.")
    return OpenPair(*loaded[:4])


def writes_second_text(loaded: LoadedModel) -> bool:
    """Whether a model is one of two texts."""
    config: Any = loaded.model.config
    return bool(config.is_encoder_decoder)
