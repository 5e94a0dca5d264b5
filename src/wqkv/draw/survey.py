"""A survey as one web page without network or script, and as lines in a terminal."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from wqkv.corpus.measures import BINS, MEASURES
from wqkv.corpus.sums import Example, Row
from wqkv.corpus.survey import Survey, named
from wqkv.draw import heads as table
from wqkv.draw import steps
from wqkv.draw.html import asset, frame
from wqkv.maps import display
from wqkv.study.heads import LABELS, Head

if TYPE_CHECKING:
    from rich.console import Console

#: So many documents that were skipped are named, and on a terminal so many of their files.
NAMED, FILES = 50, 5


def page(found: Survey) -> str:
    """One self-contained page: the label of every head, and of each its measures and examples."""
    style = asset("story.css") + asset("survey.css")
    rows: dict[tuple[int, int], list[Row]] = {place: [] for place in found.tally.heads}
    for row in found.tally.rows:
        rows[row.layer, row.head].append(row)
    examples = dict(zip(found.tally.heads, found.tally.examples, strict=True))
    heads = found.heads.all
    articles = [
        _head(head, rows[head.layer, head.head], examples[head.layer, head.head]) for head in heads
    ]
    body = [
        f"<header><h1>What do the heads of <b><bdi>{_text(found.model)}</bdi></b> do?</h1>"
        f"<p>Over {_counts(found)}: <bdi>{_text(found.source)}</bdi></p></header>",
        f"<main>{_table(found)}{_legend(found)}{_skipped(found)}",
        *articles,
        "</main>",
    ]
    return frame(f"wqkv survey: {steps.visible(found.model)}", style + _colours(), body)


def show(found: Survey, console: Console) -> None:
    """Print the table of heads, and what was read and what was not."""
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console)
    table.show(found.heads, found.model, console)
    pen.write(Text(f"read: {_counts(found)}"), indent=0)
    for reason, count in _reasons(found):
        pen.write(Text(steps.visible(f"skipped: {count:,} {reason}", pen.encoding)), indent=0)
    if found.tally.skipped:
        pen.write(Text(steps.visible(f"skipped in: {_files(found)}", pen.encoding)), indent=0)
    if found.pace.documents:
        pen.write(Text(pace(found)), indent=0)


def pace(found: Survey) -> str:
    """How fast this run was: `2 documents and 251 tokens a second (65 documents, 27 s)`."""
    documents, tokens, seconds = found.pace
    seconds = max(seconds, 1e-9)
    return (
        f"{documents / seconds:,.3g} documents and {tokens / seconds:,.0f} tokens a second "
        f"({documents:,} document{'s' * (documents != 1)}, {seconds:,.0f} s)"
    )


def _counts(found: Survey) -> str:
    tally = found.tally
    windows = f" in {tally.windows:,} windows" if tally.windows > tally.documents else ""
    return (
        f"{tally.documents:,} document{'s' * (tally.documents != 1)}{windows}, "
        f"{tally.tokens:,} tokens, {found.heads.tokens:,} of them words"
    )


def _reasons(found: Survey) -> list[tuple[str, int]]:
    """What was wrong with documents, the most frequent first."""
    return Counter(one.reason.partition(":")[0] for one in found.tally.skipped).most_common()


def _files(found: Survey) -> str:
    """The files that documents were skipped in, the most first: `b.parquet (128), a.jsonl (1)`."""
    files = Counter(one.file for one in found.tally.skipped).most_common()
    more = f" and {len(files) - FILES:,} more" if len(files) > FILES else ""
    return ", ".join(f"{file} ({count:,})" for file, count in files[:FILES]) + more


# The page


def _table(found: Survey) -> str:
    n_head = max(len(row) for row in found.heads.table)
    columns = "".join(f"<th scope=col>{'H' * (not head)}{head}" for head in range(n_head))
    rows = ""
    for layer, row in enumerate(found.heads.table):
        cells = "".join(_cell(head) for head in row)
        rows += f"<tr><th scope=row>L{layer}{cells}"
    return (
        "<section class=map><h3>Every head</h3>"
        "<p>A row is a layer, a column a head. Choose one to see what it does.</p>"
        f"<div class=heads tabindex=0 role=group aria-label='heads'><table><thead><tr><td>{columns}"
        f"<tbody>{rows}</table></div></section>"
    )


def _cell(head: Head) -> str:
    sign, kind = table.SIGNS[head.label][0], _kind(head.label)
    score = "" if head.score is None else f"<small>{head.score:.2f}</small>"
    said = f"layer {head.layer} head {head.head}: {head.label}"
    if head.score is not None:
        said += f" {head.score:.2f}"
    name = _name(head.layer, head.head)
    return (
        f'<td class={kind}><a href="#{name}" title="{said}" aria-label="{said}">{sign}{score}</a>'
    )


def _legend(found: Survey) -> str:
    rows = ""
    for label in LABELS:
        if heads := found.heads.labelled(label):
            best = heads[0]
            said = ""
            if best.score is not None:
                name = _name(best.layer, best.head)
                said = f'<a href="#{name}">{name}</a> {_text(best.evidence)}'
            rows += (
                f"<tr><td class={_kind(label)}>{table.SIGNS[label][0]}<th scope=row>{label}"
                f"<td>{len(heads)}<td>{said}"
            )
    return (
        "<section class=map><h3>What they do</h3><table class=legend><thead><tr><td>"
        f"<th scope=col>label<th scope=col>heads<th scope=col>the strongest<tbody>{rows}</table>"
        f"<p class=note>{_text(table.rule())}</section>"
    )


def _skipped(found: Survey) -> str:
    skipped = found.tally.skipped
    if not skipped:
        return ""
    reasons = "".join(f"<li>{count:,} {_text(reason)}" for reason, count in _reasons(found))
    names = "".join(
        f"<li><bdi>{_text(named(one.file, one.number))}</bdi>: {_text(one.reason)}"
        for one in skipped[:NAMED]
    )
    more = len(skipped) - NAMED
    rest = f"<p class=note>{more:,} more are in skipped.parquet." if more > 0 else ""
    return (
        f"<section class=map><h3>Skipped</h3><ul>{reasons}</ul>"
        f"<details><summary>Which</summary><ul>{names}</ul>{rest}</details></section>"
    )


def _head(head: Head, rows: Sequence[Row], examples: Sequence[Example]) -> str:
    measures = "".join(_measure(row) for row in rows)
    links = "".join(_example(example) for example in examples)
    shown = f"<ol class=links>{links}</ol>" if links else "<p class=note>None."
    label = f"<b class={_kind(head.label)}>{table.SIGNS[head.label][0]}</b> {head.label}"
    return (
        f'<article class=head id="{_name(head.layer, head.head)}">'
        f"<h2>Layer {head.layer}, head {head.head}: {label}</h2><p>It {_text(head.evidence)}.</p>"
        "<section><div><h3>Its strongest links</h3><p>One a document, by weight: the framed word "
        "looks at the filled one. Special words, separators, the first token of a window and the "
        f"same word again do not count.</div><div>{shown}</div></section>"
        "<section><div><h3>Its measures</h3><p>Over all words: the mean, the standard deviation, "
        "what equal weights would give, and how many words lie where.</div>"
        "<div><table class=measures><thead><tr><td><th scope=col>mean<th scope=col>sd"
        "<th scope=col>equal<th scope=col>from low to high"
        f"<tbody>{measures}</table></div></section>"
        '<p><a href="#">All heads</a></article>'
    )


def _measure(row: Row) -> str:
    unit, ends = MEASURES[row.measure]
    name = f"<th scope=row>{row.measure} <small>{unit}</small>"
    if row.mean is None or row.variance is None or row.equal is None:
        return f"<tr>{name}<td>none<td><td><td>"
    numbers = [row.mean, math.sqrt(row.variance)]
    if row.measure != "uniform":
        numbers.append(row.equal)
    cells = "".join(f"<td>{_number(x)}" for x in numbers) + "<td>" * (3 - len(numbers))
    top = max(row.histogram)
    bars = "".join(
        f"M{at} 40v-{max(1, round(40 * count / top))}h.85V40z"
        for at, count in enumerate(row.histogram)
        if count
    )
    low, high = (_end(float(end)) for end in (ends[0], ends[-1]))
    said = f"{row.tokens:,} words; the first bin ends at {low}, the last begins at {high}"
    return (
        f'<tr>{name}{cells}<td><svg viewBox="0 0 {BINS} 40" preserveAspectRatio="none" role="img"'
        f' aria-label="{said}"><title>{said}</title><path class=up d="{bars}"/>'
        f'<path class=axis d="M0 40h{BINS}"/></svg>'
        f"<span class=ends><small>{low}</small><small>{high}</small></span>"
    )


def _example(one: Example) -> str:
    (a, b), (c, d) = sorted((one.query, one.key))
    first, second = ("query", "key") if one.query < one.key else ("key", "query")
    parts = (one.text[:a], one.text[a:b], one.text[b:c], one.text[c:d], one.text[d:])
    spaced = (re.sub(r"\s+", " ", part) for part in parts)
    before, word, middle, other, after = (_text(part) if part.strip() else part for part in spaced)
    return (
        f"<li><b>{display.weight(one.weight)}</b> <bdi>{before}<mark class={first}>{word}</mark>"
        f"{middle}<mark class={second}>{other}</mark>{after}</bdi>"
        f" <small><bdi>{_text(named(one.file, one.number))}</bdi></small>"
    )


def _number(x: float) -> str:
    return f"{x:.3f}" if x < 10 else f"{x:,.1f}"


def _end(x: float) -> str:
    return f"{x:.2g}" if x < 10 else f"{x:,.0f}"


def _name(layer: int, head: int) -> str:
    return f"L{layer}H{head}"


def _kind(label: str) -> str:
    return f"k{LABELS.index(label)}"


def _colours() -> str:
    """The colour of each label, and the ink that can be read on it."""
    rules = ""
    for label in LABELS[:-1]:
        colour = table.SIGNS[label][2]
        red, green, blue = bytes.fromhex(colour[1:])
        ink = "#000" if 0.3 * red + 0.59 * green + 0.11 * blue > 100 else "#fff"
        rules += f".{_kind(label)}{{background:{colour};color:{ink}}}"
    return rules


def _text(text: str) -> str:
    return escape(steps.visible(text))
