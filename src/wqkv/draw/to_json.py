"""Records as JSON: dataclasses, named tuples and tensors as dicts, lists and numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from wqkv import __version__
from wqkv.draw.matrix import Product, products
from wqkv.maps.proof import Proof
from wqkv.study.one_token import TokenStory

#: What JSON can hold.
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | None"


def as_json(stories: Sequence[TokenStory]) -> dict[str, Json]:
    """Return every field of every story for strict JSON.

    JSON has no infinity: a score of -inf (a hidden token) is None, as is every number that is not
    finite. `ranked` lists the tokens by falling weight, and `proof` has `holds` too. "model" is the
    model's name, or None where the stories come from several models.

    Of each matrix there are the size, the extremes and one column: what it `multiplies` . `numbers`
    + `bias` = `sum`, which is number `column` of what it `makes` once `then` is done to it. All
    numbers of a matrix are those of `View.matrices`.

    >>> as_json([])["stories"]
    []
    """
    models = {story.model for story in stories}
    return {
        "wqkv": __version__,
        "model": models.pop() if len(models) == 1 else None,
        "stories": [_story(story) for story in stories],
    }


def _story(story: TokenStory) -> dict[str, Json]:
    ranked = [
        {"token": story.tokens[j], "position": j, "weight": story.weights[j].item()}
        for j in story.ranked
    ]
    # Without the matrices, which may have millions of numbers.
    told = plain(dataclasses.replace(story, matrices=None))
    return {**told, "ranked": plain(ranked), "matrices": _matrices(story)}


def _matrices(story: TokenStory) -> Json:
    """WQ, WK, WV and WO as sizes, extremes and the column that makes the largest number."""
    return {one.name: _matrix(one) for one in products(story)} or None


def _matrix(one: Product) -> Json:
    column = one.column
    told: dict[str, Json] = plain(
        {
            "rows": one.numbers.shape[0],
            "columns": one.numbers.shape[1],
            "smallest": one.numbers.min().item(),
            "largest": one.numbers.max().item(),
            "multiplies": one.given_name,
            "makes": one.made_name,
            "column": column,
            "numbers": one.numbers[:, column],
            "bias": None if one.bias is None else one.bias[column].item(),
            "sum": one.made[column].item(),
            "then": one.between,
        }
    )
    return told


def plain(value: object) -> Any:
    """Return a record, a tensor, or a value made of them as JSON; None for a number not finite.

    The result is typed as Any because it depends on the record: the caller knows its form.

    >>> plain({"scores": (0.5, -math.inf)})
    {'scores': [0.5, None]}
    """
    match value:
        case None | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Tensor():
            numbers = value.tolist()
            # A map has millions of numbers: each is looked at only where one is not finite.
            return numbers if bool(value.isfinite().all()) else plain(numbers)
        case dict():
            return {name: plain(part) for name, part in value.items()}
        case tuple() if hasattr(value, "_asdict"):
            return plain(value._asdict())
        case list() | tuple():
            return [plain(part) for part in value]
    assert dataclasses.is_dataclass(value), f"{type(value).__name__} has no JSON form"
    names = [field.name for field in dataclasses.fields(value)]
    record = {name: plain(getattr(value, name)) for name in names}
    return record | {"holds": value.holds} if isinstance(value, Proof) else record
