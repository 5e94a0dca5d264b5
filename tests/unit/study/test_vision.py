"""A model of one picture: its tokens are patches, and each patch is where its pixels are."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from tests.tiny import HEIGHT, PATCH, WIDTH, draw_photo, tiny_llama, tiny_vision, tiny_vit
from wqkv.errors import ArgumentError
from wqkv.study.generate import generate
from wqkv.study.model import open_model
from wqkv.study.one_token import clearest_link, token_story
from wqkv.study.opening import open_any, open_of_texts
from wqkv.study.vision import OpenVision, is_picture_file
from wqkv.study.vision_language import open_vision
from wqkv.study.whatif import what_if

SPECIAL = {
    "vit": ("[CLS]",),
    "deit": ("[CLS]", "[DIST]"),
    "dinov2": ("[CLS]",),
    "dinov2_with_registers": ("[CLS]", *(f"[REG {at}]" for at in range(4))),
    "clip_vision_model": ("[CLS]",),
    "siglip_vision_model": (),
}


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    return str(draw_photo(tmp_path_factory.mktemp("photos") / "photo.png"))


@pytest.fixture(scope="module")
def model() -> OpenVision:
    return tiny_vit()


@pytest.fixture(scope="module")
def view(model, photo):
    return model.view(photo)


def test_the_tokens_of_a_picture(view):
    (picture,) = view.reading.pictures
    assert picture[1:] == (5, 3, 1, "photo.png") and picture.tokens == range(1, 16)
    assert view.reading.tokens[:5] == ("[CLS]", "0,0", "0,1", "0,2", "1,0")
    assert view.reading.special == (True, *[False] * 15)
    assert view.reading.sentence == "photo.png" and set(view.reading.typed) == {""}
    assert all(view.proof(layer).holds for layer in range(2))


def test_the_picture_as_the_model_saw_it(model, view, photo):
    (picture,) = view.reading.pictures
    given = view.reading.arguments["pixel_values"][0]
    assert picture.pixels.shape == given.shape == (3, HEIGHT, WIDTH)
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    torch.testing.assert_close(given, (picture.pixels - mean) / 0.2, atol=1e-5, rtol=0)
    model.processor.do_normalize = False
    try:
        as_it_is = model.tokens(photo)
    finally:
        model.processor.do_normalize = True
    torch.testing.assert_close(as_it_is.pictures[0].pixels, picture.pixels)


@pytest.mark.parametrize("family", SPECIAL)
def test_a_patch_is_where_its_pixels_are(family, photo):
    """Where no attention adds anything, a hidden patch changes its own token alone."""
    model = tiny_vision(family)
    for WO in model._modules("WO"):
        torch.nn.init.zeros_(WO.weight)
        torch.nn.init.zeros_(WO.bias)
    text, special = model.tokens(photo), SPECIAL[family]
    assert text.tokens[: len(special)] == special
    before = model.run(text)
    assert before.inputs[0].shape[1] == len(text.tokens) == len(special) + 25
    for token in text.pictures[0].tokens:
        row, column = map(int, text.tokens[token].split(","))
        given = text.arguments["pixel_values"].clone()
        given[0, :, row * PATCH + 3, column * PATCH + 5] += 1
        after = model.run(model._cut(given, "other"))
        moved = (after.inputs[-1] - before.inputs[-1])[0].abs().amax(dim=-1)
        assert moved.nonzero().flatten().tolist() == [token]


@pytest.mark.parametrize("family", ["vit", "dinov2", "siglip_vision_model"])
def test_a_picture_of_another_size(family, photo):
    model = tiny_vision(family)
    model.processor.size = {"height": 50, "width": 28}
    view = model.view(photo)
    (picture,) = view.reading.pictures
    assert (picture.rows, picture.columns) == (7, 4)
    assert picture.pixels.shape == (3, 49, 28)  # no patch sees the last row of pixels
    assert all(view.proof(layer).holds for layer in range(2))
    assert view.stream(3).layers[1].proof.holds


def test_a_map_knows_its_patches(view):
    cls, patches = view.map(1, 2).keys
    assert cls.labels == ("[CLS]",) and patches.grid == (5, 3)
    assert patches.source is view.reading.pictures[0].pixels
    assert view.map(1, 2).overlay((2, 1), 0) is not None
    weights = view.row(1, 2, 8).weights  # "2,1"
    torch.testing.assert_close(patches.cells(weights[1:]), weights[1:].view(5, 3))


def test_a_hidden_patch(model, view):
    given = view.reading.arguments["pixel_values"]
    found = what_if(view, edits={6: "", 15: ""})  # "1,2" and "4,2"
    changed = found.view.reading.arguments["pixel_values"]
    hidden = torch.zeros_like(given[0, 0], dtype=torch.bool)
    hidden[7:14, 14:] = hidden[28:, 14:] = True
    torch.testing.assert_close(changed, given.masked_fill(hidden, 0))
    shown = found.view.reading.pictures[0].pixels
    torch.testing.assert_close(shown[:, hidden], torch.tensor([[0.4], [0.5], [0.6]]).expand(3, 98))
    others = [at for at in range(16) if at not in (6, 15)]
    old, new = view.reading.final[0, others], found.view.reading.final[0, others]
    assert found.change == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-5)
    assert found.tokens == view.reading.tokens and found.view.proof(1).holds
    again = what_if(found.view, edits={1: ""}).view.reading.arguments["pixel_values"]
    torch.testing.assert_close(again[0, :, 7:14, 14:], torch.zeros(3, 7, 7))


def test_classes_before_and_after(model, view):
    found = what_if(view, [(1, 0)])
    chances = view.reading.logits.softmax(dim=0)
    assert {one.token: one.probability for one in found.before} == pytest.approx(
        dict(zip(("cat", "dog", "ship"), chances.tolist(), strict=True))
    )
    assert found.similarity is None and found.after != found.before
    bare = OpenVision(model.model, model.processor, "bare")
    found = what_if(bare.view(view.reading), [(1, 0)])
    assert (found.before, found.after) == (None, None) and -1 <= found.similarity <= 1


def test_what_a_picture_does_not_have(model, view):
    assert view.statistics == ("entropy", "received", "sink")
    with pytest.raises(ArgumentError, match="There is no distance between"):
        view.distances(0, 0)
    with pytest.raises(ArgumentError, match="Writing on is for models of text, and tiny-vit reads"):
        generate(view, 2)
    assert model.windows("photo.png", 3) == [None]
    story = token_story(view, 1, 0, 4)
    assert story.picture is view.reading.pictures[0]
    link = clearest_link(view, 1)  # the strongest from a patch to another one
    weights = torch.stack([view.map(1, head)[0, 0][1:, 1:] for head in range(3)])
    assert link.clearness == pytest.approx(weights.masked_fill(torch.eye(15) == 1, 0).max().item())


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({16: ""}, "There is no token 16: the text has 16 tokens, 0 to 15."),
        ({0: ""}, "Token 0, '[CLS]', is no patch of the picture.\nHide one that is."),
        ({3: "a dog"}, "Token 3 is a patch, which no text can stand in for: 'a dog'."),
    ],
)
def test_what_cannot_be_hidden(view, edits, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        what_if(view, edits=edits)


def test_an_address_that_has_the_picture_in_itself(model, view, photo, tmp_path):
    data = base64.b64encode(Path(photo).read_bytes()).decode()
    found = model.tokens(f"data:image/png;base64,{data}")
    torch.testing.assert_close(found.arguments, dict(view.reading.arguments))
    assert found.pictures[0].name == "picture"
    with pytest.raises(ArgumentError, match=r"'picture' is no picture that opens \(Unidentified"):
        model.tokens("data:image/png;base64,AAAA")


def test_no_picture(model, tmp_path):
    says = "tiny-vit reads a picture, and there is no file 'What is this?'.\nPass the path"
    with pytest.raises(ArgumentError, match=re.escape(says)):
        model.tokens("What is this?")
    (path := tmp_path / "text.png").write_text("A text.")
    with pytest.raises(ArgumentError, match=r"text.png' is no picture that opens \(Unidentified"):
        model.tokens(str(path))
    assert is_picture_file(str(path)) and not is_picture_file(str(tmp_path / "other.png"))
    assert not is_picture_file("a" * 5000 + ".png") and not is_picture_file("A text.")


def test_a_processor_that_fails(photo):
    model = tiny_vit()
    model.processor.size = {"depth": 3}
    with pytest.raises(ArgumentError, match=r"processor of tiny-vit makes nothing of this: \w+Err"):
        model.tokens(photo)


def test_a_picture_is_read_upright(model, view, photo, tmp_path):
    with Image.open(photo) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # the camera was held on its side: turn it to the right
        image.rotate(90, expand=True).save(tmp_path / "side.png", exif=exif)
    found = model.tokens(str(tmp_path / "side.png"))
    torch.testing.assert_close(found.arguments, dict(view.reading.arguments))


# Opening


@pytest.fixture
def folder(model, tmp_path):
    model.classifier.save_pretrained(tmp_path / "a-vit")
    model.processor.save_pretrained(tmp_path / "a-vit")
    return tmp_path / "a-vit"


def test_open(folder, view, photo):
    told = []
    for found in (open_vision(str(folder), told.append), open_any(str(folder))):
        assert isinstance(found, OpenVision) and found.name == "a-vit"
        torch.testing.assert_close(found.read(photo).logits, view.reading.logits)
    assert told[0] == "reading the image processor of a-vit"
    for opener in (open_model, open_of_texts):
        with pytest.raises(ArgumentError, match=r"(?s)reads pixel_values.*Open it on a picture"):
            opener(str(folder))


def test_without_a_head_for_classes(folder, view, photo):
    path = folder / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"architectures": ["ViTModel"]}))
    found = open_vision(str(folder))
    assert found.classifier is None
    torch.testing.assert_close(found.read(photo).final, view.reading.final)


def test_without_an_image_processor(folder):
    (folder / "preprocessor_config.json").unlink()
    says = r"(?s)has no image processor that opens.*Save an image processor there"
    with pytest.raises(ArgumentError, match=says):
        open_vision(str(folder))


def test_a_model_of_texts(tmp_path):
    llama = tiny_llama(layers=1)
    llama.speaker.save_pretrained(tmp_path / "a-llama")
    llama.tokenizer.save_pretrained(tmp_path / "a-llama")
    with pytest.raises(ArgumentError, match=r"a-llama reads a text\.\nOpen it with `open_model`"):
        open_vision(str(tmp_path / "a-llama"))


def test_a_family_without_a_row(tmp_path):
    sizes = {"embed_dim": 6, "depths": [1], "num_heads": [3], "image_size": 14, "patch_size": 7}
    transformers.SwinModel(transformers.SwinConfig(**sizes, window_size=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ArgumentError, match="reads pixel_values, and what opens here reads a text"):
        open_vision(str(tmp_path))


def test_tokens_that_a_layer_does_not_have(model, view):
    short = model._cut(view.reading.arguments["pixel_values"][..., :14], "part")
    whole = dict(view.reading.arguments)
    with pytest.raises(ArgumentError, match="was given 16 tokens, and 11 were expected"):
        model.run(replace(short, arguments=whole))
