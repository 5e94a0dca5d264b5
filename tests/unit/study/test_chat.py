"""Conversations: they are read as their model's template writes them, token by token."""

import json
import re

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_llama
from wqkv import cli
from wqkv.errors import ArgumentError
from wqkv.study import loading
from wqkv.study.chat import chat_text, read_messages

SAYS = "the keeper lit the lamp ."
TEMPLATE = (
    "{% for one in messages %}{{ '</s>' }} {{ one.content }} {% endfor %}"
    "{% if add_generation_prompt %}{{ '</s> night' }}{% endif %}"
)
MESSAGES = [
    {"role": "system", "content": "very old"},
    {"role": "user", "content": SAYS},
]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a template, which puts <s> before every text."""
    made = tiny_llama().tokenizer
    made.chat_template = TEMPLATE
    return made


@pytest.mark.parametrize("begins", ["", "<s>"])
def test_the_tokens_are_those_of_the_template(tokenizer, begins):
    tokenizer.chat_template = begins + TEMPLATE
    if not begins:  # then the tokenizer puts nothing there either
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A")
    text = chat_text(tokenizer, "tiny", MESSAGES)
    theirs = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    assert tokenizer(text)["input_ids"] == theirs["input_ids"]
    assert not text.startswith("<s>") and text.endswith("</s> night")


def test_special_tokens_are_marked(tokenizer):
    model = tiny_llama()
    tokenizer.chat_template = "<s>" + TEMPLATE
    cut = model.tokens(chat_text(tokenizer, "tiny", MESSAGES))
    special = [token for token, mark in zip(cut.tokens, cut.special, strict=True) if mark]
    assert special == ["<s>", "</s>", "</s>", "</s>"]


def test_behind_an_answer_comes_no_turn(tokenizer):
    tokenizer.chat_template = "<s>" + TEMPLATE
    said = [*MESSAGES, {"role": "assistant", "content": "dark"}]
    assert chat_text(tokenizer, "tiny", said).strip().endswith("dark")


def test_a_model_without_a_template():
    with pytest.raises(ArgumentError, match=r"^tiny has no template for a conversation: it is no"):
        chat_text(tiny_llama().tokenizer, "tiny", MESSAGES)


def test_a_template_that_refuses(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('only users') }}"
    says = r"template of tiny does not take a conversation of system, user \(.*only users\)"
    with pytest.raises(ArgumentError, match=says):
        chat_text(tokenizer, "tiny", MESSAGES)


def test_a_tokenizer_that_adds_what_the_template_has_not(tokenizer):
    says = "tokenizer of tiny puts special tokens around the text of its own template"
    with pytest.raises(ArgumentError, match=says):
        chat_text(tokenizer, "tiny", MESSAGES)


@pytest.mark.parametrize("text", ["Hi.", "[1, 2]", "[]", "{}", "[half", '"quoted"'])
def test_a_text_is_what_a_user_says(text):
    assert read_messages(text) == [{"role": "user", "content": text}]


def test_messages_are_read():
    assert read_messages(json.dumps(MESSAGES)) == MESSAGES
    with pytest.raises(
        ArgumentError, match=re.escape("Message 1 of the conversation has the fields role, text.")
    ):
        read_messages(json.dumps([MESSAGES[0], {"role": "user", "text": "a"}]))


def test_see_a_conversation(tokenizer, capsys, monkeypatch):
    model = tiny_llama()
    tokenizer.chat_template = "<s>" + TEMPLATE
    found = loading.LoadedModel(model.model, tokenizer, "tiny", model.speaker, None)
    monkeypatch.setattr("wqkv.study.model.load", lambda name, progress: found)
    assert cli.main(["see", "--chat", "--json", SAYS]) == 0
    (story,) = json.loads(capsys.readouterr().out)["stories"]
    assert story["sentence"] == f"</s> {SAYS} </s> night"
