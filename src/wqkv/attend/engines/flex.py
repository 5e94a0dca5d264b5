"""The engine flex: FlexAttention, by name only: it takes seconds to compile a rule or length.

Like the reference, it asks the mask (`visible`) and the bias (`tile`), but about one pair of query
and key at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from wqkv.attend.call import Call
from wqkv.attend.engines import reference
from wqkv.attend.engines.plan import ROWS, Plan, one_piece
from wqkv.attend.engines.rectangles import empty_reasons
from wqkv.attend.geometry import At, Rect
from wqkv.attend.masks.algebra import Full
from wqkv.attend.partial import Partial, with_sinks
from wqkv.upstream import of_torch

#: How many compiled graphs are kept; the next one raises.
LIMIT = 256


def reasons_against(call: Call) -> list[str]:
    reasons = empty_reasons(call)
    device, dtype = call.query.device.type, call.query.dtype
    if device not in ("cpu", "cuda"):
        reasons.append(f"FlexAttention does not run on {device}")
    if dtype == torch.float64:
        reasons.append("FlexAttention has no float64")
    if call.rules.dropout_p > 0:
        reasons.append("FlexAttention has no dropout")
    if device == "cpu" and (call.wants_grad() or call.wants_bias_grad()):
        reasons.append("FlexAttention has no backward on cpu")
    if device == "cpu" and (call.lse or call.rules.sinks is not None):
        reasons.append("FlexAttention returns no lse on cpu")
    if device == "cpu" and not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        reasons.append("there is no C++ compiler")
    if torch.compiler.is_compiling():
        reasons.append("it is compiled by itself, not inside another graph")
    return reasons


def plan(call: Call) -> Plan:
    return one_piece(call, "FlexAttention")


def run(call: Call) -> Partial:
    batch, n_head, query_len, key_len = call.sizes
    device = call.query.device

    def at(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> At:
        offset = call.query_offset
        return At(b, h, q, q + (offset.to(device)[b] if isinstance(offset, Tensor) else offset), k)

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return call.rules.mask.visible(at(b, h, q, k)).reshape(())

    def score(s: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        if call.rules.softcap is not None:
            s = call.rules.softcap * torch.tanh(s / call.rules.softcap)
        return (
            s
            if call.rules.bias is None
            else s + call.rules.bias.tile(at(b, h, q, k), s.dtype).reshape(())
        )

    plain = isinstance(call.rules.mask, Full)
    lse = call.lse or call.rules.sinks is not None
    blocks, key, value = None, call.key, call.value
    if not plain:
        seen = _seen(call)
        key, value = reference.cleared(key, seen), reference.cleared(value, seen)
        blocks = create_block_mask(visible, batch, n_head, query_len, key_len, device=device)
    # Every rule is a graph of its own. At its limit the compiler would fall back in silence.
    with of_torch.compiler_config.patch(recompile_limit=LIMIT):
        result = _compiled()(
            call.query,
            key,
            value,
            score_mod=None if call.rules.softcap is None and call.rules.bias is None else score,
            block_mask=blocks,
            scale=call.scale,
            enable_gqa=call.group > 1,
            return_aux=AuxRequest(lse=True) if lse else None,
        )
    if not lse:  # nobody reads it, and on a CPU there is none
        return Partial(result, call.query.new_full(call.query.shape[:3], torch.nan))
    return with_sinks(Partial(result[0], result[1].lse), call.rules.sinks)


def _seen(call: Call) -> Tensor:
    """Which keys any query sees, (batch | 1, n_head | 1, 1, key_len), in blocks of queries."""
    _, _, query_len, key_len = call.sizes
    found: Tensor | None = None
    for q0 in range(0, query_len, ROWS):
        rect = Rect(None, q0, min(q0 + ROWS, query_len), 0, key_len)
        here = call.rules.mask.visible(call.places(rect)).any(dim=2, keepdim=True)
        found = here if found is None else found | here
    assert found is not None
    return found


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)
