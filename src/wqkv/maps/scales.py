"""Scale: which color a number has in a picture, and what the legend says of it.

Three ways from numbers to colors: weights and what is not negative, by the square root; the weights
of one query on what it looked at, by a logarithm that lets an even head be seen; signed numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.maps.display import LIGHT, Color, color
from wqkv.maps.png import BLUE, NOT_A_NUMBER, ORANGE, address, png

WHITE: Color = (255, 255, 255)
#: The colors of an overlay: the more, the more of one ink lies on a picture or on white paper.
INK: tuple[Color, Color, Color] = (WHITE, (138, 168, 238), (20, 80, 220))
#: How many colors a picture has; one more is that of what is not a number.
COLORS = 255


class Scale(NamedTuple):
    """How numbers become levels from 0 to 1, and levels colors."""

    level: Callable[[Tensor], Tensor]
    ticks: tuple[tuple[float, str], ...]  # the numbers that a legend names, from below
    stops: tuple[Color, Color, Color]  # the colors of the levels 0, 1/2 and 1
    says: str  # what the colors mean, in short

    @property
    def signed(self) -> bool:
        """Whether it has numbers below 0; then the level of 0 is 1/2."""
        return self.ticks[0][0] < 0

    def marks(self) -> list[tuple[float, str]]:
        """The level of each number that the legend names, and its name."""
        values, names = zip(*self.ticks, strict=True)
        levels = self.levels(torch.tensor(values, device="cpu")).tolist()
        return list(zip(levels, names, strict=True))

    def levels(self, numbers: Tensor) -> Tensor:
        """The levels of numbers, from 0 to 1; NaN stays NaN."""
        return self.level(numbers.detach().float().cpu()).clamp(0, 1)

    def ink(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The color of the scale's end (..., 3), from 0 to 1, and how much of it lies there (...).

        Of NaN there is none.
        """
        low, _, high = (torch.tensor(stop, device="cpu") / 255 for stop in self.stops)
        share = self.levels(numbers)
        if self.signed:
            share = 2 * share - 1
        return torch.where(share[..., None] < 0, low, high), share.abs().nan_to_num(0)

    def colors(self) -> list[Color]:
        """COLORS colors from level 0 to level 1."""
        return [color(level / (COLORS - 1), self.stops) for level in range(COLORS)]

    def image(self, numbers: Tensor) -> str:
        """Numbers (height, width) as the address of a PNG, one pixel each."""
        pixels = self.levels(numbers).mul(COLORS - 1).round().nan_to_num(COLORS)
        return address(png(pixels, [*self.colors(), NOT_A_NUMBER]))


def up_to(end: float) -> Scale:
    """Numbers from 0 to `end`, by their square root: small ones would all look like 0."""
    # numbers of two digits, and each tick stands at the number that it names
    names = [f"{share * end:.2g}" for share in (0, 0.01, 0.1, 0.25, 0.5)]
    return Scale(
        lambda numbers: (numbers / end).clamp(min=0).sqrt(),
        (*((float(name), name) for name in names), (end, f"{end:.3g}")),
        LIGHT,
        f"from 0 to {end:.3g}, by the square root",
    )


#: Every picture of weights has this scale, whatever its largest weight is.
WEIGHTS = up_to(1)


def of_keys(n: int) -> Scale:
    """The weights of one query on n keys: log(1 + n w) / log(1 + n).

    Even weights are pale at any length, and all weight on one key is full.
    """
    ticks = [(0.0, "0"), *([(1 / n, f"even (1/{n})")] if n > 1 else []), (1.0, "1")]
    levels = [math.log1p(n * w) / math.log1p(n) for w, _ in ticks]
    for w in (0.01, 0.1):  # where there is room for them
        level = math.log1p(n * w) / math.log1p(n)
        if min(abs(level - other) for other in levels) > 0.07:
            ticks.append((w, f"{w:g}"))
    ticks.sort()
    return Scale(
        lambda numbers: torch.log1p(n * numbers.clamp(min=0)) / math.log1p(n),
        tuple(ticks),
        INK,
        "from 0 to 1, by log(1 + n w)",
    )


def signed(end: float) -> Scale:
    """Numbers from -`end` to `end`: orange is negative, blue is positive."""
    return Scale(
        lambda numbers: (numbers / end + 1) / 2,
        ((-end, f"{-end:.3g}"), (0, "0"), (end, f"{end:.3g}")),
        (ORANGE, WHITE, BLUE),
        f"orange: negative, blue: positive; {end:.3g} is the largest size",
    )


def scale_of(numbers: Sequence[Tensor]) -> Scale:
    """The scale of any numbers: `signed` where one is negative, else `up_to` the largest."""
    flat = [one.detach().float().cpu().nan_to_num(0, 0, 0).flatten() for one in numbers]
    every = torch.cat([*flat, torch.zeros(1, device="cpu")])
    end = float(every.abs().max()) or 1.0
    return signed(end) if float(every.min()) < 0 else up_to(end)
