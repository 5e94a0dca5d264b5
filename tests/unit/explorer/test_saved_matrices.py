"""The pictures of a layer's matrices: every number within half a step, each matrix once."""

import base64
import gzip
import json

import pytest
import torch

from tests.tiny import text, tiny_llama
from wqkv import View
from wqkv.explorer.saved_matrices import MOST_STEPS, STEPS, pack_matrices, rounded


@pytest.fixture(scope="module")
def view() -> View:
    return tiny_llama(layers=2).view(text(12))


def unpacked(packed: str) -> dict[str, list[tuple[dict, torch.Tensor]]]:
    """The facts and numbers of every matrix, as page/computed/matrices.js reads them."""
    data = gzip.decompress(base64.b64decode(packed))
    size = int.from_bytes(data[:4], "little")
    facts, at, found = json.loads(data[4 : 4 + size]), 4 + size, {}
    for name, matrices in facts.items():
        found[name] = []
        for one in matrices:
            count = -(-one["rows"] // one["per"][0]) * one["columns"]
            numbers = torch.frombuffer(bytearray(data[at : at + count]), dtype=torch.int8)
            found[name].append((one, numbers.view(-1, one["columns"]) * one["step"]))
            at += count
    assert at == len(data)
    return found


def test_every_number_is_within_half_a_step(view):
    found, sizes = unpacked(pack_matrices(view, 1)), view.model.sizes
    lengths = {name: len(matrices) for name, matrices in found.items()}
    shared = sizes.n_kv_head
    assert lengths == {"WQ": sizes.n_head, "WK": shared, "WV": shared, "WO": sizes.n_head}
    for name, matrices in found.items():
        for at, (facts, numbers) in enumerate(matrices):
            head = at * sizes.n_head // len(matrices)
            exact = getattr(view.matrices(1, head), name)
            assert (numbers - exact).abs().max() <= facts["step"] * 0.5001
            assert facts["step"] <= float(exact.square().mean().sqrt())  # a quarter of it, mostly


def test_a_number_far_from_0_makes_larger_steps():
    matrix = torch.ones(64, 64)
    matrix[3, 5] = -101
    numbers, step = rounded(matrix)
    assert step == pytest.approx(101 / MOST_STEPS) and numbers[3, 5] == -MOST_STEPS
    even, step = rounded(torch.ones(2, 3))
    assert step == 1 / STEPS and even.eq(STEPS).all()


def test_a_matrix_of_zeros():
    numbers, step = rounded(torch.zeros(2, 3))
    assert step == 1 and not numbers.any()
