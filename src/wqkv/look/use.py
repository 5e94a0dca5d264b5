"""Run transformers models on attention(): `use(model)`, or `set_attn_implementation("wqkv")`.

Importing this module registers the name "wqkv" with transformers, twice: as an attention function
and as a mask function. A model asks for its mask as a function of positions and gives what it gets
to every layer; ours stays a value on this way, so that no query_len x key_len is ever written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from wqkv.attend.functional import attention
from wqkv.attend.masks import Causal, Dense, Full, Lengths, Mask, Segments, Window
from wqkv.attend.places import At, Rect
from wqkv.errors import EngineError, KindError, describe, message, need

_masking: Any = need("transformers.masking_utils", "hf", "wqkv.look.use")
_modeling: Any = need("transformers.modeling_utils", "hf", "wqkv.look.use")

#: The name that models know it by.
NAME = "wqkv"
#: The largest matrix (in pairs) that a model gets when it computes with its mask.
LIMIT = 2**26
#: What layers hand on although attention does not depend on it: positions are already in q and k,
#: packed texts are already in the mask, and the rest is about what is returned.
WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "deterministic",
        "head_mask",
        "labels",
        "layer_idx",
        "logits_to_keep",
        "max_length_k",
        "max_length_q",
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
Model = TypeVar("Model", bound=nn.Module)
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def use(model: Model) -> Model:
    """Switch a transformers model to attention(), and return it.

    `model.set_attn_implementation("sdpa")` switches it back. A query that may see no key (a padded
    word) has output 0, where transformers' eager path averages over all words.

    Raises:
        KindError: it is no transformers model.
        EngineError: some of its attention does not go through transformers' interface.
    """
    if not isinstance(model, _modeling.PreTrainedModel):
        raise KindError(f"`model` is a transformers model, not a {type(model).__name__}.")
    parts: list[Any] = [m for m in model.modules() if isinstance(m, _modeling.PreTrainedModel)]
    if fixed := sorted({type(m).__name__ for m in parts if not m._can_set_attn_implementation()}):
        raise EngineError(
            f"{type(model).__name__} cannot run on wqkv: the attention of {', '.join(fixed)} does "
            "not go through transformers' AttentionInterface."
        )
    whole: Any = model
    whole.set_attn_implementation(NAME)
    return model


# What the layers call


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
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: (batch, query_len, n_head, d_v), and no weights."""
    _refuse(module, others)
    mask, bias, offset = _rules(module, query, key, attention_mask, is_causal)
    if position_bias is not None:
        bias = position_bias if bias is None else bias + position_bias
    if query.shape[0] != key.shape[0]:  # learned queries, one set for all samples
        query = query.expand(key.shape[0], -1, -1, -1)
    out = attention(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        scale=scaling,
        softcap=softcap,
        sinks=s_aux if sinks is None else sinks,
        dropout_p=dropout,
        query_offset=offset,
    )
    return out.transpose(1, 2).contiguous(), None


def _refuse(module: nn.Module, others: dict[str, Any]) -> None:
    """Raise for arguments that may change the result in a way that is not known here."""
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
    """The mask, a bias in the mask's place, and where the queries stand among the keys."""
    query_len, key_len = query.shape[2], key.shape[2]
    if given is None:  # as transformers' own: queries stand at the first keys
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return (Causal() if causal and query_len > 1 else Full()), None, 0
    if isinstance(given, Carried):
        asked = given.asked
        if asked.key_len > key_len:  # a mask made for the longest of the layers' caches
            asked = replace(asked, key_len=key_len)
            return asked.mask, None, asked.offset
        return asked.mask, None, asked.offset
    if not isinstance(given, Tensor) or given.ndim != 4:
        raise KindError(
            f"wqkv cannot run {type(module).__name__}: its `attention_mask` is a tensor "
            f"(batch, head, query, key), not {describe(given)}."
        )
    given = given[..., :key_len]
    if given.dtype == torch.bool:
        return Dense(given), None, 0
    return Full(), given, 0


# What a model calls for its mask


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
    **others: Any,
) -> Tensor:
    """transformers' mask function: a bool mask (batch, 1, query_len, key_len) as a value."""
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
        torch.device(device),
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

    def dense(self) -> Tensor:
        """It written out, for a model that computes with it."""
        if self.batch * self.query_len * self.key_len > LIMIT:
            raise EngineError("too large")
        seen = self.mask.dense(self.query_len, self.key_len, self.offset).to(self.device)
        return seen.expand(self.batch, 1, -1, -1)

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
                place = torch.arange(self.key_start, self.key_start + self.key_len)
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
        return [Unknown(self, function)]

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
    """A mask function that is none of transformers' own: asked about one rectangle at a time."""

    by_position = True

    def __init__(self, asked: Asked, function: Rule) -> None:
        self.asked, self.function = asked, function

    def visible(self, at: At) -> Tensor:
        start = self.asked.key_start
        if at.box is None:
            return self.function(at.batch, at.head, at.query_pos + start, at.key_pos + start)
        batch, _, keys = at.box
        seen: Tensor = _masking.sdpa_mask(
            batch_size=batch.stop,
            q_length=at.query_pos.shape[2],
            kv_length=keys.stop - keys.start,
            q_offset=int(at.query_pos.flatten()[0]) + start,
            kv_offset=keys.start + start,
            mask_function=self.function,
            allow_is_causal_skip=False,
            use_vmap=self.asked.use_vmap,
            device=self.asked.device,
        )
        return seen[batch]

    def region(self, rect: Rect) -> bool | None:
        return None

    def _extent(self) -> tuple[int, int]:
        return self.asked.batch, 1

    def _lengths(self) -> tuple[int | None, int | None]:
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
        "chunks": _masking.chunked_overlay(1, torch.zeros(1)),
        "padding": _masking.padding_mask_function(torch.zeros(1)),
        "packed": _masking.packed_sequence_mask_function(torch.zeros(1)),
        "remap": _masking.remap_positions_for_packed_sequence(id, torch.zeros(1)),
        "blocks": _masking.blockwise_overlay(torch.zeros(1)),
        "and": _masking.and_masks(),
        "or": _masking.or_masks(),
    }.items()
}


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
    place = torch.arange(n)
    if not bool((words == (place >= start[:, None]) & (place < (start + count)[:, None])).all()):
        return Dense(words[:, None, None, :])
    mask: Mask = Full()
    if bool((start > 0).any()):
        mask = ~Lengths(start)
    if bool((start + count < n).any()):
        mask = mask & Lengths(start + count)
    return mask


class Carried(Tensor):
    """A mask on its way from the model to its layers.

    It must be a tensor: `generate` calls `.contiguous()` on the mask that it prepares for a static
    cache, models tell a finished mask by its four axes, and hooks move tensors. But it has no
    memory.
    """

    asked: Asked

    @staticmethod
    def __new__(cls, asked: Asked) -> Carried:
        shape = (asked.batch, 1, asked.query_len, asked.key_len)
        made: Carried = Tensor._make_wrapper_subclass(
            cls, shape, dtype=torch.bool, device=asked.device
        )
        made.asked = asked
        return made

    def __init__(self, asked: Asked) -> None:
        pass

    def __repr__(self, **others: Any) -> str:
        return f"Carried({self.asked.mask!r}, {describe(self)})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        print("OP", func, [getattr(a, "shape", a) for a in args], kwargs)
        dense = tree_map_only(Carried, lambda carried: carried.asked.dense(), (args, kwargs or {}))
        return func(*dense[0], **dense[1])


_modeling.AttentionInterface.register(NAME, run)
_masking.AttentionMaskInterface.register(NAME, ask)
