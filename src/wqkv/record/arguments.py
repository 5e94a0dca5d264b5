"""Which calls of an attention function are supported, and which are refused, and why.

A model is supported where its attention functions take arguments that are listed here. The
functions are those of transformers: integrations/sdpa_attention.py, flash_attention.py,
flex_attention.py, and each model's eager one. A call becomes a CapturedCall, or raises Refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.record.captured import CapturedCall, Refusal, check_numbers
from wqkv.record.read_mask import Convention, KnownMasks, MaskArguments, read_mask

#: Arguments that change no weight: positions are already in q and k, packed texts in the mask or in
#: the arguments below, and the rest says what is computed or returned beside attention.
HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "labels",
        "layer_idx",
        "logits_to_keep",
        "max_length_k",
        "max_length_q",
        "max_seqlen",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "token_type_ids",
        "use_cache",
    }
)
#: Arguments that may change the weights, and that are understood.
READ = frozenset(
    {
        "attention_mask",
        "cu_seq_lens_k",
        "cu_seq_lens_q",
        "dropout",
        "is_causal",
        "key",
        "position_bias",
        "query",
        "s_aux",
        "scaling",
        "sinks",
        "sliding_window",
        "softcap",
        "value",
    }
)
#: The names of what is passed without a name.
BY_PLACE = ("query", "key", "value", "attention_mask")


class OverheardCall(NamedTuple):
    """One call of an attention function as the model made it, and what it returned."""

    convention: Convention
    module: nn.Module
    args: tuple[Any, ...]
    # Keyword arguments of transformers and of each model's own code, which no type can list.
    kwargs: dict[str, Any]
    out: object

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        tensors = (x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor))
        return next((x.device for x in tensors), torch.device("cpu"))


def read_call(
    call: OverheardCall, known: KnownMasks, cross: bool, stored_keys: bool
) -> CapturedCall:
    """Read one call.

    Args:
        known: the masks that were read before, because layers share them; new ones are added.
        cross: whether the module is known to look at another text.
        stored_keys: whether cross-attention uses keys that an earlier step has stored.

    Raises:
        Refusal: it is not understood.
    """
    given = _by_name(call)
    query, key, value, output = _tensors(given, call.out)
    batch, n_head, n, _ = query.shape
    m = key.shape[2]
    causal = given.get("is_causal")
    causal = bool(getattr(call.module, "is_causal", True) if causal is None else causal)
    window = given.get("sliding_window")
    window = window if isinstance(window, int) and window > 0 else None
    mask = given.get("attention_mask")
    # Without a mask, a cache or causality, more keys than queries are those of another text.
    cross = cross or (m != n and not causal and not stored_keys and mask is None)
    readings, bias = read_mask(
        MaskArguments(
            call.convention, mask, causal, window, cross, batch, n, m, query.device,
            given.get("cu_seq_lens_q"), given.get("cu_seq_lens_k"), given.get("position_ids"),
        ),
        known,
    )  # fmt: skip
    if (position_bias := given.get("position_bias")) is not None:
        bias = _add_bias(bias, position_bias, m)
    sinks = given.get("s_aux") if given.get("s_aux") is not None else given.get("sinks")
    if sinks is not None and sinks.shape != (n_head,):
        raise Refusal(
            f"its sinks have the shape {tuple(sinks.shape)}: a map takes one number per head, "
            f"({n_head},), and none that depends on the query"
        )
    return CapturedCall(
        query,
        key,
        value,
        output,
        readings,
        cross,
        stored_keys,
        given.get("scaling"),
        given.get("softcap") or None,
        None if sinks is None else sinks.detach(),
        bias,
        causal,
        window,
    )


def read_tensors(call: OverheardCall) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and the output of one call, each (batch, head, length, d), without its mask.

    Raises:
        Refusal: they are not understood.
    """
    return _tensors(_by_name(call), call.out)


def output_of(out: object) -> Any:  # a tensor where the call is supported
    """The output of what an attention function returns, which may be a pair with its weights."""
    return out[0] if isinstance(out, tuple) else out


# `given`, here and below: keyword arguments of a foreign call.
def unknown(given: Mapping[str, object]) -> list[str]:
    """The names of arguments that may change the weights in a way that is not known here.

    An argument that is None or False is not listed: it changes nothing.
    """
    known = READ | HARMLESS
    return [
        name
        for name, value in given.items()
        if name not in known and value is not None and value is not False
    ]


# Keyword arguments of a foreign call.
def _by_name(call: OverheardCall) -> dict[str, Any]:
    """The arguments by name, as the model passed them, if all of them are supported."""
    if len(call.args) > len(BY_PLACE):
        raise Refusal(f"it passes {len(call.args)} arguments without names")
    given = {**dict(zip(BY_PLACE, call.args, strict=False)), **call.kwargs}
    for name in unknown(given):
        raise Refusal(f"it passes `{name}`, which may change the weights and is not understood")
    if given.get("dropout") and call.module.training:
        raise Refusal(f"dropout {given['dropout']:g} while training draws new weights every time")
    return given


# Keyword arguments of a foreign call.
def _tensors(given: Mapping[str, object], out: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and the output, each (batch, head, length, d) and in one dtype but for the output."""
    output = output_of(out)
    found = []
    for name, x in (*((name, given.get(name)) for name in BY_PLACE[:3]), ("output", output)):
        if not isinstance(x, Tensor) or x.ndim != 4:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise Refusal(f"its {name} is {shape}, not (batch, head, length, d)")
        check_numbers(x)
        found.append(x.detach())
    *parts, output = found
    batch = max(len(parts[0]), len(parts[1]))
    query, key, value = (x.expand(batch, *x.shape[1:]) if len(x) == 1 else x for x in parts)
    if query.dtype != key.dtype or query.dtype != value.dtype:
        key, value = key.to(query.dtype), value.to(query.dtype)
    shape = (batch, query.shape[2], query.shape[1], value.shape[3])
    if tuple(output.shape) != shape:
        raise Refusal(f"its output has the shape {tuple(output.shape)}, not {shape}")
    return query, key, value, output.transpose(1, 2)


def _add_bias(bias: Tensor | None, more: object, key_len: int) -> Tensor | None:
    """Add a `position_bias` to what a float mask adds to the scores."""
    if not isinstance(more, Tensor) or more.ndim != 4 or not more.is_floating_point():
        raise Refusal("its `position_bias` is no float tensor with 4 axes")
    more = more.detach()
    if more.shape[3] > key_len > 1:
        more = more[..., :key_len]
    if not bool(more.any()):
        return bias
    return more if bias is None else bias + more
