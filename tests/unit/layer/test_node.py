"""torch.fx records each layer of a model as one node, and the result stays the same."""

import pickle

import pytest
import torch
from torch import Tensor, fx, nn

from wqkv import Causal, LatentAttention, MultiheadAttention, RoPE, Window, convert
from wqkv.errors import ArgumentError


class Model(nn.Module):
    """Called as torch's: the result is taken apart, and padding may be given."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)
        self.last = nn.Linear(16, 16)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, weights = self.attn(x, x, x, key_padding_mask=hidden)
        return self.last(x + y), weights


class Ours(nn.Module):
    """Called as ours: with a mask that is the same in every call, and without."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        y = self.attn(x, mask=Window(2, 0) & Causal())
        return self.attn(x, mask=Causal(), query_offset=offset) + self.attn(y)


def calls(traced: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]


def test_a_converted_model():
    model, x = convert(Model()), torch.randn(2, 5, 16)
    traced = fx.symbolic_trace(model)
    assert calls(traced) == ["attn", "last"]
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[1, 3:] = True
    for again in (traced, fx.symbolic_trace(traced), pickle.loads(pickle.dumps(traced))):
        for given in ((x,), (x, hidden), (x[:, :3],)):
            for found, expected in zip(again(*given), model(*given), strict=True):
                assert torch.equal(found, expected)
    traced(x)[0].sum().backward()
    assert model.attn.WQ.weight.grad is not None  # the graph holds the same module


@pytest.mark.parametrize(
    "attn",
    [
        MultiheadAttention(16, 4, position=RoPE()),
        LatentAttention(16, 2, rank=4, d_rope=2),
    ],
    ids=lambda attn: type(attn).__name__,
)
def test_a_layer_of_ours(attn: nn.Module):
    model, x = Ours(attn), torch.randn(2, 5, 16)
    traced = fx.symbolic_trace(model)
    assert calls(traced) == ["attn"] * 3
    assert torch.equal(traced(x), model(x))
    assert torch.equal(traced(x, 3), model(x, 3))


def test_inside_an_encoder_of_torch():
    layer = convert(nn.TransformerEncoderLayer(16, 4, 7, 0.0, batch_first=True))
    model, x = nn.Sequential(layer, nn.Linear(16, 3)), torch.randn(2, 5, 16)
    traced = fx.symbolic_trace(model)
    assert calls(traced) == ["0", "1"] and torch.equal(traced(x), model(x))


def test_a_layer_that_is_the_whole_model():
    with pytest.raises(ArgumentError, match=r"(?s)fx records MultiheadAttention as one.*nn\.Sequ"):
        fx.symbolic_trace(MultiheadAttention(16, 4))


def test_hooks_would_run_twice():
    model, seen = convert(Model()), []
    model.attn.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(ArgumentError, match=r"(?s)`attn` has _forward_hooks, which.*is_leaf_mod"):
        fx.symbolic_trace(model)

    class Leaves(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, path: str) -> bool:
            return module is model.attn or super().is_leaf_module(module, path)

    traced, x = fx.GraphModule(model, Leaves().trace(model)), torch.randn(2, 5, 16)
    seen.clear()
    assert torch.equal(traced(x)[0], model(x)[0]) and len(seen) == 2
