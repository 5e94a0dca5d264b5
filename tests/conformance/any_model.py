"""python -m tests.conformance.any_model [--list] [--only TEXT] [--table NAME] [--markdown FILE]

Watch models of many libraries, and compare each map with weights that were found without wqkv.

Two tables: `models`, those of foreign.py and attention written by hand, and `families`, those of
transformers by default and eager. One line each, as it ends; Ctrl-C ends early, with what is there.
The exit status is 1 if a row is wrong.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from tests.conformance import foreign
from tests.conformance.watched import MODES, Result, Row, check

TABLES = ("models", "families")
#: The beginning of the page that `--markdown` writes.
PAGE = """\
# Every model that was watched, beside weights found without wqkv

[any-model.md](any-model.md) says how `watch` hears them. These tables lay each map beside weights
that were found without wqkv: those that a softmax of the model gave in a run of its own, or of a
fused call those that its definition gives in float64. All models have random weights. Anybody can
run it again, in ten minutes:

    make .venv/.foreign
    .venv/bin/python -m tests.conformance.any_model --markdown docs/watched-models.md

- **layers**: *proved* are rebuilt from q, k, the mask and the rules, and give the model's own
  output; *captured* have scores that are more than that, and are computed again as the model did;
  *missed* are named with their reason, and have no map.
- **map**: the largest difference of a weight of a map from the one that was found without wqkv.
- **proof**: the largest difference of a rebuilt output from the model's own.
- **bits**: in which ways of running every bit of the outputs (in train, of the gradients too) is
  the one that the model gives by itself. *all* is {modes}, where the model can do them.
- **time**: of a forward that is watched, and of one with its report, which makes the proofs, as
  multiples of a plain forward's: processor time, the shortest of {repeats}. Tiny models, whose
  operators take microseconds, pay the most; those of real size are {large}.

{versions}; {where}.
"""


def rows(table: str) -> list[Row]:
    """The rows of a table whose libraries are installed."""
    if table == "models":
        return [row for row in foreign.ROWS if foreign.here(row)]
    from tests.conformance.families import FAMILIES, row  # transformers may be missing

    return [row(name, how) for name in FAMILIES for how in ("default", "eager")]


def states(found: Counter[str]) -> str:
    """How many layers are in which state."""
    order = ("proved", "captured", "missed")
    return ", ".join(f"{found[state]} {state}" for state in order if found[state]) or "none"


def small(number: float) -> str:
    return "" if number != number else f"{number:.1e}"


def bits(same: Sequence[str], tried: Sequence[str]) -> str:
    """The ways of running that changed no bit, of those that the model runs in by itself."""
    return "all" if len(same) == len(tried) else ", ".join(same)


def ratios(one: Result) -> str:
    if one.times is None:
        return ""
    plain, watched, reported = one.times
    return f"{watched / plain:.2f} / {reported / plain:.2f}"


def line(one: Result) -> str:
    """One row, as it is printed when it ends."""
    parts = (states(one.states), f"map {small(one.off)}", f"proof {small(one.proof)}")
    said = f"{one.name:<42}  {'  '.join(parts)}  bits {bits(one.same, one.tried)}  {ratios(one)}"
    return "\n".join([said.rstrip(), *(f"    WRONG: {why}" for why in one.wrong)])


def markdown(table: str, found: Sequence[Result]) -> str:
    """A table for the documentation; the two ways of a family are one line."""
    lines = [f"## {table.capitalize()}", "", f"{summary(found)}.", ""]
    ways: dict[str, list[Result]] = {}
    for one in found:
        ways.setdefault(one.name.partition(", ")[0] if table == "families" else one.name, [])
        ways[[*ways][-1]].append(one)
    head = ["model", "layers", "map", "proof", "bits", "time"]
    body = [
        [
            name,
            " / ".join(dict.fromkeys(states(one.states) for one in some)),
            small(max(one.off for one in some)),
            small(max(one.proof for one in some)),
            " / ".join(dict.fromkeys(bits(one.same, one.tried) for one in some)),
            ratios(some[0]),
        ]
        for name, some in ways.items()
    ]
    cells = [head, ["---"] * len(head), *body]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in cells), ""])


def summary(found: Sequence[Result]) -> str:
    """What a table says as a whole."""
    total: Counter[str] = sum((one.states for one in found), Counter())
    whole = sum(set(+one.states) == {"proved"} for one in found)
    wrong = sum(bool(one.wrong) for one in found)
    times = [one.times for one in found if one.times]
    said = f"{len(found)} rows, {whole} wholly proved; {states(total)} layers; {wrong} rows wrong"
    if times:
        median = statistics.median(one.watched / one.plain for one in times)
        said += f"; watched, a forward takes {median:.2f} times as long (median)"
    return said


def heading(repeats: int) -> str:
    """What the columns mean, and what was run where."""
    packages = ["torch", "transformers", *sorted({row.library for row in rows("models")})]
    names = {"vit_pytorch": "vit-pytorch", "open_clip": "open_clip_torch",
             "whisper": "openai-whisper"}  # fmt: skip
    with foreign.libraries():
        versions = {name: version(names.get(name, name)) for name in dict.fromkeys(packages)}
    return PAGE.format(
        modes=", ".join(MODES),
        repeats=repeats,
        large=", ".join(sorted(foreign.LARGE)),
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        where=f"{platform.machine()}, one thread of {os.cpu_count()} cores",
    )


def measured(chosen: Iterable[Row], repeats: int) -> tuple[list[Result], bool]:
    """The results of some rows, printed as they end; and whether somebody stopped it."""
    found: list[Result] = []
    try:
        for row in chosen:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the models' own code
                found.append(check(row, repeats=repeats))
            print(line(found[-1]), flush=True)
    except KeyboardInterrupt:
        return found, True
    return found, False


def main(argv: Sequence[str] | None = None) -> int:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog=lines[0].partition(" [")[0], description=lines[2])
    parser.add_argument("--list", action="store_true", help="names of the rows, and no more")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name")
    parser.add_argument("--table", choices=TABLES, help="one of the two; both if not given")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="0 takes no times")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    _quiet()
    chosen = {
        table: [row for row in rows(table) if options.only.lower() in row.name.lower()]
        for table in ([options.table] if options.table else TABLES)
    }
    if not any(chosen.values()):
        parser.error(f"no row has {options.only!r} in its name; --list lists them")
    if options.list:
        print(*(row.name for some in chosen.values() for row in some), sep="\n")
        return 0
    pages, wrong, stopped = [heading(options.repeats)], 0, False
    for table, some in chosen.items():
        if some and not stopped:
            found, stopped = measured(some, options.repeats)
            wrong += sum(bool(one.wrong) for one in found)
            print(f"{table}: {summary(found)}" if found else f"{table}: stopped", flush=True)
            pages.append(markdown(table, found))
    if options.markdown:
        options.markdown.write_text("\n".join(pages), "utf-8")
    absent = sorted({row.library for row in foreign.ROWS if not foreign.here(row)})
    if absent:
        print(f"not installed: {', '.join(absent)}; requirements/foreign.txt says how")
    return 130 if stopped else 1 if wrong else 0


def _quiet() -> None:
    """Tiny random models are not what transformers expects; its remarks are not of interest."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


if __name__ == "__main__":
    sys.exit(main())
