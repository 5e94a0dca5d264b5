"""A model's attention weights, found without wqkv, in a run of their own.

Every softmax that a model calls is heard by name, and of a fused call the weights are computed as
its definition says, in float64. Nothing here follows a tensor or looks at an operator, so what
`watch` shows is compared with something that shares no code and no idea with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

#: What calls a model on its inputs.
Call = Callable[[nn.Module], Any]

SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}


class Heard(NamedTuple):
    """What one softmax gave."""

    name: str  # of the innermost module that ran
    weights: Tensor


def sdpa_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights of F.scaled_dot_product_attention, as its documentation defines them."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.double() @ key.double().mT * scale
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1).nan_to_num()  # a row that may see nothing is 0


class _Softmaxes(TorchFunctionMode):
    """Writes down the weights of every call by name of a softmax or of attention."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            each = {"need_weights": True, "average_attn_weights": False}
            out, weights = func(*args, **(kwargs | each))
            self._note(weights)
            mean = kwargs.get("average_attn_weights", True)
            asked = kwargs.get("need_weights", True)
            return out, (weights.mean(dim=-3) if mean else weights) if asked else None
        out = func(*args, **kwargs)
        if func in SOFTMAX:
            self._note(out)
        elif func is F.scaled_dot_product_attention:
            weights = sdpa_weights(*args, **kwargs)
            value = args[2] if len(args) > 2 else kwargs["value"]
            value = value.repeat_interleave(weights.shape[-3] // value.shape[-3], dim=-3).double()
            rounding = 8 * torch.finfo(out.dtype).eps * float(value.abs().max())
            off = float((weights @ value - out).abs().max())
            assert off <= max(rounding, 1e-4), f"a fused call is not what it is defined as: {off}"
            self._note(weights)
        return out


@contextmanager
def softmaxes(model: nn.Module) -> Iterator[list[Heard]]:
    """Every softmax that the model calls meanwhile, in order.

    The model may take another path than it does by itself (nn.TransformerEncoder leaves its fast
    path), which gives the same weights to rounding, and is no path of `watch`.
    """
    names, running, found = {m: name for name, m in model.named_modules()}, [""], []

    def enter(module: nn.Module, args: Any) -> None:
        if module in names:
            running.append(names[module])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if module in names:
            running.pop()

    def note(weights: Tensor) -> None:
        found.append(Heard(running[-1], weights.detach().clone()))

    handles = [
        hooks.register_module_forward_pre_hook(enter),
        hooks.register_module_forward_hook(leave),
    ]
    try:
        with _Softmaxes(note):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def heard(model: nn.Module, call: Call) -> list[Heard]:
    """The weights of a model in which every softmax is one of attention."""
    with torch.no_grad(), softmaxes(model) as found:
        call(model)
    return found
