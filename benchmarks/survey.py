"""python -m benchmarks.survey [--workers N] [--save]: what a survey costs beside the model alone.

The docstrings of Python's standard library, read by the default model: its plain forward on the
very batches of the survey, and the survey with all it does (reading, cutting into tokens, watching,
proving, measuring, writing). One thread, processor time, in turn, medians. With --workers also a
run with so many workers of ray, by the clock. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import report
from wqkv.corpus.documents import DOCUMENTS, chunks, read
from wqkv.corpus.measures import Batch
from wqkv.corpus.reader import Reader
from wqkv.corpus.survey import survey
from wqkv.corpus.worker import Recipe, Worker, fingerprint
from wqkv.study.model import open_model

#: The survey's tokens a second, of the model's own.
TARGET = 0.5
#: Docstrings of fewer letters say little; of so many one is taken.
SHORTEST, STEP = 200, 12
#: The long documents are made of so many short ones: more than the model takes at once.
JOINED = 16


def docstrings() -> list[str]:
    """Real English, of every length, on every machine."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= SHORTEST:
                    found.append(text)
    return found


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def race(path: Path, folder: Path, repeats: int = 5) -> dict[str, float]:
    """The survey of one chunk beside the plain forward on its batches."""
    model = open_model()
    recipe = Recipe(None, fingerprint(model), "text", str(folder))
    (chunk,) = chunks([path], key=recipe.key)
    worker, reader = Worker(recipe, model), Reader(model)
    windows = reader.windows(read(chunk, "text"), "text", [])
    batches = [Batch([one.window for one in batch], 0) for batch in reader.batches(windows)]
    tokens = sum(one.length for one in windows)

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                model.model(input_ids=batch.ids, attention_mask=batch.mask)

    def ours() -> None:
        worker.make(chunk)

    alone, whole = medians(plain, ours, repeats)
    return {
        "documents": chunk.documents,
        "windows": len(windows),
        "tokens": tokens,
        "longest": max(one.length for one in windows),
        "plain, tokens a second": tokens / alone,
        "survey, tokens a second": tokens / whole,
        "survey, documents a second": chunk.documents / whole,
        "survey / plain": alone / whole,
    }


def medians(first: Callable[[], None], other: Callable[[], None], repeats: int) -> list[float]:
    """Processor seconds of each, in turn, after one turn that does not count."""
    times: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        for function, found in zip((first, other), times, strict=True):
            begun = time.process_time()
            function()
            if turn:
                found.append(time.process_time() - begun)
    return [sorted(found)[repeats // 2] for found in times]


def clocked(path: Path, folder: Path, workers: int) -> dict[str, float]:
    """A whole run with ray, in small parts; the clock starts when all workers have made one."""
    seen: list[tuple[float, int]] = []
    found = survey(
        None,
        [path],
        folder,
        workers=workers,
        documents=8,
        progress=lambda done, total: seen.append((time.monotonic(), done)),
    )
    (begun, first), (ended, last) = seen[workers], seen[-1]
    share = (last - first) / last
    return {
        "workers": workers,
        "documents": last,
        "seconds until all work": begun - seen[0][0],
        "documents a second": (last - first) / (ended - begun),
        "tokens a second": share * found.tally.tokens / (ended - begun),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survey")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="also a run with ray, by the clock"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = docstrings()
    few = texts[::STEP][:DOCUMENTS]
    long = ["\n\n".join(texts[at : at + JOINED]) for at in range(0, 6 * JOINED, JOINED)]
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, corpus in (("docstrings", few), ("long documents, cut into windows", long)):
            rows[kind] = race(write(folder / "docs.jsonl", corpus), folder)
            row = rows[kind]
            verdict = "pass" if row["survey / plain"] >= TARGET else "FAIL"
            print(
                f"{kind}: {row['documents']} documents in {row['windows']} windows of at most "
                f"{row['longest']}, {row['tokens']:,} tokens\n"
                f"  plain {row['plain, tokens a second']:,.0f} tokens a second; survey "
                f"{row['survey, tokens a second']:,.0f} ({row['survey, documents a second']:.1f} "
                f"documents); {row['survey / plain']:.2f} >= {TARGET}  {verdict}",
                flush=True,
            )
        if options.workers:
            path = write(folder / "docs.jsonl", texts[::2])
            row = rows["ray"] = clocked(path, folder / "ray", options.workers)
            print(*(f"{what}: {value:,.1f}" for what, value in row.items()), sep="; ")
    report.record("survey", {"target": TARGET, "rows": rows}, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
