"""The seven steps in words and formulas with one story's numbers, the same on every face."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wqkv.draw.phrases import EVIDENCE, PHRASES
from wqkv.study.heads import Head
from wqkv.study.one_token import TokenStory
from wqkv.study.patterns import NEAR

#: What the steps can be told in.
LANGUAGES = tuple(PHRASES)
#: What is said in other words where a word looks at another text.
CROSS = ("words_1", "words_2", "matrices_1", "matrices_f", "qkv_1", "qkv_2", "scores_1", "sum_1")


@dataclass(frozen=True)
class Step:
    """One step: its name, two plain sentences, and its formula with the numbers of this word."""

    name: str
    sentence: str
    sentence2: str
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


def label(tokens: Sequence[str], j: int, encoding: str = "utf-8") -> str:
    """Word j, short enough for a formula."""
    return short(visible(tokens[j], encoding))


def short(text: str) -> str:
    """At most 20 characters of a text."""
    return text if len(text) <= 20 else text[:17] + "..."


def window(n: int, token: int, most: int) -> range:
    """At most `most` of n positions, with `word` as near to the middle as the ends allow."""
    first = max(0, min(token - most // 2, n - most))
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


def hidden(story: TokenStory) -> list[int]:
    """The positions that this word may not see."""
    return [j for j, score in enumerate(story.scores.tolist()) if score == -math.inf]


def seen(story: TokenStory) -> list[int]:
    """The positions that this word may see, by falling weight."""
    scores = story.scores.tolist()
    return [j for j in story.ranked if scores[j] != -math.inf]


def tell(story: TokenStory, encoding: str = "utf-8", lang: str = "en") -> tuple[Step, ...]:
    """The seven steps of one story, from words to WO."""
    say, ranked = PHRASES[lang], seen(story)
    if story.source is not None:
        say = say | {name: say[f"{name}_cross"] for name in CROSS}
    root = math.isclose(story.scale, story.d_k**-0.5, rel_tol=1e-6)
    facts: dict[str, Any] = {
        "n": len(story.tokens),
        "m": len(story.keys),
        "word": label(story.tokens, story.token, encoding),
        "best": label(story.keys, story.ranked[0], encoding),
        "q": story.q.numel(),
        "k": story.k.numel(),
        "v": story.v.numel(),
        "share": number(story.share.norm().item()),
        "output": number(story.output.norm().item()),
        **{
            name: getattr(story, name)
            for name in ("layer", "head", "n_head", "n_kv_head", "d_model", "d_k", "scale")
        },
    }

    def step(name: str, second: str, formula: str, **more: Any) -> Step:
        first, second = (say[key].format(**facts, **more) for key in (f"{name}_1", second))
        return Step(say[name], first, second, formula)

    sizes = say["each" if facts["q"] == facts["k"] == facts["v"] else "apart"].format(**facts)
    shared = story.n_kv_head != story.n_head
    turned = say["matrices_rope"] if story.position.startswith("RoPE") else ""
    scaled = "_root" if root else "_none" if story.scale == 1 else ""
    first = "" if story.layer or story.source is not None else "_first"
    return (
        step("words", f"words_2{first}", say["words_f"].format(**facts)),
        step(
            "matrices",
            "matrices_2_shared" if shared else "matrices_2",
            say["matrices_f"] + turned,
            sizes=sizes,
        ),
        step(
            "qkv",
            "qkv_2",
            f"q = ({_first(story.q)}),  k = ({_first(story.k)}),  v = ({_first(story.v)})",
        ),
        step("scores", f"scores_2{scaled}", _score(story, ranked, encoding, say)),
        _softmax(story, ranked, encoding, say),
        step("sum", "sum_2", _context(story, ranked, encoding)),
        step("out", "out_2", say["out_f"].format(**facts)),
    )


def _first(values: torch.Tensor) -> str:
    """The first numbers of a vector: `0.31, -1.20, ...`."""
    numbers = [number(value) for value in values[:2].tolist()]
    return ", ".join([*numbers, "..."] if len(values) > 2 else numbers)


def _score(story: TokenStory, ranked: list[int], encoding: str, say: dict[str, str]) -> str:
    if not ranked:
        return say["scores_f_none"]
    score = f"q . k x {story.scale:.4g}" if story.scale != 1 else "q . k"
    if math.isclose(story.scale, story.d_k**-0.5, rel_tol=1e-6):
        score = f"q . k / sqrt({story.d_k})"
    if story.position and not story.position.startswith("RoPE"):
        score += f" + {story.position.partition('(')[0]}"  # a bias by position
    token = label(story.tokens, story.token, encoding)
    best = label(story.keys, ranked[0], encoding)
    return f"score({token}, {best}) = {score} = {_at(story.scores, ranked[0])}"


def _at(values: torch.Tensor, j: int) -> str:
    return number(values[j].item())


def _softmax(story: TokenStory, ranked: list[int], encoding: str, say: dict[str, str]) -> Step:
    n, token = len(story.keys), label(story.tokens, story.token, encoding)
    count = n - len(ranked)
    which = "none_hidden" if count == 0 else "one_hidden" if count == 1 else "hidden"
    facts = {"word": token, "n": n, "count": count, "mask": story.mask}
    mask = say[which].format(**facts)
    if not ranked:
        sentence = say["softmax_1"].format(hidden=mask)
        return Step(say["softmax"], sentence, say["softmax_2_none"], say["softmax_f_none"])
    best, sink = ranked[0], 1 - story.weights.double().sum().item()
    name, top = label(story.keys, best, encoding), weight(story.weights[best].item())
    logsum = torch.logsumexp(story.scores.double(), dim=0).item()
    if sink > 1e-4:  # a learned one: rounding is smaller
        logsum -= math.log1p(-sink)
        sentence = say["softmax_1_sink"].format(hidden=mask, sink=weight(sink))
    else:
        sentence = say["softmax_1"].format(hidden=mask)
    # exp(710) overflows a float64; there the sum stays in its logarithm.
    total = f"{math.exp(logsum):.4g}" if logsum < 700 else f"exp({logsum:.2f})"
    return Step(
        say["softmax"],
        sentence,
        say["softmax_2"].format(word=token, best=name, weight=top, equal=weight(1 / len(ranked))),
        f"weight({token}, {name}) = {say['softmax_f']}"
        f" = exp({_at(story.scores, best)}) / {total} = {top}",
    )


def _context(story: TokenStory, ranked: list[int], encoding: str) -> str:
    terms = [
        f"{weight(story.weights[j].item())} v({label(story.keys, j, encoding)})" for j in ranked[:3]
    ]
    return "context = " + " + ".join([*terms, "..."] if len(ranked) > 3 else terms or ["0"])


def prove(story: TokenStory, lang: str = "en") -> str:
    """The proof in one line; it begins with FAILED ITS PROOF when it does not hold."""
    say, proof = PHRASES[lang], story.proof
    facts = say["proof"].format(
        model=story.model,
        difference=proof.difference,
        size=number(proof.size),
        tolerance=proof.tolerance,
    )
    return say["holds" if proof.holds else "failed"].format(facts=facts)


def evidence(head: Head, lang: str = "en") -> str:
    """Why a head has its label, in one clause."""
    if lang not in EVIDENCE:
        return head.evidence
    say, pattern = EVIDENCE[lang], head.pattern
    score = None if pattern is None else head.scores[pattern]
    if pattern is None or score is None:
        return say["few"]
    on = say[pattern].format(near=NEAR)
    told = say["even" if pattern == "uniform" else "share"].format(on=on, **score.facts)
    return told if head.score is not None else say["none"].format(nearest=told)
