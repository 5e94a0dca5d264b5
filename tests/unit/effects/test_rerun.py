"""Removals against the model itself, really run with the same thing taken out, in float64."""

import pytest
import torch

from tests.removal import taken_out
from tests.tiny import READ, TARGET, text
from tests.unit.effects.conftest import BOTH_WAYS, CAUSAL, opened
from wqkv.effects.asked import ask
from wqkv.effects.passes import HiddenSpan, ModelChange, SiteLink
from wqkv.effects.rerun import Rerun
from wqkv.study.pair import OpenPair

FAMILIES = ["llama", *CAUSAL, *BOTH_WAYS, "t5", "bart"]
N = 13


def asked_of(name: str):
    model = opened(name)
    if isinstance(model, OpenPair):
        return model, ask(model, READ, "lamp", "sea", target=TARGET)
    if model.speaker is not None:
        return model, ask(model, text(N), "lamp", "sea")
    return model, ask(model, text(N), READ)


def truth(model, asked, **what) -> float:
    whole = model.speaker or model.model
    with torch.no_grad(), taken_out(whole, **what):
        return float(asked.terms(asked.run()).sum())


def call_of(rerun: Rerun, site) -> int:
    """The number of an attention among all calls of the model."""
    return rerun.sites.index(site)


def links_of(rerun: Rerun, count: int = 12) -> list[SiteLink]:
    """Some links that can be removed, of all layers and rows."""
    chance = torch.Generator().manual_seed(3)
    found = []
    while len(found) < count:
        site = rerun.sites[int(torch.randint(len(rerun.sites), (), generator=chance))]
        given, rules = rerun.plain.given[site], rerun.plain.rules[site]
        _, n_head, n, m = *given.query.shape[:3], given.key.shape[2]
        head, i, j = (int(torch.randint(k, (), generator=chance)) for k in (n_head, n, m))
        seen = rules.mask.dense(n, m)[0, 0]
        if seen[i, j] and seen[i].sum() > 1:
            found.append(SiteLink(site, head, i, j))
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plain_run_gives_the_models_own_number(name):
    model, asked = asked_of(name)
    rerun = Rerun(model, asked)
    assert rerun.off < 2e-6  # some models keep the softmax in float32, also in float64
    assert rerun.before == pytest.approx(truth(model, asked), abs=1e-12)


@pytest.mark.parametrize("how", ["renormalize", "zero"])
@pytest.mark.parametrize("name", FAMILIES)
def test_links_are_removed_as_in_the_whole_model(name, how):
    model, asked = asked_of(name)
    rerun = Rerun(model, asked)
    links = links_of(rerun)
    found = rerun.after([ModelChange(links=(link,)) for link in links], how)
    kind = "links" if how == "renormalize" else "zeroed"
    for link, number in zip(links, found, strict=True):
        out = [(call_of(rerun, link.site), link.head, link.query, link.key)]
        assert number == pytest.approx(truth(model, asked, **{kind: out}), abs=1e-12)
    assert max(abs(number - rerun.before) for number in found) > 1e-4
    out = [(call_of(rerun, x.site), x.head, x.query, x.key) for x in links]
    number, kept = rerun.together(links, how)
    assert number == pytest.approx(truth(model, asked, **{kind: out}), abs=1e-12) and kept == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_are_removed_as_in_the_whole_model(name):
    model, asked = asked_of(name)
    rerun = Rerun(model, asked)
    heads = [(site, rerun.plain.given[site].query.shape[1] - 1) for site in rerun.sites]
    found = rerun.after([ModelChange(heads=(one,)) for one in heads])
    for (site, head), number in zip(heads, found, strict=True):
        out = [(call_of(rerun, site), head)]
        assert number == pytest.approx(truth(model, asked, heads=out), abs=1e-12)


@pytest.mark.parametrize("span", [(0, 0), (3, 3), (2, 6)])
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_hidden_from_all_others(name, span):
    model, asked = asked_of(name)
    rerun = Rerun(model, asked)
    first, last = span
    part = next(iter(asked.texts))
    spans = {part: HiddenSpan(first, last)}
    if part == "encoder":
        spans["cross"] = HiddenSpan(first, last, own=False)
    out = [
        (call_of(rerun, site), first, last, spans[site.part].own)
        for site in rerun.sites
        if site.part in spans
    ]
    # A row of a window that sees nothing but the span would be NaN in the model.
    window = [rerun.plain.rules[site].mask.dense(N, N)[0, 0] for site in rerun.sites]
    if part == "text" and any(
        not (seen[row].any() and seen[row, [k for k in range(N) if not first <= k <= last]].any())
        for seen in window
        for row in [*range(first), *range(last + 1, N)]
    ):
        pytest.skip(f"{name}: a row of its window would lose every key with {span}")
    expected = truth(model, asked, tokens=out)
    assert rerun.without_tokens(spans) == pytest.approx(expected, abs=1e-12)
    # The first token is out of sight of the last where three windows of 5 do not reach it.
    assert span == (0, 0) or abs(expected - rerun.before) > 1e-6
