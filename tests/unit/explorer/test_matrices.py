"""The matrices of a head as the page gets them: exactly, or of a large one a picture."""

import base64

import pytest
import torch

from tests.tiny import text, tiny_llama
from wqkv.explorer import matrices as module
from wqkv.explorer.api import Api
from wqkv.explorer.export import CAP, record
from wqkv.explorer.jobs import Refused
from wqkv.explorer.numbers import story
from wqkv.explorer.request import Parameters

NAMES = ("WQ", "WK", "WV", "WO")
HEAD = {"layer": 1, "head": 4}


@pytest.fixture(scope="module")
def opened():
    api = Api(tiny_llama(layers=2))
    return api, api.open(text(12), lambda done, total: None)


def asked(opened, answer, **query):
    given = Parameters({name: str(value) for name, value in query.items()})
    return answer(*opened, given, lambda done, total: None)


def numbers(packed: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(packed)), dtype=torch.float32)


def python(opened, answer) -> torch.Tensor:
    """Run the last line that the page copies, on the view that is open."""
    return eval(answer["python"].splitlines()[-1], {"view": opened[1].view})


def test_the_numbers_are_pythons(opened):
    found = asked(opened, module.matrices, **HEAD)
    ours = python(opened, found)
    for name in NAMES:
        matrix, facts = getattr(ours, name), found[name]
        assert torch.equal(numbers(facts["numbers"]).view(facts["rows"], facts["columns"]), matrix)
        assert facts["per"] == (1, 1) and facts["bias"] is None
    assert found["WQ"]["between"] == ("RoPE",) and found["WO"]["between"] == ()
    assert (found["WQ"]["rows"], found["WQ"]["columns"], found["WO"]["columns"]) == (66, 14, 66)


def test_a_large_matrix_is_a_picture_whose_columns_are_exact(opened, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 300)
    found, ours = asked(opened, module.matrices, **HEAD), opened[1].view.matrices(1, 4)
    assert found["WQ"]["per"] == (4, 1) and found["WO"]["per"] == (4, 1)
    for name in NAMES:
        matrix, facts = getattr(ours, name), found[name]
        shown = numbers(facts["numbers"]).view(-1, facts["columns"])
        for at, block in enumerate(matrix.split(4)):
            assert torch.equal(shown[at].abs(), block.abs().amax(dim=0))
            assert all((shown[at] == row).logical_or(row.abs() < shown[at].abs()).all() for row in
                       block.unbind())  # fmt: skip
        column = asked(opened, module.matrixcolumn, **HEAD, of=name, column=9)
        assert torch.equal(numbers(column["numbers"]), matrix[:, 9])
        assert torch.equal(python(opened, column), matrix[:, 9])


@pytest.mark.parametrize(("size", "per"), [(24, (3, 1)), (5, (14, 3)), (256, (1, 1))])
def test_a_small_picture(opened, size, per):
    found = asked(opened, module.matrices, **HEAD, size=size)["WQ"]
    assert found["per"] == per
    assert len(numbers(found["numbers"])) == -(-66 // per[0]) * -(-14 // per[1])


def test_extremes_have_their_sign_and_place():
    matrix = torch.tensor([[1.0, -5.0, 2.0], [-4.0, 3.0, 0.0], [0.5, 0.0, -7.0]])
    assert module.extremes(matrix, 2, 2).tolist() == [[-5.0, 2.0], [0.5, -7.0]]
    assert torch.equal(module.extremes(matrix, 1, 1), matrix)


@pytest.mark.parametrize(
    ("answer", "query", "says"),
    [
        (module.matrices, {"size": 257}, "A picture of 257 rows cannot be drawn."),
        (module.matrixcolumn, {"of": "WK", "column": 14}, "no column 14 of WK, which has 14."),
        (module.matrixcolumn, {"of": "WX", "column": 1}, "`of` is 'WX'"),
    ],
)
def test_what_is_refused(opened, answer, query, says):
    with pytest.raises(Refused, match=says):
        asked(opened, answer, **HEAD, **query)


def test_a_saved_page_has_those_of_its_head(opened):
    answers = record(*opened, (1, 4, 5), "en", lambda done, total: None, CAP)["answers"]
    exact = asked(opened, module.matrices, **HEAD)
    assert answers["views/1/matrices?head=4&layer=1"] == exact and exact["WQ"]["step"] is None


def test_a_gate_stands_between_the_context_and_WO():
    """The page multiplies `gated` by WO, where there is a gate."""
    api = Api(tiny_llama(layers=2))
    opened = api, api.open(text(12), lambda done, total: None)
    assert asked(opened, story, **HEAD, token=5)["gated"] is None
    layer = api.model.layer(1)
    layer.gate, layer.WG = "head", torch.nn.Linear(66, 6)
    told = asked(opened, story, **HEAD, token=5)
    gate = torch.sigmoid(layer.WG(opened[1].view.reading.inputs[1][0, 5]))[4]
    gated = torch.tensor(told["context"]) * gate
    torch.testing.assert_close(torch.tensor(told["gated"]), gated)
    WO = opened[1].view.matrices(1, 4).WO
    torch.testing.assert_close(torch.tensor(told["share"]), gated @ WO)
    assert asked(opened, module.matrices, **HEAD)["WO"]["between"] == ("gate",)
