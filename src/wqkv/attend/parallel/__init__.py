"""Attention over ranks: each holds some of the words; (out, lse) of the pieces merge (F1, F2).

Every rank calls `attention(..., mesh=Ring(mesh))` with its share of queries, keys and values, and
the mask, bias and query_offset of the whole text. Two ways, one result:
- Ring: keys travel. Each rank sends others the keys that they may see, and no more; what it
  receives is attended to and merged while the next keys are on their way.
- AllToAll: heads travel. Each rank gets all words of some heads, and gives its results back.
gloo and NCCL run the same code. Not run on GPUs yet.
"""

from __future__ import annotations

from wqkv.attend.call import Call
from wqkv.attend.merge import Partial
from wqkv.attend.parallel import heads, ring
from wqkv.attend.parallel.messages import untraced
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring


@untraced  # what travels is decided when the call is there
def attend(call: Call, ranks: Ranks) -> Partial:
    """This rank's rows of the attention over the words of all ranks.

    A plain `Ranks` takes the way on which the busiest rank sends fewer bytes (`traffic`).
    """
    if isinstance(ranks, Ring):
        return ring.run(call, ranks)
    if isinstance(ranks, AllToAll):
        return heads.run(call, ranks)
    ways = traffic(call, ranks)
    if min(ways, key=lambda way: ways[way], default="Ring") == "AllToAll":
        return heads.run(call, ranks)
    return ring.run(call, ranks)


def traffic(call: Call, ranks: Ranks) -> dict[str, int]:
    """The bytes that the busiest rank sends forward, for each way that can run the call."""
    size = call.query.element_size()
    ways: dict[str, int] = {}
    if call.dropout_p == 0:
        ways["Ring"] = ring.numbers_sent(call, ranks) * size
    if not heads.unfit(call, ranks):
        ways["AllToAll"] = heads.numbers_sent(call, ranks) * size
    return ways
