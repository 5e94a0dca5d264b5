"""Rectangles planned from the mask's structure and merged: any mask, any device."""

from __future__ import annotations

from wqkv.attend.call import Call
from wqkv.attend.engines import differentiable, rectangles
from wqkv.attend.engines import operator as traced
from wqkv.attend.partial import Partial, with_sinks


def reasons_against(call: Call) -> list[str]:
    return rectangles.empty_reasons(call) + traced.graph_reasons(call)


def run(call: Call) -> Partial:
    return with_sinks(Partial(*differentiable.compute(call, one=False)), call.sinks)
