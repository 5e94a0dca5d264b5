"""The heat map of one head as an image file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wqkv.draw import steps
from wqkv.draw.matrix import Product, legend, pixels, scale_ends, side_by_side, write_sum
from wqkv.errors import ArgumentError, need
from wqkv.fonts import drawable, fonts, fonts_for
from wqkv.maps.display import MARK, Color, short, visible
from wqkv.maps.pictures import color_map, draw_scale
from wqkv.maps.png import BLUE, ORANGE
from wqkv.maps.scales import WEIGHTS
from wqkv.sentences import LETTERS, Said, in_language, say
from wqkv.sentences.errors import mistake, one_of
from wqkv.sentences.seen import SAID, SEEN
from wqkv.study.one_token import TokenStory

FORMATS = (".png", ".svg", ".pdf")
#: How many tokens an axis names at most; of more it names every second, third, ...
LABELS = 64
#: The colors of lines around a picture, of the ground of a marked number, of a failed proof.
LINE, LIT, FAILED = "#cccccc", "#ffe3a3", "#b3001e"
#: How many characters of a title, and how many missing ones of a note, are written at most.
TITLE, LISTED = 200, 8
#: The sizes, in points, of the title, of what stands beside and below a picture, and of notes.
TITLED, SAYS, NOTE = 11, 9, 8
#: The height of matrices side by side and of WO, in inches; the pixels of an inch; and how many
#: numbers a picture has at most, down and across: no more than pixels, or some would be left out.
TALL, LOW, DPI, ROOM = 3.6, 2.0, 180, (400, 512)


def check_format(path: str | Path) -> None:
    """Raise ArgumentError unless the suffix of `path` is one of FORMATS."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        what = mistake("image_ends" if suffix else "image_bare", suffix=suffix)
        raise ArgumentError(
            mistake("image_format", file=str(path), what=what, names=one_of(FORMATS))
        )


def save_story(story: TokenStory, path: str | Path, lang: str = "en") -> tuple[Said, ...]:
    """Draw the matrices and the map of a head to a file, and return notes on missing fonts.

    Above stand the sentence, the model, the layer and the head; below WQ, WK, WV and WO, each with
    the vector on its left that it multiplies and with what that makes below; then the weights from
    every token to every token, in which the chosen token's row is framed; and the proof.

    Args:
        lang: one of LANGUAGES. Where no font has Chinese characters, the image speaks English.

    Raises:
        ArgumentError: the suffix is not one of FORMATS; the story has no map.
        MissingExtraError: matplotlib is not installed.
    """
    check_format(path)
    if story.map is None:
        raise ArgumentError(
            "The story has no map.\nMake it with `clearest_story`, which keeps one."
        )
    need("matplotlib", "show", mistake("map_image"))
    from matplotlib.figure import Figure

    notes, spoken = [], drawable(lang)
    if spoken != lang:
        notes.append(say(SAID["no_letters"], fonts=fonts_for(map(ord, LETTERS[lang]))))
    lang = spoken
    texts, groups = in_language(SEEN, lang), side_by_side(story)
    told = [
        _story_title(story),
        visible(steps.where(story, lang)),
        visible(steps.prove(story, lang)),
        *(steps.label(story.tokens, j) for j in range(len(story.tokens))),
    ]
    families, missing = fonts("".join(told), lang)
    if missing:
        codes = {"characters": _listed(missing), "fonts": fonts_for(missing)}
        notes.append(say(SAID["no_font"], **codes))
    title, where, proof, *labels = (text.translate(missing) for text in told)
    # Keyword arguments of a foreign call. A token may be "$", which is not a formula.
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families}

    side = 2.6 + 0.2 * min(max(len(labels), 14), LABELS)
    wide = max(side + 1.2, 8.4 if groups else 0)
    below = [
        "\n".join(_folded(text, wide, NOTE) for text in _said_below(group, lang))
        for group in groups
    ]
    heights = [
        (TALL if len(group) > 1 else LOW) + NOTE / 50 * (text.count("\n") + 1)
        for group, text in zip(groups, below, strict=True)
    ]
    title, where, proof = (
        _folded(text, wide, size) for text, size in ((title, TITLED), (where, SAYS), (proof, SAYS))
    )
    lines = sum(text.count("\n") + 1 for text in (title, where, proof))
    figure = Figure(figsize=(wide, sum(heights) + side + 0.22 * lines), layout="constrained")
    figure.suptitle(f"{title}\n{where}", x=0.01, ha="left", fontsize=TITLED, **font)
    color = "black" if story.proof.holds else FAILED
    figure.supxlabel(proof, x=0.01, ha="left", fontsize=SAYS, color=color, **font)
    parts = figure.subfigures(len(groups) + 1, height_ratios=[*heights, side], squeeze=False)[:, 0]
    for group, text, part in zip(groups, below, parts, strict=False):
        _draw_matrices(part, group, texts, font)
        part.supxlabel(text, x=0.01, ha="left", fontsize=NOTE, **font)
    _draw_map(parts[-1], story, labels, texts, font)
    figure.savefig(path, dpi=DPI)
    return tuple(notes)


def _story_title(story: TokenStory) -> str:
    sentence = visible(story.sentence)
    return sentence if len(sentence) <= TITLE else sentence[: TITLE - 3] + "..."


def _folded(text: str, wide: float, size: float) -> str:
    """Cut a text of some size (in points) into lines of at most `wide` inches."""
    # On average a letter of DejaVu Sans is 0.55 of its size wide.
    return "\n".join(wrapped(text, round(wide * 72 / (0.55 * size))))


def _said_below(group: Sequence[Product], lang: str) -> list[str]:
    """What stands below some matrices: which rows they show, and one column worked out."""
    first = group[0]
    *rows, _ = legend(group, len(first.given), pixels(first.numbers, *ROOM), "faint", lang)
    told = write_sum(first, lang)
    *terms, (made, total) = told.lines
    added = " + ".join(f"{number} ({text})" for text, number in terms).replace("+ -", "- ")
    return [*rows, told.says, f"{made} = {added} = {total}"]


# `font` is keyword arguments of matplotlib's own texts.
def _draw_matrices(
    figure: Any, group: Sequence[Product], texts: dict[str, str], font: dict[str, Any]
) -> None:
    """Draw matrices: on their left the vector that they multiply, below each the product."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    first, ends = group[0], scale_ends(group)
    order, count = first.order, len(group)
    axes = figure.subplots(
        2,
        1 + count,
        width_ratios=[1, *[9 / count] * count],
        height_ratios=[5 if count > 1 else 3, 1],
    )
    colors = LinearSegmentedColormap.from_list("signed", [_hex(ORANGE), "white", _hex(BLUE)])
    end = ends[0].end
    for column, part in enumerate(group, start=1):
        above, under = axes[:, column]
        shown = pixels(part.numbers[order], *ROOM)
        height, width = shown.numbers.shape
        image = above.imshow(
            shown.numbers.float().numpy(), cmap=colors, vmin=-end, vmax=end, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        above.set_title(f"{part.name}  {' x '.join(map(str, part.numbers.shape))}", fontsize=SAYS)
        made = pixels(part.made[None], 1, width).numbers[0]
        _draw_bars(under, made, ends[2].end)
        under.set_xlim(-0.5, width - 0.5)
        under.set_xlabel(f"= {texts[part.made_name]}", fontsize=SAYS, **font)
        if part is first:
            at = part.column // shown.columns - 0.5
            above.add_patch(Rectangle((at, -0.5), 1, height, fill=False, edgecolor="black"))
            under.axvspan(at, at + 1, color=LIT, linewidth=0, zorder=0)
        above.set_xticks([])
        above.set_yticks([])
    given, empty = axes[:, 0]
    empty.axis("off")
    numbers = pixels(first.given[order, None], ROOM[0], 1).numbers[:, 0]
    _draw_bars(given, numbers, ends[1].end, across=True)
    given.set_ylim(len(numbers) - 0.5, -0.5)
    given.set_title(first.given_name, fontsize=SAYS)
    bar = figure.colorbar(image, ax=list(axes[0, 1:]), extend="both")
    bar.set_ticks([-end, 0, end], labels=[f"-{end:g}", "0", f"{end:g}"], fontsize=NOTE)


def _draw_bars(axes: Any, numbers: Tensor, end: float, across: bool = False) -> None:
    """Draw numbers as bars, from 0 up and down, or to the right and to the left."""
    # One outline for all bars of a sign: hundreds of rectangles would take seconds.
    edges = (torch.arange(len(numbers) + 1, device="cpu") - 0.5).repeat_interleave(2)[1:-1]
    heights = numbers.float().clamp(-end, end).repeat_interleave(2)
    fill = axes.fill_betweenx if across else axes.fill_between
    for color, part in ((BLUE, heights.clamp(min=0)), (ORANGE, heights.clamp(max=0))):
        fill(edges.numpy(), part.numpy(), color=_hex(color), linewidth=0)
    (axes.set_xlim if across else axes.set_ylim)(-end, end)
    (axes.set_xticks if across else axes.set_yticks)([-end, end], [f"-{end:g}", f"{end:g}"])
    (axes.set_yticks if across else axes.set_xticks)([])
    axes.tick_params(labelsize=NOTE - 1, length=2)
    axes.spines[:].set_color(LINE)


def _hex(color: Color) -> str:
    return f"#{bytes(color).hex()}"


# `font` is keyword arguments of matplotlib's own texts.
def _draw_map(
    figure: Any,
    story: TokenStory,
    labels: Sequence[str],
    texts: dict[str, str],
    font: dict[str, Any],
) -> None:
    """Draw the weights from every token to every token.

    The color follows the square root of the weight, so that small weights can be seen.
    """
    from matplotlib.patches import Rectangle

    assert story.map is not None
    n = len(labels)
    step = math.ceil(n / LABELS)
    ticks = list(range(story.token % step, n, step))  # so that the chosen token is named
    named = [short(labels[j]) for j in ticks]
    axes = figure.add_subplot()
    axes.imshow(WEIGHTS.levels(story.map).numpy(), cmap=color_map(WEIGHTS), vmin=0, vmax=1)
    axes.set_xticks(ticks, named, rotation=90, fontsize=9, **font)
    axes.set_yticks(ticks, named, fontsize=9, **font)
    for axis_labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        axis_labels[ticks.index(story.token)].set_color(MARK)
    axes.tick_params(length=2)
    axes.spines[:].set_color(LINE)
    row = (-0.5, story.token - 0.5)
    line = 2 if step == 1 else 0.7
    axes.add_patch(Rectangle(row, n, 1, fill=False, edgecolor=MARK, linewidth=line, clip_on=False))
    thinned = "" if step == 1 else texts["one_in"].format(step=step)
    axes.set_ylabel(texts["from_word"] + thinned, **font)
    axes.set_xlabel(texts["to_word"], **font)
    draw_scale(figure, [axes], WEIGHTS).set_label(texts["weight_scale"], **font)


def _listed(missing: Mapping[int, str]) -> str:
    """Name the first of some characters."""
    shown = [chr(code) for code in sorted(missing)][:LISTED]
    return " ".join([*shown, "..."] if len(missing) > LISTED else shown)


def wrapped(text: str, letters: int) -> list[str]:
    """Return a text in lines of at most so many letters; a Chinese character is two letters wide.

    >>> wrapped("one two three", 8), wrapped("一个注意力头", 8)
    (['one two', 'three'], ['一个注意', '力头'])
    """
    need("rich", "show", mistake("lines"))
    from wqkv.draw.line_breaks import line_breaks

    cuts = [0, *line_breaks(text, letters), len(text)]
    return [text[a:b].rstrip() for a, b in pairwise(cuts)]
