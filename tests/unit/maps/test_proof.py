"""When a proof holds and when it fails, and the numbers that it keeps."""

from __future__ import annotations

import math

import pytest
import torch

from wqkv.maps.proof import Proof, sum_rounding, weight_rounding


@pytest.mark.parametrize(
    ("difference", "holds"),
    [(0.0, True), (1e-5, True), (1.1e-5, False), (math.nan, False), (math.inf, False)],
)
def test_holds(difference, holds):
    assert Proof(difference, 3.0, 1e-5, 7).holds is holds
    assert Proof(math.inf, math.inf, math.inf, 7).holds is False


@pytest.mark.parametrize(
    ("difference", "tolerance", "share"),
    [(0.5, 2.0, 0.25), (0.0, 0.0, 0.0), (math.inf, math.nan, math.inf), (3.0, 2.0, 1.5)],
)
def test_share(difference, tolerance, share):
    assert Proof(difference, 3.0, tolerance, 7).share == share


OURS, THEIRS = torch.tensor([[1.0, -5.0], [2.0, 8.0]]), torch.tensor([[1.0, -4.0], [2.5, 8.0]])


def test_compare():
    assert Proof.compare(OURS, THEIRS, 0.75, rows=2) == Proof(1.0, 8.0, 0.75, 2)


def test_compare_with_a_tolerance_for_each_number():
    """The difference that is kept is not the largest, but that which comes nearest to failing."""
    allowed = torch.tensor([[1.0, 4.0], [0.25, 1.0]])
    assert Proof.compare(OURS, THEIRS, allowed, rows=2) == Proof(0.5, 8.0, 0.25, 2)


@pytest.mark.parametrize("planted", [math.nan, math.inf])
@pytest.mark.parametrize("tolerance", [0.75, torch.full((2, 2), 0.75), torch.full((2, 2), 1e9)])
def test_one_number_that_is_none(planted, tolerance):
    ours = OURS.clone()
    ours[0, 0] = planted
    proof = Proof.compare(ours, THEIRS, tolerance, rows=2)
    assert (proof.difference, proof.share, proof.holds) == (math.inf, math.inf, False)
    assert proof.plus(Proof(0.1, 9.0, 0.5, 3)).difference == math.inf
    assert Proof(0.1, 9.0, 0.5, 3).plus(proof).difference == math.inf


@pytest.mark.parametrize("difference", [math.inf, math.nan])
def test_a_failed_proof_is_never_lost(difference):
    """Its tolerance may be infinite too, where v is near the largest number."""
    holds, fails = Proof(0.0, 1.0, 1e-6, 10), Proof(difference, 1.0, math.inf, 5)
    assert fails.share == math.inf
    for proof in (fails, holds.plus(fails), fails.plus(holds), holds.plus(fails).plus(holds)):
        assert not proof.holds


def test_a_tolerance_that_is_none():
    allowed = torch.tensor([[1.0, math.nan], [1.0, 1.0]])
    proof = Proof.compare(OURS, THEIRS, allowed, rows=2)
    assert not proof.holds and proof.share == math.inf


def test_plus():
    far, near = Proof(0.5, 3.0, 2.0, 7, 1), Proof(0.25, 8.0, 0.5, 11, 2)
    assert far.plus(near) == near.plus(far) == Proof(0.25, 8.0, 0.5, 18, 3)


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [
        (torch.float64, 3 * 7 / 2 * 2**-23),
        (torch.float32, 3 * 7 / 2 * 2**-23),
        (torch.float16, 3 * 8 * 2**-10),
        (torch.bfloat16, 3 * 8 * 2**-7),
    ],
)
def test_sum_rounding(dtype, rounding):
    output = torch.zeros(2, 5, 7, dtype=dtype)
    output[1, 2, 3] = -3
    assert sum_rounding(output) == rounding


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [
        (torch.float64, 32 * 2**-52),
        (torch.float32, 32 * 2**-23),
        (torch.float16, 2 * 2**-10),
        (torch.bfloat16, 2 * 2**-7),
    ],
)
def test_weight_rounding(dtype, rounding):
    fine, coarse = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=dtype)
    for tensors in ((coarse, fine, fine), (fine, coarse, fine), (fine, fine, coarse)):
        assert weight_rounding(*tensors) == rounding
