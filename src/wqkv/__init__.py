"""wqkv: multi-head attention that you can open.

q = X WQ, k = X WK, v = X WV; scores = q k^T / sqrt(d_k); weights = softmax(scores);
output = concat(weights v) WO.
"""

from wqkv.attend.functional import attention, explain
from wqkv.attend.masks import Causal, Dense, Full, Lengths, Prefix, Segments, Window
from wqkv.attend.merge import Partial, merge
from wqkv.attend.positions import ALiBi, RoPE, T5Bias
from wqkv.layer.layer import MultiheadAttention
from wqkv.layer.trace import Trace
from wqkv.look.maps import AttentionMap, rollout
from wqkv.look.watch import Seen, watch

__all__ = [
    "ALiBi",
    "AttentionMap",
    "Causal",
    "Dense",
    "Full",
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
    "merge",
    "rollout",
    "watch",
]

__version__ = "0.1.0"
