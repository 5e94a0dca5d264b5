"""One layer as a saved page holds it: the numbers that its answers are computed from in the page.

A layer is one string: base64 of gzip of a length (4 bytes), a `SavedLayer` as JSON, and the
numbers, all in the order of `shapes`. page/computed/layer.js reads it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from wqkv.attend.bias import Bias
from wqkv.attend.masks.algebra import Full
from wqkv.draw.to_json import plain
from wqkv.explorer.api import OpenView
from wqkv.explorer.numbers import told_steps
from wqkv.explorer.saved_experiments import changed_numbers, proofs, ranks, refused, shuffled
from wqkv.explorer.schema import SavedLayer, ToldSteps
from wqkv.sentences import LANGUAGES
from wqkv.study.one_token import token_story
from wqkv.study.opened_layer import OpenLayer
from wqkv.study.part import position_of, scale_of

#: Texts of up to so many tokens are computed in the page: their maps take 1 MiB in JavaScript.
MOST_TOKENS = 362


def pack(seen: OpenView, layer: int) -> str:
    """A layer of an open view as one string; 1 ms for each token of each head."""
    view = seen.view
    opened = view.layer(layer)
    numbers = _numbers(seen, opened) | changed_numbers(view, layer)
    facts: SavedLayer = {
        "shapes": {name: list(part.shape) for name, part in numbers.items()},
        "mask": repr(opened.layer.mask),
        "position": position_of(opened.layer),
        "scale": scale_of(opened.layer),
        "softcap": opened.layer.softcap,
        "residuals": plain([view.row(layer, 0, i).residual for i in range(view.n)]),
        "refused": (never := refused(view, layer)),
        "ranks": ranks(view, layer),
        "shuffled": [] if "shuffled_heads" in never else shuffled(view, layer),
        "proofs": plain(proofs(view, layer)),
        "stories": _stories(seen, layer),
    }
    return zipped(facts, *map(_bytes, numbers.values()))


def zipped(facts: object, *numbers: bytes) -> str:
    """Base64 of gzip of a length (4 bytes), facts as JSON, and numbers."""
    head = json.dumps(facts, allow_nan=False).encode()
    data = [len(head).to_bytes(4, "little"), head, *numbers]
    # mtime: the same facts give the same string
    return base64.b64encode(gzip.compress(b"".join(data), 9, mtime=0)).decode()


@torch.no_grad()
def _numbers(seen: OpenView, opened: OpenLayer) -> dict[str, Tensor]:
    """The tensors of a layer by name, each without its axis of samples."""
    view, layer = seen.view, opened.layer
    rows = torch.arange(view.n, device="cpu")
    WO = torch.stack([opened.WO(head) for head in range(layer.n_head)]).float()
    found = {
        "x": opened.x[0],
        "q": opened.q[0],
        "k": opened.k[0],
        "v": opened.v[0],
        "output": torch.cat([opened.output(row)[0] for row in rows.split(1)]),
        "lengths": WO @ WO.mT,  # |c WO|^2 = c (WO WO^T) c^T
    }
    if view.reading.source is not None and view.reading.source.final is not None:
        found["source"] = view.reading.source.final[0]
    if layer.sinks is not None:
        found["sinks"] = layer.sinks.detach()
    if layer.gate is not None:
        ones, all_rows = torch.ones(view.n, layer.d_v, device="cpu"), slice(None)
        heads = range(layer.n_head)
        found["gate"] = torch.stack([opened.apply_gate(head, all_rows, ones) for head in heads])
    at = opened.call.places()
    if isinstance(layer.position, Bias):
        found["bias"] = layer.position.tile(at, torch.float32).expand(1, layer.n_head, -1, -1)[0]
    if not isinstance(layer.mask, Full):
        visible = layer.mask.visible(at)
        found["visible"] = visible.expand(1, visible.shape[1], view.n, view.m)[0].float()
    # What each key adds at weight 1, v_j WO, or WO itself where that is smaller. A gate stands
    # between v and WO.
    if layer.gate is not None or view.m >= layer.d_v:
        return found | {"WO": WO}
    values = opened.v[0].repeat_interleave(layer.n_head // opened.v.shape[1], dim=0)
    return found | {"added": values.float() @ WO}


def _stories(seen: OpenView, layer: int) -> dict[str, Sequence[Sequence[ToldSteps]]]:
    """What is told of every head and token, in each language."""
    view = seen.view
    told = [
        [token_story(view, layer, head, token) for token in range(view.n)]
        for head in range(view.model.sizes.n_head)
    ]
    return {
        lang: [[told_steps(seen, one, lang) for one in of_head] for of_head in told]
        for lang in LANGUAGES
    }


def _bytes(numbers: Tensor) -> bytes:
    """float32 numbers, little-endian: the first bytes of all, then the second ones, and so on.

    Bytes of one place are alike, so that gzip finds more: a tenth of a layer.
    """
    flat = numbers.detach().float().contiguous().cpu().flatten()
    return bytes(flat.view(torch.uint8).view(-1, 4).T.flatten().tolist())
