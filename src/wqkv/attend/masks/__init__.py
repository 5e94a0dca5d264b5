"""Who may see whom, as values: True means "may attend" everywhere.

A mask speaks of absolute positions: the query at position i, the key at position j. It is combined
with `&`, `|` and `~`, drawn by `str()`, and answers from its structure, without building a matrix,
whether a rectangle of positions is all visible, all hidden or mixed. Only `dense()` builds it.

    algebra.py   Mask, the interface; Full; And, Or, Not and PartMask, which are made of masks
    causal.py    Causal, Window, Chunked: by the positions alone
    ends.py      Lengths, Prefix: by an end, one for all samples or one per sample
    segments.py  Segments: by labels, which tell packed documents apart
    dense.py     Dense: by a stored matrix
"""

from wqkv.attend.masks.algebra import And, Full, Mask, Not, Or
from wqkv.attend.masks.causal import Causal, Chunked, Window
from wqkv.attend.masks.dense import Dense
from wqkv.attend.masks.ends import Lengths, Prefix
from wqkv.attend.masks.segments import Segments

__all__ = [
    "And",
    "Causal",
    "Chunked",
    "Dense",
    "Full",
    "Lengths",
    "Mask",
    "Not",
    "Or",
    "Prefix",
    "Segments",
    "Window",
]
