"""What matters: a question, links removed for real, rows without a link, maps of effects."""

import re
from urllib.parse import quote

import pytest

from tests.browser.conftest import TIRED, Site, go, serving, settled, table
from tests.tiny import text, tiny_llama
from wqkv.draw import steps
from wqkv.effects.effect_maps import EffectMaps
from wqkv.effects.why import why
from wqkv.study.view import View

LIKE = "A dog did not go over the road."
ASKED = f"step=0&view=matters&answer={quote(LIKE)}&asked=1"
N = 23


@pytest.fixture(scope="module")
def found(site):
    return why(site.view.model, TIRED, LIKE)


def shown(number: float, digits: int = 4) -> str:
    return f"{number:+.{digits}f}"


def named(found, one) -> str:
    """A link as the page writes it, without blanks."""
    return (
        f"{found.tokens[one.part][one.query]}{one.query}→{found.keys[one.part][one.key]}{one.key}"
    )


def test_links_removed_for_real(open_page, found):
    page = open_page(ASKED)
    view = page.locator("#view")
    assert view.locator(".big").first.inner_text() == f"{found.before:.4f}"
    assert f"cosine with “{LIKE}”" in view.inner_text()
    assert (
        f"{found.count:,} links in all layers and heads, 200 removed for real" in view.inner_text()
    )
    rows = table(view.locator(".effects").first)
    assert len(rows) == 12
    for row, one in zip(rows, found.links, strict=False):
        assert re.sub(r"\s", "", row[0]) == named(found, one)
        place, weight, predicted, true, *marks = row[1:]
        assert place == f"{one.layer}.{one.head}" and weight == steps.weight(one.weight)
        assert (predicted, true) == (shown(one.predicted), shown(one.true))
        said = [f"! {one.warning}"] * bool(one.warning) + [one.miss] * bool(one.miss)
        assert "\n".join(marks).split("\n") == (said or [""]) or not said
    joint = found.together
    assert f"{found.before:.4f} → {joint.after:.4f}" in view.inner_text()
    draws = sorted(joint.others)
    assert f"{draws[1]:.4f} to {draws[-2]:.4f} (20 draws, 5 to 95 %)" in view.inner_text()
    checked = found.checked
    assert f"{checked.left:,} links, with {100 * checked.share:.3g} % of all" in view.inner_text()
    assert f"{checked.sign} were predicted with the right sign and {checked.close} within half" in (
        view.inner_text()
    )
    assert "This is no proof that nothing else matters." in view.inner_text()


@pytest.mark.parametrize("column", ["true", "predicted", "weight", "layer"])
def test_a_table_is_sorted_by_any_column(open_page, found, column):
    page = open_page(ASKED)
    page.locator("[data-key='more-why']").click()
    settled(page)
    page.locator(f"[data-key='sort-why-{column}']").click()
    settled(page)
    orders = {
        "true": lambda one: -abs(one.true),
        "predicted": lambda one: -abs(one.predicted),
        "weight": lambda one: -one.weight,
        "layer": lambda one: (one.layer, one.head),
    }
    rows = table(page.locator(".effects").first)
    assert len(rows) == len(found.links)
    expected = [named(found, one) for one in sorted(found.links, key=orders[column])]
    assert [re.sub(r"\s", "", row[0]) for row in rows] == expected
    way = "ascending" if column == "layer" else "descending"
    heads = page.locator(f".effects th[aria-sort='{way}'] button").first
    assert heads.get_attribute("data-key") == f"sort-why-{column}"


def test_a_page_that_becomes_narrow_does_not_run_over(open_page):
    page = open_page(ASKED, width=1100, height=780)  # a context of its own, closed afterwards
    wide = page.locator(".arcs svg").evaluate("x => x.clientWidth")
    page.set_viewport_size({"width": 380, "height": 800})
    page.wait_for_function("() => document.querySelector('.arcs svg').clientWidth < 380")
    assert wide > 600
    assert page.evaluate("document.scrollingElement.scrollWidth") == 380


def test_the_heaviest_links_are_not_those_that_matter(open_page, site, found):
    page = open_page(ASKED)
    heaviest = found.heaviest
    rows = table(page.locator(".effects").last)
    expected = sorted(heaviest, key=lambda one: -abs(one.true))
    assert [re.sub(r"\s", "", row[0]) for row in rows] == [named(found, one) for one in expected]
    assert [row[2] for row in rows] == ["1.000"] * 6
    top, most = abs(found.links[0].true), max(abs(one.true) for one in heaviest)
    assert most < top / 2
    assert (
        f"to {most:.4f}, and the strongest above by {top:.4f}."
        in page.locator("#view").inner_text()
    )


def test_arcs(open_page, found):
    page = open_page(ASKED)
    arcs = page.locator(".arc")
    page.locator(".arcs svg").wait_for()
    titles = arcs.locator("title").evaluate_all("parts => parts.map(part => part.textContent)")
    assert len(titles) == 12
    for title, one in zip(titles, found.links, strict=False):
        assert title.startswith(f"{one.layer}.{one.head} ") and title.endswith(shown(one.true))
    sides = arcs.evaluate_all("parts => parts.map(part => part.classList[1])")
    assert sides == ["for" if one.true < 0 else "against" for one in found.links[:12]]
    wide = arcs.locator(".line").evaluate_all(
        "parts => parts.map(part => Number(part.getAttribute('stroke-width')))"
    )
    assert wide == sorted(wide, reverse=True) and wide[0] == 10
    words = page.locator(".arcs text:not(.number)").all_text_contents()
    assert words == list(found.tokens["text"])
    arcs.nth(1).locator(".hit").dispatch_event("click")
    settled(page)
    one = found.links[1]
    assert f"without={one.layer}.{one.head}.{one.query}.{one.key}" in page.url


def test_arcs_of_a_narrow_window_stand_beside_the_text(open_page):
    page = open_page(ASKED, width=360, height=780)
    page.locator(".arcs svg").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    places = page.locator(".arcs text.touched").evaluate_all(
        "parts => parts.map(part => part.getAttribute('x'))"
    )
    assert len(set(places)) == 1 and len(places) > 1  # one below the other


@pytest.mark.parametrize("width", [360, 700, 1000, 1220, 1600])
def test_tables_have_room(open_page, width):
    page = open_page(f"{ASKED}&by=head", width=width, height=780)
    tables = page.locator("#view table").evaluate_all(
        """tables => tables.map(table =>
            table.getBoundingClientRect().right - table.parentElement.getBoundingClientRect().right
        )"""
    )
    assert len(tables) == 3 and max(tables) <= 1


@pytest.mark.parametrize("how", ["renormalize", "zero"])
def test_a_link_opens_its_steps_without_it(open_page, site, how):
    page = open_page(f"{ASKED}&how={how if how == 'zero' else ''}")
    one = why(site.view.model, TIRED, LIKE, how=how).links[0]
    page.locator(".effects tbody tr").first.locator("button").press("Enter")
    settled(page)
    row = site.view.row(one.layer, one.head, one.query)
    gone = site.view.row_without(one.layer, one.head, one.query, one.key, how)
    lines = table(page.locator("#open .ranking"))
    pairs = zip(row.weights.tolist(), gone.weights.tolist(), strict=True)
    assert [line[2:] for line in lines] == [[*map(steps.weight, pair)] for pair in pairs]
    top = max(float(row.weights.max()), float(gone.weights.max()))
    bars = page.locator("#open .ranking rect").evaluate_all(
        "parts => parts.map(part => parseFloat(part.getAttribute('width')))"
    )
    both = [weight for pair in zip(row.weights, gone.weights, strict=True) for weight in pair]
    assert bars == pytest.approx([100 * float(weight) / top for weight in both], abs=1e-3)
    said = page.locator(".without").inner_text()
    assert f"is {row.output:.4g} long with the link and {gone.output:.4g} long without it" in said
    page.keyboard.press("6")
    settled(page)
    lines = table(page.locator("#open .ranking"))
    pairs = zip(row.effects.tolist(), gone.effects.tolist(), strict=True)
    assert [line[2:] for line in lines] == [[*map(steps.weight, pair)] for pair in pairs]
    page.get_by_role("button", name="Put the link back").click()
    settled(page)
    assert "without" not in page.url and page.locator(".without").count() == 0


def test_the_removed_link_is_that_of_one_row(open_page):
    page = open_page("layer=3&head=1&token=10&without=3.1.10.2&step=5")
    assert page.locator(".without").count() == 1
    page.keyboard.press("w")
    settled(page)
    assert page.locator(".without").count() == 0


@pytest.mark.parametrize(("by", "count"), [("head", 12), ("token", 12), ("span", 1)])
def test_groups(open_page, site, by, count):
    page = open_page(ASKED)
    page.locator(f"[data-key='by-{by}']").click()
    settled(page)
    groups = why(site.view.model, TIRED, LIKE, by=[by], budget=1).groups[by]
    rows = table(page.locator(".groups table"))
    assert len(rows) == min(count, len(groups))
    for row, one in zip(rows, groups, strict=False):
        expected = {
            "head": one.label,
            "token": f"{one.label}{one.first}",
            "span": f"{one.label}{one.first}–{one.last}",
        }[by]
        assert row[0].replace("\n", "") == expected
        assert float(row[1]) == pytest.approx(one.true, abs=6e-4)  # three decimals at least


def test_a_question_that_is_not_complete(open_page):
    page = open_page("step=0&view=matters")
    button = page.locator("[data-key='ask-why']")
    assert button.is_disabled()
    assert "Type the other one." in page.locator("#view").inner_text()
    page.locator("#ask-answer").fill(LIKE)
    page.locator("#ask-answer").press("Tab")
    settled(page)
    button.click()
    settled(page)
    assert "asked=1" in page.url and page.locator(".arcs").count() == 1


def test_work_is_cancelled_and_asked_for_again(open_page):
    page = open_page("step=0", fresh=True)
    page.route("**/why", lambda route: route.fulfill(json={"job": "slow"}))
    running = {"state": "running", "what": "why", "done": 1, "total": 9}
    page.route("**/jobs/slow", lambda route: route.fulfill(json=running))
    page.route("**/jobs/slow/cancel", lambda route: route.fulfill(json={}))
    page.locator("#tab-matters").click()
    page.locator("#ask-answer").fill(LIKE)
    page.locator("#ask-answer").press("Tab")
    page.locator("[data-key='ask-why']").click()
    page.get_by_text("Removing links, one by one").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    page.unroute("**/why")
    page.locator("[data-key='ask-why']").click()
    page.locator(".arcs svg").wait_for()


def test_what_can_be_pressed_has_a_name(open_page):
    page = open_page(f"{ASKED}&by=token")
    parts = page.locator("#view button, #view input")
    nameless = parts.evaluate_all(
        """parts => parts.filter(part => !part.innerText?.trim()
            && !part.getAttribute("aria-label") && !part.labels?.length
        ).map(part => part.outerHTML)"""
    )
    assert nameless == []


# The map


def test_the_map_of_contributions(open_page, site):
    page = open_page("layer=3&head=1&token=10&step=0&view=map")
    page.locator("[data-key='shows-contribution']").click()
    settled(page)
    made = site.view.contributions(3, 1)[0, 0]
    read = page.locator(".readout b")
    page.locator("canvas.tile").focus()
    assert float(read.inner_text()) == pytest.approx(made[10, 2].item(), rel=5e-3)
    page.keyboard.press("ArrowDown")
    assert float(read.get_attribute("title")) == pytest.approx(made[11, 2].item(), rel=1e-6)
    top = float(page.locator(".tile-side .scale span").last.inner_text())
    assert top == pytest.approx(made.max().item(), rel=5e-3)
    rows = table(page.locator(".links"))
    strongest = made.flatten().topk(20).values.tolist()
    assert [float(row[1]) for row in rows] == pytest.approx(strongest, rel=5e-3)


@pytest.mark.parametrize("how", ["renormalize", "zero"])
def test_the_map_of_effects(open_page, site, how):
    asked = f"answer={quote(LIKE)}&how={how if how == 'zero' else ''}"
    page = open_page(f"layer=4&head=5&token=13&step=0&view=map&shows=effect&{asked}", fresh=True)
    made = EffectMaps(site.view.model, TIRED, LIKE).map(4, 5, how)[0, 0]
    page.locator("canvas.tile").focus()
    j = int(made[13].abs().argmax())
    assert page.locator(".readout sub").all_inner_texts() == ["13", str(j)]
    number = float(page.locator(".readout b").get_attribute("title"))
    assert number == pytest.approx(made[13, j].item(), rel=1e-5)
    ends = page.locator(".tile-side .scale span").all_inner_texts()
    size = f"{made.abs().max().item():.4f}"
    assert ends == [f"-{size}", f"+{size}"]
    assert f"cosine with “{LIKE}”" in page.locator(".tile-side").inner_text()
    rows = table(page.locator(".links"))
    best = made.flatten()[made.flatten().abs().argsort(descending=True)[:20]].tolist()
    assert [float(row[1]) for row in rows] == pytest.approx(best, rel=5e-2, abs=6e-5)
    go(page, f"{page.url.partition('#')[2]}&at=2,2,8")
    blocks = page.locator(".mini-side").inner_text()
    assert "exact means of absolute values, in 16 × 16 blocks" in blocks


def test_effects_need_a_question(open_page):
    page = open_page("step=0&view=map&shows=effect")
    assert "say first which text" in page.locator("#view").inner_text()
    page.get_by_role("button", name="Say it in What matters").click()
    settled(page)
    assert page.locator("#tab-matters").get_attribute("aria-selected") == "true"


# A model that writes


@pytest.fixture(scope="module")
def causal(browser):
    """A page of a causal model, and the site."""
    with serving(tiny_llama(), text(N - 1)) as made:
        context = browser.new_context(viewport={"width": 1200, "height": 900}, locale="en-GB")
        page = context.new_page()
        page.goto(made.url)
        settled(page)
        yield page, made
        context.close()


def follow(page, state: str) -> None:
    go(page, f"{state}&v={page.url.partition('&v=')[2].partition('&')[0]}")


def test_the_likeliest_words_are_choices(causal: tuple[object, Site]):
    page, site = causal
    follow(page, "step=0&view=matters")
    view: View = site.view
    ranked = view.reading.logits.topk(8).indices.tolist()
    tokens = [view.model.tokenizer.decode([id]) for id in ranked]
    for name, chosen in (("answer", tokens[0]), ("against", tokens[1])):
        chips = page.locator(f"[aria-labelledby='title-{name}'] .chip")
        assert chips.all_inner_texts() == tokens
        pressed = page.locator(f"[aria-labelledby='title-{name}'] [aria-pressed='true']")
        assert pressed.all_inner_texts() == [chosen]
    assert page.locator("[data-key='against-0']").is_disabled()
    page.locator("[data-key='against-3']").click()
    settled(page)
    page.locator("[data-key='ask-why']").click()
    settled(page)
    found = why(view.model, view.reading.sentence, None, tokens[3])
    numbers = page.locator("#view").inner_text()
    assert f"logit of “{tokens[0]}” less logit of “{tokens[3]}”" in numbers
    rows = table(page.locator(".effects").nth(1))
    assert "To the first word" in numbers
    assert [re.sub(r"\s", "", row[0]) for row in rows] == [
        named(found, one) for one in found.resting[:6]
    ]


def test_the_word_after_the_chosen_one(causal: tuple[object, Site]):
    page, site = causal
    follow(page, "step=0&view=matters&token=7")
    page.locator("[data-key='after-word']").click()
    settled(page)
    assert "after=7" in page.url
    page.locator("#ask-answer").fill("lamp")
    page.locator("#ask-answer").press("Tab")
    settled(page)
    page.locator("[data-key='ask-why']").click()
    settled(page)
    found = why(site.view.model, site.view.reading.sentence, "lamp", at=7)
    assert f"{found.count:,} links" in page.locator("#view").inner_text()
    assert float(page.locator("#view .big").first.inner_text()) == pytest.approx(
        found.before, abs=6e-3
    )
