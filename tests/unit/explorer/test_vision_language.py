"""The explorer's server with a model of a text and a picture: words and patches in one sequence."""

import base64
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from PIL import Image

from tests.tiny import draw_photo, tiny_llama
from tests.unit.explorer.test_schema import ASKED, nobody, told, wrong
from tests.unit.explorer.test_server import HOST, ROOT, Client
from tests.vision_language import tiny_llava
from wqkv.errors import ArgumentError
from wqkv.explorer import inline, schema, server
from wqkv.explorer.api import Api
from wqkv.explorer.export import record
from wqkv.explorer.jobs import Refused
from wqkv.explorer.matters import links_that_matter
from wqkv.explorer.numbers import QUICK, SLOW
from wqkv.explorer.request import AskedWhy, Parameters

WORDS = "what is bright here"
#: Links are removed in texts alone, and between patches there is no distance.
OF_TEXTS = ("distances", "choices", "effects", "effectblocks")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    return str(draw_photo(tmp_path_factory.mktemp("photos") / "photo.png"))


@pytest.fixture(scope="module")
def opened(photo):
    api = Api(tiny_llava(), "a/tiny")
    return api, api.open(WORDS, nobody, picture=photo)


@pytest.fixture(scope="module")
def client(photo):
    made = server.app(
        Api(tiny_llava(), "a/tiny"), "the-secret", [HOST, "localhost:8007"], WORDS, picture=photo
    )
    with Client(made, base_url=ROOT, raise_server_exceptions=True) as client:
        yield client


def test_facts(opened):
    api, seen = opened
    facts, about = told(api.facts()), told(api.about(seen))
    assert wrong(facts, schema.ModelAnswer) == [] and wrong(about, schema.ViewAnswer) == []
    assert (facts["reads"], facts["generates"]) == ("both", True)
    assert about["tabs"] == ["cards", "text", "grid", "map", "whatif", "generate"]
    assert (about["read"], about["text"]) == (WORDS, f"<image> {WORDS}")
    assert [picture["first"] for picture in about["pictures"]] == [0]
    assert about["tokens"][24:] == ["4,4", *WORDS.split()]


@pytest.mark.parametrize("name", ASKED)
def test_answers(opened, name):
    def answer():
        asked = Parameters({key: str(value) for key, value in (ASKED[name] | at).items()})
        return told((QUICK | SLOW)[name](*opened, asked, nobody))

    at = {"next": {"i": 26}, "matrixcolumn": {"column": 3}}.get(name, {})
    if name in OF_TEXTS:
        with pytest.raises((ArgumentError, Refused), match=r"no distance|tiny-llava reads a"):
            answer()
    else:
        assert wrong(answer(), get_type_hints(schema.Answers)[name]) == []


def test_the_lines_of_python(opened, photo):
    api, seen = opened
    asked = Parameters({"layer": "1", "head": "0", "i": "27"})
    lines = QUICK["row"](api, seen, asked, nobody)["python"].split("\n")
    assert lines[1:4] == [
        "model = wqkv.open_vision('a/tiny')", f"text = {WORDS!r}", f"picture = {photo!r}",
    ]  # fmt: skip
    known = {"model": api.model}
    exec("\n".join(lines[2:-1]), known)
    assert eval(lines[-1], known).weights.tolist() == seen.view.row(1, 0, 27).weights.tolist()


def test_what_is_asked_next_is_about_the_same_picture(client, photo):
    first = client.ask(f"views/{client.opens_with()}")
    second = client.ask(f"views/{client.open('and here')}")
    assert second["tokens"] == [*first["tokens"][:25], "and", "here"]
    assert second["pictures"] == first["pictures"]


def test_another_picture(client, photo, tmp_path):
    refused = client.tell("open", {"text": WORDS, "picture": photo}, 422)
    assert "tiny-llava reads a picture, and what was sent is none" in refused["error"]
    assert "`picture` is int" in client.tell("open", {"text": WORDS, "picture": 3}, 422)["error"]
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    data = base64.b64encode(Path(tmp_path / "red.png").read_bytes()).decode()
    sent = {"text": WORDS, "picture": f"data:image/png;base64,{data}"}
    about = client.ask(f"views/{client.work('open', sent)['result']['view']}")
    (picture,) = about["pictures"]
    assert picture["name"] == "picture"
    first = client.ask(f"views/{client.opens_with()}")
    assert picture["image"] != first["pictures"][0]["image"]


def test_it_writes_on_and_hides(client):
    view = client.opens_with()
    written = client.work(f"views/{view}/generate", {"count": 2})["result"]
    about = client.ask(f"views/{written['view']}")
    assert about["n"] == 31 and about["pictures"] and all(one["holds"] for one in about["proofs"])
    asked = {"off": [], "edits": [{"token": 7, "text": ""}, {"token": 27, "text": "the left"}]}
    found = client.work(f"views/{view}/whatif", asked)["result"]
    assert found["tokens"][25:] == ["what", "is", "the", "left", "here"]


def test_a_text_alone_is_read_in_windows():
    api = Api(tiny_llava())
    api.model.config.max_position_embeddings = 5
    seen = api.open(f"{WORDS} and there in the left", nobody, window=1)
    assert (seen.window.windows, seen.view.n) == (2, 4)
    grid = SLOW["grid"](api, seen, Parameters({"statistic": "label"}), nobody)
    assert len(grid["labels"]) == 2
    assert told(api.about(seen))["tabs"] == list(get_args(schema.Tab))
    found = links_that_matter(api, seen, AskedWhy(None, None, -1), "zero", nobody)
    assert found["kind"] == "next token"


def test_a_picture_for_a_model_of_texts(photo):
    with pytest.raises(ArgumentError, match="tiny-llama reads no picture beside a text"):
        Api(tiny_llama(layers=1)).open(WORDS, nobody, picture=photo)


def test_a_pair(opened):
    with pytest.raises(ArgumentError, match="tiny-llava reads a picture, and no pair of sentences"):
        opened[0].open(WORDS, nobody, pair="A cat.")


def test_a_saved_page(opened, photo):
    recorded = told(record(*opened, (0, 1, 27), "en", nobody, 2**24))
    assert wrong(recorded, schema.Recorded) == []
    page = inline.saved_page(opened[0].model, WORDS, None, photo, None, "en")
    assert "data:image/png" in page.html and "tiny-llava reads 29 tokens" in repr(page)
    assert page.picture is not None and page.picture[:4] == b"\x89PNG"
