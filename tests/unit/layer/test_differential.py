"""DifferentialAttention: by its formula, with groups, caches and gradients."""

import math

import pytest
import torch
from torch import Tensor

from wqkv import Causal, Dynamic
from wqkv.errors import ArgumentError, KindError
from wqkv.layer.differential import DifferentialAttention
from wqkv.layer.norms import Norm

B, N, D_MODEL, N_HEAD, N_KV, D_K, D_V = 2, 7, 26, 6, 3, 5, 11


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(**rest) -> DifferentialAttention:
    sizes = {"n_kv_head": N_KV, "d_k": D_K, "d_v": D_V, "mask": Causal(), "start": 0.7}
    layer = DifferentialAttention(D_MODEL, N_HEAD, **sizes | rest, dtype=torch.float64)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data += 0.2 * tokens(*parameter.shape, seed=i)
    return layer


def by_formula(layer: DifferentialAttention, x: Tensor) -> Tensor:
    q, k, v = (W(x) for W in (layer.WQ, layer.WK, layer.WV))
    pull = torch.dot(layer.lambda_q1, layer.lambda_k1).exp()
    push = torch.dot(layer.lambda_q2, layer.lambda_k2).exp()
    hidden, heads = torch.ones(N, N).triu(1).bool(), []
    for h in range(N_HEAD):
        g = h // (N_HEAD // N_KV)
        maps = []
        for i in range(2):
            a, b = (i * N_HEAD + h) * D_K, (i * N_KV + g) * D_K
            scores = q[..., a : a + D_K] @ k[..., b : b + D_K].transpose(1, 2) / math.sqrt(D_K)
            maps.append(torch.softmax(scores.masked_fill(hidden, -math.inf), -1))
        weights = maps[0] - (pull - push + 0.7) * maps[1]
        head = weights @ v[..., g * D_V : (g + 1) * D_V]
        head = head / (head.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        heads.append(head * layer.c_norm.weight * (1 - 0.7))
    return layer.WO(torch.cat(heads, -1))


def test_layer_follows_its_formula_and_every_parameter_learns():
    layer, x = made(), tokens(B, N, D_MODEL).requires_grad_()
    ours, theirs = layer(x), by_formula(layer, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(layer.trace(x).output, ours, rtol=1e-12, atol=1e-13)
    leaves, up = [x, *layer.parameters()], tokens(*ours.shape, seed=1)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, up), torch.autograd.grad(theirs, leaves, up), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert a.abs().max() > 0


def test_trace_shows_both_maps():
    trace = made().trace(tokens(B, N, D_MODEL))
    assert trace.weights.shape == (B, 2 * N_HEAD, N, N)
    torch.testing.assert_close(trace.weights.sum(-1), torch.ones(B, 2 * N_HEAD, N).double())


def test_cuts_give_the_result_of_one_pass():
    layer, x = made(), tokens(B, N, D_MODEL)
    with torch.no_grad():
        cache = Dynamic()
        steps = torch.cat([layer(part, cache=cache) for part in x.split([3, 1, 3], 1)], dim=1)
        torch.testing.assert_close(steps, layer(x), rtol=1e-12, atol=1e-13)
    (held,) = cache.held()
    assert held.k.shape == (B, 2 * N_KV, N, D_K) and held.v.shape == (B, N_KV, N, D_V)


def test_sizes_by_default_are_those_of_the_paper():
    layer = DifferentialAttention(24, 3, start=0.8, c_norm=Norm(weight=False))
    assert (layer.d_k, layer.d_v) == (4, 8)
    assert layer.WQ.weight.shape == (24, 24) and layer.WV.weight.shape == (24, 24)
    assert layer.c_norm.weight is None


@pytest.mark.parametrize(
    ("rest", "error", "says"),
    [
        ({"d_v": 0}, ArgumentError, "`d_v` is 0"),
        ({"start": math.nan}, ArgumentError, "`start` is nan"),
        ({"start": "0.8"}, KindError, "`start` is a number, not str '0.8'"),
        ({"c_norm": "rms"}, KindError, "`c_norm` is a Norm or None, not str 'rms'"),
    ],
)
def test_made_wrong(rest, error, says):
    with pytest.raises(error, match=says):
        DifferentialAttention(24, 3, **{"start": 0.8} | rest)


def test_error_where_heads_do_not_fit():
    with pytest.raises(ArgumentError, match="24 is not a multiple of `n_head` 7"):
        DifferentialAttention(24, 7, start=0.8)


@pytest.mark.parametrize("name", ["lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"])
def test_gradient_of_lambda_in_float64(name):
    layer, x = made(), tokens(B, N, D_MODEL)
    start = getattr(layer, name).detach().clone().requires_grad_()

    def run(value: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {name: value}, (x,))

    assert torch.autograd.gradcheck(run, (start,))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_lambda_is_float32_under_autocast(half):
    """lambda is 0.5011 and the first map half of the second: in half precision nothing is left."""
    layer = made(start=0.5, c_norm=Norm("l2", weight=False)).float()
    second = tokens(B, N_HEAD, N, D_V).to(half)
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        one = torch.tensor([1.0004 if name == "lambda_q1" else 1.0, 0, 0, 0, 0])
        getattr(layer, name).data.copy_(one)
    with torch.autocast("cpu", half):
        found = layer._difference(torch.cat((second / 2, second), dim=1))
    assert found.dtype == half
    exact = -torch.nn.functional.normalize(second.double(), dim=-1) / 2
    torch.testing.assert_close(found.double(), exact, rtol=2 * torch.finfo(half).eps, atol=1e-4)
