"""Texts as tokens: how they are cut, shown and placed, and what is said of texts that cannot be."""

import re

import pytest

from tests.pieces import blanks, bytewise
from wqkv.errors import ArgumentError
from wqkv.study.tokens import TokenizedText, extend, tokenize, trim_span

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
    with pytest.raises(ArgumentError, match=rf"sees no token in .* {re.escape(repr(sentence))}\."):
        minilm.read(sentence)


def test_long_sentence(minilm):
    with pytest.raises(
        ArgumentError, match=r"has 513 tokens, and all-MiniLM-L6-v2 takes 512\.\nGive a shorter"
    ):
        minilm.read("a " * 511)
    assert len(minilm.read("a " * 510).tokens) == 512


def test_tokens_without_a_text():
    words = TokenizedText.of_ids([5, 7, 11])
    assert (words.ids, words.tokens, words.sentence) == ((5, 7, 11), ("5", "7", "11"), "5 7 11")
    assert (words.special, words.spans) == ((False,) * 3, ((0, 0),) * 3)


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
