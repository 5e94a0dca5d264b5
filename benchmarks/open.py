"""python -m benchmarks.open [--length 32000]: what the explorer costs with a long text.

A Llama of four layers (d_model 512, 8 heads, 2 of k and v, d_k 64) with random weights reads random
words; then the server's own answers are timed, JSON included. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import report
from wqkv.look.models import OpenModel, Words
from wqkv.show.api import QUICK, SLOW, Api, Ask


def tiny(length: int) -> OpenModel:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=32_000, help="words of the text")
    parser.add_argument("--quick", action="store_true", help="leave out the model alone")
    length, quick = (options := parser.parse_args()).length, options.quick
    torch.set_num_threads(1)
    machine = report.machine()
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n")
    print("torch threads:", torch.get_num_threads())
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.process_time()
        result = work()
        found[name] = round(time.process_time() - begun, 3)
        print(f"{name:<40} {found[name]:8.3f} s", flush=True)
        return result

    model = tiny(length)
    api = Api(model)
    ids = torch.randint(3, 1000, (length,)).tolist()
    words = Words.of(ids)
    if not quick:
        timed("the model alone", lambda: model.called(torch.tensor([ids])))
    seen = timed("the model, proofs, first link", lambda: api.open(words, lambda *_: None, ""))

    def ask(name: str, **given: int | str) -> Callable[[], str]:
        function = (QUICK | SLOW)[name]
        asked = Ask({key: str(value) for key, value in given.items()})
        return lambda: json.dumps(function(api, seen, asked, lambda *_: None))

    _, layer, head, word = seen.first
    one = {"layer": layer, "head": head}
    timed("first paint: the view", lambda: json.dumps(api.about(seen)))
    timed("first paint: thumbnail of 64 x 64", ask("thumbnail", **one))
    timed("first paint: row", ask("row", **one, i=word))
    timed("first paint: story", ask("story", **one, word=word))
    found["first paint"] = round(sum(v for k, v in found.items() if k.startswith("first paint")), 3)
    middle = length // 2
    far = {"q0": middle, "q1": middle + 256, "k0": 0, "k1": 256}
    timed("tile of 256 x 256", ask("tile", **one, **far))
    timed("tile of 256 x 256 in another layer", ask("tile", layer=(layer + 1) % 4, head=0, **far))
    timed("tile of 256 x 256 again", ask("tile", **one, **far | {"k0": 300, "k1": 556}))
    timed("row in another layer", ask("row", layer=(layer + 2) % 4, head=0, i=middle))
    timed("cell", ask("cell", **one, i=middle, j=7))
    timed("column, the first of a head", ask("column", **one, j=7))
    timed("column", ask("column", **one, j=9))
    timed("received", ask("received", **one))
    timed("links", ask("links", **one))
    timed("distances", ask("distances", **one))
    timed("grid of entropy", ask("grid", statistic="entropy"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record = {"machine": machine, "versions": report.versions(), "length": length, "seconds": found}
    print(json.dumps({**record, "threads": torch.get_num_threads(), "peak_bytes": peak}))


if __name__ == "__main__":
    main()
