"""Attention over ranks: each holds some of the words; (out, lse) of the pieces merge (F1, F2).

Every rank calls `attention(..., mesh=Ring(mesh))` with its share of queries, keys and values, and
the mask, bias and query_offset of the whole text. Two ways, one result:
- Ring: keys travel. Each rank sends others the keys that they may see, and no more; what it
  receives is attended to and merged while the next keys are on their way.
- AllToAll: heads travel. Each rank gets all words of some heads, and gives its results back.
Before anything travels, the ranks agree about the call, or all raise (`agree`).
gloo and NCCL run the same code. Not run on GPUs yet.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from wqkv.attend.call import Call
from wqkv.attend.parallel import all_to_all as heads
from wqkv.attend.parallel import ring
from wqkv.attend.parallel.agreement import agree, question, together
from wqkv.attend.parallel.autograd import attended
from wqkv.attend.parallel.messages import untraced
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring
from wqkv.attend.partial import Partial, with_sinks


@untraced  # what travels is decided when the call is there
def attend(ask: Callable[[], Call], ranks: Ranks) -> Partial:
    """This rank's rows of the attention over the words of all ranks.

    Args:
        ask: makes the call; its errors are raised on all ranks.
    """
    group = ranks.group
    with together(group):
        call = ask()
        asked = question(call, f"attention by {type(ranks).__name__}, {ranks.layout}")
        prepared, way = _module(call, ranks).prepared(call, ranks)
    agree(group, asked)
    out, lse = attended(prepared, way)
    out, lse = with_sinks(Partial(out, lse), call.rules.sinks)
    return Partial(out.to(call.query.dtype), lse)


def _module(call: Call, ranks: Ranks) -> ModuleType:
    """A plain `Ranks` takes the way on which the busiest rank sends fewer bytes (`traffic`)."""
    if isinstance(ranks, Ring):
        return ring
    if isinstance(ranks, AllToAll):
        return heads
    ways = traffic(call, ranks)
    return heads if min(ways, key=lambda way: ways[way], default="Ring") == "AllToAll" else ring


def traffic(call: Call, ranks: Ranks) -> dict[str, int]:
    """The bytes that the busiest rank sends forward, for each way that can run the call."""
    size = call.query.element_size()
    ways: dict[str, int] = {}
    if call.rules.dropout_p == 0:
        ways["Ring"] = ring.numbers_sent(call, ranks) * size
    if not heads.unfit(call, ranks):
        ways["AllToAll"] = heads.numbers_sent(call, ranks) * size
    return ways
