"""What the diffusion models of diffusers look at: patches of a latent, and the tokens of a text.

Two names have to be known here. The class of the model says how it cuts its latent into patches;
the class of the attention's processor says in which order patches and text stand. Whatever else
stands between them, such as the tokens of an adapter, makes a length that is not explained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from wqkv.maps.axis import UNKNOWN, Axes, Axis, Parts
from wqkv.record.inputs.moment import CallSizes, Moment, Running, Sized, is_kind

#: (rows, columns) of a picture, or (frames, rows, columns) of a video.
Grid: TypeAlias = tuple[int, ...]


def read_latents(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The queries and keys of a diffusion model, as patches of its latent and tokens of its text.

    The model is given the text as embeddings, so its tokens are named by number, until a user names
    them with `on`. A latent of 1 or 3 channels is the source of its patches. One of more channels
    is no picture that a person reads, and the patches have no source.
    """
    inner = moment.modules[-2:]  # an attention, or its processor, which may be a module of a user
    if not any(type(one.module).__module__.startswith("diffusers.") for one in inner):
        return None
    grids = _grids(moment)
    order = None if grids is None else _order(moment, sum(map(math.prod, grids)), sizes)
    if grids is None or order is None:
        return UNKNOWN  # another reader might take its text for patches, if there are as many

    @cache
    def parts() -> Mapping[str, Sequence[Parts]]:
        """The axes of patches and of text, of every sample."""
        sources = _sources(moment, sizes.batch) if len(grids) == 1 else [None]
        each = [
            tuple(Axis(math.prod(grid), grid, source=source) for grid in grids)
            for source in sources
        ]
        registers, text = _text(moment)
        named = [Axis([f"[register {i}]" for i in range(registers)])] if registers else []
        named.append(Axis([f"text {i}" for i in range(text)]))
        times = sizes.batch // len(each)
        return {"patches": each * times, "text": [tuple(named)] * sizes.batch}

    def joined(names: Sequence[str]) -> Sequence[Parts]:
        return [sum(one, ()) for one in zip(*(parts()[name] for name in names), strict=True)]

    return Axes(lambda: joined(order.queries), lambda: joined(order.keys))


# How an attention puts together what it is given


class _Order(NamedTuple):
    """In which order patches and text stand among the queries and among the keys."""

    queries: tuple[str, ...]
    keys: tuple[str, ...]


_APART = _Order(("patches",), ("text",))
_TEXT_FIRST = _Order(("text", "patches"), ("text", "patches"))
_TEXT_LAST = _Order(("patches", "text"), ("patches", "text"))
#: By the class of the processor, where the attention is given both.
_ORDERS = {
    "AttnProcessor": _APART,
    "AttnProcessor2_0": _APART,
    "FusedAttnProcessor2_0": _APART,
    "HunyuanAttnProcessor2_0": _APART,
    "FusedHunyuanAttnProcessor2_0": _APART,
    "LTXVideoAttnProcessor": _APART,
    "LuminaAttnProcessor2_0": _APART,
    "SanaAttnProcessor2_0": _APART,
    "SkyReelsV2AttnProcessor": _APART,
    "WanAttnProcessor": _APART,
    "AttnAddedKVProcessor": _Order(("patches",), ("text", "patches")),
    "AttnAddedKVProcessor2_0": _Order(("patches",), ("text", "patches")),
    "AuraFlowAttnProcessor2_0": _TEXT_FIRST,
    "FusedAuraFlowAttnProcessor2_0": _TEXT_FIRST,
    "BriaAttnProcessor": _TEXT_FIRST,
    "CogVideoXAttnProcessor2_0": _TEXT_FIRST,
    "FusedCogVideoXAttnProcessor2_0": _TEXT_FIRST,
    "CogView4AttnProcessor": _TEXT_FIRST,
    "FluxAttnProcessor": _TEXT_FIRST,
    "Flux2AttnProcessor": _TEXT_FIRST,
    "Flux2ParallelSelfAttnProcessor": _TEXT_FIRST,
    "LongCatImageAttnProcessor": _TEXT_FIRST,
    "OvisImageAttnProcessor": _TEXT_FIRST,
    "QwenDoubleStreamAttnProcessor2_0": _TEXT_FIRST,
    "HunyuanVideoAttnProcessor2_0": _TEXT_LAST,
    "JointAttnProcessor2_0": _TEXT_LAST,
    "FusedJointAttnProcessor2_0": _TEXT_LAST,
}


def _order(moment: Moment, patches: int, sizes: CallSizes) -> _Order | None:
    """What the queries and the keys are, if that explains the lengths of all that was given."""
    attention = moment.modules[-1]
    order = _ORDERS.get(type(getattr(attention.module, "processor", None)).__name__)
    if order is None:
        return None
    lengths = {"patches": patches, "text": sum(_text(moment))}
    own, other = _length(attention, "hidden_states"), _length(attention, "encoder_hidden_states")
    if attention.given.get("key_rotary_emb") is not None:
        other = 0  # Lumina gives self-attention its own states twice; a text has no such positions
    if not other:
        # in a block of one stream the attention is given patches and text as one sequence
        alone = ("patches",) if own == patches else order.keys
        order = _Order(alone, alone)
    elif (own, other) != (patches, lengths["text"]):
        return None
    query_len, key_len = (sum(lengths[name] for name in names) for names in order)
    return order if (query_len, key_len) == (sizes.query_len, sizes.key_len) else None


# How a model cuts its latent into patches


def _cut(one: Running) -> list[Grid] | None:
    """Patches of a latent (batch, channels, [frames], rows, columns), by the model's config.

    Without a size of patches there, as inside a UNet, each place is one.
    """
    config: Any = one.module.config
    size = config.patch_size or 1
    if isinstance(size, int):
        size = (config.get("patch_size_t") or 1, size, size)
    shape = _shape(one.given.get("hidden_states"))
    if is_kind(one.module, "CogVideoXTransformer3DModel"):
        shape = (shape[0], *shape[2:0:-1], *shape[3:])  # frames before channels
    places = shape[2:]
    if len(places) not in (2, 3):
        return None  # codes of a picture, one for each place
    return [tuple(n // p for n, p in zip(places, size[-len(places) :], strict=True))]


def _by_ids(one: Running) -> list[Grid] | None:
    """Patches that come as a sequence, with the row and the column of each.

    A picture that is given to be changed stands behind the latent; its first number is another.
    """
    ids = one.given.get("img_ids")
    if not isinstance(ids, Tensor):
        return None
    ids = (ids[0] if ids.ndim == 3 else ids).float().cpu()
    starts = [0, *(1 + (ids[1:, 0] != ids[:-1, 0]).nonzero().flatten()).tolist(), len(ids)]
    found = [_grid_of(ids[first:end, 1:3]) for first, end in pairwise(starts)]
    grids = [grid for grid in found if grid is not None]
    return grids if len(grids) == len(found) else None


def _grid_of(places: Tensor) -> Grid | None:
    """The grid whose cells, row by row, have these rows and columns (length, 2)."""
    rows, columns = (places[:, at].unique() for at in (0, 1))
    whole = torch.cartesian_prod(rows, columns)
    return (len(rows), len(columns)) if torch.equal(whole, places) else None


def _by_sizes(one: Running) -> list[Grid] | None:
    """Patches of a video that come as a sequence, with its sizes."""
    names = ("num_frames", "height", "width")
    sizes = [size for name in names if isinstance(size := one.given.get(name), int)]
    return [tuple(sizes)] if len(sizes) == len(names) else None


def _by_shapes(one: Running) -> list[Grid] | None:
    """Patches of some pictures that come as a sequence, with (frames, rows, columns) of each."""
    samples = one.given.get("img_shapes")
    if not samples or any(shapes != samples[0] for shapes in samples):
        return None
    shapes = [samples[0]] if isinstance(samples[0][0], int) else samples[0]
    return [shape[1:] if shape[0] == 1 else shape for shape in shapes]


#: By the class of the model.
_CUTS: dict[str, Callable[[Running], list[Grid] | None]] = {
    "Transformer2DModel": _cut,  # also at each level of a UNet
    "AuraFlowTransformer2DModel": _cut,
    "CogVideoXTransformer3DModel": _cut,
    "CogView3PlusTransformer2DModel": _cut,
    "CogView4Transformer2DModel": _cut,
    "DiTTransformer2DModel": _cut,
    "HunyuanDiT2DModel": _cut,
    "HunyuanVideoTransformer3DModel": _cut,
    "LuminaNextDiT2DModel": _cut,
    "PixArtTransformer2DModel": _cut,
    "SanaTransformer2DModel": _cut,
    "SD3Transformer2DModel": _cut,
    "SkyReelsV2Transformer3DModel": _cut,
    "WanTransformer3DModel": _cut,
    "BriaTransformer2DModel": _by_ids,
    "ChromaTransformer2DModel": _by_ids,
    "FluxTransformer2DModel": _by_ids,
    "Flux2Transformer2DModel": _by_ids,
    "LongCatImageTransformer2DModel": _by_ids,
    "OvisImageTransformer2DModel": _by_ids,
    "LTXVideoTransformer3DModel": _by_sizes,
    "QwenImageTransformer2DModel": _by_shapes,
}


def _grids(moment: Moment) -> list[Grid] | None:
    """The pictures whose patches run through this attention."""
    shape = _shape(moment.modules[-1].given.get("hidden_states"))
    if len(shape) == 4:  # (batch, channels, rows, columns): in a VAE, or a UNet without a text
        return [shape[2:]]
    if len(moment.modules) < 3:
        return None
    model = moment.modules[-3]  # around a block: what a model has deeper inside is of other parts
    cut = next((cut for name, cut in _CUTS.items() if is_kind(model.module, name)), None)
    return None if cut is None else cut(model)


def _text(moment: Moment) -> tuple[int, int]:
    """How many tokens of its own a model puts before its text, and how many the text has.

    That is what the whole model is given. Inside it other things come under the same name.
    """
    names = ("encoder_hidden_states", "encoder_hidden_states_t5")
    for one in moment.modules:
        if names[0] in one.given:
            marks = getattr(one.module, "register_tokens", None)
            return 0 if marks is None else marks.shape[1], sum(_length(one, x) for x in names)
    return 0, 0


def _sources(moment: Moment, batch: int) -> Sequence[Tensor | None]:
    """The picture of each sample, or None for all of them together."""
    for one in moment.modules:
        for name in ("sample", "hidden_states"):
            latent = one.given.get(name)
            if isinstance(latent, Tensor) and latent.ndim == 4:
                drawn = latent.shape[1] in (1, 3) and len(latent) == batch
                return list(latent) if drawn else [None]
    return [None]


def _shape(given: Any) -> tuple[int, ...]:  # any argument of a model
    return tuple(given.shape) if isinstance(given, Tensor | Sized) else ()


def _length(one: Running, name: str) -> int:
    """The positions of (batch, length, d) or (batch, d, rows, columns); 0 if it is not given."""
    shape = _shape(one.given.get(name))
    return 0 if len(shape) < 3 else math.prod(shape[2:]) if len(shape) == 4 else shape[1]
