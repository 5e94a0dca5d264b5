"""From documents to their tally: windows, batches of windows of like length, sums and examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from itertools import accumulate
from typing import NamedTuple, cast

import torch

from wqkv.corpus.documents import Document, text_of
from wqkv.corpus.measures import Batch, LayerSums, StrongestLinks, measure
from wqkv.corpus.sums import KEPT, Example, Skipped, Tally
from wqkv.errors import MissedError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import watch
from wqkv.study.known_texts import TEXT
from wqkv.study.model import OpenModel
from wqkv.study.tokens import (
    NOTHING_UNREAD,
    TokenWindow,
    Unread,
    cut_text,
    is_blank,
    special_around,
    windows,
)

#: How many tokens a batch holds at most, with its padding, if it has more than one window.
TOKENS = 2048
#: The shortest window of a batch has at least this share of the longest one's length.
ALIKE = 0.8
#: How many letters are shown on each side of the two tokens of a link.
AROUND = 60


class DocumentWindow(NamedTuple):
    """One window of one document: part number `part` of `parts`, counted from 0."""

    document: Document
    text: str
    part: int
    parts: int
    window: TokenWindow

    @property
    def length(self) -> int:
        """How many tokens it has."""
        return len(self.window[0])


class Reader:
    """Reads documents with one model, recording and proving every layer of every batch."""

    def __init__(self, model: OpenModel) -> None:
        self.model = model
        pad = model.tokenizer.pad_token_id
        self._pad: int = 0 if pad is None else pad
        self._before = len(special_around(model.tokenizer)[0])  # special tokens before a text

    def tally(self, documents: Sequence[Document], field: str) -> Tally:
        """Return the tally of some documents. It depends on them and on the model alone."""
        skipped: list[Skipped] = []
        read: list[DocumentWindow] = []
        total: list[LayerSums] = []
        links: list[StrongestLinks] = []
        for batch in self.batches(self.windows(documents, field, skipped)):
            for part, sums, found in self._measured(batch, skipped):
                pairs = zip(total, sums, strict=True)
                total = [LayerSums(*map(torch.add, a, b)) for a, b in pairs] if total else sums
                # The heads of all layers side by side, as the tally has them.
                links.append(
                    StrongestLinks(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))
                )
                read += part
        whole = Tally.of(total) if total else Tally()
        if read:
            every = StrongestLinks(*map(torch.cat, zip(*links, strict=True)))
            whole = replace(whole, examples=self._examples(read, every))
        texts = {one.document[:2]: one.text for one in read}  # each once, whatever its windows
        unread = (cut_text(self.model.tokenizer, text).unread for text in texts.values())
        return replace(
            whole,
            unread=reduce(Unread.plus, unread, NOTHING_UNREAD)._replace(typed=""),
            skipped=tuple(sorted(skipped)),
            documents=len(texts),
            windows=len(read),
            tokens=sum(one.length for one in read),
        )

    def windows(
        self, documents: Sequence[Document], field: str, skipped: list[Skipped]
    ) -> list[DocumentWindow]:
        """Return the windows of all documents, and add those that cannot be read to `skipped`."""
        result = []
        for document in documents:
            text, problem = text_of(document, field)
            found = [] if problem else self._token_windows(text)
            if not problem and all(all(special) for _, special, _ in found):
                problem = f"no token that {self.model.name} knows"
            if problem:
                skipped.append(Skipped(document.file, document.number, problem))
            else:
                parts = len(found)
                result += [
                    DocumentWindow(document, text, part, parts, window)
                    for part, window in enumerate(found)
                ]
        return result

    def _token_windows(self, text: str) -> list[TokenWindow]:
        return windows(self.model.tokenizer, text, self.model.longest)

    def batches(self, windows: Sequence[DocumentWindow]) -> Iterator[list[DocumentWindow]]:
        """Yield the windows in batches of like length, the longest first."""
        least = ALIKE if self.pads else 1.0
        held: list[DocumentWindow] = []
        # Document and part make the order, and so every batch, the same in every run.
        for one in sorted(windows, key=lambda one: (-one.length, one.document[:2], one.part)):
            longest = held[0].length if held else 0
            if held and ((len(held) + 1) * longest > TOKENS or one.length < least * longest):
                yield held
                held = []
            held.append(one)
        if held:
            yield held

    @cached_property
    def pads(self) -> bool:
        """Whether this model reads a text with padding as it reads it without."""
        pair = self._token_windows(TEXT)[0], self._token_windows(TEXT[: TEXT.index(".")])[0]
        try:
            a, b, both = (self._run(texts)[0] for texts in (pair[:1], pair[1:], pair))
        except MissedError:
            return False
        return all(
            torch.allclose(x.total + y.total, z.total, rtol=1e-4, atol=1e-3)
            for x, y, z in zip(a, b, both, strict=True)
        )

    def _run(self, texts: Sequence[TokenWindow]) -> tuple[list[LayerSums], list[StrongestLinks]]:
        batch = Batch(texts, self._pad)
        with torch.no_grad(), watch(self.model.model) as seen:
            self.model.model(input_ids=batch.ids, attention_mask=batch.mask)
        return measure(batch, cast(Sequence[AttentionMap], seen))

    def _measured(
        self, batch: list[DocumentWindow], skipped: list[Skipped]
    ) -> Iterator[tuple[list[DocumentWindow], list[LayerSums], list[StrongestLinks]]]:
        """Yield a batch with its measures.

        Where a proof fails, yield each window by itself. A window that fails then is skipped.
        """
        try:
            yield batch, *self._run([one.window for one in batch])
        except MissedError as error:
            for one in batch if len(batch) > 1 else []:
                yield from self._measured([one], skipped)
            if len(batch) == 1:
                (one,) = batch
                of = f"window {one.part + 1} of {one.parts}: " if one.parts > 1 else ""
                skipped.append(Skipped(*one.document[:2], f"{of}{error}"))

    # Examples

    def _examples(
        self, windows: Sequence[DocumentWindow], links: StrongestLinks
    ) -> tuple[tuple[Example, ...], ...]:
        """Return for every head the KEPT strongest links, at most one of each document."""
        spans: dict[tuple[str, int], tuple[str, list[tuple[int, int]]]] = {}
        kept = []
        for weights, queries, keys in zip(*(part.T.tolist() for part in links), strict=True):
            ranked = sorted(
                (-weight, *one.document[:2], one.part, at)
                for at, (weight, one) in enumerate(zip(weights, windows, strict=True))
                if weight > 0
            )
            best: dict[tuple[str, int], int] = {}
            for _, file, number, _, at in ranked:
                best.setdefault((file, number), at)
            examples = []
            for document, at in list(best.items())[:KEPT]:
                if document not in spans:
                    spans[document] = self._spans(windows[at].text)
                shown = self._shown(windows[at], *spans[document], queries[at], keys[at])
                file, number = document
                examples.append(Example(-weights[at], file, number, *shown))
            kept.append(tuple(examples))
        return tuple(kept)

    def _spans(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return a text, and where each of its tokens begins and ends in it.

        A slow tokenizer does not say where. Then the text is made of its tokens, one blank between.
        """
        tokenizer = self.model.tokenizer
        if tokenizer.is_fast:
            found = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            tokens = tokenizer.convert_ids_to_tokens(found["input_ids"])
            return text, [
                (a, a) if is_blank(token) else (a, b)
                for token, (a, b) in zip(tokens, found["offset_mapping"], strict=True)
            ]
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        tokens = [tokenizer.decode([i]) for i in ids]
        ends = [*accumulate(len(token) + 1 for token in tokens)]
        return " ".join(tokens), [
            (end - 1 - len(token), end - 1) for token, end in zip(tokens, ends, strict=True)
        ]

    def _shown(
        self, one: DocumentWindow, text: str, spans: list[tuple[int, int]], query: int, key: int
    ) -> tuple[str, tuple[int, int], tuple[int, int]]:
        """Return the text around two tokens of a window, and where the query and the key are in it.

        Args:
            query, key: positions in the window, which has special tokens before the text.
        """
        start = len(spans) * one.part // one.parts - self._before
        (a, b), (c, d) = sorted(_without_blank(text, *spans[start + at]) for at in (query, key))
        before, between, after = _end(text[:a]), text[b:c], _begin(text[d:])
        if len(between) > 2 * AROUND:
            between = f"{_begin(between)} ... {_end(between)}"
        shown = before + text[a:b] + between + text[c:d] + after
        left = len(before), len(before) + b - a
        right = left[1] + len(between), left[1] + len(between) + d - c
        return (shown, left, right) if query < key else (shown, right, left)


def _without_blank(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the blanks that some tokenizers put at the start of a token."""
    while start < end - 1 and text[start].isspace():
        start += 1
    return start, end


def _begin(text: str) -> str:
    """Return the start of a text up to a blank, at most AROUND letters."""
    return text if len(text) <= AROUND else text[:AROUND].rpartition(" ")[0] or text[:AROUND]


def _end(text: str) -> str:
    """Return the end of a text from a blank on, at most AROUND letters."""
    return text if len(text) <= AROUND else text[-AROUND:].partition(" ")[2] or text[-AROUND:]
