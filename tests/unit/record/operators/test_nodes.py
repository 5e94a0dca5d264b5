"""Nodes tell how a tensor was made of a product of q and k, and hold no score."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from tests.written import HEADS, M, N, heard_of, qkv, randn
from wqkv.record.operators import layout, learned, listening, nodes, replay, scores
from wqkv.record.operators.nodes import (
    Applied,
    Leaf,
    Node,
    all_nodes,
    hides,
    leaves,
    mapped,
    operator_of,
    softmax_input,
)

SETS = {
    name: found
    for module in (layout, learned, listening, nodes, replay, scores)
    for name, found in vars(module).items()
    if (isinstance(found, frozenset | dict) and name.isupper()) or name == "_STEPS"
}


@pytest.mark.parametrize("name", [name for name in SETS if not name.startswith("__")])
def test_every_name_is_an_operator(name):
    """A name that torch does not have would never be met."""
    unknown = [one for one in SETS[name] if not hasattr(torch.ops.aten, one)]
    assert [one for one in unknown if not hasattr(torch.ops.aten, f"{one}_")] == []


def test_the_sets_are_apart():
    sets = (nodes.LAYOUTS, nodes.RULES, nodes.PRODUCTS, nodes.SOFTMAXES, nodes.SHAPES)
    assert len(frozenset().union(*sets, nodes.PROJECTIONS)) == sum(
        map(len, (*sets, nodes.PROJECTIONS))
    )


def test_operators():
    add = operator_of(torch.ops.aten.add_.Tensor)
    assert add.name == "add" and add.writes == (0,) and not add.whole
    assert operator_of(torch.ops.aten.add.Tensor).writes == ()
    assert operator_of(torch.ops.aten.matmul.default).whole
    assert operator_of(torch.ops.aten.mm.out).writes == (2,)
    assert operator_of(torch.ops.aten.add_.Tensor) is add


def test_leaves_in_order():
    value = [1, (2, [3]), {"a": 4, "b": (5,)}, None]
    assert list(leaves(value)) == [1, 2, 3, 4, 5, None]
    assert mapped(value, str) == ["1", ("2", ["3"]), {"a": "4", "b": ("5",)}, "None"]


def test_a_mask_is_told_from_a_bias():
    mask = torch.tensor([[0.0, -1e9], [0.0, -torch.inf]])
    assert hides(mask, -1e4) and hides(torch.zeros(3), -1e4)
    assert not hides(mask + 1, -1e4) and not hides(mask.clamp(min=-5), -1e4)
    assert not hides(mask.to("meta"), -1e4)


def test_a_leaf_that_is_changed():
    x = randn(3)
    leaf, view = Leaf(x), x[:2]
    leaf.close()
    assert not leaf.is_stale
    view.zero_()
    assert leaf.is_stale
    leaf.close()  # once alone
    assert leaf.is_stale
    early = Leaf(x)
    x.zero_()
    assert early.is_stale  # nobody told that it was written, or it would be a copy
    early.close()
    assert not early.is_stale


def weights_of(way):
    (heard,) = heard_of(way)
    return heard.how.weights


def test_the_way_from_a_product_to_the_weights():
    found = weights_of(lambda q, k, v: (q @ k.mT * 0.5).softmax(-1) @ v)
    names = [one.name for one in all_nodes(found)]
    assert [one for one in names if one not in nodes.LAYOUTS] == ["bmm", "mul", "_softmax"]
    (product,), (softmax,) = found.products, found.softmaxes
    assert found.is_weights and not product.is_weights and not found.odd and not found.lost
    assert product.map_numel == found.map_numel == N * M
    assert softmax.shape == (2, HEADS, N, M) and found.shape == (2 * HEADS, N, M)
    assert softmax_input(softmax)[0].name == "mul" and softmax_input(softmax)[1] == -1


#: Ways to write a softmax, and which of its axes it runs over, from the end.
SOFTMAXES = {
    "softmax": (lambda s: s.softmax(3), -1),
    "from the end": (lambda s: s.mT.softmax(-2).mT, -2),
    "quotient": (lambda s: s.exp() / s.exp().sum(-1, keepdim=True), None),
    "of one exp": (lambda s: (lambda e: e / e.sum(-1, keepdim=True))(s.exp()), -1),
    "of one exp, from the start": (lambda s: (lambda e: e / e.sum(3, keepdim=True))(s.exp()), -1),
    "lse": (lambda s: (s - s.logsumexp(-1, keepdim=True)).exp(), -1),
    "lse of several axes": (lambda s: (s - s.logsumexp((3,), keepdim=True)).exp(), -1),
}


@pytest.mark.parametrize("way", SOFTMAXES)
def test_softmaxes(way):
    of, dim = SOFTMAXES[way]
    heard = heard_of(lambda q, k, v: of(q @ k.mT) @ v)
    if dim is None:  # two exp, which are no softmax of one
        assert all(one.how is None for one in heard)
        return
    (softmax,) = heard[0].how.weights.softmaxes
    score, found = softmax_input(softmax)
    assert found == dim and not score.is_weights and not softmax.odd
    assert score.numel == 2 * HEADS * N * M


def test_what_is_no_rule_is_odd():
    found = weights_of(lambda q, k, v: (q @ k.mT).gelu_().softmax(-1) @ v
                       if hasattr(q, "gelu_") else (q @ k.mT).erf().softmax(-1) @ v)  # fmt: skip
    assert found.odd == {"erf"} or found.odd == {"gelu"}


def test_a_product_onto_another_is_a_second():
    def way(q, k, v):
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        return torch.baddbmm(q @ k.mT, q, k.mT).softmax(-1) @ v

    assert len(weights_of(way).products) == 2


def test_nodes_hold_no_score():
    """A chain of Nodes keeps only q, k and the added tensors: its memory is O(size of q and k)."""
    alive = []

    def way(q, k, v):
        scores = q @ k.mT
        bias = randn(1, HEADS, 1, M, seed=3)
        P = (scores + bias).softmax(-1)
        alive.extend(weakref.ref(x) for x in (scores, P))
        return P @ v

    (heard,) = heard_of(way)
    gc.collect()
    assert [one() for one in alive] == [None, None]
    kept = [one.tensor for one in leaves([node.args for node in all_nodes(heard.how.weights)])
            if isinstance(one, Leaf)]  # fmt: skip
    assert max(x.numel() for x in kept) < 2 * HEADS * N * M * 3
    assert sorted(x.numel() for x in kept) == sorted([qkv()[0].numel(), qkv()[1].numel(), 21])


def test_a_node_of_several_outputs():
    out = torch.zeros(2, 3)
    node = Node(Applied(None, "split", (Leaf(out),), {}), out, 1)
    assert node.output == 1 and node.shape == (2, 3) and node.numel == 6
    assert node.first().tensor is out and Node(Applied(None, "add", (), {}), out).first() is None
