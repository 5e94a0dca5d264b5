"""The house's vocabulary: one name has one meaning, a token is called token, and no untyped mapping
crosses a module's border.

Each rule is a function of a root folder that returns its complaints, as in test_house.py, so that
the tests at the end can plant a fault and see it reported.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_house import ROOT, modules, plant

# One name, one meaning

#: Commands, drawings and sentences have the name of what they are about: draw/heads.
FACES = ("wqkv.commands.", "wqkv.draw.", "wqkv.sentences.")


def classes(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name


def names_with_two_meanings(root: Path) -> list[str]:
    """Classes of one name, and modules of one name that are not each other's command or drawing."""
    of_classes, of_modules = defaultdict(list), defaultdict(list)
    for name, path in modules(root).items():
        for line, one in classes(path):
            of_classes[one].append(f"{path.relative_to(root)}:{line}")
        if path.name != "__init__.py" and not name.startswith(FACES):
            of_modules[path.stem].append(str(path.relative_to(root)))
    return [
        f"{name} has {len(places)} meanings: {', '.join(places)}"
        for found in (of_classes, of_modules)
        for name, places in sorted(found.items())
        if len(places) > 1
    ]


def test_a_name_has_one_meaning():
    wrong = names_with_two_meanings(ROOT)
    assert not wrong, "\n".join(wrong)


# A token is a token

#: Where a page speaks to a learner, who knows words, and says once that they are tokens; and where
#: a word that a person typed is looked for among the tokens.
SPEAKS = (
    *(f"src/wqkv/draw/{name}.py" for name in ("html", "plots", "rate", "steps", "terminal")),
    *(
        f"src/wqkv/sentences/{name}.py"
        for name in (
            "__init__",
            "errors",
            "experiments",
            "heads",
            "rate",
            "reading",
            "seen",
            "steps",
        )
    ),
    *(f"src/wqkv/commands/{name}.py" for name in ("rate", "see")),
    *(f"src/wqkv/study/{name}.py" for name in ("hit_rate", "known_texts", "one_token")),
)
#: What a person types has words, and so has a written text; and BERT has its word_embeddings.
MEANT = re.compile(
    r"--word|at least one word|in words\b|before a word|keywords?|emb\.word|word_embeddings"
)
WORD = re.compile(r"(?<![a-z])words?(?![a-z])", re.IGNORECASE)
BRITISH = re.compile(
    r"\w*(?:colour|behaviour|neighbour|favour|honour|centre[ds]?\b|metre|grey\b|(?:quant|recogn|"
    r"normal|general|factor|real|summar|optim|initial|serial|parallel|vector|token|special|local|"
    r"minim|maxim|categor|organ)is(?:e|ed|er|ers|es|ing|ation)\b)\w*",
    re.IGNORECASE,
)


def spoken(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every name, string and comment of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type in (tokenize.NAME, tokenize.STRING, tokenize.COMMENT):
            for number, text in enumerate(token.string.splitlines()):
                yield token.start[0] + number, text


def other_words(root: Path) -> list[str]:
    """Where a token is called a word, and spellings that nobody greps for."""
    wrong = []
    for path in modules(root).values():
        where = str(path.relative_to(root))
        for line, text in spoken(path):
            if where not in SPEAKS and (found := WORD.search(MEANT.sub("", text))):
                wrong.append(f"{where}:{line}: {found[0]!r} is a token: {text.strip()}")
            if found := BRITISH.search(text):
                wrong.append(f"{where}:{line}: {found[0]!r} has an American spelling")
    return wrong


def test_a_token_is_a_token():
    wrong = other_words(ROOT)
    assert not wrong, "\n".join(wrong)


# Mappings

UNTYPED = re.compile(r"\b(?:dict|Mapping|MutableMapping)\[str, (?:Any|object)\]")
#: Mappings that nobody can type: JSON at the door, the keyword arguments of a foreign call, and
#: what pickle hands over. Each is said beside it, at most six lines above.
REASON = re.compile(r"#.*\b(?:JSON|[Kk]eyword arguments|pickle)\b")


def untyped_mappings(root: Path) -> list[str]:
    """Mappings without types and without one of the two reasons beside them."""
    wrong = []
    for path in modules(root).values():
        lines = path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            near = lines[max(0, number - 7) : number]
            if UNTYPED.search(line.partition("#")[0]) and not any(map(REASON.search, near)):
                wrong.append(f"{path.relative_to(root)}:{number}: {line.strip()}")
    return wrong


def test_no_untyped_mapping_crosses_a_border():
    wrong = untyped_mappings(ROOT)
    assert not wrong, "\n".join(wrong)


# What the documents name

DOCUMENTS = ("DESIGN.md", "CONTRIBUTING.md", "README.md", "README.zh-CN.md", "docs/decisions.md")
FILE = re.compile(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.(?:py|js))\b(?![\w/])")


def files_that_are_not_there(root: Path, documents: tuple[str, ...]) -> list[str]:
    """Files that a document names and that are nowhere in the repository."""
    known = {
        str(path.relative_to(root))
        for folder in ("src", "tests", "benchmarks", "examples")
        for path in (root / folder).rglob("*.[pj]*")
    }
    return [
        f"{document}:{number}: {name} is not there"
        for document in documents
        for number, line in enumerate((root / document).read_text("utf-8").splitlines(), 1)
        for name in FILE.findall(line)
        if not any(f"/{path}".endswith(f"/{name}") for path in known)
    ]


def test_documents_name_files_that_are_there():
    wrong = files_that_are_not_there(ROOT, DOCUMENTS)
    assert not wrong, "\n".join(wrong)


# These rules can fail


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a.py": "class A: ...", "b.py": "class B: ..."}, None),
        ({"a.py": "class A: ...", "b/c.py": "class A: ..."}, "A has 2 meanings"),
        ({"a.py": "def f():\n    class A: ...\nclass A: ..."}, "A has 2 meanings"),
        ({"study/heads.py": "", "draw/heads.py": "", "commands/heads.py": ""}, None),
        ({"study/heads.py": "", "record/heads.py": ""}, "heads has 2 meanings"),
        ({"a/__init__.py": "", "b/__init__.py": ""}, None),
    ],
)
def test_planted_meaning(tmp_path, files, complaint):
    wrong = names_with_two_meanings(
        plant(tmp_path, {f"src/wqkv/{path}": text for path, text in files.items()})
    )
    assert len(wrong) == (complaint is not None)
    assert all(complaint in line for line in wrong)


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("a.py", '"""Return the token."""\nx = "--word"  # keyword', None),
        ("a.py", '"""Return\nthe word."""', "a.py:2: 'word' is a token"),
        ("a.py", "x = 1  # Words of a text", "a.py:1: 'Words' is a token"),
        ("a.py", "word = 1", "a.py:1: 'word' is a token"),
        ("a.py", "x.first_words", "a.py:1: 'words' is a token"),
        ("a.py", 'f"{n} words"', "a.py:1: 'words' is a token"),
        ("sentences/steps.py", 'says = "a word"', None),
        ("a.py", "colour = 1", "'colour' has an American spelling"),
        ("a.py", "# the neighbouring one is normalised", "'neighbouring' has"),
        ("a.py", "# a promise of an exercise, precise and otherwise", None),
    ],
)
def test_planted_word(tmp_path, path, source, complaint):
    wrong = other_words(plant(tmp_path, {f"src/wqkv/{path}": source}))
    assert len(wrong) == (complaint is not None)
    assert all(complaint in line for line in wrong)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(x: dict[str, int]) -> None: ...", 0),
        ("def f(x: dict[str, Any]) -> None: ...", 1),
        ("x: Mapping[str, object] = {}", 1),
        ("# JSON: whatever came\nx: dict[str, Any] = {}", 0),
        ("x: dict[str, Any] = {}  # keyword arguments of the model's own function", 0),
        ("x = 1  # not a dict[str, Any]", 0),
    ],
)
def test_planted_mapping(tmp_path, source, count):
    assert len(untyped_mappings(plant(tmp_path, {"src/wqkv/a.py": source}))) == count


def test_planted_file(tmp_path):
    plant(tmp_path, {"src/wqkv/a/b.py": "", "D.md": "b.py, a/b.py and\nb/a.py, c.py, x.json"})
    wrong = files_that_are_not_there(tmp_path, ("D.md",))
    assert wrong == ["D.md:2: b/a.py is not there", "D.md:2: c.py is not there"]
