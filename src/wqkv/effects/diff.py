"""KL(A || B), head by head and row by row: how two models differ in where they look."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, describe
from wqkv.layer.caches.quantized import Quantized
from wqkv.maps.attention_map import AttentionMap, map_of
from wqkv.sentences import say
from wqkv.sentences.diff import HOW
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress, silent
from wqkv.study.heads import record_maps
from wqkv.study.model import OpenModel

#: How many tokens a Diff lists, and for a row how many keys.
LISTED_TOKENS, LISTED_KEYS = 20, 3
#: KL is a difference of numbers of the size of lse: at or below this share of 1 + max |lse| it is
#: rounding.
ROUNDING = 1e-5

#: A function that returns a context in which the first model computes as the second one.
Switch: TypeAlias = Callable[[], AbstractContextManager[object]]
Maps: TypeAlias = tuple[tuple[AttentionMap, AttentionMap], ...]


class MovedKey(NamedTuple):
    """The weights that one row puts on token `key` in A and in B."""

    key: int
    a: float
    b: float


@dataclass(frozen=True)
class RowDiff:
    """One row: token `query` in one head.

    `keys` are those where most weight moved, the most first, at most LISTED_KEYS.
    """

    layer: int
    head: int
    query: int
    kl: float
    keys: tuple[MovedKey, ...]


@dataclass(frozen=True)
class HeadDiff:
    """One head: its mean KL over all rows, and the row where KL is largest."""

    layer: int
    head: int
    mean: float
    rounding: float  # a KL up to here is rounding
    largest: RowDiff

    @property
    def below_rounding(self) -> bool:
        """Whether nothing but rounding was found, in any row."""
        return self.largest.kl <= self.rounding


@dataclass(frozen=True)
class TokenDiff:
    """One token: its mean KL over all heads, and its row in the head where KL is largest.

    A KL that is rounding counts as 0.
    """

    query: int
    mean: float
    largest: RowDiff


@door
@dataclass(frozen=True)
class Diff:
    """How two models differ in where they look, on one text; see `diff`. All KL are in nats.

    `kl[layer, head, query]` is KL(A || B) of a row, and `rounding[layer, head]` the KL up to which
    it is rounding. `heads` are all heads by falling mean; behind them stand those with nothing but
    rounding. `rows` are the tokens where the models differ most, at most LISTED_TOKENS.
    `maps[layer]` are the maps of A and of B, each (1, n_head, n, n) and never built.
    """

    a: str
    b: str
    how: str  # what was compared, in a sentence
    tokens: tuple[str, ...]
    kl: Tensor  # (n_layer, n_head, n)
    rounding: Tensor  # (n_layer, n_head)
    heads: tuple[HeadDiff, ...]
    rows: tuple[TokenDiff, ...]
    maps: Maps

    def __repr__(self) -> str:
        layers, n_head, n = self.kl.shape
        below = sum(head.below_rounding for head in self.heads)
        return (
            f"Diff of {self.a} and {self.b}: {layers} layers x {n_head} heads, {n} tokens, "
            f"{below} heads below rounding"
        )


@door
def diff(
    a: OpenModel, b: OpenModel | Quantized | Switch, text: str, *, progress: Progress = silent
) -> Diff:
    """KL(A || B) = sum_j A_ij ln(A_ij / B_ij) of every head and row, on the same tokens.

    A and B are the weights of two models; a learned sink counts as one more key. KL is infinite
    where B hides a key that A looks at, and 0 for an empty row. Memory grows with the length of the
    text: q and k of all layers are kept, and no map is built. Every map that a model made is proved
    when it is recorded.

    Args:
        a: an open model.
        b: another one, which cuts the text into the same tokens. Or what makes another model of
            `a`: a function that returns a context, such as `disable_adapter` of a model of peft; or
            Quantized(bits=4), the keys as this cache gives them back. There the keys of one layer
            at a time are rounded: q and the layers before are those of `a`, so that the error of a
            layer is not carried to the next.
        progress: is called with (steps done, steps in all), the layers that ran and those that were
            compared; raise from it to cancel.

    Raises:
        ArgumentError: other tokens, other layers or heads; a group that does not divide the keys.
        KindError: `b` returns no context, or is a model that was not opened.
        MissedError: the map of a layer could not be recorded, or failed its proof.

    Source: Kullback and Leibler 1951, https://doi.org/10.1214/aoms/1177729694.
    """
    tokens, (name, how) = a.tokens(text), _named(a, b)
    total = a.sizes.n_layer * (2 if isinstance(b, Quantized) else 3)
    done = 0

    def step(_: object = None) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    def record(model: OpenModel) -> list[AttentionMap]:
        with model.after_each_layer(step):
            return list(record_maps(model, tokens.ids))

    if isinstance(b, OpenModel):
        check_alike(a, b, text)
    switched = nullcontext() if isinstance(b, OpenModel | Quantized) else context_of(b)
    progress(0, total)
    of_a = record(a)
    if isinstance(b, Quantized):
        of_b = [rounded(one, b) for one in of_a]
    else:
        with switched:
            of_b = record(b if isinstance(b, OpenModel) else a)
    maps = tuple(zip(of_a, of_b, strict=True))
    kl, rounding = [], []
    for one, other in maps:
        kl.append(one.kl(other)[0])
        lse = torch.cat((one.lse, other.lse), dim=2)[0].abs()
        rounding.append(ROUNDING * (1 + lse.nan_to_num(posinf=0).amax(dim=1)))  # empty rows: -inf
        step()
    return summary(a.name, name, tokens.shown, how, torch.stack(kl), torch.stack(rounding), maps)


# The second model


def _named(a: OpenModel, b: OpenModel | Quantized | Switch) -> tuple[str, str]:
    """What B is called, and what is compared, in a sentence."""
    if isinstance(b, OpenModel):
        return b.name, say(HOW["models"])
    if isinstance(b, Quantized):
        how = HOW["quantized" if b.group is None else "quantized_groups"]
        name = say(HOW["keys"], model=a.name, bits=b.bits)
        return name, say(how, bits=b.bits, group=b.group)
    switch = getattr(b, "__name__", type(b).__name__)
    return say(HOW["inside"], model=a.name, switch=switch), say(HOW["switch"])


def context_of(switch: Switch) -> AbstractContextManager[object]:
    """The context that a function returns."""
    # A module can be called too, but is no such function.
    made = switch if isinstance(switch, nn.Module) else switch()
    if isinstance(made, nn.Module) or not isinstance(made, AbstractContextManager):
        raise KindError(
            f"`b` is to return a context, and there is {describe(made)}.\nPass what open_model "
            "returns, Quantized(bits=4), or a function such as peft's `model.disable_adapter`."
        )
    return made


def rounded(m: AttentionMap, cache: Quantized) -> AttentionMap:
    """The map of the same q with the keys as a cache of these bits gives them back."""
    call = m._numbers.given
    # `append` rounds values too, of which no weight is made: the keys stand in for them.
    (piece,) = Quantized(cache.bits, cache.group).append(call.key, call.key)
    return map_of(replace(call, key=piece.k, value=piece.k))


def check_alike(a: OpenModel, b: OpenModel, text: str) -> None:
    """Raise unless two models have as many layers and heads, and read a text as the same tokens."""
    if a.sizes[:2] != b.sizes[:2]:
        (layers, n_head), (other_layers, other_heads) = a.sizes[:2], b.sizes[:2]
        raise ArgumentError(
            mistake(
                "sizes_differ", a=a.name, layers=layers, n_head=n_head, b=b.name,
                other_layers=other_layers, other_heads=other_heads,
            )
        )  # fmt: skip
    ours, theirs = (
        [*zip(one.tokens, one.ids, strict=True)] for one in (a.tokens(text), b.tokens(text))
    )
    if ours != theirs:
        pairs = enumerate(zip_longest(ours, theirs))
        at, differ = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
        one, other = (f"{x[0]!r} (id {x[1]})" if x else mistake("token_missing") for x in differ)
        raise ArgumentError(
            mistake("tokens_differ", a=a.name, b=b.name, at=at, one=one, other=other)
        )


# What is listed


def summary(
    a: str, b: str, tokens: tuple[str, ...], how: str, kl: Tensor, rounding: Tensor, maps: Maps
) -> Diff:
    """Rank the heads and the tokens of what was compared."""
    _, n_head, n = kl.shape

    def row(layer: int, head: int, query: int) -> RowDiff:
        in_a, in_b = (one[0, head, query] for one in maps[layer])
        keys = (in_b - in_a).abs().topk(min(LISTED_KEYS, n)).indices.tolist()
        moved = (
            MovedKey(key, float(in_a[key]), float(in_b[key]))
            for key in keys
            if in_a[key] != in_b[key]
        )
        return RowDiff(layer, head, query, float(kl[layer, head, query]), tuple(moved))

    heads = [
        HeadDiff(
            layer, head, float(rows.mean()), float(rounding[layer, head]),
            row(layer, head, int(rows.argmax())),
        )
        for layer, of_layer in enumerate(kl)
        for head, rows in enumerate(of_layer)
    ]  # fmt: skip
    heads.sort(key=lambda one: (one.below_rounding, -one.mean))

    real = kl.where(kl > rounding[..., None], 0).flatten(0, 1)  # (heads of all layers, n)
    means, places = real.mean(dim=0), real.argmax(dim=0)
    listed = means.topk(min(LISTED_TOKENS, n)).indices.tolist()
    rows = (
        TokenDiff(query, float(means[query]), row(*divmod(int(places[query]), n_head), query))
        for query in listed
        if means[query] > 0
    )
    return Diff(a, b, how, tokens, kl, rounding, tuple(heads), tuple(rows), maps)
