"""A small random causal model with words of its own: grouped heads, RoPE, any length."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wqkv.study.model import OpenModel

TELLS = """
the a lamp keeper sea storm light wind harbour night village boat rope stair window glass bread
friend morning evening lit climbed watched knew brought told slept burned turned was in on from
because when and but not too very old small bright dark . ,
"""
WORDS = TELLS.split()


def tiny(layers: int = 3) -> OpenModel:
    torch.manual_seed(0)
    names = ["<s>", "</s>", "<unk>", *WORDS]
    cut = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    cut.pre_tokenizer = pre_tokenizers.Whitespace()
    cut.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=cut, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=66,
        intermediate_size=53,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=14,
        max_position_embeddings=65536,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=1,
        initializer_range=0.2,  # far from uniform attention
    )
    speaker = LlamaForCausalLM(config).eval()
    return OpenModel(speaker.model, tokenizer, "tiny-llama", speaker)


def text(n: int) -> str:
    """n words in an order that never changes."""
    draw = torch.Generator().manual_seed(1)
    picks = torch.randint(len(WORDS), (n,), generator=draw).tolist()
    return " ".join(WORDS[i] for i in picks)
