import base64
import dataclasses
import hashlib
import io
import math
import re
from html import escape
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from tests.unit.draw.stories import make
from wqkv.draw.html import page
from wqkv.draw.matrix import scale_end
from wqkv.maps import display
from wqkv.maps.proof import Proof
from wqkv.study.tokens import Unread

TRAPS = (
    "[CLS]",
    "<script>alert(1)</script>",
    "</script>",
    "</style>",
    '"><img src=x>',
    "&amp;",
    "it",
)


class Parts(HTMLParser):
    """The tags of a page with their attributes, and its map as the text of its rows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "div" and dict(attributes).get("class", "").startswith("cells"):
            self.inside = "map"
        elif tag == "tr" and self.inside:
            self.rows.append([])
        elif tag in ("td", "th") and self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "div":
            self.inside = None

    def handle_data(self, text):
        if self.inside and self.rows:
            self.rows[-1][-1] += text


def digest(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_policy_allows_its_own_style_and_script_alone():
    text = page([make(TRAPS, token=6), make()])
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src '{digest(style)}'",
        "img-src data:",
        f"script-src '{digest(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "url(" not in style
    assert not re.search(r"fetch|XMLHttp|import|https?:", script)


def test_asks_for_nothing():
    text = page([make(TRAPS, token=6, sentence="<img src=http://x>", model="<b>", mask="<i>")])
    tags = Parts(text).tags
    names = [tag for tag, _ in tags]
    assert names.count("script") == names.count("style") == 1
    assert not {"img", "link", "iframe", "base", "form", "object"} & {*names}
    for tag, attributes in tags:
        assert not {"src", "style", "srcset", "background"} & {*attributes}
        assert not [name for name in attributes if name.startswith("on")]
        held = "data:image/png;base64," if tag == "image" else "#"
        assert attributes.get("href", held).startswith(held)


def test_words_are_escaped():
    text = page([make(TRAPS, token=6, sentence="</title>", model="<b>&")])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&amp;amp;" in text
    assert "&lt;/title&gt;" in text
    assert "&lt;b&gt;&amp;" in text
    assert text.isascii() or "<script>alert" not in text
    page([make(["\ud800", "it"], token=1)]).encode("utf-8")


def test_map_holds_the_numbers():
    story = make()
    head, *rows = Parts(page([story])).rows
    assert head == ["", *story.tokens]
    assert [row[0] for row in rows] == list(story.tokens)
    found = torch.tensor([[float(weight) for weight in row[1:]] for row in rows])
    assert (found - story.map).abs().max() <= 0.0005 + 1e-6


def read_png(url):
    """The pixels of a PNG as (height, width, 4): color and opacity."""
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(
        image.height, image.width, 4
    )


def test_pictures_hold_the_matrices():
    story = make()
    urls = re.findall(r'href="(data:image/png[^"]*)"', page([story]))
    found = story.matrices
    shared = scale_end([found.WQ, found.WK, found.WV])
    for url, numbers, given, end in zip(
        urls,
        (found.WQ, found.WK, found.WV, found.WO),
        [story.x] * 3 + [story.gated],
        [shared] * 3 + [scale_end([found.WO])],
        strict=True,
    ):
        pixels = read_png(url)
        numbers = numbers[given.abs().argsort(descending=True)]
        assert pixels.shape == (*numbers.shape, 4)
        assert torch.equal(pixels[..., 2] > pixels[..., 0], numbers / end * 127 > -0.5)  # blue
        shown = pixels[..., 3] / 255 * numbers.sign() * end
        assert (shown - numbers.clamp(-end, end)).abs().max() <= end / 127


def test_numbers_of_a_matrix_that_are_not_finite():
    story = make()
    broken = dataclasses.replace(story.matrices, WK=torch.full((53, 17), math.nan))
    text = page([dataclasses.replace(story, matrices=broken)])
    _, WK, *_ = re.findall(r'href="(data:image/png[^"]*)"', text)
    assert read_png(WK).unique(dim=0).unique(dim=1).tolist() == [[[128, 128, 128, 255]]]


def test_large_matrices_are_drawn_in_blocks_that_are_said():
    text = page([make(x=torch.randn(1031))])
    assert "each cell: of 3 x 1 numbers the one of the largest size" in text  # WQ, WK, WV
    assert "each cell: of 1 x 3 numbers" in text  # WO
    assert read_png(re.findall(r'href="(data:[^"]*)"', text)[0]).shape == (344, 17, 4)
    assert "each cell" not in page([make()])


def test_the_sum_of_the_marked_column():
    story = make()
    text = page([story])
    column = int(story.q.abs().argmax())
    says = f"Column {column} of WQ is marked: x times this column and its bias added gives q["
    assert f"<p class=says>{says}" in text
    sums = re.findall(r"<td>= (-?[0-9.]+)", text.partition(says)[2].partition("</table>")[0])
    *parts, total = map(float, sums)
    assert sum(parts) == pytest.approx(total, abs=1e-9)
    assert total == pytest.approx(story.q[column].item(), abs=0.006)
    assert f'<rect class=frame x="{column}" width="1" height="53"/>' in text
    assert f'<rect class=lit x="{column}" width="1" height="200"/>' in text


def test_all_is_said_in_chinese():
    story = make(["一"] * 17, token=3, causal=True, n_kv_head=1)
    text = page([story, make(["一"] * 503, proof=Proof(0.5, 2.3, 4.1e-6, 11))], "zh")
    assert '<html lang="zh">' in text
    shown = re.sub(r"<(style|script)>.*?</\1>|<[^>]*>|&\w+;", " ", text, flags=re.DOTALL)
    labels = " ".join(re.findall(r'aria-label="([^"]*)"', text))
    names = {"tiny", "model", "token", "query", "value", "softmax", "context", "share", "sqrt"}
    names |= {"score", "weight", "ausal", "wqkv", "query", "value"}
    assert {*re.findall(r"[a-z]{4,}", shown + labels)} <= names
    assert "证明成立" in shown and "证明失败" in shown


def test_tables_hold_the_numbers():
    story = make(causal=True)
    text = page([story])
    for j in range(8):
        cells = rf"<td>{j}<th scope=row><bdi>{re.escape(escape(story.tokens[j]))}</bdi>"
        assert re.search(rf"{cells}<td>{story.scores[j]:.2f}<", text)
        assert re.search(rf"{cells}<td>{display.weight(story.weights[j].item())}<", text)
    assert text.count("<td>hidden<td>") == 3
    assert "hidden, no score: <bdi>was</bdi> <bdi>tired</bdi> <bdi>[SEP]</bdi></p>" in text


def test_empty_cells_are_exact_zeros():
    text = page([make(causal=True)])
    assert text.count("<td class=z>0.000") == 11 * 10 / 2


def test_size_of_64_words():
    assert len(page([make([f"word{i}" for i in range(64)])]).encode()) < 200_000


def test_long_text_is_cut_and_says_so():
    story = make([f"w{i}" for i in range(503)], token=211)
    text = page([story])
    assert len(text.encode()) < 300_000
    assert "words 83 to 338 of 0 to 502<" in text
    assert "words 179 to 242 of 0 to 502<" in text
    assert "the 12 best of 503 words<" in text
    assert f"<h2><bdi>{story.sentence[:197]}...</bdi></h2>" in text
    assert "and 491 more words share 0." in text
    assert Parts(text).rows[0] == ["", *(f"w{i}" for i in range(179, 243))]


def test_one_more_word_and_many_hidden():
    assert "and 1 more word has 0.00" in page([make([f"w{i}" for i in range(13)])])
    assert "</bdi> and 3 more</p>" in page([make(["x"] * 17, token=1, causal=True)])


def test_wide_vectors_are_binned_and_say_so():
    assert "1031 numbers" in (text := page([make(x=torch.randn(1031))]))
    assert "each bar is the mean of 3" in text
    assert "each bar" not in page([make()])


def test_several_stories():
    text = page([make(sentence="One."), make(sentence="Two.")])
    assert '<a href="#story1"><bdi>Two.</bdi></a>' in text
    assert 'id="story1"' in text
    assert "<nav>" not in page([make()])


@pytest.mark.parametrize(("difference", "count"), [(1.9e-7, 0), (0.5, 2), (math.nan, 2)])
def test_failed_proof_is_loud(difference, count):
    text = page([make(proof=Proof(difference, 2.3, 4.1e-6, 11))])
    assert text.count("<p class=failed>FAILED ITS PROOF") == count
    assert text.count("PROOF HOLDS") == (count == 0)


def test_heads_that_share():
    assert "the 7 heads share 1 of k and v" in page([make(n_head=7, n_kv_head=1)])


def test_numbers_that_are_not_finite():
    nan = torch.full((11,), math.nan)
    hidden = torch.full((11,), -math.inf)
    assert "<td>nan<td>" in page([make(scores=nan, weights=nan, map=nan.expand(11, 11))])
    assert "x" in page([make(x=torch.tensor([math.nan, math.inf]))])
    story = dataclasses.replace(make(), scores=hidden, weights=torch.zeros(11))
    assert "every weight is 0" in page([story])


def test_a_story_without_its_map():
    assert "The whole head" in page([make()])
    assert "The whole head" not in page([make(map=None)])


def test_says_what_the_model_cannot_read():
    told = page([make(unread=Unread(11, 3, 0, "<b>"))])
    assert (
        "<p class=unread>Unknown to tiny-model: 3 of the text&#x27;s 11 tokens (&lt;b&gt;)." in told
    )
    assert "<p class=unread>" not in page([make()])
