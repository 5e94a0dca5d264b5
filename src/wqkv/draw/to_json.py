"""Stories as plain data for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from wqkv import __version__
from wqkv.study.answers import Proof
from wqkv.study.one_token import TokenStory


def as_json(stories: Sequence[TokenStory]) -> dict[str, Any]:
    """Every field of every story as plain numbers, ready for strict JSON.

    JSON knows no infinity: a score of -inf (a hidden word) is None, as is every number that is not
    finite. `ranked` lists the words by falling weight and `proof` adds `holds`. "model" is the
    model's name, or None where the stories come from several models.

    >>> as_json([])["stories"]
    []
    """
    models = {story.model for story in stories}
    return {
        "wqkv": __version__,
        "model": models.pop() if len(models) == 1 else None,
        "stories": [_story(story) for story in stories],
    }


def _story(story: TokenStory) -> dict[str, Any]:
    ranked = [
        {"token": story.tokens[j], "position": j, "weight": story.weights[j].item()}
        for j in story.ranked
    ]
    return {**plain(story), "ranked": plain(ranked)}


def plain(value: Any) -> Any:
    """A value of ours as what JSON knows: lists, dicts, strings, numbers; None for no number.

    >>> plain({"scores": (0.5, -math.inf)})
    {'scores': [0.5, None]}
    """
    match value:
        case Tensor():
            numbers = value.tolist()
            return numbers if bool(value.isfinite().all()) else plain(numbers)
        case Proof():
            return plain(_fields(value)) | {"holds": value.holds}
        case dict():
            return {name: plain(part) for name, part in value.items()}
        case tuple() if hasattr(value, "_asdict"):
            return plain(value._asdict())
        case list() | tuple():
            return [plain(part) for part in value]
        case float():
            return value if math.isfinite(value) else None
    return plain(_fields(value)) if dataclasses.is_dataclass(value) else value


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
