"""Predictions of all links, against autograd through the N x N weights, in float64."""

import pytest
import torch

from tests.removal import taken_out
from tests.tiny import text
from tests.unit.effects.conftest import opened
from tests.unit.effects.test_rerun import asked_of
from wqkv.effects import candidates as module
from wqkv.effects import rerun as rerun_module
from wqkv.effects.asked import ask
from wqkv.effects.candidates import Candidates
from wqkv.effects.rerun import Rerun

FAMILIES = ["llama", "gpt2", "gemma2", "gpt_oss", "mistral", "bert", "albert", "t5", "bart"]


def dense(model, asked, how):
    """Return the first-order effects and the weights of all links, per attention."""
    whole, kept = model.speaker or model.model, []
    with torch.enable_grad(), taken_out(whole, kept=kept):
        asked.terms(asked.run()).sum().backward()
    whole.zero_grad()
    found = []
    for whole, v, out in kept:
        P, carried = whole[..., :-1], out.grad @ v.mT
        if how == "zero":
            found.append(-P * carried)
            continue
        # The row without each key, summed anew: 1 - P would lose the digits of heavy links.
        others = 1 - torch.eye(P.shape[3], dtype=P.dtype)
        rest = P @ others + whole[..., -1:]
        effect = (P * carried) @ others / rest - (out.grad * out).sum(dim=-1, keepdim=True)
        found.append(effect.masked_fill(P == 0, 0))
    return [x[0].detach() for x in found], [whole[0, ..., :-1].detach() for whole, _, _ in kept]


@pytest.mark.parametrize("how", ["renormalize", "zero"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_all_links_are_predicted(name, how, checkpointed, monkeypatch):
    model, asked = asked_of(name)
    monkeypatch.setattr(module, "KEPT", 10_000)
    if checkpointed:
        monkeypatch.setattr(rerun_module, "CHECKPOINT_TOKENS", 3)
    came = []
    found = Candidates(how, lambda *done: came.append(done))
    rerun = Rerun(model, asked, found)
    assert came == [(n, len(rerun.sites)) for n in range(1, len(rerun.sites) + 1)]
    effects, weights = dense(model, asked, how)
    size = max(float(x.nan_to_num().abs().max()) for x in effects)
    for one in (*found.others, *found.resting):
        at = one.link.head, one.link.query, one.link.key
        number = rerun.sites.index(one.link.site)
        assert one.effect == pytest.approx(float(effects[number][at]), abs=1e-9 * size)
        assert one.weight == pytest.approx(float(weights[number][at]), abs=1e-9)
    real = sum(int((x.nan_to_num().abs() > 1e-9 * size).sum()) for x in effects)
    assert sum(abs(one.effect) > 1e-9 * size for one in (*found.others, *found.resting)) == real
    assert found.total == pytest.approx(sum(float(x.abs().nansum()) for x in effects))
    can = sum(int(((P > 0) & ~x.isnan()).sum()) for x, P in zip(effects, weights, strict=True))
    assert found.count_links(rerun.plain) == can


def test_links_to_the_first_token_stand_apart_in_a_causal_model():
    model, asked = asked_of("llama")
    found = Candidates("renormalize")
    Rerun(model, asked, found)
    assert {one.link.key for one in found.resting} == {0}
    assert 0 not in {one.link.key for one in found.others}
    model, asked = asked_of("bert")
    found = Candidates("renormalize")
    Rerun(model, asked, found)
    assert not found.resting and 0 in {one.link.key for one in found.others}


def test_the_strongest_are_kept(monkeypatch):
    model = opened("llama")
    asked = ask(model, text(29), "lamp", "sea")
    everything = Candidates("renormalize")
    monkeypatch.setattr(module, "KEPT", 10_000)
    rerun = Rerun(model, asked, everything)
    monkeypatch.setattr(module, "KEPT", 7)
    few = Candidates("renormalize")
    Rerun(model, asked, few)
    for site in rerun.sites:
        best = sorted(
            (abs(one.effect) for one in everything.others if one.link.site == site), reverse=True
        )
        kept = [abs(one.effect) for one in few.others if one.link.site == site]
        assert kept == pytest.approx(best[:7])


def test_the_parameters_want_gradients_as_before():
    model, asked = asked_of("llama")
    wanted = [p.requires_grad for p in model.speaker.parameters()]
    assert all(wanted)
    Rerun(model, asked, Candidates("renormalize"))
    assert [p.requires_grad for p in model.speaker.parameters()] == wanted
    assert all(p.grad is None for p in model.speaker.parameters())


def test_the_heaviest_links_are_those_of_the_largest_weights():
    model, asked = asked_of("llama")
    found = Candidates("renormalize")
    rerun = Rerun(model, asked, found)
    _, weights = dense(model, asked, "renormalize")
    removable = [P.clone() for P in weights]
    for P in removable:
        P[:, 0] = 0  # the first row sees itself alone
    every = torch.cat([P.flatten() for P in removable])
    best = every.topk(module.HEAVIEST).values.tolist()
    assert [one.weight for one in found.heaviest] == pytest.approx(best, abs=1e-9)
    for one in found.heaviest:
        P = removable[rerun.sites.index(one.link.site)]
        at = one.link.head, one.link.query, one.link.key
        assert one.weight == pytest.approx(float(P[at]), abs=1e-9)
    assert found.heavy == int((every > module.HEAVY).sum())
