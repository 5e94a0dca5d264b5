"""KVCache: what every cache of keys and values does, and the checks that the kinds share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from wqkv.attend.geometry import as_tensor, check_held, is_whole
from wqkv.attend.masks.algebra import Full, Mask
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.partial import Partial
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe, message, need_device

#: What a file of `save` holds, by name. Any, as in JSON: it is read from outside, so nothing is
#: known of a value before `_from_saved` has checked it.
Saved: TypeAlias = dict[str, Any]

#: What reading a file can raise that is cut short, mislabeled or made to harm.
_BROKEN = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError, EOFError,
    UnpicklingError,
)  # fmt: skip

_Made = TypeVar("_Made")


class KeyPiece(NamedTuple):
    """Keys and values at neighboring positions: one piece of what a cache returns.

    Most kinds return views of their memory, which are valid until the cache changes.
    """

    k: Tensor  # (batch, heads, n, d), already rotated
    v: Tensor  # (batch, heads, n, d); heads and d may differ from those of k
    start: int = 0  # the position of the first key
    mask: Mask = Full()  # who may see the keys; its positions count from `start`


@door
class KVCache:
    """Keys and values of earlier calls, so that many short calls give the result of one long call.

    out_i = merge over pieces p of attention(q_i, k_p, v_p), with the pieces that `append` returns.
    The kinds: Dynamic grows; Static has a fixed capacity; Rolling keeps a window and evicts the
    rest; Quantized keeps 8 or 4 bits per number; Paged shares blocks between sequences; Cross is
    filled once; Spread distributes the tokens over ranks.

    Keys are kept as they were rotated. With a RoPE that scales by the length of the text
    (DynamicNTK, LongRoPE), steps equal one pass up to the trained length; beyond it, each step
    rotates by the length so far.

    The first append decides the batch, the sizes, the dtype and the device; an append that differs
    is an error. One cache serves one layer.

    >>> from wqkv import Causal, Dynamic, MultiheadAttention
    >>> layer, cache = MultiheadAttention(24, 3, mask=Causal()), Dynamic()
    >>> x = torch.randn(2, 7, 24)
    >>> steps = [layer(token, cache=cache) for token in x.split(1, dim=1)]
    >>> torch.allclose(torch.cat(steps, dim=1), layer(x), atol=1e-5), cache.length
    (True, 7)
    """

    said = "a cache such as Dynamic()"
    #: Whether `held()` has all keys and values already, so that the layer computes none (Cross).
    filled: bool = False
    #: The ranks that keep the other keys (Spread); None if all keys are here.
    ranks: Ranks | None = None

    @property
    def length(self) -> int | Tensor:
        """How many positions came; the next key stands there. (batch,) where samples differ."""
        raise NotImplementedError

    def append(self, k: Tensor, v: Tensor) -> tuple[KeyPiece, ...]:
        """Keep k and v, and return in pieces all that the queries at their positions may see.

        Args:
            k, v: (batch, heads, n, d), of the next n positions; heads and d may differ.
        """
        raise NotImplementedError

    def held(self) -> tuple[KeyPiece, ...]:
        """All that is kept, in pieces; none before the first append."""
        raise NotImplementedError

    def whole(self, part: Partial) -> Partial:
        """Attention over all keys, given `part`, attention over those that are kept here."""
        return part

    def rewind(self, length: int | Tensor) -> None:
        """Forget everything from position `length` on."""
        raise NotImplementedError

    def reorder(self, index: Sequence[int] | Tensor) -> None:
        """Beam search: sample b becomes the old sample index[b]; there may be more or fewer."""
        raise NotImplementedError

    def split(self) -> list[Self]:
        """One cache per sample."""
        raise NotImplementedError

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """One cache with the samples of several, in order: the reverse of `split`."""
        raise NotImplementedError

    def save(self, path: str | PathLike[str]) -> None:
        """Write the cache to a file, as plain numbers and tensors."""
        state = {"kind": type(self).__name__, **self._to_saved()}
        try:
            torch.save(state, path)
        except (OSError, RuntimeError) as error:
            raise ArgumentError(f"{str(path)!r} cannot be written: {_reason(error)}") from error

    @classmethod
    def load(cls, path: str | PathLike[str], device: torch.device | str | None = None) -> Self:
        """Read what `save` wrote. Nothing but numbers and tensors is ever unpickled.

        Args:
            device: where to put the tensors; None is the device they were on.

        Raises:
            ArgumentError: the file holds another kind, or is broken; nothing is loaded.
        """
        device = None if device is None else need_device(device)
        try:
            with Path(path).open("rb") as file:
                state = torch.load(file, map_location=device, weights_only=True)
            kind = state.pop("kind")
            made = cls._from_saved(state) if kind == cls.__name__ else None
        except _BROKEN as error:
            raise ArgumentError(
                f"{str(path)!r} holds no {cls.__name__} cache: {_reason(error)}.\n"
                "Pass a file that `save` wrote."
            ) from error
        if made is None:
            raise ArgumentError(
                f"{str(path)!r} holds a cache of kind {kind!r}, not {cls.__name__}.\n"
                f"Load it with {kind}.load."
            )
        return made

    def _to_saved(self) -> Saved:
        """Plain numbers, and copies of the tensors."""
        raise NotImplementedError

    @classmethod
    def _from_saved(cls, state: Saved) -> Self:
        """The cache again; raises one of _BROKEN unless all of `state` fits."""
        raise NotImplementedError


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def check_new(
    k: Tensor, v: Tensor, kept_k: Tensor | None = None, kept_v: Tensor | None = None
) -> None:
    """Raise unless new k and v fit each other and what is kept: (batch, heads, length, d) all."""
    came = {"k": k, "v": v}
    for name, x in (("k", k), ("v", v)):
        if x.ndim != 4:
            do = "Pass (batch, head, length, d)."
            raise ArgumentError(message(f"`{name}` has {x.ndim} axes, not 4.", came, do))
        if not x.is_floating_point():
            raise KindError(message(f"`{name}` holds {x.dtype}.", came, "Pass floats."))
    if k.shape[0] != v.shape[0] or k.shape[2] != v.shape[2]:
        raise ArgumentError(
            message(
                f"`k` has {k.shape[0]} samples and {k.shape[2]} positions, "
                f"`v` {v.shape[0]} and {v.shape[2]}.",
                came,
                "Every key needs its value.",
            )
        )
    if 0 in (*k.shape, *v.shape[:3]):  # v may be 0 wide: LatentAttention keeps all in k
        do = "Pass at least one position, and no size of 0."
        raise ArgumentError(message("There is nothing to keep.", came, do))
    for name, x, kept in (("k", k, kept_k), ("v", v, kept_v)):
        if kept is not None:
            _check_like(name, x, kept)


def _check_like(name: str, x: Tensor, kept: Tensor) -> None:
    came = {name: x, "kept": kept}
    for axis, what in ((0, "samples"), (1, "heads"), (3, "numbers per head")):
        if x.shape[axis] != kept.shape[axis]:
            raise ArgumentError(
                message(
                    f"`{name}` has {x.shape[axis]} {what}; the cache keeps {kept.shape[axis]}.",
                    came,
                    "Pass what the first append had, or start a new cache, one per layer.",
                )
            )
    if x.dtype != kept.dtype:
        raise KindError(message(f"`{name}` changed its dtype.", came, "Cast it, or start anew."))
    if x.device != kept.device:
        raise ArgumentError(
            message(f"`{name}` is on another device.", came, "Move it, or start anew.")
        )


def outside_inference_mode(make: Callable[[], _Made]) -> _Made:
    """Make tensors that can be written to later, inside torch.inference_mode() or outside.

    A tensor that is made in that mode can only be written to in it, and autograd cannot keep it.
    """
    # Gradients are on only where the mode is off. To ask for the mode itself would break the graph
    # of torch.compile.
    if torch.is_grad_enabled():
        return make()
    with torch.inference_mode(False), torch.no_grad():
        return make()


def refuse_gradients(kind: str, k: Tensor, v: Tensor) -> None:
    """Raise if autograd would need k or v, for kinds that write into their memory.

    To overwrite memory would change what earlier calls keep for their backward pass.
    """
    if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
        raise ArgumentError(
            message(
                f"{kind} writes into its memory, through which no gradient passes.",
                {"k": k, "v": v},
                "Call under torch.no_grad(), or use Dynamic, which has gradients.",
            )
        )


def check_rewind(length: object, kept: int) -> int:
    """The length to go back to; raise unless it is an int from 0 to `kept`."""
    if not isinstance(length, int) or isinstance(length, bool):
        raise KindError(
            f"`length` is an int, not {describe(length)}.\n"
            "Paged also takes a tensor of them, one per sample."
        )
    if not 0 <= length <= kept:
        raise ArgumentError(
            f"There is no going back to length {length}: the cache has {kept} positions.\n"
            f"Pass 0 to {kept}."
        )
    return length


def check_samples(index: Sequence[int] | Tensor, batch: int) -> Tensor:
    """The samples that `reorder` asks for, as (new batch,) int64; raise unless there are such."""
    order = as_tensor(index)
    check_held("index", order)
    if order.ndim != 1 or not is_whole(order) or not len(order):
        raise KindError(
            message(
                "`index` holds one whole number per new sample.",
                {"index": order},
                f"Pass (batch,) of 0 to {batch - 1}.",
            )
        )
    # Only on a CPU: to read the numbers of a GPU's tensor would wait for the GPU.
    if order.device.type == "cpu" and not 0 <= int(order.min()) <= int(order.max()) < batch:
        wrong = next(i for i in order.tolist() if not 0 <= i < batch)
        raise ArgumentError(f"There is no sample {wrong}: the cache has {batch}, counted from 0.")
    return order.long()


def check_same_kind(kind: type, caches: Sequence[object]) -> None:
    """Raise unless there are caches to merge, all of one kind."""
    if not caches:
        raise ArgumentError(f"{kind.__name__}.merge got no caches.\nPass at least one.")
    for cache in caches:
        if type(cache) is not kind:
            raise KindError(f"{kind.__name__}.merge takes its own kind, not {describe(cache)}.")


def check_count(name: str, value: object, least: int = 1) -> int:
    """A count; raise unless `value` is an int from `least` on."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise KindError(f"`{name}` is a count, not {describe(value)}.")
    if value < least:
        raise ArgumentError(f"`{name}` is {value}.\nPass {least} or more.")
    return value
