"""What `shard_heads` refuses; tests/parallel computes what it gives."""

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from wqkv import MultiheadAttention, Ring, shard_heads
from wqkv.errors import ArgumentError


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_layer_whose_tokens_are_shared(one_rank):
    layer, mesh = MultiheadAttention(24, 3, mesh=Ring()), init_device_mesh("cpu", (1,))
    with pytest.raises(ArgumentError, match=r"(?s)mesh is Ring\(.*Set layer.mesh to None"):
        shard_heads(layer, mesh)
    layer.mesh = None
    assert shard_heads(layer, mesh) is layer
