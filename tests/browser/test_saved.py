"""A saved page computes its answers: each beside Python's, and the page from a file and in a frame.

Sums are float32 in Python and float64 in JavaScript, of the same float32 numbers; so the answers
differ by what float32 rounds: RTOL and ATOL.
"""

import json
import re
from html import escape
from itertools import product
from urllib.parse import quote

import pytest
from transformers import AfmoeConfig, Gemma2Config, GptOssConfig

from tests.browser.conftest import HEAD, HERE, IT, LAYER, TIRED, go, settled
from tests.tiny import (
    READ,
    TARGET,
    fill,
    of_config,
    text,
    tiny_bart,
    tiny_llama,
    tiny_t5,
    tokenizer,
)
from wqkv import experiments
from wqkv.draw.to_json import plain
from wqkv.errors import ArgumentError
from wqkv.experiments.asked_of_heads import NoExperiment
from wqkv.explorer.api import Api, OpenView
from wqkv.explorer.export import CAP, export, record
from wqkv.explorer.numbers import QUICK, SLOW
from wqkv.explorer.request import Parameters
from wqkv.explorer.saved_layer import pack
from wqkv.study.model import OpenModel
from wqkv.study.one_token import ClearLink
from wqkv.study.view import View, block_means

#: Of a trained model.
RTOL, ATOL = 1e-5, 2e-6
#: Where scores are larger, of whose last digits a float32 weight is off: in the tiny models, and
#: in the experiments, of which one leaves out the scale.
LARGER = 1e-5
#: What `computed/answers.js` answers, with what else is asked; {i} and {j} are tokens.
ASKED = (
    ("story", {"token": "i", "lang": "en"}),
    ("story", {"token": "i", "lang": "zh"}),
    ("cell", {"i": "i", "j": "j"}),
    ("row", {"i": "i"}),
    ("row", {"i": "i", "without": "j", "how": "renormalize"}),
    ("row", {"i": "i", "without": "j", "how": "zero"}),
    ("column", {"j": "j"}),
    ("tile", {"q0": 0, "q1": "n", "k0": 1, "k1": "m"}),
    ("tile", {"q0": 1, "q1": 2, "k0": 0, "k1": "m", "of": "contribution"}),
    ("thumbnail", {"size": 5}),
    ("thumbnail", {"size": 64, "of": "contribution"}),
    ("received", {}),
    ("distances", {}),
    ("links", {"k": 20}),
    ("stream", {"token": "i"}),
    *(("experiment", {"name": name, "token": "i"}) for name in experiments.HEAD_QUESTIONS),
    *(
        ("changedmaps", {"name": name, "token": "i", "size": 5})
        for name in experiments.HEAD_QUESTIONS
    ),
)


def nobody(done: int, total: int) -> None:
    pass


def gemma() -> OpenModel:
    """A window, a softcap, grouped heads and RoPE."""
    config = Gemma2Config(
        vocab_size=61, hidden_size=30, intermediate_size=29, num_hidden_layers=2, head_dim=14,
        num_attention_heads=6, num_key_value_heads=2, sliding_window=3, pad_token_id=0,
        attn_logit_softcapping=7.0, query_pre_attn_scalar=11,
    )  # fmt: skip
    return OpenModel(of_config(config), tokenizer(), "tiny-gemma")


def gpt_oss() -> OpenModel:
    """Learned sinks, biases, and a window in every second layer."""
    config = GptOssConfig(  # its experts take multiples of 4 alone
        vocab_size=61, hidden_size=44, intermediate_size=52, num_hidden_layers=2, head_dim=14,
        num_attention_heads=6, num_key_value_heads=2, sliding_window=3, pad_token_id=0,
        num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    return OpenModel(fill(of_config(config)), tokenizer(), "tiny-oss")


def afmoe() -> OpenModel:
    """A gate of every channel, norms of q and k, and RoPE in one layer of two."""
    config = AfmoeConfig(
        vocab_size=61, hidden_size=44, intermediate_size=52, num_hidden_layers=2, head_dim=14,
        num_attention_heads=6, num_key_value_heads=2, sliding_window=3, pad_token_id=0,
        num_dense_layers=2, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    return OpenModel(of_config(config), tokenizer(), "tiny-afmoe")


#: How to make a model, what it reads, and what it writes.
MODELS = {
    "afmoe": (afmoe, text(11), None),
    "llama": (tiny_llama, text(12), None),
    "gemma": (gemma, text(11), None),
    "gpt-oss": (gpt_oss, text(11), None),
    "t5": (tiny_t5, READ, TARGET),
    "bart": (tiny_bart, READ, TARGET),
}


@pytest.fixture
def answer_of(open_page):
    """Asks a module of the page what a saved page would answer: {address, query} of many."""
    page = open_page()

    def ask(saved, asked):
        return page.evaluate(
            """async ([saved, asked]) => {
                const { answerOf } = await import("./page/computed/saved.js");
                const keyOf = (path, query) => path + "?" + Object.keys(query).sort()
                    .map(name => `${name}=${query[name]}`).join("&");
                const found = [];
                for (const [path, query] of asked)
                    found.push((await answerOf(saved, path, query, keyOf)) ?? null);
                return found;
            }""",
            [saved, asked],
        )

    return ask


#: Where an answer has sentences, whose last digits may differ: their numbers are compared apart.
SAID = re.compile(r"\.(said|cards|headline)\b")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


def off(found, wanted, at: str = "", atol: float = ATOL) -> list[str]:
    """Where two answers are not the same within RTOL and `atol`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        if found.keys() != wanted.keys():
            return [f"{at}: {found.keys() ^ wanted.keys()}"]
        return [
            say for name in wanted for say in off(found[name], wanted[name], f"{at}.{name}", atol)
        ]
    if isinstance(wanted, list | tuple) and isinstance(found, list):
        if len(found) != len(wanted):
            return [f"{at}: {len(found)} of {len(wanted)}"]
        pairs = zip(found, wanted, strict=True)
        return [say for n, pair in enumerate(pairs) for say in off(*pair, f"{at}[{n}]", atol)]
    same = found == wanted
    if isinstance(wanted, str) and isinstance(found, str) and SAID.search(at):
        same = NUMBER.sub("#", found) == NUMBER.sub("#", wanted)
        numbers = (
            [float(one.replace(",", "")) for one in NUMBER.findall(x)] for x in (found, wanted)
        )
        same = same and next(numbers) == pytest.approx(next(numbers), rel=1e-2, abs=1.1e-3)
    elif isinstance(wanted, float) and isinstance(found, int | float):
        same = found == pytest.approx(wanted, rel=RTOL, abs=atol)
    return [] if same else [f"{at}: {found!r}, not {wanted!r}"]


def comparable(answer):
    """An answer without what may differ.

    Links stand in the order of their tokens, because equal weights have no order. What is added is
    not in every page.
    """
    answer = json.loads(json.dumps(answer))
    if answer and "links" in answer:
        answer["links"] = sorted(answer["links"], key=lambda link: (link["i"], link["j"]))
    if answer and answer.get("made"):
        made = answer["made"]
        made["links"] = sorted(
            (link for link in made["links"] if link["before"] or link["after"]),
            key=lambda link: link["key"],
        )
        made.pop("outputs")
    return answer


def compared(answer_of, api: Api, seen: OpenView, heads, pairs, atol: float) -> list[str]:
    """What a saved page would answer otherwise than the server."""
    saved, asked, wanted = record(api, seen, (0, 0, 0), "en", nobody, CAP), [], []
    for name, one in (seen.parts or {"": seen}).items():
        n, m = one.view.n, one.view.m
        address = f"views/1.{name}" if name else "views/1"
        for (layer, head), (i, j), (kind, more) in product(heads, pairs, ASKED):
            head %= one.view.model.sizes.n_head
            if kind == "distances" and "distance" not in one.view.statistics:
                continue
            places = {"i": i, "j": j, "n": n, "m": m}
            if "without" in more and one.view.row(layer, head, i).weights[j] == 1:
                continue  # there is no row without its only link
            query = {k: places.get(v, v) for k, v in more.items()}
            query |= {"layer": layer, "head": head}
            asked.append((f"{address}/{kind}", query))
            ask = Parameters({k: str(v) for k, v in query.items()})
            try:
                wanted.append((QUICK | SLOW)[kind](api, one, ask, nobody))
            except NoExperiment:
                assert kind == "changedmaps"
                wanted.append(None)
            except ArgumentError as error:  # no contribution is a product of its weight
                assert "has a gate" in str(error)
                wanted.append(None)
    found = answer_of(saved, asked)
    return [
        f"{path} {query}{say}"
        for (path, query), a, b in zip(asked, found, wanted, strict=True)
        for say in off(comparable(a), comparable(b), atol=atol)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_pythons(answer_of, name):
    make, given, target = MODELS[name]
    api = Api(make())
    seen = api.open(given, nobody, target)
    wrong = compared(answer_of, api, seen, [(0, 1), (1, -2)], [(0, 0), (7, 2), (5, 5)], LARGER)
    assert wrong == [], "\n".join(wrong[:20])


def test_answers_of_a_trained_model(answer_of, minilm):
    api = Api(minilm)
    seen = api.open(TIRED, nobody)
    heads = [(layer, (5 * layer + 1) % 12) for layer in range(6)]
    wrong = compared(answer_of, api, seen, heads, [(10, 2), (0, 15), (15, 0)], ATOL)
    assert wrong == [], "\n".join(wrong[:20])


def test_a_long_text_has_its_recorded_answers(answer_of, monkeypatch):
    """Of a model of two texts too, of which one attention alone is recorded."""
    monkeypatch.setattr("wqkv.explorer.export.MOST_TOKENS", 5)
    api = Api(tiny_t5())
    seen = api.open(READ, nobody, TARGET)
    saved = record(api, seen, (1, 2, 3), "en", nobody, CAP)
    at = {"layer": 1, "head": 2}
    found = answer_of(saved, [("views/1/row", at | {"i": 3}), ("views/1/row", at | {"i": 99})])
    ask = Parameters({"layer": "1", "head": "2", "i": "3"})
    assert found == [QUICK["row"](api, seen, ask, nobody), None]


# Experiments


@pytest.fixture
def experiments_of(open_page):
    """Asks the page for experiments and their maps: [layer, name, head, token] of many."""
    page = open_page()

    def ask(packed, asked):
        return page.evaluate(
            """async ([packed, asked]) => {
                const { unpackLayer } = await import("./page/computed/layer.js");
                const all = await import("./page/computed/experiments.js");
                const layers = await Promise.all(packed.map(unpackLayer));
                return asked.map(([layer, name, head, i]) => {
                    const made = all.experimentOf(layers[layer], name, head, i);
                    const maps = all.changedMapsOf(layers[layer], name, head, i, 5);
                    return made ? { key: made.key, numbers: made.numbers, maps,
                                    before: [...made.before.weights],
                                    after: [...made.after.weights] } : null;
                });
            }""",
            [packed, asked],
        )

    return ask


def made_by_python(view, name: str, layer: int, head: int, i: int):
    """What a saved page computes of an experiment; None where it is refused."""
    further = (max(1, view.model.sizes.d_k // 4),) if name == "low_rank" else ()
    try:
        made = getattr(experiments, name)(view, layer, head, i, *further)
    except ArgumentError:
        return None
    before, after = (view_map.thumbnail(5)[0, 0] for view_map in (made.before.map, made.after.map))
    blocks = block_means(view.n, view.m, before)
    return {
        "key": made.key,
        "before": plain(made.before.weights),
        "after": plain(made.after.weights),
        "numbers": plain(made.numbers),
        "maps": {
            "edges": list(blocks.edges),
            "keys": list(blocks.keys),
            "before": plain(before),
            "after": plain(after),
            "means": plain(made.over_rows()),
        },
    }


def experiments_off(experiments_of, view, heads, rows) -> tuple[list[str], int]:
    """Where experiments are not Python's, and how many were made."""
    seen = OpenView(view, ClearLink(0, 0, 0, 0), 0.0, "")
    packed = [pack(seen, layer) for layer in range(view.model.sizes.n_layer)]
    asked = [
        (layer, name, head % view.model.sizes.n_head, i)
        for name, (layer, head), i in product(experiments.HEAD_QUESTIONS, heads, rows)
    ]
    wanted = [made_by_python(view, name, layer, head, i) for layer, name, head, i in asked]
    wrong = [
        f"{at}{say}"
        for at, a, b in zip(asked, experiments_of(packed, asked), wanted, strict=True)
        for say in off(a, b, atol=LARGER)
    ]
    return wrong, sum(one is not None for one in wanted)


@pytest.mark.parametrize("name", MODELS)
def test_experiments_are_pythons(experiments_of, name):
    make, given, target = MODELS[name]
    views = make().views(given, target)
    for part, view in views.items():
        wrong, count = experiments_off(experiments_of, view, [(1, -2)], [7, 3])
        assert wrong == [], part + "\n".join(wrong[:20])
        assert count >= 14, part  # seven that every model answers


def test_experiments_on_a_trained_model(experiments_of, minilm):
    view = View(minilm, minilm.read(TIRED))
    wrong, count = experiments_off(experiments_of, view, [(3, 1), (5, 11)], [10, 0])
    assert wrong == [], "\n".join(wrong[:20])
    assert count == 12 * 4


# The page


@pytest.fixture(scope="module")
def saved(minilm, site, tmp_path_factory):
    """The site's text as a page in a file, after one question was asked of the model."""
    api = Api(minilm)
    seen = api.open(TIRED, nobody)
    for name, query in (("choices", {}), ("effects", EFFECTS | {"answer": ANSWER})):
        key = f"{name}?" + "&".join(f"{k}={query[k]}" for k in sorted(query)) if query else name
        ask = Parameters({k: str(v) for k, v in query.items()})
        seen.asked[key] = SLOW[name](api, seen, ask, nobody)
    path = tmp_path_factory.mktemp("saved") / "page.html"
    path.write_text(export(api, seen, (LAYER, HEAD, IT), "en", nobody), "utf-8")
    return path


#: What the map of effects of the open head asks for.
EFFECTS = {"layer": LAYER, "head": HEAD, "q0": 0, "q1": 16, "k0": 0, "k1": 16, "how": "renormalize"}
ANSWER = "The animal was tired."
#: Places of the page: words and heads that nobody looked at before it was saved.
PLACES = (
    *(f"layer=5&head=7&token=13&step={step}" for step in range(1, 8)),
    "layer=0&head=11&token=0&step=5&lang=zh",
    "layer=2&head=4&token=8&step=4&other=3",
    "layer=4&head=0&token=5&step=0&dir=from",
    "layer=1&head=9&token=14&step=0&view=map",
    "layer=1&head=9&token=14&step=0&view=map&shows=contribution",
    "layer=5&head=2&token=14&step=0&view=grid",
    "layer=5&head=2&token=14&step=0&view=grid&stat=label&lang=zh",
    "layer=5&head=2&token=14&step=0&view=grid&stat=maps",
    f"{HERE}&step=2",  # of the head at which the page was saved the matrices are exact
    f"{HERE}&step=7",
    "layer=4&head=7&token=2&step=0&view=cards",
    "layer=4&head=7&token=0&step=0&view=cards&lang=zh",
    "layer=4&head=7&token=12&step=0&view=cards&guesses=same_matrix:even,merged:same,swapped:alike",
    "layer=0&head=3&token=8&step=0&view=cards&guesses=no_projection:even,variance:wider,big_weight:less",
)
#: What a saved page says otherwise: pictures of matrices instead of their numbers, and what
#: needs runs of the model.
OTHERWISE = ".benchfoot, .bench output, .workedcolumn, .often, .rank"


def test_a_saved_page_shows_what_the_server_shows(open_page, saved):
    page = open_page(url=saved.as_uri(), fresh=True, offline=True)
    for place in PLACES:
        place += "" if "view=" in place else "&view=text"
        go(page, place)
        live = open_page(place)
        if not place.startswith(HERE):
            for one in (page, live):
                one.locator(OTHERWISE).evaluate_all("all => all.forEach(it => it.hidden = true)")
        for part in ("#where", "#stream", "#open", "#view"):
            assert page.locator(part).inner_text() == live.locator(part).inner_text(), place
        assert page.locator(".notice").count() == 0


def test_what_was_asked_before_saving_is_there(open_page, saved):
    page = open_page(url=saved.as_uri(), fresh=True, offline=True)
    asked = f"&step=0&view=map&shows=effect&answer={quote(ANSWER)}"
    go(page, f"{HERE}{asked}")
    assert page.locator(".notice").count() == 0 and page.locator("canvas.tile").count() == 1
    go(page, f"layer=2&head=2&token=10{asked}")
    assert "not in the saved page" in page.locator("#view").inner_text()


@pytest.mark.parametrize("sandbox", ["allow-scripts", "allow-scripts allow-downloads"])
def test_in_a_frame(open_page, saved, tmp_path, sandbox):
    """A blog, a slide or a notebook has the page in a frame that may run scripts and no more."""
    frame = f'<iframe sandbox="{sandbox}" srcdoc="{escape(saved.read_text("utf-8"))}"'
    path = tmp_path / "blog.html"
    path.write_text(f'<!doctype html><meta charset="utf-8">{frame} width="900" height="800">')
    context = open_page.browser.new_context(locale="en-GB", offline=True)
    page = context.new_page()
    wrong, requests = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    inner = page.frame_locator("iframe")
    inner.locator("#view > *").first.wait_for()
    inner.locator("#pick-layer").select_option("5")
    inner.locator("#step-4").click()
    inner.locator("#open .result td").first.wait_for()
    inner.locator("#tab-map").click()
    inner.locator("canvas.tile").wait_for()
    assert inner.locator(".notice").count() == 0
    assert wrong == [] and requests == [path.as_uri()]
    context.close()


def test_all_attentions_of_two_texts(open_page, tmp_path):
    api = Api(tiny_t5())
    seen = api.open(READ, nobody, TARGET)
    path = tmp_path / "page.html"
    path.write_text(export(api, seen, (1, 2, 3), "en", nobody), "utf-8")
    page = open_page(url=path.as_uri(), fresh=True, offline=True)
    for part in ("encoder", "decoder", "cross"):
        page.locator(f"[data-key='part-{part}']").click()
        for step in range(1, 8):
            page.keyboard.press(str(step))
            settled(page)
        for view in ("text", "grid", "map"):
            page.locator(f"#tab-{view}").click()
            settled(page)
            assert page.locator(".notice").count() == 0, (part, view)


def test_the_size_of_a_page(saved):
    """16 tokens of 6 layers and 12 heads, with pictures of all matrices."""
    assert 7_000_000 < saved.stat().st_size < 8_000_000
