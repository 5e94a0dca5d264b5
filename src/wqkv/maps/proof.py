"""When a proof fails: numbers made of the weights that are shown, beside the model's own.

A proof fails where a number differs from the model's own by more than its tolerance, which is what
rounding allows between two computations of one formula. One rule says how much that is:

1. A weight exp(score - lse) is off by up to c (1 + |score|) of itself, and the output by what v and
   WO make of that. See `weight_rounding` for c.
2. A sum of n products, as in WO, is off by n times half a last digit of the largest output, because
   it may be summed in another order. See `sum_rounding`.

`watch` compares every head before WO, so by 1 alone. A View compares what leaves WO, so by 1 and 2:
it judges all numbers by one tolerance, the largest among them, for which c = 2^-23 is enough.
`parity` compares whole layers, whose weights nobody is shown, by 2 alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Proof:
    """How far our output is from the model's, at the number that uses up most of its tolerance.

    `size` is the largest absolute number in the model's output, over the `rows` tokens that were
    compared. `empty` counts the rows that may see no key, which are not compared: there a model may
    average over all values, and we answer 0.
    """

    difference: float
    size: float
    tolerance: float
    rows: int
    empty: int = 0

    @property
    def holds(self) -> bool:
        """Whether the difference is a finite number within its tolerance."""
        return self.difference <= self.tolerance and math.isfinite(self.difference)

    @property
    def share(self) -> float:
        """The difference as a share of the tolerance; above 1 the proof fails."""
        if not math.isfinite(self.difference):  # infinity over infinity is NaN, which has no order
            return math.inf
        return self.difference / max(torch.finfo(torch.float32).tiny, self.tolerance)

    @classmethod
    def compare(cls, ours: Tensor, theirs: Tensor, tolerance: Tensor | float, rows: int) -> Proof:
        """Compare an output with the model's own, number by number.

        Args:
            tolerance: one for all numbers, or a tensor with one for each, all above 0.
            rows: how many tokens the outputs belong to.
        """
        differences = (ours - theirs).abs().flatten()
        if isinstance(tolerance, Tensor):
            shares = differences / tolerance.flatten()
            worst = shares.argmax()  # NaN counts as the largest
            fails = bool(shares[worst].isnan())
            tolerance = float(tolerance.flatten()[worst])
        else:
            worst = differences.argmax()
            fails = bool(differences[worst].isnan())
        # Infinity instead of NaN, because it can be ordered: `plus` must not lose it.
        difference = math.inf if fails else float(differences[worst])
        return cls(difference, float(theirs.abs().max()), tolerance, rows)

    def plus(self, other: Proof) -> Proof:
        """One proof of the rows of both proofs."""
        worst = max(self, other, key=lambda one: one.share)
        return Proof(
            worst.difference,
            max(self.size, other.size),
            worst.tolerance,
            self.rows + other.rows,
            self.empty + other.empty,
        )


def weight_rounding(query: Tensor, value: Tensor, output: Tensor) -> float:
    """c of rule 1 for `watch`, which judges each number of an output by a tolerance of its own.

    Models run in any dtype and by any kernel: c is 32 last digits of the coarsest dtype, or 2 in
    half precision, whose kernels compute in float32 and round what they return.
    """
    eps = max(torch.finfo(x.dtype).eps for x in (query, value, output))
    if query.is_cuda and eps < 1e-6 and torch.get_float32_matmul_precision() != "highest":
        eps = 2**-10  # TF32: 10 bits of each factor are multiplied
    return eps * (2 if eps > 1e-4 else 32)


def sum_rounding(output: Tensor) -> float:
    """Rule 2 for an output (..., n) of sums of about n products.

    In half precision, whose sums are kept in float32, it is eight last digits.
    """
    # Models in float64 still keep the angles of RoPE and the softmax in float32.
    eps = max(torch.finfo(output.dtype).eps, torch.finfo(torch.float32).eps)
    return eps * (8 if eps > 1e-4 else output.shape[-1] / 2) * float(output.abs().max())
