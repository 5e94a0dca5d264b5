"""Every public callable, every argument, many wrong values: it works, or raises an error of ours.

What an argument allows is told by the words of its annotation, not by `wqkv.doors`, which is what
is tried here. A value of a kind that no word allows must be refused; any other may work or be
refused; no other error, and no warning, may come out.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import wqkv
from tests.conformance.doors import (
    ARGUMENTS,
    MADE,
    NO_DOORS,
    REFUSED,
    VALUES,
    B,
    D,
    H,
    N,
    Wrong,
    floats,
    model,
    quietly,
)
from tests.survey.corpora import model as saved_model
from tests.tiny import tiny_t5, tiny_vit
from wqkv.doors import door
from wqkv.errors import WqkvError
from wqkv.maps.shared import Part

INTS = torch.ones(1, 1, 1, 1).long()
ALIASES = {
    "Index": "SupportsIndex | slice | Sequence[SupportsIndex] | Tensor",
    "OfMap": "Axis | tuple | list",
    "Step": "Callable[[int, int], None]",
    "Progress": "Callable[[int, int], None]",
    "EachLayer": "Callable[[View, int], None]",
    "Switch": "Callable[[], AbstractContextManager]",
    "Maps": "tuple[tuple[AttentionMap, AttentionMap], ...]",
}
#: What other errors may come out, and why.
OTHERS = {
    ("Heads.__getitem__", IndexError): "Python's protocol of sequences",
    ("Seen.__getitem__", IndexError): "Python's protocol of sequences",
    ("SeenEffects.__getitem__", IndexError): "Python's protocol of sequences",
    ("Seen.runs", IndexError): "as Seen[layer]",
    ("Seen.writes", IndexError): "as Seen[layer]",
    **{
        (f"{kind}.positions", AssertionError): "a device that torch was not built for"
        for kind in ("Ranks", "Ring", "AllToAll")
    },
}


def saved_pair(folder: Path) -> None:
    pair = tiny_t5()
    pair.speaker.save_pretrained(folder)
    pair.tokenizer.save_pretrained(folder)


def saved_vision(folder: Path) -> None:
    vision = tiny_vit()
    vision.classifier.save_pretrained(folder)
    vision.processor.save_pretrained(folder)


def allows(annotation: str, wrong: Wrong) -> bool:
    """Whether an annotation has one of the words that a value goes by."""
    for alias, meaning in ALIASES.items():
        annotation = re.sub(rf"\b{alias}\b", meaning, annotation)
    if re.search(r"\b(Any|Self|_Model|object)\b", annotation) and "Mapping" not in annotation:
        return True
    words = map(re.escape, wrong.words.split())
    return any(re.search(rf"(?<!\w){word}(?!\w)", annotation) for word in words)


#: Methods that our own parts call on masks, biases and scalings.
INSIDE = {"visible", "region", "within", "check", "tile", "add_gradient", "frequencies"}


def named(it: Any, self: bool = False) -> list[inspect.Parameter]:
    """The parameters that a caller gives."""
    found = [*inspect.signature(it).parameters.values()][1 if self else 0 :]
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def own_methods(kind: type) -> Iterator[str]:
    """The public methods that we define, which are asked from outside and take arguments."""
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        function = method.__func__ if isinstance(method, classmethod) else method
        ours = inspect.isfunction(function) and function.__module__.startswith("wqkv.")
        asked = ours and (name == "__getitem__" or name[0] != "_") and name not in INSIDE
        if asked and named(function, self=True):
            yield name


def public_doors() -> Iterator[str]:
    for name in sorted((*wqkv.__all__, *wqkv.public.UNSTARRED)):
        it = getattr(wqkv, name)
        if not isinstance(it, type):
            yield name
        elif issubclass(it, WqkvError):
            continue  # an error takes its text
        elif name not in NO_DOORS:
            if named(it):
                yield name
            methods = (f"{name}.{method}" for method in own_methods(it))
            yield from (method for method in methods if method not in REFUSED)
    yield from (f"experiments.{name}" for name in wqkv.experiments.HEAD_QUESTIONS)
    yield "experiments.how_often"


Arguments = dict[str, Callable[[], Any]]
#: What writes a model into a folder, for the doors that open one.
FOLDERS = {
    "open_model": saved_model,
    "open_pair": saved_pair,
    "open_vision": saved_vision,
    "survey": saved_model,
}


def asked(name: str, folder: Path) -> tuple[Callable[..., Any], Arguments]:
    """What a door's name stands for, made anew, and arguments that are right."""
    kind, _, method = name.partition(".")
    if not method:
        given = dict(ARGUMENTS.get(name, {}))
        if name == "load_attention":
            if not (folder / "config.json").exists():
                model().save_pretrained(folder)
            given["path"] = lambda: folder
        if name == "load_recording":
            MADE["Seen"]().save(folder / "seen")
            given["path"] = lambda: folder / "seen"
        if name in FOLDERS:
            if not (folder / "model").exists():
                FOLDERS[name](folder / "model")
            (folder / "docs.jsonl").write_text('{"text": "the lamp burned"}')
            given["name"] = lambda: str(folder / "model")
        if name == "survey":
            given["model"] = given.pop("name")
            given |= {"data": lambda: [folder / "docs.jsonl"], "out": lambda: folder / "out"}
        return getattr(wqkv, name), given
    made = MADE[kind]()
    if method == "from_dict":
        return made.from_dict, {"form": made.to_dict}
    given = dict(next(ARGUMENTS[key] for key in (name, f".{method}", method) if key in ARGUMENTS))
    if method in ("save", "load"):
        made.save(folder / "file")
        given["path"] = lambda: folder / "file"
    if name == "Cross.append":
        made.rewind(0)
    if method == "merge":
        given["caches"] = lambda: [made]
    return getattr(made, method), given


def tried(name: str, ask: Callable[[], tuple[Callable[..., Any], Arguments]]) -> list[str]:
    """What came out of a door that should not: one line each."""
    function, given = ask()
    quietly(lambda: function(**{key: make() for key, make in given.items()}))
    leaks = []
    for parameter in named(function):
        annotation = str(parameter.annotation)
        for wrong in VALUES:
            function, given = ask()  # what an earlier try may have changed
            kwargs = {key: make() for key, make in given.items()}
            kwargs[parameter.name] = quietly(wrong.make)
            where = f"{name}({parameter.name}={wrong.name})"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    function(**kwargs)
            except WqkvError:
                continue
            except Exception as error:
                own = "Callable" in wrong.words and allows(annotation, wrong)  # the caller's own
                if not own and (name, type(error)) not in OTHERS:
                    leaks.append(f"{where}: {error!r}"[:200])
            else:
                if not allows(annotation, wrong):
                    leaks.append(f"{where}: nothing, for {annotation}")
    return leaks


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", list(public_doors()))
def test_wrong_arguments_are_refused(name, tmp_path, group, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "survey":  # for each value it would open the model, or start Ray
        monkeypatch.setattr("wqkv.corpus.survey.open_model", cache(wqkv.open_model))
        monkeypatch.setitem(sys.modules, "ray", None)
    leaks = tried(name, lambda: asked(name, tmp_path))
    assert not leaks, "\n".join(leaks)


def test_a_planted_leak_is_told(group):
    def bare(count: "int | None" = None) -> float:
        return 1 / (2 if count is None else count)

    leaks = tried("bare", lambda: (bare, {}))
    assert "bare(count=0): ZeroDivisionError('division by zero')" in leaks
    assert "bare(count=True): nothing, for int | None" in leaks
    assert any(line.startswith("bare(count='x'): TypeError") for line in leaks)
    assert not any("=3)" in line or "=None)" in line for line in leaks)
    zero = ["bare(count=0): ZeroDivisionError('division by zero')"]  # the value is its own to check
    assert tried("bare", lambda: (door(bare), {})) == zero


def in_two_parts() -> wqkv.SharedMap:
    """The map of a rank that has the rows 0 and 1, and the rows from 2 on."""
    q = floats(B, H, N, D)
    rows = (slice(0, 2), slice(2, N))
    parts = [Part(wqkv.AttentionMap(q[:, :, one], q), 0, one.start) for one in rows]
    return wqkv.SharedMap(wqkv.Ranks(), parts, (B, H, N, N), wqkv.Full(), placed=True)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: wqkv.Ranks().spans(-1), "-1 tokens do not make 1 equal parts"),
        (lambda: wqkv.Ranks().shard(torch.ones(3)), "`x` has no axis 1.\n  x: f32[3] on cpu"),
        (lambda: wqkv.Ranks().in_order([], 1), "0 parts came from 1 ranks."),
        (
            lambda: wqkv.SharedMap(wqkv.Ranks(), [], (1, 1, 1, 1), wqkv.Full(), placed=True),
            "no parts",
        ),
        (
            lambda: MADE["SharedMap"]().effects(*[floats(B, H, N, D)] * 3),
            "A SharedMap has no `effects`: its numbers of links would lie on 1 ranks.\nAsk each",
        ),
        (
            lambda: MADE["AttentionMap"]().kl(MADE["SharedMap"]()),
            "the type AttentionMap, and the other of the type SharedMap.\nPass two of one type.",
        ),
        (
            lambda: MADE["SharedMap"]().kl(in_two_parts()),
            "The ranks share the two maps in other ways.\n  SharedMap[2, 3, 5, 5] over 1 ranks",
        ),
        (lambda: wqkv.heads((m for m in [3]), ["abc"]), "`maps` holds AttentionMaps, not int 3"),
        (lambda: wqkv.Dynamic.load("x", "nowhere"), "`device` is 'nowhere': "),
        (lambda: wqkv.Dynamic().append(INTS, INTS), "`k` holds torch.int64.\n  k: i64[1, 1, 1, 1]"),
    ],
)
def test_values_that_cannot_be(call, says, group):
    with pytest.raises(WqkvError, match=re.escape(says)):
        call()
