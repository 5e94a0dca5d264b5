"""The matrices of a layer as a saved page holds them: pictures, one byte for each number.

A layer is one string, as in explorer/saved_layer.py; page/computed/matrices.js reads it. A number
is a whole number of steps: the step is a quarter of the root mean square of its matrix, or larger
where one of its numbers is so far from 0 that a byte would not hold it. Coarser steps make fewer
bytes after gzip: a bit of each number for a step twice as large.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wqkv.draw.matrix import extremes
from wqkv.draw.to_json import plain
from wqkv.explorer.matrices import picture_size
from wqkv.explorer.saved_layer import zipped
from wqkv.explorer.schema import SavedMatrices, SavedMatrix
from wqkv.study.head_matrices import Between
from wqkv.study.view import View

#: So many steps make the root mean square of a matrix, and so many its largest number at most.
STEPS, MOST_STEPS = 4, 127


def pack_matrices(view: View, layer: int) -> str:
    """The pictures of all matrices of a layer; of heads that share WK and WV each once."""
    sizes, bytes_ = view.model.sizes, list[bytes]()

    def saved(matrix: Tensor, bias: Tensor | None, between: tuple[Between, ...]) -> SavedMatrix:
        per = picture_size(matrix)
        numbers, step = rounded(extremes(matrix.float(), *per))
        bytes_.append(bytes(numbers.view(torch.uint8).flatten().tolist()))
        return {
            "rows": matrix.shape[0],
            "columns": matrix.shape[1],
            "per": per,
            "step": step,
            "bias": None if bias is None else plain(bias),
            "between": between,
        }

    heads = [view.matrices(layer, head) for head in range(sizes.n_head)]
    apart = heads[:: sizes.n_head // sizes.n_kv_head]
    facts: SavedMatrices = {
        "WQ": [saved(one.WQ, one.bQ, one.to_q) for one in heads],
        "WK": [saved(one.WK, one.bK, one.to_k) for one in apart],
        "WV": [saved(one.WV, one.bV, one.to_v) for one in apart],
        "WO": [saved(one.WO, one.bO, one.to_context) for one in heads],
    }
    return zipped(facts, *bytes_)


def rounded(matrix: Tensor) -> tuple[Tensor, float]:
    """A matrix as whole numbers of steps, int8, and the step.

    >>> rounded(torch.tensor([[4.0, -4.0], [4.0, 4.0]]))
    (tensor([[ 4, -4],
            [ 4,  4]], dtype=torch.int8), 1.0)
    """
    size = float(matrix.abs().max())
    step = max(float(matrix.square().mean().sqrt()) / STEPS, size / MOST_STEPS) or 1.0
    return (matrix / step).round().to(torch.int8), step
