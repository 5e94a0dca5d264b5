"""Segments: the mask of several documents packed into one row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from wqkv.attend.geometry import At, Rect, Sizes, whole_numbers
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.values import readable
from wqkv.doors import door
from wqkv.errors import ArgumentError, describe, message


@door
class Segments(Mask):
    """Packed documents: a query sees the keys that carry its own label.

    Args:
        labels: int (batch | 1, key_len); the key and the query at position i carry labels[:, i].
        query_labels: int (batch | 1, query_len), for queries that do not stand among the keys.

    Equal labels see each other wherever they stand. A query at a position beyond the labels sees
    nothing. Where equal labels stand side by side, each such run is planned as one rectangle.

    >>> print(Segments([[0, 0, 1, 1, 1]]))
    Segments(i64[1, 5] on cpu)
    1 1 0 0 0
    1 1 0 0 0
    0 0 1 1 1
    0 0 1 1 1
    0 0 1 1 1
    """

    __match_args__ = ("labels", "query_labels")

    def __init__(
        self,
        labels: Sequence[Sequence[int]] | Tensor,
        query_labels: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> None:
        self.labels = _labels("labels", labels)
        self.query_labels: Tensor | None = None
        if query_labels is not None:
            self.query_labels = _labels("query_labels", query_labels)

    @property
    def by_position(self) -> bool:  # type: ignore[override]
        return self.query_labels is None

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        return len(self.labels) > 1 and self._runs is not None

    def visible(self, at: At) -> Tensor:
        labels = self.labels.to(at.key_pos.device)
        zero = torch.zeros_like(at.batch)
        keys = labels[at.batch if len(labels) > 1 else zero, at.key_pos]
        if self.query_labels is not None:
            queries = self.query_labels.to(at.key_pos.device)
            return queries[at.batch if len(queries) > 1 else zero, at.row] == keys
        if labels.shape[1] == 0:  # nothing to look up, and nothing that a query could see
            return keys != keys
        # a position beyond the labels cannot be looked up: look up the nearest, then hide it
        place = at.query_pos.clamp(0, labels.shape[1] - 1)
        alike = labels[at.batch if len(labels) > 1 else zero, place] == keys
        return alike & (place == at.query_pos)

    @property
    def _runs(self) -> list[tuple[list[int], list[int]]] | None:
        """For each sample the starts of its runs (and the end), and all its labels.

        None where the labels cannot be read now, or where the queries have labels of their own.
        """
        return self._found_runs if self.query_labels is None and readable(self.labels) else None

    @cached_property
    def _found_runs(self) -> list[tuple[list[int], list[int]]]:
        found = []
        for labels in self.labels.tolist():
            borders = (i for i, (a, b) in enumerate(pairwise(labels), 1) if a != b)
            found.append(([0, *borders, len(labels)], labels))
        return found

    @cached_property
    def _rising(self) -> bool:
        """Whether no label is smaller than the one before it, as packed documents are numbered."""
        return bool((self.labels.diff(dim=1) >= 0).all())

    def region(self, rect: Rect) -> bool | None:
        if self._runs is None or (rect.sample is None and len(self._runs) > 1):
            return None
        if rect.q0 < 0 or rect.q1 > self.labels.shape[1]:
            return None
        if rect.q0 == rect.q1 or rect.k0 == rect.k1:  # no query or no key, and so no label
            return None
        labels = self._runs[(rect.sample or 0) % len(self._runs)][1]
        if self._rising:  # the first and last label of a range are its least and greatest
            q_low, q_high = labels[rect.q0], labels[rect.q1 - 1]
            k_low, k_high = labels[rect.k0], labels[rect.k1 - 1]
        else:
            q, k = labels[rect.q0 : rect.q1], labels[rect.k0 : rect.k1]
            q_low, q_high, k_low, k_high = min(q), max(q), min(k), max(k)
        if q_high < k_low or k_high < q_low:
            return False
        return True if q_low == q_high == k_low == k_high else None

    def cuts(self, sample: int | None) -> Iterable[int]:
        if self._runs is None or (sample is None and len(self._runs) > 1):
            return ()
        return self._runs[(sample or 0) % len(self._runs)][0]

    def check(self, sizes: Sizes) -> None:
        for name, labels, length, what in (
            ("labels", self.labels, sizes.key_len, "keys"),
            ("query_labels", self.query_labels, sizes.query_len, "queries"),
        ):
            if labels is None:
                continue
            have, count, batch = len(labels), labels.shape[1], sizes.batch
            if count != length or (batch is not None and have not in (1, batch)):
                raise ArgumentError(
                    message(
                        f"Segments' `{name}` labels {count} positions in {have} samples; the call "
                        f"has {length} {what} and a batch of {'any' if batch is None else batch}.",
                        {name: labels},
                        f"Pass one label per position: (batch | 1, {length}).",
                    )
                )

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.labels,) if self.query_labels is None else (self.labels, self.query_labels)

    def _extent(self) -> tuple[int, int]:
        return max(len(labels) for labels in self.tensors()), 1

    def _own_lengths(self) -> tuple[int | None, int | None]:
        queries = self.labels if self.query_labels is None else self.query_labels
        return queries.shape[1], self.labels.shape[1]

    def __repr__(self) -> str:
        return f"Segments({', '.join(describe(tensor) for tensor in self.tensors())})"


def _labels(name: str, given: Sequence[Sequence[int]] | Tensor) -> Tensor:
    return whole_numbers(name, given, 2, "Pass one label per position: (batch, length).")
