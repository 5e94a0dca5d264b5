"""Latents of modules that are called as those of diffusers; tests/conformance has the real ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wqkv.maps.axis import UNKNOWN, Axes
from wqkv.record.inputs.latents import read_latents
from wqkv.record.inputs.moment import CallSizes, Moment, Running, Sized

BATCH, TEXT = 2, 3
SIDES = st.integers(1, 7)


def module(name: str, package: str = "diffusers.models", **has: object) -> nn.Module:
    made = type(name, (nn.Module,), {"__module__": package})()
    for key, value in has.items():
        setattr(made, key, value)
    return made


def processor(name: str) -> object:
    return type(name, (), {})()


def read(model: nn.Module, given: dict, length: int, name: str, **attention) -> Axes | None:
    """The axes of a block of one stream of `length` patches behind the text."""
    inner = module("Attention", processor=processor(name), **attention)
    own = {"hidden_states": Sized((BATCH, TEXT + length, 5))}
    whole = {"encoder_hidden_states": Sized((BATCH, TEXT, 5))} | given
    modules = [
        Running(model, "", whole, []),
        Running(module("Block"), "block", {}, []),
        Running(inner, "block.attn", own, []),
    ]
    moment = Moment(1, modules, [], {}, None)
    return read_latents(moment, CallSizes(BATCH, TEXT + length, TEXT + length, False))


def flux(ids: Tensor, **rest) -> Axes | None:
    model = module("FluxTransformer2DModel")
    return read(model, {"img_ids": ids}, ids.shape[-2], "FluxAttnProcessor", **rest)


def places(first: float, rows: int, columns: int) -> Tensor:
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return torch.cat((torch.full((len(cells), 1), first), cells), 1)


@given(SIDES, SIDES, SIDES, SIDES)
def test_ids_of_two_pictures(rows, columns, others, another):
    ids = torch.cat((places(0, rows, columns), places(1, others, another)))
    for given_ids in (ids, ids.expand(BATCH, -1, -1), ids.long(), ids.bfloat16()):
        text, one, other = flux(given_ids).keys()[0]
        assert text.labels == ("text 0", "text 1", "text 2")
        assert (one.grid, other.grid) == ((rows, columns), (others, another))


@given(st.permutations(range(6)))
def test_ids_in_another_order_are_no_grid(order):
    found = flux(places(0, 2, 3)[list(order)])
    if list(order) == list(range(6)):
        assert found.keys()[0][1].grid == (2, 3)
    else:
        assert found is UNKNOWN


def test_a_picture_that_was_moved_as_a_whole():
    ids = places(0, 2, 3) + torch.tensor([0, 5, 7])
    assert flux(ids).keys()[0][1].grid == (2, 3)


@pytest.mark.parametrize("frames", [1, 4])
def test_shapes_of_pictures(frames):
    model, shapes = module("QwenImageTransformer2DModel"), ((frames, 2, 3), (1, 5, 2))
    length = sum(map(math.prod, shapes))
    name = "QwenDoubleStreamAttnProcessor2_0"
    found = read(model, {"img_shapes": (shapes, shapes)}, length, name).queries()[1]
    assert [axis.grid for axis in found] == [None, (2, 3) if frames == 1 else (4, 2, 3), (5, 2)]
    other = ((frames, 3, 2), (1, 5, 2))
    assert read(model, {"img_shapes": (shapes, other)}, length, name) is UNKNOWN


def test_sizes_of_a_video_that_are_not_all_given():
    model = module("LTXVideoTransformer3DModel")
    assert read(model, {"num_frames": 2, "height": 3}, 6, "LTXVideoAttnProcessor") is UNKNOWN


@pytest.mark.parametrize("length", [5, 7])
def test_a_length_that_is_not_explained(length):
    ids = places(0, 2, 3)
    model = module("FluxTransformer2DModel")
    assert read(model, {"img_ids": ids}, length, "FluxAttnProcessor") is UNKNOWN


def test_only_attention_of_diffusers_is_read():
    model = module("FluxTransformer2DModel", "else.where")
    modules = [Running(model, "", {"hidden_states": Sized((BATCH, 6, 5))}, [])]
    sizes = CallSizes(BATCH, 6, 6, False)
    assert read_latents(Moment(1, modules, [], {}, None), sizes) is None
