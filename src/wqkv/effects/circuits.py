"""WQ WK^T and WV WO of one head: what makes it look, and what it writes, from the matrices alone.

Both are d_model x d_model and of rank d_k: all is computed from their two thin factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wqkv.attend.bias import Bias
from wqkv.attend.rope import RoPE
from wqkv.doors import door
from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.metadata import has_bias
from wqkv.study.head_matrices import head_matrices, plain_layer
from wqkv.study.model import OpenModel
from wqkv.study.part import ModelPart, in_range, position_of

#: How many singular directions are named by tokens, and how many tokens name an end of one.
LISTED_DIRECTIONS, LISTED_NAMES = 5, 8
#: How many of these tokens, and of the later heads, a report shows.
SHOWN_NAMES = 4
#: So many tokens of the vocabulary are looked at together.
VOCABULARY_BLOCK = 4096


class DirectionEnd(NamedTuple):
    """The tokens at one end of a singular direction, the strongest first: a row, and a column."""

    left: tuple[str, ...]
    right: tuple[str, ...]


class Direction(NamedTuple):
    """One singular direction as tokens.

    `positive` and `negative` may change places, because the sign of a direction is arbitrary.
    """

    value: float
    positive: DirectionEnd
    negative: DirectionEnd


@dataclass(frozen=True)
class Circuit:
    """M = left right, (d_in, d_out), of rank d at most, and never built.

    M = left_directions diag(singular_values) right_directions^T. `eigenvalues` are the d that may
    differ from 0, complex, by falling absolute value; None where M is not square. `directions` are
    the strongest singular directions as tokens.
    """

    left: Tensor  # (d_in, d)
    right: Tensor  # (d, d_out)
    eigenvalues: Tensor | None  # (d,)
    singular_values: Tensor  # (d,), falling
    left_directions: Tensor  # (d_in, d), one a column
    right_directions: Tensor  # (d_out, d)
    directions: tuple[Direction, ...]


@door
@dataclass(frozen=True)
class Circuits:
    """The circuits of one head; see `circuits`.

    `QK` is WQ WK^T: its left side is what a query reads, its right side what a key reads. `OV` is
    WV WO: its left side is what is read from a key token, its right side what is written. `copying`
    is None where the model has no output matrix. `composition[later layer, head]` is (Q, K, V), NaN
    in layers that are not later. `left_out` says what the model computes between the matrices, and
    these numbers do not know of.
    """

    model: str
    layer: int
    head: int
    key_head: int  # the head of WK and WV that this head reads
    position: str  # such as "RoPE(theta=10000.0)"; "" if q and k are not placed
    distance: int  # query position - key position, where RoPE rotates q and k
    QK: Circuit
    OV: Circuit
    copying: float | None
    composition: Tensor  # (n_layer, n_head, 3)
    left_out: tuple[str, ...]

    def __repr__(self) -> str:
        where = f"{self.model}, layer {self.layer}, head {self.head}"
        copying = "" if self.copying is None else f", copying score {self.copying:.2f}"
        return f"Circuits of {where}: rank {len(self.OV.singular_values)}{copying}"

    def report(self) -> str:
        """The directions as tokens, and the later heads that read most of what this one writes."""
        placed = f"; {self.position} at distance {self.distance}" if self.position else ""
        lines = [repr(self), f"left out: {', '.join(self.left_out)}{placed}"]
        for name, one in (
            ("WQ WK^T: a query like these -> looks at a key like these", self.QK),
            ("WV WO: from a token like these -> writes tokens like these", self.OV),
        ):
            lines.append(name)
            for value, *ends in one.directions:
                for end, size in zip(ends, (f"{value:.3g}", ""), strict=True):
                    lines.append(f"  {size:>8}  {_shown(end.left)} -> {_shown(end.right)}")
        chance = 1 / math.sqrt(self.OV.right.shape[1])
        lines.append(f"composition of later heads with it ({chance:.2g} without any relation)")
        for name, found in zip("QKV", self.composition.unbind(dim=2), strict=True):
            known = found.nan_to_num(-1).flatten()
            heads = (
                "L{}H{} {:.3f}".format(*divmod(at, found.shape[1]), known[at])
                for at in known.argsort(descending=True)[:SHOWN_NAMES].tolist()
                if known[at] >= 0
            )
            lines.append(f"  {name}  {', '.join(heads) or 'none'}")
        return "\n".join(lines)


def _shown(names: tuple[str, ...]) -> str:
    """Some names of tokens on one line; they may hold line breaks and blanks."""
    return " ".join(map(repr, names[:SHOWN_NAMES])) or "?"


@door
def circuits(model: ModelPart, layer: int, head: int, *, distance: int = 0) -> Circuits:
    """WQ WK^T and WV WO of one head, from their factors of rank d_k and d_v, in float64.

    A score is x_i WQ WK^T x_j^T * scale, and token j adds P_ij x_j WV WO to token i. With RoPE,
    WQ WK^T depends on the distance i - j: it is WQ R WK^T, with the rotation R at that distance.
    Copying score: sum(l) / sum(|l|) of the eigenvalues l of E WV WO U, with embedding E and output
    matrix U: from 1 (each token makes itself likelier) to -1 (less likely). Composition of a later
    head with this one, norms of Frobenius: Q |OV QK'| / (|OV| |QK'|), K |OV QK'^T| / (...),
    V |OV OV'| / (...); matrices without any relation have about 1 / sqrt(d_model).

    All of it is an approximation of the model, which has norms between these matrices; `left_out`
    lists what else is not in it. Directions are named by the tokens whose row of E, or of U for
    what is written, has the largest product with them.

    Heads: a query head's WK and WV are those of its group.

    Args:
        model: what open_model returns; its tokens are named. Or one of the `parts` of a pair, where
            a token is named by its id.
        distance: query position - key position, in tokens, in a layer with RoPE.

    Raises:
        ArgumentError: no such layer or head; a distance in a layer without RoPE; this layer or a
            later one does not attend with plain WQ, WK, WV and WO.

    Source: Elhage et al. 2021, https://transformer-circuits.pub/2021/framework/index.html, "A
    Mathematical Framework for Transformer Circuits".

    >>> from transformers import GPT2Config, GPT2Model
    >>> part = ModelPart(GPT2Model(GPT2Config(n_layer=2, n_embd=24, n_head=3)), "gpt2")
    >>> found = circuits(part, 0, 2)
    >>> found.OV.left.shape, found.OV.singular_values.shape, found.composition.shape
    (torch.Size([24, 8]), torch.Size([8]), torch.Size([2, 3, 3]))
    """
    in_range("head", head, model.sizes.n_head)
    ours = plain_layer(model, layer)
    if distance and not isinstance(ours.position, RoPE):
        raise ArgumentError(
            f"`distance` is {distance}, and layer {layer} of {model.name} does not rotate q and k: "
            "its WQ WK^T is the same at every distance.\nLeave it out."
        )
    QK, OV = factors_of(ours, head, distance)
    vocabulary = Vocabulary.of(model)
    return Circuits(
        model=model.name,
        layer=layer,
        head=head,
        key_head=head // (ours.n_head // ours.n_kv_head),
        position=position_of(ours),
        distance=distance,
        QK=circuit(QK, vocabulary, vocabulary.read),
        OV=circuit(OV, vocabulary, vocabulary.written),
        copying=vocabulary.copying(OV),
        composition=compositions(model, layer, OV, distance),
        left_out=left_out(ours),
    )


# The matrices of a head


class Factors(NamedTuple):
    """A matrix of low rank, left right, by its factors (d_in, d) and (d, d_out)."""

    left: Tensor
    right: Tensor

    @property
    def turned(self) -> Factors:
        """Its transpose."""
        return Factors(self.right.T, self.left.T)

    @property
    def norm(self) -> float:
        """The norm of Frobenius: its square is trace(left^T left right right^T)."""
        square = float(((self.left.T @ self.left) * (self.right @ self.right.T)).sum())
        return math.sqrt(max(0.0, square))

    def then(self, other: Factors) -> Factors:
        """The product with another matrix, of the same rank at most."""
        return Factors(self.left, (self.right @ other.left) @ other.right)


@torch.no_grad()
def factors_of(layer: MultiheadAttention, head: int, distance: int) -> tuple[Factors, Factors]:
    """WQ WK^T, as RoPE rotates it at a distance, and WV WO of one head, in float64."""
    found = head_matrices(layer, head)
    WQ, WK, WV, WO = (W.double() for W in (found.WQ, found.WK, found.WV, found.WO))
    if isinstance(layer.position, RoPE):
        # WK too, at position 0: some scalings of RoPE also multiply what they rotate.
        WQ, WK = (
            layer.position.rotate(W[None, None], torch.tensor([at], device=W.device))[0, 0]
            for W, at in ((WQ, distance), (WK, 0))
        )
    return Factors(WQ, WK.T), Factors(WV, WO)


def left_out(layer: MultiheadAttention) -> tuple[str, ...]:
    """What the model computes between the matrices of a layer."""
    biased = [name for name in ("WQ", "WK", "WV") if has_bias(getattr(layer, name))]
    parts = (
        (True, "the norms around the layer"),
        (biased, f"the biases of {', '.join(biased)}"),
        (layer.norm, "the norm of q and k"),
        (layer.v_norm, "the norm of v"),
        (layer.clip, "the clipping of q, k and v"),
        (layer.temperature, "the temperature of q"),
        (isinstance(layer.position, Bias), f"{position_of(layer)}, added to the scores"),
        (layer.softcap, "the softcap of the scores"),
        (layer.gate, "the gate"),
    )
    return tuple(name for there, name in parts if there)


@torch.no_grad()
def compositions(model: ModelPart, layer: int, OV: Factors, distance: int) -> Tensor:
    """The Q-, K- and V-composition of all later heads with one: (n_layer, n_head, 3)."""
    n_layer, n_head = model.sizes[:2]
    found = torch.full((n_layer, n_head, 3), math.nan, dtype=torch.float64, device="cpu")
    OV = Factors(torch.linalg.qr(OV.left).R, OV.right)  # small, and all norms stay as they are
    norm = OV.norm
    for later in range(layer + 1, n_layer):
        theirs = plain_layer(model, later)
        for head in range(n_head):
            QK, other = factors_of(theirs, head, distance)
            # In "cross" keys and values are made of the other text, which none of its heads wrote.
            sides = (QK,) if model.part == "cross" else (QK, QK.turned, other)
            for at, side in enumerate(sides):
                found[later, head, at] = OV.then(side).norm / (norm * side.norm)
    return found


# Low rank, and its directions as tokens


@torch.no_grad()
def circuit(factors: Factors, vocabulary: Vocabulary, of_right: Tensor | None) -> Circuit:
    """What is said of a product of two matrices; `of_right` names what it gives."""
    left, right = factors
    in_basis, in_rest = torch.linalg.qr(left)
    out_basis, out_rest = torch.linalg.qr(right.T)
    U, S, Vh = torch.linalg.svd(in_rest @ out_rest.T, full_matrices=False)
    U, V = in_basis @ U, out_basis @ Vh.T
    eigenvalues = None
    if len(left) == right.shape[1]:  # left right and right left have the same ones, but for 0
        eigenvalues = torch.linalg.eigvals(right @ left)
        eigenvalues = eigenvalues[eigenvalues.abs().argsort(descending=True)]
    rows, columns = (
        vocabulary.ends(weight, directions[:, :LISTED_DIRECTIONS])
        for weight, directions in ((vocabulary.read, U), (of_right, V))
    )
    directions = tuple(
        Direction(value, *map(DirectionEnd, row, column))
        for value, row, column in zip(S[:LISTED_DIRECTIONS].tolist(), rows, columns, strict=True)
    )
    return Circuit(left, right, eigenvalues, S, U, V, directions)


class Vocabulary(NamedTuple):
    """The tokens of a model as it reads them and as it writes them, each (vocabulary, d_model)."""

    read: Tensor | None  # its embedding; None if that has another size than the hidden states
    written: Tensor | None  # its output matrix, if it has one
    tokenizer: Any  # one of transformers' tokenizers, or None

    @classmethod
    def of(cls, model: ModelPart) -> Vocabulary:
        inner: Any = model.model
        opened = model if isinstance(model, OpenModel) else None
        speaker: Any = None if opened is None else opened.speaker

        def rows(embedding: Any) -> Tensor | None:
            weight: Tensor | None = getattr(embedding, "weight", None)
            return weight if weight is not None and weight.shape[1] == model.sizes.d_model else None

        return cls(
            rows(inner.get_input_embeddings()),
            None if speaker is None else rows(speaker.get_output_embeddings()),
            None if opened is None else opened.tokenizer,
        )

    def copying(self, OV: Factors) -> float | None:
        """sum(l) / sum(|l|) of the eigenvalues l of E WV WO U, which are those of WO U E WV."""
        if self.read is None or self.written is None:
            return None
        pairs = zip(blocks(self.read), blocks(self.written), strict=False)
        small = torch.zeros_like(OV.right @ OV.left)
        for E, U in pairs:
            small += (OV.right @ U[: len(E)].T) @ (E[: len(U)] @ OV.left)
        eigenvalues = torch.linalg.eigvals(small)
        return float(eigenvalues.real.sum() / eigenvalues.abs().sum())

    def ends(
        self, weight: Tensor | None, directions: Tensor
    ) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The tokens with the largest and with the smallest product with each direction."""
        if weight is None:
            return [((), ())] * directions.shape[1]
        products = torch.cat([block @ directions for block in blocks(weight)])
        count = min(LISTED_NAMES, len(products))
        most, least = ((sign * products).topk(count, dim=0).indices.T.tolist() for sign in (1, -1))
        return [(self._names(a), self._names(b)) for a, b in zip(most, least, strict=True)]

    def _names(self, ids: list[int]) -> tuple[str, ...]:
        if self.tokenizer is None:
            return tuple(map(str, ids))
        decoded = [self.tokenizer.decode([id]) for id in ids]
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        # A part of a character decodes as \ufffd, and a model may have more rows than tokens.
        return tuple(
            text if text and "\ufffd" not in text else piece or str(id)
            for text, piece, id in zip(decoded, pieces, ids, strict=True)
        )


def blocks(weight: Tensor) -> Iterator[Tensor]:
    """The rows of a matrix in float64, some at a time."""
    for block in weight.detach().split(VOCABULARY_BLOCK):
        yield block.double()
