"""A causal model goes on with a text: what it writes, and with which probabilities."""

import pytest
import torch
import transformers

from wqkv.errors import ArgumentError
from wqkv.study.generate import generate, next_tokens
from wqkv.study.model import OpenModel
from wqkv.study.tokens import TokenizedText
from wqkv.study.view import View

N = 23


def test_generate_writes_what_the_model_would(llama, seen):
    found = generate(seen, 5)
    ids = torch.tensor([seen.reading.ids])
    theirs = llama.speaker.generate(ids, max_new_tokens=5, do_sample=False)[0].tolist()
    assert list(found.view.reading.ids) == theirs
    assert [said.position for said in found.steps] == [23, 24, 25, 26, 27]
    for said in found.steps:
        before = llama.run(TokenizedText.of_ids(theirs[: said.position]))
        chances = before.logits.softmax(0)
        assert said.probability == pytest.approx(float(chances.max()), rel=1e-4)
        assert said.top[0][:2] == (said.token, said.probability)
        assert [one.id for one in said.top] == chances.topk(8).indices.tolist()
        assert [one.probability for one in said.top] == sorted(
            (one.probability for one in said.top), reverse=True
        )
        assert said.token == found.view.reading.tokens[said.position]
    assert len(found.steps[0].top) == 8
    assert found.view.proof(2).holds


def test_generate_goes_on_in_the_same_text(llama, seen):
    found = generate(seen, 3).view.reading
    assert found.sentence.startswith(seen.reading.sentence + " ")
    assert found.tokens[:N] == seen.reading.tokens
    for word, (a, b) in zip(found.tokens[1:], found.spans[1:], strict=True):
        assert found.sentence[a:b] == word
    assert llama.tokens(found.sentence).ids == found.ids


def test_generate_stops_at_a_special_word(llama, seen, monkeypatch):
    written = generate(seen, 3).view.reading.ids[N:]
    stop = {*llama.tokenizer.all_special_ids, written[1]}
    monkeypatch.setattr(type(llama.tokenizer), "all_special_ids", property(lambda _: list(stop)))
    found = generate(seen, 9)
    assert found.view.reading.ids[N:] == written[:2]
    assert found.view.reading.special[N:] == (False, True)
    assert found.view.reading.spans[-1] == (0, 0)


def test_generate_stops_where_the_model_ends(llama, seen, monkeypatch):
    monkeypatch.setattr(llama.config, "max_position_embeddings", N + 2)
    assert len(generate(seen, 9).steps) == 2
    monkeypatch.setattr(llama.config, "max_position_embeddings", N)
    says = f"no room for 9 more tokens: the text has {N}, and tiny-llama takes {N}"
    with pytest.raises(ArgumentError, match=says):
        generate(seen, 9)


def test_generate_tells_its_progress(seen):
    told = []
    generate(seen, 2, lambda *at: told.append(at), lambda view, layer: told.append(layer))
    assert told == [(0, 2)] * 4 + [(1, 2)] * 3 + [0, 1, 2]  # before, and after every layer


def test_generate_ends_inside_the_first_word(seen):
    """A layer of the prompt is not waited for longer than it takes."""
    told = []

    def step(done: int, total: int) -> None:
        told.append(done)
        if len(told) == 3:
            raise InterruptedError

    hooks = [len(m._forward_hooks) for m in seen.model.model.modules()]
    with pytest.raises(InterruptedError):
        generate(seen, 2, step)
    assert told == [0, 0, 0]  # at the start, and after two of three layers
    assert [len(m._forward_hooks) for m in seen.model.model.modules()] == hooks


def written(view: View, count: int = 7, **options: object) -> tuple[int, ...]:
    return generate(view, count, **options).view.reading.ids[view.n :]


def test_words_are_drawn_by_a_seed(seen):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    drawn = [written(seen, seed=seed, temperature=2.0) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert written(seen, seed=3, top_k=1) == written(seen, seed=4, top_p=1e-9) == written(seen)


def test_the_seed_is_that_of_transformers(llama, seen):
    torch.manual_seed(7)
    ids = torch.tensor([seen.reading.ids])
    theirs = llama.speaker.generate(ids, max_new_tokens=7, do_sample=True, top_k=11)
    assert written(seen, seed=7, top_k=11) == tuple(theirs[0, N:].tolist())


def test_words_are_drawn_from_the_distribution_that_next_tokens_gives(llama, seen):
    """Token by token: torch draws from it, with the generator of the CPU, what `generate` drew."""
    options = {"temperature": 0.8, "top_k": 11, "top_p": 0.9}
    found = generate(seen, 5, seed=7, **options)
    generator = torch.Generator("cpu").manual_seed(7)
    for step in found.steps:
        chances = next_tokens(found.view, step.position - 1, **options)
        assert step.id == int(torch.multinomial(chances.after, 1, generator=generator))
        assert step.probability == pytest.approx(float(chances.before[step.id]), rel=1e-4)


def test_next_tokens(llama, seen):
    found = next_tokens(seen, temperature=0.7, top_k=5)
    assert torch.equal(found.before, seen.reading.logits.softmax(dim=0))
    assert (found.kept, int((found.after > 0).sum())) == (5, 5)
    assert float(found.after.sum()) == pytest.approx(1, abs=1e-6)
    earlier = llama.run(TokenizedText.of_ids(seen.reading.ids[:8])).logits.softmax(dim=0)
    assert torch.equal(next_tokens(seen, 7).before, earlier)
    assert torch.equal(next_tokens(seen, 7 - N).after, earlier)


@pytest.mark.parametrize("position", [N, -N - 1])
def test_next_tokens_after_no_token(seen, position):
    says = rf"`position` is {position}, and the text has {N} tokens\.\nPass one from 0 to {N - 1}"
    with pytest.raises(ArgumentError, match=says):
        next_tokens(seen, position)


@pytest.mark.parametrize("option", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.5}])
def test_nothing_is_drawn_without_a_seed(seen, option):
    ((name, value),) = option.items()
    says = f"`{name}` is {value}, and without a seed no token is drawn: it is the likeliest one"
    with pytest.raises(ArgumentError, match=says):
        generate(seen, 3, **option)
    with pytest.raises(ArgumentError, match="`top_k` is -3"):
        generate(seen, 3, seed=1, top_k=-3)
    with pytest.raises(ArgumentError, match=r"`top_p` is 0\.0"):
        next_tokens(seen, top_p=0.0)


def test_probabilities_are_those_of_the_model(llama, seen):
    """Whatever else decides which word is taken."""
    never = written(seen)[0]
    found = generate(seen, 2, bad_words_ids=[[never]], seed=1, temperature=0.1)
    chances = seen.reading.logits.softmax(dim=0)
    first = found.steps[0]
    assert first.top[0].id == never != first.id == found.view.reading.ids[N]
    assert first.probability == pytest.approx(float(chances[found.view.reading.ids[N]]), rel=1e-4)
    assert first.token == llama.tokenizer.decode([found.view.reading.ids[N]])


def test_generate_with_a_static_cache_and_a_processor(seen):
    def forced(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([11]), 0.0)

    assert written(seen, cache_implementation="static") == written(seen)
    processors = transformers.LogitsProcessorList([forced])
    assert written(seen, 3, logits_processor=processors) == (11, 11, 11)


@pytest.mark.parametrize("end", [lambda id: id, lambda id: [id, 0]])
def test_generate_stops_where_the_configuration_ends(llama, seen, monkeypatch, end):
    plain = written(seen)
    monkeypatch.setattr(llama.speaker.generation_config, "eos_token_id", end(plain[2]))
    assert written(seen) == plain[: plain.index(plain[2]) + 1]


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_positions_that_begin_behind_padding(llama, kind):
    """Written on, a word stands where it stands when it is read."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=43, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=7, max_position_embeddings=29, pad_token_id=1, is_decoder=True,
        initializer_range=0.5,
    )  # fmt: skip
    speaker = transformers.AutoModelForCausalLM.from_config(config).eval()
    opened = OpenModel(speaker.base_model, llama.tokenizer, "tiny", speaker)
    ids = [5, 7, 11, 13]
    for id in written(opened.view(TokenizedText.of_ids(ids)), 5):
        assert id == int(opened.run(TokenizedText.of_ids(ids)).logits.argmax())
        ids.append(id)


@pytest.mark.parametrize("option", [{"max_new_tokens": 3}, {"num_beams": 3}, {"do_sample": True}])
def test_options_that_are_set_already(seen, option):
    ((name, value),) = option.items()
    says = f"`{name}` is {type(value).__name__} {value}, which `generate` sets by itself"
    with pytest.raises(ArgumentError, match=says):
        generate(seen, 3, **option)


def test_generate_needs_a_head_for_words(tired):
    with pytest.raises(ArgumentError, match="all-MiniLM-L6-v2 predicts no next token"):
        generate(tired, 3)
    with pytest.raises(ArgumentError, match="all-MiniLM-L6-v2 predicts no next token"):
        next_tokens(tired)


def test_a_trained_model_goes_on(smollm):
    found = generate(smollm.view("The capital of France is"), 2)
    assert [said.token for said in found.steps] == [" Paris", "."]
    assert found.view.reading.sentence == "The capital of France is Paris."
    assert found.view.reading.tokens[-2:] == ("Paris", ".")
