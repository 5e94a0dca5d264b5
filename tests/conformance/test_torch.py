"""torch's own test inputs for attention through wqkv: outputs, weights and gradients.

The measure is torch's plainest path in float64; the yardstick is how far that path is from it in
the dtype under test.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.opinfo.core import SampleInput

from tests.conformance import torch_cases
from wqkv import attention

SDPA = torch_cases.samples("scaled_dot_product_attention")
MHA = torch_cases.samples("multi_head_attention_forward")
MODULES = torch_cases.module_inputs()
DROPPED = [i for i, sample in enumerate(SDPA) if sample.kwargs["dropout_p"]]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ENGINES = ("auto", "tiled", "reference")

Run = Callable[[SampleInput], list[Tensor]]


def test_no_sample_is_lost():
    """All of these run below: none needs an option that wqkv lacks."""
    assert (len(SDPA), len(DROPPED)) == (25, 12)
    assert (len(MHA), sum(sample.kwargs["training"] for sample in MHA)) == (192, 96)
    assert len(MODULES) == 64


def with_gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The outputs, then the gradient of each input for a fixed gradient of the outputs."""
    upstream = [torch.arange(y.numel()).cos().view_as(y).to(y.dtype) for y in outputs]
    shares = torch.autograd.grad(outputs, inputs, upstream, allow_unused=True)
    zeros = (torch.zeros_like(x) for x in inputs)
    found = zip(shares, zeros, strict=True)
    return [y.detach() for y in outputs] + [z if g is None else g for g, z in found]


def check(ours: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> None:
    """At most twice as far from float64 as torch's plain path in this dtype, plus rounding."""
    assert len(ours) == len(plain) == len(exact)
    for i, (x, same_dtype, true) in enumerate(zip(ours, plain, exact, strict=True)):
        assert x.dtype == same_dtype.dtype and x.shape == true.shape
        size = true.abs().max().item()
        slack = 4 * torch.finfo(x.dtype).eps * size + 1e-15
        allowed = 2 * (same_dtype - true).abs().max().item() + slack
        off = (x - true).abs().max().item()
        assert off <= allowed, (
            f"number {i} of size {size:.3g}: {off:.3g} off, {allowed:.3g} allowed"
        )


def compare(ours: Run, torchs: Run, sample: SampleInput, dtype: torch.dtype) -> None:
    low, inputs = torch_cases.as_dtype(sample, dtype)
    high, exact_inputs = torch_cases.as_dtype(low, torch.float64)
    check(
        with_gradients(ours(low), inputs),
        with_gradients(torchs(low), inputs),
        with_gradients(torchs(high), exact_inputs),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", range(len(SDPA)))
def test_scaled_dot_product_attention_without_dropout(number, dtype, engine):
    compare(
        lambda sample: [torch_cases.attend(sample, engine)],
        lambda sample: [torch_cases.sdpa(sample)],
        SDPA[number],
        dtype,
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", DROPPED)
def test_scaled_dot_product_attention_with_dropout_statistically(number, engine):
    """Over many draws: the mean is the output without, the variance p / (1 - p) sum (w v)^2."""
    sample, draws, p = SDPA[number], 3000, SDPA[number].kwargs["dropout_p"]
    q, k, v = sample.input, *sample.args
    eye = torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], -1)
    weights = torch_cases.sdpa(SampleInput(q, args=(k, eye), kwargs=sample.kwargs))
    variance = p / (1 - p) * (weights**2 @ v**2)

    torch.manual_seed(number)
    many = sample.transform(lambda x: x.expand(draws, *(1,) * (k.ndim - x.ndim), *x.shape))
    found = torch_cases.attend(many, engine, dropout_p=p)
    off = found.mean(dim=0) - torch_cases.sdpa(sample)
    assert (off.abs() <= 6 * (variance / draws).sqrt()).all()
    assert abs(found.var(dim=0).sum() / variance.sum() - 1) < 0.05


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_multi_head_attention_forward_without_dropout(dtype, engine):
    for sample in MHA:
        compare(partial(torch_cases.mha, engine=engine), torch_cases.mha_by_torch, sample, dtype)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_modules(dtype, engine):
    for case in MODULES:
        masks = case.forward_input.kwargs
        found: dict[torch.dtype, list[Tensor]] = {}
        for exact in (dtype, torch.float64):
            made, words = torch_cases.module(case, exact)
            torchs = made(*words, **masks, average_attn_weights=False)
            found[exact] = with_gradients(list(torchs), [*words, *made.parameters()])
        made, words = torch_cases.module(case, dtype)
        ours = torch_cases.module_by_wqkv(made, words, masks, engine)
        averaged = made(*words, **masks)[1]
        alone = made(*words, **masks, need_weights=False)[0]
        torch.testing.assert_close(ours[1].mean(dim=0), averaged)
        torch.testing.assert_close(ours[0], alone)
        check(
            with_gradients(ours, [*words, *made.parameters()]), found[dtype], found[torch.float64]
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_that_sees_nothing_is_zero_and_the_others_are_torchs(engine):
    """torch answers such a row with NaN or 0, by path; so it is left out of torch's call."""
    sample = next(s for s in SDPA if "attn_mask" in s.kwargs)
    (q, k, v), inputs = (x.clone().requires_grad_() for x in (sample.input, *sample.args)), []
    inputs = [q, k, v]
    mask = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 1]]).bool()
    out = attention(q, k, v, mask=mask, engine=engine)
    rest = torch.tensor([0, 2])
    torchs = nn.functional.scaled_dot_product_attention(q[:, :, rest], k, v, attn_mask=mask[rest])
    assert not out[:, :, 1].any()
    ours, theirs = (with_gradients([y], inputs) for y in (out[:, :, rest], torchs))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y)
    assert not torch.autograd.grad(out.sum(), q)[0][:, :, 1].any()
