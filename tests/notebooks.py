"""Run a notebook of docs/ without Jupyter: each code cell in turn, what it prints and shows.

`python -m tests.notebooks docs/what-matters.ipynb` runs it and writes its outputs anew. Of what a
cell shows the text and the still picture are stored: a whole page would be megabytes.
"""

from __future__ import annotations

import ast
import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
STORED = ("text/plain", "image/png")


class Ran(NamedTuple):
    """What a code cell printed, and its last value by the kind of media, if it shows one."""

    printed: str
    shown: dict[str, str]

    @property
    def text(self) -> str:
        return self.printed + self.shown.get("text/plain", "")


def cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook, as its JSON has them."""
    notebook = json.loads(path.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored(cell: dict[str, Any]) -> str:
    """What a code cell printed, and the text that it showed, when the notebook was written."""
    lines = [
        output.get("text", []) + output.get("data", {}).get("text/plain", [])
        for output in cell["outputs"]
    ]
    return "".join(line for part in lines for line in part)


def run(path: Path) -> list[Ran]:
    """What each code cell prints and shows now."""
    given: dict[str, Any] = {"__name__": "__main__"}  # the names that cells hand on
    ran = []
    for number, cell in enumerate(cells(path), start=1):
        name, code = f"{path.name}[{number}]", ast.parse("".join(cell["source"]))
        last = code.body.pop() if code.body and isinstance(code.body[-1], ast.Expr) else None
        with redirect_stdout(StringIO()) as out:
            exec(compile(code, name, "exec"), given)
            value = (
                None
                if last is None
                else eval(compile(ast.Expression(last.value), name, "eval"), given)
            )
        ran.append(Ran(out.getvalue(), {} if value is None else _shown(value)))
    return ran


def _shown(value: object) -> dict[str, str]:
    """A value as a notebook shows it."""
    bundle = getattr(value, "_repr_mimebundle_", None)
    found = {"text/plain": repr(value)} if bundle is None else bundle()
    return {kind: found[kind] for kind in STORED if kind in found}


def write(path: Path) -> None:
    """Run a notebook, and store what its cells print and show."""
    notebook, ran = json.loads(path.read_text("utf-8")), run(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, (printed, shown)) in enumerate(zip(code, ran, strict=True), start=1):
        cell["execution_count"] = number
        cell["outputs"] = []
        if printed:
            lines = printed.splitlines(keepends=True)
            stream = {"name": "stdout", "output_type": "stream", "text": lines}
            cell["outputs"].append(stream)
        if shown:
            data = {
                kind: value.splitlines(keepends=True) if kind == "text/plain" else value
                for kind, value in shown.items()
            }
            result = {"data": data, "execution_count": number, "metadata": {}}
            cell["outputs"].append({"output_type": "execute_result", **result})
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(Path(name))
