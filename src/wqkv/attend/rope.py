"""Where a word stands: RoPE, which turns q and k by it, and the scalings that reach further.

Rotary position embeddings: Su et al. 2021 (arXiv:2104.09864), eq. 34. The scalings name theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from wqkv.attend.forms import Form, tagged
from wqkv.attend.geometry import check_held, is_whole
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, message
from wqkv.upstream import of_torch


@dataclass(frozen=True)
class Scaling(Form):
    """Changes RoPE's frequencies so that it reaches beyond the length it was trained for."""

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
        """The new frequencies (d / 2,), float64, from the plain ones theta^(-2i / d)."""
        raise NotImplementedError

    def gain(self) -> float:
        """What cos and sin are multiplied by."""
        return 1.0


@door
@dataclass(frozen=True)
@tagged
class Linear(Scaling):
    """Position interpolation: all frequencies divided by `factor`.

    Source: Chen et al. 2023 (arXiv:2306.15595).
    """

    factor: float

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        return plain / self.factor


@door
@dataclass(frozen=True)
@tagged
class DynamicNTK(Scaling):
    """A larger theta once the text is longer than `trained_length`.

    theta' = theta * (factor * length / trained_length - (factor - 1))^(d / (d - 2)).
    Source: the NTK-aware scaling described in Peng et al. 2023 (arXiv:2309.00071), appendix B.
    """

    factor: float
    trained_length: int
    by_length = True

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        d = 2 * len(plain)
        times = max(length, self.trained_length) / self.trained_length
        theta = theta * (self.factor * times - (self.factor - 1)) ** (d / (d - 2))
        return _plain(theta, d)


@door
@dataclass(frozen=True)
@tagged
class YaRN(Scaling):
    """Low frequencies interpolated, high ones kept, a ramp between.

    A channel pair is kept if it turns at least `beta_fast` times within `trained_length`, divided
    by `factor` if it turns less than `beta_slow` times. `gain_` overrides 0.1 ln(factor) + 1;
    `truncate` rounds the ramp's ends to whole channels.

    Source: Peng et al. 2023 (arXiv:2309.00071), eq. 23.
    """

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    gain_: float | None = None
    truncate: bool = True

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        d = 2 * len(plain)

        def channel(turns: float) -> float:
            return d / 2 * math.log(self.trained_length / (turns * 2 * math.pi), theta)

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        ramp = (torch.arange(d // 2, dtype=torch.float64, device="cpu") - low) / max(
            high - low, 0.001
        )
        ramp = ramp.clamp(0, 1)
        return plain / self.factor * ramp + plain * (1 - ramp)

    def gain(self) -> float:
        if self.gain_ is not None:
            return self.gain_
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


@door
@dataclass(frozen=True)
@tagged
class Llama3(Scaling):
    """Pairs with fewer than `low` turns in `trained_length` divided by `factor`, from `high` kept.

    Source: the Llama 3.1 release (Grattafiori et al. 2024, arXiv:2407.21783, section 3.4.2).
    """

    factor: float
    low: float
    high: float
    trained_length: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ArgumentError(
                f"Llama3 has `low` {self.low} and `high` {self.high}.\nPass a lower `low`."
            )

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        turns = self.trained_length * plain / (2 * math.pi)
        smooth = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return plain * smooth + plain / self.factor * (1 - smooth)


@door
@dataclass(frozen=True)
@tagged
class LongRoPE(Scaling):
    """One divisor a channel pair: `short` up to trained_length, `long` beyond.

    `factor` is the ratio of the longest to the trained length; the gain is
    sqrt(1 + ln(factor) / ln(trained_length)) unless `gain_` says otherwise.

    Source: Ding et al. 2024 (arXiv:2402.13753).
    """

    short: Sequence[float]
    long: Sequence[float]
    trained_length: int
    factor: float = 1.0
    gain_: float | None = None
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
                "Pass one a pair in `short` and in `long`."
            )
        return plain / torch.tensor(divisors, dtype=torch.float64, device="cpu")

    def gain(self) -> float:
        if self.gain_ is not None:
            return self.gain_
        return math.sqrt(1 + math.log(max(self.factor, 1), self.trained_length))


@door
@dataclass(frozen=True)
@tagged
class Given(Scaling):
    """Frequencies as they are, one a channel pair, whatever theta is."""

    values: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "values", tuple(self.values))
        if not all(map(math.isfinite, self.values)):
            raise ArgumentError(f"Given has frequencies {self.values}.\nPass finite numbers.")

    def frequencies(self, plain: Tensor, theta: float, length: int) -> Tensor:
        if len(self.values) != len(plain):
            raise ArgumentError(
                f"Given has {len(self.values)} frequencies for {len(plain)} pairs of channels.\n"
                "Pass one a pair."
            )
        return torch.tensor(self.values, dtype=torch.float64, device="cpu")


@door
@dataclass(frozen=True)
@tagged
class RoPE(Form):
    """Rotates q and k by their positions: a score depends on the difference only.

    Pair i of a vector at position p turns by the angle p * theta^(-2i / d):
    (a, b) -> (a cos - b sin, a sin + b cos), in float32 (float64 for float64).

    Args:
        theta: the base of the frequencies.
        d: how many leading channels turn (None: all). The rest passes unchanged.
        interleaved: False pairs channel i with i + d/2 (Llama, NeoX); True pairs 2i with 2i + 1
            (the paper, GPT-J). A checkpoint works with its own pairing only.
        scaling: Linear, DynamicNTK, YaRN, Llama3, LongRoPE or Given.
        axes: for words that stand in a plane or a film: the axis of the position that turns each
            channel pair. Positions then are (axis, n) or (axis, batch, n); a word of plain text
            stands at the same number on every axis. `RoPE.grid` makes the usual two-dimensional
            one, and (0,) * 16 + (1,) * 24 + (2,) * 24 is one in sections.

    >>> RoPE().rotate(torch.ones(2, 3, 5, 8), torch.arange(5)).shape
    torch.Size([2, 3, 5, 8])
    """

    theta: float = 10000.0
    d: int | None = None
    interleaved: bool = False
    scaling: Scaling | None = None
    axes: Sequence[int] | None = None

    @classmethod
    def grid(cls, d: int, theta: float = 10000.0, axes: int = 2) -> RoPE:
        """As many pairs for every axis, each with the frequencies theta^(-2i / (d / axes)).

        >>> RoPE.grid(8).axes
        (0, 0, 1, 1)
        """
        if axes < 1 or d < 1 or d % (2 * axes):
            raise ArgumentError(
                f"{d} channels do not make pairs for {axes} axes.\n"
                f"Pass a multiple of {2 * max(axes, 1)}, and 1 axis or more."
            )
        plain = tuple(_plain(theta, d // axes).tolist())
        pairs = tuple(axis for axis in range(axes) for _ in plain)
        return cls(theta, d, scaling=Given(plain * axes), axes=pairs)

    def __post_init__(self) -> None:
        if not 0 < self.theta < math.inf:
            raise ArgumentError(
                f"RoPE's `theta` is {self.theta}; the base of the frequencies is above 0."
            )
        if self.d is not None and (self.d < 2 or self.d % 2):
            raise ArgumentError(
                f"RoPE's `d` is {self.d}, but channels turn in pairs.\nPass an even number from 2."
            )
        if self.axes is not None:
            object.__setattr__(self, "axes", tuple(self.axes))
        if self.axes is not None and min(self.axes, default=0) < 0:
            raise ArgumentError(f"RoPE's `axes` are {self.axes}.\nPass numbers from 0.")
        if self.axes is not None and self.d != 2 * len(self.axes):
            raise ArgumentError(
                f"RoPE's `axes` names {len(self.axes)} pairs of channels, and `d` is {self.d}.\n"
                f"Pass d={2 * len(self.axes)}."
            )

    def rotate(self, x: Tensor, position: Tensor, length: int | None = None) -> Tensor:
        """x (batch, head, n, d_k) turned by `position`, (n,) or (batch, n).

        `length` is that of the whole text, for scalings that depend on it; None means the
        largest position + 1.
        """
        cos, sin = self.turns(x, position, length)
        pairs = zip(reversed(cos.shape[:-1]), reversed(x.shape[:-1]), strict=False)
        if cos.ndim > x.ndim or any(have not in (1, size) for have, size in pairs):
            raise ArgumentError(
                message(
                    f"`position` has shape {tuple(position.shape)}, and `x` {tuple(x.shape)}.",
                    {"x": x, "position": position},
                    "Pass (n,) or (batch, n), and with `axes` one of them an axis.",
                )
            )
        return rotate(x, cos, sin, interleaved=self.interleaved)

    def turns(
        self, x: Tensor, position: Tensor, length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The cos and sin that `rotate` turns x by: (n, d / 2), or (batch, 1, n, d / 2)."""
        d = self._channels(x)
        came: dict[str, object] = {"x": x, "position": position}
        if not is_whole(position):
            raise KindError(message("A position is a whole number.", came, "Pass integers."))
        check_held("position", position, x.device)
        if self.axes is not None and position.ndim > 1 and len(position) <= max(self.axes):
            raise ArgumentError(
                message(
                    f"RoPE turns by {max(self.axes) + 1} axes, and a position has {len(position)}.",
                    came,
                    "Pass (axis, n) or (axis, batch, n).",
                )
            )
        if self._by_length and length is None:
            length = int(position.max()) + 1 if position.numel() else 0
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        by_length = length if self._by_length and length else 0
        if _lasts(x):
            (frequency,) = _remember(_kept, 256, (self, d, by_length), _frequencies)
        else:
            (frequency,) = _frequencies(self, d, by_length)
        frequency = frequency.to(x.device)
        place = position.to(x.device, dtype)
        if self.axes is None or position.ndim == 1:
            angle = place[..., None] * frequency.to(dtype)
        else:
            angle = place[list(self.axes)].movedim(0, -1) * frequency.to(dtype)
        if angle.ndim == 3:
            angle = angle[:, None]
        gain = self.scaling.gain() if self.scaling else 1.0
        if gain == 1.0:
            return angle.cos(), angle.sin()
        return angle.cos() * gain, angle.sin() * gain

    def span(self, x: Tensor, first: int, n: int, length: int) -> tuple[Tensor, Tensor]:
        """`turns` of the n positions from `first` on, from a table that is kept."""
        if not (_lasts(x) and first >= 0 and first + n <= LONGEST):  # a graph is asked no length
            return self.turns(x, torch.arange(first, first + n, device=x.device), length)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        size = 1 << (first + n - 1).bit_length() if first + n else 0
        by_length = length if self._by_length else 0
        which = (self, self._channels(x), size, by_length, dtype, x.device)
        cos, sin = _remember(_tables, 8, which, _table)
        return cos[first : first + n], sin[first : first + n]

    def _channels(self, x: Tensor) -> int:
        if not x.ndim or not x.is_floating_point():
            raise ArgumentError(
                message("RoPE turns vectors of floats.", {"x": x}, "Pass (batch, head, n, d_k).")
            )
        d = x.shape[-1] if self.d is None else self.d
        if d > x.shape[-1] or d % 2:
            raise ArgumentError(
                message(
                    f"RoPE turns {d} channels, which does not fit {x.shape[-1]}.",
                    {"x": x},
                    f"Pass RoPE(d=...) with an even number up to {x.shape[-1]}.",
                )
            )
        return d

    @property
    def _by_length(self) -> bool:
        return self.scaling is not None and self.scaling.by_length


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Pairs of x's leading channels turned: (a, b) -> (a cos - b sin, a sin + b cos).

    cos and sin are (..., d / 2) and broadcast to x's other axes: d channels turn, in float32
    (float64 for float64), and the rest passes unchanged. `interleaved` pairs them as RoPE's does.

    >>> quarter = torch.tensor([0.0]), torch.tensor([1.0])
    >>> rotate(torch.tensor([1.0, 0.0, 5.0]), *quarter)
    tensor([0., 1., 5.])
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    d = 2 * cos.shape[-1]
    cos, sin = cos.to(dtype), sin.to(dtype)
    turned, kept = x[..., :d].to(dtype), x[..., d:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = turned.chunk(2, dim=-1)
        out = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    out = out.to(x.dtype)
    return out if d == x.shape[-1] else torch.cat((out, kept), dim=-1)


def _lasts(x: Tensor) -> bool:
    """Whether x holds numbers that stay: not while a graph is traced, nor in a fake tensor."""
    return type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def _remember(
    kept: dict[Any, tuple[Tensor, ...]],
    most: int,
    key: tuple[Any, ...],
    make: Callable[..., tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """make(*key), made once and kept, at most `most` of them.

    What is made in a FakeTensorMode, or inside a transform of torch.func, belongs to it: kept, it
    would turn up in every later call of the process.
    """
    found = kept.get(key)
    if found is None:
        found = make(*key)
        if all(_lasts(x) and not of_torch.is_wrapped(x) for x in found):
            if len(kept) >= most:
                kept.pop(next(iter(kept)), None)
            kept[key] = found
    return found


def _frequencies(rope: RoPE, d: int, length: int) -> tuple[Tensor]:
    plain = _plain(rope.theta, d)
    if rope.scaling is not None:
        plain = rope.scaling.frequencies(plain, rope.theta, length)
    # float32 before it meets a position, as in all trained models: float64 differs at 100,000
    return (plain.to(torch.float32),)


_kept: dict[Any, tuple[Tensor, ...]] = {}
_tables: dict[Any, tuple[Tensor, ...]] = {}

#: The most positions whose cos and sin are kept.
LONGEST = 2**16


def _table(
    rope: RoPE, d: int, size: int, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        like = torch.empty(0, d, dtype=dtype, device=device)
        return rope.turns(like, torch.arange(size, device=device), length)


def _plain(theta: float, d: int) -> Tensor:
    # A power of float32, as in all trained models: one last digit turns word 6,000 by 7e-4.
    frequencies: Tensor = 1 / theta ** (torch.arange(0, d, 2, device="cpu").float() / d)
    return frequencies.double()
