"""The scalings of RoPE: how its frequencies change so that a model reads longer texts.

Each is named as in its paper, or by what it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from wqkv.attend.forms import Form, tagged
from wqkv.doors import door
from wqkv.errors import ArgumentError


def plain_frequencies(theta: float, d: int) -> Tensor:
    """The angles per position of RoPE without a scaling, theta^(-2i / d): (d / 2,), float64."""
    # The power is taken in float32, as in all trained models: an error in the last digit of a
    # frequency turns token 6,000 by 7e-4 radians.
    frequencies: Tensor = 1 / theta ** (torch.arange(0, d, 2, device="cpu").float() / d)
    return frequencies.double()


@dataclass(frozen=True)
class RoPEScaling(Form):
    """Changes the frequencies of a RoPE, so that it reaches beyond the length it was trained with.

    A scaling of your own derives from this class and has `frequencies`.
    """

    #: How an error names what an argument of this type takes.
    said = "a scaling such as YaRN(...)"

    #: Whether the frequencies depend on the length of the text.
    by_length = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and not 0 < value < math.inf:
                raise ArgumentError(
                    f"`{field.name}` of {type(self).__name__} is {value}.\n"
                    "Pass a finite number above 0."
                )

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        """The frequencies to turn by, (d / 2,), float64.

        Args:
            plain: those without a scaling, theta^(-2i / d).
            length: of the whole text; only a scaling with `by_length` depends on it.
        """
        raise NotImplementedError

    def amplitude(self) -> float:
        """What cos and sin are multiplied by, so that scores grow by its square."""
        return 1.0


@door
@dataclass(frozen=True)
@tagged
class LinearScaling(RoPEScaling):
    """Position interpolation: frequency_i = theta^(-2i / d) / factor.

    Source: Chen et al. 2023 (arXiv:2306.15595).

    >>> LinearScaling(4.0).frequencies(torch.tensor([1.0, 0.1]), 100.0, 7)
    tensor([0.2500, 0.0250])
    """

    factor: float

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        return plain / self.factor


@door
@dataclass(frozen=True)
@tagged
class DynamicNTK(RoPEScaling):
    """A larger theta as soon as the text is longer than `trained_length`:

    theta' = theta * (factor * length / trained_length - (factor - 1))^(d / (d - 2)).

    Source: the NTK-aware scaling described in Peng et al. 2023 (arXiv:2309.00071), appendix B.

    >>> DynamicNTK(2.0, trained_length=4096)
    DynamicNTK(factor=2.0, trained_length=4096)
    """

    factor: float
    trained_length: int
    by_length = True

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        d = 2 * len(plain)
        times = max(length, self.trained_length) / self.trained_length
        theta = theta * (self.factor * times - (self.factor - 1)) ** (d / (d - 2))
        return plain_frequencies(theta, d)


@door
@dataclass(frozen=True)
@tagged
class YaRN(RoPEScaling):
    """Low frequencies are divided by `factor`, high ones stay, and a ramp joins the two.

    A channel pair keeps its frequency if it turns at least `beta_fast` times within
    `trained_length`, and has it divided by `factor` if it turns less than `beta_slow` times.

    Args:
        gain: what cos and sin are multiplied by; None is 0.1 ln(factor) + 1.
        truncate: whether the ends of the ramp are rounded to whole channel pairs.

    Source: Peng et al. 2023 (arXiv:2309.00071), eq. 23.

    >>> round(YaRN(4.0, trained_length=4096).amplitude(), 4)
    1.1386
    """

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    gain: float | None = None
    truncate: bool = True

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        d = 2 * len(plain)

        def channel(turns: float) -> float:
            """The pair, as a fraction, that turns so many times within trained_length."""
            return d / 2 * math.log(self.trained_length / (turns * 2 * math.pi), theta)

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)  # not d / 2 - 1: as in the published code
        pair = torch.arange(d // 2, dtype=torch.float64, device="cpu")
        ramp = ((pair - low) / max(high - low, 0.001)).clamp(0, 1)
        return plain / self.factor * ramp + plain * (1 - ramp)

    def amplitude(self) -> float:
        if self.gain is not None:
            return self.gain
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


@door
@dataclass(frozen=True)
@tagged
class Llama3Scaling(RoPEScaling):
    """Low frequencies are divided by `factor`, high ones stay, with a linear ramp between the two.

    Low are those with fewer than `low` turns in `trained_length`, high those with `high` and more.

    Source: the Llama 3.1 release (Grattafiori et al. 2024, arXiv:2407.21783, section 3.4.2).

    >>> Llama3Scaling(8.0, low=1.0, high=4.0, trained_length=8192).frequencies(
    ...     torch.tensor([1.0, 1e-4]), 5e5, 7)
    tensor([1.0000e+00, 1.2500e-05])
    """

    factor: float
    low: float
    high: float
    trained_length: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ArgumentError(
                f"Llama3Scaling has `low` {self.low} and `high` {self.high}.\nPass a lower `low`."
            )

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        turns = self.trained_length * plain / (2 * math.pi)
        smooth = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return plain * smooth + plain / self.factor * (1 - smooth)


@door
@dataclass(frozen=True)
@tagged
class LongRoPE(RoPEScaling):
    """One divisor per channel pair: out of `short` up to `trained_length`, out of `long` beyond.

    Args:
        factor: the longest length over the trained one.
        gain: what cos and sin are multiplied by; None is
            sqrt(1 + ln(factor) / ln(trained_length)).

    Source: Ding et al. 2024 (arXiv:2402.13753).

    >>> scaling = LongRoPE(short=[1.0, 2.0], long=[4.0, 8.0], trained_length=5)
    >>> scaling.frequencies(torch.tensor([1.0, 0.1]), 100.0, length=7)
    tensor([0.2500, 0.0125], dtype=torch.float64)
    """

    short: Sequence[float]
    long: Sequence[float]
    trained_length: int
    factor: float = 1.0
    gain: float | None = None
    by_length = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "short", tuple(self.short))
        object.__setattr__(self, "long", tuple(self.long))
        if not all(0 < divisor < math.inf for divisor in (*self.short, *self.long)):
            raise ArgumentError(
                f"LongRoPE has divisors {self.short} and {self.long}.\nPass finite numbers above 0."
            )

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        divisors = self.long if length > self.trained_length else self.short
        if len(divisors) != len(plain):
            raise ArgumentError(
                f"LongRoPE has {len(divisors)} divisors for {len(plain)} pairs of channels.\n"
                "Pass one per pair in `short` and in `long`."
            )
        return plain / torch.tensor(divisors, dtype=torch.float64, device="cpu")

    def amplitude(self) -> float:
        if self.gain is not None:
            return self.gain
        return math.sqrt(1 + math.log(max(self.factor, 1), self.trained_length))


@door
@dataclass(frozen=True)
@tagged
class GivenFrequencies(RoPEScaling):
    """The frequencies themselves, one per channel pair, whatever theta is.

    >>> GivenFrequencies([1.0, 0.1])
    GivenFrequencies(values=(1.0, 0.1))
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "values", tuple(self.values))
        if not all(map(math.isfinite, self.values)):
            raise ArgumentError(
                f"GivenFrequencies has frequencies {self.values}.\nPass finite numbers."
            )

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        if len(self.values) != len(plain):
            raise ArgumentError(
                f"GivenFrequencies has {len(self.values)} frequencies for {len(plain)} pairs of "
                "channels.\n"
                "Pass one per pair."
            )
        return torch.tensor(self.values, dtype=torch.float64, device="cpu")
