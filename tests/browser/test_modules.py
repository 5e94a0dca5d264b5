"""The page's modules keep the rules that let an exported page join them into one script."""

import posixpath
import re
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files

import pytest

PAGE = files("wqkv.explorer") / "page"
IMPORT = re.compile(r'import \{ ([\w, ]+) \} from "([\w./-]+\.js)";')
TEXT = re.compile(r'^  (?:"([^"]+)"|(\w+)): \[', re.MULTILINE)  # the name of a text
TOP = re.compile(r"^(export )?(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)


def reached(name: str, found: dict[str, str]) -> dict[str, str]:
    """A module and all that it imports: {name: source}."""
    if name not in found:
        found[name] = (PAGE / name).read_text("utf-8")
        for _, other in imported(name, found[name]):
            reached(other, found)
    return found


def imported(name: str, source: str) -> list[tuple[list[str], str]]:
    """(names, path of the module that they come from) of every import of a module."""
    folder = posixpath.dirname(name)
    return [
        (names.split(", "), posixpath.normpath(posixpath.join(folder, other)))
        for names, other in IMPORT.findall(source)
    ]


SOURCES = reached("main.js", {})


def test_imports_are_one_line_and_name_what_is_there():
    for name, source in SOURCES.items():
        lines = [line for line in source.split("\n") if line.startswith("import")]
        assert len(lines) == len(IMPORT.findall(source)), name
        for names, other in imported(name, source):
            exported = {found for mark, found in TOP.findall(SOURCES[other]) if mark}
            assert set(names) <= exported, (name, other)


def test_no_modules_import_each_other():
    arrows = {name: {o for _, o in imported(name, source)} for name, source in SOURCES.items()}
    assert list(TopologicalSorter(arrows).static_order())[-1] == "main.js"  # a circle raises
    with pytest.raises(CycleError):
        TopologicalSorter(arrows | {"parts/dom.js": {"main.js"}}).prepare()


def test_what_is_imported_is_used():
    for name, source in SOURCES.items():
        body = IMPORT.sub("", source)
        for names, _ in imported(name, source):
            for one in names:
                assert re.search(rf"(?<!\w)(?<![\w)\]]\.){one}\b(?!:)", body), (name, one)


def declared(source: str) -> list[str]:
    """Every name at the top of a module, and those after a comma: `const a = 1,` and `  b = 2;`."""
    names = [found for _, found in TOP.findall(source)]
    goes_on = False  # a declaration of several names
    for line in source.split("\n"):
        more = re.match(r"  (\w+)(?: =|,|;)", line)
        if goes_on and more:
            names.append(more[1])
        begins = re.match(r"(?:export )?(?:const|let) ", line)
        names += re.findall(r", (\w+) = ", line) if begins and line.endswith(";") else []
        goes_on = line.endswith(",") and bool(begins or (goes_on and more))
    return names


def test_names_after_a_comma():
    source = "const a = 1,\n  b = 2;\nlet c = 3, d = 4;\nfunction e(f,\n  g) {\n  h = 5,\n}\n"
    assert sorted(declared(source)) == ["a", "b", "c", "d", "e"]


def test_names_are_unique_over_all_modules():
    seen: dict[str, str] = {}
    for name, source in SOURCES.items():
        for found in declared(source):
            assert found not in seen, (found, name, seen.get(found))
            seen[found] = name


def test_exports_are_used_elsewhere():
    for name, source in SOURCES.items():
        others = "".join(text for other, text in SOURCES.items() if other != name)
        tests = (PAGE / "open.html").read_text("utf-8")
        for mark, found in TOP.findall(source):
            if mark and found != "TEXTS":  # a test compares the languages
                assert re.search(rf"\b{found}\b", others + tests), (name, found)


def test_every_text_is_there_and_is_used():
    texts = "".join(source for name, source in SOURCES.items() if name.startswith("words/"))
    named = [quoted or bare for quoted, bare in TEXT.findall(texts)]
    keys = set(named)
    assert len(named) == len(keys), "two files have a text of one name"
    code = "".join(source for name, source in SOURCES.items() if not name.startswith("words/"))
    asked = set(re.findall(r'\bt\(\s*"(\w+)"', code))
    asked |= {
        name for pair in re.findall(r'\bt\(\s*[^"`\n]*\? "(\w+)" : "(\w+)"', code) for name in pair
    }
    assert asked - keys == set()
    built = re.findall(r"\bt\(`(\w+)\$", code)
    for key in keys - asked:
        assert any(key.startswith(start) for start in built) or f'"{key}"' in code, key


def test_nothing_names_another_host_or_writes_markup():
    for name, source in SOURCES.items():
        hosts = set(re.findall(r"https?://[^\s\"'`]+", source))
        assert hosts <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(
            r"innerHTML|outerHTML\s*=|insertAdjacentHTML|eval\(|new Function", source
        )
    page = "".join(
        path.read_text("utf-8") for path in (PAGE / "open.html", *(PAGE / "style").iterdir())
    )
    assert not re.search(r"https?://|@import|url\(", page)
    assert not re.search(r"\sstyle=|\son\w+=", (PAGE / "open.html").read_text("utf-8"))


def test_files_are_short():
    lengths = {name: source.count("\n") for name, source in SOURCES.items()}
    # A table of texts is as long as the page has texts.
    most = {name: 400 if name.startswith("words/") else 300 for name in lengths}
    assert {name: lines for name, lines in lengths.items() if lines > most[name]} == {}
    assert max(len(line) for source in SOURCES.values() for line in source.split("\n")) < 400
