"""What the doors are tried with: wrong values, and for every public callable right arguments."""

import inspect
import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

import wqkv
from tests.tiny import text, tiny_llama
from wqkv.maps.shared import Part
from wqkv.study.callbacks import silent
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText

B, H, N, D = 2, 3, 5, 4
WIDTH = H * D


class Wrong(NamedTuple):
    """A value that is tried, and what it is, in the words of an annotation."""

    name: str
    words: str
    make: Callable[[], Any]


def quietly(make: Callable[[], Any]) -> Any:
    """Torch says of several of these kinds that they are prototypes, or going."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def nested(layout: torch.layout) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2, D), torch.ones(N, D)], layout=layout)


def masked() -> torch.Tensor:
    return torch.masked.masked_tensor(torch.ones(B, H, N, D), torch.ones(B, H, N, D) > 0)


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(B, N), 1.0, 0, torch.quint8)


def distributed() -> torch.Tensor:
    return DTensor.from_local(torch.ones(B, H, N, D), init_device_mesh("cpu", (1,)), [Replicate()])


LIST = "Sequence Collection Iterable"
ANY_LIST = "Iterable Sequence[Hashable]"

VALUES = [
    Wrong("None", "None", lambda: None),
    Wrong("True", "bool", lambda: True),
    Wrong("3", "int float SupportsIndex", lambda: 3),
    Wrong("-1", "int float SupportsIndex", lambda: -1),
    Wrong("0", "int float SupportsIndex", lambda: 0),
    Wrong("2.5", "float", lambda: 2.5),
    Wrong("nan", "float", lambda: math.nan),
    Wrong("inf", "float", lambda: math.inf),
    Wrong("''", "str Literal", lambda: ""),
    Wrong("'x'", "str Literal", lambda: "x"),
    Wrong("b'x'", "", lambda: b"x"),
    Wrong("[]", LIST, list),
    Wrong("[1]", LIST, lambda: [1]),
    Wrong("[-1, 99]", LIST, lambda: [-1, 99]),
    Wrong(
        "[True]",
        "Sequence[SupportsIndex] Sequence[bool] Iterable Sequence[Hashable]",
        lambda: [True],
    ),
    Wrong("['x']", f"Collection[str] Sequence[str] {ANY_LIST}", lambda: ["x"]),
    Wrong("[nan]", f"Sequence[float] {ANY_LIST}", lambda: [math.nan]),
    Wrong("[None]", ANY_LIST, lambda: [None]),
    Wrong("[[1], [1, 2]]", "Sequence Iterable", lambda: [[1], [1, 2]]),
    Wrong("[[1, 2]]", "Sequence Iterable", lambda: [[1, 2]]),
    Wrong("()", "Sequence Collection Iterable tuple", lambda: ()),
    Wrong("(1, 'x')", ANY_LIST, lambda: (1, "x")),
    Wrong("{}", "Mapping", dict),
    Wrong("{'x': 1}", "Mapping", lambda: {"x": 1}),
    Wrong("object()", "", object),
    Wrong("a function", "Callable", lambda: lambda *args, **kwargs: None),
    Wrong("a class", "Callable", lambda: int),
    Wrong("a python module", "", lambda: math),
    Wrong("an nn.Module", "Callable Module _Model", lambda: nn.Linear(2, 3)),
    Wrong("a generator", "Iterable", lambda: (i for i in range(2))),
    Wrong("slice(1)", "slice", lambda: slice(1)),
    Wrong("np.float32", "float", lambda: np.float32(1.5)),
    Wrong("np.int64", "float SupportsIndex", lambda: np.int64(2)),
    Wrong("np.bool", "", lambda: np.bool_(True)),
    Wrong("an array", "SupportsIndex Iterable", lambda: np.array([0, 1])),
    Wrong("an array of strings", "SupportsIndex Iterable", lambda: np.array(["a"])),
    Wrong("ints", "Tensor", lambda: torch.tensor([0, 1])),
    Wrong("bools", "Tensor", lambda: torch.ones(N, N, dtype=torch.bool)),
    Wrong("complex", "Tensor", lambda: torch.ones(B, H, N, D, dtype=torch.complex64)),
    Wrong("float8", "Tensor", lambda: torch.ones(B, H, N, D).to(torch.float8_e4m3fn)),
    Wrong("0-d", "Tensor", lambda: torch.tensor(1.0)),
    Wrong("0-d int", "Tensor SupportsIndex", lambda: torch.tensor(1)),
    Wrong("empty", "Tensor", lambda: torch.ones(0)),
    Wrong("empty 4-d", "Tensor", lambda: torch.ones(0, H, N, D)),
    Wrong("1-d", "Tensor", lambda: torch.ones(N)),
    Wrong("3-d", "Tensor", lambda: torch.ones(B, N, WIDTH)),
    Wrong("5-d", "Tensor", lambda: torch.ones(1, B, H, N, D)),
    Wrong("4-d", "Tensor", lambda: torch.ones(B, H, N, D)),
    Wrong("nan 4-d", "Tensor", lambda: torch.full((B, H, N, D), math.nan)),
    Wrong("meta", "Tensor", lambda: torch.ones(B, H, N, D, device="meta")),
    Wrong("meta ints", "Tensor", lambda: torch.ones(B, device="meta").long()),
    Wrong("nested", "", lambda: nested(torch.strided)),
    Wrong("jagged", "", lambda: nested(torch.jagged)),
    Wrong("coo", "", lambda: torch.ones(B, H, N, D).to_sparse()),
    Wrong("csr", "", lambda: torch.ones(N, D).to_sparse_csr()),
    Wrong("quantized", "", quantized),
    Wrong("masked", "", masked),
    Wrong("DTensor", "", distributed),
    Wrong("a mask", "Mask Form", wqkv.Causal),
    Wrong("a mask's class", "Callable", lambda: wqkv.Causal),
    Wrong("a RoPE", "RoPE Form", wqkv.RoPE),
    Wrong("a cache", "KVCache", wqkv.Dynamic),
    Wrong("complex number", "", lambda: 2j),
    Wrong("range", "Sequence Collection Iterable", lambda: range(2)),
    Wrong("a dtype", "dtype", lambda: torch.int64),
    Wrong("cuda:99", "device", lambda: torch.device("cuda:99")),
]


# What is asked, with arguments that are right


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def heads_of(n: int = N) -> torch.Tensor:
    return floats(B, H, n, D)


def a_map() -> wqkv.AttentionMap:
    return wqkv.AttentionMap(heads_of(), heads_of()).on(keys=wqkv.Axis(N))


def an_axis() -> wqkv.Axis:
    return wqkv.Axis(N, grid=(1, N), source=floats(3, 4, 2 * N))


def own_map() -> wqkv.AttentionMap:
    return wqkv.AttentionMap(floats(1, H, N, D), floats(1, H, N, D))


def filled(cache: Any) -> Any:
    with torch.no_grad():
        cache.append(heads_of(), heads_of())
    return cache


def model() -> GPT2Model:
    return GPT2Model(GPT2Config(n_layer=1, n_embd=WIDTH, n_head=H, vocab_size=11)).eval()


def seen() -> wqkv.Seen:
    net = GPT2LMHeadModel(model().config).eval()
    with wqkv.watch(net, gradients=True) as found:
        net(torch.arange(N)[None]).logits[0, -1, 0].backward()
    return found


@cache
def opened() -> OpenModel:
    return tiny_llama(1)


@cache  # a view changes nothing but what it has kept
def view() -> wqkv.View:
    return wqkv.View(opened(), opened().read(text(N - 1)))


@cache
def view_without_rope() -> wqkv.View:
    return OpenModel(model(), None, "gpt2").view(TokenizedText.of_ids(list(range(N))))


def trace() -> wqkv.Trace:
    return wqkv.MultiheadAttention(WIDTH, H).trace(floats(B, N, WIDTH))


#: An object of every public class.
MADE: dict[str, Callable[[], Any]] = {
    "ALiBi": lambda: wqkv.ALiBi(H),
    "AllToAll": wqkv.AllToAll,
    "AttentionMap": a_map,
    "Axis": an_axis,
    "Causal": wqkv.Causal,
    "Chunked": lambda: wqkv.Chunked(2),
    "Cross": lambda: filled(wqkv.Cross()),
    "Dense": lambda: wqkv.Dense(torch.ones(N, N, dtype=torch.bool)),
    "DifferentialAttention": lambda: wqkv.DifferentialAttention(WIDTH, H, start=0.5),
    "Dynamic": lambda: filled(wqkv.Dynamic()),
    "EffectMap": lambda: a_map().effects(heads_of(), heads_of(), heads_of()),
    "Full": wqkv.Full,
    "Heads": lambda: wqkv.heads([own_map()], ["a", "b", "c", "d", "e"]),
    "LatentAttention": lambda: wqkv.LatentAttention(WIDTH, H, rank=3, d_rope=2),
    "Lengths": lambda: wqkv.Lengths([2, 3]),
    "LinkMap": lambda: a_map().contributions(heads_of(), floats(H, D, WIDTH)),
    "MultiheadAttention": lambda: wqkv.MultiheadAttention(WIDTH, H, position=wqkv.RoPE()),
    "Norm": wqkv.Norm,
    "Paged": lambda: filled(wqkv.Paged(wqkv.Pool(8, 4))),
    "Parity": lambda: wqkv.Parity("gpt2", "", ()),
    "LayerParity": lambda: wqkv.LayerParity("decoder", 0, None, "why"),
    "Pool": lambda: wqkv.Pool(4),
    "Prefix": lambda: wqkv.Prefix(2),
    "QKNorm": wqkv.QKNorm,
    "Quantized": lambda: filled(wqkv.Quantized()),
    "Ranks": wqkv.Ranks,
    "Ring": wqkv.Ring,
    "RoPE": wqkv.RoPE,
    "Rolling": lambda: filled(wqkv.Rolling(9)),
    "Seen": seen,
    "SeenEffects": lambda: seen().effects(),
    "Segments": lambda: wqkv.Segments([[0, 0, 1, 1, 1]]),
    "SharedMap": lambda: wqkv.SharedMap.tokens(wqkv.Ranks(), heads_of(), heads_of()).on(an_axis()),
    "Spread": lambda: filled(wqkv.Spread()),
    "Static": lambda: filled(wqkv.Static(9)),
    "T5Bias": lambda: wqkv.T5Bias(floats(8, H), bidirectional=True),
    "Temperature": lambda: wqkv.Temperature(4, 0.5),
    "Trace": trace,
    "View": view,
    "Window": lambda: wqkv.Window(1, 0),
    "experiments": lambda: wqkv.experiments,
    "LinearScaling": lambda: wqkv.LinearScaling(2.0),
    "DynamicNTK": lambda: wqkv.DynamicNTK(2.0, 64),
    "YaRN": lambda: wqkv.YaRN(2.0, 64),
    "Llama3Scaling": lambda: wqkv.Llama3Scaling(2.0, 1.0, 4.0, 64),
    "LongRoPE": lambda: wqkv.LongRoPE((1.0, 2.0), (1.0, 2.0), trained_length=64, factor=2.0),
    "GivenFrequencies": lambda: wqkv.GivenFrequencies((1.0, 0.5)),
}
#: Tuples and records, into which whoever is given one looks; and classes that only their heirs
#: make.
NO_DOORS = {
    *("Bias", "Form", "KeyPiece", "KVCache", "Mask", "Partial", "RoPEScaling"),
    *("Expectation", "HitRate", "Patched", "Why"),
}

#: What a SharedMap refuses, whatever its arguments are.
REFUSED = {f"SharedMap.{name}" for name in ("contributions", "split", "gradients", "effects")}

EXPECTED = wqkv.Expectation("the sea lamp burned", "burned", "lamp")
X = {"Q": lambda: floats(B, N, WIDTH)}
QKV = dict.fromkeys(("query", "key", "value"), heads_of)
LAYER = {"layer": lambda: 0}
HEAD = {**LAYER, "head": lambda: 0}
ROW = {"view": view_without_rope, **HEAD, "i": lambda: 2}
LINKS = {
    "numbers": lambda: a_map().gradients(heads_of(), heads_of(), heads_of())._numbers,
    "what": lambda: "dL / dscore_ij",
}
GRADIENTS = dict.fromkeys(("value", "output", "grad_output"), heads_of)
OUTPUT = {"value": heads_of, "WO": lambda: floats(H, D, WIDTH)}
#: The arguments that a call needs, by the door's name or, for methods, by the method's.
ARGUMENTS: dict[str, dict[str, Callable[[], Any]]] = {
    "attention": QKV,
    "explain": QKV,
    "merge": {"first": lambda: wqkv.Partial(heads_of(), floats(B, H, N))},
    "token_times": {
        "maps": lambda: [a_map().on(keys=wqkv.Axis(N, seconds=0.02))],
        "heads": lambda: [(0, 1)],
        "tokens": lambda: [1, 2],
    },
    "rollout": {"maps": lambda: [a_map()], "vector": lambda: floats(N)},
    "Axis": {"labels": lambda: N},
    "overlay": {"numbers": lambda: floats(N), "axis": an_axis},
    "use": {"model": model},
    "watch": {"model": model},
    "parity": {"model": model},
    "from_hf": {"model": model, "layer": lambda: 0},
    "from_torch": {"module": lambda: nn.MultiheadAttention(WIDTH, H, batch_first=True)},
    "to_torch": {"module": lambda: wqkv.MultiheadAttention(WIDTH, H)},
    "convert": {"model": lambda: nn.TransformerEncoderLayer(WIDTH, H)},
    "conversion": {"model": lambda: nn.TransformerEncoderLayer(WIDTH, H)},
    "heads": {"maps": lambda: [own_map()], "tokens": lambda: ["a", "b", "c", "d", "e"]},
    "hit_rate": {"model": opened, "expectations": lambda: [EXPECTED]},
    "why": {"model": opened, "text": lambda: text(N - 1)},
    "patch": {"model": opened, "clean": lambda: text(3), "corrupted": lambda: "sea lamp wind"},
    "open_model": {},  # a folder: see `asked`
    "open_pair": {},
    "open_vision": {},
    "open": {"model": opened, "text": lambda: text(3)},
    "survey": {},
    "what_if": {"view": view, "off": lambda: [(0, 0)]},
    "generate": {"view": view, "count": lambda: 2},
    "next_tokens": {"view": view},
    "circuits": {"model": opened, **HEAD},
    "diff": {"a": opened, "b": lambda: wqkv.Quantized(), "text": lambda: text(N - 1)},
    "load_attention": {"path": lambda: "not there", "layer": lambda: 0},
    "load_recording": {"path": lambda: "not there"},
    "shard_heads": {
        "layer": lambda: wqkv.MultiheadAttention(WIDTH, H),
        "mesh": lambda: init_device_mesh("cpu", (1,)),
    },
    # constructors
    "ALiBi": {"slopes": lambda: H},
    "AttentionMap": {"query": heads_of, "key": heads_of},
    "Chunked": {"size": lambda: 2},
    "Dense": {"matrix": lambda: torch.ones(N, N, dtype=torch.bool)},
    "Circuits": {
        **dict.fromkeys(("model", "position"), lambda: "x"),
        **dict.fromkeys(("layer", "head", "key_head", "distance"), lambda: 0),
        **dict.fromkeys(("QK", "OV"), lambda: wqkv.circuits(opened(), 0, 0).OV),
        "copying": lambda: None,
        "composition": lambda: floats(1),
        "left_out": tuple,
    },
    "Diff": {
        **dict.fromkeys(("a", "b", "how"), lambda: "x"),
        **dict.fromkeys(("tokens", "heads", "rows", "maps"), tuple),
        **dict.fromkeys(("kl", "rounding"), lambda: floats(1)),
    },
    "DifferentialAttention": {"d_model": lambda: WIDTH, "n_head": lambda: H, "start": lambda: 0.5},
    "Heads": {"table": lambda: (), "tokens": lambda: 3},
    "LatentAttention": {
        "d_model": lambda: WIDTH,
        "n_head": lambda: H,
        "rank": lambda: 3,
        "d_rope": lambda: 2,
    },
    "LayerParity": {
        "part": lambda: "a",
        "layer": lambda: 0,
        "proof": lambda: None,
        "reason": lambda: "",
    },
    "Lengths": {"lengths": lambda: [2, 3]},
    "LinkMap": LINKS,
    "EffectMap": LINKS,
    "MultiheadAttention": {"d_model": lambda: WIDTH, "n_head": lambda: H},
    "Paged": {"pool": lambda: wqkv.Pool(4)},
    "Parity": {"family": lambda: "", "inputs": lambda: "", "layers": tuple},
    "Pool": {"blocks": lambda: 4},
    "Prefix": {"length": lambda: 3},
    "Rolling": {"window": lambda: 9},
    "Seen": {"model": model, "layers": lambda: None, "keep": lambda: "all"},
    "SeenEffects": {"layers": list, "how": lambda: "zero"},
    "Segments": {"labels": lambda: [[0, 0, 1, 1, 1]]},
    "SharedMap": {
        "ranks": wqkv.Ranks,
        "parts": lambda: [Part(a_map(), 0, 0)],
        "shape": lambda: (B, H, N, N),
        "mask": wqkv.Full,
        "placed": lambda: True,
    },
    "Static": {"capacity": lambda: 9},
    "T5Bias": {"table": lambda: floats(8, H), "bidirectional": lambda: True},
    "Temperature": {"every": lambda: 4, "by": lambda: 0.5},
    "Trace": {name: lambda: floats(1) for name in inspect.signature(wqkv.Trace).parameters},
    "View": {"model": opened, "reading": lambda: view().reading},
    "Window": {"before": lambda: 1, "after": lambda: 0},
    "LinearScaling": {"factor": lambda: 2.0},
    "DynamicNTK": {"factor": lambda: 2.0, "trained_length": lambda: 64},
    "YaRN": {"factor": lambda: 2.0, "trained_length": lambda: 64},
    "Llama3Scaling": {
        "factor": lambda: 2.0,
        "low": lambda: 1.0,
        "high": lambda: 4.0,
        "trained_length": lambda: 64,
    },
    "LongRoPE": {
        "short": lambda: (1.0, 2.0),
        "long": lambda: (1.0, 2.0),
        "factor": lambda: 2.0,
        "trained_length": lambda: 64,
    },
    "GivenFrequencies": {"values": lambda: (1.0, 0.5)},
    # methods
    "dense": {"query_len": lambda: N, "key_len": lambda: N},
    "part": {"start": lambda: 1, "key_len": lambda: N},
    "ALiBi.part": {"start": lambda: 1, "row": lambda: 0},
    "T5Bias.part": {"start": lambda: 1, "row": lambda: 0},
    "cuts": {"sample": lambda: 0},
    ".heads": {"start": lambda: 0, "stop": lambda: 2},
    "SharedMap.heads": {"m": a_map},
    "SharedMap.tokens": {"ranks": wqkv.Ranks, "query": heads_of, "key": heads_of},
    "bucket": {"ahead": lambda: torch.arange(-3, 4)},
    "append": {"k": lambda: heads_of(1), "v": lambda: heads_of(1)},
    "Cross.append": {"k": heads_of, "v": heads_of},
    "rewind": {"length": lambda: 0},
    "reorder": {"index": lambda: [1, 0]},
    "fork": {"sample": lambda: 0},
    ".merge": {"caches": lambda: [filled(wqkv.Dynamic())]},
    "save": {},
    "load": {"path": lambda: "not there"},
    "whole": {"part": lambda: wqkv.Partial(heads_of(), floats(B, H, N))},
    "forward": X,
    "trace": X,
    "map": X,
    "qkv": X,
    "__getitem__": {"index": lambda: 0},
    "Heads.__getitem__": {"layer": lambda: 0},
    "Seen.__getitem__": {"layer": lambda: 0},
    "Seen.effects": {},
    "Seen.writes": {"layer": lambda: 0},
    "SeenEffects.__getitem__": {"layer": lambda: 0},
    "rows": {"queries": lambda: [1]},
    "at": {"queries": lambda: [1], "keys": lambda: [2]},
    "times": {"X": lambda: floats(N, 2)},
    "t_times": {"Y": lambda: floats(N, 2)},
    "mass": {"keys": lambda: [1]},
    "on": {"keys": an_axis},
    "cells": {"numbers": lambda: floats(N)},
    "pixels": {"numbers": lambda: floats(N)},
    "label": {"position": lambda: 0},
    "position": {"cell": lambda: 0},
    ".overlay": {"query": lambda: 0, "head": lambda: 0},
    "thumbnail": {},
    "coverage": {"share": lambda: 0.9},
    "frequencies": {"rope": wqkv.RoPE},
    "kl": {"other": a_map},
    "SharedMap.kl": {"other": lambda: MADE["SharedMap"]()},
    "contributions": OUTPUT,
    "split": {**OUTPUT, "direction": lambda: floats(WIDTH)},
    "gradients": GRADIENTS,
    "effects": GRADIENTS,
    "group": {"keys": lambda: [1]},
    "plot": {},
    "top": {"k": lambda: 2},
    "proof": {"value": heads_of, "output": heads_of},
    "spans": {"total": lambda: 4},
    "positions": {"n": lambda: 4},
    "shard": {"x": lambda: floats(B, N)},
    "gather": {"x": lambda: floats(B, N)},
    "every": {"x": lambda: floats(B, N)},
    "in_order": {"parts": lambda: [floats(B, N)], "dim": lambda: 1},
    "grid": {"d": lambda: 8},
    "rotate": {"x": heads_of, "position": lambda: torch.arange(N)},
    "turns": {"x": heads_of, "position": lambda: torch.arange(N)},
    "span": {"x": heads_of, "first": lambda: 0, "n": lambda: N, "length": lambda: N},
    "runs": {"layer": lambda: 0},
    "View.layer": LAYER,
    "View.proof": LAYER,
    "View.cell": {**HEAD, "i": lambda: 2, "j": lambda: 1},
    "View.row": {**HEAD, "i": lambda: 2},
    "View.row_without": {**HEAD, "i": lambda: 2, "j": lambda: 1},
    "View.stream": {"token": lambda: 2},
    "View.column": {**HEAD, "j": lambda: 1},
    "View.checked_rectangle": {
        "q0": lambda: 1,
        "q1": lambda: 3,
        "k0": lambda: 0,
        "k1": lambda: 2,
    },
    "View.tile": {
        **HEAD,
        "q0": lambda: 1,
        "q1": lambda: 3,
        "k0": lambda: 0,
        "k1": lambda: 2,
    },
    "View.grid": {"statistic": lambda: "entropy"},
    "View.check_statistic": {"statistic": lambda: "entropy"},
    **dict.fromkeys(("View.map", "View.thumbnail", "View.sweep", "View.received"), HEAD),
    **dict.fromkeys(
        ("View.distances", "View.links", "View.contributions", "View.checked_layer"), HEAD
    ),
    "View.matrices": HEAD,
    **{f"experiments.{name}": ROW for name in wqkv.experiments.HEAD_QUESTIONS},
    "experiments.low_rank": {**ROW, "r": lambda: 2},
    "experiments.how_often": {
        "view": view_without_rope,
        "name": lambda: "low_rank",
        "i": lambda: 2,
        "r": lambda: 2,
        "progress": lambda: silent,
    },
    "sample_of": {"sequence": lambda: list(range(N))},
    "RoPE.frequencies": {},
    "labelled": {"label": lambda: "x"},
    "Temperature.at": {"position": lambda: torch.arange(N), "dtype": lambda: torch.float32},
}
