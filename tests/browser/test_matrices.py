"""WQ, WK, WV and WO in the page: every number of the lit column is Python's, and each picture."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
import torch

from tests.browser.conftest import HEAD, HERE, IT, LAYER, TIRED, Opener, go, serving, table
from tests.tiny import READ, TARGET, text, tiny_bart, tiny_llama
from wqkv.draw import steps
from wqkv.explorer import matrices as answers

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def ours(site):
    return site.view.matrices(LAYER, HEAD)


def lit(name: str, column: int, step: int = 2) -> str:
    return f"{HERE}&step={step}&lit={name}.{column}"


def shown(page, state: str):
    """Open a state afresh: the lit column is read from the address when the step is drawn."""
    go(page, f"{HERE}&step=0")
    go(page, state)
    return page.locator("#open")


def terms(panel) -> list[list[float]]:
    """The table of all terms: row, number of the vector, number of the column, product, sum."""
    panel.locator(".workedcolumn summary").click()
    panel.locator(".exact tbody tr").first.wait_for()
    return [[float(cell) for cell in row] for row in table(panel.locator(".workedcolumn .exact"))]


def adds_up(panel) -> None:
    """The shown parts add up to the shown sums, and the shown factors give the shown products."""
    rows = panel.locator(".workedcolumn .chain tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )
    digits = len(rows[0][-1].partition(".")[2])
    found = [round(float(row[-1]) * 10**digits) for row in rows]
    at = next(i for i, row in enumerate(rows) if " · " in row[0])
    assert sum(found[:at]) == found[at]
    if len(rows) > at + 1:
        assert found[at] + found[at + 1] == found[at + 2]
    for row in rows[: at - 1]:
        a, b = map(float, row[1].split(" × "))
        assert f"{a * b:.{digits}f}" == row[2]


@pytest.mark.parametrize(("name", "column"), [("WQ", 29), ("WQ", 0), ("WK", 7), ("WV", 31)])
def test_the_lit_column_is_worked_out(open_page, site, ours, name, column):
    panel = shown(open_page(), lit(name, column))
    x, W = site.view.reading.inputs[LAYER][0, IT].double(), getattr(ours, name)[:, column].double()
    bias = float(getattr(ours, name.replace("W", "b"))[column])
    found = terms(panel)
    order = sorted(range(len(x)), key=lambda r: (-abs(float(x[r])), r))
    assert [int(row[0]) for row in found] == order
    assert [row[1:4] for row in found] == [
        [float(x[r]), float(W[r]), float(x[r]) * float(W[r])] for r in order
    ]
    sums = (x * W)[order].cumsum(0)
    assert [row[4] for row in found] == pytest.approx(sums.tolist(), abs=1e-12)
    total = panel.locator(".total").inner_text()
    sum_, sign, b, value = re.fullmatch(
        rf"(\S+) ([+−]) (\S+) \(b\) = {name[1].lower()}\[{column}\] = (\S+)", total
    ).groups()
    assert float(sum_) == pytest.approx(float(sums[-1]), abs=6e-4)
    assert float(b) * (1 if sign == "+" else -1) == pytest.approx(bias, abs=6e-4)
    made = getattr(site.view.layer(LAYER), name[1].lower())[0, HEAD, IT, column]
    assert float(value) == pytest.approx(float(made), abs=6e-4)
    exact = float(panel.locator(".total b").get_attribute("title"))
    assert exact == pytest.approx(float(sums[-1]) + bias, abs=1e-12)
    adds_up(panel)


@pytest.mark.parametrize("column", range(0, 384, 61))
def test_the_share_is_worked_out(open_page, told, ours, column):
    panel = shown(open_page(), lit("WO", column, step=7))
    context, W = told.context.double(), ours.WO[:, column].double()
    found = {int(row[0]): row[1:4] for row in terms(panel)}
    assert found == {
        r: [float(context[r]), float(W[r]), float(context[r]) * float(W[r])] for r in range(32)
    }
    share = float(panel.locator(".total b").get_attribute("title"))
    assert share == pytest.approx(float(told.share[column]), abs=1e-5)
    assert "bias" not in panel.locator(".workedcolumn").inner_text()  # it belongs to all heads
    adds_up(panel)


def pixels(page, canvas: int, places: list[tuple[float, float]]) -> list[list[int]]:
    """Red, green and blue of a heat map at places of (x, y), each from 0 to 1 of the matrix."""
    return (
        page.locator("canvas.plate")
        .nth(canvas)
        .evaluate(
            """(canvas, places) => {
            const copy = new OffscreenCanvas(canvas.width, canvas.height),
                pen = copy.getContext("2d", { willReadFrequently: true }),
                high = (canvas.clientHeight - 84) * canvas.height / canvas.clientHeight;
            pen.drawImage(canvas, 0, 0);
            return places.map(([x, y]) =>
                [...pen.getImageData(x * canvas.width, y * high, 1, 1).data].slice(0, 3));
        }""",
            places,
        )
    )


@pytest.mark.parametrize(("canvas", "name"), [(0, "WQ"), (1, "WK"), (2, "WV")])
@pytest.mark.parametrize("order", ["", "&order=stored"])
def test_the_pictures_are_the_matrices(open_page, site, ours, canvas, name, order):
    page = open_page()
    shown(page, lit("WQ", 29) + order)
    W, x = getattr(ours, name), site.view.reading.inputs[LAYER][0, IT]
    rows = torch.arange(384) if order else x.abs().argsort(descending=True, stable=True)
    drawn = [(r, c) for r in range(3, 384, 7) for c in range(5, 29, 6)]
    found = pixels(page, canvas, [((c + 0.5) / 32, (r + 0.5) / 384) for r, c in drawn])
    strong = 0
    for (r, c), (red, _, blue) in zip(drawn, found, strict=True):
        value = float(W[rows[r], c])
        if abs(value) > 0.05:
            strong += 1
            assert (blue > red) == (value > 0), (r, c, value, red, blue)
    assert strong > 20


@pytest.mark.parametrize(("canvas", "name"), [(0, "q"), (1, "k"), (2, "v")])
def test_the_bars_below_are_q_k_and_v(open_page, site, canvas, name):
    """All three have one scale. The lit column is in another matrix: its frame hides its bar."""
    page = open_page()
    shown(page, lit("WV" if name == "q" else "WQ", 3))
    found = (
        page.locator("canvas.plate")
        .nth(canvas)
        .evaluate(
            """canvas => {
            const copy = new OffscreenCanvas(canvas.width, canvas.height),
                pen = copy.getContext("2d", { willReadFrequently: true });
            pen.drawImage(canvas, 0, 0);
            return Array.from({ length: 32 }, (_, c) => {
                const x = Math.floor((c + 0.5) / 32 * canvas.width), top = canvas.height - 76,
                    { data } = pen.getImageData(x, top, 1, 76),
                    colored = at => Math.max(...data.slice(4 * at, 4 * at + 3)) -
                        Math.min(...data.slice(4 * at, 4 * at + 3)) > 60;
                const rows = [...Array(76).keys()].filter(colored);
                return rows.filter(at => at < 38).length - rows.filter(at => at > 38).length;
            });
        }"""
        )
    )
    vectors = {one: getattr(site.view.layer(LAYER), one)[0, HEAD, IT] for one in "qkv"}
    top = max(float(vector.abs().max()) for vector in vectors.values())
    expected = [float(value) / top * 33 for value in vectors[name]]
    assert found == pytest.approx(expected, abs=1.6)


def test_a_canvas_is_reached_and_read_by_keyboard(open_page, ours):
    page = open_page()
    panel = shown(page, lit("WQ", 29))
    plate = panel.locator("canvas.plate").first
    label = plate.get_attribute("aria-label")
    assert f"384 × 32 numbers from {float(ours.WQ.min()):.4g}" in label and "q" in label
    plate.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    assert plate.get_attribute("aria-valuenow") == "30"
    value = panel.locator(".total b").inner_text()
    assert plate.get_attribute("aria-valuetext") == f"WQ, column 30: q[30] = {value}"
    assert "lit=WQ.30" in page.url
    second = terms(panel)[1]
    a, b, ab = (f"{one:.3f}" for one in second[1:4])
    row = int(second[0])
    assert panel.locator("output").inner_text() == f"x[{row}] × WQ[{row}, 30] = {a} × {b} = {ab}"
    page.keyboard.press("Shift+Tab")
    plate.focus()
    page.keyboard.press("Enter")
    assert panel.locator("[data-key='bench-digits-1']").get_attribute("aria-pressed") == "true"
    page.keyboard.press("End")
    assert plate.get_attribute("aria-valuenow") == "31"
    assert (
        page.locator("#step-2").get_attribute("aria-selected") == "true"
    )  # the arrows stayed here
    panel.locator("canvas.plate").nth(2).focus()
    assert panel.locator(".total").inner_text().count("v[")


def test_the_pointer_lights_and_a_click_keeps(open_page):
    page = open_page()
    panel = shown(page, lit("WQ", 29))
    title = panel.locator(".workedcolumn h4").first
    plate = panel.locator("canvas.plate").nth(1)
    box = plate.bounding_box()

    def at(column: int) -> dict[str, float]:
        return {"x": (column + 0.5) / 32 * box["width"], "y": 50}

    plate.hover(position=at(12))
    assert title.inner_text().startswith("column 12")
    page.mouse.move(5, 5)
    assert title.inner_text().startswith("column 29")
    plate.click(position=at(4))
    page.mouse.move(5, 5)
    assert title.inner_text().startswith("column 4")
    assert panel.locator(".total").inner_text().count("k[4]") == 1


def test_single_numbers_are_dragged(open_page, told):
    page = open_page()
    panel = shown(page, lit("WQ", 29))
    panel.locator("[data-key='bench-digits-1']").click()
    box = panel.locator("canvas.plate").nth(1).bounding_box()
    x, y, row = box["x"] + 20, box["y"], 384 / 21  # 21 rows of 384 pixels are seen
    page.mouse.move(x, y + 17.5 * row)
    page.mouse.down()
    page.mouse.move(x, y + 12.5 * row, steps=3)
    page.mouse.up()
    assert "lit=WQ.29" in page.url  # what was dragged is not chosen
    page.mouse.move(x, y + 14.5 * row)
    order = told.x.abs().argsort(descending=True, stable=True)
    assert panel.locator("output").inner_text().startswith(f"x[{int(order[19])}] × WK[")


def test_what_stands_in_the_way_is_said(browser):
    with serving(tiny_llama(), text(12)) as site:
        opener = Opener(browser, site)
        page = opener.new("layer=1&head=4&token=5&step=2&lit=WK.3")
        panel = page.locator("#open")
        found, x = site.view.matrices(1, 4), site.view.reading.inputs[1][0, 5].double()
        product = float(x @ found.WK[:, 3].double())
        assert panel.locator(".total").inner_text().startswith("k[3] before RoPE = ")
        assert float(panel.locator(".total b").get_attribute("title")) == pytest.approx(product)
        assert "RoPE turns it by the position" in panel.locator(".workedcolumn").inner_text()
        assert abs(float(site.view.layer(1).k[0, 1, 5, 3]) - product) > 0.05
        assert "bias" not in panel.locator(".chain").inner_text()
        opener.close(list(opener.contexts))
    assert opener.wrong == []


def test_k_and_v_of_another_text_have_its_state_beside_them(browser):
    view = tiny_bart().views(READ, TARGET)["cross"]
    with serving(tiny_bart(), READ, view, TARGET) as site:
        opener = Opener(browser, site)
        page = opener.new("step=2&lit=WV.5&layer=1&head=2&token=3")
        panel = page.locator("#open")
        assert panel.locator(".vectorcolumn h4").all_inner_texts()[1].startswith("y")
        word = int(re.search(r"\((\d+)\)", panel.locator(".platesays").nth(1).inner_text())[1])
        y, found = view.reading.source.final[0, word].double(), view.matrices(1, 2)
        value = float(y @ found.WV[:, 5].double()) + float(found.bV[5])
        assert float(panel.locator(".total b").get_attribute("title")) == pytest.approx(value)
        opener.close(list(opener.contexts))
    assert opener.wrong == []


def test_a_large_matrix_is_a_picture_with_an_exact_column(browser, monkeypatch):
    monkeypatch.setattr(answers, "WHOLE", 300)
    with serving(tiny_llama(), text(12)) as site:
        opener = Opener(browser, site)
        page = opener.new("layer=1&head=4&token=5&step=2&lit=WV.9")
        panel = page.locator("#open")
        panel.get_by_text("Each line is of 4 rows the number farthest from 0.").wait_for()
        assert panel.locator("[data-key='bench-digits-1']").is_disabled()
        x, W = site.view.reading.inputs[1][0, 5].double(), site.view.matrices(1, 4).WV[:, 9]
        found = terms(panel)
        assert [row[:3] for row in found] == [[r, float(x[r]), float(W[r])] for r in range(66)]
        adds_up(panel)
        opener.close(list(opener.contexts))
    assert opener.wrong == []


def test_a_model_without_such_matrices(open_page):
    page = open_page(fresh=True, state=f"{HERE}&step=1")
    refusal = {"error": "Layer 3 is a LatentAttention.", "do": "Look at it with its map."}
    page.route(
        re.compile("/matrices"), lambda route: route.fulfill(status=422, body=json.dumps(refusal))
    )
    go(page, f"{HERE}&step=2&head=4")
    assert "do not have one WQ, WK and WV each" in page.locator("#open").inner_text()
    assert page.locator("#open .product").count() == 3 and page.locator(".minimat").count() == 3
    open_page.wrong.clear()  # the browser complains of the refusals


def test_they_are_asked_for_once(open_page):
    page = open_page(fresh=True, state=f"{HERE}&step=1")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for state in ("step=2", "step=7", "step=3", "step=2&token=4", "step=2&head=2"):
        go(page, f"layer={LAYER}&head={HEAD}&token={IT}&{state}")
        go(page, f"{HERE}&step=1")
    whole = [url for url in asked if "/matrices?" in url and "size=" not in url]
    assert len(whole) == 2  # of this head, and of the other one


def test_the_strip_shows_the_matrices(open_page):
    page = open_page(f"{HERE}&step=1")
    found = page.locator("#step-2 canvas").evaluate_all(
        """all => all.map(canvas => {
            const pen = canvas.getContext("2d"),
                image = pen.getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(image.data.buffer)).size;
        })"""
    )
    assert len(found) == 3 and min(found) > 50


@pytest.mark.parametrize("step", [2, 7])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_nothing_scrolls_sideways(open_page, step, lang):
    for width in (320, 400, 768, 1280, 1920):
        page = open_page(f"{HERE}&step={step}&lang={lang}", width=width)
        for digits in (0, 1):
            page.locator(f"[data-key='bench-digits-{digits}']").click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width


# Saved pictures


def saved(page, kind: str) -> bytes:
    with page.expect_download() as download:
        page.locator(f"#open [data-key^='{kind}-step']").click()
    return download.value.path().read_bytes()


def texts(svg: bytes) -> list[str]:
    return ["".join(one.itertext()) for one in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_saved_picture_says_what_it_is_and_shows_what_is_seen(open_page, told, minilm):
    pictures = []
    for number, step in enumerate(steps.tell(told), start=1):
        page = open_page(f"{HERE}&step={number}")
        pictures.append(saved(page, "svg"))
        found = texts(pictures[-1])
        assert found[:3] == [
            f"{number} {step.name}",
            f"{minilm.name}, layer 3, head 1, it (10)",
            TIRED,
        ]
        assert found[3].split() == step.formula.split()
        seen = page.locator("#open .drawing").evaluate(
            """root => {
                const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), found = [];
                while (walk.nextNode()) {
                    const { parentElement, data } = walk.currentNode;
                    const unsaved = "svg, output, details:not([open]), .controls, [hidden]";
                    if (data.trim() && !parentElement.closest(unsaved)) found.push(data);
                }
                return found;
            }"""
        )
        assert seen
        assert "".join("".join(seen).split()) == "".join("".join(found[4:]).split())
    assert len(set(pictures)) == 7
    for number in (1, 3, 4, 6, 7):
        assert re.search("[Bb]lue", " ".join(texts(pictures[number - 1])))
    assert "≥ 0.26" in " ".join(texts(pictures[1]))


def test_a_saved_picture_holds_the_canvases(open_page):
    page = open_page()
    shown(page, lit("WK", 4))
    kept = page.locator("#open canvas").evaluate_all("all => all.map(one => one.toDataURL())")
    images = [one.get("href") for one in ET.fromstring(saved(page, "svg")).iter(f"{SVG}image")]
    assert sorted(images) == sorted(kept) and len(kept) == 8
    png = saved(page, "png")
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    assert png[1:4] == b"PNG" and width > 1500 and height > 900


def test_a_removed_link_is_said_in_the_picture(open_page):
    page = open_page(f"{HERE}&step=5&without=3.1.10.2")
    assert any("Without" in one for one in texts(saved(page, "svg")))
