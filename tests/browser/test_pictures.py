"""A model that reads a picture: patches in place of words, and weights on the picture itself."""

import json
import math
import re
from base64 import b64encode
from importlib.resources import files
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import Site, go, serving, settled, table
from tests.browser.test_modules import TEXT
from tests.tiny import text, tiny_llama, tiny_vit
from wqkv.draw import steps
from wqkv.explorer.api import Api
from wqkv.explorer.export import CAP, export, record
from wqkv.explorer.export import page as page_of
from wqkv.explorer.schema import PictureFacts
from wqkv.study.view import View
from wqkv.study.vision import OpenVision
from wqkv.study.whatif import what_if

ROWS, COLUMNS, SIDE = 5, 3, 7  # of the picture in patches, and pixels of a patch
N = 1 + ROWS * COLUMNS  # and [CLS]
LAYER, HEAD, PATCH = 1, 2, 8  # token 8 is the patch in row 2 and column 1
HERE = f"layer={LAYER}&head={HEAD}&token={PATCH}"
CLASSES = ("cat", "dog", "ship")


def nobody(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    """A picture whose patches have colors of their own."""
    pixels = np.zeros((ROWS * SIDE, COLUMNS * SIDE, 3), np.uint8)
    for row in range(ROWS):
        for column in range(COLUMNS):
            pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = color(
                row, column
            )
    path = tmp_path_factory.mktemp("photo") / "gull.png"
    Image.fromarray(pixels).save(path)
    return str(path)


def color(row: int, column: int) -> tuple[int, int, int]:
    return 40 * row + 30, 30 * column + 20, 250 - 20 * (row + column)


@pytest.fixture(scope="module")
def vit() -> OpenVision:
    return tiny_vit()


@pytest.fixture(scope="module")
def site(photo):
    with serving(tiny_vit(), photo) as served:  # a model reads one picture at a time
        yield served


def view_of(page) -> str:
    return page.url.partition("&v=")[2].partition("&")[0]


def titles(flow) -> list[str]:
    return flow.locator("[data-j]").evaluate_all("parts => parts.map(part => part.title)")


def named(j: int) -> str:
    """How a token is called in a title: a patch by its row and column."""
    row, column = divmod(j - 1, COLUMNS)
    return f"{row},{column}" if j else "0"


def told(values) -> list[str]:
    return [f"{named(j)}: {steps.weight(value)}" for j, value in enumerate(values.tolist())]


# Patches


def test_a_patch_is_the_crop_of_its_cell(open_page):
    page = open_page(f"{HERE}&step=5")
    rows = page.locator("#open .ranking tbody tr")
    for j in range(N):
        name = rows.nth(j).locator("th")
        row, column = divmod(j - 1, COLUMNS)
        assert name.inner_text() == (f"{row},{column}" if j else "[CLS]")
        if j:
            assert name.locator("svg.patch").get_attribute("viewBox") == f"{column} {row} 1 1"
            assert name.locator("svg.patch").get_attribute("aria-label") == f"{row},{column}"
    assert page.locator("image").count() == 1  # the picture stands in the page once
    assert page.locator("h1 svg.patch").get_attribute("aria-label") == "2,1"
    assert page.title().startswith("2,1 ")
    painted = page.locator("h1 svg.patch").screenshot()
    pixels = np.asarray(Image.open(BytesIO(painted)).convert("RGB"))
    middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]
    assert np.abs(middle.astype(int) - color(2, 1)).max() <= 3


def test_the_tokens_along_a_map(open_page):
    page = open_page(f"{HERE}&step=0&view=map&at=1,1,5")
    found = page.locator("canvas.tile").evaluate(
        """canvas => {
            const pen = canvas.getContext("2d"),
                all = pen.getImageData(0, 0, canvas.width, canvas.height).data;
            const seen = new Set();
            for (let at = 0; at < all.length; at += 4)
                seen.add(`${all[at]},${all[at + 1]},${all[at + 2]}`);
            return [...seen];
        }"""
    )
    seen = {tuple(map(int, one.split(","))) for one in found}
    for column in range(COLUMNS):  # tokens 1 to 3 are the first row of the picture

        def close(one, column=column):
            return max(abs(a - b) for a, b in zip(one, color(0, column), strict=True)) <= 2

        assert any(map(close, seen)), column


# Who looks where


def test_the_weights_stand_on_the_picture(open_page, site: Site):
    page = open_page(f"{HERE}&step=0")
    row, column = site.view.row(LAYER, HEAD, PATCH), site.view.column(LAYER, HEAD, PATCH)
    flow = page.locator("#view .flow")
    assert titles(flow) == told(row.weights)
    assert flow.locator(".chosen").get_attribute("data-j") == str(PATCH)
    # special tokens stand beside the picture with their weights
    assert flow.locator(".special .says").inner_text() == steps.weight(row.weights[0])
    alphas = flow.locator(".cell").evaluate_all(
        "all => all.map(one => Number(/, ([.0-9]+)\\)$/.exec(one.style.backgroundColor)?.[1] ?? 0))"
    )
    for alpha, weight in zip(alphas, row.weights[1:].tolist(), strict=True):
        level = math.log1p(N * weight) / math.log1p(N)
        assert alpha == pytest.approx(0.9 * level**0.8 if level >= 0.01 else 0, abs=4e-3)
    assert "even .063" in page.locator("#view > .scale").inner_text()  # 1 / 16
    page.locator("[data-key='dir-from']").click()
    settled(page)
    assert titles(flow) == told(column.weights)


def test_the_first_screen_has_the_picture(open_page, site: Site):
    page = open_page(f"{HERE}&step=1&view=cards")
    assert titles(page.locator("#answer .flow")) == told(site.view.row(LAYER, HEAD, PATCH).weights)
    # where a patch is chosen, the picture has its own colors and no numbers
    assert titles(page.locator("#open .flow")) == [named(j) for j in range(N)]
    assert page.locator("#open .photo.colored").count() == 1
    page.locator("#open .cell").nth(3).click()
    settled(page)
    assert "token=4" in page.url


def test_the_pointer_shows_where_a_patch_looks(open_page, site: Site):
    page = open_page(f"{HERE}&step=0")
    flow, line = page.locator("#view .flow"), page.locator("#view .peek")
    flow.locator("[data-j='3']").hover()
    row = site.view.row(LAYER, HEAD, 3).weights
    line.locator("b").first.wait_for()
    assert titles(flow) == told(row)
    best = row.argsort(descending=True)[:3].tolist()
    says = " ".join(f"{named(j) if j else '[CLS]0'} {steps.weight(row[j])}" for j in best)
    assert " ".join(line.inner_text().split()) == f"0,2 looks at {says}"
    page.mouse.move(5, 5)
    line.locator("b").first.wait_for(state="detached")
    assert titles(flow) == told(site.view.row(LAYER, HEAD, PATCH).weights)
    assert f"token={PATCH}" in page.url  # nothing was chosen


def test_the_arrow_keys_walk_the_cells(open_page):
    page = open_page(f"{HERE}&step=0")
    at = page.locator("#view .flow [tabindex='0']")
    at.focus()
    for key, j in (("ArrowDown", 11), ("ArrowLeft", 10), ("ArrowUp", 7), ("ArrowUp", 4)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.j") == str(j)
    label = page.evaluate("document.activeElement.ariaLabel")
    assert re.fullmatch(r"1,0 \S+", label)
    page.keyboard.press("Enter")
    settled(page)
    assert page.locator("#pick-token").input_value() == "4"
    assert page.evaluate("document.activeElement.dataset.j") == "4"
    page.locator("#view .flow [data-j='12']").click(modifiers=["Shift"])
    settled(page)
    assert "set=4,12" in page.url


def test_the_map_has_its_row_and_what_is_received_on_the_picture(open_page, site: Site):
    page = open_page(f"{HERE}&step=0&view=map&other=3", fresh=True)
    view = site.view
    sections = page.locator(".twopictures section")
    row, received = (sections.nth(at).locator(".flow") for at in (0, 1))
    sections.nth(0).locator("h3 [aria-label='2,1']").wait_for()
    assert titles(row) == told(view.row(LAYER, HEAD, PATCH).weights)
    values = view.received(LAYER, HEAD).tolist()
    found = [float(title.rpartition(" ")[2]) for title in titles(received)]
    assert found == pytest.approx(values, rel=6e-3)
    page.locator("canvas.tile").focus()
    page.keyboard.press("ArrowDown")
    sections.nth(0).locator("h3 [aria-label='2,2']").wait_for()
    assert titles(row) == told(view.row(LAYER, HEAD, PATCH + 1).weights)
    # the row is whole, though a part of the map is shown
    go(page, f"{HERE}&step=0&view=map&at=6,6,7&v={view_of(page)}")
    sections.nth(0).locator("h3 [aria-label='2,1']").wait_for()
    assert titles(row) == told(view.row(LAYER, HEAD, PATCH).weights)
    go(page, f"{HERE}&step=0&view=map&shows=contribution&v={view_of(page)}")
    sections.nth(0).locator("h3", has_text="Contribution").wait_for()
    lengths = view.row(LAYER, HEAD, PATCH).effects.tolist()
    found = [
        float(title.rpartition(" ")[2]) for title in titles(page.locator(".twopictures .flow"))
    ]
    assert found == pytest.approx(lengths, rel=6e-3, abs=1e-5)  # two digits of a small one


# What if


def test_patches_are_hidden(open_page, site: Site, vit, photo):
    page = open_page(f"{HERE}&step=0&view=whatif", fresh=True)
    cells = page.locator(".hiding .cell")
    cells.nth(PATCH - 1).click()
    settled(page)
    cells.nth(4).focus()
    page.keyboard.press("Enter")
    page.locator(".hiding .gone").nth(1).wait_for()
    settled(page)
    gone = cells.evaluate_all(
        "all => all.filter(one => one.matches('.gone')).map(one => one.dataset.j)"
    )
    assert gone == ["5", str(PATCH)]
    changed = what_if(View(vit, vit.read(photo)), edits={PATCH: "", 5: ""})
    after = {one.token: steps.weight(one.probability) for one in changed.after}
    rows = table(page.locator(".hiding table"))
    assert {row[0]: row[2] for row in rows} == after
    assert set(after) == set(CLASSES)
    before, later = page.locator(".twopictures .flow").all()
    assert titles(before) == told(site.view.row(LAYER, HEAD, PATCH).weights)
    assert titles(later) == told(changed.view.row(LAYER, HEAD, PATCH).weights)
    assert later.locator(".gone").count() == 2
    cells.nth(4).click()  # shown again
    settled(page)
    assert page.locator(".hiding .gone").count() == 1
    page.locator("[data-key='undo']").click()
    settled(page)
    assert page.locator(".hiding .gone").count() == 0


# What there is to show, and in which words


def test_views_without_an_answer_are_left_out(open_page):
    page = open_page(f"{HERE}&step=0&view=matters", fresh=True)
    tabs = page.locator(".tabs button").all_inner_texts()
    assert tabs == ["Why?", "Picture", "Heads", "Map", "What if"]
    assert page.locator("#tab-cards").get_attribute("aria-selected") == "true"
    for _ in range(5):
        page.keyboard.press("v")
        settled(page)
    assert page.locator("#tab-cards").get_attribute("aria-selected") == "true"
    assert page.locator("[data-key='answer-matters'], #text").count() == 0
    page.locator("#tab-map").click()
    settled(page)
    assert page.locator("[data-key^='shows-']").all_inner_texts() == ["Weight", "Contribution"]


def test_the_page_speaks_of_tokens_and_the_picture(open_page):
    texts = "".join(
        one.read_text("utf-8") for one in (files("wqkv.explorer") / "page/words").iterdir()
    )
    names = [quoted or bare for quoted, bare in TEXT.findall(texts)]
    page = open_page(HERE, fresh=True)
    for lang, wrong in (
        ("en", r"(?<!{)\b([Ww]ords?|[Tt]exts?)\b(?!})"),
        ("zh", "文本|[段篇]图|词(?!元|汇)"),
    ):
        go(page, f"{HERE}&lang={lang}&v={view_of(page)}")
        said = page.evaluate(
            """async names => {
                const { t } = await import("./page/words/words.js");
                const places = new Proxy({}, { get: (_, name) => `{${String(name)}}` });
                return names.map(name => t(name, places));
            }""",
            names,
        )
        left = {name: one for name, one in zip(names, said, strict=True) if re.search(wrong, one)}
        assert left == {}


def test_another_picture_is_opened_from_a_file(open_page, vit, tmp_path):
    pixels = np.full((3 * ROWS, 3 * COLUMNS, 3), 200, np.uint8)
    pixels[: 2 * ROWS] = 30
    path = tmp_path / "other.png"
    Image.fromarray(pixels).save(path)
    page = open_page(f"{HERE}&step=0&view=text", fresh=True)
    page.locator("#picture").set_input_files(path)
    page.locator("image").nth(1).wait_for(state="attached")
    settled(page)
    assert page.locator("image").count() == 2
    used = page.locator("#view .photo use").get_attribute("href")
    assert page.locator("image").nth(1).get_attribute("id") == used.removeprefix("#")
    # one that no request could carry is sent with fewer pixels
    noise = np.random.default_rng(0).integers(0, 256, (600, 700, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > 2**20
    page.locator("#picture").set_input_files(path)
    page.locator("image").nth(2).wait_for(state="attached")
    path.with_suffix(".txt").write_text("no picture")
    page.locator("#picture").set_input_files(path.with_suffix(".txt"))
    page.locator("#notice").wait_for()
    assert "what was sent is none" in page.locator("#notice").inner_text()
    open_page.wrong.clear()  # the refusal


@pytest.mark.parametrize("view", ["cards", "text", "grid", "map", "whatif"])
def test_a_narrow_window(open_page, view):
    page = open_page(f"{HERE}&step=4&view={view}&lang=zh", width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


# Saved pages


@pytest.fixture
def saved(vit, photo, tmp_path):
    api = Api(vit)
    path = tmp_path / "page.html"
    path.write_text(
        export(api, api.open(photo, nobody), (LAYER, HEAD, PATCH), "en", nobody), "utf-8"
    )
    return path


def test_a_saved_page(open_page, saved, site: Site):
    page = open_page("", url=saved.as_uri(), fresh=True, offline=True)
    assert saved.read_text("utf-8").count("data:image/png") == 1
    page.locator("#tab-text").click()
    settled(page)
    assert titles(page.locator("#view .flow")) == told(site.view.row(LAYER, HEAD, PATCH).weights)
    with page.expect_download() as download:
        page.locator("[data-key='svg-text-to']").click()
    drawing = download.value.path().read_text("utf-8")
    assert drawing.count("data:image/png") == 1
    assert drawing.count("<rect") > ROWS * COLUMNS / 2
    for view in ("grid", "map"):
        page.locator(f"#tab-{view}").click()
        settled(page)
        assert page.locator(".notice").count() == 0, view


def test_words_and_pictures_in_one_sequence(open_page, tmp_path):
    """What a vision-language model reads, made of a text: two pictures between its words."""
    api = Api(tiny_llama())
    seen = api.open(text(29), nobody)
    recorded = json.loads(json.dumps(record(api, seen, (1, 1, 26), "en", nobody, CAP)))
    out = BytesIO()
    Image.new("RGB", (6, 4), (90, 60, 30)).save(out, "PNG")
    pixel = f"data:image/png;base64,{b64encode(out.getvalue()).decode()}"
    pictures = [
        PictureFacts(image=pixel, rows=2, columns=3, first=4, name="first"),
        PictureFacts(image=pixel + "#2", rows=3, columns=4, first=13, name="second"),
    ]
    for answer in recorded["answers"].values():
        if "pictures" in answer:
            answer["pictures"] = pictures
            for one in pictures:
                for at in range(one["rows"] * one["columns"]):
                    row, column = divmod(at, one["columns"])
                    answer["tokens"][one["first"] + at] = f"{row},{column}"
                    answer["spans"][one["first"] + at] = (0, 0)
    path = tmp_path / "page.html"
    path.write_text(page_of(recorded, "layer=1&head=1&token=26&view=text"), "utf-8")
    page = open_page("", url=path.as_uri(), fresh=True, offline=True)
    flow = page.locator("#view .flow")
    assert [one.get_attribute("aria-label") for one in flow.locator(".photo").all()] == [
        "first",
        "second",
    ]
    order = flow.locator("[data-j]").evaluate_all("all => all.map(one => Number(one.dataset.j))")
    assert order == list(range(seen.view.n))  # pictures stand where their tokens do
    weights = seen.view.row(1, 1, 26).weights
    cells = flow.locator(".cell")
    assert cells.count() == 2 * 3 + 3 * 4
    assert cells.last.get_attribute("title") == f"2,3: {steps.weight(weights[24])}"
    page.locator("[data-key='as-lines']").click()
    settled(page)
    assert page.locator(".lines svg svg").count() > 0  # crops in place of names
