"""Lines between words, heads over each other, and bars: what is drawn is Python's."""

import re
from itertools import combinations, pairwise
from urllib.parse import quote

import pytest

from tests.browser.conftest import ANIMAL, HEAD, HERE, IT, LAYER, go, settled, table
from wqkv.draw import steps

THICK = 14  # pixels of a weight of 1
LINES = f"{HERE}&step=0&as=lines"


def drawn(page) -> list[dict]:
    return page.locator(".lines .weightline").evaluate_all(
        """links => links.map(link => ({
            head: Number(link.dataset.head), link: link.dataset.link,
            width: Number(link.getAttribute("stroke-width")), color: link.getAttribute("stroke"),
            opacity: Number(link.getAttribute("opacity")),
            dash: link.getAttribute("stroke-dasharray"),
        }))"""
    )


def expected(view, heads, least=0.05, rows=None) -> dict[tuple[int, str], float]:
    """The weights of all links that are drawn, by head and link."""
    found = {}
    for head in heads:
        tile = view.tile(LAYER, head, 0, view.n, 0, view.n).tolist()
        for i, row in enumerate(tile):
            for j, weight in enumerate(row):
                if weight >= least and (rows is None or (i in rows and j in rows)):
                    found[head, f"{i}-{j}"] = weight
    return found


def test_what_is_drawn_is_what_python_gives(open_page, site):
    page = open_page(LINES)
    wanted = expected(site.view, [HEAD])
    found = {(link["head"], link["link"]): link["width"] for link in drawn(page)}
    assert found == pytest.approx({at: THICK * weight for at, weight in wanted.items()}, abs=6e-4)
    share = sum(wanted.values()) / site.view.n
    says = f"Drawn: the {len(wanted)} links of 0.05 or more, together {share:.3f} of all weight."
    assert page.locator(".drawn").inner_text() == says
    grays = {link["link"] for link in drawn(page) if link["color"] != drawn(page)[-1]["color"]}
    special = site.view.reading.special
    assert grays == {link for _, link in wanted if special[int(link.split("-")[1])]}
    page.locator("[data-key='least']").select_option("0.2")
    settled(page)
    assert len(drawn(page)) == len(expected(site.view, [HEAD], least=0.2))
    assert "least=0.2" in page.url


def test_the_chosen_word_stands_out_and_is_listed(open_page, site):
    page = open_page(LINES)
    strong = {link["link"] for link in drawn(page) if link["opacity"] >= 0.5}
    row = site.view.row(LAYER, HEAD, IT)
    assert strong == {f"{IT}-{j}" for j, one in enumerate(row.weights.tolist()) if one >= 0.05}
    values = page.locator(".lines [data-row='j'] .value").all_text_contents()
    assert values == [steps.weight(one) for one in row.weights.tolist() if one >= 0.05]
    top = row.weights.topk(8)
    found = table(page.locator(".chosenlinks"))
    assert [int(line[0]) for line in found] == top.indices.tolist()
    assert [line[2:] for line in found] == [
        [steps.weight(row.weights[j].item()), steps.weight(row.effects[j].item())]
        for j in top.indices.tolist()
    ]
    page.locator("[data-key='check-dim']").uncheck()
    settled(page)
    assert {link["opacity"] for link in drawn(page)} == {0.3, 0.6}
    assert "dim=0" in page.url


def test_who_looks_at_a_word(open_page, site):
    page = open_page(LINES)
    page.locator(f"[data-key='line-j-{ANIMAL}']").click()
    settled(page)
    assert "dir=from" in page.url and f"token={ANIMAL}" in page.url
    weights = site.view.column(LAYER, HEAD, ANIMAL).weights
    lengths = site.view.contributions(LAYER, HEAD)[0, 0, :, ANIMAL : ANIMAL + 1][:, 0]
    top = weights.topk(8)
    found = table(page.locator(".chosenlinks"))
    assert [line[2:] for line in found] == [
        [steps.weight(weights[i].item()), steps.weight(lengths[i].item())]
        for i in top.indices.tolist()
    ]
    strong = {link["link"] for link in drawn(page) if link["opacity"] >= 0.5}
    assert strong == {f"{i}-{ANIMAL}" for i, one in enumerate(weights.tolist()) if one >= 0.05}
    page.locator("[data-key='list-line'], .chosenlinks button").first.click()
    settled(page)
    assert f"token={top.indices[0]}" in page.url


def test_special_words_are_left_out_and_it_is_said(open_page, site):
    page = open_page(f"{LINES}&hide=1")
    inner = range(1, site.view.n - 1)
    wanted = expected(site.view, [HEAD], rows=inner)
    assert {link["link"] for link in drawn(page)} == {link for _, link in wanted}
    tile = site.view.tile(LAYER, HEAD, 1, site.view.n - 1, 1, site.view.n - 1)
    rest = 1 - tile.sum().item() / len(inner)
    says = f"{steps.weight(rest)} of the weight of these words goes to words that are not shown"
    assert says in page.locator(".drawn").inner_text()
    assert page.locator(".pages").count() == 0


# Several heads


def shown(page) -> list[int]:
    pressed = page.locator(".headbutton[aria-pressed='true']").all_inner_texts()
    return [int(text) for text in pressed]


def test_heads_over_each_other(open_page, site):
    page = open_page(f"{LINES}&with=4,7")
    wanted = expected(site.view, [1, 4, 7])
    found = {(link["head"], link["link"]): link["width"] for link in drawn(page)}
    assert found == pytest.approx({at: THICK * weight for at, weight in wanted.items()}, abs=6e-4)
    share = sum(wanted.values()) / site.view.n / 3
    says = f"{len(wanted)} links of 0.05 or more of 3 heads, together {share:.3f} of all their"
    assert says in page.locator(".drawn").inner_text()
    special = site.view.reading.special
    colors = {}
    for link in drawn(page):
        if not special[int(link["link"].split("-")[1])]:
            colors.setdefault(link["head"], set()).add(link["color"])
    assert {len(one) for one in colors.values()} == {1} and len(set().union(*colors.values())) == 3
    blue = page.evaluate("getComputedStyle(document.querySelector('.up')).fill")
    assert colors[HEAD] == {blue}
    assert shown(page) == [1, 4, 7]


def test_heads_are_added_taken_off_and_seen_alone(open_page):
    page = open_page(LINES)
    page.locator("[data-key='over-4']").click()
    page.wait_for_url("**with=4**")
    page.locator("[data-key='over-9']").click()
    page.wait_for_url("**with=4,9**")
    settled(page)
    assert shown(page) == [1, 4, 9]
    page.locator("[data-key='over-1']").click()  # the chosen one: the next is chosen
    page.wait_for_url("**head=4**")
    settled(page)
    assert shown(page) == [4, 9] and page.locator("#pick-head").input_value() == "4"
    page.locator("[data-key='over-9']").dblclick()
    page.wait_for_url("**head=9**")
    settled(page)
    assert shown(page) == [9] and "with=" not in page.url
    page.locator("[data-key='heads-all']").click()
    settled(page)
    assert shown(page) == list(range(12)) and "with=all" in page.url
    dashed = {link["head"] for link in drawn(page) if link["dash"]}
    assert len(dashed) == 4  # eight colors, the chosen one's among them
    page.locator("[data-key='over-3']").focus()
    page.keyboard.press("Space")
    settled(page)
    assert 3 not in shown(page)
    page.locator("[data-key='over-2']").focus()
    page.keyboard.press("Enter")
    settled(page)
    assert shown(page) == [2]
    page.locator("[data-key='over-2']").click()  # one is always shown
    page.wait_for_timeout(400)
    assert shown(page) == [2]


def test_a_head_keeps_its_color_while_others_come_and_go(open_page):
    page = open_page(f"{LINES}&with=4,7,9&hide=1")
    before = {link["head"]: link["color"] for link in drawn(page)}
    go(page, f"{LINES}&with=7,9&hide=1&view=text&v={open_page.view}")
    after = {link["head"]: link["color"] for link in drawn(page)}
    assert after == {head: before[head] for head in (1, 7, 9)}


#: How a person without one kind of cone sees linear RGB (Machado et al. 2009, severity 1).
BLINDNESS = {
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}


def lab(rgb, matrix) -> tuple[float, float, float]:
    """A color in CIELAB, as it is seen through `matrix`."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in rgb]
    r, g, b = (
        min(max(sum(m * c for m, c in zip(row, linear, strict=True)), 0), 1) for row in matrix
    )
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("seen", BLINDNESS)
def test_color_blind_readers_can_tell_the_heads_apart(open_page, theme, seen):
    """Two of eight differ by at least 15 in CIELAB, where 2.3 is the least to be noticed."""
    page = open_page(f"{LINES}&with=0,2,3,4,5,6,7&hide=1&theme={theme}")
    colors = {link["head"]: link["color"] for link in drawn(page)}
    assert len(colors) == 8
    labs = [lab(map(int, re.findall(r"\d+", one)), BLINDNESS[seen]) for one in colors.values()]
    for a, b in combinations(labs, 2):
        assert sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5 >= 15, (a, b)


# Keyboard and windows


def test_the_words_are_walked_by_keyboard(open_page):
    page = open_page(LINES)
    page.locator(f"[data-key='line-i-{IT}']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    settled(page)
    assert f"token={IT + 1}" in page.url and "dir=from" not in page.url
    assert page.evaluate("document.activeElement.dataset.key") == f"line-i-{IT + 1}"
    page.locator(f"[data-key='line-j-{IT + 1}']").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    settled(page)
    assert f"token={IT}" in page.url and "dir=from" in page.url
    chosen = page.locator(".lineword[aria-selected='true']")
    assert chosen.get_attribute("data-key") == f"line-j-{IT}"
    names = page.locator(".lineword").evaluate_all("words => words.map(w => w.ariaLabel)")
    assert all(names)


def test_a_line_leads_to_its_link(open_page):
    page = open_page(f"{LINES}&with=4")
    page.locator(".weightline[data-link='10-2'][data-head='1']").dispatch_event("click")
    settled(page)
    assert "other=2" in page.url and "token=10" in page.url and "head=1" in page.url


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [320, 400, 1000, 1600])
def test_the_lines_in_windows_of_all_widths(open_page, site, width, lang):
    page = open_page(f"{LINES}&with=all&lang={lang}", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.locator(".lines .lineword text:not(.value)").evaluate_all(
        """words => words.map(word => {
            const box = word.getBoundingClientRect();
            return [box.left, box.right, box.top];
        })"""
    )
    assert len(boxes) == 2 * site.view.n
    assert all(left >= 0 and right <= width for left, right, _ in boxes)
    tops = {round(top) for *_, top in boxes}
    assert len(tops) == (site.view.n if width < 820 else 2)  # upright below 820 pixels
    if width >= 820:
        for (_, right, a), (left, _, b) in pairwise(boxes):
            assert a != b or right <= left, "two words overlap"


def test_a_window_that_changes_its_width(open_page):
    page = open_page(LINES, width=1200)
    page.set_viewport_size({"width": 500, "height": 900})
    page.locator(".rownames").wait_for()
    page.set_viewport_size({"width": 1200, "height": 900})
    page.locator(".rownames").wait_for(state="detached")


def test_a_text_that_is_longer_than_the_window(open_page):
    page = open_page(f"text={quote('old boat ' * 60)}&as=lines&step=0", fresh=True)
    go(page, page.url.partition("#")[2].replace("token=", "token=70&was="))
    first = int(page.locator(".lineword").first.get_attribute("data-key").split("-")[2])
    many = page.locator("[data-row='i'] .lineword").count()
    assert first <= 70 < first + many <= 122
    page.locator("[data-key='lines-from-on']").click()
    settled(page)
    later = int(page.locator(".lineword").first.get_attribute("data-key").split("-")[2])
    assert later == min(first + many, 122 - many) and f"from={first + many}" in page.url
    for _ in range(5):
        if page.locator("[data-key='lines-from-back']").is_enabled():
            page.locator("[data-key='lines-from-back']").click()
            settled(page)
    assert page.locator("[data-key='line-i-0']").count() == 1
    assert "goes to words that are not shown here" in page.locator(".drawn").inner_text()


def test_the_python_of_the_lines_gives_their_weights(open_page, site):
    page = open_page(f"{LINES}&with=4")
    page.locator("#view").get_by_role("button", name="Copy as Python").click()
    lines = page.locator("#view .code").inner_text().strip().split("\n")
    tiles = [line for line in lines if line.startswith("view.tile")]
    assert [eval(line, {"view": site.view}).shape for line in tiles] == [(16, 16)] * 2


# Bars

STATES = (
    LINES,
    f"{HERE}&step=4",
    f"{HERE}&step=6",
    f"{HERE}&step=5&without=3.1.10.2",
    f"{HERE}&step=0&dir=from",
    f"{HERE}&step=0&set=3,4",
    f"{HERE}&step=0&view=map",
    f"{HERE}&step=0&view=whatif&change=13:wide",
)


@pytest.mark.parametrize("state", STATES)
def test_bars_of_one_unit_have_one_scale(open_page, state):
    """In a part of the page a bar is as long as its number, whatever table it stands in."""
    page = open_page(state)
    for part in ("#open", "#view"):
        found = page.locator(f"{part} .bar[data-unit]").evaluate_all(
            """bars => bars.map(bar => [bar.dataset.unit,
                parseFloat(bar.querySelector("rect").getAttribute("width")),
                Math.abs(Number(bar.closest("td").previousElementSibling.title))])"""
        )
        for unit in {unit for unit, *_ in found}:
            one = [(width, number) for u, width, number in found if u == unit and number]
            scale = max(width for width, _ in one) / max(number for _, number in one)
            for width, number in one:
                assert width == pytest.approx(scale * number, rel=1e-6), (state, part, unit)
    if state == LINES:
        assert {unit for unit, *_ in found} == {"share", "length"}


# Heads


def test_the_small_maps_have_one_scale(open_page, site):
    page = open_page(f"{HERE}&step=0&view=grid")
    pressed = page.locator(".controls [aria-pressed='true']").inner_text()
    assert pressed == "Maps"
    colors = pixels(page)
    ramp = page.evaluate("import('./page/parts/color.js').then(m => m.palette())")
    for (layer, head), image in colors.items():
        tile = site.view.tile(layer, head, 0, 16, 0, 16).flatten().tolist()
        for weight, color in zip(tile, image, strict=True):
            near = ramp[round(weight * 255)]
            assert max(abs(a - b) for a, b in zip(near, color, strict=True)) <= 6
    page.locator("[data-key='check-faint']").check()
    settled(page)
    assert "faint=1" in page.url and "own scale" in page.locator("#view").inner_text()
    strongest = ramp[255]
    for image in pixels(page).values():
        assert strongest in image


def pixels(page) -> dict[tuple[int, int], list[list[int]]]:
    """The colors of some small maps, pixel by pixel."""
    heads = [(0, 2), (3, 1), (5, 11)]
    return {
        (layer, head): page.locator(f"[data-key='h-{layer}-{head}'] canvas").evaluate(
            """canvas => {
                const { width, height } = canvas,
                    found = canvas.getContext("2d").getImageData(0, 0, width, height).data,
                    at = i => [...found.slice(4 * i, 4 * i + 3)];
                return Array.from({ length: width * height }, (_, i) => at(i));
            }"""
        )
        for layer, head in heads
    }
