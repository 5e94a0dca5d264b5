"""A survey as a page and in a terminal."""

import io
import math
import re
from dataclasses import replace
from html import escape

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.unit.corpus.test_sums import part
from tests.unit.draw.test_html import Parts, digest
from wqkv.corpus.measures import MEASURES
from wqkv.corpus.sums import Example, Skipped, merge
from wqkv.corpus.survey import Pace, Survey
from wqkv.draw import survey as shown
from wqkv.draw.steps import cannot_read
from wqkv.draw.survey import NAMED, page, show
from wqkv.study.tokens import Unread

HOSTILE = "<script>alert(1)</script>\nthe \u202e猫"
EXAMPLE = Example(-0.625, "<b>.jsonl", 17, HOSTILE, (26, 29), (8, 13))


def make(source="docs.jsonl", **changes):
    found = merge(part(seed) for seed in range(3))
    changes = {"examples": ((EXAMPLE,), *found.examples[1:])} | changes
    return Survey("tiny", source, replace(found, **changes), Pace(65, 6854, 27.31))


def test_policy_allows_its_own_style_alone():
    text = page(make())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert [part.strip() for part in policy.split(";")] == [
        "default-src 'none'",
        f"style-src '{digest(style)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "url(" not in style and "<script" not in text


def test_asks_for_nothing_and_links_inside():
    tags = Parts(page(make())).tags
    assert not {"script", "img", "link", "iframe", "base", "form", "object"} & {
        name for name, _ in tags
    }
    places = {attributes["id"] for _, attributes in tags if "id" in attributes}
    assert places == {"L0H0", "L0H1", "L0H2", "L1H0", "L1H1"}
    for _, attributes in tags:
        assert not {"src", "style", "srcset", "background"} & {*attributes}
        assert not [name for name in attributes if name.startswith("on")]
        href = attributes.get("href", "#")
        assert href == "#" or href[1:] in places
    linked = [
        attributes["href"]
        for _, attributes in tags
        if "aria-label" in attributes and "href" in attributes
    ]
    assert linked == [f"#{place}" for place in sorted(places)]


def test_texts_are_escaped():
    found = replace(make(HOSTILE), model="<b>&")
    skipped = (Skipped("<i>", 3, "no field '<b>'"),)
    found = replace(found, tally=replace(found.tally, skipped=skipped))
    text = page(found)
    assert "&lt;b&gt;&amp;" in text and "&lt;i&gt;:3" in text and "&lt;b&gt;.jsonl:17" in text
    assert "<script>alert" not in text and "<b>&" not in text and "\u202e" not in text
    assert "\\u202e" in text


def test_an_example_marks_its_tokens():
    text = page(make())
    assert (
        "<b>0.625</b> <bdi>&lt;script&gt;<mark class=key>alert</mark>(1)&lt;/script&gt; "
        "<mark class=query>the</mark> \\u202e猫</bdi>"
    ) in text


def test_numbers_are_those_of_the_tally():
    found = make()
    text = page(found)
    for row in found.tally.measures:
        article = text.partition(f'id="L{row.layer}H{row.head}"')[2].partition("</article>")[0]
        cells = article.partition(f"<th scope=row>{row.measure} ")[2].partition("<tr>")[0]
        numbers = re.findall(r"<td>([\d.,]+)", cells)
        expected = [row.mean, math.sqrt(row.variance), row.equal]
        expected = expected[: 2 if row.measure == "uniform" else 3]
        assert [float(x.replace(",", "")) for x in numbers] == pytest.approx(
            expected, rel=1e-2, abs=6e-4
        )
        assert len(re.findall(r"M\d+ 40v", cells)) == sum(map(bool, row.histogram))
        assert f"{row.tokens:,} tokens; the first bin ends at" in cells
    assert len(MEASURES) == 12


def test_a_measure_without_tokens():
    found = make()
    counts = found.tally.counts.copy()
    counts[2, 1] = 0
    text = page(replace(found, tally=replace(found.tally, counts=counts)))
    article = text.partition('id="L0H2"')[2].partition("</article>")[0]
    assert re.search(r"<th scope=row>next <small>.*?</small><td>none<td><td><td>", article)


def test_heads_without_examples():
    assert page(make(examples=((),) * 5)).count("<p class=note>None.") == 5


def test_what_was_skipped():
    assert "<h3>Skipped" not in page(make(skipped=()))
    skipped = [Skipped("a.jsonl", at, "not JSON: at 3") for at in range(NAMED)]
    skipped += [Skipped("b.jsonl", at, "empty") for at in range(7)]
    text = page(make(skipped=tuple(skipped)))
    assert f"<li>{NAMED} not JSON<li>7 empty</ul>" in text
    assert "<bdi>a.jsonl:49</bdi>: not JSON: at 3" in text and "b.jsonl:3" not in text
    assert "<p class=note>7 more are in skipped.parquet." in text


@pytest.mark.parametrize("width", [31, 80, 211])
def test_terminal(width):
    found = make(skipped=(Skipped("猫", 1, "empty"), Skipped("b", 2, "not JSON: x")))
    file = io.StringIO()
    show(found, Console(file=file, width=width))
    text = file.getvalue()
    assert max(map(cell_len, text.splitlines())) <= width and "\x1b" not in text
    words = " ".join(text.split())
    assert words.startswith("tiny, 2 layers x 3 heads, over")
    counts = (
        f"read: 18 documents in 24 windows, 36 tokens, {found.heads.tokens} of them not special"
    )
    assert f"{counts} skipped: 1 empty skipped: 1 not JSON skipped in: 猫 (1), b (1) " in words
    assert words.endswith("2.38 documents and 251 tokens a second (65 documents, 27 s)")


def test_what_the_model_cannot_read():
    found, file = make(unread=Unread(17, 3)), io.StringIO()
    told = cannot_read(Unread(17, 3), "tiny")
    show(found, Console(file=file, width=300))
    assert file.getvalue().splitlines()[1] == told
    assert f"<p class=unread>{escape(told)}</p></header>" in page(found)
    assert "<p class=unread>" not in page(make(unread=Unread(17)))


def test_nothing_was_made():
    file = io.StringIO()
    show(replace(make(), pace=Pace(0, 0, 0.0)), Console(file=file, width=80))
    assert "a second" not in file.getvalue()
    assert shown.pace(replace(make(), pace=Pace(1, 0, 0.0))).endswith("(1 document, 0 s)")


def test_the_files_of_what_was_skipped():
    """The most first, a few of many, and no codes of their names."""
    skipped = [Skipped(f"{at}.jsonl", 3, "empty") for at in range(6)]
    skipped += [Skipped("a\x1b[31m.parquet", at, "damaged Parquet: x") for at in range(1200)]
    console = Console(file=io.StringIO(), width=300)
    show(make(skipped=tuple(skipped)), console)
    printed = console.file.getvalue()
    files = (
        r"a\x1b[31m.parquet (1,200), 0.jsonl (1), 1.jsonl (1), 2.jsonl (1), 3.jsonl (1) and 2 more"
    )
    assert f"skipped in: {files}\n" in printed and "\x1b" not in printed


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("empty", "没有内容"),
        ("not UTF-8: byte 0xff at 3", "不是 UTF-8：byte 0xff at 3"),
        ("no field 'text' among 'body'", "没有字段 'text'，有的是 'body'"),
        ("its 'text' is int, not text", "'text' 是 int，不是文本"),
        ("window 2 of 3: no proof", "第 2 个窗口（共 3 个）：no proof"),
        ("of another version", "of another version"),
    ],
)
def test_why_a_document_was_skipped_in_chinese(reason, said):
    found = make(skipped=(Skipped("a", 1, reason),))
    assert f"<bdi>a:1</bdi>：{escape(said)}" in page(found, "zh")
    assert f"<bdi>a:1</bdi>: {escape(reason)}" in page(found)
