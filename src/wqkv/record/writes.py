"""What the heads of a watched layer write: through WO, the last norm and the output matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wqkv.errors import ArgumentError
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.weights import aside
from wqkv.record.captured import Refusal
from wqkv.record.layer_runs import LayerRuns
from wqkv.record.write_path import WritePath

#: How many rows of the output matrix are compared with what it does.
LOOKED = 64


class TokenPart(NamedTuple):
    """A token and its part of a logit."""

    token: int  # its id in the vocabulary, or its position in the text
    part: float


@dataclass(frozen=True)
class HeadWrite:
    """What one head writes at one token.

    `part` is what it adds to the logit that was asked about, and `share` the same as a share of the
    total, which says little where that is near 0. It raises and lowers the logits of the
    vocabulary's tokens `raised` and `lowered` most. `sources` are the tokens of the text that it
    read most of `part` from, by falling |part|; only the parts of all tokens sum to it.
    """

    head: int
    part: float
    share: float
    raised: tuple[TokenPart, ...]
    lowered: tuple[TokenPart, ...]
    sources: tuple[TokenPart, ...]


@dataclass(frozen=True)
class LayerWrites:
    """What the heads of one layer write at one token; see `Seen.writes`.

    `total` is the logit of `answer`, less that of `against`, without the biases of the last norm
    and the output matrix: the sum of what the embedding and all layers write. `off` is the largest
    difference between the part of a head and the sum over all its source tokens.
    """

    layer: int
    at: int
    answer: int
    against: int | None
    total: float
    heads: tuple[HeadWrite, ...]
    off: float


class WriteQuestion(NamedTuple):
    """What is asked: at which token of which sample, of which logits, and how many tokens."""

    layer: int
    at: int
    sample: int
    answer: int | None
    against: int | None
    k: int


def head_writes(path: WritePath, one: LayerRuns, ask: WriteQuestion) -> LayerWrites:
    """What the heads of a layer write, as `Seen.writes` says.

    Raises:
        ArgumentError: no such sample, row or token.
        Refusal: what stands between its heads and the logits is not known, or is not linear.
    """
    run = one.runs[-1]
    weights, backward = run.map(), run.backward
    assert isinstance(weights, AttentionMap)
    if backward is None:
        raise Refusal(run.without_effects or "its v and its output were not kept")
    value, output = backward.value, backward.output
    assert value is not None
    assert output is not None
    sample = _within("sample", ask.sample, weights.shape[0])
    at = _within("row", ask.at, weights.shape[2])
    with aside(output.device):
        try:
            way = WayOut.of(path, one, output)
        except RuntimeError as error:
            # Offloaded and sharded weights are there only while the model runs, and of quantized
            # ones there may be no rows.
            raise Refusal(
                "WO, the last norm or the output matrix cannot be used by itself, as where weights "
                f"are offloaded, sharded or quantized: {str(error).partition(chr(10))[0]}"
            ) from error
        x, heads = way.stream[sample, at], output[sample, :, at].to(way.WO.dtype)
        logits = way.matrix(way.norm(x[None]))[0]
        answer = int(logits.argmax()) if ask.answer is None else ask.answer
        direction = way.row(answer)
        if ask.against is not None:
            direction = direction - way.row(ask.against)
        norm = frozen(way.norm, x, way.dtype)
        u = norm.before(direction)
        written = torch.einsum("hd,hdm->hm", heads, way.WO)
        parts, total = written @ u, x @ u
        changes = way.matrix(norm.of(written)) - way.matrix(torch.zeros_like(x[None]))
        sources = weights.split(value, way.WO, u)[sample, :, at]
        found = [
            HeadWrite(
                head,
                float(parts[head]),
                float(parts[head] / total),
                _strongest(changes[head], changes[head], ask.k),
                _strongest(changes[head], -changes[head], ask.k),
                _strongest(sources[head], sources[head].abs(), ask.k),
            )
            for head in range(len(parts))
        ]
        off = float((sources.sum(dim=-1) - parts).abs().max())
        return LayerWrites(ask.layer, at, answer, ask.against, float(total), tuple(found), off)


@dataclass(frozen=True)
class WayOut:
    """From the heads of a layer to the logits, in float32 (float64 for float64).

    `stream` is what the last norm reads, (batch, length, d_model), `WO` is (n_head, d_v, d_model),
    and `rows` are those of the output matrix, (vocabulary, d_model).
    """

    stream: Tensor
    WO: Tensor
    norm: Callable[[Tensor], Tensor]
    matrix: Callable[[Tensor], Tensor]
    rows: Tensor
    dtype: torch.dtype  # of the model's own numbers

    @classmethod
    def of(cls, path: WritePath, one: LayerRuns, output: Tensor) -> WayOut:
        """The way out of a layer whose heads returned an output (batch, n_head, length, d_v).

        Raises:
            Refusal: it is not known, or is not linear but for the norm.
        """
        if path.matrix is None:
            raise Refusal("the model has no output matrix, which `get_output_embeddings` returns")
        if path.norm is None:
            raise Refusal("the model has no last norm, which is one outside of its layers")
        if one.module not in path.WO or one.module in path.other:
            why = path.other.get(one.module, "nothing reads what its heads return")
            raise Refusal(f"its WO is not known: {why}")
        batch, n_head, length, d_v = output.shape
        stream, final = path.stream, path.final
        read = None if stream is None else tuple(stream.shape[:2])
        if one.kind == "encoder" or stream is None or final is None or read != (batch, length):
            raise Refusal(
                f"it writes to {batch} x {length} tokens, and the last norm has read "
                f"{'none' if read is None else ' x '.join(map(str, read))} of a decoder"
            )
        exact = torch.promote_types(output.dtype, torch.float32)
        norm, matrix = _in(stream.dtype, path.norm), _in(final.dtype, path.matrix)
        # Some models give the output matrix their last token alone.
        last = final[:, -1].to(exact)
        if not _close(norm(stream[:, -1].to(exact)), last, final.dtype):
            raise Refusal("its last norm does not return what the output matrix reads")
        rows: object = getattr(path.matrix, "weight", None)
        nothing = torch.zeros_like(last)
        if not isinstance(rows, Tensor) or rows.shape[1:] != last.shape[1:]:
            raise Refusal(f"its output matrix is a {type(path.matrix).__name__} without a matrix")
        some = rows[:LOOKED].to(last)  # not all, which may be gigabytes
        theirs = (matrix(last) - matrix(nothing))[:, :LOOKED]
        if not _close(last @ some.mT, theirs, final.dtype):
            raise Refusal(f"its output matrix, a {type(path.matrix).__name__}, adds to its matrix")
        made = _in(output.dtype, path.WO[one.module])
        heads = output[:, :, -1].flatten(1).to(exact)
        none = made(torch.zeros_like(heads))
        units = torch.eye(n_head * d_v, dtype=exact, device=output.device)
        WO = made(units) - none[:1]
        if not _close(heads @ WO, made(heads) - none, output.dtype):
            raise Refusal(f"its WO, a {type(path.WO[one.module]).__name__}, is not linear")
        WO = WO.unflatten(0, (n_head, d_v))
        return cls(stream.to(exact), WO, norm, matrix, rows, stream.dtype)

    def row(self, token: int) -> Tensor:
        """The row of the output matrix that makes the logit of a token."""
        if not 0 <= token < len(self.rows):
            raise ArgumentError(
                f"There is no token id {token}: there are {len(self.rows)}, 0 to "
                f"{len(self.rows) - 1}."
            )
        return self.rows[token].to(self.stream)


class FrozenNorm(NamedTuple):
    """A norm with the scale that it has at one x: gain * x, or gain * (x - mean of x), + bias.

    With its scale as it is there it is linear, and the parts of x sum to what it returns. Its
    derivative would not do: along x it is 0, and the parts would sum to 0. Nor would the norm of
    each part alone, which makes all parts one size.
    """

    gain: Tensor  # (d_model,)
    centers: bool

    def of(self, parts: Tensor) -> Tensor:
        """What parts (..., d_model) of x add to what the norm returns."""
        return self.gain * (_centered(parts) if self.centers else parts)

    def before(self, direction: Tensor) -> Tensor:
        """The direction u before the norm, so that x . u is what x adds along a direction."""
        u = self.gain * direction
        return _centered(u) if self.centers else u


def frozen(norm: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> FrozenNorm:
    """A norm as it is at x (d_model,); it computes in a dtype.

    Its gain is found by what it makes of numbers so large that its eps is nothing beside them.

    Raises:
        Refusal: it is no norm of x / rms(x), nor of x - mean(x).
    """
    large = torch.full_like(x, 2.0**10)
    flat = large.clone()
    large[::2] *= -1
    made = norm(torch.stack((torch.zeros_like(x), flat, large, x)))
    of_flat, of_large, of_x = made[1:] - made[0]
    centers = bool(of_flat.abs().max() <= _rounding(dtype) * of_large.abs().max())
    if centers:
        large, x = _centered(large), _centered(x)
    gain = of_large / large * large.square().mean().sqrt()
    y = gain * x
    scale = (y @ of_x) / y.square().sum()
    if not _close(scale * y, of_x, dtype):
        raise Refusal("its last norm is none of x / rms(x) or of x - mean(x)")
    return FrozenNorm(scale * gain, centers)


def _centered(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)


def _in(dtype: torch.dtype, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A module that computes in one dtype, as a function of numbers in any."""
    return lambda x: module(x.to(dtype)).to(x.dtype)


def _rounding(dtype: torch.dtype) -> float:
    """What two sums in a dtype may differ by, as a share of the largest number."""
    # Models in float64 keep some numbers in float32.
    return 64 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    return bool((ours - theirs).abs().max() <= _rounding(dtype) * theirs.abs().max())


def _within(name: str, place: int, size: int) -> int:
    """A place, which may count from the end as -1, as one that counts from 0."""
    if not -size <= place < size:
        raise ArgumentError(f"There is no {name} {place}: there are {size}, 0 to {size - 1}.")
    return place % size


def _strongest(parts: Tensor, rank: Tensor, k: int) -> tuple[TokenPart, ...]:
    """The k parts that rank highest; those of 0 are none."""
    at = rank.topk(min(k, len(rank))).indices
    found = zip(at.tolist(), parts[at].tolist(), strict=True)
    return tuple(TokenPart(token, part) for token, part in found if part)
