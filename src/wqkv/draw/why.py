"""What an answer rests on: as lists in a terminal, as JSON and as CSV; arcs.py draws it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wqkv import __version__
from wqkv.draw import effects
from wqkv.draw.to_json import Json, plain
from wqkv.effects.records import GroupEffect, LinkEffect, Why
from wqkv.maps import display
from wqkv.sentences import say, translated
from wqkv.sentences.why import LISTED

if TYPE_CHECKING:  # JSON and CSV need no rich
    from rich.console import Console

    from wqkv.draw.terminal import Pen

#: How many groups of a kind are shown.
GROUPED = 10
#: The lists of links that a Why has.
LISTS = ("links", "resting", "heaviest", "predicted")

# Terminal


def show(found: Why, console: Console, lang: str = "en") -> None:
    """Print the question, the links that its answer rests on, and what is not known.

    The lines fit the console's width. There are no escape codes unless the console shows colors.
    """
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console, lang)

    def write(sentence: str, style: str = "") -> None:
        pen.write(Text(pen.said(sentence), style), indent=0)

    write(effects.title(found), "bold")
    _texts(pen, found)
    write(effects.asked(found), "bold")
    write(effects.own(found), "dim")
    pen.write(Text())
    write(effects.counted(found))
    write(effects.meant(found))
    pen.write(Text())
    _lists(pen, found)
    if any(effects.mark(found, link).startswith("!") for link in _shown(found)):
        write(say(LISTED["marks"]), "dim")
        pen.write(Text())
    for sentence in (*effects.together(found), *effects.unchecked(found)):
        write(sentence)
    for by, groups in (found.groups or {}).items():
        pen.write(Text())
        write(say(LISTED[f"group_{by}"]), "bold")
        _groups(pen, found, groups)


def _texts(pen: Pen, found: Why) -> None:
    """Print each text, or as much of it as fits in three lines, around the token asked about."""
    from rich.text import Text

    from wqkv.draw.terminal import CHOSEN

    both, width = effects.texts(found), min(24, pen.width)
    for done, tokens in both.items():
        at = found.question.at if tokens is effects.asked_text(found) else None
        if len(both) > 1:
            pen.write(Text(pen.said(say(LISTED["named"], name=done)), "dim"), indent=0)
        drawn = [pen.fit(token, width, CHOSEN if j == at else "") for j, token in enumerate(tokens)]
        seen = pen.around(drawn, at or 0)
        if len(seen) < len(tokens):
            facts = {"first": seen[0], "last": seen[-1], "end": len(tokens) - 1}
            pen.write(Text(pen.said(say(LISTED["some_tokens"], **facts)), "dim"))


def _lists(pen: Pen, found: Why) -> None:
    """Print the lists of links: in columns, or as clauses where there is no room for columns."""
    from rich.cells import cell_len
    from rich.text import Text

    from wqkv.draw.terminal import INDENT

    columns = _columns(pen, found)
    if columns:
        head, *lines = map(" ".join, zip(*columns, strict=True))
        inset = INDENT + cell_len(head[: head.index(pen.said(say(LISTED["from_to"])))])
    else:
        head, lines = "", [_clause(pen, found, link) for link in _shown(found)]
        inset = 2 * INDENT
    drawn = iter(lines)
    for _, title, links, rest in effects.lists(found):
        pen.write(Text(pen.said(title), "bold"), indent=0)
        if head:
            pen.write(Text(head, "dim"))
        for link in links:
            line, note = Text(next(drawn)), pen.said(effects.mark(found, link))
            last = line.plain.rindex(" ") + 1  # where the true effect begins
            line.stylize(_color(found, link.true), last)
            if columns and line.cell_len + 2 + cell_len(note) <= pen.width:
                line.append(f"  {note}")
                note = ""
            pen.write(line)
            if note:
                pen.write(Text(note), indent=inset)
        if rest:
            _and_more(pen, found, len(rest), max(map(effects.size, rest)))
        pen.write(Text())


def _shown(found: Why) -> list[LinkEffect]:
    return [link for some in effects.lists(found) for link in some.links]


def _columns(pen: Pen, found: Why) -> list[list[str]]:
    """The columns of the lists, each with its name above; none where there is no room for them."""
    from rich.cells import cell_len

    links = _shown(found)
    before = [
        _column(pen, "layer", [str(link.layer) for link in links]),
        _column(pen, "head", [str(link.head) for link in links]),
    ]
    if len(found.tokens) > 1:
        parts = [pen.said(say(LISTED[link.part])) for link in links]
        before.insert(0, _column(pen, "part", parts, right=False))
    after = [
        _column(pen, "weight", [display.weight(link.weight) for link in links]),
        _column(pen, "predicted_effect", [effects.cell(found, link.predicted) for link in links]),
        _column(pen, "true", [effects.cell(found, link.true) for link in links]),
    ]
    numbers = max((len(f"@{link.query} -> @{link.key}") for link in links), default=0)
    room = pen.width - numbers - sum(cell_len(column[0]) + 1 for column in (*before, *after))
    cells = min(room // 2, 20)  # of one token
    if cells < 4:
        return []
    pairs = [
        effects.named(found, link, lambda token: pen.fit(token, cells).plain) for link in links
    ]
    return [*before, _column(pen, "from_to", pairs, right=False), *after]


def _column(pen: Pen, name: str, cells: Sequence[str], right: bool = True) -> list[str]:
    """A column's name and its cells, all of one width."""
    from rich.cells import cell_len

    name = pen.said(say(LISTED[name]))
    wide = max(map(cell_len, (name, *cells)))
    blanks = [" " * (wide - cell_len(cell)) for cell in (name, *cells)]
    return [
        blank + cell if right else cell + blank
        for blank, cell in zip(blanks, (name, *cells), strict=True)
    ]


def _clause(pen: Pen, found: Why, link: LinkEffect) -> str:
    """One link as a clause."""
    name = effects.named(found, link, lambda token: pen.fit(token, 20).plain)
    clause = say(
        LISTED["clause"],
        layer=link.layer,
        head=link.head,
        link=name,
        weight=display.weight(link.weight),
        predicted=effects.cell(found, link.predicted),
        true=effects.cell(found, link.true),
    )
    return pen.said(effects.in_part(found, link.part, clause))


def _groups(pen: Pen, found: Why, groups: Sequence[GroupEffect]) -> None:
    """Print groups by falling true effect."""
    from rich.text import Text

    ranked = sorted(groups, key=lambda group: -abs(group.true) if math.isfinite(group.true) else 1)
    cells = [effects.cell(found, group.true) for group in ranked[:GROUPED]]
    wide = max(map(len, cells), default=0)
    for group, cell in zip(ranked, cells, strict=False):
        name = effects.named_group(found, group)
        if note := effects.unsaid(found, group.true):
            name = say(LISTED["of_part"], part=note, name=name)
        name = pen.fit(translated(name, pen.lang), max(pen.width - wide - 2, 4)).plain
        pen.write(Text.assemble((f"{cell:>{wide}}", _color(found, group.true)), "  ", name))
    if rest := ranked[GROUPED:]:
        _and_more(pen, found, len(rest), abs(rest[0].true))


def _and_more(pen: Pen, found: Why, count: int, largest: float) -> None:
    """Print how many links are not listed, and the size of the largest effect among them."""
    from rich.text import Text

    limit = effects.level(largest, effects.places(found))
    pen.write(Text(pen.said(say(LISTED["more"], count=count, limit=limit)), "dim"))


def _color(found: Why, true: float | None) -> str:
    """The style of an effect: blue below 0, orange above, dim where it says nothing."""
    from wqkv.maps.png import BLUE, ORANGE

    if true is None or not abs(true) >= found.rounding:  # also NaN
        return "dim"
    red, green, blue = BLUE if true < 0 else ORANGE
    return f"#{red:02x}{green:02x}{blue:02x}"


# Data


def as_json(found: Why) -> dict[str, Json]:
    """Return every field for strict JSON; None for a number that is not finite.

    A link has `warning` and `miss` too, and links and question have the texts of their tokens.
    """
    record: dict[str, Json] = plain(found)
    at = found.question.at
    token = None if at is None else effects.asked_text(found)[at]
    record["question"] = {**plain(found.question), "token": token}
    for name in LISTS:
        record[name] = [_link_record(found, link) for link in getattr(found, name)]
    return {"wqkv": __version__, **record}


def _link_record(found: Why, link: LinkEffect) -> dict[str, Json]:
    query, key = effects.place(found, link)
    more = {"query_token": query, "key_token": key, "warning": link.warning, "miss": link.miss}
    return {**plain(link), **more}


#: The columns of a CSV file, see `save_csv`.
COLUMNS = (
    *("list", "how", "part", "layer", "head", "query", "query_token", "key", "key_token"),
    *("weight", "predicted", "block", "change", "true", "warning", "miss"),
    *("label", "first", "last"),
)


def save_csv(found: Why, path: str | Path) -> None:
    """Write one line per link, removed or not, and one per group that was removed.

    `list` is one of LISTS, and for a group "head", "token" or "span". `how` is how links are
    removed; a group has none. The other columns are the fields of `LinkEffect` and `GroupEffect`;
    `query_token` and `key_token` are texts. A cell is empty where a line has no such field.
    """
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for name in LISTS:
            for link in getattr(found, name):
                record = _link_record(found, link)
                writer.writerow({"list": name, "how": found.how, **_cells(record)})
        for by, groups in (found.groups or {}).items():
            writer.writerows({"list": by, **_cells(plain(group))} for group in groups)


def _cells(record: dict[str, Json]) -> dict[str, Json]:
    """A record with its numbers in six digits."""
    return {
        name: f"{value:.6g}" if isinstance(value, float) else value
        for name, value in record.items()
    }
