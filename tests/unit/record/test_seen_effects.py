"""The effects of links on a user's own loss, beside autograd and a model that ran without them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSeq2SeqLM

from tests.tiny import CHECKPOINTS, SEQ2SEQ, checkpointed, loss, padded, shake, tiny, tokens
from wqkv.errors import ArgumentError, KindError, MissedError
from wqkv.record.watch import watch

HOWS = ["renormalize", "zero"]
OTHERS = {"num_key_value_heads": 3, "head_dim": 8, "sliding_window": 4}
#: Grouped heads; softcap and windows; sinks; an encoder; biases of positions between two texts.
FAMILIES = {
    "llama": {},
    "gemma2": {**OTHERS, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gpt_oss": {**OTHERS, "num_local_experts": 3, "num_experts_per_tok": 2},
    "bert": {},
    "t5": {**SEQ2SEQ, "dropout_rate": 0.0},
}


class Dense:
    """An attention function, dense, in which links are removed by the share that `removed` says.

    `removed[layer]` (batch, n_head, query_len, key_len) is 0 for whole links, and has a gradient.
    """

    def __init__(self, how: str) -> None:
        self.how, self.removed = how, list[Tensor]()
        self.layer = 0

    def __call__(self, module, query, key, value, mask, scaling=1.0, **given):
        k, v = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        score = query @ k.mT * scaling
        if given.get("softcap"):
            score = given["softcap"] * (score / given["softcap"]).tanh()
        if given.get("position_bias") is not None:
            score = score + given["position_bias"]
        if mask is not None:
            score = score.masked_fill(~mask, -1e300) if mask.dtype == torch.bool else score + mask
        if (sinks := given.get("s_aux")) is not None:
            sinks = sinks.view(1, -1, 1, 1).expand(*score.shape[:3], 1)
            score = torch.cat((score, sinks), dim=3)
        P = score.softmax(dim=-1)[..., : key.shape[2]]
        out = P @ v
        if len(self.removed) == self.layer:
            self.removed.append(torch.zeros_like(P, requires_grad=True))
        share = self.removed[self.layer]
        change = out.unsqueeze(3) - v.unsqueeze(2)  # what removing a link adds, by P / (1 - P)
        rest = (1 - P).masked_fill(P == 1, 1)  # a link that is all of its row cannot be removed
        change = change / rest.unsqueeze(-1) if self.how == "renormalize" else -v.unsqueeze(2)
        out = out + torch.einsum("bhij,bhijd->bhid", share * P, change)
        self.layer += 1
        return out.transpose(1, 2), None


def in_float64(model: nn.Module) -> None:
    """Let norms compute in float64 too, which those of Llama do not."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            norm = nn.RMSNorm(len(module.weight), module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm)


def learner(name: str, implementation: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model of FAMILIES in float64, and what it reads."""
    kind = {"bert": AutoModel, "t5": AutoModelForSeq2SeqLM}.get(name)
    model = tiny(name, implementation, **({"kind": kind} if kind else {}), **FAMILIES[name])
    given = {"input_ids": tokens(), "attention_mask": padded(7, right=2)}
    if name == "t5":
        given["decoder_input_ids"] = tokens(5)
    if name == "llama":
        given["attention_mask"] = padded(7, left=2)
    if name == "gpt_oss":
        model.set_experts_implementation("eager")  # the others take no float64
    if name == "t5":  # without a scale: far from weights that are 1 but for rounding
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 0.2
    return shake(model).double(), given


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_against_autograd(registered, name, how):
    from transformers.masking_utils import eager_mask

    dense = Dense(how)
    model, given = learner(name, registered("dense", dense, eager_mask))
    with watch(model, gradients=True) as seen:
        loss(model(**given)[0]).backward()
    effects = seen.effects(how)
    assert len(effects) == len(dense.removed) == (6 if name == "t5" else 2)
    for found, removed, m in zip(effects, dense.removed, seen, strict=True):
        theirs = removed.grad
        alone = m[:] > 1 - 1e-9  # such a link is all of its row
        alone &= how == "renormalize"
        assert bool(found[:][alone].isnan().all())
        ours, theirs = (x.masked_fill(alone, 0) for x in (found[:], theirs))
        empty = ~(m[:].sum(dim=3, keepdim=True) > 0)  # a model may average where nothing is seen
        torch.testing.assert_close(ours, theirs.masked_fill(empty, 0), rtol=1e-9, atol=1e-11)
    if name == "llama":
        assert bool(alone.any()) == (how == "renormalize")


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
@pytest.mark.parametrize("how", HOWS)
def test_against_a_model_without_the_link(registered, how, reentrant):
    """The link is removed for real in one head; of the change of its output a little is added."""
    target = dict.fromkeys(("layer", "sample", "head", "query", "key", "share"), 0)

    def attend(module, query, key, value, mask, scaling=1.0, **given):
        k, v = (x.repeat_interleave(2, dim=1) for x in (key, value))
        hidden = torch.ones(7, 7).triu(1).bool()
        score = (query @ k.mT * scaling).masked_fill(hidden, -torch.inf)
        P = score.softmax(dim=-1)
        out = P @ v
        if module.layer_idx == target["layer"] and target["share"]:
            row = (target["sample"], target["head"], target["query"])
            if how == "zero":
                v = v.clone()
                v[target["sample"], target["head"], target["key"]] = 0
                without = P[row] @ v[row[:2]]
            else:
                score = score.clone()
                score[(*row, target["key"])] = -torch.inf
                without = score.softmax(dim=-1)[row] @ v[row[:2]]
            change = torch.zeros_like(out)
            change[row] = without - out[row]
            out = out + target["share"] * change
        return out.transpose(1, 2), None

    model = shake(tiny("llama", registered("sdpa_link", attend))).double()
    in_float64(model)
    with watch(checkpointed(model, reentrant), gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    model.eval()
    links = seen.effects(how).top(500)
    assert len(links) > 400
    share = 1e-5
    for link in links[::23]:
        target |= {name: getattr(link, name) for name in target if name != "share"}
        with torch.no_grad():
            ends = []
            for target["share"] in (share, -share):
                ends.append(float(loss(model(tokens()).logits)))
        assert link.effect == pytest.approx((ends[0] - ends[1]) / (2 * share), rel=1e-5, abs=1e-7)
    layers = {link.layer for link in links[::23]}
    assert layers == {0, 1}


@pytest.mark.parametrize("how", HOWS)
def test_the_strongest_links(how):
    model, given = learner("llama", "sdpa")
    with watch(model, gradients=True) as seen:
        loss(model(**given)[0]).backward()
    effects, told = seen.effects(how), list[tuple[int, int]]()
    found = effects.top(31, lambda done, total: told.append((done, total)))
    every = torch.stack([one[:] for one in effects]).nan_to_num(nan=0)
    strongest = every.abs().flatten().sort(descending=True).values[:31]
    assert len(found) == 31
    torch.testing.assert_close(torch.tensor([abs(x.effect) for x in found]).double(), strongest)
    for x in found:
        place = x.sample, x.head, x.query, x.key
        assert x.effect == pytest.approx(float(every[(x.layer, *place)]), rel=1e-12)
        assert x.weight == pytest.approx(float(seen[x.layer][place]), rel=1e-12)
    assert told == [(7, 14), (14, 14)]
    assert repr(effects) == f"SeenEffects of 2 of 2 layers, {how}"


def test_hidden_links_and_lonely_ones_are_none():
    model, given = learner("llama", "sdpa")
    with watch(model, gradients=True) as seen:
        loss(model(**given)[0]).backward()
    found = seen.effects().top(10**6)
    rows = [sum(range(2, 8)), sum(range(2, 6))]  # two tokens of the second text are padding
    assert len(found) == 2 * 6 * sum(rows)
    assert all(x.query != 0 and x.key <= x.query for x in found)


def test_effects_stay_those_of_the_runs_that_were_asked_for():
    model = tiny("llama")
    with watch(model, gradients=True) as seen:
        loss(model(tokens(5)).logits).backward()
        effects = seen.effects()
        model(tokens(7))
    assert effects[0].shape == (2, 6, 5, 5)
    assert len(effects.top(7)) == 7


def test_progress_cancels():
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    model, given = learner("llama", "sdpa")
    with watch(model, gradients=True) as seen:
        loss(model(**given)[0]).backward()
    with pytest.raises(Stopped):
        seen.effects().top(3, stop)


def test_layers_without_effects():
    model, ids = tiny("llama"), tokens()
    with watch(model, [1], gradients=True) as seen:
        loss(model(ids).logits).backward()
    effects = seen.effects()
    assert repr(effects) == "SeenEffects of 1 of 2 layers, renormalize"
    assert {link.layer for link in effects.top(99)} == {1}
    assert effects[-1].shape == (2, 6, 7, 7)
    assert [one.shape for one in effects[1:]] == [(2, 6, 7, 7)]
    why = r"There are no effects of model.layers.0.self_attn: it was not asked for: see `layers`"
    with pytest.raises(MissedError, match=why):
        effects[0]
    with pytest.raises(IndexError, match="There is no layer 2: 2 ran"):
        effects[2]
    with watch(model, gradients=True) as seen:
        model(ids)
    why = "2 layers has effects; of model.layers.0.self_attn: no backward pass has reached it"
    with pytest.raises(MissedError, match=why):
        seen.effects().top(3)
    with watch(model, gradients=True) as seen:
        pass
    with pytest.raises(MissedError, match="None of the 0 layers has effects"):
        seen.effects().top(3)


def test_what_effects_refuse():
    model = tiny("llama")
    with watch(model) as seen:
        loss(model(tokens()).logits).backward()
    with pytest.raises(MissedError, match="The gradients of LlamaForCausalLM were not kept"):
        seen.effects()
    with watch(model, gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    with pytest.raises(KindError, match="`k`"):
        seen.effects().top("3")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="`k` is 0"):
        seen.effects().top(0)
    with pytest.raises(ArgumentError, match="`how` is 'softly'"):
        seen.effects("softly")  # type: ignore[arg-type]
