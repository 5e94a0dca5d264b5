"""Quantized: half a step, and not more."""

import pytest
import torch

from tests.unit.layer.caches.test_base import D_K, D_V, KV_HEADS, B, qkv
from wqkv import Quantized
from wqkv.errors import ArgumentError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def step(x, bits, group):
    """(greatest - least) / (2^bits - 1) of each group, for every number of it."""
    groups = x.double().unflatten(3, (-1, group or x.shape[3]))
    steps = (groups.amax(4, keepdim=True) - groups.amin(4, keepdim=True)) / (2**bits - 1)
    return steps.expand_as(groups).flatten(3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [None, 1, 3])
def test_error(bits, group, dtype):
    """Half a step, and the rounding of the dtype of what is near the numbers themselves."""
    random = torch.Generator().manual_seed(0)
    k = torch.randn(2, 3, 41, 9, generator=random, dtype=torch.float64)
    k = (k * torch.logspace(-3, 3, 41)[:, None] + torch.linspace(-50, 50, 9)).to(dtype)
    v = k.flip(2)[..., :6]
    (piece,) = Quantized(bits, group).append(k, v)
    for came, back in ((k, piece.k), (v, piece.v)):
        assert back.dtype == dtype and back.shape == came.shape
        off = (back.double() - came.double()).abs()
        size = came.double().abs().amax(dim=3, keepdim=True)
        inside = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        rounding = size * (torch.finfo(dtype).eps / 2 + 4 * inside)
        assert (off <= step(came, bits, group) / 2 + rounding).all()
        if group != 1:  # the bound is a bound of something
            assert (off > step(came, bits, group) / 2.3).any()


@pytest.mark.parametrize(("bits", "codes"), [(8, 255), (4, 15)])
def test_by_hand(bits, codes):
    """The ends of a group are exact, and a number between them goes to the nearest level."""
    x = torch.tensor([-1.0, 1.0, 0.01, 0.3]).view(1, 1, 1, 4)
    (piece,) = Quantized(bits).append(x, x)
    expected = -1 + torch.tensor([0, codes, round(1.01 * codes / 2), round(1.3 * codes / 2)]) * (
        2 / codes
    )
    torch.testing.assert_close(piece.k.flatten(), expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [0.0, -3.7, 1e-30, 1e30])
def test_equal_numbers_are_exact(bits, value):
    x = torch.full((B, KV_HEADS, 3, D_K), value)
    (piece,) = Quantized(bits).append(x, x)
    assert torch.equal(piece.k, x)


@pytest.mark.parametrize("bits", [8, 4])
def test_groups_and_positions_have_their_own_steps(bits):
    _, k, v = qkv(11)
    loud = k.clone()
    loud[:, :, 3, 4] = 1000.0
    (before,), (after,) = Quantized(bits, 1).append(k, v), Quantized(bits, 1).append(loud, v)
    other = torch.ones(11, D_K, dtype=torch.bool)
    other[3, 4] = False
    assert torch.equal(before.k[:, :, other], after.k[:, :, other])
    (before,), (after,) = Quantized(bits).append(k, v), Quantized(bits).append(loud, v)
    other[3] = False
    assert torch.equal(before.k[:, :, other], after.k[:, :, other])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_bad_number_spoils_its_group_alone(bits, bad):
    _, k, v = qkv(11)
    spoilt = k.clone()
    spoilt[1, 2, 3, 4] = bad
    (good,), (found,) = Quantized(bits).append(k, v), Quantized(bits).append(spoilt, v)
    assert found.k[1, 2, 3].isnan().all()
    found.k[1, 2, 3] = good.k[1, 2, 3]
    assert torch.equal(found.k, good.k)


@pytest.mark.parametrize(
    ("bits", "group", "size"), [(8, None, D_K + 8), (4, None, 3 + 8), (8, 1, 9 * D_K)]
)
@torch.no_grad()
def test_memory(bits, group, size):
    """Bytes a position and head of k: codes, and low and step in float32 a group."""
    cache = Quantized(bits, group)
    for k, v in zip(*(x.split(1, dim=2) for x in qkv(64, dtype=torch.float32)[1:]), strict=True):
        cache.append(k, v)
    taken = {name: x.untyped_storage().nbytes() for name, x in cache._tensors.items()}
    assert sum(n for name, n in taken.items() if name[0] == "k") == 64 * B * KV_HEADS * size


@pytest.mark.parametrize(
    ("group", "says"),
    [
        (2, rf"`k` has {D_K} channels, no multiple of the group of 2.\n  k: f64\[2, 3, 4, 5\]"),
        (5, rf"`v` has {D_V} channels, no multiple of the group of 5"),
    ],
)
def test_groups_that_do_not_fit(group, says):
    with pytest.raises(ArgumentError, match=says):
        Quantized(8, group).append(*qkv(4)[1:])
