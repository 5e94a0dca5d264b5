"""One captured call of a model's attention function: its tensors, its rules, its mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from wqkv.attend.values import is_traced, tracing, transformed
from wqkv.errors import WqkvError
from wqkv.maps.proof import Proof
from wqkv.record.backward import Backward
from wqkv.record.inputs.moment import Moment
from wqkv.record.mask_pattern import Pattern, Visible
from wqkv.upstream import of_torch

#: Why what was kept by reference cannot be shown.
CHANGED = (
    "q, k, v, its output or a mask was changed in place after the forward and before it was asked "
    "for"
)


class Refusal(Exception):
    """Raised for a call that cannot be recorded; its message says why."""


#: Why nothing is recorded of what torch.func maps or differentiates.
TRANSFORMED = "torch.func runs it (vmap, grad, jvp): run the model itself to see it"


def not_understood(error: WqkvError) -> str:
    """Why there is no map of a call that one of our own checks refuses."""
    return "its call is not understood: " + str(error).partition("\n")[0]


def why_untold() -> str | None:
    """Why the numbers of what runs now cannot be kept, whatever runs; None if they can."""
    if transformed():
        return TRANSFORMED
    # torch.jit.trace has the numbers, and would make what is done with them a part of its graph.
    if tracing() or of_torch.is_jit_tracing() or of_torch.is_fx_tracing():
        return "a graph is made of it: run the model itself to see it"
    return None


def why_without_numbers(x: Tensor) -> str | None:
    """Why the numbers of a tensor cannot be kept; None if they can."""
    if why := why_untold():
        return why
    if x.is_meta or is_traced(x):
        kind = "on the device meta" if x.is_meta else f"of class {type(x).__name__}"
        return f"its tensors are {kind}, which holds no numbers"
    if hasattr(x, "__tensor_flatten__"):  # such as a DTensor or a quantized one
        return f"its tensors are of class {type(x).__name__}, which stands for others"
    return None


def check_numbers(x: Tensor) -> None:
    """Raise a Refusal if the numbers of a tensor cannot be kept."""
    if why := why_without_numbers(x):
        raise Refusal(why)


class MaskReading(NamedTuple):
    """One way to read the mask of a call: row by row, and as a pattern where that is known.

    The pattern counts positions as if the queries stood at the last keys, or with `first` at the
    first keys. `all` tells that every query is known to see every key.
    """

    visible: Visible
    pattern: Pattern | None = None
    first: bool = False
    all: bool = False


class CapturedCall(NamedTuple):
    """What one call of an attention function was given, and what it returned."""

    query: Tensor  # (batch, n_head, query_len, d_k)
    key: Tensor  # (batch, n_kv_head, key_len, d_k)
    value: Tensor  # (batch, n_kv_head, key_len, d_v)
    output: Tensor  # (batch, n_head, query_len, d_v)
    readings: list[MaskReading]  # the likeliest first: a call without a mask may mean several
    cross: bool  # whether the keys belong to another text
    stored_keys: bool  # whether cross-attention uses keys that an earlier step has stored
    scale: float | None
    softcap: float | None
    sinks: Tensor | None  # (n_head,)
    bias: Tensor | None  # (batch | 1, n_head | 1, query_len | 1, key_len)
    causal: bool  # decides where a mask has too few rows to show whether it is causal
    window: int | None  # decides there too: how many keys a query sees, its own included
    backward: Backward | None = None  # where its gradient goes, if gradients are asked for
    #: What the model made of all heads' outputs, (batch, query_len, n_head * d_v), before anybody
    #: saw them; `output` is what came of it. None if `output` is that of each head.
    finish: Callable[[Tensor], Tensor] | None = None
    proof: Callable[[], Proof] | None = None  # of a call that is not proved by P V alone
    notes: tuple[str, ...] = ()  # what a reader of its map should know
    moment: Moment | None = None  # the moment, to find what its positions are
