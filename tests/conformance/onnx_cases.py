"""The cases of the ONNX operators Attention and RotaryEmbedding, as calls of wqkv.

onnx makes them in code, with the outputs that its own numpy reference gives. Here an operator's
inputs and attributes become wqkv's values, and its outputs are what wqkv computes from them.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np
import torch
from onnx import TensorProto, helper
from onnx.backend.test.case import node
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.runner import Runner
from torch import Tensor
from torch.nn.functional import pad

from wqkv import Causal, Dense, Full, Lengths, Window, attention
from wqkv.attend.call import request
from wqkv.attend.engines import reference
from wqkv.attend.masks import Mask
from wqkv.attend.rope import rotate

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def cases(op_type: str) -> dict[str, TestCase]:
    """Return {name: case} of one operator: each is one node with its inputs and expected outputs.

    onnx makes the cases of an operator when its module is imported. onnx's `collect_testcases`
    would import the modules of all operators, which takes seconds.
    """
    import_module(f"{node.__name__}.{op_type.lower()}")
    made = node._NodeTestCases
    return {case.name: case for case in made if case.model.graph.node[0].op_type == op_type}


def attributes(case: TestCase) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in case.model.graph.node[0].attribute}


def inputs(case: TestCase) -> dict[str, np.ndarray]:
    """{name of the node's input: array}; '' stands for an optional input that is left out."""
    names = [name for name in case.model.graph.node[0].input if name]
    return dict(zip(names, case.data_sets[0][0], strict=True))


def run(case: TestCase, engine: str = "auto", dtype: torch.dtype | None = None) -> list[np.ndarray]:
    """The outputs that the case asks for, in its order, by wqkv; in its own dtype or another."""
    given = {name: tensor(array) for name, array in inputs(case).items()}
    if dtype is not None:
        given = {n: x.to(dtype) if x.is_floating_point() else x for n, x in given.items()}
    if case.model.graph.node[0].op_type == "Attention":
        found = run_attention(given, attributes(case), engine)
    else:
        found = {"output": run_rotary(given, attributes(case))}
    return [array(found[name]) for name in case.model.graph.node[0].output if name]


def check(case: TestCase, outputs: list[np.ndarray]) -> None:
    """onnx's own comparison by the case's rtol and atol; it gives bfloat16 two steps, 2^-6."""
    _, expected = case.data_sets[0]
    Runner.assert_similar_outputs(expected, outputs, rtol=case.rtol, atol=case.atol)


def run_attention(given: dict[str, Tensor], had: dict[str, Any], engine: str) -> dict[str, Tensor]:
    q, k, v = given["Q"], given["K"], given["V"]
    flat = q.ndim == 3
    if flat:
        q = heads(q, had["q_num_heads"])
        k, v = heads(k, had["kv_num_heads"]), heads(v, had["kv_num_heads"])
    if "past_key" in given:
        k = torch.cat((given["past_key"], k), dim=2)
        v = torch.cat((given["past_value"], v), dim=2)
    found = {"present_key": k, "present_value": v}
    dtype = q.dtype
    if had.get("softmax_precision") == TensorProto.DOUBLE:  # float32 is what it always has
        q, k, v = q.double(), k.double(), v.double()
    mask, bias, offset = rules(given, had, q.shape[2], k.shape[2])
    kept: dict[str, Any] = {"mask": mask, "bias": bias, "query_offset": offset}
    kept |= {"scale": had.get("scale"), "softcap": had.get("softcap")}
    attend = partial(attention, **kept, engine=engine)

    out = attend(q, k, v)
    found["Y"] = (out.transpose(1, 2).flatten(2) if flat else out).to(dtype)
    if had.get("qk_matmul_output_mode") == 3:  # the weights: attention with the identity as values
        eye = torch.eye(k.shape[2], dtype=k.dtype).expand(*k.shape[:2], -1, -1)
        qk = attend(q, k, eye)
    else:
        qk = scores(had.get("qk_matmul_output_mode", 0), q, k, kept)
    found["qk_matmul_output"] = qk.to(dtype)
    return found


def rules(
    given: dict[str, Tensor], had: dict[str, Any], query_len: int, key_len: int
) -> tuple[Mask, Tensor | None, int | Tensor]:
    """The mask, the bias, and where the first query stands."""
    mask: Mask = Full()
    bias: Tensor | None = None
    offset: int | Tensor = given["past_key"].shape[2] if "past_key" in given else 0
    if "nonpad_kv_seqlen" in given:
        mask = mask & Lengths(given["nonpad_kv_seqlen"])
        offset = given["nonpad_kv_seqlen"] - query_len
    if had.get("is_causal"):
        mask = mask & Causal()
    before, after = (had.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if (before, after) != (-1, -1):  # -1 is no limit
        mask = mask & Window(before if before >= 0 else None, after if after >= 0 else None)
    if "attn_mask" in given:
        stored = given["attn_mask"]
        stored = stored[(None,) * (4 - stored.ndim)]  # it broadcasts from the right
        missing = key_len - stored.shape[3]  # keys beyond a short one are hidden
        if stored.dtype == torch.bool:
            mask = mask & Dense(pad(stored, (0, missing), value=False))
        else:
            bias = pad(stored, (0, missing), value=-torch.inf)
    return mask, bias, offset


def scores(mode: int, q: Tensor, k: Tensor, kept: dict[str, Any]) -> Tensor:
    """q k^T * scale: 0 as it is, 1 capped, 2 also with bias and mask."""
    if mode < 2:
        kept = kept | {"mask": Full(), "bias": None}
    if mode < 1:
        kept = kept | {"softcap": None}
    call = request(q, k, k, **kept, sinks=None, dropout_p=0.0)
    return reference.scores(call, call.places())


def run_rotary(given: dict[str, Tensor], had: dict[str, Any]) -> Tensor:
    x, cos, sin = given["input"], given["cos_cache"], given["sin_cache"]
    flat = x.ndim == 3
    if "position_ids" in given:
        cos, sin = cos[given["position_ids"]], sin[given["position_ids"]]
    x = heads(x, had["num_heads"]) if flat else x
    turned = rotate(x, cos[:, None], sin[:, None], interleaved=bool(had.get("interleaved")))
    return turned.transpose(1, 2).flatten(2) if flat else turned


def heads(x: Tensor, n_head: int) -> Tensor:
    """(batch, length, n_head * d) -> (batch, n_head, length, d)."""
    return x.unflatten(2, (n_head, -1)).transpose(1, 2)


def tensor(array: np.ndarray) -> Tensor:
    if array.dtype == BFLOAT16:  # numpy knows it under a name that torch does not take
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()
