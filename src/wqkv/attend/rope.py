"""RoPE, which turns q and k by the positions of their tokens.

Rotary position embeddings: Su et al. 2021 (arXiv:2104.09864), eq. 34.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wqkv.attend.forms import Form, tagged
from wqkv.attend.geometry import check_held, is_whole
from wqkv.attend.scalings import GivenFrequencies, RoPEScaling, plain_frequencies
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, message
from wqkv.upstream import of_torch

#: Tensors that are kept for the whole process, by the arguments that they are made from.
Memo = dict[tuple[Hashable, ...], tuple[Tensor, ...]]


@door
@dataclass(frozen=True)
@tagged
class RoPE(Form):
    """Rotates q and k by their positions, so that a score depends on their difference alone.

    Pair i of a vector at position p turns by the angle p * theta^(-2i / d):
    (a, b) -> (a cos - b sin, a sin + b cos), in float32 (float64 for float64).

    Args:
        theta: the base of the frequencies.
        d: how many leading channels turn (None: all). The rest passes unchanged.
        interleaved: False pairs channel i with i + d/2 (Llama, NeoX); True pairs 2i with 2i + 1
            (the paper, GPT-J). A checkpoint works with its own pairing only.
        scaling: LinearScaling, DynamicNTK, YaRN, Llama3Scaling, LongRoPE or GivenFrequencies.
        axes: for tokens of a picture or a film, the axis whose position turns each channel pair.
            Positions then are (axis, n) or (axis, batch, n); a token of plain text has the same
            number on every axis. `RoPE.grid` makes the usual two-dimensional one, and
            (0,) * 16 + (1,) * 24 + (2,) * 24 is one in sections.

    Raises:
        ArgumentError, KindError: a number that cannot be, or axes that do not fit `d`.

    Source: Su et al. 2021 (arXiv:2104.09864), eq. 34.

    >>> RoPE().rotate(torch.ones(2, 3, 5, 8), torch.arange(5)).shape
    torch.Size([2, 3, 5, 8])
    """

    theta: float = 10000.0
    d: int | None = None
    interleaved: bool = False
    scaling: RoPEScaling | None = None
    axes: Sequence[int] | None = None

    @classmethod
    def grid(cls, d: int, theta: float = 10000.0, axes: int = 2) -> RoPE:
        """RoPE with equally many pairs for every axis, of the frequencies theta^(-2i / (d / axes)).

        >>> RoPE.grid(8).axes
        (0, 0, 1, 1)
        """
        if axes < 1 or d < 1 or d % (2 * axes):
            raise ArgumentError(
                f"{d} channels do not make pairs for {axes} axes.\n"
                f"Pass a multiple of {2 * max(axes, 1)}, and 1 axis or more."
            )
        plain = tuple(plain_frequencies(theta, d // axes).tolist())
        pairs = tuple(axis for axis in range(axes) for _ in plain)
        return cls(theta, d, scaling=GivenFrequencies(plain * axes), axes=pairs)

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
        """Turn x (batch, head, n, d_k) by `position`, (n,) or (batch, n).

        Args:
            length: of the whole text, for scalings that depend on it; None means the largest
                position + 1.
        """
        cos, sin = self.turns(x, position, length)
        pairs = zip(reversed(cos.shape[:-1]), reversed(x.shape[:-1]), strict=False)
        if cos.ndim > x.ndim or any(have not in (1, size) for have, size in pairs):
            raise ArgumentError(
                message(
                    f"`position` has shape {tuple(position.shape)}, and `x` {tuple(x.shape)}.",
                    {"x": x, "position": position},
                    "Pass (n,) or (batch, n), and with `axes` one of them per axis.",
                )
            )
        return rotate(x, cos, sin, interleaved=self.interleaved)

    def turns(
        self, x: Tensor, position: Tensor, length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The cos and sin of `rotate`: (n, d / 2), or (batch, 1, n, d / 2)."""
        d = self._channels(x)
        came = {"x": x, "position": position}
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
            (frequency,) = _remember(_kept_frequencies, 256, (self, d, by_length), _frequencies)
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
        gain = self.scaling.amplitude() if self.scaling else 1.0
        if gain == 1.0:
            return angle.cos(), angle.sin()
        return angle.cos() * gain, angle.sin() * gain

    def span(self, x: Tensor, first: int, n: int, length: int) -> tuple[Tensor, Tensor]:
        """The `turns` of the n positions from `first` on, read from a table that is kept.

        The table spares every layer and step of a model its own cos and sin.
        """
        # `_lasts` first: comparing a length would make torch.compile specialize on it
        if not (_lasts(x) and first >= 0 and first + n <= TABLE_LENGTH):
            return self.turns(x, torch.arange(first, first + n, device=x.device), length)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        size = 1 << (first + n - 1).bit_length() if first + n else 0  # next power of two
        by_length = length if self._by_length else 0
        which = (self, self._channels(x), size, by_length, dtype, x.device)
        cos, sin = _remember(_kept_tables, 8, which, _table)
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
    """Turn pairs of x's leading channels: (a, b) -> (a cos - b sin, a sin + b cos).

    cos and sin are (..., d / 2) and broadcast to x's other axes. The first d channels turn, in
    float32 (float64 for float64); the rest passes unchanged. `interleaved` is RoPE's.

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


def pair_sums(x: Tensor, rope: RoPE) -> Tensor:
    """The sum of x over the two channels of each pair that `rope` turns: (..., d / 2).

    Where it turns some channels alone, one more number is the sum over all others.
    """
    d = rope._channels(x)
    turned, kept = x[..., :d], x[..., d:]
    pairs = turned.unflatten(-1, (d // 2, 2) if rope.interleaved else (2, d // 2))
    sums = pairs.sum(dim=-1 if rope.interleaved else -2)
    return sums if d == x.shape[-1] else torch.cat((sums, kept.sum(dim=-1, keepdim=True)), dim=-1)


def _lasts(x: Tensor) -> bool:
    """Whether tensors made from x may be kept: x is not fake, and no graph is being traced."""
    return type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def _remember(
    kept: Memo,
    most: int,
    key: tuple[Hashable, ...],
    make: Callable[..., tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """Return make(*key), which is made once and kept in `kept`, at most `most` of them.

    A tensor that is made in a FakeTensorMode or inside a transform of torch.func is not kept,
    because every later call of the process would be given it.
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
    """The angles per position of d channels, (d / 2,), in a text of `length` tokens."""
    plain = plain_frequencies(rope.theta, d)
    if rope.scaling is not None:
        plain = rope.scaling.frequencies(plain, rope.theta, length)
    # float32 before it meets a position, as in all trained models: float64 differs at 100,000
    return (plain.to(torch.float32),)


_kept_frequencies: Memo = {}
_kept_tables: Memo = {}

#: The most positions whose cos and sin are kept in a table.
TABLE_LENGTH = 2**16


def _table(
    rope: RoPE, d: int, size: int, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    # a tensor that is made in inference mode could not be saved for a later backward pass
    with torch.inference_mode(False), torch.no_grad():
        like = torch.empty(0, d, dtype=dtype, device=device)
        return rope.turns(like, torch.arange(size, device=device), length)
