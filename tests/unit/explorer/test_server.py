"""The explorer's server: who may ask, every answer, and whatever may go wrong."""

import dataclasses
import functools
import http.client
import itertools
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import uvicorn
from starlette.testclient import TestClient
from transformers import AutoModelForMaskedLM

import wqkv
from tests.tiny import READ, TARGET, text, tiny_llama, tiny_t5
from tests.unit.effects.conftest import of_family
from wqkv.draw.to_json import plain
from wqkv.effects.effect_maps import EffectMaps
from wqkv.effects.why import why
from wqkv.errors import ArgumentError
from wqkv.explorer import api as module
from wqkv.explorer import as_python, matters, numbers, protocol, server
from wqkv.explorer.api import Api
from wqkv.explorer.jobs import Refused
from wqkv.explorer.protocol import TimedProtocol
from wqkv.explorer.request import AskedWhy, Body
from wqkv.explorer.ticket import address_with_ticket
from wqkv.sentences import translated
from wqkv.study import one_token as story
from wqkv.study import whatif
from wqkv.study.generate import generate, next_tokens
from wqkv.study.heads import label_grid
from wqkv.study.model import OpenModel
from wqkv.study.view import View, block_means

HOST = "127.0.0.1:8007"
ROOT = f"http://{HOST}/the-secret/"
WORDS = text(22)  # 23 with <s>
TIMEOUT = 20


class Client(TestClient):
    """A page: asks below the secret, and waits for jobs."""

    def ask(self, path: str, status: int = 200, **query):
        reply = self.get(f"{ROOT}api/{path}", params=query)
        return self._checked(reply, status)

    def tell(self, path: str, body=None, status: int = 200, **rest):
        rest = {"content": json.dumps(body)} | rest
        return self._checked(self.post(f"{ROOT}api/{path}", **rest), status)

    def work(self, path: str, body=None):
        """Post, wait for the job, and return what it says in the end."""
        return self.wait(self.tell(path, body)["job"])

    def wait(self, job: str):
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            found = self.ask(f"jobs/{job}")
            if found["state"] not in ("waiting", "running"):
                return found
            time.sleep(0.01)
        raise AssertionError(f"job {job} does not end")

    def open(self, given: str = WORDS) -> str:
        found = self.work("open", {"text": given})
        assert found["state"] == "done", found
        return found["result"]["view"]

    def opens_with(self) -> str:
        """The view of the text that the page opens with, which may come as a job first."""
        start = self.ask("model")["start"]
        return start.get("view") or self.wait(start["job"])["result"]["view"]

    def finished(self, path: str, **query):
        """An answer that may come as a job first."""
        reply = self.get(f"{ROOT}api/{path}", params=query)
        if reply.status_code == 202:
            assert self.wait(reply.json()["job"])["state"] == "done"
            reply = self.get(f"{ROOT}api/{path}", params=query)
        return self._checked(reply, 200)

    @staticmethod
    def _checked(reply, status: int):
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/json"
        assert "Traceback" not in reply.text
        answer = json.loads(reply.text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        if status >= 400:
            assert set(answer) == {"error", "do"} and answer["error"].endswith((".", "]."))
        return answer


@contextmanager
def served(model: OpenModel, given: str | None = None):
    made = server.app(Api(model, "a/tiny"), "the-secret", [HOST, "localhost:8007"], given)
    with Client(made, base_url=ROOT, raise_server_exceptions=True) as client:
        yield client


@pytest.fixture(scope="module")
def llama() -> OpenModel:
    return tiny_llama()


@pytest.fixture
def client(llama):
    with served(llama) as client:
        yield client


@pytest.fixture(scope="module")
def open_client(llama):
    with served(llama) as client:
        yield client, client.open()


# Who may ask


@pytest.mark.parametrize(
    ("path", "headers", "status", "says"),
    [
        ("/the-secret/api/model", {}, 200, ""),
        ("/the-secret/api/model", {"origin": f"http://{HOST}"}, 200, ""),
        ("/the-secret/api/model", {"host": "localhost:8007"}, 200, ""),
        ("/the-tokem/api/model", {}, 404, "nothing here"),
        ("/api/model", {}, 404, "nothing here"),
        ("/", {}, 404, "nothing here"),
        ("//the-secret/api/model", {}, 404, "nothing here"),
        ("/the-secret", {}, 404, "nothing here"),
        ("/the-secret%2fapi/model", {}, 200, ""),
        ("/\u00fc/api/model", {}, 404, "nothing here"),
        ("/the-secret/api/model", {"host": "evil.example"}, 403, "not 'evil.example'"),
        ("/the-secret/api/model", {"host": "127.0.0.1"}, 403, "not '127.0.0.1'"),
        ("/the-secret/api/model", {"host": "127.0.0.1:8008"}, 403, "8008"),
        ("/the-secret/api/model", {"host": ""}, 403, "not ''"),
        ("/the-secret/api/model", {"origin": "https://evil.example"}, 403, "'https://evil"),
        ("/the-secret/api/model", {"origin": "null"}, 403, "'null' may not ask"),
        ("/the-secret/api/model", {"origin": f"https://{HOST}"}, 403, "may not ask"),
    ],
)
def test_who_may_ask(open_client, path, headers, status, says):
    reply = open_client[0].get(f"http://{HOST}{path}", headers=headers)
    assert reply.status_code == status
    if status != 200:
        assert says in reply.json()["error"] and "wqkv open" in reply.json()["do"]
    for name, value in server.HEADERS.items():
        assert reply.headers[name] == value


@pytest.mark.parametrize(
    ("called", "sends", "passes"),
    [
        ("MyBox.local:8000", "mybox.local:8000", True),
        ("[2001:DB8::1]:8000", "[2001:db8::1]:8000", True),
        ("bücher.example:80", "xn--bcher-kva.example", True),
        ("mybox.local:8000", "mybox.local.:8000", True),
        ("mybox.local:8000", "mybox.local", False),
        ("mybox.local:8000", "mybox.local:8000:8000", False),
        ("mybox.local:8000", "evil@mybox.local:8000", False),
    ],
)
def test_hosts_as_browsers_send_them(llama, called, sends, passes):
    made = server.app(Api(llama), "the-secret", [called])
    with TestClient(made) as client:
        for headers in ({"host": sends}, {"host": sends, "origin": f"http://{sends}"}):
            reply = client.get("/the-secret/api/model", headers=headers)
            assert reply.status_code == (200 if passes else 403)
        origin = {"host": sends, "origin": f"https://{sends}"}
        assert client.get("/the-secret/api/model", headers=origin).status_code == 403


def test_a_ticket_leads_to_the_page_once(llama):
    with served(llama) as client:
        address = address_with_ticket(ROOT)
        assert "the-secret" not in address
        assert client.post(f"{address}api/open", content="{}").status_code == 404
        reply = client.get(address, follow_redirects=False)
        assert (reply.status_code, reply.headers["location"]) == (303, "/the-secret/")
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert client.get(address).status_code == 404
        assert client.get(ROOT).status_code == 200


def test_the_policy_lets_nothing_in():
    policy = dict(part.strip().split(" ", 1) for part in server.POLICY.split(";"))
    assert policy.pop("img-src") == "'self' data: blob:"
    assert {policy.pop(name) for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy.keys() == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert set(policy.values()) == {"'none'"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "FOO"])
def test_other_methods(open_client, method):
    reply = open_client[0].request(method, f"{ROOT}api/model")
    assert reply.status_code == 405
    assert reply.json()["error"] == "There is nothing here."
    assert reply.headers["content-security-policy"] == server.POLICY


def test_no_websockets(open_client):
    from starlette.websockets import WebSocketDisconnect

    with (
        pytest.raises(WebSocketDisconnect),
        open_client[0].websocket_connect(f"ws://{HOST}/the-secret/api/model"),
    ):
        pass


# The page


def test_the_page_and_its_parts(open_client):
    client, _ = open_client
    page = client.get(ROOT)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script>" not in page.text and "style=" not in page.text
    for link in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
        part = client.get(ROOT + link)
        kind = "text/css" if link.endswith(".css") else "text/javascript"
        assert (part.status_code, part.headers["content-type"]) == (200, f"{kind}; charset=utf-8")


def test_the_page_may_have_folders(tmp_path):
    (tmp_path / "views" / "inner").mkdir(parents=True)
    for path in ("open.html", "views/row.js", "views/inner/row.css", "views/notes.txt"):
        (tmp_path / path).write_text(path)
    found = {path: file.read_text() for path, file in server._page_files(tmp_path)}
    assert found == {path: path for path in ("open.html", "views/row.js", "views/inner/row.css")}


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "views%2f..%2fopen.html",
        "..%2fserver.py",
        "../server.py",
        "..\\server.py",
        "%2e%2e/api.py",
        "open.css%00",
    ],
)
def test_no_path_reaches_the_disk(open_client, name):
    reply = open_client[0].get(f"{ROOT}page/{name}")
    assert reply.status_code == 404
    assert "import" not in reply.text


# Answers: the same numbers as Python's


@pytest.fixture(scope="module")
def seen(llama) -> View:
    return llama.view(WORDS)


def test_model(open_client, llama):
    facts = open_client[0].ask("model")
    assert facts["name"] == "tiny-llama"
    sizes = {"n_layer": 3, "n_head": 6, "n_kv_head": 2, "d_model": 66, "d_k": 14, "d_v": 14}
    assert facts | sizes == facts
    assert facts["position"].startswith("RoPE(")
    assert (facts["causal"], facts["dtype"], facts["generates"]) == (True, "float32", True)
    assert (facts["longest"], facts["version"]) == (65536, wqkv.__version__)
    assert facts["scale"] == 14**-0.5
    assert facts["python"].splitlines()[:2] == ["import wqkv", "model = wqkv.open_model('a/tiny')"]
    assert facts["start"] is None


def test_what_it_starts_with(llama):
    with served(llama, WORDS) as client:
        start = client.ask("model")["start"]  # a job, unless it was quick
        view = start.get("view") or client.wait(start["job"])["result"]["view"]
        assert client.ask(f"views/{view}")["text"] == WORDS
        assert client.ask("model")["start"] == {"view": view}
        for _ in range(module.VIEWS):
            client.open()
        again = client.wait(client.ask("model")["start"]["job"])["result"]["view"]
        assert client.ask(f"views/{again}")["text"] == WORDS


def test_view(open_client, seen):
    client, view = open_client
    found = client.ask(f"views/{view}")
    assert (found["text"], found["n"]) == (WORDS, 23)
    assert tuple(found["tokens"]) == seen.reading.tokens
    assert found["special"] == [True] + [False] * 22
    assert [tuple(span) for span in found["spans"]] == list(seen.reading.spans)
    assert found["proofs"] == plain([seen.proof(layer) for layer in range(3)])
    assert all(proof["holds"] and proof["rows"] == 23 for proof in found["proofs"])
    best = max((story.clearest_link(seen, layer) for layer in range(3)), key=lambda c: c.clearness)
    assert found["first"] == {"layer": best.layer, "head": best.head, "token": best.token}
    assert found["engine"] == seen.layer(best.layer).engine()
    assert found["seconds"] > 0


RECTANGLE = {"layer": 1, "head": 4, "q0": 3, "q1": 19, "k0": 0, "k1": 7}
#: More questions about numbers of links: name, query, and what Python answers.
LINKS = [
    ("row", {"layer": 1, "head": 4, "i": 20, "without": 7}, lambda v: v.row_without(1, 4, 20, 7)),
    (
        "row",
        {"layer": 1, "head": 4, "i": 20, "without": 7, "how": "zero"},
        lambda v: v.row_without(1, 4, 20, 7, "zero"),
    ),
    (
        "tile",
        RECTANGLE | {"of": "contribution"},
        lambda v: {"values": v.contributions(1, 4)[0, 0, 3:19, 0:7]},
    ),
    (
        "thumbnail",
        {"layer": 1, "head": 4, "size": 5, "of": "contribution"},
        lambda v: block_means(23, 23, v.contributions(1, 4).thumbnail(5)[0, 0]),
    ),
    (
        "effects",
        RECTANGLE | {"answer": "lamp", "at": 20},
        lambda v: {"values": effects_of(v, "lamp", at=20)[0, 0, 3:19, 0:7]},
    ),
    (
        "effectblocks",
        {"layer": 1, "head": 4, "size": 5, "how": "zero"},
        lambda v: block_means(23, 23, effects_of(v, how="zero").thumbnail(5)[0, 0]),
    ),
]


def effects_of(view: View, answer: str | None = None, at: int = -1, how: str = "renormalize"):
    return EffectMaps(view.model, view.reading.sentence, answer, at=at).map(1, 4, how)


ANSWERS = {
    "row": ({"layer": 1, "head": 4, "i": 20}, lambda v: v.row(1, 4, 20)),
    "column": ({"layer": 1, "head": 4, "j": 7}, lambda v: v.column(1, 4, 7)),
    "cell": ({"layer": 1, "head": 4, "i": 20, "j": 7}, lambda v: v.cell(1, 4, 20, 7)),
    "tile": (
        {"layer": 1, "head": 4, "q0": 3, "q1": 19, "k0": 0, "k1": 7},
        lambda v: {"values": v.tile(1, 4, 3, 19, 0, 7)},
    ),
    "thumbnail": ({"layer": 1, "head": 4, "size": 5}, lambda v: v.thumbnail(1, 4, 5)),
    "received": ({"layer": 1, "head": 4}, lambda v: {"values": v.received(1, 4)}),
    "distances": ({"layer": 1, "head": 4}, lambda v: v.distances(1, 4)),
    "links": ({"layer": 1, "head": 4, "k": 7}, lambda v: {"links": v.links(1, 4, 7)}),
    "grid": ({"statistic": "distance"}, lambda v: v.grid("distance")),
}


def near(a, b) -> bool:
    """Equal, but for what two runs of float32 may do to the last digits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(near(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(near, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=1e-4, abs=1e-6)
    return a == b


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_pythons(open_client, seen, name):
    client, view = open_client
    query, python = ANSWERS[name]
    found = client.finished(f"views/{view}/{name}", **query)
    lines = found.pop("python").splitlines()
    assert near(found, plain(python(seen)))
    assert lines[-1].startswith("view.")


def test_the_lines_of_python_give_the_answer(open_client, llama, monkeypatch):
    """Every line runs as it stands, and its value is what the page was sent."""
    monkeypatch.setattr(wqkv, "open_model", lambda name: llama)
    client, view = open_client
    for name, (query, _) in ANSWERS.items():
        found = client.finished(f"views/{view}/{name}", **query)
        *lines, last = found.pop("python").splitlines()
        scope: dict = {}
        exec("\n".join(lines), scope)
        value = plain(eval(last, scope))
        wrapped = value if isinstance(value, dict) else {"values": value, "links": value}
        assert all(near(found[key], wrapped[key]) for key in found), name


@pytest.mark.parametrize(("name", "query", "python"), LINKS)
def test_numbers_of_links(open_client, seen, llama, monkeypatch, name, query, python):
    """They are Python's, and so is the value of the last line."""
    monkeypatch.setattr(wqkv, "open_model", lambda name: llama)
    client, view = open_client
    found = client.finished(f"views/{view}/{name}", **query)
    *lines, last = found.pop("python").splitlines()
    assert near(found, plain(python(seen)))
    scope: dict = {}
    exec("\n".join(lines), scope)
    value = plain(eval(last, scope))
    if not isinstance(value, dict):
        value, found = {"values": value}, {"values": found["values"]}
    assert all(near(found[key], value[key]) for key in found)


def test_other_lines_of_python(open_client, llama, monkeypatch):
    monkeypatch.setattr(wqkv, "open_model", lambda name: llama)
    client, view = open_client
    where = f"views/{view}"
    asked = {
        "model": client.ask("model"),
        "view": client.ask(where),
        "story": client.ask(f"{where}/story", layer=0, head=1, token=5),
        "label": client.finished(f"{where}/grid", statistic="label"),
        "whatif": client.work(f"{where}/whatif", {"off": [[1, 2]]})["result"],
        "generate": client.work(f"{where}/generate", {"count": 2})["result"],
        "choices": client.finished(f"{where}/choices"),
        "why": client.work(f"{where}/why", {"answer": "lamp", "at": 9})["result"],
        "groups": client.work(f"{where}/groups", {"by": "span"})["result"],
    }
    values = {}
    for name, found in asked.items():
        *lines, last = found["python"].splitlines()
        scope: dict = {}
        exec("\n".join(lines), scope)
        values[name] = eval(last, scope)
    assert values["model"].n_head == 6
    assert near(plain(values["view"]), asked["view"]["proofs"][asked["view"]["first"]["layer"]])
    *vectors, row = values["story"]
    assert near(plain(vectors), [asked["story"][name] for name in "qkv"])
    assert near(plain(row.weights), asked["story"]["weights"])
    assert near(plain(label_grid(values["label"]).values), asked["label"]["values"])
    assert values["whatif"].change == pytest.approx(asked["whatif"]["change"])
    assert near(plain(values["generate"].steps), asked["generate"]["steps"])
    assert values["choices"].kind == asked["choices"]["kind"]
    assert values["choices"].answer == asked["choices"]["top"][0]["token"]
    assert near(
        [one.true for one in values["why"].links], [o["true"] for o in asked["why"]["links"]]
    )
    assert near(plain(values["groups"]), asked["groups"]["groups"])
    after = client.ask(f"views/{asked['generate']['view']}")["python"]
    *lines, last = after.splitlines()
    scope = {}
    exec("\n".join(lines), scope)
    assert scope["view"].n == 25


def test_a_layer_of_thumbnails(open_client, seen):
    client, view = open_client
    found = client.finished(f"views/{view}/thumbnail", layer=2, size=4)
    assert near(found["heads"], plain(seen.thumbnail(2, None, 4).values))
    assert found["edges"] == [0, 6, 12, 18, 23]
    assert "values" not in found


@pytest.mark.parametrize(
    ("lang", "name", "holds"), [("en", "Words", "PROOF HOLDS"), ("zh", "词元", "证明成立")]
)
def test_story(open_client, seen, lang, name, holds):
    client, view = open_client
    found = client.ask(f"views/{view}/story", layer=1, head=4, token=20, lang=lang)
    told = story.token_story(seen, 1, 4, 20)
    for part in ("x", "q", "k", "v", "scores", "weights", "context", "share", "output"):
        assert near(found[part], plain(getattr(told, part))), part
    assert "map" not in found
    assert [one["position"] for one in found["ranked"]] == told.ranked
    assert len(found["steps"]) == 7 and found["steps"][0]["name"] == name
    for step in found["steps"]:
        assert set(step) == {"name", "sentence", "sentence2", "formula"}
        assert all(step.values())
    assert found["proofSentence"].startswith(holds)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("zh", "没有第 7 层：模型有 3 层，编号 0 到 2。"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "没有第 7 层：模型有 3 层，编号 0 到 2。"),
        ("en", "There is no layer 7: the model has 3 layers, 0 to 2."),
        ("fr", "There is no layer 7: the model has 3 layers, 0 to 2."),
    ],
)
def test_a_refusal_is_told_in_the_language_of_the_page(open_client, asked, error):
    client, view = open_client
    query = {"layer": 7, "head": 1, "i": 0}
    headers = {"accept-language": asked}
    reply = client.get(f"{ROOT}api/views/{view}/row", params=query, headers=headers)
    assert (reply.status_code, reply.json()) == (422, {"error": error, "do": ""})


def test_a_job_that_failed_is_told_in_the_language_of_the_page(open_client):
    client, _ = open_client
    job = client.tell("open", {"text": " "})["job"]
    assert client.wait(job)["error"] == "The sentence is empty. Give at least one word."
    found = client.get(f"{ROOT}api/jobs/{job}", headers={"accept-language": "zh"}).json()
    assert found["error"] == "句子是空的。请至少输入一个词。"


def test_label(open_client, llama):
    client, view = open_client
    found = client.finished(f"views/{view}/grid", statistic="label")
    heads = wqkv.study.heads.probe(llama)
    assert found["labels"] == [[head.label for head in layer] for layer in heads.table]
    assert found["evidence"][2][5] == heads[2][5].evidence
    assert near(found["values"], [[head.score for head in layer] for layer in heads.table])
    assert found["source"] == heads.source


def test_label_in_chinese(open_client, llama):
    client, view = open_client
    found = client.finished(f"views/{view}/grid", statistic="label", lang="zh")
    head = wqkv.study.heads.probe(llama)[2][5]
    assert found["evidence"][2][5] == translated(head.evidence, "zh") != head.evidence
    assert found["names"]["induction"] == {"name": "归纳头", "brief": "归纳"}


def test_label_of_a_model_that_is_not_causal(minilm):
    with served(minilm) as client:
        found = client.finished(f"views/{client.open('A cat.')}/grid", statistic="label")
        assert found["source"] == "built-in texts (lighthouse, heart, letter)"
        assert found["labels"][0][2] == "previous"


def test_whatif(open_client, seen):
    client, view = open_client
    body = {"off": [[1, 4]], "edits": [{"token": 20, "text": "sea"}]}
    found = client.work(f"views/{view}/whatif", body)["result"]
    change = whatif.what_if(seen, [(1, 4)], {20: "sea"})
    assert found["change"] == pytest.approx(change.change, rel=1e-4)
    assert near(found["layers"], plain(change.layers))
    assert near(found["before"]["top"], plain(change.before))
    assert near(found["after"]["top"], plain(change.after))
    assert (tuple(found["tokens"]), found["view"]) == (change.tokens, None)
    edited = client.work(f"views/{view}/whatif", {"edits": body["edits"]})["result"]
    after = client.ask(f"views/{edited['view']}")
    assert after["tokens"][20] == "sea" and after["tokens"] == edited["tokens"]
    assert all(proof["holds"] for proof in after["proofs"])


def test_whatif_without_next_words(minilm):
    with served(minilm) as client:
        view = client.open("A cat sat.")
        found = client.work(f"views/{view}/whatif", {"edits": [{"token": 2, "text": "dog"}]})[
            "result"
        ]
        assert found["before"] == {"similarity": 1.0}
        assert 0 < found["after"]["similarity"] < 1
        failed = client.work(f"views/{view}/generate", {"count": 3})
        assert failed["error"] == "all-MiniLM-L6-v2 predicts no next token."


def test_what_matters(open_client, seen, llama):
    client, view = open_client
    choices = client.finished(f"views/{view}/choices", at=20)
    assert (choices["kind"], choices["at"], choices["budget"]) == ("next token", 20, 200)
    named = [one["token"] for one in choices["top"]]
    asked = {"answer": named[1], "against": named[3], "at": 20, "how": "zero"}
    found = client.work(f"views/{view}/why", asked)["result"]
    text = seen.reading.sentence
    theirs = why(llama, text, named[1], named[3], 20, how="zero")
    assert near(
        [{k: one[k] for k in plain(theirs.links[0])} for one in found["links"]],
        plain(theirs.links),
    )
    assert [one["miss"] for one in found["resting"]] == [one.miss for one in theirs.resting]
    assert [one["warning"] for one in found["links"]] == [one.warning for one in theirs.links]
    assert near(found["checked"], plain(theirs.checked))
    draws = sorted(theirs.together.others)
    assert near([found["together"][name] for name in ("low", "high")], [draws[1], draws[-2]])
    assert near([one["true"] for one in found["heaviest"]], [x.true for x in theirs.heaviest])
    groups = client.work(f"views/{view}/groups", {**asked, "by": "head"})["result"]
    theirs = why(llama, text, named[1], named[3], 20, by=["head"], budget=1)
    assert near(groups["groups"], plain(theirs.groups["head"]))


def test_a_saved_page_has_what_was_asked_of_the_model(client):
    """Each answer stands under what the page would ask: a path, and the body that it would send."""
    view = client.open()
    effects = {"layer": 1, "head": 4, "q0": 3, "q1": 9, "k0": 0, "k1": 7}
    effects |= {"answer": "lamp", "how": "zero"}
    asked = {
        "choices?at=9": client.finished(f"views/{view}/choices", at=9),
        "effects?answer=lamp&head=4&how=zero&k0=0&k1=7&layer=1&q0=3&q1=9": client.finished(
            f"views/{view}/effects", **effects
        ),
    }
    for name, body in (
        ("why", {"answer": "lamp", "at": 9, "how": "zero"}),
        ("groups", {"answer": "lamp", "by": "token"}),
        ("whatif", {"off": [[1, 4]], "edits": []}),
    ):
        as_sent = json.dumps(body, separators=(",", ":"))
        asked[f"{name} {as_sent}"] = client.work(f"views/{view}/{name}", body)["result"]
    edits = {"off": [], "edits": [{"token": 2, "text": "sea"}]}
    client.work(f"views/{view}/whatif", edits)  # its text is not in the saved page
    page = client.get(f"{ROOT}api/views/{view}/export?layer=0&head=0&token=3").text
    (found,) = re.findall(r'<script type="application/json" id="recorded">(.*?)</script>', page)
    answers = json.loads(found)["answers"]
    for key, answer in asked.items():
        assert answers[f"views/1/{key}"] == answer
    kinds = {key.partition("/1/")[2].partition("?")[0].partition(" ")[0] for key in answers}
    assert kinds == {"", "grid", "matrices", "choices", "effects", "why", "groups", "whatif"}
    assert sum(" " in key for key in answers) == 3


def test_effects_of_a_question_are_kept(llama, monkeypatch):
    made = []
    monkeypatch.setattr(
        matters, "EffectMaps", lambda *args, **kw: made.append(args) or EffectMaps(*args, **kw)
    )
    with served(llama) as client:
        view = client.open()
        place = {"layer": 1, "head": 4, "q0": 3, "q1": 19, "k0": 0, "k1": 7}
        for answer in ("lamp", "sea", "lamp"):
            client.finished(f"views/{view}/effects", **place, answer=answer)
            client.finished(f"views/{view}/effectblocks", layer=2, head=0, answer=answer)
        assert [args[2] for args in made] == ["lamp", "sea"]
        monkeypatch.setattr(module, "EFFECTS", 1)
        for answer in ("boat", "sea"):
            client.finished(f"views/{view}/effects", **place, answer=answer, how="zero")
        assert [args[2] for args in made] == ["lamp", "sea", "boat", "sea"]


def test_tokens_behind_the_question_have_no_effect(open_client, seen):
    client, view = open_client
    where, asked = f"views/{view}", {"layer": 1, "head": 4, "at": 9, "answer": "lamp"}
    found = client.finished(f"{where}/effects", **RECTANGLE, at=9, answer="lamp")["values"]
    known = effects_of(seen, "lamp", at=9)[0, 0]
    assert known.shape == (10, 10) and len(found) == 16
    assert near(found[:7], plain(known[3:, :7])) and not any(map(any, found[7:]))
    blocks = client.finished(f"{where}/effectblocks", size=4, **asked)
    edges = [0, 6, 12, 18, 23]
    assert blocks["edges"] == blocks["keys"] == edges
    whole = torch.zeros(23, 23)
    whole[:10, :10] = known.nan_to_num().abs()
    means = [
        [float(whole[a:b, c:d].mean()) for c, d in pairwise(edges)] for a, b in pairwise(edges)
    ]
    assert near(blocks["values"], means)


def test_effects_that_would_take_too_much_memory(llama, monkeypatch):
    monkeypatch.setattr(matters, "EFFECTS", 10**4)
    with served(llama) as client:
        view = client.open()
        refused = client.ask(f"views/{view}/effects", 413, **RECTANGLE)
        needed = 4 * 3 * 23 * (6 * 3 * 14 + 2 * 2 * 14)
        assert f"text of 23 tokens would take {needed / 2**30:.2g} GiB" in refused["error"]


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_the_memory_of_effects_is_known_before(make):
    api = Api(make())
    target = None if api.one_text else TARGET
    seen = api.open(READ, lambda done, total: None, target)
    maps = matters.effect_maps(api, seen, AskedWhy(None, None, -1), lambda done, total: None)
    assert maps.bytes == matters.bytes_of_maps(seen)


def test_what_matters_for_a_masked_word():
    model = of_family("bert", AutoModelForMaskedLM)
    model.tokenizer.mask_token = "lamp"
    with served(model) as client:
        view = client.open(READ)
        at = client.ask(f"views/{view}")["tokens"].index("lamp")
        choices = client.finished(f"views/{view}/choices")
        assert (choices["kind"], choices["at"]) == ("masked token", at)
        named = [one["token"] for one in choices["top"]]
        found = client.work(f"views/{view}/why", {"answer": named[2]})["result"]
        theirs = why(model, READ, named[2])
        assert (
            found["number"]
            == theirs.question.number
            == (f"logit of {named[2]!r} less logit of {named[0]!r}")
        )
        assert near(found["before"], theirs.before)
        view = client.open(f"{READ} lamp")  # two are masked
        assert client.finished(f"views/{view}/choices")["at"] == at
        last = client.ask(f"views/{view}")["tokens"].index("lamp", at + 1)
        assert client.finished(f"views/{view}/choices", at=last)["at"] == last
        for asked, place in (({}, at), ({"at": last}, last)):
            found = client.work(f"views/{view}/why", asked)["result"]
            assert found["at"] == place
            assert near(found["before"], why(model, f"{READ} lamp", at=place, budget=1).before)


def test_what_matters_between_texts(minilm):
    with served(minilm) as client:
        view = client.open("A cat sat.")
        choices = client.finished(f"views/{view}/choices")
        assert (choices["kind"], choices["at"], choices["top"]) == ("similarity", None, [])
        found = client.work(f"views/{view}/why", {"answer": "A dog sat."})["result"]
        assert found["number"] == "cosine with 'A dog sat.'"
        refused = client.work(f"views/{view}/why", {})
        assert "predicts no token here" in refused["error"]


def test_a_text_that_reads_otherwise_again(llama):
    """Its tokens cannot be had by reading it, so no question can be asked about them."""
    api = Api(llama)
    seen = api.open(WORDS, lambda done, total: None)
    ids = seen.view.reading.ids
    seen.view.reading = dataclasses.replace(seen.view.reading, ids=(ids[1], *ids[1:]))
    with pytest.raises(Refused, match="Read again, this text has other tokens") as refused:
        matters.choices(api, seen, AskedWhy(None, None, -1))
    assert (refused.value.status, refused.value.do) == (409, "Type it above, and read it.")


def test_a_long_text_has_a_smaller_budget(llama, monkeypatch):
    monkeypatch.setattr(matters, "SHORT", 10)
    with served(llama) as client:
        view = client.open()
        assert client.finished(f"views/{view}/choices")["budget"] == 200 * 10 // 23
        found = client.work(f"views/{view}/why", {})["result"]
        assert found["checked"]["removed"] == 86


def test_generate(open_client, seen):
    client, view = open_client
    found = client.work(f"views/{view}/generate", {"count": 4})["result"]
    written = generate(seen, 4)
    assert tuple(found["tokens"]) == written.view.reading.tokens
    assert near(found["steps"], plain(written.steps))
    assert client.ask(f"views/{found['view']}")["n"] == 27


def test_generate_by_a_seed_and_what_it_drew_from(open_client, seen):
    client, view = open_client
    drawn = {"seed": 5, "temperature": 0.7, "top_k": 9, "top_p": 0.8}
    found = client.work(f"views/{view}/generate", {"count": 3} | drawn)["result"]
    written = generate(seen, 3, **drawn)
    assert near(found["steps"], plain(written.steps))
    called = "wqkv.generate(view, 3, seed=5, temperature=0.7, top_k=9, top_p=0.8)"
    assert found["python"].endswith(called)
    at = written.steps[1].position - 1
    asked = {"i": at, "temperature": 0.7, "top_k": 9, "top_p": 0.8}
    answer = client.finished(f"views/{found['view']}/next", **asked)
    theirs = next_tokens(written.view, at, 0.7, 9, 0.8)
    ids = theirs.before.topk(12).indices
    assert [one["id"] for one in answer["top"]] == ids.tolist()
    assert near([one["probability"] for one in answer["top"]], theirs.before[ids].tolist())
    assert near([one["after"] for one in answer["top"]], theirs.after[ids].tolist())
    assert (answer["kept"], answer["vocabulary"]) == (theirs.kept, len(theirs.before))
    assert answer["held"] == pytest.approx(theirs.held)
    *_, opening, last = answer["python"].splitlines()
    assert opening == f"view = {called}.view"
    assert last == f"wqkv.next_tokens(view, {at}, temperature=0.7, top_k=9, top_p=0.8)"


def test_a_temperature_after_the_other_runs_the_model_once(llama, monkeypatch):
    with served(llama) as client:
        view, runs = client.open(), []
        run = type(llama).run
        monkeypatch.setattr(type(llama), "run", lambda *a, **k: runs.append(1) or run(*a, **k))
        for temperature in (0.5, 0.6, 0.7):
            client.finished(f"views/{view}/next", i=4, temperature=temperature)
        assert len(runs) == 1
        client.finished(f"views/{view}/next", i=5)
        assert len(runs) == 2


# A long text


def test_a_long_text_is_sent_in_parts(llama, monkeypatch):
    monkeypatch.setattr(numbers, "LONG", 30)
    monkeypatch.setattr(numbers, "STRONGEST", 11)
    monkeypatch.setattr(numbers, "CURVE", 7)
    monkeypatch.setattr(as_python, "SPELLED", 40)
    given = text(40)
    long = llama.view(given)
    with served(llama) as client:
        view = client.open(given)
        row = client.ask(f"views/{view}/row", layer=1, head=2, i=40)
        theirs = long.row(1, 2, 40)
        top = theirs.weights.topk(11)
        assert [one["index"] for one in row["strongest"]] == top.indices.tolist()
        assert near([one["weight"] for one in row["strongest"]], top.values.tolist())
        effects = theirs.effects[top.indices].tolist()
        assert near([one["effect"] for one in row["strongest"]], effects)
        assert "weights" not in row and "effects" not in row
        edges = row["curve"]["edges"]
        assert edges == [0, 6, 12, 18, 24, 30, 36, 41]
        means = [theirs.weights[a:b].mean().item() for a, b in itertools.pairwise(edges)]
        assert near(row["curve"]["values"], means)
        received = client.finished(f"views/{view}/received", layer=1, head=2)
        found = long.received(1, 2)
        means = [found[a:b].mean().item() for a, b in itertools.pairwise(edges)]
        assert near(received["values"], means) and received["edges"] == edges
        told = client.ask(f"views/{view}/story", layer=1, head=2, token=40)
        assert "scores" not in told and "words" not in told and len(told["ranked"]) == 41
        assert (
            'Path("text.txt")' in told["python"] and f"{len(given):,} characters" in told["python"]
        )


def test_a_slow_answer_comes_as_a_job(llama, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.0)
    with served(llama) as client:
        view = client.open()
        path = f"views/{view}/grid"
        job = client.ask(path, status=202, statistic="entropy")["job"]
        found = client.wait(job)
        assert (found["done"], found["total"]) == (3, 3)
        assert client.ask(path, statistic="entropy") == found["result"]  # it is kept


@pytest.mark.parametrize("limit", ["VIEWS", "HELD"])
def test_the_oldest_text_is_closed(llama, monkeypatch, seen, limit):
    monkeypatch.setattr(module, limit, 2 if limit == "VIEWS" else int(2.5 * seen.bytes))
    with served(llama) as client:
        first, second = client.open(), client.open()
        client.ask(f"views/{first}")  # so that the second is the oldest
        third = client.open()
        gone = client.ask(f"views/{second}", status=404)
        assert gone == {"error": "This text is not open any more.", "do": "Open it again."}
        assert client.ask(f"views/{first}")["n"] == client.ask(f"views/{third}")["n"] == 23


# What cannot be asked


@pytest.mark.parametrize(
    ("path", "query", "status", "error"),
    [
        ("views/nothing", {}, 404, "This text is not open any more."),
        ("views/nothing/row", {}, 404, "This text is not open any more."),
        ("jobs/nothing", {}, 404, "This work is not known any more."),
        ("nothing", {}, 404, "There is nothing here."),
        ("views/V/nothing", {}, 404, "There is no 'nothing' of a text."),
        ("views/V/row/more", {}, 404, "There is nothing here."),
        ("views/V/row", {"layer": 1, "head": 1}, 400, "The parameter `i` is missing."),
        ("views/V/row", {"layer": 1, "head": "x", "i": 0}, 400, "The parameter `head` is 'x'."),
        ("views/V/row", {"layer": "", "head": 1, "i": 0}, 400, "The parameter `layer` is ''."),
        ("views/V/row", {"layer": "1e3", "head": 1, "i": 0}, 400, "`layer` is '1e3'"),
        ("views/V/row", {"layer": "1" * 40, "head": 1, "i": 0}, 400, "`layer` is '1111"),
        ("views/V/row", {"layer": "\u0661", "head": 1, "i": 0}, 400, "`layer` is '\u0661'."),
        ("views/V/row", {"layer": 3, "head": 1, "i": 0}, 422, "There is no layer 3: the model has"),
        ("views/V/row", {"layer": -1, "head": 1, "i": 0}, 422, "There is no layer -1"),
        ("views/V/row", {"layer": 0, "head": 6, "i": 0}, 422, "There is no head 6"),
        ("views/V/row", {"layer": 0, "head": 0, "i": 23}, 422, "There is no token 23: the text"),
        ("views/V/story", {"layer": 0, "head": 0, "token": 99}, 422, "There is no token 99"),
        ("views/V/story", {"layer": 0, "head": 0, "token": 9, "lang": "fr"}, 400, "`lang` is 'fr'"),
        ("views/V/cell", {"layer": 0, "head": 0, "i": 0, "j": -1}, 422, "There is no token -1"),
        ("views/V/column", {"layer": 0, "head": 0, "j": 23}, 422, "There is no token 23"),
        ("views/V/grid", {"statistic": "size"}, 400, "The parameter `statistic` is 'size'."),
        ("views/V/thumbnail", {"layer": 0, "head": 0, "size": 0}, 413, "A side of 0 blocks"),
        ("views/V/thumbnail", {"layer": 0, "size": 257}, 413, "A side of 257 blocks"),
        ("views/V/thumbnail", {"layer": 0, "head": 9}, 422, "There is no head 9"),
        ("views/V/links", {"layer": 0, "head": 0, "k": 0}, 422, "`k` is 0, how many links"),
        ("views/V/links", {"layer": 0, "head": 0, "k": 999}, 422, "`k` is 999, how many"),
        (
            "views/V/tile",
            {"layer": 0, "head": 0, "q0": 0, "q1": 24, "k0": 0, "k1": 1},
            422, "There are no tokens 0 to 24",
        ),
        ("views/V/row", {"layer": 0, "head": 0, "i": 3, "without": 23}, 422, "no token 23"),
        ("views/V/row", {"layer": 0, "head": 0, "i": 3, "without": 1, "how": "x"}, 400, "`how` is"),
        ("views/V/tile", RECTANGLE | {"of": "effect"}, 400, "The parameter `of` is 'effect'."),
        ("views/V/effects", RECTANGLE | {"q1": 260}, 413, "A tile of 257 x 7 weights"),
        ("views/V/effects", RECTANGLE | {"at": 23}, 422, "There is no token 23: the text has 23"),
        ("views/V/effectblocks", {"layer": 0, "head": 0, "size": 0}, 413, "A side of 0 blocks"),
        ("views/V/choices", {"at": -24}, 422, "There is no token -24"),
        ("views/V/next", {}, 400, "The parameter `i` is missing."),
        ("views/V/next", {"i": 23}, 422, "`position` is 23, and the text has 23 tokens."),
        ("views/V/next", {"i": 3, "temperature": "hot"}, 400, "`temperature` is 'hot'."),
        ("views/V/next", {"i": 3, "temperature": 0}, 422, "`temperature` is 0.0"),
        ("views/V/next", {"i": 3, "top_p": 1.5}, 422, "`top_p` is 1.5"),
        ("views/V/next", {"i": 3, "top_k": -1}, 422, "`top_k` is -1."),
        ("views/V/export", {"layer": 0, "head": 6, "token": 0}, 422, "There is no head 6"),
        ("views/V/export", {"layer": 0, "head": 0, "token": 0, "lang": "x"}, 400, "`lang` is 'x'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(open_client, path, query, status, error):
    client, view = open_client
    found = client.ask(path.replace("V", view), status=status, **query)
    assert error in found["error"]
    assert client.ask(f"views/{view}")["n"] == 23


def test_a_large_tile(llama):
    with served(llama) as client:
        view = client.open(text(300))
        whole = {"layer": 0, "head": 0, "q0": 0, "q1": 257, "k0": 0, "k1": 256}
        found = client.ask(f"views/{view}/tile", status=413, **whole)
        assert found["error"] == "A tile of 257 x 256 weights is too large."
        assert found["do"] == "Pass at most 256 x 256, or take a thumbnail."


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("open", {}, 422, "`text` is NoneType, not a string."),
        ("open", {"text": 3}, 422, "`text` is int, not a string."),
        ("open", {"text": ["a"]}, 422, "`text` is list, not a string."),
        ("open", [], 422, "The request is list, not a JSON object."),
        ("open", None, 422, "The request is NoneType, not a JSON object."),
        ("open", {"text": "x\ud800"}, 422, "The text is not valid Unicode"),
        ("open", {"text": "x" * 1_000_001}, 413, "1,000,001 characters, and at most 1,000,000"),
        ("views/V/whatif", {"off": 3}, 422, "The changes are not understood."),
        ("views/V/whatif", {"off": [3]}, 422, "The changes are not understood."),
        ("views/V/whatif", {"off": [[0, 1, 2]]}, 422, "The changes are not understood."),
        ("views/V/whatif", {"off": [[0, "1"]]}, 422, "The changes are not understood."),
        ("views/V/whatif", {"off": [[0, True]]}, 422, "The changes are not understood."),
        ("views/V/whatif", {"off": "ab"}, 422, "The changes are not understood."),
        ("views/V/whatif", {"edits": [{"token": 1}]}, 422, "The changes are not understood."),
        ("views/V/whatif", {"edits": {"token": 1}}, 422, "The changes are not understood."),
        ("views/V/whatif", {"edits": [{"token": 1, "text": 5}]}, 422, "`text` is int"),
        ("views/V/generate", {}, 422, "`count` is None."),
        ("views/V/generate", {"count": 0}, 422, "`count` is 0."),
        ("views/V/generate", {"count": 257}, 422, "`count` is 257."),
        ("views/V/generate", {"count": True}, 422, "`count` is True."),
        ("views/V/generate", {"count": 1.5}, 422, "`count` is 1.5."),
        ("views/V/generate", {"count": 1, "seed": "x"}, 422, "How tokens are drawn is not"),
        ("views/V/generate", {"count": 1, "seed": -1}, 422, "How tokens are drawn is not"),
        ("views/V/generate", {"count": 1, "seed": 1, "top_k": 1.5}, 422, "How tokens are drawn"),
        ("views/V/generate", {"count": 1, "seed": 1, "top_p": "x"}, 422, "How tokens are drawn"),
        ("views/V/generate", {"count": 1, "seed": 1, "temperature": 10**400}, 422, "How tokens"),
        ("views/V/why", {"answer": 3}, 422, "`answer` is int, not a string."),
        ("views/V/why", {"against": ["a"]}, 422, "`against` is list, not a string."),
        ("views/V/why", {"at": "x"}, 422, "`at` is x."),
        ("views/V/why", {"how": "away"}, 422, "`how` is away."),
        ("views/V/groups", {"by": "sentence"}, 422, "`by` is sentence."),
        ("views/nothing/why", {}, 404, "This text is not open any more."),
        ("views/nothing/groups", {}, 404, "This text is not open any more."),
        ("views/nothing/whatif", {"off": [[0, 0]]}, 404, "This text is not open any more."),
        ("views/nothing/generate", {"count": 1}, 404, "This text is not open any more."),
        ("jobs/nothing/cancel", {}, 404, "This work is not known any more."),
    ],
)
def test_what_cannot_be_sent(open_client, path, body, status, error):
    client, view = open_client
    assert error in client.tell(path.replace("V", view), body, status=status)["error"]
    assert client.ask(f"views/{view}")["n"] == 23


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"nonsense", b"[" * 100_000, b'{"text": NaN'], ids=len
)
def test_what_is_no_json(open_client, content):
    found = open_client[0].tell("open", status=400, content=content)
    assert found["error"].startswith("The request is not JSON (")


def test_a_body_that_is_too_large(open_client):
    client, _ = open_client
    large = b'{"text": "' + b"x" * 2**20 + b'"}'
    found = client.tell("open", status=413, content=large)
    assert found["error"] == f"The request has {len(large)} bytes, and at most {2**20} are read."

    def parts():  # without a content-length
        for _ in range(65):
            yield b" " * 2**14

    found = client.tell("open", status=413, content=parts())
    assert found["error"].startswith(f"The request has more than {2**20} bytes")
    for length in ("-1", "x", "9" * 30):
        reply = client.post(f"{ROOT}api/open", content=b"{}", headers={"content-length": length})
        assert reply.status_code == 413
    assert client.open() != ""


# Texts


@pytest.mark.parametrize(
    "given",
    [
        "the \x00 sea",
        "🙂 the lamp 👩‍👩‍👧",
        "the ‮lamp‬ שלום עולם sea",
        "the\n\n\tsea",
        "<script>the</script>",
        "猫 the",
    ],
)
def test_any_text(open_client, given):
    client, _ = open_client
    view = client.open(given)
    found = client.ask(f"views/{view}")
    assert found["text"] == given
    assert len(found["tokens"]) == len(found["spans"]) == found["n"]
    row = client.ask(f"views/{view}/row", layer=0, head=0, i=found["n"] - 1)
    assert sum(row["weights"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("", "The sentence is empty. Give at least one word."),
        (" \n", "The sentence is empty. Give at least one word."),
        ("<s>", "tiny-llama sees no token in the sentence '<s>'."),
    ],
)
def test_texts_that_cannot_be_read(open_client, given, error):
    client, _ = open_client
    found = client.work("open", {"text": given})
    assert (found["state"], found["error"]) == ("failed", error)
    assert client.open()


def test_a_model_of_few_bits_says_so(llama):
    assert Api(llama).facts()["bits"] is None
    few = OpenModel(llama.model, llama.tokenizer, "few", bits=4)
    assert Api(few).facts()["bits"] == 4


# Long texts, in windows


@pytest.fixture
def short() -> OpenModel:
    """A model that takes 17 tokens."""
    model = tiny_llama()
    model.config.max_position_embeddings = 17
    return model


LONG = text(67)


def test_a_long_text_is_opened_in_windows(short):
    with served(short) as client:
        first = client.open(LONG)
        about = client.ask(f"views/{first}")
        assert about["window"] == {"number": 0, "windows": 5, "first": 0, "last": 13, "tokens": 67}
        assert about["text"] == " ".join(LONG.split()[:14]) and about["read"] == LONG
        assert len(about["tokens"]) == 15
        opened = client.work("open", {"view": first, "window": 4})["result"]["view"]
        last = client.ask(f"views/{opened}")
        assert last["window"] == {"number": 4, "windows": 5, "first": 54, "last": 66, "tokens": 67}
        assert last["text"].split() == LONG.split()[54:]
        # The lines that are copied read the same part of the text.
        given: dict = {}
        lines = last["python"].replace("wqkv.open_model('a/tiny')", "short").splitlines()
        exec("\n".join(lines[1:-1]), given | {"short": short}, given)
        assert "# tokens 54 to 66 of 67" in last["python"]
        assert given["view"].reading.shown == tuple(last["tokens"])
        # A text that fits, and one that was changed, have no window.
        assert client.ask(f"views/{client.open(text(11))}")["window"] is None
        edits = [{"token": 2, "text": "boat"}]
        changed = client.work(f"views/{opened}/whatif", {"off": [], "edits": edits})["result"]
        assert client.ask(f"views/{changed['view']}")["window"] is None


def test_few_windows_are_held_and_each_can_be_read_again(short, monkeypatch):
    monkeypatch.setattr(module, "VIEWS", 2)
    with served(short) as client:
        views = [client.open(LONG)]
        for number in range(1, 5):
            asked = {"view": views[0], "window": number}
            views.append(client.work("open", asked)["result"]["view"])
        error = client.ask(f"views/{views[0]}", status=404)
        assert error["error"] == "This text is not open any more."
        again = client.work("open", {"view": views[2], "window": 2})["result"]["view"]
        assert client.ask(f"views/{again}")["window"]["number"] == 2
        monkeypatch.setattr(module, "TEXTS", 1)
        client.open(text(11))
        found = client.tell("open", {"view": views[0]}, status=404)
        assert found["error"] == "This text is not open any more."


def test_a_window_that_is_not_there(short):
    with served(short) as client:
        found = client.work("open", {"text": LONG, "window": 5})
        assert found["error"] == "There is no window 5: the text has 5, 0 to 4."
        for window in ("1", True, None):
            found = client.tell("open", {"text": LONG, "window": window}, status=422)
            assert found["error"] == f"`window` is {window}."


def test_a_text_opens_at_a_window(short):
    made = server.app(Api(short), "the-secret", [HOST], LONG, window=3)
    with Client(made, base_url=ROOT) as client:
        view = client.opens_with()
        assert client.ask(f"views/{view}")["window"]["number"] == 3


def test_a_pair_of_sentences(minilm):
    """Both are one view, and both are read again where only the view is named."""
    made = server.app(Api(minilm), "the-secret", [HOST], "Who lit it?", pair="The keeper.")
    with Client(made, base_url=ROOT) as client:
        views = [client.opens_with()]
        for body in ({"text": "Who lit it?", "pair": "The keeper."}, {"view": views[0]}):
            views.append(client.work("open", body)["result"]["view"])
        for name in views:
            about = client.ask(f"views/{name}")
            assert (about["read"], about["pair"]) == ("Who lit it?", "The keeper.")
            assert about["text"] == "Who lit it?\nThe keeper." and about["window"] is None
            assert about["tokens"] == list(minilm.tokens("Who lit it?", "The keeper.").shown)
            lines = client.ask(f"views/{name}/row", layer=1, head=2, i=3)["python"]
            assert "pair = 'The keeper.'\nviews = model.views(model.tokens(text, pair))" in lines


def test_a_pair_has_no_windows(minilm, short):
    with pytest.raises(ArgumentError, match=r"There is no window 1: the text has 1, 0 to 0"):
        Api(minilm).open("Who lit it?", lambda *_: None, window=1, pair="The keeper.")
    with pytest.raises(ArgumentError, match=r"\nGive a shorter text\.$"):
        Api(minilm).open("Who lit it? " * 80, lambda *_: None, pair="The keeper. " * 80)
    with pytest.raises(ArgumentError, match=r"reads no pair of sentences: its tokenizer puts"):
        Api(short).open("one", lambda *_: None, pair="two")
    with pytest.raises(ArgumentError, match=r"^tiny-t5 reads one text and writes another, and rea"):
        Api(tiny_t5()).open("one", lambda *_: None, pair="two")


def test_how_much_is_read_at_once(llama, short, monkeypatch):
    assert (Api(short).room, Api(llama).room) == (17, 65536)
    monkeypatch.setattr(module, "STATES", 29 * 4 * 3 * 66)
    assert (Api(short).room, Api(llama).room) == (17, 29)


# What may go wrong


def failing(llama: OpenModel, error: Exception | None):
    """The model, which raises this when it runs."""
    fragile = OpenModel(llama.model, llama.tokenizer, "fragile", llama.speaker)

    def call(ids):
        if error is not None:
            raise error
        return OpenModel._call(fragile, ids)

    fragile._call = call
    return fragile


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_model_that_runs_out_of_memory(llama, error, caplog):
    fragile = failing(llama, error)
    with served(fragile) as client:
        found = client.work("open", {"text": WORDS})
        assert (found["state"], found["error"]) == ("failed", "The model ran out of memory.")
        assert found["do"] == "Open a shorter text."
        fragile._call = functools.partial(OpenModel._call, fragile)
        view = client.open()
        fragile._call = failing(llama, error)._call
        found = client.work(f"views/{view}/whatif", {"off": [[0, 0]]})
        assert found["error"] == "The model ran out of memory."
        assert client.ask(f"views/{view}/row", layer=0, head=0, i=3)["weights"]
    assert not caplog.records


def test_an_answer_that_runs_out_of_memory(client, monkeypatch):
    view = client.open()

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(View, "row", full)
    found = client.ask(f"views/{view}/row", status=503, layer=0, head=0, i=1)
    assert found["error"] == "The model ran out of memory."
    monkeypatch.undo()
    assert client.ask(f"views/{view}/row", layer=0, head=0, i=1)["weights"]


def test_a_fault_of_ours_shows_no_traceback(client, monkeypatch, caplog):
    view = client.open()

    def broken(*_):
        raise KeyError("secret path")

    monkeypatch.setattr(View, "row", broken)
    monkeypatch.setattr(View, "links", broken)
    for name, query in (("row", {"i": 1}), ("links", {"k": 19})):
        found = client.ask(f"views/{view}/{name}", status=500, layer=0, head=0, **query)
        assert found["error"] == "The explorer failed (KeyError)."
    assert len(caplog.records) == 2 and "secret path" in caplog.text
    monkeypatch.undo()
    assert client.ask(f"views/{view}/links", layer=0, head=0, k=19)["links"]


def slowly(llama: OpenModel):
    """The model, which waits before every layer until it is let go on."""
    slow = OpenModel(llama.model, llama.tokenizer, "slow", llama.speaker)
    running, go = threading.Event(), threading.Event()

    def run(words, contexts=None, each=lambda reading: None):
        def waiting(reading):
            running.set()
            assert go.wait(TIMEOUT)
            each(reading)

        return OpenModel.run(slow, words, contexts or {}, waiting)

    slow.run = run
    return slow, running, go


def test_cancel(llama):
    slow, running, go = slowly(llama)
    with served(slow) as client:
        job = client.tell("open", {"text": WORDS})["job"]
        assert running.wait(TIMEOUT)
        found = client.ask(f"jobs/{job}")
        assert (found["state"], found["what"], found["total"]) == ("running", "open", 3)
        waiting = client.tell("open", {"text": WORDS})["job"]
        assert client.ask(f"jobs/{waiting}")["state"] == "waiting"
        for one in (job, waiting):
            assert client.tell(f"jobs/{one}/cancel", {}) == {}
        go.set()
        assert client.wait(job)["state"] == client.wait(waiting)["state"] == "cancelled"
        assert client.open()


def test_answers_come_while_the_model_runs(llama):
    slow, running, go = slowly(llama)
    go.set()
    with served(slow) as client:
        view = client.open()
        go.clear()
        running.clear()
        job = client.tell("open", {"text": WORDS})["job"]
        assert running.wait(TIMEOUT)
        assert client.ask(f"views/{view}/row", layer=2, head=5, i=11)["weights"]
        assert client.ask(f"views/{view}/story", layer=2, head=5, token=11)["steps"]
        slow_one = client.ask(f"views/{view}/grid", status=202, statistic="entropy")["job"]
        assert client.ask(f"jobs/{slow_one}")["state"] == "waiting"
        go.set()
        assert client.wait(job)["state"] == client.wait(slow_one)["state"] == "done"


def test_too_much_work(llama, monkeypatch):
    monkeypatch.setattr("wqkv.explorer.jobs.WAITING", 2)
    slow, running, go = slowly(llama)
    with served(slow) as client:
        client.tell("open", {"text": WORDS})
        assert running.wait(TIMEOUT)
        for _ in range(2):
            client.tell("open", {"text": WORDS})
        found = client.tell("open", {"text": WORDS}, status=503)
        assert found["error"] == "2 jobs are waiting already."
        go.set()


def test_the_model_is_told_while_the_queue_is_full(llama, monkeypatch):
    """Also where the given text has to be read again."""
    monkeypatch.setattr("wqkv.explorer.jobs.WAITING", 1)
    slow, running, go = slowly(llama)
    go.set()
    with served(slow, WORDS) as client:
        start = client.ask("model")["start"]
        assert "view" in start or client.wait(start["job"])
        for _ in range(module.VIEWS):
            client.open()
        go.clear()
        running.clear()
        client.tell("open", {"text": WORDS})
        assert running.wait(TIMEOUT)
        client.tell("open", {"text": WORDS})
        client.tell("open", {"text": WORDS}, status=503)
        job = client.ask("model")["start"]["job"]
        assert client.ask("model")["start"] == {"job": job}
        go.set()
        assert client.ask(f"views/{client.wait(job)['result']['view']}")["text"] == WORDS


# A real server


class Running:
    """The server on a socket, as `serve` runs it."""

    def __init__(self, model: OpenModel, given: str | None = None) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        made = server.app(Api(model), "the-secret", [f"127.0.0.1:{self.port}"], given)
        config = uvicorn.Config(
            made, log_level="warning", access_log=False, http=TimedProtocol, ws="none"
        )
        self.server = uvicorn.Server(config)
        run = functools.partial(self.server.run, sockets=[self.listening])
        self.thread = threading.Thread(target=run)

    def __enter__(self):
        self.thread.start()
        end = time.monotonic() + TIMEOUT
        while not self.server.started and time.monotonic() < end:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()

    def ask(self, method: str, path: str, body: bytes | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        connection.request(method, f"/the-secret/api/{path}", body)
        reply = connection.getresponse()
        found = json.loads(reply.read())
        connection.close()
        return found

    def open(self) -> str:
        job = self.ask("POST", "open", json.dumps({"text": WORDS}).encode())["job"]
        return self.result(job)["view"]

    def result(self, job: str):
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            found = self.ask("GET", f"jobs/{job}")
            if found["state"] == "done":
                return found["result"]
            time.sleep(0.01)
        raise AssertionError(found)


def test_two_pages_at_once(llama):
    with Running(llama) as running:
        views: dict[int, list] = {}

        def page(number: int) -> None:
            view = running.open()
            weights = []
            for head in range(6):
                path = f"views/{view}/row?layer=1&head={head}&i=20"
                weights.append(running.ask("GET", path)["weights"])
            views[number] = weights

        pages = [threading.Thread(target=page, args=(number,)) for number in range(2)]
        for one in pages:
            one.start()
        for one in pages:
            one.join(TIMEOUT)
        assert near(views[0], views[1]) and len(views[0]) == 6


@pytest.mark.parametrize(
    "path", ["open", "V/links?layer=1&head=1&k=3", "V/export?layer=0&head=0&token=3"]
)
def test_a_page_that_goes_away(llama, path):
    slow, waiting, go = slowly(llama)
    go.set()
    with Running(slow) as running:
        view = running.open()
        go.clear()
        waiting.clear()
        body = json.dumps({"text": WORDS}).encode()
        busy = running.ask("POST", "open", body)["job"]
        assert waiting.wait(TIMEOUT)
        sent = b"" if "V" in path else body
        method = "GET" if "V" in path else "POST"
        path = path.replace("V/", f"views/{view}/")
        head = f"{method} /the-secret/api/{path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"
        with socket.create_connection(("127.0.0.1", running.port)) as page:
            page.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
            time.sleep(0.1)
        # and one that goes away in the middle of its request
        with socket.create_connection(("127.0.0.1", running.port)) as page:
            page.sendall(f"{head}Content-Length: {len(sent) + 9}\r\n\r\n".encode() + sent[:5])
            time.sleep(0.1)
        go.set()
        assert running.result(busy)["view"]
        found = running.ask("GET", f"views/{view}/row?layer=1&head=1&i=3")
        assert sum(found["weights"]) == pytest.approx(1)
        assert running.open() != view


def test_what_is_no_http(llama):
    with Running(llama) as running:
        for sent in (b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000):
            with socket.create_connection(("127.0.0.1", running.port)) as page:
                page.sendall(sent)
        assert running.ask("GET", "model")["name"] == "tiny-llama"


# serve


HEAD = b"POST /the-secret/api/open HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
BODY = b'{"text": "the sea"}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def _connected(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port))


def wait_until_hung_up(connection: socket.socket) -> None:
    """Read what the server sends until it ends the connection; TimeoutError if it does not."""
    connection.settimeout(TIMEOUT)
    while connection.recv(2**16):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /the-",
        HEAD,
        HEAD + b"Content-Length: 19\r\n\r\n",
        HEAD + b"Content-Length: 19\r\n\r\n" + BODY[:7],
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{'tex",
        HEAD.replace(b"the-secret", b"no-secret") + b"Content-Length: 19\r\n\r\n{",
        WHOLE + HEAD,
        WHOLE + WHOLE[:-3],
    ],
)
def test_a_request_that_is_never_complete(llama, monkeypatch, sent):
    monkeypatch.setattr(protocol, "ARRIVAL", 0.5)
    with Running(llama) as running:
        with _connected(running) as connection:
            connection.sendall(sent.replace(b"%d", b"%d" % running.port))
            wait_until_hung_up(connection)
        assert running.ask("GET", "model")["name"] == "tiny-llama"


@pytest.mark.slow
@pytest.mark.parametrize("whole", [b"", WHOLE])
def test_a_request_that_drips(llama, monkeypatch, whole):
    """Each byte comes soon; all of them together do not."""
    monkeypatch.setattr(protocol, "ARRIVAL", 0.6)
    with Running(llama) as running, _connected(running) as connection:
        connection.sendall(whole.replace(b"%d", b"%d" % running.port))
        time.sleep(0.2)
        taken = []
        with pytest.raises((ConnectionError, BrokenPipeError)):
            for _ in range(int(TIMEOUT / 0.05)):
                connection.sendall(b"X")
                taken.append("X")
                time.sleep(0.05)
        assert len(taken) > 1  # the first bytes came soon enough


@pytest.mark.slow
def test_an_answer_may_take_longer(llama, monkeypatch):
    monkeypatch.setattr(protocol, "ARRIVAL", 0.3)
    slow, _, go = slowly(llama)
    go.set()
    with Running(slow) as running:
        view = running.open()
        first = running.ask("GET", f"views/{view}")["first"]
        go.clear()
        running.ask("POST", "open", BODY)  # keeps the worker busy
        export = f"views/{view}/export?layer=0&head=0&token={first['token']}"
        threading.Timer(1.2, go.set).start()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=TIMEOUT)
        connection.request("GET", f"/the-secret/api/{export}")
        reply = connection.getresponse()
        assert reply.status == 200 and reply.read() and go.is_set()
        connection.request("GET", "/the-secret/api/model")
        assert connection.getresponse().status == 200
        connection.close()


def test_serve(llama, monkeypatch):
    addresses, hosts = [], []
    made = server.app

    def app(api, secret, allowed, given, target, window, *rest):
        hosts.extend(allowed)
        assert (api.opening.splitlines()[1], given) == ("model = wqkv.open_model('a/b')", WORDS)
        assert (target, window, rest) == (None, 0, (None, None))
        return made(api, secret, allowed)  # without a text, which nobody would wait for

    monkeypatch.setattr(server, "app", app)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    server.serve(llama, WORDS, source="a/b", ready=addresses.append)
    server.serve(llama, WORDS, source="a/b", ready=addresses.append)
    found = [re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/", one) for one in addresses]
    assert found[0][2] != found[1][2]  # a secret of its own each time
    names = ("127.0.0.1", "localhost", "[::1]")
    assert set(hosts[:4]) == {f"{name}:{found[0][1]}" for name in names}


def test_serve_elsewhere(llama, monkeypatch):
    listening = SimpleNamespace(getsockname=lambda: ("::1", 7777))
    asked = []

    def create_server(address, family):
        asked.append((address, family))
        return listening

    monkeypatch.setattr(server.socket, "create_server", create_server)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    addresses = []
    server.serve(llama, host="::", port=7777, ready=addresses.append)
    assert asked == [(("::", 7777), socket.AF_INET6)]
    assert addresses[0].startswith("http://[::]:7777/")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "unknown"), "本机找不到主机 'here.invalid'。请给出本机自己的地址。"),
        (
            OSError(98, "Address already in use (while attempting to bind)"),
            "不能使用 here.invalid 的端口 7777：地址已被占用。请换一个，或给 0 任选一个。",
        ),
    ],
)
def test_where_nothing_can_listen(llama, monkeypatch, error, said):
    def create_server(address, family):
        raise error

    monkeypatch.setattr(server.socket, "create_server", create_server)
    with pytest.raises(ArgumentError, match=r"here\.invalid") as told:
        server.serve(llama, host="here.invalid", port=7777)
    assert translated(told.value.args[0], "zh") == said


def test_texts_of_the_limits():
    for given in ("x" * 1_000_000, "<\x00>"):
        assert Body(json.dumps({"text": given}).encode()).text() == given
