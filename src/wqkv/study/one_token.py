"""What one head does to one word, as one record: all that is drawn or printed are these numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.errors import ArgumentError
from wqkv.maps.proof import Proof
from wqkv.study.model import SAMPLED_ROWS, OpenModel, Tokens, blank, in_range, spaced
from wqkv.study.view import ALL_ROWS, View


@dataclass(frozen=True)
class Source:
    """The text that another one looks at, and of it the word that is looked at most."""

    tokens: tuple[str, ...]  # m
    special: tuple[bool, ...]  # m
    token: int
    x: Tensor  # (d_model,) its state, as the encoder hands it on


@dataclass(frozen=True)
class Story:
    """What head `head` of layer `layer` does to word number `word`; all count from 0.

    n is the number of words (the model's tokens), all tensors are float32 on the CPU.
    """

    model: str  # "all-MiniLM-L6-v2"
    family: str  # "bert"
    sentence: str
    tokens: tuple[str, ...]  # n, as a person reads them
    special: tuple[bool, ...]  # n, True for [CLS], <s> and their like
    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_k: int
    layer: int
    head: int
    token: int
    mask: str  # which words may be seen: "Full()", "Causal()"
    position: str  # how the layer itself places q and k, such as "RoPE(theta=10000.0)"; "" if not
    scale: float  # 1 / sqrt(d_k) in most models
    x: Tensor  # (d_model,) the word's hidden state, the layer's input
    q: Tensor  # (d_k,) x WQ of this head, turned by its position where the layer does that
    k: Tensor  # (d_k,) x WK of this head's key group, turned alike (of a Source: its x)
    v: Tensor  # (d_v,) x WV of this head's key group (of a Source: its x)
    scores: Tensor  # (m,) q . k_j * scale; -inf where word j is hidden
    weights: Tensor  # (m,) softmax(scores)
    context: Tensor  # (d_v,) the sum of weights_j * v_j
    share: Tensor  # (d_model,) context WO of this head (gated before): what it adds to the word
    output: Tensor  # (d_model,) all heads' shares and WO's bias: the layer's output
    proof: Proof
    map: Tensor | None = None  # (n, n) this head's weights, one row a word; None is left out
    source: Source | None = None  # the text that is looked at, where it is another one

    @property
    def keys(self) -> tuple[str, ...]:
        """The m words that may be looked at."""
        return self.tokens if self.source is None else self.source.tokens

    @property
    def ranked(self) -> list[int]:
        """Positions by falling weight; equal weights in reading order."""
        weights: list[float] = self.weights.tolist()
        return sorted(range(len(weights)), key=lambda j: -weights[j])


def tell(
    model: OpenModel,
    sentence: str,
    token: str | None = None,
    layer: int | None = None,
    head: int | None = None,
) -> Story:
    """What one head does to one word. What is not given is chosen: the clearest link in reach.

    A link from one word to another is the clearer the more weight it has and the farther it goes:
    weight * log2(distance in words), so that a neighbour counts 0. Special tokens, punctuation, the
    same word again, and the first word of a causal model (where heads put what they do not need) do
    not count.

    Args:
        word: a word of the sentence, or its number; see `find`.

    Raises:
        ArgumentError: an empty or too long sentence, an unknown word, a layer or head out of range.
    """
    if layer is not None:
        in_range("layer", layer, model.sizes["n_layer"])
    if head is not None:
        in_range("head", head, model.sizes["n_head"])
    view = View(model, model.read(sentence))
    at = None if token is None else find(view.reading, token)
    layers = range(model.sizes["n_layer"]) if layer is None else [layer]
    links = [clearest(view, number, head, at) for number in layers]
    told = of(view, *max(links, key=lambda link: link.clearness)[1:])
    return replace(told, map=view.map(told.layer, told.head)[0, 0])


class Clear(NamedTuple):
    """A link, by the word that looks, and how clear it is, see `tell`."""

    clearness: float
    layer: int
    head: int
    token: int


def clearest(view: View, layer: int, head: int | None = None, token: int | None = None) -> Clear:
    """The clearest link of a layer; of a text of more than ALL_ROWS words some are looked at.

    Between two texts there is no distance, so that the clearest link is the strongest one.
    """
    n, reading = view.n, view.reading
    rows = torch.arange(n, device="cpu") if token is None else torch.tensor([token], device="cpu")
    if len(rows) > ALL_ROWS:
        rows = spaced(n, SAMPLED_ROWS)
    tells, keys = _tells(reading), _tells(view.keys)
    if reading.source is None:
        keys[0] &= not view.model.layer(layer).mask.by_position
        place, same = torch.tensor(_written_words(reading), device="cpu"), _same(reading)
    if token is None:
        pieces = zip(reading.tokens, reading.special, strict=True)
        token = next((i for i, (w, mark) in enumerate(pieces) if not (mark or blank(w.strip()))), 0)
    else:
        tells[token] = True
    best = Clear(0.0, layer, head or 0, token)
    for here, weights in view.layer(layer).rows(rows):
        reach = (keys & tells[here, None]).float()
        if reading.source is None:
            reach *= (place[here, None] - place).abs().clamp(min=1).log2()
            reach[same[here, None] == same] = 0
        clear = (weights if head is None else weights[head : head + 1]) * reach
        top = int(clear.argmax())
        found = float(clear.flatten()[top])
        if found > best.clearness:
            at_head, row = divmod(top // view.m, len(here))
            best = Clear(found, layer, at_head if head is None else head, int(here[row]))
    return best


def of(view: View, layer: int, head: int, token: int) -> Story:
    """What one head does to one word of a text that is read already, without its map."""
    model, reading, opened = view.model, view.reading, view.checked(layer, head, token)
    ours, kv_head = opened.layer, head // (model.sizes["n_head"] // model.sizes["n_kv_head"])
    _, _, row = opened.row(head, token)
    context, weights = row.out[0, 0, 0], row.weights[0, 0, 0]
    source, kept = None, token  # whose k and v are kept
    if reading.source is not None:
        kept, states = int(weights.argmax()), reading.source.final
        assert states is not None
        source = Source(view.keys.tokens, view.keys.special, kept, states[0, kept])
    return Story(
        model=model.name,
        family=model.family,
        sentence=reading.sentence,
        tokens=reading.tokens,
        special=reading.special,
        n_layer=model.sizes["n_layer"],
        n_head=model.sizes["n_head"],
        n_kv_head=model.sizes["n_kv_head"],
        d_model=model.sizes["d_model"],
        d_k=model.sizes["d_k"],
        layer=layer,
        head=head,
        token=token,
        mask=repr(ours.mask),
        position="" if ours.position is None else repr(ours.position),
        scale=ours.d_k**-0.5 if ours.scale is None else ours.scale,
        x=reading.inputs[layer][0, token],
        q=opened.q[0, head, token],
        k=opened.k[0, kv_head, kept],
        v=opened.v[0, kv_head, kept],
        scores=row.scores[0, 0, 0],
        weights=weights,
        context=context,
        share=opened.gated(head, token, context) @ opened.WO(head),
        output=opened.output(torch.tensor([token], device="cpu"))[0][0],
        proof=view.proof(layer),
        source=source,
    )


def _tells(tokens: Tokens) -> Tensor:
    """Which words are more than punctuation: bool (n,)."""
    marks = zip(tokens.tokens, tokens.special, strict=True)
    return torch.tensor(
        [any(c.isalnum() for c in w) and not mark for w, mark in marks], device="cpu"
    )


def _same(tokens: Tokens) -> Tensor:
    """For each word the first place where it stands: (n,)."""
    first = {w.casefold(): i for i, w in reversed(list(enumerate(tokens.tokens)))}
    return torch.tensor([first[w.casefold()] for w in tokens.tokens], device="cpu")


def _written_words(reading: Tokens) -> list[int]:
    """For each token the number of the written word it belongs to: "didn", "'" and "t" are one."""
    numbers: list[int] = []
    last = 0
    for a, b in reading.spans:
        shares = a < min(b, last)  # it is one more piece of the same character
        joined = shares or (a == last < b and _joined(reading.sentence, a))
        numbers.append(numbers[-1] + (not joined) if numbers else 0)
        last = b
    return numbers


def _joined(text: str, at: int) -> bool:
    """Whether the characters before and at `at` belong to one written word.

    Scripts from U+2E80 on (Chinese, Japanese, Korean) are written without blanks.
    """
    pair = text[at - 1 : at + 1] if at else ""
    return len(pair) == 2 and not any(c.isspace() or c >= "\u2e80" for c in pair)


def find(reading: Tokens, written: str) -> int:
    """The position of a word: a token, the last of those that it is cut into, or a number.

    A word that is only a part of a token is the token that holds it (its end, if there are two).
    """
    text, spans, wanted = reading.sentence, reading.spans, written.strip()

    def holder(end: int) -> int | None:
        return max((i for i, (a, b) in enumerate(spans) if a < end <= b), default=None)

    for i, token in enumerate(reading.tokens):
        if token.casefold() == wanted.casefold():
            last = holder(spans[i][1])  # a character may be in several pieces
            return i if last is None else last
    found = [m.span() for m in re.finditer(re.escape(wanted), text, re.IGNORECASE) if wanted]
    starts, ends = {a for a, b in spans if a < b}, {b for a, b in spans if a < b}
    whole = [holder(b) for a, b in found if a in starts and b in ends]
    parts = [holder(b) for a, b in found if not (_joined(text, a) or _joined(text, b))]
    number = int(wanted) if wanted.isdecimal() else len(spans)
    for at in (*whole, number, *parts):
        if at is not None and at < len(spans):
            return at
    listed = " ".join(reading.tokens[:40]) + (" ..." if len(reading.tokens) > 40 else "")
    raise ArgumentError(
        f"There is no token {written!r} in the sentence. Its tokens: {listed} "
        f"(or a number from 0 to {len(reading.tokens) - 1})."
    )
