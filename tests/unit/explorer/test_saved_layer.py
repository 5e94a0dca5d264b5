"""A layer as one string: what is in it, and that it is the same each time."""

import base64
import gzip
import json
import math

import pytest
import torch

from tests.tiny import READ, TARGET, text, tiny_llama, tiny_t5
from wqkv.explorer.api import Api
from wqkv.explorer.saved_layer import pack


def nobody(done: int, total: int) -> None:
    pass


def unpacked(packed: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """The facts and the numbers of a packed layer, as page/computed/layer.js reads them."""
    data = gzip.decompress(base64.b64decode(packed))
    size = int.from_bytes(data[:4], "little")
    facts, at, found = json.loads(data[4 : 4 + size]), 4 + size, {}
    for name, shape in facts["shapes"].items():
        count = math.prod(shape)
        planes = torch.frombuffer(bytearray(data[at : at + 4 * count]), dtype=torch.uint8)
        found[name] = planes.view(4, count).T.contiguous().view(torch.float32).view(shape)
        at += 4 * count
    assert at == len(data)
    return facts, found


@pytest.fixture(scope="module")
def seen():
    api = Api(tiny_llama(layers=2))
    return api.open(text(12), nobody)


def test_the_numbers_are_the_views(seen):
    facts, found = unpacked(pack(seen, 1))
    layer = seen.view.layer(1)
    for name, wanted in (("x", layer.x), ("q", layer.q), ("k", layer.k), ("v", layer.v)):
        assert torch.equal(found[name], wanted[0])
    assert facts["mask"] == "Causal()" and facts["softcap"] is None
    assert torch.equal(found["visible"], torch.ones(13, 13).tril().view(1, 13, 13))
    context = torch.randn(14, generator=torch.Generator().manual_seed(1))
    length = (context @ found["lengths"][4] @ context).sqrt()
    torch.testing.assert_close(length, (context @ layer.WO(4)).norm())
    assert facts["residuals"][9] == {
        "difference": seen.view.row(1, 0, 9).residual.difference,
        **facts["residuals"][9],
    }


def test_what_keys_add_or_WO_whichever_is_smaller(seen):
    _, found = unpacked(pack(seen, 0))  # 13 keys, d_v is 14
    layer = seen.view.layer(0)
    torch.testing.assert_close(found["added"][5], layer.v[0, 1] @ layer.WO(5))
    longer = Api(tiny_llama(layers=1)).open(text(14), nobody)
    _, found = unpacked(pack(longer, 0))
    assert "added" not in found
    assert torch.equal(found["WO"][5], longer.view.layer(0).WO(5))


def test_one_text_gives_one_string(seen):
    assert pack(seen, 0) == pack(seen, 0) != pack(seen, 1)


def test_two_texts():
    seen = Api(tiny_t5()).open(READ, nobody, TARGET)
    _, found = unpacked(pack(seen.parts["cross"], 1))
    assert torch.equal(found["source"], seen.view.reading.source.final[0])
    _, found = unpacked(pack(seen.parts["encoder"], 1))
    assert found["bias"].shape == (6, 11, 11) and "source" not in found
