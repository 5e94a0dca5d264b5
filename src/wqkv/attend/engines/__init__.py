"""The engines, in order of preference; `choose` picks, `explain` tells why.

An engine is a module with three functions: `reasons_against(call) -> list[str]`, pure and never
waiting for a device, `run(call) -> Partial`, and `plan(call) -> Plan`, which says what `run`
computes. To add one, write one file and name it here.
"""

from __future__ import annotations

from types import ModuleType

from wqkv.attend.call import Call
from wqkv.attend.engines import flex, fused, reference, tiled
from wqkv.attend.engines.plan import Plan
from wqkv.attend.values import is_traced, transformed
from wqkv.errors import ArgumentError, EngineError, KindError, describe

#: The engine "auto" picks the first of these that can run the call.
PREFERENCE: tuple[ModuleType, ...] = (fused, tiled, reference)
#: These engines run only if they are named.
BY_NAME: tuple[ModuleType, ...] = (flex,)


def name(engine: ModuleType) -> str:
    return engine.__name__.rpartition(".")[2]


def choose(call: Call, engine: str) -> ModuleType:
    """The engine that runs a call: the named one, or for "auto" the first in PREFERENCE that can.

    Raises:
        EngineError: the named engine cannot run the call, with every engine's reasons.
        ArgumentError, KindError: there is no engine of this name.
    """
    if not isinstance(engine, str):
        raise KindError(f"`engine` is a string, not {describe(engine)}.")
    known = {name(module): module for module in (*PREFERENCE, *BY_NAME)}
    if engine == "auto":
        for module in PREFERENCE:
            if not module.reasons_against(call):
                return module
        raise EngineError(f"No engine can run this call.\n{report(call)}")
    if engine not in known:
        raise ArgumentError(
            f"There is no engine {engine!r}.\nPass one of: auto, {', '.join(known)}."
        )
    if reasons := known[engine].reasons_against(call):
        raise EngineError(
            f"The engine {engine!r} cannot run this call: {'; '.join(reasons)}.\n{report(call)}"
        )
    return known[engine]


def planned(call: Call, engine: ModuleType) -> str:
    """The plan of an engine for a call, in words."""
    if is_traced(call.query) or transformed():
        return "planned when the numbers are there"
    plan: Plan = engine.plan(call)
    return plan.describe(call)


def report(call: Call) -> str:
    """Every engine with every reason against it, one engine per line."""
    lines = []
    for module in (*PREFERENCE, *BY_NAME):
        reasons = module.reasons_against(call)
        when = "can run" if module in PREFERENCE else "can run, when named"
        lines.append(f"  {name(module):<10} {'; '.join(reasons) or when}")
    return "\n".join(lines)
