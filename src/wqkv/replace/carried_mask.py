"""The mask that a transformers model asks for, as a value, and its way to the layers.

A model describes its mask by a function of positions. Those that transformers makes are recognised,
so that windows, chunks and packed texts become values of wqkv; any other is asked about rectangles.
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
from wqkv.upstream import of_transformers as _masking
from wqkv.upstream.of_torch import make_wrapper, to_copy, tree_map_only

_aten: Any = torch.ops.aten

#: The largest matrix (in pairs) that a model gets when it computes with its mask.
LIMIT = 2**26
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: Rule = _masking.causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_is_causal_skip: bool = True,
    **others: Any,
) -> Tensor | None:
    """transformers' mask function: what its eager path would add to the scores, as a value."""
    device = torch.device(device)
    on_device = isinstance(q_offset, Tensor) and q_offset.device.type != "cpu"
    tracing = torch.compiler.is_compiling()
    plain = attention_mask is None and mask_function is _masking.causal_mask_function
    if tracing and plain and allow_is_causal_skip and q_length == kv_length:
        return None  # which says causal, as to transformers' own functions
    if tracing or (on_device and q_length == 1):
        # A traced graph needs a plain tensor; one row is short, and reads no position from a GPU.
        written: Tensor = _masking.eager_mask(
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
    padding = _masking.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    asked = Asked(
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
    return Carried(asked)


@dataclass(frozen=True, eq=False)
class Asked:
    """The mask that a model asks for; its positions are absolute."""

    batch: int
    query_len: int
    key_len: int
    query_start: int
    key_start: int
    function: Rule
    padding: Tensor | None  # (batch, key_start + key_len or more), True = a word
    use_vmap: bool  # the function takes one index at a time
    device: torch.device
    dtype: torch.dtype

    @property
    def offset(self) -> int:
        """Where the queries stand among the keys at hand."""
        return self.query_start - self.key_start

    @cached_property
    def mask(self) -> Mask:
        """It as a value, in which key 0 is the first key at hand."""
        parts = self._parts(self.function)
        if self.padding is not None:
            parts.append(_padding(self._here(self.padding.bool())))
        return self._all(parts)

    def dense(self, why: str) -> Tensor:
        """It written out as the eager path has it, 0 or the least float: for a model's own sums."""
        pairs = self.batch * self.query_len * self.key_len
        if pairs > LIMIT:
            raise EngineError(
                f"The model computes with its mask ({why}), which for {self.query_len} x "
                f"{self.key_len} positions and a batch of {self.batch} would take "
                f"{pairs * self.dtype.itemsize / 2**30:.2f} GiB.\n"
                f"Pass a shorter text: {LIMIT} pairs are written out at most."
            )
        seen = self.mask.dense(self.query_len, self.key_len, self.offset).to(self.device)
        least = torch.finfo(self.dtype).min
        written = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return written.masked_fill(~seen, least).expand(self.batch, 1, -1, -1)

    def _here(self, stored: Tensor) -> Tensor:
        """The entries of the keys at hand, of a tensor (batch, position)."""
        return stored[:, self.key_start : self.key_start + self.key_len]

    def _parts(self, function: Rule) -> list[Mask]:
        """A mask function of transformers as values, all of which must hold."""
        known = _held(function)
        match _KINDS.get(getattr(function, "__code__", None)):
            case "causal":
                return [Causal()]
            case "full":
                return [Full()]
            case "before":
                return [Window(known["sliding_window"] - 1, None)]
            case "around":
                return [Window(known["sliding_window"], known["sliding_window"])]
            case "padding":
                return [_padding(self._here(known["padding_mask"].bool()))]
            case "chunks" if self._among:
                place = torch.arange(self.key_start, self.key_start + self.key_len, device="cpu")
                first = known["left_padding"].cpu()[:, None]
                return [_segments((place - first) // known["chunk_size"])]
            case "packed" if self._among:
                return [_segments(self._here(known["packed_sequence_mask"]))]
            case "blocks" if self._among:
                labels = self._here(known["block_sequence_ids"]).cpu()
                return [_segments(labels), _padding(labels >= 0)]
            case "and":
                functions = known["mask_functions"]
                texts = any(_kind(f) == "packed" for f in functions)
                return [
                    part
                    for f in functions
                    for part in (self._within_texts(f) if texts else self._parts(f))
                ]
            case "or":
                first, *rest = (self._all(self._parts(f)) for f in known["mask_functions"])
                for other in rest:
                    first = first | other
                return [first]
        return [Unknown(replace(self), function)]  # a copy: no cycle through the kept mask

    def _within_texts(self, function: Rule) -> list[Mask]:
        """Positions that count from each text's start differ as those that count from the first."""
        if _kind(function) == "remap":
            parts = self._parts(_held(function)["mask_function"])
            if all(part.by_shift for part in parts):
                return parts
        return self._parts(function)

    @property
    def _among(self) -> bool:
        """Whether the queries stand among the keys at hand."""
        return self.offset >= 0 and self.offset + self.query_len <= self.key_len

    def _all(self, parts: list[Mask]) -> Mask:
        """All of them, without those that hide nothing here, and with windows as one."""
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
    """A mask function that is none of transformers' own: asked about one rectangle at a time.

    As in Dense, the rows are the queries of the call.
    """

    def __init__(self, asked: Asked, function: Rule) -> None:
        self.asked, self.function = asked, function

    def visible(self, at: At) -> Tensor:
        q, k = self.asked.query_start, self.asked.key_start
        if at.box is None:
            return self.function(at.batch, torch.zeros_like(at.head), at.row + q, at.key_pos + k)
        batch, rows, keys = at.box
        seen: Tensor = _masking.sdpa_mask(
            batch_size=batch.stop,
            q_length=rows.stop - rows.start,
            kv_length=keys.stop - keys.start,
            q_offset=rows.start + q,
            kv_offset=keys.start + k,
            mask_function=self.function,
            allow_is_causal_skip=False,
            use_vmap=self.asked.use_vmap,
            device=at.key_pos.device,
        )
        return seen[batch]

    def region(self, rect: Rect) -> bool | None:
        return None

    def _extent(self) -> tuple[int, int]:
        return self.asked.batch, 1

    def _own_lengths(self) -> tuple[int | None, int | None]:
        return self.asked.query_len, self.asked.key_len

    def __repr__(self) -> str:
        return f"Unknown({getattr(self.function, '__qualname__', self.function)})"


_KINDS = {
    function.__code__: kind
    for kind, function in {
        "causal": _masking.causal_mask_function,
        "full": _masking.bidirectional_mask_function,
        "before": _masking.sliding_window_overlay(1),
        "around": _masking.sliding_window_bidirectional_overlay(1),
        "chunks": _masking.chunked_overlay(1, torch.zeros(1, device="cpu")),
        "padding": _masking.padding_mask_function(torch.zeros(1, device="cpu")),
        "packed": _masking.packed_sequence_mask_function(torch.zeros(1, device="cpu")),
        "blocks": _masking.blockwise_overlay(torch.zeros(1, device="cpu")),
        "and": _masking.and_masks(),
        "or": _masking.or_masks(),
    }.items()
}
if _remap := _masking.positions_of_packed_texts():
    _KINDS[_remap(id, torch.zeros(1, device="cpu")).__code__] = "remap"


def _kind(function: Any) -> str | None:
    return _KINDS.get(getattr(function, "__code__", None))


def _held(function: Any) -> dict[str, Any]:
    """What a function holds of the one that made it."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def _segments(labels: Tensor) -> Mask:
    labels = labels.cpu()
    alike = len(labels) > 1 and bool((labels == labels[:1]).all())
    return Segments(labels[:1] if alike else labels)


def _padding(words: Tensor) -> Mask:
    """Bool (batch, key): lengths where words stand side by side, else one row a sample."""
    words = words.cpu()
    count, n = words.sum(dim=1), words.shape[1]
    if bool((count == n).all()):
        return Full()
    start = words.int().argmax(dim=1)
    place = torch.arange(n, device="cpu")
    if not bool((words == (place >= start[:, None]) & (place < (start + count)[:, None])).all()):
        return Dense(words[:, None, None, :])
    mask: Mask = Full()
    if bool((start > 0).any()):
        mask = ~Lengths(start)
    if bool((start + count < n).any()):
        mask = mask & Lengths(start + count)
    return mask


class Carried(Tensor):
    """A mask on its way from a model to its layers: to look at, the eager path's float mask.

    It has no memory, and must still be a tensor, and that one: `generate` calls `.contiguous()` on
    what it prepares for a static cache, a finished mask is told by its four axes, hooks move
    tensors; and a few families compute with it (doge, deepseek_v4, bigbird_pegasus), in ways that
    are right for the eager mask in all of them and for a bool one in some. They get it written out.
    """

    asked: Asked

    @staticmethod
    def __new__(cls, asked: Asked) -> Carried:
        shape = (asked.batch, 1, asked.query_len, asked.key_len)
        made: Carried = make_wrapper(cls, shape, dtype=asked.dtype, device=asked.device)
        made.asked = asked
        return made

    def __init__(self, asked: Asked) -> None:
        """Tensor's own takes no such argument."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Carried({self.asked.mask!r}, {describe(self)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(args[0], Carried):
            moved = _moved(func, args[0].asked, args[1:], kwargs)
            if moved is not None:
                return moved
        args, kwargs = tree_map_only(Carried, lambda x: x.asked.dense(str(func)), (args, kwargs))
        return func(*args, **kwargs)


def _moved(
    func: Any, asked: Asked, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Carried | None:
    """The mask after an operator that leaves it a value; None for any other."""
    if func in (_aten.detach.default, _aten.alias.default, _aten.clone.default):
        return Carried(asked)
    if func is to_copy and kwargs.get("dtype", asked.dtype).is_floating_point:
        device, dtype = (kwargs.get(name) or getattr(asked, name) for name in ("device", "dtype"))
        return Carried(replace(asked, device=torch.device(device), dtype=dtype))
    if func is _aten.slice.Tensor and args[0] in (2, 3) and len(args) <= 3:
        size = asked.query_len if args[0] == 2 else asked.key_len
        start, stop, _ = slice(*args[1:]).indices(size)
        if args[0] == 2:
            cut = replace(asked, query_start=asked.query_start + start, query_len=stop - start)
        else:
            cut = replace(asked, key_start=asked.key_start + start, key_len=stop - start)
        return Carried(cut)
    return None
