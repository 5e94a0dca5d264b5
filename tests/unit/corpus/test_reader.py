"""Documents to windows, batches and their tally."""

import json

import pytest
import torch

from tests.pieces import blanks
from wqkv.corpus import reader as module
from wqkv.corpus.documents import Document
from wqkv.corpus.reader import Reader
from wqkv.errors import MissedError


def line(text, number=1):
    return Document("a.jsonl", number, json.dumps({"text": text}).encode())


def test_batches_are_of_like_length(opened):
    read = Reader(opened)
    assert read.pads
    counts = (1, 7, 9, 3, 10, 8, 2, 7)
    documents = [line("the keeper lit the lamp " * n, at) for at, n in enumerate(counts)]
    skipped = []
    windows = read.windows(documents, "text", skipped)
    batches = [[one.length for one in batch] for batch in read.batches(windows)]
    assert batches == [[51, 46, 41], [36, 36], [16], [11], [6]]
    read.pads = False
    alone = [[one.length for one in batch] for batch in read.batches(windows)]
    assert alone == [[51], [46], [41], [36, 36], [16], [11], [6]]
    one, other = Reader(opened), Reader(opened)
    other.pads = False
    for a, b in zip(
        one.tally(documents, "text").measures, other.tally(documents, "text").measures, strict=True
    ):
        assert (a.mean is None and b.mean is None) or a.mean == pytest.approx(b.mean, rel=1e-5)


def test_a_batch_holds_no_more_than_it_may(opened, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 100)
    read = Reader(opened)
    windows = read.windows([line("the keeper lit the lamp " * 6)] * 7, "text", [])
    assert [len(batch) for batch in read.batches(windows)] == [3, 3, 1]


def test_a_model_that_does_not_heed_padding(opened, monkeypatch):
    class Deaf(torch.nn.Module):
        """Reads the padding as words."""

        def forward(self, input_ids, attention_mask=None):
            return inner(input_ids=input_ids.flip(1))

    read, inner = Reader(opened), opened.model
    assert read.pads
    monkeypatch.setattr(opened, "model", Deaf())
    opened.model.inner = inner
    assert not Reader(opened).pads


def test_a_window_that_fails_its_proof(opened, monkeypatch):
    """It is left out and named; the rest of its batch counts."""
    bad = opened.tokenizer.convert_tokens_to_ids("storm")
    run = Reader._run

    def refuse(self, texts):
        if any(bad in ids for ids, _, _ in texts):
            raise MissedError("its proof failed")
        return run(self, texts)

    monkeypatch.setattr(Reader, "_run", refuse)
    texts = ["the keeper lit the lamp", "the storm lit the lamp", "the lamp " * 30 + "storm"]
    documents = [line(text, number) for number, text in enumerate(texts, 1)]
    found = Reader(opened).tally(documents, "text")
    assert found.skipped == (
        ("a.jsonl", 2, "its proof failed"),
        ("a.jsonl", 3, "window 2 of 2: its proof failed"),
    )
    assert (found.documents, found.windows) == (2, 2)


def test_tokens_that_no_model_knows(minilm):
    found = Reader(minilm).tally([line("\x00"), line("a cat", 2)], "text")
    assert found.skipped == (("a.jsonl", 1, "no token that all-MiniLM-L6-v2 knows"),)
    assert found.tokens == 4


def test_the_text_around_a_link(minilm):
    """Words far apart, a link into the second window, letters that are several bytes."""
    read = Reader(minilm)
    far = "animal " + "of the field " * 30 + "tired"
    (one,) = read.windows([line(far)], "text", [])
    text, query, key = read._shown(one, *read._spans(far), one.length - 2, 1)
    assert (text[slice(*query)], text[slice(*key)]) == ("tired", "animal")
    assert (
        text
        == "animal"
        + far[6:66].rpartition(" ")[0]
        + " ... "
        + far[-65:-5].partition(" ")[2]
        + "tired"
    )
    text, key, query = read._shown(one, *read._spans(far), 1, one.length - 2)
    assert (text[slice(*query)], text[slice(*key)]) == ("tired", "animal")
    long = "naïve 猫 words " * 200 + "the end"
    windows = read.windows([line(long)], "text", [])
    assert len(windows) == 2
    last = windows[1]
    text, query, key = read._shown(last, *read._spans(long), last.length - 2, last.length - 3)
    assert (text[slice(*query)], text[slice(*key)]) == ("end", "the")
    assert text.endswith("猫 words the end") and len(text) < module.AROUND + 8


def test_a_tokenizer_without_places(opened, monkeypatch):
    read = Reader(opened)
    monkeypatch.setattr(type(opened.tokenizer), "is_fast", False)
    text, spans = read._spans("the  keeper\nlit")
    assert [text[slice(*span)] for span in spans] == ["the", "keeper", "lit"]


def test_a_piece_that_is_only_a_blank_stands_nowhere(opened, monkeypatch):
    read = Reader(opened)
    monkeypatch.setattr(opened, "tokenizer", blanks())
    text, spans = read._spans("他说 他来了")
    assert [text[slice(*span)] for span in spans] == ["", "他说", "", "他", "来了"]


def test_what_the_model_cannot_read_is_counted(opened):
    long = "the keeper lit the lamp " * 90 + "猫"
    read = Reader(opened)
    one, two = (read.tally([line(long)], "text"), read.tally([line("猫 lamp 猫", 2)], "text"))
    assert one.windows > 1
    assert (one.unread.unknown, two.unread.unknown) == (1, 2)
    assert one.unread.tokens == len(opened.tokenizer.tokenize(long))
    both = read.tally([line(long), line("猫 lamp 猫", 2)], "text")
    assert both.unread == one.plus(two).unread and both.unread.typed == ""
