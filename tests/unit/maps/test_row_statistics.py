"""Statistics of rows against the matrix in float64."""

import pytest
import torch

from tests.unit.maps.map_cases import CASES, HK, B, D, H, K, Q, arguments, draw, heads, make
from wqkv import AttentionMap, Causal, RoPE
from wqkv.attend.call import request
from wqkv.attend.engines import reference
from wqkv.errors import ArgumentError
from wqkv.maps import weights
from wqkv.maps.weights import Weights


def divergence(P, other):
    return (P * (P.log() - other.log())).masked_fill(P == 0, 0).sum(-1)


def with_sink(made):
    """The weights, and what each row gives to its sink."""
    sinks = made.map._numbers.given.rules.sinks
    if sinks is None:
        return torch.nn.functional.pad(made.exact, (0, 1))
    return torch.cat((made.exact, 1 - made.exact.sum(-1, keepdim=True)), dim=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kl_as_from_the_matrix(case, dtype):
    ours = make(case, dtype)
    for other, n_kv_head in ((case, HK), (case, 2), ("full, int", HK), ("sinks, full, int", HK)):
        theirs = make(other, dtype, n_kv_head, seed=31)
        found = ours.map.kl(theirs.map)
        exact = divergence(with_sink(ours), with_sink(theirs))
        assert found.shape == (B, H, Q) and found.dtype == dtype
        assert (found.isinf() == exact.isinf()).all()
        finite = exact.isfinite()
        lse = ours.map.lse[ours.map.lse.isfinite()].abs()
        size = 1 + (float(lse.max()) if len(lse) else 0)
        off = (found - exact).masked_fill(~finite, 0).abs().max()
        assert off <= (1e-5 if dtype == torch.float32 else 1e-12) * size
        assert not finite.all() or (found >= 0).all()


def test_kl_of_equal_maps_is_below_rounding():
    for case in ("causal, per sample", "all, full, int"):
        m = make(case, torch.float32).map
        assert m.kl(m).max() <= 1e-5


def test_kl_counts_calls(monkeypatch):
    """`kl` makes three calls where the scores are linear in the keys, and reads tiles elsewhere."""
    asked = []
    attend, tile = Weights.attend, Weights.logs
    monkeypatch.setattr(Weights, "attend", lambda *a: (asked.append("call"), attend(*a))[1])
    monkeypatch.setattr(Weights, "logs", lambda *a: (asked.append("tile"), tile(*a))[1])
    for case, seen in (("causal, int", {"call"}), ("softcap, full, int", {"call", "tile"})):
        asked.clear()
        make(case).map.kl(make(case, seed=31).map)
        assert {*asked} == seen
        assert asked.count("call") == 2
    asked.clear()
    make("causal, int").map.kl(make("full, int", seed=31).map)
    assert "tile" in asked  # another mask
    asked.clear()
    make("lengths, int").map.kl(make("lengths, per sample", seed=31).map)
    assert "tile" in asked  # the queries stand elsewhere


def test_kl_of_another_shape():
    m = make("full, int").map
    q = draw(B, H, Q + 1, D)
    says = r"have shapes \[2, 6, 13, 17\] and \[2, 6, 14, 14\]\.\nPass a map of the same tokens"
    with pytest.raises(ArgumentError, match=says):
        m.kl(AttentionMap(q, q))


# How many keys count


def close(ours, theirs, size=None, of=1e-5):
    assert ours.shape == theirs.shape
    size = theirs.abs().max() if size is None else size
    assert (ours - theirs).abs().max() <= of * size


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_effective_keys(case, dtype):
    made = make(case, dtype)
    squares = made.exact.square().sum(-1)
    exact = (1 / squares).masked_fill(squares == 0, 0)
    found = made.map.effective()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(found, exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_coverage(case, dtype):
    made = make(case, dtype)
    falling = made.exact.sort(-1, descending=True).values.cumsum(-1)
    for share in (0.07, 0.5, 0.9, 0.95, 0.99):
        reached = falling >= share * falling[..., -1:] * (1 - 1e-12)
        exact = (K - reached.sum(-1) + 1) * (falling[..., -1] > 0)
        found = made.map.coverage(share)
        assert found.least.dtype == torch.long and found.most.shape == (B, H, Q)
        assert (found.least <= exact).all() and (exact <= found.most).all()
        equal = case.startswith("scale 0")  # rounding alone decides about a tie
        assert float((found.most - found.least).double().mean()) <= (1 if equal else 0.15)


def test_coverage_of_long_rows_is_tight(monkeypatch):
    """Bounds are within 5 % of each other, and half of that on the mean, in all shares."""
    monkeypatch.setattr(weights, "BLOCK", 60_000)
    monkeypatch.setattr(weights, "CACHED", 60_000)
    q, k = draw(1, 2, 211, 16).float(), draw(1, 1, 5003, 16, seed=1).float()
    m = AttentionMap(q, k, mask=Causal(), query_offset=4792)
    falling = m[:].double().sort(-1, descending=True).values.cumsum(-1)
    for share in (0.5, 0.9, 0.99):
        exact = (falling < share * falling[..., -1:]).sum(-1) + 1
        found = m.coverage(share)
        assert (found.least <= exact).all() and (exact <= found.most).all()
        width = (found.most - found.least) / exact
        assert float(width.max()) < 0.05 and float(width.mean()) < 0.025


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, float("nan")])
def test_a_share_that_cannot_be(share):
    with pytest.raises(ArgumentError, match=rf"`share` is {share}, how much of each row some"):
        make("full, int").map.coverage(share)


def test_weights_below_all_bins():
    """Keys of e^-40 of the row are not needed for any share, and are no reason for an error."""
    q, k = torch.ones(1, 1, 1, 1), torch.tensor([0.0, 0.0, -40, -90, -300]).view(1, 1, 5, 1)
    m = AttentionMap(q, k, scale=1.0)
    assert [m.coverage(share).most.item() for share in (0.4, 0.6, 0.999)] == [1, 2, 2]
    assert m.coverage(1 - 1e-9).most.item() >= 2
    assert float(m.effective()) == pytest.approx(2)


# Why: the channels of the scores


@pytest.mark.parametrize(
    "rope", [RoPE(), RoPE(interleaved=True), RoPE(d=4), RoPE(d=2, interleaved=True)]
)
@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.startswith(("softcap", "all"))]
)
def test_frequencies(case, rope):
    q, k = draw(B, H, Q, 6, seed=11), draw(B, HK, K, 6, seed=12)
    rules = arguments(case)
    m = AttentionMap(q, k, **rules)
    P, scale = m[:], m._numbers.given.scale
    found = m.frequencies(rope)
    d = rope.d or 6
    assert found.shape == (B, H, Q, d // 2 + (d < 6))
    k = heads(k)
    for f in range(d // 2):
        pair = [2 * f, 2 * f + 1] if rope.interleaved else [f, f + d // 2]
        exact = (P * (q[..., pair] @ k[..., pair].mT)).sum(-1) * scale
        close(found[..., f], exact, max(1, exact.abs().max()), 1e-12)
    mean = (P * (q @ k.mT)).sum(-1) * scale
    close(found.sum(-1), mean, max(1, mean.abs().max()), 1e-12)


def test_frequencies_turn_with_distance():
    """What is rotated by RoPE gives a pair's part that depends on its angle: q = k = 1."""
    rope, one = RoPE(theta=100.0), torch.ones(1, 1, 7, 4, dtype=torch.float64)
    turned = rope.rotate(one, torch.arange(7))
    m = AttentionMap(turned, turned, mask=Causal())
    angle = torch.arange(7)[:, None] - torch.arange(7)
    for f, frequency in enumerate((1.0, 0.1)):
        exact = (m[0, 0] * 2 * torch.cos(angle * frequency)).sum(-1) / 2
        torch.testing.assert_close(m.frequencies(rope)[0, 0, :, f], exact)


def test_frequencies_of_what_is_no_sum():
    with pytest.raises(
        ArgumentError, match=r"The scores are capped at 1\.3, and a capped score is"
    ):
        make("softcap, full, int").map.frequencies(RoPE())
    with pytest.raises(ArgumentError, match="RoPE turns 5 channels, which does not fit 5"):
        make("full, int").map.frequencies(RoPE())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_largest(case, dtype):
    m = make(case, dtype).map
    q, k = (x.double() for x in (m._numbers.given.query, m._numbers.given.key))
    products = q @ heads(k).mT * m._numbers.given.scale
    call = request(q, k, k, mask=m.mask, query_offset=m._numbers.given.query_offset)
    hidden = reference.steps(call, call.places()).scores == -torch.inf
    exact = products.masked_fill(hidden, -torch.inf).amax((2, 3))
    found = m.largest()
    assert found.shape == (B, H) and found.dtype == dtype
    seen = exact > -torch.inf
    assert ((found > -torch.inf) == seen).all()
    if seen.any():
        close(found[seen], exact[seen])


@pytest.mark.parametrize("sizes", [(0, Q, K, D), (B, 0, K, D), (B, Q, 0, D), (B, Q, K, 0)])
def test_nothing_to_look_at(sizes):
    b, q, k, d = sizes
    m = AttentionMap(draw(b, H, q, d), draw(b, HK, k, d), query_offset=0)
    assert m.effective().shape == m.coverage(0.5).least.shape == m.kl(m).shape == (b, H, q)
    assert m.largest().shape == (b, H)
    if d:
        assert m.frequencies(RoPE(d=2)).shape == (b, H, q, 2)


@pytest.mark.parametrize("n_kv_head", [1, 2, 6])
def test_grouped_heads(n_kv_head):
    made = make("sinks, causal, per sample", n_kv_head=n_kv_head)
    squares = made.exact.square().sum(-1)
    close(made.map.effective(), (1 / squares).masked_fill(squares == 0, 0), of=1e-12)


@pytest.mark.parametrize("case", ["causal, int", "sinks, full, int", "alibi, full, int"])
def test_a_given_lse_counts_more_keys(case):
    """A map of 12 of 17 keys that is given the lse of all keeps its keys' weights as they were."""
    made = make(case)
    given, rules = made.map._numbers.given, arguments(case)
    part = AttentionMap(given.query, given.key[:, :, :12], **rules, lse=made.map.lse)
    P = made.exact[..., :12]
    close(part.effective(), 1 / P.square().sum(-1), of=1e-12)
    falling = P.sort(-1, descending=True).values.cumsum(-1)
    exact = (falling < 0.9 * falling[..., -1:]).sum(-1) + 1
    found = part.coverage(0.9)
    assert (found.least <= exact).all() and (exact <= found.most).all()
    # The five others count as one key.
    other = make(case, seed=31)
    theirs = other.map._numbers.given
    there = AttentionMap(theirs.query, theirs.key[:, :, :12], **rules, lse=other.map.lse)
    P, Q_ = with_sink(made), with_sink(other)
    P, Q_ = (
        torch.cat((x[..., :12], x[..., 12:17].sum(-1, True), x[..., 17:]), -1) for x in (P, Q_)
    )
    close(part.kl(there), divergence(P, Q_), of=1e-11)
