"""python -m benchmarks.open [--length N] [--threads N]: what the explorer costs with a long text.

A Llama of four layers (d_model 512, 8 heads, 2 of k and v, d_k 64) with random weights reads random
tokens; then the explorer's own answers are timed as they are asked for, JSON included. Without
--threads: processor seconds of one thread. With it: seconds by the clock. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import report
from wqkv.explorer.api import Api
from wqkv.explorer.numbers import QUICK, SLOW
from wqkv.explorer.request import Parameters
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText

#: In seconds, on two cores, after the model has run.
TARGETS = {"first paint": 2.0, "tile": 0.2}


def llama(length: int) -> OpenModel:
    """A Llama with random weights and no tokenizer."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=length,
    )
    return OpenModel(AutoModel.from_config(config).eval(), None, "random Llama")


def measure(length: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of everything that a page asks for, in the order in which it does."""
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = clock()
        result = work()
        found[name] = round(clock() - begun, 4)
        print(f"{name:<44} {found[name]:9.4f} s, peak {_peak() / 2**30:.2f} GiB", flush=True)
        return result

    model, ids = llama(length), torch.randint(3, 1000, (length,)).tolist()
    api, tokens = Api(model), TokenizedText.of_ids(ids)
    with torch.no_grad():
        timed("the model alone", lambda: model.model(input_ids=torch.tensor([ids])))
    seen = timed("the model, its proofs and the first link", lambda: api.open(tokens, _tell))
    _, layer, head, token = seen.first

    def ask(name: str, **given: int | str) -> Callable[[], str]:
        asked = Parameters({key: str(value) for key, value in given.items()})
        return lambda: json.dumps((QUICK | SLOW)[name](api, seen, asked, _tell))

    here, middle = {"layer": layer, "head": head}, length // 2
    other = {"layer": (layer + 1) % 4, "head": (head + 3) % 8}
    tile = {"q0": middle, "q1": middle + 256, "k0": 0, "k1": 256}
    timed("first paint: the view", lambda: json.dumps(api.about(seen)))
    timed("first paint: thumbnail of 64 x 64", ask("thumbnail", **here))
    timed("first paint: row", ask("row", **here, i=token))
    found["first paint"] = round(sum(v for k, v in found.items() if k.startswith("first")), 4)
    timed("story", ask("story", **here, token=token))
    timed("tile of 256 x 256", ask("tile", **here, **tile))
    timed("tile of 256 x 256 of another head", ask("tile", **other, **tile))
    found["tile"] = max(v for k, v in found.items() if k.startswith("tile"))
    timed("row of another head", ask("row", **other, i=middle))
    timed("cell", ask("cell", **here, i=middle, j=7))
    timed("column", ask("column", **here, j=7))
    timed("column, the first of another head", ask("column", **other, j=7))
    timed("received, distances and links: received", ask("received", **here))
    timed("... links", ask("links", **here))
    timed("... distances", ask("distances", **here))
    timed("grid of entropy", ask("grid", statistic="entropy"))
    return found


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tell(done: int, total: int) -> None:
    """Nobody is told."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--length", type=int, default=32_000, help="tokens of the text, 512 or more"
    )
    parser.add_argument("--threads", type=int, help="measure by the clock with so many threads")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads or 1)
    machine, versions = report.machine(), report.versions()
    print(*(f"{name}: {value}" for name, value in (machine | versions).items()), sep="\n")
    found = measure(options.length, time.perf_counter if options.threads else time.process_time)
    for name, most in TARGETS.items():
        print(f"{name}: {found[name]:.3f} s, target {most:g} s on two cores")
    record = {
        "machine": machine,
        "versions": versions,
        "length": options.length,
        "threads": options.threads or 1,
        "clock": "wall" if options.threads else "processor",
        "seconds": found,
        "targets": TARGETS,
        "peak_bytes": _peak(),
    }
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
