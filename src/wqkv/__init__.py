"""wqkv: multi-head attention that you can open.

q = X WQ, k = X WK, v = X WV; scores = q k^T / sqrt(d_k); weights = softmax(scores);
output = concat(weights v) WO.
"""

from typing import TypeVar as _TypeVar

from torch import nn as _nn

from wqkv.attend.functional import attention, explain
from wqkv.attend.masks import Causal, Dense, Full, Lengths, Prefix, Segments, Window
from wqkv.attend.merge import Partial, merge
from wqkv.attend.positions import ALiBi, RoPE, T5Bias
from wqkv.layer.layer import MultiheadAttention
from wqkv.layer.trace import Trace
from wqkv.look.heads import Heads, heads
from wqkv.look.maps import AttentionMap, rollout
from wqkv.look.watch import Seen, watch

__all__ = [
    "ALiBi",
    "AttentionMap",
    "Causal",
    "Dense",
    "Full",
    "Heads",
    "Lengths",
    "MultiheadAttention",
    "Partial",
    "Prefix",
    "RoPE",
    "Seen",
    "Segments",
    "T5Bias",
    "Trace",
    "Window",
    "attention",
    "explain",
    "heads",
    "merge",
    "rollout",
    "use",
    "watch",
]

__version__ = "0.1.0"

_Model = _TypeVar("_Model", bound=_nn.Module)


def use(model: _Model) -> _Model:
    """Run a transformers model on `attention`, its masks kept as values, and return it.

    Raises:
        KindError, EngineError: it is no transformers model, or its attention cannot be reached.
        MissingExtraError: transformers is not installed.
    """
    from wqkv.look.use import (
        use as switch,
    )  # registers with transformers, so not before it is asked for

    return switch(model)
