"""A model of a text with a picture in it: words and patches are tokens of one sequence."""

import pytest
from PIL import Image

from tests.browser.conftest import Site, serving, settled, table
from tests.tiny import draw_photo
from tests.vision_language import tiny_llava
from wqkv.draw import steps
from wqkv.study.generate import generate
from wqkv.study.view import View
from wqkv.study.whatif import what_if

ASKED = "what is bright here"
HERE = "layer=1&head=2"


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    return str(draw_photo(tmp_path_factory.mktemp("photos") / "photo.png"))


@pytest.fixture(scope="module")
def view(photo) -> View:
    model = tiny_llava()
    return model.view(model.tokens(ASKED, photo))


@pytest.fixture(scope="module")
def site(photo, view):
    with serving(tiny_llava(), ASKED, view, picture=photo) as served:
        yield served


def titles(flow) -> dict[int, str]:
    """What each token is said to weigh."""
    pairs = flow.locator("[data-j]").evaluate_all(
        "parts => parts.map(part => [Number(part.dataset.j), part.title.split(': ')[1]])"
    )
    return dict(pairs)


def weights(values) -> dict[int, str]:
    return {j: steps.weight(value) for j, value in enumerate(values.tolist())}


def told(after) -> set[tuple[str, str]]:
    """The likeliest tokens after a change; those that read as nothing are left out."""
    return {(one.token, steps.weight(one.probability)) for one in after if one.token.strip()}


def probabilities(page) -> set[tuple[str, str]]:
    """The same on the page, with those that were likeliest before."""
    return {(row[0], row[-1]) for row in table(page.locator(".hiding table"))}


def test_words_and_patches_of_one_row(open_page, site: Site):
    last = site.view.n - 1
    page = open_page(f"{HERE}&step=0&token={last}")
    (picture,) = site.view.reading.pictures
    flow = page.locator("#view .flow")
    assert titles(flow) == weights(site.view.row(1, 2, last).weights)
    assert flow.locator(".cell").count() == len(picture.tokens)
    assert flow.locator(".w").all_inner_texts()[-4:] == ASKED.split()
    assert "words" in page.locator(".now").inner_text()  # it speaks of words, as of any text
    tabs = page.locator(".tabs button").all_inner_texts()
    assert tabs == ["Why?", "Text", "Heads", "Map", "What if", "Writing"]


def test_a_hidden_patch_and_another_word(open_page, site: Site):
    view, last = site.view, site.view.n - 1
    (picture,) = view.reading.pictures
    hidden = picture.tokens[2]
    page = open_page(f"{HERE}&step=0&view=whatif&token={last}", fresh=True)
    page.locator(f".hiding [data-j='{hidden}']").click()
    settled(page)
    one = what_if(view, edits={hidden: ""})
    assert probabilities(page) >= told(one.after)
    later = page.locator(".twopictures .flow").last
    assert titles(later) == weights(one.view.row(1, 2, last).weights)
    # a word is chosen in the picture's text, and replaced by two
    page.locator(f".hiding [data-j='{last - 1}']").click()
    settled(page)
    page.locator("#new-word").fill("and there")
    page.locator("#new-word").press("Enter")
    page.locator(".changes li").nth(1).wait_for()
    settled(page)
    both = what_if(view, edits={hidden: "", last - 1: "and there"})
    assert probabilities(page) >= told(both.after)
    assert page.locator(".twopictures").count() == 0  # the tokens stand at other places now


def test_another_picture_with_the_same_text(open_page, tmp_path):
    page = open_page(f"{HERE}&step=0", fresh=True)
    path = tmp_path / "other.png"
    Image.new("RGB", (40, 30), (200, 30, 60)).save(path)
    page.locator("#picture").set_input_files(path)
    page.locator("image").nth(1).wait_for(state="attached")
    settled(page)
    assert page.locator("#text").input_value() == ASKED
    assert "text=" not in page.url  # the address cannot carry the picture
    page.locator("#text").fill("here is what")
    page.locator("#text").press("Enter")
    page.locator("#view .flow .w", has_text="what").last.wait_for()
    page.locator("#view .flow .w", has_text="bright").wait_for(state="detached")
    settled(page)
    assert page.locator("image").count() == 2  # it was read with the picture that was chosen


def test_the_picture_while_it_writes(open_page, site: Site):
    page = open_page(f"{HERE}&step=0&view=generate&count=2", fresh=True)
    page.locator("#view .flow .cell").first.wait_for()
    settled(page)
    written = generate(site.view, 2)
    row = written.view.row(1, 2, site.view.n - 1).weights
    shown = titles(page.locator("#view .flow"))
    assert {j: shown[j] for j in range(site.view.n)} == {
        j: steps.weight(value) for j, value in enumerate(row[: site.view.n].tolist())
    }
