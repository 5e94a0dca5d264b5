"""A long text of a causal model with grouped heads: block means, exact tiles on demand, writing."""

import pytest

from tests.browser.conftest import go, serving, settled, table
from tests.tiny import text, tiny_llama
from wqkv.draw import steps
from wqkv.study.generate import generate, next_tokens

N = 4211
HERE = "layer=1&head=4&token=2000&other=1900"


@pytest.fixture(scope="module")
def site():
    with serving(tiny_llama(), text(N - 1)) as made:  # and its first word, <s>
        yield made


def test_the_minimap_leads_to_exact_tiles(open_page, site):
    page = open_page(f"{HERE}&step=0&view=map")
    assert f"The whole text, {N:,} words" in page.locator(".mini-side").inner_text()
    box = page.locator(".minimap").bounding_box()
    middle = {"x": 0.5 * box["width"], "y": 0.8 * box["height"]}
    page.locator(".minimap").click(position=middle)
    settled(page)
    q0, k0, span = (int(part) for part in page.url.partition("at=")[2].partition("&")[0].split(","))
    pixel = N / box["width"]
    assert abs(q0 + span / 2 - 0.8 * N) < 2 * pixel and abs(k0 + span / 2 - 0.5 * N) < 2 * pixel
    assert span == 64
    page.locator("canvas.tile").focus()
    tile = site.view.tile(1, 4, q0, q0 + span, k0, k0 + span)
    read = page.locator(".readout b")
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowDown"):
        page.keyboard.press(key)
        i, j = (int(part) for part in page.locator(".readout sub").all_inner_texts())
        value = tile[i - q0, j - k0].item()
        assert read.inner_text() == steps.weight(value)
        # The server's threads may cut a sum elsewhere: float32 rounding.
        assert float(read.get_attribute("title")) == pytest.approx(value, rel=1e-5)
    page.keyboard.press("+")
    settled(page)
    assert page.url.partition("at=")[2].partition("&")[0].endswith(",32")
    page.get_by_role("button", name="Around the word").click()
    settled(page)
    assert "at=" not in page.url


def test_the_arrow_keys_leave_a_tile(open_page, site):
    page = open_page(f"{HERE}&step=0&view=map&at=100,40,8")
    page.locator("canvas.tile").focus()
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    settled(page)
    q0, k0, span = (int(part) for part in page.url.partition("at=")[2].partition("&")[0].split(","))
    assert (q0, span) == (100, 8) and k0 < 40
    page.locator(".readout sub").first.wait_for()
    row, column = (int(part) for part in page.locator(".readout sub").all_inner_texts())
    value = site.view.tile(1, 4, row, row + 1, column, column + 1).item()
    assert page.locator(".readout b").inner_text() == steps.weight(value)


def test_a_row_of_a_long_text(open_page, site):
    page = open_page(f"{HERE}&step=6")
    row = site.view.row(1, 4, 2000)
    top = row.weights.topk(16)
    found = table(page.locator("#open .ranking"))
    assert [int(line[0]) for line in found] == top.indices.tolist()
    assert [line[2] for line in found] == [steps.weight(one) for one in top.values.tolist()]
    effects = row.effects[top.indices].tolist()
    assert [line[3] for line in found] == [steps.weight(one) for one in effects]


def test_a_proof_says_over_how_many_words_it_is(open_page, site):
    page = open_page(f"{HERE}&step=7")
    assert site.view.proof(1).rows == 64
    assert f"in 64 of {N:,} words" in page.locator("#open .residual").inner_text()


def test_the_text_is_laid_out_in_pages(open_page):
    page = open_page(f"{HERE}&step=0")
    assert page.locator(".flow [data-j]").count() == 1500
    assert page.locator(".flow .chosen").is_visible()
    page.get_by_role("button", name="Later").click()
    settled(page)
    assert page.locator(".flow [data-j]").first.get_attribute("data-j") == str(N - 1500)
    page.locator(".overview").click(position={"x": 2, "y": 5})
    settled(page)
    assert page.locator(".flow [data-j]").first.get_attribute("data-j") == "0"


def test_grouped_heads_are_drawn_as_groups(open_page, site):
    page = open_page(f"{HERE}&step=0&view=grid")
    assert page.locator("[role='row']").first.locator(".group").count() == 2
    shared = page.locator(".shared")
    assert "Heads 3 to 5 share k and v (group 1)" in shared.inner_text()
    assert shared.locator("figcaption b").all_inner_texts() == ["q (3)", "q (4)", "q (5)", "k", "v"]
    shared.locator(".vector summary").nth(3).click()
    digits = [float(part) for part in shared.locator(".digits").inner_text().split(",")]
    assert digits == site.view.layer(1).k[0, 1, 2000].tolist()


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_wider_than_the_window(open_page, width):
    page = open_page(HERE, width=width)
    for state in ("step=4", "step=5", "step=0&view=grid&stat=maps", "step=0&view=map"):
        go(page, f"{HERE}&{state}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state


def test_the_steps_of_writing(open_page, site):
    page = open_page(f"{HERE}&step=0&view=generate")
    page.locator("#amount").fill("3")
    page.get_by_role("button", name="Write").click()
    settled(page)
    found = generate(site.view, 3)
    for moment, step in enumerate(found.steps):
        assert f"word {moment + 1} of 3" in page.locator(".scrub").inner_text()
        candidates = table(page.locator(".twolists table").first)
        assert [line[0] for line in candidates[:8]] == [one.token for one in step.top]
        assert [float(line[1]) for line in candidates[:8]] == pytest.approx(
            [one.probability for one in step.top], abs=6e-4
        )
        row = found.view.row(1, 4, step.position - 1).weights.topk(8)
        looked = table(page.locator(".twolists table").nth(1))
        assert [line[2] for line in looked] == [steps.weight(one) for one in row.values.tolist()]
        page.locator("[data-key='moment']").focus()
        page.keyboard.press("ArrowRight")
        settled(page)


def test_a_long_text_is_not_laid_out_as_a_whole_when_it_writes(open_page):
    page = open_page(f"{HERE}&step=0&view=generate&count=2&moment=1")
    words = page.locator(".flow bdi").all_inner_texts()
    assert len(words) == 201  # those before, and the one that is written
    assert f"Words {N + 1 - 200:,} to {N + 1:,} of {N + 2:,}." in page.locator("#view").inner_text()


def test_reading_can_be_cancelled(open_page):
    page = open_page(HERE, fresh=True)
    page.locator("#text").fill(text(12000))
    page.get_by_role("button", name="Read", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#notice").get_by_text("Cancelled.").wait_for()
    assert page.locator("#job").is_hidden()
    assert page.locator(".where").get_by_text(f"{N:,} words").is_visible()


def test_the_next_word_before_and_after_sampling(open_page, site):
    page = open_page(f"{HERE}&step=0&view=generate&temperature=0.6&topk=10&topp=0.8&seed=3")
    found = next_tokens(site.view, temperature=0.6, top_k=10, top_p=0.8)
    ids = found.before.topk(12).indices.tolist()
    rows = table(page.locator(".nextwords"))
    decode = site.view.model.tokenizer.decode
    assert rows == [
        [
            decode([id]),
            steps.weight(found.before[id].item()),
            steps.weight(found.after[id].item()) if found.after[id] else "cut off",
        ]
        for id in ids
    ]
    struck = page.locator(".nextwords s").all_inner_texts()
    assert struck == [decode([id]) for id in ids if not found.after[id]] != []
    said = page.locator(".nextwords").inner_text()
    assert f"{found.kept} of {len(found.before)} words may be drawn" in said
    assert f"what is left holds {found.held:.3f} of the probability" in said
    bars = page.locator(".twolists .bar rect").evaluate_all(
        """bars => bars.map(bar => [parseFloat(bar.getAttribute("width")),
            Number(bar.closest("td").previousElementSibling.title)])"""
    )
    top = max(number for _, number in bars)
    assert all(width == pytest.approx(100 * number / top) for width, number in bars)


def test_a_slider_changes_the_distribution_at_once(open_page, site):
    page = open_page(f"{HERE}&step=0&view=generate")
    assert "the likeliest word is taken" in page.locator(".nextwords").inner_text()
    assert page.locator(".nextwords table.n2").count() == 0
    slider = page.locator("[data-key='temperature']")
    slider.evaluate("s => { s.value = 0.5; s.dispatchEvent(new Event('input')); }")
    page.locator(".nextwords table.n2").wait_for()
    assert "temperature=" not in page.url  # while it moves
    first = next_tokens(site.view, temperature=0.5).after.max().item()
    assert table(page.locator(".nextwords"))[0][2] == steps.weight(first)
    slider.evaluate("s => s.dispatchEvent(new Event('change'))")
    settled(page)
    assert "temperature=0.5" in page.url and "seed=0" in page.url
    for key in ("topk", "topp", "seed", "take-likeliest", "take-drawn"):
        page.locator(f"[data-key='{key}']").focus()  # each can be reached
    page.locator("[data-key='topp']").focus()
    page.keyboard.press("ArrowLeft")
    settled(page)
    assert "topp=0.95" in page.url
    assert page.evaluate("document.activeElement.dataset.key") == "topp"


def test_what_is_written_by_a_seed_can_be_repeated(open_page, site):
    state = f"{HERE}&step=0&view=generate&temperature=0.9&topk=20&seed=5"
    page = open_page(state)
    page.locator("#amount").fill("4")
    page.get_by_role("button", name="Write").click()
    settled(page)
    assert "drawn=0.9,20,1,5" in page.url
    found = generate(site.view, 4, seed=5, temperature=0.9, top_k=20, top_p=1.0)
    written = page.locator(".flow .new")
    for moment, step in enumerate(found.steps):
        assert written.last.inner_text() == step.token
        rows = page.locator(".nextwords tbody tr")
        chosen = rows.locator("xpath=self::*[contains(@class, 'chosen')]")
        likeliest = next_tokens(found.view, step.position - 1).before.topk(12).indices.tolist()
        assert chosen.count() == (step.id in likeliest)
        if moment < 3:
            page.locator("[data-key='moment-next']").click()
            settled(page)
    says = "Written with temperature 0.9, top-k 20, top-p 1, seed 5."
    assert says in page.locator("#view").inner_text()
    assert "press Write to write with them" not in page.locator("#view").inner_text()
    page.locator("#view").get_by_role("button", name="Copy as Python").click()
    call = "wqkv.generate(view, 4, seed=5, temperature=0.9, top_k=20, top_p=1.0)"
    assert call in page.locator("#view .code").inner_text()
    page.locator("[data-key='seed']").fill("6")
    page.locator("[data-key='seed']").press("Enter")
    settled(page)
    assert "press Write to write with them" in page.locator("#view").inner_text()


def test_the_lines_of_a_window_of_a_causal_model(open_page, site):
    page = open_page(f"{HERE}&step=0&as=lines&with=2&least=0.01")
    first = int(page.locator(".lineword").first.get_attribute("data-key").split("-")[2])
    many = page.locator("[data-row='i'] .lineword").count()
    wanted = {}
    for head in (2, 4):
        tile = site.view.tile(1, head, first, first + many, first, first + many).tolist()
        for i, row in enumerate(tile, start=first):
            for j, weight in enumerate(row, start=first):
                if weight >= 0.01:
                    wanted[f"{head}: {i}-{j}"] = 14 * weight
    found = page.locator(".weightline").evaluate_all(
        """links => links.map(one => [`${one.dataset.head}: ${one.dataset.link}`,
            Number(one.getAttribute("stroke-width"))])"""
    )
    assert len(wanted) > 3
    assert dict(found) == pytest.approx(wanted, abs=6e-4)
    says = f"Words {first:,} to {first + many - 1:,} of {N:,}."
    assert says in page.locator(".pages").inner_text()
