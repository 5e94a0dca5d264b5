"""Verdicts on the targets, the machine they were found on, and a table for the terminal."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import AVERAGES, FASTEST, FLOOR, LINEAR, Row

PACKAGES = (
    "torch",
    "transformers",
    "x-transformers",
    "torchtune",
    "torchao",
    "transformer-lens",
    "attnread",
    "wqkv",
)
RESULTS = Path(__file__).parent / "results"
Result = dict[str, Any]
Verdict = dict[str, Any]


def machine() -> dict[str, Any]:
    """Where and how busy; the load is that of the last minute, before the first race."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text("utf-8").splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def record(name: str, found: dict[str, Any], *, save: bool) -> None:
    """Print what was found, with where and when, as one line of JSON, and write it if it is saved.

    Args:
        name: of the file in results/, before the date.
    """
    whole = {
        "machine": machine(),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
        **found,
    }
    if save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}-{whole['date']}.json"
        path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    print(json.dumps(whole))


def verdicts(row: Row, result: Result) -> Iterator[Verdict]:
    """The row's targets: what is asked, what is found; without a rival there is no verdict."""
    times = {name: one["median_ms"] for name, one in result["contestants"].items()}
    rivals = [n for n in times if not n.startswith("ours") and n != FLOOR]
    for against, most in row.targets.items():
        who = min(rivals, key=lambda n: times[n], default=None) if against == FASTEST else against
        ratio = times["ours"] / times[who] if who in times and "ours" in times else None
        named = f"{against}: {who}" if against == FASTEST else against
        yield _verdict(row.name, f"time / {named}", ratio, most)
    square = row.case.query_len * row.case.keys
    share = result["contestants"]["ours"]["largest_bytes"] / square
    if square > 2 * result["input_bytes"]:  # else q itself has as many bytes as N x N bools
        yield _verdict(row.name, "largest allocation / N x N bytes", share, 1.0)


def summary(rows: Iterable[Row], results: dict[str, Result]) -> Iterator[Verdict]:
    """The targets that span rows: averages over the layer, growth of windows."""
    rows = [row for row in rows if row.name in results]
    for peer, most in AVERAGES.items():
        for backward in (False, True):
            found = [
                results[row.name]["contestants"]
                for row in rows
                if row.group == "layer" and row.backward == backward
            ]
            ratios = [c["ours"]["median_ms"] / c[peer]["median_ms"] for c in found if peer in c]
            if ratios:
                mode = "train" if backward else "forward"
                mean = statistics.geometric_mean(ratios)
                yield _verdict(f"layer bias, mean, {mode}", f"time / {peer}", mean, most)
    windows = [row for row in rows if row.group == "window" and not row.backward]
    for shorter, longer in pairwise(windows):
        one, two = (results[row.name]["contestants"]["ours"] for row in (shorter, longer))
        name = f"window {shorter.case.keys} -> {longer.case.keys}"
        for what, key in (("time", "median_ms"), ("peak memory", "peak_bytes")):
            yield _verdict(name, f"{what}, longer / shorter", two[key] / one[key], LINEAR)


def _verdict(row: str, what: str, ratio: float | None, most: float) -> Verdict:
    found = None if ratio is None or math.isnan(ratio) else round(ratio, 4)
    passed = None if found is None else found <= most
    return {"row": row, "what": what, "ratio": found, "at_most": most, "pass": passed}


def line(result: Result) -> str:
    """One row: ours in ms and MiB, then ours / theirs for each other."""
    contestants = result["contestants"]
    ours = contestants["ours"]
    parts = [f"{ours['median_ms']:9.3f} ms {ours['peak_bytes'] / 2**20:7.1f} MiB"]
    for name, one in contestants.items():
        if name != "ours":
            parts.append(f"{name} {ours['median_ms'] / one['median_ms']:.3f}")
    parts += [f"{name} WRONG, {off}" for name, off in result["wrong"].items()]
    return "  ".join(parts)


def table(found: list[Verdict]) -> str:
    """Every target with its verdict, those that failed once more at the end."""
    width = max((len(v["row"]) for v in found), default=0)
    middle = max((len(v["what"]) for v in found), default=0)

    def show(v: Verdict) -> str:
        ratio = "   none" if v["ratio"] is None else f"{v['ratio']:7.3f}"
        word = {True: "pass", False: "FAIL", None: "absent"}[v["pass"]]
        return f"{v['row']:<{width}}  {v['what']:<{middle}} {ratio} <= {v['at_most']:<5g} {word}"

    failed = [v for v in found if v["pass"] is False]
    absent = sum(v["pass"] is None for v in found)
    count = f"{len(found)} targets: {len(found) - len(failed) - absent} passed, "
    count += f"{len(failed)} failed, {absent} without a rival"
    return "\n".join([*map(show, found), "", count, *map(show, failed)])
