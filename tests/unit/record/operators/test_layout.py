"""The axes of scores are found again behind any views, permutations and repetitions.

A tensor of numbers goes through real operators of torch, and its layout through `moved`. What
`rearranged` makes of it must be the tensor that it was.
"""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.written import proved, qkv, randn, replayed
from wqkv.record.operators.layout import (
    Axis,
    AxisPart,
    Layout,
    Unreadable,
    axis_of,
    current_parts,
    moved,
    rearranged,
    reshaped,
    size_of,
)
from wqkv.record.operators.nodes import Applied, Node

#: Sizes of products of distinct primes, so that each axis can be split in one way.
SIZES = (6, 35, 143)
SIDES = ("batch", "left", "right")


def axes_of_a_product() -> Layout:
    return tuple(axis_of(size, side) for size, side in zip(SIZES, SIDES, strict=True))


def node(name: str, out: Tensor, *args: object) -> Node:
    """A Node of an operator whose first argument is the scores."""
    return Node(Applied(None, name, (None, *args), {}), out)


class Moving:
    """A tensor and its layout, which go the same way."""

    def __init__(self) -> None:
        self.start = axes_of_a_product()
        self.x = torch.arange(prod(SIZES)).view(SIZES)
        self.layout = self.start
        self.repeated: list[Axis] = []

    def go(self, name: str, out: Tensor, *args: object) -> None:
        self.layout = moved(node(name, out, *args), self.layout)
        self.x = out

    def step(self, draw: st.DataObject) -> None:
        n = self.x.ndim
        axis = st.integers(-n, n - 1)
        match draw.draw(
            st.sampled_from(["permute", "transpose", "split", "join", "one", "repeat"])
        ):
            case "permute":
                order = draw.draw(st.permutations(range(-n, 0)))
                self.go("permute", self.x.permute(order), order)
            case "transpose":
                a, b = draw.draw(axis), draw.draw(axis)
                self.go("transpose", self.x.transpose(a, b), a, b)
            case "split":
                at = draw.draw(axis) % n
                parts = current_parts(self.layout[at])
                if len(parts) == 1 and parts[0].whence != "repeated":
                    first = next((p for p in (2, 5, 11) if parts[0].size % p == 0), 1)
                else:
                    first = prod(part.size for part in parts[:1])
                out = self.x.unflatten(at, (first, -1))
                self.go("view", out)
            case "join" if n > 1:
                at = draw.draw(st.integers(0, n - 2))
                self.go("reshape", self.x.flatten(at, at + 1))
            case "one":
                self.go("unsqueeze", self.x.unsqueeze(draw.draw(axis)))
            case "repeat" if n < 6:
                shape = (draw.draw(st.sampled_from([2, 3])), *self.x.shape)
                self.go("expand", self.x.expand(shape), shape)
                self.repeated.append(self.layout[0])


@given(st.data())
def test_axes_are_found_again(draw):
    moving = Moving()
    for _ in range(draw.draw(st.integers(0, 9))):
        moving.step(draw)
    shape = [size_of(axis) for axis in moving.layout]
    assert shape == list(moving.x.shape)
    begun = torch.arange(prod(SIZES)).view(SIZES)
    # each repetition is one more axis, along which all is the same
    found = rearranged(moving.x, moving.layout, (*moving.start, *moving.repeated))
    assert found.ndim == 3 + len(moving.repeated)
    assert torch.equal(found, begun.view(*SIZES, *[1] * len(moving.repeated)).expand_as(found))
    again = rearranged(begun, moving.start, moving.layout, full=True)
    assert torch.equal(again, moving.x)
    if moving.repeated:
        with pytest.raises(Unreadable, match="has an axis that they do not keep"):
            rearranged(moving.x, moving.layout, moving.start)


def test_a_tensor_with_some_of_the_axes():
    batch, rows, columns = axes_of_a_product()
    x = randn(6, 1)
    assert rearranged(x, (batch, rows), (rows, batch, columns)).shape == (1, 6, 1)
    whole = rearranged(x, (batch, rows), (rows, batch, columns), full=True)
    assert torch.equal(whole, x.T[..., None].expand(35, 6, 143))
    batch[0].split((2, 3))
    assert repr(current_parts(batch)) == "(batch:2, batch:3)"
    half, rest = ((part,) for part in current_parts(batch))
    # an axis that the tensor has in part is repeated to its whole length
    y = rearranged(randn(3), (rest,), (batch,))
    assert torch.equal(y, randn(3).repeat(2))
    assert rearranged(randn(2), (half,), (half, rest)).shape == (2, 1)


def test_an_axis_of_size_1_is_none():
    assert axis_of(1, "left") == () and size_of(()) == 1
    assert [part.size for part in axis_of(5, "left")] == [5]


def test_views_that_are_refused():
    part = AxisPart(7, "right")
    with pytest.raises(Unreadable, match="a view cuts an axis of 7 of its scores into 8"):
        reshaped(((part,),), (8,))
    with pytest.raises(Unreadable, match="a view cuts an axis of 7 of its scores into 2"):
        reshaped(((AxisPart(3, "left"),), (part,)), (6, 7))
    with pytest.raises(Unreadable, match="a view of its scores has more numbers than they have"):
        reshaped(((), ()), (1, 2))
    with pytest.raises(Unreadable, match="a view of its scores has fewer numbers than they have"):
        reshaped(((AxisPart(6, "left"),), ()), (3, 1))


@pytest.mark.parametrize("name", ["slice", "narrow", "select"])
def test_parts_that_are_cut_out(name):
    """Sizes that a view could give: an axis of 6 is not split, it is cut."""
    layout = axes_of_a_product()
    part = node(name, torch.zeros(2, 35, 143))
    with pytest.raises(Unreadable, match="a part of its scores is cut out"):
        moved(part, layout)
    if name != "select":
        assert moved(node(name, torch.zeros(SIZES)), layout) == layout


#: Ways to move scores that change none of them.
MOVES = {
    "swapaxes": lambda s: s.swapaxes(0, 1).swapaxes(0, 1),
    "swapdims": lambda s: s.swapdims(-1, -2).swapdims(-2, -1),
    "mT": lambda s: s.mT.contiguous().mT,
    "mH": lambda s: s.mH.clone().adjoint(),
    "t": lambda s: s.flatten(0, 2).t().t().view(s.shape),
    "permute": lambda s: s.permute(3, 2, 1, 0).permute(-1, -2, -3, -4),
    "flatten": lambda s: s.flatten(0, 1).unflatten(0, s.shape[:2]),
    "squeeze": lambda s: s.unsqueeze(1).squeeze(1),
    "as others": lambda s: s.type_as(s).expand_as(s).view_as(s).reshape_as(s),
    "casts": lambda s: s.double().float(),
    "all of it": lambda s: s.narrow(-1, 0, 7)[:, :, :],
    "detach": lambda s: s.detach().clone(),
    "dropout in eval": lambda s: torch.dropout(s, 0.1, False),
}
#: Ways to move them that are not followed.
OTHER_MOVES = {
    "movedim": lambda s: s.movedim(1, 2).movedim(2, 1),
    "repeat": lambda s: s.repeat(1, 1, 1, 1),
    "split": lambda s: s.split(7, -1)[0],
    "split_with_sizes": lambda s: s.split([7], -1)[0],
    "chunk": lambda s: s.chunk(1, -1)[0],
    "as_strided": lambda s: s.as_strided(s.shape, s.stride()),
    "select": lambda s: torch.stack([s[:, i] for i in range(3)], 1),
    "unbind": lambda s: torch.stack(s.unbind(1), 1),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("move", MOVES)
def test_scores_that_are_moved(move, inference):
    with torch.inference_mode(inference):
        proved(lambda q, k: MOVES[move](q @ k.mT).softmax(-1), *qkv())


#: movedim is a permutation where it does not arrive as it was called.
NOT_FOLLOWED = [(move, way) for move in OTHER_MOVES for way in (False, True)][1:]


@pytest.mark.parametrize(("move", "inference"), NOT_FOLLOWED)
def test_scores_that_are_moved_in_another_way(move, inference):
    with torch.inference_mode(inference):
        replayed(lambda q, k: OTHER_MOVES[move](q @ k.mT).softmax(-1), *qkv())
