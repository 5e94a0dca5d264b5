"""The explorer in a browser: every number on it is Python's, and it can be walked by keyboard."""

import re
from urllib.parse import quote

import pytest

from tests.browser.conftest import ANIMAL, HEAD, HERE, IT, LAYER, STATISTICS, go, settled, table
from wqkv.draw import steps
from wqkv.study.whatif import what_if

# The seven steps


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_arrow_keys_walk_the_seven_steps(open_page, told, lang):
    page = open_page(f"{HERE}&lang={lang}")
    page.locator("#step-1").focus()
    for number, step in enumerate(steps.tell(told, lang=lang), start=1):
        panel = page.get_by_role("tabpanel").first
        assert panel.locator("h2").inner_text().split("\n")[-1] == step.name
        assert panel.locator(".tell > p").nth(0).inner_text() == step.sentence
        assert panel.locator(".tell > p").nth(1).inner_text() == step.sentence2
        assert panel.locator(".formula").text_content() == step.formula
        assert page.evaluate("document.activeElement.id") == f"step-{number}"
        page.keyboard.press("ArrowRight")
        settled(page)
    page.keyboard.press("ArrowLeft")
    settled(page)
    assert page.locator("#step-6").get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    settled(page)
    assert page.get_by_role("tabpanel").count() == 0


def test_keys_that_work_everywhere(open_page):
    page = open_page(HERE)
    for key, name, value in (("l", "layer", "4"), ("h", "head", "2"), ("w", "token", "11")):
        page.keyboard.press(key)
        settled(page)
        assert page.locator(f"#pick-{name}").input_value() == value
    page.keyboard.press("Shift+L")
    page.keyboard.press("5")
    page.keyboard.press("v")
    settled(page)
    assert page.locator("#pick-layer").input_value() == "3"
    assert page.locator("#step-5").get_attribute("aria-selected") == "true"
    assert page.locator("#tab-grid").get_attribute("aria-selected") == "true"
    page.locator("#text").focus()
    page.keyboard.press("l")  # is typed, and moves nothing
    assert page.locator("#pick-layer").input_value() == "3"
    page.locator("#tab-grid").focus()
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_what_can_be_pressed_has_a_name_and_can_be_reached(open_page):
    page = open_page(f"{HERE}&step=4")
    parts = page.locator("button, select, input, textarea, summary, [tabindex='0']")
    nameless = parts.evaluate_all(
        """parts => parts.filter(part => part.checkVisibility() && !part.innerText?.trim()
            && !part.getAttribute("aria-label") && !part.labels?.length
        ).map(part => part.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.key ?? ''"))
    wanted = {"text", "read", "lang", "theme", "keys", "menu", "pick-layer", "pick-head"}
    wanted |= {"pick-token", "step-4", "score-2", "terms", "tab-text", "dir-from", f"w-{IT}"}
    assert wanted - reached == set()


def test_the_focus_stays_where_it_was(open_page):
    page = open_page(f"{HERE}&step=0&view=grid")
    page.locator("[data-key='h-3-1']").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        settled(page)
    assert page.evaluate("document.activeElement.dataset.key") == "h-3-4"
    assert page.locator("#pick-head").input_value() == "4"
    page.locator("#text").focus()
    page.keyboard.press("End")
    page.locator("[data-key='lang']").click()
    settled(page)
    assert page.evaluate("document.activeElement.dataset.key") == "lang"


# Numbers


def test_scores_and_the_worked_cell(open_page, site, told):
    panel = open_page(f"{HERE}&step=4&other={ANIMAL}").locator("#open")
    assert table(panel.locator(".ranking")) == [
        [str(j), word, steps.number(told.scores[j].item())] for j, word in enumerate(told.tokens)
    ]
    cell = site.view.cell(LAYER, HEAD, IT, ANIMAL)
    chain = [row[:2] for row in table(panel.locator(".chain"))]
    assert chain == [
        ["q · k", steps.number(cell.dot)],
        [f"× {cell.scale:.4g}", steps.number(cell.scaled)],
        [f"− {steps.number(cell.lse)}", steps.number(cell.score - cell.lse)],
        ["exp", steps.weight(cell.weight)],
    ]
    panel.locator(".cell summary").click()
    panel.locator(".exact tr").first.wait_for()
    terms = [[str(d), *map(float, term)] for d, term in enumerate(cell.terms)]
    assert [[d, *map(float, rest)] for d, *rest in table(panel.locator(".exact"))] == terms
    panel.locator(".terms").focus()
    panel.page.keyboard.press("ArrowRight")
    q, k, product = (steps.number(number) for number in cell.terms[0])
    assert panel.locator(".termbox output").inner_text() == f"q[0] k[0] = {q} × {k} = {product}"


def test_weights_effects_and_the_residual(open_page, site, told):
    page = open_page(f"{HERE}&step=5")
    weights = [steps.weight(weight) for weight in told.weights.tolist()]
    words = [[str(j), word] for j, word in enumerate(told.tokens)]
    found = table(page.locator("#open .ranking"))
    assert found == [[*word, weight] for word, weight in zip(words, weights, strict=True)]
    assert (
        f"= {steps.number(site.view.row(LAYER, HEAD, IT).lse)}"
        in page.locator("#open").inner_text()
    )
    go(page, f"{HERE}&step=6")
    row = site.view.row(LAYER, HEAD, IT)
    effects = [steps.weight(effect) for effect in row.effects.tolist()]
    found = table(page.locator("#open .ranking"))
    assert [line[2:] for line in found] == [
        list(pair) for pair in zip(weights, effects, strict=True)
    ]
    assert row.residual.holds
    facts = f"at most {row.residual.difference:.1e} (allowed {row.residual.tolerance:.1e})"
    assert facts in page.locator("#open .residual").inner_text()


@pytest.mark.parametrize(
    ("step", "names"),
    [(1, "x"), (3, "qkv"), (6, ["context"]), (7, ["share", "output"])],
)
def test_vectors_are_written_out_in_full(open_page, told, step, names):
    panel = open_page(f"{HERE}&step={step}").locator("#open")
    assert panel.locator(".vector").count() == len(names)
    for i, name in enumerate(names):
        panel.locator(".vector summary").nth(i).click()
        digits = panel.locator(".vector").nth(i).locator(".digits").inner_text()
        assert [float(number) for number in digits.split(",")] == getattr(told, name).tolist()


def test_the_text_both_ways(open_page, site):
    page = open_page(f"{HERE}&step=0")
    row, column = site.view.row(LAYER, HEAD, IT), site.view.column(LAYER, HEAD, IT)
    for place, line in enumerate((row.weights, column.weights)):
        top = line.topk(10)
        found = table(page.locator(".twolists table").nth(place))
        assert [line[2] for line in found] == [steps.weight(one) for one in top.values.tolist()]
        assert [int(line[0]) for line in found] == top.indices.tolist()
    titles = page.locator(".flow [data-j]").evaluate_all("parts => parts.map(part => part.title)")
    assert titles == [f"{j}: {steps.weight(one)}" for j, one in enumerate(row.weights.tolist())]
    page.locator(".flow [data-j='8']").click()
    settled(page)
    assert page.locator("#pick-token").input_value() == "8"


@pytest.mark.parametrize(
    ("text", "shown", "way"),
    [
        ("\u05d0\u05d1, abc", "\u05d0\u05d1, abc", "rtl"),
        ("a\u202eb c\0d", r"a\u202eb c\x00d", "ltr"),
        (
            "\ud55c\uad6d",
            "\ud55c\u22ef\u22ef\uad6d\u22ef\u22ef",
            "ltr",
        ),  # three words each: by letters
    ],
)
def test_the_reading_direction_and_characters_of_several_words(open_page, text, shown, way):
    page = open_page(f"text={quote(text)}&step=0", fresh=True)
    flow = page.locator(".flow")
    assert flow.get_attribute("dir") == way
    assert flow.inner_text() == f"[CLS] {shown} [SEP]"
    first = flow.locator("[data-j='1']")
    first.focus()
    page.keyboard.press("ArrowLeft" if way == "rtl" else "ArrowRight")
    assert page.evaluate("document.activeElement.dataset.j") == "2"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_what_the_model_cannot_read(open_page, minilm, lang):
    text = "\ud55c it 喜"
    page = open_page(f"text={quote(text)}&token=1&step=0&view=whatif&lang={lang}", fresh=True)
    words = minilm.tokens(text)
    said = steps.cannot_read(words.unread, minilm.name, lang)
    assert page.locator(".residual.unread").inner_text() == said
    chips = page.locator("#view .chip").all_inner_texts()
    assert chips == list(words.shown) and {"\ud55c 1/3", "喜[UNK]"} < {*chips}
    assert page.locator("#new-word").input_value() == "\ud55c"
    go(page, f"{HERE}&step=0&v={open_page.view}&lang={lang}")
    assert page.locator(".residual.unread").count() == 0


def test_a_set_of_words(open_page, site):
    page = open_page(f"{HERE}&step=0")
    page.locator(".flow [data-j='8']").click(modifiers=["Shift"])
    settled(page)
    rows = [site.view.row(LAYER, HEAD, i).weights for i in (8, IT)]
    found = table(page.locator(".twolists table").first)
    mean = ((rows[0].double() + rows[1].double()) / 2).topk(10).values.tolist()
    assert [line[2] for line in found] == [steps.weight(one) for one in mean]
    page.locator(f".flow [data-j='{IT}']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+Enter")
    settled(page)
    assert "set=8,10,11" in page.url
    page.get_by_role("button", name="One word again").click()
    settled(page)
    assert "set=" not in page.url


def test_special_words_are_hidden_and_it_is_said_what_happens_to_the_rest(open_page, site):
    page = open_page(f"{HERE}&step=0")
    page.get_by_label("Hide special words").check()
    settled(page)
    weights = site.view.row(LAYER, HEAD, IT).weights.double()
    held = (weights[0] + weights[-1]).item()
    view = page.locator("#view")
    assert f"They hold {steps.weight(held)} of the weight" in view.inner_text()
    assert "not renormalized" in view.inner_text()
    assert view.locator("[data-j='0']").count() == 0
    first = table(view.locator(".twolists table").first)[0]
    assert first == ["2", "animal", steps.weight(weights[ANIMAL].item())]
    page.get_by_label("Share out what they held").check()
    settled(page)
    first = table(view.locator(".twolists table").first)[0]
    assert first == ["2", "animal", steps.weight(weights[ANIMAL].item() / (1 - held))]
    assert f"times {1 / (1 - held):.3f}" in view.inner_text()
    assert "not the model's own weights" in view.inner_text()


@pytest.mark.parametrize("statistic", STATISTICS[:4])
def test_the_heads(open_page, site, statistic):
    page = open_page(f"{HERE}&step=0&view=grid&stat={statistic}")
    values = site.view.grid(statistic).values
    told = page.locator(".hcell").evaluate_all("cells => cells.map(cell => cell.title)")
    assert len(told) == values.numel() == 72
    for title, value in zip(told, values.flatten().tolist(), strict=True):
        number = float(re.search(r": [A-Z][a-z ]+ (-|[\d.e-]+)", title)[1])
        assert number == pytest.approx(value, rel=5e-3)
    page.locator("[data-key='h-5-7']").click()
    settled(page)
    assert page.locator(".enlarged h3").inner_text() == "layer 5, head 7"
    page.locator("[data-key='h-5-7']").focus()
    page.keyboard.press("ArrowUp")
    settled(page)
    assert page.locator(".enlarged h3").inner_text() == "layer 4, head 7"


def test_labels_come_with_their_evidence(open_page):
    page = open_page("layer=0&head=2&token=10&step=0&view=grid&stat=label")
    assert page.locator("[data-key='h-0-2']").inner_text() == "prev"
    told = page.locator(".enlarged").inner_text()
    assert "previous" in told
    assert re.search(r"puts 1\.00 of its weight on the previous token \(mean of \d+ tokens", told)
    assert re.search(r"previous \(\d+\)", page.locator(".labels").inner_text())
    go(page, f"{page.url.partition('#')[2]}&lang=zh")
    told = page.locator(".enlarged").inner_text()
    assert re.search(r"1\.00 的注意力权重落在前一个词元上（\d+ 个词元的均值", told)
    assert "weight" not in told


def test_the_map(open_page, site):
    page = open_page(f"{HERE}&step=0&view=map")
    page.locator("canvas.tile").focus()
    tile = site.view.tile(LAYER, HEAD, 0, 16, 0, 16)
    read = page.locator(".readout")
    assert read.locator("b").inner_text() == steps.weight(tile[IT, ANIMAL].item())
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert read.inner_text().split() == ["was11", "→", "didn3", steps.weight(tile[11, 3].item())]
    assert read.locator("b").get_attribute("title") == str(tile[11, 3].double().item())
    page.keyboard.press("Enter")
    settled(page)
    assert "token=11" in page.url and "other=3" in page.url
    links = site.view.links(LAYER, HEAD, 20)
    found = table(page.locator(".links"))
    assert [line[1] for line in found] == [steps.weight(link.weight) for link in links]
    distances = site.view.distances(LAYER, HEAD)
    found = table(page.locator(".bins"))
    assert [line[1] for line in found] == [steps.weight(one) for one in distances.mass.tolist()]


# What if


def test_a_word_is_changed_and_changed_back(open_page, site):
    page = open_page(f"{HERE}&step=0&view=whatif")
    page.locator("[data-key='chip-13']").click()
    settled(page)
    page.locator("#new-word").fill("wide")
    page.locator("#new-word").press("Enter")
    settled(page)
    go(page, f"{HERE}&step=0&view=whatif&change=13:wide")
    found = what_if(site.view, edits={13: "wide"})
    view = page.locator("#view")
    assert view.locator(".big").inner_text() == f"{found.similarity:.4f}"
    layers = [line[1] for line in table(view.locator(".bins"))]
    assert [float(number) for number in layers] == pytest.approx(found.layers, rel=5e-3)
    looks = table(view.locator("table.n2"))[0]
    before, after = (
        one.row(LAYER, HEAD, IT).weights[ANIMAL].item() for one in (site.view, found.view)
    )
    assert looks == ["animal", steps.weight(before), steps.weight(after)]
    page.get_by_role("button", name="Undo", exact=True).click()
    settled(page)
    assert view.locator(".big").count() == 0


def test_next_words_that_read_alike_stay_apart(open_page):
    """Parts of characters are several words, and all are written as U+FFFD."""

    def said(*top):
        return {"top": [{"token": "\ufffd", "probability": p, "id": id} for id, p in top]}

    answer = {"before": said((7, 0.5), (3, 0.25)), "after": said((3, 0.625), (7, 0.125))}
    answer |= {"change": 0.1, "layers": [0.1], "tokens": ["it"], "view": None, "python": ""}
    page = open_page(HERE, fresh=True)
    page.route("**/whatif", lambda route: route.fulfill(json=answer))
    go(page, f"{HERE}&view=whatif&change=0.0&v={open_page.view}")
    found = table(page.locator(".outcome table").first)
    assert found == [["\ufffd", "0.250", "0.625"], ["\ufffd", "0.500", "0.125"]]


def test_a_head_is_switched_off_and_on(open_page, site):
    page = open_page(f"{HERE}&step=0&view=whatif")
    page.get_by_role("button", name="Switch off layer 3, head 1").click()
    settled(page)
    found = what_if(site.view, off=[(LAYER, HEAD)])
    assert page.locator(".big").inner_text() == f"{found.similarity:.4f}"
    page.get_by_role("button", name="Switch on layer 3, head 1").click()
    settled(page)
    assert page.locator(".big").count() == 0


def test_a_model_that_writes_nothing_says_so(open_page):
    page = open_page(f"{HERE}&step=0&view=generate")
    assert (
        "reads in both directions at once and writes nothing" in page.locator("#view").inner_text()
    )
