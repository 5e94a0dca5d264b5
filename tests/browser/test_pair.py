"""Two texts: what the cross-attention, the encoder and the decoder look at; numbers as Python's."""

import pytest

from tests.browser.conftest import Site, go, serving, settled, table
from tests.tiny import READ, TARGET, tiny_bart, tiny_t5
from wqkv.draw import steps
from wqkv.study import one_token as story
from wqkv.study.heads import heads

MODELS = {"t5": tiny_t5, "bart": tiny_bart}
HERE = "layer=1&head=1&token=3"
WORD, KEY = 3, 7


@pytest.fixture(scope="module", params=MODELS)
def make(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def pair(make):
    return make()


@pytest.fixture(scope="module")
def views(pair):
    return pair.views(READ, TARGET)


@pytest.fixture(scope="module")
def site(make, views):
    with serving(
        make(), READ, views["cross"], TARGET
    ) as served:  # a model reads one text at a time
        yield served


def part(open_page, name: str) -> str:
    """The address of one of the three attentions."""
    return f"{open_page.view.partition('.')[0]}.{name}"


def test_the_two_texts(open_page, site: Site):
    page = open_page(f"{HERE}&step=0&other={KEY}")
    view = site.view
    row, column = view.row(1, 1, WORD).weights, view.column(1, 1, KEY).weights
    written, read = page.locator(".twotexts .flow").all()
    for flow, line in ((read, row), (written, column)):
        titles = flow.locator("[data-j]").evaluate_all("parts => parts.map(part => part.title)")
        assert titles == [f"{j}: {steps.weight(one)}" for j, one in enumerate(line.tolist())]
    for place, (line, words) in enumerate(((row, view.keys.tokens), (column, view.reading.tokens))):
        top = line.topk(min(10, len(line)))
        found = table(page.locator(".twolists table").nth(place))
        expected = [
            [str(j), words[j], steps.weight(weight)]
            for j, weight in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            if weight
        ]
        assert found == expected
    assert "As it was given" in page.locator("#view").inner_text()
    written.locator("[data-j='2']").click()
    settled(page)
    assert page.locator("#pick-token").input_value() == "2"
    best = int(view.row(1, 1, 2).weights.argmax())
    assert read.locator(".chosen").get_attribute("data-j") == str(best)
    read.locator("[data-j='5']").focus()
    page.keyboard.press("Enter")
    settled(page)
    assert "other=5" in page.url and "token=2" in page.url
    assert page.locator("#view .foot .holds").text_content() == "exact"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_seven_steps(open_page, site, lang):
    page = open_page(f"{HERE}&lang={lang}&step=1")
    told = story.token_story(site.view, 1, 1, WORD)
    for number, step in enumerate(steps.tell(told, lang=lang), start=1):
        page.keyboard.press(str(number))
        settled(page)
        panel = page.locator("#open")
        assert panel.locator(".tell > p").nth(0).inner_text() == step.sentence
        assert panel.locator(".tell > p").nth(1).inner_text() == step.sentence2
        assert panel.locator(".formula").text_content() == step.formula
    go(page, f"{HERE}&step=3&v={open_page.view}")
    for name, values in (("q", told.q), ("k", told.k), ("v", told.v)):
        at = "qkv".index(name)
        page.locator("#open .vector summary").nth(at).click()
        digits = page.locator("#open .vector").nth(at).locator(".digits").inner_text()
        assert [float(number) for number in digits.split(",")] == values.tolist()
    names = page.locator("#open .vector figcaption b").all_inner_texts()
    assert names == ["q = x WQ", "k = y WK", "v = y WV"]


def test_the_worked_cell_and_row(open_page, site):
    page = open_page(f"{HERE}&step=4&other={KEY}")
    cell, row = site.view.cell(1, 1, WORD, KEY), site.view.row(1, 1, WORD)
    panel = page.locator("#open")
    assert panel.locator(".result td").first.inner_text() == steps.weight(cell.weight)
    word, key = site.view.reading.tokens[WORD], site.view.keys.tokens[KEY]
    assert panel.locator(".cell h4").inner_text() == f"Worked out: {word}{WORD} → {key}{KEY}"
    assert [line[1] for line in table(panel.locator(".ranking"))] == list(site.view.keys.tokens)
    page.keyboard.press("6")
    settled(page)
    found = table(panel.locator(".ranking"))
    pairs = zip(row.weights.tolist(), row.effects.tolist(), strict=True)
    assert [line[2:] for line in found] == [[steps.weight(a), steps.weight(b)] for a, b in pairs]
    facts = f"at most {row.residual.difference:.1e} (allowed {row.residual.tolerance:.1e})"
    assert facts in panel.locator(".residual").inner_text()


def test_the_map_is_as_wide_as_what_was_read(open_page, site):
    page = open_page(f"{HERE}&step=0&view=map&other={KEY}")
    view, read = site.view, page.locator(".readout")
    tile = view.tile(1, 1, 0, view.n, 0, view.m)
    page.locator("canvas.tile").focus()
    assert read.locator("b").inner_text() == steps.weight(tile[WORD, KEY].item())
    for _ in range(view.m + 2):
        page.keyboard.press("ArrowRight")
    for _ in range(view.n + 2):
        page.keyboard.press("ArrowDown")
    i, j = view.n - 1, view.m - 1
    assert read.locator("sub").all_inner_texts() == [str(i), str(j)]
    assert read.locator("b").get_attribute("title") == str(tile[i, j].double().item())
    page.keyboard.press("Enter")
    settled(page)
    assert f"token={i}" in page.url and f"other={j}" in page.url
    links = view.links(1, 1, 20)
    found = table(page.locator(".links"))
    assert [line[1] for line in found] == [steps.weight(link.weight) for link in links]
    assert page.locator(".bins").count() == 0  # no distances between two texts


def test_the_heads(open_page, site):
    page = open_page(f"{HERE}&step=0&view=grid&stat=distance")
    shown = page.locator(".controls [data-key^='stat-']").evaluate_all(
        "parts => parts.map(part => part.dataset.key.slice(5))"
    )
    assert shown == ["maps", "entropy", "received", "sink"]
    values = site.view.grid("entropy").values
    told = page.locator(".hcell").evaluate_all("cells => cells.map(cell => cell.title)")
    assert len(told) == values.numel()
    for title, value in zip(told, values.flatten().tolist(), strict=True):
        assert float(title.split("Entropy ")[1].split()[0]) == pytest.approx(value, rel=5e-3)
    go(page, f"{HERE}&step=0&view=grid&stat=maps&v={open_page.view}")
    assert page.locator(".hcell canvas").first.evaluate("one => [one.width, one.height]") == [
        site.view.m,
        site.view.n,
    ]


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_the_other_two_attentions(open_page, views, name):
    page = open_page(f"{HERE}&step=0")
    page.locator(f"[data-key='part-{name}']").click()
    settled(page)
    view = views[name]
    assert page.url.partition("v=")[2].partition("&")[0] == part(open_page, name)
    assert page.locator(f"[data-key='part-{name}']").get_attribute("aria-pressed") == "true"
    sizes = view.model.sizes
    assert page.locator("#pick-layer option").count() == sizes.n_layer
    assert page.locator("#pick-head option").count() == sizes.n_head
    titles = page.locator(".flow [data-j]").evaluate_all("parts => parts.map(part => part.title)")
    row = view.row(1, 1, WORD).weights.tolist()
    assert titles == [f"{j}: {steps.weight(one)}" for j, one in enumerate(row)]
    page.locator("#tab-grid").click()
    page.locator("[data-key='stat-label']").click()
    settled(page)
    maps = [view.layer(i).whole for i in range(sizes.n_layer)]
    found = heads(maps, view.reading.tokens, view.reading.special)
    assert found[1][1].evidence in page.locator(".enlarged").inner_text()
    page.go_back()
    page.go_back()
    page.go_back()
    settled(page)
    assert page.locator("[data-key='part-cross']").get_attribute("aria-pressed") == "true"


def test_what_there_is_not_is_said(open_page):
    page = open_page(f"{HERE}&step=0&view=whatif")
    assert "reads one and writes another" in page.locator("#view").inner_text()
    go(page, f"{HERE}&step=0&view=generate&v={open_page.view}")
    assert "has written already" in page.locator("#view").inner_text()


def test_the_model_writes_where_nothing_is_given(open_page, pair):
    page = open_page(fresh=True)
    assert page.locator("#text").input_value() == READ
    assert page.locator("#target").input_value() == TARGET
    page.locator("#target").fill("")
    page.locator("#text").fill("the sea was dark")
    page.locator("#text").press("Enter")
    page.wait_for_url(lambda url: "text=" in url)
    settled(page)
    view = pair.views("the sea was dark")["cross"]
    shown = page.locator(".twotexts .flow").first.locator("[data-j]").all_inner_texts()
    assert shown == list(view.reading.tokens)
    assert "By the model" in page.locator("#view").inner_text()
    again = open_page(page.url.partition("#")[2].replace("v=", "v=gone"), fresh=True)
    assert again.locator(".twotexts .flow").first.inner_text() == (
        page.locator(".twotexts .flow").first.inner_text()
    )
    assert open_page.wrong.pop().count("404") == 1


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_wider_than_the_window(open_page, width, lang):
    page = open_page(HERE, width=width)
    for state in ("step=2", "step=4", "view=text&step=0", "view=grid&step=0", "view=map&step=0"):
        go(page, f"{HERE}&{state}&lang={lang}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state


@pytest.mark.parametrize("view", ["text", "grid", "map"])
def test_a_view_is_saved(open_page, view, tmp_path):
    page = open_page(f"{HERE}&step=0&view={view}")
    for kind in ("png", "svg", "json"):
        with page.expect_download() as caught:
            page.locator("#view").get_by_role("button", name=kind.upper(), exact=True).click()
        path = tmp_path / caught.value.suggested_filename
        caught.value.save_as(path)
        assert path.suffix == f".{kind}" and path.stat().st_size > 300


def test_the_lines_of_python_give_the_number(open_page, site, pair):
    page = open_page(f"{HERE}&step=4&other={KEY}")
    page.locator("#open").get_by_role("button", name="Copy as Python").click()
    lines = page.locator("#open .code").inner_text().strip().split("\n")
    assert lines[:2] == ["import wqkv", "model = wqkv.open_pair()"]
    known: dict = {"model": pair}
    exec("\n".join(lines[2:-1]), known)
    assert eval(lines[-1], known) == site.view.cell(1, 1, WORD, KEY)


def test_the_saved_page(open_page, site, tmp_path):
    page = open_page(f"{HERE}&step=0&other={KEY}")
    page.locator("[data-key='menu']").click()
    with page.expect_download() as caught:
        page.get_by_role("link", name="This page as one file").click()
    path = tmp_path / "page.html"
    caught.value.save_as(path)
    page.locator("[data-key='menu']").click()
    saved = open_page(f"{HERE}&step=4&other={KEY}", url=path.as_uri(), offline=True, fresh=True)
    cell = site.view.cell(1, 1, WORD, KEY)
    assert saved.locator("#open .result td").first.inner_text() == steps.weight(cell.weight)
    assert "Left out:" not in saved.locator(".recorded").inner_text()  # all three attentions
    for view in ("text", "grid", "map"):
        saved.locator(f"#tab-{view}").click()
        settled(saved)
        assert saved.locator(".notice").count() == 0


def test_the_lines_from_one_text_to_the_other(open_page, site):
    page = open_page(f"{HERE}&step=0&other={KEY}&as=lines")
    tile = site.view.tile(1, 1, 0, site.view.n, 0, site.view.m)
    wanted = {
        f"{i}-{j}": 14 * weight
        for i, row in enumerate(tile.tolist())
        for j, weight in enumerate(row)
        if weight >= 0.05
    }
    found = page.locator(".weightline").evaluate_all(
        "links => links.map(one => [one.dataset.link, Number(one.getAttribute('stroke-width'))])"
    )
    assert dict(found) == pytest.approx(wanted, abs=6e-4)
    rows = [page.locator(f"[data-row='{row}'] .lineword").count() for row in "ij"]
    assert rows == [site.view.n, site.view.m]
    page.locator("[data-key='line-j-2']").click()
    settled(page)
    assert "other=2" in page.url and "dir=from" in page.url
    top = tile[:, 2].topk(8)
    found = table(page.locator(".chosenlinks"))
    assert [int(line[0]) for line in found] == [
        i for i, one in zip(top.indices.tolist(), top.values.tolist(), strict=True) if one
    ]
    page.locator("[data-key='as-words']").click()
    settled(page)
    assert page.locator(".twotexts").count() == 1
