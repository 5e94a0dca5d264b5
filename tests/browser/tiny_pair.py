"""Small random models that read one text and write another: a T5 and a BART, words of their own."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.browser.tiny import WORDS
from wqkv.study.pair import OpenPair

READ = "the keeper lit the lamp , when night was dark"
TARGET = "a boat knew , because old light burned bright"
MARKS = ["<pad>", "</s>", "<unk>", "<s>"]


def tokenizer() -> PreTrainedTokenizerFast:
    cut = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*MARKS, *WORDS])}, "<unk>"))
    cut.pre_tokenizer = pre_tokenizers.Whitespace()
    cut.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=cut,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
    )


def tiny_t5() -> OpenPair:
    """Its encoder has 3 layers and its decoder 2; it writes no word twice."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(MARKS) + len(WORDS),
        d_model=42,
        d_kv=7,
        num_heads=6,
        d_ff=53,
        num_layers=3,
        num_decoder_layers=2,
        relative_attention_num_buckets=8,
        initializer_factor=1.7,  # far from uniform attention
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    speaker = T5ForConditionalGeneration(config).eval()
    speaker.generation_config.update(no_repeat_ngram_size=1, suppress_tokens=[0, 2, 3])
    return OpenPair(speaker.base_model, tokenizer(), "tiny-t5", speaker)


def tiny_bart() -> OpenPair:
    torch.manual_seed(1)
    config = BartConfig(
        vocab_size=len(MARKS) + len(WORDS),
        d_model=44,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=53,
        decoder_ffn_dim=59,
        max_position_embeddings=61,
        init_std=0.4,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
        decoder_start_token_id=3,
        forced_eos_token_id=None,
    )
    speaker = BartForConditionalGeneration(config).eval()
    speaker.generation_config.update(no_repeat_ngram_size=1, suppress_tokens=[0, 2, 3])
    return OpenPair(speaker.base_model, tokenizer(), "tiny-bart", speaker)
