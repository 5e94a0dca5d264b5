"""The kernels' wrappers. The CUDA kernel itself is replaced: what stands around it runs here."""

from types import SimpleNamespace

import pytest
import torch

from wqkv.attend.engines import kernels


class Efficient:
    """The CUDA operators' contract in plain torch: equal head counts, rows of lse padded to 32."""

    def __init__(self):
        self.masks = []

    def _weights(self, q, k, bias, causal, scale):
        assert q.shape[1] == k.shape[1]
        scores = q @ k.mT * scale
        if bias is not None:
            assert bias.shape == scores.shape
            assert bias.stride(-2) % 16 == 0 or bias.stride(-2) == 0
            assert bias.dtype == q.dtype
            self.masks.append(bias)
            scores = scores + bias
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        return scores

    def forward(self, q, k, v, bias, compute_lse, dropout, causal, *, scale):
        assert compute_lse and dropout == 0.0
        scores = self._weights(q, k, bias, causal, scale)
        lse = scores.logsumexp(-1)
        lse = torch.nn.functional.pad(lse, (0, -lse.shape[2] % 32), value=torch.nan)
        return scores.softmax(-1) @ v, lse, None, None

    def backward(self, grad, q, k, v, bias, out, lse, seed, start, p, wanted, causal, *, scale):
        assert lse.shape[2] % 32 == 0 and wanted == [True, True, True, False] and p == 0.0
        scores = self._weights(q, k, bias, causal, scale)
        weights = (scores - lse[:, :, : q.shape[2], None]).exp()
        inner = weights * (grad @ v.mT - (grad * out).sum(-1, keepdim=True)) * scale
        return inner @ k, inner.mT @ q, weights.mT @ grad, None


@pytest.fixture
def efficient(monkeypatch):
    fake = Efficient()
    names = SimpleNamespace(
        _scaled_dot_product_efficient_attention=fake.forward,
        _scaled_dot_product_efficient_attention_backward=fake.backward,
    )
    monkeypatch.setattr(kernels, "_aten", names)
    return fake


@pytest.mark.parametrize("kv_heads", [1, 3, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_cuda_wrappers_agree_with_the_cpu_kernel(efficient, monkeypatch, kv_heads, masked):
    q, grad = torch.randn(2, 2, 6, 37, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, kv_heads, 41, 8, dtype=torch.float64)
    tile = torch.randn(1, 1, 37, 41, dtype=torch.float64) if masked else None
    out, lse = kernels.efficient_forward(q, k, v, tile, False, 0.3)
    grads = kernels.efficient_backward(grad, q, k, v, out, lse, tile, False, 0.3)
    assert len(efficient.masks) == 2 * masked
    monkeypatch.undo()
    cpu_out, cpu_lse = kernels.forward(q, k, v, tile, False, 0.3)
    cpu_grads = kernels.backward(grad, q, k, v, cpu_out, cpu_lse, tile, False, 0.3)
    for a, b in zip((out, lse, *grads), (cpu_out, cpu_lse, *cpu_grads), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_reasons_name_device_and_dtype():
    assert kernels.reasons_against(torch.device("cpu"), torch.float64) == []
    assert kernels.reasons_against(torch.device("mps"), torch.float32) == [
        "no kernel on mps returns lse"
    ]
    assert kernels.reasons_against(torch.device("cuda"), torch.float64) == [
        "no kernel on cuda takes float64"
    ]
