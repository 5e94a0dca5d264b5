"""What every rank does in the tests of maps: a map that ranks share beside that of one process."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from tests.parallel.jobs import D_K, D_V, HEADS, KV_HEADS, WAYS, B, N, masks, random, rules
from wqkv import (
    ALiBi,
    AttentionMap,
    Causal,
    DifferentialAttention,
    LatentAttention,
    Lengths,
    MultiheadAttention,
    RoPE,
    Temperature,
    Window,
    attention,
    rollout,
    use,
    watch,
)
from wqkv.attend.call import request
from wqkv.attend.parallel.all_to_all import shares_of
from wqkv.attend.parallel.ranks import AllToAll, Ranks, Ring
from wqkv.errors import WqkvError
from wqkv.layer.shard import shard_heads
from wqkv.maps.shared import SharedMap

#: Both ways and both layouts.
BOTH: list[Ranks] = [Ring(None, "contiguous"), AllToAll(None, "zigzag")]


class Answer(NamedTuple):
    """All that a map was asked."""

    worst: dict[str, float]  # the largest difference from one process
    bits: str  # of what this rank was told
    exact: int  # how many heads' strongest links could be compared one by one


def maps() -> dict[str, Any]:
    jobs = (words, calls, own_heads, layers, stacks, shared_layers, watched, complaints, others)
    return {job.__name__: job() for job in jobs}


def asked(m: AttentionMap, whole: AttentionMap) -> Answer:
    """Every question, asked of both."""
    batch, n_head, query_len, key_len = whole.shape
    assert m.shape == whole.shape
    Y, X = random(query_len, 3, seed=1), random(key_len, 3, seed=2)
    by_head = random(batch, n_head, query_len, 2, seed=3)
    last = query_len - 1
    questions: dict[str, Callable[[AttentionMap], Tensor]] = {
        "entropy": lambda m: m.entropy(),
        "received": lambda m: m.received(),
        "lse": lambda m: m.lse,
        "mass": lambda m: m.mass([1, key_len - 2]),
        "mean_distance": lambda m: m.mean_distance(),
        "thumbnail": lambda m: m.thumbnail(5),
        "times": lambda m: m.times(X),
        "t_times": lambda m: m.t_times(Y),
        "t_times by head": lambda m: m.t_times(by_head),
        "flat": lambda m: m.flat().mass([0]),
        "effective": lambda m: 1 / (1 + m.effective()),  # which may be thousands beside a sink
        "coverage": lambda m: torch.stack(m.coverage(0.9)),
        "largest": lambda m: m.largest(),
        "kl": lambda m: m.kl(m.flat()),
        "everything": lambda m: m[:],
        "one weight": lambda m: m[1, -1, last, 0],
        "tile": lambda m: m[1:, [n_head - 1, 0], 3:last, 2:7],
        "far rows": lambda m: m[0, :, [last, 0, 5, last], ::3],
        "rows": lambda m: m.rows([last, 1]),
        "pairs": lambda m: m.at([0, last, 5, last], [0, 3, 5, 0]),
        "no rows": lambda m: m[:, :, 3:3],
    }
    if not isinstance(whole._numbers.given.rules.softcap, float):
        questions["frequencies"] = lambda m: m.frequencies(RoPE(d=2))
    worst, told = {}, []
    for name, question in questions.items():
        mine, truth = question(m), question(whole)
        assert mine.shape == truth.shape and mine.dtype == truth.dtype, name
        worst[name] = apart(mine, truth)
        told.append(mine)
    exact = 0
    for rows, k in ((None, 5), ([last, 2, 3], 3), ([1, last], 9 * key_len)):
        off, alike, top = links(m, whole, k, rows)
        worst[f"top {k}"] = off
        exact += alike
        told += top
    bits = hashlib.sha256(b"".join(x.contiguous().numpy().tobytes() for x in told)).hexdigest()
    return Answer(worst, bits, exact)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinities that are equal have none, and NaN is one."""
    return float((a - b).masked_fill(a == b, 0).abs().max()) if a.numel() else 0.0


def links(m: AttentionMap, whole: AttentionMap, k: int, rows: Any) -> tuple[float, int, Any]:
    """The difference of the strongest links, and in how many heads every link had to be the same.

    Where weights are equal to rounding, either may come first: then each found link has the weight
    that is told, and none is told twice.
    """
    mine, truth, more = m.top(k, rows), whole.top(k, rows), whole.top(k + 1, rows)
    assert mine.weights.shape == truth.weights.shape
    off = apart(mine.weights, truth.weights)
    at = mine.queries * whole.shape[3] + mine.keys
    off = max(off, apart(whole[:].flatten(2).gather(2, at), mine.weights))
    assert bool((at.sort(dim=2).values.diff(dim=2) > 0).all()), "a link is told twice"
    gaps = (more.weights.diff(dim=2) < -1e-9).all(dim=2)  # (batch, n_head)
    same = (mine.queries == truth.queries).all(dim=2) & (mine.keys == truth.keys).all(dim=2)
    return (off if bool(same[gaps].all()) else 1.0), int(gaps.sum()), mine


def cases() -> dict[str, dict[str, Any]]:
    """Every mask, and every rule with one."""
    found: dict[str, dict[str, Any]] = {name: {"mask": mask} for name, mask in masks().items()}
    for name, rule in rules().items():
        found[f"causal, {name}"] = {"mask": Causal(), **rule}
    return found


def inputs() -> tuple[Tensor, Tensor]:
    return random(B, HEADS, N, D_K, seed=10), random(B, KV_HEADS, N, D_K, seed=11)


def words() -> dict[str, Answer]:
    """Words over ranks, for every mask and rule."""
    found, (q, k) = {}, inputs()
    for name, rest in cases().items():
        whole = AttentionMap(q, k, **rest)
        for ranks in BOTH:
            m = SharedMap.tokens(ranks, ranks.shard(q, 2), ranks.shard(k, 2), **rest)
            found[f"{name}, {ranks.layout}"] = asked(m, whole)
    q = q[:, :, :8]  # cross-attention, one offset a sample
    for offset in (N - 8, torch.tensor([0, N - 8])):
        rest = {"mask": Window(5, 0), "query_offset": offset}
        whole = AttentionMap(q, k, **rest)
        for ranks in BOTH:
            m = SharedMap.tokens(ranks, ranks.shard(q, 2), ranks.shard(k, 2), **rest)
            found[f"cross from {offset}, {ranks.layout}"] = asked(m, whole)
    return found


def calls() -> dict[str, tuple[float, float]]:
    """The proof of attention over ranks, and of an output of which one number is wrong."""
    found, (q, k), v = {}, inputs(), random(B, KV_HEADS, N, D_V, seed=12)
    for name, rest in cases().items():
        for ranks in BOTH:
            mine = [ranks.shard(x, 2) for x in (q, k, v)]
            out = attention(*mine, **rest, mesh=ranks)
            m = SharedMap.tokens(ranks, *mine[:2], **rest)
            value, wrong = ranks.gather(mine[2], 2), out.clone()
            if ranks.rank == 1:
                wrong[1, 2, -1, 3] += 0.25
            row = ranks.spans(N, 1)[-1][1] - 1  # which is wrong on rank 1
            seen = m.proof(value, wrong), m.proof(value, wrong, [row])
            assert m.proof(value, wrong, [(row + 1) % N]) < 1e-12
            case = f"{name}, {type(ranks).__name__}"
            found[case] = m.proof(value, out), max(abs(one - 0.25) for one in seen)
    return found


def own_heads() -> dict[str, Answer]:
    """Heads over ranks, for every mask and rule; and heads in unequal shares."""
    found, (q, k) = {}, inputs()
    ranks = Ranks()
    spans = shares_of(request(q, k, k), ranks)
    (h0, h1), (k0, k1) = (of[ranks.rank] for of in spans)
    for name, rest in cases().items():
        call = request(q, k, k, **rest)
        mine = dict(rest, mask=call.rules.mask.heads(h0, h1))
        if call.rules.bias is not None:
            mine["bias"] = call.rules.bias.heads(h0, h1)
        if call.rules.sinks is not None:
            mine["sinks"] = call.rules.sinks[h0:h1]
        m = SharedMap.heads(AttentionMap(q[:, h0:h1], k[:, k0:k1], **mine))
        found[name] = asked(m, AttentionMap(q, k, **rest))
        out = attention(q[:, h0:h1], k[:, k0:k1], k[:, k0:k1], **mine)
        found[name].worst["proof"] = m.proof(k[:, k0:k1], out)
        found[name].worst["proof of one wrong"] = (
            abs(m.proof(k[:, k0:k1], out + 0.25 * (ranks.rank == 1)) - 0.25)
        )  # fmt: skip
    n = ranks.size * (ranks.size + 1) // 2
    q, first = random(B, n, N, D_K, seed=13), ranks.rank * (ranks.rank + 1) // 2
    mine = q[:, first : first + ranks.rank + 1]
    m = SharedMap.heads(AttentionMap(mine, mine, mask=Causal()))
    found["unequal"] = asked(m, AttentionMap(q, q, mask=Causal()))
    return found


def several() -> dict[str, MultiheadAttention]:
    torch.manual_seed(0)
    rest: dict[str, Any] = {"mask": Causal(), "dtype": torch.float64}
    turned = dict(rest, position=RoPE())
    made = {
        "grouped": MultiheadAttention(16, 8, n_kv_head=2, gate="head", sinks=True, **turned),
        "window": MultiheadAttention(16, 8, **turned | {"mask": Window(7, 0)}, softcap=2.0),
        "lengths": MultiheadAttention(16, 8, **rest | {"mask": Lengths([N, 9])}),
        "alibi": MultiheadAttention(
            16, 4, position=ALiBi(4), temperature=Temperature(5, 0.3), **rest
        ),
        "latent": LatentAttention(16, 4, rank=5, d_rope=2, **rest),
        "differential": DifferentialAttention(16, 2, start=0.5, **rest),
    }  # fmt: skip
    for layer in made.values():
        for i, parameter in enumerate(layer.parameters()):
            parameter.data += 0.3 * random(*parameter.shape, seed=i)
    return made


def layers() -> dict[str, Answer]:
    """layer.map of layers over words."""
    found, x = {}, random(B, N, 16)
    for name, layer in several().items():
        whole = layer.map(x)
        for ranks in BOTH:
            layer.mesh = ranks
            found[f"{name}, {type(ranks).__name__}"] = asked(layer.map(ranks.shard(x)), whole)
        layer.mesh = None
    return found


def stacks() -> dict[str, float]:
    """The maps of layers one on another, what flows through all, and what a head does."""
    found, x = {}, random(B, N, 16)
    stack = [layer for layer in several().values() if layer.n_head == 8]

    def run(x: Tensor) -> list[AttentionMap]:
        seen = []
        for layer in stack:
            seen.append(layer.map(x))
            x = x + layer(x)
        return seen

    whole, start = run(x), torch.eye(N, dtype=torch.float64)[N - 2]
    for ranks in WAYS:
        for layer in stack:
            layer.mesh = ranks
        mine = run(ranks.shard(x))
        name = f"{type(ranks).__name__} {ranks.layout}"
        for i, (a, b) in enumerate(zip(mine, whole, strict=True)):
            found[f"{name} {i}"] = max(asked(a, b).worst.values())
        found[f"{name} rollout"] = apart(rollout(mine, start), rollout(whole, start))
        for layer in stack:
            layer.mesh = None
    return found


def shared_layers() -> dict[str, Answer]:
    """layer.map of layers whose heads are shared."""
    mesh, found, x = _mesh(), {}, random(B, N, 16)
    for name, layer in several().items():
        if type(layer) is MultiheadAttention and name != "alibi":
            whole = layer.map(x)
            shard_heads(layer, mesh)
            found[name] = asked(SharedMap.heads(layer.map(x), mesh), whole)
    return found


def watched() -> dict[str, tuple[str, list[Answer]]]:
    """A transformers model whose heads torch's tensor parallelism shares, on sdpa and on ours."""
    from transformers.models.llama import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 31}
    config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4)
    torch.manual_seed(0)
    plain, words = LlamaModel(config).double().eval(), torch.arange(2 * N).view(2, N) % 31
    given = {"input_ids": words, "attention_mask": (torch.arange(N) < torch.tensor([[N], [9]])) * 1}
    mesh, found = _mesh(), {}
    for name, switch in (("sdpa", lambda model: model), ("wqkv", use)):
        model: nn.Module = switch(copy.deepcopy(plain))
        with watch(model) as whole, torch.no_grad():
            truth = model(**given).last_hidden_state
        for layer in model.layers:
            plan = {part: ColwiseParallel() for part in ("q_proj", "k_proj", "v_proj")}
            parallelize_module(layer.self_attn, mesh, {**plan, "o_proj": RowwiseParallel()})
        with watch(model) as seen, torch.no_grad():
            out = model(**given).last_hidden_state
        assert apart(out, truth) < 1e-12
        assert seen[0].shape == (2, 8 // mesh.size(), N, N)
        answers = [
            asked(SharedMap.heads(seen[i], mesh), whole[i]) for i in range(len(whole))
        ]  # fmt: skip
        found[name] = seen.report(), answers
    return found


def complaints() -> dict[str, str]:
    """What is heard of questions that cannot be: the last rank asks alone, and nothing is sent.

    The last ones are asked by all ranks.
    """
    ranks, (q, k) = Ring(), inputs()
    mine = ranks.shard(q, 2), ranks.shard(k, 2)
    m = SharedMap.tokens(ranks, *mine, mask=Causal())
    v, out = k, ranks.shard(q, 2)
    layer = MultiheadAttention(8, 2, mesh=ranks)
    unplaced = SharedMap.tokens(ranks, *(x[:, :, :n] for x, n in zip(mine, (1, 2), strict=True)))
    m.limit = 2 * N
    questions: dict[str, Callable[[], Any]] = {
        "position": lambda: m[0, 0, N],
        "limit": lambda: m[0, 0, :3],
        "no links": lambda: m.top(0),
        "no rows": lambda: m.top(1, []),
        "blocks": lambda: m.thumbnail(0),
        "X": lambda: m.times(torch.ones(N + 1, 1)),
        "Y": lambda: m.t_times(torch.ones(N // ranks.size, 1)),
        "proof": lambda: m.proof(v, q),
        "proof of no rows": lambda: m.proof(v, out, []),
        "distance": lambda: unplaced.mean_distance(),
        "trace": lambda: layer.trace(torch.zeros(1, 2, 8)),
    }
    if ranks.rank == ranks.size - 1:
        heard = {name: _said(ask) for name, ask in questions.items()}
    else:
        heard = {}
    rows = 5 + (ranks.rank == 1)
    x = random(2, 2, rows, 3)
    together: dict[str, Callable[[], Any]] = {
        "offset": lambda: SharedMap.tokens(ranks, mine[0][:, :, :1], mine[1], mask=Causal()),
        "zigzag": lambda: SharedMap.tokens(Ranks(None, "zigzag"), q[:, :, :3], k[:, :, :3]),
        "kind": lambda: SharedMap.heads(m),
        "sizes": lambda: SharedMap.heads(AttentionMap(x, x)),
    }
    return heard | {name: _said(ask) for name, ask in together.items()}


def others() -> dict[str, Any]:
    """What a map is called, whose rows it has, and that its kind of number is the query's."""
    found, (q, k) = {}, inputs()
    for ranks in BOTH:
        m = SharedMap.tokens(ranks, ranks.shard(q, 2), ranks.shard(k, 2), mask=Causal())
        found[ranks.layout] = repr(m), [part.map.shape for part in m._parts]
    half = q.bfloat16(), k.bfloat16()
    mine = (Ranks().shard(x, 2) for x in half)
    ours = SharedMap.tokens(Ranks(), *mine, mask=Causal()).entropy()
    found["half"] = ours.dtype, apart(ours, AttentionMap(*half, mask=Causal()).entropy())
    return found


def _mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def _said(do: Callable[[], Any]) -> str:
    try:
        do()
    except WqkvError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
