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
from wqkv.maps.display import visible
from wqkv.sentences import recognized, say, translated
from wqkv.sentences.counts import count_of
from wqkv.sentences.heads import LABELS as NAMES
from wqkv.sentences.survey import COUNTED, MEASURED, PAGE, REASONS
from wqkv.study.heads import LABELS, Head

if TYPE_CHECKING:
    from rich.console import Console

#: How many skipped documents the page names, and how many of their files the terminal names.
NAMED, FILES = 50, 5


def page(found: Survey, lang: str = "en") -> str:
    """Return one self-contained page: every head's label, its measures and its examples.

    Args:
        lang: one of LANGUAGES.
    """
    style = asset("story.css") + asset("survey.css")
    measures: dict[tuple[int, int], list[HeadMeasure]] = defaultdict(list)
    for one in found.tally.measures:
        measures[one.layer, one.head].append(one)
    examples = dict(zip(found.tally.heads, found.tally.examples, strict=True))
    heads = found.heads.all
    places = [(head.layer, head.head) for head in heads]
    articles = [
        _article(head, measures[place], examples[place], lang)
        for head, place in zip(heads, places, strict=True)
    ]
    model = f"<b><bdi>{escaped(found.model)}</bdi></b>"
    source = f"<bdi>{escaped(found.source)}</bdi>"
    body = [
        f"<header><h1>{_said(lang, 'heading', model=model)}</h1>"
        f"<p>{_said(lang, 'over', counts=_counts(found), source=source)}</p>",
        f"{_unread(found, lang)}</header>",
        f"<main>{_table(found, lang)}{_legend(found, lang)}{_skipped(found, lang)}",
        *articles,
        "</main>",
    ]
    title = _said(lang, "title", model=visible(found.model))
    return frame(title, style + _label_colors(), body, lang=lang)


def _said(lang: str, name: str, /, **facts: object) -> str:
    """A sentence of the page with its facts, which are HTML already."""
    return translated(say(PAGE[name], **facts), lang)


def show(found: Survey, console: Console, lang: str = "en") -> None:
    """Print the table of heads, and what was read and what was not."""
    from rich.text import Text

    from wqkv.draw.terminal import Pen

    pen = Pen(console, lang)

    def write(name: str, **facts: object) -> None:
        pen.write(Text(pen.said(say(COUNTED[name], **facts))), indent=0)

    table.show(found.heads, found.model, console, lang)
    write("read", counts=_counts(found))
    for reason, count in _reasons(found):
        write("skipped", count=count, reason=reason)
    if found.tally.skipped:
        write("skipped_in", files=_files(found))
    if found.pace.documents:
        pen.write(Text(pen.said(pace(found))), indent=0)


def pace(found: Survey) -> str:
    """Return how fast this run was: `2 documents and 251 tokens a second (65 documents, 27 s)`."""
    documents, tokens, seconds = found.pace
    seconds = max(seconds, 1e-9)
    return say(
        COUNTED["pace"],
        per_second=documents / seconds,
        tokens=tokens / seconds,
        documents=count_of(documents, "document"),
        seconds=seconds,
    )


def _counts(found: Survey) -> str:
    tally = found.tally
    return say(
        COUNTED["counts_windows" if tally.windows > tally.documents else "counts"],
        documents=count_of(tally.documents, "document"),
        windows=tally.windows,
        tokens=tally.tokens,
        counted=found.heads.tokens,
    )


def _unread(found: Survey, lang: str) -> str:
    told = steps.cannot_read(found.tally.unread, found.model, lang)
    return told and f"<p class=unread>{escaped(told)}</p>"


def _reasons(found: Survey) -> list[tuple[str, int]]:
    """What was wrong with documents and how often, the most frequent first."""
    reasons = Counter(one.reason.partition(":")[0] for one in found.tally.skipped)
    return [(_reason(reason), count) for reason, count in reasons.most_common()]


def _reason(reason: str) -> str:
    """A reason that was read from a file, in both languages if it is a known one."""
    kind, _, more = reason.partition(": ")
    known = recognized(kind, REASONS)
    return say(COUNTED["reason"], kind=known, more=more) if more else known


def _files(found: Survey) -> str:
    """The files that documents were skipped in, the most first: `b.parquet (128), a.jsonl (1)`."""
    files = Counter(one.file for one in found.tally.skipped).most_common()
    named = ", ".join(f"{file} ({count:,})" for file, count in files[:FILES])
    more = len(files) - FILES
    return say(COUNTED["more_files"], files=named, count=more) if more > 0 else named


# The page


def _table(found: Survey, lang: str) -> str:
    n_head = max(len(row) for row in found.heads.table)
    columns = "".join(f"<th scope=col>{'H' * (not head)}{head}" for head in range(n_head))
    rows = ""
    for layer, row in enumerate(found.heads.table):
        cells = "".join(_cell(head, lang) for head in row)
        rows += f"<tr><th scope=row>L{layer}{cells}"
    return (
        f"<section class=map><h3>{_said(lang, 'every')}</h3><p>{_said(lang, 'every_says')}</p>"
        f"<div class=heads tabindex=0 role=group aria-label='{_said(lang, 'heads')}'>"
        f"<table><thead><tr><td>{columns}<tbody>{rows}</table></div></section>"
    )


def _cell(head: Head, lang: str) -> str:
    sign, kind = table.SIGNS[head.label].letter, _class_of(head.label)
    score = "" if head.score is None else f"<small>{head.score:.2f}</small>"
    label = table.name_of(head.label)
    said = _said(lang, "cell", layer=head.layer, head=head.head, label=label)
    if head.score is not None:
        said += f" {head.score:.2f}"
    name = _anchor(head.layer, head.head)
    return (
        f'<td class={kind}><a href="#{name}" title="{said}" aria-label="{said}">{sign}{score}</a>'
    )


def _legend(found: Survey, lang: str) -> str:
    rows = ""
    for label in LABELS:
        if heads := found.heads.labelled(label):
            best = heads[0]
            said = ""
            if best.score is not None:
                place = _anchor(best.layer, best.head)
                said = f'<a href="#{place}">{place}</a> {escaped(translated(best.evidence, lang))}'
            name = translated(table.name_of(label), lang)
            rows += (
                f"<tr><td class={_class_of(label)}>{table.SIGNS[label].letter}<th scope=row>{name}"
                f"<td>{len(heads)}<td>{said}"
            )
    return (
        f"<section class=map><h3>{_said(lang, 'do')}</h3><table class=legend><thead><tr><td>"
        f"{_columns(lang, 'label', 'heads', 'strongest')}<tbody>{rows}</table>"
        f"<p class=note>{escaped(translated(table.rule(), lang))}</section>"
    )


def _columns(lang: str, *names: str) -> str:
    return "".join(f"<th scope=col>{_said(lang, name)}" for name in names)


def _skipped(found: Survey, lang: str) -> str:
    skipped = found.tally.skipped
    if not skipped:
        return ""
    reasons = "".join(
        f"<li>{escaped(_said(lang, 'count', count=count, reason=reason))}"
        for reason, count in _reasons(found)
    )
    names = ""
    for one in skipped[:NAMED]:
        name = f"<bdi>{escaped(document_name(one.file, one.number))}</bdi>"
        reason = escaped(translated(_reason(one.reason), lang))
        names += f"<li>{_said(lang, 'document', name=name, reason=reason)}"
    more = len(skipped) - NAMED
    rest = f"<p class=note>{_said(lang, 'more', count=more)}" if more > 0 else ""
    return (
        f"<section class=map><h3>{_said(lang, 'skipped')}</h3><ul>{reasons}</ul>"
        f"<details><summary>{_said(lang, 'which')}</summary><ul>{names}</ul>{rest}</details>"
        "</section>"
    )


def _article(
    head: Head, measures: Sequence[HeadMeasure], examples: Sequence[Example], lang: str
) -> str:
    rows = "".join(_measure_row(one, lang) for one in measures)
    links = "".join(_example_item(example) for example in examples)
    none = f"<p class=note>{_said(lang, 'none')}"
    shown = f"<ol class=links>{links}</ol>" if links else none
    label = (
        f"<b class={_class_of(head.label)}>{table.SIGNS[head.label].letter}</b>"
        f" {translated(table.name_of(head.label), lang)}"
    )
    evidence = escaped(translated(head.evidence, lang))
    return (
        f'<article class=head id="{_anchor(head.layer, head.head)}">'
        f"<h2>{_said(lang, 'head', layer=head.layer, head=head.head, label=label)}</h2>"
        f"<p>{_said(lang, 'it', evidence=evidence)}</p>"
        f"<section><div><h3>{_said(lang, 'links')}</h3><p>{_said(lang, 'links_say')}</div>"
        f"<div>{shown}</div></section>"
        f"<section><div><h3>{_said(lang, 'measures')}</h3><p>{_said(lang, 'measures_say')}</div>"
        f"<div><table class=measures><thead><tr><td>"
        f"{_columns(lang, 'mean', 'sd', 'equal', 'low_to_high')}"
        f"<tbody>{rows}</table></div></section>"
        f'<p><a href="#">{_said(lang, "all")}</a></article>'
    )


def _measure_row(one: HeadMeasure, lang: str) -> str:
    unit, ends = MEASURES[one.measure]
    measure = translated(say((MEASURED | NAMES)[one.measure]), lang)
    name = f"<th scope=row>{measure} <small>{translated(unit, lang)}</small>"
    if one.mean is None or one.variance is None or one.equal is None:
        return f"<tr>{name}<td>{_said(lang, 'no_mean')}<td><td><td>"
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
    said = _said(lang, "bins", tokens=count_of(one.tokens, "token"), low=low, high=high)
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
