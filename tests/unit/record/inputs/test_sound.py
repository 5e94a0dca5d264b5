"""The seconds of a sound: a stretch of it that changes, changes the keys that the axis says.

Each model is a tiny random one of its real class. What would mix all positions is taken out: norms
over the whole time, and convolutions that tell from its neighbors where a position stands.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import nn
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

import wqkv
from tests.tiny import fill

BATCH, SAMPLES, FRAMES, MELS, D, HEADS = 2, 613, 106, 7, 24, 3
ENCODER = {"hidden_size": D, "num_attention_heads": HEADS, "intermediate_size": 29}
SPEECH = {
    "d_model": D,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 29),
    "max_target_positions": 31,
    "vocab_size": 61,
}
#: Of a config whose defaults lie beyond the 61 tokens.
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
WAVE = {
    **ENCODER,
    "num_hidden_layers": 2,
    "conv_dim": (11, 13, 7),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 3, 2),
    "num_feat_extract_layers": 3,
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 2,
}
WAVE_STEPS = ((10, 5, 0), (3, 3, 0), (2, 2, 0))
WHISPER_STEPS = ((3, 1, 1), (3, 2, 1))

Step = tuple[int, int, int]  # kernel, stride, padding


class Row(NamedTuple):
    """A model, what it is given, and the steps from there to the positions, as its paper has it."""

    model: nn.Module
    given: dict[str, Any]  # keyword arguments of the model
    steps: tuple[Step, ...]
    per_second: int = 16_000
    time: int = 1  # the axis of time of what it is given

    @property
    def sound(self) -> torch.Tensor:
        return next(iter(self.given.values()))

    @property
    def stride(self) -> int:
        return math.prod(stride for _, stride, _ in self.steps)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def of_waves(name: str, *more: Step, **config: Any) -> Row:
    made = getattr(transformers, f"{name}Config")(**WAVE, **config)
    model = without_neighbors(fill(getattr(transformers, f"{name}Model")(made)).eval())
    return Row(model, {"input_values": drawn(BATCH, SAMPLES)}, WAVE_STEPS + more)


def without_neighbors(model: nn.Module) -> nn.Module:
    """The model without the convolutions that tell where a position stands."""
    for part in model.modules():
        if "PositionalConv" in type(part).__name__ and not isinstance(part, nn.ModuleList):
            for key, weight in part.named_parameters():
                if not key.endswith("original1"):  # of a norm of weights: the direction, not length
                    nn.init.zeros_(weight)
    return model


def whisper(**given: Any) -> Row:
    config = transformers.WhisperConfig(
        **SPEECH, **TOKENS, num_mel_bins=MELS, max_source_positions=FRAMES // 2
    )
    model = fill(transformers.WhisperForConditionalGeneration(config)).eval()
    given = {"input_features": drawn(BATCH, MELS, FRAMES), "decoder_input_ids": ids(5), **given}
    return Row(model, given, WHISPER_STEPS, 100, time=2)


def ids(length: int) -> torch.Tensor:
    return torch.arange(3, 3 + BATCH * length).view(BATCH, length)


def of_whisper_encoder(config: Any, kind: Any) -> Row:
    made = config(
        num_mel_bins=MELS, max_source_positions=FRAMES // 2, d_model=D, encoder_layers=2,
        encoder_attention_heads=HEADS, encoder_ffn_dim=29,
    )  # fmt: skip
    given = {"input_features": drawn(BATCH, MELS, FRAMES)}
    return Row(fill(kind(made)).eval(), given, WHISPER_STEPS, 100, time=2)


def voxtral() -> Row:
    config = transformers.VoxtralEncoderConfig(
        **ENCODER, num_hidden_layers=2, num_mel_bins=MELS, max_source_positions=FRAMES // 2
    )
    given = {"input_features": drawn(BATCH, MELS, FRAMES)}
    model = fill(transformers.VoxtralEncoder(config)).eval()
    return Row(model, given, WHISPER_STEPS, 100, time=2)


def speech_to_text() -> Row:
    config = transformers.Speech2TextConfig(
        **SPEECH, **TOKENS, input_feat_per_channel=MELS, conv_channels=10, max_source_positions=97
    )
    model = fill(transformers.Speech2TextForConditionalGeneration(config)).eval()
    given = {"input_features": drawn(BATCH, 101, MELS), "decoder_input_ids": ids(5)}
    return Row(model, given, ((5, 2, 2), (5, 2, 2)), 100)


def moonshine() -> Row:
    sizes = {
        f"{side}_num_{what}": count
        for side in ("encoder", "decoder")
        for what, count in {
            "hidden_layers": 2, "attention_heads": HEADS, "key_value_heads": HEADS
        }.items()
    }  # fmt: skip
    config = transformers.MoonshineConfig(
        hidden_size=D, intermediate_size=29, vocab_size=61, **sizes, **TOKENS
    )
    model = fill(transformers.MoonshineForConditionalGeneration(config)).eval()
    model.model.encoder.groupnorm = nn.Identity()
    given = {"input_values": drawn(BATCH, 7001), "decoder_input_ids": ids(5)}
    return Row(model, given, ((127, 64, 0), (7, 3, 0), (3, 2, 0)))


def parakeet() -> Row:
    config = transformers.ParakeetEncoderConfig(
        **ENCODER, num_hidden_layers=2, num_mel_bins=16, subsampling_conv_channels=5,
        conv_kernel_size=3,
    )  # fmt: skip
    given = {"input_features": drawn(BATCH, 101, 16)}
    model = fill(transformers.ParakeetEncoder(config)).eval()
    return Row(model, given, ((3, 2, 1),) * 3, 100)


def lasr() -> Row:
    config = transformers.LasrEncoderConfig(
        **ENCODER, num_hidden_layers=2, num_mel_bins=MELS, subsampling_conv_channels=8,
        conv_kernel_size=3,
    )  # fmt: skip
    given = {"input_features": drawn(BATCH, 101, MELS)}
    return Row(fill(transformers.LasrEncoder(config)).eval(), given, ((5, 2, 0),) * 2, 100)


def wav2vec2_bert() -> Row:
    config = transformers.Wav2Vec2BertConfig(
        **ENCODER, num_hidden_layers=2, feature_projection_input_dim=2 * MELS,
        conv_depthwise_kernel_size=3,
    )  # fmt: skip
    given = {"input_features": drawn(BATCH, 101, 2 * MELS)}  # two frames in each
    return Row(fill(transformers.Wav2Vec2BertModel(config)).eval(), given, (), 50)


def speech_t5() -> Row:
    sizes = {key: SPEECH[key] for key in SPEECH if key.startswith(("enc", "dec", "voc"))}
    waves = {key: WAVE[key] for key in WAVE if key not in (*ENCODER, "num_hidden_layers")}
    config = transformers.SpeechT5Config(hidden_size=D, **sizes, **waves, **TOKENS)
    model = without_neighbors(fill(transformers.SpeechT5ForSpeechToText(config)).eval())
    given = {"input_values": drawn(BATCH, SAMPLES), "decoder_input_ids": ids(5)}
    return Row(model, given, WAVE_STEPS)


def seamless() -> Row:
    sizes = {"layers": 2, "attention_heads": HEADS, "intermediate_size": 29}
    sizes = {f"speech_encoder_{key}": size for key, size in sizes.items()}
    config = transformers.SeamlessM4TConfig(
        **{key: SPEECH[key] for key in SPEECH if key.startswith(("enc", "dec", "voc"))}, **sizes,
        **TOKENS, hidden_size=D, t2u_vocab_size=61, feature_projection_input_dim=2 * MELS,
        num_adapter_layers=1, conv_depthwise_kernel_size=3,
    )  # fmt: skip
    model = fill(transformers.SeamlessM4TForSpeechToText(config)).eval()
    given = {"input_features": drawn(BATCH, 101, 2 * MELS), "decoder_input_ids": ids(5)}
    return Row(model, given, (), 50)


ROWS = {
    "whisper": whisper,
    "seamless": seamless,
    "lasr": lasr,
    "wav2vec2_bert": wav2vec2_bert,
    "speech_t5": speech_t5,
    "speech_to_text": speech_to_text,
    "moonshine": moonshine,
    "parakeet": parakeet,
    "voxtral": voxtral,
    "qwen2_audio": lambda: of_whisper_encoder(
        transformers.Qwen2AudioEncoderConfig, Qwen2AudioEncoder
    ),
    "wav2vec2_conformer": lambda: of_waves("Wav2Vec2Conformer", conv_depthwise_kernel_size=3),
    "sew": lambda: of_waves("SEW", (2, 2, 0), squeeze_factor=2),
    "sew_d": lambda: of_waves("SEWD", (2, 2, 0), squeeze_factor=2),
}
for _name in ("Wav2Vec2", "Hubert", "WavLM", "Data2VecAudio", "UniSpeech", "UniSpeechSat"):
    ROWS[_name] = lambda name=_name: of_waves(name)


def watched(row: Row, **given: Any) -> wqkv.record.watch.Seen:
    with torch.no_grad(), wqkv.watch(row.model) as seen:
        row.model(**{**row.given, **given})
    return seen


def states(row: Row, layer: str, sound: torch.Tensor) -> torch.Tensor:
    """What the keys of an attention are made of, each of its own position alone."""
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    handle = row.model.get_submodule(layer).register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad(), handle:
        row.model(**{**row.given, next(iter(row.given)): sound})
    return found[0]


def fields(row: Row, count: int) -> list[range]:
    """The samples or frames that each position reads: of the convolutions' own arithmetic."""
    reach, before, stride = 1, 0, 1
    for kernel, step, padding in row.steps:
        reach += (kernel - 1) * stride
        before += padding * stride
        stride *= step
    return [range(at * stride - before, at * stride - before + reach) for at in range(count)]


@pytest.mark.parametrize("name", ROWS)
def test_a_stretch_of_sound_changes_the_keys_that_the_axis_says(name):
    row = ROWS[name]()
    seen = watched(row)
    axis = seen[0].keys[1]
    assert axis.seconds == pytest.approx(row.stride / row.per_second)
    assert len(axis) == seen[0].shape[2] == seen[0].shape[3]
    assert [repr(axis)] * 2 == [repr(seen[0].queries[1]), repr(seen[1].keys[1])]
    layer, reads = seen.layers[0].name, fields(row, len(axis))
    before = states(row, layer, row.sound)
    for cell in (0, 3, len(axis) - 2):
        stretch = range(cell * row.stride, (cell + 1) * row.stride)
        sound = row.sound.clone()
        sound.narrow(row.time, stretch.start, row.stride).add_(1)
        changed = (states(row, layer, sound) != before).any(dim=2)
        expected = [i for i, read in enumerate(reads) if set(read) & set(stretch)]
        assert changed[1].nonzero().flatten().tolist() == expected
        assert cell in expected and axis.labels[cell] == f"{cell * axis.seconds:.2f} s"


@pytest.mark.parametrize("name", ROWS)
def test_the_source_is_the_sound_that_the_model_was_given(name):
    row = ROWS[name]()
    seen = watched(row)
    source = seen[0].keys[1].source
    if row.sound.ndim == 2:
        assert source[1] == 16_000 and torch.equal(source[0], row.sound[1])
    else:
        given = row.sound[1] if row.time == 2 else row.sound[1].T
        # without the frames behind the last position: then ceil(frames / positions) is the stride
        assert torch.equal(source, given[:, : row.stride * seen[0].shape[3]])
        assert math.ceil(source.shape[1] / seen[0].shape[3]) == row.stride


# Padding


def padded(row: Row, length: int) -> torch.Tensor:
    """A mask of the samples or frames, of which the second sound has `length`."""
    mask = torch.ones(BATCH, row.sound.shape[row.time], dtype=torch.long)
    mask[1, length:] = 0
    return mask


@pytest.mark.parametrize(
    "name, length, count",
    [("Wav2Vec2", 401, 14), ("sew", 401, 7), ("speech_to_text", 67, 17), ("moonshine", 3001, 8)],
)
def test_padding_stands_nowhere(name, length, count):
    row = ROWS[name]()
    mask = padded(row, length)
    seen = watched(row, attention_mask=mask.bool() if name == "Wav2Vec2" else mask)
    whole, short = seen[0].keys
    assert whole.places is None and len(whole) == len(short) == seen[0].shape[3]
    assert short.count == count == math.ceil(length / row.stride)
    assert short.places.tolist() == [*range(count), *[-1] * (len(short) - count)]
    source = short.source[0] if isinstance(short.source, tuple) else short.source
    assert source.shape[-1] == length
    # what the model may see, stands somewhere
    visible = (seen[0].received()[1, 0] > 0).nonzero().flatten().tolist()
    assert visible and set(visible) <= set(range(count))
    if len(seen) > 2:  # the same of cross-attention
        assert [repr(one) for one in seen[3].keys] == [repr(whole), repr(short)]


def test_whisper_reads_the_silence_behind_the_end_too():
    """Its encoder is given the mask where a text is generated, and does without."""
    row = whisper()
    with torch.no_grad(), wqkv.watch(row.model) as seen:
        row.model.get_encoder()(row.sound, attention_mask=padded(row, 61))
    assert [one.places for one in seen[0].keys] == [None, None]
    assert bool((seen[0].received() > 0).all())


def test_padding_in_front_stands_where_it_stands():
    row = of_waves("Wav2Vec2")
    seen = watched(row, attention_mask=padded(row, 401).flip(1))
    assert [one.places for one in seen[0].keys] == [None, None]


# What is read beside the sound


def test_the_keys_of_cross_attention_are_the_sound():
    row = whisper()
    seen = watched(row)
    assert [layer.kind for layer in seen.layers] == ["encoder"] * 2 + ["decoder", "cross"] * 2
    for layer in (3, 5):
        assert [one.seconds for one in seen[layer].keys] == [0.02] * BATCH
        assert seen[layer].queries[1].labels == ("8", "9", "10", "11", "12")
    assert seen[2].keys[0].seconds is None


def test_seamless_takes_eight_positions_as_one():
    row = seamless()
    seen = watched(row)
    adapter, cross = seen[2].keys[1], seen[4].keys[1]
    assert seen.layers[2].name.startswith("speech_encoder.adapter")
    assert seen.layers[4].kind == "cross"
    for axis in (adapter, cross):
        assert axis.count == 13 and axis.seconds == pytest.approx(8 * 0.02)
    # all that mixes positions before: attention, and the convolutions of a Conformer
    for name, module in row.model.speech_encoder.encoder.named_modules():
        if name.endswith(("self_attn.linear_out", "conv_module.pointwise_conv2")):
            for weight in module.parameters():
                nn.init.zeros_(weight)
    before = states(row, seen.layers[2].name, row.sound)
    reads = fields(row._replace(steps=((8, 8, 4),)), 13)
    sound = row.sound.clone()
    sound[:, 40:48] += 1
    changed = (states(row, seen.layers[2].name, sound) != before).any(dim=2)[1]
    expected = [i for i, read in enumerate(reads) if set(read) & set(range(40, 48))]
    assert changed.nonzero().flatten().tolist() == expected and 5 in expected


def test_the_text_that_whisper_writes():
    row = whisper()
    row.model.generation_config.no_timestamps_token_id = 60
    row.model.generation_config.suppress_tokens = [0, 1, 2]
    with torch.no_grad(), wqkv.watch(row.model) as seen:
        written = row.model.generate(row.sound, max_new_tokens=5)
    cross = [one for one, layer in zip(seen, seen.layers, strict=True) if layer.kind == "cross"]
    assert [one.seconds for one in cross[1].keys] == [0.02] * BATCH
    texts = [tuple(map(str, text[:-1])) for text in written.tolist()]
    assert [one.labels[-len(texts[0]) :] for one in cross[1].queries] == texts


class Extractor(NamedTuple):
    """What a processor tells of time."""

    sampling_rate: int
    hop_length: int


class Processor(NamedTuple):
    feature_extractor: Extractor


def test_a_processor_tells_the_rate():
    for row, seconds in ((whisper(), 2 * 240 / 24_000), (of_waves("Hubert"), 30 / 24_000)):
        model, processor = row.model, Processor(Extractor(24_000, 240))
        with torch.no_grad(), wqkv.watch(model, processor=processor) as seen:
            model(**row.given)
        assert seen[0].keys[0].seconds == pytest.approx(seconds)


def test_what_is_not_explained_has_no_axis():
    row = of_waves("Wav2Vec2")
    # a model whose positions are not those of its convolutions: the first is one more
    encoder = row.model.encoder
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: (
            (torch.cat([args[0][:, :1], args[0]], dim=1), *args[1:]),
            kwargs,
        ),
        with_kwargs=True,
    )
    assert watched(row)[0].keys is None
    # a square of features could be either way round
    row = of_whisper_encoder(transformers.Qwen2AudioEncoderConfig, Qwen2AudioEncoder)
    assert row.sound.shape[1] != row.sound.shape[2] and watched(row)[0].keys is not None


@pytest.mark.parametrize("name, length", [("moonshine", 16), ("speech_t5", 20)])
def test_a_text_as_long_as_the_sound_is_a_text(name, length):
    row = ROWS[name]()
    seen = watched(row, decoder_input_ids=ids(length) % 61)
    assert seen[0].shape[3] == seen[2].shape[3] == length
    assert seen[0].keys[0].seconds and not seen[2].keys[0].seconds
    assert seen[3].keys[0].seconds and seen[3].queries[0].labels[:2] == ("3", "4")


# A spectrogram in patches


def spectrogram() -> Row:
    config = transformers.ASTConfig(
        **ENCODER, num_hidden_layers=2, patch_size=4, frequency_stride=3, time_stride=3,
        max_length=41, num_mel_bins=17,
    )  # fmt: skip
    model = fill(transformers.ASTModel(config)).eval()
    return Row(model, {"input_values": drawn(BATCH, 41, 17)}, ((4, 3, 0),), 100)


def test_the_patches_of_a_spectrogram():
    row = spectrogram()
    seen = watched(row)
    special, patches = seen[0].keys[1]
    assert special.labels == ("[CLS]", "[DIST]") and patches.grid == (5, 13)
    # patches of 4 x 4 at every third place: a cell covers the first 3 x 3 of them
    assert torch.equal(patches.source, row.sound[1].T[:15, :39])
    before = states(row, seen.layers[0].name, row.sound)
    for frequency, time in ((0, 0), (2, 5), (4, 12)):
        sound = row.sound.clone()
        sound[:, 3 * time + 1, 3 * frequency + 1] += 1  # where no other patch reaches
        changed = (states(row, seen.layers[0].name, sound) != before).any(dim=2)
        expected = 2 + patches.position(patches.cell(frequency, time))
        assert changed[1].nonzero().flatten().tolist() == [expected]


# A planted Whisper


def listening() -> Row:
    """A Whisper of which every query, of encoder and decoder, looks at what is loud."""
    row = whisper()
    encoder, decoder = row.model.model.encoder, row.model.model.decoder
    with torch.no_grad():
        for part in (encoder, decoder):
            for weight in part.parameters():
                weight.zero_()
            for module in part.modules():
                if isinstance(module, nn.LayerNorm):
                    module.weight.fill_(1)
                if hasattr(module, "q_proj"):
                    module.q_proj.bias[:: D // HEADS] = 30
                    module.k_proj.weight[:: D // HEADS, 0] = 1
        encoder.conv1.weight[0, 0, 1] = 1  # the first mel of a frame itself
        encoder.conv2.weight[0, 0, 1:] = 1  # frames 2 i and 2 i + 1
    return row


@pytest.mark.parametrize("first, last", [(0, 4), (11, 12), (47, 53)])
def test_a_loud_window_lights_exactly_its_seconds(first, last):
    row = listening()
    sound = torch.zeros(1, MELS, FRAMES)
    sound[0, 0, 2 * first : 2 * last] = 5
    seen = watched(row, input_features=sound, decoder_input_ids=ids(5)[:1])
    even = torch.zeros(FRAMES // 2)
    even[first:last] = 1 / (last - first)
    for layer in (0, 1, 3, 5):  # of the encoder, and of cross-attention
        found = seen[layer]
        torch.testing.assert_close(found[0], even.expand_as(found[0]), atol=1e-4, rtol=0)
        lit = found.keys.cells(found[0, 1, 2]) > 1e-3
        times = [one for one, on in zip(found.keys.labels, lit.tolist(), strict=True) if on]
        assert times == [f"{0.02 * at:.2f} s" for at in range(first, last)]
