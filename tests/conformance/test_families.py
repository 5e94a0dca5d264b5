"""Every family of FAMILIES is watched, by default and eager, beside the weights of its eager path.

Whatever has no map is missed with its reason. Nothing is silently wrong.
"""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from transformers.utils import logging

from tests.conformance.families import FAMILIES, row
from tests.conformance.watched import check


@pytest.fixture(autouse=True)
def quiet():
    """Tiny random models are not what transformers expects; its remarks are not of interest."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.mark.filterwarnings("ignore")  # of old model code
@pytest.mark.parametrize("implementation", ["default", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, implementation):
    found = check(row(name, implementation), modes=["eval"])
    assert found.wrong == []


def test_the_table_is_wide():
    proved = [name for name, one in FAMILIES.items() if not one.captured and not one.missed]
    assert len(proved) >= 103 and len(FAMILIES) - len(proved) <= 5
    odd = {"gemma3n_text", "gemma4_text", "qwen3_next", "diffllama", "mimo_v2_flash", "swin"}
    odd |= {"beit", "doge", "deepseek_v2", "deepseek_v3", "gpt_oss", "gemma2", "t5", "mistral"}
    assert odd | {"llama4_text", "bloom", "falcon", "gptj", "mpnet"} <= set(proved)
