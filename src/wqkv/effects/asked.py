"""What is asked: one number of what a model says about a text, and how the model is run for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from wqkv.effects.records import Question
from wqkv.errors import ArgumentError, describe
from wqkv.sentences import say
from wqkv.sentences.errors import mistake
from wqkv.sentences.why import NUMBERS
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
    def speaker(self) -> nn.Module:
        """What is run: the model, with its head if the number needs it."""

    @property
    def texts(self) -> dict[str, tuple[TokenizedText, TokenizedText]]:
        """By part, the tokens that look and the tokens that are looked at."""

    @property
    def can_skip_rows(self) -> bool:
        """Whether the model can be run on its last tokens alone, told where they stand."""

    def run(self, row: int = 0, batch: int = 1) -> Any:
        """The model's output for its tokens from `row` on, as a batch of copies."""

    def run_tokens(self, part: str, count: int) -> None:
        """Run the model on `count` texts of one token in a part; a pass answers in their place."""

    def terms(self, output: Any) -> Tensor:
        """What the number that is asked about is the sum of, (batch, terms)."""


@dataclass(frozen=True)
class OneText:
    """A text of an OpenModel."""

    model: OpenModel
    text: TokenizedText
    question: Question
    terms: ReadTerms
    speaker: nn.Module
    last_only: bool  # whether the number is made of the last token's logits alone
    ids: tuple[int, int] | None = None  # of the two tokens whose logits are compared

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


@dataclass(frozen=True)
class TwoTexts:
    """A text that an OpenPair reads, and what it has written so far."""

    model: OpenPair
    source: TokenizedText
    target: TokenizedText
    question: Question
    terms: ReadTerms
    speaker: nn.Module
    ids: tuple[int, int] | None = None

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


Asked = TypeVar("Asked", OneText, TwoTexts)


def _arguments(model: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


# The number


def ask(
    model: TextModel,
    text: str,
    answer: str | int | Callable[[Any], Tensor] | None = None,
    against: str | int | None = None,
    at: int = -1,
    target: str | None = None,
) -> AskedText:
    """What `why` is asked, checked; see there. A token may be given by its id too."""
    if not isinstance(model, OpenModel | OpenPair):
        raise ArgumentError(
            f"`model` is {describe(model)}.\nPass what open_model or open_pair returned."
        )
    if model.model.training:
        raise ArgumentError(
            f"{model.name} trains, so that dropout may change what it says.\n"
            "Call model.model.eval() first."
        )
    if any(parameter.is_inference() for parameter in model.model.parameters()):
        raise ArgumentError(
            f"{model.name} was made in inference mode, so that it has no gradients.\n"
            "Open it outside of torch.inference_mode()."
        )
    if isinstance(model, OpenPair):
        return _ask_pair(model, text, answer, against, at, target)
    model.check_target(target)
    tokens = model.tokens(text)
    if callable(answer):
        question = _of_function(answer, against, at)
        speaker = model.speaker or model.model
        return OneText(model, tokens, question, _checked(answer), speaker, last_only=False)
    if model.speaker is not None:
        row = _row(at, tokens)
        question = Question("next token", "", at=row)
        before = cut(tokens, row + 1)  # later tokens change nothing
        logits = OneText(
            model, before, question, lambda output: output.logits[:, -1], model.speaker,
            last_only=True,
        )  # fmt: skip
        return _difference(logits, answer, against, behind=_written(before))
    if model.filler is not None and model.tokenizer.mask_token_id in tokens.ids:
        row = _masked_row(model, tokens, at)
        question = Question("masked token", "", at=row)
        logits = OneText(
            model, tokens, question, lambda output: output.logits[:, row], model.filler,
            last_only=False,
        )  # fmt: skip
        return _difference(logits, answer, against)
    return _ask_similarity(model, tokens, answer, against, at)


def _masked_row(model: OpenModel, text: TokenizedText, at: int) -> int:
    """Which token is asked for: the only one that is masked, or `at`."""
    masked = [n for n, id in enumerate(text.ids) if id == model.tokenizer.mask_token_id]
    row = masked[0] if at == -1 and len(masked) == 1 else _row(at, text)
    if row not in masked:
        raise ArgumentError(mistake("not_masked", row=row, token=text.tokens[row], masked=masked))
    return row


def _ask_similarity(
    model: OpenModel,
    tokens: TokenizedText,
    answer: str | int | None,
    against: str | int | None,
    at: int,
) -> OneText:
    """How like two texts are: the cosine of the means of their last hidden states."""
    if not isinstance(answer, str):
        raise ArgumentError(mistake("no_other_text", model=model.name))
    if at != -1:
        raise ArgumentError(mistake("at_of_texts", at=at))
    if against is None and model.tokens(answer).ids == tokens.ids:
        raise ArgumentError(mistake("same_text"))

    def embed(text: TokenizedText) -> Tensor:
        with torch.no_grad():
            states = model.model(input_ids=torch.tensor([text.ids], device="cpu"))[0]
        return torch.nn.functional.normalize(states.mean(dim=1)[0], dim=0)

    directions, number = [embed(model.tokens(answer))], say(NUMBERS["cosine"], answer=answer)
    if isinstance(against, str):
        directions.append(-embed(model.tokens(against)))
        number = say(NUMBERS["cosines"], answer=answer, rival=against)
    else:
        against = None

    def read(output: Any) -> Tensor:
        mean = torch.nn.functional.normalize(output[0].mean(dim=1), dim=1)
        return mean @ torch.stack(directions, dim=1)

    question = Question("similarity", number, answer, against)
    return OneText(model, tokens, question, read, model.model, last_only=False)


def _ask_pair(
    model: OpenPair,
    text: str,
    answer: str | int | Callable[[Any], Tensor] | None,
    against: str | int | None,
    at: int,
    target: str | None,
) -> TwoTexts:
    if model.speaker is None:
        raise ArgumentError(mistake("no_writing_head", model=model.name))
    source, written = model.read_texts(text, target)
    if callable(answer):
        question = _of_function(answer, against, at)
        return TwoTexts(model, source, written, question, _checked(answer), model.speaker)
    row = _row(at, written)
    before, question = cut(written, row + 1), Question("next token", "", at=row)
    logits = TwoTexts(
        model, source, before, question, lambda output: output.logits[:, -1], model.speaker
    )
    return _difference(logits, answer, against, behind=_written(before))


def _difference(
    logits: Asked, answer: str | int | None, against: str | int | None, behind: str = ""
) -> Asked:
    """The logit of one token less that of another, where the logits of all tokens were asked.

    None is the likeliest. `behind` is the text that the two tokens come after.
    """
    model = logits.model
    with torch.no_grad():
        of_all = logits.terms(logits.run())[0]
    named = [
        _token(model, name, text, behind)
        for name, text in (("answer", answer), ("against", against))
    ]
    taken = {token[0] for token in named if token is not None}
    free = (id for id in of_all.topk(min(3, len(of_all))).indices.tolist() if id not in taken)
    (a, first), (b, second) = (token or (next(free), "") for token in named)
    if a == b:
        token = model.tokenizer.decode([a])
        raise ArgumentError(mistake("same_token", answer=answer, against=against, token=token))
    shown = [model.tokenizer.decode([id]) for id in (a, b)]
    for id, token in zip((a, b), shown, strict=True):
        if id >= len(of_all):
            raise ArgumentError(
                mistake("no_logit", id=id, token=token, model=model.name, count=len(of_all))
            )
    if shown[0] == shown[1]:  # such as two tokens that are a part of a character
        first, second = (
            say(NUMBERS["token_id"], id=id, first=said) for id, said in ((a, first), (b, second))
        )
    answer, rival = shown
    number = say(NUMBERS["logits"], answer=answer, first=first, rival=rival, second=second)

    def read(output: Any) -> Tensor:
        of_all = logits.terms(output)
        return of_all[:, [a, b]] * of_all.new_tensor([1, -1])

    question = replace(logits.question, number=number, answer=shown[0], against=shown[1])
    return replace(logits, question=question, terms=read, ids=(a, b))


def _token(
    model: OpenModel | OpenPair, name: str, text: str | int | None, behind: str
) -> tuple[int, str] | None:
    """The first token of a text, and a phrase that says so if it has more; None without a text.

    It is the token behind another text, because many tokenizers cut " Rome" there in another way
    than alone: some put a blank of their own before what stands alone.
    """
    if text is None or isinstance(text, int):
        return None if text is None else (text, "")
    side = "text_target" if isinstance(model, OpenPair) else "text"

    def ids_of(text: str) -> list[int]:
        found: list[int] = model.tokenizer(**{side: text}, add_special_tokens=False)["input_ids"]
        return found

    before, ids = ids_of(behind) if behind else [], ids_of(behind + text)
    # Where the two texts grow together, such as "is" and "Rome", it is cut alone.
    ids = ids[len(before) :] if ids[: len(before)] == before else ids_of(text)
    if not ids:
        raise ArgumentError(mistake("answer_no_token", name=name, text=text))
    return ids[0], (say(NUMBERS["first_token"], text=text) if len(ids) > 1 else "")


def _written(text: TokenizedText) -> str:
    """What is written up to the last token of a text; "" if that is no part of the sentence."""
    return text.sentence[: text.spans[-1][1]]


def _row(at: int, text: TokenizedText) -> int:
    """A token of a text by its number, from the end if it is negative."""
    n = len(text.ids)
    if not -n <= at < n:
        raise ArgumentError(mistake("no_token", number=at, count=n, last=n - 1))
    return at % n


def cut(text: TokenizedText, count: int) -> TokenizedText:
    """The first tokens of a text."""
    return TokenizedText(
        text.sentence, text.tokens[:count], text.special[:count], text.spans[:count],
        text.ids[:count], text.unknown[:count],
    )  # fmt: skip


def _of_function(answer: Callable[[Any], Tensor], against: str | int | None, at: int) -> Question:
    """The question that is a user's function of the model's output."""
    if against is not None or at != -1:
        raise ArgumentError(
            f"`answer` is a function, and `against` is {against!r}, `at` {at}.\n"
            "Leave both out: the function says what the number is."
        )
    return Question("function", str(getattr(answer, "__name__", None) or type(answer).__name__))


def _checked(answer: Callable[[Any], Tensor]) -> ReadTerms:
    """A user's function of a model's output, whose result is checked."""

    def read(output: Any) -> Tensor:
        found = answer(output)
        if not isinstance(found, Tensor) or found.ndim != 1 or not found.is_floating_point():
            raise ArgumentError(
                f"`answer` returned {describe(found)}.\n"
                "Return one number per sample: a tensor (batch,) of floats."
            )
        return found.unsqueeze(1)

    return read
