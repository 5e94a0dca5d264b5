"""One table of calls for every engine. A case makes its own inputs, in any dtype.

Needs no pytest, so that benchmarks can take the same cases. `dataclasses.replace` gives a case
other sizes: masks, biases and layouts are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from wqkv import ALiBi, Causal, Dense, Full, Lengths, Prefix, RoPE, Segments, T5Bias, Window
from wqkv.attend.bias import Bias
from wqkv.attend.masks import Mask

Shape = tuple[int, int, int, int]
#: Given a name and a shape, a leaf with random numbers: what a model would learn.
Draw = Callable[..., Tensor]
#: Given a name and a shape (batch, head, length, d), an input and how it lies in memory.
Layout = Callable[[Draw, str, Shape], Tensor]
INPUTS = ("query", "key", "value")


class Inputs(NamedTuple):
    """The leaves of one call by name, and the arguments of `attention` made of them."""

    leaves: dict[str, Tensor]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A call by its sizes and rules; n_kv_head, key_len and d_v of None are n_head and so on."""

    name: str
    mask: Callable[[Case], Mask] = lambda case: Full()
    bias: Callable[[Case, Draw], Tensor | Bias] | None = None
    batch: int = 2
    n_head: int = 3
    n_kv_head: int | None = None
    query_len: int = 11
    key_len: int | None = None
    d_k: int = 5
    d_v: int | None = 7
    scale: float | None = None
    softcap: float | None = None
    sinks: bool = False
    rope: RoPE | None = None
    query_offset: int | tuple[int, ...] | None = None
    layout: Layout = lambda draw, name, shape: draw(name, *shape)

    @property
    def keys(self) -> int:
        return self.query_len if self.key_len is None else self.key_len

    def make(
        self,
        dtype: torch.dtype,
        *,
        held: torch.dtype | None = None,
        learn: Collection[str] | None = None,
        spoilt: bool = False,
    ) -> Inputs:
        """The inputs, the same numbers each time, rounded to `dtype` and held in another.

        learn: the names of the leaves that get a gradient; None is all.
        spoilt: with NaN in all of sample 0.
        """
        leaves: dict[str, Tensor] = {}

        def draw(name: str, *shape: int) -> Tensor:
            random = torch.Generator().manual_seed(crc32(f"{self.name} {name}".encode()))
            numbers = torch.randn(shape, generator=random, dtype=torch.float64)
            leaf = numbers.to(dtype).to(held or dtype)
            if spoilt and name in INPUTS:
                leaf[:1] = torch.nan
            leaves[name] = leaf.requires_grad_(learn is None or name in learn)
            return leaf

        n_kv_head = self.n_head if self.n_kv_head is None else self.n_kv_head
        d_v = self.d_k if self.d_v is None else self.d_v
        query = self.layout(draw, "query", (self.batch, self.n_head, self.query_len, self.d_k))
        key = self.layout(draw, "key", (self.batch, n_kv_head, self.keys, self.d_k))
        value = self.layout(draw, "value", (self.batch, n_kv_head, self.keys, d_v))
        offset = self.query_offset
        if isinstance(offset, tuple):
            offset = torch.tensor(offset)
        if self.rope is not None:
            first = offset.view(-1, 1) if isinstance(offset, Tensor) else offset or 0
            query = self.rope.rotate(query, torch.arange(self.query_len) + first)
            key = self.rope.rotate(key, torch.arange(self.keys))
        arguments: dict[str, Any] = {"query": query, "key": key, "value": value}
        arguments |= {"mask": self.mask(self), "scale": self.scale, "softcap": self.softcap}
        arguments["bias"] = self.bias(self, draw) if self.bias is not None else None
        arguments["sinks"] = draw("sinks", self.n_head) if self.sinks else None
        return Inputs(leaves, arguments | {"dropout_p": 0.0, "query_offset": offset})

    def __str__(self) -> str:
        """Every argument: what a failure prints."""
        inputs = self.make(torch.float32, learn=())
        shown = {name: x for name, x in inputs.arguments.items() if name not in INPUTS}
        shown |= {name: tuple(inputs.arguments[name].shape) for name in INPUTS}
        return f"{self.name}: {shown | {'rope': self.rope, 'layout': self.layout.__name__}}"


# How inputs lie in memory


def transposed(draw: Draw, name: str, shape: Shape) -> Tensor:
    b, h, n, d = shape
    return draw(name, b, n, h, d).transpose(1, 2)


def expanded(draw: Draw, name: str, shape: Shape) -> Tensor:
    """One sample and one head, repeated."""
    return draw(name, 1, 1, *shape[2:]).expand(shape)


def sliced(draw: Draw, name: str, shape: Shape) -> Tensor:
    """Every third channel of the later half of a longer text."""
    b, h, n, d = shape
    return draw(name, b, h, 2 * n + 1, 3 * d + 2)[:, :, n + 1 :, 1 : 3 * d + 1 : 3]


# Masks and biases made for a case's sizes


def bits(case: Case, *shape: int, share: float = 0.6) -> Dense:
    random = torch.Generator().manual_seed(crc32(case.name.encode()))
    seen = torch.rand(shape or (case.query_len, case.keys), generator=random) < share
    seen[..., 0] |= ~seen.any(dim=-1)  # rows without a key have cases of their own
    return Dense(seen)


def runs(case: Case, *lengths: int) -> Segments:
    """Documents of these lengths, and one more up to the end."""
    ends = torch.tensor(lengths).cumsum(0)
    return Segments((torch.arange(case.keys)[None, :] >= ends[:, None]).sum(0)[None])


def alibi(case: Case, draw: Draw) -> ALiBi:
    """Such that it adds no more than the scores are."""
    return ALiBi(draw("slopes", case.n_head).abs() / (case.query_len + case.keys + 1))


def t5(bidirectional: bool) -> Callable[[Case, Draw], T5Bias]:
    def make(case: Case, draw: Draw) -> T5Bias:
        table = draw("table", 8, case.n_head)
        return T5Bias(table, bidirectional=bidirectional, max_distance=max(9, case.keys // 2))

    return make


def stored(axes: str) -> Callable[[Case, Draw], Tensor]:
    """A bias that differs along these of the axes b, h, q, k."""
    return lambda case, draw: draw("bias", *axis_sizes(case, axes))


def axis_sizes(case: Case, axes: str) -> tuple[int, ...]:
    """The sizes of these of the axes b, h, q, k, and 1 for the others."""
    sizes = zip("bhqk", (case.batch, case.n_head, case.query_len, case.keys), strict=True)
    return tuple(size if axis in axes else 1 for axis, size in sizes)


def causal(case: Case) -> Mask:
    return Causal()


def labels(case: Case, length: int, kinds: int = 3) -> Tensor:
    """Labels without order, one line a sample."""
    random = torch.Generator().manual_seed(crc32(case.name.encode()))
    return torch.randint(kinds, (case.batch, length), generator=random)


def fifths(case: Case) -> Segments:
    return Segments(torch.arange(case.keys)[None] % 5)


# Lambdas take the case's sizes, so that it can be made larger. Big cases have few heads.
CROSS: dict[str, Any] = {"key_len": 13, "query_offset": 2}
ONE: dict[str, Any] = {"n_head": 6, "n_kv_head": 3, "query_len": 1, "key_len": 13}
BIG: dict[str, Any] = {"batch": 1, "n_head": 2, "d_k": 11}
# fmt: off
TABLE = (
    # Masks over one text
    Case("full"), Case("causal", causal),
    *(Case(f"window {before} {after}", lambda c, w=(before, after): Window(*w))
      for before, after in ((2, 1), (3, 0), (0, 2), (3, None), (None, 2), (None, None), (0, 0))),
    Case("lengths", lambda c: Lengths([c.keys // 3, c.keys])),
    Case("causal lengths", lambda c: Causal() & Lengths([c.keys // 3, c.keys])),
    Case("segments", lambda c: runs(c, 3, 5)),
    Case("causal segments", lambda c: Causal() & runs(c, 3, 5)),
    Case("segments a sample", lambda c: Segments(labels(c, c.keys).sort(dim=1).values)),
    Case("segments without order", lambda c: Segments(labels(c, c.keys))),
    Case("prefix", lambda c: Prefix(c.keys // 3)),
    Case("prefix a sample", lambda c: Prefix([c.keys // 2, 0])), Case("dense", lambda c: bits(c)),
    *(Case(f"dense {axes}", lambda c, axes=axes: bits(c, *axis_sizes(c, axes)))
      for axes in ("bhqk", "hqk", "bqk", "bk", "hk", "bhq")),
    Case("left padding", lambda c: ~Lengths([c.keys // 3, 0])),
    Case("causal left padding", lambda c: Causal() & ~Lengths([c.keys // 3, 0])),
    Case("and", lambda c: Window(4, 3) & runs(c, 5) & bits(c)),
    Case("or", lambda c: Window(1, 0) | Lengths([2, 0]) | ~Window(6, None)),
    Case("not", lambda c: ~(Causal() & Window(2, None)) & ~~Lengths([c.keys, c.keys // 2])),
    Case("strided window", lambda c: Causal() & (Window(1, 0) | fifths(c))),
    Case("hidden rows", lambda c: Causal() & Lengths([3, 5]) & ~Window(2, None)),
    Case("hidden sample", lambda c: Lengths([0, c.keys - 4])),
    Case("hidden all", lambda c: ~Full()),
    # Queries that stand elsewhere than the keys
    Case("cross", **CROSS), Case("cross causal", causal, **CROSS),
    Case("cross upper left", causal, key_len=13, query_offset=0),
    Case("cross fewer keys", causal, key_len=5, query_offset=-6, d_k=3),
    Case("cross before", causal, key_len=13, query_offset=-4),
    Case("cross beyond", lambda c: Window(7, 0), key_len=13, query_offset=9),
    Case("cross far beyond", lambda c: Window(7, 0), key_len=13, query_offset=40),
    Case("cross a sample", causal, key_len=13, query_offset=(2, 0)),
    Case("cross anywhere", lambda c: Window(3, 1), key_len=13, query_offset=(-3, 10)),
    Case("cross one offset", lambda c: Window(3, 1), key_len=13, query_offset=(1,)),
    Case("cross prefix", lambda c: Prefix([4, 0]), key_len=13, query_offset=-2),
    Case("cross query labels", lambda c: Segments(labels(c, c.keys), labels(c, c.query_len)[:1]),
         key_len=13),
    # Heads
    Case("grouped", causal, n_head=6, n_kv_head=2), Case("shared", causal, n_head=5, n_kv_head=1),
    Case("grouped dense", lambda c: bits(c, *axis_sizes(c, "hqk")), n_head=6, n_kv_head=3),
    Case("grouped everything", lambda c: Window(4, 0), t5(False), n_head=6, n_kv_head=3, sinks=True,
         softcap=1.7),
    Case("one query", **ONE), Case("one query causal", causal, query_offset=8, **ONE),
    Case("one query upper left", causal, query_offset=0, **ONE),
    Case("one query lengths", lambda c: Lengths([4, 0]), sinks=True, **ONE),
    Case("one query dense", lambda c: bits(c, *axis_sizes(c, "hk")), **ONE),
    Case("one query alibi", causal, alibi, query_offset=12, **ONE),
    # Score rules
    Case("scale", causal, scale=0.3), Case("scale 0", scale=0.0), Case("scale below 0", scale=-0.7),
    Case("scale 0 causal", causal, scale=0.0), Case("scale below 0 causal", causal, scale=-0.7),
    Case("softcap", softcap=1.3), Case("softcap causal", causal, softcap=0.7),
    Case("softcap bias", lambda c: bits(c), stored("bhqk"), softcap=1.3),
    Case("sinks", sinks=True), Case("sinks causal", causal, sinks=True, **CROSS),
    Case("sinks hidden", lambda c: Lengths([0, 3]), sinks=True),
    *(Case(f"bias {axes}", bias=stored(axes), **CROSS)
      for axes in ("-", *"bhqk", "bh", "bq", "bk", "hq", "hk", "qk", "bhq", "bhk", "bqk", "hqk")),
    Case("bias matrix", causal, lambda c, draw: draw("bias", c.keys, c.keys)),
    Case("bias hidden", lambda c: Lengths([0, 3]), stored("bhqk")),
    Case("alibi", bias=alibi), Case("alibi causal", causal, alibi, **CROSS),
    Case("alibi a sample", causal, alibi, key_len=13, query_offset=(-3, 5)),
    Case("t5", causal, t5(False)), Case("t5 both ways", bias=t5(True)),
    Case("t5 a sample", lambda c: Lengths([c.keys, 5]), t5(True), key_len=13, query_offset=(2, -1)),
    Case("rope", causal, rope=RoPE(), d_k=8), Case("rope cross", rope=RoPE(50.0), d_k=6, **CROSS),
    Case("rope interleaved", causal, rope=RoPE(d=4, interleaved=True), key_len=13,
         query_offset=(2, 0)),
    # Sizes
    Case("one", query_len=1), Case("one key", query_len=1, key_len=1, batch=1, n_head=1, d_v=1),
    Case("many queries one key", causal, query_len=13, key_len=1, query_offset=-2),
    Case("narrow", causal, d_k=1, d_v=1), Case("equal widths", causal, d_k=8, d_v=None),
    Case("wide values", d_k=3, d_v=19), Case("wide keys", causal, d_k=19, d_v=3),
    Case("no keys", key_len=0), Case("no keys but a sink", key_len=0, sinks=True),
    Case("no samples", causal, batch=0), Case("no queries", query_len=0, key_len=13),
    Case("no keys and no queries", query_len=0), Case("no channels", causal, d_k=0),
    Case("no value channels", causal, d_v=0),
    # Memory
    *(Case(f"{layout.__name__}{name}", mask, layout=layout, **more)
      for layout in (transposed, expanded, sliced)
      for name, mask, more in (
          ("", Case.mask, {}), (" causal", causal, {"n_head": 6, "n_kv_head": 3, "d_v": None}),
          (" in pieces", lambda c: runs(c, 140) & Causal(), {"query_len": 157, "n_head": 1}))),
    # Past the sizes at which calls are cut
    *(Case(f"causal {n}", causal, query_len=n, **BIG) for n in (131, 257, 521)),
    Case("causal 1031", causal, query_len=1031, batch=1, n_head=1),
    Case("window 1031", lambda c: Window(61, 7), query_len=1031, batch=1, n_head=1),
    Case("window 257", lambda c: Window(64, 0), query_len=257, **BIG),
    Case("full 521", query_len=521, **BIG),
    Case("lengths 521", lambda c: Lengths([197, c.keys]), query_len=67, key_len=521, n_head=1),
    Case("left padding 257", lambda c: Causal() & ~Lengths([131, 0]), query_len=257, n_head=1),
    Case("segments 521", lambda c: Causal() & runs(c, 97, 11, 263), query_len=521, **BIG),
    Case("segments a sample 257", lambda c: Segments(labels(c, c.keys).sort(dim=1).values),
         query_len=257, n_head=1),
    Case("segments without order 257", lambda c: fifths(c), query_len=257, **BIG),
    Case("prefix 257", lambda c: Prefix([151, 0]), query_len=257, n_head=1),
    Case("prefix 521", lambda c: Prefix(139) & Window(307, None), query_len=521, **BIG),
    Case("dense 257", lambda c: bits(c, share=0.1), query_len=131, key_len=257, **BIG),
    Case("not 257", lambda c: ~(Causal() & Window(97, 0)), query_len=257, **BIG),
    Case("hidden all 257", lambda c: ~Full(), query_len=257, **BIG),
    Case("cross 521", causal, query_len=131, key_len=521, query_offset=390, **BIG),
    Case("cross before 257", causal, query_len=257, query_offset=-137, **BIG),
    Case("cross a sample 257", lambda c: Window(71, 0), query_len=131, key_len=257, n_head=1,
         query_offset=(-31, 126)),
    Case("grouped 257", causal, query_len=257, batch=1, n_head=6, n_kv_head=3),
    Case("softcap 257", lambda c: Window(97, 0), softcap=1.3, query_len=257, **BIG),
    Case("sinks 257", causal, sinks=True, query_len=257, **BIG),
    Case("bias 257", causal, stored("hk"), query_len=257, **BIG),
    Case("bias whole 257", lambda c: Window(31, None), stored("hqk"), query_len=257, **BIG),
    Case("alibi 257", causal, alibi, query_len=257, **BIG),
    Case("t5 257", lambda c: Lengths([c.keys - 60]), t5(True), query_len=257, **BIG),
    Case("one query 1031", lambda c: Window(700, 0), query_len=1, key_len=1031, n_head=6,
         n_kv_head=2, query_offset=1030),
)
# fmt: on
