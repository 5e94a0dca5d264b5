"""Texts as tokens: how they are cut, shown and placed, and what is said of texts that cannot be."""

import re

import pytest
import torch

from tests.pieces import blanks, bytewise, fallback
from tests.tiny import tiny_llama
from wqkv.errors import ArgumentError
from wqkv.study.one_token import clearest_story
from wqkv.study.packaged import E5
from wqkv.study.tokens import TYPED, TokenizedText, Unread, edit, extend, tokenize, trim_span
from wqkv.study.whatif import what_if

TIRED = "The animal didn't cross the street because it was too tired."


@pytest.mark.parametrize("text", ["猫坐在垫子上。", "a 🙂", "naïve café", "a\n\n\tb", "\x00a"])
def test_any_text_is_read(minilm, text):
    reading = minilm.read(text)
    assert len(reading.tokens) == len(reading.spans) == reading.inputs[0].shape[1]
    assert all(reading.tokens)
    for word, mark, (a, b) in zip(reading.tokens, reading.special, reading.spans, strict=True):
        assert mark or word == text[a:b]


@pytest.mark.parametrize(
    ("span", "trimmed"),
    [((0, 3), (1, 3)), ((0, 1), (0, 1)), ((3, 6), (4, 5)), ((4, 5), (4, 5)), ((2, 2), (2, 2))],
)
def test_spans_are_without_blanks_around(span, trimmed):
    assert trim_span(" ab c ", *span) == trimmed


@pytest.mark.parametrize("sentence", ["", " \n\t"])
def test_empty_sentence(minilm, sentence):
    with pytest.raises(ArgumentError, match="sentence is empty"):
        minilm.read(sentence)


@pytest.mark.parametrize("sentence", ["[CLS]", "[SEP] [PAD]", "\u200b", "🙂", "x" * 300])
def test_no_token_in_the_sentence(minilm, sentence):
    with pytest.raises(
        ArgumentError, match=rf"sees no token in .* {re.escape(repr(sentence))}\."
    ) as caught:
        minilm.read(sentence)
    other = f", or open a model that reads it, with {E5.option}" * (sentence[0] in "🙂x")
    assert str(caught.value).endswith(f"\nGive another text{other}.")


def test_long_sentence(minilm):
    with pytest.raises(
        ArgumentError,
        match=r"has 513 tokens, and all-MiniLM-L6-v2 takes 512\.\nGive a shorter text, or "
        r"open it with `wqkv open`, which reads it in windows\.$",
    ):
        minilm.read("a " * 511)
    assert len(minilm.read("a " * 510).tokens) == 512


# Pairs of sentences

ASKED, TOLD = "Who lit 灯?", "The keeper [SEP] lit it."


def test_a_pair_of_sentences(minilm):
    pair = minilm.tokens(ASKED, TOLD)
    theirs = minilm.tokenizer(ASKED, TOLD)
    assert list(pair.ids) == theirs["input_ids"] and list(pair.types) == theirs["token_type_ids"]
    one, two = minilm.tokens(ASKED), minilm.tokens(TOLD)
    assert pair.shown == (*one.shown, *two.shown[1:])
    assert pair.special == (*one.special, *two.special[1:])
    assert pair.typed == (*one.typed, *two.typed[1:]) and "灯[UNK]" in pair.shown
    assert pair.sentence == f"{ASKED}\n{TOLD}"
    assert pair.types == (0,) * len(one.ids) + (1,) * (len(two.ids) - 1)
    assert one.types == ()


def test_a_pair_is_read_as_the_model_reads_it(minilm):
    view = minilm.view(minilm.tokens(ASKED, TOLD))
    given = minilm.tokenizer(ASKED, TOLD, return_tensors="pt")
    with torch.no_grad():
        theirs = minilm.model(**given).last_hidden_state
    assert torch.equal(view.reading.final, theirs)
    given["token_type_ids"] *= 0  # the second sentence is told apart
    with torch.no_grad():
        assert not torch.allclose(theirs, minilm.model(**given).last_hidden_state, atol=1e-3)
    assert all(view.proof(layer).holds for layer in range(minilm.sizes.n_layer))
    story = clearest_story(minilm, minilm.tokens(ASKED, TOLD), "keeper")
    assert story.tokens[story.token] == "keeper"
    with pytest.raises(ArgumentError, match="is a pair of sentences, and token 3 of it is changed"):
        what_if(view, edits={3: "lamp"})
    assert what_if(view, off=[(2, 3)]).change > 0


def test_a_model_that_reads_no_pair():
    llama = tiny_llama()
    with pytest.raises(ArgumentError, match=r"^tiny-llama reads no pair of sentences: its tokeniz"):
        llama.tokens("the sea", "was dark")


@pytest.mark.parametrize("pair", ["", " \n"])
def test_an_empty_second_sentence(minilm, pair):
    with pytest.raises(ArgumentError, match="sentence is empty"):
        minilm.tokens("a", pair)


def test_tokens_without_a_text():
    words = TokenizedText.of_ids([5, 7, 11])
    assert (words.ids, words.tokens, words.sentence) == ((5, 7, 11), ("5", "7", "11"), "5 7 11")
    assert (words.special, words.spans) == ((False,) * 3, ((0, 0),) * 3)
    assert (words.shown, words.unread) == (words.tokens, Unread(3))


@pytest.mark.slow
def test_words_of_a_tokenizer_that_keeps_blanks(smollm):
    reading = smollm.read("The cat\n\nsat  here")
    assert [word for word in reading.tokens if word.strip()] == ["The", "cat", "sat", "here"]
    assert all(reading.tokens)
    assert "".join(reading.tokens).replace(" ", "") == "Thecat\n\nsathere"


def test_pieces_without_a_text_of_their_own(minilm):
    """`##s` is glued to the word before it."""
    words = minilm.tokens("one cat")
    known = minilm.tokenizer.convert_tokens_to_ids(["##s", "sit", "[SEP]"])
    found = extend(minilm.tokenizer, words, [*words.ids[:-1], *known][: len(words.ids)] + known[1:])
    assert len(found.tokens) == len(found.spans) == len(found.special) == len(words.ids) + 2
    assert found.special[-1] and found.tokens[-1] == "[SEP]"


@pytest.mark.parametrize("known", [3, 6, 9, 10, 12])
def test_pieces_that_are_parts_of_a_character(known):
    """Written on, a text has the words and the places that it has when it is read."""
    tokenizer = bytewise()
    whole = tokenize(tokenizer, "它累了 a 它", "made", None)
    begun = tokenize(tokenizer, tokenizer.decode(whole.ids[:known]), "made", None)
    assert extend(tokenizer, begun, list(whole.ids)) == whole
    cut = extend(tokenizer, begun, list(whole.ids[:-1]))  # its last character is not whole
    assert cut.sentence.endswith(" \ufffd")
    assert cut.spans[-2:] == ((6, 7), (6, 7))


def test_a_blank_that_is_written_has_no_text():
    tokenizer = blanks()
    whole = tokenize(tokenizer, "他来了 他", "made", None)
    assert whole.tokens == ("\u2581", "他", "来了", "\u2581", "他")
    begun = tokenize(tokenizer, "他来了", "made", None)
    assert extend(tokenizer, begun, list(whole.ids)) == whole


def test_a_piece_that_is_only_a_blank_has_no_text():
    words = tokenize(blanks(), "他说他来了", "made", None)
    assert words.tokens == ("\u2581", "他说", "他", "来了")
    assert words.spans == ((0, 0), (0, 2), (2, 3), (3, 5))
    assert tokenize(blanks(), "他 他来了", "made", None).tokens == (
        "\u2581",
        "他",
        "\u2581",
        "他",
        "来了",
    )


# What the model cannot read as it was typed


@pytest.mark.parametrize(
    ("text", "shown", "unread"),
    [
        ("他有喜，", "他[UNK] 有 喜[UNK] ，", (4, 2, 0, "他喜")),
        ("I 🙂 you 👍🏽!", "I 🙂[UNK] you 👍🏽[UNK] !", (5, 2, 0, "🙂👍🏽")),
        ("👨\u200d👩\u200d👧 x", "👨\u200d👩\u200d👧[UNK] x", (2, 1, 0, "👨\u200d👩\u200d👧")),
        ("x" * 300 + " y", "x" * (TYPED - 3) + "...[UNK] y", (2, 1, 0, "x" * (TYPED - 3) + "...")),
        # Letters with accents as two characters, of which the tokenizer reads one.
        ("cafe\u0301 nai\u0308ve", "cafe\u0301 nai\u0308ve", (2, 0, 0, "")),
        ("שלום", "ש ל ו ם", (4, 0, 0, "")),
        ("م\u064fح\u064eم\u064e\u0651د", "م\u064f ح\u064e م\u064e\u0651 د", (4, 0, 0, "")),
        ("हिन्दी", "ह ◌ि न् द ◌ी", (5, 0, 0, "")),
        ("[UNK] and [MASK]", "[UNK] and [MASK]", (1, 0, 0, "")),  # as it was typed
    ],
)
def test_pieces_of_words_beside_what_was_typed(minilm, text, shown, unread):
    words = minilm.tokens(text)
    assert words.shown == ("[CLS]", *shown.split(), "[SEP]")
    assert words.unread == unread
    placed = [span for span in words.spans if span != (0, 0)]
    assert placed == sorted(placed)
    assert "".join(words.typed) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "shown", "unread"),
    [
        ("喜 a", "喜_1/3 喜_2/3 喜_3/3 a", (4, 0, 3, "")),
        ("I 🙂 👍🏽", "I 🙂 👍_1/3 👍_2/3 👍_3/3 🏽_1/3 🏽_2/3 🏽_3/3", (8, 0, 6, "")),
        ("e\u0301", "e ◌\u0301_1/2 ◌\u0301_2/2", (3, 0, 2, "")),
        ("מה", "מ ה", (2, 0, 0, "")),
        ("a<|endoftext|>", "a <|endoftext|>", (1, 0, 0, "")),  # which is its unknown token, too
    ],
)
def test_pieces_of_bytes_beside_what_was_typed(smollm, text, shown, unread):
    assert smollm.tokenizer.unk_token == "<|endoftext|>"
    words = smollm.tokens(text)
    assert words.shown == tuple(label.replace("_", " ") for label in shown.split())
    assert words.unread == unread


def test_a_token_with_the_end_of_one_character_and_the_start_of_the_next():
    spans = ((0, 1), (0, 2), (1, 3))
    words = TokenizedText(
        "喜欢a", ("喜", "喜欢", "欢a"), (False,) * 3, spans, (2, 3, 5), (False,) * 3
    )
    assert words.shown == ("喜 1/2", "喜 2/2 欢 1/2", "欢 2/2 a")
    assert words.unread == Unread(3, 0, 3)


def test_a_run_of_characters_that_is_written_in_bytes():
    words = tokenize(fallback(), "他é 猫é他", "made", None)
    run = [f"猫é {k}/5" for k in range(1, 6)]
    assert words.shown == ("\u2581", "他", "é 1/2", "é 2/2", "\u2581", *run, "他")
    assert words.unread == Unread(11, 0, 7)
    long = tokenize(fallback(), "é" * 23, "made", None).shown
    assert long[1] == "é" * (TYPED - 3) + "... 1/46"


def test_an_unknown_word_of_a_tokenizer_that_keeps_blanks():
    words = tokenize(blanks(), "他 猫狗 他", "made", None)
    assert words.shown == ("\u2581", "他", "\u2581", "猫狗<unk>", "\u2581", "他")
    assert words.unread == Unread(6, 1, 0, "猫狗")


def test_what_a_model_writes_is_known():
    tokenizer = blanks()
    begun = tokenize(tokenizer, "猫 他", "made", None)
    found = extend(tokenizer, begun, [*begun.ids, tokenizer.unk_token_id])
    assert found.unknown == (*begun.unknown, False) and sum(found.unknown) == 1


def test_an_unknown_word_of_a_tokenizer_that_does_not_say_where(monkeypatch):
    tokenizer = blanks()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    words = tokenize(tokenizer, "他 猫狗", "made", None)
    assert words.shown == ("\u2581", "他", "\u2581", "<unk>")
    assert words.unread == Unread(4, 1)


def test_counts_of_two_texts():
    long = "x" * (TYPED - 1)
    assert Unread(7, 2, 3, long).plus(Unread(11, 1, 5, "ab")) == Unread(
        18, 3, 8, "x" * (TYPED - 3) + "..."
    )


def test_edited(minilm):
    words = minilm.tokens("Two cats, one dog.")
    assert edit(words, {1: "Three", 5: "big dog"}) == "Three cats, one big dog."
    assert edit(words, {}) == "Two cats, one dog."
