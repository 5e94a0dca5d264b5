"""All public names; `import wqkv` takes them from here when the first is asked for."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from wqkv.attend.bias import ALiBi, Bias, T5Bias
from wqkv.attend.forms import Form
from wqkv.attend.functional import attention, explain
from wqkv.attend.masks import Causal, Chunked, Dense, Full, Lengths, Mask, Prefix, Segments, Window
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring
from wqkv.attend.partial import Partial, merge
from wqkv.attend.rope import RoPE
from wqkv.attend.scalings import (
    DynamicNTK,
    GivenFrequencies,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    RoPEScaling,
    YaRN,
)
from wqkv.corpus.documents import DOCUMENTS
from wqkv.doors import door as _door
from wqkv.effects.circuits import Circuits, circuits
from wqkv.effects.diff import Diff, diff
from wqkv.effects.patch import Patched, patch
from wqkv.effects.records import Why
from wqkv.effects.why import why
from wqkv.errors import (
    ArgumentError,
    EngineError,
    KindError,
    MissedError,
    MissingExtraError,
    UpstreamError,
    WqkvError,
)
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.caches.base import KeyPiece, KVCache
from wqkv.layer.caches.buffered import Cross, Dynamic, Static
from wqkv.layer.caches.paged import Paged, Pool
from wqkv.layer.caches.quantized import Quantized
from wqkv.layer.caches.rolling import Rolling
from wqkv.layer.caches.spread import Spread
from wqkv.layer.convert.checkpoint import load_attention
from wqkv.layer.convert.huggingface import from_hf
from wqkv.layer.convert.torch import conversion, convert, from_torch, to_torch
from wqkv.layer.differential import DifferentialAttention
from wqkv.layer.latent import LatentAttention
from wqkv.layer.norms import Norm, QKNorm, Temperature
from wqkv.layer.trace import Trace
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.axis import Axis
from wqkv.maps.link_map import EffectMap, LinkMap
from wqkv.maps.overlay import overlay
from wqkv.maps.rollout import rollout
from wqkv.maps.shared import SharedMap
from wqkv.maps.token_times import token_times
from wqkv.record.recording import load_recording
from wqkv.record.seen_effects import SeenEffects
from wqkv.record.watch import Seen, watch
from wqkv.study.generate import generate, next_tokens
from wqkv.study.heads import Heads, heads
from wqkv.study.hit_rate import Expectation, HitRate, hit_rate
from wqkv.study.model import OpenModel as _OpenModel
from wqkv.study.model import open_model
from wqkv.study.pair import OpenPair as _OpenPair
from wqkv.study.pair import open_pair
from wqkv.study.parity import LayerParity, Parity, parity
from wqkv.study.saved_page import SavedPage as _SavedPage
from wqkv.study.view import View
from wqkv.study.vision import OpenVision as _OpenVision
from wqkv.study.vision_language import OpenVisionLanguage as _OpenVisionLanguage
from wqkv.study.vision_language import open_vision
from wqkv.study.whatif import what_if

if TYPE_CHECKING:
    from wqkv.corpus.survey import Survey

__all__ = [
    "ALiBi",
    "AllToAll",
    "ArgumentError",
    "AttentionMap",
    "Axis",
    "Bias",
    "Causal",
    "Chunked",
    "Circuits",
    "Cross",
    "Dense",
    "Diff",
    "DifferentialAttention",
    "Dynamic",
    "DynamicNTK",
    "EffectMap",
    "EngineError",
    "Expectation",
    "Form",
    "Full",
    "GivenFrequencies",
    "Heads",
    "HitRate",
    "KVCache",
    "KeyPiece",
    "KindError",
    "LatentAttention",
    "LayerParity",
    "Lengths",
    "LinearScaling",
    "LinkMap",
    "Llama3Scaling",
    "LongRoPE",
    "Mask",
    "MissedError",
    "MissingExtraError",
    "MultiheadAttention",
    "Norm",
    "Paged",
    "Parity",
    "Partial",
    "Patched",
    "Pool",
    "Prefix",
    "QKNorm",
    "Quantized",
    "Ranks",
    "Ring",
    "RoPE",
    "RoPEScaling",
    "Rolling",
    "Seen",
    "SeenEffects",
    "Segments",
    "SharedMap",
    "Spread",
    "Static",
    "T5Bias",
    "Temperature",
    "Trace",
    "UpstreamError",
    "View",
    "Why",
    "Window",
    "WqkvError",
    "YaRN",
    "attention",
    "circuits",
    "conversion",
    "convert",
    "diff",
    "explain",
    "from_hf",
    "from_torch",
    "generate",
    "heads",
    "hit_rate",
    "load_attention",
    "load_recording",
    "merge",
    "next_tokens",
    "open_model",
    "open_pair",
    "open_vision",
    "overlay",
    "parity",
    "patch",
    "rollout",
    "shard_heads",
    "survey",
    "to_torch",
    "token_times",
    "use",
    "watch",
    "what_if",
    "why",
]

#: Public too. `from wqkv import *` leaves them out, because they would replace Python's own.
UNSTARRED = ("open",)

_Model = TypeVar("_Model", bound=nn.Module)


@_door
def use(model: _Model) -> _Model:
    """Run a transformers model on `attention`, its masks kept as values, and return it.

    Raises:
        KindError, EngineError: it is no transformers model, or its attention cannot be reached.
        MissingExtraError: transformers is not installed.
    """
    from wqkv.replace.use import use as switch  # needs transformers: imported when it is called

    return switch(model)


@_door
def open(
    model: _OpenModel | _OpenPair | _OpenVision | _OpenVisionLanguage | str | None,
    text: str,
    target: str | None = None,
    *,
    picture: str | None = None,
    at: tuple[int, int, int] | None = None,
    lang: str = "en",
) -> _SavedPage:
    """A text as one page: softmax(q k^T / sqrt(d_k)) v of every token, layer and head.

    A notebook shows the page in the cell, and a still picture where scripts do not run. There is no
    server, so that it works on Colab and JupyterHub too; `open(...).save("page.html")` writes it as
    a file. `from wqkv import *` leaves it out, because it would replace Python's own `open`.

    Args:
        model: an opened model, or what `open_model`, `open_pair` or `open_vision` would open; None
            is the default.
        text: for a model of pictures, the path of one.
        target: what a model of two texts is taken to have written; None lets it write.
        picture: the path of one that a model of both reads with the text.
        at: the layer, head and token that the page begins with; None is the clearest link.
        lang: the language that the page begins with, "en" or "zh".

    Raises:
        ArgumentError: no such model, place or language, an empty or too long text.
        MissingExtraError: transformers is not installed.

    >>> wqkv.open(None, "The cat sat.")  # doctest: +SKIP
    all-MiniLM-L6-v2 reads 6 tokens: layer 0, head 2; .save('page.html') writes the page
    """
    # By name, because the page and the drawings are made with what stands here.
    inline = import_module("wqkv.explorer.inline")
    page: _SavedPage = inline.saved_page(model, text, target, picture, at, lang)
    return page


@_door
def shard_heads(layer: MultiheadAttention, mesh: DeviceMesh) -> MultiheadAttention:
    """The same layer with its heads shared by the ranks of a mesh, in place: same input and output.

    WQ, WK, WV (and WG) keep the columns of this rank's heads, WO their rows; one all-reduce adds up
    the results (see wqkv.layer.shard).

    Raises:
        ArgumentError: heads that do not make equal shares, a layer over tokens already (`mesh`),
            or a part that looks at all heads together.

    Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3.
    """
    from wqkv.layer.shard import shard_heads as shard  # needs torch's DTensor

    return shard(layer, mesh)


@_door
def survey(
    model: str | None,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    field: str = "text",
    workers: int = 1,
    address: str | None = None,
    documents: int = DOCUMENTS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> "Survey":
    """Read a corpus with a model, and write what its heads do as three Parquet files.

    Args:
        model: a folder, a .gguf file, or a hub name; None is the packaged default.
        data: files and folders of documents; of .jsonl and .parquet files, their column `field`.
        out: the folder. What an earlier run has finished there is not made again.
        workers: 1 works in this process; more are actors of Ray Data.
        address: of a Ray cluster whose machines all see the model, the data and `out`.
        documents: how many a part holds at most; a part is what a worker makes at once.
        progress: is given how many documents are done, of how many; may raise, which ends the run.

    Raises:
        ArgumentError: no documents, none that can be read, no such model.
        MissingExtraError: transformers, pyarrow, or for more workers ray, is not installed.
    """
    from wqkv.corpus.survey import survey as run  # needs numpy: imported when it is called

    return run(
        model, data, out, field=field, workers=workers, address=address, documents=documents,
        progress=progress,
    )  # fmt: skip
