"""Every answer has the keys and types of its record, for a model of one text and one of two."""

import json
import types
from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints

import pytest

from tests.tiny import READ, TARGET, text, tiny_llama, tiny_t5
from wqkv.draw.steps import cannot_read
from wqkv.explorer import numbers, schema
from wqkv.explorer.api import Api
from wqkv.explorer.export import record
from wqkv.explorer.matters import groups_that_matter, links_that_matter
from wqkv.explorer.numbers import QUICK, SLOW
from wqkv.explorer.request import AskedWhy, Parameters
from wqkv.study.tokens import Unread

HEAD = {"layer": 1, "head": 2}
ASKED = {
    "story": HEAD | {"token": 5},
    "matrices": HEAD,
    "matrixcolumn": HEAD | {"of": "WK", "column": 6},
    "cell": HEAD | {"i": 5, "j": 4},
    "row": HEAD | {"i": 5},
    "tile": HEAD | {"q0": 1, "q1": 4, "k0": 2, "k1": 9},
    "column": HEAD | {"j": 3},
    "thumbnail": HEAD | {"size": 4},
    "received": HEAD,
    "distances": HEAD,
    "links": HEAD,
    "grid": {"statistic": "entropy"},
    "choices": {},
    "effects": HEAD | {"q0": 1, "q1": 4, "k0": 2, "k1": 9, "answer": "lamp"},
    "next": {"i": 5, "temperature": 0.7, "top_k": 3, "top_p": 0.9},
    "effectblocks": HEAD | {"size": 4, "how": "zero", "at": 5},
    "experiment": HEAD | {"name": "no_projection", "token": 5},
    "changedmaps": HEAD | {"name": "unscaled", "token": 5, "size": 4},
    "often": HEAD | {"name": "unscaled", "token": 5},
    "runon": HEAD | {"name": "same_matrix", "token": 5},
}


def nobody(done: int, total: int) -> None:
    pass


def wrong(value: Any, hint: Any, path: str = "") -> list[str]:
    """Where JSON is not what a type says: an empty list if it is."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        found = [wrong(value, one, path) for one in inner]
        return min(found, key=len)
    if hasattr(hint, "__required_keys__"):
        hints = get_type_hints(hint, include_extras=True)
        optional = {name for name, one in hints.items() if get_origin(one) is NotRequired}
        if not isinstance(value, dict):
            return [f"{path}: {type(value).__name__} is no {hint.__name__}"]
        extra, missing = value.keys() - hints.keys(), hints.keys() - optional - value.keys()
        complaints = [f"{path}.{name} is not in {hint.__name__}" for name in sorted(extra)]
        complaints += [f"{path}.{name} is missing" for name in sorted(missing)]
        for name in value.keys() & hints.keys():
            kind = get_args(hints[name])[0] if name in optional else hints[name]
            complaints += wrong(value[name], kind, f"{path}.{name}")
        return complaints
    if origin in (Sequence, tuple):
        if not isinstance(value, list):
            return [f"{path}: {type(value).__name__} is no list"]
        kinds = inner if origin is tuple else inner * len(value)
        pairs = zip(value, kinds, strict=True)
        return [one for i, (v, kind) in enumerate(pairs) for one in wrong(v, kind, f"{path}[{i}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{path}: {type(value).__name__} is no dict"]
        return [one for name, v in value.items() for one in wrong(v, inner[1], f"{path}.{name}")]
    if origin is Literal:
        return [] if value in inner else [f"{path}: {value!r} is none of {inner}"]
    kinds = (int, float) if hint is float else (hint,)
    return [] if type(value) in kinds else [f"{path}: {value!r} is no {hint.__name__}"]


def told(value: Any) -> Any:
    """A value as a page gets it."""
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.fixture(scope="module", params=["one text", "two texts"])
def opened(request):
    if request.param == "one text":
        api = Api(tiny_llama(layers=2))
        return api, api.open(text(12), nobody)
    api = Api(tiny_t5())
    return api, api.open(READ, nobody, TARGET)


def ask(opened, name: str, /, **query: Any) -> Any:
    given = Parameters({key: str(value) for key, value in query.items()})
    return told((QUICK | SLOW)[name](*opened, given, nobody))


def test_each_answer_says_its_record():
    records = get_type_hints(schema.Answers)
    handlers = QUICK | SLOW
    assert records.keys() == handlers.keys()
    assert {name: get_type_hints(one)["return"] for name, one in handlers.items()} == records
    assert set(get_args(schema.Answer)) == set(records.values())


@pytest.mark.parametrize("name", ASKED)
def test_answers(opened, name):
    if name == "distances" and "distance" not in opened[1].view.statistics:
        pytest.skip("between two texts there is no distance")
    if name == "next" and opened[1].parts:
        pytest.skip("of two texts no next token is asked for")
    if name == "runon" and opened[1].parts:
        pytest.skip("a model of two texts is not run on")
    assert wrong(ask(opened, name, **ASKED[name]), get_type_hints(schema.Answers)[name]) == []


def test_what_the_model_cannot_read():
    api = Api(tiny_llama(layers=2))
    seen = api.open("the 猫 lamp", nobody)
    about = told(api.about(seen))
    assert wrong(about, schema.ViewAnswer) == []
    assert about["tokens"] == ["<s>", "the", "猫<unk>", "lamp"]
    assert about["typed"] == ["", "the", "猫", "lamp"]
    said = {lang: cannot_read(Unread(3, 1, 0, "猫"), api.model.name, lang) for lang in ("en", "zh")}
    assert about["cannotRead"] == said and said["en"] != said["zh"]
    story = ask((api, seen), "story", **HEAD, token=2)
    assert story["tokens"] == about["tokens"]
    changed = api.what_if(seen, [], {1: "狗"}, nobody)
    assert told(changed)["tokens"] == ["<s>", "狗<unk>", "猫<unk>", "lamp"]
    (group,) = (
        one
        for one in groups_that_matter(api, seen, AskedWhy("lamp", None, -1), "token", nobody)[
            "groups"
        ]
        if one["first"] == 2
    )
    assert group["label"] == "猫<unk>"


def test_all_of_it_can_be_read(opened):
    api, seen = opened
    assert told(api.about(seen))["cannotRead"] == {"en": "", "zh": ""}


def test_variants(opened, monkeypatch):
    _, seen = opened
    assert wrong(ask(opened, "thumbnail", layer=0, size=3), schema.ThumbnailAnswer) == []
    for name in ("tile", "thumbnail"):
        answer = ask(opened, name, **ASKED[name], of="contribution")
        assert wrong(answer, get_type_hints(schema.Answers)[name]) == []
    assert wrong(ask(opened, "row", **ASKED["row"], without=3), schema.RowAnswer) == []
    asked = AskedWhy("lamp", None, -1)
    for made, kind in (
        (links_that_matter(*opened, asked, "zero", nobody), schema.WhyAnswer),
        (groups_that_matter(*opened, asked, "span", nobody), schema.GroupsAnswer),
    ):
        assert wrong(told(made), kind) == []
    for statistic in seen.view.statistics:
        assert wrong(ask(opened, "grid", statistic=statistic), schema.GridAnswer) == []
    monkeypatch.setattr(numbers, "LONG", 8)
    monkeypatch.setattr(numbers, "STRONGEST", 3)
    monkeypatch.setattr(numbers, "CURVE", 4)
    for name in ("story", "row", "received"):
        answer = ask(opened, name, **ASKED[name])
        assert wrong(answer, get_type_hints(schema.Answers)[name]) == []
        assert "weights" not in answer


def test_the_model_and_its_views(opened):
    api, seen = opened
    assert wrong(told(api.facts()), schema.ModelAnswer) == []
    for view in (seen, *seen.parts.values()):
        assert wrong(told(api.about(view)), schema.ViewAnswer) == []
    assert wrong(told(record(api, seen, (0, 0, 1), "en", nobody, 2**16)), schema.Recorded) == []


def test_what_runs_the_model_again():
    api = Api(tiny_llama(layers=2))
    seen = api.open(text(12), nobody)
    for off, edits in (([(1, 2)], {}), ([], {3: "bright"})):
        assert wrong(told(api.what_if(seen, off, edits, nobody)), schema.WhatIfAnswer) == []
    assert wrong(told(api.generate(seen, 2, None, nobody)), schema.GenerateAnswer) == []


class Inner(TypedDict):
    size: int


class Planted(TypedDict):
    name: str
    parts: Sequence[Inner]
    share: float | None
    span: NotRequired[tuple[int, int]]


@pytest.mark.parametrize(
    ("value", "complaints"),
    [
        ({"name": "a", "parts": [{"size": 3}], "share": None, "span": [1, 2]}, []),
        ({"name": "a", "parts": []}, [".share is missing"]),
        ({"name": "a", "parts": [], "share": 1.5, "sizes": 3}, [".sizes is not in Planted"]),
        ({"name": 3, "parts": [], "share": 1.5}, [".name: 3 is no str"]),
        ({"name": "a", "parts": [{"size": True}], "share": 1}, [".parts[0].size: True is no int"]),
        ({"name": "a", "parts": {}, "share": 1}, [".parts: dict is no list"]),
        ({"name": "a", "parts": [[]], "share": 1}, [".parts[0]: list is no Inner"]),
    ],
)
def test_planted_answer(value, complaints):
    assert wrong(value, Planted) == complaints
