"""What a user's own backward pass says of each layer: heard, counted once, and changing nothing."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch

pytest.importorskip("transformers")

from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AlbertConfig, AutoModelForSeq2SeqLM, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.tiny import (
    CHECKPOINTS,
    SEQ2SEQ,
    SIZES,
    checkpointed,
    kept,
    loss,
    of_config,
    padded,
    tiny,
    tokens,
)
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.backward import Backward
from wqkv.record.run import Run
from wqkv.record.watch import Seen, watch


def runs(seen: Seen[AttentionMap]) -> list[Run]:
    return [layer.runs[-1] for layer in seen._all]


def heard(run: Run) -> Backward:
    assert run.backward is not None, run.without_effects
    return run.backward


# Nothing changes


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_outputs_and_gradients_are_bit_identical(implementation, reentrant):
    model = checkpointed(tiny("llama", implementation), reentrant)
    given = model.get_input_embeddings()(tokens()).detach().requires_grad_()

    def learn() -> list[Tensor]:
        model.zero_grad()
        given.grad = None
        logits = model(inputs_embeds=given, attention_mask=padded(7, 2)).logits
        loss(logits).backward()
        grads = [w.grad for w in model.parameters() if w.grad is not None]
        assert len(grads) == len(list(model.parameters())) - 1  # all but the embeddings
        return [x.detach().clone() for x in (logits, given.grad, *grads)]

    plain = learn()
    with watch(model, gradients=True) as seen:
        watched = learn()
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert seen.report().count("effects known") == 2


# What is heard


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
def test_value_output_and_gradient(registered, reentrant):
    """Beside those that the attention function itself sees."""
    told = {"v": [], "out": [], "grad": []}

    def attend(module, query, key, value, attention_mask, **kwargs):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        if out.requires_grad and len(told["v"]) < 2:
            told["v"].append(value.detach().clone())
            told["out"].append(out.detach().clone())
            out.register_hook(lambda g: told["grad"].append(g.clone()))
        return out, None

    model = tiny("llama", registered("sdpa_told", attend)).double()
    with watch(checkpointed(model, reentrant), gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    found = runs(seen) if reentrant is not True else runs(seen)[::-1]  # the last runs again first
    assert [len(seen.runs(layer)) for layer in range(2)] == [1, 1]
    grads = told["grad"] if reentrant is True else told["grad"][::-1]
    for run, v, out, grad in zip(found, told["v"], told["out"], grads, strict=True):
        one = heard(run)
        assert torch.equal(one.value, v)
        assert torch.equal(one.output, out.transpose(1, 2))
        assert torch.equal(one.gradient, grad.transpose(1, 2))
        assert one.value.shape == (2, 3, 7, 4)
        assert one.gradient.shape == (2, 6, 7, 4)


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
def test_backward_passes_add_up(reentrant):
    model = checkpointed(tiny("llama").double(), reentrant)
    found = []
    for passes in (1, 2):
        with watch(model, gradients=True) as seen:
            value = loss(model(tokens()).logits)
            for last in range(passes):
                value.backward(retain_graph=last < passes - 1)
        found.append([heard(run).gradient for run in runs(seen)])
    for once, twice in zip(*found, strict=True):
        torch.testing.assert_close(twice, 2 * once, rtol=1e-14, atol=0)


def test_a_backward_pass_after_the_watch():
    model = tiny("llama")
    with watch(model, gradients=True) as seen:
        value = loss(model(tokens()).logits)
    assert seen.report().count("no effects: no backward pass has reached it") == 2
    value.backward()
    assert seen.report().count("effects known") == 2


def test_gradients_are_kept_only_where_they_are_asked_for():
    model, held = tiny("llama"), []
    for gradients in (False, True):
        with watch(model, gradients=gradients) as seen:
            loss(model(tokens()).logits).backward()
        held.append([run.backward for run in runs(seen)])
        assert all(run.first.value.numel() == 0 for run in runs(seen))
    assert held[0] == [None, None]
    sizes = {x.untyped_storage().nbytes() for one in held[1] for x in (one.output, one.gradient)}
    assert sizes == {2 * 6 * 7 * 4 * 4}  # of its own, and in O(N)


def test_an_output_that_is_written_over():
    model = tiny("llama", "eager")  # other functions keep their output for their own backward pass
    projection = model.model.layers[0].self_attn.o_proj
    projection.register_forward_pre_hook(lambda _, args: (args[0].mul_(3),))
    with watch(model, gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    one, P = heard(runs(seen)[0]), seen[0][:]
    v = one.value.repeat_interleave(2, dim=1)
    torch.testing.assert_close(P @ v, one.output)


def test_an_output_that_does_not_matter():
    """Autograd may tell a hook None."""

    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return y.clone()

        @staticmethod
        def backward(ctx, gradient):
            return None, gradient

    out = torch.randn(2, 3, 5, 7, requires_grad=True) * 2
    one = Backward(out, True)
    y = torch.ones(1, requires_grad=True)
    First.apply(out, y * 2).sum().backward()
    assert one.gradient is None
    assert y.grad is not None


# What has none


def test_a_forward_without_gradients():
    model = tiny("llama")
    with torch.no_grad(), watch(model, gradients=True) as seen:
        model(tokens())
    assert seen.report().count("no effects: it ran without gradients, as under torch.no_grad") == 2
    assert all(heard(run).value is not None for run in runs(seen))


def test_a_layer_that_needs_no_gradient():
    model = tiny("llama").requires_grad_(False)
    model.lm_head.requires_grad_(True)
    with watch(model, gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    says = "no effects: its output needed no gradient, and no backward pass has run it again"
    assert seen.report().count(says) == 2


def test_several_calls_are_no_single_one():
    model, ids = tiny("llama"), tokens(7)
    cache = DynamicCache(config=model.config)
    with watch(model, gradients=True) as seen:
        model(ids[:, :5], **kept(model, cache))
        loss(model(ids[:, 5:], **kept(model, cache)).logits).backward()
    says = "no effects: its run has 2 calls of the attention function, and this needs one"
    assert seen.report().count(says) == 2
    assert seen[0].shape == (2, 6, 7, 7)
    assert [(run.backward, run.first.backward) for run in runs(seen)] == [(None, None)] * 2


def test_the_last_run_is_the_one_that_is_meant():
    model = tiny("llama")
    with watch(model, gradients=True) as seen:
        loss(model(tokens(5)).logits).backward()
        loss(model(tokens(7)).logits).backward()
    assert [heard(run).gradient.shape for run in runs(seen)] == [(2, 6, 7, 4)] * 2
    assert [len(seen.runs(layer)) for layer in range(2)] == [2, 2]


def test_statistics_have_no_gradients():
    says = r"`gradients` is True, and `keep` is 'statistics': an effect needs q and k"
    with pytest.raises(ArgumentError, match=says):
        watch(tiny("llama"), keep="statistics", gradients=True)  # type: ignore[call-overload]


# Checkpointing


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_layer_that_runs_again_is_one_run(reentrant, gradients):
    model = checkpointed(tiny("llama"), reentrant)
    with watch(model, gradients=gradients) as seen:
        for length in (5, 7):
            loss(model(tokens(length)).logits).backward()
    assert [len(seen.runs(layer)) for layer in range(2)] == [2, 2]
    says = "ran again in a backward pass, which counts as the same run"
    assert seen.report().count(says) == 2
    assert "repeat no run" not in seen.report()
    assert len(seen.threads) == 1


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_pass_in_another_thread(reentrant):
    """As on a GPU, where autograd has threads of its own."""
    model = checkpointed(tiny("llama"), reentrant)
    with watch(model, gradients=True) as seen:
        value = loss(model(tokens()).logits)
        thread = threading.Thread(target=value.backward)
        thread.start()
        thread.join()
    assert seen.report().count("effects known") == 2
    assert len(seen.threads) == 1


@pytest.mark.parametrize("reentrant", [True, False])
def test_statistics_of_a_layer_that_runs_again(reentrant):
    model = checkpointed(tiny("llama"), reentrant)
    with watch(model, keep="statistics") as seen:
        loss(model(tokens()).logits).backward()
    assert [len(seen.runs(layer)) for layer in range(2)] == [1, 1]
    assert "backward" not in seen.report()


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_share_their_weights_run_again(reentrant):
    sizes = {**SIZES, "embedding_size": 11, "num_hidden_layers": 3, "max_position_embeddings": 61}
    config = AlbertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = of_config(config)

    def learned() -> list[Tensor]:
        with watch(model, gradients=True) as seen:
            loss(model(tokens()).last_hidden_state).backward()
        assert [len(seen.runs(layer)) for layer in range(3)] == [1, 1, 1]
        return [heard(run).gradient for run in runs(seen)]

    plain = learned()
    shared = model.encoder.albert_layer_groups[0]
    forward = shared.forward
    shared.forward = lambda *args, **kwargs: checkpoint(
        partial(forward, **kwargs), *args, use_reentrant=reentrant
    )
    for ours, theirs in zip(learned(), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reentrant", [True, False])
def test_two_texts(reentrant):
    """Encoder, decoder and cross-attention."""
    model = tiny("bart", kind=AutoModelForSeq2SeqLM, **SEQ2SEQ, dropout=0.0)

    def learned() -> list[Tensor]:
        with watch(model, gradients=True) as seen:
            loss(model(input_ids=tokens(7), decoder_input_ids=tokens(5)).logits).backward()
        assert seen.report().count("effects known") == len(seen) == 6
        return [heard(run).gradient for run in runs(seen)]

    plain = learned()
    checkpointed(model, reentrant)
    for ours, theirs in zip(learned(), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_two_runs_that_cannot_be_told_apart():
    """Reentrant checkpointing runs a layer again, and nothing says for which of two forwards."""
    model = checkpointed(tiny("llama"), True)
    with watch(model, gradients=True) as seen:
        first, second = (loss(model(tokens()).logits) for _ in range(2))
        first.backward()
        second.backward()
    assert [len(seen.runs(layer)) for layer in range(2)] == [2, 2]
    says = "no effects: another run has the same q and k, and which of them ran again is not known"
    assert seen.report().count(says) == 2
    # without checkpointing each output has a hook of its own
    model = tiny("llama")
    with watch(model, gradients=True) as seen:
        first, second = (loss(model(tokens()).logits) for _ in range(2))
        (2 * first).backward()
        second.backward()
    for layer in seen._all:
        old, new = (heard(run).gradient for run in layer.runs)
        assert torch.equal(old, 2 * new)


def test_a_call_in_a_backward_pass_that_repeats_nothing():
    model, other = tiny("llama"), tokens(5)
    with watch(model, gradients=True) as seen:
        logits = model(tokens()).logits
        logits.register_hook(lambda _: model(other) and None)
        loss(logits).backward()
    assert [len(seen.runs(layer)) for layer in range(2)] == [1, 1]
    assert seen[0].shape == (2, 6, 7, 7)
    says = "calls in a backward pass that repeat no run: 2. They were not recorded"
    assert says in seen.report()


def test_a_layer_that_was_refused_runs_again(registered):
    def halved(*args, **kwargs):
        out, _ = sdpa_attention_forward(*args, **kwargs)
        return out / 2, None

    model = tiny("llama", registered("halved_sdpa", halved))
    with watch(checkpointed(model, True), gradients=True) as seen:
        loss(model(tokens()).logits).backward()
    assert all("its proof failed" in layer.reason for layer in seen.layers)
    assert "repeat no run" not in seen.report()
