"""A fault of ours while a model runs: the model goes on, and the report says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wqkv.record import faults
from wqkv.record.operators.door import READING_FAILED
from wqkv.record.watch import watch


class Block(nn.Module):
    """Attention as one writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(14, 42)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return (q @ k.mT / 14**0.5).softmax(dim=-1) @ v


def fails(*args: object, **kwargs: object) -> None:
    raise RuntimeError("planted\nin two lines")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("wqkv.record.operators.trails.Trails.put", None),
        ("wqkv.record.operators.listening.Listening._attention", None),
        ("wqkv.record.listen.Listener.enter", None),
        ("wqkv.record.listen.Listener.leave", None),
        ("wqkv.record.operators.door.call_of", READING_FAILED),
    ],
)
def test_the_model_goes_on(place, reason, monkeypatch):
    monkeypatch.setattr(faults, "RAISED", False)
    model, x = nn.Sequential(Block(), Block()).eval(), torch.randn(2, 11, 14)
    with torch.no_grad():
        plain = model(x)
        with monkeypatch.context() as patch:
            patch.setattr(place, fails)
            with watch(model) as seen:
                assert torch.equal(model(x), plain)
            report = seen.report()
    assert "and the model went on: RuntimeError: planted" in report
    assert "in two lines" not in report
    if reason is not None:
        assert [layer.reason for layer in seen.layers] == [reason] * 2
    with torch.no_grad(), watch(model) as again:
        model(x)
    assert [layer.state for layer in again.layers] == ["proved"] * 2


def test_a_fault_is_raised_in_our_own_tests(monkeypatch):
    assert faults.RAISED
    monkeypatch.setattr("wqkv.record.operators.trails.Trails.put", fails)
    with pytest.raises(RuntimeError, match="planted"), watch(model := Block()):
        model(torch.randn(2, 11, 14))


def test_what_the_model_itself_raises_is_no_fault(monkeypatch):
    monkeypatch.setattr(faults, "RAISED", False)
    with watch(model := Block()) as seen, pytest.raises(RuntimeError, match="shape"):
        model(torch.randn(2, 11, 13))
    assert "wqkv failed" not in seen.report()
