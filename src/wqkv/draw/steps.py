"""The seven steps of one story: sentences and formulas with its numbers, for every page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wqkv.maps.display import number, short, visible, weight
from wqkv.sentences import in_language
from wqkv.sentences.reading import UNREAD
from wqkv.sentences.seen import SEEN
from wqkv.sentences.steps import NOUNS, PROOF, STEPS
from wqkv.study.one_token import TokenStory
from wqkv.study.packaged import READS_MOST
from wqkv.study.tokens import Unread

#: The phrases that read differently in cross-attention; that form has "_cross" after its name.
CROSS = ("words_1", "words_2", "matrices_1", "matrices_f", "qkv_1", "qkv_2", "scores_1", "sum_1")
#: Those that read differently of pictures; that form has "_picture" or "_both" after its name.
PICTURED = ("words", "words_1", "words_2_first")


@dataclass(frozen=True)
class StoryStep:
    """One step: its name, two sentences, and its formula with the numbers of the chosen token."""

    name: str
    sentence: str
    sentence2: str
    formula: str


def label(tokens: Sequence[str], j: int, encoding: str = "utf-8") -> str:
    """Return token j, short enough for a formula."""
    return short(visible(tokens[j], encoding))


def window(n: int, token: int, most: int) -> range:
    """Return at most `most` of n positions, with `token` as near to the middle as possible."""
    first = max(0, min(token - most // 2, n - most))
    return range(first, min(n, first + most))


def where(story: TokenStory, lang: str = "en") -> str:
    """Return which head is shown: the model, the layer, the head, and whether heads share k and v.

    Args:
        lang: one of LANGUAGES.
    """
    say = in_language(SEEN, lang)
    which = say["where"] + (say["where_shared"] if story.n_kv_head != story.n_head else "")
    return which.format(
        model=story.model,
        layer=story.layer,
        last_layer=story.n_layer - 1,
        head=story.head,
        last_head=story.n_head - 1,
        n_head=story.n_head,
        n_kv_head=story.n_kv_head,
    )


def spread(values: torch.Tensor, lang: str = "en") -> str:
    """Return the length and range of a vector: `32 numbers, -2.13 to 1.98`."""
    low, high = (number(value.item()) for value in (values.min(), values.max()))
    return in_language(SEEN, lang)["spread"].format(n=len(values), low=low, high=high)


def others(story: TokenStory, rest: Sequence[int], lang: str = "en") -> str:
    """Return how much weight the tokens have together that a table leaves out; at least one."""
    share = weight(sum(story.weights[j].item() for j in rest))
    say = in_language(SEEN, lang)["one_more" if len(rest) == 1 else "more"]
    return say.format(count=len(rest), share=share)


def bars(values: torch.Tensor, most: int) -> tuple[list[float], int]:
    """Return a vector in at most `most` bars, and how many neighbors each bar is the mean of."""
    numbers: list[float] = values.tolist()
    per = math.ceil(len(numbers) / most)
    parts = [numbers[i : i + per] for i in range(0, len(numbers), per)]
    return [sum(part) / len(part) for part in parts], per


def hidden(story: TokenStory) -> list[int]:
    """Return the positions that the chosen token may not see."""
    return [j for j, score in enumerate(story.scores.tolist()) if score == -math.inf]


def seen(story: TokenStory) -> list[int]:
    """Return the positions that the chosen token may see, by falling weight."""
    scores = story.scores.tolist()
    return [j for j in story.ranked if scores[j] != -math.inf]


def tell(story: TokenStory, encoding: str = "utf-8", lang: str = "en") -> tuple[StoryStep, ...]:
    """Return the seven steps of one story, from words to WO.

    Args:
        encoding: of what prints them; characters that it lacks are written as codes.
        lang: one of LANGUAGES.
    """
    say, ranked = _phrases(story, lang), seen(story)
    root = math.isclose(story.scale, story.d_k**-0.5, rel_tol=1e-6)
    facts: dict[str, str | int | float] = {
        "n": len(story.tokens),
        "cells": story.cells,
        "rows": story.picture.rows if story.picture else 0,
        "columns": story.picture.columns if story.picture else 0,
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

    def step(name: str, second: str, formula: str, **more: str) -> StoryStep:
        first, second = (say[key].format(**facts, **more) for key in (f"{name}_1", second))
        return StoryStep(say[name], first, second, formula)

    sizes = say["each" if facts["q"] == facts["k"] == facts["v"] else "apart"].format(**facts)
    shared = story.n_kv_head != story.n_head
    scaled = "_root" if root else "_none" if story.scale == 1 else ""
    first = "" if story.layer or story.source is not None else "_first"
    return (
        step("words", f"words_2{first}", say["words_f"].format(**facts)),
        step(
            "matrices",
            "matrices_2_shared" if shared else "matrices_2",
            say["matrices_f"] + _after_product(story, say),
            sizes=sizes,
        ),
        step(
            "qkv",
            "qkv_2",
            "q = ({}),  k = ({}),  v = ({})".format(
                *map(_first_numbers, (story.q, story.k, story.v))
            ),
        ),
        step("scores", f"scores_2{scaled}", _score_formula(story, ranked, encoding, say)),
        _softmax_step(story, ranked, encoding, say),
        step("sum", "sum_2", _context_formula(story, ranked, encoding)),
        step("out", "out_2", say["out_f_gated" if is_gated(story) else "out_f"].format(**facts)),
    )


def _phrases(story: TokenStory, lang: str) -> dict[str, str]:
    """The sentences of the steps, in the words for a text, for a picture, or for both together."""
    say = in_language(STEPS, lang)
    if story.source is not None:
        say |= {name: say[f"{name}_cross"] for name in CROSS}
    reads = "text" if not story.cells else "both" if story.picture is None else "picture"
    if story.cells:
        say |= {name: say[f"{name}_{reads}"] for name in PICTURED}
    for name, noun in in_language(NOUNS[reads], lang).items():
        say = {key: phrase.replace(f"{{{name}}}", noun) for key, phrase in say.items()}
    return say


def is_gated(story: TokenStory) -> bool:
    """Whether WO multiplies the context times a gate."""
    return story.matrices is not None and "gate" in story.matrices.to_context


def share_name(story: TokenStory) -> str:
    """Return what the share of a head is, as a formula."""
    return "share = (context x gate) WO" if is_gated(story) else "share = context WO"


def _after_product(story: TokenStory, say: dict[str, str]) -> str:
    """What a layer does to x W + b before it is q, k or v."""
    found, rope = story.matrices, story.position.startswith("RoPE")
    done = (found.to_q, found.to_k, found.to_v) if found else ()
    if not any(part for part in done if part != ("RoPE",)):
        return say["matrices_rope"] if rope else ""
    return "".join(
        say["matrices_between"].format(made=made, between=say["and"].join(say[one] for one in part))
        for made, part in zip("qkv", done, strict=True)
        if part
    )


def _first_numbers(values: torch.Tensor) -> str:
    """The first numbers of a vector: `0.31, -1.20, ...`."""
    numbers = [number(value) for value in values[:2].tolist()]
    return ", ".join([*numbers, "..."] if len(values) > 2 else numbers)


def _score_formula(story: TokenStory, ranked: list[int], encoding: str, say: dict[str, str]) -> str:
    if not ranked:
        return say["scores_f_none"]
    score = f"q . k x {story.scale:.4g}" if story.scale != 1 else "q . k"
    if math.isclose(story.scale, story.d_k**-0.5, rel_tol=1e-6):
        score = f"q . k / sqrt({story.d_k})"
    if story.softcap is not None:
        score = f"{story.softcap:g} tanh({score} / {story.softcap:g})"
    if story.position and not story.position.startswith("RoPE"):
        score += f" + {story.position.partition('(')[0]}"  # a bias by position
    token = label(story.tokens, story.token, encoding)
    best = label(story.keys, ranked[0], encoding)
    return f"score({token}, {best}) = {score} = {_number_at(story.scores, ranked[0])}"


def _number_at(values: torch.Tensor, j: int) -> str:
    return number(values[j].item())


def _softmax_step(
    story: TokenStory, ranked: list[int], encoding: str, say: dict[str, str]
) -> StoryStep:
    n, token = len(story.keys), label(story.tokens, story.token, encoding)
    count = n - len(ranked)
    which = "none_hidden" if count == 0 else "one_hidden" if count == 1 else "hidden"
    facts = {"word": token, "n": n, "count": count, "mask": story.mask}
    mask = say[which].format(**facts)
    if not ranked:
        sentence = say["softmax_1"].format(hidden=mask)
        return StoryStep(say["softmax"], sentence, say["softmax_2_none"], say["softmax_f_none"])
    best, sink = ranked[0], 1 - story.weights.double().sum().item()
    name, top = label(story.keys, best, encoding), weight(story.weights[best].item())
    logsum = torch.logsumexp(story.scores.double(), dim=0).item()
    if sink > 1e-4:  # only a learned sink takes so much: rounding takes less
        logsum -= math.log1p(-sink)
        sentence = say["softmax_1_sink"].format(hidden=mask, sink=weight(sink))
    else:
        sentence = say["softmax_1"].format(hidden=mask)
    # exp(710) overflows a float64; there the sum stays in its logarithm.
    total = f"{math.exp(logsum):.4g}" if logsum < 700 else f"exp({logsum:.2f})"
    return StoryStep(
        say["softmax"],
        sentence,
        say["softmax_2"].format(word=token, best=name, weight=top, equal=weight(1 / len(ranked))),
        f"weight({token}, {name}) = {say['softmax_f']}"
        f" = exp({_number_at(story.scores, best)}) / {total} = {top}",
    )


def _context_formula(story: TokenStory, ranked: list[int], encoding: str) -> str:
    terms = [
        f"{weight(story.weights[j].item())} v({label(story.keys, j, encoding)})" for j in ranked[:3]
    ]
    return "context = " + " + ".join([*terms, "..."] if len(ranked) > 3 else terms or ["0"])


def prove(story: TokenStory, lang: str = "en") -> str:
    """Return the proof in one line, which begins with FAILED ITS PROOF when it does not hold."""
    say, proof = in_language(PROOF, lang), story.proof
    facts = say["proof"].format(
        model=story.model,
        difference=proof.difference,
        size=number(proof.size),
        tolerance=proof.tolerance,
    )
    return say["holds" if proof.holds else "failed"].format(facts=facts)


def cannot_read(unread: Unread, model: str, lang: str = "en") -> str:
    """Say which tokens the model cannot read as typed, and name a model that can; "" if none.

    >>> cannot_read(Unread(7), "tiny")
    ''
    """
    say = in_language(UNREAD, lang)
    typed = say["typed"].format(typed=unread.typed) if unread.typed else ""
    facts = {**unread._asdict(), "typed": typed, "model": model}
    told = [say[name] for name in ("unknown", "parts") if facts[name]]
    # Whoever reads with that model already, in 4 bits or from the hub, is offered no other.
    if told and "multilingual-e5" not in model:
        told.append(say["reads_most" if READS_MOST.folder else "install"])
    return say["then"].join(told).format(**facts, **READS_MOST._asdict())
