"""A model that reads one text and writes another: what its three attentions look at, as views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.study.model import Loaded, OpenModel, Part, Reading, Step, Tokens, cut, fits, load
from wqkv.study.view import View
from wqkv.study.whatif import continued
from wqkv.upstream import of_transformers as upstream

#: The attentions of such a model, in the order in which they run.
PARTS = ("encoder", "decoder", "cross")
#: The most words that the model writes if it is not told what to write.
WRITTEN = 256

Each = Callable[[View, int], None]


class OpenPair:
    """An encoder-decoder model, its tokenizer, and the layers of its three attentions as ours.

    `parts` has them by name. In "cross" the words that are written look at those that were read.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, speaker: nn.Module | None = None
    ) -> None:
        reads = model.main_input_name
        if reads != "input_ids":
            raise ArgumentError(
                f"{name} reads {reads}, and what opens here reads a text.\n"
                "Compare its layers with `wqkv parity`, or open one with `from_hf`."
            )
        self.model, self.tokenizer, self.name, self.speaker = model, tokenizer, name, speaker
        self.parts = {part: Part(model, name, part) for part in PARTS}
        self.family = self.parts["cross"].family
        self.longest: int | None = getattr(model.config, "max_position_embeddings", None)

    def read(
        self,
        text: str,
        target: str | None = None,
        step: Step = lambda done, total: None,
        each: Each = lambda view, layer: None,
    ) -> dict[str, View]:
        """A text and what is written of it, as views of the three attentions by name; see `run`.

        Args:
            target: what is written; None lets the model write, each time the likeliest word, at
                most WRITTEN.
        """
        tokens = cut(self.tokenizer, text, self.name, self.longest)
        return self.run(tokens, None if target is None else self._given(target), step, each)

    @torch.no_grad()
    def run(
        self,
        tokens: Tokens,
        target: Tokens | None,
        step: Step = lambda done, total: None,
        each: Each = lambda view, layer: None,
    ) -> dict[str, View]:
        """The same of words that are cut already; `target` is what the decoder reads.

        Every layer is proved as soon as the model has run it. The decoder has read what it wrote up
        to the word before the last: the row of a word is where it looks while it chooses the next.

        Args:
            step: is told how far it is; may raise, which ends the reading.
            each: is given a view and the number of the layer that is proved.
        """
        layers = sum(part.sizes["n_layer"] for part in self.parts.values())
        room = WRITTEN if target is None else 0
        done, total = 0, layers + room

        def proved(view: View, layer: int) -> None:
            nonlocal done
            each(view, layer)
            done += 1
            step(done, total)

        model: Any = self.model
        with self._view("encoder", tokens, proved) as encoder:
            states = model.get_encoder()(input_ids=torch.tensor([tokens.ids], device="cpu"))[0]
        source = encoder.reading = replace(encoder.reading, final=states)
        if target is None:
            before = done
            target = self._written(states, lambda at, _: step(before + at, total))
            done += room
        with (
            self._view("decoder", target, proved) as decoder,
            self._view("cross", target, proved, source) as cross,
        ):
            ids = torch.tensor([target.ids], device="cpu")
            model(encoder_outputs=_states(states), decoder_input_ids=ids, use_cache=False)
        return dict(zip(PARTS, (encoder, decoder, cross), strict=True))

    @contextmanager
    def _view(
        self, part: str, tokens: Tokens, each: Each, source: Reading | None = None
    ) -> Iterator[View]:
        """A view of one attention, which is proved and grows while the model runs."""

        def proved(reading: Reading) -> None:
            layer = len(reading.outputs) - 1
            view.proof(layer)
            each(view, layer)

        with self.parts[part].listening(tokens, each=proved, source=source) as reading:
            view = View(self.parts[part], reading)
            yield view

    # What is written

    def _given(self, target: str) -> Tokens:
        """A text as the decoder reads it: moved by one word, behind the one it starts with."""
        tokens = cut(self.tokenizer, target, self.name, None, side="text_target")
        start = self._start()
        if start is None:  # mBART starts with the language, which stands behind a text
            start = tokens.ids[-1]
        kept = len(tokens.ids) - tokens.special[-1]  # the end is not read again
        fits(1 + kept, self.name, self.longest)
        first = self._pieces([start])
        return Tokens(
            tokens.sentence,
            (*first.tokens, *tokens.tokens[:kept]),
            (True, *tokens.special[:kept]),
            (*first.spans, *tokens.spans[:kept]),
            (*first.ids, *tokens.ids[:kept]),
        )

    def _start(self) -> int | None:
        """The id of the word that the decoder starts with."""
        for holder in (self.speaker, self.model):
            for kind in ("generation_config", "config"):
                found = getattr(getattr(holder, kind, None), "decoder_start_token_id", None)
                if found is not None:
                    return int(found)
        return None

    def _written(self, states: Tensor, step: Step) -> Tokens:
        """What the model writes by itself, without the word that ends it."""
        if self.speaker is None:
            raise ArgumentError(
                f"{self.name} says no next word.\nPass the text that it is to have written."
            )
        speaker: Any = self.speaker
        most = min(WRITTEN, self.longest or WRITTEN)
        turns, layers = 0, self.parts["decoder"].sizes["n_layer"]

        def layer_ran(_: Tensor) -> None:
            nonlocal turns
            turns += 1
            step(turns // layers, most)

        with self.parts["decoder"].told(layer_ran):
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
        marks = next((at for at, id in enumerate(ids) if id not in known), len(ids))
        return continued(self.tokenizer, self._pieces(ids[: max(marks, 1)]), ids)

    def _pieces(self, ids: list[int]) -> Tokens:
        """Special words, which stand in no text."""
        tokens, n = self.tokenizer.convert_ids_to_tokens(ids), len(ids)
        return Tokens("", tuple(tokens), (True,) * n, ((0, 0),) * n, tuple(ids))


def _states(states: Tensor) -> Any:
    return upstream.BaseModelOutput(last_hidden_state=states)


@door
def open_pair(name: str, progress: Callable[[str], None] = lambda _: None) -> OpenPair:
    """Open a model that reads one text and writes another, in float32 on the CPU.

    Args:
        name: a folder or a hub name.
        progress: is told what is being read.

    Raises:
        ArgumentError: it is no such model, or one of a family without a table row.
    """
    loaded = load(name, progress)
    if not _pair(loaded):
        raise ArgumentError(f"{loaded.name} reads one text.\nOpen it with `open_model`.")
    return OpenPair(*loaded)


def open_any(
    name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> OpenModel | OpenPair:
    """Open a model as what it is; see `open_model` and `open_pair`."""
    loaded = load(name, progress)
    return OpenPair(*loaded) if _pair(loaded) else OpenModel(*loaded)


def _pair(loaded: Loaded) -> bool:
    config: Any = loaded.model.config
    return bool(config.is_encoder_decoder)
