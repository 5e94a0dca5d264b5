"""The engine fused: one kernel call for all, without a mask or with a small one written out."""

from __future__ import annotations

from wqkv.attend.call import Call
from wqkv.attend.engines import differentiable, rectangles
from wqkv.attend.engines.plan import Plan, make_plan
from wqkv.attend.masks.algebra import Full
from wqkv.attend.partial import Partial, with_sinks
from wqkv.attend.values import is_traced

#: The most pairs (query_len * key_len) whose mask or bias is written out.
SMALL = 2**14


def reasons_against(call: Call) -> list[str]:
    reasons = rectangles.empty_reasons(call) + rectangles.kernel_reasons(call)
    reasons += differentiable.reasons_against(call)
    if call.rules.bias is None and isinstance(call.rules.mask, Full):
        return reasons
    _, _, query_len, key_len = call.sizes
    if call.rules.mask.per_sample:
        # Samples of different lengths are worth cutting apart even for one query, above 512 keys.
        query_len = max(query_len, 32)
    if is_traced(call.query):  # comparing the lengths would make them constants of the graph
        reasons.append("a mask or bias is cut into rectangles while a graph is traced")
    elif query_len > 1 and query_len * key_len > SMALL:
        reasons.append(f"a mask or bias over more than {SMALL} pairs is cut into rectangles")
    return reasons


def plan(call: Call) -> Plan:
    return make_plan(call, "one kernel call")


def run(call: Call) -> Partial:
    return with_sinks(Partial(*differentiable.compute(call, "one kernel call")), call.rules.sinks)
