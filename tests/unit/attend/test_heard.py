"""Calls are told once, as a whole, to whoever listens, and nothing is told of a traced graph."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from wqkv.attend import heard
from wqkv.attend.engines import reference, tiled
from wqkv.attend.functional import attention
from wqkv.attend.heard import HeardCall
from wqkv.attend.masks import Causal, Window
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.caches.rolling import Rolling


class Recorder:
    """An ear that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[HeardCall] = []
        self.unheard: list[str] = []
        self.inside: list[bool] = []

    def _called(self, call: HeardCall) -> None:
        self.calls.append(call)
        self.inside.append(heard.is_inside())

    def _called_unheard(self, why: str) -> None:
        self.unheard.append(why)


def tensors(*lengths: int):
    torch.manual_seed(0)
    return [torch.randn(2, 3, length, 5) for length in lengths]


def test_a_call_is_told_as_a_value_with_its_output():
    q, k, v = tensors(7, 11, 11)
    ear = Recorder()
    with heard.told(ear):
        out = attention(q, k, v, mask=Window(3, 0), query_offset=4, softcap=2.0)
    attention(q, k, v)
    (told,) = ear.calls
    assert told.out is out
    assert told.call.query is q and told.call.key is k and told.call.value is v
    rules = told.call.rules
    assert (rules.mask, rules.query_offset, rules.softcap) == (Window(3, 0), 4, 2.0)
    assert told.beside == () and ear.inside == [False]


def test_every_ear_is_told_until_it_leaves():
    (q,) = tensors(7)
    first, second = Recorder(), Recorder()
    assert not heard.listened()
    with heard.told(first):
        with heard.told(second):
            assert heard.listened()
            attention(q, q, q)
        attention(q, q, q)
    assert not heard.listened()
    assert (len(first.calls), len(second.calls)) == (2, 1)


def test_what_runs_inside_a_call_is_not_told_again(monkeypatch):
    (q,) = tensors(7)
    ear, seen = Recorder(), []
    run = tiled.run

    def looked(call):
        seen.append((heard.is_inside(), heard.listened()))
        attention(q, q, q)  # a part of the call
        return run(call)

    monkeypatch.setattr(tiled, "run", looked)
    with heard.told(ear):
        attention(q, q, q, engine="tiled", mask=Causal())
    assert seen == [(True, False)]
    assert len(ear.calls) == 1
    assert not heard.is_inside()


def test_inside_ends_with_an_error(monkeypatch):
    (q,) = tensors(7)

    def fails(call):
        raise RuntimeError("planted")

    monkeypatch.setattr(tiled, "run", fails)
    with heard.told(Recorder()), pytest.raises(RuntimeError, match="planted"):
        attention(q, q, q, engine="tiled")
    assert not heard.is_inside()


def test_inside_belongs_to_one_thread():
    found = []
    with heard.inside():
        thread = threading.Thread(target=lambda: found.append(heard.is_inside()))
        thread.start()
        thread.join()
    assert found == [False]


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_dropout_draws_what_it_draws_without_an_ear(engine):
    (q,) = tensors(7)
    drawn = []
    for ears in (False, True):
        torch.manual_seed(3)
        with heard.told(Recorder()) if ears else heard.inside():
            out = attention(q, q, q, dropout_p=0.5, engine=engine)
        drawn.append((out, torch.rand(2)))
    assert all(map(torch.equal, *drawn))


def test_a_call_with_dropout_is_told_with_its_seed():
    (q,) = tensors(7)
    ear = Recorder()
    with heard.told(ear):
        out = attention(q, q, q, dropout_p=0.5)
        attention(q, q, q, dropout_p=0.5, engine="reference")
    first, second = ear.calls
    assert torch.equal(tiled.run(first.call).out, out)
    assert second.call.seed is None
    assert not torch.equal(reference.run(second.call).out, second.out)


def test_persistent_keys_are_told_beside_the_others():
    layer = MultiheadAttention(24, 3, n_kv_head=1, mask=Causal(), persistent=5, sinks=True)
    ear = Recorder()
    x = torch.randn(2, 7, 24)
    with heard.told(ear):
        layer(x)
    (told,) = ear.calls
    assert told.call.key.shape == (2, 1, 7, 8)
    assert [one.key.shape for one in told.beside] == [(2, 1, 5, 8)]
    assert told.call.rules.sinks is layer.sinks
    assert told.beside[0].rules.sinks is None


def test_the_pieces_of_a_cache_are_told_as_one_call():
    layer, cache = MultiheadAttention(24, 3, mask=Causal()).eval(), Rolling(3, first=2)
    ear = Recorder()
    with torch.no_grad(), heard.told(ear):
        for token in torch.randn(1, 11, 24).split(1, dim=1):
            layer(token, cache=cache)
    assert len(ear.calls) == 11
    last = ear.calls[-1]
    assert last.call.key.shape[2] == 3
    assert [one.key.shape[2] for one in last.beside] == [2]


def test_a_layer_tells_once_what_it_computes_in_a_model():
    model = nn.Sequential(MultiheadAttention(24, 3), MultiheadAttention(24, 3, persistent=1))
    ear = Recorder()
    with heard.told(ear):
        model(torch.randn(2, 7, 24))
    assert len(ear.calls) == 2


@pytest.mark.compile
def test_a_compiled_call_is_not_told_and_is_not_compiled_again():
    torch.compiler.reset()
    (q,) = tensors(7)
    count = 0

    def backend(graph, inputs):
        nonlocal count
        count += 1
        return graph

    compiled = torch.compile(lambda q: attention(q, q, q, mask=Causal()), backend=backend)
    plain, ear = compiled(q), Recorder()
    with heard.told(ear):
        assert torch.equal(compiled(q), plain)
    assert (count, ear.calls) == (1, [])
