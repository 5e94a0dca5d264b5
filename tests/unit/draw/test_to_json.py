import dataclasses
import json
import math
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

import wqkv
from tests.unit.draw.stories import make
from wqkv.draw import to_json as data


def test_holds_every_field():
    story = make(causal=True)
    [plain] = data.as_json([story])["stories"]
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    assert again["tokens"] == list(story.tokens)
    assert again["unread"] == {"tokens": 11, "unknown": 0, "parts": 0, "typed": ""}
    assert again["scores"][8:] == [None] * 3  # hidden from word 7
    assert torch.equal(torch.tensor(again["map"]), story.map)
    assert torch.equal(torch.tensor(again["x"]), story.x)
    proof = {"difference": 1.9e-7, "size": 2.3, "tolerance": 4.1e-6, "rows": 11, "empty": 0}
    assert again["proof"] == proof | {"holds": True}
    best = story.ranked[0]
    first = {"token": story.tokens[best], "position": best, "weight": story.weights[best].item()}
    assert again["ranked"][0] == first
    assert len(again["ranked"]) == 11


def test_is_strict_json():
    story = make(x=torch.tensor([math.nan, math.inf, 1.0]))
    plain = data.as_json([story])["stories"][0]
    assert plain["x"] == [None, None, 1.0]
    json.dumps(plain, allow_nan=False)


def test_one_column_of_each_matrix_gives_one_number():
    story = make(layer=1)
    [told] = data.as_json([story])["stories"]
    vectors = {"x": story.x, "context": story.gated}
    for name, made in (("WQ", story.q), ("WK", story.k), ("WV", story.v), ("WO", story.share)):
        one, numbers = told["matrices"][name], getattr(story.matrices, name)
        assert [one["rows"], one["columns"]] == list(numbers.shape)
        assert [one["smallest"], one["largest"]] == [numbers.min().item(), numbers.max().item()]
        column = torch.tensor(one["numbers"])
        assert torch.equal(column, numbers[:, one["column"]])
        total = vectors[one["multiplies"]].double() @ column.double() + (one["bias"] or 0)
        assert one["sum"] == pytest.approx(total.item(), rel=1e-9)
        assert one["sum"] == pytest.approx(made[one["column"]].item(), rel=1e-4)
        assert abs(one["sum"]) >= made.abs().max().item() * (1 - 1e-4)
    turned = dataclasses.replace(story.matrices, to_k=("norm", "RoPE"))
    [told] = data.as_json([dataclasses.replace(story, matrices=turned)])["stories"]
    assert (told["matrices"]["WK"]["then"], told["matrices"]["WQ"]["then"]) == (
        ["norm", "RoPE"],
        [],
    )
    [told] = data.as_json([make(matrices=None)])["stories"]
    assert told["matrices"] is None


@pytest.mark.parametrize(
    ("models", "name"), [([], None), (["a"], "a"), (["a", "a"], "a"), (["a", "b"], None)]
)
def test_model(models, name):
    found = data.as_json([make(model=model) for model in models])
    assert found["wqkv"] == wqkv.__version__
    assert found["model"] == name
    assert len(found["stories"]) == len(models)


class Pair(NamedTuple):
    i: int
    weight: float


@dataclass(frozen=True)
class Outer:
    pairs: tuple[Pair, ...]
    numbers: torch.Tensor
    none: float | None


def test_plain():
    value = Outer((Pair(3, math.inf), Pair(5, 0.5)), torch.tensor([[1.5, -math.inf]]), None)
    assert data.plain(value) == {
        "pairs": [{"i": 3, "weight": None}, {"i": 5, "weight": 0.5}],
        "numbers": [[1.5, None]],
        "none": None,
    }
    assert data.plain([True, "a", 7, {"b": math.nan}]) == [True, "a", 7, {"b": None}]
    assert data.plain(torch.tensor([3, 5])) == [3, 5]
    assert data.plain(torch.tensor(0.1)) == torch.tensor(0.1).item()


def test_a_story_without_its_map():
    assert data.as_json([make(map=None)])["stories"][0]["map"] is None
