"""Heads switched off, words changed, words written on: against the model itself."""

import pytest
import torch
import transformers

from tests.tiny import text, tiny_llama
from wqkv.errors import ArgumentError
from wqkv.study import part, whatif
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import View
from wqkv.study.whatif import what_if

TIRED = "The animal didn't cross the street because it was too tired."
N = 23


def relative(before: torch.Tensor, after: torch.Tensor) -> float:
    return float((after - before).norm() / before.norm())


# Heads


def test_a_head_that_is_off_adds_nothing(llama, seen):
    """The same as a WO whose rows for these heads are 0."""
    found = what_if(seen, [(1, 4), (1, 0), (2, 3)])
    silenced = tiny_llama()
    with torch.no_grad():
        for layer, head in ((1, 4), (1, 0), (2, 3)):
            WO = silenced.model.layers[layer].self_attn.o_proj.weight
            WO[:, head * 14 : (head + 1) * 14] = 0
    theirs = silenced.read(seen.reading.sentence)
    assert found.change == pytest.approx(relative(seen.reading.final, theirs.final), rel=1e-5)
    pairs = zip(seen.reading.outputs, theirs.outputs, strict=True)
    assert found.layers == pytest.approx([relative(*pair) for pair in pairs], rel=1e-5, abs=1e-9)
    assert found.layers[0] == 0 and found.layers[1] > 0.01
    chances = theirs.logits.softmax(0)
    assert found.after[0].probability == pytest.approx(float(chances.max()), rel=1e-5)
    assert found.before[0].probability == pytest.approx(float(seen.reading.logits.softmax(0).max()))
    assert (found.similarity, found.view, found.tokens) == (None, None, seen.reading.tokens)


def test_the_model_is_as_before(llama, seen):
    modules = list(llama.speaker.modules())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    what_if(seen, [(0, 0)])
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules] == hooks
    again = llama.read(seen.reading.sentence)
    assert torch.equal(again.final, seen.reading.final)


def test_layers_that_share_their_matrices_are_switched_off_one_at_a_time():

    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=53, embedding_size=6, hidden_size=12, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=7, max_position_embeddings=19, initializer_range=0.5,
    )  # fmt: skip
    shared = OpenModel(transformers.AlbertModel(config).eval(), None, "tiny-albert")
    words = TokenizedText.of_ids([5, 7, 11, 3])
    plain, off = shared.run(words), shared.run(words, contexts={(1, 0): torch.zeros(())})
    assert torch.equal(plain.outputs[0], off.outputs[0])
    assert relative(plain.outputs[1], off.outputs[1]) > 0.01


def test_similarity_where_no_next_word_is_said(minilm, tired):
    found = what_if(tired, [(3, 1)])
    off = minilm.run(minilm.tokens(TIRED), contexts={(3, 1): torch.zeros(())})
    vectors = (reading.final[0].mean(0) for reading in (tired.reading, off))
    expected = torch.nn.functional.cosine_similarity(*vectors, dim=0)
    assert found.similarity == pytest.approx(float(expected))
    assert (found.before, found.after) == (None, None)
    assert 0.9 < found.similarity < 1


# Words


def test_a_changed_word(minilm, tired):
    found = what_if(tired, edits={13: "wide"})
    wide = minilm.read(TIRED.replace("tired", "wide"))
    assert found.tokens == wide.tokens
    assert found.view.reading.sentence == wide.sentence
    assert torch.equal(found.view.reading.final, wide.final)
    shared = [i for i in range(16) if i != 13]
    expected = relative(tired.reading.final[0, shared], wide.final[0, shared])
    assert found.change == pytest.approx(expected, rel=1e-5)
    # in layer 3, head 1, `it` looks at another word, as it should
    assert tired.row(3, 1, 10).weights[2] > 0.6 > 0.3 > found.view.row(3, 1, 10).weights[2]


def test_more_words_than_before(minilm, tired):
    """Only what both texts begin and end with can be compared."""
    found = what_if(tired, edits={13: "very very tired", 2: "big animal"})
    words = (
        "[CLS] The big animal didn ' t cross the street because it was too very very tired . [SEP]"
    )
    assert found.tokens == tuple(words.split())
    new = minilm.read(found.view.reading.sentence)
    before, after = [0, 1, 13, 14, 15], [0, 1, 16, 17, 18]
    expected = relative(tired.reading.final[0, before], new.final[0, after])
    assert found.change == pytest.approx(expected, rel=1e-5)
    pairs = zip(tired.reading.outputs, new.outputs, strict=True)
    layers = [relative(a[0, before], b[0, after]) for a, b in pairs]
    assert found.layers == pytest.approx(layers, rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ((1, 7, 7, 7, 2), (1, 7, 7, 2), ([0, 1, 2, 4], [0, 1, 2, 3])),
        ((1, 7, 7, 2), (1, 7, 7, 7, 2), ([0, 1, 2, 3], [0, 1, 2, 4])),
        ((1, 2), (1, 2), ([0, 1], [0, 1])),
        ((1, 3, 2), (1, 5, 6, 2), ([0, 2], [0, 3])),
        ((1, 2), (3, 4), ([], [])),
    ],
)
def test_a_word_that_is_said_again_is_shared_once(old, new, places):
    """What both texts begin with is not counted once more among what they end with."""
    texts = [TokenizedText.of_ids(ids) for ids in (old, new)]
    assert whatif._shared_positions(*texts, ()) == places


def test_heads_and_words_at_once(minilm, tired):
    found = what_if(tired, [(0, 5)], {13: "wide"})
    off = minilm.run(
        minilm.tokens(TIRED.replace("tired", "wide")), contexts={(0, 5): torch.zeros(())}
    )
    assert found.view is None
    assert found.tokens[13] == "wide"
    shared = [i for i in range(16) if i != 13]
    expected = relative(tired.reading.final[0, shared], off.final[0, shared])
    assert found.change == pytest.approx(expected, rel=1e-5)


def test_layers_of_a_long_text_compare_what_was_kept(llama, monkeypatch):
    monkeypatch.setattr(part, "KEPT_OUTPUTS", 0)
    monkeypatch.setattr(part, "SAMPLED_ROWS", 3)
    old = llama.view(text(N - 1))  # 23 words: 0, 11 and 22 are kept
    found = what_if(old, edits={12: "sea lamp"})  # 24 words: 0, 12 (rounded to even) and 23
    assert found.view.reading.rows.tolist() == [0, 12, 23]
    whole = [llama.run(r) for r in (old.reading, found.view.reading)]
    assert found.change == pytest.approx(
        relative(
            old.reading.final[0, [*range(12), *range(13, 23)]],
            found.view.reading.final[0, [*range(12), *range(14, 24)]],
        ),
        rel=1e-5,
    )
    pairs = [(a[0, [0, 2]], b[0, [0, 2]]) for a, b in zip(*(w.outputs for w in whole), strict=True)]
    assert found.layers == pytest.approx([relative(*pair) for pair in pairs], rel=1e-4, abs=1e-9)


def test_progress_and_an_end(seen):
    told = []
    what_if(seen, [(0, 0)], each=lambda view, layer: told.append(layer))
    what_if(seen, edits={3: "sea"}, each=lambda view, layer: told.append(layer))
    assert told == [0, 1, 2, 0, 1, 2]

    def stop(view: View, layer: int) -> None:
        raise InterruptedError

    for changes in ({"off": [(0, 0)]}, {"edits": {3: "sea"}}):
        with pytest.raises(InterruptedError):
            what_if(seen, **changes, each=stop)


def test_a_context_of_zeros_is_a_head_that_is_off(seen):
    zeros = torch.zeros(N, 14)
    assert what_if(seen, contexts={(1, 4): zeros}) == what_if(seen, [(1, 4)])


@pytest.mark.parametrize("shape", [(N, 13), (22, 14)])
def test_a_context_of_another_shape(seen, shape):
    says = rf"head 4 of layer 1 is \[{shape[0]}, {shape[1]}\], not \[23, 14\]"
    with pytest.raises(ArgumentError, match=says):
        what_if(seen, contexts={(1, 4): torch.zeros(shape)})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "Nothing is changed.\nName a head to switch off, or a token to change"),
        ({"off": [(6, 0)]}, "no layer 6: the model has 6 layers"),
        ({"off": [(0, 0), (5, 12)]}, "no head 12"),
        ({"edits": {16: "x"}}, "no token 16: the text has 16 tokens, 0 to 15"),
        ({"edits": {-1: "x"}}, "no token -1"),
        ({"edits": {0: "x"}}, r"Token 0, '\[CLS\]', does not stand in the text"),
        ({"edits": dict.fromkeys(range(1, 15), "")}, "sentence is empty|sees no token"),
    ],
)
def test_mistakes(tired, changes, says):
    with pytest.raises(ArgumentError, match=says):
        what_if(tired, **changes)


# Writing on
