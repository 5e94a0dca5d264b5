"""Removals against the model itself, really run with the same thing taken out, in float64."""

from dataclasses import replace

import pytest
import torch

from tests.removal import taken_out
from tests.tiny import READ, TARGET, text, tiny, tiny_llama
from tests.unit.effects.conftest import BOTH_WAYS, CAUSAL, opened
from wqkv.attend.rules import Rules
from wqkv.effects.asked import ask, cut
from wqkv.effects.blocks import BlockCall
from wqkv.effects.candidates import Candidates
from wqkv.effects.passes import HiddenSpan, ModelChange, PlainPass, SiteLink
from wqkv.effects.rerun import ROUNDING, Rerun
from wqkv.errors import ArgumentError
from wqkv.sentences import translated
from wqkv.study.model import OpenModel
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


# Which spans nobody sees


def test_spans_that_nobody_sees():
    model, asked = asked_of("llama")
    rerun = Rerun(model, asked)
    assert rerun.seen_by_nobody({"text": HiddenSpan(N - 2, N)})
    assert not rerun.seen_by_nobody({"text": HiddenSpan(0, N - 1)})
    model, asked = asked_of("bert")
    assert not Rerun(model, asked).seen_by_nobody({"text": HiddenSpan(0, N)})
    model, asked = asked_of("t5")
    rerun, read, written = Rerun(model, asked), len(asked.source.ids), len(asked.target.ids)
    assert read != written
    assert rerun.seen_by_nobody({"decoder": HiddenSpan(3, written - 1)})
    assert not rerun.seen_by_nobody({"decoder": HiddenSpan(3, written - 2)})
    last = {"encoder": HiddenSpan(3, read - 1), "cross": HiddenSpan(3, read - 1, own=False)}
    assert not rerun.seen_by_nobody(last)
    # The encoder's only token is seen by no other of its own text, and by the decoder.
    rerun = Rerun(model, replace(asked, source=cut(asked.source, 1)))
    only = {"encoder": HiddenSpan(0, 0), "cross": HiddenSpan(0, 0, own=False)}
    assert not rerun.seen_by_nobody(only)


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_links_that_are_all_of_a_row_stay_together(name):
    """Row 2 of a causal model has three keys. A sink takes all of the mass, so that none stays."""
    model, asked = asked_of(name)
    rerun = Rerun(model, asked)
    site = rerun.sites[0]
    row = [SiteLink(site, 1, 2, key) for key in range(3)]
    other = SiteLink(site, 3, 4, 2)
    number, kept = rerun.together([*row, other], "renormalize")
    if name == "llama":
        assert kept == 3
        assert number == pytest.approx(truth(model, asked, links=[(0, 3, 4, 2)]), abs=1e-12)
    else:
        out = [(0, link.head, link.query, link.key) for link in (*row, other)]
        assert kept == 0
        assert number == pytest.approx(truth(model, asked, links=out), abs=1e-12)
    out = [(0, link.head, link.query, link.key) for link in (*row, other)]
    number, kept = rerun.together([*row, other], "zero")
    assert kept == 0 and number == pytest.approx(truth(model, asked, zeroed=out), abs=1e-12)


# Rounding


@pytest.mark.parametrize("dtype", ROUNDING)
def test_rounding_is_that_of_the_coarsest_part(dtype):
    plain = tiny_llama()
    speaker = plain.speaker.to(dtype)
    model = OpenModel(speaker.base_model, plain.tokenizer, plain.name, speaker)
    words, one = text(N), 0.3  # a number whose size is below 1
    for answer in ("lamp", lambda output: output.logits[:, -1, 3].double() * 0 + one):
        asked = ask(model, words, answer)
        rerun = Rerun(model, asked)
        size = max(1.0, float(asked.terms(asked.run()).detach().abs().max()))
        assert rerun.rounding == pytest.approx(max(ROUNDING[dtype] * size, rerun.off))


def test_nothing_is_said_below_what_our_attention_differs_by():
    """Gemma 2 computes its softmax in float32, also in float64."""
    model, asked = asked_of("gemma2")
    rerun = Rerun(model, asked)
    assert rerun.rounding == rerun.off > 1e-9


# What cannot be run again


def test_a_number_that_is_not_finite():
    model = tiny_llama(1)
    asked = ask(model, text(N), lambda output: output.logits[:, -1, 3].log() * torch.inf)
    with pytest.raises(ArgumentError, match=r"The number asked about \(<lambda>\) is (nan|-?inf)"):
        Rerun(model, asked)


def test_a_number_without_gradient():
    model = tiny_llama(1)
    asked = ask(model, text(N), lambda output: output.logits[:, -1, 3].detach())
    assert Rerun(model, asked).before  # removals alone need none
    with pytest.raises(ArgumentError, match=r"The number asked about \(<lambda>\) has no gradient"):
        Rerun(model, asked, Candidates("renormalize"))


def test_one_number_for_several_samples():
    model = tiny_llama(1)
    rerun = Rerun(model, ask(model, text(N), lambda output: output.logits[:1, -1, 3]))
    site = rerun.sites[0]
    with pytest.raises(ArgumentError, match="`answer` returned 1 numbers for 2 samples"):
        rerun.after([ModelChange(heads=((site, head),)) for head in range(2)])


def test_attention_that_is_not_asked_for():
    speaker = tiny("gptj", implementation="eager", rotary_dim=4)
    model = OpenModel(speaker.base_model, tiny_llama().tokenizer, "tiny-gptj", speaker)
    with pytest.raises(
        ArgumentError, match=r"^tiny-gptj has 2 attention layers in its part 'text', and 0 of"
    ) as told:
        Rerun(model, ask(model, text(N), "lamp", "sea"))
    assert "`wqkv.watch`" in translated(told.value.args[0], "zh")


def test_attention_that_is_asked_for_twice():
    plain = tiny_llama(2)
    model = OpenModel(plain.model, plain.tokenizer, plain.name)
    own = model.model.layers[1].self_attn
    forward = own.forward

    def twice(*args, **kwargs):
        forward(*args, **kwargs)
        return forward(*args, **kwargs)

    own.forward = twice
    with pytest.raises(
        ArgumentError, match="tiny-llama asks for its attention function more often"
    ):
        Rerun(model, ask(model, text(N), READ))


def test_blocks_that_take_other_states():
    """Gemma 3n's take four states of each token."""
    call = BlockCall(7, lambda hidden: hidden, (torch.zeros(4, 1, 11, 13),), {})
    with pytest.raises(ArgumentError, match=r"Block 7 of the model is given f32\[4, 1, 11, 13\]"):
        PlainPass(lambda site: Rules()).block(call)
