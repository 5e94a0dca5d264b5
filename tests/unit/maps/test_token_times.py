"""When tokens were spoken: planted maps, and what transformers finds by the same rows."""

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.generation_whisper import _dynamic_time_warping

from tests.tiny import fill
from wqkv import ArgumentError, AttentionMap, Axis, token_times, watch
from wqkv.maps.token_times import path

SECONDS, LENGTH, QUERIES, HEADS = 0.02, 59, 7, 3
BEGINS = torch.tensor([0, 5, 11, 29, 31, 47])


def entered(gain):
    """The columns at which the path of transformers enters each row."""
    rows, columns = _dynamic_time_warping(-gain.double().numpy())
    return columns[np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)].tolist()


@pytest.mark.parametrize("rows, columns", [(1, 7), (7, 1), (5, 5), (13, 101), (31, 11)])
def test_the_path_is_the_one_that_transformers_finds(rows, columns):
    for seed in range(5):
        gain = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
        assert path(gain) == entered(gain)


def speaking(batch=1, axis=None):
    """A map whose query i looks from BEGINS[i] on; the last query looks nowhere in particular."""
    stands = torch.bucketize(torch.arange(LENGTH), BEGINS, right=True) - 1
    key = 9 * torch.eye(8)[stands]
    query = torch.cat([torch.eye(8)[: len(BEGINS)], torch.zeros(1, 8)])
    heads = (one.expand(batch, HEADS, -1, -1) for one in (query, key))
    return AttentionMap(*heads).on(keys=axis or Axis(LENGTH, seconds=SECONDS))


@pytest.mark.parametrize("tokens", [range(1, 7), range(3, 6), [2]])
def test_a_planted_alignment(tokens):
    whole = token_times([speaking()], [(0, 1), (0, 2)], range(1, 7))
    begins = [round(one / SECONDS) for one in whole[:, 0].tolist()]
    assert begins == BEGINS.tolist()
    assert torch.equal(whole[1:, 0], whole[:-1, 1])
    if isinstance(tokens, range):  # the rows before are not asked about: the first begins at 0
        some = token_times([speaking()], [(0, 1)], tokens)
        first = tokens.start - 1
        assert some.shape == (len(tokens), 2) and some[0, 0] == 0
        torch.testing.assert_close(some[1:], whole[first + 1 : first + len(tokens)])


def test_the_last_token_ends_where_the_next_row_or_the_sound_does():
    assert token_times([speaking()], [(0, 0)], range(1, 6))[-1].tolist() == pytest.approx(
        [31 * SECONDS, 47 * SECONDS]
    )
    every = token_times([speaking()], [(0, 0)], range(1, 8))
    assert every[-1, 1] == pytest.approx(LENGTH * SECONDS)


def test_the_sound_ends_before_the_padding():
    looks = speaking()
    ended = token_times([looks], [(0, 0)], range(1, 8), until=0.79)
    assert ended[-1, 1] == pytest.approx(0.78) and ended.max() == ended[-1, 1]
    wave = (torch.zeros(12_640), 16_000)  # 0.79 s
    named = looks.on(keys=Axis(LENGTH, seconds=SECONDS, source=wave))
    assert torch.equal(token_times([named], [(0, 0)], range(1, 8)), ended)
    places = torch.arange(LENGTH)
    places[39:] = -1
    padded = looks.on(keys=Axis(39, seconds=SECONDS, places=places))
    assert torch.equal(token_times([padded], [(0, 0)], range(1, 8)), ended)


@pytest.mark.parametrize("seed", range(5))
def test_what_stands_behind_the_end_has_no_part(seed):
    """The weights on the sound alone are the softmax of its own scores."""
    generator = torch.Generator().manual_seed(seed)
    query, key = (3 * torch.randn(1, HEADS, n, 8, generator=generator) for n in (QUERIES, LENGTH))
    whole, cut = (
        AttentionMap(query, some).on(keys=Axis(some.shape[2], seconds=SECONDS))
        for some in (key, key[:, :, :39])
    )
    heads, tokens = [(0, 0), (0, 2)], range(2, 8)
    ended = token_times([whole], heads, tokens, until=0.79)
    assert torch.equal(ended, token_times([cut], heads, tokens))


def test_each_sample_has_its_sound():
    axes = [Axis(LENGTH, seconds=SECONDS), Axis(LENGTH, seconds=2 * SECONDS)]
    looks = speaking(2, axes)
    one, two = (token_times([looks], [(0, 0)], range(1, 7), sample=at) for at in (0, 1))
    torch.testing.assert_close(two, 2 * one)


def whisper():
    config = WhisperConfig(
        vocab_size=61, num_mel_bins=7, d_model=24, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=29,
        decoder_ffn_dim=29, max_source_positions=53, max_target_positions=31, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = fill(WhisperForConditionalGeneration(config)).eval()
    with torch.no_grad():  # rows that differ: standardized, equal ones would be rounding alone
        model.model.decoder.embed_positions.weight *= 10
    told = model.generation_config
    told.alignment_heads = [[0, 1], [1, 0], [1, 2]]
    told.no_timestamps_token_id, told.suppress_tokens, told.max_length = 60, [0, 1, 2], None
    return model


ASKED = {"max_new_tokens": 11, "return_token_timestamps": True}


@pytest.mark.parametrize("seed", range(5))
def test_transformers_finds_the_same_times_by_the_same_rows(seed):
    """It leaves out the row that writes the first token, and so is one token late (5.23)."""
    torch.manual_seed(seed)
    model = whisper()
    features = torch.randn(1, 7, 106)
    with torch.no_grad(), watch(model) as seen:
        found = model.generate(features, do_sample=True, **ASKED)
    cross = [one for one, layer in zip(seen, seen.layers, strict=True) if layer.kind == "cross"]
    theirs = found["token_timestamps"][0]
    prompt = cross[0].shape[2] - len(found["sequences"][0]) + 1
    assert prompt == 2 and len(theirs) == 11
    # the maps without the rows of the prompt: then the first row is the one that reads token 2
    calls = [(one._numbers.given, one.keys) for one in cross]
    read = [
        AttentionMap(call.query[:, :, prompt:], call.key, scale=call.rules.scale).on(keys=keys)
        for call, keys in calls
    ]
    heads = model.generation_config.alignment_heads
    ours = token_times(read, heads, range(1, read[0].shape[2] + 1))
    torch.testing.assert_close(ours[:, 0], theirs[:-1], atol=1e-6, rtol=0)


# What is refused


@pytest.mark.parametrize(
    "change, said",
    [
        ({"maps": []}, "shapes none"),
        ({"maps": [speaking(), speaking(2)]}, r"\(1, 3, 7, 59\), \(2, 3, 7, 59\)"),
        ({"heads": []}, "`heads` is empty"),
        ({"heads": [(0, 3)]}, r"\(0, 3\); there are 1 layers of 3 heads"),
        ({"heads": [(1, 0)]}, r"\(1, 0\); there are 1 layers of 3 heads"),
        ({"heads": [(0,)]}, r"\(0,\); there are"),
        ({"tokens": []}, r"`tokens` are \[\]"),
        ({"tokens": [2, 4]}, r"`tokens` are \[2, 4\]"),
        ({"tokens": range(3)}, "goes from 0 to 2, and the 7 queries write the tokens 1 to 7"),
        ({"tokens": range(5, 9)}, "goes from 5 to 8"),
        ({"until": 0.01}, "`until` is 0.01 s, and one position lasts 0.02 s"),
        ({"sample": 1}, "1"),
        ({"maps": [speaking(axis=Axis(LENGTH))]}, r"keys of the first map are Axis\(59"),
    ],
)
def test_refusals(change, said):
    asked = {"maps": [speaking()], "heads": [(0, 0)], "tokens": range(1, 7), **change}
    with pytest.raises(ArgumentError, match=said):
        token_times(asked.pop("maps"), asked.pop("heads"), asked.pop("tokens"), **asked)
