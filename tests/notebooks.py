"""Run a notebook of docs/ without Jupyter: each code cell in turn, and what it prints.

`python -m tests.notebooks docs/what-matters.ipynb` runs it and writes its outputs anew.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook, as its JSON has them."""
    notebook = json.loads(path.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored(cell: dict[str, Any]) -> str:
    """What a code cell printed when the notebook was written."""
    return "".join(line for output in cell["outputs"] for line in output["text"])


def run(path: Path) -> list[str]:
    """What each code cell prints now."""
    given: dict[str, Any] = {"__name__": "__main__"}  # the names that cells hand on
    printed = []
    for number, cell in enumerate(cells(path), start=1):
        with redirect_stdout(StringIO()) as out:
            exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), given)
        printed.append(out.getvalue())
    return printed


def write(path: Path) -> None:
    """Run a notebook, and store what its cells print."""
    notebook, printed = json.loads(path.read_text("utf-8")), run(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, text) in enumerate(zip(code, printed, strict=True), start=1):
        cell["execution_count"] = number
        lines = text.splitlines(keepends=True)
        stream = {"name": "stdout", "output_type": "stream", "text": lines}
        cell["outputs"] = [stream] if lines else []
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(Path(name))
