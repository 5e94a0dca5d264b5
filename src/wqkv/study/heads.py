"""What a head does: a label for every head of a model, with its scores and its evidence.

The label is the pattern with the highest score of those that pass (see patterns.py). A head that
passes for no pattern is "unclassified".
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypedDict, cast

import torch

from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.watch import watch
from wqkv.sentences import Said, say
from wqkv.sentences.counts import count_of
from wqkv.sentences.errors import mistake
from wqkv.sentences.heads import EVIDENCE, ON, TABLE
from wqkv.sentences.heads import LABELS as NAMES
from wqkv.sentences.reading import SOURCES
from wqkv.study.answers import STATISTICS, HeadGrid
from wqkv.study.callbacks import Progress, silent
from wqkv.study.known_texts import KNOWN_TEXTS, MarkedWindow, mark_window, objects_of
from wqkv.study.model import OpenModel
from wqkv.study.patterns import (
    FEWEST,
    NEAR,
    PATTERNS,
    RELATIONS,
    PatternSums,
    TokenPair,
    passes,
    sum_patterns,
)
from wqkv.study.tokens import NOTHING_UNREAD, Unread, cut_text, windows
from wqkv.study.view import View

UNCLASSIFIED = "unclassified"
LABELS = (*PATTERNS, UNCLASSIFIED)


class ScoreFacts(TypedDict):
    """The numbers of a score as they are written in a sentence."""

    value: str
    flat: str
    tokens: str


@dataclass(frozen=True)
class Score:
    """The mean of one pattern for one head."""

    value: float  # the share of the weight; for uniform, of the highest entropy
    flat: float  # what equal weights over the visible tokens would give
    tokens: int  # over how many tokens the mean is taken

    @property
    def facts(self) -> ScoreFacts:
        """Its numbers as they are written in a sentence."""
        flat = f"{self.flat:.2f}" if self.flat >= 0.005 else f"{self.flat:.1g}"
        return {"value": f"{self.value:.2f}", "flat": flat, "tokens": f"{self.tokens:,}"}


@dataclass(frozen=True)
class Head:
    """One head: its label, the score that gave it, and every score.

    `score` is None for an unclassified head; a pattern is None in `scores` where it cannot be seen
    (the next token in a causal model) or where it is a mean over fewer than FEWEST tokens.
    """

    layer: int
    head: int
    label: str
    score: float | None
    scores: dict[str, Score | None]

    @property
    def evidence(self) -> Said:
        """Why the head has its label, in one clause."""
        return evidence(self)

    @property
    def pattern(self) -> str | None:
        """The pattern of the evidence: the label, or for an unclassified head the highest score."""
        if self.label != UNCLASSIFIED:
            return self.label
        known = {name: score.value for name, score in self.scores.items() if score is not None}
        known.pop("uniform", None)  # a share of the entropy, which no share of weight compares with
        return max(known, key=known.__getitem__, default=None)


@door
@dataclass(frozen=True)
class Heads:
    """Every head of a model, by layer: `heads[18][6]` is head 6 of layer 18.

    `tokens` is over how many tokens the scores are taken, `source` says what was read, and `unread`
    how much of it the model cannot read as it was typed.

    >>> maps = [AttentionMap(torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 8))]
    >>> found = heads(maps, "one two three four five six seven".split())
    >>> found
    Heads of 1 layer x 2 heads over 7 tokens: 2 uniform
    >>> found[0][1].evidence
    'reaches 1.00 of the highest entropy (mean of 7 tokens)'
    """

    table: tuple[tuple[Head, ...], ...]
    tokens: int
    source: str = ""
    unread: Unread = NOTHING_UNREAD

    @door
    def __getitem__(self, layer: int) -> tuple[Head, ...]:
        return self.table[layer]

    @property
    def all(self) -> list[Head]:
        """The heads of all layers, in order."""
        return [head for layer in self.table for head in layer]

    @property
    def size(self) -> str:
        """`6 layers x 12 heads`."""
        layers, n_head = len(self.table), max((len(layer) for layer in self.table), default=0)
        counts = {"layers": count_of(layers, "layer"), "heads": count_of(n_head, "head")}
        return say(TABLE["size"], **counts)

    def labelled(self, label: str) -> list[Head]:
        """The heads with a label, the strongest first."""
        found = [head for head in self.all if head.label == label]
        return sorted(found, key=lambda head: -(head.score or 0))

    def __repr__(self) -> str:
        found = ((len(self.labelled(label)), label) for label in LABELS)
        counts = ", ".join(f"{count} {label}" for count, label in found if count)
        return f"Heads of {self.size} over {self.tokens} tokens: {counts or 'none'}"


@door
def heads(
    maps: Iterable[AttentionMap],
    tokens: Sequence[Hashable],
    special: Sequence[bool] | None = None,
    separators: Sequence[bool] | None = None,
    rare: Sequence[bool] | None = None,
    relations: Mapping[str, Sequence[TokenPair]] | None = None,
) -> Heads:
    """Label every head by where its weight lies, each score a mean over the tokens of one text.

    Special tokens have no score of their own, and looking at one counts for the sinks alone. A
    pattern gives its label if it has more than SHARE of the weight, and at least LIFT times what
    equal weights would put there (uniform: EVEN of the highest entropy). A relation, which concerns
    few tokens, needs SOME_SHARE, and SOME_LIFT times what the head puts as far away elsewhere.

    Args:
        maps: one per layer, of one text read whole: (1, n_head, n, n).
        tokens: n strings or ids; equal ones are the same token.
        special: n, True for [CLS], <s> and their like; None is none.
        separators: n, True where a separator stands; None is special tokens after the first, and
            strings without a letter or digit.
        rare: n, True where a token is rare; None is nowhere.
        relations: pairs (query, key) of positions by one of RELATIONS, such as "verb to object".

    Raises:
        ArgumentError: a map that is not (1, n_head, n, n), marks that are not n, an unknown
            relation, or a position that is not there.

    Source: previous-token, duplicate-token and induction heads: Elhage et al. 2021 and Olsson et
    al. 2022 (arXiv:2209.11895); sinks, delimiters, verbs and objects: Clark et al. 2019
    (arXiv:1906.04341), and Xiao et al. 2023 (arXiv:2309.17453); rare tokens: Voita et al. 2019
    (arXiv:1905.09418); subwords: Correia et al. 2019 (arXiv:1909.00015).
    """
    return label_sums(sum_patterns(maps, tokens, special, separators, rare, relations))


# The heads of a model, which is run on a text to label them


def probe(model: OpenModel, n: int = 40, seed: int = 0, progress: Progress = silent) -> Heads:
    """The heads of a causal model over n random tokens read twice: the test for induction.

    The tokens are random, so in the second half only a look at the first can tell what comes next.
    `progress` counts layers.
    """
    if n < FEWEST:
        raise ArgumentError(f"`n` is {n}, how many random tokens to read.\nPass {FEWEST} or more.")
    special = set(model.tokenizer.all_special_ids)
    count = min(len(model.tokenizer), model.config.vocab_size)  # each may have more than the other
    usable = torch.tensor([i for i in range(count) if i not in special], device="cpu")
    random = torch.Generator().manual_seed(seed)
    ids = usable[torch.randint(len(usable), (n,), generator=random, device="cpu")].tolist() * 2
    none = [False] * len(ids)
    source = say(SOURCES["random"], n=n, seed=seed)
    random_text = MarkedWindow(ids, none, none, none, {})
    return _label_windows(model, [random_text], source, progress)


def read(
    model: OpenModel, texts: Sequence[str], source: str = "", progress: Progress = silent
) -> Heads:
    """The heads of a model over texts of any length: means over all tokens of all windows.

    A text longer than the model takes (or than LONGEST_WINDOW) is cut into windows of nearly equal
    length, each read by itself, with the special tokens that the tokenizer puts around a text.
    `progress` counts layers.
    """
    cut = [window for text in texts for window in windows(model.tokenizer, text, model.longest)]
    if len(cut) > len(texts):
        longest = max(len(window.ids) for window in cut)
        source = say(SOURCES["windows"], source=source, count=len(cut), longest=longest)
    marked = [mark_window(model.tokenizer, window) for window in cut]
    found = _label_windows(model, marked, source, progress)
    unread = [cut_text(model.tokenizer, text).unread for text in texts]
    return replace(found, unread=reduce(Unread.plus, unread))


def label_model(model: OpenModel, progress: Progress = silent) -> Heads:
    """The heads of a model where no text is given: a causal one is probed, another reads texts.

    They are KNOWN_TEXTS, of which is known which noun is the object of which verb.
    """
    if model.layer(0).mask.by_position:
        return probe(model, progress=progress)
    cut = []
    for known in KNOWN_TEXTS:
        found = windows(model.tokenizer, known.text, model.longest)
        objects = objects_of(model.tokenizer, known) if len(found) == 1 else {}
        cut += [mark_window(model.tokenizer, window, objects) for window in found]
    names = ", ".join(known.name for known in KNOWN_TEXTS)
    return _label_windows(model, cut, say(SOURCES["built_in"], names=names), progress)


def label_heads(view: View, progress: Progress = silent) -> Heads:
    """The heads of the model of a view: `label_model` if it reads one text.

    Of a model of two texts it is what the heads of this part do in the text of the view, because
    no text of random tokens would make such a model write the same again.
    """
    if isinstance(view.model, OpenModel):
        return label_model(view.model, progress)
    view.check_statistic("label")  # "cross" has no labels: its patterns are within one text
    maps = (view.layer(i).whole for i in range(view.model.sizes.n_layer))
    return heads(maps, view.reading.tokens, view.reading.special)


def label_grid(found: Heads) -> HeadGrid:
    """What every head does, as the grid of the statistic "label"."""
    values = [[math.nan if h.score is None else h.score for h in layer] for layer in found.table]
    return HeadGrid(
        "label", STATISTICS["label"], 0.0, 1.0, torch.tensor(values, device="cpu"),
        labels=tuple(tuple(head.label for head in layer) for layer in found.table),
        evidence=tuple(tuple(head.evidence for head in layer) for layer in found.table),
    )  # fmt: skip


def _label_windows(
    model: OpenModel, windows: Sequence[MarkedWindow], source: str, progress: Progress
) -> Heads:
    """The heads over windows; `progress` counts the layers of all windows."""
    done, total = 0, len(windows) * model.sizes.n_layer
    sums: PatternSums | None = None

    def maps(ids: list[int]) -> Iterator[AttentionMap]:
        nonlocal done
        for one in record_maps(model, ids):
            yield one
            done += 1
            progress(done, total)

    for ids, special, separators, rare, relations in windows:
        more = sum_patterns(maps(ids), ids, special, separators, rare, relations)
        sums = more if sums is None else sums.plus(more)
    if sums is None or not sums.tokens:
        raise ArgumentError(mistake("no_tokens", model=model.name))
    return label_sums(sums, source)


def record_maps(model: OpenModel, ids: Sequence[int]) -> Sequence[AttentionMap]:
    """Run the model on one text, given as ids; record the map of every layer and prove it.

    Raises:
        MissedError: a layer could not be recorded, or its proof failed.
    """
    with torch.no_grad(), watch(model.model) as seen:
        model.model(input_ids=torch.tensor([list(ids)], device="cpu"))
    return cast(Sequence[AttentionMap], seen)


# Labels


def label_sums(sums: PatternSums, source: str = "") -> Heads:
    """The label of every head, from the sums over its tokens."""
    table = []
    for layer, of_layer in enumerate(sums.layers):
        row = []
        for head, numbers in enumerate(of_layer.permute(2, 1, 0).tolist()):
            scores = {
                name: Score(value / rows, flat / rows, round(rows)) if rows >= FEWEST else None
                for name, (value, flat, rows) in zip(PATTERNS, numbers, strict=True)
            }
            row.append(_label_head(layer, head, scores))
        table.append(tuple(row))
    return Heads(tuple(table), sums.tokens, source)


def _label_head(layer: int, head: int, scores: dict[str, Score | None]) -> Head:
    """The strongest pattern of the lowest rank of which one passes gives the label."""
    known = {name: score for name, score in scores.items() if score is not None}
    passed = [name for name, score in known.items() if passes(name, score.value, score.flat)]
    if not passed:
        return Head(layer, head, UNCLASSIFIED, None, scores)
    label = min(passed, key=lambda name: (PATTERNS[name].rank, -known[name].value))
    return Head(layer, head, label, known[label].value, scores)


def evidence(head: Head) -> Said:
    """Return why a head has its label, in one clause."""
    pattern = head.pattern
    score = None if pattern is None else head.scores[pattern]
    if pattern is None or score is None:
        return say(EVIDENCE["few"])
    if pattern == "uniform":
        return say(EVIDENCE["even"], **score.facts)
    on = say(ON[pattern], near=NEAR)
    told = say(EVIDENCE["apart" if pattern in RELATIONS else "share"], on=on, **score.facts)
    if head.score is not None:
        return told
    return say(EVIDENCE["none"], nearest=say(NAMES[pattern]), evidence=told)
