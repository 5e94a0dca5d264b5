"""Numbers drawn on a sound: as ink along its time, on its wave form or its spectrogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wqkv.errors import KindError, message
from wqkv.fonts import fonts
from wqkv.maps.axis import Axis
from wqkv.maps.display import MARK, points
from wqkv.maps.panels import COVERS, TOKEN, gray
from wqkv.maps.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: How many steps along the time a wave form is drawn with, and its color.
STEPS, WAVE = 1200, "#333333"


def draw_sound(panel: Axes, numbers: Tensor, axis: Axis, scale: Scale) -> None:
    """Draw one number per position of a sound as ink along the time, in seconds.

    At each time stands the ink of the position that covers it, behind the wave form, or on the gray
    spectrogram. A name that several positions in a row have, such as what is said there, is written
    over them. The panel ends where the sound does, also where a model was given silence behind it;
    what the numbers there sum to is said below.

    Args:
        panel: of matplotlib.
        axis: with `seconds`, and as `source` a wave form (samples, rate), features (mels, frames),
            or None.

    Raises:
        KindError: a source of another shape.
    """
    assert axis.seconds is not None  # it is a sound
    cells = axis.cells(numbers.detach().float().cpu())
    whole = len(cells) * axis.seconds
    end, wave, features = _source(axis, axis.seconds)
    ink, share = scale.ink(cells)
    if features is None:
        paper = torch.ones(1, len(cells), 3, device="cpu")
    else:  # what is loud is dark, and low frequencies are at the bottom
        paper = gray(-features.flip(0).expand(3, -1, -1)).movedim(0, -1)
        each = _frames(features, axis)
        at = torch.arange(paper.shape[1], device="cpu") // each
        ink, share = ink[at], share[at] * COVERS
        whole = paper.shape[1] / each * axis.seconds
    shown = paper + (ink - paper) * share[:, None]
    panel.imshow(shown.numpy(), extent=(0, whole, -1, 1), aspect="auto", interpolation="nearest")
    if wave is not None:
        steps = min(STEPS, len(wave))
        # split at stated places: into a number of parts alone, the first ones would be longer
        cuts = [step * len(wave) // steps for step in range(1, steps)]
        parts = (wave / wave.abs().max().clamp(min=1e-12)).tensor_split(cuts)
        low, high = ([float(most(part)) for part in parts] for most in (torch.min, torch.max))
        times = torch.linspace(0, end, steps, device="cpu").tolist()
        panel.fill_between(times, low, high, color=WAVE, linewidth=0.3)
    panel.set_xlim(0, end)
    panel.set_ylim(-1, 1)
    panel.set_yticks([])
    behind = float(cells[round(end / axis.seconds) :].nan_to_num(0).sum())
    more = f" ({behind:.3g} stands behind the end)" if abs(behind) > 0.0005 else ""
    panel.set_xlabel(f"seconds{more}", fontsize=TOKEN)
    panel.tick_params(labelsize=TOKEN - 1, length=2)
    _write_names(panel, axis.labels, axis.seconds, end)


def _source(axis: Axis, seconds: float) -> tuple[float, Tensor | None, Tensor | None]:
    """When the sound ends, and its samples (length,), or its features (mels, frames)."""
    whole = axis.count * seconds
    if axis.source is None:
        return whole, None, None
    if not isinstance(axis.source, tuple):
        features = torch.as_tensor(axis.source, device="cpu").detach().float()
        if features.ndim != 2:
            raise KindError(
                message(
                    "`source` is no spectrogram.",
                    {"source": features},
                    "Pass (mels, frames), or a wave form as (samples, rate).",
                )
            )
        # frames of the smallest number alone are silence that was put behind the end
        loud = (features > features.min()).any(dim=0).nonzero().flatten().tolist()
        frames = loud[-1] + 1 if loud else features.shape[1]
        return frames / _frames(features, axis) * seconds, None, features
    samples, rate = axis.source
    wave = torch.as_tensor(samples, device="cpu").detach().float()
    if wave.ndim != 1 or not len(wave):
        raise KindError(
            message(
                "The samples of `source` are no wave form.",
                {"samples": wave},
                "Pass (samples, rate) with samples (length,) of one channel.",
            )
        )
    return min(whole, len(wave) / rate), wave[: round(whole * rate)], None


def _frames(features: Tensor, axis: Axis) -> int:
    """How many frames a position has; the last one may have less."""
    return math.ceil(features.shape[1] / axis.count)


def _write_names(panel: Axes, labels: Sequence[str], seconds: float, end: float) -> None:
    """Write each name that several positions in a row have, and a line where the name changes."""
    names, first = list[tuple[str, float, float]](), 0
    for name, group in groupby(labels):
        count = len(list(group))
        if count > 1 and name.strip() and first * seconds < end:
            names.append((name.strip(), first * seconds, min((first + count) * seconds, end)))
        first += count
    families, missing = fonts("".join(name for name, _, _ in names))
    # Keyword arguments of matplotlib's own texts. A name may be "$", which is not a formula.
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families, "fontsize": TOKEN}
    per_point = end / (panel.figure.bbox.width / panel.figure.dpi * 72)
    lines = [0.0, 0.0]  # up to where each of two lines is written
    for name, begin, until in names:
        for time in (begin, until):
            panel.axvline(time, color=MARK, linewidth=0.7)
        middle, text = (begin + until) / 2, name.translate(missing)
        half = points(text, TOKEN) / 2 * per_point
        line = int(middle - half < lines[0])  # on the second one, if there is no room
        lines[line] = middle + half
        panel.text(middle, 1.05 + 0.22 * line, text, ha="center", va="bottom", **font)
