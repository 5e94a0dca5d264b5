"""What the rectangles must get right beside the table of calls: layouts and hiding biases."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from wqkv import Causal, Full, Lengths, Window, attention
from wqkv.attend.call import request, seeded
from wqkv.attend.engines import rectangles, reference, tiled, tiles
from wqkv.attend.engines.by_reference import dropout_of_rows
from wqkv.attend.engines.plan import make_plan, visible_pieces
from wqkv.attend.engines.tiles import Tile, Tiles
from wqkv.errors import EngineError


def agree(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [3, 701])
def test_a_bias_of_minus_infinity_hides_like_a_mask(n):
    q, k, v = (torch.randn(1, 2, n, 8, dtype=torch.float64) for _ in range(3))
    bias = torch.zeros(n, n, dtype=torch.float64)
    bias[n // 2, : n // 2 + 1] = -torch.inf  # with Causal, nothing is left in this row
    bias[n - 1, : n - 1] = -torch.inf
    parts = [
        attention(q, k, v, bias=bias, mask=Causal(), engine=engine, return_lse=True)
        for engine in ("tiled", "reference", "auto")
    ]
    assert (parts[0].lse[:, :, n // 2] == -torch.inf).all()
    assert (parts[0].out[:, :, n // 2] == 0).all()
    agree(parts[0], parts[1])
    agree(parts[2], parts[1])


@pytest.mark.parametrize("mask", [Full(), Causal()])
@pytest.mark.parametrize("n", [19, 311])
def test_a_gradient_that_is_one_number_repeated(mask, n):
    """`.sum().backward()` hands over a gradient without strides: the kernels would misread it."""
    results = []
    for engine in ("auto", "reference"):
        q, k, v = (torch.ones(2, 3, n, 8, dtype=torch.float64) for _ in range(3))
        q, k, v = (
            (x * torch.linspace(0, s, n * 8).view(n, 8)).requires_grad_()
            for x, s in zip((q, k, v), (1, 2, 3), strict=True)
        )
        out = attention(q, k, v, mask=mask, engine=engine)
        results.append(torch.autograd.grad(out.sum(), (q, k, v)))
    agree(*results)


@pytest.mark.parametrize("d_k, d_v", [(5, 5), (3, 7), (7, 3)])
def test_channels_that_do_not_lie_side_by_side(d_k, d_v):
    q, k = (torch.randn(2, 3, d_k, 29, dtype=torch.float64).mT for _ in range(2))
    v = torch.randn(2, 3, d_v, 29, dtype=torch.float64).mT
    agree([attention(q, k, v)], [attention(q, k, v, engine="reference")])
    # heads side by side, a layout that padding keeps
    q, k, v = (
        torch.randn(2, 29, d, 3, dtype=torch.float64).permute(0, 3, 1, 2) for d in (d_k, d_k, d_v)
    )
    agree([attention(q, k, v)], [attention(q, k, v, engine="reference")])


def test_the_output_lies_as_the_projection_wants_it():
    q, k, v = (torch.randn(2, 37, 3, 8).transpose(1, 2) for _ in range(3))
    for mask in (Full(), Causal(), Lengths([11, 37])):
        out = attention(q, k, v, mask=mask)
        assert out.transpose(1, 2).is_contiguous()


def test_no_second_derivative():
    q = torch.randn(1, 1, 5, 4, requires_grad=True)
    out = attention(q, q, q).sum()
    (first,) = torch.autograd.grad(out, q, create_graph=True)
    with pytest.raises(EngineError, match=r"no second derivative.*\n.*engine='reference'"):
        torch.autograd.grad(first.sum(), q)
    torch.autograd.gradgradcheck(
        lambda x: attention(x, x, x, engine="reference"),
        torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True),
    )


def test_a_planted_wrong_lse_spoils_the_gradient():
    """The backward pass rests on the merged lse: with that of one rectangle it is wrong."""
    q, k, v = (torch.randn(1, 1, 301, 8, dtype=torch.float64) for _ in range(3))
    call = request(q, k, v, mask=Causal())
    plan, whole = make_plan(call, "kernel calls"), make_plan(call, "one kernel call")
    assert len(plan.pieces) > 1 and whole.kernel == "causal kernel"
    out, lse = rectangles.forward(call, plan)
    good = rectangles.backward(call, plan, out, lse, out, None)
    bad = rectangles.backward(call, plan, out, lse + 0.1, out, None)
    one = rectangles.forward(call, whole)
    agree((out, lse), one)
    agree(good, rectangles.backward(call, whole, *one, out, None))
    assert (good[0] - bad[0]).abs().max() > 1e-3


def test_half_precision_keeps_float32_weights():
    """Errors stay those of rounding the output: the weights are not rounded on the way."""
    q, k, v = (torch.randn(2, 3, 211, 16) for _ in range(3))
    for dtype in (torch.bfloat16, torch.float16):
        half = [x.to(dtype) for x in (q, k, v)]
        exact = attention(*(x.double() for x in half), mask=Causal(), engine="reference")
        ours = attention(*half, mask=Causal())
        assert (ours.double() - exact).abs().max() <= (
            exact.to(dtype).double() - exact
        ).abs().max() * 1.01


def test_a_tile_of_fake_numbers_is_not_kept(monkeypatch):
    """A dry run's tile would be found by every later call of the same shape."""
    mask, q = Window(5, 0), torch.randn(1, 2, 7, 8)
    call = request(q, q, q, mask=mask)
    (piece,) = visible_pieces(call)
    tile = Tiles(call).get(piece).added
    tiles._by_shift.clear()
    with FakeTensorMode():
        dry = torch.zeros(tile.shape)
    with monkeypatch.context() as patch:
        patch.setattr(Tiles, "_make", lambda *_: Tile(dry))
        assert Tiles(call).get(piece).added is dry
    assert torch.equal(Tiles(call).get(piece).added, tile)
    assert Tiles(call).get(piece).added is Tiles(call).get(piece).added


@pytest.mark.parametrize("mask", [Full(), Window(5, 0), Lengths([29, 13])])
def test_the_dropout_of_some_rows_is_what_the_rectangles_drew(mask):
    q, k, v = (torch.randn(2, 3, n, 7, dtype=torch.float64) for n in (311, 311, 311))
    call = seeded(request(q, k, v, mask=mask, dropout_p=0.3))
    plan, rows = tiled.plan(call), torch.tensor([0, 11, 12, 30, 307, 310])
    P = reference.steps(request(q, k, v, mask=mask), call.places()).weights[:, :, rows]
    drawn = dropout_of_rows(call, plan.pieces, rows)
    agree([(P * drawn) @ v], [tiled.run(call).out[:, :, rows]])
    share = (drawn[P > 0] == 0).double().mean()
    assert 0.2 < share < 0.4
    assert (len(plan.pieces) > 1) == (not isinstance(mask, Full))
