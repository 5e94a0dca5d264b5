"""Biases against the numbers of the papers and of transformers."""

import math

import pytest
import torch

from wqkv.attend.bias import ALiBi, Bias, StoredBias, T5Bias
from wqkv.attend.functional import attention
from wqkv.attend.geometry import places
from wqkv.errors import ArgumentError, KindError

AT = places((slice(0, 1), 3, slice(0, 5), slice(0, 7)), 2)


@pytest.mark.parametrize(
    ("n", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (3, [4, 8, 2]),
    ],
)
def test_alibi_slopes_are_the_papers(n, exponents):
    expected = torch.tensor([2.0**-exponent for exponent in exponents])
    torch.testing.assert_close(ALiBi(n).slopes, expected)


def test_alibi_tile():
    tile = ALiBi([0.5, 0.25, 2.0]).tile(AT)
    assert tile.shape == (1, 3, 5, 7)
    for head, slope in enumerate((0.5, 0.25, 2.0)):
        for row, key in ((0, 0), (0, 2), (0, 6), (4, 1)):
            assert tile[0, head, row, key].item() == -slope * abs(key - (row + 2))
    assert repr(ALiBi(3)) == "ALiBi(f32[3] on cpu)"


@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (8, 11), (64, 257)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets_are_those_of_transformers(bidirectional, buckets, far):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    ahead = torch.arange(-300, 301)
    theirs = t5.T5Attention._relative_position_bucket(ahead, bidirectional, buckets, far)
    bias = T5Bias(torch.zeros(buckets, 3), bidirectional=bidirectional, max_distance=far)
    assert torch.equal(bias.bucket(ahead), theirs)
    assert len(theirs.unique()) > buckets / 2


def test_t5_tile():
    table = torch.arange(24.0).view(8, 3).requires_grad_()
    bias = T5Bias(table, bidirectional=False, max_distance=13)
    tile = bias.tile(AT)
    assert tile.shape == (1, 3, 5, 7)
    # 8 buckets: 0 to 3 exact, and what comes after the query is in bucket 0
    assert tile[0, :, 1].tolist() == [[9 + h, 6 + h, 3 + h, h, h, h, h] for h in range(3)]
    tile[0, 1, 0, 1].backward()
    assert table.grad.nonzero().tolist() == [[1, 1]]
    says = "T5Bias(f32[8, 3] on cpu, bidirectional=False, max_distance=13)"
    assert repr(bias) == says


def test_stored_bias_is_cut():
    stored = torch.rand(1, 3, 1, 11)
    at = places((slice(0, 2), 3, slice(1, 3), slice(5, 7)), 0)
    assert torch.equal(StoredBias(stored).tile(at), stored[:, :, :, 5:7])
    assert not StoredBias(stored).by_position


@pytest.mark.parametrize("engine", ["auto", "tiled", "reference"])
@pytest.mark.parametrize("offset", [0, -30_000])
def test_alibi_is_exact_in_float64(engine, offset):
    """slope * distance in float32 would keep 7 digits, of which a far token spends five."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 12, n, 7, dtype=torch.float64) for n in (5, 11, 11))
    slopes = ALiBi(12).slopes.double()
    ahead = torch.arange(11) - (torch.arange(5)[:, None] + offset)
    scores = q @ k.mT / 7**0.5 - slopes[:, None, None] * ahead.abs()
    ours = attention(q, k, v, bias=ALiBi(12), query_offset=offset, engine=engine, return_lse=True)
    torch.testing.assert_close(ours.out, scores.softmax(-1) @ v, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.lse, scores.logsumexp(-1), rtol=1e-14, atol=1e-13)


def test_tiles_are_made_in_the_dtype_of_the_scores():
    slopes = torch.tensor([0.1, 0.3, 0.7])
    table, stored = torch.rand(8, 3), torch.rand(1, 3, 5, 7)
    for bias in (ALiBi(slopes), T5Bias(table, bidirectional=True), StoredBias(stored)):
        assert bias.tile(AT).dtype == torch.float32
        assert bias.tile(AT, torch.float64).dtype == torch.float64
        assert bias.part(0, 0).tile(AT, torch.float64).dtype == torch.float64
    exact = -slopes.double()[:, None, None] * (AT.key_pos - AT.query_pos)[0].abs()
    assert torch.equal(ALiBi(slopes).tile(AT, torch.float64)[0], exact)


@pytest.mark.parametrize("make", [
    lambda x: ALiBi(x[0]),
    lambda x: T5Bias(x, bidirectional=True, max_distance=23),
    lambda x: StoredBias(x[None, None]),
])  # fmt: skip
def test_a_bias_with_another_tensor(make):
    first, second = torch.rand(8, 3), torch.rand(8, 3)
    (tensor,) = make(second).tensors()
    changed = make(first)._with_tensor(tensor)
    assert type(changed) is type(make(first)) and changed.tensors()[0] is tensor
    if isinstance(changed, T5Bias):
        assert (changed.bidirectional, changed.max_distance) == (True, 23)


BIASES = [
    lambda: ALiBi(torch.rand(3, dtype=torch.float64)),
    lambda: T5Bias(torch.rand(8, 3, dtype=torch.float64), bidirectional=True, max_distance=7),
    lambda: StoredBias(torch.rand(2, 3, 5, 7, dtype=torch.float64)),
    lambda: StoredBias(torch.rand(1, 3, 1, 7, dtype=torch.float64)),
    lambda: StoredBias(torch.rand(2, 1, 5, 1, dtype=torch.float64)),
]


@pytest.mark.parametrize("make", BIASES)
def test_gradient_of_the_pieces_is_that_of_the_whole(make):
    """What `add_gradient` adds up over the tiles of a call is what autograd finds for it whole."""
    torch.manual_seed(0)
    bias = make()
    (tensor,) = bias.tensors()
    tensor.requires_grad_()
    d_scores = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    whole = places((slice(0, 2), 3, slice(0, 5), slice(0, 7)), 2)
    (expected,) = torch.autograd.grad(
        bias.tile(whole).expand(2, 3, 5, 7), tensor, d_scores, allow_unused=False
    )
    total = torch.zeros_like(tensor)
    for rows in (slice(0, 2), slice(2, 5)):
        for keys in (slice(0, 3), slice(3, 7)):
            at = places((slice(0, 2), 3, rows, keys), 2)
            with torch.no_grad():
                bias.add_gradient(total, at, d_scores[:, :, rows, keys])
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


def test_alibi_of_half_precision_slopes_is_not_rounded_twice():
    slopes = torch.tensor([0.3], dtype=torch.bfloat16)
    at = places((slice(0, 1), 1, slice(0, 1), slice(255, 260)), 0)
    exact = -slopes.double() * torch.arange(255, 260)
    torch.testing.assert_close(ALiBi(slopes).tile(at)[0, 0, 0].double(), exact, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: ALiBi([0.5, math.nan]), ArgumentError, r"slopes \[0.5, nan\].*finite"),
        (lambda: ALiBi([]), ArgumentError, r"one slope per head.*f32\[0\]"),
        (
            lambda: T5Bias(torch.ones(8, 3), bidirectional=True).bucket(torch.ones(3)),
            KindError,
            r"distance is a whole number.*f32\[3\]",
        ),
        (lambda: ALiBi(0), ArgumentError, "ALiBi for 0 heads"),
        (lambda: ALiBi(torch.ones(2, 3)), ArgumentError, r"one slope per head.*f32\[2, 3\]"),
        (lambda: ALiBi(torch.ones(3).int()), ArgumentError, r"one slope per head.*i32\[3\]"),
        (lambda: ALiBi(3).check((2, 5, 7, 7)), ArgumentError, "for 3 heads, and the call has 5"),
        (
            lambda: T5Bias(torch.ones(8), bidirectional=True),
            ArgumentError,
            r"\(n_bucket, n_head\).*f32\[8\]",
        ),
        (
            lambda: T5Bias(torch.ones(8, 3).int(), bidirectional=True),
            ArgumentError,
            r"i32\[8, 3\]",
        ),
        (lambda: T5Bias(torch.ones(6, 3), bidirectional=True), ArgumentError, "has 6 buckets"),
        (lambda: T5Bias(torch.ones(0, 3), bidirectional=True), ArgumentError, "has 0 buckets"),
        (
            lambda: T5Bias(torch.ones(8, 3), bidirectional=True, max_distance=4),
            ArgumentError,
            "max_distance 4 for 8 buckets.*more than 4",
        ),
        (
            lambda: T5Bias(torch.ones(8, 3), bidirectional=True).check((2, 5, 7, 7)),
            ArgumentError,
            "for 3 heads, and the call has 5",
        ),
        (
            lambda: StoredBias(torch.ones(2, 3, 5, 7)).check((2, 3, 5, 11)),
            ArgumentError,
            r"are 2, 3, 5, 11.*f32\[2, 3, 5, 7\]",
        ),
    ],
)
def test_errors(run, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        run()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Bias().tile(None),
        lambda: Bias().tensors(),
        lambda: Bias()._with_tensor(torch.ones(3)),
        lambda: Bias().add_gradient(None, None, None),
        lambda: Bias().heads(0, 1),
    ],
)
def test_a_new_bias_says_what_it_does(ask):
    with pytest.raises(NotImplementedError):
        ask()
