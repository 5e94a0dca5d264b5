"""Attention over ranks: each rank holds some of a text's tokens, and (out, lse) of pieces merge.

Every rank calls `attention(..., mesh=Ring(mesh))` with its share of queries, keys and values, and
with the mask, bias and query_offset of the whole text. There are two ways to one result:
- Ring: keys travel. A rank sends each other rank the keys that it may see, and no more. A rank
  attends to the keys that it has received, and merges, while the next keys are on their way.
- AllToAll: heads travel. Each rank gets all tokens of some heads, and sends their results back.
Before anything travels, the ranks agree about the call, or all of them raise (`agree`).
gloo and NCCL run the same code, which has not run on GPUs yet.

That pieces merge, forward and backward, are the facts F1 and F2 of DESIGN.md.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from wqkv.attend.call import Call
from wqkv.attend.parallel import all_to_all, ring
from wqkv.attend.parallel.agreement import agree, question, together
from wqkv.attend.parallel.autograd import attended
from wqkv.attend.parallel.messages import untraced
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring
from wqkv.attend.partial import Partial, with_sinks


@untraced  # what travels depends on the call's numbers, which a graph does not know
def attend(ask: Callable[[], Call], ranks: Ranks) -> Partial:
    """Return this rank's rows of the attention over the tokens of all ranks.

    Args:
        ask: makes and checks the call; if it raises on one rank, all ranks raise.
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
    """The module of the way that a call takes.

    A plain `Ranks` takes the way on which the busiest rank sends fewer bytes; see `traffic`.
    """
    if isinstance(ranks, Ring):
        return ring
    if isinstance(ranks, AllToAll):
        return all_to_all
    ways = traffic(call, ranks)
    cheaper = min(ways, key=lambda way: ways[way], default="Ring")
    return all_to_all if cheaper == "AllToAll" else ring


def traffic(call: Call, ranks: Ranks) -> dict[str, int]:
    """How many bytes the busiest rank sends forward, for each way that can run the call."""
    size = call.query.element_size()
    ways: dict[str, int] = {}
    if call.rules.dropout_p == 0:
        ways["Ring"] = ring.numbers_sent(call, ranks) * size
    if not all_to_all.unfit(call, ranks):
        ways["AllToAll"] = all_to_all.numbers_sent(call, ranks) * size
    return ways
