"""Two sentences that an encoder reads together: their fields, and the gap between them."""

import pytest

from tests.browser.conftest import serving, settled

ASKED, TOLD = "Who lit the lamp?", "The keeper did."


@pytest.fixture(scope="module")
def site(minilm):
    with serving(minilm, ASKED, minilm.view(minilm.tokens(ASKED, TOLD)), pair=TOLD) as made:
        yield made


def test_each_sentence_has_its_field_and_its_line(open_page, site):
    page = open_page("step=0&view=text", fresh=True)
    assert [page.locator(f"#{name}").input_value() for name in ("text", "pair")] == [ASKED, TOLD]
    words = page.locator(".flow bdi")
    assert words.all_inner_texts() == list(site.view.reading.shown)
    tops = words.evaluate_all("found => found.map(word => word.getBoundingClientRect().top)")
    second = site.view.reading.types.index(1)
    assert max(tops[:second]) + 10 < min(tops[second:])  # special tokens stand a little lower


def test_a_pair_is_read_anew(open_page):
    page = open_page("step=0&view=text", fresh=True)
    page.locator("#pair").fill("It was the sea.")
    page.locator("#pair").press("Enter")
    page.locator(".flow bdi", has_text="sea").wait_for()
    settled(page)
    assert "pair=It" in page.url
    page.locator("#pair").fill("")
    page.locator("#pair").press("Enter")
    page.locator("#pair").wait_for(state="detached")
    settled(page)
    assert page.locator(".flow bdi").count() == 7 and "pair=" not in page.url
    page.go_back()
    page.locator("#pair").wait_for()
