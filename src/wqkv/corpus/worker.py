"""From documents to what is kept of them: windows, batches of like length, sums and examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, cast

import torch

from wqkv.corpus.documents import Document, text_of
from wqkv.corpus.measures import Batch, Links, Sums, measure
from wqkv.corpus.sums import KEPT, Example, Skipped, Tally
from wqkv.errors import MissedError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import watch
from wqkv.study.heads import TEXT
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenWindow, is_blank, special_around, windows

#: A batch holds so many tokens, padding included, or one window.
TOKENS = 2048
#: The shortest window of a batch has at least this share of the longest one's length.
ALIKE = 0.8
#: So many letters are shown on each side of a link's words.
AROUND = 60


class Cut(NamedTuple):
    """One window of one document."""

    document: Document
    text: str
    part: int
    parts: int
    window: TokenWindow

    @property
    def length(self) -> int:
        return len(self.window[0])


class Reader:
    """Reads documents with one model, which is watched and proved in every batch."""

    def __init__(self, model: OpenModel) -> None:
        self.model = model
        pad = model.tokenizer.pad_token_id
        self._pad: int = 0 if pad is None else pad
        self._before = len(special_around(model.tokenizer)[0])

    def tally(self, documents: Sequence[Document], field: str) -> Tally:
        """What is kept of some documents: a function of them and of the model alone."""
        skipped: list[Skipped] = []
        done: list[Cut] = []
        total: list[Sums] = []
        links: list[Links] = []
        for batch in self.batches(self.cuts(documents, field, skipped)):
            for cuts, sums, found in self._measured(batch, skipped):
                pairs = zip(total, sums, strict=True)
                total = [Sums(*map(torch.add, a, b)) for a, b in pairs] if total else sums
                links.append(Links(*(torch.cat(parts, 1) for parts in zip(*found, strict=True))))
                done += cuts
        whole = Tally.of(total) if total else Tally()
        if done:
            every = Links(*map(torch.cat, zip(*links, strict=True)))
            whole = replace(whole, examples=self._examples(done, every))
        return replace(
            whole,
            skipped=tuple(sorted(skipped)),
            documents=len({cut.document[:2] for cut in done}),
            windows=len(done),
            tokens=sum(cut.length for cut in done),
        )

    def cuts(self, documents: Sequence[Document], field: str, skipped: list[Skipped]) -> list[Cut]:
        """The windows of all documents; what cannot be read is added to `skipped`."""
        cuts = []
        for document in documents:
            text, problem = text_of(document, field)
            found = [] if problem else self._windows(text)
            if not problem and all(all(special) for _, special, _ in found):
                problem = f"no word that {self.model.name} knows"
            if problem:
                skipped.append(Skipped(document.file, document.number, problem))
            else:
                cuts += [Cut(document, text, at, len(found), one) for at, one in enumerate(found)]
        return cuts

    def _windows(self, text: str) -> list[TokenWindow]:
        return windows(self.model.tokenizer, text, self.model.longest)

    def batches(self, cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
        """Windows of like length side by side, the longest first."""
        least = ALIKE if self.pads else 1.0
        held: list[Cut] = []
        for cut in sorted(cuts, key=lambda cut: (-cut.length, cut.document[:2], cut.part)):
            longest = held[0].length if held else 0
            if held and ((len(held) + 1) * longest > TOKENS or cut.length < least * longest):
                yield held
                held = []
            held.append(cut)
        if held:
            yield held

    @cached_property
    def pads(self) -> bool:
        """Whether this model reads a padded text as it reads it alone."""
        pair = self._windows(TEXT)[0], self._windows(TEXT[: TEXT.index(".")])[0]
        try:
            a, b, both = (self._run(texts)[0] for texts in (pair[:1], pair[1:], pair))
        except MissedError:
            return False
        return all(
            torch.allclose(x.total + y.total, z.total, rtol=1e-4, atol=1e-3)
            for x, y, z in zip(a, b, both, strict=True)
        )

    def _run(self, texts: Sequence[TokenWindow]) -> tuple[list[Sums], list[Links]]:
        batch = Batch(texts, self._pad)
        with torch.no_grad(), watch(self.model.model) as seen:
            self.model.model(input_ids=batch.ids, attention_mask=batch.mask)
        return measure(batch, cast(Sequence[AttentionMap], seen))

    def _measured(
        self, batch: list[Cut], skipped: list[Skipped]
    ) -> Iterator[tuple[list[Cut], list[Sums], list[Links]]]:
        """A batch; where a proof fails, each of its windows alone, and without those that fail."""
        try:
            yield batch, *self._run([cut.window for cut in batch])
        except MissedError as error:
            for cut in batch if len(batch) > 1 else []:
                yield from self._measured([cut], skipped)
            if len(batch) == 1:
                (cut,) = batch
                of = f"window {cut.part + 1} of {cut.parts}: " if cut.parts > 1 else ""
                skipped.append(Skipped(*cut.document[:2], f"{of}{error}"))

    # Examples

    def _examples(self, cuts: list[Cut], links: Links) -> tuple[tuple[Example, ...], ...]:
        """Of every head the strongest links, one a document."""
        spans: dict[tuple[str, int], tuple[str, list[tuple[int, int]]]] = {}
        kept = []
        for weights, queries, keys in zip(*(part.T.tolist() for part in links), strict=True):
            ranked = sorted(
                (-weight, *cut.document[:2], cut.part, at)
                for at, (weight, cut) in enumerate(zip(weights, cuts, strict=True))
                if weight > 0
            )
            best: dict[tuple[str, int], int] = {}
            for _, file, number, _, at in ranked:
                best.setdefault((file, number), at)
            row = []
            for name, at in list(best.items())[:KEPT]:
                if name not in spans:
                    spans[name] = self._spans(cuts[at].text)
                shown = self._shown(cuts[at], *spans[name], queries[at], keys[at])
                row.append(Example(-weights[at], name[0], name[1], *shown))
            kept.append(tuple(row))
        return tuple(kept)

    def _spans(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """A text, and where each of its tokens stands in it."""
        tokenizer = self.model.tokenizer
        if tokenizer.is_fast:
            found = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            pieces = tokenizer.convert_ids_to_tokens(found["input_ids"])
            return text, [
                (a, a) if is_blank(piece) else (a, b)
                for piece, (a, b) in zip(pieces, found["offset_mapping"], strict=True)
            ]
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        words = [tokenizer.decode([i]) for i in ids]
        ends = [*accumulate(len(word) + 1 for word in words)]
        return " ".join(words), [
            (end - 1 - len(w), end - 1) for w, end in zip(words, ends, strict=True)
        ]

    def _shown(
        self, cut: Cut, text: str, spans: list[tuple[int, int]], query: int, key: int
    ) -> tuple[str, tuple[int, int], tuple[int, int]]:
        """The text around two words of a window, and where they stand in it."""
        start = len(spans) * cut.part // cut.parts - self._before
        (a, b), (c, d) = sorted(_bare(text, *spans[start + at]) for at in (query, key))
        first, middle, last = _end(text[:a]), text[b:c], _start(text[d:])
        if len(middle) > 2 * AROUND:
            middle = f"{_start(middle)} ... {_end(middle)}"
        shown = first + text[a:b] + middle + text[c:d] + last
        one = len(first), len(first) + b - a
        other = one[1] + len(middle), one[1] + len(middle) + d - c
        return (shown, one, other) if query < key else (shown, other, one)


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the blank that some tokenizers put before a word."""
    while start < end - 1 and text[start].isspace():
        start += 1
    return start, end


def _start(text: str) -> str:
    """Whole words of at most AROUND letters from the start of a text."""
    return text if len(text) <= AROUND else text[:AROUND].rpartition(" ")[0] or text[:AROUND]


def _end(text: str) -> str:
    """Whole words of at most AROUND letters up to the end of a text."""
    return text if len(text) <= AROUND else text[-AROUND:].partition(" ")[2] or text[-AROUND:]
