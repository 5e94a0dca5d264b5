"""The benchmarks' cases are right before they are timed, and no wrong result gets a time."""

import json
import math

import pytest
import torch
from torch import nn

from benchmarks import __main__ as bench
from benchmarks import contest, functional, layers, models, report
from benchmarks import open as open_
from benchmarks.cases import FASTEST, FLOOR, rows
from benchmarks.contest import Contestant
from wqkv import attention

SMALL = rows(bench.SHRINK)
LAYERS = [row for row in SMALL if row.group == "layer"]
CALLS = [row for row in SMALL if row.group != "layer"]


def named(row):
    return row.name


def gradients(out, leaves):
    """The output, and the gradient of each leaf that has one."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out.dtype)
    return [out.detach(), *(torch.autograd.grad(out, wanted, up) if wanted else ())]


def conforms(ours, same, exact):
    """Off by at most twice what the reference in the same dtype is, plus rounding."""
    for got, like, truth in zip(ours, same, exact, strict=True):
        off, allowed = (float((x.double() - truth).abs().max()) for x in (got, like))
        eps = torch.finfo(torch.float32).eps * max(float(truth.abs().max()), 1.0)
        assert off <= 2 * allowed + 4 * eps


@pytest.mark.parametrize("row", CALLS, ids=named)
def test_calls_conform(row):
    def found(engine, **dtypes):
        inputs = row.case.make(**dtypes, learn=None if row.backward else ())
        return gradients(attention(**inputs.arguments, engine=engine), inputs.leaves.values())

    single = {"dtype": torch.float32}
    exact = found("reference", **single, held=torch.float64)
    conforms(found("auto", **single), found("reference", **single), exact)


@pytest.mark.parametrize("row", LAYERS, ids=named)
def test_layers_conform(row):
    torch.manual_seed(2)
    layer = layers.ours(row)
    x = torch.randn(row.case.batch, row.case.query_len, layer.d_model)

    def found(dtype, engine):
        layer.to(dtype).engine = engine
        leaf = x.to(dtype).requires_grad_(row.backward)
        return gradients(layer(leaf), [leaf])

    ours, same = found(torch.float32, "auto"), found(torch.float32, "reference")
    conforms(ours, same, found(torch.float64, "reference"))


def test_names_are_distinct_and_documents_fill_their_row():
    names = [row.name for row in rows()]
    assert len(names) == len(set(names))
    masks = [row.case.mask(row.case) for row in rows() if row.name == "packed 8192 forward"]
    lengths = masks[0].labels[0].bincount().tolist()
    assert sum(lengths) == 8192
    assert min(lengths) >= 64
    assert max(lengths) <= 960


@pytest.mark.slow
def test_quick(capsys):
    status = bench.main(["--quick"])
    shown = capsys.readouterr().out
    record = json.loads(shown.splitlines()[-1])
    assert status == 0
    assert record["wrong"] == []
    assert [row["row"] for row in record["rows"]] == [
        row.name for row in [*SMALL, *models.rows(bench.SHRINK)]
    ]
    assert record["absent"]["FlexAttention"] == "compiling takes long"
    assert all("median_ms" in row["contestants"]["ours"] for row in record["rows"])
    for name, why in record["absent"].items():
        assert f"absent: {name}, {why}" in shown.splitlines()


def test_list_and_only(capsys):
    assert bench.main(["--list", "--only", "decode"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["decode 4096 forward", "decode 32768 forward"]
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--only", "nothing"])
    assert "no row has 'nothing' in its name" in capsys.readouterr().err


def test_save(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    assert bench.main(["--quick", "--save", "--only", "overhead"]) == 0
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text("utf-8"))
    assert record == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert path.stem.endswith(record["date"])


@pytest.mark.parametrize("fault", [1.01, math.nan])
def test_a_wrong_result_gets_no_time(capsys, monkeypatch, fault):
    make = functional.contestants

    def planted(row, *, compiled):
        ready, absent = make(row, compiled=compiled)
        leaves = ready[0].compared
        wrong = Contestant("liar", lambda: ready[0].run() * fault, leaves)
        return [*ready, wrong], absent

    monkeypatch.setattr(functional, "contestants", planted)
    status = bench.main(["--quick", "--only", "causal 128 train"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 1
    ((row, name, why),) = record["wrong"]
    assert (row, name) == ("causal 128 train", "liar")
    assert why.startswith("off by 1.0e-02" if fault == 1.01 else "off by nan")
    assert "liar" not in record["rows"][0]["contestants"]


def test_a_wrong_gradient_is_seen():
    x = torch.ones(3, requires_grad=True)
    up = torch.ones(3)
    honest, _ = contest.measured(Contestant("a", lambda: 2 * x, [x]), up)
    wrong, _ = contest.measured(Contestant("b", lambda: x + x.detach(), [x]), up)
    assert contest.difference(honest, honest) == 0
    assert contest.difference(wrong[:1], honest[:1]) == 0
    assert contest.difference(wrong, honest) == pytest.approx(0.5)
    assert math.isnan(contest.difference(honest[:1], honest))


def test_memory_counts_what_is_freed():
    x = torch.zeros(1000)
    _, memory = contest.measured(Contestant("a", lambda: (x + 1)[:10] + (x + 2)[:10]), None)
    assert memory.largest == 4000
    assert 8000 <= memory.peak < 9000
    matrix = contest.largest_tensor(Contestant("a", lambda: x.outer(x).sum(0)), None)
    assert matrix.startswith("float32[1000, 1000] from aten.")


def test_a_race_takes_turns():
    ran = []
    pair = [Contestant(name, lambda name=name: ran.append(name)) for name in "ab"]
    times = contest.race(pair, None, budget_s=0, least=2, most=3)
    assert "".join(ran) == "ba" + "ab" + "ba"  # the first is the warm-up
    assert {name: one.repeats for name, one in times.items()} == {"a": 2, "b": 2}


def test_verdicts():
    row = next(row for row in rows() if row.name == "layer bias 4096 forward")
    times = {"ours": 1.1, "BERT": 1.0, "nn.MHA": 2.0, FLOOR: 0.9}
    one = {"peak_bytes": 1, "largest_bytes": 4096**2 // 2}
    contestants = {name: {"median_ms": ms, **one} for name, ms in times.items()}
    result = {"contestants": contestants, "input_bytes": 4096, "wrong": {}}
    found = {v["what"]: (v["ratio"], v["pass"]) for v in report.verdicts(row, result)}
    assert found == {
        f"time / {FASTEST}: BERT": (1.1, False),
        f"time / {FLOOR}": (1.2222, False),
        "largest allocation / N x N bytes": (0.5, True),
    }
    means = list(report.summary([row], {row.name: result}))
    assert [(v["what"], v["ratio"], v["pass"]) for v in means] == [("time / nn.MHA", 0.55, True)]
    text = report.table([*report.verdicts(row, result), *means])
    assert "4 targets: 2 passed, 2 failed, 0 without a rival" in text
    assert text.count("FAIL") == 4  # each in its place, and once more at the end
    del contestants["BERT"], contestants["nn.MHA"]
    first = next(report.verdicts(row, result))
    assert (first["ratio"], first["pass"]) == (None, None)


def test_a_peer_that_is_not_installed_is_absent(monkeypatch):
    def gone(layer, rope, length):
        raise ModuleNotFoundError(name="gone")

    monkeypatch.setitem(layers.PEERS, "plain", {"gone": gone})
    row = next(row for row in LAYERS if row.family == "plain")
    ready, absent = layers.contestants(row)
    assert [contestant.name for contestant in ready] == ["ours", FLOOR]
    assert absent == {"gone": "no module gone"}
    assert isinstance(layers.ours(row), nn.Module)


def test_open(capsys):
    assert open_.main(["--length", "521"]) == 0
    lines = capsys.readouterr().out.splitlines()
    record = json.loads(lines[-1])
    assert (record["length"], record["threads"], record["clock"]) == (521, 1, "processor")
    seconds = record["seconds"]
    parts = [value for name, value in seconds.items() if name.startswith("first paint: ")]
    assert len(parts) == 3 and seconds["first paint"] == pytest.approx(sum(parts), abs=1e-3)
    assert seconds["tile"] == max(v for n, v in seconds.items() if n.startswith("tile of"))
    assert record["targets"].keys() <= seconds.keys()
    assert any(line.startswith("first paint: ") and "target 2 s" in line for line in lines)
