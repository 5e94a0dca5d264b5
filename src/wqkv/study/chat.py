"""A conversation as the text that a chat model reads, by the template of its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypedDict

from wqkv.errors import ArgumentError
from wqkv.sentences.errors import mistake
from wqkv.study.tokens import special_around


class Message(TypedDict):
    """What one side says in a conversation."""

    role: str  # "system", "user" or "assistant"
    content: str


def read_messages(text: str) -> list[Message]:
    """Return the messages of a JSON list, or one message of a user who says `text`.

    >>> read_messages("Hello.")
    [{'role': 'user', 'content': 'Hello.'}]
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not (isinstance(found, list) and found and all(isinstance(one, dict) for one in found)):
        return [{"role": "user", "content": text}]
    for number, one in enumerate(found):
        if not (isinstance(one.get("role"), str) and isinstance(one.get("content"), str)):
            fields = ", ".join(one) or mistake("no_fields")
            raise ArgumentError(mistake("message_fields", number=number, fields=fields))
    return [{"role": one["role"], "content": one["content"]} for one in found]


def chat_text(tokenizer: Any, name: str, messages: Sequence[Message]) -> str:
    """Return the text that a chat model reads of a conversation; behind a user comes its turn.

    It is a text as any other: the tokenizer makes of it the tokens of `apply_chat_template`, and
    what that text begins with and the tokenizer puts there itself, such as <s>, is left out.

    Args:
        tokenizer: one of transformers' tokenizers.
        name: what the model is called.

    Raises:
        ArgumentError: the tokenizer has no template, or its template takes no such conversation.
    """
    if not tokenizer.chat_template:
        raise ArgumentError(mistake("no_template", model=name))
    turn = messages[-1]["role"] == "user"
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=turn
        )
    except Exception as error:  # whatever the template of a foreign model raises
        roles = ", ".join(one["role"] for one in messages)
        reason = f"{type(error).__name__}: {error}"
        raise ArgumentError(
            mistake("template_refuses", model=name, roles=roles, reason=reason)
        ) from error
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    before = special_around(tokenizer)[0]
    start = tokenizer.decode(before)
    if before and ids[: len(before)] == before and text.startswith(start):
        text = text[len(start) :]
    if tokenizer(text, verbose=False)["input_ids"] != ids:
        raise ArgumentError(mistake("template_twice", model=name))
    return text
