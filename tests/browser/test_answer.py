"""The first screen: the question, its answer in numbers, the strip of the model, and the tour."""

import pytest

from tests.browser.conftest import ANIMAL, HEAD, HERE, IT, LAYER, Opener, serving, settled
from tests.tiny import READ, TARGET, text, tiny_llama, tiny_t5
from wqkv.draw import steps
from wqkv.study.lens import logit_lens

pytestmark = pytest.mark.usefixtures("browser")


def three(value: float) -> str:
    """A length as the strip writes it."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.{1 if value >= 9.995 else 2}f}"


def said(page) -> str:
    return page.locator("#answer .answer").inner_text()


def stops(page, selector: str) -> list[list[str]]:
    """The numbers on the bars of each stop of the strip."""
    found = page.locator(selector)
    return [one.locator(".partbar small").all_inner_texts() for one in found.all()]


# The answer


def test_the_answer_has_the_numbers_of_the_text(open_page, site):
    page = open_page(HERE)
    row = site.view.row(LAYER, HEAD, IT)
    without = site.view.row_without(LAYER, HEAD, IT, ANIMAL)
    cell = site.view.cell(LAYER, HEAD, IT, ANIMAL)
    share = round(100 * without.changed / row.output)
    assert page.locator("h1").inner_text() == "What do WQ, WK and WV do to it?"
    assert said(page) == (
        "WQ makes a query of it; WK and WV make a key and a value of every word (token). "
        f"In layer 3, head 1, the query of it fits the key of animal best (score {cell.score:.2f}),"
        f" so {steps.weight(cell.weight)} of what it takes in is the value of animal. Without that "
        f"one link this head's output for it would change by {share}\u00a0% of its length. Does "
        "the text's embedding need it? Remove it for real"
    )
    figure = page.locator(".herofigure").inner_text()
    assert f"q · k: score {cell.score:.2f}, weight {steps.weight(cell.weight)}" in figure
    layer = site.view.layer(LAYER)
    top = max(float(x.abs().max()) for x in (
        layer.q[0, HEAD, IT], layer.k[0, HEAD, ANIMAL], layer.v[0, HEAD, ANIMAL]
    ))  # fmt: skip
    assert f"32 numbers each, one scale: ±{top:.2f}" in figure


def test_each_number_leads_to_its_step(open_page):
    page = open_page(f"{HERE}&step=1")
    for name, step in (("WQ", 2), ("score", 4), ("weight", 5), ("change", 6)):
        page.locator(f"[data-key='answer-{name}']").click()
        settled(page)
        assert page.locator(f"#step-{step}").get_attribute("aria-selected") == "true"
    assert f"without={LAYER}.{HEAD}.{IT}.{ANIMAL}" in page.url
    assert "without the link" in page.locator("#open").inner_text().lower()
    page.locator("[data-key='answer-matters']").click()
    settled(page)
    assert page.locator("#tab-matters").get_attribute("aria-selected") == "true"


SAYS = {  # by layer, head and token
    (3, 1, 0): "fits its own key best (score 5.52), so 0.992 of what [CLS] takes in is its own",
    (4, 5, 7): "Much weight, but little content: what arrives from [CLS] has length",
    (0, 0, 6): "no key stands out for the query of cross. The best is that of",
    (0, 5, 8): "fits the keys of cross and the7 almost equally well (score ",
}


@pytest.mark.parametrize("at", SAYS)
def test_what_else_a_row_may_say(open_page, at):
    page = open_page("layer={}&head={}&token={}".format(*at))
    assert SAYS[at] in said(page).replace("\n", "")


def test_words_that_read_alike_have_their_positions(open_page):
    page = open_page("layer=0&head=2&token=8")
    assert page.locator("#answer .answer b sub").first.inner_text() == "7"  # of two "the"


def test_a_word_of_the_line_is_chosen_by_keys(open_page):
    page = open_page(HERE)
    page.locator("[data-key='word-10']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    settled(page)
    assert page.locator("h1").inner_text() == "What do WQ, WK and WV do to was?"
    assert page.evaluate("document.activeElement.dataset.key") == "word-11"


def test_the_answer_in_chinese(open_page, site):
    page = open_page(f"{HERE}&lang=zh")
    assert page.locator("h1").inner_text() == "WQ、WK、WV 对it做了什么？"
    weight = steps.weight(float(site.view.row(LAYER, HEAD, IT).weights[ANIMAL]))
    assert f"“it”取到的内容中有 {weight} 是“animal”的值" in said(page)


# The strip


def test_the_strip_has_what_each_part_adds(open_page, site):
    page = open_page(HERE)
    found = site.view.stream(IT)
    layers = [[three(one.attention), three(one.mlp)] for one in found.layers]
    assert stops(page, ".stop.layer") == layers
    assert stops(page, "div.stop")[0] == [three(found.embedding)]
    heads = found.layers[LAYER].heads
    assert stops(page, ".stop.head") == [[three(one)] for one in heads]
    top = max(found.embedding, *(x for one in found.layers for x in (one.attention, one.mlp)))
    share = 100 * found.layers[0].attention / top
    height, whole = page.locator(".stop.layer .part").first.evaluate(
        "part => [part.getBoundingClientRect().height, part.style.height]"
    )
    assert float(whole.rstrip("%")) == pytest.approx(
        100 * found.layers[0].attention / top, rel=1e-4
    )
    assert height > 5
    assert "before LayerNorm" in page.locator(".streamline").inner_text()
    share = max(one.proof.share for one in found.layers)
    page.locator("#stream .basis summary").click()
    assert f"to {share:.2g} of what" in page.locator("#stream .basis").inner_text()


def test_the_strip_moves_the_steps(open_page):
    page = open_page(f"{HERE}&step=2")
    page.locator("[data-key='layer-3']").focus()
    page.keyboard.press("ArrowRight")
    settled(page)
    assert "layer=4" in page.url and "step=2" in page.url
    assert page.evaluate("document.activeElement.dataset.key") == "layer-4"
    page.locator("[data-key='head-7']").click()
    settled(page)
    assert "head=7" in page.url
    assert "In layer 4, head 7," in said(page)


def test_parts_that_do_not_add_up_are_loud(open_page):
    page = open_page(fresh=True)

    def fail(route):
        answer = route.fetch().json()
        found = answer.get("result") or answer  # of a job, or at once
        if "embedding" in found:
            found["layers"][2]["proof"]["holds"] = False
        route.fulfill(json=answer)

    page.route("**/api/jobs/*", fail)
    page.route("**/api/views/*/stream*", fail)
    page.reload()
    settled(page)
    failed = page.locator("#stream > .failed")
    assert failed.inner_text() == (
        "FAILED ITS PROOF: in layers 2 the parts do not add up to the state."
    )


# Other models


def test_a_causal_model_with_many_layers(browser):
    with serving(tiny_llama(24), text(12)) as site:
        opener = Opener(browser, site)
        page = opener("layer=17&head=1&token=5", fresh=True, width=400)
        lens = logit_lens(site.view, 5)
        shown = page.locator(".stop.layer .lens").all_inner_texts()
        assert shown == [f"{one[0].token}\n{steps.weight(one[0].probability)}" for one in lens]
        assert "logit lens" in page.locator("#stream").inner_text()
        end = page.locator(".stop.end").inner_text()
        assert lens[-1][0].token in end and steps.weight(lens[-1][0].probability) in end
        box = page.locator(".stream > .layers")
        assert box.evaluate("box => box.scrollLeft > 0 && box.scrollWidth > box.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        lit = page.locator("[data-key='layer-17']").bounding_box()
        assert 0 <= lit["x"] < 400
        page = opener("layer=2&head=1&token=0", fresh=True)
        assert "may look at no word but itself, so its weight is 1.000" in said(page)
        assert "Without" not in said(page)
        opener.close(opener.contexts)
        assert not opener.wrong


def test_a_model_of_two_texts(browser):
    with serving(tiny_t5(), READ, tiny_t5().views(READ, TARGET)["cross"], TARGET) as site:
        opener = Opener(browser, site)
        page = opener.shared
        token = int(page.locator("#pick-token").input_value())
        found = site.view.stream(token)
        layers = [[three(x) for x in (one.attention, one.cross, one.mlp)] for one in found.layers]
        assert stops(page, ".stop.layer") == layers
        layer = int(page.locator("#pick-layer").input_value())
        heads = found.layers[layer].cross_heads
        assert stops(page, ".stop.head") == [[three(one)] for one in heads]
        assert "every word (token) of the text that was read" in said(page)
        row = site.view.row(layer, int(page.locator("#pick-head").input_value()), token)
        assert steps.weight(float(row.weights.max())) in said(page)
        page.locator("[data-key='part-decoder']").click()
        settled(page)
        token = int(page.locator("#pick-token").input_value())
        heads = site.view.stream(token).layers[0].heads
        page.locator("[data-key='layer-0']").click()
        settled(page)
        assert stops(page, ".stop.head") == [[three(one)] for one in heads]
        opener.close(list(opener.contexts))
        assert not opener.wrong


# The tour


def test_the_tour(open_page):
    page = open_page(f"{HERE}&step=3&view=grid")
    page.locator("[data-key='tour']").click()
    seen = []
    while page.locator(".tour").count():
        seen.append(
            (page.locator(".tour p").inner_text(), page.locator(".toured").get_attribute("id"))
        )
        page.keyboard.press("ArrowRight")
        settled(page)
    assert [part for _, part in seen][:3] == ["answer", "stream", "strip"]
    assert [part for _, part in seen][-2:] == ["views", "views"] and len(seen) == 8
    assert len({sentence for sentence, _ in seen}) == len(seen)
    assert "step=3" in page.url and "view=grid" in page.url
    page.locator("[data-key='tour']").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator(".tour").count() == 0 and page.locator(".toured").count() == 0
    assert page.evaluate("document.activeElement.dataset.key") == "tour"
    assert "step=3" in page.url


def test_no_width_scrolls_sideways(open_page):
    for width in (320, 400, 820, 1280, 1600):
        page = open_page(HERE, fresh=True, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
