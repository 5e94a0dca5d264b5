"""What one head does to one token, as one record: all that `wqkv see` draws or prints."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.errors import ArgumentError
from wqkv.maps.display import weight
from wqkv.maps.proof import Proof
from wqkv.sentences.errors import mistake
from wqkv.study.head_matrices import HeadMatrices, has_matrices
from wqkv.study.model import OpenModel
from wqkv.study.part import SAMPLED_ROWS, in_range, position_of, scale_of, spaced
from wqkv.study.tokens import PictureTokens, TokenizedText, Unread, is_blank
from wqkv.study.view import ALL_ROWS, View


@dataclass(frozen=True)
class SourceText:
    """The text that another one looks at, and the token of it that is looked at most."""

    tokens: tuple[str, ...]  # m, as `TokenizedText.shown` has them
    special: tuple[bool, ...]  # m
    token: int
    x: Tensor  # (d_model,) its hidden state, the last one of the encoder


@dataclass(frozen=True, repr=False)
class TokenStory:
    """What head `head` of layer `layer` does to token number `token`; all count from 0.

    The text has n tokens, which look at m tokens: at themselves, or at those of `source`. All
    tensors are float32 on the CPU.
    """

    model: str  # "all-MiniLM-L6-v2"
    family: str  # "bert"
    sentence: str
    tokens: tuple[str, ...]  # n, as `TokenizedText.shown` has them
    special: tuple[bool, ...]  # n, True for [CLS], <s> and their like
    unread: Unread  # how much of the text, and of `source`, the model cannot read
    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_k: int
    layer: int
    head: int
    token: int
    mask: str  # which tokens may be seen: "Full()", "Causal()"
    position: str  # how the layer itself places q and k, such as "RoPE(theta=10000.0)"; "" if not
    scale: float  # 1 / sqrt(d_k) in most models
    softcap: float | None  # a score s becomes softcap * tanh(s / softcap), where the layer has one
    x: Tensor  # (d_model,) the token's hidden state, the layer's input
    q: Tensor  # (d_k,) x WQ of this head, rotated by its position where the layer does that
    # k and v are made of x, or, where there is a `source`, of source.x.
    k: Tensor  # (d_k,) x WK of this head's key group, rotated alike
    v: Tensor  # (d_v,) x WV of this head's key group
    scores: Tensor  # (m,) capped q . k_j * scale, plus a bias by position; -inf: hidden
    weights: Tensor  # (m,) softmax(scores)
    context: Tensor  # (d_v,) the sum of weights_j * v_j
    gated: Tensor  # (d_v,) the context, times the token's gate where the layer has one
    share: Tensor  # (d_model,) gated WO of this head: what it adds to the token
    output: Tensor  # (d_model,) all heads' shares and WO's bias: the layer's output
    matrices: HeadMatrices | None  # of this head; None if it does not have one each (latent)
    proof: Proof
    map: Tensor | None = None  # (n, m) this head's weights, one row per query token, if asked for
    source: SourceText | None = None  # the text that is looked at, where it is another one
    picture: PictureTokens | None = None  # what the tokens are cells of, if no text is beside it
    cells: int = 0  # how many of the tokens are cells of pictures

    def __repr__(self) -> str:
        best = self.ranked[0]
        return (
            f"TokenStory of {self.tokens[self.token]!r} ({self.token} of {len(self.tokens)}) in "
            f"layer {self.layer}, head {self.head} of {self.model}: it looks most at "
            f"{self.keys[best]!r}, {weight(self.weights[best].item())}; "
            "wqkv.open(model, text) shows it"
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The m tokens that are looked at."""
        return self.tokens if self.source is None else self.source.tokens

    @property
    def ranked(self) -> list[int]:
        """Positions of keys, those of the largest weights first; equal weights in reading order."""
        weights: list[float] = self.weights.tolist()
        return sorted(range(len(weights)), key=lambda j: -weights[j])


def clearest_story(
    model: OpenModel,
    sentence: str | TokenizedText,
    word: str | None = None,
    layer: int | None = None,
    head: int | None = None,
) -> TokenStory:
    """What one head does to one token. What is not given is chosen by the clearest link.

    A link from one token to another is the clearer the more weight it has and the farther it goes:
    weight * log2(distance in written words), so that a neighbor counts 0. Links to or from special
    tokens and punctuation, to the same token again, and to the first token of a causal model (where
    heads put the weight that they do not need) do not count.

    Args:
        word: a word of the sentence, or the number of a token; see `find_token`.

    Raises:
        ArgumentError: an empty or too long sentence, an unknown word, a layer or head out of range.
    """
    if layer is not None:
        in_range("layer", layer, model.sizes.n_layer)
    if head is not None:
        in_range("head", head, model.sizes.n_head)
    view = View(model, model.read(sentence))
    token = None if word is None else find_token(view.reading, word)
    layers = range(model.sizes.n_layer) if layer is None else [layer]
    links = [clearest_link(view, number, head, token) for number in layers]
    best = max(links, key=lambda link: link.clearness)
    story = token_story(view, best.layer, best.head, best.token)
    return replace(story, map=view.map(best.layer, best.head)[0, 0])


class ClearLink(NamedTuple):
    """A link, by its head and the token that looks, and how clear it is; see `clearest_story`."""

    clearness: float
    layer: int
    head: int
    token: int


def clearest_link(
    view: View, layer: int, head: int | None = None, token: int | None = None
) -> ClearLink:
    """The clearest link of a layer, or of one head or token of it; see `clearest_story`.

    Of a text of more than ALL_ROWS tokens, SAMPLED_ROWS are looked at. Between two texts, and in a
    picture, no distance is counted, so that the clearest link to another token is the strongest;
    where a text stands beside pictures, the strongest from the text to a cell.
    """
    n, reading = view.n, view.reading
    rows = torch.arange(n, device="cpu") if token is None else torch.tensor([token], device="cpu")
    if len(rows) > ALL_ROWS:
        rows = spaced(n, SAMPLED_ROWS)
    queries, keys = _has_letters(reading), _has_letters(view.keys)  # those that count
    if reading.source is None:
        # In causal models a head puts weight that it has no use for on the first token.
        keys[0] &= not view.model.layer(layer).mask.by_position
        place = torch.tensor(written_words(reading), device="cpu")
        same = _first_occurrence(reading)
    counted = reading.source is None and not reading.pictures
    if reading.pictures and reading.only_picture is None:
        cells = torch.zeros_like(keys)
        cells[[at for picture in reading.pictures for at in picture.tokens]] = True
        queries, keys = queries & ~cells, keys & cells
    if token is None:  # where no link is clear, the first token that is written
        pieces = zip(reading.tokens, reading.special, strict=True)
        token = next(
            (i for i, (w, mark) in enumerate(pieces) if not (mark or is_blank(w.strip()))), 0
        )
    else:
        queries[token] = True  # it was asked for, so it counts
    best = ClearLink(0.0, layer, head or 0, token)
    for here, weights in view.layer(layer).rows(rows):
        factor = (keys & queries[here, None]).float()  # clearness is weight times this: (rows, m)
        if counted:
            factor *= (place[here, None] - place).abs().clamp(min=1).log2()
        if reading.source is None:
            factor[same[here, None] == same] = 0
        clear = (weights if head is None else weights[head : head + 1]) * factor
        top = int(clear.argmax())
        found = float(clear.flatten()[top])
        if found > best.clearness:
            at_head, row = divmod(top // view.m, len(here))
            best = ClearLink(found, layer, at_head if head is None else head, int(here[row]))
    return best


def token_story(view: View, layer: int, head: int, token: int) -> TokenStory:
    """What one head does to one token of a text that is read already, without its map."""
    model, reading, opened = view.model, view.reading, view.checked_layer(layer, head, token)
    sizes, ours = model.sizes, opened.layer
    kv_head = head // (sizes.n_head // sizes.n_kv_head)
    _, _, row = opened.row(head, token)
    context, weights = row.out[0, 0, 0], row.weights[0, 0, 0]
    gated = opened.apply_gate(head, token, context)
    source, kept = None, token  # the token whose k and v are shown
    if reading.source is not None:
        kept, states = int(weights.argmax()), reading.source.final
        assert states is not None
        source = SourceText(view.keys.shown, view.keys.special, kept, states[0, kept])
    return TokenStory(
        model=model.name,
        family=model.family,
        sentence=reading.sentence,
        tokens=reading.shown,
        special=reading.special,
        unread=view.unread,
        n_layer=sizes.n_layer,
        n_head=sizes.n_head,
        n_kv_head=sizes.n_kv_head,
        d_model=sizes.d_model,
        d_k=sizes.d_k,
        layer=layer,
        head=head,
        token=token,
        mask=repr(ours.mask),
        position=position_of(ours),
        scale=scale_of(ours),
        softcap=ours.softcap,
        x=reading.inputs[layer][0, token],
        q=opened.q[0, head, token],
        k=opened.k[0, kv_head, kept],
        v=opened.v[0, kv_head, kept],
        scores=row.scores[0, 0, 0],
        weights=weights,
        context=context,
        gated=gated,
        share=gated @ opened.WO(head),
        output=opened.output(torch.tensor([token], device="cpu"))[0][0],
        matrices=view.matrices(layer, head) if has_matrices(ours) else None,
        proof=view.proof(layer),
        source=source,
        picture=reading.only_picture,
        cells=sum(len(picture.tokens) for picture in reading.pictures),
    )


def _has_letters(text: TokenizedText) -> Tensor:
    """Which tokens have a letter or digit and are not special: bool (n,)."""
    marks = zip(text.tokens, text.special, strict=True)
    return torch.tensor(
        [any(c.isalnum() for c in w) and not mark for w, mark in marks], device="cpu"
    )


def _first_occurrence(text: TokenizedText) -> Tensor:
    """For each token the first position where it stands, in small letters or capitals: (n,)."""
    first = {w.casefold(): i for i, w in reversed(list(enumerate(text.tokens)))}
    return torch.tensor([first[w.casefold()] for w in text.tokens], device="cpu")


def written_words(text: TokenizedText) -> list[int]:
    """For each token the number of the written word it belongs to: "didn", "'" and "t" are one."""
    numbers: list[int] = []
    last = 0
    for a, b in text.spans:
        shares = a < min(b, last)  # it is one more piece of the same character
        joined = shares or (a == last < b and _joined(text.sentence, a))
        numbers.append(numbers[-1] + (not joined) if numbers else 0)
        last = b
    return numbers


def _joined(text: str, at: int) -> bool:
    """Whether the characters before and at `at` belong to one written word.

    Scripts from U+2E80 on (Chinese, Japanese, Korean) are written without blanks.
    """
    pair = text[at - 1 : at + 1] if at else ""
    return len(pair) == 2 and not any(c.isspace() or c >= "\u2e80" for c in pair)


def find_word(sentence: str, word: str) -> list[tuple[int, int]]:
    """Where a word stands in a sentence by itself, or else inside of other words; any case."""
    found = _occurrences(sentence, word.strip())
    return [one for one in found if not any(_joined(sentence, at) for at in one)] or found


def _occurrences(sentence: str, wanted: str) -> list[tuple[int, int]]:
    return [m.span() for m in re.finditer(re.escape(wanted), sentence, re.IGNORECASE) if wanted]


def find_token(text: TokenizedText, word: str) -> int:
    """The position of the token that `word` means, which a person typed.

    It is the token that reads so; or the last of the tokens that a word of the sentence is cut
    into; or the token of that number; or the token that holds (the end of) `word` as a part of it.
    """
    sentence, spans, wanted = text.sentence, text.spans, word.strip()

    def token_ending(end: int) -> int | None:
        """The last token that has the character before `end`."""
        return max((i for i, (a, b) in enumerate(spans) if a < end <= b), default=None)

    for i, token in enumerate(text.tokens):
        if token.casefold() == wanted.casefold():
            last = token_ending(spans[i][1])  # a character may be in several pieces
            return i if last is None else last
    found = _occurrences(sentence, wanted)
    starts, ends = {a for a, b in spans if a < b}, {b for a, b in spans if a < b}
    # `wanted` from the start of one token to the end of another, or else as a word by itself that
    # stands inside tokens.
    whole = [token_ending(b) for a, b in found if a in starts and b in ends]
    parts = [
        token_ending(b) for a, b in found if not (_joined(sentence, a) or _joined(sentence, b))
    ]
    number = int(wanted) if wanted.isdecimal() else len(spans)
    for at in (*whole, number, *parts):
        if at is not None and at < len(spans):
            return at
    listed = " ".join(text.tokens[:40]) + (" ..." if len(text.tokens) > 40 else "")
    last = len(text.tokens) - 1
    raise ArgumentError(mistake("no_such_token", typed=word, tokens=listed, last=last))
