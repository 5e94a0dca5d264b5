"""patch: what of another prompt's run brings its answer with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.effects.asked import OneText, ask
from wqkv.effects.passes import ModelChange, PutHidden, PutOutput
from wqkv.effects.records import Question
from wqkv.effects.rerun import Rerun
from wqkv.errors import ArgumentError
from wqkv.maps.weights import aside
from wqkv.study.callbacks import Progress, silent
from wqkv.study.model import OpenModel

#: What is taken from the other run: a head's output, that of all heads of a layer, or the hidden
#: state of a token in front of a layer.
What: TypeAlias = Literal["head", "layer", "token"]
WHATS: tuple[What, ...] = ("head", "layer", "token")


@dataclass(frozen=True)
class Patched:
    """How far the corrupted run goes back to the clean answer with one part of the clean run.

    `recovered` is (after - corrupted) / (clean - corrupted): 0 is none of the way, 1 all of it; it
    may be less or more. `after` has the number itself. Both are (n_layer, n_head) for "head",
    (n_layer,) for "layer" and (n_layer, n) for "token".
    """

    what: What
    question: Question
    clean: float
    corrupted: float
    after: Tensor
    tokens: tuple[str, ...]  # of the corrupted prompt

    @property
    def recovered(self) -> Tensor:
        return (self.after - self.corrupted) / (self.clean - self.corrupted)


@door
@aside(torch.device("cpu"))  # whatever the caller is at, such as autocast or inference mode
def patch(
    model: OpenModel,
    clean: str,
    corrupted: str,
    answer: str | None = None,
    against: str | None = None,
    *,
    what: What = "head",
    progress: Progress = silent,
) -> Patched:
    """Run a model on a corrupted prompt, with one part at a time taken from its clean run.

    `recovered` is (after - corrupted) / (clean - corrupted). The standard question beside removal:
    which parts carry what the prompts differ in? The prompts have equally many tokens. Each part
    costs one run; heads and layers are patched at all tokens.

    Args:
        clean: the prompt whose answer is asked about.
        corrupted: the same with what matters changed.
        answer: as in `why`; None is the likeliest token of the clean prompt.
        against: as in `why`; None is the likeliest token of the corrupted prompt, or the likeliest
            other one if that is `answer`.
        what: "head" (its output, before WO), "layer" (the outputs of all its heads) or "token" (its
            hidden state in front of a layer).
        progress: is called with (runs done, runs in all); raise from it to cancel.

    Raises:
        ArgumentError: prompts of different lengths, or whose number is the same; else as in `why`.

    Source: Meng et al. 2022 (arXiv:2202.05262); Zhang and Nanda 2023 (arXiv:2309.16042).
    """
    if what not in WHATS:
        raise ArgumentError(f"`what` is {what!r}.\nPass one of {', '.join(map(repr, WHATS))}.")
    asked = ask(model, clean, answer, against)
    assert isinstance(asked, OneText)
    if against is None and asked.ids is not None:
        rival = ask(model, corrupted)
        assert isinstance(rival, OneText) and rival.ids is not None
        if rival.ids[0] != asked.ids[0]:
            asked = ask(model, clean, answer or asked.ids[0], rival.ids[0])
            assert isinstance(asked, OneText)
    given, other = asked.text, model.tokens(corrupted)
    if len(given.ids) != len(other.ids):
        raise ArgumentError(
            f"The clean prompt has {len(given.ids)} tokens and the corrupted one "
            f"{len(other.ids)}.\nPass two prompts of equally many tokens."
        )
    at = asked.question.at
    if asked.question.kind == "masked token" and other.ids[at or 0] != given.ids[at or 0]:
        raise ArgumentError(
            f"Token {at} is masked in the clean prompt, and {other.tokens[at or 0]!r} in the "
            "corrupted one.\nMask the same token in both."
        )
    good, bad = (Rerun(model, replace(asked, text=text)) for text in (given, other))
    if abs(good.before - bad.before) <= good.rounding:
        raise ArgumentError(
            f"The {asked.question.number} is {good.before:.4g} for both prompts.\n"
            "Pass prompts that the model answers differently."
        )
    shape = [model.sizes.n_layer, *_per_layer(model, what, len(other.ids))]
    after = bad.after(list(_changes(good, what)), progress=progress)
    found = torch.tensor(after, dtype=torch.float64, device="cpu").view(shape)
    return Patched(what, asked.question, good.before, bad.before, found, other.shown)


def _per_layer(model: OpenModel, what: What, n: int) -> list[int]:
    """How many parts a layer has."""
    return {"head": [model.sizes.n_head], "layer": [], "token": [n]}[what]


def _changes(clean: Rerun, what: What) -> Iterator[ModelChange]:
    """What is put into the corrupted run, part by part in the order of the result."""
    for site in clean.sites:
        if what == "token":
            block = clean.plain.block_of[site]
            for row, hidden in enumerate(clean.plain.inputs[block][0]):
                yield ModelChange(put_hidden=(PutHidden(block, row, hidden),))
            continue
        output = clean.output(site)
        if what == "layer":
            yield ModelChange(put=(PutOutput(site, None, output),))
        else:
            for head, own in enumerate(output):
                yield ModelChange(put=(PutOutput(site, head, own),))
