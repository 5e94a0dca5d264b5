"""What the benchmark of effects says of links, and that it compares before it times."""

from dataclasses import replace

import pytest
import torch

from benchmarks import effects, removed
from benchmarks.removed import Prompt
from tests.tiny import text, tiny_llama
from wqkv.effects.records import LARGE_CHANGE, LinkEffect

N = 11
PROMPT = Prompt(text(N - 1), "lamp", "sea")  # a token more begins the text


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def link(predicted: float, true: float, weight: float = 0.5, change: float = 0.01) -> LinkEffect:
    return LinkEffect("text", 0, 1, 3, 2, weight, predicted, change, block=predicted, true=true)


def test_every_link_is_removed(model):
    sizes, pairs = model.parts["text"].sizes, N * (N + 1) // 2
    one = removed.remove(model, PROMPT)
    # The first token's only key cannot be removed; its value can be zeroed.
    assert len(one.links) == sizes.n_layer * sizes.n_head * (pairs - 1)
    assert len(removed.remove(model, PROMPT, "zero").links) == sizes.n_layer * sizes.n_head * pairs
    assert {x.query for x in removed.last_row(model, PROMPT).links} == {N - 1}
    assert removed.correlations(one)["Spearman, predicted"] > 0.9
    true = {place(x): x.true for x in one.links}
    some = removed.remove(model, PROMPT, some=7).links
    assert [x.true for x in some] == pytest.approx([true[place(x)] for x in some], abs=1e-5)


def place(x: LinkEffect) -> tuple[int, ...]:
    return x.layer, x.head, x.query, x.key


def test_places_in_a_ranking():
    links = [link(predicted=1 / n, true=n, weight=n) for n in range(1, 13)]
    assert removed.places(links, removed.first_order) == list(range(3, 13))
    assert removed.places(links, removed.by_weight) == list(range(1, 11))
    row = removed.found(links * 20)
    assert row[removed.FOUND] == 0 and row[f"{removed.FOUND}, by weight"] == removed.TRUE
    moved = [replace(x, block=x.true) for x in links]
    assert removed.places(moved, removed.as_ranked) == list(range(1, 11))


def test_signs():
    links = [link(predicted=1.0, true=1.0), link(predicted=1.0, true=-1.0)] * 30
    assert removed.signs(links)[removed.SIGNS] == removed.SHOWN / 2


def test_warnings_are_counted_over_links_that_matter(model):
    rerun = removed.last_row(model, PROMPT).rerun
    assert abs(rerun.before) < 100
    links = [
        link(1.0, 10.0, change=2 * LARGE_CHANGE),  # a miss that carries it
        link(1.0, 10.0),  # a miss that does not
        link(10.0, 10.0, change=2 * LARGE_CHANGE),
        link(10.0, 10.0),
        link(5.0, 1e-9, change=2 * LARGE_CHANGE),  # does not matter
    ]
    row = removed.warnings([removed.Removed(rerun, links, [0.0] * 5)])
    assert row["links that matter"] == 4 and row["of them off by more than half"] == 2
    assert row[removed.CAUGHT] == 0.5 and row[removed.FLAGGED] == 0.5


def test_ranks_of_absolute_values():
    x = torch.tensor([0.1, -3.0, 2.0, 5.0])
    assert removed.spearman(x.tolist(), (-(x**3)).tolist()) == pytest.approx(1)
    assert removed.spearman(x.tolist(), (1 / x).tolist()) == pytest.approx(-1)


def test_what_a_hook_does_is_what_ours_does(model):
    row = effects.one_head(model, 23, 1, layers=(0, 1))
    assert row["off from the hook, of max(1, |logit|)"] <= 1e-5
    assert row["time / ablation by a hook"] > 0 and row["peak memory / ablation by a hook"] > 0


def test_all_links_are_compared_before_they_are_timed(model, monkeypatch):
    row = effects.all_links(model, (13, 17, 34), 1)
    assert row["pass over all links / forward + backward"] > 0
    assert 0 < row["peak memory, twice the tokens"] < 5
    monkeypatch.setattr(effects, "right", lambda seen: 1e-4)
    with pytest.raises(AssertionError, match=r"off by 1\.0e-04"):
        effects.all_links(model, (13, 17, 34), 1)
