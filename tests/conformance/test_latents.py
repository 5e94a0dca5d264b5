"""Where diffusers' models put the patches of a latent and the tokens of a text: what axes say."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.foreign import libraries
from tests.conformance.latents import BATCH, CASES, COLUMNS, ROWS, TEXT, Case, places, vectors
from wqkv import AttentionMap, Axis, Seen, watch

pytestmark = pytest.mark.filterwarnings("ignore")  # of the models' own code

#: Attention that is not over the latent. What its positions are is not known.
OTHERS = {"time_extra_emb.pooler", "context_embedder.token_refiner.refiner_blocks.0.attn"}
SAMPLE = 1  # the one that is changed
FLOW = "FlowMatchEulerDiscreteScheduler"

cases = pytest.mark.parametrize("case", CASES, ids=lambda one: f"{one.model} {one.note}".strip())


@pytest.fixture(autouse=True)
def installed():
    with libraries():
        pytest.importorskip("diffusers", reason="diffusers is not installed: make .venv/.foreign")


def case_of(model: str) -> Case:
    return next(case for case in CASES if case.model == model)


def watched(model: nn.Module, given: dict[str, Any]) -> Seen:
    with torch.no_grad(), watch(model) as seen:
        model(**given)
    return seen


def parts(axes: Any, sample: int = SAMPLE) -> tuple[Axis, ...]:
    """The axes of one sample."""
    own = axes[sample] if isinstance(axes, list) else axes
    return (own,) if isinstance(own, Axis) else own


def labels(axes: Any) -> list[str]:
    return [axis.label(at) for axis in parts(axes) for at in range(len(axis))]


def sides(seen: Seen) -> Iterator[tuple[str, Tensor, Any]]:
    """The name, the vectors and the axes of the queries and of the keys of every layer."""
    for number, layer in enumerate(seen.layers):
        if layer.state != "missed" and layer.name not in OTHERS:
            one, call = seen[number], seen[number]._numbers.given
            yield f"q of {layer.name}", call.query, one.queries
            yield f"k of {layer.name}", call.key, one.keys


# One patch, or one token, changed


def check(before: Seen, after: Seen, label_of) -> None:
    """q and k changed where they have the label that `label_of(axes)` asks for, and only there."""
    reached = 0
    for (name, old, axes), (_, new, _) in zip(sides(before), sides(after), strict=True):
        wanted = label_of(parts(axes))
        said = [[SAMPLE, at] for at, label in enumerate(labels(axes)) if label == wanted]
        assert (old != new).any(dim=3).any(dim=1).nonzero().tolist() == said, name
        reached += len(said)
    assert reached


@cases
def test_a_patch_stands_where_it_is_said_to(case):
    model, given = case.still(), case.given()
    before = watched(model, given)
    *frame, rows, columns = case.grid
    # a UNet takes every other place to the level below: these are taken
    for at in {(0, 0), (2, 4), (4, 2), ((rows - 1) // 2 * 2, (columns - 1) // 2 * 2)}:
        cell = (*(size - 1 for size in frame), *at)
        latent = given[case.named].clone()
        latent[SAMPLE][case.place(cell)] += 1

        def label_of(axes: tuple[Axis, ...], cell=cell) -> str:
            grid = next((axis.grid for axis in axes if axis.grid), case.grid)
            step = -(-case.grid[-1] // grid[-1])
            return ",".join(str(at // step) for at in cell)

        check(before, watched(model, {**given, case.named: latent}), label_of)


@cases
def test_a_token_of_the_text_stands_where_it_is_said_to(case):
    if not case.texts:
        pytest.skip("it has no text")
    model, given, first = case.still(), case.given(), 0
    before = watched(model, given)
    for name, length, _ in case.texts:
        for token in (0, 3, length - 1):
            text = given[name].clone()
            text[SAMPLE, token] += 1
            after = watched(model, {**given, name: text})
            check(before, after, lambda _, label=f"text {first + token}": label)
        first += length


# Planted attention

#: Rows and columns of the patches that are bright, and the token that they are made to match.
BRIGHT, WORD = (slice(1, 3), slice(4, 7)), 5


def blank(model: nn.Module) -> nn.Module:
    """The model with weights of 0, and norms that only normalize."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            scale = "Norm" in type(module).__name__ and name == "weight"
            nn.init.constant_(weight, float(scale))
    return model


def embed(embedder: nn.Module) -> None:
    """Its first channel is what it is given; two more keep a LayerNorm from dividing 0 by 0."""
    own = embedder.weight.data[0, 0]
    if own.shape == (3, 3):
        own[1, 1] = 1
    else:
        own.fill_(1 / own.numel())
    embedder.bias.data[1:3] = torch.tensor([1.0, -1.0])


def match(*projections: nn.Linear) -> None:
    """The first channels of what both are given make a large product of q and k."""
    for one in projections:
        one.weight.data[0, 0] = 3


def plant_sd3(model: nn.Module, to_patches: bool) -> None:
    model.pos_embed.pos_embed.zero_()
    embed(model.pos_embed.proj)
    embed(model.context_embedder)
    attn = model.transformer_blocks[0].attn
    match(*(attn.add_q_proj, attn.to_k) if to_patches else (attn.to_q, attn.add_k_proj))


def plant_flux(model: nn.Module, to_patches: bool) -> None:
    embed(model.x_embedder)
    embed(model.context_embedder)
    attn = model.transformer_blocks[0].attn
    match(*(attn.add_q_proj, attn.to_k) if to_patches else (attn.to_q, attn.add_k_proj))
    for norm in (attn.norm_q, attn.norm_k, attn.norm_added_q, attn.norm_added_k):
        norm.weight.data.fill_(3)  # RMSNorm takes the size away


def plant_unet(model: nn.Module, to_patches: bool) -> None:
    assert not to_patches
    embed(model.conv_in)
    transformer = model.down_blocks[0].attentions[0]
    nn.init.dirac_(transformer.proj_in.weight)
    attn = transformer.transformer_blocks[0].attn2
    match(attn.to_q, attn.to_k)


@pytest.mark.parametrize(
    ("model", "plant", "layer", "to_patches"),
    [
        ("SD3Transformer2DModel", plant_sd3, 0, True),
        ("SD3Transformer2DModel", plant_sd3, 0, False),
        ("FluxTransformer2DModel", plant_flux, 0, True),
        ("FluxTransformer2DModel", plant_flux, 0, False),
        ("UNet2DConditionModel", plant_unet, 1, False),
    ],
)
def test_a_bright_place_that_matches_a_word_lights_for_it(model, plant, layer, to_patches):
    case = case_of(model)
    made, given = blank(case.build()), case.given()
    plant(made, to_patches)
    bright = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    bright[BRIGHT] = True
    latent, text = given[case.named].zero_(), given["encoder_hidden_states"].zero_()
    for cell in bright.nonzero().tolist():
        latent[SAMPLE][case.place(tuple(cell))] = 10
    text[SAMPLE, WORD, 0] = 10

    found = watched(made, given)[layer]
    lights = lit(found, f"text {WORD}", to_patches)
    if to_patches:  # the word looks at the place, and at all of it alike
        torch.testing.assert_close(lights, bright / bright.sum(), rtol=1e-4, atol=1e-9)
    else:  # the place looks at the word; other patches look at all keys alike, or at other tokens
        torch.testing.assert_close(lights[bright], torch.ones(int(bright.sum())))
        assert (lights[~bright] < 1.01 / found.shape[3]).all()


def lit(found: AttentionMap, word: str, to_patches: bool) -> Tensor:
    """The weights between a word and the cells, of the word as a query or of the cells."""
    word_axes, axes = (found.queries, found.keys) if to_patches else (found.keys, found.queries)
    at, first = labels(word_axes).index(word), 0
    weights = found[SAMPLE, 0, at] if to_patches else found[SAMPLE, 0, :, at]
    for axis in parts(axes):
        if axis.grid is not None:
            return axis.cells(weights[first : first + len(axis)])
        first += len(axis)
    raise AssertionError(f"no picture among {axes}")


# Other ways to the same attention


@pytest.mark.parametrize(
    "model",
    [
        "UNet2DConditionModel",
        "SD3Transformer2DModel",
        "FluxTransformer2DModel",
        "AuraFlowTransformer2DModel",
        "CogVideoXTransformer3DModel",
        "HunyuanDiT2DModel",
        "PixArtTransformer2DModel",
        "WanTransformer3DModel",
    ],
)
def test_fused_projections_change_no_axis(model):
    case = case_of(model)  # diffusers cannot fuse a block of SD3 that attends to patches once more
    once = {"dual_attention_layers": ()} if "dual_attention_layers" in case.config else {}
    case = case.having(**once)
    plain, fused, given = case.build(), case.build(), case.given()
    fused.fuse_qkv_projections()
    for (name, _, axes), (_, _, others) in zip(
        sides(watched(plain, given)), sides(watched(fused, given)), strict=True
    ):
        assert labels(axes) == labels(others), name


def test_attention_that_is_written_out():
    case = case_of("UNet2DConditionModel")
    plain, by_hand, given = case.build(), case.build(), case.given()
    with libraries():
        from diffusers.models.attention_processor import AttnProcessor
    by_hand.set_attn_processor(AttnProcessor())
    for (name, _, axes), (_, _, others) in zip(
        sides(watched(plain, given)), sides(watched(by_hand, given)), strict=True
    ):
        assert labels(axes) == labels(others), name


@pytest.mark.parametrize(
    ("pipeline", "case", "scheduler", "cut"),
    [
        ("StableDiffusionPipeline", case_of("UNet2DConditionModel"), "DDIMScheduler", 1),
        ("StableDiffusion3Pipeline", case_of("SD3Transformer2DModel"), FLOW, 2),
        ("FluxPipeline", case_of("FluxTransformer2DModel").having(in_channels=16), FLOW, 2),
    ],
)
def test_what_a_pipeline_gives_is_explained(pipeline, case, scheduler, cut):
    model = case.build()
    with libraries():
        import diffusers

        has = dict.fromkeys(("unet", "transformer"), model)
        has["scheduler"] = getattr(diffusers, scheduler)()
        has["vae"] = diffusers.AutoencoderKL(block_out_channels=(32,), shift_factor=0.0)
        kind = getattr(diffusers, pipeline)
        pipe = kind(**{name: has.get(name) for name in inspect.signature(kind).parameters})
        pipe.set_progress_bar_config(disable=True)
        sizes = {"height": 16, "width": 24, "num_inference_steps": 2, "output_type": "latent"}
        text = {"prompt_embeds": vectors(1, TEXT, 32), "pooled_prompt_embeds": vectors(1, 16)}
        text |= {f"negative_{name}": x for name, x in text.items()}
        taken = inspect.signature(kind.__call__).parameters
        with watch(model) as seen:
            pipe(**sizes, **{name: x for name, x in text.items() if name in taken})
    found = seen[0]
    assert found.shape[0] == (1 if pipeline == "FluxPipeline" else 2)  # a text, and no text
    (patches,) = (axis for axis in parts(found.queries, 0) if axis.grid)
    assert patches.grid == (16 // cut, 24 // cut)


# What is drawn below the weights


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_latent_that_can_be_drawn_is_the_source(channels):
    case = case_of("SD3Transformer2DModel")._replace(channels=channels)
    case = case.having(in_channels=channels)
    given = case.given()
    found = watched(case.build(), given)[0]
    if channels == 4:
        assert parts(found.keys)[0].source is None
        assert not isinstance(found.keys, list)  # all samples share their axes
    else:
        for sample, (patches, text) in enumerate(found.keys):
            assert torch.equal(patches.source, given["hidden_states"][sample])
            assert text.source is None
            assert patches.pixels(torch.arange(ROWS * COLUMNS)).shape == (2 * ROWS, 2 * COLUMNS)


def test_the_picture_that_a_vae_encodes_and_the_latent_that_it_decodes():
    case = case_of("AutoencoderKL")
    model, pixels = case.build(), case.given()["sample"]
    with torch.no_grad(), watch(model) as seen:
        model.decode(model.encode(pixels).latent_dist.mean)
    encoded, decoded = seen
    assert all(torch.equal(one.source, own) for one, own in zip(encoded.keys, pixels, strict=True))
    assert decoded.keys.grid == (ROWS, COLUMNS) and decoded.keys.source is None


# Lengths that might be taken for each other, and what is not explained


@pytest.mark.parametrize("model", ["UNet2DConditionModel", "LuminaNextDiT2DModel"])
def test_a_text_of_as_many_tokens_as_there_are_patches(model):
    case, length = case_of(model), ROWS * COLUMNS
    given = case.given() | {"encoder_hidden_states": vectors(BATCH, length, 32)}
    if "encoder_mask" in given:
        given["encoder_mask"] = torch.ones(BATCH, length)
    own, other = watched(case.build(), given)[:2]
    assert own.keys.grid == own.queries.grid == other.queries.grid == (ROWS, COLUMNS)
    assert labels(other.keys) == [f"text {i}" for i in range(length)]


def test_a_text_that_is_refined_first_is_not_taken_for_the_patches():
    case = case_of("HunyuanVideoTransformer3DModel")._replace(grid=(1, 1, TEXT))
    case = case._replace(axes="cfhw")
    given = case.given()
    given["hidden_states"] = given["hidden_states"][:, :, :1]
    refined, joined, _ = watched(case.build(), given)
    assert refined.shape[2:] == (TEXT, TEXT) and refined.keys is None and refined.queries is None
    assert [len(axis) for axis in joined.keys] == [TEXT, TEXT]


def test_two_pictures_of_flux():
    """As where a picture is given to be changed: it stands behind the latent."""
    case = case_of("FluxTransformer2DModel")
    given = case.given() | {"img_ids": places(0, 1)}
    given["hidden_states"] = vectors(BATCH, 2 * ROWS * COLUMNS, 4)
    text, latent, picture = watched(case.build(), given)[0].keys
    assert len(text) == TEXT and latent.grid == picture.grid == (ROWS, COLUMNS)


@pytest.mark.parametrize("ids", [torch.zeros(ROWS * COLUMNS, 3), places(0).flip(0)])
def test_patches_of_flux_that_are_on_no_grid(ids):
    case = case_of("FluxTransformer2DModel")
    found = watched(case.build(), case.given() | {"img_ids": ids})[0]
    assert found.keys is None and found.queries is None


def test_pictures_of_qwen_that_differ_between_samples():
    case = case_of("QwenImageTransformer2DModel")
    shapes = [[(1, ROWS, COLUMNS)]] * (BATCH - 1) + [[(1, COLUMNS, ROWS)]]
    assert watched(case.build(), case.given() | {"img_shapes": shapes})[0].keys is None


def test_pictures_of_qwen_one_a_sample():
    """As its pipeline with a ControlNet says it."""
    case = case_of("QwenImageTransformer2DModel")
    given = case.given() | {"img_shapes": [(1, ROWS, COLUMNS)] * BATCH}
    assert watched(case.build(), given)[0].keys[1].grid == (ROWS, COLUMNS)


def test_codes_of_a_picture():
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "num_vector_embeds": 13}
    config |= {"sample_size": ROWS, "num_embeds_ada_norm": 17, "norm_type": "ada_norm"}
    model = Case("Transformer2DModel", config).build()
    codes = torch.arange(BATCH * ROWS**2).remainder(13).view(BATCH, -1)
    (found,) = watched(model, {"hidden_states": codes, "timestep": torch.tensor(1)})
    assert found.keys is None and found.queries is None


@pytest.mark.parametrize("also", ["attn1", "attn2"])
def test_a_processor_that_is_not_known(also):
    """Nobody knows then what it does; in particular its text is not taken for patches."""
    case = case_of("UNet2DConditionModel")
    model = case.build()
    for name, module in model.named_modules():
        if name.endswith(("attn2", also)):
            module.set_processor(type("Own", (type(module.processor),), {})())
    given = case.given() | {"encoder_hidden_states": vectors(BATCH, ROWS * COLUMNS, 32)}
    seen = watched(model, given)
    for layer, one in zip(seen.layers, seen, strict=True):
        known = layer.name.endswith("attn1") and also == "attn2"
        assert (one.keys is not None) == (one.queries is not None) == known


def test_special_tokens_are_apart_among_queries_too():
    case = case_of("AuraFlowTransformer2DModel")
    found = watched(case.build(), case.given())[0]
    assert found.queries is not None and labels(found.queries) == labels(found.keys)
    assert [len(axis) for axis in found.queries] == [8, TEXT, ROWS * COLUMNS]


def test_keys_that_a_unet_makes_of_a_picture():
    """As in Kandinsky 2.2, which is given no text."""
    case = case_of("UNet2DConditionModel").having(
        encoder_hid_dim=13, encoder_hid_dim_type="image_proj"
    )
    given = case.given() | {"encoder_hidden_states": None}
    given["added_cond_kwargs"] = {"image_embeds": vectors(BATCH, 13)}
    own, other = watched(case.build(), given)[:2]
    assert own.keys.grid == (ROWS, COLUMNS)
    assert other.shape[3] == 32 and other.keys is None


def test_keys_of_a_picture_that_a_video_begins_with():
    """Wan reads its text and the picture one after the other, in one module."""
    case = case_of("WanTransformer3DModel")
    case = case.having(image_dim=20, added_kv_proj_dim=24)
    given = case.given() | {"encoder_hidden_states_image": vectors(BATCH, 13, 20)}
    given["encoder_hidden_states"] = vectors(BATCH, 512, 32)  # as many as Wan takes for its text
    seen = watched(case.build(), given)
    for layer in seen:
        if layer.shape[2] != layer.shape[3]:
            assert layer.keys is None
