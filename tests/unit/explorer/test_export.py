"""One file with everything inside: what it holds, what it leaves out, and what it may load."""

import base64
import hashlib
import json
import re
import subprocess
from importlib.resources import files
from shutil import which

import pytest

from tests.tiny import text, tiny_llama
from wqkv.explorer import export as module
from wqkv.explorer.api import QUICK, SLOW, Api, Seen
from wqkv.explorer.export import CAP, export, joined, record
from wqkv.explorer.request import Ask

AT = (1, 4, 9)


def nobody(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def api() -> Api:
    return Api(tiny_llama(layers=2))


@pytest.fixture(scope="module")
def seen(api) -> Seen:
    return api.open(text(12), nobody)


@pytest.fixture(scope="module")
def page(api, seen) -> str:
    return export(api, seen, AT, "en", nobody)


def recorded(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="recorded">(.*?)</script>', page)
    return json.loads(found)


# The answers


def test_every_answer_is_the_servers(api, seen):
    answers, left_out = record(api, seen, AT, "en", nobody, CAP)
    assert left_out == ["other words of other heads"]
    assert answers.pop("model") == {**api.facts(), "start": {"view": "1"}}
    assert answers.pop("views/1") == api.about(seen)
    for key, answer in answers.items():
        name, _, query = key.removeprefix("views/1/").partition("?")
        ask = Ask(dict(part.split("=") for part in query.split("&")))
        assert (QUICK | SLOW)[name](api, seen, ask, nobody) == answer


def test_what_the_page_asks_for(api, seen):
    """Keys are in the order of the names; the page forms them so in api.js."""
    answers, _ = record(api, seen, AT, "zh", nobody, CAP)
    wanted = {
        "views/1/story?head=4&lang=zh&layer=1&token=9",
        "views/1/row?head=4&i=9&layer=1",
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
        *(f"views/1/grid?statistic={s}" for s in ("entropy", "received", "distance", "sink")),
        "views/1/grid?lang=zh&statistic=label",
    }
    assert wanted <= answers.keys()


def test_the_cap(api, seen):
    whole, _ = record(api, seen, AT, "en", nobody, CAP)
    size = sum(len(json.dumps(answer)) for answer in whole.values())
    for cap in (0, size // 7, size // 2, size - 1):
        answers, left_out = record(api, seen, AT, "en", nobody, cap)
        kept = {key for key in answers if key not in ("model", "views/1")}
        assert sum(len(json.dumps(answers[key])) for key in kept) <= cap
        assert kept < whole.keys() and len(left_out) >= 2
    assert left_out == ["the chosen word in other heads", "other words of other heads"]


def test_a_long_text_keeps_the_chosen_head(api, monkeypatch):
    monkeypatch.setattr(module, "LONG", 20)
    monkeypatch.setattr(module, "SIDE", 8)
    long = api.open(text(22), nobody)
    answers, left_out = record(api, long, (1, 4, 21), "en", nobody, CAP)
    assert left_out == ["everything but the chosen head: the text is long"]
    kinds = {key.partition("?")[0].rpartition("/")[2] for key in answers}
    assert kinds == {"model", "1", "story", "row", "column", *module.SLOW, "tile"} - {"grid"}
    assert "views/1/tile?head=4&k0=15&k1=23&layer=1&q0=15&q1=23" in answers
    assert "views/1/thumbnail?head=4&layer=1&size=128" in answers


def test_progress_and_an_end(api, seen):
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
    found = recorded(page)
    answers, left_out = record(api, seen, AT, "en", nobody, CAP)
    assert found["answers"] == json.loads(json.dumps(answers))
    assert (found["cap"], found["left_out"]) == (CAP, left_out)
    assert '<html data-start="layer=1&amp;head=4&amp;token=9&amp;lang=en" lang=' in page


def test_the_page_loads_nothing(page):
    assert not re.findall(r'(?:src|href)="(?!data:,)', page)
    assert "import {" not in page and "\nexport " not in page
    assert "@import" not in page and "url(http" not in page
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
    (tmp_path / "main.js").write_text(
        'import { a } from "./a.js";\nimport { b, c } from "./b.js";\nstart(a, b, c);\n'
    )
    (tmp_path / "a.js").write_text(
        'import { b } from "./b.js";\nexport const a = b;\nexport let x = 1;\nexport class Y {}\n'
    )
    (tmp_path / "b.js").write_text(
        'import { a } from "./a.js";\nexport function b() {}\nexport async function c() {}\n'
    )
    assert joined(tmp_path, "main.js") == (
        "function b() {}\nasync function c() {}\n"
        "const a = b;\nlet x = 1;\nclass Y {}\n"
        "start(a, b, c);\n"
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
        ("open.css", ""),
        ("main.js", ""),
        ("open.html", "<html lang=en><head>\n"),
    ):
        (tmp_path / "page" / name).write_text(content)
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    with pytest.raises(AssertionError, match=r"open.html has '<link rel.*' 0 times"):
        module.page({}, "")
