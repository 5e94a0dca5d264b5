"""Open a model as what it is: of one text, of two, of a picture, or of a text with a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from wqkv.study.loading import LoadedModel, load, load_any
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair, writes_second_text
from wqkv.study.vision import OpenVision
from wqkv.study.vision_language import OpenVisionLanguage, of_pictures

AnyModel: TypeAlias = OpenModel | OpenPair | OpenVision | OpenVisionLanguage


def open_any(name: str | None = None, progress: Callable[[str], None] = lambda _: None) -> AnyModel:
    """Open a model as what it is; see `open_model`, `open_pair` and `open_vision`."""
    loaded = load_any(name, progress)
    return _of_texts(loaded) if isinstance(loaded, LoadedModel) else of_pictures(loaded)


def open_of_texts(
    name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> OpenModel | OpenPair:
    """Open a model of one text or of two; see `open_model` and `open_pair`."""
    return _of_texts(load(name, progress))


def _of_texts(loaded: LoadedModel) -> OpenModel | OpenPair:
    return OpenPair(*loaded[:4]) if writes_second_text(loaded) else OpenModel(*loaded)
