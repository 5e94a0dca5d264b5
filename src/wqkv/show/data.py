"""Stories as plain data for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from wqkv import __version__
from wqkv.look.story import Proof, Story


def as_json(stories: Sequence[Story]) -> dict[str, Any]:
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


def _story(story: Story) -> dict[str, Any]:
    fields = {field.name: getattr(story, field.name) for field in dataclasses.fields(story)}
    ranked = [
        {"word": story.words[j], "position": j, "weight": story.weights[j].item()}
        for j in story.ranked
    ]
    return {name: _plain(value) for name, value in fields.items()} | {"ranked": _plain(ranked)}


def _plain(value: Any) -> Any:
    match value:
        case Tensor():
            return _plain(value.tolist())
        case Proof():
            return _plain(dataclasses.asdict(value)) | {"holds": value.holds}
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case float():
            return value if math.isfinite(value) else None
    return value
