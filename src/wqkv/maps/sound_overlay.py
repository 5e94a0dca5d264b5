"""Numbers drawn on a sound: colors along its time, under its wave form or its spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wqkv.errors import KindError, message
from wqkv.fonts import fonts
from wqkv.maps.axis import Axis
from wqkv.maps.pictures import color_map
from wqkv.maps.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: How many steps along the time a wave form is drawn with, and the color of its ink: it is seen on
#: the palest color of a scale and on the deepest.
STEPS, INK = 1000, "#7d7d7d"
#: The height that the colors have below a spectrogram, of a panel from -1 to 1.
STRIP = 0.4


def draw_sound(
    panel: Axes, numbers: Tensor, axis: Axis, scale: Scale, smooth: bool = False
) -> None:
    """Draw one number per position of a sound as colors along the time, in seconds.

    Behind its wave form, or below its spectrogram, stands at each time the color of the position
    that covers it. A name that several positions in a row have, such as that of a word, is written
    over them. The panel ends where the sound does, also where a model was given silence behind it;
    what the numbers there sum to is said below.

    Args:
        panel: of matplotlib.
        axis: with `seconds`, and as `source` a wave form (samples, rate), features (mels, frames),
            or None.
        smooth: interpolate between the centers of the positions.

    Raises:
        KindError: a source of another shape.
    """
    assert axis.seconds is not None
    cells = axis.cells(numbers.detach().float().cpu())
    whole = axis.count * axis.seconds
    end, wave, features = _source(axis, whole)
    top = 1.0 if features is None else STRIP - 1
    if features is not None:
        panel.imshow(
            features.numpy(), extent=(0, end, top, 1), aspect="auto", cmap="gray_r", origin="lower"
        )
    panel.imshow(
        scale.levels(cells)[None].numpy(),
        extent=(0, whole, -1, top),
        aspect="auto",
        cmap=color_map(scale),
        vmin=0,
        vmax=1,
        interpolation="bilinear" if smooth else "nearest",
    )
    if wave is not None:
        low, high = _envelope(wave)
        time = torch.linspace(0, end, len(low), device="cpu").numpy()
        panel.fill_between(time, low.numpy(), high.numpy(), color=INK, linewidth=0.5)
    panel.set_xlim(0, end)
    panel.set_ylim(-1, 1)
    panel.set_yticks([])
    behind = float(cells[round(end / axis.seconds) :].nan_to_num(0).sum())
    more = f" ({behind:.3g} stands behind the end)" if behind > 0.0005 else ""
    panel.set_xlabel(f"seconds{more}", fontsize=8)
    panel.tick_params(labelsize=8)
    _write_names(panel, axis.labels, axis.seconds, end)


def _source(axis: Axis, whole: float) -> tuple[float, Tensor | None, Tensor | None]:
    """When the sound ends, and its samples (length,), or its features (mels, frames)."""
    if axis.source is None:
        return whole, None, None
    if not isinstance(axis.source, tuple):
        features = torch.as_tensor(axis.source).detach().float().cpu()
        if features.ndim != 2:
            raise KindError(
                message(
                    "`source` is no spectrogram.",
                    {"source": features},
                    "Pass (mels, frames), or a wave form as (samples, rate).",
                )
            )
        return whole, None, features
    samples, rate = axis.source
    wave = torch.as_tensor(samples).detach().float().cpu()
    if wave.ndim != 1 or not len(wave):
        raise KindError(
            message(
                "The samples of `source` are no wave form.",
                {"samples": wave},
                "Pass (samples, rate) with samples (length,) of one channel.",
            )
        )
    return min(whole, len(wave) / rate), wave[: round(whole * rate)], None


def _envelope(wave: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest sample of each step, of a wave form from -1 to 1."""
    wave = wave / wave.abs().max().clamp(min=1e-12)
    steps = min(STEPS, len(wave))
    of = torch.arange(len(wave), device="cpu") * steps // len(wave)
    low, high = (
        torch.zeros(steps, device="cpu").scatter_reduce(0, of, wave, kind, include_self=False)
        for kind in ("amin", "amax")
    )
    return low, high


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
    font: dict[str, Any] = {"parse_math": False, "fontfamily": families, "fontsize": 8}
    for name, begin, until in names:
        for time in (begin, until):
            panel.axvline(time, color="#d95f02", linewidth=0.7)
        middle, text = (begin + until) / 2, name.translate(missing)
        panel.text(middle, 1.04, text, ha="center", va="bottom", **font)
