"""A sound as an axis: how many seconds each position of an encoder lasts.

Convolutions with strides make the positions of the samples, or of the frames of a spectrogram. They
are followed as they ran, from what the encoder was given to as many positions as the map has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.maps.axis import Axes, Axis, Parts
from wqkv.record.inputs.moment import (
    OTHER_TEXTS,
    CallSizes,
    Convolved,
    Moment,
    Running,
    Sized,
    is_kind,
)

#: How many samples, and frames of a spectrogram, a second has where neither processor nor config
#: tells: as in the feature extractors of transformers and in openai-whisper.
RATE, FRAMES = 16_000.0, 100.0
#: The arguments by which encoders are given a sound.
_GIVEN = ("input_features", "input_values", "x")
#: Encoders whose features (batch, frames, 2 mels) have two frames of a spectrogram in each.
_PAIRED = ("Wav2Vec2BertModel", "SeamlessM4TSpeechEncoder", "SeamlessM4Tv2SpeechEncoder")


class _Sound(NamedTuple):
    """What an encoder was given."""

    given: Tensor | Sized  # (batch, samples), (batch, mels, frames) or (batch, frames, mels)
    time: int  # its axis of time

    @property
    def length(self) -> int:
        """How many samples, or frames, it has."""
        return self.given.shape[self.time]

    def source(self, sample: int, length: int, rate: float) -> Any:  # see Axis
        """What one sample begins with: (samples, rate), or features (mels, frames)."""
        if not isinstance(self.given, Tensor):
            return None
        one = self.given[sample].detach()
        if one.ndim == 1:
            return one[:length], rate
        return (one if self.time == 2 else one.mT)[:, :length]


def read_sound(moment: Moment, sizes: CallSizes) -> Axes | None:
    """The positions of an encoder that reads a sound, or patches of its spectrogram."""
    if sizes.cross or sizes.query_len != sizes.key_len:
        return None
    home, given = _home(moment)
    if home is None or given is None or given.shape[0] != sizes.batch:
        return None
    convolved = [one for one in moment.convolved if _is_within(one.name, _front(home))]
    if is_kind(home.module, "ASTModel"):
        return _patches(given, convolved, sizes)
    paired = is_kind(home.module, *_PAIRED) and given.ndim == 3
    sound = _Sound(given, 1) if paired else _sound(given, convolved)
    if sound is None:
        return None
    whole = paired and sound.length == sizes.key_len
    stride = 1 if whole else _stride(home, sound.length, convolved, sizes.key_len)
    if stride is None:
        return None
    per_second = _per_second(moment.processor, home, given.ndim == 2) / (2 if paired else 1)
    mask = _mask(moment, home, sound)

    @cache
    def find() -> Sequence[Parts]:
        found = []
        for sample in range(sizes.batch):
            length = sound.length if mask is None else int(mask[sample].sum())
            count, places = min(sizes.key_len, -(-length // stride)), None
            if count < sizes.key_len:  # the others begin behind the end: they are padding
                places = torch.arange(sizes.key_len, device="cpu")
                places[count:] = -1
            if sizes.key_len * stride < length and given.ndim == 3:
                length = sizes.key_len * stride  # frames behind the last position, that none has
            source = sound.source(sample, length, per_second)
            found.append((Axis(count, None, stride / per_second, source, places),))
        return found

    return Axes(find, find)


def _home(moment: Moment) -> tuple[Running | None, Tensor | Sized | None]:
    """The encoder of which the attention is a part, and the sound that it was given."""
    for one in reversed(moment.modules):
        if any(one.given.get(name) is not None for name in OTHER_TEXTS):
            break  # a decoder beside it
        given = next((one.given[name] for name in _GIVEN if name in one.given), None)
        if _reads_sound(one.module) and isinstance(given, Tensor | Sized):
            return one, given
    return None, None


def _reads_sound(module: nn.Module) -> bool:
    """Whether all that a module reads is a sound."""
    says = getattr(module, "input_modalities", None)  # of a model of transformers
    if says in ("audio", ("audio",)) or is_kind(module, "Speech2TextEncoder"):
        return True
    return is_kind(module, "AudioEncoder") and hasattr(module, "positional_embedding")  # OpenAI's


def _front(home: Running) -> str:
    """The name of the module whose convolutions make the positions.

    wav2vec2 and its kin have another one, which tells from its neighbors where a position stands.
    """
    own = "feature_extractor" if hasattr(home.module, "feature_extractor") else ""
    return ".".join(filter(None, (home.name, own)))


def _is_within(name: str, outer: str) -> bool:
    return not outer or name.startswith(outer + ".")


def _sound(given: Tensor | Sized, convolved: Sequence[Convolved]) -> _Sound | None:
    """What was given, with the axis along which the first convolution moves as that of time."""
    if not convolved or given.ndim not in (2, 3):
        return None
    # (batch, channels, length) or (batch, 1, frames, mels)
    length = convolved[0].given[2]
    axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == length]
    # a square of features could be either way round
    return _Sound(given, axes[0]) if len(axes) == 1 else None


def _stride(home: Running, length: int, convolved: Sequence[Convolved], key_len: int) -> int | None:
    """How many samples or frames there are from one position to the next.

    None if the convolutions that ran do not lead from a sound of `length` to `key_len` positions.
    """
    steps = [(one.given[2], one.made[2], _first_stride(one.module)) for one in convolved]
    strided = [at for at, (_, _, stride) in enumerate(steps) if stride > 1]
    # equal ones in a row run side by side, as in the adapter of SeamlessM4T
    chain = [step for step, _ in groupby(steps[: strided[-1] + 1])] if strided else []
    if any(made != given for (_, made, _), (given, _, _) in pairwise([(0, length, 1), *chain])):
        return None
    # SEW takes the mean of neighbors
    squeeze = int(getattr(getattr(home.module, "config", None), "squeeze_factor", 1))
    if not chain or chain[-1][1] // squeeze != key_len:
        return None
    return squeeze * math.prod(stride for _, _, stride in chain)


def _first_stride(module: nn.Module) -> int:
    """The stride along the time, which is the first axis of those that a convolution moves on."""
    return module.stride[0] if isinstance(module, nn.Conv1d | nn.Conv2d) else 1


def _per_second(processor: Any, home: Running, samples: bool) -> float:  # any library's processor
    """How many samples, or frames, a second has."""
    extractor = getattr(processor, "feature_extractor", processor)
    rate = getattr(extractor, "sampling_rate", None)
    if samples:
        own = getattr(getattr(home.module, "config", None), "sampling_rate", None)
        return float(rate or own or RATE)
    hop = getattr(extractor, "hop_length", None)
    return float(rate / hop) if rate and hop else FRAMES


def _mask(moment: Moment, home: Running, sound: _Sound) -> Tensor | None:
    """Which samples or frames are no padding (batch, length), if the attention was told of it.

    Whisper's encoder, for one, is given a mask and reads the silence behind a recording too.
    """
    mask, size = home.given.get("attention_mask"), (sound.given.shape[0], sound.length)
    told = moment.modules[-1].given.get("attention_mask") is not None
    if not told or not isinstance(mask, Tensor) or mask.shape != size:
        return None
    ends = bool((mask.long().diff(dim=1) <= 0).all())
    return mask if ends else None  # what is padded in front stands where it stands


def _patches(
    given: Tensor | Sized, convolved: Sequence[Convolved], sizes: CallSizes
) -> Axes | None:
    """The special tokens and the patches of a spectrogram, (frequencies, times), which overlap.

    A cell of the grid is as large as the stride and has the center of its patch. The source is what
    these cells cover.
    """
    if len(convolved) != 1 or convolved[0].given[1:] != (1, given.shape[2], given.shape[1]):
        return None
    module, grid = convolved[0].module, convolved[0].made[2:]
    if not isinstance(module, nn.Conv2d) or sizes.key_len != 2 + math.prod(grid):
        return None
    sides = []
    for kernel, stride, count in zip(module.kernel_size, module.stride, grid, strict=True):
        begin = (kernel - stride) // 2
        sides.append(slice(begin, begin + count * stride))

    @cache
    def find() -> Sequence[Parts]:
        special = Axis(["[CLS]", "[DIST]"])
        found = []
        for sample in range(sizes.batch):
            source = given[sample].detach().mT[tuple(sides)] if isinstance(given, Tensor) else None
            found.append((special, Axis(math.prod(grid), grid, source=source)))
        return found

    return Axes(find, find)
