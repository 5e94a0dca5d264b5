"""Every engine on every case: outputs, lse and gradients against the specification in float64.

The measure is the reference in the same dtype; empty buffers are full of NaN; and engines that are
wrong on purpose show that the table can fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.cases import INPUTS, TABLE, Case
from wqkv import Partial, attention
from wqkv.attend import engines
from wqkv.attend.call import Call, request
from wqkv.attend.engines import reference, tiled
from wqkv.attend.masks import Dense, Mask
from wqkv.errors import EngineError

#: Units in the last place that an engine may round away beyond what the reference does.
ROUNDING = 16.0


def results(
    engine: str,
    case: Case,
    dtype: torch.dtype,
    *,
    through: tuple[str, ...] = ("out", "lse"),
    **options: Any,
) -> dict[str, Tensor]:
    """out, lse, and the gradient of every leaf through `through`, by name."""
    inputs = case.make(dtype, **options)
    part: Partial = attention(**inputs.arguments, engine=engine, return_lse=True)
    found = {"out": part.out, "lse": part.lse}
    wanted = {name: leaf for name, leaf in inputs.leaves.items() if leaf.requires_grad}
    if not wanted or not torch.is_grad_enabled():
        return found
    ends = [found[end] for end in through if found[end].requires_grad]  # lse knows no value
    random = torch.Generator().manual_seed(7)
    ups = [torch.randn(end.shape, generator=random, dtype=torch.float64) for end in ends]
    # rounded alike for every dtype that they are held in
    ups = [up.to(dtype).to(end.dtype) for up, end in zip(ups, ends, strict=True)]
    gradients: Sequence[Tensor | None] = [None] * len(wanted)
    if ends:
        gradients = torch.autograd.grad(ends, list(wanted.values()), ups, allow_unused=True)
    for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
        found[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: tensor.detach() for name, tensor in found.items()}


def allowed(exact: Tensor, same: Tensor, terms: float = 1.0) -> float:
    """What an engine may be off by: 2 |same - exact| + ROUNDING eps max(|exact|, sqrt(terms)).

    `same` is the reference in the engine's dtype, `terms` how many numbers of size 1 were summed
    for one of these, and may cancel.
    """
    if exact.numel() == 0:
        return 0.0
    size = max(float(exact.abs().max()), terms**0.5)
    off = float((same.to(exact.dtype) - exact).abs().max())
    return 2 * off + ROUNDING * torch.finfo(same.dtype).eps * size


def differences(
    ours: dict[str, Tensor], same: dict[str, Tensor], exact: dict[str, Tensor]
) -> list[str]:
    """Where an engine's results are not the reference's, beyond rounding."""
    if ours.keys() != same.keys():
        return [f"answers {list(ours)}, not {list(same)}"]
    wrong, out = [], ours["out"]
    for name, got in ours.items():
        like, truth = same[name], exact[name]
        if (got.shape, got.dtype) != (like.shape, like.dtype):
            came, want = (f"{x.dtype}{list(x.shape)}" for x in (got, like))
            wrong.append(f"{name} is {came}, not {want}")
            continue
        if bool(got.isnan().any()):
            wrong.append(f"{name} has {int(got.isnan().sum())} NaN of {got.numel()}")
            continue
        endless = truth.isinf()
        if not torch.equal(got.to(truth.dtype)[endless], truth[endless]):
            wrong.append(f"{name} is not -inf everywhere the reference is")
            continue
        terms = 1.0
        if name.startswith("gradient"):  # of d_v channels, and of all rows that share a number
            terms = out.numel() / max(min(got.numel(), ours["lse"].numel()), 1)
        limit = allowed(truth[~endless], like[~endless], terms)
        off = (got.to(truth.dtype) - truth)[~endless].abs()
        if off.numel() and not float(off.max()) <= limit:
            wrong.append(f"{name} is off by {float(off.max()):.3g}, allowed {limit:.3g}")
    return wrong


@lru_cache(maxsize=16)
def expected(
    case: Case, dtype: torch.dtype, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The reference in this dtype, and in float64 with the same numbers."""
    same = results("reference", case, dtype, **options)
    return same, results("reference", case, dtype, held=torch.float64, **options)


def judged(engine: str, case: Case, dtype: torch.dtype, **options: Any) -> list[str]:
    return differences(results(engine, case, dtype, **options), *expected(case, dtype, **options))


def variants(case: Case) -> Iterator[dict[str, Any]]:
    """What to learn, and through which results: each takes another way through an engine."""
    for through in (("out",), ("lse",), ("out", "lse")):
        yield {"through": through}
    if case.bias is not None or case.sinks:
        yield {"learn": INPUTS}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Empty buffers are full of NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.zeros(3).new_empty((5,)).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAMES = [engines.name(module) for module in engines.PREFERENCE]
#: Compiled for every size, some seconds each: the whole table would take an hour.
COMPILED = [engines.name(module) for module in engines.BY_NAME]
FEW = ("cross anywhere", "softcap bias")

every_engine = pytest.mark.parametrize("engine", NAMES)
every_case = pytest.mark.parametrize("case", TABLE, ids=[case.name for case in TABLE])


def refuses(
    engine: str,
    case: Case,
    dtype: torch.dtype,
    learn: Collection[str] | None = None,
    lse: bool = True,
) -> bool:
    """Whether the engine says that it cannot; then it raises, with its name and all reasons."""
    inputs = case.make(dtype, learn=learn)
    known = {engines.name(module): module for module in (*engines.PREFERENCE, *engines.BY_NAME)}
    reasons = known[engine].reasons_against(request(**inputs.arguments, return_lse=lse))
    if reasons:
        with pytest.raises(EngineError) as error:
            attention(**inputs.arguments, engine=engine, return_lse=lse)
        assert all(text in str(error.value) for text in (f"{engine!r} cannot run", *reasons))
    return bool(reasons)


@every_engine
@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_engine(engine: str, case: Case, dtype: torch.dtype) -> None:
    for options in variants(case):
        if not refuses(engine, case, dtype, options.get("learn")):
            wrong = judged(engine, case, dtype, **options)
            assert not wrong, f"{case}\n{options}\n" + "\n".join(wrong)


def test_nothing_is_refused_in_silence() -> None:
    """How many of the cases each engine runs: a floor, which a new reason must not break."""
    floors = {"reference": len(TABLE), "tiled": len(TABLE) - 7, "fused": 75}
    for engine in NAMES:
        runs = sum(not refuses(engine, case, torch.float32) for case in TABLE)
        assert runs >= floors.get(engine, 1), f"{engine} runs {runs}"
    for engine in COMPILED:
        runs = sum(not refuses(engine, case, torch.float32, (), lse=False) for case in TABLE)
        assert runs >= len(TABLE) - 20, f"{engine} runs {runs}"


@every_engine
@every_case
def test_modes(engine: str, case: Case) -> None:
    """Without a gradient, and without the lse: the same result."""
    dtype = torch.float32
    if refuses(engine, case, dtype):
        return
    same, exact = ({name: full[name] for name in ("out", "lse")} for full in expected(case, dtype))
    with torch.no_grad():
        assert not differences(results(engine, case, dtype), same, exact)
        alone = attention(**case.make(dtype).arguments, engine=engine)
    assert not differences({"out": alone}, {"out": same["out"]}, {"out": exact["out"]})
    alone = attention(**case.make(dtype).arguments, engine=engine).detach()
    assert not differences({"out": alone}, {"out": same["out"]}, {"out": exact["out"]})


@pytest.mark.parametrize(
    "case", [case for case in TABLE if case.batch > 1 and "expanded" not in case.name], ids=str
)
@every_engine
def test_a_bad_sample_harms_no_other(engine: str, case: Case) -> None:
    for learn in (INPUTS, None):
        if refuses(engine, case, torch.float32, learn):
            continue
        good = results(engine, case, torch.float32, learn=learn)
        bad = results(engine, case, torch.float32, learn=learn, spoilt=True)
        for name in ("out", "lse", *(f"gradient of {name}" for name in INPUTS)):
            torch.testing.assert_close(bad[name][1:], good[name][1:])


@pytest.mark.compile
@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("engine", COMPILED)
def test_compiled_engine_on_few_for_it_is_slow(engine: str, name: str) -> None:
    """Its output alone: on some devices it has neither lse nor gradients."""
    case = next(case for case in TABLE if case.name == name)
    torch.use_deterministic_algorithms(False)  # compiled code fills its own buffers
    if refuses(engine, case, torch.float32, (), lse=False):
        return
    same, exact = ({"out": full["out"]} for full in expected(case, torch.float32, learn=()))
    out = attention(**case.make(torch.float32, learn=()).arguments, engine=engine)
    wrong = differences({"out": out}, same, exact)
    assert not wrong, f"{case}\n" + "\n".join(wrong)


# The table can fail


def seeing(call: Call, mask: Mask) -> Call:
    """The call with a second mask."""
    return replace(call, rules=replace(call.rules, mask=call.rules.mask & mask))


class Wrong:
    """Engines with one fault each."""

    @staticmethod
    def last_column(call: Call) -> Partial:
        """Forgets the last column of the mask."""
        seen = torch.arange(call.sizes[3]) < max(call.sizes[3] - 1, 1)
        return reference.run(seeing(call, Dense(seen.view(1, 1, 1, -1))))

    @staticmethod
    def merge(call: Call) -> Partial:
        """Halves the keys, and takes the mean of both outputs."""
        whole = reference.run(call)
        seen = (torch.arange(call.sizes[3]) < (call.sizes[3] + 1) // 2).view(1, 1, 1, -1)
        a = reference.run(seeing(call, Dense(seen)))
        b = reference.run(seeing(call, ~Dense(seen)))
        return Partial((a.out + b.out) / 2, whole.lse)

    @staticmethod
    def lse(call: Call) -> Partial:
        """To the base of 2."""
        out, lse = reference.run(call)
        return Partial(out, lse / 0.6931471805599453)

    @staticmethod
    def gradient(call: Call) -> Partial:
        """Nothing for v."""
        return reference.run(replace(call, value=call.value.detach()))

    @staticmethod
    def rounding(call: Call) -> Partial:
        """To 16 bits after the point."""
        out, lse = reference.run(call)
        return Partial(out + (out.detach() * 2**16).round() / 2**16 - out.detach(), lse)

    @staticmethod
    def unfilled(call: Call) -> Partial:
        """Leaves rows without a key as they were found."""
        out, lse = reference.run(call)
        return Partial(torch.where(lse.isinf().unsqueeze(-1), torch.empty_like(out), out), lse)


def failed(monkeypatch: pytest.MonkeyPatch, run: Any) -> int:
    module = ModuleType("wrong")
    module.reasons_against, module.run = (lambda call: []), run  # type: ignore[attr-defined]
    monkeypatch.setattr(engines, "BY_NAME", (module,))
    small = [case for case in TABLE if case.query_len < 20]
    return sum(bool(judged("wrong", case, torch.float32)) for case in small)


@pytest.mark.parametrize(
    ("fault", "least"),
    [("last_column", 60), ("merge", 80), ("lse", 90), ("gradient", 90), ("rounding", 30),
     ("unfilled", 8)],
)  # fmt: skip
def test_a_wrong_engine_fails(monkeypatch: pytest.MonkeyPatch, fault: str, least: int) -> None:
    assert failed(monkeypatch, getattr(Wrong, fault)) >= least


@pytest.mark.parametrize("right", [reference.run, tiled.run], ids=["reference", "tiled"])
def test_a_right_engine_does_not(monkeypatch: pytest.MonkeyPatch, right: Any) -> None:
    def run(call: Call) -> Partial:
        return reference.run(call) if tiled.reasons_against(call) else right(call)

    assert failed(monkeypatch, run) == 0
