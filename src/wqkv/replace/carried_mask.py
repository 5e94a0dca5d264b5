"""The mask that a transformers model asks for, as a value, and its way to the layers.

A model describes its mask by a function of positions. The functions that transformers makes are
recognized by their code, so that windows, chunks and packed texts become masks of wqkv. Any other
stays a function, which is called for one rectangle of positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wqkv.attend.geometry import At, Rect
from wqkv.attend.masks import Causal, Dense, Full, Lengths, Mask, Segments, Window
from wqkv.errors import EngineError, describe
from wqkv.upstream import of_transformers as masking
from wqkv.upstream.of_torch import make_wrapper, to_copy, tree_map_only

_aten: Any = torch.ops.aten

#: How many pairs (batch * query_len * key_len) are written out at most for a model that computes
#: with its mask.
MOST_PAIRS = 2**26
#: Of batch, head, query and key, as tensors of positions; True = may attend.
MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def request_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: MaskFunction = masking.causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_is_causal_skip: bool = True,
    **others: Any,  # transformers passes each version's own
) -> Tensor | None:
    """transformers' interface for masks: make the mask of a forward, here as a Carried value."""
    device = torch.device(device)
    on_device = isinstance(q_offset, Tensor) and q_offset.device.type != "cpu"
    tracing = torch.compiler.is_compiling()
    plain = attention_mask is None and mask_function is masking.causal_mask_function
    if tracing and plain and allow_is_causal_skip and q_length == kv_length:
        return None  # layers then take it as causal, as transformers' own functions do
    if tracing or (on_device and q_length == 1):
        # A traced graph needs a plain tensor. A `q_offset` on a GPU is not read, because every step
        # of a generation would wait for the GPU: its one row is written out, which is short.
        written: Tensor = masking.eager_mask(
            batch_size,
            q_length,
            kv_length,
            q_offset,
            kv_offset,
            mask_function,
            attention_mask,
            dtype=dtype,
            use_vmap=use_vmap,
            device=device,
        )
        return written
    padding = masking.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    requested = RequestedMask(
        batch_size,
        q_length,
        kv_length,
        int(q_offset),
        int(kv_offset),
        mask_function,
        padding,
        use_vmap,
        device,
        dtype,
    )
    return Carried(requested)


@dataclass(frozen=True, eq=False)
class RequestedMask:
    """The mask that a model asks for in one forward; its positions are absolute."""

    batch: int
    query_len: int
    key_len: int
    query_start: int
    key_start: int
    function: MaskFunction
    padding: Tensor | None  # (batch, key_start + key_len or more), True = a token
    use_vmap: bool  # the function takes one index at a time
    device: torch.device
    dtype: torch.dtype

    @property
    def offset(self) -> int:
        """Where query 0 stands, counted from the first key of the call."""
        return self.query_start - self.key_start

    @cached_property
    def mask(self) -> Mask:
        """The mask as a value, in which key 0 is the first key of the call."""
        parts = self._parts(self.function)
        if self.padding is not None:
            parts.append(_padding(self._here(self.padding.bool())))
        return self._all(parts)

    def dense(self, why: str) -> Tensor:
        """The mask written out as transformers' eager path does, 0 or the least float.

        Args:
            why: the operator for which a model needs it, for the error.

        Raises:
            EngineError: it would have more than MOST_PAIRS.
        """
        pairs = self.batch * self.query_len * self.key_len
        if pairs > MOST_PAIRS:
            raise EngineError(
                f"The model computes with its mask ({why}), which for {self.query_len} x "
                f"{self.key_len} positions and a batch of {self.batch} would take "
                f"{pairs * self.dtype.itemsize / 2**30:.2f} GiB.\n"
                f"Pass a shorter text: {MOST_PAIRS} pairs are written out at most."
            )
        seen = self.mask.dense(self.query_len, self.key_len, self.offset).to(self.device)
        least = torch.finfo(self.dtype).min
        written = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return written.masked_fill(~seen, least).expand(self.batch, 1, -1, -1)

    def _here(self, stored: Tensor) -> Tensor:
        """The entries for the keys of the call, of a tensor (batch, position)."""
        return stored[:, self.key_start : self.key_start + self.key_len]

    def _parts(self, function: MaskFunction) -> list[Mask]:
        """A mask function of transformers as values, all of which must hold."""

        def given(name: str) -> Any:
            return _closure_value(function, name)

        match _KINDS.get(getattr(function, "__code__", None)):
            case "causal":
                return [Causal()]
            case "full":
                return [Full()]
            case "before":
                return [Window(given("sliding_window") - 1, None)]
            case "around":
                return [Window(given("sliding_window"), given("sliding_window"))]
            case "padding":
                return [_padding(self._here(given("padding_mask").bool()))]
            case "chunks" if self._among:
                place = torch.arange(self.key_start, self.key_start + self.key_len, device="cpu")
                first = given("left_padding").cpu()[:, None]
                return [_segments((place - first) // given("chunk_size"))]
            case "packed" if self._among:
                return [_segments(self._here(given("packed_sequence_mask")))]
            case "blocks" if self._among:
                labels = self._here(given("block_sequence_ids")).cpu()
                return [_segments(labels), _padding(labels >= 0)]
            case "and":
                functions = given("mask_functions")
                texts = any(_kind(f) == "packed" for f in functions)
                return [
                    part
                    for f in functions
                    for part in (self._within_texts(f) if texts else self._parts(f))
                ]
            case "or":
                first, *rest = (self._all(self._parts(f)) for f in given("mask_functions"))
                for other in rest:
                    first = first | other
                return [first]
        # A copy, because `mask` is kept in this one: they would hold each other alive.
        return [Unknown(replace(self), function)]

    def _within_texts(self, function: MaskFunction) -> list[Mask]:
        """One part of the mask of packed texts, whose positions begin anew with each text.

        Within a text such positions differ as absolute ones do. So a function of their differences
        alone, such as a window, is the same of absolute positions.
        """
        if _kind(function) == "remap":
            parts = self._parts(_closure_value(function, "mask_function"))
            if all(part.by_shift for part in parts):
                return parts
        return self._parts(function)

    @property
    def _among(self) -> bool:
        """Whether every query is also a key of the call."""
        return self.offset >= 0 and self.offset + self.query_len <= self.key_len

    def _all(self, parts: list[Mask]) -> Mask:
        """The mask of all parts: windows become one, and what hides nothing here is left out."""
        here = Rect(None, self.offset, self.offset + self.query_len, 0, self.key_len)
        parts = [part for part in parts if part.region(here) is not True]
        windows = [part for part in parts if isinstance(part, Causal | Window)]
        result: Mask = Full()
        if windows:
            spans = [(None, 0) if isinstance(w, Causal) else (w.before, w.after) for w in windows]
            before, after = (
                min((n for n in side if n is not None), default=None)
                for side in zip(*spans, strict=True)
            )
            result = Causal() if (before, after) == (None, 0) else Window(before, after)
        for part in parts:
            if not isinstance(part, Causal | Window):
                result = result & part
        return result


class Unknown(Mask):
    """A mask function that is none of transformers' own: it is called for one rectangle at a time.

    As in Dense, the rows are the queries of the call.
    """

    def __init__(self, requested: RequestedMask, function: MaskFunction) -> None:
        self.requested, self.function = requested, function

    def visible(self, at: At) -> Tensor:
        q, k = self.requested.query_start, self.requested.key_start
        if at.box is None:
            return self.function(at.batch, torch.zeros_like(at.head), at.row + q, at.key_pos + k)
        batch, rows, keys = at.box
        seen: Tensor = masking.sdpa_mask(
            batch_size=batch.stop,
            q_length=rows.stop - rows.start,
            kv_length=keys.stop - keys.start,
            q_offset=rows.start + q,
            kv_offset=keys.start + k,
            mask_function=self.function,
            allow_is_causal_skip=False,
            use_vmap=self.requested.use_vmap,
            device=at.key_pos.device,
        )
        return seen[batch]

    def region(self, rect: Rect) -> bool | None:
        return None

    def _extent(self) -> tuple[int, int]:
        return self.requested.batch, 1

    def _own_lengths(self) -> tuple[int | None, int | None]:
        return self.requested.query_len, self.requested.key_len

    def __repr__(self) -> str:
        return f"Unknown({getattr(self.function, '__qualname__', self.function)})"


_KINDS = {
    function.__code__: kind
    for kind, function in {
        "causal": masking.causal_mask_function,
        "full": masking.bidirectional_mask_function,
        "before": masking.sliding_window_overlay(1),
        "around": masking.sliding_window_bidirectional_overlay(1),
        "chunks": masking.chunked_overlay(1, torch.zeros(1, device="cpu")),
        "padding": masking.padding_mask_function(torch.zeros(1, device="cpu")),
        "packed": masking.packed_sequence_mask_function(torch.zeros(1, device="cpu")),
        "blocks": masking.blockwise_overlay(torch.zeros(1, device="cpu")),
        "and": masking.and_masks(),
        "or": masking.or_masks(),
    }.items()
}
if _remap := masking.positions_of_packed_texts():
    _KINDS[_remap(id, torch.zeros(1, device="cpu")).__code__] = "remap"


def _kind(function: Any) -> str | None:
    """Which function of transformers this is; closures of one function share its code."""
    return _KINDS.get(getattr(function, "__code__", None))


def _closure_value(function: Any, name: str) -> Any:
    """What a function was given by the function of transformers that made it, by its name there."""
    cell = function.__closure__[function.__code__.co_freevars.index(name)]
    return cell.cell_contents


def _segments(labels: Tensor) -> Mask:
    """Documents by their labels (batch, key), stored once where all samples have the same."""
    labels = labels.cpu()
    alike = len(labels) > 1 and bool((labels == labels[:1]).all())
    return Segments(labels[:1] if alike else labels)


def _padding(tokens: Tensor) -> Mask:
    """The mask that hides padding; `tokens` is bool (batch, key), False where there is padding.

    Lengths where the tokens of every sample stand side by side, else one stored row per sample.
    """
    tokens = tokens.cpu()
    count, n = tokens.sum(dim=1), tokens.shape[1]
    if bool((count == n).all()):
        return Full()
    start = tokens.int().argmax(dim=1)
    place = torch.arange(n, device="cpu")
    if not bool((tokens == (place >= start[:, None]) & (place < (start + count)[:, None])).all()):
        return Dense(tokens[:, None, None, :])
    mask: Mask = Full()
    if bool((start > 0).any()):
        mask = ~Lengths(start)
    if bool((start + count < n).any()):
        mask = mask & Lengths(start + count)
    return mask


class Carried(Tensor):
    """A mask on its way from a model to its layers: it looks like the eager path's float mask.

    It has no memory, and must still be a tensor of that shape, because `generate` calls
    `.contiguous()` on what it prepares for a static cache, models know a finished mask by its four
    axes, and hooks move tensors. A few families compute with their mask (doge, deepseek_v4,
    bigbird_pegasus): they get it written out, as floats because some cannot take a bool mask.
    """

    requested: RequestedMask

    @staticmethod
    def __new__(cls, requested: RequestedMask) -> Carried:
        shape = (requested.batch, 1, requested.query_len, requested.key_len)
        made: Carried = make_wrapper(cls, shape, dtype=requested.dtype, device=requested.device)
        made.requested = requested
        return made

    def __init__(self, requested: RequestedMask) -> None:
        """Tensor's own takes no such argument."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Carried({self.requested.mask!r}, {describe(self)})"

    # As torch calls it, with the positional and keyword arguments of any operator.
    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(args[0], Carried):
            moved = _moved(func, args[0].requested, args[1:], kwargs)
            if moved is not None:
                return moved
        args, kwargs = tree_map_only(
            Carried, lambda x: x.requested.dense(str(func)), (args, kwargs)
        )
        return func(*args, **kwargs)


# The keyword arguments of any operator.
def _moved(
    func: Any, requested: RequestedMask, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Carried | None:
    """The mask after an operator that leaves it a value: a copy, a move, or a slice; else None."""
    if func in (_aten.detach.default, _aten.alias.default, _aten.clone.default):
        return Carried(requested)
    if func is to_copy and kwargs.get("dtype", requested.dtype).is_floating_point:
        device, dtype = (
            kwargs.get(name) or getattr(requested, name) for name in ("device", "dtype")
        )
        return Carried(replace(requested, device=torch.device(device), dtype=dtype))
    if func is _aten.slice.Tensor and args[0] in (2, 3) and len(args) <= 3:
        size = requested.query_len if args[0] == 2 else requested.key_len
        start, stop, _ = slice(*args[1:]).indices(size)
        if args[0] == 2:
            cut = replace(
                requested, query_start=requested.query_start + start, query_len=stop - start
            )
        else:
            cut = replace(requested, key_start=requested.key_start + start, key_len=stop - start)
        return Carried(cut)
    return None
