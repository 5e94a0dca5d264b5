"""What holds for every view of the explorer: addresses, languages, sizes, files, mishaps."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.browser.conftest import ANIMAL, HEAD, HERE, IT, LAYER, STATISTICS, go, settled
from wqkv.draw import steps

VIEWS = ("text", "grid", "map", "whatif", "generate")


# What stands on every view


@pytest.mark.parametrize("view", ["text", "grid", "map"])
def test_every_view_says_what_it_shows_and_gives_python(open_page, view):
    page = open_page(f"{HERE}&step=5&view={view}")
    page.evaluate("for (const one of document.querySelectorAll('.basis')) one.open = false")
    for foot in page.locator("#open footer.foot, #view footer.foot").all():
        assert foot.locator(".holds").is_visible() is False  # it stands once, at the top
        foot.locator("summary").click()
        said = foot.inner_text()
        for part in ("layer 3", "head 1", "float32", "fused", "exact"):
            assert part in said
        assert foot.get_by_role("button", name="Copy as Python").count() == 1


def test_the_lines_of_python_give_the_number(open_page, site):
    page = open_page(f"{HERE}&step=4&other={ANIMAL}")
    page.locator("#open").get_by_role("button", name="Copy as Python").click()
    lines = page.locator("#open .code").inner_text().strip().split("\n")
    known: dict = {}
    exec("\n".join(lines[:-1]), known)
    assert eval(lines[-1], known) == site.view.cell(LAYER, HEAD, IT, ANIMAL)


def test_a_failed_proof_is_said_first(open_page):
    page = open_page(fresh=True)
    page.route("**/api/views/*", lambda route: route.fulfill(json=failed(route.fetch().json())))
    page.reload()
    settled(page)
    assert page.locator(".where .failed").first.inner_text() == "failed its proof"
    assert page.locator(".where").inner_text().count("FAILED ITS PROOF") == 1
    assert page.locator("#open .foot > .failed").is_visible()


def failed(view: dict) -> dict:
    for proof in view["proofs"]:
        proof["holds"] = False
    return view


# Files


@pytest.mark.parametrize("view", ["text", "grid", "map"])
def test_a_view_is_saved(open_page, site, view, tmp_path):
    page = open_page(f"{HERE}&step=0&view={view}")
    for kind in ("png", "svg", "json"):
        with page.expect_download() as caught:
            page.locator("#view").get_by_role("button", name=kind.upper(), exact=True).click()
        path = tmp_path / caught.value.suggested_filename
        caught.value.save_as(path)
        assert path.suffix == f".{kind}"
        if kind == "png":
            assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 4000
        elif kind == "svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            assert json.loads(path.read_text())


# One file


@pytest.fixture(scope="module")
def saved(browser, site, tmp_path_factory):
    """The page as one file, saved from the page itself."""
    page = browser.new_page()
    page.goto(f"{site.url}#{HERE}")
    settled(page)
    page.locator("[data-key='menu']").click()
    with page.expect_download() as caught:
        page.get_by_role("link", name="This page as one file").click()
    path = tmp_path_factory.mktemp("saved") / "page.html"
    caught.value.save_as(path)
    page.close()
    return path


def test_the_saved_page_works_without_a_network(open_page, site, told, saved):
    page = open_page(url=saved.as_uri(), offline=True)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    for step in range(1, 8):
        page.keyboard.press(str(step))
        settled(page)
        assert (
            page.locator("#open h2").inner_text().split("\n")[-1] == steps.tell(told)[step - 1].name
        )
        assert page.locator("#open .foot .holds").text_content() == "exact"
    go(page, f"{HERE}&step=4&other={ANIMAL}")
    cell = site.view.cell(LAYER, HEAD, IT, ANIMAL)
    assert page.locator("#open .result td").first.inner_text() == steps.weight(cell.weight)
    go(page, f"{HERE}&step=2&lit=WK.5")
    key = float(page.locator("#open .total b").get_attribute("title"))
    assert key == pytest.approx(told.k[5].item(), abs=1e-5)
    go(page, f"layer={LAYER}&head={HEAD + 1}&token={IT}&step=2")
    # Another head's matrices are pictures, of which no sum is worked out.
    assert (
        "They are for the head at which the page was saved." in page.locator("#open").inner_text()
    )
    assert page.locator("#open .total b").count() == 0
    go(page, f"{HERE}&step=4")
    for view in ("text", "grid", "map"):
        page.locator(f"#tab-{view}").click()
        settled(page)
        assert page.locator(".notice").count() == 0
    page.locator("canvas.tile").focus()
    page.keyboard.press("+")
    settled(page)
    page.locator("canvas.tile").focus()
    tile = site.view.tile(LAYER, HEAD, 0, 16, 0, 16)
    i, j = (int(part) for part in page.locator(".readout sub").all_inner_texts())
    assert page.locator(".readout b").inner_text() == steps.weight(tile[i, j].item())
    assert requests == []


def test_the_saved_page_says_what_it_is_and_what_it_lacks(open_page, saved):
    page = open_page(url=saved.as_uri(), offline=True)
    said = page.locator(".recorded").inner_text()
    size = re.match(r"A saved page, ([\d,]+) KB: every token", said)[1]
    assert int(size.replace(",", "")) == pytest.approx(saved.stat().st_size / 1024, rel=0.01)
    assert "Left out:" not in said
    page.locator("#tab-whatif").click()
    settled(page)
    page.get_by_role("button", name="Switch off layer 3, head 1").click()
    settled(page)
    assert "not in the saved page" in page.locator("#view").inner_text()
    page.locator("#tab-matters").click()
    settled(page)
    assert "not in the saved page" in page.locator("#view").inner_text()
    page.locator("#tab-map").click()
    settled(page)
    assert page.locator("canvas.tile").count() == 1
    kinds = page.locator("[data-key^='shows-']").all_inner_texts()
    assert kinds == ["Weight", "Contribution"]  # no effect was asked for
    page.locator("[data-key='lang']").click()
    settled(page)
    assert page.locator("#tab-text").inner_text() == "文本"
    assert page.locator(".recorded").inner_text().startswith("这是保存的页面")


# Addresses, languages, sizes, colours


def test_a_copied_address_opens_the_same_and_back_goes_back(open_page):
    page = open_page(f"{HERE}&step=4&other=8&view=map")
    again = open_page(page.url.partition("#")[2], fresh=True)
    for part in ("#open", "#where"):
        assert again.locator(part).inner_text() == page.locator(part).inner_text()
    page.locator("#step-6").click()
    settled(page)
    page.go_back()
    settled(page)
    assert page.locator("#step-4").get_attribute("aria-selected") == "true"
    page.go_forward()
    settled(page)
    assert page.locator("#step-6").get_attribute("aria-selected") == "true"


def test_an_address_whose_text_the_server_no_longer_has(open_page):
    page = open_page("v=gone&text=A%20cat%20sat.&step=1", fresh=True)
    assert page.locator(".chips").first.inner_text().split() == [
        "[CLS]",
        "A",
        "cat",
        "sat",
        ".",
        "[SEP]",
    ]
    assert open_page.wrong.pop().count("404") == 1


def test_an_address_with_mistakes_opens_all_the_same(open_page):
    page = open_page(
        "layer=99&head=x&token=12345&step=9&view=no&other=-1&stat=%E0%A4%A", fresh=True
    )
    assert page.locator("#pick-layer").input_value() == "3"
    assert page.locator("#step-7").get_attribute("aria-selected") == "true"


def test_another_text(open_page):
    page = open_page(fresh=True)
    page.locator("#text").fill("猫坐在 🙂 垫子上。\n<b>bold</b>")
    page.locator("#text").press("Enter")
    page.get_by_text("Words", exact=False).first.wait_for()
    page.wait_for_url(lambda url: "text=" in url)
    settled(page)
    assert "<b>bold</b>" in "".join(page.locator(".flow").inner_text().split())
    assert page.locator(".flow b").count() == 0
    page.locator("#text").fill(" ")
    page.get_by_role("button", name="Read", exact=True).click()
    assert page.locator("#notice").inner_text() == "Type at least one word."


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_wider_than_the_window(open_page, width, scheme):
    page = open_page(HERE, width=width, color_scheme=scheme)
    states = [f"{HERE}&step={step}" for step in range(1, 8)]
    states += [f"{HERE}&step=0&view={view}" for view in VIEWS]
    states += [f"{HERE}&step=0&view=grid&stat={statistic}" for statistic in STATISTICS]
    for state in states:
        go(page, f"{state}&lang={'en' if scheme == 'light' else 'zh'}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state


def test_light_and_dark(open_page):
    ground = "getComputedStyle(document.body).backgroundColor"
    page = open_page(HERE, color_scheme="dark")
    dark = page.evaluate(ground)
    page.locator("[data-key='theme']").click()
    settled(page)
    light = page.evaluate(ground)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(17, 22, 29)")
    page.emulate_media(color_scheme="light")
    page.locator("[data-key='theme']").click()
    settled(page)
    assert page.evaluate(ground) == dark


def test_both_languages_say_everything(open_page):
    page = open_page(f"{HERE}&view=grid&stat=label")
    texts = page.evaluate("import('./page/words/words.js').then(({ TEXTS }) => TEXTS)")
    for key, (en, zh) in texts.items():
        assert set(re.findall(r"\{\w+\}", en)) == set(re.findall(r"\{\w+\}", zh)), key
    page.get_by_role("button", name="中文").click()
    settled(page)
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.locator("#tab-grid").inner_text() == "各头"
    shown = set(page.locator("body").inner_text().split("\n"))
    assert shown & {text for text, _ in texts.values() if len(text.split()) > 2} == set()


# When something goes wrong


def test_a_refusal_is_told_and_can_be_tried_again(open_page):
    page = open_page(f"{HERE}&step=0", fresh=True)
    page.context.set_offline(True)
    page.locator("[data-key='more-token']").click()
    page.locator("#view .notice").wait_for()
    assert "does not answer" in page.locator("#view .notice").inner_text()
    page.context.set_offline(False)
    page.locator("#view").get_by_role("button", name="Try again").click()
    settled(page)
    assert page.locator("#view .flow").count() == 1 and page.locator(".notice").count() == 0
    assert all("ERR_INTERNET_DISCONNECTED" in complaint for complaint in open_page.wrong)
    open_page.wrong.clear()
