"""Which tensors are known, and that a copy is made before somebody writes into what is kept."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from tests.written import randn
from wqkv.record.operators.learned import Learned
from wqkv.record.operators.nodes import Applied, Node
from wqkv.record.operators.trails import COPIED, PATHS, Moved, OutputTrail, Step, Trails
from wqkv.upstream import of_torch


@pytest.fixture
def trails():
    found = Trails(Learned(nn.Linear(2, 3)))
    found.keys = of_torch.keys_on(), of_torch.keys_off()
    return found


def node_of(x: Tensor) -> Node:
    return Node(Applied(None, "add", (), {}), x)


def write(trails: Trails, x: Tensor, number: float) -> None:
    trails.writes(x)
    x.fill_(number)
    trails.wrote(x)


def test_a_tensor_is_known_as_long_as_it_lives(trails):
    x = randn(3)
    node = node_of(x)
    trails.put(x, node)
    assert trails and trails.node(x) is node and trails.argument(x) is node
    assert trails.find(randn(3)) is None and trails.find("x") is None and trails.node(None) is None
    del x
    gc.collect()
    assert not trails


def test_another_tensor_in_its_place(trails):
    """What dies later than it was replaced takes nothing with it."""
    x = randn(3)
    trails.put(x, node_of(x))
    second = node_of(x)
    trails.put(x, second)
    gc.collect()
    assert trails.node(x) is second
    trails.drop(x)
    trails.drop(x)
    assert trails.find(x) is None


def test_an_output_is_no_node(trails):
    x = randn(3)
    moved = Moved(OutputTrail(3))
    trails.put(x, moved)
    assert trails.moved(x) is moved and trails.node(x) is None
    assert trails.argument(x).tensor is x and trails.moved(randn(3)) is None


def test_ways_of_an_output():
    """Each way is kept once, at its full length, and not too many of them."""
    output, first = OutputTrail(3), Step("view", (), (2, 3))
    one = Moved(output).by(first)
    one.note()
    two = one.by(Step("t", (), (3, 2)))
    two.note()
    assert output.paths == [two.path] and one.path == (first,)
    assert Step("split", (1,), (2, 3), 5).joined(-1) == Step("split", (1, -1), (2, 3), 5)
    for _ in range(2 * PATHS):
        one.note()
    assert len(output.paths) == PATHS


def test_a_write_through_another_tensor_loses_it(trails):
    x = randn(3, 2)
    view, node = x[:1], node_of(x)
    trails.put(x, node)
    assert trails.node(x).lost == "" and trails.state(x) == 0
    write(trails, view, 2.0)
    assert trails.state(x) == 1
    assert trails.node(x).lost == "its scores were changed in place through another tensor"


def test_aliases_as_they_are(trails):
    x = randn(3, 2)
    view, other, output = x.view(6), randn(3), x.view(2, 3)
    for one in (x, view, other):
        trails.put(one, node_of(one))
    trails.put(output, Moved(OutputTrail(3)))
    assert [found for found, _ in trails.aliases(x)] == [view]
    assert list(trails.aliases(other)) == []
    write(trails, x, 1.0)
    assert list(trails.aliases(x)) == []  # the view is not what it was


def test_what_is_kept_is_copied_before_it_is_written(trails):
    x = randn(3)
    before = x.clone()
    leaf, part = trails.leaf(x), trails.leaf(x[:2])
    assert leaf.tensor is x
    write(trails, x[1:], 5.0)
    assert torch.equal(leaf.tensor, before) and torch.equal(part.tensor, before[:2])
    again = leaf.tensor
    write(trails, x, 6.0)
    assert leaf.tensor is again


def test_a_small_parameter_is_copied(trails):
    """A step of an optimizer would change it."""
    small, large = nn.Parameter(randn(3)), nn.Parameter(torch.zeros(COPIED + 1))
    kept, shared = trails.leaf(small), trails.leaf(large)
    assert not kept.tensor.requires_grad and not shared.tensor.requires_grad
    assert kept.learned and shared.learned and not trails.leaf(randn(3)).learned
    assert kept.tensor.data_ptr() != small.data_ptr()
    assert shared.tensor.data_ptr() == large.data_ptr()
    made = small * 2
    leaf = trails.leaf(made)
    assert leaf.tensor.grad_fn is None and leaf.tensor.data_ptr() == made.data_ptr()
    with torch.no_grad():
        large.add_(1)
    assert shared.is_stale and not kept.is_stale


def test_arguments_by_value(trails):
    x = randn(3)
    trails.put(x, node_of(x))
    assert trails.value(x).tensor is x and trails.value(3) == 3 and trails.argument(None) is None


def test_forgetting(trails):
    x = randn(3)
    trails.put(x, node_of(x))
    trails.wrote(x)
    leaf = trails.leaf(x)
    trails.clear()
    assert not trails and trails.state(x) == 0
    write(trails, x, 3.0)
    assert leaf.tensor is x  # nobody copies for it any more
