"""One file with everything inside: what it holds, what it leaves out, and what it may load."""

import base64
import hashlib
import json
import re
import subprocess
from importlib.resources import files
from shutil import which
from urllib.parse import parse_qsl

import pytest
from transformers import AlbertConfig

from tests.tiny import READ, TARGET, of_config, text, tiny_llama, tiny_t5, tokenizer
from wqkv.explorer import export as module
from wqkv.explorer.api import Api, OpenView
from wqkv.explorer.export import CAP, export, joined, record
from wqkv.explorer.matrices import matrices
from wqkv.explorer.numbers import OF_THE_MODEL, QUICK, SLOW, grid, stream
from wqkv.explorer.request import Parameters
from wqkv.explorer.saved_cards import saved_cards
from wqkv.explorer.saved_layer import pack, zipped
from wqkv.explorer.saved_matrices import pack_matrices
from wqkv.study.model import OpenModel

AT = (1, 4, 9)
QUICK_AND_SLOW = QUICK | SLOW


def nobody(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def api() -> Api:
    return Api(tiny_llama(layers=2))


@pytest.fixture(scope="module")
def seen(api) -> OpenView:
    return api.open(text(12), nobody)


@pytest.fixture(scope="module")
def page(api, seen) -> str:
    return export(api, seen, AT, "en", nobody)


def recorded(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="recorded">(.*?)</script>', page)
    return json.loads(found)


# A text whose layers the page computes with


def test_every_layer_is_there(api, seen):
    made = record(api, seen, AT, "en", nobody, CAP)
    streams = [stream(api, seen, Parameters({"token": str(i)}), nobody) for i in range(seen.view.n)]
    assert made["parts"] == {
        "": {
            "layers": [pack(seen, layer) for layer in range(2)],
            "matrices": [pack_matrices(seen.view, layer) for layer in range(2)],
            "streams": zipped(streams),
            "cards": saved_cards(own=True),
            "python": seen.python,
        }
    }
    assert made["left_out"] == {"en": [], "zh": []}
    answers = made["answers"]
    assert answers.pop("model") == {**api.facts(), "start": {"view": "1"}}
    assert answers.pop("views/1") == api.about(seen)
    exact = matrices(api, seen, Parameters({"layer": "1", "head": "4"}), nobody)
    assert answers.pop("views/1/matrices?head=4&layer=1") == exact
    # What a head's whole map says of all heads is recorded; page/computed has all other answers.
    assert answers == {
        f"views/1/grid?{asked}": grid(api, seen, Parameters(dict(parse_qsl(asked))), nobody)
        for asked in (
            *(f"statistic={s}" for s in ("entropy", "received", "distance", "sink")),
            "lang=en&statistic=label",
            "lang=zh&statistic=label",
        )
    }


def test_the_layers_near_the_open_one_are_kept_first(api):
    api = Api(tiny_llama(layers=5))
    seen = api.open(text(7), nobody)
    whole = record(api, seen, (3, 0, 0), "en", nobody, CAP)
    layers, pictures = whole["parts"][""]["layers"], whole["parts"][""]["matrices"]
    size = sum(len(json.dumps(one)) for one in whole["answers"].values()) + sum(map(len, layers))
    room = size - len(layers[0]) - len(layers[1]) // 2
    made = record(api, seen, (3, 0, 0), "en", nobody, room)
    assert made["parts"][""]["layers"] == [None, None, *layers[2:]]
    assert made["left_out"]["en"][0] == "layers 0-1" and made["left_out"]["zh"][0] == "第 0-1 层"
    # The pictures of the matrices stand behind all layers and streams.
    streams = len(whole["parts"][""]["streams"])
    made = record(api, seen, (3, 0, 0), "en", nobody, size + streams + len(pictures[3]))
    assert made["parts"][""] == whole["parts"][""] | {"matrices": [None] * 3 + [pictures[3], None]}
    assert made["left_out"]["zh"] == ["第 0-2, 4 层的矩阵"]
    made = record(api, seen, (3, 0, 0), "en", nobody, size + streams - 1)
    assert made["parts"][""]["streams"] is None
    assert made["left_out"]["en"][0] == "what the layers add to each word"
    none = record(api, seen, (3, 0, 0), "en", nobody, 0)
    assert none["parts"][""]["layers"] == [None] * 5
    assert none["answers"].keys() == {"model", "views/1"}


def test_all_attentions_of_two_texts(api):
    api = Api(tiny_t5())
    seen = api.open(READ, nobody, TARGET)
    encoder = seen.parts["encoder"]
    made = record(api, encoder, (2, 0, 0), "en", nobody, CAP)
    answers, parts = made["answers"], made["parts"]
    assert answers["model"]["start"] == {"view": "1.encoder"}
    assert answers["views/1"] == answers["views/1.cross"] == api.about(seen)
    assert {part: len(one["layers"]) for part, one in parts.items()} == {
        "encoder": 3, "decoder": 2, "cross": 2
    }  # fmt: skip
    assert all(all(one["layers"]) for one in parts.values())
    assert "views/1.decoder/grid?statistic=entropy" in answers
    none = record(api, seen, (0, 0, 0), "zh", nobody, 0)
    assert "编码器第 0-2 层" in none["left_out"]["zh"]
    assert "layers 0-1 of cross-attention" in none["left_out"]["en"]


def test_what_was_asked_of_the_model_is_recorded(api):
    seen = api.open(text(12), nobody)
    choices = QUICK_AND_SLOW["choices"](api, seen, Parameters({}), nobody)
    seen.asked["choices"] = choices
    assert record(api, seen, AT, "en", nobody, CAP)["answers"]["views/1/choices"] == choices


def test_progress_counts_layers_and_may_end_it(api, seen):
    told = []
    export(api, seen, AT, "en", lambda *at: told.append(at))
    assert told[0] == (0, 2) and told == sorted(told) and told[-1] == (2, 2)

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        export(api, seen, AT, "en", stop)


# A longer text, of which answers are recorded


@pytest.fixture
def longer(monkeypatch) -> None:
    """Let a text be too long to be computed in the page."""
    monkeypatch.setattr(module, "MOST_TOKENS", 10)


def test_every_answer_is_the_servers(api, seen, longer):
    made = record(api, seen, AT, "en", nobody, CAP)
    answers = made["answers"]
    assert made["left_out"]["en"] == ["other words of other heads"] and made["parts"] == {}
    assert answers.pop("model") == {**api.facts(), "start": {"view": "1"}}
    assert answers.pop("views/1") == api.about(seen)
    for key, answer in answers.items():
        name, _, query = key.removeprefix("views/1/").partition("?")
        ask = Parameters(dict(parse_qsl(query)))
        assert QUICK_AND_SLOW[name](api, seen, ask, nobody) == answer


def test_the_row_without_its_strongest_link(api, seen, longer):
    answers = record(api, seen, AT, "en", nobody, CAP)["answers"]
    best = int(seen.view.row(*AT).weights.argmax())
    found = answers[f"views/1/row?head=4&i=9&layer=1&without={best}"]
    assert found["changed"] == seen.view.row_without(*AT, best).changed
    assert not [key for key in answers if "&i=0&" in key and "without" in key]  # it sees itself


def test_a_model_whose_parts_are_not_told_apart(monkeypatch):
    """Its page is saved without the strip; see `blocks_of`."""
    config = AlbertConfig(
        vocab_size=61, embedding_size=17, hidden_size=24, num_hidden_layers=4, num_hidden_groups=2,
        inner_group_num=2, num_attention_heads=6, intermediate_size=29, pad_token_id=0,
    )  # fmt: skip
    api = Api(OpenModel(of_config(config), tokenizer(), "albert in groups"))
    seen = api.open(READ, nobody)
    assert record(api, seen, (1, 4, 3), "en", nobody, CAP)["parts"][""]["streams"] is None
    monkeypatch.setattr(module, "MOST_TOKENS", 5)
    answers = record(api, seen, (1, 4, 3), "en", nobody, CAP)["answers"]
    assert not [key for key in answers if "stream" in key]
    assert "views/1/row?head=4&i=3&layer=1" in answers


def test_what_the_page_asks_for(api, seen, longer):
    """Keys are in the order of the names; the page forms them so in server.js."""
    answers = record(api, seen, AT, "zh", nobody, CAP)["answers"]
    wanted = {
        "views/1/story?head=4&lang=zh&layer=1&token=9",
        "views/1/row?head=4&i=9&layer=1",
        "views/1/stream?token=9",
        "views/1/column?head=4&j=9&layer=1",
        "views/1/tile?head=4&k0=0&k1=13&layer=1&q0=0&q1=13",
        "views/1/received?head=4&layer=1",
        "views/1/distances?head=4&layer=1",
        "views/1/links?head=4&k=20&layer=1",
        "views/1/thumbnail?head=4&layer=1&size=64",
        "views/1/thumbnail?layer=0&size=24",
        "views/1/cell?head=4&i=9&j=12&layer=1",
        "views/1/row?head=4&i=12&layer=1",
        "views/1/story?head=0&lang=zh&layer=0&token=9",
        "views/1/experiment?head=4&layer=1&name=merged&token=9",
        "views/1/changedmaps?head=4&layer=1&name=unscaled&size=48&token=9",
        *(f"views/1/grid?statistic={s}" for s in ("entropy", "received", "distance", "sink")),
        "views/1/grid?lang=zh&statistic=label",
    }
    assert wanted <= answers.keys()


def test_the_cap(api, seen, longer):
    whole = record(api, seen, AT, "en", nobody, CAP)["answers"]
    size = sum(len(json.dumps(answer)) for answer in whole.values())
    for cap in (0, size // 7, size // 2, size - 1):
        made = record(api, seen, AT, "en", nobody, cap)
        answers, left_out = made["answers"], made["left_out"]
        kept = {key for key in answers if key not in ("model", "views/1")}
        assert sum(len(json.dumps(answers[key])) for key in kept) <= cap
        assert kept < whole.keys() and len(left_out["en"]) >= 2
    assert left_out["en"] == ["the chosen word in other heads", "other words of other heads"]


def test_a_long_text_keeps_the_chosen_head(api, monkeypatch, longer):
    monkeypatch.setattr(module, "LONG", 20)
    monkeypatch.setattr(module, "SIDE", 8)
    long = api.open(text(22), nobody)
    made = record(api, long, (1, 4, 21), "en", nobody, CAP)
    answers = made["answers"]
    assert made["left_out"]["en"] == ["everything but the chosen head: the text is long"]
    kinds = {key.partition("?")[0].rpartition("/")[2] for key in answers}
    quick = {"model", "1", "story", "row", "column", "matrices", "tile", "experiment", "stream"}
    assert kinds == quick | {*SLOW} - {"grid", "changedmaps", *OF_THE_MODEL}
    assert "views/1/tile?head=4&k0=15&k1=23&layer=1&q0=15&q1=23" in answers
    assert "views/1/thumbnail?head=4&layer=1&size=128" in answers


def test_a_long_text_of_a_model_of_two(longer):
    api = Api(tiny_t5())
    seen = api.open(READ, nobody, TARGET)
    made = record(api, seen, (0, 0, 0), "en", nobody, CAP)
    assert made["left_out"]["en"][-1] == "the model's other two attentions"
    assert made["answers"]["views/1"]["parts"] == []


def test_progress_and_an_end(api, seen, longer):
    told = []
    export(api, seen, AT, "en", lambda *at: told.append(at))
    assert told[0][0] == 2 and told == sorted(told) and told[-1][0] < told[-1][1]

    def stop(done: int, total: int) -> None:
        if done > 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        export(api, seen, AT, "en", stop)


# The page


def test_the_page_holds_the_answers(api, seen, page):
    assert recorded(page) == json.loads(json.dumps(record(api, seen, AT, "en", nobody, CAP)))
    assert '<html data-start="layer=1&amp;head=4&amp;token=9&amp;lang=en" lang=' in page


def test_the_page_loads_nothing(page):
    assert not re.findall(r'(?:src|href)="(?!data:,)', page)
    assert "\nimport " not in page and "\nexport " not in page
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "@import" not in style and "url(" not in style
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "connect-src" not in rules and "unsafe" not in policy
    for rule, pattern in (
        ("style-src", r"<style>(.*?)</style>"),
        ("script-src", r'<script type="module">(.*?)</script>'),
    ):
        (inner,) = re.findall(pattern, page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


@pytest.mark.parametrize(
    "given", ["</script><script>the</script>", "<!-- <script the", "a\u2028the"]
)
def test_a_text_cannot_leave_its_place(api, given):
    seen = api.open(given, nobody)
    page = export(api, seen, (0, 0, 1), "en", nobody, cap=0)
    assert recorded(page)["answers"]["views/1"]["text"] == given
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page.partition("recorded")[2]


def test_modules_are_joined_in_order(tmp_path):
    """Each folder's imports are relative; two files of one name in two folders are two modules."""
    for path, source in {
        "main.js": 'import { a } from "./a.js";\nimport { b, c } from "./in/b.js";\nstart(a, b);\n',
        "a.js": 'import { b } from "./in/b.js";\nexport const a = b;\nexport let x = 1;\n',
        "in/b.js": 'import { a } from "../a.js";\nimport { y } from "./a.js";\n'
        "export function b() {}\nexport async function c() {}\n",
        "in/a.js": "export class y {}\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    assert joined(tmp_path, "main.js") == (
        "class y {}\n"
        "function b() {}\nasync function c() {}\n"
        "const a = b;\nlet x = 1;\n"
        "start(a, b);\n"
    )


@pytest.mark.process
def test_the_joined_script_is_a_script(tmp_path):
    node = which("node")
    if node is None:
        pytest.skip("node is not installed: tests/browser runs the script in a browser")
    path = tmp_path / "joined.mjs"
    path.write_text(joined(files("wqkv.explorer") / "page", "main.js"), "utf-8")
    subprocess.run([node, "--check", path], check=True, capture_output=True)


def test_a_page_that_has_changed_its_shape(monkeypatch, tmp_path):
    (tmp_path / "page").mkdir()
    for name, content in (
        ("main.js", ""),
        ("open.html", '<html lang=en><head>\n<link rel="stylesheet" href="page/main.js">'),
    ):
        (tmp_path / "page" / name).write_text(content)
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    with pytest.raises(AssertionError, match=r"open.html has '<script type.*' 0 times"):
        module.page({}, "")
