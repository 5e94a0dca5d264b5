"""One kernel call for the whole: no mask, the kernels' own causal mask, or a mask small enough to write out."""

from __future__ import annotations

from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles
from wqkv.attend.engines.plan import Piece
from wqkv.attend.masks import Full
from wqkv.attend.places import Rect
from wqkv.attend.merge import Partial, with_sinks

#: The largest mask or bias (query_len * key_len) that is written out.
SMALL = 2**14


def reasons_against(call: Call) -> list[str]:
    reasons = rectangles.empty_reasons(call) + rectangles.kernel_reasons(call)
    _, _, query_len, key_len = call.sizes
    if not _plain(call) and query_len > 1 and query_len * key_len > SMALL:
        rule = "the bias" if isinstance(call.mask, Full) else repr(call.mask)
        reasons.append(f"{rule} over {query_len} x {key_len} is better cut into rectangles")
    return reasons


def run(call: Call) -> Partial:
    _, _, query_len, key_len = call.sizes
    whole = Piece(Rect(None, 0, query_len, 0, key_len), not isinstance(call.mask, Full), True)
    part = Partial(*rectangles.compute(call, [whole]))
    return part if call.sinks is None else with_sinks(part, call.sinks)


def _plain(call: Call) -> bool:
    return call.bias is None and isinstance(call.mask, Full)
