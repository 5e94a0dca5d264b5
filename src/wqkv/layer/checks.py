"""Checks of a layer's arguments and inputs, made once; each message gives every size."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

from wqkv.attend import engines
from wqkv.attend.call import autocasts, cast_dtype
from wqkv.attend.geometry import check_held, is_whole
from wqkv.attend.rope import RoPE
from wqkv.doors import check_tensor
from wqkv.errors import ArgumentError, KindError, message, need_device
from wqkv.layer.plain import plain


def counts(**given: int | None) -> None:
    """Raise unless each argument is 1 or more, or None."""
    for name, size in given.items():
        if size is not None and size < 1:
            raise ArgumentError(f"`{name}` is {size}.\nPass 1 or more.")


class Factory(TypedDict):
    """Where parameters are made, and of what floats: keyword arguments of torch's modules."""

    device: torch.device | str | None
    dtype: torch.dtype | None


def factory(device: torch.device | str | None, dtype: torch.dtype | None) -> Factory:
    """Raise unless there is such a device, and parameters may have this dtype."""
    if device is not None:
        need_device(device)
    if dtype is not None and not dtype.is_floating_point:
        raise KindError(f"`dtype` is {dtype}, and parameters are floats.\nPass torch.float32, say.")
    return {"device": device, "dtype": dtype}


def heads(d_model: int, n_head: int, n_kv_head: int, d_k: int | None) -> None:
    """Raise unless d_model makes equal heads, and n_head equal groups of them."""
    if d_k is None and d_model % n_head:
        raise ArgumentError(
            f"`d_model` {d_model} is not a multiple of `n_head` {n_head}.\n"
            f"Pass n_head = {_near_divisors(d_model, n_head)}, or say d_k."
        )
    if n_head % n_kv_head:
        raise ArgumentError(
            f"`n_head` {n_head} is not a multiple of `n_kv_head` {n_kv_head}.\n"
            f"Pass n_kv_head = {_near_divisors(n_head, n_kv_head)}."
        )


def tensors(**given: object) -> None:
    """Raise unless each is a plain tensor: neither nested, masked, sparse nor distributed."""
    for name, x in given.items():
        check_tensor(name, x)


def inputs(Q: Tensor, K: Tensor, V: Tensor, sizes: tuple[int, int, int], WQ: object) -> None:
    """Raise unless Q, K and V fit each other, the sizes (d_model, kdim, vdim), and a plain WQ."""
    came = {"Q": Q, "K": K, "V": V}
    for name, x, size in zip(came, (Q, K, V), sizes, strict=True):
        if x.ndim != 3:
            raise ArgumentError(
                message(
                    f"`{name}` has {x.ndim} axes, not 3.",
                    came,
                    f"Pass (batch, length, {size}); one sample is `{name}[None]`.",
                )
            )
        if not x.is_floating_point():
            raise KindError(
                message(f"`{name}` holds {x.dtype}.", came, "Pass floats: embed the tokens first.")
            )
        if x.shape[2] != size:
            raise ArgumentError(
                message(
                    f"`{name}` has last size {x.shape[2]}; this layer takes {size}.",
                    came,
                    f"Pass (batch, length, {size}).",
                )
            )
        if x.shape[1] == 0:
            raise ArgumentError(
                message(f"`{name}` has length 0.", came, "Pass at least one token.")
            )
    if not Q.shape[0] == K.shape[0] == V.shape[0]:
        raise ArgumentError(
            message(
                f"Q, K and V have batches of {Q.shape[0]}, {K.shape[0]} and {V.shape[0]}.",
                came,
                "Pass one batch size; `.expand` repeats a sample without copying it.",
            )
        )
    if K.shape[1] != V.shape[1]:
        raise ArgumentError(
            message(
                f"K has {K.shape[1]} tokens and V has {V.shape[1]}.",
                came,
                "Every key needs its value.",
            )
        )
    alike = Q.dtype == K.dtype == V.dtype
    if not (alike or cast_dtype(Q) == cast_dtype(K) == cast_dtype(V)):
        raise KindError(
            message("Q, K and V have different dtypes.", came, "Cast them to one floating dtype.")
        )
    if not Q.device == K.device == V.device:
        raise ArgumentError(
            message("Q, K and V are on different devices.", came, "Move them to one device.")
        )
    # Any other WQ (an adapter, a quantizer) may move or cast its weight when it is called.
    if plain(WQ):
        came["WQ.weight"] = weight = WQ.weight
        if weight.device != Q.device:
            raise ArgumentError(
                message("The layer is on another device.", came, "Move Q or the layer.")
            )
        if weight.dtype != Q.dtype and not autocasts(Q.device):
            raise KindError(message("The layer has another dtype.", came, "Cast Q or the layer."))


def _near_divisors(whole: int, near: int) -> str:
    divisors = [n for n in range(1, whole + 1) if whole % n == 0]
    below = [n for n in divisors if n < near][-1:]
    return " or ".join(str(n) for n in below + [n for n in divisors if n > near][:1])


# A rank's share of the heads. Torch's own tensor parallelism cuts the matrices and nothing else,
# so norms, sinks and gates may not fit what a rank gets.

SHARE = "Share the layer with `shard_heads`, which shares all parts of a head, or says why not."


def columns(x: Tensor, d: int) -> None:
    """Raise unless a projection, (batch, length, numbers), gives whole heads of d numbers."""
    if x.shape[-1] % d or not x.shape[-1]:
        raise ArgumentError(
            message(
                f"A projection gives {x.shape[-1]} numbers per token: no whole heads of {d}.",
                {"projected": x},
                SHARE,
            )
        )


def no_gradient(name: str, tensor: Tensor, q_heads: int, n_head: int) -> None:
    """Raise if a tensor that is whole on every rank would learn from this rank's heads alone.

    A DTensor may: it knows its ranks, and its gradient is summed over them.
    """
    if torch.is_grad_enabled() and tensor.requires_grad and not hasattr(tensor, "to_local"):
        raise ArgumentError(
            f"`{name}` is whole, and there are {q_heads} of {n_head} heads: its gradient would be "
            f"this rank's part of the sum.\nCall under torch.no_grad(). {SHARE}"
        )


def each_head(what: str, have: int, n_head: int) -> None:
    """Raise unless a part with one entry per head has as many as there are heads."""
    if have != n_head:
        raise ArgumentError(f"{what} is for {have} heads, and there are {n_head}.\n{SHARE}")


def values(position: object, temperature: object) -> None:
    """Raise unless the position and the temperature fit each other."""
    if temperature is not None and isinstance(position, RoPE) and position.axes is not None:
        raise ArgumentError(
            f"`temperature` needs one position per token, and `position` has "
            f"{max(position.axes) + 1} axes.\nLeave one of them out."
        )


def engine(name: str) -> None:
    """Raise unless there is such an engine."""
    known = ["auto", *map(engines.name, (*engines.PREFERENCE, *engines.BY_NAME))]
    if name not in known:
        raise ArgumentError(f"There is no engine {name!r}.\nPass one of: {', '.join(known)}.")


def numbers(dropout: float, clip: float | None, softcap: float | None, scale: float | None) -> None:
    """Raise unless each is in its range."""
    if not 0 <= dropout < 1:
        raise ArgumentError(
            f"`dropout` is {dropout}, the share of weights to drop.\nPass 0 <= dropout < 1."
        )
    if scale is not None and not math.isfinite(scale):
        raise ArgumentError(f"`scale` is {scale}.\nPass a finite number.")
    for name, most in (("clip", clip), ("softcap", softcap)):
        if most is not None and not 0 < most < math.inf:
            raise ArgumentError(f"`{name}` is {most}.\nPass a number above 0, or None.")


def positions(given: Tensor, Q: Tensor, position: object) -> None:
    """Raise unless there is one position per token of Q, on every axis by which RoPE rotates."""
    came = {"positions": given, "Q": Q}
    if not is_whole(given):
        raise KindError(message("A position is a whole number.", came, "Pass integers."))
    check_held("positions", given, Q.device)
    if not isinstance(position, RoPE):
        raise ArgumentError(
            message(
                "The layer has no RoPE, so `positions` would change nothing.",
                came,
                "Leave them out.",
            )
        )
    batch, query_len = Q.shape[:2]
    shapes = [(query_len,), (batch, query_len), (1, query_len)]
    if position.axes is not None:
        axes = max(position.axes) + 1
        shapes = [(query_len,), *((axes, *shape) for shape in shapes)]
    if tuple(given.shape) not in shapes:
        raise ArgumentError(
            message(
                f"`positions` has shape {tuple(given.shape)} for {query_len} tokens of Q.",
                came,
                f"Pass {' or '.join(map(str, dict.fromkeys(shapes)))}.",
            )
        )
