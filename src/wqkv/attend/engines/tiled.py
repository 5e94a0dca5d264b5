"""Rectangles planned from the mask's structure, computed one by one and merged: any mask, any device."""

from __future__ import annotations

from wqkv.attend.call import Call
from wqkv.attend.engines import rectangles
from wqkv.attend.engines.plan import plan
from wqkv.attend.merge import Partial, with_sinks


def reasons_against(call: Call) -> list[str]:
    return rectangles.empty_reasons(call)


def run(call: Call) -> Partial:
    # Where the reference computes the rectangles, they stay small: its scores are held one rectangle at a time.
    wide = {} if not rectangles.kernel_reasons(call) else {"wide": None}
    part = Partial(*rectangles.compute(call, plan(call, **wide)))
    return part if call.sinks is None else with_sinks(part, call.sinks)
