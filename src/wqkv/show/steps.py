"""The seven steps in words and formulas with one story's numbers, the same on every face."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wqkv.look.story import Story


@dataclass(frozen=True)
class Step:
    """One step: its name, one plain sentence, and its formula with the numbers of this word."""

    name: str
    sentence: str
    formula: str


def visible(text: str, encoding: str = "utf-8") -> str:
    r"""A word as it can be printed: line breaks as `\n`, what `encoding` lacks as `\u732b`."""
    if not text.strip(" "):
        return repr(text)
    # Characters that turn the reading direction are not printable either: they would mirror a line.
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def number(value: float) -> str:
    """A score or a channel in two decimals: `-4.21`, `12.00`, `3.1e+04`."""
    if not abs(value) < 9999.995:  # also inf and NaN
        return f"{value:.1e}"
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0 turns -0.0 into 0.0


def weight(value: float) -> str:
    """A weight in three decimals, `0.677`; one that would round to 0 as a power, `4.2e-06`."""
    return f"{value:.3f}" if value == 0 or not value < 0.0005 else f"{value:.1e}"


def label(story: Story, j: int, encoding: str = "utf-8") -> str:
    """Word j, short enough for a formula."""
    return short(visible(story.words[j], encoding))


def short(text: str) -> str:
    """At most 20 characters of a text."""
    return text if len(text) <= 20 else text[:17] + "..."


def window(n: int, word: int, most: int) -> range:
    """At most `most` of n positions, with `word` as near to the middle as the ends allow."""
    first = max(0, min(word - most // 2, n - most))
    return range(first, min(n, first + most))


def spread(values: torch.Tensor) -> str:
    """The size of a vector: `32 numbers, -2.13 to 1.98`."""
    return f"{len(values)} numbers, {number(values.min().item())} to {number(values.max().item())}"


def bars(values: torch.Tensor, most: int) -> tuple[list[float], int]:
    """A vector in at most `most` bars, and how many neighbouring numbers each is the mean of."""
    numbers: list[float] = values.tolist()
    per = math.ceil(len(numbers) / most)
    parts = [numbers[i : i + per] for i in range(0, len(numbers), per)]
    return [sum(part) / len(part) for part in parts], per


def hidden(story: Story) -> list[int]:
    """The positions that this word may not see."""
    return [j for j, score in enumerate(story.scores.tolist()) if score == -math.inf]


def seen(story: Story) -> list[int]:
    """The positions that this word may see, by falling weight."""
    return [j for j in story.ranked if story.scores[j] != -math.inf]


def tell(story: Story, encoding: str = "utf-8") -> tuple[Step, ...]:
    """The seven steps of one story, from words to WO."""
    n, word, ranked = len(story.words), label(story, story.word, encoding), seen(story)
    turned = story.position.startswith("RoPE")
    return (
        Step(
            "Words",
            f'The model reads {n} words. We follow "{word}" into layer {story.layer},'
            f" head {story.head}.",
            f'x = the {story.d_model} numbers that stand for "{word}" there',
        ),
        Step(
            "WQ, WK, WV",
            f"Three matrices, learned in training, turn the {story.d_model} numbers of x into"
            f" {_sizes(story)}.",
            "q = x WQ,  k = x WK,  v = x WV   (plus a bias each, where the model has one)"
            + (",  then RoPE turns q and k by their positions" if turned else ""),
        ),
        Step(
            "q, k, v",
            f'q: what "{word}" looks for. k: how other words find it. v: what it hands on.',
            f"q = ({_first(story.q)}),  k = ({_first(story.k)}),  v = ({_first(story.v)})",
        ),
        Step(
            "Scores",
            f'The q of "{word}" meets the k of each word. Where they agree, the score is high.',
            _score(story, ranked, word, encoding),
        ),
        Step(
            "Mask and softmax",
            f"{_mask(story, word)} Softmax turns scores into weights that sum to 1.",
            _softmax(story, ranked, word, encoding),
        ),
        Step(
            "Weighted sum",
            "The v of every word is added up, each in proportion to its weight.",
            _context(story, ranked, encoding),
        ),
        Step(
            "WO",
            f'WO turns the context into what this head adds to "{word}".',
            f"share = context WO,  output = the {story.n_head} heads' shares added up"
            "  (plus a bias, where the model has one)",
        ),
    )


def _sizes(story: Story) -> str:
    if story.q.numel() == story.v.numel():
        return f"{story.q.numel()} each"
    return f"{story.q.numel()} for q, {story.k.numel()} for k and {story.v.numel()} for v"


def _first(values: torch.Tensor) -> str:
    """The first numbers of a vector: `0.31, -1.20, ...`."""
    numbers = [number(value) for value in values[:2].tolist()]
    return ", ".join([*numbers, "..."] if len(values) > 2 else numbers)


def _score(story: Story, ranked: list[int], word: str, encoding: str) -> str:
    if not ranked:
        return "no word may be seen, so there is no score"
    score = f"q . k x {story.scale:.4g}" if story.scale != 1 else "q . k"
    if math.isclose(story.scale, story.d_k**-0.5, rel_tol=1e-6):
        score = f"q . k / sqrt({story.d_k})"
    if story.position and not story.position.startswith("RoPE"):
        score += f" + {story.position.partition('(')[0]}"  # a bias by position
    best = ranked[0]
    return f"score({word}, {label(story, best, encoding)}) = {score} = {_at(story.scores, best)}"


def _at(values: torch.Tensor, j: int) -> str:
    return number(values[j].item())


def _mask(story: Story, word: str) -> str:
    count, n = len(hidden(story)), len(story.words)
    if count == 0:
        return f'No word is hidden from "{word}" ({story.mask}).'
    return (
        f'{count} of {n} words {"is" if count == 1 else "are"} hidden from "{word}" ({story.mask}).'
    )


def _softmax(story: Story, ranked: list[int], word: str, encoding: str) -> str:
    if not ranked:
        return "no word may be seen, so every weight is 0"
    best = ranked[0]
    logsum = torch.logsumexp(story.scores.double(), dim=0).item()
    # exp(710) overflows a float64; there the sum stays in its logarithm.
    total = f"{math.exp(logsum):.4g}" if logsum < 700 else f"exp({logsum:.2f})"
    return (
        f"weight({word}, {label(story, best, encoding)}) = exp(score) / sum of all exp(score)"
        f" = exp({_at(story.scores, best)}) / {total} = {weight(story.weights[best].item())}"
    )


def _context(story: Story, ranked: list[int], encoding: str) -> str:
    terms = [
        f"{weight(story.weights[j].item())} v({label(story, j, encoding)})" for j in ranked[:3]
    ]
    return "context = " + " + ".join([*terms, "..."] if len(ranked) > 3 else terms or ["0"])


def prove(story: Story) -> str:
    """The proof in one line; it begins with FAILED ITS PROOF when it does not hold."""
    proof = story.proof
    facts = (
        f"our output and {story.model}'s own differ by at most {proof.difference:.2g}"
        f" (numbers up to {number(proof.size)}; allowed {proof.tolerance:.2g})"
    )
    if proof.holds:
        return f"PROOF HOLDS: {facts}."
    return f"FAILED ITS PROOF: {facts}. Do not trust this picture."
