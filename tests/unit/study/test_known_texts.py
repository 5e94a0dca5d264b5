import pytest

from wqkv.study.known_texts import (
    KNOWN_TEXTS,
    TEXT,
    mark_window,
    objects_of,
    rare_among,
    relations_of,
)
from wqkv.study.tokens import windows


def relations(model, text: str) -> tuple[list[str], dict[str, list[tuple[int, int]]]]:
    (window,) = windows(model.tokenizer, text, model.longest)
    pieces = [model.tokenizer.decode([i]).strip() for i in window.ids]
    found = relations_of(model.tokenizer, window.ids)
    return pieces, {name: [(pieces[i], pieces[j]) for i, j in of] for name, of in found.items()}


def test_brackets_and_quotation_marks(minilm):
    _, found = relations(minilm, 'He (the [old] one) said "no (never)" to (me.')
    assert found["opening to closing"] == [("[", "]"), ("(", ")"), ("(", ")"), ('"', '"')]
    assert found["closing to opening"] == [(b, a) for a, b in found["opening to closing"]]
    assert relations(minilm, ") a ] b")[1]["opening to closing"] == []
    # A bracket that is still open where a mark closes that was opened before it.
    assert relations(minilm, '"a (b" c)')[1]["opening to closing"] == [('"', '"')]


def test_pieces_of_a_word(minilm):
    pieces, found = relations(minilm, "The electrocardiogram isn't well-known.")
    word = pieces[2 : pieces.index("isn")]
    assert len(word) > 2
    assert found["subword"] == [(a, b) for a in word for b in word if a != b]


def test_pieces_of_a_word_in_chinese(e5):
    """Characters are written without blanks, so no token goes on with the word before it."""
    assert relations(e5, "孩子把窗户打开了。")[1]["subword"] == []


def test_pieces_of_a_word_of_bytes(smollm):
    _, found = relations(smollm, "An electrocardiogram (ECG)")
    assert found["subword"] and all(not piece.startswith("(") for piece, _ in found["subword"])


def test_rare_tokens():
    ids = [101, *range(1000, 1018), 7, 102, 1017]
    special = [i in (101, 102) for i in ids]
    separators = [i in (102, 7) for i in ids]
    rare = rare_among(ids, special, separators)
    assert [i for i, mark in zip(ids, rare, strict=True) if mark] == [1017, 1017]
    assert rare_among([101, 102], [True, True], [False, True]) == [False, False]


@pytest.mark.parametrize("known", KNOWN_TEXTS, ids=lambda known: known.name)
def test_objects_are_the_words_that_are_written_down(minilm, known):
    tokens = minilm.tokens(known.text).tokens
    found = objects_of(minilm.tokenizer, known)
    assert [f"{tokens[i]} {tokens[j]}" for i, j in found["verb to object"]] == list(known.objects)
    assert all(i < j for i, j in found["verb to object"])
    assert found["object to verb"] == [(j, i) for i, j in found["verb to object"]]


def test_a_window_is_marked(minilm):
    (window,) = windows(minilm.tokenizer, TEXT, minilm.longest)
    marked = mark_window(minilm.tokenizer, window, {"verb to object": [(3, 5)]})
    assert marked[:3] == window and sum(marked.rare) >= 7
    assert marked.relations["verb to object"] == [(3, 5)]
    assert {*marked.relations} == {
        "verb to object",
        "subword",
        "opening to closing",
        "closing to opening",
    }
