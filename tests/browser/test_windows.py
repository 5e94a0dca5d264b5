"""A text that is longer than the model takes: its windows, the arrows between them, the address."""

import pytest

from tests.browser.conftest import go, serving, settled
from tests.tiny import text, tiny_llama

LONG = text(211)  # in windows of 47 tokens with <s>: 43, 42, 42, 42 and 42 tokens


@pytest.fixture(scope="module")
def site():
    model = tiny_llama()
    model.config.max_position_embeddings = 47
    model.bits = 4
    view = model.view(" ".join(LONG.split()[:43]))
    with serving(model, LONG, view) as made:
        yield made


def says(page) -> str:
    return page.locator(".window .note").inner_text()


def shows(page, said: str) -> None:
    """Waits until the row of the windows says so, and all is drawn."""
    page.locator(".window .note").get_by_text(said).wait_for()
    settled(page)


def words(page) -> list[str]:
    return page.locator(".flow bdi").all_inner_texts()


def test_the_first_window_is_shown_and_said(open_page, site):
    page = open_page("step=0", fresh=True)
    assert says(page) == (
        "Tokens 0 to 42 of 211. This window is read by itself; what stands after it is not seen."
    )
    assert page.get_by_role("button", name="the window before this one").is_disabled()
    assert words(page) == list(site.view.reading.shown)


def test_a_model_of_few_bits_says_so(open_page):
    brand = open_page("step=0", fresh=True).locator(".brand")
    assert brand.inner_text().endswith("4-bit weights")


def test_the_arrows_lead_through_the_windows(open_page):
    page = open_page("step=0&layer=1&head=4", fresh=True)
    seen = words(page)[1:]
    for number in range(1, 5):
        page.get_by_role("button", name="the window after this one").click()
        shows(page, f"Tokens {len(seen)} to")
        assert f"window={number}" in page.url and "layer=1" in page.url and "head=4" in page.url
        assert "what stands before and after it is not seen" in says(page)
        seen += words(page)[1:]
    assert seen == LONG.split()
    assert page.get_by_role("button", name="the window after this one").is_disabled()
    page.locator("#pick-window").fill("2")
    page.keyboard.press("Enter")
    shows(page, "Tokens 85 to 126 of 211")
    page.go_back()
    shows(page, "Tokens 169 to 210 of 211")


def test_an_address_names_a_window(open_page, site):
    page = open_page("step=0&window=3&layer=2", fresh=True)
    shows(page, "Tokens 127 to 168 of 211")
    # The server does not know this view: it was let go, or the server was started again.
    go(page, f"step=0&text={text(97).replace(' ', '%20')}&window=1&v=gone")
    page.locator("#notice").get_by_text("not open any more").wait_for()
    page.reload()
    shows(page, "Tokens 33 to 64 of 97")
    open_page.wrong.clear()  # the browser complains of the 404


def test_a_window_that_the_server_let_go_is_read_again(open_page):
    page = open_page("step=0", fresh=True)
    for number in range(1, 5):
        page.get_by_role("button", name="the window after this one").click()
        page.wait_for_url(f"**window={number}*")
        settled(page)
    for given in range(2, 9):  # other texts take their places
        page.evaluate(
            "text => fetch('api/open', { method: 'POST', body: JSON.stringify({ text }) })",
            text(given),
        )
    page.locator("#text").fill("the sea")
    page.get_by_role("button", name="Read", exact=True).click()
    page.locator(".window").wait_for(state="detached")
    settled(page)
    page.go_back()
    shows(page, "Tokens 169 to 210 of 211")
    assert any("404" in one for one in open_page.wrong)  # and the browser complains of it
    open_page.wrong.clear()


@pytest.mark.parametrize("width", [320, 400, 1600])
def test_nothing_is_wider_than_the_window(open_page, width):
    page = open_page("lang=zh&step=0", width=width)
    assert "第 0 到第 42 个词元，全文共 211 个。" in says(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_lines_of_python_read_the_same_window(open_page, site):
    page = open_page("step=1&window=2", fresh=True)
    shows(page, "Tokens 85 to 126 of 211")
    lines = page.locator(".code").first.text_content()
    assert "text = text[" in lines and "# tokens 85 to 126 of 211" in lines
