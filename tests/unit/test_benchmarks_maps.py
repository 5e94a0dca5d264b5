"""What it costs to look: results are compared before they are timed, and peers may be absent."""

import builtins

import pytest
import torch

from benchmarks import contest, maps, peers
from wqkv import Causal

pytest.importorskip("transformers")


@pytest.fixture
def without(monkeypatch):
    """The peers' packages are not installed, whatever is."""
    real = builtins.__import__

    def gone(name, *args, **kwargs):
        package = name.partition(".")[0]
        if package in ("transformer_lens", "attnread"):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", gone)


def test_the_same_answers(without):
    ready, absent = peers.contestants(23)
    assert [one.name for one in ready] == ["ours", peers.EAGER]
    ours, eager = (one.step(None) for one in ready)
    assert ours.shape == (2, 2, 9, 23)  # layers, entropy and received, heads, words
    assert contest.difference([ours], [eager]) <= contest.TOLERANCE
    assert absent == {
        peers.LENS: "no module transformer_lens",
        peers.READ: "no module attnread: pip install nnsight==0.7.0; "
        "pip install --no-deps attnread==0.1.2",
    }


def test_a_row_of_peers(without, capsys):
    row = maps.against(23)
    assert set(row) == {"ms", "peak MiB", f"time / {peers.EAGER}", f"peak memory / {peers.EAGER}"}
    assert all(value > 0 for value in row.values())
    assert "absent: attnread, no module attnread" in capsys.readouterr().out


def test_a_wrong_peer_gets_no_time(without, monkeypatch):
    dense = peers._dense
    monkeypatch.setattr(peers, "_dense", lambda layers: dense(layers) * 1.001)
    with pytest.raises(AssertionError, match=r"eager output_attentions is off by 1\.0e-03"):
        maps.against(23)


def test_statistics_are_compared_first(monkeypatch):
    row = maps.statistics(512, Causal())
    assert set(row) - set(maps.TARGETS) == {"matrix product, + mask, exp2 / matrix product"}
    monkeypatch.setattr(maps.AttentionMap, "received", lambda m: torch.ones(m.lse.shape))
    with pytest.raises(AssertionError, match="not close"):
        maps.statistics(512, Causal())
