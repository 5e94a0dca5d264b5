"""Every ONNX case of Attention and RotaryEmbedding through wqkv, on every engine that can."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from tests.conformance import onnx_cases
from wqkv import Full, RoPE
from wqkv.attend.call import Call
from wqkv.attend.engines import reference
from wqkv.errors import EngineError

ATTENTION = onnx_cases.cases("Attention")
ROTARY = onnx_cases.cases("RotaryEmbedding")
ENGINES = ("auto", "fused", "tiled", "reference")
CAPPED = [name for name, case in ATTENTION.items() if "softcap" in onnx_cases.attributes(case)]
STEPS = {np.dtype(np.float16): 2**-10, onnx_cases.BFLOAT16: 2**-7}  # eps
HALF = [name for name, case in ATTENTION.items() if case.data_sets[0][0][0].dtype in STEPS]


def test_no_case_is_lost():
    assert onnx.__version__ == "1.23.2", "the counts are those of this version"
    assert (len(ATTENTION), len(ROTARY)) == (93, 8)
    assert (len(CAPPED), len(HALF)) == (11, 11)
    assert all(len(case.data_sets) == 1 for case in (ATTENTION | ROTARY).values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str, engine: str):
    case = ATTENTION[name]
    if engine == "fused" and name in CAPPED:
        with pytest.raises(EngineError, match=r"'fused' cannot run this call: .*no softcap"):
            onnx_cases.run(case, engine)
        return
    onnx_cases.check(case, onnx_cases.run(case, engine))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_as_near_to_float64_as_onnx_is(name: str, engine: str):
    case = ATTENTION[name]
    expected = case.data_sets[0][1][0]
    exact = onnx_cases.run(case, "reference", torch.float64)[0]
    ours, theirs = (
        np.abs(y.astype(np.float64) - exact).max()
        for y in (onnx_cases.run(case, engine)[0], expected)
    )
    assert ours <= theirs + STEPS[expected.dtype] / 2 * np.abs(exact).max()


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_embedding(name: str):
    onnx_cases.check(ROTARY[name], onnx_cases.run(ROTARY[name]))


@pytest.mark.parametrize("name", ROTARY)
def test_rope_is_the_node_with_the_caches_of_its_angles(name: str):
    case, had = ROTARY[name], onnx_cases.attributes(ROTARY[name])
    given = onnx_cases.inputs(case)
    d = 2 * given["cos_cache"].shape[-1]
    position = np.tile(np.arange(11, 14), (2, 1))
    if "position_ids" in given:
        position = given["position_ids"]
    rows = np.arange(50) if "position_ids" in given else position
    angle = rows[..., None] * 10000.0 ** -(np.arange(0, d, 2) / d)
    given["cos_cache"] = np.cos(angle).astype(np.float32)
    given["sin_cache"] = np.sin(angle).astype(np.float32)
    (expected,) = ReferenceEvaluator(case.model).run(None, given)

    x = torch.from_numpy(given["input"])
    rope = RoPE(d=d, interleaved=bool(had.get("interleaved")))
    if x.ndim == 3:
        turned = rope.rotate(onnx_cases.heads(x, had["num_heads"]), torch.tensor(position))
        turned = turned.transpose(1, 2).flatten(2)
    else:
        turned = rope.rotate(x, torch.tensor(position))
    onnx_cases.check(replace(case, data_sets=[(None, [expected])], atol=1e-6), [turned.numpy()])


# The comparison can fail


def ruled(call: Call, **others: Any) -> Call:
    """The call with other rules."""
    return replace(call, rules=replace(call.rules, **others))


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        (lambda call: ruled(call, scale=-call.scale), ["test_attention_4d"]),
        (lambda call: ruled(call, scale=1.1 * call.scale), ["test_attention_3d_gqa"]),
        (lambda call: ruled(call, mask=Full()), ["test_attention_4d_causal"]),
        (lambda call: ruled(call, mask=~call.rules.mask), ["test_attention_4d_attn_mask_bool"]),
        (lambda call: ruled(call, bias=None), ["test_attention_4d_attn_mask"]),
        (lambda call: ruled(call, softcap=None), ["test_attention_4d_softcap"]),
        (
            lambda call: ruled(call, query_offset=call.query_offset + 1),
            ["test_attention_4d_causal_with_past_and_present", "test_attention_local_window"],
        ),
        (
            lambda call: replace(call, key=call.key.roll(1, 1), value=call.value.roll(1, 1)),
            ["test_attention_3d", "test_attention_4d_gqa"],
        ),
    ],
    ids=["sign", "scale", "no mask", "polarity", "no bias", "no softcap", "offset", "heads"],
)
def test_a_wrong_engine_fails(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[Call], Call], names: list[str]
):
    right = reference.run
    monkeypatch.setattr(reference, "run", lambda call: right(fault(call)))
    for name in names:
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            onnx_cases.check(ATTENTION[name], onnx_cases.run(ATTENTION[name], "reference"))
