"""All public names; `import wqkv` takes them from here when the first is asked for."""

from typing import TypeVar

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from wqkv.attend.bias import ALiBi, Bias, T5Bias
from wqkv.attend.forms import Form
from wqkv.attend.functional import attention, explain
from wqkv.attend.masks import Causal, Chunked, Dense, Full, Lengths, Mask, Prefix, Segments, Window
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring
from wqkv.attend.partial import Partial, merge
from wqkv.attend.rope import RoPE
from wqkv.doors import door as _door
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.caches.base import KeyPiece, KVCache
from wqkv.layer.caches.buffered import Cross, Dynamic, Static
from wqkv.layer.caches.paged import Paged, Pool
from wqkv.layer.caches.quantized import Quantized
from wqkv.layer.caches.rolling import Rolling
from wqkv.layer.caches.spread import Spread
from wqkv.layer.convert.checkpoint import load_attention
from wqkv.layer.convert.huggingface import from_hf
from wqkv.layer.convert.torch import convert, from_torch, to_torch
from wqkv.layer.differential import DifferentialAttention
from wqkv.layer.latent import LatentAttention
from wqkv.layer.norms import Norm, QKNorm, Temperature
from wqkv.layer.trace import Trace
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.rollout import rollout
from wqkv.maps.shared import SharedMap
from wqkv.record.watch import Seen, watch
from wqkv.study.heads import Heads, heads
from wqkv.study.parity import LayerParity, Parity, parity

__all__ = [
    "ALiBi",
    "AllToAll",
    "AttentionMap",
    "Bias",
    "Causal",
    "Chunked",
    "Cross",
    "Dense",
    "DifferentialAttention",
    "Dynamic",
    "Form",
    "Full",
    "Heads",
    "KVCache",
    "KeyPiece",
    "LatentAttention",
    "LayerParity",
    "Lengths",
    "Mask",
    "MultiheadAttention",
    "Norm",
    "Paged",
    "Parity",
    "Partial",
    "Pool",
    "Prefix",
    "QKNorm",
    "Quantized",
    "Ranks",
    "Ring",
    "RoPE",
    "Rolling",
    "Seen",
    "Segments",
    "SharedMap",
    "Spread",
    "Static",
    "T5Bias",
    "Temperature",
    "Trace",
    "Window",
    "attention",
    "convert",
    "explain",
    "from_hf",
    "from_torch",
    "heads",
    "load_attention",
    "merge",
    "parity",
    "rollout",
    "shard_heads",
    "to_torch",
    "use",
    "watch",
]

_Model = TypeVar("_Model", bound=nn.Module)


@_door
def use(model: _Model) -> _Model:
    """Run a transformers model on `attention`, its masks kept as values, and return it.

    Raises:
        KindError, EngineError: it is no transformers model, or its attention cannot be reached.
        MissingExtraError: transformers is not installed.
    """
    from wqkv.replace.use import use as switch  # transformers: not before it is asked for

    return switch(model)


@_door
def shard_heads(layer: MultiheadAttention, mesh: DeviceMesh) -> MultiheadAttention:
    """The same layer with its heads shared by the ranks of a mesh, in place: same input and output.

    WQ, WK, WV (and WG) keep the columns of this rank's heads, WO their rows; one all-reduce adds up
    the results (see wqkv.layer.shard).

    Raises:
        ArgumentError: heads that do not make equal shares, a layer over words already (`mesh`), or
            a part that looks at all heads together.

    Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3.
    """
    from wqkv.layer.shard import shard_heads as shard  # torch's DTensor: not before it is asked for

    return shard(layer, mesh)
