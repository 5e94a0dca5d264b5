"""What a token carries from layer to layer, and what each attention and MLP adds to it.

Families write their layers in many ways: with norms before, after or around attention and MLP, both
side by side, with factors on what they add. So nothing is taken from a table. The modules of a
block are heard while it runs: what a part adds is what one of them returned, times a factor, if
that makes one state the next. Where no module returned such a part, the parts are not told apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.convert import huggingface
from wqkv.maps.proof import Proof
from wqkv.study.part import KEPT_OUTPUTS, ModelPart, TextReading, spaced

#: The states of all tokens are kept up to this many numbers; of a longer text those of the token
#: that was asked for last.
KEPT_STATES = KEPT_OUTPUTS
#: So many rows decide which modules add to the state; the proof then takes every row that is kept.
DECIDING = 5
#: How far two states may be apart, in last digits of what they are the sum of.
DIGITS = 4


@dataclass(frozen=True)
class StreamLayer:
    """What one layer adds to a token, as lengths of vectors (d_model,).

    `attention`, `cross` (of a decoder that looks at another text) and `mlp` are what is added to
    the state, before the norm where one follows the sum. They are None where they are not told
    apart. `heads` are |context WO| per head, before a norm or factor that may follow WO. They do
    not add up to `attention`, because their vectors do not point in one direction.
    """

    attention: float | None
    cross: float | None
    mlp: float | None
    heads: tuple[float, ...]
    cross_heads: tuple[float, ...]
    added: float  # |state after the layer - state before|, whatever its parts
    state: float  # after the layer
    proof: Proof | None  # the parts summed up, beside the states; None: not told apart


@dataclass(frozen=True)
class Stream:
    """A token on its way through the layers of a model; see `View.stream`."""

    token: int
    embedding: float  # the length of what enters layer 0, with its position if the model adds one
    layers: tuple[StreamLayer, ...]
    norm_after: bool  # the model norms the sums: what is added is measured before that
    states: Tensor  # (n_layer + 1, d_model), the states that enter layer 0 and leave each layer


class _Lengths(NamedTuple):
    """What one layer adds to the tokens that are kept, as lengths (rows,) and (rows, n_head)."""

    parts: list[Tensor] | None  # of each attention, then of the MLP
    heads: list[Tensor]  # of each attention
    proof: Proof | None
    norm_after: bool


@dataclass(frozen=True)
class StreamRecord:
    """The states of some tokens between the layers of a model, and what was added to them."""

    rows: list[int]
    states: Tensor  # (rows, n_layer + 1, d_model)
    layers: list[_Lengths]

    @property
    def bytes(self) -> int:
        """How many bytes the states take."""
        return self.states.numel() * self.states.element_size()

    def stream(self, token: int) -> Stream:
        """The stream of one of the tokens."""
        row = self.rows.index(token)
        states = self.states[row].clone()
        sizes = _length(states).tolist()
        steps = _length(states.diff(dim=0)).tolist()
        layers = []
        for number, layer in enumerate(self.layers):
            heads = [tuple(of[row].tolist()) for of in layer.heads]
            parts: list[float | None] = [float(one[row]) for one in layer.parts or ()]
            attention, *cross, mlp = parts or [None, None]
            layers.append(
                StreamLayer(
                    attention=attention,
                    cross=cross[0] if cross else None,
                    mlp=mlp,
                    heads=heads[0],
                    cross_heads=heads[1] if len(heads) > 1 else (),
                    added=steps[number],
                    state=sizes[number + 1],
                    proof=layer.proof,
                )
            )
        after = any(layer.norm_after for layer in self.layers)
        return Stream(token, sizes[0], tuple(layers), after, states)


@torch.no_grad()
def record_stream(part: ModelPart, reading: TextReading, token: int) -> StreamRecord:
    """Run the model on a text again and keep what its layers add, for all tokens or for a few.

    Raises:
        ArgumentError: the part does not know the text that the model looks at; a block holds
            several layers, or something else than the states of one text goes through it.
    """
    n, rows = len(reading.ids), list(range(len(reading.ids)))
    if part.sizes.n_layer * n * part.sizes.d_model > KEPT_STATES:
        # Others beside the token: what holds at one of them may hold by chance.
        rows = sorted({token, *spaced(n, DECIDING).tolist()})
    blocks, heads = blocks_of(part), _heads_of(part)
    states, layers = list[Tensor](), list[_Lengths]()

    def block_ran(run: _BlockRun) -> None:
        states.extend([run.before, run.after][bool(states) :])
        layers.append(run.lengths(heads[len(layers)]))

    with _heard(part.name, blocks, rows, n, block_ran):
        part.again(reading)
    return StreamRecord(rows, torch.stack(states, dim=1), layers)


def blocks_of(part: ModelPart) -> list[nn.Module]:
    """The block of each layer of a part, which layers may share.

    Raises:
        ArgumentError: a block holds several layers.
    """
    stack = huggingface.stack(part.model, part.hf_part)
    places = [stack.spot(layer).at for layer in range(len(stack))]
    paths = [huggingface.block_path(stack.base, at) for at in places]
    if len({*places}) != len({*paths}):
        raise ArgumentError(
            f"{part.name} has {len({*places})} layers in {len({*paths})} blocks.\n"
            "What a layer adds is measured where each has a block of its own."
        )
    return [stack.base.get_submodule(path) for path in paths]


def _heads_of(part: ModelPart) -> list[list[_Heads]]:
    """For each layer, the heads of its attention; in "cross" of both that a block has."""
    found = []
    for layer in range(part.sizes.n_layer):
        parts = ["decoder", "cross"] if part.hf_part == "cross" else [part.hf_part]
        ours = [huggingface.from_hf(part.model, layer, part=one) for one in parts]
        WOs = [huggingface.matrices(part.model, layer, one)["WO"] for one in parts]
        pairs = zip(WOs, ours, strict=True)
        found.append([_Heads(WO, one) for WO, one in pairs])
    return found


class _Heads(NamedTuple):
    """The heads of an attention: the model's module that is their WO, and the layer as ours."""

    module: nn.Module
    ours: MultiheadAttention

    def lengths(self, context: Tensor) -> Tensor:
        """|context_h WO_h| of tokens (rows, n_head * d_v): (rows, n_head)."""
        assert self.ours.WO is not None
        by_head = (x.chunk(self.ours.n_head, dim=-1) for x in (context, self.ours.WO.weight))
        return torch.stack([_length(x @ WO.T) for x, WO in zip(*by_head, strict=True)], dim=-1)


def _length(x: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    return lengths


# What runs in a block


class _Call(NamedTuple):
    """One call of a module in a block: what it was given and returned, (rows, width) each."""

    module: nn.Module
    given: list[Tensor]
    returned: Tensor | None


class _Sum(NamedTuple):
    """total = start + the sum of the parts, of which the model has computed all three."""

    start: Tensor  # (rows, d_model), as the others
    parts: list[Tensor]
    total: Tensor

    @property
    def rounding(self) -> Tensor:
        """How far the total may be off, number by number."""
        size = self.total.abs() + self.start.abs() + sum(part.abs() for part in self.parts)
        return DIGITS * torch.finfo(self.total.dtype).eps * size

    @property
    def difference(self) -> Tensor:
        return self.total - self.start - sum(self.parts)


class _BlockRun(NamedTuple):
    """One run of a block: the states before and after it, and the calls of its modules."""

    before: Tensor
    calls: list[_Call]
    after: Tensor

    def lengths(self, heads: list[_Heads]) -> _Lengths:
        """What the attentions of these heads, and the MLP, add."""
        ends = [next(call for call in self.calls if call.module is one.module) for one in heads]
        of_heads = [one.lengths(end.given[0]) for one, end in zip(heads, ends, strict=True)]
        sums = self._sums([end.returned for end in ends if end.returned is not None])
        if sums is None:
            return _Lengths(None, of_heads, None, False)
        # Without norms in between, a sum begins where the last one ended.
        ended = [self.before, *(one.total for one in sums)]
        begins = [*(one.start for one in sums), self.after]
        norm_after = not all(map(_same, ended, begins))
        parts = [_length(part) for one in sums for part in one.parts]
        return _Lengths(parts, of_heads, _proof(sums), norm_after)

    def _sums(self, attentions: list[Tensor]) -> list[_Sum] | None:
        """The sums that lead from the state before the block to the one after it, if all are found.

        An attention is added alone, or, where it stands beside the MLP, together with that.
        """
        like = [
            (call, call.returned) for call in self.calls if _is_state(call.returned, self.after)
        ]
        seen = [x for call in self.calls for x in call.given if _is_state(x, self.after)]
        starts, sums, beside = [self.before], list[_Sum](), [list[Tensor]()]
        # A sum leads on: less what was added, a total would lead back to where it came from.
        totals = _others([*seen, *(made for _, made in like), self.after], starts)
        for attention in attentions:
            # What WO returned is added, or what a norm made of that.
            ways = [[way] for way in self._made_of(attention)]
            found = _find_sum(starts, ways, totals)
            if found is None:
                beside = [[*others, *way] for others in beside for way in ways]
            else:
                sums.append(found)
                starts = self._made_of(found.total)
                totals = _others(totals, starts)
        # The last total is the state after the block, or what a norm makes that state of.
        into = [x for call, made in like if _same(made, self.after) for x in call.given]
        ends = [self.after, *(x for x in into if any(x is total for total in totals))]
        mlps = [[*others, made] for others in beside for _, made in like]
        last = _find_sum(starts, mlps, ends)
        return None if last is None else [*sums, last]

    def _made_of(self, x: Tensor) -> list[Tensor]:
        """x, and the outputs of all modules whose input was x or another tensor of this list."""
        found = [x]
        for call in self.calls:
            made = call.returned
            reads = call.given and any(_same(call.given[0], one) for one in found)
            if reads and _is_state(made, x) and not any(_same(made, one) for one in found):
                found.append(made)
        return found


def _is_state(x: Tensor | None, state: Tensor) -> TypeGuard[Tensor]:
    return x is not None and x.shape == state.shape


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal; those that are not mostly differ at the first token."""
    return torch.equal(x[:1], y[:1]) and torch.equal(x, y)


def _others(states: list[Tensor], known: list[Tensor]) -> list[Tensor]:
    return [x for x in states if not any(_same(x, one) for one in known)]


def _find_sum(
    starts: list[Tensor], ways: Sequence[list[Tensor]], totals: list[Tensor]
) -> _Sum | None:
    """The first total that is a start plus one of the ways, whose parts may have factors."""
    for start, total, parts in product(starts, totals, ways):
        found = _scaled(start, parts, total)
        if found is not None:
            return found
    return None


def _scaled(start: Tensor, parts: list[Tensor], total: Tensor) -> _Sum | None:
    """The sum with the factors of the parts that make it come out, if there are any."""
    some = spaced(len(total), min(DECIDING, len(total)))
    begin, end, few = start[some], total[some], [part[some] for part in parts]
    P = torch.stack(few).double().flatten(1)
    solved, wrong = torch.linalg.solve_ex(P @ P.T, P @ (end - begin).double().flatten())
    if int(wrong):  # parts of 0, or alike
        return None
    # A factor of 1 is left out, because the model does not multiply by it.
    factors = [1.0 if abs(one - 1) < 1e-4 else one for one in solved.tolist()]

    def made(parts: list[Tensor]) -> list[Tensor]:
        pairs = zip(factors, parts, strict=True)
        return [part if factor == 1 else factor * part for factor, part in pairs]

    tried = _Sum(begin, made(few), end)
    if not bool((tried.difference.abs() <= tried.rounding).all()):
        return None
    return _Sum(start, made(parts), total)


def _proof(sums: list[_Sum]) -> Proof:
    """All sums of a block beside the states that the model has computed."""
    tiny = torch.finfo(torch.float32).tiny
    states, off, rounding = (
        torch.stack(each)
        for each in zip(*((s.total, s.difference, s.rounding) for s in sums), strict=True)
    )
    return Proof.compare(states + off, states, rounding + tiny, len(states[0]))


# Hearing


@contextmanager
def _heard(
    name: str,
    blocks: list[nn.Module],
    rows: list[int],
    n: int,
    then: Callable[[_BlockRun], None],
) -> Iterator[None]:
    """Context in which `then` is told of every run of a block in this thread, of some tokens."""
    thread, at = threading.get_ident(), torch.tensor(rows, device="cpu")
    calls: list[_Call] = []

    def taken(values: Sequence[object]) -> list[Tensor]:
        """The tensors (1, n, width) or (n, width), at the rows."""
        found = [x for x in values if isinstance(x, Tensor) and x.shape[:-1] in ((1, n), (n,))]
        return [x.detach().reshape(n, -1)[at] for x in found]

    def begins(block: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread:
            calls.clear()

    # By place, and keyword arguments of each model's own code.
    def ends(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if threading.get_ident() != thread:
            return
        made = taken(out if isinstance(out, tuple) else [out])[:1]
        if module not in blocks:
            given = taken([*args, *kwargs.values()])
            calls.append(_Call(module, given, made[0] if made else None))
            return
        hidden = args[0] if args else kwargs["hidden_states"]
        before = taken([hidden])
        if not (before and made):
            raise ArgumentError(
                f"What goes through the layers of {name} is {list(hidden.shape)}, and not "
                f"[1, {n}, d_model].\nWhat its layers add is not told apart."
            )
        then(_BlockRun(before[0], list(calls), made[0]))

    hooks = []
    for block in dict.fromkeys(blocks):
        hooks.append(block.register_forward_pre_hook(begins))
        hooks += [one.register_forward_hook(ends, with_kwargs=True) for one in block.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
