"""Run transformers models on attention(): `use(model)`, or `set_attn_implementation("wqkv")`.

Importing this module registers the name "wqkv" with transformers, for attention and for masks.
"""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from wqkv.attend.call import request
from wqkv.attend.engines import reference
from wqkv.attend.functional import attention
from wqkv.attend.masks import Causal, Dense, Full, Mask, Segments
from wqkv.errors import EngineError, KindError, describe, message
from wqkv.record.arguments import unknown
from wqkv.record.modules import attention_like
from wqkv.replace.carried_mask import Carried, ask
from wqkv.upstream import of_transformers as upstream
from wqkv.wrappers import unwrapped

#: The name that models know it by.
NAME = "wqkv"
Model = TypeVar("Model", bound=nn.Module)


def use(model: Model) -> Model:
    """Switch a transformers model to attention(), and return it.

    `set_attn_implementation("sdpa")` of the model switches it back. A query that may see no key (a
    padded word) has output 0, where transformers' eager path averages over all words. The weights
    of output_attentions=True are computed beside it, N x N, before dropout. Heads may be shared by
    ranks (tensor parallelism), words may not: a model makes the masks of the words that it gets.

    Args:
        model: it, or it inside PEFT, torch.compile or data parallelism.

    Raises:
        KindError: it is no transformers model.
        EngineError: some of its attention does not go through transformers' interface. Where only
            its code tells, the first forward raises.

    Source: https://huggingface.co/docs/transformers/attention_interface

    >>> from transformers import LlamaConfig, LlamaModel
    >>> sizes = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24}
    >>> model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
    >>> use(model)(torch.tensor([[3, 5, 7]])).last_hidden_state.shape
    torch.Size([1, 3, 16])
    """
    whole: Any = unwrapped(model) if isinstance(model, nn.Module) else model
    if not isinstance(whole, upstream.PreTrainedModel):
        raise KindError(f"`model` is a transformers model, not a {type(whole).__name__}.")
    parts: list[Any] = [m for m in whole.modules() if isinstance(m, upstream.PreTrainedModel)]
    if fixed := sorted({type(m).__name__ for m in parts if not upstream.can_switch(m)}):
        raise EngineError(
            f"{type(whole).__name__} cannot run on wqkv: the attention of {', '.join(fixed)} does "
            "not go through transformers' AttentionInterface."
        )
    whole.set_attn_implementation(NAME)
    _Check(whole)
    return model


class _Check:
    """Sees to it that all attention of a model comes here, each module the first time it runs."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._came, self._ran = set[nn.Module](), set[nn.Module]()
        self._hooks = [model.register_forward_hook(self._end)]
        self._left = attention_like(model)
        self._hooks += [module.register_forward_hook(self._after) for module in self._left]
        _CHECKS.add(self)  # as long as the model is: its hooks hold it

    def comes(self, module: nn.Module) -> None:
        """A module has called `run`."""
        if module in self._names:
            self._came.add(module)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self._ran.add(module)

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        config: Any = model.config
        came = [f"{self._names[module]}." for module in self._came]
        silent = []
        for module in self._ran:
            name = f"{self._names[module]}."  # a module around it may call for it, or one inside
            if not any(name.startswith(other) or other.startswith(name) for other in came):
                silent.append(f"{self._names[module]} ({type(module).__name__})")
        here = config._attn_implementation == NAME
        if here and (silent or not came):
            what = ", ".join(sorted(silent)) or "all its modules"
            raise EngineError(
                f"{type(model).__name__} does not run on wqkv: its code computes the attention of "
                f"{what} without asking transformers' AttentionInterface for a function.\n"
                'Switch back with `set_attn_implementation("eager")`; '
                f'`set_attn_implementation("{NAME}")` switches the rest all the same.'
            )
        self._left -= self._ran
        if not self._left or not here:
            _CHECKS.discard(self)
            for hook in self._hooks:
                hook.remove()


_CHECKS: WeakSet[_Check] = WeakSet()


def run(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sinks: Tensor | None = None,
    position_bias: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: out (batch, query_len, n_head, d_v), and the weights.

    They are None unless `output_attentions` asks for them.
    """
    if not torch.compiler.is_compiling():
        for check in tuple(_CHECKS):
            check.comes(module)
    _refuse(module, others)
    mask, bias, offset = _rules(module, query, key, attention_mask, is_causal)
    if attention_mask is None and sliding_window is not None and sliding_window < key.shape[2]:
        raise EngineError(  # with a mask, the window is in it
            f"wqkv cannot run {type(module).__name__}: its `sliding_window` {sliding_window} is "
            f"shorter than its {key.shape[2]} keys, and there is no mask that says how.\n"
            "Run the model that it is a part of."
        )
    ends_q = cu_seq_lens_k if cu_seq_lens_q is None else cu_seq_lens_q
    ends_k = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
    if ends_q is not None and ends_k is not None:
        mask = mask & _texts(module, query, key, ends_q, ends_k)
    if position_bias is not None:
        bias = position_bias if bias is None else bias + position_bias
    if query.shape[0] != key.shape[0]:  # learned queries, one set for all samples
        query = query.expand(key.shape[0], -1, -1, -1)
    sinks = s_aux if sinks is None else sinks
    a_query = sinks is not None and sinks.ndim == 4  # (batch, n_head, query_len, 1)
    given: dict[str, Any] = {
        "mask": mask,
        "bias": bias,
        "scale": scaling,
        "softcap": softcap,
        "sinks": None if a_query else sinks,
        "query_offset": offset,
    }
    part = attention(query, key, value, **given, dropout_p=dropout, return_lse=True)
    out = part.out
    weights = _weights(module, query, key, given) if _asks(module, others) else None
    if a_query and sinks is not None:
        share = torch.sigmoid(part.lse.unsqueeze(-1) - sinks).to(out.dtype)
        out, weights = out * share, None if weights is None else weights * share
    return out.transpose(1, 2).contiguous(), weights


def _asks(module: nn.Module, others: dict[str, Any]) -> bool:
    """Whether weights are asked for: in the call, in the configuration, or of the model alone.

    Not all models hand `output_attentions` on; transformers keeps what they collect in a variable.
    """
    config = getattr(module, "config", None)
    if others.get("output_attentions") or getattr(config, "output_attentions", False):
        return True
    if torch.compiler.is_compiling():
        return False
    return any("attentions" in name for name in upstream.active_collector.get() or ())


def _weights(module: nn.Module, query: Tensor, key: Tensor, given: dict[str, Any]) -> Tensor:
    """The N x N weights of a call, in the dtype of the model, with gradients."""
    call = request(query, key, key, **given)
    if reasons := reference.reasons_against(call):
        raise EngineError(
            f"`output_attentions` asks {type(module).__name__} for all weights: {reasons[0]} GiB.\n"
            "Look at them with wqkv.watch(model), which never builds the matrix."
        )
    return reference.steps(call, call.places()).weights.to(query.dtype)


def _refuse(module: nn.Module, others: dict[str, Any]) -> None:
    """Raise for arguments that may change the result in a way that is not known here."""
    if found := unknown(others):
        names = ", ".join(f"`{name}`" for name in found)
        raise EngineError(
            message(
                f"wqkv cannot run {type(module).__name__}: it does not know what {names} does.",
                found,
                'Run this model with `set_attn_implementation("eager")`.',
            )
        )


def _rules(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    given: Tensor | None,
    is_causal: bool | None,
) -> tuple[Mask, Tensor | None, int]:
    """The mask, a bias that came in its place, and where the queries stand among the keys."""
    query_len, key_len = query.shape[2], key.shape[2]
    if given is None:  # as transformers' own: queries stand at the first keys
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return (Causal() if causal and query_len > 1 else Full()), None, 0
    if not isinstance(given, Tensor) or given.ndim != 4:
        raise KindError(
            f"wqkv cannot run {type(module).__name__}: its `attention_mask` is "
            f"{describe(given)}, not a tensor (batch, head, query, key)."
        )
    if given.shape[3] > key_len:  # made for the longest cache of several layers
        given = given[..., :key_len]
    if given.shape[3] not in (1, key_len) or given.shape[2] not in (1, query_len):
        raise EngineError(
            message(
                f"wqkv cannot run {type(module).__name__}: its mask is made for other lengths.",
                {"attention_mask": given, "query": query, "key": key},
                'Run this model with `set_attn_implementation("eager")`.',
            )
        )
    if isinstance(given, Carried):
        return given.asked.mask, None, given.asked.offset
    if given.dtype == torch.bool:
        return Dense(given), None, 0
    return Full(), given, 0


def _texts(module: nn.Module, query: Tensor, key: Tensor, ends_q: Tensor, ends_k: Tensor) -> Mask:
    """Packed texts from where each ends: 0, the first one's length, and so on."""
    labels = []
    for ends, x in ((ends_q, query), (ends_k, key)):
        lengths = ends.cpu().diff()
        if len(x) != 1 or int(lengths.sum()) != x.shape[2]:
            raise EngineError(
                message(
                    f"wqkv cannot run {type(module).__name__}: its packed texts have "
                    f"{int(lengths.sum())} words, and there are {len(x)} x {x.shape[2]}.",
                    {"cu_seq_lens_q": ends_q, "cu_seq_lens_k": ends_k, "query": query, "key": key},
                    "Pass the texts in one row, without a cache.",
                )
            )
        labels.append(torch.arange(len(lengths), device="cpu").repeat_interleave(lengths)[None])
    return Segments(labels[1], None if torch.equal(*labels) else labels[0])


upstream.AttentionInterface.register(NAME, run)
upstream.AttentionMaskInterface.register(NAME, ask)
