"""The inputs with which torch tests its own attention, as calls of wqkv and of torch.

OpInfo samples of scaled_dot_product_attention and multi_head_attention_forward, and the ModuleInfo
inputs of nn.MultiheadAttention. torch's bool masks of the latter say True = hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, pad, scaled_dot_product_attention
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.opinfo.core import SampleInput

from wqkv import Causal, Full, MultiheadAttention, attention
from wqkv.attend.bias import StoredBias


@cache
def samples(name: str) -> list[SampleInput]:
    """The OpInfo samples of one operator in float64, the same in every run."""
    (info,) = (op for op in op_db if op.name == f"nn.functional.{name}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return list(info.sample_inputs("cpu", torch.float64))


def as_dtype(sample: SampleInput, dtype: torch.dtype) -> tuple[SampleInput, list[Tensor]]:
    """A copy in another dtype, and its float tensors, which all want a gradient."""
    copy = floats(sample, lambda x: x.to(dtype, copy=True).requires_grad_())
    every = (copy.input, *copy.args, *copy.kwargs.values())
    return copy, [x for x in every if isinstance(x, Tensor) and x.is_floating_point()]


def floats(sample: SampleInput, change: Callable[[Tensor], Tensor]) -> SampleInput:
    return sample.transform(lambda x: change(x) if x.is_floating_point() else x)


# scaled_dot_product_attention


def sdpa(sample: SampleInput) -> tuple[Tensor, None]:
    """torch's own answer without dropout, by its plainest path."""
    with sdpa_kernel(SDPBackend.MATH):
        out = scaled_dot_product_attention(sample.input, *sample.args, **_rules(sample))
    return out, None


def sdpa_fused(sample: SampleInput) -> tuple[Tensor, None]:
    """The same by torch's fused kernel, which takes four axes and has no gradient for a mask."""
    rules = _rules(sample)
    if (mask := rules.get("attn_mask")) is not None:
        rules["attn_mask"] = mask.detach()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return _four_axes(sample, partial(scaled_dot_product_attention, **rules)), None


def attend(sample: SampleInput, engine: str, dropout_p: float = 0.0) -> tuple[Tensor, None]:
    mask = Causal() if sample.kwargs["is_causal"] else Full()
    bias = sample.kwargs.get("attn_mask")
    given = {"mask": mask, "bias": bias, "dropout_p": dropout_p, "engine": engine}
    # torch's is_causal is aligned at the upper left
    return _four_axes(sample, partial(attention, **given, query_offset=0)), None


def _rules(sample: SampleInput) -> dict[str, Any]:
    return sample.kwargs | {"dropout_p": 0.0}


def _four_axes(sample: SampleInput, call: Callable[..., Tensor]) -> Tensor:
    q, k, v = sample.input, *sample.args
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    out = call(*(x.expand(*lead, -1, -1).reshape(lead[0], -1, *x.shape[-2:]) for x in (q, k, v)))
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
        weights = functional_call(_Weights(layer), named, tuple(self.words), given)
        return output, weights.to(output.dtype)  # ours stay in float32


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


def mha_by_torch(sample: SampleInput) -> tuple[Tensor, Tensor]:
    """Output and weights by torch's function, without dropout."""
    given = sample.kwargs | {"training": False, "average_attn_weights": False}
    return multi_head_attention_forward(sample.input, *sample.args, **given)


def mha_fused(sample: SampleInput) -> tuple[Tensor, None]:
    """The same by torch's fused kernel, which has no weights and no gradient for a mask."""
    given = sample.kwargs | {"training": False, "need_weights": False}
    if (mask := given["attn_mask"]) is not None:
        given["attn_mask"] = mask.detach()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return multi_head_attention_forward(sample.input, *sample.args, **given)


def mha(sample: SampleInput, engine: str) -> tuple[Tensor, Tensor]:
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
    return (output.transpose(0, 1), weights) if batched else (output[0], weights[0])


@cache
def module_samples() -> list[SampleInput]:
    """The ModuleInfo inputs with the module's parameters as more arguments, none of them 0."""
    (info,) = (info for info in module_db if info.module_cls is nn.MultiheadAttention)
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for case in info.module_inputs_func(info, "cpu", torch.float64, False, training=True):
            made = nn.MultiheadAttention(**case.constructor_input.kwargs, dtype=torch.float64)
            Q, *words = case.forward_input.args
            parameters = [torch.randn_like(x) for x in made.parameters()]
            given = case.forward_input.kwargs | {"module": made}
            found.append(SampleInput(Q, args=(*words, *parameters), kwargs=given))
    return found


def module_by_torch(
    sample: SampleInput, **options: bool
) -> tuple[Tensor, Tensor] | tuple[Tensor, None]:
    made, (K, V, *parameters) = sample.kwargs["module"], sample.args
    named = dict(zip(dict(made.named_parameters()), parameters, strict=True))
    given = {name: sample.kwargs[name] for name in ("key_padding_mask", "attn_mask")} | options
    return functional_call(made, named, (sample.input, K, V), given)


def module_by_wqkv(sample: SampleInput, engine: str) -> tuple[Tensor, Tensor]:
    """Output and weights for unbatched words, (length, d_model)."""
    made, (K, V, *parameters) = sample.kwargs["module"], sample.args
    named = dict(zip(dict(made.named_parameters()), parameters, strict=True))
    visible = None
    for name in ("key_padding_mask", "attn_mask"):  # (key,), and (n_head, query, key)
        if sample.kwargs[name] is not None:
            mask = sample.kwargs[name]
            seen = ~(mask[None] if mask.ndim == 3 else mask[None, None, None])
            visible = seen if visible is None else visible & seen
    added_k, added_v = ([named[x][0, 0]] if x in named else [] for x in ("bias_k", "bias_v"))
    if made.add_zero_attn:
        zero = sample.input.new_zeros(made.embed_dim)
        added_k, added_v = [*added_k, zero], [*added_v, zero]
    output, weights = Projected(
        made.num_heads,
        matrices(
            named["in_proj_weight"].chunk(3),
            named.get("in_proj_bias"),
            named["out_proj.weight"],
            named.get("out_proj.bias"),
        ),
        [x[None] for x in (sample.input, K, V)],
        added_k,
        added_v,
        visible=visible,
    ).run(engine)
    return output[0], weights[0]


def matrices(
    weights: Sequence[Tensor], bias: Tensor | None, WO: Tensor, WO_bias: Tensor | None
) -> dict[str, Tensor | None]:
    WQ, WK, WV = weights
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    found: dict[str, Tensor | None] = {"WQ.weight": WQ, "WK.weight": WK, "WV.weight": WV}
    found |= {f"{name}.bias": x for name, x in zip(("WQ", "WK", "WV"), biases, strict=True)}
    return found | {"WO.weight": WO, "WO.bias": WO_bias}
