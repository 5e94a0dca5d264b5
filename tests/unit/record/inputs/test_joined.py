"""Texts with pictures in them: whole models, their prompts, generations, and planted attention."""

from itertools import groupby

import matplotlib
import numpy as np
import pytest
import torch

from tests.vision_language import CASES, ID, Case, blip_2, case, each, mllama, text_layers
from wqkv.maps.axis import Axis
from wqkv.record.inputs.joined import joined_axes
from wqkv.record.watch import watch

matplotlib.use("agg")
#: Families whose processors run without torchvision.
PROCESSED = ("llava", "qwen2_vl", "llava_next", "llava_onevision", "gemma3")


@torch.no_grad()
def watched(one: Case, **given):
    with watch(one.model, processor=one.processor) as seen:
        one.model(**{**one.inputs, **given})
    return [seen[layer] for layer in text_layers(seen)]


def first_sample(one: Case) -> Case:
    """The first prompt alone, which has one picture, without its padding."""
    pad = int((one.inputs["input_ids"][0] == 0).sum())
    text = ("input_ids", "attention_mask", "mm_token_type_ids")
    given = {name: x[:1, pad:] if name in text else x[:1] for name, x in one.inputs.items()}
    return one._replace(inputs=given)


def grids(keys):
    return [[axis.grid for axis in parts] for parts in keys]


#: Families of which `generate` does not tell how large a picture was: lengths may fit several cuts.
ANYRES = ("llava_next", "llava_next_video", "llava_onevision")


@pytest.mark.parametrize("family", each(PROCESSED))
def test_token_types_agree_with_the_processor(family):
    one = case(family)
    types = one.inputs.get("mm_token_type_ids", one.inputs.get("token_type_ids"))
    for found in watched(one):
        ours = [
            [part.grid is not None for part in parts for _ in range(len(part))]
            for parts in found.keys
        ]
        assert torch.equal(torch.tensor(ours), types == 1)
        assert grids(found.queries) == grids(found.keys)


def test_samples_with_one_and_two_pictures():
    found = watched(case("qwen2_vl"))
    assert len(found) == 2
    first, second = found[0].keys
    assert [part.grid for part in first] == [None, (3, 5), None]
    assert [part.grid for part in second] == [None, (2, 5), None, (4, 3), None]
    assert first[0].labels[-3:] == ("what", "is", "<|vision_start|>")
    assert second[2].labels == ("<|vision_end|>", "and", "<|vision_start|>")


def test_without_a_processor_tokens_are_numbers():
    one = case("llava")
    found = watched(one._replace(processor=None))[0]
    assert found.keys[1][-1].labels == tuple(
        str(ID[word]) for word in ("there", "in", "the", "left")
    )


# Generation


@torch.no_grad()
def generated(one: Case, **given):
    inputs = {
        name: x
        for name, x in one.inputs.items()
        if name != "mm_token_type_ids" or "image_grid_thw" in one.inputs
    }
    with watch(one.model, processor=one.processor, **given) as seen:
        ids = one.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    return ids, [seen[layer] for layer in text_layers(seen)]


@pytest.mark.parametrize("family", each(CASES))
def test_a_generation_names_all_its_keys(family):
    one = case(family)
    before = watched(one)[0].keys
    ids, maps = generated(one)
    for found in maps:
        assert found.shape[3] == ids.shape[1] - 1  # the last token was not read
        for parts, was, row in zip(found.keys, before, ids, strict=True):
            assert sum(map(len, parts)) == found.shape[3]
            if family in ANYRES:
                assert not any(part.grid for part in parts)
                assert [len(part) for part in parts if part.labels[0] == "image 0"] == [
                    len(list(run)) for mark, run in groupby(row.tolist()) if mark == ID["<image>"]
                ]
                continue
            assert [part.grid for part in parts] == [part.grid for part in was]
            assert parts[-1].labels[: len(was[-1])] == was[-1].labels
            assert len(parts[-1]) == len(was[-1]) + 3


def test_the_length_of_one_picture_may_tell_how_it_was_cut():
    one = first_sample(case("llava_next"))
    before = watched(one)[0].keys
    keys = generated(one)[1][0].keys
    assert [part.grid for part in keys] == [part.grid for part in before]
    for part, was in zip(keys, before, strict=True):
        if part.grid is not None:
            assert torch.equal(part.source, was.source)


def test_beams_and_samples_of_a_prompt_have_its_pictures():
    one = case("qwen2_vl")
    given = dict(one.inputs)
    with torch.no_grad(), watch(one.model, processor=one.processor) as seen:
        one.model.generate(**given, max_new_tokens=3, do_sample=True, num_return_sequences=3)
    keys = seen[text_layers(seen)[0]].keys
    one_picture, two = [None, (3, 5), None], [None, (2, 5), None, (4, 3), None]
    assert grids(keys) == [one_picture] * 3 + [two] * 3


def test_a_tower_that_was_not_watched_leaves_names():
    """Of a generation it is then not known what was seen, and how its tokens lie on it."""
    one = case("qwen2_vl")
    with torch.no_grad(), watch(one.model, layers=[3, 4]) as seen:
        one.model(**one.inputs)  # what was seen before is not what is seen now
        one.model.generate(**one.inputs, max_new_tokens=3)
    assert text_layers(seen) == [3, 4]
    keys = seen[3].keys
    assert [[len(part) for part in parts] for parts in keys] == [[14, 15, 4], [1, 10, 3, 12, 7]]
    assert keys[1][1].labels == tuple(f"image {n}" for n in range(10))
    assert keys[1][1].source is None


# Cross-attention


def test_cross_attention_of_mllama_looks_at_tiles():
    one = mllama()
    with torch.no_grad(), watch(one.model) as seen:
        one.model(**one.inputs)
    own, cross = seen[3], seen[4]
    assert own.keys[0].labels == ("1", "2", "11", "12", "13")
    tile = [None, (4, 4)]
    assert grids(cross.keys) == [tile * 2] * 2 and cross.queries[1].labels[-1] == "16"
    assert cross.keys[0][0].labels == ("[CLS]",)
    pixels, keys = one.inputs["pixel_values"], cross._numbers.given.key
    named = cross.keys
    for sample, number, row, column in ((0, 1, 2, 3), (1, 0, 0, 1), (0, 0, 3, 0)):
        place = (sample, 0, number, 1, 7 * row + 2, 7 * column + 5)
        assert named[sample][2 * number + 1].source[place[3:]] == pixels[place]
        before = pixels.clone()
        pixels[place] += 1
        with torch.no_grad(), watch(one.model) as again:
            one.model(**one.inputs)
        pixels.copy_(before)
        changed = (again[4]._numbers.given.key != keys).any(dim=-1).any(dim=1)
        assert changed.nonzero().tolist() == [[sample, 17 * number + 1 + 4 * row + column]]


def test_each_step_of_mllama_looks_at_the_tiles_of_its_prompt():
    one = mllama()
    with torch.no_grad(), watch(one.model) as seen:
        one.model.generate(**one.inputs, max_new_tokens=3)
    assert seen[4].shape[2:] == (1, 34)
    assert grids(seen[4].keys) == [[None, (4, 4)] * 2] * 2


# What is not known


def text_of(ids):
    return Axis(list(map(str, ids.tolist())))


def test_a_family_that_is_not_known_names_tokens_of_pictures():
    one = case("paligemma")
    one.model.config.model_type = "unheard-of"
    keys = watched(one)[0].keys
    assert grids(keys) == [[None] * 3, [None] * 4]
    assert [len(part) for part in keys[1]] == [36, 1, 36, 3]
    assert keys[1][0].labels[35] == "image 35" and keys[1][1].labels == ("15",)


def test_a_part_that_is_as_long_as_the_text_is_not_the_text():
    one = blip_2()
    with torch.no_grad(), watch(one.model) as seen:
        one.model(**one.inputs)
    tower, asks, crosses, text = seen
    assert asks.shape[2:] == text.shape[2:] == (5, 5)
    assert asks.keys is None and asks.queries is None and crosses.queries is None
    assert crosses.keys[1].grid == tower.keys[1].grid == (4, 4)
    assert text.keys.labels == tuple(f"image {n}" for n in range(5))


def test_without_pictures_all_is_text():
    one = case("qwen2_vl")
    ids = torch.tensor([[11, ID["<|image_pad|>"], 12]])
    with torch.no_grad(), watch(one.model) as seen:
        one.model(input_ids=ids)
    assert seen[0].keys.labels == ("11", "3", "12")


def test_a_picture_that_goes_on_in_the_next_sample_is_not_known():
    one = case("llava")
    ids = torch.full((3, 26), 2)
    ids[:, 0] = torch.tensor([11, 11, 12])
    assert joined_axes(one.model.config, ids, one.inputs, text_of) is not None
    ids[0, 0], ids[2, 1] = 2, 12
    assert joined_axes(one.model.config, ids, one.inputs, text_of) is None


def test_text_between_the_frames_of_a_video():
    one = case("qwen3_vl")
    frames, rows, columns = 2, 4, 6
    pixels = torch.randn(frames * rows * columns, 3 * 2 * 7 * 7)
    ids = torch.tensor([[11, *[4] * 6, 12, 13, *[4] * 6, 14]])
    given = {
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor([[frames, rows, columns]]),
    }
    (parts,) = joined_axes(one.model.config, ids, given, text_of)
    assert [part.grid for part in parts] == [None, (2, 3), None, (2, 3), None]
    assert parts[3].source.shape == (3, 28, 42)
    # without text between they are one video
    two = case("qwen2_vl")
    ids = ids[:, [0, *range(1, 7), *range(9, 15), 15]]
    (parts,) = joined_axes(two.model.config, ids, given, text_of)
    assert [part.grid for part in parts] == [None, (2, 2, 3), None]
    assert parts[1].source.shape == (2, 3, 28, 42)


def test_a_token_that_ends_a_row_is_one_of_its_picture():
    first, second = watched(case("mistral3"))[0].keys
    assert [(len(part), part.grid) for part in first] == [(13, None), (17, (3, 5)), (2, None)]
    assert [part.grid for part in second] == [(2, 5), None, (4, 3), None]
    assert second[0].places.tolist() == [0, 1, 2, 3, 4, -1, 5, 6, 7, 8, 9]


def test_text_within_a_picture_parts_it():
    one = case("llava")
    ids = torch.tensor([[2] * 7 + [11, 12] + [2] * 18])
    given = {"pixel_values": one.inputs["pixel_values"][:1]}
    (parts,) = joined_axes(one.model.config, ids, given, text_of)
    assert [(len(part), part.grid) for part in parts] == [(7, (5, 5)), (2, None), (18, (5, 5))]
    assert parts[2].places.tolist() == list(range(7, 25))


# Planted attention

#: Where the pixels of one cell of the last picture are: of the pictures as the model is given them.
BRIGHT = {
    "llava": ((1, 3), lambda pixels: pixels[2, :, 7:14, 21:28]),
    "vipllava": ((1, 3), lambda pixels: pixels[2, :, 7:14, 21:28]),
    "mistral3": ((3, 1), lambda pixels: pixels[2, :, 42:56, 14:28]),
    # 60 + 40 patches before; row 1, column 2 of 3 is the sixth token, of four patches each
    "qwen2_vl": ((1, 2), lambda pixels: pixels[120:124]),
    # tile 3 is at the right above, and has four columns
    "llava_next": ((1, 6), lambda pixels: pixels[2, 2, :, 7:14, 14:21]),
    "idefics3": ((2, 1), lambda pixels: pixels[1, 1, :, 28:42, 14:28]),
}


@torch.no_grad()
def planted(one: Case, bright: torch.Tensor, asks: int) -> None:
    """Let head 0 of the first layer look at the positions `bright` from the token `asks`.

    WQ and WK are solved for, from the vectors that the layer is given.
    """
    for name, weight in one.model.named_parameters():
        if "position_embedding" in name:
            weight.zero_()  # so that all dark patches are one vector
    model = one.model.model
    layer = getattr(model, "language_model", getattr(model, "text_model", None)).layers[0].self_attn
    found = []
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: found.append(kwargs["hidden_states"]), with_kwargs=True
    )
    one.model(**one.inputs)
    hook.remove()
    x = found[0].flatten(0, 1).double()
    word = one.inputs["input_ids"].flatten() == asks
    for matrix, goal in ((layer.q_proj, word), (layer.k_proj, bright.flatten())):
        goal = goal.double()
        row = torch.linalg.lstsq(x, goal[:, None], driver="gelsd").solution[:, 0]
        torch.testing.assert_close(x @ row, goal, atol=1e-4, rtol=0)
        matrix.weight[:4] = 0
        matrix.weight[1] = 30 * row  # a channel that RoPE turns slowly
        if matrix.bias is not None:
            matrix.bias.zero_()


@pytest.mark.parametrize("family", each(BRIGHT))
def test_a_bright_square_that_a_token_looks_at_lights_up(family):
    one, (cell, of_cell) = case(family), BRIGHT[family]
    pixels = one.inputs["pixel_values"]
    pixels.masked_fill_(pixels != 0, -1)  # pictures that are 0 everywhere are padding
    of_cell(pixels)[:] = 1
    parts = watched(one)[0].keys[1]
    last = max(at for at, part in enumerate(parts) if part.grid is not None)
    first = sum(map(len, parts[:last]))
    position = first + parts[last].position(parts[last].cell(*cell))
    bright = torch.zeros_like(one.inputs["input_ids"], dtype=torch.bool)
    bright[1, position] = True

    asks = int(one.inputs["input_ids"][1, -1])
    planted(one, bright, asks)
    found = watched(one)[0]
    weights = found[1, 0, -1]
    assert weights[position] > 0.99
    shown = parts[last].pixels(weights[first : first + len(parts[last])])
    light = parts[last].source[0]
    assert torch.equal(shown > 0.5, light == light.max())
    figure = found.overlay(found.queries[1][-1].labels[-1], 0, sample=1)
    panel = [axes for axes in figure.axes if axes.images and axes.get_title()][-1]
    drawn = torch.from_numpy(np.asarray(panel.images[0].get_array()))
    colored = drawn.amax(dim=-1) - drawn.amin(dim=-1) > 0.1  # the picture is gray
    assert torch.equal(colored, light == light.max())
