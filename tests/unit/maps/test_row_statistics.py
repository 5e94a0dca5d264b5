"""Statistics of rows against the matrix in float64."""

import pytest
import torch

from tests.unit.maps.map_cases import CASES, HK, B, D, H, Q, draw, make
from wqkv import AttentionMap
from wqkv.errors import ArgumentError
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
    """Three calls where the scores are linear in the keys, tiles where they are not."""
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
