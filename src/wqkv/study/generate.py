"""Let a causal model continue a text, and keep the probabilities of every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError, describe
from wqkv.study.callbacks import Progress, silent
from wqkv.study.model import OpenModel, TextModel
from wqkv.study.tokens import extend
from wqkv.study.view import EachLayer, View
from wqkv.upstream.of_transformers import quiet

#: How many of the likeliest next tokens are named.
LIKELIEST = 8


class NextToken(NamedTuple):
    """A token that may come next; a token that is no whole character reads \ufffd."""

    token: str
    probability: float
    id: int


class GeneratedToken(NamedTuple):
    """One token of a generation: which, at what position, and what else it could have been.

    A token that is drawn, or that the model's `generation_config` favors, need not be in `top`.
    """

    position: int
    token: str
    probability: float
    top: tuple[NextToken, ...]
    id: int


@dataclass(frozen=True)
class Generated:
    """What a model wrote: one step per token, and the view of the whole text."""

    steps: tuple[GeneratedToken, ...]
    view: View


@door
def generate(
    view: View,
    count: int,
    progress: Progress = silent,
    each: EachLayer = lambda view, layer: None,
    seed: int | None = None,
    **options: Any,
) -> Generated:
    """Let the model write on with its own `generate`: at most `count` tokens.

    The probabilities that are returned are the model's own, before any option changes them.

    Args:
        progress: counts tokens that are written; it is called after every layer.
        each: is called after every layer of the last reading, of the whole text; see
            `OpenModel.view`.
        seed: draws the tokens at random, the same ones for the same seed; None takes each time the
            likeliest. Both follow the model's `generation_config`.
        options: what else transformers' `generate` takes, such as temperature=0.7, top_k=50 and
            top_p=0.9 (with a seed), cache_implementation="static", or a `logits_processor`.

    Raises:
        ArgumentError: the model has no head for the next token, no room is left, or an option that
            is set here.
    """
    model, reading = one_text_model(view, "Writing on"), view.reading
    if model.speaker is None:
        raise ArgumentError(
            f"{model.name} predicts no next token.\nOpen a causal language model, such as a Llama."
        )
    longest = model.longest or view.n + count
    if count < 1 or view.n >= longest:
        raise ArgumentError(
            f"There is no room for {count} more tokens: the text has {view.n}, "
            f"and {model.name} takes {longest}."
        )
    speaker: Any = model.speaker
    ids, streamer = torch.tensor([reading.ids], device="cpu"), _Streamer(model, view.n)
    own = speaker.generation_config.eos_token_id
    ends = {*model.tokenizer.all_special_ids, *(own if isinstance(own, list) else [own])} - {None}
    set_here: dict[str, Any] = {  # keyword arguments of transformers' generate
        "attention_mask": torch.ones_like(ids),
        "do_sample": seed is not None,
        "eos_token_id": sorted(ends) or None,
        "max_new_tokens": min(count, longest - view.n),
        "num_beams": 1,
        "num_return_sequences": 1,
        "pad_token_id": min(ends, default=None),
        "streamer": streamer,
    }
    if model.first_position:  # without positions, `generate` counts them from 0
        positions = torch.arange(view.n, device="cpu")[None] + model.first_position
        set_here["position_ids"] = positions
    if twice := sorted(set_here.keys() & options.keys()):
        raise ArgumentError(
            f"`{twice[0]}` is {describe(options[twice[0]])}, which `generate` sets by itself.\n"
            "Leave it out: `count` says how many tokens are written, `seed` that they are drawn."
        )
    progress(0, count)
    with (
        quiet(),
        torch.random.fork_rng(devices=[], enabled=seed is not None),
        model.after_each_layer(lambda _: progress(len(streamer.steps), count)),
        streamer.keeping_logits(),
    ):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        speaker.generate(ids, **set_here, **options)
    whole = extend(model.tokenizer, reading, [*reading.ids, *streamer.ids])
    return Generated(tuple(streamer.steps), model.view(whole, each))


class _Streamer:
    """A streamer of `generate` that keeps each token, and the likeliest tokens in its place."""

    def __init__(self, model: OpenModel, start: int) -> None:
        self.model, self.start = model, start
        self.steps: list[GeneratedToken] = []
        self.ids: list[int] = []
        self._logits: Tensor | None = None

    @contextmanager
    def keeping_logits(self) -> Iterator[None]:
        """Keep the logits of the last token that the model has read."""

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            # A copy, because a slice would keep the logits of all tokens in memory.
            self._logits = output.logits[0, -1].detach().to(torch.float32, copy=True)

        assert self.model.speaker is not None
        hook = self.model.speaker.register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def put(self, ids: Tensor) -> None:
        """Keep the next token; `generate` calls this."""
        if self._logits is None:  # the first call has the text itself, before the model has run
            return
        id, top = int(ids), likeliest(self.model, self._logits)
        chance = float(self._logits.softmax(dim=0)[id])
        token = self.model.tokenizer.decode([id])
        self.steps.append(GeneratedToken(self.start + len(self.ids), token, chance, top, id))
        self.ids.append(id)

    def end(self) -> None:
        """Do nothing; `generate` calls this after the last token."""


def one_text_model(view: View, what: str) -> OpenModel:
    """The model of a view, if it reads and writes one text; `what` is asked of it."""
    if not isinstance(view.model, OpenModel):
        raise ArgumentError(
            f"{what} is for models of one text, and {view.model.name} reads one and writes another."
            "\nOpen it again with another text, or another target."
        )
    return view.model


def likeliest(model: TextModel, logits: Tensor) -> tuple[NextToken, ...]:
    """The LIKELIEST tokens of the logits of one token, (vocabulary,)."""
    found = logits.float().softmax(dim=0).topk(min(LIKELIEST, len(logits)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return tuple(NextToken(model.tokenizer.decode([id]), chance, id) for id, chance in pairs)
