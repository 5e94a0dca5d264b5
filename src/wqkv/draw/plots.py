"""The heat map of one head as an image file."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from wqkv.draw import steps
from wqkv.errors import ArgumentError, need
from wqkv.sentences import LANGUAGES, LETTERS
from wqkv.sentences.errors import mistake, one_of
from wqkv.study.one_token import TokenStory

FORMATS = (".png", ".svg", ".pdf")
#: The color that marks the chosen token.
MARK = "#d95f02"
#: Fonts that say they can draw a letter, and draw a box or another letter.
NOT_TEXT = ("Last Resort", "cm", "STIX")
#: How many tokens an axis names at most; of more it names every second, third, ...
LABELS = 64


def check_format(path: str | Path) -> None:
    """Raise ArgumentError unless the suffix of `path` is one of FORMATS."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        what = mistake("image_ends" if suffix else "image_bare", suffix=suffix)
        raise ArgumentError(
            mistake("image_format", file=str(path), what=what, names=one_of(FORMATS))
        )


def save_map(story: TokenStory, path: str | Path) -> None:
    """Draw the weights from every token to every token to a file; the chosen token's row is framed.

    The color follows the square root of the weight, so that small weights can be seen.

    Raises:
        ArgumentError: the suffix is not one of FORMATS; the story has no map.
        MissingExtraError: matplotlib is not installed.
    """
    check_format(path)
    if story.map is None:
        raise ArgumentError("The story has no map.\nMake it with `tell`, which keeps one.")
    need("matplotlib", "show", mistake("map_image"))
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    n = len(story.tokens)
    step = math.ceil(n / LABELS)
    ticks = list(range(story.token % step, n, step))  # so that the chosen token is named
    labels = [steps.label(story.tokens, j) for j in ticks]
    title = f"{steps.visible(story.model)}, layer {story.layer}, head {story.head}"
    families, missing = fonts("".join([*labels, title]))
    labels = [steps.short(label.translate(missing)) for label in labels]
    # Keyword arguments of a foreign call. A token may be "$", which is not a formula.
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families}

    side = 2.6 + 0.2 * min(max(n, 14), LABELS)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(story.map.numpy(), cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.set_xticks(ticks, labels, rotation=90, fontsize=9, **font)
    axes.set_yticks(ticks, labels, fontsize=9, **font)
    for axis_labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        axis_labels[ticks.index(story.token)].set_color(MARK)
    axes.tick_params(length=2)
    axes.spines[:].set_color("#cccccc")
    row = (-0.5, story.token - 0.5)
    line = 2 if step == 1 else 0.7
    axes.add_patch(Rectangle(row, n, 1, fill=False, edgecolor=MARK, linewidth=line, clip_on=False))
    title = title.translate(missing)
    axes.set_title(title if story.proof.holds else f"FAILED ITS PROOF\n{title}", **font)
    axes.set_ylabel("from this word" + ("" if step == 1 else f" (1 in {step} is named)"))
    axes.set_xlabel("to this word")
    bar = figure.colorbar(image, shrink=0.8, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", "0.01", "0.05", "0.1", "0.25", "0.5", "0.75", "1"])
    bar.set_label("weight (the color follows its square root)")
    figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.15)


def drawable(lang: str) -> str:
    """Return the language if an installed font has its letters, and else the first of LANGUAGES."""
    return LANGUAGES[0] if fonts("", lang)[1] else lang


def fonts(text: str, lang: str = LANGUAGES[0]) -> tuple[list[str], dict[int, str]]:
    r"""Return the installed font families that can draw `text`, and what replaces the rest.

    A character that no font has is replaced by its code: `\u732b`.

    Args:
        lang: one of LANGUAGES, the language of sentences that are drawn besides.
    """
    from matplotlib import font_manager, ft2font

    families = ["DejaVu Sans"]  # comes with matplotlib
    shipped = ft2font.FT2Font(font_manager.findfont(families[0]))
    missing = {c for c in text + LETTERS[lang] if not shipped.get_char_index(ord(c))}
    upright = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight == 400 and not font.name.startswith(NOT_TEXT)
    ]
    for font in sorted(upright, key=lambda font: ("Sans" not in font.name, font.name)):
        if not missing:
            break
        try:
            face = ft2font.FT2Font(font.fname)
        except RuntimeError:  # a font of bitmaps alone, as colored emoji are
            continue
        if found := {c for c in missing if face.get_char_index(ord(c))}:
            families.append(font.name)
            missing -= found
    return families, {ord(c): c.encode("unicode_escape").decode("ascii") for c in missing}


def wrapped(text: str, letters: int) -> list[str]:
    """Return a text in lines of at most so many letters; a Chinese character is two letters wide.

    >>> wrapped("one two three", 8), wrapped("一个注意力头", 8)
    (['one two', 'three'], ['一个注意', '力头'])
    """
    need("rich", "show", mistake("lines"))
    from wqkv.draw.line_breaks import line_breaks

    cuts = [0, *line_breaks(text, letters), len(text)]
    return [text[a:b].rstrip() for a, b in pairwise(cuts)]
