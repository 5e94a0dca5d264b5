"""A survey as one web page without network or script, and as lines in a terminal."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wqkv.corpus.documents import document_name
from wqkv.corpus.measures import BINS, MEASURES
from wqkv.corpus.sums import Example, HeadMeasure
from wqkv.corpus.survey import Survey
from wqkv.draw import heads as table
from wqkv.draw import steps
from wqkv.draw.html import asset, escaped, frame
from wqkv.maps import display
from wqkv.study.heads import LABELS, Head

if TYPE_CHECKING:
    from rich.console import Console

#: How many skipped documents the page names, and how many of their files the terminal names.
NAMED, FILES = 50, 5


def page(found: Survey) -> str:
    """Return one self-contained page: every head's label, its measures and its examples."""
    style = asset("story.css") + asset("survey.css")
    measures: dict[tuple[int, int], list[HeadMeasure]] = defaultdict(list)
    for one in found.tally.measures:
        measures[one.layer, one.head].append(one)
    examples = dict(zip(found.tally.heads, found.tally.examples, strict=True))
    heads = found.heads.all
    places = [(head.layer, head.head) for head in heads]
    articles = [
        _article(head, measures[place], examples[place])
        for head, place in zip(heads, places, strict=True)
    ]
    body = [
        f"<header><h1>What do the heads of <b><bdi>{escaped(found.model)}</bdi></b> do?</h1>"
        f"<p>Over {_counts(found)}: <bdi>{escaped(found.source)}</bdi></p>",
        f"{_unread(found)}</header>",
        f"<main>{_table(found)}{_legend(found)}{_skipped(found)}",
        *articles,
        "</main>",
    ]
    return frame(f"wqkv survey: {steps.visible(found.model)}", style + _label_colors(), body)


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
    """Return how fast this run was: `2 documents and 251 tokens a second (65 documents, 27 s)`."""
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
        f"{tally.tokens:,} tokens, {found.heads.tokens:,} of them not special"
    )


def _unread(found: Survey) -> str:
    told = steps.cannot_read(found.tally.unread, found.model)
    return told and f"<p class=unread>{escaped(told)}</p>"


def _reasons(found: Survey) -> list[tuple[str, int]]:
    """What was wrong with documents and how often, the most frequent first."""
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
    sign, kind = table.SIGNS[head.label].letter, _class_of(head.label)
    score = "" if head.score is None else f"<small>{head.score:.2f}</small>"
    said = f"layer {head.layer} head {head.head}: {head.label}"
    if head.score is not None:
        said += f" {head.score:.2f}"
    name = _anchor(head.layer, head.head)
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
                name = _anchor(best.layer, best.head)
                said = f'<a href="#{name}">{name}</a> {escaped(best.evidence)}'
            rows += (
                f"<tr><td class={_class_of(label)}>{table.SIGNS[label].letter}<th scope=row>{label}"
                f"<td>{len(heads)}<td>{said}"
            )
    return (
        "<section class=map><h3>What they do</h3><table class=legend><thead><tr><td>"
        f"<th scope=col>label<th scope=col>heads<th scope=col>the strongest<tbody>{rows}</table>"
        f"<p class=note>{escaped(table.rule())}</section>"
    )


def _skipped(found: Survey) -> str:
    skipped = found.tally.skipped
    if not skipped:
        return ""
    reasons = "".join(f"<li>{count:,} {escaped(reason)}" for reason, count in _reasons(found))
    names = "".join(
        f"<li><bdi>{escaped(document_name(one.file, one.number))}</bdi>: {escaped(one.reason)}"
        for one in skipped[:NAMED]
    )
    more = len(skipped) - NAMED
    rest = f"<p class=note>{more:,} more are in skipped.parquet." if more > 0 else ""
    return (
        f"<section class=map><h3>Skipped</h3><ul>{reasons}</ul>"
        f"<details><summary>Which</summary><ul>{names}</ul>{rest}</details></section>"
    )


def _article(head: Head, measures: Sequence[HeadMeasure], examples: Sequence[Example]) -> str:
    rows = "".join(_measure_row(one) for one in measures)
    links = "".join(_example_item(example) for example in examples)
    shown = f"<ol class=links>{links}</ol>" if links else "<p class=note>None."
    label = f"<b class={_class_of(head.label)}>{table.SIGNS[head.label].letter}</b> {head.label}"
    return (
        f'<article class=head id="{_anchor(head.layer, head.head)}">'
        f"<h2>Layer {head.layer}, head {head.head}: {label}</h2><p>It {escaped(head.evidence)}.</p>"
        "<section><div><h3>Its strongest links</h3><p>One a document, by weight: the framed token "
        "looks at the filled one. Special tokens, separators, the first token of a window and the "
        f"same token again do not count.</div><div>{shown}</div></section>"
        "<section><div><h3>Its measures</h3><p>Over all tokens that are not special: the "
        "mean, the standard deviation, what equal weights would give, and how many tokens lie "
        "where.</div>"
        "<div><table class=measures><thead><tr><td><th scope=col>mean<th scope=col>sd"
        "<th scope=col>equal<th scope=col>from low to high"
        f"<tbody>{rows}</table></div></section>"
        '<p><a href="#">All heads</a></article>'
    )


def _measure_row(one: HeadMeasure) -> str:
    unit, ends = MEASURES[one.measure]
    name = f"<th scope=row>{one.measure} <small>{unit}</small>"
    if one.mean is None or one.variance is None or one.equal is None:
        return f"<tr>{name}<td>none<td><td><td>"
    numbers = [one.mean, math.sqrt(one.variance)]
    if one.measure != "uniform":  # there equal weights have 1 by definition
        numbers.append(one.equal)
    cells = "".join(f"<td>{_number(x)}" for x in numbers) + "<td>" * (3 - len(numbers))
    top = max(one.histogram)
    bars = "".join(
        f"M{at} 40v-{max(1, round(40 * count / top))}h.85V40z"
        for at, count in enumerate(one.histogram)
        if count
    )
    low, high = (_end(float(end)) for end in (ends[0], ends[-1]))
    said = f"{one.tokens:,} tokens; the first bin ends at {low}, the last begins at {high}"
    return (
        f'<tr>{name}{cells}<td><svg viewBox="0 0 {BINS} 40" preserveAspectRatio="none" role="img"'
        f' aria-label="{said}"><title>{said}</title><path class=up d="{bars}"/>'
        f'<path class=axis d="M0 40h{BINS}"/></svg>'
        f"<span class=ends><small>{low}</small><small>{high}</small></span>"
    )


def _example_item(one: Example) -> str:
    (a, b), (c, d) = sorted((one.query, one.key))
    first, second = ("query", "key") if one.query < one.key else ("key", "query")
    parts = (one.text[:a], one.text[a:b], one.text[b:c], one.text[c:d], one.text[d:])
    spaced = (re.sub(r"\s+", " ", part) for part in parts)
    before, token, middle, other, after = (
        escaped(part) if part.strip() else part for part in spaced
    )
    return (
        f"<li><b>{display.weight(one.weight)}</b> <bdi>{before}<mark class={first}>{token}</mark>"
        f"{middle}<mark class={second}>{other}</mark>{after}</bdi>"
        f" <small><bdi>{escaped(document_name(one.file, one.number))}</bdi></small>"
    )


def _number(x: float) -> str:
    return f"{x:.3f}" if x < 10 else f"{x:,.1f}"


def _end(x: float) -> str:
    return f"{x:.2g}" if x < 10 else f"{x:,.0f}"


def _anchor(layer: int, head: int) -> str:
    return f"L{layer}H{head}"


def _class_of(label: str) -> str:
    return f"k{LABELS.index(label)}"


def _label_colors() -> str:
    """The color of each label, and black or white on it, whichever can be read better."""
    rules = ""
    for label in LABELS[:-1]:  # the last, unclassified, has no color
        color = table.SIGNS[label].color
        red, green, blue = bytes.fromhex(color[1:])
        ink = "#000" if 0.3 * red + 0.59 * green + 0.11 * blue > 100 else "#fff"
        rules += f".{_class_of(label)}{{background:{color};color:{ink}}}"
    return rules
