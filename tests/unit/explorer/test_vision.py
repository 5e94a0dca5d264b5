"""The explorer's server with a model of one picture: patches in place of words."""

import base64
import re
from pathlib import Path
from typing import get_type_hints

import pytest

from tests.tiny import draw_photo, tiny_vit
from tests.unit.explorer.test_schema import ASKED, nobody, told, wrong
from tests.unit.explorer.test_server import served
from wqkv.errors import ArgumentError
from wqkv.explorer import schema
from wqkv.explorer.api import Api
from wqkv.explorer.export import export, record
from wqkv.explorer.jobs import Refused
from wqkv.explorer.numbers import QUICK, SLOW
from wqkv.explorer.request import Parameters

#: What is asked of texts alone.
OF_TEXTS = ("distances", "choices", "effects", "effectblocks", "next")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    return str(draw_photo(tmp_path_factory.mktemp("photos") / "photo.png"))


@pytest.fixture(scope="module")
def opened(photo):
    api = Api(tiny_vit(), "a/tiny")
    return api, api.open(photo, nobody)


@pytest.fixture(scope="module")
def client(photo):
    with served(tiny_vit(), photo) as client:
        yield client


@pytest.fixture(scope="module")
def view(client) -> str:
    return client.opens_with()


def test_facts(opened, photo):
    api, seen = opened
    facts = told(api.facts())
    assert wrong(facts, schema.ModelAnswer) == []
    assert (facts["reads"], facts["generates"], facts["longest"]) == ("picture", False, None)
    about = told(api.about(seen))
    assert wrong(about, schema.ViewAnswer) == []
    assert about["tabs"] == ["cards", "text", "grid", "map", "whatif"]
    assert about["statistics"] == ["entropy", "received", "sink"]
    assert (about["read"], about["text"], about["n"]) == (photo, "photo.png", 16)
    (picture,) = about["pictures"]
    assert {**picture, "image": ""} == {
        "image": "", "rows": 5, "columns": 3, "first": 1, "name": "photo.png",
    }  # fmt: skip
    png = base64.b64decode(picture["image"].removeprefix("data:image/png;base64,"))
    assert png[:4] == b"\x89PNG" and int.from_bytes(png[16:20]) == 21


@pytest.mark.parametrize("name", [name for name in ASKED if name not in OF_TEXTS])
def test_answers(opened, name):
    asked = {key: str(value) for key, value in ASKED[name].items()}
    found = told((QUICK | SLOW)[name](*opened, Parameters(asked), nobody))
    assert wrong(found, get_type_hints(schema.Answers)[name]) == []


@pytest.mark.parametrize("name", OF_TEXTS)
def test_what_is_asked_of_texts_alone(opened, name):
    asked = {key: str(value) for key, value in ASKED[name].items()}
    says = "There is no distance|tiny-vit reads a picture"
    with pytest.raises((ArgumentError, Refused), match=says):
        (QUICK | SLOW)[name](*opened, Parameters(asked), nobody)


def test_the_steps_speak_of_patches(opened):
    for lang, says in (("en", "into 5 x 3 patches, and reads 16"), ("zh", "切成 5 x 3 个图块")):
        asked = {"layer": "0", "head": "1", "token": "4", "lang": lang}
        steps = QUICK["story"](*opened, Parameters(asked), nobody)["steps"]
        said = " ".join(part for step in steps for part in step.values())
        assert says in steps[0]["sentence"]
        assert not re.search(r"[{}]| words?\b", said)


def test_the_lines_of_python(opened, photo):
    api, seen = opened
    asked = {"layer": "1", "head": "0", "i": "4"}
    lines = QUICK["row"](api, seen, Parameters(asked), nobody)["python"].split("\n")
    assert lines[:2] == ["import wqkv", "model = wqkv.open_vision('a/tiny')"]
    known = {"model": api.model}
    exec("\n".join(lines[2:-1]), known)
    assert eval(lines[-1], known).weights.tolist() == seen.view.row(1, 0, 4).weights.tolist()


def test_a_hidden_patch(client, view):
    asked = {"edits": [{"token": 6, "text": ""}]}
    found = client.work(f"views/{view}/whatif", asked)["result"]
    assert {one["token"] for one in found["before"]["top"]} == {"cat", "dog", "ship"}
    assert found["before"] != found["after"] and found["tokens"][6] == "1,2"
    changed = client.ask(f"views/{found['view']}")
    assert changed["pictures"][0]["image"] != client.ask(f"views/{view}")["pictures"][0]["image"]
    assert all(proof["holds"] for proof in changed["proofs"])
    failed = client.work(f"views/{view}/whatif", {"edits": [{"token": 0, "text": ""}]})
    assert failed["state"] == "failed" and "is no patch of the picture" in failed["error"]


def test_another_picture_is_sent_and_no_path(client, photo):
    refused = client.tell("open", {"text": photo}, 422)
    assert "tiny-vit reads a picture, and what was sent is none" in refused["error"]
    data = base64.b64encode(Path(photo).read_bytes()).decode()
    view = client.work("open", {"text": f"data:image/png;base64,{data}"})["result"]["view"]
    assert client.ask(f"views/{view}")["pictures"][0]["name"] == "picture"
    failed = client.work("open", {"text": "data:image/png;base64,AAAA"})
    assert failed["state"] == "failed" and "is no picture that opens" in failed["error"]


def test_no_second_text(opened, photo):
    with pytest.raises(ArgumentError, match="tiny-vit reads a picture, and no pair of sentences"):
        opened[0].open(photo, nobody, pair="A cat.")
    with pytest.raises(ArgumentError, match="tiny-vit writes no second text"):
        opened[0].open(photo, nobody, target="A cat.")


def test_a_saved_page(opened):
    recorded = told(record(*opened, (0, 1, 4), "en", nobody, 2**24))
    assert wrong(recorded, schema.Recorded) == []
    assert all(recorded["parts"][""]["layers"])
    assert "data:image/png" in export(*opened, (0, 1, 4), "en", nobody)
