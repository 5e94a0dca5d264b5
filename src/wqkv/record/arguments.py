"""What one call of a model's attention function means: its arguments, by the rules of its kind.

Kinds of functions differ in what a missing mask says. The functions are those of transformers:
integrations/sdpa_attention.py, flash_attention.py, flex_attention.py, and each model's eager one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.attend.masks.algebra import Mask
from wqkv.record.captured import Asked, Reading, Refusal
from wqkv.record.mask_pattern import (
    Pattern,
    documents,
    of_function,
    of_padding,
    of_tensor,
    pattern_of,
    rows_of,
)

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
#: Arguments that may, and that are understood.
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
NAMES = ("query", "key", "value", "attention_mask")


def read(
    rule: str,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: Any,
    masks: dict[Any, Any],
    cross: bool,
    goes_on: bool,
) -> Asked:
    """One call, as values; `masks` keeps what was found out about masks that layers share."""
    if len(args) > len(NAMES):
        raise Refusal(f"it passes {len(args)} arguments without names")
    given = {**dict(zip(NAMES, args, strict=False)), **kwargs}
    for name in unknown(given):
        raise Refusal(f"it passes `{name}`, which may change the weights and is not understood")
    if given.get("dropout") and module.training:
        raise Refusal(f"dropout {given['dropout']:g} while training draws new weights every time")
    query, key, value, output = _tensors(given, out)
    if query.is_meta:
        raise Refusal("its tensors are on the device meta, which holds no numbers")
    n, m = query.shape[2], key.shape[2]
    causal = given.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    window = given.get("sliding_window")
    window = window if isinstance(window, int) and window > 0 else None
    moves = m != n and not causal and not goes_on
    cross = cross or (moves and given.get("attention_mask") is None)
    reading, bias = _mask(rule, given, masks, (len(query), n, m), query.device)
    extra = given.get("position_bias")
    if extra is not None:
        bias = _biases(bias, extra, key)
    if reading is not None:
        readings = [reading]
    else:
        readings = _missing(rule, given, causal, window, cross, (n, m), query.device)
    sinks = given.get("s_aux") if given.get("s_aux") is not None else given.get("sinks")
    if sinks is not None and sinks.shape != (query.shape[1],):
        raise Refusal(
            f"its sinks have the shape {tuple(sinks.shape)}: a map takes one number a head, "
            f"({query.shape[1]},), and none that depends on the query"
        )
    return Asked(
        query,
        key,
        value,
        output,
        readings,
        cross,
        goes_on,
        given.get("scaling") if given.get("scaling") is not None else None,
        given.get("softcap") or None,
        None if sinks is None else sinks.detach(),
        bias,
        causal,
        window,
    )


def unknown(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an attention function that may change the weights in a way not known here.

    None and False switch nothing on.
    """
    known = READ | HARMLESS
    return {
        name: value
        for name, value in given.items()
        if name not in known and value is not None and value is not False
    }


def _tensors(given: dict[str, Any], out: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts = [given.get(name) for name in NAMES[:3]]
    output = out[0] if isinstance(out, tuple) else out
    for name, x in zip(("query", "key", "value", "output"), (*parts, output), strict=True):
        if not isinstance(x, Tensor) or x.ndim != 4:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise Refusal(f"its {name} is {shape}, not (batch, head, length, d)")
    query, key, value = (x.detach() for x in parts if isinstance(x, Tensor))
    batch = max(len(query), len(key))
    query, key, value = (
        x.expand(batch, *x.shape[1:]) if len(x) == 1 else x for x in (query, key, value)
    )
    if query.dtype != key.dtype or query.dtype != value.dtype:
        key, value = key.to(query.dtype), value.to(query.dtype)
    shape = (batch, query.shape[2], query.shape[1], value.shape[3])
    if tuple(output.shape) != shape:
        raise Refusal(f"its output has the shape {tuple(output.shape)}, not {shape}")
    return query, key, value, output.detach().transpose(1, 2)


# Masks


def _mask(
    rule: str,
    given: dict[str, Any],
    masks: dict[Any, Any],
    sizes: tuple[int, int, int],
    device: torch.device,
) -> tuple[Reading | None, Tensor | None]:
    """The mask that is given, and what it adds to the scores."""
    mask = given.get("attention_mask")
    batch, n, m = sizes
    key: Any
    if mask is None:
        return None, None
    asked: Any = getattr(mask, "asked", None)  # our own implementation carries a mask as a value
    if isinstance(getattr(asked, "mask", None), Mask):
        key = ("asked", id(asked), n, m)
        if key not in masks:
            # Without a cache its positions are those of the text: no need to go through its rows.
            pattern = pattern_of(asked.mask) if n == m and asked.offset == 0 else None
            rows = rows_of(asked.mask, n, m, asked.offset, device)
            masks[key] = (asked, Reading(rows, pattern))
        return masks[key][1], None
    if not isinstance(mask, Tensor):
        mask_mod = getattr(mask, "mask_mod", None)
        if mask_mod is None:
            raise Refusal(f"its mask is a {type(mask).__name__}, which is not understood")
        key = (id(mask), n, m)
        if key not in masks:
            masks[key] = (mask, Reading(of_function(mask_mod, batch, n, m, device)))
        return masks[key][1], None
    if rule == "flash" and mask.ndim == 2:
        return None, None  # read by `_missing`, with the padding
    if mask.ndim not in (2, 3, 4) or mask.dtype == torch.uint8 or _is_integer(mask):
        raise Refusal(f"its mask is {mask.dtype} with {mask.ndim} axes, which is not understood")
    mask = mask.detach()
    mask = mask[(None,) * (4 - mask.ndim)]
    if mask.shape[3] > m > 1:
        mask = mask[..., :m]
    for size, have in zip((batch, n, m), (mask.shape[0], *mask.shape[2:]), strict=True):
        if have not in (1, size):
            raise Refusal(f"its mask {tuple(mask.shape)} does not fit {n} queries and {m} keys")
    if mask.shape[3] == 1 < m:
        mask = mask.expand(-1, -1, -1, m)
    key = (mask.data_ptr(), tuple(mask.shape), mask.stride(), mask.dtype, n, m)
    if key not in masks:
        visible, bias = of_tensor(mask, n, m)
        masks[key] = (mask, Reading(visible), bias)
    _, reading, bias = masks[key]
    return reading, bias


def _is_integer(mask: Tensor) -> bool:
    return not mask.is_floating_point() and mask.dtype != torch.bool


def _biases(bias: Tensor | None, extra: Any, key: Tensor) -> Tensor | None:
    """What a float mask adds, and the bias that is passed beside it."""
    if not isinstance(extra, Tensor) or extra.ndim != 4 or not extra.is_floating_point():
        raise Refusal("its `position_bias` is no float tensor with 4 axes")
    extra = extra.detach()
    if extra.shape[3] > key.shape[2] > 1:
        extra = extra[..., : key.shape[2]]
    if not bool(extra.any()):
        return bias
    total: Tensor = extra if bias is None else bias + extra
    return total


def _missing(
    rule: str,
    given: dict[str, Any],
    causal: bool,
    window: int | None,
    cross: bool,
    sizes: tuple[int, int],
    device: torch.device,
) -> list[Reading]:
    """How a call without a matrix is read, the likeliest reading first."""
    n, m = sizes
    everything = rows_of(Pattern().mask(), n, m, 0, device)
    full = Reading(everything, Pattern(), all=True)
    if cross:
        return [full]
    if rule == "flash":
        return [_flash(given, causal, window, (n, m), device)]
    before = window - 1 if window is not None and m <= window else None
    if causal and n == 1:  # one query that sees all keys stands at the last
        return [Reading(everything, Pattern(before, 0))]
    if not causal or rule in ("eager", "flex"):
        return [full]
    first = Reading(rows_of(Pattern(after=0).mask(), n, m, 0, device), Pattern(before, 0), True)
    return [first] if rule == "sdpa" else [first, full]


def _flash(
    given: dict[str, Any],
    causal: bool,
    window: int | None,
    sizes: tuple[int, int],
    device: torch.device,
) -> Reading:
    """Causal from the lower right corner, with a window, padding (batch, key) and documents."""
    n, m = sizes
    pattern = Pattern(after=0) if causal else Pattern()
    if window is not None and (causal or m > window):
        pattern = replace(pattern, before=window - 1, after=0 if causal else window - 1)
    mask = given.get("attention_mask")
    if mask is not None:
        padding = of_padding(mask[:, -m:])
        if padding is None:
            raise Refusal("its mask (batch, key) hides every key")
        pattern = replace(pattern, left=padding.left, right=padding.right)
    bounds, others = given.get("cu_seq_lens_q"), given.get("cu_seq_lens_k")
    place = given.get("position_ids")
    if bounds is not None:
        if n != m or others is None or not torch.equal(bounds, others):
            raise Refusal("its documents differ between queries and keys")
        pattern = replace(pattern, starts=documents(bounds).to(device))
    elif mask is None and isinstance(place, Tensor) and place.shape == (1, n) and n == m:
        begins = (place[0] == place.min()).nonzero().flatten()
        if len(begins) > 1:  # each document counts from its first word
            bounds = torch.cat((begins, begins.new_tensor([n])))
            pattern = replace(pattern, starts=documents(bounds).to(device))
    return Reading(rows_of(pattern.mask(), n, m, m - n, device), pattern)
