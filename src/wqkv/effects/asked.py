"""What is asked: one number of what a model says about a text, and how the model is run for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wqkv.effects.records import Question
from wqkv.errors import ArgumentError, describe
from wqkv.study.model import OpenModel, TextModel
from wqkv.study.pair import OpenPair
from wqkv.study.tokens import TokenizedText

#: The terms of a number, made of a model's output: (batch, terms).
ReadTerms = Callable[[Any], Tensor]


class AskedText(Protocol):
    """A text that a model reads, and the number that is asked about."""

    @property
    def question(self) -> Question:
        """What is asked, in words."""

    @property
    def texts(self) -> dict[str, tuple[TokenizedText, TokenizedText]]:
        """By part, the tokens that look and the tokens that are looked at."""

    @property
    def can_skip_rows(self) -> bool:
        """Whether the model can be run on its last tokens alone, told where they stand."""

    def run(self, row: int = 0, batch: int = 1) -> Any:
        """The model's output for its tokens from `row` on, as a batch of copies."""

    def run_tokens(self, part: str, count: int) -> None:
        """Run the model on `count` single tokens, whatever they are."""

    def terms(self, output: Any) -> Tensor:
        """What the number that is asked about is the sum of, (batch, terms)."""


@dataclass(frozen=True)
class OneText:
    """A text of an OpenModel."""

    model: OpenModel
    text: TokenizedText
    question: Question
    read: ReadTerms
    speaker: nn.Module  # what is run: the model, with its head if the number needs it
    last_only: bool  # whether the number is made of the last token's logits alone

    @property
    def texts(self) -> dict[str, tuple[TokenizedText, TokenizedText]]:
        return {self.model.part: (self.text, self.text)}

    @property
    def can_skip_rows(self) -> bool:
        return self.last_only and "position_ids" in _arguments(self.speaker)

    def run(self, row: int = 0, batch: int = 1) -> Any:
        ids = torch.tensor([self.text.ids[row:]], device="cpu").expand(batch, -1)
        given: dict[str, Any] = {"input_ids": ids}  # keyword arguments of the model's own code
        known = _arguments(self.speaker)
        if row:
            n = len(self.text.ids)
            given["position_ids"] = torch.arange(row, n, device="cpu").expand(batch, -1)
        if self.last_only and "logits_to_keep" in known:
            given["logits_to_keep"] = 1
        if "use_cache" in known or "past_key_values" in known:
            given["use_cache"] = False
        return self.speaker(**given)

    def run_tokens(self, part: str, count: int) -> None:
        self.speaker(input_ids=torch.tensor([self.text.ids[:1]], device="cpu").expand(count, -1))

    def terms(self, output: Any) -> Tensor:
        return self.read(output)


@dataclass(frozen=True)
class TwoTexts:
    """A text that an OpenPair reads, and what it has written so far."""

    model: OpenPair
    source: TokenizedText
    target: TokenizedText
    question: Question
    read: ReadTerms
    speaker: nn.Module

    @property
    def texts(self) -> dict[str, tuple[TokenizedText, TokenizedText]]:
        return {
            "encoder": (self.source, self.source),
            "decoder": (self.target, self.target),
            "cross": (self.target, self.source),
        }

    can_skip_rows = False

    def run(self, row: int = 0, batch: int = 1) -> Any:
        return self._run(self.source.ids, self.target.ids, batch)

    def run_tokens(self, part: str, count: int) -> None:
        if part == "encoder":
            self._run(self.source.ids[:1], self.target.ids, count)
        else:
            self._run(self.source.ids, self.target.ids[:1], count)

    def _run(self, source: tuple[int, ...], target: tuple[int, ...], batch: int) -> Any:
        read, written = (
            torch.tensor([ids], device="cpu").expand(batch, -1) for ids in (source, target)
        )
        return self.speaker(input_ids=read, decoder_input_ids=written, use_cache=False)

    def terms(self, output: Any) -> Tensor:
        return self.read(output)


def _arguments(model: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


# The number


def ask(
    model: TextModel,
    text: str,
    answer: str | Callable[[Any], Tensor] | None = None,
    against: str | None = None,
    at: int = -1,
    target: str | None = None,
) -> AskedText:
    """What `why` is asked, checked; see there."""
    if isinstance(model, OpenPair):
        return _ask_pair(model, text, answer, against, at, target)
    if not isinstance(model, OpenModel):
        raise ArgumentError(
            f"`model` is {describe(model)}.\nPass what open_model or open_pair returned."
        )
    model.check_target(target)
    tokens = model.tokens(text)
    if callable(answer):
        return OneText(
            model, tokens, Question("function", _name_of(answer)), _checked(answer),
            model.speaker or model.model, last_only=False,
        )  # fmt: skip
    if model.speaker is not None:
        row = _row(at, tokens)
        tokens = cut(tokens, row + 1)  # later tokens change nothing
        question, read = _logits(
            model, tokens, model.speaker, "next token", row, answer, against,
            lambda output: output.logits[:, -1],
        )  # fmt: skip
        return OneText(model, tokens, question, read, model.speaker, last_only=True)
    if model.filler is not None and model.tokenizer.mask_token_id in tokens.ids:
        masked = [n for n, id in enumerate(tokens.ids) if id == model.tokenizer.mask_token_id]
        row = masked[0] if at == -1 and len(masked) == 1 else _row(at, tokens)
        if row not in masked:
            raise ArgumentError(
                f"Token {row} is {tokens.tokens[row]!r}, and tokens {masked} are masked.\n"
                "Pass the number of one of them as `at`."
            )
        question, read = _logits(
            model, tokens, model.filler, "masked token", row, answer, against,
            lambda output: output.logits[:, row],
        )  # fmt: skip
        return OneText(model, tokens, question, read, model.filler, last_only=False)
    return _ask_similarity(model, tokens, answer, against)


def _ask_similarity(
    model: OpenModel, tokens: TokenizedText, answer: str | None, against: str | None
) -> OneText:
    """How like two texts are: the cosine of the means of their last hidden states."""
    if answer is None:
        raise ArgumentError(
            f"{model.name} predicts no token here, so the number asked about is how like two texts "
            "are.\nPass the other text as `answer`."
        )

    def embed(text: TokenizedText) -> Tensor:
        with torch.no_grad():
            states = model.model(input_ids=torch.tensor([text.ids], device="cpu"))[0]
        return torch.nn.functional.normalize(states.mean(dim=1)[0], dim=0)

    directions, number = [embed(model.tokens(answer))], f"cosine with {answer!r}"
    if against is not None:
        directions.append(-embed(model.tokens(against)))
        number += f" less cosine with {against!r}"

    def read(output: Any) -> Tensor:
        mean = torch.nn.functional.normalize(output[0].mean(dim=1), dim=1)
        return mean @ torch.stack(directions, dim=1)

    question = Question("similarity", number, answer, against)
    return OneText(model, tokens, question, read, model.model, last_only=False)


def _ask_pair(
    model: OpenPair,
    text: str,
    answer: str | Callable[[Any], Tensor] | None,
    against: str | None,
    at: int,
    target: str | None,
) -> TwoTexts:
    if model.speaker is None:
        raise ArgumentError(f"{model.name} predicts no next token.\nOpen it with its head.")
    source, written = model.read_texts(text, target)
    if callable(answer):
        question = Question("function", _name_of(answer))
        return TwoTexts(model, source, written, question, _checked(answer), model.speaker)
    row = _row(at, written)
    written = cut(written, row + 1)

    def logits(output: Any) -> Tensor:
        found: Tensor = output.logits[:, -1]
        return found

    plain = TwoTexts(model, source, written, Question("function", ""), logits, model.speaker)
    with torch.no_grad():
        now = plain.terms(plain.run())[0]
    question, read = _choose(model, "next token", row, now, answer, against, logits)
    return TwoTexts(model, source, written, question, read, model.speaker)


def _logits(
    model: OpenModel,
    tokens: TokenizedText,
    speaker: nn.Module,
    kind: Any,
    row: int,
    answer: str | None,
    against: str | None,
    logits: ReadTerms,
) -> tuple[Question, ReadTerms]:
    plain = OneText(
        model, tokens, Question("function", ""), logits, speaker, last_only=kind == "next token"
    )
    with torch.no_grad():
        now = plain.terms(plain.run())[0]
    return _choose(model, kind, row, now, answer, against, logits)


def _choose(
    model: TextModel,
    kind: Any,
    row: int,
    logits: Tensor,
    answer: str | None,
    against: str | None,
    read: ReadTerms,
) -> tuple[Question, ReadTerms]:
    """The logit of one token less that of another; of the two likeliest, where none is named."""
    ranked = logits.topk(2).indices.tolist()
    a, first = _token(model, "answer", answer) or (ranked[0], "")
    b, second = _token(model, "against", against) or (next(id for id in ranked if id != a), "")
    if a == b:
        raise ArgumentError(
            f"`answer` {answer!r} and `against` {against!r} begin with the same token, "
            f"{model.tokenizer.decode([a])!r}.\nPass two that differ in their first token."
        )
    shown = [model.tokenizer.decode([id]) for id in (a, b)]
    number = f"logit of {shown[0]!r}{first} less logit of {shown[1]!r}{second}"
    return (
        Question(kind, number, shown[0], shown[1], row),
        lambda output: read(output)[:, [a, b]] * read(output).new_tensor([1, -1]),
    )


def _token(model: TextModel, name: str, text: str | None) -> tuple[int, str] | None:
    """The first token of a text, and a phrase that says so if it has more; None without a text."""
    if text is None:
        return None
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ArgumentError(f"`{name}` is {text!r}, which has no token.\nPass at least one.")
    return ids[0], f" (the first token of {text!r})" if len(ids) > 1 else ""


def _row(at: int, text: TokenizedText) -> int:
    """A token of a text by its number, from the end if it is negative."""
    n = len(text.ids)
    if not -n <= at < n:
        raise ArgumentError(f"There is no token {at}: the text has {n} tokens, 0 to {n - 1}.")
    return at % n


def cut(text: TokenizedText, count: int) -> TokenizedText:
    """The first tokens of a text."""
    return TokenizedText(
        text.sentence, text.tokens[:count], text.special[:count], text.spans[:count],
        text.ids[:count],
    )  # fmt: skip


def _name_of(answer: Callable[[Any], Tensor]) -> str:
    return str(getattr(answer, "__name__", None) or type(answer).__name__)


def _checked(answer: Callable[[Any], Tensor]) -> ReadTerms:
    """A user's function of a model's output, whose result is checked."""

    def read(output: Any) -> Tensor:
        found = answer(output)
        if not isinstance(found, Tensor) or found.ndim != 1:
            raise ArgumentError(
                f"`answer` returned {describe(found)}.\n"
                "Return one number per sample: a tensor (batch,)."
            )
        return found.unsqueeze(1)

    return read
