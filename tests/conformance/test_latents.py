"""Where diffusers' models put the patches of a latent and the tokens of a text, and what is said."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.foreign import libraries
from tests.conformance.latents import CASES
from wqkv import Axis, watch

pytestmark = pytest.mark.filterwarnings("ignore")  # of the models' own code

#: Attention that is not over the latent. What its positions are is not known.
OTHERS = {"time_extra_emb.pooler", "context_embedder.token_refiner.refiner_blocks.0.attn"}
SAMPLE = 1  # the one that is changed

cases = pytest.mark.parametrize("case", CASES, ids=lambda one: f"{one.model} {one.note}".strip())


@pytest.fixture(autouse=True)
def installed():
    with libraries():
        pytest.importorskip("diffusers", reason="diffusers is not installed: make .venv/.foreign")


class Side(NamedTuple):
    """The queries or the keys of a layer."""

    vectors: Tensor  # (batch, head, length, d)
    parts: tuple[Axis, ...]  # of SAMPLE

    @property
    def labels(self) -> list[str]:
        return [axis.label(at) for axis in self.parts for at in range(len(axis))]

    def moved(self, other: Side) -> list[tuple[int, int]]:
        """The (sample, position) at which the vectors are others."""
        changed = (self.vectors != other.vectors).any(dim=3).any(dim=1)
        return [(sample, at) for sample, at in changed.nonzero().tolist()]


def sides(model: nn.Module, given: dict[str, Any]) -> dict[str, Side]:
    """The queries and the keys of every layer, by name."""
    with torch.no_grad(), watch(model) as seen:
        model(**given)
    found = {}
    for number, layer in enumerate(seen.layers):
        if layer.state == "missed":
            continue
        one = seen[number]
        if layer.name in OTHERS:
            assert one.queries is None and one.keys is None
            continue
        for name, vectors, axes in (
            ("q", one._numbers.given.query, one.queries),
            ("k", one._numbers.given.key, one.keys),
        ):
            own = axes[SAMPLE] if isinstance(axes, list) else axes
            parts = (own,) if isinstance(own, Axis) else own
            found[f"{name} of {layer.name}"] = Side(vectors, parts)
    return found


def check(before: dict[str, Side], after: dict[str, Side], label_of) -> None:
    """Each side moved exactly where it has the label that `label_of(side)` asks for."""
    reached = 0
    for name, side in before.items():
        wanted = label_of(side)
        places = [(SAMPLE, at) for at, label in enumerate(side.labels) if label == wanted]
        assert side.moved(after[name]) == places, name
        reached += len(places)
    assert reached


@cases
def test_a_patch_stands_where_it_is_said_to(case):
    model, given = case.still(), case.given()
    before = sides(model, given)
    last = tuple(size - 1 for size in case.grid)
    for cell in {(0,) * len(last), last, (*last[:-2], 2, 4), (*last[:-2], 4, 2)}:
        latent = given[case.named].clone()
        latent[SAMPLE][case.place(cell)] += 1

        def label_of(side: Side, cell=cell) -> str:
            """The cell's name; inside a UNet of the one that it reaches, if it reaches one."""
            grid = next((axis.grid for axis in side.parts if axis.grid), case.grid)
            step = -(-case.grid[-1] // grid[-1])  # every other place is read where it is 2
            on = all(at % step == 0 for at in cell)
            return ",".join(str(at // step) for at in cell) if on else "none"

        check(before, sides(model, {**given, case.named: latent}), label_of)


@cases
def test_a_token_of_the_text_stands_where_it_is_said_to(case):
    if not case.texts:
        pytest.skip("it has no text")
    model, given, first = case.still(), case.given(), 0
    before = sides(model, given)
    for name, length, _ in case.texts:
        for token in (0, 3, length - 1):
            text = given[name].clone()
            text[SAMPLE, token] += 1
            after = sides(model, {**given, name: text})
            check(before, after, lambda _, label=f"text {first + token}": label)
        first += length
