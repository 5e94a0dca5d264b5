"""How two models differ in where they look: in a terminal, as JSON, CSV or a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wqkv import __version__
from wqkv.draw import steps
from wqkv.draw.plots import check_format, wrapped
from wqkv.draw.to_json import Json, plain
from wqkv.effects.diff import Diff, HeadDiff, RowDiff
from wqkv.errors import need
from wqkv.fonts import drawable, fonts
from wqkv.maps import display
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.display import MARK, short, visible
from wqkv.maps.pictures import color_map, draw_scale
from wqkv.maps.scales import WEIGHTS
from wqkv.sentences import say, translated
from wqkv.sentences.diff import DIFF
from wqkv.sentences.errors import mistake
from wqkv.study.view import edges

if TYPE_CHECKING:  # JSON and CSV need no rich
    from rich.console import Console
    from rich.text import Text

    from wqkv.draw.terminal import Pen

#: How many heads and tokens a terminal lists, and how many heads a picture shows.
LISTED_HEADS, LISTED_ROWS, DRAWN_HEADS = 12, 8, 3
#: How many tokens an axis names at most; of more it names every second, third, ...
NAMED = 32
#: A map of more tokens than this is drawn in DRAWN_BLOCKS x DRAWN_BLOCKS blocks.
DRAWN_TOKENS, DRAWN_BLOCKS = 512, 128
#: The widths of the columns of numbers: "L23H4", a KL, and "0.153 -> 0.420".
_HEAD, _KL, _MOVED = 7, 9, 18


def lines(found: Diff) -> Iterator[str]:
    """What was compared, in a few sentences."""
    layers, n_head, n = found.kl.shape
    yield say(DIFF["a"], model=found.a)
    yield say(DIFF["b"], model=found.b)
    yield say(DIFF["size"], layers=layers, n_head=n_head, tokens=n)
    yield found.how


def nats(value: float, rounding: float) -> str:
    """A KL with three digits, or that it is rounding.

    >>> nats(0.03127, 2e-4), nats(0.0000712, 2e-5), nats(0.0000712, 2e-4), nats(math.inf, 2e-4)
    ('0.0313', '7.1e-05', 'rounding', 'infinite')
    """
    if value <= rounding:
        return say(DIFF["rounding"])
    if math.isinf(value):
        return say(DIFF["infinite"])
    return f"{value:#.3g}" if 0.001 <= value < 100 else f"{value:.1e}"


def below(found: Diff) -> str:
    """How many heads differ by nothing but rounding, in a sentence."""
    count, total = sum(head.below_rounding for head in found.heads), len(found.heads)
    limit = float(found.rounding.max())
    return say(DIFF["below"], count=count, total=total, limit=limit)


# Terminal


def show(found: Diff, console: Console, lang: str = "en") -> None:
    """Print the heads and the tokens that differ most, within the console's width.

    There are no escape codes unless the console shows colors.
    """
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console, lang)
    wide = max(4, min(20, (pen.width - _HEAD - 2 * _KL - _MOVED) // 2 - 1))

    def token(j: int) -> Text:
        """Token j and its position, `Spain@17`."""
        at, name = f"@{j}", Text(visible(found.tokens[j], pen.encoding))
        name.truncate(max(1, wide - len(at)), overflow="ellipsis")
        return name.append(at)

    def row_of(row: RowDiff) -> tuple[Text, Text, Text]:
        limit = float(found.rounding[row.layer, row.head])
        largest = Text(pen.said(nats(row.kl, limit)))
        if not row.keys:  # no weight moved
            return largest, Text(), Text()
        moved = row.keys[0]
        weights = f"{display.weight(moved.a)} -> {display.weight(moved.b)}"
        return largest, token(moved.key), Text(weights)

    for line in lines(found):
        pen.write(Text(pen.said(line), "bold"), indent=0)
    heads = [
        (
            Text(f"L{one.layer}H{one.head}"),
            Text(pen.said(nats(one.mean, one.rounding))),
            token(one.largest.query),
            *row_of(one.largest),
        )
        for one in found.heads[:LISTED_HEADS]
        if not one.below_rounding
    ]
    rows = [
        (
            token(one.query),
            Text(pen.said(nats(one.mean, 0))),
            Text(f"L{one.largest.layer}H{one.largest.head}"),
            *row_of(one.largest),
        )
        for one in found.rows[:LISTED_ROWS]
    ]
    moved = [("largest", _KL), ("key", wide + 1), ("moved", _MOVED)]
    columns = [("head", _HEAD), ("mean_kl", _KL), ("token", wide + 1), *moved]
    _table(pen, "heads", columns, heads)
    columns = [("token", wide + 1), ("mean_kl", _KL), ("head", _HEAD), *moved]
    _table(pen, "rows", columns, rows)
    pen.write(Text())
    pen.write(Text(pen.said(below(found)), "dim"), indent=0)


def _table(
    pen: Pen, name: str, columns: list[tuple[str, int]], rows: Sequence[tuple[Text, ...]]
) -> None:
    """Print a table with columns of these names and widths; nothing where it has no rows.

    Args:
        name: of the sentence above the table, in DIFF, as those of the columns.
    """
    from rich.text import Text

    if not rows:
        return
    pen.write(Text())
    pen.write(Text(pen.said(say(DIFF[name])), "bold"), indent=0)
    head = tuple(Text(pen.said(say(DIFF[column])), "dim") for column, _ in columns)
    for cells in (head, *rows):
        for cell, (_, width) in zip(cells, columns, strict=True):
            cell.truncate(width, pad=True)
        pen.rows(Text.assemble(*cells))


# Data


def as_json(found: Diff) -> dict[str, Json]:
    """Return all heads and the listed tokens for strict JSON; None where a KL is infinite."""
    heads = [plain(head) | {"below_rounding": head.below_rounding} for head in found.heads]
    return {
        "wqkv": __version__,
        "a": found.a,
        "b": found.b,
        "how": found.how,
        "tokens": plain(found.tokens),
        "heads": heads,
        "rows": plain(found.rows),
    }


_COLUMNS = (
    "layer", "head", "mean_kl", "rounding", "below_rounding", "largest_kl", "query", "query_token",
    "key", "key_token", "weight_a", "weight_b",
)  # fmt: skip


def save_csv(found: Diff, path: str | Path) -> None:
    """Write one line per head, by falling mean KL: its largest row, and the key that moved most."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for head in found.heads:
            row = head.largest
            moved: tuple[object, ...] = ("",) * 4  # no weight moved
            if row.keys:
                one = row.keys[0]
                moved = (one.key, found.tokens[one.key], f"{one.a:.6g}", f"{one.b:.6g}")
            mean, rounding, largest = (f"{kl:.6g}" for kl in (head.mean, head.rounding, row.kl))
            which = head.layer, head.head, mean, rounding, int(head.below_rounding), largest
            writer.writerow((*which, row.query, found.tokens[row.query], *moved))


# Picture


def save_png(found: Diff, path: str | Path, lang: str = "en") -> None:
    """Draw the heads that differ most to a file: both maps on one scale, and KL of every row.

    Raises:
        ArgumentError: the suffix is not one of `plots.FORMATS`.
        MissingExtraError: matplotlib is not installed.
    """
    check_format(path)
    need("matplotlib", "show", mistake("maps_picture"))
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    heads, n = found.heads[:DRAWN_HEADS], len(found.tokens)
    pairs = [[picture(one, head.head) for one in found.maps[head.layer]] for head in heads]
    lang = drawable(lang)
    said = [visible(translated(line, lang)) for line in lines(found)]
    names = [steps.label(found.tokens, j) for j in range(n)]
    families, missing = fonts("".join([*said, *names]), lang)
    labels = [short(name.translate(missing)) for name in names]
    ticks = range(0, n, math.ceil(n / NAMED))
    named = [labels[j] if n <= NAMED else f"{labels[j]}@{j}" for j in ticks]
    # Keyword arguments of a foreign call. A token may be "$", which is not a formula.
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families}

    side = 1.6 + 0.15 * min(max(n, 14), NAMED)
    figure = Figure(figsize=(2.6 * side + 2.4, len(heads) * (side + 0.8) + 1), layout="constrained")
    grid = figure.subplots(len(heads), 3, squeeze=False, sharey=True, width_ratios=(1, 1, 0.5))
    colors = color_map(WEIGHTS)
    box = (-0.5, n - 0.5, n - 0.5, -0.5)  # in tokens, also where blocks are drawn
    for head, pair, (left, right, beside) in zip(heads, pairs, grid, strict=True):
        for axes, name, image in zip((left, right), "AB", pair, strict=True):
            levels = WEIGHTS.levels(image).numpy()
            axes.imshow(levels, cmap=colors, vmin=0, vmax=1, extent=box)
            which = say(DIFF["map"], name=name, layer=head.layer, head=head.head)
            axes.set_title(translated(which, lang), fontsize=10, **font)
            row, line = (-0.5, head.largest.query - 0.5), 1.5 if n <= NAMED else 0.6
            axes.add_patch(Rectangle(row, n, 1, fill=False, edgecolor=MARK, linewidth=line))
            axes.set_xticks(ticks, named, rotation=90, fontsize=8, **font)
            axes.set_yticks(ticks, named, fontsize=8, **font)
        left.set_ylabel(translated(say(DIFF["from"]), lang), **font)
        _bars(beside, found, head, labels, lang, font)
    for axes in grid[-1, :2]:
        axes.set_xlabel(translated(say(DIFF["to"]), lang), **font)
    for axes in grid.flat:
        axes.tick_params(length=2)
        axes.spines[:].set_color("#cccccc")
    bar = draw_scale(figure, list(grid.flat), WEIGHTS)
    bar.set_label(translated(say(DIFF["scale"]), lang), **font)
    letters = round(22 * side)
    title = "\n".join(part for line in said for part in wrapped(line.translate(missing), letters))
    figure.suptitle(title, fontsize=10, x=0.02, ha="left", **font)
    note = below(found)
    if n > DRAWN_TOKENS:
        note = say(DIFF["blocks"], below=note, tokens=round(n / DRAWN_BLOCKS))
    note = "\n".join(wrapped(translated(note, lang), round(28 * side)))
    figure.supxlabel(note, fontsize=8, color="#555555", **font)
    figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.15)


def picture(m: AttentionMap, head: int) -> Tensor:
    """The map of one head as it is drawn; of a long one, blocks as in maps/pictures.py."""
    n = m.shape[2]
    if n <= DRAWN_TOKENS:
        return m[0, head]
    # `thumbnail` would compute all heads of the layer.
    blocks = [*pairwise(edges(n, DRAWN_BLOCKS))]
    rows = torch.stack([m[0, head, first:last].mean(dim=0) for first, last in blocks])
    return torch.stack([rows[:, first:last].sum(dim=1) for first, last in blocks], dim=1)


# `font` holds keyword arguments of matplotlib.
def _bars(
    axes: Any, found: Diff, head: HeadDiff, labels: list[str], lang: str, font: dict[str, Any]
) -> None:
    """KL of every row of a head, beside the rows of its maps."""
    kl, at, n = found.kl[head.layer, head.head], head.largest.query, len(found.tokens)
    kl = kl.nan_to_num(posinf=float(kl.where(kl.isfinite(), 0).max()))  # as long as the longest
    # One line for each of very many rows would be thinner than a pixel.
    if n <= DRAWN_TOKENS:
        axes.barh(range(n), kl.numpy(), height=0.9, color="#9ecae1")
    else:
        axes.fill_betweenx(range(n), 0, kl.numpy(), step="mid", color="#9ecae1", linewidth=0)
    axes.barh([at], [float(kl[at])], height=max(0.9, n / 200), color=MARK)
    kl_said = nats(head.largest.kl, head.rounding)
    largest = say(DIFF["largest_at"], kl=kl_said, token=f"{labels[at]}@{at}")
    axes.set_xlabel(translated(largest, lang), fontsize=9, color=MARK, **font)
    axes.set_xlim(left=0)
    axes.set_ylim(n - 0.5, -0.5)
    mean = say(DIFF["each_row"], kl=nats(head.mean, head.rounding))
    axes.set_title(translated(mean, lang), fontsize=10, **font)
