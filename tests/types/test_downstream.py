"""The types that a stranger's program sees: mypy and pyright read downstream.py beside the package.

Both read the package that the interpreter imports, by its annotations and py.typed, and no
configuration of this repository. pyright runs in its mode "standard", the default of editors:
"strict" would report what torch's own annotations leave unknown, in every line that calls torch.
"""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from wqkv import DifferentialAttention, MultiheadAttention
from wqkv.layer.differential import FurtherArguments

PROGRAM = Path(__file__).with_name("downstream.py")
MYPY = ("mypy", "--strict", "--config-file=", "--python-executable", sys.executable)
PYRIGHT = ("basedpyright", "--pythonpath", sys.executable)
MODE = {"typeCheckingMode": "standard", "reportUnnecessaryTypeIgnoreComment": "error"}
CHECKERS = [pytest.param(MYPY, id="mypy"), pytest.param(PYRIGHT, id="pyright")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One for all tests, because mypy keeps what it has read of torch there: a minute."""
    return tmp_path_factory.mktemp("program")


def complaints(checker: tuple[str, ...], program: str, folder: Path) -> str:
    """What a checker says of a program that lies in a folder of its own; "" if it is content."""
    pytest.importorskip(checker[0], reason="the type checkers come with the extra `dev`")
    (folder / "program.py").write_text(program, "utf-8")
    (folder / "pyrightconfig.json").write_text(json.dumps(MODE), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", *checker, "program.py"], cwd=folder, capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    return done.stdout if done.returncode else ""


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_program_is_checked(checker, folder):
    said = complaints(checker, PROGRAM.read_text("utf-8"), folder)
    assert not said, said


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_planted_fault_is_found(checker, folder):
    program = "import torch, wqkv\nlayer = wqkv.MultiheadAttention(6, 2)\n"
    said = complaints(checker, program + "x: int = layer(torch.ones(1, 2, 6))\n", folder)
    assert "program.py:3:" in said and '"Tensor"' in said
    said = complaints(checker, program + "layer.WQ.weight.shape  # type: ignore\n", folder)
    assert "program.py:3:" in said and "ype: ignore" in said


def test_every_argument_can_be_handed_on():
    """A keyword argument that a TypedDict lacks would be refused by the checkers alone."""
    all_arguments, own = (
        {*inspect.signature(kind.__init__).parameters}
        for kind in (MultiheadAttention, DifferentialAttention)
    )
    assert all_arguments - own == {*FurtherArguments.__annotations__}
