"""One row of the tables of evidence: a model beside itself under `watch`, and beside the truth.

`check` runs it in every way that MODES names and counts what is wrong: another bit, another number
of layers, a map that is not the independent one, a softmax that nobody reports. An empty `wrong` is
what the tests ask for.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.conformance.independent import Call, Heard, heard
from wqkv.errors import MissedError
from wqkv.record.watch import Layer, Seen, watch

#: float32 rounding of scores of some hundreds.
TOLERANCE = 2e-5
#: In bfloat16 scores of about 10 are rounded by 0.03.
TOLERANCES = {"autocast": 0.15}
#: The states of a layer whose map is shown.
SHOWN = ("proved", "captured")


#: A model, and what calls it on its inputs.
Built = tuple[nn.Module, Call]


class Row(NamedTuple):
    """A model, and how many of its calls of attention are proved, captured and missed."""

    name: str
    build: Callable[[], Built]
    proved: int | None = 0  # None: all whose weights are known, but for the captured ones
    captured: int = 0
    missed: int = 0
    library: str = "torch"
    weights: Callable[[nn.Module, Call], list[Heard]] = heard  # found without wqkv
    silent: int = 0  # calls that no report can count, because they have no softmax
    padded: Tensor | None = None  # (batch, query_len): which are padding, whose rows may be 0
    compared: Collection[str] = ("eval", "inference_mode", "autocast")  # where maps are compared
    without: str = ""  # the way of running in which other layers are missed, with their reason
    says: str = ""  # what its report has to say
    normalized: bool = False  # the independent rows sum to 1, without the part of a sink


class Times(NamedTuple):
    """The shortest of some repeats, in seconds."""

    plain: float
    watched: float
    reported: float  # watched, with the report asked for, which makes the proofs


class Result(NamedTuple):
    """What was found of a row."""

    name: str
    states: Counter[str]
    off: float  # the largest difference of a shown weight from the independent one
    peak: float  # the largest weight: maps that are all alike would agree with anything
    proof: float  # the worst difference of a rebuilt output from the model's own
    tried: list[str]  # the ways of running that the model itself can do
    same: list[str]  # those in which every bit is the model's own
    wrong: list[str]
    times: Times | None


# Ways of running a model


def outputs(x: object) -> list[Tensor]:
    """Every tensor of an output, padded and without gaps where it is a nested one."""
    tensors = [one for one in tree_leaves(_tuple(x)) if isinstance(one, Tensor)]
    return [one.to_padded_tensor(0.0) if one.is_nested else one.detach() for one in tensors]


def _evaluated(model: nn.Module, call: Call) -> list[Tensor]:
    with torch.no_grad():
        return outputs(call(model))


def _inferred(model: nn.Module, call: Call) -> list[Tensor]:
    with torch.inference_mode():
        return [one.clone() for one in outputs(call(model))]


def _autocast(model: nn.Module, call: Call) -> list[Tensor]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return outputs(call(model))


def _trained(model: nn.Module, call: Call) -> list[Tensor]:
    """The outputs with dropout on, and the gradients of their sum of squares."""
    model.train()
    try:
        found = [one for one in tree_leaves(_tuple(call(model))) if isinstance(one, Tensor)]
        sum(one.float().square().sum() for one in found if one.requires_grad).backward()
        gradients = [x.grad for x in model.parameters() if x.grad is not None]
        return [one.detach() for one in found] + gradients
    finally:
        model.eval().zero_grad(set_to_none=True)


def _tuple(x: Any) -> Any:
    return x.to_tuple() if hasattr(x, "to_tuple") else x


MODES: dict[str, Callable[[nn.Module, Call], list[Tensor]]] = {
    "eval": _evaluated,
    "inference_mode": _inferred,
    "autocast": _autocast,
    "train": _trained,
}


def same_bits(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit; NaN is equal to NaN."""
    alike = len(a) == len(b) and all(x.dtype == y.dtype for x, y in zip(a, b, strict=True))
    return alike and all(
        torch.equal(x.nan_to_num(0.125), y.nan_to_num(0.125)) and torch.equal(x != x, y != y)
        for x, y in zip(a, b, strict=True)
    )


# Beside the independent weights


def matched(
    layers: Sequence[Layer], heard: Sequence[Heard], root: str
) -> tuple[list[Heard | None], int]:
    """For each layer its weights, by name and order; and how many weights no layer has.

    Layers that are shown choose first: a softmax that is missed may be none that was heard.

    Args:
        root: what the model itself is called, whose name is empty.
    """
    free, found = list(heard), dict[int, Heard]()
    for shown in (True, False):
        for number, layer in enumerate(layers):
            if (layer.state in SHOWN) == shown:
                name = layer.name.partition(" (")[0]
                name = "" if name == root else name
                one = next((one for one in free if _near(one.name, name)), None)
                if one is not None:
                    found[number] = one
                    free = [other for other in free if other is not one]
    return [found.get(number) for number in range(len(layers))], len(free)


def _near(one: str, other: str) -> bool:
    """Whether one module holds the other, or both are parts of the same attention."""
    parent = one.rpartition(".")[0]
    same = "attention" in parent and parent == other.rpartition(".")[0]
    return same or any(
        f"{a}.".startswith(f"{b}." if b else "") for a, b in ((one, other), (other, one))
    )


def difference(shown: Tensor, heard: Heard, padded: Tensor | None) -> float:
    """How far a map is off; infinite if it has another shape, or rows that it should not lack."""
    P = heard.weights
    order = P.ndim == 4 and P.shape != shown.shape  # samples and heads are no others
    if order or P.numel() != shown.numel() or P.shape[-2:] != shown.shape[-2:]:
        return float("inf")
    P = P.reshape(shown.shape).to(shown.dtype)
    lost = (shown.sum(dim=-1) == 0) & (P.sum(dim=-1) != 0)
    if padded is not None:  # what fills a last block of queries is padding too
        padded = F.pad(padded, (0, max(0, shown.shape[2] - padded.shape[1])), value=True)
    may = padded is not None and padded.shape == (shown.shape[0], shown.shape[2])
    if bool((lost & ~padded[:, None]).any() if may else lost.any()):
        return float("inf")
    return float((shown - P)[~lost].abs().max())


# One row


def check(row: Row, *, modes: Iterable[str] = tuple(MODES), repeats: int = 0) -> Result:
    """Run one row in these ways, eval among them, and time it where `repeats` is not 0."""
    torch.manual_seed(0)
    model, call = row.build()
    model.eval()
    before = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    tried: list[str] = []
    same: list[str] = []
    wrong: list[str] = []
    found: dict[str, Compared] = {}
    for mode in modes:
        if mode == row.without:
            continue
        run = MODES[mode]
        try:
            torch.manual_seed(1)
            plain = run(model, call)
        except (RuntimeError, NotImplementedError, ValueError):
            continue  # the model does not run in this way by itself
        tried.append(mode)
        _restore(before)
        torch.manual_seed(1)
        with watch(model) as seen:
            watched = run(model, call)
        _restore(before)
        if same_bits(plain, watched):
            same.append(mode)
        else:
            wrong.append(f"{mode}: other bits")
        torch.manual_seed(1)
        compared = mode in row.compared
        heard = row.weights(model, lambda m, run=run: run(m, call)) if compared else None
        try:
            found[mode] = compare(row, seen, heard, TOLERANCES.get(mode, TOLERANCE))
        except Exception as error:  # a question that nobody may be answered with; the table goes on
            found[mode] = NOTHING._replace(wrong=[repr(error)])
        wrong += [f"{mode}: {why}" for why in found[mode].wrong]
    states, off, peak, proof, _ = found["eval"]
    times = timed(model, call, repeats) if repeats else None
    return Result(row.name, states, off, peak, proof, tried, same, wrong, times)


class Compared(NamedTuple):
    """What one watch saw, beside the independent weights; as in Result."""

    states: Counter[str]
    off: float
    peak: float
    proof: float
    wrong: list[str]


NOTHING = Compared(Counter(), 0.0, 0.0, float("nan"), [])


def compare(row: Row, seen: Seen[Any], heard: list[Heard] | None, tolerance: float) -> Compared:
    """Count the layers, read the report, and lay each map beside its weights, if they are given."""
    layers, wrong = seen.layers, []
    states, report = Counter(layer.state for layer in layers), seen.report()
    known = len(layers) - row.missed if heard is None else len(heard)
    proved = known - row.captured if row.proved is None else row.proved
    expected = Counter(proved=proved, captured=row.captured, missed=row.missed)
    if states != expected:
        reasons = {layer.reason for layer in layers if layer.reason}
        wrong.append("; ".join([f"{_counts(states)} instead of {_counts(expected)}", *reasons]))
    if any(layer.state == "missed" and not layer.reason for layer in layers):
        wrong.append("a layer is missed without a reason")
    if "wqkv failed while it listened" in report:
        wrong.append("a fault of wqkv: " + report[report.index("wqkv failed") :].splitlines()[0])
    shown = states["proved"] + states["captured"]
    if not report.startswith(f"captured {shown} of {len(layers)} layers of "):
        wrong.append(f"the report begins {report.splitlines()[0]!r}")
    if row.says not in report:
        wrong.append(f"the report does not say {row.says!r}")
    off, peak = 0.0, 0.0
    found, free = matched(
        layers, heard or [], report.partition(" layers of ")[2].split()[0].rstrip(":,")
    )
    if heard is not None and free != row.silent:
        wrong.append(f"{free} softmaxes that no layer has, instead of {row.silent}")
    for number, (layer, one) in enumerate(zip(layers, found, strict=True)):
        if layer.state not in SHOWN or heard is None:
            continue
        if one is None:
            wrong.append(f"{layer.name} is no attention of the model")
            continue
        try:
            P = seen[number][:]
        except MissedError as error:
            wrong.append(f"{layer.name}: {error}")
            continue
        far = difference(P / P.sum(-1, keepdim=True) if row.normalized else P, one, row.padded)
        if far > tolerance:
            shapes = f"{list(P.shape)} beside {list(one.weights.shape)}"
            wrong.append(f"{layer.name} ({layer.state}): off by {far:.1e}, {shapes}")
        off, peak = max(off, far), max(peak, float(P.max()))
    return Compared(states, off, peak, max(proofs(report), default=float("nan")), wrong)


def _restore(buffers: Iterable[tuple[Tensor, int, Tensor]]) -> None:
    """Undo what a run did to running means. A mask that was written to would refuse its maps."""
    with torch.no_grad():
        for buffer, version, before in buffers:
            if buffer._version != version:
                buffer.copy_(before)


def _counts(states: Counter[str]) -> str:
    return ", ".join(f"{n} {state}" for state, n in states.items() if n) or "no layer"


def proofs(report: str) -> list[float]:
    """The differences that a report states."""
    return [float(x) for x in re.findall(r"(?:proof|replayed) (\d\S*?),", report)]


def timed(model: nn.Module, call: Call, repeats: int) -> Times:
    """The model by itself, watched, and watched and reported, in turn: processor time."""

    def plain() -> None:
        call(model)

    def watched() -> None:
        with watch(model):
            call(model)

    def reported() -> None:
        with watch(model) as seen:
            call(model)
        seen.report()

    def once(run: Callable[[], None]) -> float:
        begun = time.process_time()
        for _ in range(often):
            run()
        return (time.process_time() - begun) / often

    ways = (plain, watched, reported)
    with torch.no_grad():
        often = 1
        often = max(1, round(0.01 / once(plain)))  # a clock is too coarse for a tiny model
        rounds = [[once(way) for way in ways] for _ in range(repeats)]
    return Times(*(min(times) for times in zip(*rounds, strict=True)))
