"""Numbers of links against the matrix: gradients against autograd, effects against removal."""

import copy
import pickle
import re

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
from wqkv import AttentionMap, Causal, EffectMap, Lengths, attention
from wqkv.attend.call import request
from wqkv.attend.engines import reference
from wqkv.errors import ArgumentError, KindError
from wqkv.maps import weights
from wqkv.maps.attention_map import map_of
from wqkv.maps.weights import Weights

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


# Links that are nearly all of their row


@pytest.mark.parametrize("sinks", [None, draw(H, seed=2) - 40])
@pytest.mark.parametrize("factor", [3, 8, 40])
def test_heavy_links_keep_their_digits(factor, sinks):
    """1 - P is down to 1e-40, which float32 cannot hold as a difference from 1."""
    q, k = (factor * draw(B, H, Q, D, seed=11)).float(), draw(B, HK, K, D, seed=12).float()
    rules = {"mask": Causal(), "query_offset": 4}
    m = AttentionMap(q, k, **rules, sinks=None if sinks is None else sinks.float())
    call = request(q.double(), k.double(), k.double(), **rules)
    sinks = None if sinks is None else sinks.float()
    scores = reference.steps(call, call.places()).scores
    scores = scores - scores.amax(-1, keepdim=True) if sinks is None else scores  # no overflow
    exact, out = links_of(scores, sinks, V.float().double(), G.float().double())
    found = m.effects(V.float(), out.float(), G.float())
    assert float(m[:].max()) > (0.999 if factor == 3 else 1 - 1e-7)
    # The scores themselves, of up to hundreds, are rounded in float32.
    size = max(1, float(scores.masked_fill(scores.isinf(), 0).abs().max()) / 10)
    theirs = exact["effects"]
    assert (found[:].isnan() == theirs.isnan()).all()
    largest = theirs.nan_to_num().abs().max()
    for ours, exactly in (
        (found[:], theirs),
        (found[:, :, :, 3:9], theirs[..., 3:9]),
        (found.at(*PAIRS), theirs[:, :, PAIRS[0], PAIRS[1]]),
    ):
        assert (ours - exactly).nan_to_num().abs().max() <= 1e-5 * size * largest
    together = found.group([0, 3, 5, 9])
    without = scores.clone()
    without[..., [0, 3, 5, 9]] = -torch.inf
    rest = softmax(without, sinks)
    effect = ((rest @ heads(V.float().double()) - out) * G.float().double()).sum(-1)
    off = (together - effect).nan_to_num().abs().max()
    assert off <= 1e-5 * size * effect.nan_to_num().abs().max()


@pytest.mark.parametrize("factor", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_given_lse_counts_more_keys(dtype, factor):
    """A map of the first 12 of 17 keys, whose lse counts all."""
    q, k = factor * draw(B, H, Q, D, seed=11).to(dtype), draw(B, HK, K, D, seed=12).to(dtype)
    v, g, sinks = V.to(dtype), G.to(dtype), draw(H, seed=2).to(dtype)
    whole = AttentionMap(q, k, sinks=sinks)
    out = attention(q, k, v, sinks=sinks)
    part = AttentionMap(q, k[:, :, :12], sinks=sinks, lse=whole.lse)
    rounding = {torch.float64: 1e-14, torch.float32: 1e-6}[dtype] * (1 + whole.lse.abs())
    here = maps_of(part, v[:, :, :12], out, g)
    for name, found in maps_of(whole, v, out, g).items():
        theirs, P = found[:, :, :, :12], whole[:, :, :, :12]
        allowed = rounding.unsqueeze(-1) * theirs.abs().max()
        allowed = allowed * (10 / (1 - P) if name == "effects" else 10 + 0 * P)
        assert ((here[name][:] - theirs).abs() <= allowed).all(), name
        off = (here[name].at([3, 11], [5, 0]) - found.at([3, 11], [5, 0])).abs()
        assert (off <= allowed[:, :, [3, 11], [5, 0]]).all(), name
    for keys in ([2], [0, 1, 2, 3, 5, 8], slice(12)):  # the last leave the other five alone
        theirs = whole.effects(v, out, g).group(keys)
        ours = part.effects(v[:, :, :12], out, g).group(keys)
        allowed = 10 * rounding / (1 - whole.mass(keys)) * theirs.abs().max()
        assert ((ours - theirs).abs() <= allowed).all()


def test_a_given_lse_that_counts_nothing_more():
    m = make("causal, int", torch.float32).map
    q, k = m._numbers.given.query, m._numbers.given.key
    given = AttentionMap(q, k, mask=Causal(), query_offset=4, lse=m.lse)
    out = m.times(V.float())
    first = given[:, :, 0, 0].fill_(0)  # row 0 stands at 4: every row sees 5 keys or more
    assert (given._numbers.log_beyond(torch.ones(B, H, Q)) == -torch.inf).all()
    alone = AttentionMap(q, k, mask=Causal(), query_offset=0, lse=None)
    again = AttentionMap(q, k, mask=Causal(), query_offset=0, lse=alone.lse)
    found = again.effects(V.float(), out, G.float())[:]
    assert found[:, :, 0, 0].isnan().all() and int(found.isnan().sum()) == first.numel()


def test_extreme_rows():
    """A padding row with a bias of -1e9 looks at all keys alike: lse cannot hold their number."""
    bias = torch.zeros(B, 1, Q, K)
    bias[0, :, 3] = -1e9
    q, k, v, g = draw(B, H, Q, D).float(), draw(B, HK, K, D).float(), V.float(), G.float()
    m = AttentionMap(q, k, bias=bias)
    out = m.times(v)
    found = m.effects(v, out, g)
    mean = heads(v)[0].mean(dim=1)
    exact = (mean * g[0, :, 3]).sum(-1, keepdim=True) - (heads(v)[0] * g[0, :, 3:4]).sum(-1)
    close(found[0, :, 3], exact / (K - 1), "whole rows")
    close(found[0, :, 3, 2:9], exact[:, 2:9] / (K - 1), "a part")
    close(found.at([3], [7])[0, :, 0], exact[:, 7] / (K - 1), "a pair")


# Where the numbers come from


@pytest.mark.parametrize("rules", [{}, {"softcap": 2.0}, {"sinks": torch.arange(6.0).double()}])
def test_longer_than_a_block(monkeypatch, rules):
    """Many parts of a few rows, of which each has its own keys in reach."""
    monkeypatch.setattr(weights, "BLOCK", 20_000)
    monkeypatch.setattr(weights, "CACHED", 20_000)
    q, k, v = 3 * draw(1, H, 307, D), draw(1, HK, 701, D, seed=1), draw(1, HK, 701, DV, seed=2)
    rules = {**rules, "mask": Causal() & ~Lengths([29]), "query_offset": 394}
    sizes, score = [], Weights._scores_less
    monkeypatch.setattr(Weights, "_scores_less", lambda *a: (sizes.append(x := score(*a)), x)[1])
    call = request(q, k, v, **rules)
    steps, g = reference.steps(call, call.places()), draw(1, H, 307, DV, seed=3)
    P, m = steps.weights, AttentionMap(q, k, **rules)
    dP = g @ heads(v).mT
    gradient = P * (dP - (g * steps.out).sum(-1, keepdim=True))
    effect = -gradient / (1 - P)
    for found, exact in (
        (m.gradients(v, steps.out, g), gradient),
        (m.effects(v, steps.out, g), effect),
        (m.contributions(v, WO), P * (heads(v) @ WO).norm(dim=-1).unsqueeze(2)),
    ):
        strongest = exact.flatten(2).abs().topk(9).values
        torch.testing.assert_close(found.top(9).weights.abs(), strongest)
        torch.testing.assert_close(found.received(), exact.sum(2))
        torch.testing.assert_close(found.total(), exact.sum(3))
        torch.testing.assert_close(found[0, :, [5, 300], 400:600], exact[0, :, [5, 300], 400:600])
        rows = [306, 3, 150]
        strongest = exact[:, :, rows].flatten(2).abs().topk(4).values
        torch.testing.assert_close(found.top(4, rows).weights.abs(), strongest)
    assert max(x.numel() for x in sizes) <= H * 128 * 128  # of 6 x 307 x 701


def test_top_ranks_what_cannot_be_removed_last():
    m = make("causal, int").map
    square = AttentionMap(draw(1, 2, 5, 3), draw(1, 2, 5, 3, seed=1), mask=Causal())
    v = draw(1, 2, 5, 7, seed=2)
    effects = square.effects(v, square.times(v), draw(1, 2, 5, 7, seed=3))
    assert effects[:, :, 0, 0].isnan().all() and int(effects[:].isnan().sum()) == 2
    top = effects.top(25)
    assert top.weights[..., :-1].isfinite().all() and top.weights[..., -1].isnan().all()
    assert (top.queries[..., -1] == 0).all() and (top.keys[..., -1] == 0).all()
    assert (top.weights[..., :-1].abs().diff(dim=2) <= 0).all()
    assert effects.received().isfinite().all() and effects.total().isfinite().all()
    assert effects.group([0])[:, :, 0].isnan().all()
    assert not m.effects(V, draw(B, H, Q, DV), G, how="zero")[:].isnan().any()


def test_a_sink_takes_the_place_of_a_lonely_key():
    """A row of one key and a sink becomes 0 without the key."""
    q, v = draw(1, 2, 5, 3), draw(1, 2, 5, 7, seed=2)
    m = AttentionMap(q, q, mask=Causal(), sinks=torch.tensor([0.5, -60.0]))
    out, g = m.times(v), draw(1, 2, 5, 7, seed=3)
    found = m.effects(v, out, g)[:, :, 0, 0]
    torch.testing.assert_close(found, -(g * out).sum(-1)[:, :, 0])


@pytest.mark.parametrize("n_kv_head", [1, 2, 6])
def test_grouped_heads(n_kv_head):
    made = make("sinks, causal, per sample", n_kv_head=n_kv_head)
    v = draw(B, n_kv_head, K, DV, seed=8)
    repeated = v.repeat_interleave(H // n_kv_head, dim=1)
    P, out = made.exact, made.exact @ repeated
    expected = P * (G @ repeated.mT - (G * out).sum(-1, keepdim=True))
    torch.testing.assert_close(made.map.gradients(v, out, G)[:], expected)
    norms = (repeated @ WO).norm(dim=-1).unsqueeze(2)
    contributions = made.map.contributions(v, WO)
    torch.testing.assert_close(contributions[0, [5, 2], 3:9], (P * norms)[0, [5, 2], 3:9])
    torch.testing.assert_close(contributions.total(), (P * norms).sum(-1))
    split = made.map.split(v, WO, U)
    torch.testing.assert_close(split.total(), (out * (WO @ U).unsqueeze(1)).sum(-1))


def test_what_is_hidden_may_be_nan():
    """Padding holds whatever was there: 0 times NaN is not 0."""
    m = make("lengths, int").map  # sample 1 sees five keys
    v = V.clone()
    v[1, :, 5:] = torch.nan
    out = make("lengths, int").exact @ heads(v.nan_to_num())
    clean = maps_of(m, v.nan_to_num(), out, G)
    for name, found in maps_of(m, v, out, G).items():
        exact = clean[name]
        for ask in (
            lambda x: x[:], lambda x: x.at(*PAIRS), lambda x: x.received(), lambda x: x.total(),
            lambda x: x[1, :, 3, 2:9], lambda x: x.top(3).weights,
        ):  # fmt: skip
            torch.testing.assert_close(ask(found), ask(exact), msg=name)
    torch.testing.assert_close(
        m.effects(v, out, G).group([0, 1, 9]), m.effects(v.nan_to_num(), out, G).group([0, 1, 9])
    )


def test_the_split_is_proved_to_the_whole():
    m = make("all, causal, per sample", torch.float32).map
    v, W, u = V.float(), WO.float(), U.float()
    output = m.times(v)
    whole = torch.einsum("bhid,hde,e->bhi", output, W, u)
    total = m.split(v, W, u).total()
    assert (total - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_the_norms_need_no_room_for_the_output():
    """A WO wider than d_v, narrower, and of rank 1, all against v WO written out."""
    m = make("full, int").map
    for W in (draw(H, DV, 101), draw(H, DV, 3), draw(H, DV, 1) @ draw(H, 1, 29, seed=1)):
        exact = m[:] * (heads(V) @ W).norm(dim=-1).unsqueeze(2)
        torch.testing.assert_close(m.contributions(V, W)[:], exact)


def test_autocast_and_gradients_change_nothing():
    m = make("causal, int", torch.float32).map
    v, g, W, u = V.float(), G.float(), WO.float(), U.float()
    out = m.times(v)
    found = [x[:] for x in (m.contributions(v, W), m.split(v, W, u), m.effects(v, out, g))]
    v, g, out = (x.clone().requires_grad_() for x in (v, g, out))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = [x[:] for x in (m.contributions(v, W), m.split(v, W, u), m.effects(v, out, g))]
    assert all(map(torch.equal, found, again))
    assert not any(x.requires_grad for x in again)


def test_copies_and_changes_in_place():
    m = make("causal, int").map
    v, out, g = V.clone(), m.times(V), G.clone()
    effects = m.effects(v, out, g)
    for other in (copy.deepcopy(effects), pickle.loads(pickle.dumps(effects))):
        assert torch.equal(other[:].nan_to_num(), effects[:].nan_to_num())
    assert repr(effects) == "EffectMap[2, 6, 13, 17]: effects of removal, renormalize"
    g.add_(1)
    with pytest.raises(ArgumentError, match=r"changed in place since then.*\n  tensor: f64\[2, 6,"):
        effects.group([1])


def test_a_map_of_dropout_is_refused():
    q = draw(1, 2, 5, 3)
    m = map_of(request(q, q, q, dropout_p=0.3))
    says = r"The call has dropout 0\.3, and this map does not know which weights were dropped"
    for how in ("renormalize", "zero"):
        with pytest.raises(ArgumentError, match=says):
            m.effects(q, q, q, how=how)
    with pytest.raises(ArgumentError, match=says):
        m.gradients(q, q, q)


OUTPUT = draw(B, H, Q, DV)
WRONG = [
    (lambda m: m.contributions(V[:, :, 1:], WO), ArgumentError, "Pass a value (2, 3, 17, d_v) and"),
    (lambda m: m.contributions(V, WO[1:]), ArgumentError, "WO:    f64[5, 7, 11] on cpu"),
    (lambda m: m.contributions(V, WO[0]), ArgumentError, "and WO (6, d_v, d_out)."),
    (lambda m: m.contributions(V, WO[:, 1:]), ArgumentError, "The value and WO do not fit the map"),
    (lambda m: m.contributions(V[0], WO), ArgumentError, "value: f64[3, 17, 7] on cpu"),
    (lambda m: m.contributions(V.long(), WO), KindError, "multiplied with floats.\n  value: i64[2"),
    (lambda m: m.split(V, WO.long(), U), KindError, "multiplied with floats.\n  WO: i64[6, 7, 11]"),
    (lambda m: m.split(V, WO, U.long()), KindError, "with floats.\n  direction: i64[11]"),
    (lambda m: m.split(V, WO, U[1:]), ArgumentError, "direction of the output, which has 11 chan"),
    (lambda m: m.split(V, WO, U[None]), ArgumentError, "direction: f64[1, 11] on cpu"),
    (lambda m: m.gradients(V, OUTPUT, V), ArgumentError, "V cannot be the grad_output: the sizes"),
    (lambda m: m.gradients(V, V, OUTPUT), ArgumentError, "P V cannot be the output: the sizes"),
    (lambda m: m.effects(V, OUTPUT, G.long()), KindError, "floats.\n  grad_output: i64[2, 6, 13"),
    (lambda m: m.effects(V, OUTPUT.to("meta"), G), ArgumentError, "`output` is on meta"),
    (lambda m: m.effects(V, OUTPUT, G, how="drop"), ArgumentError, "`how` is 'drop', the way a"),
    (lambda m: m.effects(V, OUTPUT, G, how="x"), ArgumentError, "Pass 'renormalize' or 'zero'."),
    (lambda m: m.effects(V, OUTPUT, G).group(17), ArgumentError, "There is no key 17: the map"),
    (lambda m: m.effects(V, OUTPUT, G).top(0), ArgumentError, "`k` is 0, how many links to find."),
    (lambda m: m.effects(V, OUTPUT, G)[0, 9], ArgumentError, "no head 9: the map has 6, 0 to 5."),
]  # fmt: skip


@pytest.mark.parametrize(("what", "kind", "says"), WRONG, ids=range(len(WRONG)))
def test_mistakes(what, kind, says):
    with pytest.raises(kind, match=re.escape(says)):
        what(make("full, int").map)


def test_the_limit_of_the_map_is_that_of_its_links():
    m = AttentionMap(draw(1, 2, 5, 3), draw(1, 2, 5, 3), limit=20)
    found = m.contributions(draw(1, 2, 5, 7), draw(2, 7, 3))
    with pytest.raises(ArgumentError, match=r"A tile of 1 x 2 x 5 x 5 weights takes 0\.00 GiB"):
        found[:]
    assert found.top(2).keys.shape == (1, 2, 2)


@pytest.mark.parametrize("sizes", [(0, Q, K, DV), (B, 0, K, DV), (B, Q, 0, DV), (B, Q, K, 0)])
def test_nothing_to_look_at(sizes):
    b, q, k, d = sizes
    m = AttentionMap(draw(b, H, q, D), draw(b, HK, k, D), query_offset=0)
    v, out = draw(b, HK, k, d), draw(b, H, q, d)
    for found in (*maps_of_any_width(m, v, out), m.gradients(v, out, out)):
        assert found[:].shape == m.shape
        assert found.total().shape == (b, H, q)
        assert found.received().shape == (b, H, k)
        if isinstance(found, EffectMap):
            assert found.group(slice(None)).shape == (b, H, q)


def maps_of_any_width(m, v, out):
    W = draw(H, v.shape[3], OUT)
    yield from (m.contributions(v, W), m.split(v, W, U))
    yield from (m.effects(v, out, out), m.effects(v, out, out, how="zero"))


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
