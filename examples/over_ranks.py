"""The character model again, trained by processes that each hold a part of every text.

torchrun --nproc-per-node 2 examples/over_ranks.py reaches the loss of --nproc-per-node 1: the keys
travel (`Ring`), and all other layers see one character at a time and never notice.
"""

import argparse
import io
import sys

import torch
from block import train
from characters import HELD, LENGTH, READ, Writer
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import wqkv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # torchrun says who is who
    if dist.get_rank():
        sys.stdout = io.StringIO()  # one of them speaks
    torch.manual_seed(args.seed)  # the same model and batches for all

    model = Writer()
    ranks = wqkv.Ring(layout="zigzag")  # a rank holds an early and a late part: equal work
    for block in model.blocks:
        block.look.mesh = ranks
    shared = DistributedDataParallel(model)  # adds up the gradients

    def loss(rows: Tensor) -> Tensor:
        """Of this rank's characters; all ranks have as many."""
        x, y = ranks.shard(rows[:, :-1]), ranks.shard(rows[:, 1:])
        return F.cross_entropy(shared(x).mT, y)

    windows = READ.unfold(0, LENGTH + 1, 1)
    batches = torch.randint(len(windows), (args.steps, 16))
    train(model, batches, lambda starts: loss(windows[starts]), 3e-3)
    with torch.no_grad():
        found = loss(HELD.unfold(0, LENGTH + 1, LENGTH))
    dist.all_reduce(found)
    print(f"{ranks.size} processes, {LENGTH // ranks.size} characters of every text each")
    print(f"loss {found / ranks.size:.5f} per held-out character")
    dist.barrier()  # a rank that goes while another still sends would end with an error
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
