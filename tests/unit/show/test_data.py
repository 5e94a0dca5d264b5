import json
import math

import pytest
import torch

import wqkv
from tests.unit.show.stories import make
from wqkv.show import data


def test_holds_every_field():
    story = make(causal=True)
    [plain] = data.as_json([story])["stories"]
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    assert again["words"] == list(story.words)
    assert again["scores"][8:] == [None] * 3  # hidden from word 7
    assert torch.equal(torch.tensor(again["map"]), story.map)
    assert torch.equal(torch.tensor(again["x"]), story.x)
    assert again["proof"] == {"difference": 1.9e-7, "size": 2.3, "tolerance": 4.1e-6, "holds": True}
    best = story.ranked[0]
    first = {"word": story.words[best], "position": best, "weight": story.weights[best].item()}
    assert again["ranked"][0] == first
    assert len(again["ranked"]) == 11


def test_is_strict_json():
    story = make(x=torch.tensor([math.nan, math.inf, 1.0]))
    plain = data.as_json([story])["stories"][0]
    assert plain["x"] == [None, None, 1.0]
    json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize(
    ("models", "name"), [([], None), (["a"], "a"), (["a", "a"], "a"), (["a", "b"], None)]
)
def test_model(models, name):
    found = data.as_json([make(model=model) for model in models])
    assert found["wqkv"] == wqkv.__version__
    assert found["model"] == name
    assert len(found["stories"]) == len(models)
