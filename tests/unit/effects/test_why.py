"""The whole answer on models of several families: every number of it against the oracle."""

import math
import threading
import time
from itertools import pairwise

import pytest
import torch
from transformers import AttentionInterface

from tests.tiny import READ, TARGET, text, tiny_llama
from tests.unit.effects.conftest import opened
from tests.unit.effects.test_candidates import dense
from tests.unit.effects.test_rerun import truth
from wqkv.effects import candidates, together
from wqkv.effects import why as module
from wqkv.effects.asked import ask
from wqkv.effects.rerun import Rerun
from wqkv.effects.why import why
from wqkv.errors import ArgumentError, KindError
from wqkv.record.watch import watch
from wqkv.study.pair import OpenPair

N = 11
FAMILIES = ["llama", "gpt_oss", "bert", "t5"]  # sinks and windows; both ways; two texts


def given_of(name: str):
    model = opened(name)
    if isinstance(model, OpenPair):
        return model, (READ, "lamp", "sea"), {"target": TARGET}
    return model, (text(N), *(("lamp", "sea") if model.speaker is not None else (READ,))), {}


class Told:
    """An answer, and the same question to the model really run with parts taken out."""

    def __init__(self, name, **rest):
        self.model, given, target = given_of(name)
        self.how = rest.get("how", "renormalize")
        self.asked = ask(self.model, *given, **target)
        self.sites = Rerun(self.model, self.asked).sites
        self.why = why(self.model, *given, **target, **rest)

    def call(self, one) -> int:
        return self.sites.index((one.part, one.layer))

    def without(self, links) -> float:
        out = [(self.call(one), one.head, one.query, one.key) for one in links]
        kind = "links" if self.how == "renormalize" else "zeroed"
        return truth(self.model, self.asked, **{kind: out})


@pytest.mark.parametrize("how", ["renormalize", "zero"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_number_of_an_answer(name, how, monkeypatch):
    draws = []
    made = together._draws
    monkeypatch.setattr(together, "_draws", lambda *given: draws.extend(made(*given)) or draws)
    told = Told(name, how=how, budget=41)
    found, before = told.why, truth(told.model, told.asked)
    assert found.how == how and found.question == told.asked.question
    assert found.model == told.model.name and found.groups is None
    assert found.before == pytest.approx(before, abs=1e-12)
    for part, (queries, keys) in told.asked.texts.items():
        assert (found.tokens[part], found.keys[part]) == (queries.tokens, keys.tokens)
    # What was removed
    some = [*found.links, *found.resting]
    assert len(some) == 41 == found.checked.removed
    for one in some:
        assert one.true == pytest.approx(told.without([one]) - before, abs=1e-11)
    for links in (found.links, found.resting):
        sizes = [abs(one.true) for one in links]
        assert sizes == sorted(sizes, reverse=True)
    causal = name in ("llama", "gpt_oss")
    for one in some:  # links to the first token stand apart where tokens look back alone
        first = one.key == 0 and (causal or one.part == "decoder")
        assert first == (one in found.resting)
    # What was predicted
    effects, weights = dense(told.model, told.asked, how)
    effects = [x.nan_to_num() for x in effects]
    for one in (*some, *found.predicted):
        at = one.head, one.query, one.key
        assert one.predicted == pytest.approx(float(effects[told.call(one)][at]), abs=1e-9)
        assert one.weight == pytest.approx(float(weights[told.call(one)][at]), abs=1e-9)
        assert one.block is not None and one.change >= 0
    gone = {(told.call(one), one.head, one.query, one.key) for one in some}
    left = {
        (site, *place): abs(float(x[tuple(place)]))
        for site, x in enumerate(effects)
        for place in x.nonzero().tolist()
        if (site, *place) not in gone
    }
    strongest = sorted(left.values(), reverse=True)[: module.LISTED]
    listed = [abs(one.predicted) for one in found.predicted]
    assert listed == pytest.approx(strongest, abs=1e-9)
    assert all(one.true is None for one in found.predicted)
    # The heaviest, to compare
    assert len(found.heaviest) == 6
    for one in found.heaviest:
        assert one.true == pytest.approx(told.without([one]) - before, abs=1e-11)
    # What was checked
    checked, clear = found.checked, [one for one in some if abs(one.true) > found.rounding]
    assert checked.judged == len(clear) > 30
    assert checked.sign == sum(one.predicted * one.true > 0 for one in clear)
    assert checked.close == sum(abs(one.predicted - one.true) <= abs(one.true) / 2 for one in clear)
    assert checked.left == found.count - 41
    assert checked.largest == pytest.approx(strongest[0], abs=1e-9)
    total = sum(float(x.abs().sum()) for x in effects)
    seen = sum(abs(one.predicted) for one in some)
    assert checked.share == pytest.approx(1 - seen / total, abs=1e-9)
    # All that are shown removed together, beside others like them
    shown, joint = found.links[: together.SHOWN], found.together
    assert joint.links == len(shown) and joint.kept == 0
    assert joint.after == pytest.approx(told.without(shown), abs=1e-11)
    assert len(joint.others) == len(draws) == together.DRAWS
    places = {together.site_link(one) for one in shown}
    for draw, number in zip(draws, joint.others, strict=True):
        assert len(set(draw)) == len(shown) and not places & set(draw)
        assert [(x.site.part, x.query) for x in draw] == [(x.part, x.query) for x in shown]
        out = [(told.sites.index(x.site), x.head, x.query, x.key) for x in draw]
        kind = "links" if how == "renormalize" else "zeroed"
        expected = truth(told.model, told.asked, **{kind: out})
        assert number == pytest.approx(expected, abs=1e-11)
        for one, link in zip(shown, draw, strict=True):  # among the nearest of its row
            of_row = torch.stack(
                [
                    weights[n][:, one.query, int(causal or one.part == "decoder") :].flatten()
                    for n, site in enumerate(told.sites)
                    if site.part == one.part
                ]
            )
            off = (of_row[of_row > 0] - one.weight).abs().sort().values
            own = weights[told.sites.index(link.site)][link.head, link.query, link.key]
            allowed = off[min(len(off) - 1, together.NEAREST + len(shown))]
            assert abs(float(own) - one.weight) <= allowed + 1e-12


@pytest.mark.parametrize("name", ["llama", "mistral", "bert", "t5"])
def test_groups(name):
    told = Told(name, by=["head", "token", "span", "head"], budget=3)
    groups, before = told.why.groups, told.why.before
    assert list(groups) == ["head", "token", "span"]
    sizes = {site: told.model.parts[site.part].sizes.n_head for site in told.sites}
    assert len(groups["head"]) == sum(sizes.values())
    for one in groups["head"]:
        out = [(told.call(one), one.head)]
        expected = truth(told.model, told.asked, heads=out) - before
        assert one.true == pytest.approx(expected, abs=1e-11)
        assert one.label == f"layer {one.layer}, head {one.head}" and one.first is None
    for one in (*groups["token"], *groups["span"]):
        out = [
            (n, one.first, one.last, site.part != "cross")
            for n, site in enumerate(told.sites)
            if site.part == one.part or (one.part, site.part) == ("encoder", "cross")
        ]
        expected = truth(told.model, told.asked, tokens=out) - before
        # Where a window holds nothing but the span, the oracle has no weights: NaN.
        assert math.isnan(expected) or one.true == pytest.approx(expected, abs=1e-11)
        assert one.layer is None and one.head is None
    for some in groups.values():
        assert [abs(one.true) for one in some] == sorted((abs(x.true) for x in some), reverse=True)
    names = {
        (part, n): keys.tokens[n]
        for part, (queries, keys) in told.asked.texts.items()
        if queries is keys
        for n in range(len(keys.ids) - (part == "decoder" or name in ("llama", "mistral")))
    }
    assert {(one.part, one.first): one.label for one in groups["token"]} == names
    # Each text is one sentence; a causal one ends with it, so that nobody sees it.
    expected = {"llama": [], "mistral": [], "bert": [text(N)], "t5": [READ]}[name]
    if name == "mistral":  # its text ends with </s>
        expected = [text(N)]
    assert [one.label for one in groups["span"]] == expected


def test_sentences():
    told = why(
        tiny_llama(1), "the lamp . it was 3.14 small! 灯很小。海很大。\nwho knew ? " + text(3),
        budget=1, by=["span"],
    )  # fmt: skip
    found = sorted(told.groups["span"], key=lambda one: one.first)
    labels = [one.label for one in found]
    assert labels == ["the lamp .", "it was 3.14 small!", "灯很小。", "海很大。", "who knew ?"]
    assert all(one.first <= one.last for one in found)
    assert all(a.last < b.first for a, b in pairwise(found))


def test_a_token_in_the_middle():
    told = why(tiny_llama(), text(N), "lamp", "sea", at=4, by=["token"])
    assert told.question.at == 4 and len(told.tokens["text"]) == 5
    assert all(one.query <= 4 for one in told.links)
    assert {one.first for one in told.groups["token"]} == {0, 1, 2, 3}


def test_texts_of_one_and_two_tokens():
    alone = why(tiny_llama(), text(1), "lamp", "sea", at=0, by=["head", "token", "span"])
    assert alone.count == 0 and not (alone.links or alone.resting or alone.predicted)
    assert alone.together is None and alone.checked.share == alone.checked.largest == 0
    assert len(alone.groups["head"]) == 18 and not alone.groups["token"]
    zeroed = why(tiny_llama(), text(1), "lamp", "sea", at=0, how="zero")
    assert zeroed.count == len(zeroed.resting) == 18
    two = why(tiny_llama(), text(1), "lamp", "sea")
    assert two.count == 36 == len(two.links) + len(two.resting)
    assert [one.first for one in why(tiny_llama(), text(1), by=["token"]).groups["token"]] == [0]


@pytest.mark.parametrize("budget", [1, 5, 2000])
def test_a_budget(budget, monkeypatch):
    monkeypatch.setattr(candidates, "KEPT", 2)
    monkeypatch.setattr(module, "PREDICTED_TWICE", 3)
    model, given, _ = given_of("llama")
    found = why(model, *given, budget=budget)
    effects = [x.nan_to_num().abs() for x in dense(model, ask(model, *given), "renormalize")[0]]
    real = sum(int((x > 0).sum()) for x in effects)
    some = [*found.links, *found.resting]
    assert len(some) == min(budget, real)
    for one in some:
        effects[one.layer][one.head, one.query, one.key] = 0
    largest = max(float(x.max()) for x in effects)
    assert found.checked.largest == pytest.approx(largest, abs=1e-12)
    assert (largest == 0) == (budget == 2000) and found.checked.share >= 0


def test_a_function_of_the_encoder_alone():
    model = opened("t5")
    found = why(
        model, READ, lambda output: output.encoder_last_hidden_state[:, 3, 5], target=TARGET
    )
    assert found.links and {one.part for one in found.links} == {"encoder"}
    whole = why(model, READ, "lamp", "sea", target=TARGET)
    assert found.count == whole.count  # all links are counted, also those without effect


# What cannot be


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        (
            {"how": "drop"},
            "`how` is 'drop', the way a link is removed.\nPass 'renormalize' or 'zero'.",
        ),
        ({"by": ["head", "word"]}, "`by` names 'word'.\nPass some of head, token, span."),
        ({"budget": 0}, "`budget` is 0, how many links to remove.\nPass 1 or more."),
        ({"answer": lambda output: output.logits[:, -1, 0].detach()}, "has no gradient"),
        ({"answer": lambda output: output.logits[:1, -1, 0]}, "returned 1 numbers for "),
    ],
)
def test_what_cannot_be(rest, says):
    with pytest.raises(ArgumentError) as error:
        why(tiny_llama(1), text(5), **rest)
    assert says in str(error.value)


def test_a_number_that_is_not_finite():
    model = tiny_llama(1)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[0, 0] = torch.nan
    with pytest.raises(ArgumentError, match=r"logit of 'lamp' less logit of 'sea'.* is nan"):
        why(model, text(5), "lamp", "sea")


def test_a_function_that_runs_the_model():
    model = tiny_llama(2)

    def like(output):
        other = model.speaker(torch.tensor([[3, 4, 5]])).logits[0, -1]
        return output.logits[:, -1] @ other

    with pytest.raises(ArgumentError, match="more often than it has layers in its part 'text'"):
        why(model, text(5), like)


def test_kinds():
    with pytest.raises(KindError, match="`by` is a list of strings"):
        why(tiny_llama(1), text(5), by="head")
    with pytest.raises(KindError, match="`model` is an OpenModel or an OpenPair"):
        why(tiny_llama(1).speaker, text(5))


# Progress, and the model afterwards


@pytest.mark.parametrize("rest", [{}, {"budget": 3000}, {"by": ["head", "token", "span"]}])
def test_progress_reaches_its_total(rest):
    told = []
    why(tiny_llama(), text(N), "lamp", "sea", **rest, progress=lambda *at: told.append(at))
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(done) and len(set(totals)) == 1
    assert done[0] == 1 and done[-1] == totals[0]
    assert done[2] == 3  # after every layer


def state(model):
    modules = list(model.speaker.modules())
    return (
        [module.__dict__.get("forward") for module in modules],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
        [parameter.requires_grad for parameter in model.speaker.parameters()],
        [parameter.grad for parameter in model.speaker.parameters()],
        AttentionInterface.__dict__["get_interface"],
    )


@pytest.mark.parametrize("stop", [1, 3, 4, 100, 210, 225, 240])
def test_a_cancel_leaves_the_model_as_it_was(stop):
    model = tiny_llama()
    model.model.layers[1].self_attn.k_proj.weight.requires_grad_(False)
    own = model.model.layers[2].forward = model.model.layers[2].forward  # as accelerate would
    before = state(model)
    assert before[0].count(own) == 1 and not all(before[2])

    class Stop(Exception):
        pass

    def progress(done, total):
        assert total > 240
        if done >= stop:
            raise Stop

    with pytest.raises(Stop):
        why(model, text(N), "lamp", "sea", by=["head", "token"], progress=progress)
    assert state(model) == before


def test_two_threads_that_ask_the_same_model():
    """The second one begins while the first one's backward pass is there."""
    model, found, threads = tiny_llama(), [], []
    before = state(model)

    def other():
        found.append(why(model, text(N), "lamp", "sea", budget=9))

    def progress(done, total):
        if not threads:
            threads.append(threading.Thread(target=other))
            threads[0].start()
            time.sleep(0.3)

    mine = why(model, text(N), "lamp", "sea", budget=9, progress=progress)
    threads[0].join()
    assert found == [mine] and state(model) == before


# What the caller is at


def numbers(found):
    return [one.true for one in (*found.links, *found.resting)]


@pytest.mark.parametrize(
    "context",
    [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)],
)
def test_what_the_caller_is_at_changes_nothing(context):
    model = tiny_llama()
    expected = numbers(why(model, text(N), "lamp", "sea"))
    with context():
        found = why(model, text(N), "lamp", "sea")
    assert numbers(found) == expected


def test_a_frozen_model_and_one_on_our_attention():
    model = tiny_llama()
    expected = numbers(why(model, text(N), "lamp", "sea"))
    model.speaker.requires_grad_(False)
    assert numbers(why(model, text(N), "lamp", "sea")) == pytest.approx(expected, abs=1e-5)
    from wqkv.public import use

    use(model.speaker)
    assert numbers(why(model, text(N), "lamp", "sea")) == pytest.approx(expected, abs=1e-5)


def test_a_watch_is_told_of_no_changed_run():
    model = tiny_llama()
    ids = torch.tensor([model.tokens(text(N)).ids])
    with watch(model.speaker) as seen:
        why(model, text(N), "lamp", "sea")
        with torch.no_grad():
            model.speaker(ids)
    assert "the last of 3 runs" in seen.report()  # two of them are the model as it is
    with torch.no_grad(), watch(model.speaker) as alone:
        model.speaker(ids)
    for layer in range(3):
        assert torch.equal(seen[layer][:], alone[layer][:])
