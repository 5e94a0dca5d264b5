import io
import json
import subprocess
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from wqkv import LayerParity, Parity
from wqkv.draw.parity import as_json, show
from wqkv.maps.proof import Proof


def make(*differences: float | None) -> Parity:
    """One layer a difference, of 3e-5 allowed; None is one that was not compared."""
    layers = [
        LayerParity("decoder", i, None, "it has 猫\nof its own")
        if off is None
        else LayerParity("decoder", i, Proof(off, 2.0, 3e-5, 7))
        for i, off in enumerate(differences)
    ]
    return Parity("llama", "input_ids i64[1, 64] on cpu", tuple(layers))


def drawn(
    parity: Parity, width: int = 80, encoding: str = "utf-8", lang: str = "en", **console
) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(parity, "tiny-model", Console(file=file, width=width, **console), lang)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


def test_table():
    title, *lines = drawn(make(1.25e-7, 0.5, None), 120).splitlines()
    assert title.startswith("tiny-model: our layers against its own, on the hidden states of inpu")
    assert lines == [
        "",
        "decoder  0  1.2e-07 of 3.0e-05 allowed  holds",
        "decoder  1  5.0e-01 of 3.0e-05 allowed  EXCEEDS",
        "decoder  2  not compared: it has 猫\\nof its own",
        "",
        "parity holds in 1 of 3 layers",
    ]


@pytest.mark.parametrize("width", [15, 40, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_fits_the_console(width, encoding):
    lines = drawn(make(1e-7, 0.5, None), width, encoding).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


def test_colors_only_where_they_show():
    parity = make(1e-7, 0.5)
    assert "\x1b" not in drawn(parity)
    colored = drawn(parity, force_terminal=True, color_system="standard")
    assert colored.count("\x1b[1;31m") == 2  # the layer and the sum
    held = drawn(make(1e-7), force_terminal=True, color_system="standard")
    assert "\x1b[1;32mparity holds in 1 of 1 layers" in held


def test_json_is_strict():
    told = as_json(make(1e-7, float("nan"), None), "tiny-model")
    told = json.loads(json.dumps(told, allow_nan=False))
    assert told["model"] == "tiny-model"
    assert (told["family"], told["holds"]) == ("llama", False)
    assert told["layers"][0] == {
        "part": "decoder",
        "layer": 0,
        "reason": "",
        "proof": {
            "difference": 1e-7,
            "size": 2.0,
            "tolerance": 3e-5,
            "rows": 7,
            "empty": 0,
            "holds": True,
        },
    }
    assert told["layers"][1]["proof"]["difference"] is None
    assert told["layers"][2]["proof"] is None


@pytest.mark.process
def test_json_needs_no_rich():
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "from wqkv.draw.parity import as_json; from wqkv import Parity\n"
        "print(as_json(Parity('bert', '', ()), 'tiny')['holds'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_chinese():
    title, _, *lines = drawn(make(1.25e-7, 0.5, None), 120, lang="zh").splitlines()
    assert title == (
        "tiny-model：用 input_ids i64[1, 64] on cpu 的隐藏状态，比较我们的层与它自己的层"
    )
    assert lines == [
        "decoder  0  相差 1.2e-07（允许 3.0e-05）  一致",
        "decoder  1  相差 5.0e-01（允许 3.0e-05）  超出",
        "decoder  2  未比较：it has 猫\\nof its own",
        "",
        "3 层中有 1 层一致",
    ]
