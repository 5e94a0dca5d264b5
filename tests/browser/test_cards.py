"""The cards of Why?: each number is Python's, in both languages; guesses, refusals, saved cards."""

import json
import re
from pathlib import Path

import pytest

from tests.browser.conftest import HEAD, HERE, IT, LAYER, TIRED, go, serving, settled
from tests.tiny import TARGET, text, tiny_bart, tiny_llama
from wqkv import experiments
from wqkv.draw.cards import SHOWS, card, digits
from wqkv.experiments.asked_of_heads import HEAD_QUESTIONS, NoExperiment, head_questions
from wqkv.experiments.guesses import PLACES, guesses, headline, right_guess
from wqkv.maps.display import weight
from wqkv.study.whatif import what_if

WHY = f"{HERE}&step=0&view=cards"


def of(view, name: str, layer: int = LAYER, head: int = HEAD, i: int = IT, r: int | None = None):
    if name == "low_rank":
        r = r or max(1, view.model.sizes.d_k // 4)
    return getattr(experiments, name)(view, layer, head, i, *([] if r is None else [r]))


def shown(page, name: str):
    return page.locator(f"[data-card='{name}']")


def said(part) -> str:
    return re.sub(r"\s+", " ", part.inner_text())


@pytest.fixture(scope="module")
def found(site):
    return {name: of(site.view, name) for name in HEAD_QUESTIONS}


def test_the_page_opens_on_the_question(open_page, site):
    page = open_page(url=site.url, fresh=True)
    first = page.locator("#tabs [role='tab']").first
    assert first.inner_text() == "Why?" and first.get_attribute("aria-selected") == "true"
    names = page.locator(".card").evaluate_all("cards => cards.map(card => card.dataset.card)")
    assert names == list(HEAD_QUESTIONS)
    assert "Why three matrices?" in page.locator(".card h3").first.inner_text()
    page.locator("[data-key='lang']").click()
    settled(page)
    assert page.locator(".card h3").first.inner_text().startswith("为什么需要三个矩阵？")


def test_the_right_guess_never_stands_at_the_same_place_twice(open_page, found):
    page = open_page(WHY)
    places = []
    for name, one in found.items():
        names = (
            shown(page, name)
            .locator("[data-guess]")
            .evaluate_all("guesses => guesses.map(guess => guess.dataset.guess)")
        )
        assert names == list(guesses(one))
        places.append(names.index(right_guess(one)))
    assert places == [PLACES[name] for name in found]
    assert all(a != b for a, b in zip(places, places[1:]))  # noqa: B905, RUF007


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_card_is_what_python_says(open_page, site, found, lang):
    """A walk through all of them: guess what is right, and read the card."""
    page = open_page(f"{WHY}&lang={lang}")
    for name, one in found.items():
        part, told = shown(page, name), card(one, lang)
        asked = head_questions(lang)[name]
        assert part.locator("h3").inner_text() == asked.question
        assert part.locator(".changeline").inner_text() == asked.change
        right = right_guess(one)
        said_guesses = part.locator("[data-guess]").all_inner_texts()
        assert tuple(said_guesses) == told.guesses
        part.locator(f"[data-guess='{right}']").click()
        settled(page)
        assert part.locator(".guess").count() == 1
        assert part.locator(".guess.so b").inner_text() == told.guesses[PLACES[name]]
        first, second = map(digits, headline(one))
        assert said(part.locator(".big")) == f"{first} → {second}"
        text = said(part)
        for sentence in (told.headline, told.answer, told.reason, asked.limits):
            assert re.sub(r"\s+", " ", sentence) in text
        assert part.locator(".cardtell .code").inner_text() == one.python
        check_drawing(part, site.view, name, one)
    assert page.locator(".card.answered").count() == len(HEAD_QUESTIONS)


def check_drawing(part, view, name: str, one) -> None:
    """The bars, the maps and the proof below a card."""
    shows = SHOWS.get(name, "weights")
    assert part.locator("canvas").count() == 2 * (shows == "weights")
    assert part.locator(".paired").count() == (shows != "outputs")
    if shows == "weights":
        before, after = one.before.weights, one.after.weights
        rows = part.locator(".paired tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
        )
        assert len(rows) == 6
        keys = {view.keys.shown[j]: j for j in range(view.m)}
        for token, numbers, _ in rows:
            j = keys[token]
            assert numbers == f"{weight(float(before[j]))} → {weight(float(after[j]))}"
        tops = before.maximum(after).topk(6).indices.tolist()
        assert {row[0] for row in rows} == {view.keys.shown[j] for j in tops}
    same = part.locator(".residual")
    assert same.count() == (one.same is not None)
    if one.same is not None:
        assert f"{one.same.difference:.1e}" in same.inner_text()
    part.locator("details.all > summary").last.click()
    numbers = part.locator(".numbers").last.locator("li").all_inner_texts()
    lang = "zh" if "权重" in " ".join(numbers) else "en"
    assert numbers == [number.said(lang) for number in one.numbers]
    assert f"{one.proof.difference:.1e}" in part.inner_text()


def test_the_three_matrices_stand_side_by_side(open_page, site, found):
    page = open_page(f"{WHY}&guesses=no_projection:itself")
    rows = (
        shown(page, "no_projection")
        .locator(".beside tbody tr")
        .evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.innerText))")
    )
    states = [(found["no_projection"].before, "-")]
    for name in ("no_projection", "same_matrix", "value_is_key"):
        change = next(n for n in found[name].numbers if n.name == "change of the output").before
        states.append((found[name].after, f"{round(100 * change)} %"))
    key = found["no_projection"].key
    expected = [
        [weight(float(state.weights[IT])), weight(float(state.weights[key])), change]
        for state, change in states
    ]
    assert [row[1:] for row in rows] == expected
    assert rows[2][0] == "WK := WQ" and rows[3][0] == "WV := WK"


def test_a_wrong_guess_is_told_and_can_be_made_again(open_page, found):
    page = open_page(WHY)
    part, told = shown(page, "same_matrix"), card(found["same_matrix"], "en")
    part.locator("[data-guess='even']").focus()
    page.keyboard.press("Enter")
    settled(page)
    names = guesses(found["same_matrix"])
    assert told.guesses[names.index("even")] in part.locator(".guess.not").inner_text()
    assert told.guesses[names.index("itself")] in part.locator(".guess.so").inner_text()
    assert page.evaluate("document.activeElement.dataset.key").startswith("guess-same_matrix-")
    assert "guesses=same_matrix:even" in page.url and "card=same_matrix" in page.url
    part.get_by_role("button", name="Guess again").click()
    settled(page)
    assert part.locator("[data-guess]").count() == 3 and "guesses=" not in page.url


def test_a_card_is_sent_by_its_address(open_page, found):
    """Who opens it sees the same card, in the middle of his window."""
    page = open_page(f"{WHY}&guesses=merged:same&card=merged", fresh=True)
    part = shown(page, "merged")
    assert said(part.locator(".big")) == "24,576 → 147,456"
    page.wait_for_function(
        "() => document.querySelector('[data-card=merged]').getBoundingClientRect().top < 900"
    )


def test_a_guess_that_is_none_is_asked_anew(open_page):
    page = open_page(f"{WHY}&guesses=merged:nonsense,nobody:same,swapped")
    assert page.locator(".card.answered").count() == 0


def test_cards_follow_the_chosen_head(open_page, site):
    page = open_page("layer=0&head=2&token=5&step=0&view=cards&guesses=unscaled:sharper")
    found = of(site.view, "unscaled", 0, 2, 5)
    first, second = map(digits, headline(found))
    assert said(shown(page, "unscaled").locator(".big")) == f"{first} → {second}"


def test_the_rank_is_chosen(open_page, site):
    page = open_page(f"{WHY}&guesses=low_rank:finds")
    slide = page.locator("#rank")
    assert slide.input_value() == "8" and slide.get_attribute("max") == "32"
    slide.focus()
    page.keyboard.press("End")
    settled(page)
    assert "rank=32" in page.url
    found = of(site.view, "low_rank", r=32)
    part = shown(page, "low_rank")
    assert said(part.locator(".big")) == " → ".join(map(digits, headline(found)))
    assert part.locator(".cardtell .code").inner_text() == found.python
    assert right_guess(found) == "finds" and part.locator(".guess.so").count() == 1


@pytest.mark.parametrize("name", ["same_matrix", "shuffled_heads"])
def test_how_often_it_is_so(open_page, site, found, name):
    page = open_page(f"{WHY}&guesses={name}:{guesses(found[name])[0]}")
    counts = experiments.how_often(site.view, name, IT)
    same, all_ = counts[right_guess(found[name])], sum(counts.values())
    of_what = {72: "heads", 6: "layers"}[all_]
    said_there = shown(page, name).locator(".often").inner_text()
    assert (
        said_there
        == f"For this word it comes out so in {same} of the {all_} {of_what} of the model."
    )


def test_what_the_model_makes_of_it(open_page, site, found):
    page = open_page(f"{WHY}&guesses=same_matrix:itself,concat_or_sum:same")
    assert shown(page, "concat_or_sum").locator("[data-key^='runon']").count() == 0
    part = shown(page, "same_matrix")
    part.locator("[data-key='runon-same_matrix']").click()
    settled(page)
    change = what_if(site.view, contexts=found["same_matrix"].contexts())
    assert part.locator(".ranon .big").inner_text() == f"{change.similarity:.4f}"
    assert f"{change.change:.3g}" in part.locator(".ranon").inner_text()
    assert "ran=same_matrix" in page.url


def test_a_card_is_saved(open_page, site, found, tmp_path):
    page = open_page(f"{WHY}&guesses=unscaled:sharper")
    part = shown(page, "unscaled")
    for kind in ("png", "svg", "json"):
        with page.expect_download() as caught:
            part.locator(f"[data-key='{kind}-why-unscaled']").click()
        caught.value.save_as(tmp_path / f"card.{kind}")
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
    picture = (tmp_path / "card.svg").read_text("utf-8")
    first, second = map(digits, headline(found["unscaled"]))
    assert f"{first} → {second}" in picture and HEAD_QUESTIONS["unscaled"].question in picture
    assert picture.count("<rect") >= 2 * 16 * 16
    for part in ("all-MiniLM-L6-v2 · layer 3, head 1 · it (10)", TIRED, "scale = 1", "as trained"):
        assert part in picture
    data = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert data["made"]["numbers"][0]["after"] == found["unscaled"].numbers[0].after
    lines = data["python"].split("\n")
    known: dict = {}
    exec("\n".join(lines[:-1]), known)
    again = eval(lines[-1], known)
    assert again.numbers == found["unscaled"].numbers


@pytest.mark.parametrize("width", [320, 400, 1280, 1920])
def test_no_card_is_wider_than_the_window(open_page, found, width):
    every = ",".join(f"{name}:{right_guess(one)}" for name, one in found.items())
    page = open_page(f"{WHY}&lang=zh", width=width)
    for state in (WHY, f"{WHY}&guesses={every}", f"{WHY}&guesses={every}&lang=zh&theme=dark"):
        go(page, f"{state}&v={open_page.view}")
        assert page.evaluate("document.scrollingElement.scrollWidth") == width


# Models where not every question can be asked


def card_names(page, kind: str) -> set[str]:
    cards = page.locator(f".card.{kind}")
    return {*cards.evaluate_all("cards => cards.map(card => card.dataset.card)")}


@pytest.fixture
def opened(browser):
    contexts = []

    def new(url: str, state: str):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 900}))
        page = contexts[-1].new_page()
        page.goto(f"{url}#{state}")
        settled(page)
        return page

    yield new
    for context in contexts:
        context.close()


def test_a_question_that_cannot_be_asked_says_why(opened):
    """With RoPE WQ and WK do not merge, and its WK has no bias; the next token is what it gives."""
    model = tiny_llama(layers=2)
    with serving(model, text(22)) as site:
        page = opened(
            site.url,
            "layer=1&head=4&token=19&step=0&lang=zh&ran=same_matrix&guesses=same_matrix:itself",
        )
        refused = {}
        for name in HEAD_QUESTIONS:
            try:
                of(site.view, name, 1, 4, 19)
            except NoExperiment as error:
                refused[name] = error.said("zh")
        assert (
            {"merged", "low_rank", "no_key_bias"} == refused.keys() == card_names(page, "refused")
        )
        for name, why in refused.items():
            assert re.sub(r"\s+", " ", why) in said(shown(page, name))
            assert shown(page, name).locator("button").count() == 0
        one = of(site.view, "same_matrix", 1, 4, 19)
        change = what_if(site.view, contexts=one.contexts())
        tokens = shown(page, "same_matrix").locator(".ranon tbody tr")
        assert tokens.count() >= len(change.after)
        assert weight(change.after[0].probability) in shown(page, "same_matrix").inner_text()
        first = opened(site.url, "layer=1&head=4&token=0&step=0&guesses=unscaled:sharper")
        assert "big_weight" in card_names(first, "refused")
        assert "sees no other word here" in shown(first, "unscaled").inner_text()


def test_between_two_texts(opened):
    model = tiny_bart()
    with serving(model, text(9), model.views(text(9), TARGET)["cross"], TARGET) as site:
        page = opened(
            site.url, "layer=1&head=1&token=3&step=0&guesses=same_matrix:even,value_is_key:other"
        )
        one = of(site.view, "same_matrix", 1, 1, 3)
        part = shown(page, "same_matrix")
        assert said(part.locator(".big")) == " → ".join(map(digits, headline(one)))
        assert card(one, "en").answer in said(part)
        assert part.locator("[data-key^='runon']").count() == 0
        assert card_names(page, "refused") >= {"swapped"}
        assert page.evaluate("document.scrollingElement.scrollWidth") == 1200


def test_a_long_text_has_maps_of_blocks(opened):
    model = tiny_llama(layers=2)
    with serving(model, text(110)) as site:
        page = opened(site.url, "layer=1&head=4&token=97&step=0&guesses=unscaled:sharper")
        part = shown(page, "unscaled")
        values = of(site.view, "unscaled", 1, 4, 97)
        maps = [state.map.thumbnail(48)[0, 0] for state in (values.before, values.after)]
        top = max(float(one.max()) for one in maps)
        assert f"The darkest is {weight(top)}." in part.inner_text()
        assert "a block of about 2.3 × 2.3 words" in part.inner_text()
        sizes = part.locator("canvas").evaluate_all(
            "all => all.map(one => [one.width, one.height])"
        )
        assert sizes == [[48, 48], [48, 48]]


def test_a_saved_page_has_the_cards_of_the_chosen_token(browser, site, found, tmp_path: Path):
    page = browser.new_page()
    page.goto(f"{site.url}#{WHY}")
    settled(page)
    page.locator("[data-key='menu']").click()
    with page.expect_download() as caught:
        page.get_by_role("link", name="This page as one file").click()
    caught.value.save_as(tmp_path / "page.html")
    page.goto((tmp_path / "page.html").as_uri())
    settled(page)
    for name, one in found.items():
        shown(page, name).locator("[data-guess]").first.click()
        settled(page)
        assert said(shown(page, name).locator(".big")) == " → ".join(map(digits, headline(one)))
    assert page.locator(".notice").count() == 0
    assert page.locator("#rank").count() == 0
    page.locator("[data-key='runon-low_rank']").click()  # nobody asked for it before
    assert "not in the saved page" in shown(page, "low_rank").locator(".ranon").inner_text()
    page.close()
