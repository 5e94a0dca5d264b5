"""python -m benchmarks [--list] [--only NAME] [--quick] [--save]

One thread. In a row ours and all peers run in turn, so that a busy machine is busy for all; times
are medians (and minima) of processor time, with the clock's beside them; ratios are ours / theirs.
The last line is one JSON object. A peer whose result is not ours is reported as wrong, without a
time, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks import contest, functional, layers, models, report
from benchmarks.cases import Row, rows

#: The lengths of --quick are this much shorter.
SHRINK = 32


def run(row: Row, *, quick: bool) -> report.Result:
    """One row: results compared, memory taken, then the race."""
    if row.group == "layer":
        ready, absent = layers.contestants(row)
    elif row.group == "model":
        ready, absent = models.contestants(row, shrink=SHRINK if quick else 1)
    else:
        ready, absent = functional.contestants(row, compiled=not quick)
    up = None
    if row.backward:
        up = torch.randn(ready[0].run().shape, generator=torch.Generator().manual_seed(7))
    truth, memory = contest.measured(ready[0], up)
    memories, wrong, right = {"ours": memory}, {}, ready[:1]
    for contestant in ready[1:]:
        found, memories[contestant.name] = contest.measured(contestant, up)
        off = contest.difference(found, truth)
        if off <= contest.TOLERANCE:
            right.append(contestant)
        else:
            wrong[contestant.name] = f"off by {off:.1e}"
    effort = (0.0, 2, 2) if quick else (6.0, 5, 300)
    budget_s, least, most = effort
    times = contest.race(right, up, budget_s=budget_s, least=least, most=most)
    return {
        "row": row.name,
        "contestants": {
            c.name: {
                "median_ms": times[c.name].median * 1e3,
                "min_ms": times[c.name].least * 1e3,
                "clock_ms": times[c.name].clock * 1e3,
                "repeats": times[c.name].repeats,
                "peak_bytes": memories[c.name].peak,
                "largest_bytes": memories[c.name].largest,
                **c.notes,
            }
            for c in right
        },
        "largest_tensor": contest.largest_tensor(ready[0], up),
        "input_bytes": max(x.numel() * x.element_size() for x in ready[0].compared),
        "absent": absent,
        "wrong": wrong,
    }


def main(argv: Sequence[str] | None = None) -> int:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog=lines[0].partition(" [")[0], description=lines[2])
    parser.add_argument("--list", action="store_true", help="names of the rows, and no more")
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="short texts, two repeats, no targets")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args(argv)
    shrink = SHRINK if options.quick else 1
    every = [*rows(shrink), *(models.rows(shrink) if find_spec("transformers") else [])]
    chosen = [row for row in every if options.only in row.name]
    if not chosen:
        parser.error(f"no row has {options.only!r} in its name; --list lists them")
    if options.list:
        print(*(row.name for row in chosen), sep="\n")
        return 0

    torch.set_num_threads(1)
    machine, versions, begun = report.machine(), report.versions(), time.time()
    print(*(f"{name}: {value}" for name, value in (machine | versions).items()), sep="\n")
    print("\nours in ms and MiB, then ours / theirs", flush=True)
    results: dict[str, report.Result] = {}
    found: list[report.Verdict] = []
    width = max(len(row.name) for row in chosen)
    for row in chosen:
        result = results[row.name] = run(row, quick=options.quick)
        found += [] if options.quick else report.verdicts(row, result)
        print(f"{row.name:<{width}} {report.line(result)}", flush=True)
    found += [] if options.quick else report.summary(chosen, results)
    absent = {name: why for result in results.values() for name, why in result["absent"].items()}
    wrong = [(name, *pair) for name, result in results.items() for pair in result["wrong"].items()]
    print("", "No targets: too short." if options.quick else report.table(found), sep="\n")
    print(*(f"absent: {name}, {why}" for name, why in absent.items()), sep="\n")

    record: dict[str, Any] = {
        "machine": machine,
        "versions": versions,
        "seconds": round(time.time() - begun, 1),
        "quick": options.quick,
        "only": options.only,
        "absent": absent,
        "wrong": wrong,
        "failed": [verdict for verdict in found if verdict["pass"] is False],
        "targets": found,
        "rows": list(results.values()),
    }
    device = re.sub(r"\W+", "-", f"cpu {machine['cpu']}".lower()).strip("-")
    report.record(device, record, save=options.save)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
