"""A tiny model in a folder, a corpus with what can be wrong in it, and their survey."""

import pytest

from tests.survey.corpora import corpus, model
from wqkv.corpus.survey import survey
from wqkv.study.model import open_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("survey")


@pytest.fixture(scope="module")
def name(folder):
    return model(folder / "model")


@pytest.fixture(scope="module")
def data(folder):
    return corpus(folder / "docs.jsonl")


@pytest.fixture(scope="module")
def opened(name):
    return open_model(name)


@pytest.fixture(scope="module")
def whole(folder, name, data):
    return survey(name, [data], folder / "whole", documents=7)
