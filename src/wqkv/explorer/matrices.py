"""The answers about a head's matrices: all numbers of each, or a picture of a large one."""

from __future__ import annotations

import base64
from typing import Literal, cast

import torch
from torch import Tensor

from wqkv.draw.matrix import extremes
from wqkv.draw.to_json import plain
from wqkv.explorer.api import Api, OpenView
from wqkv.explorer.jobs import Refused
from wqkv.explorer.request import Parameters
from wqkv.explorer.schema import MatricesAnswer, MatrixColumnAnswer, MatrixFacts
from wqkv.study.callbacks import Progress
from wqkv.study.head_matrices import Between, HeadMatrices

#: The most numbers of one matrix that are sent; of a larger one it is a picture, see `extremes`.
WHOLE = 4096 * 128
#: The page asks for pictures of this size for the strip of the seven steps.
THUMBNAIL = 24
MatrixName = Literal["WQ", "WK", "WV", "WO"]


def matrices(api: Api, seen: OpenView, ask: Parameters, progress: Progress) -> MatricesAnswer:
    """The four matrices of a head, exactly; with `size` pictures of at most size x size numbers."""
    layer, head = ask.integers("layer", "head")
    size = ask.integer("size") if ask.has("size") else None
    if size is not None and not 1 <= size <= 256:
        raise Refused(413, f"A picture of {size} rows cannot be drawn.", "Pass 1 to 256.")
    found = seen.view.matrices(layer, head)
    return MatricesAnswer(
        WQ=_facts(found.WQ, found.bQ, found.to_q, size),
        WK=_facts(found.WK, found.bK, found.to_k, size),
        WV=_facts(found.WV, found.bV, found.to_v, size),
        WO=_facts(found.WO, found.bO, found.to_context, size),
        python=seen.says(f"view.matrices({layer}, {head})"),
    )


def matrixcolumn(
    api: Api, seen: OpenView, ask: Parameters, progress: Progress
) -> MatrixColumnAnswer:
    """One column of one matrix, exactly."""
    layer, head, column = ask.integers("layer", "head", "column")
    name = cast(MatrixName, ask.choice("of", "WQ", "WQ", "WK", "WV", "WO"))
    matrix = _matrix(seen.view.matrices(layer, head), name)
    if not 0 <= column < matrix.shape[1]:
        wrong = f"There is no column {column} of {name}, which has {matrix.shape[1]}."
        raise Refused(422, wrong, "Load the page again.")
    return MatrixColumnAnswer(
        numbers=packed(matrix[:, column]),
        python=seen.says(f"view.matrices({layer}, {head}).{name}[:, {column}]"),
    )


def _matrix(found: HeadMatrices, name: MatrixName) -> Tensor:
    return {"WQ": found.WQ, "WK": found.WK, "WV": found.WV, "WO": found.WO}[name]


def _facts(
    matrix: Tensor, bias: Tensor | None, between: tuple[Between, ...], size: int | None
) -> MatrixFacts:
    rows, columns = matrix.shape
    per = picture_size(matrix) if size is None else (-(-rows // size), -(-columns // size))
    return MatrixFacts(
        rows=rows,
        columns=columns,
        per=per,
        numbers=packed(extremes(matrix, *per)),
        step=None,
        bias=None if bias is None else plain(bias),
        between=between,
    )


def picture_size(matrix: Tensor) -> tuple[int, int]:
    """The blocks of rows x columns that a matrix is sent in: 1 x 1, unless it is too large."""
    return -(-matrix.numel() // WHOLE), 1


def packed(numbers: Tensor) -> str:
    """Numbers as base64 of float32, row by row, the low byte first."""
    given = numbers.to("cpu", torch.float32).contiguous().numpy()
    return base64.b64encode(given.astype("<f4", copy=False).tobytes()).decode()
