"""A matrix of one head as a picture and as a sum: what each of its pixels shows, and one column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from wqkv.sentences import in_language
from wqkv.sentences.seen import SEEN
from wqkv.sentences.steps import STEPS
from wqkv.study.head_matrices import Between, HeadMatrices
from wqkv.study.one_token import TokenStory

#: How many terms of a worked sum are written one by one; the others are added up.
TERMS = 3
#: The fewest and most decimals of a worked sum, and the digits that its total has at least.
FEWEST, MOST, DIGITS = 2, 6, 3


class Product(NamedTuple):
    """One matrix of a head, what it multiplies, and what that makes: given @ numbers + bias."""

    name: str  # "WQ"
    numbers: Tensor  # (rows, columns)
    bias: Tensor | None  # (columns,)
    given_name: str  # "x"
    given: Tensor  # (rows,)
    made_name: str  # "q"
    between: tuple[Between, ...]  # what is done to the product before it is q, such as RoPE

    @property
    def made(self) -> Tensor:
        """The product with the bias, a float64 sum: (columns,)."""
        made = self.given.double() @ self.numbers.double()
        return made if self.bias is None else made + self.bias.double()

    @property
    def column(self) -> int:
        """The column that makes the number of the largest size."""
        return int(self.made.abs().argmax())

    @property
    def order(self) -> Tensor:
        """The rows, those first at which `given` is largest."""
        return self.given.abs().argsort(descending=True, stable=True)


def products(story: TokenStory) -> tuple[Product, ...]:
    """Return what WQ, WK, WV and WO of the head do to the token; nothing where there are others."""
    found, source = story.matrices, story.source
    if found is None:
        return ()
    kept, given = ("x", story.x) if source is None else ("y", source.x)
    return (
        Product("WQ", found.WQ, found.bQ, "x", story.x, "q", found.to_q),
        Product("WK", found.WK, found.bK, kept, given, "k", found.to_k),
        Product("WV", found.WV, found.bV, kept, given, "v", found.to_v),
        # WO's bias is added once, to the shares of all heads together.
        Product("WO", found.WO, None, _context_name(found), story.gated, "share", ()),
    )


def scale_end(numbers: Sequence[Tensor], share: float = 0.99) -> float:
    """Return where one scale for some numbers ends: a `share` of them are not larger in size.

    Zeros do not count. The end is rounded up to two digits, so that a legend can name it.

    >>> scale_end([torch.tensor([0.1, -0.2, 0.314])])
    0.32
    """
    sizes = torch.cat([part.flatten() for part in numbers]).abs().double()
    sizes = sizes[sizes.isfinite() & (sizes > 0)].sort().values
    if not len(sizes):
        return 1.0
    end = float(sizes[math.ceil(share * len(sizes)) - 1])
    digit = math.floor(math.log10(end)) - 1
    return float(f"{math.ceil(round(end / 10.0**digit, 4))}e{digit}")


def _context_name(found: HeadMatrices) -> str:
    return "context x gate" if found.to_context else "context"


def side_by_side(story: TokenStory) -> list[tuple[Product, ...]]:
    """Return the products in groups that multiply one vector: WQ, WK and WV, and WO last.

    Between two texts WQ multiplies another vector than WK and WV do, and is a group of its own.
    """
    return [tuple(same) for _, same in groupby(products(story), key=lambda one: one.given_name)]


class ScaleEnd(NamedTuple):
    """Where a scale ends that several things share."""

    end: float
    names: tuple[str, ...]


def scale_ends(parts: Sequence[Product]) -> tuple[ScaleEnd, ScaleEnd, ScaleEnd]:
    """Return the ends of three scales: the matrices' one, that of what they multiply, and make.

    Of vectors the largest number is the end.
    """
    given, made = {part.given_name: part.given for part in parts}, [part.made for part in parts]
    return (
        ScaleEnd(scale_end([part.numbers for part in parts]), tuple(part.name for part in parts)),
        ScaleEnd(scale_end(list(given.values()), 1.0), tuple(given)),
        ScaleEnd(scale_end(made, 1.0), tuple(part.made_name for part in parts)),
    )


class Pixels(NamedTuple):
    """Numbers in as few as a picture has room for; each stands for a block of rows x columns."""

    numbers: Tensor  # (height, width)
    rows: int
    columns: int


def pixels(numbers: Tensor, height: int, width: int) -> Pixels:
    """Return a matrix in at most height x width numbers: of each block the one of largest size.

    So every number of a picture is one of the matrix. Means would all be near 0.

    >>> pixels(torch.tensor([[1.0, -5.0, 2.0], [0.0, 3.0, 4.0]]), 1, 2)
    Pixels(numbers=tensor([[-5.,  4.]]), rows=2, columns=2)
    """
    n, m = numbers.shape
    rows, columns = math.ceil(n / height), math.ceil(m / width)
    return Pixels(extremes(numbers, rows, columns), rows, columns)


def extremes(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Return of every block of rows x columns numbers the one that is farthest from 0.

    >>> extremes(torch.tensor([[1.0, -3.0], [2.0, 0.5], [0.0, -1.0]]), 2, 1)
    tensor([[ 2., -3.],
            [ 0., -1.]])
    """
    n, m = matrix.shape
    whole = torch.nn.functional.pad(matrix, (0, -m % columns, 0, -n % rows))
    blocks = whole.unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).transpose(1, 2).flatten(2)
    largest: Tensor = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
    return largest[..., 0]


class SumTerm(NamedTuple):
    """One product of a worked sum."""

    row: int
    given: float
    number: float
    product: float


class WorkedSum(NamedTuple):
    """How one number comes about: the largest terms, the others together, and the bias."""

    column: int
    terms: tuple[SumTerm, ...]
    others: int  # how many more terms there are
    rest: float  # and their sum
    bias: float | None
    total: float
    decimals: int  # the fewest with which the parts, as they are written, add up to the total


def worked_sum(product: Product) -> WorkedSum:
    """Return given . column + bias for `product.column`."""
    column = product.column
    numbers = product.numbers[:, column].double()
    each = product.given.double() * numbers
    first = each.abs().argsort(descending=True, stable=True)[:TERMS].tolist()
    terms = tuple(
        SumTerm(i, product.given[i].item(), numbers[i].item(), each[i].item()) for i in first
    )
    bias = None if product.bias is None else product.bias[column].item()
    total = product.made[column].item()
    rest = total - sum(term.product for term in terms) - (bias or 0.0)
    parts = [*(term.product for term in terms), rest, bias or 0.0]
    return WorkedSum(
        column, terms, len(each) - len(terms), rest, bias, total, _decimals(parts, total)
    )


def _decimals(parts: Sequence[float], total: float) -> int:
    size = abs(total) if math.isfinite(total) and total else 1.0
    fewest = max(FEWEST, DIGITS - 1 - math.floor(math.log10(size)))
    for decimals in range(fewest, max(MOST, fewest + 1)):
        added = sum(round(part, decimals) for part in parts)
        if f"{added:.{decimals}f}" == f"{total:.{decimals}f}":
            return decimals
    return max(MOST, fewest)


class WrittenSum(NamedTuple):
    """A worked sum as it is written."""

    says: str  # which column is marked, and what it gives
    lines: tuple[tuple[str, str], ...]  # what is added, and how much; the last line is the total


def legend(
    parts: Sequence[Product], shown: int, block: Pixels, colors: str, lang: str
) -> list[str]:
    """Return what a picture of matrices that multiply one vector shows, in sentences.

    Args:
        shown: how many rows it shows, those first at which the vector is largest.
        block: what one of its pixels stands for.
        colors: the sentence about its colors: "blocks", "signs" or "faint".
    """
    say, first = in_language(SEEN, lang), parts[0]
    count = len(first.given)
    rows = say["all_rows" if shown == count else "given_rows"]
    told = [rows.format(shown=shown, rows=count, given=first.given_name)]
    if block.rows * block.columns > 1:
        told.append(say["block"].format(rows=block.rows, columns=block.columns))
    ends = say["and"].join(
        say["end"].format(end=one.end, names=say["and"].join(one.names))
        for one in scale_ends(parts)
    )
    return [*told, say[colors].format(ends=ends)]


def write_sum(product: Product, lang: str = "en") -> WrittenSum:
    """Return a worked sum in words and numbers."""
    say, done = in_language(SEEN, lang) | in_language(STEPS, lang), worked_sum(product)
    name = f"{product.made_name}[{done.column}]"

    def shown(value: float) -> str:
        return f"{round(value, done.decimals) + 0.0:.{done.decimals}f}"

    lines = [
        (f"{product.given_name}[{i}] {x:.4g} x {w:.4g}", shown(both))
        for i, x, w, both in done.terms
    ]
    if done.bias is not None:
        lines.append((say["bias"], shown(done.bias)))
    if done.others:
        # In what the others add lies the rounding of all, where no few decimals add up.
        rest = float(shown(done.total)) - sum(float(number) for _, number in lines)
        lines.insert(len(done.terms), (say["other_terms"].format(count=done.others), shown(rest)))
    says = say["lit"].format(
        column=done.column,
        matrix=product.name,
        given=product.given_name,
        bias="" if done.bias is None else say["with_bias"],
        made=name,
    )
    if product.between:
        between = say["and"].join(say[one] for one in product.between)
        says += say["then"].format(between=between, made=product.made_name)
    return WrittenSum(says, (*lines, (name, shown(done.total))))
