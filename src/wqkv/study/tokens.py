"""Where tokens are made: a text as a tokenizer cuts it, as a person reads it and as ids.

The cells of a picture are tokens too: a reading has its pictures, and what its model is given.

`tokenizer` is always one of transformers' tokenizers.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wqkv.errors import ArgumentError
from wqkv.maps.axis import Axis
from wqkv.sentences.errors import mistake
from wqkv.study.packaged import READS_MOST

#: The longest window, in tokens, whatever the model takes: `watch` holds the maps of all layers of
#: a window at once.
LONGEST_WINDOW = 8192
#: How many characters of what was typed are shown in place of unknown tokens.
TYPED = 20


class Unread(NamedTuple):
    """How many tokens of a text the model cannot read as they were typed."""

    tokens: int = 0  # of the text, without [CLS], <s> and their like
    unknown: int = 0  # that are the tokenizer's token for what it does not know, such as [UNK]
    parts: int = 0  # that are a part of a character, because no token is the whole character
    typed: str = ""  # what was typed in place of the unknown ones, as far as it is short

    def plus(self, other: Unread) -> Unread:
        """The counts of both texts."""
        return Unread(
            self.tokens + other.tokens,
            self.unknown + other.unknown,
            self.parts + other.parts,
            _short(self.typed + other.typed),
        )


#: What is unread of no text, and of one of which nobody counted it.
NOTHING_UNREAD = Unread()


class PictureTokens(NamedTuple):
    """A picture whose rows x columns cells are tokens, row by row from the token `first` on."""

    pixels: Tensor  # (3, height, width), 0 to 1: as the model saw it
    rows: int
    columns: int
    first: int
    name: str

    @property
    def tokens(self) -> range:
        """The numbers of its tokens."""
        return range(self.first, self.first + self.rows * self.columns)


@dataclass(frozen=True)
class TokenizedText:
    """A text as a tokenizer cut it, or a picture as a model cuts it into patches."""

    sentence: str
    tokens: tuple[str, ...]  # as a person reads them
    special: tuple[bool, ...]  # True for [CLS], <s> and their like
    spans: tuple[tuple[int, int], ...]  # where each token stands in the sentence; (0, 0) if unknown
    ids: tuple[int, ...]  # as the model reads them
    unknown: tuple[bool, ...]  # True where something was typed that the tokenizer does not know
    # Of a pair of sentences, which stand on two lines: 0 or 1 for the one that a token belongs to.
    types: tuple[int, ...] = field(default=(), kw_only=True)
    pictures: tuple[PictureTokens, ...] = field(default=(), kw_only=True, compare=False)
    # Keyword arguments of a foreign model, where that is not called with the ids alone.
    arguments: Mapping[str, Any] = field(default_factory=dict, kw_only=True, compare=False)

    @classmethod
    def of_ids(cls, ids: Sequence[int]) -> TokenizedText:
        """Tokens of which only the ids are known, and which are shown as these numbers."""
        tokens, n = tuple(map(str, ids)), len(ids)
        return cls(" ".join(tokens), tokens, (False,) * n, ((0, 0),) * n, (*ids,), (False,) * n)

    @property
    def called_with(self) -> Mapping[str, Any]:  # keyword arguments of a foreign model
        """What the model is called with."""
        return self.arguments or {"input_ids": torch.tensor([self.ids], device="cpu")}

    @property
    def only_picture(self) -> PictureTokens | None:
        """The picture whose cells all tokens are that are not special, if there is one."""
        cells = [at for picture in self.pictures for at in picture.tokens]
        alone = len(self.pictures) == 1 and len(cells) + sum(self.special) == len(self.tokens)
        return self.pictures[0] if alone else None

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """What the tokens are, one behind the other: those of a text, the cells of each picture."""
        parts, at = list[Axis](), 0
        for picture in self.pictures:
            parts.append(Axis(self.shown[at : picture.first]))
            grid = picture.rows, picture.columns
            parts.append(Axis(len(picture.tokens), grid, source=picture.pixels))
            at = picture.tokens.stop
        return tuple(axis for axis in (*parts, Axis(self.shown[at:])) if len(axis))

    @property
    def positions(self) -> Tensor | None:
        """Where the tokens stand, if that is not 0 to n - 1: as the model is called with it."""
        return self.arguments.get("position_ids")

    @property
    def typed(self) -> tuple[str, ...]:
        """What was typed in the place of each token; "" for one that stands nowhere in the text."""
        return tuple(self.sentence[a:b] for a, b in self.spans)

    @property
    def partial(self) -> tuple[bool, ...]:
        """True for a token that is a part of a character: its neighbors have the rest of it."""
        placed = [(at, a, b) for at, (a, b) in enumerate(self.spans) if a < b]
        found = {
            at
            for left, right in pairwise(placed)
            if right[1] < left[2]
            for at in (left[0], right[0])
        }
        return tuple(at in found for at in range(len(self.spans)))

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The tokens, marked where the model reads something else than what was typed.

        An unknown token has before it what was typed: `动[UNK]`. Where n tokens are parts of one
        character, part k of them is `喜 k/n`.

        >>> three = ((0, 1), (0, 1), (0, 1))
        >>> TokenizedText("喜", ("喜",) * 3, (False,) * 3, three, (2, 3, 5), (False,) * 3).shown
        ('喜 1/3', '喜 2/3', '喜 3/3')
        """
        partial, met = self.partial, Counter[int]()
        pieces = Counter(  # how many tokens stand at each of the characters that are cut
            at for (a, b), cut in zip(self.spans, partial, strict=True) if cut for at in range(a, b)
        )

        def part(at: int) -> tuple[int, int]:
            met[at] += 1
            return met[at], pieces[at]

        def parts(a: int, b: int) -> Iterator[str]:
            """A token may have the end of one character and the start of the next."""
            for (k, n), places in groupby(range(a, b), part):
                text = _short("".join(self.sentence[at] for at in places))
                yield f"{text} {k}/{n}" if n > 1 else text

        labels = []
        marks = zip(self.tokens, self.spans, self.unknown, partial, strict=True)
        for token, (a, b), unknown, cut in marks:
            if unknown:
                label = _short(self.sentence[a:b]) + token
            elif cut:
                label = " ".join(parts(a, b))
            else:
                label = token
            # A mark by itself would be drawn over what stands before it.
            labels.append("◌" * _starts_with_mark(label) + label)
        return tuple(labels)

    @property
    def unread(self) -> Unread:
        """How many of the tokens the model cannot read as they were typed."""
        marks = [*zip(self.typed, self.special, self.unknown, self.partial, strict=True)]
        typed = "".join(text for text, _, unknown, _ in marks if unknown)
        own = sum(unknown or not special for _, special, unknown, _ in marks)
        parts = sum(partial and not unknown for _, _, unknown, partial in marks)
        return Unread(own, sum(self.unknown), parts, _short(typed))


def _short(typed: str) -> str:
    """At most TYPED characters of a text."""
    return typed if len(typed) <= TYPED else typed[: TYPED - 3] + "..."


def tokenize(
    tokenizer: Any,
    sentence: str,
    name: str,
    longest: int | None,
    side: str = "text",
    pair: str | None = None,
) -> TokenizedText:
    """Cut a text into tokens for the model `name`, which takes at most `longest` of them.

    Args:
        pair: a second sentence, which an encoder reads together with the first.
        side: "text" for a text that the model reads, "text_target" for one that it writes.

    Raises:
        ArgumentError: an empty text, one that is too long, or one without a token of its own; or a
            pair for a model whose tokenizer puts nothing between two sentences.
    """
    if not sentence.strip() or (pair is not None and not pair.strip()):
        raise ArgumentError(mistake("empty_sentence"))
    if pair is None:
        text = cut_text(tokenizer, sentence, side)
    else:
        text = _cut_pair(tokenizer, sentence, pair, name)
    # A pair is not read in windows.
    check_length(len(text.ids), name, longest, "too_long" if pair else "too_long_at_once")
    if all(text.special):
        seen = "no_token_known" if any(text.unknown) else "no_token_read"
        raise ArgumentError(mistake(seen, model=name, sentence=sentence, other=READS_MOST.option))
    return text


def cut_text(tokenizer: Any, sentence: str, side: str = "text") -> TokenizedText:
    """Cut a text of any length into tokens; `side` is as in `tokenize`."""
    encoded = tokenizer(**{side: sentence}, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    ids: list[int] = encoded["input_ids"]
    known = set(tokenizer.all_special_ids)
    special = tuple(i in known for i in ids)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    found = encoded.get("offset_mapping") or [(0, 0)] * len(ids)
    spans = _with_marks(
        sentence,
        [
            (0, 0) if is_blank(piece) else trim_span(sentence, *span)
            for piece, span in zip(pieces, found, strict=True)
        ],
    )
    tokens = tuple(
        piece if mark or a == b else sentence[a:b]
        for piece, mark, (a, b) in zip(pieces, special, spans, strict=True)
    )
    # A slow tokenizer does not say where a token stands. Of a fast one, a token that stands nowhere
    # was put around the text; and a text may have the token itself, such as GPT-2's <|endoftext|>.
    meant = ("", tokenizer.unk_token) if tokenizer.is_fast else (tokenizer.unk_token,)
    unknown = tuple(
        i == tokenizer.unk_token_id and sentence[a:b] not in meant
        for i, (a, b) in zip(ids, spans, strict=True)
    )
    return TokenizedText(sentence, tokens, special, spans, tuple(ids), unknown)


def _cut_pair(tokenizer: Any, first: str, second: str, name: str) -> TokenizedText:
    """Two sentences as one text of two lines, with what the tokenizer puts between them."""
    one, two = map(tokenizer.num_special_tokens_to_add, (False, True))
    if two <= one or not tokenizer.is_fast:
        raise ArgumentError(mistake("no_pair", model=name))
    encoded = tokenizer(first, second, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoded["input_ids"]
    own = encoded.sequence_ids(0)  # 0 or 1; None for a special token
    # Sentence by sentence as the tokenizer cuts each by itself, so that all marks are the same.
    parts = [iter(_own_tokens(cut_text(tokenizer, text))) for text in (first, second)]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    found = [
        _OwnToken(piece, (0, 0), False) if at is None else next(parts[at])
        for at, piece in zip(own, pieces, strict=True)
    ]
    moved = len(first) + 1
    types = encoded.get("token_type_ids") or [at or 0 for at in own]
    return TokenizedText(
        f"{first}\n{second}",
        tuple(one.token for one in found),
        tuple(id in tokenizer.all_special_ids for id in ids),
        tuple(
            (one.span[0] + moved, one.span[1] + moved) if at == 1 and any(one.span) else one.span
            for at, one in zip(own, found, strict=True)
        ),
        tuple(ids),
        tuple(one.unknown for one in found),
        types=tuple(types),
    )


class _OwnToken(NamedTuple):
    """A token that stands in a text."""

    token: str
    span: tuple[int, int]
    unknown: bool


def _own_tokens(text: TokenizedText) -> Iterator[_OwnToken]:
    """The tokens of a text without those that the tokenizer put around it."""
    marks = zip(text.tokens, text.special, text.spans, text.unknown, strict=True)
    for token, special, span, unknown in marks:
        if not special or any(span) or unknown:
            yield _OwnToken(token, span, unknown)


def check_length(n: int, name: str, longest: int | None, wrong: str = "too_long") -> None:
    """Raise the mistake `wrong` if n tokens are more than the model `name` takes."""
    if longest is not None and n > longest:
        raise ArgumentError(mistake(wrong, n=n, model=name, longest=longest))


def edit(text: TokenizedText, edits: Mapping[int, str]) -> str:
    """A text with some tokens replaced, by their numbers."""
    sentence, end = text.sentence, len(text.sentence)
    # From the last to the first, so that the spans before an edit stay true. Two pieces of one
    # character have the same span: only what stands before `end` is replaced, once.
    for number in sorted(edits, reverse=True):
        check_token(text, number)
        start, stop = text.spans[number]
        if start == stop:
            raise ArgumentError(mistake("not_in_text", number=number, token=text.tokens[number]))
        sentence = sentence[:start] + edits[number] + sentence[min(stop, end) :]
        end = start
    return sentence


def check_token(text: TokenizedText, number: int) -> None:
    """Raise unless the text has a token of this number."""
    count = len(text.tokens)
    if not 0 <= number < count:
        raise ArgumentError(mistake("no_token_of", number=number, count=count, last=count - 1))


def is_blank(piece: str) -> bool:
    """Whether a piece is only ▁, the blank before a word, and so stands for nothing in the text.

    Where the tokenizer put the blank in by itself, its offsets are those of the next character.
    """
    return not piece.strip("\u2581")


def trim_span(sentence: str, start: int, end: int) -> tuple[int, int]:
    """A span without the blanks around it: some tokenizers include the blank before a word."""
    part = sentence[start:end]
    if not part.strip():
        return start, end
    return start + len(part) - len(part.lstrip()), max(start, start + len(part.rstrip()))


def _with_marks(sentence: str, spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The spans with the combining marks behind them that the tokenizer left out.

    Some tokenizers leave out accents: e and U+0301 are read as e, and were typed as one character.
    """
    found, limit = [], len(sentence)  # where the next token starts
    for a, b in reversed(spans):
        if a < b:
            while b < limit and _starts_with_mark(sentence[b]):
                b += 1
            limit = a
        found.append((a, b))
    return tuple(reversed(found))


def _starts_with_mark(text: str) -> bool:
    """Whether the first character is drawn together with the one before it, as an accent is."""
    return text != "" and unicodedata.category(text[0])[0] == "M"


def extend(tokenizer: Any, text: TokenizedText, ids: list[int]) -> TokenizedText:
    """The text that goes on: `ids` begins with the ids of `text`, and has those of new tokens.

    The new tokens are written as the tokenizer writes them behind the last token of `text`.
    """
    new, last, decode = ids[len(text.ids) :], text.ids[-1], tokenizer.decode
    known, begin = set(tokenizer.all_special_ids), len(text.sentence)
    special = [id in known for id in new]
    pieces = [  # a model may have more rows than its tokenizer has pieces
        piece or str(id)
        for piece, id in zip(tokenizer.convert_ids_to_tokens(new), new, strict=True)
    ]
    # A token is written by itself in another way than behind others, for example without the blank
    # before it. So all new tokens are decoded together, behind `last`, one more each time.
    decoded, sentence, ends = [last], text.sentence, [begin]
    for id, mark in zip(new, special, strict=True):
        if not mark:
            decoded.append(id)
            sentence = sentence[:begin] + decode(decoded)[len(decode([last])) :]
        # The first pieces of a character are decoded as \ufffd until its last piece comes.
        ends.append(max(ends[-1], len(sentence.rstrip("\ufffd"))))
    ends[-1] = len(sentence)
    spans = []
    for at, (piece, mark) in enumerate(zip(pieces, special, strict=True)):
        # All pieces of one character get the span of the whole character.
        start, stop = ends[at], next((end for end in ends[at + 1 :] if end > ends[at]), ends[at])
        spans.append((0, 0) if mark or is_blank(piece) else trim_span(sentence, start, stop))
    shown = [sentence[a:b] or piece for (a, b), piece in zip(spans, pieces, strict=True)]
    return TokenizedText(
        sentence,
        (*text.tokens, *shown),
        (*text.special, *special),
        (*text.spans, *spans),
        tuple(ids),
        (*text.unknown, *(False for _ in new)),  # what a model writes was not typed
    )


# Texts longer than the model


class TokenWindow(NamedTuple):
    """A piece of a text that fits the model, with the special tokens that it puts around a text."""

    ids: list[int]
    special: list[bool]
    separators: list[bool]  # True for punctuation and for special tokens after the first


def special_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of the special tokens that the tokenizer puts before and after a text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    inner = [at for at, mark in enumerate(found["special_tokens_mask"]) if not mark]
    return found["input_ids"][: inner[0]], found["input_ids"][inner[-1] + 1 :]


def windows(tokenizer: Any, text: str, longest: int | None) -> list[TokenWindow]:
    """A text cut into windows of nearly equal length, none of more than `longest` tokens."""
    if not text.strip():
        raise ArgumentError(mistake("empty_text"))
    before, after = special_around(tokenizer)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    room = min(longest or LONGEST_WINDOW, LONGEST_WINDOW) - len(before) - len(after)
    count = max(1, math.ceil(len(ids) / room))
    special = set(tokenizer.all_special_ids)
    texts = {i: tokenizer.decode([i]) for i in {*ids} - special}
    # A piece of a character has no text of its own (it decodes as \ufffd) and is no separator.
    punctuation = {
        i for i, text in texts.items() if not any(c.isalnum() or c == "\ufffd" for c in text)
    }
    cut = []
    for start, stop in pairwise(len(ids) * number // count for number in range(count + 1)):
        window = [*before, *ids[start:stop], *after]
        separators = [
            at > 0 if id in special else id in punctuation for at, id in enumerate(window)
        ]
        cut.append(TokenWindow(window, [id in special for id in window], separators))
    return cut
