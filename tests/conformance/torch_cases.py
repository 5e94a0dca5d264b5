"""The inputs with which torch tests its own attention, as calls of wqkv and of torch.

OpInfo samples of scaled_dot_product_attention and multi_head_attention_forward, and the ModuleInfo
inputs of nn.MultiheadAttention. torch's bool masks of the latter say True = hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, pad, scaled_dot_product_attention
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleInput, module_db
from torch.testing._internal.opinfo.core import SampleInput

from wqkv import Causal, Full, MultiheadAttention, attention
from wqkv.attend.positions import StoredBias


def as_dtype(sample: SampleInput, dtype: torch.dtype) -> tuple[SampleInput, list[Tensor]]:
    """A copy of the sample in another dtype, and its tensors, all of which want a gradient."""
    copy = sample.transform(lambda x: x.to(dtype, copy=True).requires_grad_())
    every = (copy.input, *copy.args, *copy.kwargs.values())
    return copy, [x for x in every if isinstance(x, Tensor)]


@cache
def samples(name: str) -> list[SampleInput]:
    """The samples of one operator, in float64; the same in every run."""
    (info,) = (op for op in op_db if op.name == f"nn.functional.{name}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return list(info.sample_inputs("cpu", torch.float64))


@cache
def module_inputs() -> list[ModuleInput]:
    (info,) = (info for info in module_db if info.module_cls is nn.MultiheadAttention)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return info.module_inputs_func(info, "cpu", torch.float64, False, training=True)


# scaled_dot_product_attention


def sdpa(sample: SampleInput, dropout_p: float = 0.0) -> Tensor:
    """torch's own answer, by its plainest path."""
    with sdpa_kernel(SDPBackend.MATH):
        given = sample.kwargs | {"dropout_p": dropout_p}
        return scaled_dot_product_attention(sample.input, *sample.args, **given)


def attend(sample: SampleInput, engine: str, dropout_p: float = 0.0) -> Tensor:
    q, k, v = sample.input, *sample.args
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k, v = (x.expand(*lead, -1, -1).reshape(lead[0], -1, *x.shape[-2:]) for x in (q, k, v))
    out = attention(
        q,
        k,
        v,
        mask=Causal() if sample.kwargs["is_causal"] else Full(),
        bias=sample.kwargs.get("attn_mask"),
        query_offset=0,  # torch's is_causal is aligned at the upper left
        dropout_p=dropout_p,
        engine=engine,
    )
    return out.reshape(*lead, *out.shape[-2:])


# nn.MultiheadAttention, and the function inside it


@dataclass
class Projected:
    """What both come to: matrices, words, and rows which are added to k and v."""

    n_head: int
    matrices: dict[str, Tensor | None]  # by the names of wqkv's parameters
    words: list[Tensor]  # Q, K, V: (batch, length, d_model)
    added_k: list[Tensor] = field(default_factory=list)  # (d_model,)
    added_v: list[Tensor] = field(default_factory=list)
    visible: Tensor | None = None  # bool
    bias: Tensor | None = None

    def run(self, engine: str) -> tuple[Tensor, Tensor]:
        """The output, and the weights (batch, n_head, query_len, key_len) of the trace."""
        matrices = {name: x for name, x in self.matrices.items() if x is not None}
        added = len(self.added_k)  # every query sees these, without a bias
        layer = MultiheadAttention(
            self.words[0].shape[-1],
            self.n_head,
            position=None if self.bias is None else StoredBias(pad(self.bias, (0, added))),
            bias=[name[:2] for name in matrices if name.endswith("bias")],
            engine=engine,
            dtype=self.words[0].dtype,
        )
        layer.WK.register_forward_hook(_append(self.added_k))
        layer.WV.register_forward_hook(_append(self.added_v))
        given = {}
        if self.visible is not None:
            given["mask"] = pad(self.visible, (0, added), value=True)
        output = functional_call(layer, matrices, tuple(self.words), given)
        named = {f"layer.{name}": x for name, x in matrices.items()}
        return output, functional_call(_Weights(layer), named, tuple(self.words), given)


def _append(rows: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """More keys or values behind a projection: the matrices are modules, and are called."""

    def hook(module: nn.Module, given: Any, x: Tensor) -> Tensor:
        return torch.cat((x, *(row.expand(len(x), 1, -1) for row in rows)), dim=1)

    return hook


class _Weights(nn.Module):
    def __init__(self, layer: MultiheadAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *words: Tensor, **given: Tensor) -> Tensor:
        return self.layer.trace(*words, **given).weights


def mha_by_torch(sample: SampleInput) -> list[Tensor]:
    """Output and weights by torch's function, without dropout."""
    given = sample.kwargs | {"training": False, "average_attn_weights": False}
    return list(multi_head_attention_forward(sample.input, *sample.args, **given))


def mha(sample: SampleInput, engine: str) -> list[Tensor]:
    """The same by wqkv, laid out as torch does."""
    K, V, _, n_head, packed, bias, bias_k, bias_v, zero, _, WO, WO_bias = sample.args
    given = sample.kwargs
    assert not zero
    separate = [given[f"{name}_proj_weight"] for name in "qkv"]
    weights = separate if given["use_separate_proj_weight"] else packed.chunk(3)
    batched = sample.input.ndim == 3  # (length, batch, d_model)
    words = [x.transpose(0, 1) if batched else x[None] for x in (sample.input, K, V)]
    mask = given["attn_mask"]
    if mask is not None:  # (query, key) or (batch * n_head, query, key)
        mask = mask.reshape(
            -1 if mask.ndim == 3 else 1, n_head if mask.ndim == 3 else 1, *mask.shape[-2:]
        )
    output, weights = Projected(
        n_head, matrices(weights, bias, WO, WO_bias), words, [bias_k], [bias_v], bias=mask
    ).run(engine)
    return [output.transpose(0, 1), weights] if batched else [output[0], weights[0]]


def module(case: ModuleInput, dtype: torch.dtype) -> tuple[nn.MultiheadAttention, list[Tensor]]:
    """torch's module, no bias of which is 0 by chance, and its words."""
    made = nn.MultiheadAttention(**case.constructor_input.kwargs, dtype=dtype)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in made.parameters():
            parameter.normal_()
    return made, [x.to(dtype, copy=True).requires_grad_() for x in case.forward_input.args]


def module_by_wqkv(
    made: nn.MultiheadAttention, words: list[Tensor], masks: dict[str, Tensor | None], engine: str
) -> list[Tensor]:
    """Output and weights for unbatched words, (length, d_model)."""
    assert made.in_proj_weight is not None
    visible = None
    for mask in masks.values():  # (key,), or (n_head, query, key)
        if mask is not None:
            seen = ~mask[None, None, None] if mask.ndim == 1 else ~mask[None]
            visible = seen if visible is None else visible & seen
    added_k = [] if made.bias_k is None else [made.bias_k]
    added_v = [] if made.bias_v is None else [made.bias_v]
    if made.add_zero_attn:
        added_k.append(torch.zeros_like(made.in_proj_weight[0]))
        added_v.append(added_k[-1])
    out = made.out_proj
    named = matrices(made.in_proj_weight.chunk(3), made.in_proj_bias, out.weight, out.bias)
    batch = [x[None] for x in words]
    output, weights = Projected(
        made.num_heads, named, batch, added_k, added_v, visible=visible
    ).run(engine)
    return [output[0], weights[0]]


def matrices(
    weights: Sequence[Tensor], bias: Tensor | None, WO: Tensor, WO_bias: Tensor | None
) -> dict[str, Tensor | None]:
    WQ, WK, WV = weights
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    found: dict[str, Tensor | None] = {"WQ.weight": WQ, "WK.weight": WK, "WV.weight": WV}
    found |= {f"{name}.bias": x for name, x in zip(("WQ", "WK", "WV"), biases, strict=True)}
    return found | {"WO.weight": WO, "WO.bias": WO_bias}
