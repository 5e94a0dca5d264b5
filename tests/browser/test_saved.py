"""A saved page computes its answers: each beside Python's, and the page from a file and in a frame.

Sums are float32 in Python and float64 in JavaScript, of the same float32 numbers: RTOL and ATOL.
"""

from itertools import product

import pytest
from transformers import Gemma2Config, GptOssConfig

from tests.browser.conftest import TIRED
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
from wqkv.explorer.api import Api, OpenView
from wqkv.explorer.export import CAP, record
from wqkv.explorer.numbers import QUICK, SLOW
from wqkv.explorer.request import Parameters
from wqkv.explorer.saved_layer import pack
from wqkv.study.model import OpenModel
from wqkv.study.one_token import ClearLink
from wqkv.study.view import View, block_means

#: Measured: 1.5e-6 of a number, over all answers of all models below.
RTOL, ATOL = 1e-5, 2e-6
#: Of the experiments, whose scores are larger: without a scale they are sqrt(d_k) times as large.
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


#: How to make a model, what it reads, and what it writes.
MODELS = {
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
    if isinstance(wanted, float) and isinstance(found, int | float):
        same = found == pytest.approx(wanted, rel=RTOL, abs=atol)
    return [] if same else [f"{at}: {found!r}, not {wanted!r}"]


def in_order(answer):
    """An answer whose links stand in the order of their tokens: equal weights have no order."""
    if answer and "links" in answer:
        answer["links"] = sorted(answer["links"], key=lambda link: (link["i"], link["j"]))
    return answer


def compared(answer_of, api: Api, seen: OpenView, heads, pairs) -> list[str]:
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
            wanted.append((QUICK | SLOW)[kind](api, one, ask, nobody))
    found = answer_of(saved, asked)
    return [
        f"{path} {query}{say}"
        for (path, query), a, b in zip(asked, found, wanted, strict=True)
        for say in off(in_order(a), in_order(b))
    ]


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_pythons(answer_of, name):
    make, given, target = MODELS[name]
    api = Api(make())
    seen = api.open(given, nobody, target)
    wrong = compared(answer_of, api, seen, [(0, 0), (1, -1)], [(0, 0), (7, 2), (5, 5)])
    assert wrong == [], "\n".join(wrong[:20])


def test_answers_of_a_trained_model(answer_of, minilm):
    api = Api(minilm)
    seen = api.open(TIRED, nobody)
    heads = [(layer, (5 * layer + 1) % 12) for layer in range(6)]
    wrong = compared(answer_of, api, seen, heads, [(10, 2), (0, 15), (15, 0)])
    assert wrong == [], "\n".join(wrong[:20])


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
                    return made ? { ...made, maps, before: [...made.before.weights],
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
        wrong, count = experiments_off(experiments_of, view, [(1, -1)], [7, 3])
        assert wrong == [], part + "\n".join(wrong[:20])
        assert count >= 14, part  # seven that every model answers


def test_experiments_on_a_trained_model(experiments_of, minilm):
    view = View(minilm, minilm.read(TIRED))
    wrong, count = experiments_off(experiments_of, view, [(3, 1), (5, 11)], [10, 0])
    assert wrong == [], "\n".join(wrong[:20])
    assert count == 12 * 4
