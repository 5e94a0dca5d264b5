"""Numbers of links against the matrix: gradients against autograd, effects against removal."""

import pytest
import torch

from tests.unit.maps.map_cases import (
    CASES,
    DV,
    HK,
    B,
    D,
    H,
    K,
    Q,
    V,
    arguments,
    draw,
    heads,
    make,
)
from wqkv.attend.call import request
from wqkv.attend.engines import reference
from wqkv.errors import ArgumentError

OUT = 11
WO, U, G = draw(H, DV, OUT, seed=20), draw(OUT, seed=21), draw(B, H, Q, DV, seed=22)
PAIRS = torch.tensor([0, 3, 3, 12, 7]), torch.tensor([16, 0, 0, 12, 5])


def softmax(scores, sinks, more=None):
    """Weights of scores in float64, by hand: with a sink, and with keys beyond these (`more`)."""
    total = scores.exp().sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().view(1, -1, 1, 1).exp()
    if more is not None:
        total = total + more.exp().unsqueeze(-1)
    return scores.exp() / total.masked_fill(total == 0, 1)


def links_of(scores, sinks, v, g):
    """What each kind of number is, from the scores: by autograd, and by removing every link."""
    v, norms = heads(v), (heads(v) @ WO).norm(dim=-1).unsqueeze(2)
    scores = scores.clone().requires_grad_()
    P = softmax(scores, sinks)
    out = P @ v
    (grad,) = torch.autograd.grad((out * g).sum(), scores)
    P, out, scores = P.detach(), out.detach(), scores.detach()
    effects = torch.zeros_like(P)
    for j in range(P.shape[3]):
        without = scores.clone()
        without[..., j] = -torch.inf
        rest = softmax(without, sinks)
        alone = (rest.sum(-1) == 0) & (P[..., j] > 0)
        if sinks is not None:
            alone = alone & False
        effects[..., j] = ((rest @ v - out) * g).sum(-1).masked_fill(alone, torch.nan)
    return {
        "contributions": P * norms,
        "split": P * (v @ (WO @ U).unsqueeze(-1)).mT,
        "gradients": grad,
        "effects": effects,
        "zero": -P * (g @ v.mT),
    }, out


def maps_of(m, v, out, g):
    return {
        "contributions": m.contributions(v, WO),
        "split": m.split(v, WO, U),
        "gradients": m.gradients(v, out, g),
        "effects": m.effects(v, out, g),
        "zero": m.effects(v, out, g, how="zero"),
    }


def close(ours, theirs, name, size=None):
    """Within 1e-5 of the largest number, or of `size`: that of a sum's largest terms."""
    assert ours.shape == theirs.shape, name
    assert (ours.isnan() == theirs.isnan()).all(), name
    ours, theirs = ours.nan_to_num(), theirs.nan_to_num()
    size = theirs.abs().max() if size is None else size
    assert (ours - theirs).abs().max() <= 1e-5 * size, name


def scores_of(case, dtype):
    q, k = draw(B, H, Q, D, seed=11).to(dtype), draw(B, HK, K, D, seed=12).to(dtype)
    call = request(q.double(), k.double(), k.double(), **arguments(case))
    return reference.steps(call, call.places()).scores


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_as_from_the_matrix(case, dtype):
    m, v, g = make(case, dtype).map, V.to(dtype), G.to(dtype)
    sinks = m._numbers.given.rules.sinks
    exact, out = links_of(scores_of(case, dtype), sinks, v.double(), g.double())
    out = out.to(dtype if dtype != torch.bfloat16 else torch.float32)
    for name, found in maps_of(m, v, out, g).items():
        theirs = exact[name]
        assert found[:].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        close(found[:].double(), theirs, name)
        close(found[1, 2:5, [3, 1], 4:11].double(), theirs[1, 2:5, [3, 1], 4:11], name)
        close(found.rows([12, 0]).double(), theirs[:, :, [12, 0]], name)
        close(found.at(*PAIRS).double(), theirs[:, :, PAIRS[0], PAIRS[1]], name)
        size = theirs.nan_to_num().abs().max()
        close(found.received().double(), theirs.nansum(2), name, size)
        close(found.total().double(), theirs.nansum(3), name, size)
        top = found.top(7)
        b, h = torch.arange(B)[:, None, None], torch.arange(H)[:, None]
        close(top.weights.double(), theirs[b, h, top.queries, top.keys], name)
        best = theirs.flatten(2).abs().nan_to_num(-1).topk(7).values
        close(top.weights.double().abs().nan_to_num(-1), best, name)


@pytest.mark.parametrize("case", CASES)
def test_several_keys_of_a_row(case):
    m = make(case).map
    sinks, scores = m._numbers.given.rules.sinks, scores_of(case, torch.float64)
    _, out = links_of(scores, sinks, V, G)
    P = softmax(scores, sinks)
    for keys in ([3], [0, 4, 16], slice(2, 15), slice(None), []):
        without = scores.clone()
        without[..., keys] = -torch.inf
        rest = softmax(without, sinks)
        alone = (rest.sum(-1) == 0) & (P.sum(-1) > 0)
        alone = alone & (sinks is None)
        effect = ((rest @ heads(V) - out) * G).sum(-1).masked_fill(alone, torch.nan)
        close(m.effects(V, out, G).group(keys), effect, keys)
        zeroed = -(P[..., keys] @ heads(V)[:, :, keys] * G).sum(-1)
        close(m.effects(V, out, G, how="zero").group(keys), zeroed, keys)


@pytest.mark.parametrize("n", [1, 3, 64])
@pytest.mark.parametrize("case", CASES)
def test_a_thumbnail_has_the_mean_size_of_each_block(case, n):
    m, told = make(case).map, []
    sinks = m._numbers.given.rules.sinks
    exact, out = links_of(scores_of(case, torch.float64), sinks, V, G)
    rows, cols = min(n, Q), min(n, K)
    of_row, of_key = torch.arange(Q) * rows // Q, torch.arange(K) * cols // K
    for name, found in maps_of(m, V, out, G).items():
        ours = found.thumbnail(n, lambda done, total: told.append((done, total)))
        assert told[-1] == (Q, Q)
        sizes = exact[name].nan_to_num().abs()
        means = [
            [sizes[:, :, of_row == r][..., of_key == c].mean(dim=(2, 3)) for c in range(cols)]
            for r in range(rows)
        ]
        theirs = torch.stack([torch.stack(row, dim=-1) for row in means], dim=2)
        close(ours, theirs, name)
    with pytest.raises(ArgumentError, match="`n` is 0, the blocks of a side"):
        m.contributions(V, WO).thumbnail(0)
