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
from wqkv.draw.matrix import (
    Product,
    WrittenSum,
    legend,
    pixels,
    scale_ends,
    side_by_side,
    write_sum,
)
from wqkv.maps import display
from wqkv.maps.display import visible
from wqkv.maps.png import data_url
from wqkv.sentences import in_language
from wqkv.sentences.seen import SEEN
from wqkv.study.one_token import TokenStory

#: What a drawing shows at most; where it leaves something out, it says so: characters of a title,
#: bars of a vector, tokens of a text, tokens of a map's side, and rows of a table.
TITLE, BARS, TOKENS, MAP, TABLE = 200, 512, 256, 64, 12
#: How many numbers the picture of a matrix has at most, down and across: as many as it has pixels
#: on a plain screen, because a browser would leave out some of more.
HEIGHT, WIDTH = 384, 512
#: How many colors a map has.
LEVELS = 16


def page(stories: Sequence[TokenStory], lang: str = "en") -> str:
    """Return one self-contained page: each story in seven steps, its proof, its head's map.

    Args:
        lang: one of LANGUAGES.
    """
    style, say = asset("story.css") + _level_colors(), in_language(SEEN, lang)
    script = asset("story.js")
    links = "".join(
        f'<li><a href="#story{i}"><bdi>{_title(story)}</bdi></a>' for i, story in enumerate(stories)
    )
    names = {name: f"<b>{name}</b>" for name in ("WQ", "WK", "WV", "WO")}
    body = [
        f"<header><h1>{say['asks'].format(**names)}</h1><p>{say['about']}</p></header>",
        f"<nav><ol>{links}</ol></nav>" if len(stories) > 1 else "",
        "<main>",
        *[_story(story, i, lang) for i, story in enumerate(stories)],
        "</main>",
    ]
    return frame(say["title"], style, body, script, lang)


def frame(title: str, style: str, body: Sequence[str], script: str = "", lang: str = "en") -> str:
    """Return a whole page, whose policy allows this style and script, pictures in it, no more."""
    allowed = f"script-src '{_hash(script)}';" if script else ""
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; img-src data:; {allowed}"
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
    return escape(visible(text))


def _story(story: TokenStory, i: int, lang: str) -> str:
    say = in_language(SEEN, lang)
    *of_x, of_context = [_matrices(group, lang) for group in side_by_side(story)] or [""]
    drawings = [
        _text_around(story, say) + _vector("x", story.x, lang),
        "".join(of_x) or _note(say["no_matrices"]),
        _vector("q = x WQ", story.q, lang)
        + _vector("k = x WK", story.k, lang)
        + _vector("v = x WV", story.v, lang),
        _scores(story, say),
        _weights(story, lang),
        _vector("context", story.context, lang),
        of_context
        + _vector(steps.share_name(story), story.share, lang)
        + _vector(say["output"].format(n_head=story.n_head), story.output, lang),
    ]
    sections = "".join(
        f"<section><div><h3><i>{number}</i> {step.name}</h3><p>{escaped(step.sentence)}"
        f"<p class=formula>{escaped(step.formula)}</div><div>{drawing}</div></section>"
        for number, (step, drawing) in enumerate(
            zip(steps.tell(story, lang=lang), drawings, strict=True), 1
        )
    )
    unread = steps.cannot_read(story.unread, story.model, lang)
    holds = "holds" if story.proof.holds else "failed"
    proof = f"<p class={holds}>{escaped(steps.prove(story, lang))}</p>"
    return (
        f'<article id="story{i}"><h2><bdi>{_title(story)}</bdi></h2>'
        f"<p>{escaped(steps.where(story, lang))}</p>"
        f"{unread and f'<p class=unread>{escaped(unread)}</p>'}"
        f"{'' if story.proof.holds else proof}{sections}{_map(story, say)}{proof}</article>"
    )


def _title(story: TokenStory) -> str:
    sentence = visible(story.sentence)
    return escape(sentence if len(sentence) <= TITLE else sentence[: TITLE - 3] + "...")


def _text_around(story: TokenStory, say: dict[str, str]) -> str:
    """The tokens around the chosen one."""
    near = steps.window(len(story.tokens), story.token, TOKENS)
    spans = [f"<bdi{_class_of(story, j)}>{escaped(story.tokens[j])}</bdi>" for j in near]
    return f"<p class=words>{' '.join(spans)}</p>{_window_note(story, near, say)}"


def _class_of(story: TokenStory, j: int) -> str:
    return " class=chosen" if j == story.token else " class=special" if story.special[j] else ""


def _window_note(story: TokenStory, near: range, say: dict[str, str]) -> str:
    if len(near) == len(story.tokens):
        return ""
    facts = {"first": near[0], "last": near[-1], "end": len(story.tokens) - 1}
    return _note(say["some_words"].format(**facts))


def _note(text: str) -> str:
    return f"<p class=note>{text}</p>"


def _vector(name: str, values: Tensor, lang: str) -> str:
    """A vector as bars, one per number: positive ones above the line, negative ones below it."""
    bars, per = steps.bars(values, BARS)
    size = steps.spread(values, lang)
    if per > 1:
        size += f"; {in_language(SEEN, lang)['mean_of'].format(per=per)}"
    caption = f"<figcaption><b>{escaped(name)}</b> {size}</figcaption>"
    top = max((abs(bar) for bar in bars if math.isfinite(bar)), default=0.0) or 1.0
    return f"<figure>{caption}{_bars(bars, top, f'{name}: {size}')}</figure>"


def _bars(bars: Sequence[float], end: float, label: str, lit: int | None = None) -> str:
    """Numbers as bars above and below a line; number `lit` stands on a ground of its own.

    Args:
        end: where the scale ends, up and down.
    """
    up = down = ""
    for i, bar in enumerate(bars):
        height = round(bar / end * 100) if math.isfinite(bar) else 0
        if height > 0:
            up += f"M{i} 100v-{height}h.85v{height}z"
        elif height < 0:
            down += f"M{i} 100v{-height}h.85v{height}z"
    ground = "" if lit is None else f'<rect class=lit x="{lit}" width="1" height="200"/>'
    return (
        f'<svg class=vector viewBox="0 0 {len(bars)} 200" preserveAspectRatio="none" role="img"'
        f' aria-label="{escaped(label)}">{ground}<path class=up d="{up}"/>'
        f'<path class=down d="{down}"/><path class=axis d="M0 100h{len(bars)}"/></svg>'
    )


def _matrices(parts: Sequence[Product], lang: str) -> str:
    """Matrices that multiply one vector, side by side, and one column of the first as a sum.

    The vector stands on the left, row by row beside the rows that its numbers multiply; each column
    ends at the number that it makes.
    """
    say, first, ends = in_language(SEEN, lang), parts[0], scale_ends(parts)
    order = first.order
    shown = [pixels(part.numbers[order], HEIGHT, WIDTH) for part in parts]
    given = pixels(first.given[order, None], HEIGHT, 1).numbers[:, 0].tolist()
    drawn = ""
    for part, picture in zip(parts, shown, strict=True):
        rows, columns = part.numbers.shape
        height, width = picture.numbers.shape
        lit = part.column // picture.columns if part is first else None
        frame = "" if lit is None else f'<rect class=frame x="{lit}" width="1" height="{height}"/>'
        made = pixels(part.made[None], 1, WIDTH).numbers[0].tolist()
        label = say["picture_of"].format(name=part.name, rows=rows, columns=columns)
        drawn += (
            f"<figure><figcaption><b>{part.name}</b> {rows} x {columns}</figcaption>"
            f'<svg class=matrix viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
            f' role="img" aria-label="{label}"><image width="{width}" height="{height}"'
            f' preserveAspectRatio="none" href="{data_url(picture.numbers, ends[0].end)}"/>'
            f"{frame}</svg>{_bars(made, ends[2].end, part.made_name, lit)}"
            f"<figcaption><b>= {say[part.made_name]}</b></figcaption></figure>"
        )
    notes = map(_note, legend(parts, len(order), shown[0], "faint", lang))
    wide = " wide" if first.numbers.shape[0] < first.numbers.shape[1] else ""
    return (
        f'<div class="matrices{wide}"><figure class=given><figcaption><b>{first.given_name}</b>'
        f"</figcaption>{_given(given, ends[1].end, first.given_name)}</figure>{drawn}</div>"
        f"{''.join(notes)}{_sum(write_sum(first, lang))}"
    )


def _given(numbers: Sequence[float], end: float, name: str) -> str:
    """A vector as bars from above to below: positive ones to the right, the others to the left."""
    lengths = [round(one / end * 100) if math.isfinite(one) else 0 for one in numbers]
    up, down = (
        "".join(f"M100 {i}h{n}v.85h{-n}z" for i, n in enumerate(lengths) if n * sign > 0)
        for sign in (1, -1)
    )
    return (
        f'<svg class=matrix viewBox="0 0 200 {len(numbers)}" preserveAspectRatio="none" role="img"'
        f' aria-label="{name}"><path class=up d="{up}"/><path class=down d="{down}"/>'
        f'<path class=axis d="M100 0v{len(numbers)}"/></svg>'
    )


def _sum(told: WrittenSum) -> str:
    rows = "".join(f"<tr><th scope=row>{added}<td>= {number}" for added, number in told.lines)
    return f"<p class=says>{told.says}</p><table class=sum>{rows}</table>"


def _scores(story: TokenStory, say: dict[str, str]) -> str:
    """The score of each token in reading order; for a long text the best scores alone."""
    seen, n = steps.seen(story), len(story.tokens)
    shown = range(n) if n <= 2 * TABLE else sorted(seen[:TABLE])
    finite = [abs(story.scores[j].item()) for j in shown]
    top = max((score for score in finite if math.isfinite(score)), default=0.0) or 1.0
    rows = ""
    for j in shown:
        score = story.scores[j].item()
        if score == -math.inf:
            rows += _token_row(story, j, f"<td>{say['hidden']}<td>")
            continue
        length = round(abs(score) / top * 50, 2) if math.isfinite(score) else 0
        start, sign = (50, "up") if score > 0 else (50 - length, "down")
        bar = f'<rect class={sign} x="{start:g}%" width="{length:g}%" height="100%"/>'
        axis = '<rect class=axis x="50%" width="1" height="100%"/>'
        rows += _token_row(story, j, f"<td>{display.number(score)}<td>{_bar_svg(bar + axis)}")
    note = "" if n <= 2 * TABLE else _note(say["best_words"].format(count=len(shown), n=n))
    return f"{_table(rows, 'score', say)}{note}"


def _table(rows: str, number: str, say: dict[str, str]) -> str:
    head = f"<th>{say['at']}<th>{say['word']}<th>{say[number]}<th>"
    return f"<table class=words><tr>{head}{rows}</table>"


def _weights(story: TokenStory, lang: str) -> str:
    """The tokens by falling weight, then one line each for the rest and for the hidden ones."""
    say = in_language(SEEN, lang)
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
        notes += _note(steps.others(story, rest, lang))
    if hidden:
        names = " ".join(f"<bdi>{escaped(story.tokens[j])}</bdi>" for j in hidden[:TABLE])
        if len(hidden) > TABLE:
            names += say["more_hidden"].format(count=len(hidden) - TABLE)
        notes += _note(say["hidden_words"].format(words=names))
    return f"{_table(rows, 'weight', say)}{notes}"


def _token_row(story: TokenStory, j: int, cells: str) -> str:
    token = f"<th scope=row><bdi>{escaped(story.tokens[j])}</bdi>"
    return f"<tr{_class_of(story, j)}><td>{j}{token}{cells}"


def _bar_svg(shapes: str) -> str:
    return f'<svg class=bar aria-hidden="true">{shapes}</svg>'


def _map(story: TokenStory, say: dict[str, str]) -> str:
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
        f"<section class=map><h3>{say['map']}</h3><p>{say['map_says']}</p>"
        f"{_window_note(story, near, say)}<output aria-live=polite>&nbsp;</output>"
        f'<div class="cells n{math.ceil(len(near) / 16)}" tabindex=0 role=group'
        f' aria-label="{say["map_label"]}"><table>'
        f"<thead><tr><td>{heads}<tbody>{rows}</table></div>"
        f"<div class=scale><span>{say['weight']}</span>{scale}</div>"
        f"{_note(say['empty_cell'])}</section>"
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
