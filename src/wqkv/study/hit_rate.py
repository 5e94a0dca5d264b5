"""How often a head looks where one expects it to, beside rules that need no model.

One sentence is an anecdote. The same expectation over many sentences is a rate, and a rate says
something if it is above what a simple rule reaches, such as "always the first candidate".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.sentences import Said, say
from wqkv.sentences.errors import mistake
from wqkv.sentences.rate import RATE
from wqkv.study.callbacks import Progress, silent
from wqkv.study.model import OpenModel
from wqkv.study.one_token import find_token, find_word, written_words
from wqkv.study.packaged import E5, MINILM
from wqkv.study.part import in_range
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import View


class Expectation(NamedTuple):
    """In `text`, the word `query` looks at the word `key` more than at the others of `among`.

    A word that is cut into several tokens looks from its last one, and is looked at with the sum of
    their weights. Where `key` stands several times, each of its places is right.
    """

    text: str
    query: str
    key: str
    among: tuple[str, ...] = ()  # the candidates beside `key`; none is every word but `query`


class Tried(NamedTuple):
    """What one expectation compares, in the order of the text."""

    expectation: Expectation
    candidates: tuple[str, ...]
    right: tuple[bool, ...]  # per candidate
    distances: tuple[int, ...]  # per candidate, from the query in written words; negative is before
    weights: Tensor  # (n_layer, n_head, candidates)

    def pick(self, layer: int, head: int) -> int:
        """The candidate on which a head puts the most weight."""
        return int(self.weights[layer, head].argmax())

    @property
    def hits(self) -> Tensor:
        """Per head, whether the candidate of the most weight is right: bool (n_layer, n_head)."""
        return torch.tensor(self.right, device="cpu")[self.weights.argmax(dim=2)]


class Rule(NamedTuple):
    """A rule that needs no model: how many expectations it meets, how often the head picks so."""

    name: str  # "first", "nearest", "before" or "after"
    steps: int  # how many written words before or after; 0 for the others
    hits: int
    agrees: int


@dataclass(frozen=True)
class HitRate:
    """How often heads looked where they were expected to.

    `layer` and `head` are the head that was asked about. Where none was, they are the head of the
    most hits, and `chosen` is True: the best of many heads is good on these sentences by chance,
    too, and `held_out` says how such a choice does on sentences that it has not seen.
    """

    model: str
    tried: tuple[Tried, ...]
    layer: int
    head: int
    chosen: bool

    @cached_property
    def hits(self) -> Tensor:
        """How many expectations each head meets: (n_layer, n_head)."""
        return torch.stack([one.hits for one in self.tried]).sum(dim=0)

    @property
    def hit(self) -> tuple[bool, ...]:
        """Per expectation, whether the head meets it."""
        return tuple(bool(one.hits[self.layer, self.head]) for one in self.tried)

    @property
    def rate(self) -> float:
        """The share of the expectations that the head meets."""
        return sum(self.hit) / len(self.tried)

    @property
    def mean_weight(self) -> float:
        """The weight that the head puts on the right word, as a mean over the expectations."""
        right = (
            one.weights[self.layer, self.head][torch.tensor(one.right, device="cpu")].sum()
            for one in self.tried
        )
        return sum(map(float, right)) / len(self.tried)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Rules that need no model: the first candidate, the nearest one, one fixed distance.

        The distance is the one that meets the most expectations, so it is fitted to these.
        """
        first = [0] * len(self.tried)
        near = [_nearest(one.distances) for one in self.tried]
        at = Counter(
            steps
            for one in self.tried
            for steps, right in zip(one.distances, one.right, strict=True)
            if right
        )
        ((steps, _),) = at.most_common(1)
        fixed = [
            one.distances.index(steps) if steps in one.distances else None for one in self.tried
        ]
        side = "before" if steps < 0 else "after"
        return (
            self._rule("first", 0, first),
            self._rule("nearest", 0, near),
            self._rule(side, abs(steps), fixed),
        )

    def _rule(self, name: str, steps: int, picks: Sequence[int | None]) -> Rule:
        both = [*zip(self.tried, picks, strict=True)]
        return Rule(
            name,
            steps,
            sum(pick is not None and one.right[pick] for one, pick in both),
            sum(pick == one.pick(self.layer, self.head) for one, pick in both),
        )

    @property
    def chance(self) -> float:
        """The share of the expectations that a candidate drawn at random meets, on average."""
        return sum(sum(one.right) / len(one.right) for one in self.tried) / len(self.tried)

    @cached_property
    def held_out(self) -> int:
        """Hits of the head that is best on the other half of the sentences, over both halves.

        The halves are the first and the second, so that sentences that belong together stay so.
        """
        found = torch.stack([one.hits for one in self.tried]).flatten(1).long()
        halves = found[: len(found) // 2], found[len(found) // 2 :]
        return sum(
            int(tested[:, chosen.sum(dim=0).argmax()].sum())
            for chosen, tested in (halves, halves[::-1])
            if len(chosen)
        )

    def __repr__(self) -> str:
        return f"HitRate: {self.report()[0]}"

    def report(self) -> list[Said]:
        """The rate, what rules reach that need no model, and how the head was chosen, as lines."""
        n, head = len(self.tried), {"model": self.model, "layer": self.layer, "head": self.head}
        facts = {"hits": sum(self.hit), "rate": self.rate, "weight": self.mean_weight}
        lines = [say(RATE["hits"], n=n, **head, **facts), say(RATE["without"])]
        for rule in self.rules:
            name = say(RATE[rule.name], steps=rule.steps)
            lines.append(say(RATE["rule"], rule=name, hits=rule.hits, n=n, agrees=rule.agrees))
        lines.append(say(RATE["chance"], hits=self.chance * n, n=n))
        if self.chosen:
            lines.append(say(RATE["chosen"], heads=self.hits.numel(), held=self.held_out, n=n))
        return lines


class KnownRate(NamedTuple):
    """The rate of an example that is shown to everybody, and the rule that comes nearest to it."""

    model: str
    layer: int
    head: int
    texts: tuple[str, ...]  # beside which it is said
    query: str
    data: str  # its sentences, a file of the folder examples
    n: int
    hits: int
    rule: str
    right: int  # how often the rule is right
    agrees: int


#: tests/unit/study/test_hit_rate.py counts them anew.
KNOWN_RATES = (
    KnownRate(
        MINILM.name, 3, 1,
        ("The animal didn't cross the street because it was too tired.",), "it",
        "it.jsonl", 40, 24, "first", 20, 26,
    ),
    KnownRate(
        E5.name, 6, 2,
        ("孩子打开了窗户。", "孩子把窗户打开了。", "窗户被孩子打开了。"), "打开",
        "verb-object.zh.jsonl", 48, 40, "nearest", 25, 33,
    ),
)  # fmt: skip


def known_of(model: str, text: str) -> KnownRate | None:
    """The rate that is known of a model's head on a text, and where to look at it."""
    return next((one for one in KNOWN_RATES if model == one.model and text in one.texts), None)


def known_rate(model: str, text: str, layer: int, head: int) -> Said:
    """How often a head does what an example shows of it; "" for another text or head."""
    one = known_of(model, text)
    if one is None or (layer, head) != (one.layer, one.head):
        return Said("", "")
    return say(RATE["known"], **{**one._asdict(), "rule": say(RATE[one.rule], steps=0)})


@door
def hit_rate(
    model: OpenModel,
    expectations: Sequence[Expectation],
    layer: int | None = None,
    head: int | None = None,
    progress: Progress = silent,
) -> HitRate:
    """Count how often the candidate of the most weight is the expected word.

    Args:
        layer: the layer of the head; None, with `head`, is the head that meets the most
            expectations.
        progress: counts expectations; each is one run of the model.

    Raises:
        ArgumentError: no expectation; a word that is not in its text, or alone in it; a word that
            the mask hides; a layer without a head, or one that is out of range.

    >>> from transformers import BertConfig, BertModel, BertTokenizerFast
    >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat saw a dog because it barked"
    >>> tokenizer = BertTokenizerFast(vocab={word: at for at, word in enumerate(words.split())})
    >>> sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    >>> bert = BertModel(BertConfig(vocab_size=13, intermediate_size=5, **sizes)).eval()
    >>> text = "the cat saw a dog because it barked"
    >>> found = hit_rate(OpenModel(bert, tokenizer, "tiny"), [Expectation(text, "it", "dog")], 1, 2)
    >>> found.tried[0].candidates
    ('the', 'cat', 'saw', 'a', 'dog', 'because', 'barked')
    >>> [(rule.name, rule.steps, rule.hits) for rule in found.rules]
    [('first', 0, 0), ('nearest', 0, 0), ('before', 2, 1)]
    """
    if not expectations:
        raise ArgumentError(mistake("nothing_expected"))
    if (layer is None) != (head is None):
        raise ArgumentError(
            f"`layer` is {layer} and `head` is {head}.\nPass both, or none for the best head."
        )
    if layer is not None and head is not None:
        in_range("layer", layer, model.sizes.n_layer)
        in_range("head", head, model.sizes.n_head)
    tried: list[Tried] = []
    for one in expectations:
        tried.append(_try(model, one))
        progress(len(tried), len(expectations))
    asked = HitRate(model.name, tuple(tried), layer or 0, head or 0, chosen=layer is None)
    if layer is not None:
        return asked
    best = divmod(int(asked.hits.argmax()), model.sizes.n_head)
    return HitRate(model.name, asked.tried, *best, chosen=True)


def _nearest(distances: Sequence[int]) -> int:
    """Which candidate is the nearest; the earlier one of two."""
    return min(range(len(distances)), key=lambda at: abs(distances[at]))


def _try(model: OpenModel, expected: Expectation) -> Tried:
    """Read one text, and take the weights of all heads on its candidates."""
    view = View(model, model.read(expected.text))
    text = view.reading
    query, words = find_token(text, expected.query), written_words(text)
    right = _places(text, expected.key)
    if expected.among:
        others = [place for word in expected.among for place in _places(text, word)]
    else:
        others = _other_words(text, words)
    found = dict.fromkeys(right, True)
    found |= {place: False for place in others if not any(set(place) & set(at) for at in right)}
    # What looks is no candidate, and a causal model looks at nothing that comes after it.
    causal = model.layer(0).mask.by_position
    kept = sorted(at for at in found if query not in at and not (causal and at[-1] > query))
    if not 0 < sum(found[at] for at in kept) < len(kept):
        words_seen = ", ".join(repr(_typed(text, at)) for at in kept) or mistake("nothing_seen")
        facts = {"query": expected.query, "text": expected.text, "key": expected.key}
        raise ArgumentError(mistake("not_comparable", **facts, seen=words_seen))
    weights = torch.empty(model.sizes.n_layer, model.sizes.n_head, len(kept), device="cpu")
    for layer in range(model.sizes.n_layer):
        ((_, rows),) = view.layer(layer).rows(torch.tensor([query], device="cpu"))
        for number, tokens in enumerate(kept):
            weights[layer, :, number] = rows[:, 0, tokens].sum(dim=1)
    return Tried(
        expected,
        candidates=tuple(_typed(text, at) for at in kept),
        right=tuple(found[at] for at in kept),
        distances=tuple(words[at[0]] - words[query] for at in kept),
        weights=weights,
    )


Place = tuple[int, ...]  # the tokens of a word, side by side


def _places(text: TokenizedText, word: str) -> list[Place]:
    """Where a word stands: by itself, or else inside of other words."""
    spans = find_word(text.sentence, word)
    places = [
        tuple(i for i, (a, b) in enumerate(text.spans) if a < end and start < b)
        for start, end in spans
    ]
    return [place for place in places if place] or [(find_token(text, word),)]


def _other_words(text: TokenizedText, words: Sequence[int]) -> list[Place]:
    """Every written word with a letter or digit."""
    found: dict[int, list[int]] = {}
    for i, (number, token, special) in enumerate(
        zip(words, text.tokens, text.special, strict=True)
    ):
        if not special and any(c.isalnum() for c in token):
            found.setdefault(number, []).append(i)
    return [tuple(tokens) for tokens in found.values()]


def _typed(text: TokenizedText, place: Place) -> str:
    """What was typed of some tokens that stand side by side."""
    return text.sentence[text.spans[place[0]][0] : text.spans[place[-1]][1]]
