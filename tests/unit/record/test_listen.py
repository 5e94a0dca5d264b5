"""What each thread runs is its own; what a text is, and which sample holds it."""

from __future__ import annotations

import threading

import pytest
import torch

pytest.importorskip("transformers")

from transformers import AutoModelForSeq2SeqLM, DynamicCache

from tests.tiny import SEQ2SEQ, agree, kept, tiny, tokens, weights
from wqkv.errors import MissedError
from wqkv.record.watch import watch

NOT_KNOWN = "Which token ids the samples hold is not known"


def in_threads(count: int, work) -> None:
    """Run work(0), work(1), ... at the same time; what one raises is raised."""
    raised: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=one, args=(i,), name=f"number {i}") for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in raised:
        raise error


# Threads


def test_each_thread_has_its_own_runs():
    model, start = tiny("llama"), threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        with torch.no_grad():
            for _ in range(20):
                model(tokens(5 + number))
        assert seen[0].shape == (2, 6, 5 + number, 5 + number)  # of the thread that asks

    with watch(model) as seen:
        in_threads(4, work)
    assert len(seen.threads) == 4
    lengths = set()
    assert {one.thread for one in seen.threads} == {f"number {i}" for i in range(4)}
    for one in seen.threads:
        assert one.report().startswith("captured 2 of 2 layers")
        for layer in range(2):
            shapes = {m.shape for m in one.runs(layer)}
            assert len(one.runs(layer)) == 20
            assert len(shapes) == 1
        lengths.add(one[1].shape[3])
        agree(one[1], weights(model, tokens(one[1].shape[3]))[1])
    assert lengths == {5, 6, 7, 8}
    with pytest.raises(MissedError, match=r"4 other threads ran LlamaForCausalLM: number \d, "):
        seen[0]
    report = seen.report()
    assert all(f"thread number {i}:\ncaptured 2 of 2 layers" in report for i in range(4))
    assert "thread number 0:" in seen._repr_html_()


def test_one_other_thread_is_the_one_that_is_meant():
    """As where a thread writes and the main one prints what it has written."""
    model = tiny("llama")
    with torch.no_grad(), watch(model) as seen:
        in_threads(1, lambda _: model(tokens()))
        assert seen[0].shape == (2, 6, 7, 7)
        model(tokens(5))
    assert seen[0].shape == (2, 6, 5, 5)
    assert [one[0].shape[3] for one in seen.threads] == [7, 5]
    assert seen.report().endswith("1 other threads ran it too: see `threads`")
    assert "threads" not in seen.threads[0].report()


def test_a_watch_in_each_thread():
    model = tiny("llama")

    def work(number: int) -> None:
        for _ in range(10):
            with torch.no_grad(), watch(model) as seen:
                model(tokens(5 + number))
            assert seen[1].shape == (2, 6, 5 + number, 5 + number)
            assert len(seen.runs(1)) == 1

    in_threads(3, work)
    assert not any(module._forward_hooks for module in model.modules())


# Texts


def test_a_text_is_what_was_read():
    model, ids = tiny("llama"), tokens(9)
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), watch(model) as seen:
        model(ids[:, :6], **kept(model, cache))
        cache.crop(-2)
        model(ids[:, 6:8], **kept(model, cache))
    text = torch.cat((ids[:, :4], ids[:, 6:9]), dim=1)
    assert [seen.sample_of(row) for row in text] == [0, 1]
    assert seen.sample_of(text[1].tolist()) == 1
    assert seen.sample_of(text[1, :4]) == 1
    with pytest.raises(MissedError, match="None of the 2 samples holds these 8 tokens"):
        seen.sample_of(torch.cat((text[1], text[1, :1])))
    with pytest.raises(MissedError, match="None of the 2 samples holds these 9 tokens"):
        seen.sample_of(ids[0])


def test_what_ends_a_text_is_not_read():
    """A text that ended is filled up; its last token was written and never read."""
    model = tiny("llama", eos_token_id=[2, 7])
    with torch.no_grad(), watch(model) as seen:
        model(torch.tensor([[3, 4, 5], [3, 4, 6]]))
    for end in ([], [2], [7], [2, 0, 0]):
        assert seen.sample_of([3, 4, 6, *(end or [9])]) == 1
    with pytest.raises(MissedError, match="None of the 2 samples holds these 4 tokens"):
        seen.sample_of([3, 4, 8, 2])


def test_texts_that_are_not_known():
    model, ids = tiny("llama"), tokens(9)
    cache, embed = DynamicCache(config=model.config), model.get_input_embeddings()
    with torch.no_grad(), watch(model) as seen:
        with pytest.raises(MissedError, match=NOT_KNOWN):  # nothing ran
            seen.sample_of(ids[0])
        model(inputs_embeds=embed(ids[:, :5]), **kept(model, cache))
        model(ids[:, 5:6], **kept(model, cache))
        with pytest.raises(MissedError, match=NOT_KNOWN):
            seen.sample_of(ids[0, :6])
    with torch.no_grad(), watch(model) as seen:  # it begins in the middle
        model(ids[:, 6:8], **kept(model, cache))
    with pytest.raises(MissedError, match=NOT_KNOWN):
        seen.sample_of(ids[0, :8])
    assert "rows from 6 on  counted from the first key of its cache, whose place" in seen.report()


def test_one_text_from_two_sources():
    model = tiny("bart", kind=AutoModelForSeq2SeqLM, **SEQ2SEQ)
    target = tokens(5)[:1].expand(2, -1)
    for source, samples in ((tokens(), 2), (tokens()[:1].expand(2, -1), 1)):
        with torch.no_grad(), watch(model) as seen:
            model(input_ids=source, decoder_input_ids=target)
        if samples == 1:
            assert seen.sample_of(target[0]) == 0
            continue
        says = r"Samples \[0, 1\] hold this text, and do not read the same source"
        with pytest.raises(MissedError, match=says):
            seen.sample_of(target[0])


def test_a_beam_that_gave_its_place_to_another():
    """Beams end at every token that ends a text; the returned one may be of any step."""
    found = gone = 0
    for seed in range(12):
        model = tiny("llama", vocab_size=11, eos_token_id=8)
        ids = torch.randint(3, 11, (1, 4), generator=torch.Generator().manual_seed(seed))
        options = {"num_beams": 3, "max_new_tokens": 9, "pad_token_id": 0, "do_sample": False}
        options["length_penalty"] = -1.0
        with torch.no_grad(), watch(model) as seen:
            text = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0]
        read = len(text) - 1
        try:
            sample = seen.sample_of(text)
        except MissedError as error:
            assert "a beam that ends may give its place to another" in str(error)
            gone += 1
            continue
        found += 1
        theirs = weights(model, text[None])[1][0, :, :read, :read]
        torch.testing.assert_close(seen[1][sample, :, :read, :read], theirs, rtol=0, atol=2e-6)
    assert found > 2
    assert gone


def test_a_softmax_beside_an_attention_function():
    """SAM 2 computes a softmax of products that it never uses, beside each of its attentions."""
    from transformers import Sam2HieraDetConfig
    from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

    config = Sam2HieraDetConfig(
        hidden_size=12, image_size=[32, 32], blocks_per_stage=[1, 1], embed_dim_per_stage=[12, 24],
        num_attention_heads_per_stage=[1, 2], window_size_per_stage=[4, 2], num_query_pool_stages=1,
        global_attention_blocks=[],
    )  # fmt: skip
    model = Sam2HieraDetModel(config).eval()
    with torch.no_grad(), watch(model) as seen:
        model(torch.randn(1, 3, 32, 32))
    found = {layer.name: layer.state for layer in seen.layers}
    assert found == {
        "blocks.0.attn": "proved",
        "blocks.0.attn (attention 2)": "missed",
        "blocks.1.attn": "proved",
        "blocks.1.attn (attention 2)": "missed",
    }
    assert "never met v" in seen.layers[-1].reason
