"""One result: a layer gives it in training and in evaluation, on every engine, with gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.test_table import differences, every_engine
from wqkv import Causal, Lengths, MultiheadAttention, RoPE, T5Bias, Window
from wqkv.errors import EngineError

LAYERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "causal": ({"mask": Causal()}, {}),
    "grouped": ({"n_kv_head": 3, "d_k": 7, "d_v": 5, "mask": Window(3, 1)}, {}),
    "rope": ({"position": RoPE(), "d_k": 4}, {"mask": Causal() & Lengths([5, 11])}),
    "t5": ({"position": "t5"}, {"mask": ~Lengths([4, 0])}),
    "no WO": ({"WO": False, "bias": ("WQ",)}, {"mask": Lengths([0, 11])}),
}


def layer_results(
    engine: str, name: str, dtype: torch.dtype, training: bool, seed: int = 3
) -> dict[str, Tensor]:
    made, called = LAYERS[name]
    torch.manual_seed(seed)
    if made.get("position") == "t5":
        table = torch.nn.Parameter(torch.randn(8, 6))
        made = made | {"position": T5Bias(table, bidirectional=True, max_distance=9)}
    layer = MultiheadAttention(42, 6, **made, engine=engine).to(dtype).train(training)
    Q = torch.randn(2, 11, 42).to(dtype).requires_grad_()
    out = layer(Q, **called)
    leaves = {"Q": Q, **dict(layer.named_parameters())}
    up = torch.randn(out.shape).to(dtype)
    gradients = torch.autograd.grad(out, list(leaves.values()), up)
    return {"out": out.detach()} | dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
@every_engine
def test_layer(engine: str, name: str, training: bool) -> None:
    """All its matrices' gradients; those of a bias that cancels (WK's) included."""
    same, exact = (
        layer_results("reference", name, t, False) for t in (torch.float32, torch.float64)
    )
    try:
        ours = layer_results(engine, name, torch.float32, training)
    except EngineError as error:
        assert engine in str(error) and "no gradient for a bias" in str(error)
        assert (engine, name) == ("fused", "t5")
    else:
        assert not differences(ours, same, exact)
