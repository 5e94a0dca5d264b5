"""Run transformers models on attention(): `use(model)`, or `set_attn_implementation("wqkv")`.

Importing this module registers the name "wqkv" with transformers, for attention and for masks.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wqkv.attend.functional import attention
from wqkv.attend.masks import Causal, Dense, Full, Mask, Segments
from wqkv.errors import EngineError, KindError, describe, message
from wqkv.look.asked import Carried, ask
from wqkv.upstream import of_transformers as upstream

#: The name that models know it by.
NAME = "wqkv"
#: What layers hand on although attention does not depend on it: positions are already in q and k,
#: packed texts are already in the mask, and the rest is about what is returned.
WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "deterministic",
        "labels",
        "layer_idx",
        "logits_to_keep",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "token_type_ids",
        "use_cache",
    }
)
Model = TypeVar("Model", bound=nn.Module)


def use(model: Model) -> Model:
    """Switch a transformers model to attention(), and return it.

    `model.set_attn_implementation("sdpa")` switches it back. A query that may see no key (a padded
    word) has output 0, where transformers' eager path averages over all words. Heads may be shared
    by ranks (tensor parallelism), words may not: a model makes the masks of the words that it gets.

    Raises:
        KindError: it is no transformers model.
        EngineError: some of its attention does not go through transformers' interface.

    Source: https://huggingface.co/docs/transformers/attention_interface

    >>> from transformers import LlamaConfig, LlamaModel
    >>> sizes = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24}
    >>> model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
    >>> use(model)(torch.tensor([[3, 5, 7]])).last_hidden_state.shape
    torch.Size([1, 3, 16])
    """
    if not isinstance(model, upstream.PreTrainedModel):
        raise KindError(f"`model` is a transformers model, not a {type(model).__name__}.")
    parts: list[Any] = [m for m in model.modules() if isinstance(m, upstream.PreTrainedModel)]
    if fixed := sorted({type(m).__name__ for m in parts if not upstream.can_switch(m)}):
        raise EngineError(
            f"{type(model).__name__} cannot run on wqkv: the attention of {', '.join(fixed)} does "
            "not go through transformers' AttentionInterface."
        )
    whole: Any = model
    whole.set_attn_implementation(NAME)
    return model


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
) -> tuple[Tensor, None]:
    """transformers' attention function: out (batch, query_len, n_head, d_v), and no weights."""
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
    part = attention(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        scale=scaling,
        softcap=softcap,
        sinks=None if a_query else sinks,
        dropout_p=dropout,
        query_offset=offset,
        return_lse=True,
    )
    out = part.out
    if a_query and sinks is not None:
        out = out * torch.sigmoid(part.lse.unsqueeze(-1) - sinks).to(out.dtype)
    return out.transpose(1, 2).contiguous(), None


def _refuse(module: nn.Module, others: dict[str, Any]) -> None:
    """Raise for arguments that may change the result in a way that is not known here."""
    if others.pop("output_attentions", None):
        raise EngineError(
            f"wqkv returns no weights, for which `output_attentions` asks {type(module).__name__}."
            '\nLook at them with wqkv.watch(model), or run `set_attn_implementation("eager")`.'
        )
    unknown = {
        name: value
        for name, value in others.items()
        if name not in WITHOUT_EFFECT and value is not None and value is not False
    }
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        raise EngineError(
            message(
                f"wqkv cannot run {type(module).__name__}: it does not know what {names} does.",
                unknown,
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
