"""Sound in openai-whisper: the seconds of its maps, and when its words were spoken."""

import pytest
import torch

import wqkv
from tests.conformance import foreign
from tests.tiny import fill

WORDS = [1000, 2000, 3000, 4000, 5000]


@pytest.fixture(scope="module")
def whisper():
    """A tiny random Whisper of openai-whisper with the tokens of English, and what it is given."""
    with foreign.libraries():
        model = pytest.importorskip("whisper.model", reason="make .venv/.foreign")
        sizes = model.ModelDimensions(7, 53, 24, 3, 2, 51_864, 31, 24, 3, 2)
        made = fill(model.Whisper(sizes)).eval()
        return made, torch.randn(1, 7, 106, generator=torch.Generator().manual_seed(1))


def test_the_seconds_of_its_maps(whisper):
    model, mel = whisper
    with torch.no_grad(), wqkv.watch(model) as seen:
        model(mel, torch.tensor([WORDS]))
    assert [layer.kind for layer in seen.layers] == ["encoder"] * 2 + ["decoder", "cross"] * 2
    for layer in (0, 1, 3, 5):
        assert seen[layer].keys.seconds == 0.02 and len(seen[layer].keys) == 53
        assert torch.equal(seen[layer].keys.source, mel[0])
    assert seen[3].queries.labels == tuple(map(str, WORDS))


@pytest.mark.filterwarnings("ignore:.*gpt2.tiktoken:pytest.PytestUnraisableExceptionWarning")
def test_its_own_word_times(whisper):
    model, mel = whisper
    with foreign.libraries():
        from whisper import timing, tokenizer

        tokens = tokenizer.get_tokenizer(multilingual=False)
        theirs = timing.find_alignment(model, tokens, WORDS, mel[0], num_frames=90)
    prompt = [*tokens.sot_sequence, tokens.no_timestamps]
    text = torch.tensor([[*prompt, *WORDS, tokens.eot]])
    with torch.no_grad(), wqkv.watch(model) as seen:
        model(mel, text)
    cross = [one for one, layer in zip(seen, seen.layers, strict=True) if layer.kind == "cross"]
    heads = model.alignment_heads.indices().T.tolist()
    spoken = range(len(prompt), len(prompt) + len(WORDS))
    ours = wqkv.token_times(cross, heads, spoken, until=0.9)
    # one word may be several tokens
    assert [token for word in theirs for token in word.tokens] == WORDS
    first = 0
    for word in theirs:
        last = first + len(word.tokens) - 1
        found = [ours[first, 0].item(), ours[last, 1].item()]
        assert found == pytest.approx([word.start, word.end])
        first = last + 1
