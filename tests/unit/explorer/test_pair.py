"""The explorer's server with a model of two texts: three attentions below one name."""

import pytest
import uvicorn

from tests.tiny import READ, TARGET, tiny_t5
from tests.unit.explorer.test_server import served
from wqkv.errors import ArgumentError
from wqkv.explorer import server
from wqkv.explorer.api import Api
from wqkv.explorer.server import serve
from wqkv.study import one_token as story
from wqkv.study.heads import heads
from wqkv.study.pair import PARTS, OpenPair


@pytest.fixture(scope="module")
def model() -> OpenPair:
    return tiny_t5()


@pytest.fixture(scope="module")
def views(model):
    return model.views(READ, TARGET)


@pytest.fixture(scope="module")
def client():
    with served(tiny_t5()) as client:
        yield client


@pytest.fixture(scope="module")
def view(client) -> str:
    return client.work("open", {"text": READ, "target": TARGET})["result"]["view"]


def test_facts(client):
    found = client.ask("model")
    assert (found["name"], found["family"], found["generates"]) == ("tiny-t5", "t5", True)
    assert {part: facts["n_layer"] for part, facts in found["parts"].items()} == {
        "encoder": 3, "decoder": 2, "cross": 2,
    }  # fmt: skip
    assert [found["parts"][part]["causal"] for part in PARTS] == [False, True, False]
    assert (found["n_layer"], found["causal"], found["scale"]) == (2, False, 1.0)
    assert found["parts"]["encoder"]["position"].startswith("T5Bias")
    assert found["python"] == (
        "import wqkv\nmodel = wqkv.open_pair('a/tiny')\nmodel.parts['cross'].sizes"
    )


def test_three_views_below_one_name(client, view, views):
    assert client.ask(f"views/{view}") == client.ask(f"views/{view}.cross")
    for part in PARTS:
        found, one = client.ask(f"views/{view}.{part}"), views[part]
        assert (found["part"], found["parts"]) == (part, list(PARTS))
        assert (found["tokens"], found["n"]) == (list(one.reading.tokens), one.n)
        assert (found["read"], found["target"]) == (READ, TARGET)
        assert found["statistics"] == list(one.statistics)
        assert len(found["proofs"]) == one.model.sizes.n_layer
        assert all(proof["holds"] for proof in found["proofs"])
        links = [story.clearest_link(one, i) for i in range(one.model.sizes.n_layer)]
        _, layer, head, word = max(links)
        assert found["first"] == {"layer": layer, "head": head, "token": word}
        assert found["python"].endswith(f"view = views[{part!r}]\nview.proof({layer})")
    keys = client.ask(f"views/{view}")["keys"]
    assert (keys["tokens"], keys["text"]) == (list(views["cross"].keys.tokens), READ)
    assert client.ask(f"views/{view}.decoder")["keys"] is None


@pytest.mark.parametrize("part", PARTS)
def test_answers(client, view, views, part):
    one, name = views[part], f"views/{view}.{part}"
    row = client.ask(f"{name}/row", layer=1, head=2, i=5)
    assert row["weights"] == pytest.approx(one.row(1, 2, 5).weights.tolist(), rel=1e-4, abs=1e-9)
    column = client.finished(f"{name}/column", layer=1, head=2, j=7)
    assert column["weights"] == pytest.approx(one.column(1, 2, 7).weights.tolist(), rel=1e-4)
    found = client.finished(f"{name}/thumbnail", layer=1, head=2, size=4)
    assert (found["edges"][-1], found["keys"][-1]) == (one.n, one.m)
    told = client.ask(f"{name}/story", layer=1, head=2, token=5)
    expected = story.token_story(one, 1, 2, 5)
    assert told["k"] == pytest.approx(expected.k.tolist(), rel=1e-4)
    assert (told["source"] is not None) == (part == "cross")
    if part == "cross":
        assert told["source"]["token"] == expected.source.token
        assert told["source"]["x"] == pytest.approx(expected.source.x.tolist(), rel=1e-4, abs=1e-6)
    best = told["ranked"][0]
    assert (best["position"], best["token"]) == (
        expected.ranked[0],
        one.keys.tokens[best["position"]],
    )


def test_labels_are_of_this_text(client, view, views):
    found = client.finished(f"views/{view}.encoder/grid", statistic="label")
    one = views["encoder"]
    maps = [one.layer(i).whole for i in range(3)]
    labels = heads(maps, one.reading.tokens, one.reading.special)
    assert found["evidence"] == [[head.evidence for head in layer] for layer in labels.table]
    assert found["python"].endswith("label_heads(view)")


def test_the_lines_of_python(client, view, model):
    for path, query in (
        ("cross/cell", {"layer": 1, "head": 2, "i": 5, "j": 7}),
        ("decoder/grid", {"statistic": "label"}),
    ):
        lines = client.finished(f"views/{view}.{path}", **query)["python"].split("\n")
        assert lines[1] == "model = wqkv.open_pair('a/tiny')"
        known: dict = {"model": model}
        exec("\n".join(lines[2:-1]), known)
        assert eval(lines[-1], known) is not None
    written = client.work("open", {"text": READ})["result"]["view"]
    assert client.ask(f"views/{written}")["target"] is None
    assert "views = model.views(text)\n" in client.ask(f"views/{written}")["python"]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        (".no", 404, "no part 'no' of this text (its parts: encoder, decoder, cross)"),
        ("/grid?statistic=distance", 400, "`statistic` is 'distance'"),
        ("/grid?statistic=label", 400, "`statistic` is 'label'"),
        ("/distances?layer=0&head=0", 422, "no distance between two texts"),
        ("/cell?layer=0&head=0&i=0&j=99", 422, "no token 99: the text has 11 tokens"),
    ],
)
def test_refusals(client, view, path, status, says):
    reply = client.get(f"http://127.0.0.1:8007/the-secret/api/views/{view}{path}")
    assert reply.status_code == status and says in reply.json()["error"]


def test_what_is_for_one_text(client, view):
    for path, body in (("whatif", {"off": [[0, 0]]}), ("generate", {"count": 2})):
        found = client.work(f"views/{view}/{path}", body)
        assert found["state"] == "failed" and "is for models of one text" in found["error"]


def test_a_target_that_is_no_text(client):
    assert "`target` is int" in client.tell("open", {"text": "a", "target": 3}, 422)["error"]


def test_a_target_for_a_model_of_one_text(minilm):
    says = "all-MiniLM-L6-v2 writes no second text, and there is a target.\nPass one"
    with pytest.raises(ArgumentError, match=says):
        Api(minilm).open("A cat.", lambda done, total: None, "Eine Katze.")
    with pytest.raises(ArgumentError, match=says):
        serve(minilm, "A cat.", target="Eine Katze.")


def test_serve_hands_the_target_on(monkeypatch):
    found = []
    monkeypatch.setattr(server, "app", lambda *given: found.append(given))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    serve(
        tiny_t5(), READ, target=TARGET, window=3, pair="one", picture="two.png",
        ready=lambda address: None,
    )  # fmt: skip
    assert found[0][3:] == (READ, TARGET, 3, "one", "two.png")


def test_the_three_count_as_one(client, view, views):
    api = Api(tiny_t5())
    seen = api.open(READ, lambda done, total: None, TARGET)
    assert seen.bytes >= sum(one.view.bytes for one in seen.parts.values())
    name = api.keep(seen)
    assert api.seen(f"{name}.encoder") is seen.parts["encoder"]
    assert api.seen(name) is api.seen(f"{name}.cross") is seen


def test_reading_is_cancelled_while_it_writes():
    told = []

    def step(done: int, total: int) -> None:
        told.append(done)
        if done > 5:  # its encoder has three layers
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Api(tiny_t5()).open(READ, step)
    assert told[-1] == 6
