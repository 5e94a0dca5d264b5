"""Call: one attention request, whose q, k, v and rules agree. Nothing here waits for a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wqkv.attend.bias import Bias
from wqkv.attend.geometry import At, Rect, places
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.rules import FULL, Rules, as_bias, as_mask
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, message


@dataclass(frozen=True, eq=False)
class Call:
    """q, k, v and their rules; all sizes agree. Made by `request` or `call_of`, which check."""

    query: Tensor  # (batch, n_head, query_len, d_k)
    key: Tensor  # (batch, n_kv_head, key_len, d_k)
    value: Tensor  # (batch, n_kv_head, key_len, d_v)
    rules: Rules
    lse: bool = True  # whether the caller will read lse
    seed: Tensor | None = None  # () int64: what dropout draws from, in forward and backward alike

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        batch, n_head, query_len, _ = self.query.shape
        return batch, n_head, query_len, self.key.shape[2]

    @property
    def group(self) -> int:
        """How many query heads share a key head: 1, or more with grouped heads (GQA, MQA)."""
        return self.query.shape[1] // max(self.key.shape[1], 1)

    @property
    def scale(self) -> float:
        """What q k^T is multiplied by."""
        scale = self.rules.scale
        if scale is not None:
            return float(scale)
        d_k = self.query.shape[3]
        return 1 / math.sqrt(d_k) if d_k else 1.0

    @property
    def query_offset(self) -> int | Tensor:
        """The position of query 0; a tensor has one per sample."""
        offset = self.rules.query_offset
        return 0 if offset is None else offset

    def places(self, rect: Rect | None = None) -> At:
        """The places of a rectangle, whose q0 and q1 count rows (None: of the whole call)."""
        batch, n_head, query_len, key_len = self.sizes
        sample, q0, q1, k0, k1 = rect or (None, 0, query_len, 0, key_len)
        samples = slice(0, batch) if sample is None else slice(sample, sample + 1)
        box = (samples, n_head, slice(q0, q1), slice(k0, k1))
        return places(box, self.query_offset, self.query.device)

    def wants_grad(self) -> bool:
        """Whether a gradient will be asked for q, k or v."""
        return torch.is_grad_enabled() and (
            self.query.requires_grad or self.key.requires_grad or self.value.requires_grad
        )

    def wants_bias_grad(self) -> bool:
        """Whether a gradient will be asked for the bias."""
        bias = self.rules.bias
        if bias is None or not torch.is_grad_enabled():
            return False
        return any(tensor.requires_grad for tensor in bias.tensors())


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
    """Make a call of the arguments of `attention`; `ranks` is as in `call_of`."""
    rules = Rules(as_mask(mask), as_bias(bias), scale, softcap, sinks, dropout_p, query_offset)
    return _fit(query, key, value, rules, return_lse=return_lse, ranks=ranks)


def _fit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rules: Rules,
    *,
    return_lse: bool = True,
    ranks: int = 1,
) -> Call:
    """Check q, k, v and the rules against each other, with every size in the message.

    The rules are those of a text of which each of `ranks` holds an equal share.
    """
    came = {"query": query, "key": key, "value": value}
    _check_tensors(came)
    _check_shapes(query, key, value, came)
    if autocasts(query.device):
        query, key, value = (x.to(cast_dtype(x)) for x in (query, key, value))
    if not query.dtype == key.dtype == value.dtype:
        raise KindError(
            message("The inputs have different dtypes.", came, "Cast them to one floating dtype.")
        )
    fitting = rules.fit(query, query.shape[2] * ranks, key.shape[2] * ranks)
    return Call(query, key, value, fitting, return_lse)


#: `_fit` for callers whose arguments no @door has checked: their types are checked first.
call_of = door(_fit, name="attention")


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; some kinds of devices have none."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def cast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch would compute with x: autocast casts all floats but float64."""
    if x.dtype == torch.float64 or not autocasts(x.device):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def seeded(call: Call) -> Call:
    """The call with a seed, if it has dropout: its own, or one of the CPU's default generator."""
    if call.rules.dropout_p == 0 or call.seed is not None:
        return call
    # on the CPU, where the seeds of all generators can be read
    return replace(call, seed=torch.randint(2**62, (), device="cpu"))


def unrounded(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast, which would cast our float32 products to half precision again."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if autocasts(device) else nullcontext()


def _check_tensors(came: Mapping[str, Tensor]) -> None:
    for name, tensor in came.items():
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
    if len({tensor.device for tensor in came.values()}) > 1:
        raise ArgumentError(
            message("The inputs are on different devices.", came, "Move them to one device.")
        )


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, came: Mapping[str, Tensor]) -> None:
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
