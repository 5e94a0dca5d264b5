"""Watching a model: bit-identical outputs, proved maps, and everything as before afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from transformers import AttentionInterface, AutoModel, AutoModelForCausalLM

from tests.tiny import agree, kept, padded, tiny, tokens, weights
from wqkv.errors import ArgumentError, KindError, MissedError
from wqkv.record.run import Statistics
from wqkv.record.watch import watch


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 2), (2, 1)])
@pytest.mark.parametrize(("name", "kind"), [("llama", AutoModelForCausalLM), ("bert", AutoModel)])
def test_one_forward(name, kind, implementation, left, right):
    model, ids, given = tiny(name, implementation, kind), tokens(), padded(7, left, right)
    with torch.no_grad():
        plain = model(ids, attention_mask=given)[0]
        with watch(model) as seen:
            watched = model(ids, attention_mask=given)[0]
    assert torch.equal(plain, watched)
    assert seen.report().startswith("captured 2 of 2 layers")
    own = type(model).__name__
    assert repr(seen) == f"Seen of {own}: .report() says what was heard, .plot() draws it"
    assert [layer.state for layer in seen.layers] == ["proved"] * 2
    assert "Dense" not in seen.report()  # the mask is a value
    for found, theirs in zip(seen, weights(model, ids, given), strict=True):
        agree(found, theirs)
    empty = f"{left} empty" in seen.report()
    assert empty == (name == "llama" and left > 0)


def test_maps_carry_no_gradient_and_the_model_learns_as_before():
    model, ids = tiny("llama"), tokens()
    model(ids, labels=ids).loss.backward()
    plain = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    with watch(model) as seen:
        model(ids, labels=ids).loss.backward()
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, model.parameters(), strict=True))
    assert not seen[0].lse.requires_grad
    assert seen[1][0, 1].shape == (7, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_half_precision(dtype, implementation):
    model, ids = tiny("llama", implementation).to(dtype), tokens()
    with torch.no_grad(), watch(model) as seen:
        model(ids)
    assert seen.report().startswith("captured 2 of 2")
    ours, theirs = seen[0][:], weights(model, ids)[0].float()
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02)


def test_autocast():
    model, ids = tiny("llama"), tokens()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(ids)[0]
        with watch(model) as seen:
            assert torch.equal(model(ids)[0], plain)
    assert seen.report().startswith("captured 2 of 2")


def test_a_window_and_its_documents():
    model, ids = tiny("mistral", sliding_window=4), tokens(11)
    with torch.no_grad(), watch(model) as seen:
        model(ids)
    assert "Window(before=3, after=0)" in seen.report()
    agree(seen[1], weights(model, ids)[1])
    place = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    model = tiny("llama")
    with torch.no_grad(), watch(model) as seen:
        model(tokens(11, 1), position_ids=place, use_cache=False)
    assert "Segments" in seen.report()
    assert float(seen[0][0, :, 7, :5].abs().max()) == 0


def test_a_mask_without_a_pattern_is_kept_as_it_is():
    model, ids = tiny("llama"), tokens(7, 1)
    holes = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(3)) > 0.4
    holes |= torch.eye(7, dtype=torch.bool)
    with torch.no_grad(), watch(model) as seen:
        model(ids, attention_mask=holes)
    assert "Dense(bool[1, 1, 7, 7] on cpu)" in seen.report()
    assert torch.equal(seen[0][:] > 0, holes.expand(1, 6, 7, 7))
    assert seen[0].mask.matrix.data_ptr() == seen[1].mask.matrix.data_ptr()


def test_layers_that_share_their_weights():
    model = tiny("albert", kind=AutoModel, num_hidden_layers=3, embedding_size=13)
    ids = tokens()
    with torch.no_grad(), watch(model) as seen:
        model(ids)
        model(ids)
    assert len(seen) == 3
    assert seen.layers[2].name.endswith("(run 3)")
    assert len(seen.runs(1)) == 2
    for found, theirs in zip(seen, weights(model, ids), strict=True):
        agree(found, theirs)


# Coming and going


def test_everything_is_as_before_after_an_exception():
    model = tiny("llama")
    before = AttentionInterface.__dict__["get_interface"]
    with pytest.raises(RuntimeError, match="stop"), watch(model):
        assert AttentionInterface.__dict__["get_interface"] is not before
        raise RuntimeError("stop")
    assert AttentionInterface.__dict__["get_interface"] is before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_an_exception_in_the_model_leaves_the_next_forward_whole():
    model, ids = tiny("llama"), tokens()
    with torch.no_grad(), watch(model) as seen:
        with pytest.raises(IndexError):
            model(ids + 100)
        model(ids)
    assert seen.report().startswith("captured 2 of 2")


def test_nested_watches_of_two_models():
    model, other = tiny("llama"), tiny("bert", kind=AutoModel)
    before = AttentionInterface.__dict__["get_interface"]
    with torch.no_grad(), watch(model) as outer:
        with watch(other) as inner, watch(model, layers=[1]) as again:
            model(tokens())
            other(tokens())
        model(tokens(5))
    assert AttentionInterface.__dict__["get_interface"] is before
    assert (len(outer.runs(0)), len(again.runs(1)), len(inner.runs(0))) == (2, 1, 1)
    assert outer[0].shape == (2, 6, 5, 5)
    assert "the last of 2 runs" in outer.report()
    assert inner.layers[0].kind == "encoder"


def test_a_watch_is_entered_once():
    seen = watch(tiny("llama"))
    with seen, pytest.raises(ArgumentError, match="This watch is on already"):
        seen.__enter__()


def test_watch_refuses_what_it_cannot_be():
    model = tiny("llama")
    with pytest.raises(KindError, match=r"`model` is an nn\.Module, not str 'llama'"):
        watch("llama")
    with pytest.raises(ArgumentError, match="`keep` is 'some'"):
        watch(model, keep="some")
    with pytest.raises(ArgumentError, match="`layers` holds -1"):
        watch(model, layers=[-1])
    with pytest.raises(KindError, match="`layers` is a list of ints or None, not list"):
        watch(model, layers=["a"])


def test_layers_bound_what_is_recorded():
    model, ids = tiny("llama"), tokens()
    with torch.no_grad(), watch(model, layers=[1, 40]) as seen:
        model(ids)
    assert seen.report().startswith("captured 1 of 2 layers of LlamaForCausalLM (1 not asked for)")
    assert "`layers` asks for 40, and 2 layers ran, from 0 on" in seen.report()
    agree(seen[1], weights(model, ids)[1])
    assert seen[-1].shape == seen[1].shape
    with pytest.raises(MissedError, match="it was not asked for: see `layers`"):
        seen[0]
    with pytest.raises(IndexError, match="There is no layer 2: 2 ran"):
        seen[2]


def test_statistics_alone():
    model, ids, given = tiny("llama"), tokens(), padded(7, 2)
    with torch.no_grad(), watch(model, keep="statistics") as seen, watch(model) as whole:
        model(ids, attention_mask=given)
        model(ids)
    assert isinstance(seen[0], Statistics)
    assert seen.report().startswith("captured 2 of 2")
    for small, full in zip(seen.runs(1), whole.runs(1), strict=True):
        assert small.shape == full.shape
        assert torch.equal(small.entropy(), full.entropy())
        assert torch.equal(small.received(), full.received())
    with pytest.raises(MissedError, match="q and k were not kept, so there are no tiles"):
        seen[0][0, 0, 1]
    with pytest.raises(MissedError, match="q and k were not kept, so there is no `thumbnail`"):
        seen[0].thumbnail(3)
    with pytest.raises(AttributeError, match="nonsense"):
        seen[0].nonsense  # noqa: B018
    assert repr(seen[0]) == "Statistics[2, 6, 7, 7]"


@pytest.mark.process
def test_transformers_is_not_imported_until_it_is_used():
    code = "import sys, wqkv.record.watch; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_watch_ends_once():
    with watch(tiny("llama")) as seen:
        pass
    with pytest.raises(ArgumentError, match="This watch has ended"), seen:
        pass
    with pytest.raises(IndexError, match="There is no layer 0: no attention was heard"):
        seen[0]


def test_a_forward_that_fails():
    model = tiny("llama")
    model.model.layers[1].mlp.forward = lambda x: 1 / 0
    with watch(model) as seen, pytest.raises(ZeroDivisionError):
        model(tokens())
    says = "the last forward ended in ZeroDivisionError: what comes after it did not run"
    assert seen.report().splitlines()[-1] == says
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    assert seen.report().startswith("captured 2 of 2")


def test_nothing_ran():
    with watch(tiny("llama")) as seen:
        pass
    says = "captured 0 of 0 layers of LlamaForCausalLM: no forward of it ran"
    assert seen.report() == says


@pytest.mark.parametrize("steps", [1, 5])
def test_a_map_stays_as_it_was_while_the_text_grows(steps):
    model, ids = tiny("llama"), tokens(8, 1)
    with torch.no_grad(), watch(model) as seen:
        past = model(ids, use_cache=True).past_key_values
        maps, tiles = [seen[0]], [seen[0][:].clone()]
        for n in range(steps):
            model(ids[:, n : n + 1], **kept(model, past), use_cache=True)
            maps.append(seen[0])
            tiles.append(seen[0][:].clone())
    for m, tile in zip(maps, tiles, strict=True):
        assert torch.equal(m[:], tile)
