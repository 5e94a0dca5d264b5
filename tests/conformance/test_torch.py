"""torch's own test inputs for attention through wqkv: outputs, weights and gradients.

The measure is torch's plainest path in float64; how far torch's own paths in the dtype under test
are from it says how far wqkv may be.
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
MODULES = torch_cases.module_samples()
DROPPED = [i for i, sample in enumerate(SDPA) if sample.kwargs["dropout_p"]]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ENGINES = ("auto", "tiled", "reference")

#: A call and its output, with the weights if it has them.
Run = Callable[[SampleInput], tuple[Tensor, Tensor | None]]


def test_no_sample_is_lost():
    """All of these run below: none needs an option that wqkv lacks."""
    assert (len(SDPA), len(DROPPED)) == (25, 12)
    assert (len(MHA), sum(sample.kwargs["training"] for sample in MHA)) == (192, 96)
    assert len(MODULES) == 64


def everything(
    run: Run, sample: SampleInput, inputs: list[Tensor], gradients: bool
) -> list[Tensor | None]:
    """Output, weights, and each input's gradient for one fixed gradient of the output."""
    output, weights = run(sample)
    if not gradients:
        return [output, weights]
    upstream = torch.arange(output.numel()).cos().view_as(output).to(output.dtype)
    return [output, weights, *torch.autograd.grad(output, inputs, upstream, allow_unused=True)]


def worst(found: list[Tensor | None], exact: list[Tensor | None]) -> list[float]:
    """The largest difference of each; 0 for one that is not there."""
    pairs = zip(found, exact, strict=True)
    return [0.0 if x is None or y is None else (x - y).abs().max().item() for x, y in pairs]


def compare(
    ours: Callable[..., tuple[Tensor, Tensor | None]],
    plain: Run,
    fused: Run,
    sample: SampleInput,
    dtype: torch.dtype,
    gradients: bool = True,
) -> None:
    """Each engine at most twice as far from torch's plain path in float64 as the worst yardstick.

    Yardsticks: torch's plain and fused paths in this dtype, and, for some scores are in the
    hundreds, the plain path in float64 with its inputs moved by a rounding of this dtype.
    """
    low, inputs = torch_cases.as_dtype(sample, dtype)
    high, high_inputs = torch_cases.as_dtype(low, torch.float64)
    exact = everything(plain, high, high_inputs, gradients)
    yardsticks = [worst(everything(path, low, inputs, gradients), exact) for path in (plain, fused)]
    for seed in range(3):
        moved = torch_cases.floats(high, partial(jog, dtype, torch.Generator().manual_seed(seed)))
        moved, moved_inputs = torch_cases.as_dtype(moved, torch.float64)
        yardsticks.append(worst(everything(plain, moved, moved_inputs, gradients), exact))
    for engine in ENGINES:
        found = everything(partial(ours, engine=engine), low, inputs, gradients)
        assert [x is None for x in found] == [x is None for x in exact]
        for i, (x, y, *most) in enumerate(zip(found, exact, *yardsticks, strict=True)):
            if x is None or y is None:
                continue
            assert x.shape == y.shape and x.dtype == dtype
            size = y.abs().max().item()
            allowed = 2 * max(most) + 8 * torch.finfo(dtype).eps * size
            off = (x - y).abs().max().item()
            assert off <= allowed, (
                f"{engine}: number {i} of {size:.3g}: {off:.3g}, not {allowed:.3g}"
            )


def jog(dtype: torch.dtype, random: torch.Generator, x: Tensor) -> Tensor:
    """x with every number moved by up to one step of the dtype."""
    by = 2 * torch.rand(x.shape, generator=random, dtype=x.dtype) - 1
    return x * (1 + torch.finfo(dtype).eps * by)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", range(len(SDPA)))
def test_scaled_dot_product_attention_without_dropout(number: int, dtype: torch.dtype):
    compare(torch_cases.attend, torch_cases.sdpa, torch_cases.sdpa_fused, SDPA[number], dtype)


def test_a_wrong_scale_is_found():
    def wrong(sample: SampleInput, engine: str) -> tuple[Tensor, None]:
        sample.input.data *= 1.001
        return torch_cases.attend(sample, engine)

    with pytest.raises(AssertionError, match="auto: number 0 of "):
        compare(wrong, torch_cases.sdpa, torch_cases.sdpa_fused, SDPA[4], torch.float32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", DROPPED)
def test_scaled_dot_product_attention_with_dropout_statistically(number: int, engine: str):
    """Over many draws: the mean is the output without, the variance p / (1 - p) sum (w v)^2."""
    sample, draws, p = SDPA[number], 3000, SDPA[number].kwargs["dropout_p"]
    q, k, v = sample.input, *sample.args
    eye = torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], -1)
    weights, _ = torch_cases.sdpa(SampleInput(q, args=(k, eye), kwargs=sample.kwargs))
    variance = p / (1 - p) * (weights**2 @ v**2)

    torch.manual_seed(number)
    many = sample.transform(lambda x: x.expand(draws, *(1,) * (k.ndim - x.ndim), *x.shape))
    found, _ = torch_cases.attend(many, engine, dropout_p=p)
    off = found.mean(dim=0) - torch_cases.sdpa(sample)[0]
    assert (off.abs() <= 6 * (variance / draws).sqrt()).all()
    assert abs(found.var(dim=0).sum() / variance.sum() - 1) < 0.05


# After projections, scores of torch's samples reach 2000: the softmax is one-hot, and a gradient is
# what rounding leaves of a difference of equal numbers. So they are also compared at a tenth of
# their size, with the gradients.
SIZES = pytest.mark.parametrize("size", [1.0, 0.1])


@SIZES
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_multi_head_attention_forward_without_dropout(dtype: torch.dtype, size: float):
    plain, fused = torch_cases.mha_by_torch, torch_cases.mha_fused
    for sample in MHA:
        sample = torch_cases.floats(sample, lambda x: x * size)
        compare(torch_cases.mha, plain, fused, sample, dtype, gradients=size < 1)


@SIZES
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_modules(dtype: torch.dtype, size: float):
    plain = partial(torch_cases.module_by_torch, average_attn_weights=False)
    fused = partial(torch_cases.module_by_torch, need_weights=False)
    for sample in MODULES:
        sample = torch_cases.floats(sample, lambda x: x * size)
        compare(torch_cases.module_by_wqkv, plain, fused, sample, dtype, gradients=size < 1)


def test_modules_whether_weights_are_averaged_or_not_asked_for():
    for sample in MODULES:
        output, weights = torch_cases.module_by_wqkv(sample, "auto")
        averaged = torch_cases.module_by_torch(sample)
        alone, none = torch_cases.module_by_torch(sample, need_weights=False)
        assert none is None
        for x, y in ((weights.mean(dim=0), averaged[1]), (output, averaged[0]), (output, alone)):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_that_sees_nothing_is_zero_and_the_others_are_torchs(engine: str):
    """torch answers such a row with NaN or 0, by path; so it is left out of torch's call."""
    sample = next(s for s in SDPA if "attn_mask" in s.kwargs)
    q, k, v = inputs = [x.clone().requires_grad_() for x in (sample.input, *sample.args)]
    mask = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 1]]).bool()
    out = attention(q, k, v, mask=mask, engine=engine)
    assert not out[:, :, 1].any()
    rest = torch.tensor([0, 2])
    torchs = nn.functional.scaled_dot_product_attention(q[:, :, rest], k, v, attn_mask=mask[rest])
    upstream = torch.arange(out.numel()).cos().view_as(out).to(out.dtype)
    ours = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(torchs, inputs, upstream[:, :, rest])
    for x, y in zip((out[:, :, rest], *ours), (torchs, *theirs), strict=True):
        torch.testing.assert_close(x, y)
    assert not ours[0][:, :, 1].any()
