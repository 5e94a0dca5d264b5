"""Compiled code runs no hook: its calls are counted, told, and no older map passes for theirs.

And calls of an attention function that are answered in its place.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from transformers import AttentionInterface, CompileConfig

from tests.tiny import tiny, tokens
from wqkv.errors import MissedError
from wqkv.record.overhear import answered
from wqkv.record.watch import watch

compiling = functools.partial(torch.compile, backend="eager")


class Server:
    """Something that holds a model and runs it in a method."""

    def __init__(self, model: nn.Module) -> None:
        self.parts = {"model": model}

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        return self.parts["model"](ids).logits


def by_object(model):
    return compiling(model)


def by_closure(model):
    return compiling(lambda ids: model(ids).logits)


def by_method(model):
    return compiling(Server(model).step)


def by_partial(model):
    return compiling(functools.partial(lambda it, ids: it(ids).logits, model))


def by_a_function_inside(model):
    def run(ids):
        return model(ids).logits

    return compiling(lambda ids: tuple(run(x) for x in (ids,))[-1])


@pytest.mark.compile
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "way", [by_object, by_closure, by_method, by_partial, by_a_function_inside]
)
@torch.no_grad()
def test_a_compiled_step_leaves_no_older_map_looking_current(way, before):
    model = tiny("llama")
    step = way(model)
    if before:  # then it has no trace of the hooks
        plain = step(tokens(11))
    with watch(model) as seen:
        model(tokens())
        watched = step(tokens(11))
        step(tokens(11))
    if before:
        assert torch.equal(
            *(x if isinstance(x, torch.Tensor) else x.logits for x in (plain, watched))
        )
    lines = seen.report().splitlines()
    assert lines[0].startswith("captured 0 of 2")
    assert lines[-1].startswith("compiled steps that went by unseen: 2. To see them, run them")
    says = "There is no map of model.layers.0.self_attn: it ran compiled and unseen .*calls: 2"
    with pytest.raises(MissedError, match=says):
        seen[0]
    with pytest.raises(MissedError, match="some of its steps went by unseen"):
        seen.sample_of(tokens()[0])
    assert [m.shape for m in seen.runs(0)] == [(2, 6, 7, 7)]
    with torch.compiler.set_stance("force_eager"), watch(model) as seen:
        step(tokens(11))
    assert seen.report().startswith("captured 2 of 2")
    assert "compiled" not in seen.report()
    assert seen[1].shape == (2, 6, 11, 11)


@pytest.mark.compile
@pytest.mark.parametrize("warm", [True, False])
@torch.no_grad()
def test_a_static_cache_compiles_the_steps_of_a_generation(warm, monkeypatch):
    model = tiny("llama")
    config = CompileConfig(backend="eager", fullgraph=False, mode=None)
    config._compile_all_devices = True  # as it is on a GPU
    options = {"max_new_tokens": 5, "cache_implementation": "static", "compile_config": config}
    options |= {"do_sample": False, "attention_mask": torch.ones_like(tokens())}
    plain = model.generate(tokens(), **options) if warm else None
    with watch(model) as seen:
        text = model.generate(tokens(), **options)
    assert plain is None or torch.equal(plain, text)
    assert "compiled steps that went by unseen: 4. " in seen.report()  # the prompt's is seen
    with pytest.raises(MissedError, match=r"calls: 4\): `runs` has what came before"):
        seen[1]
    assert seen.runs(1)[0].shape == (2, 6, 7, 7)


@pytest.mark.compile
@torch.no_grad()
def test_what_is_seen_later_is_current():
    model = tiny("llama")
    step = by_closure(model)
    with watch(model) as seen:
        step(tokens(11))
        assert seen.report().startswith("captured 0 of 2")
        assert [layer.reason for layer in seen.layers] == ["it runs compiled, out of sight"] * 2
        model(tokens())
    assert seen[0].shape == (2, 6, 7, 7)
    assert "compiled steps that went by unseen: 1." in seen.report()


@pytest.mark.compile
@torch.no_grad()
def test_a_layer_that_is_compiled_in_the_meantime():
    model = tiny("llama")
    with watch(model) as seen:
        model(tokens())
        model.model.layers[1].compile(backend="eager")
        model(tokens(11))
    assert seen[0].shape == (2, 6, 11, 11)
    with pytest.raises(MissedError, match=r"unseen after what was seen \(calls: 1\)"):
        seen[1]
    assert "compiled steps" not in seen.report()  # the step was seen, but for this layer


@pytest.mark.compile
@torch.no_grad()
def test_other_compiled_functions_are_counted_and_hide_nothing():
    model, other = tiny("llama"), tiny("llama")
    steps = (compiling(lambda x: x.sin() + 1), lambda x: by_closure(other)(tokens()))
    with watch(model) as seen:
        model(tokens())
        for step in steps:
            step(torch.ones(3))
    assert seen[0].shape == (2, 6, 7, 7)
    says = (
        "calls of other compiled functions: 2. Whether they ran the model, or an attention of it, "
    )
    assert seen.report().endswith(f"{says}is not known")


def test_the_doors_are_closed_afterwards():
    from torch._dynamo import eval_frame

    before = AttentionInterface.__dict__["get_interface"], eval_frame._callback_from_stance
    with pytest.raises(RuntimeError, match="stop"), watch(tiny("llama")), watch(tiny("llama")):
        assert eval_frame._callback_from_stance is not before[1]
        raise RuntimeError("stop")
    after = AttentionInterface.__dict__["get_interface"], eval_frame._callback_from_stance
    assert after == before


# Answered in place of the function


def test_calls_that_are_answered():
    """By the first that answers; a call that none answers is the function's."""
    model, ids, calls = tiny("llama", num_hidden_layers=2), tokens(), []
    get_interface = AttentionInterface.__dict__["get_interface"]

    def zero(module, args, kwargs):
        calls.append(module.layer_idx)
        if module.layer_idx == 0:
            return None
        query = args[0] if args else kwargs["query"]
        return torch.zeros_like(query).transpose(1, 2), None

    def never(module, args, kwargs):
        assert module.layer_idx == 0, "it was answered already"

    with torch.no_grad():
        plain = model(ids).logits
        WO = model.model.layers[1].self_attn.o_proj
        hook = WO.register_forward_pre_hook(lambda _, args: (torch.zeros_like(args[0]),))
        expected = model(ids).logits
        hook.remove()
        with watch(model) as seen, answered(zero), answered(never):
            changed = model(ids).logits
        assert torch.equal(changed, expected) and not torch.equal(changed, plain)
        assert calls == [0, 1]
        assert torch.equal(model(ids).logits, plain)
    assert AttentionInterface.__dict__["get_interface"] is get_interface
    assert seen[0].shape[-1] == ids.shape[1]
    with pytest.raises(MissedError, match="no attention was heard in it"):
        seen[1]


def test_an_error_ends_the_answers():
    get_interface = AttentionInterface.__dict__["get_interface"]
    with pytest.raises(RuntimeError, match="inside"), answered(lambda *given: None):
        assert AttentionInterface.__dict__["get_interface"] is not get_interface
        raise RuntimeError("inside")
    assert AttentionInterface.__dict__["get_interface"] is get_interface
