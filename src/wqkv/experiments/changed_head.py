"""One head with one change: what it computes, beside what it computes as it was trained.

A change is another `Call` of the head: other q, k, v, scale or rules, or those of a layer whose
matrix has other rows. The model itself is never touched, and `what_if` runs it on from the change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wqkv.attend.call import Call
from wqkv.attend.engines import reference
from wqkv.errors import ArgumentError
from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS, NoExperiment, head_questions
from wqkv.layer.attention import MultiheadAttention
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.maps.proof import Proof
from wqkv.sentences import in_language
from wqkv.sentences.experiments import NUMBERS, REPORT, UNITS
from wqkv.study.head_matrices import head_matrices, plain_layer, rows_of
from wqkv.study.opened_layer import BLOCK, OpenLayer
from wqkv.study.view import View

#: What is measured of a row of weights, and its unit.
MEASURES = {
    "weight on itself": "of 1",
    "entropy": "nats",
    "largest weight": "of 1",
    "trace of the softmax's Jacobian": "of 1",  # 1 - sum_j P_ij^2: what a gradient is scaled by
}


class Measured(NamedTuple):
    """A number before and after the change; `after` is None if the change cannot affect it."""

    name: str
    unit: str
    before: float
    after: float | None = None

    def __str__(self) -> str:
        return self.said("en")

    def said(self, lang: str) -> str:
        """The name, the number before and after, and the unit, in English or Chinese."""
        name, unit = in_language(NUMBERS, lang)[self.name], in_language(UNITS, lang)[self.unit]
        shown = [
            f"{one:,}" if isinstance(one, int) else f"{one:.4g}"
            for one in (self.before, self.after)
            if one is not None
        ]
        return f"{name}: {' -> '.join(shown)} {unit}".rstrip()


class HeadState(NamedTuple):
    """What one head does: its call, its map, one row of it, and what that row adds to its token."""

    call: Call  # of all its rows
    map: AttentionMap  # [1, 1, n, m], never built
    scores: Tensor  # (m,), -inf where hidden
    weights: Tensor  # (m,)
    output: Tensor  # (d_model,), context WO


class ChangedHead(NamedTuple):
    """The call of a head in the place of another one, or in its own."""

    place: int
    head: int
    call: Call


@dataclass(frozen=True, repr=False)
class Experiment:
    """A question, answered on one row of one head: as it was trained, and with one change.

    `key` is the key token that has the most weight as trained. `proof` is the proof of the trained
    row, all heads together. `same` compares after with before, where the answer is that they are
    the same to rounding. In `shuffled_heads` and `concat_or_sum` the outputs are the layer's.
    """

    name: str
    layer: int
    head: int
    row: int
    key: int
    before: HeadState
    after: HeadState
    numbers: tuple[Measured, ...]  # of the row, and what else the question asks for
    proof: Proof | None
    same: Proof | None
    python: str  # the line that makes it of `view`
    changes: tuple[ChangedHead, ...]  # of the layer; none where nothing is changed
    trained: TrainedHead

    def __repr__(self) -> str:
        return self._where("en")

    def _where(self, lang: str) -> str:
        return in_language(REPORT, lang)["where"].format(
            name=self.name,
            layer=self.layer,
            head=self.head,
            row=self.row,
            change=head_questions(lang)[self.name].change,
        )

    def report(self, lang: str = "en") -> str:
        """The question, the change, every number before and after, and the limits, as lines.

        Args:
            lang: "en" or "zh".
        """
        asked, said = head_questions(lang)[self.name], in_language(REPORT, lang)
        tokens, keys = self.trained.view.reading.tokens, self.trained.view.keys.tokens
        link = f"{tokens[self.row]!r} -> {keys[self.key]!r}"
        lines = [asked.question, self._where(lang), said["strongest"].format(link=link)]
        lines += [f"  {one.said(lang)}" for one in self.numbers]
        if self.same is not None:
            found = said["same" if self.same.holds else "not_same"].format(
                difference=f"{self.same.difference:.1e}", size=f"{self.same.size:.3g}"
            )
            lines.append(f"  {found}")
        return "\n".join([*lines, asked.limits])

    @property
    def question(self) -> str:
        """What is asked, in English."""
        return HEAD_QUESTIONS[self.name].question

    @property
    def change(self) -> str:
        """The change in the paper's notation."""
        return HEAD_QUESTIONS[self.name].change

    @property
    def limits(self) -> str:
        """What the answer leaves open."""
        return HEAD_QUESTIONS[self.name].limits

    def contexts(self) -> dict[tuple[int, int], Tensor]:
        """What the changed heads hand to WO, (n, d_v) by (layer, head), for `what_if`.

        `wqkv.what_if(view, contexts=experiment.contexts())` runs the model on from them. It costs
        one call of attention for every head that is changed.
        """
        gated, rows = self.trained.opened.apply_gate, slice(None)
        return {
            (self.layer, place): gated(head, rows, map_of(call).times(call.value)[0, 0])
            for place, head, call in self.changes
        }

    def over_rows(self) -> tuple[Measured, ...]:
        """The means of MEASURES over all rows of the head: one pass over each of the two maps."""
        before, after = (
            torch.cat([measure(*block) for block in _blocks(state.map)]).mean(dim=0)
            for state in (self.before, self.after)
        )
        return _measured(before, after, self.trained.looks_at_itself)


class TrainedHead:
    """One head of a view at one of its rows, and the experiments that changes make of it."""

    def __init__(self, view: View, layer: int, head: int, i: int) -> None:
        self.opened = view.checked_layer(layer, head, i)
        self.view, self.layer, self.head, self.row = view, layer, head, i
        self.call = self.opened.head_call(head)
        self.before = self.state(self.call)
        self.key = int(self.before.weights.argmax())

    @property
    def looks_at_itself(self) -> bool:
        """Whether the keys are the text's own tokens."""
        return self.view.reading.source is None

    @property
    def source(self) -> Tensor:
        """What the keys are made of: (1, m, d_model)."""
        source = self.view.reading.source
        return self.opened.x if source is None or source.final is None else source.final

    @torch.no_grad()
    def state(self, call: Call) -> HeadState:
        """What the head does with another call."""
        i, opened = self.row, self.opened
        one = replace(call.rules, query_offset=i)
        row = replace(call, query=call.query[:, :, i : i + 1], rules=one)
        steps = reference.steps(row, row.places())
        output = opened.apply_gate(self.head, i, steps.out[0, 0, 0]) @ opened.WO(self.head)
        # The trained head's map is kept by the layer, with what was computed of it.
        m = opened.map(self.head) if call is self.call else map_of(call)
        return HeadState(call, m, steps.scores[0, 0, 0], steps.weights[0, 0, 0], output)

    @property
    def plain(self) -> MultiheadAttention:
        """The layer, or an error where its heads do not have one WQ, WK, WV and WO each."""
        try:
            return plain_layer(self.view.model, self.layer)
        except ArgumentError as error:
            model = self.view.model.name
            raise NoExperiment("not_plain", layer=self.layer, model=model) from error

    def part_of(self, name: str) -> tuple[Tensor, Tensor]:
        """The head's rows of a matrix, and of its bias, which is 0 where there is none."""
        found = head_matrices(self.plain, self.head)
        weight, bias = getattr(found, name).T, getattr(found, name.replace("W", "b"))
        return weight, weight.new_zeros(len(weight)) if bias is None else bias

    @torch.no_grad()
    def with_part(self, name: str, weight: Tensor, bias: Tensor) -> Call:
        """The call of the head in a layer whose matrix `name` has other rows for it.

        A bias is changed where the matrix has one. Norms, clipping and RoPE work on what the new
        matrix gives, as in the model.
        """
        layer = self.plain
        rows = rows_of(layer, name, self.head)
        sizes = [list(one.T.shape) for one in (getattr(layer, name).weight[rows], weight)]
        if sizes[0] != sizes[1]:
            has, given = map(str, sizes)
            raise NoExperiment("sizes", name=name, has=has, given=given)
        # The copy is of the modules alone: it shares all tensors but the one that changes. The
        # model's own modules are left as they are, because other threads may be running them.
        shared = {id(tensor): tensor for tensor in (*layer.parameters(), *layer.buffers())}
        changed = copy.deepcopy(layer, shared)
        matrix = getattr(changed, name)
        for part, new in (("weight", weight), ("bias", bias)):
            old = getattr(matrix, part)
            if old is not None:
                edited = old.detach().clone()
                edited[rows] = new
                setattr(matrix, part, nn.Parameter(edited, requires_grad=False))
        source = None if self.view.reading.source is None else self.source
        opened = OpenLayer(changed, self.opened.x, source, self.opened.positions)
        return opened.head_call(self.head)

    def experiment(
        self,
        name: str,
        after: Call | HeadState,
        *more: Measured,
        same: Proof | None = None,
        before: HeadState | None = None,
        changes: tuple[ChangedHead, ...] | None = None,
        given: str = "",
    ) -> Experiment:
        """The record of a change.

        Args:
            more: the numbers that this question alone asks for.
            before: None is the head as it was trained.
            changes: of the layer; None is this head alone, if it is asked another call.
            given: further arguments of the experiment, as they stand in Python.
        """
        if before is None:
            before = self.before
        if isinstance(after, Call):
            after = self.state(after)
        if changes is None:
            own = ChangedHead(self.head, self.head, after.call)
            changes = () if after.call is self.call else (own,)
        itself = torch.tensor([self.row], device="cpu")
        measured = _measured(
            measure(itself, before.weights[None])[0],
            measure(itself, after.weights[None])[0],
            own=self.looks_at_itself,
        )
        link = (float(state.weights[self.key]) for state in (before, after))
        change = float((after.output - before.output).norm() / before.output.norm())
        where = f"{self.layer}, {self.head}, {self.row}"
        return Experiment(
            name=name,
            layer=self.layer,
            head=self.head,
            row=self.row,
            key=self.key,
            before=before,
            after=after,
            numbers=(
                Measured("weight of the strongest link", "of 1", *link),
                *measured,
                Measured("change of the output", "of its length", change),
                *more,
            ),
            proof=self.view.row(self.layer, self.head, self.row).residual,
            same=same,
            python=f"wqkv.experiments.{name}(view, {where}{given})",
            changes=changes,
            trained=self,
        )


def measure(rows: Tensor, weights: Tensor) -> Tensor:
    """MEASURES of some rows, whose weights are (rows, m): (rows, 4)."""
    weights = weights.double()
    # Between two texts there is no such number: `_measured` leaves out what stands here.
    own = weights.gather(1, rows[:, None].clamp(max=weights.shape[1] - 1))[:, 0]
    entropy = torch.special.entr(weights).sum(dim=1)
    trace = (1 - weights.square().sum(dim=1)).clamp(min=0)  # rounding may leave it below 0
    return torch.stack((own, entropy, weights.amax(dim=1), trace), dim=1)


def _measured(before: Tensor, after: Tensor, own: bool) -> tuple[Measured, ...]:
    """MEASURES, (4,), before and after; `own` is whether a token can look at itself."""
    found = [
        Measured(name, unit, a, b)
        for (name, unit), a, b in zip(
            MEASURES.items(), before.tolist(), after.tolist(), strict=True
        )
    ]
    return tuple(found if own else found[1:])


def _blocks(m: AttentionMap) -> Iterator[tuple[Tensor, Tensor]]:
    """All rows of a map of one head, some at a time: (which rows, their weights)."""
    n, key_len = m.shape[2:]
    for here in torch.arange(n, device="cpu").split(max(1, BLOCK // key_len)):
        yield here, m.rows(here)[0, 0]
