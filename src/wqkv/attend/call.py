"""One attention request, validated once and frozen. Nothing here reads a GPU's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wqkv.attend.bias import Bias, StoredBias
from wqkv.attend.geometry import At, Rect, Sizes, check_offset, places
from wqkv.attend.masks import Dense, Full, Mask
from wqkv.attend.values import readable
from wqkv.errors import ArgumentError, KindError, message

FULL = Full()


@dataclass(frozen=True, eq=False)
class Call:
    """q, k, v and the rules; all sizes agree. Made by `request`."""

    query: Tensor  # (batch, n_head, query_len, d_k)
    key: Tensor  # (batch, n_kv_head, key_len, d_k)
    value: Tensor  # (batch, n_kv_head, key_len, d_v)
    mask: Mask
    bias: Bias | None
    scale: float
    softcap: float | None
    sinks: Tensor | None  # (n_head,)
    dropout_p: float
    query_offset: int | Tensor  # where query 0 stands; a tensor has one a sample
    lse: bool = True  # whether the caller will read lse
    seed: Tensor | None = None  # () int64: what dropout draws from, in forward and backward alike

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        batch, n_head, query_len, _ = self.query.shape
        return batch, n_head, query_len, self.key.shape[2]

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.query.shape[1] // max(self.key.shape[1], 1)

    def places(self, rect: Rect | None = None) -> At:
        """The places of a rectangle, whose q0 and q1 count rows (None: of the whole call)."""
        batch, n_head, query_len, key_len = self.sizes
        sample, q0, q1, k0, k1 = rect or (None, 0, query_len, 0, key_len)
        samples = slice(0, batch) if sample is None else slice(sample, sample + 1)
        box = (samples, n_head, slice(q0, q1), slice(k0, k1))
        return places(box, self.query_offset, self.query.device)

    def wants_grad(self, *, rules: bool = False) -> bool:
        """Whether a gradient will be asked for q, k or v (or, with `rules`, for the bias)."""
        if not torch.is_grad_enabled():
            return False
        tensors: tuple[Tensor, ...] = (self.query, self.key, self.value)
        if rules:
            tensors = self.bias.tensors() if self.bias else ()
        return any(tensor.requires_grad for tensor in tensors)


def request(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Mask | Tensor = FULL,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout_p: float = 0.0,
    query_offset: int | Tensor | None = None,
    return_lse: bool = True,
    ranks: int = 1,
) -> Call:
    """Check everything once, with every size in the message.

    The rules are those of a text of which each of `ranks` holds an equal share.
    """
    came: dict[str, object] = {"query": query, "key": key, "value": value}
    _check_tensors(came, (query, key, value))
    _check_shapes(query, key, value, came)
    if autocasts(query.device):
        query, key, value = (x.to(cast_dtype(x)) for x in (query, key, value))
    if not query.dtype == key.dtype == value.dtype:
        raise KindError(
            message("The inputs have different dtypes.", came, "Cast them to one floating dtype.")
        )
    batch, n_head, query_len, d_k = query.shape
    query_len, key_len = query_len * ranks, key.shape[2] * ranks
    sizes = Sizes(batch, n_head, query_len, key_len)

    mask = Dense(mask) if isinstance(mask, Tensor) else mask
    mask.check(sizes)
    bias = _stored_bias(bias) if isinstance(bias, Tensor) else bias
    if bias is not None:
        bias.check((batch, n_head, query_len, key_len))

    if scale is None:
        scale = 1 / math.sqrt(d_k) if d_k else 1.0
    elif not abs(scale) < math.inf:
        raise ArgumentError(f"`scale` is {scale}.\nPass a finite number.")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ArgumentError(
            f"`softcap` is {softcap}; the scores are capped at plus and minus it.\n"
            "Pass > 0 or None."
        )
    if not 0 <= dropout_p < 1:
        raise ArgumentError(
            f"`dropout_p` is {dropout_p}, the share of weights to drop.\nPass 0 <= dropout_p < 1."
        )
    if sinks is not None:
        _check_sinks(sinks, n_head, query)
    matters = mask.by_position or (bias is not None and bias.by_position)
    offset = _offset(query_offset, sizes, matters, query.device)
    return Call(
        query, key, value, mask, bias, float(scale), softcap, sinks, dropout_p, offset, return_lse
    )


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; not every kind of device knows it."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def cast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch would compute with x: autocast casts all floats but float64."""
    if x.dtype == torch.float64 or not autocasts(x.device):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def seeded(call: Call) -> Call:
    """The call with a seed, if it has dropout: one number of the default generator."""
    if call.dropout_p == 0:
        return call
    # on the CPU, where the seeds of all generators can be read
    return replace(call, seed=torch.randint(2**62, (), device="cpu"))


def unrounded(device: torch.device) -> AbstractContextManager[object]:
    """Inside, autocast is off: it would cast our float32 products to half precision again."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if autocasts(device) else nullcontext()


def _check_tensors(came: dict[str, object], tensors: Sequence[Tensor]) -> None:
    for name, tensor in zip(came, tensors, strict=True):
        if not tensor.is_floating_point():
            raise KindError(
                message(
                    f"`{name}` holds {tensor.dtype}, and attention is made of floats.",
                    came,
                    "Cast it.",
                )
            )
        if tensor.ndim != 4:
            raise ArgumentError(
                message(
                    f"`{name}` has {tensor.ndim} axes, not 4.",
                    came,
                    "Pass (batch, head, length, d).",
                )
            )
    if len({tensor.device for tensor in tensors}) > 1:
        raise ArgumentError(
            message("The inputs are on different devices.", came, "Move them to one device.")
        )


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, came: dict[str, object]) -> None:
    batch, n_head, _, d_k = query.shape
    kv_batch, n_kv_head, key_len, key_d = key.shape
    if key_d != d_k:
        raise ArgumentError(
            message(
                f"`query` has d_k {d_k} and `key` has {key_d}.",
                came,
                "Their last sizes must be equal.",
            )
        )
    if kv_batch != batch or value.shape[0] != batch:
        raise ArgumentError(
            message(
                f"`query` has batch {batch}, `key` {kv_batch}, `value` {value.shape[0]}.",
                came,
                "Pass one batch size; `.expand` repeats a sample without copying it.",
            )
        )
    if value.shape[1] != n_kv_head or value.shape[2] != key_len:
        raise ArgumentError(
            message(
                f"`key` has {n_kv_head} heads and {key_len} positions, "
                f"`value` {value.shape[1]} and {value.shape[2]}.",
                came,
                "Every key needs its value.",
            )
        )
    if n_kv_head != n_head and (n_kv_head == 0 or n_head % n_kv_head):
        fits = ", ".join(str(n) for n in range(1, n_head + 1) if n_head % n == 0)
        raise ArgumentError(
            message(
                f"`query` has {n_head} heads, no multiple of the {n_kv_head} heads of `key`.",
                came,
                f"Pass a `key` with one of: {fits} heads.",
            )
        )


def _stored_bias(bias: Tensor) -> StoredBias:
    if not bias.is_floating_point():
        do = "Pass a bool tensor as `mask`." if bias.dtype == torch.bool else "Cast it to a float."
        raise KindError(
            message("A bias is a float that is added to the scores.", {"bias": bias}, do)
        )
    if bias.ndim not in (2, 4):
        raise ArgumentError(
            message(
                f"A bias has 2 or 4 axes, not {bias.ndim}.",
                {"bias": bias},
                "Pass (query, key) or (batch, head, query, key), with 1 where all are alike.",
            )
        )
    return StoredBias(bias[None, None] if bias.ndim == 2 else bias)


def _check_sinks(sinks: Tensor, n_head: int, query: Tensor) -> None:
    came: dict[str, object] = {"sinks": sinks, "query": query}
    if not sinks.is_floating_point():
        raise KindError(
            message(
                "`sinks` holds one float logit a head.", came, f"Pass a float tensor ({n_head},)."
            )
        )
    if sinks.shape != (n_head,):
        raise ArgumentError(
            message(
                f"`sinks` has shape {tuple(sinks.shape)} for {n_head} heads.",
                came,
                f"Pass ({n_head},).",
            )
        )
    if sinks.device != query.device:
        raise ArgumentError(
            message("`sinks` is on another device.", came, f"Pass `sinks.to('{query.device}')`.")
        )
    if readable(sinks) and bool(sinks.isnan().any()):
        heads = sinks.isnan().nonzero().flatten().tolist()
        raise ArgumentError(
            message(f"`sinks` is NaN for head {heads}.", came, "Pass a number a head.")
        )


def _offset(
    given: int | Tensor | None, sizes: Sizes, matters: bool, device: torch.device
) -> int | Tensor:
    query_len, key_len = sizes.query_len, sizes.key_len
    if given is None:
        if matters and query_len != key_len:
            raise ArgumentError(
                f"Where do {query_len} queries stand among {key_len} keys? "
                "The mask or bias depends on it.\n"
                "  query_offset=0: the first query at the first key (upper left)\n"
                f"  query_offset={key_len - query_len}: the last query at the last key "
                "(lower right, as with a cache)\n"
                "Pass one of them, or another position."
            )
        return 0
    return check_offset(given, sizes.batch, device)
