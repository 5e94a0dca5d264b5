"""The engine tiled: rectangles planned from the mask's structure, computed and merged."""

from __future__ import annotations

from wqkv.attend.call import Call
from wqkv.attend.engines import differentiable, rectangles
from wqkv.attend.engines.plan import Plan, make_plan
from wqkv.attend.partial import Partial, with_sinks


def reasons_against(call: Call) -> list[str]:
    return rectangles.empty_reasons(call) + differentiable.reasons_against(call)


def plan(call: Call) -> Plan:
    return make_plan(call, rectangles.method(call))


def run(call: Call) -> Partial:
    part = Partial(*differentiable.compute(call, rectangles.method(call)))
    return with_sinks(part, call.rules.sinks)
