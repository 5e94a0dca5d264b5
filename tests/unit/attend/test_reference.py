"""The specification against torch's own attention in float64, and by hand what torch lacks."""

import math

import pytest
import torch
from torch.nn import functional as F

from wqkv.attend.bias import ALiBi
from wqkv.attend.functional import attention
from wqkv.attend.masks import Causal, Lengths, Window
from wqkv.errors import EngineError

B, H, HK, Q, K, D, DV = 2, 6, 3, 5, 7, 11, 13


def inputs(query=(B, H, Q, D), key=(B, H, K, D), value=(B, H, K, D)):
    torch.manual_seed(0)
    sizes = (query, key, value)
    return tuple(torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes)


def both(ours, theirs, tensors):
    """The same outputs, and the same gradients of a random sum of them."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, tensors, grad, retain_graph=True),
        torch.autograd.grad(theirs, tensors, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def reference(*tensors, **rules):
    return attention(*tensors, **rules, engine="reference")


SEEN = torch.rand(B, 1, Q, K, generator=torch.Generator().manual_seed(3)) < 0.7
SEEN[:, :, :, 0] = True
ADDED = torch.randn(1, H, Q, K, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize(
    ("sizes", "ours", "theirs"),
    [
        ({}, {}, {}),
        ({}, {"scale": 0.3}, {"scale": 0.3}),
        ({}, {"mask": SEEN}, {"attn_mask": SEEN}),
        ({}, {"bias": ADDED}, {"attn_mask": ADDED}),
        ({}, {"mask": SEEN, "bias": ADDED}, {"attn_mask": ADDED.masked_fill(~SEEN, -torch.inf)}),
        ({}, {"mask": Causal(), "query_offset": 0}, {"is_causal": True}),
        ({"query": (B, H, K, D)}, {"mask": Causal()}, {"is_causal": True}),
        (
            {"key": (B, HK, K, D), "value": (B, HK, K, D)},
            {"mask": Causal(), "query_offset": 0},
            {"is_causal": True, "enable_gqa": True},
        ),
        ({"key": (B, 1, K, D), "value": (B, 1, K, D)}, {}, {"enable_gqa": True}),
        ({"value": (B, H, K, DV)}, {}, {}),
        ({"query": (B, H, 1, D)}, {"mask": Causal(), "query_offset": K - 1}, {}),
    ],
)
def test_torchs_own(sizes, ours, theirs):
    tensors = inputs(**sizes)
    both(reference(*tensors, **ours), F.scaled_dot_product_attention(*tensors, **theirs), tensors)


def test_lse():
    q, k, v = inputs()
    part = reference(q, k, v, return_lse=True)
    torch.testing.assert_close(part.lse, (q @ k.mT / math.sqrt(D)).logsumexp(-1))
    assert part.lse.shape == (B, H, Q)


def test_empty_rows_are_zero():
    q, k, v = inputs()
    part = reference(q, k, v, mask=Lengths([0, 3]), return_lse=True)
    assert (part.out[0] == 0).all() and (part.lse[0] == -torch.inf).all()
    part.out.sum().backward()
    assert all((x.grad[0] == 0).all() and x.grad.isfinite().all() for x in (q, k, v))
    assert k.grad[1, :, :3].any() and not k.grad[1, :, 3:].any()


def test_no_keys_at_all():
    q, k, v = inputs(key=(B, H, 0, D), value=(B, H, 0, DV))
    part = reference(q, k, v, return_lse=True)
    assert part.out.shape == (B, H, Q, DV)
    assert (part.out == 0).all() and (part.lse == -torch.inf).all()
    part.out.sum().backward()
    assert (q.grad == 0).all()


@pytest.mark.parametrize("batch", [0, 1])
def test_no_samples_and_no_queries(batch):
    shape = (batch, H, 0, D)
    assert reference(*inputs(shape, (batch, H, K, D), (batch, H, K, D))).shape == shape


def softmax(q, k, v, change):
    weights = torch.softmax(change(q @ k.mT / math.sqrt(D)), dim=-1)
    return weights @ v


def test_softcap():
    tensors = inputs()
    theirs = softmax(*tensors, lambda scores: 1.5 * torch.tanh(scores / 1.5))
    both(reference(*tensors, softcap=1.5), theirs, tensors)


def test_softcap_comes_before_bias_and_mask():
    tensors = inputs()
    theirs = softmax(
        *tensors,
        lambda scores: (1.5 * torch.tanh(scores / 1.5) + ADDED).masked_fill(~SEEN, -torch.inf),
    )
    both(reference(*tensors, softcap=1.5, bias=ADDED, mask=SEEN), theirs, tensors)


def test_alibi():
    tensors = inputs()
    slopes = torch.tensor([2.0 ** -(h + 1) for h in range(H)], dtype=torch.float64)
    distance = (torch.arange(K) - torch.arange(2, 2 + Q)[:, None]).abs()
    theirs = softmax(*tensors, lambda scores: scores - slopes.view(-1, 1, 1) * distance)
    both(reference(*tensors, bias=ALiBi(slopes), query_offset=2), theirs, tensors)


def test_sinks_are_one_more_logit():
    tensors, sinks = inputs(), torch.randn(H, dtype=torch.float64, requires_grad=True)

    def with_sink(q, k, v):
        scores = torch.cat(
            (q @ k.mT / math.sqrt(D), sinks.view(1, -1, 1, 1).expand(B, H, Q, 1)), -1
        )
        return torch.softmax(scores, -1)[..., :-1] @ v

    both(reference(*tensors, sinks=sinks), with_sink(*tensors), (*tensors, sinks))


def test_sink_alone_takes_all():
    q, k, v = inputs()
    sinks = torch.arange(6.0, dtype=torch.float64)
    part = reference(q, k, v, mask=Lengths([0, 0]), sinks=sinks, return_lse=True)
    assert (part.out == 0).all()
    assert (part.lse == sinks.view(1, -1, 1)).all()


def test_a_position_a_sample():
    q, k, v = inputs()
    offsets = torch.tensor([0, 2])
    out = reference(q, k, v, mask=Window(1, 0), query_offset=offsets)
    for sample, offset in enumerate(offsets.tolist()):
        one = slice(sample, sample + 1)
        alone = reference(q[one], k[one], v[one], mask=Window(1, 0), query_offset=offset)
        torch.testing.assert_close(out[one], alone, rtol=1e-13, atol=1e-13)


def test_dropout_keeps_the_expectation():
    """Values of one: the output is the sum of the kept weights, scaled up; 5000 draws a head."""
    q = torch.zeros(1, 1, 5003, 2)
    k, v = torch.zeros(1, 1, 7, 2), torch.ones(1, 1, 7, 1)
    torch.manual_seed(0)
    out = reference(q, k, v, dropout_p=0.3).flatten()
    kept = out * 0.7 * 7
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-4)
    assert len(kept.round().unique()) > 3
    # the standard error is sqrt(0.3 / 0.7 / 7 / 5003) = 0.0035
    assert out.mean().item() == pytest.approx(1, abs=0.0175)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    tensors = [tensor.detach().to(dtype) for tensor in inputs()]
    part = reference(*tensors, return_lse=True)
    exact = reference(*(tensor.double() for tensor in tensors), return_lse=True)
    assert (part.out.dtype, part.lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(
        part.out, exact.out.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7
    )
    torch.testing.assert_close(part.lse, exact.lse.float())


def test_huge_scores_do_not_overflow():
    q, k, v = (tensor.detach().float() * 1e3 for tensor in inputs())
    assert reference(q, k, v).isfinite().all()


def test_limit_is_said_in_gib():
    q = torch.zeros(1, 3, 40009, 2, device="meta")
    says = r"(?s)'reference' cannot run.*40009 x 40009 scores would take 17\.9 GiB, the limit is 4"
    with pytest.raises(EngineError, match=says):
        reference(q, q, q)
    with pytest.raises(EngineError, match=r"would take 35\.8 GiB"):
        reference(*[q.double()] * 3)
