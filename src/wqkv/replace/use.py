"""Run transformers models on attention(): `use(model)`, or `set_attn_implementation("wqkv")`.

Importing this module registers the name "wqkv" with transformers, for attention and for masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from wqkv.attend.call import call_of
from wqkv.attend.engines import reference
from wqkv.attend.functional import attend
from wqkv.attend.masks import Causal, Dense, Full, Mask, Segments
from wqkv.attend.rules import Rules, as_bias
from wqkv.errors import EngineError, KindError, describe, message
from wqkv.named_attention import attention_like
from wqkv.record.arguments import unknown
from wqkv.replace.carried_mask import Carried, request_mask
from wqkv.upstream import of_transformers as upstream
from wqkv.wrappers import unwrapped

#: The name of our attention in `set_attn_implementation`.
NAME = "wqkv"
Model = TypeVar("Model", bound=nn.Module)


def use(model: Model) -> Model:
    """Switch a transformers model to attention(), and return it.

    `set_attn_implementation("sdpa")` of the model switches it back. A query that may see no key (a
    padded token) has output 0, where transformers' eager path averages over all tokens. The weights
    of output_attentions=True are computed beside it, N x N, before dropout. Heads may be shared by
    ranks (tensor parallelism). Tokens may not, because a model makes masks for the tokens it gets.

    Args:
        model: a transformers model, also inside PEFT, torch.compile or data parallelism.

    Raises:
        KindError: it is no transformers model.
        EngineError: the model is not supported, because some of its attention does not go through
            transformers' interface. Where only its code tells, the first forward raises.

    Source: https://huggingface.co/docs/transformers/attention_interface

    >>> from transformers import LlamaConfig, LlamaModel
    >>> sizes = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24}
    >>> model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
    >>> use(model)(torch.tensor([[3, 5, 7]])).last_hidden_state.shape
    torch.Size([1, 3, 16])
    """
    whole: Any = unwrapped(model) if isinstance(model, nn.Module) else model
    if not isinstance(whole, upstream.PreTrainedModel):
        raise KindError(
            f"`model` is a transformers model, not a {type(whole).__name__}.\n"
            "`wqkv.convert(model)` replaces every nn.MultiheadAttention of a model of torch; "
            "`wqkv.watch(model)` looks at the attention of any."
        )
    parts: list[Any] = [m for m in whole.modules() if isinstance(m, upstream.PreTrainedModel)]
    if fixed := sorted({type(m).__name__ for m in parts if not upstream.can_switch(m)}):
        raise EngineError(
            f"{type(whole).__name__} cannot run on wqkv: the attention of {', '.join(fixed)} does "
            "not go through transformers' AttentionInterface.\n"
            "`wqkv.watch(model)` looks at it as it is; `wqkv.convert(model)` replaces "
            "nn.MultiheadAttention alone."
        )
    whole.set_attn_implementation(NAME)
    _Check(whole)
    return model


class _Check:
    """Checks that all attention of a model goes through `run`, until every module has run once."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._came, self._ran = set[nn.Module](), set[nn.Module]()
        self._hooks = [model.register_forward_hook(self._end)]
        self._left = attention_like(model)
        self._hooks += [module.register_forward_hook(self._after) for module in self._left]
        _CHECKS.add(self)  # a weak set: the hooks keep this check alive as long as the model

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
            # The module around it may call the interface for it, or a module inside it.
            name = f"{self._names[module]}."
            if not any(name.startswith(other) or other.startswith(name) for other in came):
                silent.append(f"{self._names[module]} ({type(module).__name__})")
        here = config._attn_implementation == NAME
        if here and (silent or not came):
            what = ", ".join(sorted(silent)) or "all its modules"
            raise EngineError(
                f"{type(model).__name__} does not run on wqkv: its code computes the attention of "
                f"{what} without asking transformers' AttentionInterface for a function.\n"
                'Switch back with `set_attn_implementation("eager")`; '
                f'`set_attn_implementation("{NAME}")` switches the rest all the same. '
                "`wqkv.watch(model)` looks at all of it, and `wqkv.convert(model)` replaces "
                "nn.MultiheadAttention alone."
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
    **others: Any,  # by the names of each model's own code
) -> tuple[Tensor, Tensor | None]:
    """transformers' interface for attention: the output (batch, query_len, n_head, d_v), and P.

    The weights P are None unless `output_attentions` asks for them.

    Raises:
        EngineError, KindError: an argument, or a mask, is not understood.
    """
    if not torch.compiler.is_compiling():
        for check in tuple(_CHECKS):
            check.comes(module)
    _refuse_unknown(module, others)
    mask, bias, offset = _read_mask(module, query, key, attention_mask, is_causal)
    if attention_mask is None and sliding_window is not None and sliding_window < key.shape[2]:
        raise EngineError(  # with a mask, the window is in it
            f"wqkv cannot run {type(module).__name__}: its `sliding_window` {sliding_window} is "
            f"shorter than its {key.shape[2]} keys, and there is no mask that says how.\n"
            "Run the model that it is a part of."
        )
    ends_q = cu_seq_lens_k if cu_seq_lens_q is None else cu_seq_lens_q
    ends_k = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
    if ends_q is not None and ends_k is not None:
        mask = mask & _packed_texts(module, query, key, ends_q, ends_k)
    if position_bias is not None:
        bias = position_bias if bias is None else bias + position_bias
    if query.shape[0] != key.shape[0]:  # learned queries, one set for all samples
        query = query.expand(key.shape[0], -1, -1, -1)
    sinks = s_aux if sinks is None else sinks
    # Sinks that differ between queries, (batch, n_head, query_len, 1), are merged afterwards.
    by_query, sinks = (sinks, None) if sinks is not None and sinks.ndim == 4 else (None, sinks)
    rules = Rules(mask, as_bias(bias), scaling, softcap, sinks, dropout, offset)
    part = attend(query, key, value, rules)
    out, weights = part.out, None
    if _asks_for_weights(module, others.get("output_attentions")):
        weights = _weights(module, query, key, rules)
    if by_query is not None:
        share = torch.sigmoid(part.lse.unsqueeze(-1) - by_query).to(out.dtype)
        out, weights = out * share, None if weights is None else weights * share
    return out.transpose(1, 2).contiguous(), weights


def _asks_for_weights(module: nn.Module, output_attentions: object) -> bool:
    """Whether weights are asked for: in the call, in the configuration, or of the model alone.

    Not all models hand `output_attentions` on; transformers keeps what they collect in a variable.
    """
    config = getattr(module, "config", None)
    if output_attentions or getattr(config, "output_attentions", False):
        return True
    if torch.compiler.is_compiling():
        return False
    return any("attentions" in name for name in upstream.active_collector.get() or ())


def _weights(module: nn.Module, query: Tensor, key: Tensor, rules: Rules) -> Tensor:
    """The N x N weights of a call, in the dtype of the model, with gradients."""
    call = call_of(query, key, key, replace(rules, dropout_p=0.0))
    if reasons := reference.reasons_against(call):
        raise EngineError(
            f"`output_attentions` asks {type(module).__name__} for all weights: {reasons[0]} GiB.\n"
            "Look at them with wqkv.watch(model), which never builds the matrix."
        )
    return reference.steps(call, call.places()).weights.to(query.dtype)


# `others`: keyword arguments of a foreign call.
def _refuse_unknown(module: nn.Module, others: Mapping[str, object]) -> None:
    """Raise for arguments that may change the result in a way that is not known here."""
    if found := unknown(others):
        names = ", ".join(f"`{name}`" for name in found)
        raise EngineError(
            message(
                f"wqkv cannot run {type(module).__name__}: it does not know what {names} does.",
                {name: others[name] for name in found},
                'Run this model with `set_attn_implementation("eager")`.',
            )
        )


def _read_mask(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    given: Tensor | None,
    is_causal: bool | None,
) -> tuple[Mask, Tensor | None, int]:
    """The mask of a call, or a bias in its place, and where its query 0 stands among the keys."""
    query_len, key_len = query.shape[2], key.shape[2]
    if given is None:  # as in transformers' own functions, queries stand at the first keys
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return (Causal() if causal and query_len > 1 else Full()), None, 0
    if not isinstance(given, Tensor) or given.ndim != 4:
        raise KindError(
            f"wqkv cannot run {type(module).__name__}: its `attention_mask` is "
            f"{describe(given)}, not a tensor (batch, head, query, key)."
        )
    if given.shape[3] > key_len:  # one mask was made for the longest cache of several layers
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
        return given.requested.mask, None, given.requested.offset
    if given.dtype == torch.bool:
        return Dense(given), None, 0
    return Full(), given, 0


def _packed_texts(
    module: nn.Module, query: Tensor, key: Tensor, ends_q: Tensor, ends_k: Tensor
) -> Mask:
    """The mask of packed texts, from their cumulative lengths: 0, n, n + m, ..."""
    labels = []
    for ends, x in ((ends_q, query), (ends_k, key)):
        lengths = ends.cpu().diff()
        if len(x) != 1 or int(lengths.sum()) != x.shape[2]:
            raise EngineError(
                message(
                    f"wqkv cannot run {type(module).__name__}: its packed texts have "
                    f"{int(lengths.sum())} tokens, and there are {len(x)} x {x.shape[2]}.",
                    {"cu_seq_lens_q": ends_q, "cu_seq_lens_k": ends_k, "query": query, "key": key},
                    "Pass the texts in one row, without a cache.",
                )
            )
        labels.append(torch.arange(len(lengths), device="cpu").repeat_interleave(lengths)[None])
    return Segments(labels[1], None if torch.equal(*labels) else labels[0])


upstream.AttentionInterface.register(NAME, run)
upstream.AttentionMaskInterface.register(NAME, request_mask)
