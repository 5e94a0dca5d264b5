"""A model of a text with a picture: words and patches are tokens of one sequence."""

import re

import pytest
import torch
from PIL import Image
from tokenizers import processors

from tests.tiny import draw_photo
from tests.vision_language import CASES, blind, tiny_joined, tiny_llava
from wqkv.draw.steps import tell
from wqkv.errors import ArgumentError
from wqkv.study.generate import generate, next_logits
from wqkv.study.model import open_model
from wqkv.study.one_token import clearest_link, token_story
from wqkv.study.opening import open_any
from wqkv.study.vision_language import OpenVisionLanguage, open_vision
from wqkv.study.whatif import what_if

ASKED = "what is bright here"


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    return str(draw_photo(tmp_path_factory.mktemp("photos") / "photo.png"))


@pytest.fixture(scope="module", params=["llava", "qwen2_vl", "qwen2_5_vl"])
def model(request) -> OpenVisionLanguage:
    return tiny_joined(request.param)


@pytest.fixture(scope="module")
def view(model, photo):
    return model.view(model.tokens(ASKED, photo))


def test_words_and_patches_are_tokens(model, view):
    text = view.reading
    (picture,) = text.pictures
    assert [text.tokens[at] for at in picture.tokens][: picture.columns + 1] == [
        *(f"0,{column}" for column in range(picture.columns)),
        "1,0",
    ]
    assert text.tokens[picture.tokens.stop :][-4:] == tuple(ASKED.split())
    assert [len(axis) for axis in view.map(0, 0).keys if axis.grid] == [len(picture.tokens)]
    assert sum(len(axis) for axis in view.map(0, 0).keys) == view.n
    assert {text.ids[at] for at in picture.tokens} == {model.marker}
    assert text.typed[-4:] == tuple(ASKED.split()) and text.typed[picture.first] == ""
    assert all(view.proof(layer).holds for layer in range(2))
    assert view.statistics == ("entropy", "received", "sink")
    story = token_story(view, 0, 0, 3)
    assert (story.picture, story.cells) == (None, len(picture.tokens))
    for lang, says in (("en", "of which are patches of the picture"), ("zh", "个是图片的图块")):
        steps = tell(story, lang=lang)
        assert f"{story.cells} {says}" in steps[0].sentence
        assert not re.search("[{}]", " ".join(step.sentence + step.sentence2 for step in steps))


def test_it_is_what_the_processor_and_the_model_make(model, view, photo):
    prompt = view.reading.sentence
    with Image.open(photo) as image:
        given = model.processor(
            images=[image.convert("RGB")], text=[prompt], return_tensors="pt",
            return_mm_token_type_ids=True,
        )  # fmt: skip
    assert given["input_ids"][0].tolist() == list(view.reading.ids)
    with torch.no_grad():
        logits = model.speaker(**given).logits[0, -1]
    torch.testing.assert_close(view.reading.logits, logits)


def test_a_cell_is_where_its_pixels_are(model, view):
    """Where no patch sees another, a hidden one changes its own token of the first layer alone."""
    seen = {name: x.clone() for name, x in model.speaker.state_dict().items()}
    blind(model.speaker)
    try:
        (picture,) = view.reading.pictures
        before = model.run(view.reading).inputs[0][0]
        for token in picture.tokens:
            hidden = model.edited(view.reading, {token: ""})
            moved = (model.run(hidden).inputs[0][0] - before).abs().amax(dim=-1)
            assert moved.nonzero().flatten().tolist() == [token]
            row, column = divmod(token - picture.first, picture.columns)
            (after,) = hidden.pictures
            changed = (after.pixels != picture.pixels).any(dim=0)
            size = len(changed) // picture.rows
            here = changed[row * size : (row + 1) * size, column * size : (column + 1) * size]
            assert here.all() and changed.sum() == here.sum()
    finally:
        model.speaker.load_state_dict(seen)


def test_it_opens_at_a_word_that_looks_at_a_patch(view):
    (picture,) = view.reading.pictures
    link = clearest_link(view, 1)
    words = [at for at in range(view.n) if at not in picture.tokens and at > 0]
    rows = view.layer(1).whole[0][:, words][:, :, picture.tokens.start : picture.tokens.stop]
    assert link.token in words
    assert link.clearness == pytest.approx(rows.max().item(), rel=1e-5)


def test_a_word_and_a_patch_at_once(model, view):
    (picture,) = view.reading.pictures
    stop = picture.tokens.stop
    word = view.n - 3  # "is"
    found = what_if(view, edits={stop - 1: "", word: "and there"})
    text = found.view.reading
    assert text.tokens[-5:] == ("what", "and", "there", "bright", "here")
    assert text.pictures[0].tokens == picture.tokens
    assert found.view.proof(1).holds and found.change > 0
    off = what_if(view, [(0, 1)])
    assert off.tokens == view.reading.tokens and off.change > 0


def test_it_writes_on(model, view):
    found = generate(view, 3)
    assert found.view.n == view.n + 3
    assert found.view.reading.pictures == view.reading.pictures
    assert all(found.view.proof(layer).holds for layer in range(2))
    (step, *_) = found.steps
    logits = view.reading.logits
    assert step.id == int(logits.argmax())
    assert step.probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)
    again = next_logits(found.view, view.n - 1)
    torch.testing.assert_close(again, logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ArgumentError, match=r"up to token 3 ends inside its picture"):
        next_logits(view, 3)


def test_before_the_picture(photo):
    model = tiny_joined("qwen2_vl")
    view = model.view(model.tokens(ASKED, photo))
    with torch.no_grad():
        logits = model.speaker(input_ids=torch.tensor([view.reading.ids[:1]])).logits[0, -1]
    torch.testing.assert_close(next_logits(view, 0), logits)


def test_a_text_alone(model):
    view = model.view(ASKED)
    assert view.reading.pictures == () and view.proof(1).holds
    found = what_if(view, edits={1: "and"})
    assert "and" in found.tokens and found.view.proof(1).holds
    assert generate(view, 2).view.n == view.n + 2


def test_a_prompt_with_its_marker(photo):
    model = tiny_llava()
    text = model.tokens("what is <image> here", photo)
    assert text.tokens[:2] == ("what", "is") and text.pictures[0].first == 2
    model.processor.chat_template = None
    text = model.tokens(ASKED, photo)
    assert text.sentence == f"<image>\n{ASKED}" and text.pictures[0].first == 0


def test_what_the_tokenizer_puts_before_a_text_stands_there_once(photo):
    model = tiny_llava()
    template = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    model.tokenizer.bos_token, model.tokenizer.backend_tokenizer.post_processor = "<s>", template
    model.processor.chat_template = "<s> <image> {{ messages[0].content[1].text }}"
    text = model.tokens(ASKED, photo)
    assert text.tokens[:2] == ("<s>", "0,0") and text.special[:2] == (True, False)
    assert model.edited(text, {27: "and"}).tokens[:2] == ("<s>", "0,0")


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({4: "and"}, "Token 4 is a patch, which no text can stand in for: 'and'."),
        ({27: "<image>"}, "The changed text has no marker for its picture, or more than one"),
        ({77: ""}, "There is no token 77: the text has 29 tokens"),
    ],
)
def test_what_cannot_be_changed(photo, edits, says):
    model = tiny_llava()
    with pytest.raises(ArgumentError, match=re.escape(says)):
        what_if(model.view(model.tokens(ASKED, photo)), edits=edits)


def test_what_cannot_be_read(photo):
    model = tiny_llava()
    for picture, says in (("gone.png", "there is no file 'gone.png'"), (__file__, "is no picture")):
        with pytest.raises(ArgumentError, match=says):
            model.tokens(ASKED, picture)
    with pytest.raises(ArgumentError, match="The sentence is empty"):
        model.tokens(" ", photo)
    with pytest.raises(ArgumentError, match="processor of tiny-llava makes nothing of this: "):
        model.tokens("<image> <image>", photo)
    model.config.max_position_embeddings = 23
    with pytest.raises(ArgumentError, match="has 29 tokens, and tiny-llava takes 23"):
        model.tokens(ASKED, photo)


def test_a_picture_that_is_seen_twice(photo):
    """LLaVA-NeXT sees it whole and in tiles: the cells of both have names, the whole is drawn."""
    model = tiny_joined("llava_next")
    view = model.view(model.tokens(ASKED, photo))
    assert len(view.reading.pictures) == 1 and view.reading.tokens.count("0,1") == 2
    assert all(view.proof(layer).holds for layer in range(2))
    word = what_if(view, edits={view.n - 1: "there and"}).view.reading
    assert word.tokens[:-2] == view.reading.tokens[:-1] and word.tokens[-2:] == ("there", "and")
    other = what_if(view, edits={view.n - 1: "there and"}).view.reading
    assert other.tokens[:-2] == view.reading.tokens[:-1] and other.tokens[-2:] == ("there", "and")
    with pytest.raises(ArgumentError, match="tiny-llava_next sees the picture twice"):
        what_if(view, edits={2: ""})


def test_a_processor_that_does_more(photo):
    model = tiny_llava()
    text = model.tokens(ASKED, photo)
    with pytest.raises(ArgumentError, match="does more than put the tokens of the picture"):
        model._joined(text.sentence, [*text.ids, 5], text.arguments, "photo.png")


def test_open(tmp_path, photo):
    made = CASES["llava"]()
    path = tmp_path / "a-llava"
    made.model.save_pretrained(path)
    made.processor.save_pretrained(path)
    for opener in (open_vision, open_any):
        found = opener(str(path))
        assert isinstance(found, OpenVisionLanguage) and found.speaker is not None
        assert found.view(found.tokens(ASKED, photo)).proof(1).holds
    with pytest.raises(ArgumentError, match=r"(?s)reads more than a text.*TEXT --picture photo"):
        open_model(str(path))
    (path / "processor_config.json").unlink()
    with pytest.raises(ArgumentError, match="has no processor of texts and pictures that opens"):
        open_vision(str(path))


def test_a_language_model_without_a_row(tmp_path):
    made = CASES["glm4v"]()
    made.model.save_pretrained(tmp_path)
    CASES["llava"]().processor.save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="reads more than a text, and what opens here reads a"):
        open_vision(str(tmp_path))
