"""A model and two texts in it, which the tests of what_if and of generate share."""

import pytest

from tests.tiny import text, tiny_llama
from wqkv.study.model import OpenModel
from wqkv.study.view import View


@pytest.fixture(scope="module")
def llama() -> OpenModel:
    return tiny_llama()


@pytest.fixture(scope="module")
def seen(llama) -> View:
    """Read a text of 23 tokens: 22 words behind <s>."""
    return llama.view(text(22))


@pytest.fixture(scope="module")
def tired(minilm) -> View:
    return minilm.view("The animal didn't cross the street because it was too tired.")
