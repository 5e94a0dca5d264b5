"""Let a causal model continue a text, and ask for the probabilities of every step."""

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
from wqkv.study.model import OpenModel, TextModel, one_sequence
from wqkv.study.sampling import NextTokens, check_sampling, filtered
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
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
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
        temperature: what the logits are divided by before a token is drawn. With a seed only, as
            `top_k` and `top_p`; None is what the `generation_config` says.
        top_k: then only so many of the likeliest tokens may be drawn; 0 is all.
        top_p: then only the fewest of the likeliest that have together this probability.
        options: what else transformers' `generate` takes, such as cache_implementation="static",
            or a `logits_processor`.

    Raises:
        ArgumentError: the model has no head for the next token, no room is left, a temperature,
            top_k or top_p that nothing can be drawn with or that has no seed, or an option that is
            set here.
    """
    check_sampling(temperature, top_k, top_p)
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    drawing = {name: value for name, value in given.items() if value is not None}
    if drawing and seed is None:
        ((name, value), *_) = drawing.items()
        raise ArgumentError(
            f"`{name}` is {value}, and without a seed no token is drawn: it is the likeliest one.\n"
            f"Pass a seed too, such as seed=0, or leave out `{name}`."
        )
    model, reading = one_text_model(view, "Writing on"), view.reading
    if model.speaker is None:
        raise no_next_token(model)
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
    given_here = ("input_ids", "position_ids")  # `generate` counts positions on by itself
    beside = {name: x for name, x in reading.arguments.items() if name not in given_here}
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
        speaker.generate(ids, **set_here, **beside, **drawing, **options)
    whole = model.extended(reading, [*reading.ids, *streamer.ids])
    return Generated(tuple(streamer.steps), model.view(whole, each))


@door
def next_tokens(
    view: View, position: int = -1, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> NextTokens:
    """Return the probabilities of the token that follows a position, before and after sampling.

    before = softmax(logits); after = softmax(top_p(top_k(logits / temperature))), which is what
    `generate` draws from with a seed. A position before the last one is read again, up to there.

    Args:
        position: of the token that is followed; -1 is the last one.
        temperature: what the logits are divided by.
        top_k: only so many of the likeliest tokens stay; 0 is all.
        top_p: only the fewest of the likeliest stay that have together this probability.

    Raises:
        ArgumentError: the model has no head for the next token, there is no such position, or a
            temperature, top_k or top_p that nothing can be drawn with.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from wqkv.study.tokens import TokenizedText
    >>> speaker = GPT2LMHeadModel(GPT2Config(vocab_size=43, n_layer=1, n_embd=6, n_head=1)).eval()
    >>> model = OpenModel(speaker.transformer, None, "tiny-gpt2", speaker)
    >>> found = next_tokens(model.view(TokenizedText.of_ids([5, 7, 11])), temperature=0.7, top_k=3)
    >>> found.after.shape, found.kept
    (torch.Size([43]), 3)
    """
    check_sampling(temperature, top_k, top_p)
    return filtered(next_logits(view, position), temperature, top_k, top_p)


def next_logits(view: View, position: int) -> Tensor:
    """The logits of the token that follows a position, (vocabulary,): see `next_tokens`."""
    model = one_text_model(view, "The next token")
    if not -view.n <= position < view.n:
        raise ArgumentError(
            f"`position` is {position}, and the text has {view.n} tokens.\n"
            f"Pass one from 0 to {view.n - 1}; -1 is the last one."
        )
    at = position % view.n
    reading = view.reading
    if at < view.n - 1:
        reading = model.run(model.beginning(reading, at + 1))
    if reading.logits is None:
        raise no_next_token(model)
    return reading.logits


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
    model = one_sequence(view.model, what)
    if not isinstance(model, OpenModel):
        raise ArgumentError(
            f"{what} is for models of text, and {model.name} reads a picture.\n"
            "Ask it of a language model."
        )
    return model


def no_next_token(model: OpenModel) -> ArgumentError:
    """The error for a model that has no head for the next token."""
    return ArgumentError(
        f"{model.name} predicts no next token.\nOpen a causal language model, such as a Llama."
    )


def likeliest(model: TextModel, logits: Tensor) -> tuple[NextToken, ...]:
    """The LIKELIEST tokens of the logits of one token, (vocabulary,), or classes of a picture."""
    found = logits.float().softmax(dim=0).topk(min(LIKELIEST, len(logits)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return tuple(NextToken(model.named(id), chance, id) for id, chance in pairs)
