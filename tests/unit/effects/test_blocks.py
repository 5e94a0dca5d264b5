"""Blocks: which modules they are, and that a pass is alone with its own thread's forwards."""

import threading

import pytest
import torch
from transformers import MPNetConfig

from tests.tiny import READ, of_config, text, tiny_llama, tokenizer
from tests.unit.effects.conftest import COMMON, opened
from tests.unit.effects.test_rerun import asked_of
from wqkv.effects.asked import ask
from wqkv.effects.blocks import Blocks, hidden_of, with_hidden
from wqkv.effects.passes import ModelChange, SiteLink
from wqkv.effects.rerun import Rerun
from wqkv.errors import ArgumentError
from wqkv.study.model import OpenModel

N = 11


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("llama", "LlamaDecoderLayer", 3),
        ("gpt2", "GPT2Block", 3),
        ("opt", "OPTDecoderLayer", 3),
        ("gpt_neox", "GPTNeoXLayer", 3),
        ("bert", "BertLayer", 3),
        ("modernbert", "ModernBertEncoderLayer", 3),
        ("albert", "AlbertLayerGroup", 1),  # one that runs three times
        ("t5", "T5Block", 5),
    ],
)
def test_the_blocks_of_families(name, kind, count):
    model = opened(name)
    modules = Blocks(model)._modules
    assert [type(module).__name__ for module in modules] == [kind] * count
    _, asked = asked_of(name)
    rerun = Rerun(model, asked)
    runs = len(rerun.plain.inputs)
    assert runs == (3 if count == 1 else count)
    assert {*rerun.plain.block_of.values()} == set(range(runs))
    assert len(rerun.sites) == (7 if name == "t5" else 3)  # a decoder's block attends twice


def test_a_family_that_asks_for_no_function():
    config = MPNetConfig(
        vocab_size=COMMON["vocab_size"], hidden_size=24, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=29, max_position_embeddings=31,
    )  # fmt: skip
    model = OpenModel(of_config(config), tokenizer(), "tiny-mpnet")
    with pytest.raises(ArgumentError) as error:
        Rerun(model, ask(model, text(N), READ))
    assert str(error.value).startswith(
        "tiny-mpnet has 2 attention layers in its part 'text', and 0 of them ask transformers' "
    )


def test_what_a_block_returns():
    x, y, rest = torch.zeros(2), torch.ones(2), object()
    assert hidden_of(x) is x and hidden_of((x, rest)) is x
    assert with_hidden(x, y) is y and with_hidden((x, rest), y) == (y, rest)


def changes_of(rerun: Rerun) -> list[ModelChange]:
    return [ModelChange(heads=((site, 1),)) for site in rerun.sites]


def beside(model, work):
    """What `work` returns, and the logits of another thread that runs the model inside it.

    The other one runs while block 1 has attended, and waits for its MLP.
    """
    inside, ran, found = threading.Event(), threading.Event(), []

    def other():
        assert inside.wait(20)
        with torch.no_grad():
            found.append(model.speaker(input_ids=torch.tensor([[3, 5]])).logits)
        ran.set()

    thread = threading.Thread(target=other)
    thread.start()

    def while_it_runs(module, args):
        if threading.current_thread() is not thread:
            inside.set()
            assert ran.wait(20)

    hook = model.model.layers[1].mlp.register_forward_pre_hook(while_it_runs)
    done = work()
    hook.remove()
    thread.join()
    return done, found[0]


def test_another_thread_is_not_disturbed():
    """It runs the same model while a pass has replaced the blocks and answers for the attention."""
    model = tiny_llama()
    rerun = Rerun(model, ask(model, text(N), "lamp", "sea"))
    expected = rerun.after(changes_of(rerun))
    own = model.speaker(input_ids=torch.tensor([[3, 5]])).logits
    found, beside_it = beside(model, lambda: rerun.after(changes_of(rerun)))
    assert found == expected
    torch.testing.assert_close(beside_it, own)


def test_another_thread_does_not_disturb():
    model = tiny_llama()
    rerun = Rerun(model, ask(model, text(N), "lamp", "sea"))
    links = [SiteLink(rerun.sites[1], head, 7, 3) for head in range(6)]

    def changes():
        return rerun.block_changes(rerun.sites[1], links, "renormalize")

    for ours, expected in zip(beside(model, changes)[0], changes(), strict=True):
        assert torch.equal(ours, expected)


def test_two_threads_of_removals():
    model = tiny_llama()
    rerun = Rerun(model, ask(model, text(N), "lamp", "sea"))
    expected, found = rerun.after(changes_of(rerun)), {}

    def remove(n):
        found[n] = Rerun(model, ask(model, text(N), "lamp", "sea")).after(changes_of(rerun))

    threads = [threading.Thread(target=remove, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(3)] == [expected] * 3


def test_a_forward_that_was_replaced_before_still_runs():
    """As accelerate does, whose wrapper moves weights in."""
    model, calls = tiny_llama(), []
    block = model.model.layers[1]
    plain = block.forward

    def wrapped(*args, **kwargs):
        calls.append(len(args) + len(kwargs))
        return plain(*args, **kwargs)

    block.forward = wrapped
    rerun = Rerun(model, ask(model, text(N), "lamp", "sea"))
    before = len(calls)
    rerun.after(changes_of(rerun)[:1])
    assert len(calls) == before + 1 > 1 and block.__dict__["forward"] is wrapped
    del block.forward
    whole = Rerun(model, ask(model, text(N), "lamp", "sea"))
    assert whole.before == rerun.before and "forward" not in block.__dict__


def test_an_error_inside_leaves_the_model_as_it_was():
    model = tiny_llama()
    rerun = Rerun(model, ask(model, text(N), "lamp", "sea"))

    def fail(module, args):
        raise RuntimeError("inside")

    hook = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="inside"):
        rerun.after(changes_of(rerun))
    hook.remove()
    assert not any("forward" in module.__dict__ for module in model.speaker.modules())
    rerun.after(changes_of(rerun))  # the lock is free
