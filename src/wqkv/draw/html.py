"""Stories as one web page. It loads nothing: its policy allows its own style and script alone."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from torch import Tensor

from wqkv.draw import steps
from wqkv.maps import display
from wqkv.study.one_token import TokenStory

#: What a drawing shows at most; where it leaves something out, it says so: characters of a title,
#: bars of a vector, tokens of a text, tokens of a map's side, and rows of a table.
TITLE, BARS, TOKENS, MAP, TABLE = 200, 512, 256, 64, 12
#: How many colors a map has.
LEVELS = 16


def page(stories: Sequence[TokenStory]) -> str:
    """Return one self-contained page: each story in seven steps, its proof, its head's map."""
    style = asset("story.css") + _level_colors()
    script = asset("story.js")
    links = "".join(
        f'<li><a href="#story{i}"><bdi>{_title(story)}</bdi></a>' for i, story in enumerate(stories)
    )
    body = [
        "<header><h1>What do <b>WQ</b>, <b>WK</b>, <b>WV</b> and <b>WO</b> do?</h1>"
        "<p>One head of a trained model, one word, seven steps. Every number is real.</p>"
        "</header>",
        f"<nav><ol>{links}</ol></nav>" if len(stories) > 1 else "",
        "<main>",
        *[_story(story, i) for i, story in enumerate(stories)],
        "</main>",
    ]
    return frame("wqkv: what WQ, WK, WV and WO do", style, body, script)


def frame(title: str, style: str, body: Sequence[str], script: str = "", lang: str = "en") -> str:
    """Return a whole page, whose policy allows this style and this script, and nothing else."""
    allowed = f"script-src '{_hash(script)}';" if script else ""
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; {allowed}"
        " base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="{lang}">\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            *body,
            *([f"<script>{script}</script>"] if script else []),
            "</html>\n",
        ]
    )


def asset(name: str) -> str:
    """The text of one style or script in `pages/`."""
    return (files("wqkv.draw") / "pages" / name).read_text("utf-8")


def escaped(text: str) -> str:
    """Return a text for HTML, with line breaks and control characters as codes."""
    return escape(steps.visible(text))


def _story(story: TokenStory, i: int) -> str:
    drawings = [
        _text_around(story) + _vector("x", story.x),
        _matrices(story),
        _vector("q = x WQ", story.q) + _vector("k = x WK", story.k) + _vector("v = x WV", story.v),
        _scores(story),
        _weights(story),
        _vector("context", story.context),
        _vector("share = context WO", story.share)
        + _vector(f"output of {story.n_head} heads", story.output),
    ]
    sections = "".join(
        f"<section><div><h3><i>{number}</i> {step.name}</h3><p>{escaped(step.sentence)}"
        f"<p class=formula>{escaped(step.formula)}</div><div>{drawing}</div></section>"
        for number, (step, drawing) in enumerate(zip(steps.tell(story), drawings, strict=True), 1)
    )
    about = (
        f"{story.model} ({story.family}), layer {story.layer} of 0 to {story.n_layer - 1},"
        f" head {story.head} of 0 to {story.n_head - 1}"
    )
    if story.n_kv_head != story.n_head:
        about += f"; the {story.n_head} heads share {story.n_kv_head} of k and v"
    unread = steps.cannot_read(story.unread, story.model)
    holds = "holds" if story.proof.holds else "failed"
    proof = f"<p class={holds}>{escaped(steps.prove(story))}</p>"
    return (
        f'<article id="story{i}"><h2><bdi>{_title(story)}</bdi></h2><p>{escaped(about)}</p>'
        f"{unread and f'<p class=unread>{escaped(unread)}</p>'}"
        f"{'' if story.proof.holds else proof}{sections}{_map(story)}{proof}</article>"
    )


def _title(story: TokenStory) -> str:
    sentence = steps.visible(story.sentence)
    return escape(sentence if len(sentence) <= TITLE else sentence[: TITLE - 3] + "...")


def _text_around(story: TokenStory) -> str:
    """The tokens around the chosen one."""
    near = steps.window(len(story.tokens), story.token, TOKENS)
    spans = [f"<bdi{_class_of(story, j)}>{escaped(story.tokens[j])}</bdi>" for j in near]
    return f"<p class=words>{' '.join(spans)}</p>{_window_note(story, near)}"


def _class_of(story: TokenStory, j: int) -> str:
    return " class=chosen" if j == story.token else " class=special" if story.special[j] else ""


def _window_note(story: TokenStory, near: range) -> str:
    if len(near) == len(story.tokens):
        return ""
    last = len(story.tokens) - 1
    return f"<p class=note>Words {near[0]} to {near[-1]} of 0 to {last}.</p>"


def _vector(name: str, values: Tensor) -> str:
    """A vector as bars, one per number: positive ones above the line, negative ones below it."""
    bars, per = steps.bars(values, BARS)
    top = max((abs(bar) for bar in bars if math.isfinite(bar)), default=0.0) or 1.0
    up = down = ""
    for i, bar in enumerate(bars):
        height = round(bar / top * 100) if math.isfinite(bar) else 0
        if height > 0:
            up += f"M{i} 100v-{height}h.85v{height}z"
        elif height < 0:
            down += f"M{i} 100v{-height}h.85v{height}z"
    size = steps.spread(values) + (f"; each bar is the mean of {per}" if per > 1 else "")
    return (
        f"<figure><figcaption><b>{escaped(name)}</b> {size}</figcaption>"
        f'<svg class=vector viewBox="0 0 {len(bars)} 200" preserveAspectRatio="none" role="img"'
        f' aria-label="{escaped(name)}: {size}"><path class=up d="{up}"/>'
        f'<path class=down d="{down}"/><path class=axis d="M0 100h{len(bars)}"/></svg></figure>'
    )


def _matrices(story: TokenStory) -> str:
    """x times each matrix, with the sizes."""
    rows = "".join(
        f"<div><span class=vec>x <small>{story.d_model}</small></span> <span>times</span>"
        f"<span class=mat>{name} <small>{story.d_model} x {size}</small></span> <span>=</span>"
        f"<span class=vec>{result} <small>{size}</small></span></div>"
        for name, result, size in (
            ("WQ", "q", story.q.numel()),
            ("WK", "k", story.k.numel()),
            ("WV", "v", story.v.numel()),
        )
    )
    return f"<div class=matrices>{rows}</div>"


def _scores(story: TokenStory) -> str:
    """The score of each token in reading order; for a long text the best scores alone."""
    seen, n = steps.seen(story), len(story.tokens)
    shown = range(n) if n <= 2 * TABLE else sorted(seen[:TABLE])
    finite = [abs(story.scores[j].item()) for j in shown]
    top = max((score for score in finite if math.isfinite(score)), default=0.0) or 1.0
    rows = ""
    for j in shown:
        score = story.scores[j].item()
        if score == -math.inf:
            rows += _token_row(story, j, "<td>hidden<td>")
            continue
        length = round(abs(score) / top * 50, 2) if math.isfinite(score) else 0
        start, sign = (50, "up") if score > 0 else (50 - length, "down")
        bar = f'<rect class={sign} x="{start:g}%" width="{length:g}%" height="100%"/>'
        axis = '<rect class=axis x="50%" width="1" height="100%"/>'
        rows += _token_row(story, j, f"<td>{display.number(score)}<td>{_bar_svg(bar + axis)}")
    note = "" if n <= 2 * TABLE else f"<p class=note>The {len(shown)} best of {n} words.</p>"
    return f"<table class=words><tr><th>at<th>word<th>score<th>{rows}</table>{note}"


def _weights(story: TokenStory) -> str:
    """The tokens by falling weight, then one line each for the rest and for the hidden ones."""
    seen, hidden = steps.seen(story), steps.hidden(story)
    top = max((story.weights[j].item() for j in seen[:TABLE]), default=0.0) or 1.0
    rows = ""
    for j in seen[:TABLE]:
        weight = story.weights[j].item()
        length = weight / top * 100 if math.isfinite(weight) else 0
        bar = f'<rect class=up width="{length:.4g}%" height="100%"/>'
        rows += _token_row(story, j, f"<td>{display.weight(weight)}<td>{_bar_svg(bar)}")
    notes = ""
    if rest := seen[TABLE:]:
        who = "1 more word has" if len(rest) == 1 else f"{len(rest)} more words share"
        share = display.weight(sum(story.weights[j].item() for j in rest))
        notes += f"<p class=note>And {who} {share}.</p>"
    if hidden:
        names = " ".join(f"<bdi>{escaped(story.tokens[j])}</bdi>" for j in hidden[:TABLE])
        more = f" and {len(hidden) - TABLE} more" if len(hidden) > TABLE else ""
        notes += f"<p class=note>Hidden, no score: {names}{more}</p>"
    return f"<table class=words><tr><th>at<th>word<th>weight<th>{rows}</table>{notes}"


def _token_row(story: TokenStory, j: int, cells: str) -> str:
    token = f"<th scope=row><bdi>{escaped(story.tokens[j])}</bdi>"
    return f"<tr{_class_of(story, j)}><td>{j}{token}{cells}"


def _bar_svg(shapes: str) -> str:
    return f'<svg class=bar aria-hidden="true">{shapes}</svg>'


def _map(story: TokenStory) -> str:
    """The head's weights from every token to every token, one colored cell per weight."""
    if story.map is None:
        return ""
    near = steps.window(len(story.tokens), story.token, MAP)
    heads = "".join(
        f"<th scope=col{_class_of(story, j)}><bdi>{escape(steps.label(story.tokens, j))}</bdi>"
        for j in near
    )
    weights = story.map[near.start : near.stop, near.start : near.stop].tolist()
    rows = "".join(
        f"<tr{_class_of(story, i)}><th scope=row><bdi>{escape(steps.label(story.tokens, i))}</bdi>"
        + "".join(f"<td class={_level(weight)}>{display.weight(weight)}" for weight in row)
        for i, row in zip(near, weights, strict=True)
    )
    marks = ["" if i % 3 else f"{(i / (LEVELS - 1)) ** 2:.2g}" for i in range(LEVELS)]
    scale = "".join(
        f"<b class=h{level}>{mark.replace('0.', '.')}</b>" for level, mark in enumerate(marks)
    )
    return (
        "<section class=map><h3>The whole head</h3><p>The weight from each word (row) to each word"
        " (column). Point at a cell, or use the arrow keys.</p>"
        f"{_window_note(story, near)}<output aria-live=polite>&nbsp;</output>"
        f'<div class="cells n{math.ceil(len(near) / 16)}" tabindex=0 role=group'
        ' aria-label="map of weights"><table>'
        f"<thead><tr><td>{heads}<tbody>{rows}</table></div>"
        f"<div class=scale><span>weight</span>{scale}</div>"
        "<p class=note>An empty cell is exactly 0: hidden, or too small for a float.</p></section>"
    )


def _level(weight: float) -> str:
    if not math.isfinite(weight) or weight == 0:
        return "z"
    return f"h{round(math.sqrt(weight) * (LEVELS - 1))}"


def _level_colors() -> str:
    """The background of each level's class, on a light and on a dark ground."""
    light, dark = (
        "".join(
            f".h{level}{{background:#{bytes(display.color(level / (LEVELS - 1), stops)).hex()}}}"
            for level in range(LEVELS)
        )
        for stops in (display.LIGHT, display.DARK)
    )
    return f"{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
