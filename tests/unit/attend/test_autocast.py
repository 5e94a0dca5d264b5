"""Scores, softmax and lse are float32 inside autocast too, on every engine, compiled or not."""

import copy

import pytest
import torch
from torch import nn

from wqkv import (
    Causal,
    DifferentialAttention,
    LatentAttention,
    MultiheadAttention,
    RoPE,
    attention,
    convert,
)
from wqkv.errors import KindError

RULES = {
    "plain": {},
    "softcap": {"softcap": 20.0},
    "bias": {"bias": torch.randn(1, 2, 64, 64)},
}


def cast():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("engine", ["auto", "tiled", "reference"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_the_same_bits_as_half_inputs_without_autocast(rules, engine):
    q, k, v = (torch.randn(1, 2, 64, 32) * 3 for _ in range(3))
    halves = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    right = attention(*halves, mask=Causal(), engine=engine, return_lse=True, **rules)
    g = torch.randn_like(right.out)
    grads = torch.autograd.grad(right.out, halves, g)
    given = [x.clone().requires_grad_() for x in (q, k, v)]
    with cast():
        ours = attention(*given, mask=Causal(), engine=engine, return_lse=True, **rules)
        if engine != "reference":  # plain autograd, whose products autocast may round
            for a, b in zip(torch.autograd.grad(ours.out, given, g), grads, strict=True):
                assert torch.equal(a, b.float())
    assert torch.equal(ours.out, right.out) and torch.equal(ours.lse, right.lse)
    assert ours.lse.dtype == torch.float32


@pytest.mark.compile
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_compiled(engine):
    q, k, v = (torch.randn(1, 2, 33, 32) * 3 for _ in range(3))

    def call(q, k, v):
        return attention(q, k, v, mask=Causal(), softcap=20.0, engine=engine, return_lse=True)

    with cast():
        ours = torch.compile(call, fullgraph=True, backend="aot_eager")(q, k, v)
        right = call(q, k, v)
    torch.testing.assert_close(ours.lse, right.lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.out, right.out, rtol=0, atol=2**-7)


@pytest.mark.parametrize(
    "layer",
    [
        MultiheadAttention(64, 4, mask=Causal(), softcap=20.0, position=RoPE()),
        LatentAttention(64, 4, rank=32, d_rope=4, mask=Causal()),
        DifferentialAttention(64, 4, start=0.5, mask=Causal()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_trace_and_a_map(layer):
    x = torch.randn(2, 40, 64) * 4
    with cast():
        seen, m = layer.trace(x), layer.map(x)
    assert seen.scores.dtype == seen.weights.dtype == m.lse.dtype == torch.float32
    torch.testing.assert_close(seen.weights.sum(-1), torch.ones(seen.weights.shape[:3]))
    torch.testing.assert_close(m[:], seen.weights, rtol=1e-5, atol=1e-6)


def test_dtypes_are_compared_as_they_are_cast():
    q, k, v = (torch.randn(1, 2, 5, 8) for _ in range(3))
    with pytest.raises(KindError, match=r"different dtypes.*\n.*f32.*\n.*f32.*\n.*bf16"):
        attention(q, k, v.bfloat16())
    with cast():
        assert torch.equal(attention(q, k, v.bfloat16()), attention(q, k, v))
        with pytest.raises(KindError, match=r"different dtypes.*\n.*f64.*\n.*f32"):
            attention(q.double(), k, v)
        layer = MultiheadAttention(8, 2)
        x = torch.randn(1, 4, 8)
        torch.testing.assert_close(layer(x, x.bfloat16()), layer(x), rtol=0, atol=0)
        with pytest.raises(KindError, match=r"Q, K and V have different dtypes"):
            layer(torch.randn(1, 3, 8), torch.randn(1, 4, 8).double())


def test_a_converted_decoder_takes_what_torch_takes():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(64, 64)
            layer = nn.TransformerDecoderLayer(64, 4, 128, batch_first=True)
            self.decode = nn.TransformerDecoder(layer, 1)

        def forward(self, a, b):
            return self.decode(a, self.encode(b))

    theirs = Model().eval()
    ours, x, memory = convert(copy.deepcopy(theirs)), torch.randn(2, 9, 64), torch.randn(2, 7, 64)
    with cast():
        torch.testing.assert_close(ours(x, memory), theirs(x, memory), rtol=0, atol=0.03)
