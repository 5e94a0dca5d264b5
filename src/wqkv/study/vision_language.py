"""A model that reads a text with a picture in it: patches are tokens among those of the text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.layer.convert.huggingface import language_inside
from wqkv.maps.axis import Axis
from wqkv.record.inputs.joined import joined_axes
from wqkv.sentences.errors import mistake
from wqkv.study.loading import LoadedModel, LoadedVision, LoadedVisionLanguage, load_any
from wqkv.study.model import OpenModel, Reads
from wqkv.study.tokens import (
    PictureTokens,
    TokenizedText,
    check_length,
    cut_text,
    edit,
    extend,
    special_around,
)
from wqkv.study.vision import UNNAMED, OpenVision, as_seen, hide_patch, processed, read_image

Value = TypeVar("Value")


class OpenVisionLanguage(OpenModel):
    """A model of one text with a picture in it, and the layers of its language model as ours.

    Its tokens are those of the prompt, with the cells of the picture where the prompt has a marker:
    what the processor makes of it. `speaker` is the model with its head for the next token.
    """

    opener: ClassVar[str] = "open_vision"
    reads: ClassVar[Reads] = "both"

    def __init__(
        self, model: nn.Module, processor: Any, name: str, speaker: nn.Module | None = None
    ) -> None:
        super().__init__(model, processor.tokenizer, name, speaker, inside=language_inside(model))
        whole: Any = model.config
        self.processor, self.whole, self.config = processor, whole, whole.get_text_config()

    def tokens(self, sentence: str, picture: str | None = None) -> TokenizedText:
        """A text as the model's tokens; with a picture, a prompt that asks the text about it.

        Args:
            picture: the path of a file, or a data: address that has the picture in itself.

        Raises:
            ArgumentError: no such file, no picture, or a processor that does more than put the
                tokens of the picture in the place of its marker.
        """
        if picture is None:
            return super().tokens(sentence)
        if not sentence.strip():
            raise ArgumentError(mistake("empty_sentence"))
        image, name = read_image(picture, self.name)
        prompt = self._prompt(sentence)
        asked = {"images": [image], "text": [prompt], "return_mm_token_type_ids": True}
        given = processed(self.processor, self.name, **asked)
        return self._joined(prompt, given["input_ids"][0].tolist(), given, name)

    def edited(self, text: TokenizedText, edits: Mapping[int, str]) -> TokenizedText:
        """A text with some tokens replaced, and some patches of its picture hidden.

        Raises:
            ArgumentError: a token that does not stand in the text, or a text in place of a patch.
        """
        if not text.arguments:
            return super().edited(text, edits)
        made, typed = dict(text.arguments), dict(edits)
        for picture in text.pictures:
            for token in {*edits} & {*picture.tokens}:
                if other := typed.pop(token):
                    raise ArgumentError(mistake("only_hidden", token=token, text=other))
                if made["pixel_values"].ndim not in (2, 4) or len(text.pictures) > 1:
                    raise ArgumentError(mistake("seen_twice", model=self.name))
                made["pixel_values"] = hide_patch(made["pixel_values"], picture, token)
        prompt = edit(text, typed)
        ids = list(cut_text(self.tokenizer, prompt).ids)
        if ids.count(self.marker) != 1:
            raise ArgumentError(mistake("marker_edited", model=self.name))
        place = ids.index(self.marker)
        ids[place : place + 1] = self._in_place_of_marker(text)
        return self._joined(prompt, ids, made, next((one.name for one in text.pictures), UNNAMED))

    def extended(self, text: TokenizedText, ids: list[int]) -> TokenizedText:
        """The text that goes on behind the picture; `ids` begins with those of `text`."""
        whole = extend(self.tokenizer, text, ids)
        if not text.arguments:
            return whole
        return replace(whole, pictures=text.pictures, arguments=self._called(ids, text.arguments))

    def beginning(self, text: TokenizedText, count: int) -> TokenizedText:
        """The first `count` tokens of a text, as the model reads them.

        Raises:
            ArgumentError: they end inside the picture.
        """
        ids = text.ids[:count]
        if self.marker not in ids:
            return TokenizedText.of_ids(ids)
        if self.marker in text.ids[count:]:
            raise ArgumentError(mistake("inside_picture", token=count - 1))
        return replace(TokenizedText.of_ids(ids), arguments=self._called(ids, text.arguments))

    @property
    def marker(self) -> int:
        """The id of the token that stands for a cell of a picture."""
        return int(self.whole.image_token_id)

    def _prompt(self, sentence: str) -> str:
        """What the processor is given: the text with a marker for the picture."""
        mark = self.tokenizer.convert_ids_to_tokens(self.marker)
        if mark in sentence:
            return sentence
        if getattr(self.processor, "chat_template", None) is None:
            return f"{mark}\n{sentence}"
        said = [{"type": "image"}, {"type": "text", "text": sentence}]
        messages = [{"role": "user", "content": said}]
        prompt: str = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        # What the tokenizer puts before a text itself, such as <s>, is not put there twice.
        before = special_around(self.tokenizer)[0]
        return prompt.removeprefix(self.tokenizer.decode(before) if before else "")

    def _joined(
        self, prompt: str, ids: list[int], made: Mapping[str, Tensor], name: str
    ) -> TokenizedText:
        """A prompt as tokens, of which `ids` are those with the cells of the picture."""
        check_length(len(ids), self.name, self.longest)
        text, called = cut_text(self.tokenizer, prompt), self._called(ids, made)
        at = text.ids.index(self.marker) if self.marker in text.ids else len(text.ids)
        count = len(ids) - len(text.ids) + 1  # of the tokens in the place of the marker
        if [*text.ids[:at], *ids[at : at + count], *text.ids[at + 1 :]] != ids:
            raise ArgumentError(mistake("more_than_marker", model=self.name))
        axes = self._axes(ids, called)
        cells = {first + i: axis.label(i) for first, axis in axes for i in range(len(axis))}

        def put(values: Sequence[Value], inside: Sequence[Value]) -> tuple[Value, ...]:
            """What the tokens of the prompt have, and what those in the marker's place have."""
            return *values[:at], *inside, *values[at + 1 :]

        pieces = self.tokenizer.convert_ids_to_tokens(ids[at : at + count])
        return TokenizedText(
            prompt,
            put(text.tokens, [cells.get(at + i) or piece for i, piece in enumerate(pieces)]),
            put(text.special, [False] * count),
            put(text.spans, [(0, 0)] * count),
            tuple(ids),
            put(text.unknown, [False] * count),
            # Where other tokens stand among the cells, as at the ends of its rows, it is not drawn.
            pictures=tuple(
                PictureTokens(self._as_seen(axis), axis.grid[0], axis.grid[1], first, name)
                for first, axis in axes
                if axis.places is None and axis.grid is not None
            ),
            arguments=called,
        )

    def _in_place_of_marker(self, text: TokenizedText) -> tuple[int, ...]:
        """The ids that stand in a text for its picture: those that nobody typed."""
        inside = [
            not (mark or any(span)) for mark, span in zip(text.special, text.spans, strict=True)
        ]
        at, n = text.ids.index(self.marker), len(text.ids)
        first = next((i + 1 for i in range(at, -1, -1) if not inside[i]), 0)
        return text.ids[first : next((i for i in range(at, n) if not inside[i]), n)]

    def _axes(self, ids: list[int], called: Mapping[str, Tensor]) -> list[tuple[int, Axis]]:
        """The pictures in a sequence of tokens, each with the number of its first one."""
        given = torch.tensor([ids], device="cpu")
        found = joined_axes(self.whole, given, called, lambda some: Axis(len(some)))
        parts = found[0] if found is not None else ()
        firsts = accumulate(map(len, parts), initial=0)
        return [
            (first, axis)
            for first, axis in zip(firsts, parts, strict=False)
            if axis.grid is not None and len(axis.grid) == 2
        ]

    def _as_seen(self, axis: Axis) -> Tensor:
        return as_seen(self.processor.image_processor, axis.source)

    def _called(self, ids: Sequence[int], made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model is called with; `made` is what the processor made of the picture."""
        given, model = torch.tensor([ids], device="cpu"), self.model
        # One text without padding needs no mask, and a model does not take all that is made.
        made_here = ("input_ids", "attention_mask", "position_ids")
        takes = inspect.signature(model.forward).parameters.keys() - made_here
        called = {name: x for name, x in made.items() if name in takes} | {"input_ids": given}
        if "mm_token_type_ids" in called:
            called["mm_token_type_ids"] = (given == self.marker).int()
        # Qwen2-VL places the cells of a picture by row and column. The model is told these places,
        # so that it rotates by the same ones as what is shown.
        if hasattr(model, "get_rope_index"):
            place: Any = model.get_rope_index
            here = {
                name: called[name] for name in inspect.signature(place).parameters & called.keys()
            }
            called["position_ids"] = place(**here)[0]
        return called


# Opening


def of_pictures(loaded: LoadedVision | LoadedVisionLanguage) -> OpenVision | OpenVisionLanguage:
    """A model that reads pictures, from what it is made of."""
    if isinstance(loaded, LoadedVision):
        return OpenVision(*loaded)
    return OpenVisionLanguage(*loaded)


@door
def open_vision(
    name: str, progress: Callable[[str], None] = lambda _: None
) -> OpenVision | OpenVisionLanguage:
    """Open a model that reads pictures, alone or in a text, in float32 on the CPU.

    Args:
        name: a folder or a hub name, such as "google/vit-base-patch16-224".
        progress: is called with what is being read, as a line of text.

    Raises:
        ArgumentError: it is no such model, one of a family without a table row, or one without a
            processor of pictures.
    """
    loaded = load_any(name, progress)
    if isinstance(loaded, LoadedModel):
        raise ArgumentError(f"{loaded.name} reads a text.\nOpen it with `open_model`.")
    return of_pictures(loaded)
