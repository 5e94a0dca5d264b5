"""A model that reads one picture: the cells that it cuts the picture into are its tokens."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from wqkv.errors import ArgumentError, need
from wqkv.record.inputs.cuts import unnormalized
from wqkv.record.inputs.special_tokens import special_tokens
from wqkv.sentences.errors import mistake
from wqkv.study.model import OneSequence, Reads
from wqkv.study.tokens import PictureTokens, TokenizedText, check_token
from wqkv.study.windows import TextWindow

#: What an address of a picture begins with that has the picture in itself.
DATA = "data:image/"
#: How the names of files of pictures end.
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
#: What a picture without a file is called.
UNNAMED = "picture"


class OpenVision(OneSequence):
    """A model of one picture, its image processor, and its attention layers as ours.

    Its tokens are the special ones, and then the patches of the picture, row by row: "3,5" is in
    row 3 and column 5, from 0. `classifier` is the model with its head for classes, if it has one.
    """

    opener: ClassVar[str] = "open_vision"
    reads: ClassVar[Reads] = "picture"
    speaker: nn.Module | None = None  # it writes no text
    bits: int | None = None
    longest: int | None = None

    def __init__(
        self, model: nn.Module, processor: Any, name: str, classifier: nn.Module | None = None
    ) -> None:
        super().__init__(model, name)
        self.processor, self.classifier = processor, classifier

    def windows(self, text: str, room: int) -> Sequence[TextWindow | None]:
        """A picture is read whole."""
        return [None]

    def named(self, number: int) -> str:
        """A class that the model tells apart."""
        return str(self.config.id2label.get(number, number))

    def tokens(self, picture: str) -> TokenizedText:
        """A picture as the model's tokens.

        Args:
            picture: the path of a file, or a data: address that has the picture in itself.

        Raises:
            ArgumentError: there is no such file, or it is no picture.
        """
        image, name = read_image(picture, self.name)
        given = processed(self.processor, self.name, images=image)["pixel_values"]
        return self._cut(given.float(), name)

    def edited(self, text: TokenizedText, edits: Mapping[int, str]) -> TokenizedText:
        """A picture with some patches hidden: their pixels are 0, the mean color of the processor.

        Raises:
            ArgumentError: a token that is no patch, or a text in place of one.
        """
        (picture,), given = text.pictures, text.arguments["pixel_values"]
        for token, typed in edits.items():
            check_token(text, token)
            if token not in picture.tokens:
                raise ArgumentError(mistake("no_patch", token=token, name=text.tokens[token]))
            if typed:
                raise ArgumentError(mistake("only_hidden", token=token, text=typed))
            given = hide_patch(given, picture, token)
        return self._cut(given, picture.name)

    def _cut(self, given: Tensor, name: str) -> TokenizedText:
        """What the model is called with, (1, 3, height, width), as its tokens."""
        high, wide = self._patches().kernel_size
        rows, columns = given.shape[-2] // high, given.shape[-1] // wide
        found = special_tokens(self.model.modules())
        special = [] if found is None else [name for axis in found.before for name in axis.labels]
        cells = (f"{row},{column}" for row in range(rows) for column in range(columns))
        tokens, first = (*special, *cells), len(special)
        n = len(tokens)
        # What is left over at the right and below, no patch sees.
        pixels = as_seen(self.processor, given[0, :, : rows * high, : columns * wide])
        return TokenizedText(
            name,
            tokens,
            tuple(at < first for at in range(n)),
            ((0, 0),) * n,
            tuple(range(n)),
            (False,) * n,
            pictures=(PictureTokens(pixels, rows, columns, first, name),),
            arguments={"pixel_values": given, **self._resized(given)},
        )

    def _resized(self, given: Tensor) -> dict[str, bool]:
        """What the model is told of a picture of another size than those that it was trained on."""
        size = self.config.image_size
        known = (size, size) if isinstance(size, int) else tuple(size)
        told = "interpolate_pos_encoding"
        takes = told in inspect.signature(self.model.forward).parameters
        return {told: True} if takes and given.shape[-2:] != known else {}

    def _patches(self) -> nn.Conv2d:
        """The convolution that cuts a picture into patches: its kernel and stride are a patch."""
        return next(module for module in self.model.modules() if isinstance(module, nn.Conv2d))

    def _call(self, text: TokenizedText) -> Tensor | None:
        """Run the model; if it has a head, return the logits of its classes."""
        if self.classifier is None:
            self.model(**text.called_with)
            return None
        logits: Tensor = self.classifier(**text.called_with).logits
        return logits[0].float()


# What a picture is, before and behind its processor


def read_image(picture: str, model: str) -> tuple[Any, str]:
    """A picture as PIL has it, upright and in RGB, and what it is called.

    Args:
        picture: the path of a file, or a data: address that has the picture in itself.
        model: the name of what reads it.
    """
    pil: Any = need("PIL.Image", "show", mistake("pictures"))
    turn: Any = need("PIL.ImageOps", "show", mistake("pictures"))
    inside, path = picture.startswith(DATA), Path(picture)
    if not inside and not _is_file(path):
        raise ArgumentError(mistake("no_picture_file", model=model, path=picture))
    name = UNNAMED if inside else path.name
    try:
        file = BytesIO(base64.b64decode(picture.partition(",")[2])) if inside else path
        return turn.exif_transpose(pil.open(file)).convert("RGB"), name
    except Exception as error:  # whatever a foreign reader raises for a foreign file
        lines = str(error).splitlines()[:1]
        kind, reason = type(error).__name__, lines[0][:200] if lines and not inside else ""
        raise ArgumentError(mistake("no_picture", path=name, kind=kind, reason=reason)) from error


def processed(processor: Any, model: str, **given: Any) -> Mapping[str, Tensor]:
    """What a processor makes of its arguments; `model` is the name of whose processor it is."""
    try:
        made: Mapping[str, Tensor] = processor(**given, return_tensors="pt")
    except Exception as error:  # whatever a foreign processor raises
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise ArgumentError(mistake("not_processed", model=model, reason=reason)) from error
    return made


def as_seen(processor: Any, given: Tensor) -> Tensor:
    """A picture (3, height, width) from 0 to 1, from what an image processor made of it."""
    return unnormalized(given, processor).clamp(0, 1)


def hide_patch(given: Tensor, picture: PictureTokens, token: int) -> Tensor:
    """What a model is given of one picture, with the pixels of one of its tokens set to 0.

    Args:
        given: (1, 3, height, width), or (patches, numbers), where some rows make a token.
    """
    at, hidden = token - picture.first, given.clone()
    if given.ndim == 2:
        each = len(given) // len(picture.tokens)
        hidden[at * each : (at + 1) * each] = 0
        return hidden
    row, column = divmod(at, picture.columns)
    high, wide = (
        picture.pixels.shape[-2] // picture.rows,
        picture.pixels.shape[-1] // picture.columns,
    )
    hidden[..., row * high : (row + 1) * high, column * wide : (column + 1) * wide] = 0
    return hidden


def is_picture_file(text: str) -> bool:
    """Whether a text is the path of a picture that is there."""
    return text.lower().endswith(PICTURES) and _is_file(Path(text))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is too long, or of characters that no path has
        return False
