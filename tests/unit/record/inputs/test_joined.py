"""Texts with pictures in them: whole models, their prompts, generations, and planted attention."""

from itertools import groupby

import matplotlib
import pytest
import torch

from tests.vision_language import CASES, ID, Case, case, text_layers
from wqkv.record.watch import watch

matplotlib.use("agg")
#: Families whose processors run without torchvision.
PROCESSED = ("llava", "qwen2_vl", "llava_next", "llava_onevision")


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
ANYRES = ("llava_next", "llava_onevision")


@pytest.mark.parametrize("family", PROCESSED)
def test_token_types_agree_with_the_processor(family):
    one = case(family)
    types = one.inputs["mm_token_type_ids"]
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
        if name != "mm_token_type_ids" or "grid" in str(list(one.inputs))
    }
    with watch(one.model, processor=one.processor, **given) as seen:
        ids = one.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    return ids, [seen[layer] for layer in text_layers(seen)]


@pytest.mark.parametrize("family", CASES)
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
                assert [len(part) for part in parts if part.labels[0] == "0"] == [
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
