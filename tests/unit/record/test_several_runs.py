"""Models of plain PyTorch that learn, run several times, or run in threads, under `watch`."""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from tests.net import (
    BATCH,
    LAYERS,
    LENGTH,
    NAMES,
    VOCABULARY,
    WAYS,
    WIDTH,
    Attention,
    Net,
    Scaled,
    gradients,
    matrices,
    proved,
    run_twice,
    tokens,
    weights,
)
from wqkv.errors import MissedError
from wqkv.record.watch import watch

# Gradients

AGAIN = "ran again in a backward pass, which counts as the same run"


@WAYS
@pytest.mark.parametrize("reentrant", [None, True, False])
def test_gradient_checkpointing(way, reentrant):
    model = Net(way, reentrant).train()
    theirs = matrices(model, lambda: model(tokens()))
    seen = run_twice(model, lambda: gradients(model))
    proved(seen, NAMES, theirs[:LAYERS])
    assert [len(seen.runs(n)) for n in range(LAYERS)] == [1] * LAYERS
    assert seen.report().count(AGAIN) == (0 if reentrant is None else LAYERS), seen.report()


def test_the_last_run_did_not_run_again():
    model = Net("fused", reentrant=False)
    with watch(model) as seen:
        gradients(model)
        assert AGAIN in seen.report()
        with torch.no_grad():
            model(tokens(5))
    assert AGAIN not in seen.report()
    assert seen.report().count("the last of 2 runs") == LAYERS


class OwnBackward(torch.autograd.Function):
    """Written-out attention with a backward pass of its own, which computes the weights again."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return weights(q, k) @ v

    @staticmethod
    def backward(ctx, gradient):
        q, k, v = ctx.saved_tensors
        P = weights(q, k)
        of_P = gradient @ v.mT
        of_scores = P * (of_P - (of_P * P).sum(dim=-1, keepdim=True)) / math.sqrt(q.shape[-1])
        return of_scores @ k, of_scores.mT @ q, P.mT @ gradient


def test_an_attention_with_its_own_backward_pass():
    model = Net("written out")
    for block in model.blocks:
        block.attn.attend = OwnBackward.apply
    theirs = matrices(model, lambda: model(tokens()))
    proved(run_twice(model, lambda: gradients(model)), NAMES, theirs[:LAYERS])
    with torch.no_grad():
        proved(run_twice(model, lambda: [model(tokens())]), NAMES, theirs[:LAYERS])


def test_a_step_of_an_optimizer_changes_no_map():
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), Scaled())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model) as seen:
        out = model(tokens())
        x = model[0](tokens())
        q, k, _ = model[1].project(x)
        theirs = (q @ k.mT * model[1].scale + model[1].bias).softmax(dim=-1).detach()
        out.square().sum().backward()
        optimizer.step()
    assert [layer.state for layer in seen.layers] == ["proved"], seen.report()
    torch.testing.assert_close(seen[0][:], theirs, rtol=1e-5, atol=2e-6)


class InPlace(Attention):
    """It keeps q, which somebody may write into later."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.q = q
        return super().attend(q, k, v)


@WAYS
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_q_that_is_written_into_after_the_forward(way, asked, gradients):
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), InPlace(way))
    (theirs,) = matrices(model, lambda: model(tokens()))
    with watch(model) as seen:
        with torch.set_grad_enabled(gradients):
            model(tokens())
        if asked:
            assert seen.layers[0].state == "proved"
        with torch.no_grad():
            model[1].q.mul_(2)
    if way == "fused" and not asked:  # the other has multiplied a copy of q
        with pytest.raises(MissedError, match="a mask was changed in place after the forward"):
            seen[0]
    else:
        torch.testing.assert_close(seen[0][:], theirs, rtol=1e-5, atol=2e-6)


# Modes of the caller


@WAYS
def test_a_mode_of_the_caller_is_told_of_the_model_alone(way):
    model = Net(way)

    def work() -> list[Tensor]:
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            found = [model(tokens()), model(tokens())]  # the second reads what the first left
        return [*found, torch.tensor(counter.get_total_flops())]

    assert {layer.state for layer in run_twice(model, work).layers} == {"proved"}


@WAYS
def test_selective_checkpointing(way):
    """It finds what it has kept by counting operators."""
    model = Net(way)
    kept = [torch.ops.aten.bmm.default, torch.ops.aten.addmm.default]
    contexts = functools.partial(create_selective_checkpoint_contexts, kept)

    def work() -> list[Tensor]:
        model.zero_grad()
        x = model.embedding(tokens())
        for block in model.blocks:  # each is a forward of its own
            x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        x.square().sum().backward()
        return [one.grad for one in model.parameters() if one.grad is not None]

    seen = run_twice(model, work)
    assert [(layer.name, layer.state) for layer in seen.layers] == [(n, "proved") for n in NAMES]


# Several runs


@WAYS
def test_a_block_that_runs_several_times(way):
    model = Net(way)
    model.blocks[1] = model.blocks[0]
    theirs = matrices(model, lambda: model(tokens()))
    names = ["blocks.0.attn", "blocks.0.attn (run 2)", "blocks.2.attn"]
    with torch.no_grad():
        proved(run_twice(model, lambda: [model(tokens())]), names, theirs)


class Head(nn.Module):
    """One head, without an axis for it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, 13) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return weights(self.q(x), self.k(x)) @ self.v(x)


class Heads(nn.Module):
    """Heads that are modules of their own, one after the other, as lessons begin."""

    def __init__(self, n_head: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_head = n_head
        self.heads = nn.ModuleList(Head() for _ in range(n_head))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(x) for head in self.heads], dim=-1)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_heads_that_are_modules(batch):
    model = Heads(2)
    x = torch.randn(batch, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    seen = run_twice(model, lambda: [model(x).detach()])
    for ours, head in zip(seen, model.heads, strict=True):
        theirs = weights(head.q(x), head.k(x)).detach()[:, None]
        torch.testing.assert_close(ours[:], theirs, rtol=1e-5, atol=2e-6)


class Halving(nn.Module):
    """A model that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = Attention("written out")

    def forward(self, x: Tensor, times: int = 3) -> Tensor:
        return self.attn(x) + (self(x / 2, times - 1) if times > 1 else 0)


def test_a_model_that_calls_itself():
    model, x = Halving(), torch.randn(BATCH, LENGTH, WIDTH)
    theirs = matrices(model, lambda: model(x))
    seen = run_twice(model, lambda: [model(x).detach()])
    proved(seen, ["attn", "attn (run 2)", "attn (run 3)"], theirs)


def test_a_forward_that_is_interrupted():
    """No hook is told of KeyboardInterrupt, and a notebook goes on after it."""
    model = Net("written out").eval()

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with torch.no_grad(), watch(model) as seen:
        handle = model.blocks[1].attn.out.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(tokens())
        handle.remove()
        out = model(tokens())
    with torch.no_grad():
        proved(seen, NAMES, matrices(model, lambda: model(tokens())))
        assert torch.equal(out, model(tokens()))


@WAYS
def test_a_model_that_is_moved_between_forwards(way):
    model, ids = Net(way).eval(), tokens()
    with torch.no_grad(), watch(model) as seen:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            model.to(dtype)(ids)
    assert [repr(run).split()[6][:4] for run in seen.runs(1)] == ["f32[", "f64[", "bf16"]
    assert {layer.state for layer in seen.layers} == {"proved"}, seen.report()
    with torch.no_grad(), watch(model) as seen:
        model.to("meta")(ids.to("meta"))
    assert [layer.name for layer in seen.layers] == NAMES
    assert {layer.state for layer in seen.layers} == {"missed"}
    assert "its tensors are on the device meta, which holds no numbers" in seen.layers[0].reason


@WAYS
def test_threads_that_share_a_model(way):
    model = Net(way).eval()

    def forward(length: int) -> Tensor:
        with torch.no_grad():
            return model(tokens(length))

    def work() -> list[Tensor]:
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(forward, (3, 5, 7, 4, 6)))

    seen = run_twice(model, work)
    runs = [run for one in seen.threads for n in range(LAYERS) for run in one.runs(n)]
    assert sorted(run.shape[2] for run in runs) == sorted([3, 4, 5, 6, 7] * LAYERS)
    for length in (3, 4, 5, 6, 7):
        theirs = matrices(model, lambda n=length: model(tokens(n)))
        ours = [run for run in runs if run.shape[2] == length]
        for run, one in zip(ours, theirs, strict=True):
            torch.testing.assert_close(run[:], one, rtol=1e-5, atol=2e-6)


class Halves(nn.Module):
    """A model that runs each half in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Net("fused"), Net("written out")

    def forward(self, ids: Tensor) -> Tensor:
        with ThreadPoolExecutor(2) as pool:
            left, right = pool.map(lambda half: half(ids), (self.left, self.right))
        return left + right


def test_a_model_that_starts_threads():
    model = Halves()
    seen = run_twice(model, lambda: [model(tokens()).detach()])
    found = [layer for one in seen.threads for layer in one.layers]
    names = [f"{half}.{name}" for half in ("left", "right") for name in NAMES]
    assert sorted(layer.name for layer in found) == names
    assert {layer.state for layer in found} == {"proved"}
    assert "other threads ran it too: see `threads`" in seen.report()


@pytest.mark.process
def test_workers_that_load_data():
    """Their processes begin as copies of this one, while it watches."""
    model = Net("written out").eval()
    texts = tokens(LENGTH, 6)
    with torch.no_grad(), watch(model) as seen:
        for batch in DataLoader(texts, batch_size=2, num_workers=2):
            model(batch)
    assert [len(seen.runs(n)) for n in range(LAYERS)] == [3] * LAYERS
    theirs = matrices(model, lambda: model(texts[4:]))
    proved(seen, NAMES, theirs)
