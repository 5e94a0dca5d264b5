"""The small random models of all tests, and what the tests of watching ask of them.

`tiny` makes a model of a family of transformers, and `of_config` one of a config of a test's own.
`tiny_vision` and `tiny_vit` read pictures.
`tiny_llama`, `tiny_t5` and `tiny_bart` are opened, and their tokenizer knows WORDS.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from wqkv.errors import MissedError, WqkvError
from wqkv.maps.attention_map import AttentionMap
from wqkv.record.arguments import OverheardCall, read_call
from wqkv.record.captured import CapturedCall
from wqkv.record.follow import agreed_step, begin, follow, go_on
from wqkv.record.read_mask import Convention
from wqkv.record.run import Run
from wqkv.record.watch import watch
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair
from wqkv.study.vision import OpenVision

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "vocab_size": 61,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
SEQ2SEQ = {
    "d_model": 24,
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_heads"), 6),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 29),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 61),
    **dict.fromkeys(("pad_token_id", "eos_token_id"), 0),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "forced_eos_token_id": None,
}


def tiny(name: str, implementation: str = "sdpa", kind=AutoModelForCausalLM, **others):
    torch.manual_seed(0)
    sizes = SIZES if kind in (AutoModel, AutoModelForCausalLM) else {}
    if name in ("llama", "mistral"):
        others.setdefault("num_key_value_heads", 3)
    config = AutoConfig.for_model(name, **{**sizes, **others})
    model = kind.from_config(config, attn_implementation=implementation).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3 if weight.ndim > 1 else 1
    return model


def of_config(config: PreTrainedConfig, head: str = "Model") -> nn.Module:
    """Make the model of a config, such as BertModel or, by its head, BertForMaskedLM."""
    torch.manual_seed(0)
    return fill(getattr(transformers, type(config).__name__.replace("Config", head))(config).eval())


def fill(model: nn.Module) -> nn.Module:
    """Draw every parameter anew, also biases and norms, which start as 0 and 1."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def shake(model: nn.Module) -> nn.Module:
    """Add a little to every parameter, also to biases and sinks, which start as 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


# What the tests of watching ask

#: Gradient checkpointing of both kinds, reentrant and not; None is without.
CHECKPOINTS = [None, True, False]


def checkpointed(model: nn.Module, reentrant: bool | None) -> nn.Module:
    """Let a model run each layer again in its backward pass."""
    if reentrant is not None:
        with warnings.catch_warnings():  # transformers 5.24 has another name for it
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.config.use_cache = False
    return model.train()


def loss(logits: torch.Tensor) -> torch.Tensor:
    """A scalar that no symmetry makes 0."""
    draw = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    return (logits * draw.to(logits.dtype)).sum()


def kept(model: nn.Module, cache: object) -> dict[str, object]:
    """A cache as the argument that the model takes it by, which transformers 5.24 renamed."""
    takes = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in takes else "past_key_values": cache}


def tokens(length: int = 7, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(1))


def padded(length: int = 7, left: int = 0, right: int = 0) -> torch.Tensor:
    given = torch.ones(2, length, dtype=torch.long)
    given[1, :left] = 0
    given[1, length - right :] = 0
    return given


@torch.no_grad()
def weights(model: nn.Module, ids: torch.Tensor, given: torch.Tensor | None = None):
    """The eager path's matrices."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    found = model(ids, attention_mask=given, output_attentions=True).attentions
    model.set_attn_implementation(before)
    return found


def agree(found: AttentionMap, theirs: torch.Tensor, atol: float = 2e-6) -> None:
    """Equal wherever a query sees anything."""
    ours = found[:]
    assert ours.shape == theirs.shape
    sees = ours.sum(dim=-1) > 0
    torch.testing.assert_close(ours[sees], theirs[sees], rtol=1e-5, atol=atol)


def generate(model, ids, given=None, **others):
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **others}
    with torch.no_grad():
        plain = model.generate(ids, attention_mask=given, **options)
        with watch(model) as seen:
            watched = model.generate(ids, attention_mask=given, **options)
    assert torch.equal(plain, watched)
    return watched, seen


def missed(model: nn.Module, reason: str, **given) -> None:
    with torch.no_grad(), watch(model) as seen:
        model(**(given or {"input_ids": tokens()}))
    assert seen.report().startswith("captured 0 of 2"), seen.report()
    assert all(reason in layer.reason for layer in seen.layers), seen.report()
    with pytest.raises(MissedError, match="There is no map of ") as error:
        seen[0]
    assert reason in str(error.value)
    assert isinstance(error.value, WqkvError)


def call_of(convention: Convention, args: tuple, given: dict, out: object) -> CapturedCall:
    """One call of an attention function, read as `watch` reads it."""
    return read_call(OverheardCall(convention, nn.Module(), args, given, out), {}, False, False)


def record(run: Run | None, call: CapturedCall) -> Run:
    """The run that a call of a model's only layer continues, or begins."""
    going = None if run is None else follow(run, call)
    return begin(call) if going is None else go_on(going, agreed_step([going.options]))


# Models with words

TELLS = """
the a lamp keeper sea storm light wind harbour night village boat rope stair window glass bread
friend morning evening lit climbed watched knew brought told slept burned turned was in on from
because when and but not too very old small bright dark . ,
"""
WORDS = TELLS.split()


def tiny_llama(layers: int = 3) -> OpenModel:
    """Make a causal model with grouped heads, RoPE and any length."""
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


def tiny_bert(layers: int = 3) -> OpenModel:
    """Make a model that looks in both directions, with [CLS] and [SEP]."""
    torch.manual_seed(0)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizerFast(vocab={name: i for i, name in enumerate(names)})
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=35,
        intermediate_size=53,
        num_hidden_layers=layers,
        num_attention_heads=5,
        initializer_range=0.2,  # far from uniform attention
    )
    return OpenModel(BertModel(config).eval(), tokenizer, "tiny-bert")


# Models that read one text and write another

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


# Models that read a picture

PATCH, HEIGHT, WIDTH = 7, 35, 21  # 5 x 3 patches
VISION = {
    "hidden_size": 33,
    "intermediate_size": 29,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "patch_size": PATCH,
}


def image_processor(height: int = HEIGHT, width: int = WIDTH):
    """Make what cuts nothing off: it resizes, and takes the mean color away."""
    # The other one needs torchvision.
    kind = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
    size = {"height": height, "width": width}
    return kind(size=size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2] * 3)


def tiny_vision(family: str) -> OpenVision:
    """Make a model of a family that takes square pictures alone, 5 x 5 patches."""
    config = AutoConfig.for_model(family, **VISION, image_size=HEIGHT)
    processor = image_processor(HEIGHT, HEIGHT)
    return OpenVision(fill(AutoModel.from_config(config)).eval(), processor, f"tiny-{family}")


def tiny_vit() -> OpenVision:
    """Make one that tells three classes apart."""
    names = {0: "cat", 1: "dog", 2: "ship"}
    config = transformers.ViTConfig(**VISION, image_size=(HEIGHT, WIDTH), id2label=names)
    classifier = of_config(config, "ForImageClassification")
    return OpenVision(classifier.base_model, image_processor(), "tiny-vit", classifier)


def draw_photo(path: Path) -> Path:
    """Write a picture of noise, which no patch of is like another."""
    noise = torch.rand(61, 43, 3, generator=torch.Generator().manual_seed(2))
    Image.fromarray((noise * 255).to(torch.uint8).numpy()).save(path)
    return path
