"""What a person's own input causes is said in both languages."""

import ast
from pathlib import Path

import pytest

import wqkv
from wqkv.errors import ArgumentError, MissingExtraError, need
from wqkv.sentences import errors, translated
from wqkv.sentences.errors import mistake, one_of

ROOT = Path(wqkv.__file__).parent
GROUPS = [found for name, found in vars(errors).items() if name.isupper() and name[0] != "_"]
#: The modules in which a command's user causes every error.
TYPED = (
    *(ROOT / "commands").glob("*.py"),
    *(ROOT / "corpus").glob("*.py"),
    *(
        ROOT / "study" / f"{name}.py"
        for name in ("loading", "packaged", "part", "tokens", "pair", "chat", "windows")
    ),
)
#: The errors there that only a programmer can cause.
PROGRAMMED = {"{loaded.name} reads one text.", "{row['error']}"}


def untranslated(source: str) -> list[str]:
    """The errors of a module that are raised with an English sentence alone."""
    found = []
    for node in ast.walk(ast.parse(source)):
        made = node.exc if isinstance(node, ast.Raise) else None
        if not isinstance(made, ast.Call) or ast.unparse(made.func) not in NAMES or not made.args:
            continue
        said = made.args[0]
        if isinstance(said, ast.Call) and ast.unparse(said.func) == "mistake":
            continue
        if not isinstance(said, ast.Name):  # a name holds what `mistake` returned
            found.append(ast.unparse(said))
    return found


NAMES = ("ArgumentError", "KindError", "MissingExtraError")


@pytest.mark.parametrize("path", TYPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_a_person_causes_is_said_in_both_languages(path):
    left = untranslated(path.read_text("utf-8"))
    assert [one for one in left if not any(known[1:9] in one for known in PROGRAMMED)] == []


def test_an_english_error_is_found():
    assert untranslated("raise ArgumentError(f'No {x}.')") == ["f'No {x}.'"]
    assert untranslated("raise ArgumentError(mistake('empty_text'))") == []


def test_a_name_is_given_once():
    names = [name for group in GROUPS for name in group]
    assert len(names) == len(set(names)) > 60


def test_an_error_is_english_and_knows_chinese():
    error = ArgumentError(mistake("no_layer", number=7, count=5, last=4))
    assert str(error) == "There is no layer 7: the model has 5 layers, 0 to 4."
    assert translated(error.args[0], "zh") == "没有第 7 层：模型有 5 层，编号 0 到 4。"


def test_a_missing_package_is_said_in_both_languages():
    with pytest.raises(
        MissingExtraError, match=r"^Opening a model needs the package `gone`"
    ) as told:
        need("gone.part", "hf", mistake("opening"))
    assert translated(told.value.args[0], "zh").startswith("打开模型需要软件包 `gone`")
    assert "pip install 'wqkv[hf]'" in translated(told.value.args[0], "zh")


def test_a_choice_is_listed():
    assert one_of([".csv"]) == ".csv"
    assert translated(one_of([".html", ".htm"]), "zh") == ".html 或 .htm"
