"""What one head does to one word, as one record: all that is drawn or printed are these numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wqkv.errors import ArgumentError
from wqkv.look.models import OpenModel, Reading, in_range

#: Weights are looked through in blocks of this many.
BLOCK = 2**24


@dataclass(frozen=True)
class Proof:
    """Our layer's output beside the model's own attention output, for the same hidden states.

    `difference` is the largest absolute difference over all words and channels, `size` the largest
    absolute number in the model's output, `tolerance` the float32 rounding allowed for that size.
    """

    difference: float
    size: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance  # NaN does not hold


@dataclass(frozen=True)
class Story:
    """What head `head` of layer `layer` does to word number `word`; all count from 0.

    n is the number of words (the model's tokens), all tensors are float32 on the CPU.
    """

    model: str  # "all-MiniLM-L6-v2"
    family: str  # "bert"
    sentence: str
    words: tuple[str, ...]  # n, as a person reads them
    special: tuple[bool, ...]  # n, True for [CLS], <s> and their like
    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_k: int
    layer: int
    head: int
    word: int
    mask: str  # which words may be seen: "Full()", "Causal()"
    position: str  # how the layer itself places q and k, such as "RoPE(theta=10000.0)"; "" if not
    scale: float  # 1 / sqrt(d_k) in most models
    x: Tensor  # (d_model,) the word's hidden state, the layer's input
    q: Tensor  # (d_k,) x WQ of this head, turned by its position where the layer does that
    k: Tensor  # (d_k,) x WK of this head's key group, turned alike
    v: Tensor  # (d_v,) x WV of this head's key group
    scores: Tensor  # (n,) q . k_j * scale; -inf where word j is hidden
    weights: Tensor  # (n,) softmax(scores)
    context: Tensor  # (d_v,) the sum of weights_j * v_j
    share: Tensor  # (d_model,) context WO of this head: what the head adds to the word
    output: Tensor  # (d_model,) all heads' shares and WO's bias: the layer's output
    map: Tensor  # (n, n) this head's weights, one row a word
    proof: Proof

    @property
    def ranked(self) -> list[int]:
        """Positions by falling weight; equal weights in reading order."""
        return sorted(range(len(self.words)), key=lambda j: -float(self.weights[j]))


def tell(
    model: OpenModel,
    sentence: str,
    word: str | None = None,
    layer: int | None = None,
    head: int | None = None,
) -> Story:
    """What one head does to one word. What is not given is chosen: the clearest link in reach.

    A link from one word to another is the clearer the more weight it has and the farther it goes:
    weight * log2(distance in words), so that a neighbour counts 0. Special tokens, punctuation, the
    same word again, and the first word of a causal model (where heads put what they do not need) do
    not count.

    Args:
        word: a word of the sentence (its last piece, where the model cuts it up), or its number.

    Raises:
        ArgumentError: an empty or too long sentence, an unknown word, a layer or head out of range.
    """
    layers = range(model.sizes["n_layer"])
    if layer is not None:
        layers = range(in_range("layer", layer, len(layers)), layer + 1)
    if head is not None:
        in_range("head", head, model.sizes["n_head"])
    reading = model.read(sentence)
    at = None if word is None else _find(reading, word)
    best = (0.0, layers[0], head or 0, reading.special.index(False) if at is None else at)
    for number in layers:
        best = max(best, _clearest(model, reading, number, head, at), key=lambda link: link[0])
    return _tell(model, reading, *best[1:])


@torch.no_grad()
def _clearest(
    model: OpenModel, reading: Reading, number: int, head: int | None, word: int | None
) -> tuple[float, int, int, int]:
    """The clearest link of a layer: (clearness, layer, head, from word)."""
    n, x, layer = len(reading.words), reading.inputs[number], model.layer(number)
    place = torch.tensor(_whole_words(reading))
    marks = zip(reading.words, reading.special, strict=True)
    tells = torch.tensor([any(c.isalnum() for c in w) and not mark for w, mark in marks])
    keys = tells.clone()
    keys[0] &= not layer.mask.by_position
    first = {w.casefold(): i for i, w in reversed(list(enumerate(reading.words)))}
    same = torch.tensor([first[w.casefold()] for w in reading.words])
    rows = range(n) if word is None else range(word, word + 1)
    best = (-1.0, number, head or 0, rows[0])
    step = max(1, BLOCK // (layer.n_head * n))
    for start in rows[::step]:
        here = torch.arange(start, min(start + step, rows.stop))
        weights = layer.trace(x[:, here], x, query_offset=start).weights[0]
        reach = (place[here, None] - place).abs().clamp(min=1).log2()
        reach[~(keys & (tells[here, None] | (word is not None)))] = 0
        reach[same[here, None] == same] = 0
        clear = (weights if head is None else weights[head : head + 1]) * reach
        top = int(clear.argmax())
        found = float(clear.flatten()[top])
        if found > best[0]:
            at_head, row = divmod(top // n, len(here))
            best = (found, number, at_head if head is None else head, int(here[row]))
    return best


@torch.no_grad()
def _tell(model: OpenModel, reading: Reading, number: int, head: int, word: int) -> Story:
    layer, x, n = model.layer(number), reading.inputs[number], len(reading.words)
    kv_head = head // (layer.n_head // layer.n_kv_head)
    row = layer.trace(x[:, word : word + 1], x, query_offset=word)
    output, theirs = layer(x), reading.outputs[number]
    step = max(1, BLOCK // (layer.n_head * n))
    starts = range(0, n, step)
    rows = [layer.trace(x[:, i : i + step], x, query_offset=i).weights[0, head] for i in starts]
    context = torch.unflatten(row.context[0, 0], 0, (layer.n_head, -1))[head]
    assert layer.WO is not None
    WO: Any = layer.WO.weight
    size = float(theirs.abs().max())
    return Story(
        model=model.name,
        family=model.family,
        sentence=reading.sentence,
        words=reading.words,
        special=reading.special,
        **model.sizes,
        layer=number,
        head=head,
        word=word,
        mask=repr(layer.mask),
        position="" if layer.position is None else repr(layer.position),
        scale=layer.d_k**-0.5 if layer.scale is None else layer.scale,
        x=x[0, word],
        q=row.q[0, head, 0],
        k=row.k[0, kv_head, word],
        v=row.v[0, kv_head, word],
        scores=row.scores[0, head, 0],
        weights=row.weights[0, head, 0],
        context=context,
        share=context @ WO.T.unflatten(0, (layer.n_head, -1))[head],
        output=output[0, word],
        map=torch.cat(rows),
        # The same sums in another order: d_model products, each rounded by half a last digit.
        proof=Proof(float((output - theirs).abs().max()), size, layer.d_model * 2**-24 * size),
    )


def _whole_words(reading: Reading) -> list[int]:
    """For each token the number of the written word it belongs to: "didn", "'" and "t" are one."""
    numbers: list[int] = []
    text, last = reading.sentence, 0
    for a, b in reading.spans:
        # Scripts from U+2E80 on (Chinese, Japanese, Korean) are written without blanks.
        follows = 0 < a == last < b and not text[a].isspace()
        joined = follows and max(text[a - 1], text[a]) < "\u2e80"
        numbers.append(numbers[-1] + (not joined) if numbers else 0)
        last = b
    return numbers


def _find(reading: Reading, word: str) -> int:
    """The position of a word: a token, the last piece of a word in several, or a number."""
    wanted = word.strip().casefold()
    for i, token in enumerate(reading.words):
        if token.casefold() == wanted:
            return i
    start = reading.sentence.casefold().find(wanted) if wanted else -1
    if start >= 0:
        starts = {a for a, b in reading.spans if a < b}
        ends = [i for i, (a, b) in enumerate(reading.spans) if a < b == start + len(wanted)]
        if ends and start in starts:
            return ends[-1]
    if wanted.isdecimal() and int(wanted) < len(reading.words):
        return int(wanted)
    listed = " ".join(reading.words[:40]) + (" ..." if len(reading.words) > 40 else "")
    raise ArgumentError(
        f"There is no word {word!r} in the sentence. Its words: {listed} "
        f"(or a number from 0 to {len(reading.words) - 1})."
    )
