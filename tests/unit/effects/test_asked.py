"""What is asked: which number, made of which tokens, and what cannot be asked."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tests.tiny import MARKS, READ, TARGET, WORDS, fill, text, tiny_bart, tiny_llama, tokenizer
from tests.unit.effects.conftest import opened
from wqkv.effects.asked import ask
from wqkv.errors import ArgumentError
from wqkv.study.model import OpenModel, open_model
from wqkv.study.pair import OpenPair

N = 11


def value(asked) -> float:
    with torch.no_grad():
        return float(asked.terms(asked.run()).sum())


def number(asked) -> str:
    return asked.question.number


@pytest.fixture(scope="module")
def llama() -> OpenModel:
    return tiny_llama()


@torch.no_grad()
def logits(model, words: str, at: int = -1) -> torch.Tensor:
    return model.speaker(torch.tensor([model.tokens(words).ids])).logits[0, at]


def id_of(model, word: str) -> int:
    return model.tokenizer.convert_tokens_to_ids(word)


# The next token


def test_the_logit_of_one_token_less_that_of_another(llama):
    asked = ask(llama, text(N), "lamp", "sea")
    own = logits(llama, text(N))
    expected = own[id_of(llama, "lamp")] - own[id_of(llama, "sea")]
    assert value(asked) == pytest.approx(float(expected), abs=1e-5)
    assert asked.question == replace(
        asked.question, kind="next token", answer="lamp", against="sea", at=N
    )
    assert number(asked) == "logit of 'lamp' less logit of 'sea'"
    assert asked.ids == (id_of(llama, "lamp"), id_of(llama, "sea"))


def test_the_two_likeliest_tokens_where_none_is_named(llama):
    own = logits(llama, text(N))
    first, second = own.topk(2).indices.tolist()
    asked = ask(llama, text(N))
    assert asked.ids == (first, second)
    assert value(asked) == pytest.approx(float(own[first] - own[second]), abs=1e-5)
    best = llama.tokenizer.decode([first])
    assert ask(llama, text(N), best).ids == (first, second)  # the answer is no rival of its own
    assert ask(llama, text(N), "lamp").ids == (id_of(llama, "lamp"), first)
    assert ask(llama, text(N), against="lamp").ids == (first, id_of(llama, "lamp"))
    assert ask(llama, text(N), 7, 5).ids == (7, 5)


@pytest.mark.parametrize("at", [3, -2, 0])
def test_the_token_after_another_one(llama, at):
    asked = ask(llama, text(N), "lamp", "sea", at)
    own = logits(llama, text(N), at)
    expected = own[id_of(llama, "lamp")] - own[id_of(llama, "sea")]
    assert value(asked) == pytest.approx(float(expected), abs=1e-5)
    assert asked.question.at == at % (N + 1) == len(asked.text.ids) - 1
    assert asked.texts == {"text": (asked.text, asked.text)}


@pytest.mark.parametrize("at", [N + 1, -N - 2])
def test_a_token_that_is_not_there(llama, at):
    with pytest.raises(ArgumentError, match=f"no token {at}: the text has 12 tokens, 0 to 11"):
        ask(llama, text(N), at=at)


def test_an_answer_of_several_tokens_is_its_first(llama):
    asked = ask(llama, text(N), "lamp sea", "sea lamp")
    assert asked.ids == (id_of(llama, "lamp"), id_of(llama, "sea"))
    assert number(asked) == (
        "logit of 'lamp' (the first token of 'lamp sea') less "
        "logit of 'sea' (the first token of 'sea lamp')"
    )


def test_answers_that_cannot_be_told_apart(llama):
    with pytest.raises(ArgumentError, match="'lamp sea' and `against` 'lamp' begin with the same"):
        ask(llama, text(N), "lamp sea", "lamp")


def test_tokens_that_read_alike_have_their_numbers(llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "decode", lambda ids: "\ufffd")
    number = ask(llama, text(N), 7, 5).question.number
    assert number == "logit of '\ufffd', token 7 less logit of '\ufffd', token 5"


@pytest.mark.parametrize("name", ["answer", "against"])
def test_an_answer_without_a_token(llama, name):
    with pytest.raises(ArgumentError, match=f"`{name}` is '', which has no token"):
        ask(llama, text(N), **{name: ""})


def with_blanks() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a blank before every text, as Llama 2's does."""
    pieces = ["<unk>", "▁", "▁the", "▁lamp", "▁sea", "lamp", "▁sealight", "▁light"]
    cut = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0, False))
    cut.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    cut.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=cut, unk_token="<unk>")


@pytest.mark.parametrize(
    ("answer", "piece"),
    [
        (" lamp", "▁lamp"),
        ("lamp", "lamp"),
        ("light", "▁light"),  # "sea" and "light" grow together, so it is cut alone
    ],
)
def test_an_answer_is_cut_behind_the_text(llama, answer, piece):
    model = OpenModel(llama.model, with_blanks(), "blanks", llama.speaker)
    cut = model.tokenizer.convert_ids_to_tokens
    assert cut(model.tokenizer(" lamp")["input_ids"]) == ["▁", "▁lamp"]  # a blank of its own
    assert cut(ask(model, "the sea", answer, " the").ids[0]) == piece


def test_a_model_of_one_text_has_no_target(llama):
    with pytest.raises(ArgumentError, match="tiny-llama writes no second text"):
        ask(llama, text(N), target="a lamp")


def test_a_token_that_the_model_does_not_know():
    model = tiny_llama(1)
    model.tokenizer.add_tokens(["lampsea"])
    with pytest.raises(ArgumentError, match=r"Token 49, 'lampsea', .* has 49 logits"):
        ask(model, text(N), "lampsea")


# Rows and batches


def test_the_last_tokens_alone_say_the_same(llama):
    asked = ask(llama, text(N), "lamp", "sea")
    assert asked.can_skip_rows
    with torch.no_grad():
        assert asked.run(0, 3).logits.shape[:2] == (3, 1)  # of the last token alone
        tail = asked.speaker(
            input_ids=torch.tensor([asked.text.ids[4:]]),
            position_ids=torch.arange(4, N + 1)[None],
            logits_to_keep=1,
            use_cache=False,
        )
        assert torch.equal(asked.run(4).logits, tail.logits)


def test_a_run_of_single_tokens(llama):
    seen = []
    asked = ask(llama, text(N), "lamp", "sea")
    hook = llama.model.register_forward_hook(lambda _, __, out: seen.append(out[0].shape))
    asked.run_tokens("text", 5)
    hook.remove()
    assert seen == [(5, 1, 66)]


# A masked token


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> OpenModel:
    """A model of masked tokens, opened from a folder."""
    folder = tmp_path_factory.mktemp("masked")
    words = tokenizer()
    words.add_special_tokens({"mask_token": "<mask>"})
    words.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(MARKS) + len(WORDS) + 1,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=29,
        max_position_embeddings=31,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    fill(BertForMaskedLM(config)).save_pretrained(folder)
    return open_model(str(folder))


def test_a_masked_token(masked):
    assert masked.filler is not None and masked.speaker is None
    words = "the keeper <mask> the lamp"
    asked = ask(masked, words, "lit", "knew")
    with torch.no_grad():
        own = masked.filler(torch.tensor([masked.tokens(words).ids])).logits[0, 2]
    expected = own[id_of(masked, "lit")] - own[id_of(masked, "knew")]
    assert value(asked) == pytest.approx(float(expected), abs=1e-5)
    assert (asked.question.kind, asked.question.at) == ("masked token", 2)
    assert asked.speaker is masked.filler and not asked.can_skip_rows
    assert ask(masked, words).ids == tuple(own.topk(2).indices.tolist())


def test_one_of_several_masked_tokens(masked):
    words = "the <mask> lit the <mask>"
    assert ask(masked, words, at=1).question.at == 1
    assert ask(masked, words, at=-2).question.at == 4
    with pytest.raises(ArgumentError, match=r"Token 5 is '</s>', and tokens \[1, 4\] are masked"):
        ask(masked, words)
    with pytest.raises(ArgumentError, match=r"Token 2 is 'lit', and tokens \[1, 4\] are masked"):
        ask(masked, words, at=2)
    with pytest.raises(ArgumentError, match=r"Token 0 is 'the', and tokens \[2\] are masked"):
        ask(masked, "the keeper <mask> the lamp", at=0)


def test_without_a_mask_texts_are_compared(masked):
    assert ask(masked, text(N), READ).question.kind == "similarity"
    with pytest.raises(ArgumentError, match="predicts no token here"):
        ask(masked, text(N))


# How like two texts are


@torch.no_grad()
def mean(model, words: str) -> torch.Tensor:
    states = model.model(torch.tensor([model.tokens(words).ids]))[0]
    return states[0].mean(dim=0)


def cosine(model, a: str, b: str) -> float:
    return float(torch.cosine_similarity(mean(model, a), mean(model, b), dim=0))


def test_how_like_two_texts_are():
    model = opened("bert")
    asked = ask(model, text(N), READ)
    assert value(asked) == pytest.approx(cosine(model, text(N), READ), abs=1e-12)
    assert (asked.question.kind, asked.question.answer) == ("similarity", READ)
    assert number(asked) == f"cosine with {READ!r}" and asked.question.against is None
    asked = ask(model, text(N), READ, TARGET)
    expected = cosine(model, text(N), READ) - cosine(model, text(N), TARGET)
    assert value(asked) == pytest.approx(expected, abs=1e-12)
    assert number(asked) == f"cosine with {READ!r} less cosine with {TARGET!r}"
    assert not asked.can_skip_rows and asked.ids is None


def test_comparisons_that_say_nothing():
    model = opened("bert")
    with pytest.raises(ArgumentError, match="Pass the other text as `answer`"):
        ask(model, text(N))
    with pytest.raises(ArgumentError, match="`answer` is the text itself"):
        ask(model, text(N), text(N))
    assert ask(model, text(N), text(N), READ).question.against == READ
    with pytest.raises(ArgumentError, match="`at` is 2, and how like two texts are"):
        ask(model, text(N), READ, at=2)


# A function of the output


def test_a_function_of_the_output(llama):
    def surprise(output):
        return output.logits[:, 2].logsumexp(dim=-1)

    asked = ask(llama, text(N), surprise)
    expected = logits(llama, text(N), 2).logsumexp(dim=-1)
    assert value(asked) == pytest.approx(float(expected), abs=1e-5)
    assert asked.question == replace(asked.question, kind="function", number="surprise", at=None)
    assert not asked.can_skip_rows  # it may be made of every token

    class Named:
        def __call__(self, output):
            return output.logits[:, 0, 0]

    assert number(ask(llama, text(N), Named())) == "Named"


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (lambda output: output.logits[:, -1], r"f32\[1, 49\] on cpu"),
        (lambda output: output.logits.sum(), r"f32\[\] on cpu"),
        (lambda output: output.logits[:, -1].argmax(dim=-1), r"i64\[1\] on cpu"),
        (lambda output: 2.5, "float 2.5"),
    ],
)
def test_a_function_that_returns_no_numbers(llama, answer, came):
    asked = ask(llama, text(N), answer)
    with pytest.raises(ArgumentError, match=f"`answer` returned {came}"):
        value(asked)


@pytest.mark.parametrize(
    ("rest", "came"),
    [({"against": "sea"}, "`against` is 'sea', `at` -1"), ({"at": 3}, "`against` is None, `at` 3")],
)
def test_a_function_is_the_whole_question(llama, rest, came):
    for model in (llama, opened("t5")):
        with pytest.raises(ArgumentError, match=f"`answer` is a function, and {came}"):
            ask(model, READ, lambda output: output.logits[:, 0, 0], **rest)


# Models of two texts


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_what_a_pair_writes_next(name):
    model = opened(name)
    source, written = model.read_texts(READ, TARGET)
    asked = ask(model, READ, "lamp", "sea", target=TARGET)
    with torch.no_grad():
        own = model.speaker(
            torch.tensor([source.ids]), decoder_input_ids=torch.tensor([written.ids])
        ).logits[0]
    expected = own[-1, id_of(model, "lamp")] - own[-1, id_of(model, "sea")]
    assert value(asked) == pytest.approx(float(expected), abs=1e-12)
    assert asked.question.at == len(written.ids) - 1 == 9
    earlier = ask(model, READ, "lamp", "sea", 4, target=TARGET)
    expected = own[4, id_of(model, "lamp")] - own[4, id_of(model, "sea")]
    assert value(earlier) == pytest.approx(float(expected), abs=1e-12)
    assert earlier.texts["cross"] == (earlier.target, earlier.source)
    assert len(earlier.target.ids) == 5
    with pytest.raises(ArgumentError, match="no token 10: the text has 10 tokens"):
        ask(model, READ, at=10, target=TARGET)


def test_what_a_pair_writes_first():
    model = opened("t5")
    asked = ask(model, READ)
    assert asked.target.ids == (0,) and asked.target.special == (True,)
    assert asked.question.at == 0 and asked.ids is not None


def test_a_function_of_what_a_pair_says():
    model = opened("bart")
    asked = ask(model, READ, lambda output: output.logits[:, 2, 5], target=TARGET)
    assert asked.question.kind == "function" and len(asked.target.ids) == 10


def test_pairs_that_cannot_be_asked():
    plain = tiny_bart()
    bare = OpenPair(plain.model, plain.tokenizer, "bare")
    with pytest.raises(ArgumentError, match="bare predicts no next token"):
        ask(bare, READ, target=TARGET)
    for holder in (plain.speaker, plain.model):
        for config in (getattr(holder, "generation_config", None), holder.config):
            if config is not None:
                config.decoder_start_token_id = None
    with pytest.raises(ArgumentError, match="does not say which token it starts to write with"):
        ask(plain, READ)
    assert ask(plain, READ, target=TARGET).target.ids[0] == 1  # mBART's way


# What is no model to ask


def test_what_is_no_open_model(llama):
    with pytest.raises(ArgumentError, match=r"`model` is nn\.Module LlamaForCausalLM"):
        ask(llama.speaker, text(N))


def test_a_model_that_trains():
    model = tiny_llama()
    model.speaker.train()
    with pytest.raises(ArgumentError, match="tiny-llama trains, so that dropout may change"):
        ask(model, text(N))


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = tiny_llama(1)
    with pytest.raises(ArgumentError, match="tiny-llama was made in inference mode"):
        ask(model, text(N))


def test_a_rival_that_is_the_likeliest_token_leaves_the_answer_to_the_next():
    model = tiny_llama(1)
    plain = ask(model, text(N)).question
    found = ask(model, text(N), against=plain.answer).question
    assert found.against == plain.answer and found.answer == plain.against
