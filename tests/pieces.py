"""Tokenizers of a few pieces, of the kinds that models for Chinese have."""

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast


def blanks() -> PreTrainedTokenizerFast:
    """Of XLM-R's kind: it puts a \u2581 before every word, often as a piece of its own."""
    pieces = [("<unk>", 0.0), ("\u2581", -2.0), ("他说", -2.0), ("他", -3.0), ("来了", -2.0)]
    made = Tokenizer(kinds.Unigram(pieces, unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def fallback() -> PreTrainedTokenizerFast:
    """Of Llama's kind: a run of what is no piece is written in bytes, all of one place."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [("<unk>", 0.0), *((name, -9.0) for name in names), ("\u2581", -2.0), ("他", -2.0)]
    made = Tokenizer(kinds.Unigram(pieces, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def bytewise() -> PreTrainedTokenizerFast:
    """Of GPT-2's kind: a Chinese character is three pieces."""
    alphabet = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(kinds.BPE(alphabet, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)
