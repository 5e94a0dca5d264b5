"""Every error of the one public door, with the values in its message; and what a call works out."""

import math

import pytest
import torch
from torch.nn import functional as F

from wqkv.attend.bias import ALiBi, StoredBias, T5Bias
from wqkv.attend.call import autocasts, request
from wqkv.attend.functional import attention, explain
from wqkv.attend.geometry import Rect
from wqkv.attend.masks import Causal, Full, Lengths, Window
from wqkv.errors import ArgumentError, EngineError, KindError

B, H, HK, Q, K, D, DV = 2, 6, 3, 5, 7, 11, 13


def tensors(**shapes):
    """query, key and value of sizes that agree, but for those that are given."""
    sizes = {"query": (B, H, Q, D), "key": (B, HK, K, D), "value": (B, HK, K, DV), **shapes}
    return {name: torch.zeros(size) for name, size in sizes.items()}


def ask(**given):
    rest = {
        "mask": Full(),
        "bias": None,
        "scale": None,
        "softcap": None,
        "sinks": None,
        "dropout_p": 0.0,
        "query_offset": None,
    }
    return request(**{**tensors(), **rest, **given})


ERRORS = [
    ({"query": 3}, KindError, "`query` is a tensor, not int 3"),
    ({"value": [1.0]}, KindError, r"`value` is a tensor, not list \[1.0\]"),
    (
        {"key": torch.zeros(B, HK, K, D).long()},
        KindError,
        r"`key` holds torch.int64.*query: f32\[2, 6, 5, 11\].*key: +i64\[2, 3, 7, 11\].*Cast",
    ),
    ({"query": torch.zeros(B, Q, D)}, ArgumentError, r"`query` has 3 axes, not 4.*f32\[2, 5, 11\]"),
    ({"value": torch.zeros(B, HK, K, D).double()}, KindError, r"different dtypes.*value: f64"),
    ({"key": torch.zeros(B, HK, K, D, device="meta")}, ArgumentError, "devices.* on meta"),
    ({"key": torch.zeros(B, HK, K, 17)}, ArgumentError, "`query` has d_k 11 and `key` has 17"),
    ({"key": torch.zeros(3, HK, K, D)}, ArgumentError, "batch 2, `key` 3, `value` 2.*expand"),
    ({"value": torch.zeros(3, HK, K, D)}, ArgumentError, "batch 2, `key` 2, `value` 3"),
    (
        {"value": torch.zeros(B, 2, K, D)},
        ArgumentError,
        "`key` has 3 heads and 7 positions, `value` 2 and 7",
    ),
    (
        {"value": torch.zeros(B, HK, 17, D)},
        ArgumentError,
        "`key` has 3 heads and 7 positions, `value` 3 and 17",
    ),
    (
        {"key": torch.zeros(B, 4, K, D), "value": torch.zeros(B, 4, K, DV)},
        ArgumentError,
        "`query` has 6 heads, no multiple of the 4 heads of `key`.*one of: 1, 2, 3, 6 heads",
    ),
    (
        {"key": torch.zeros(B, 0, K, D), "value": torch.zeros(B, 0, K, DV)},
        ArgumentError,
        "no multiple of the 0 heads",
    ),
    (
        {"mask": "causal"},
        KindError,
        r"`mask` is a mask such as Causal\(\) or a tensor, not str 'causal'",
    ),
    ({"mask": torch.zeros(Q, K)}, KindError, r"A mask is bool.*f32\[5, 7\]"),
    ({"mask": torch.ones(Q, 5).bool()}, ArgumentError, r"are 2, 6, 5, 7.*bool\[1, 1, 5, 5\]"),
    ({"mask": Lengths([3, 4, 5])}, ArgumentError, "3 lengths for a batch of 2"),
    ({"bias": 0.5}, KindError, r"`bias` is a bias such as ALiBi\(8\), a tensor or None, not float"),
    ({"bias": torch.ones(Q, K).bool()}, KindError, r"bool\[5, 7\].*bool tensor as `mask`"),
    ({"bias": torch.ones(Q, K).long()}, KindError, r"i64\[5, 7\].*Cast it to a float"),
    ({"bias": torch.ones(H, Q, K)}, ArgumentError, r"2 or 4 axes, not 3.*f32\[6, 5, 7\]"),
    ({"bias": torch.ones(Q, 5)}, ArgumentError, r"are 2, 6, 5, 7.*f32\[1, 1, 5, 5\]"),
    ({"bias": ALiBi(3), "query_offset": 0}, ArgumentError, "for 3 heads, and the call has 6"),
    (
        {"scale": torch.tensor(2.0)},
        KindError,
        r"`scale` is a number or None, not f32\[\].*`scale.item\(\)`",
    ),
    ({"scale": math.inf}, ArgumentError, "`scale` is inf"),
    ({"scale": math.nan}, ArgumentError, "`scale` is nan"),
    ({"softcap": 0.0}, ArgumentError, "`softcap` is 0.0"),
    ({"softcap": math.inf}, ArgumentError, "`softcap` is inf"),
    ({"dropout_p": 1.0}, ArgumentError, "`dropout_p` is 1.0"),
    ({"dropout_p": -0.5}, ArgumentError, "`dropout_p` is -0.5"),
    ({"sinks": 0.5}, KindError, r"`sinks` is a tensor or None, not float 0.5"),
    ({"sinks": torch.ones(H).long()}, KindError, r"i64\[6\]"),
    ({"sinks": torch.ones(HK)}, ArgumentError, r"shape \(3,\) for 6 heads.*Pass \(6,\)"),
    ({"sinks": torch.ones(H, device="meta")}, ArgumentError, r"another device.*sinks.to\('cpu'\)"),
    ({"sinks": torch.tensor([0, 1, math.nan, 3, 4, math.nan])}, ArgumentError, r"head \[2, 5\]"),
    ({"mask": Causal()}, ArgumentError, "Where do 5 queries stand among 7 keys.*=0.*=2: the last"),
    ({"bias": ALiBi(H)}, ArgumentError, "Where do 5 queries stand among 7 keys"),
    ({"query_offset": 1.5}, KindError, "`query_offset` is an int, a tensor or None, not float 1.5"),
    ({"query_offset": True}, KindError, "not bool True"),
    ({"query_offset": torch.tensor([0.5])}, KindError, r"counts positions.*f32\[1\]"),
    ({"query_offset": torch.tensor([True])}, KindError, r"bool\[1\]"),
    ({"query_offset": torch.tensor([1, 2, 3])}, ArgumentError, r"\(3,\) for a batch of 2"),
    (
        {"query_offset": torch.ones(B, device="meta").long()},
        ArgumentError,
        r"`query_offset` is on meta, and its numbers are read.*i64\[2\] on meta",
    ),
    ({"query_offset": torch.tensor([[1, 2]])}, ArgumentError, r"shape \(1, 2\) for a batch of 2"),
]


@pytest.mark.parametrize(("given", "error", "says"), ERRORS)
def test_errors(given, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        attention(**{**tensors(), **given})


def test_a_fitting_request_passes():
    """The same call without the fault: the errors above come from what each one gives."""
    call = ask(
        mask=Causal(),
        bias=ALiBi(H),
        scale=2,
        softcap=3.0,
        sinks=torch.ones(H),
        dropout_p=0.25,
        query_offset=2,
    )
    assert call.sizes == (B, H, Q, K)
    assert (call.group, call.scale, call.query_offset) == (2, 2.0, 2)


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({}, 1 / math.sqrt(D)),
        ({"scale": 0.0}, 0.0),
        ({"query": torch.zeros(B, H, Q, 0), "key": torch.zeros(B, HK, K, 0)}, 1.0),
    ],
)
def test_scale(given, scale):
    assert ask(**given).scale == scale


def test_offsets():
    assert ask().query_offset == 0
    assert ask(mask=Window(1, 1), query=torch.zeros(B, H, K, D)).query_offset == 0
    assert ask(query_offset=torch.tensor(3)).query_offset.tolist() == [3, 3]
    assert ask(query_offset=torch.tensor([3])).query_offset.tolist() == [3, 3]
    assert ask(query_offset=torch.tensor([3, 4])).query_offset.tolist() == [3, 4]
    assert ask(bias=torch.zeros(Q, K)).query_offset == 0  # its rows are the queries


def test_places():
    at = ask(query_offset=2).places()
    assert at.box == (slice(0, B), slice(0, Q), slice(0, K))
    assert at.query_pos.flatten().tolist() == [2, 3, 4, 5, 6]
    at = ask(query_offset=2).places(Rect(None, 1, 3, 1, 4))  # q0 and q1 count rows here
    assert at.box == (slice(0, B), slice(1, 3), slice(1, 4))
    assert at.query_pos.flatten().tolist() == [3, 4]
    at = ask(query_offset=torch.tensor([0, 3])).places(Rect(1, 1, 3, 0, 2))
    assert at.box == (slice(1, 2), slice(1, 3), slice(0, 2))
    assert (at.batch.flatten().tolist(), at.query_pos.flatten().tolist()) == ([1], [4, 5])


def test_wants_grad():
    learned = torch.zeros(8, H, requires_grad=True)
    call = ask(bias=T5Bias(learned, bidirectional=True), query_offset=0)
    assert (call.wants_grad(), call.wants_bias_grad()) == (False, True)
    call = ask(value=torch.zeros(B, HK, K, DV, requires_grad=True))
    assert (call.wants_grad(), call.wants_bias_grad()) == (True, False)
    with torch.no_grad():
        assert not call.wants_grad()


def test_a_matrix_becomes_four_axes():
    call = ask(bias=torch.zeros(Q, K), mask=torch.ones(Q, K).bool())
    assert isinstance(call.rules.bias, StoredBias)
    assert call.rules.bias.values.shape == (1, 1, Q, K)
    assert call.rules.mask.tensors()[0].shape == (1, 1, Q, K)


def test_the_public_door_checks():
    with pytest.raises(ArgumentError, match="`query` has d_k 11 and `key` has 17"):
        attention(**tensors(key=(B, HK, K, 17)))
    with pytest.raises(ArgumentError, match="`query` has d_k 11 and `key` has 17"):
        explain(**tensors(key=(B, HK, K, 17)))


def test_engines_are_named():
    with pytest.raises(ArgumentError, match=r"(?s)no engine 'fast'.*one of: auto, .*reference"):
        attention(**tensors(), engine="fast")
    long = torch.zeros(1, 1, 2**16, 8, device="meta")
    with pytest.raises(EngineError, match=r"(?s)'reference' cannot run.*65536 x 65536.*16\.0 GiB"):
        attention(long, long, long, engine="reference")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_casts_as_for_torchs_own(dtype):
    q, k, v = (torch.randn(B, H, n, D, dtype=dtype) for n in (Q, K, K))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
        assert autocasts(q.device)
    assert ours.dtype == theirs.dtype
    # torch's kernel rounds the weights to bfloat16 on the way, ours does not
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=2**-7)
    cast = (x.to(ours.dtype) for x in (q, k, v))
    torch.testing.assert_close(ours, attention(*cast, engine="reference"))
    assert not autocasts(q.device) and not autocasts(torch.device("meta"))


def test_explain():
    report = explain(**tensors(), mask=Causal(), query_offset=2)
    assert repr(report) == str(report)
    lines = report.splitlines()
    assert lines[0].startswith("attention of query f32[2, 6, 5, 11] on cpu, key f32[2, 3, 7, 11]")
    assert lines[0].endswith("mask Causal()")
    assert any(line.split()[0] == "reference" for line in lines[2:])
