"""What a program of somebody else writes, for the type checkers: see test_downstream.py.

A line that is wrong ends in `type: ignore`: a checker that does not find the fault complains of it.
"""

from typing import assert_type

import torch
from torch import Tensor, nn

import wqkv
from wqkv import Causal, Dynamic, LatentAttention, MultiheadAttention, RoPE, Window, YaRN


def layers(x: Tensor) -> None:
    position = RoPE(scaling=YaRN(4.0, trained_length=4096))
    layer = MultiheadAttention(512, 8, mask=Causal() & Window(511, 0), position=position)
    assert_type(layer.WQ.weight, Tensor)
    assert_type(layer(x), Tensor)
    assert_type(layer(x, cache=Dynamic()), Tensor)
    assert_type(layer.trace(x).weights, Tensor)
    assert_type(layer.map(x), wqkv.AttentionMap)
    assert_type(layer.map(x)[0, 1], Tensor)
    assert_type(LatentAttention(512, 8, rank=64, d_rope=16)(x), Tensor)

    layer("a text")  # type: ignore[arg-type]
    layer(x, mask=3)  # type: ignore[arg-type]
    MultiheadAttention(512, 8, n_kv_heads=2)  # type: ignore[call-arg]
    LatentAttention(512, 8, rank=64, d_rope=16, d_rank=3)  # type: ignore[call-arg]
    wqkv.DifferentialAttention(512, 4, start=0.8, softcaps=50.0)  # type: ignore[call-arg]
    Window(1, 0, 2)  # type: ignore[call-arg]
    _ = Causal() & 3  # type: ignore[operator]


def formula(q: Tensor) -> None:
    assert_type(wqkv.attention(q, q, q), Tensor)
    part = wqkv.attention(q, q, q, mask=wqkv.Lengths([3, 5]), return_lse=True)
    assert_type(part, wqkv.Partial)
    assert_type(wqkv.merge(part, part).out, Tensor)
    assert_type(Causal().dense(2, 3), Tensor)
    assert_type(str(wqkv.explain(q, q, q, bias=wqkv.ALiBi(8))), str)

    wqkv.attention(q, q, q, attn_mask=None)  # type: ignore[call-overload]
    wqkv.explain(q, q, q, windows=3)  # type: ignore[call-arg]


def models(model: nn.Module, ids: Tensor) -> None:
    with wqkv.watch(model) as seen:
        model(ids)
    assert_type(seen, wqkv.Seen[wqkv.AttentionMap])
    assert_type(seen[0].entropy(), Tensor)
    assert_type(seen[0].thumbnail(64), Tensor)
    assert_type(seen[0].effective(), Tensor)
    assert_type(seen[0].coverage(0.9).most, Tensor)
    assert_type(seen[0].kl(seen[1]), Tensor)
    assert_type(seen[0].frequencies(RoPE()), Tensor)
    found = wqkv.heads(seen, ["a", "word"])
    assert_type(found[0][1].label, str)
    assert_type(wqkv.use(model), nn.Module)
    with wqkv.watch(model, keep="statistics") as short:
        model(ids)
    assert_type(short[0].received(), Tensor)

    with wqkv.watch(model, gradients=True) as learned:
        model(ids).sum().backward()
    assert_type(learned, wqkv.Seen[wqkv.AttentionMap])
    assert_type(learned.effects()[0], wqkv.EffectMap)
    assert_type(learned.effects("zero").top(20)[0].effect, float)
    assert_type(learned.writes(0, answer=3).heads[0].share, float)

    wqkv.watch(model, keep="some")  # type: ignore[call-overload]
    wqkv.watch(model, keep="statistics", gradients=True)  # type: ignore[call-overload]
    learned.effects("soft")  # type: ignore[arg-type]


def links(m: wqkv.AttentionMap, v: Tensor, out: Tensor, grad: Tensor) -> None:
    WO = torch.randn(8, 64, 512)
    assert_type(m.contributions(v, WO), wqkv.LinkMap)
    assert_type(m.split(v, WO, WO[0, 0]).total(), Tensor)
    assert_type(m.gradients(v, out, grad)[0, 1], Tensor)
    effects = m.effects(v, out, grad, how="zero")
    assert_type(effects, wqkv.EffectMap)
    assert_type(effects.top(20).keys, Tensor)
    assert_type(effects.group([0, 1]), Tensor)

    m.effects(v, out, grad, how="drop")  # type: ignore[arg-type]
    m.gradients(v, out)  # type: ignore[call-arg]


def study() -> None:
    try:
        model = wqkv.open_model()
        view = wqkv.View(model, model.read("The keeper lit the lamp."))
    except wqkv.MissingExtraError as error:
        raise SystemExit(str(error)) from error
    except wqkv.WqkvError:
        return
    assert_type(view.row(0, 1, 2).weights, Tensor)
    assert_type(view.proof(0).holds, bool)
    assert_type(wqkv.what_if(view, off=[(0, 1)]).change, float)
    matrix = wqkv.experiments.same_matrix(view, 0, 1, 2)
    assert_type(matrix, wqkv.experiments.Experiment)
    assert_type(wqkv.what_if(view, contexts=matrix.contexts()).change, float)
    assert_type(wqkv.generate(view, 3, seed=0).view, wqkv.View)
    found = wqkv.why(model, "The keeper lit the lamp.", "The lamp burned.", by=["token"])
    assert_type(found, wqkv.Why)
    assert_type(found.links[0].true, float | None)
    assert_type(wqkv.patch(model, "a lamp", "a boat", what="layer").recovered, Tensor)
    assert_type(wqkv.survey(None, ["texts.jsonl"], "out").heads, wqkv.Heads)

    wqkv.patch(model, "a lamp", "a boat", what="word")  # type: ignore[arg-type]
    view.row(0, 1)  # type: ignore[call-arg]
    wqkv.generate(view, count="three")  # type: ignore[arg-type]


def main() -> None:
    layers(torch.randn(2, 17, 512))
