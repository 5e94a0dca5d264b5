"""attention(), the formula on every engine, and explain(), which says what would run it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Literal, overload

from torch import Tensor

from wqkv.attend import engines, heard, parallel
from wqkv.attend.bias import Bias
from wqkv.attend.call import Call, call_of, request, seeded
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.parallel.ranks import Ranks
from wqkv.attend.partial import Partial
from wqkv.attend.rules import FULL, Rules
from wqkv.doors import door
from wqkv.errors import EngineError, KindError, describe


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Mask | Tensor = ...,
    bias: Bias | Tensor | None = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    query_offset: int | Tensor | None = ...,
    engine: str = ...,
    mesh: Ranks | None = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...
@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Mask | Tensor = ...,
    bias: Bias | Tensor | None = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    query_offset: int | Tensor | None = ...,
    engine: str = ...,
    mesh: Ranks | None = ...,
    return_lse: Literal[True],
) -> Partial: ...
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Mask | Tensor = FULL,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout_p: float = 0.0,
    query_offset: int | Tensor | None = None,
    engine: str = "auto",
    mesh: Ranks | None = None,
    return_lse: bool = False,
) -> Tensor | Partial:
    """out = softmax(query key^T * scale) value, one result on every path.

    In this order: scores = query key^T * scale; softcap * tanh(scores / softcap); + bias; -inf
    where the mask hides; softmax (with the sink as one more logit); dropout; times value.

    Heads: query head h reads key head h // (n_head / n_kv_head).
    Dtype: the inputs share one floating dtype, which is the output's; scores and softmax in float32
    (float64 for float64). Under autocast they are cast as torch does for its own attention.
    Empty rows: a query that may see no key has output, weights and gradient 0, and lse -inf.
    Padding: a key that no query of its sample may see changes nothing, whatever it holds. A NaN in
    a key that some query sees may reach other rows of that sample.
    Derivatives: first ones on every engine; second ones and forward mode by the reference.

    Args:
        query: (batch, n_head, query_len, d_k).
        key: (batch, n_kv_head, key_len, d_k).
        value: (batch, n_kv_head, key_len, d_v).
        mask: who may see whom; True = may attend. A bool tensor is Dense(tensor).
        bias: a float added to the scores: ALiBi, T5Bias, or a tensor, (query_len, key_len) or four
            axes, (batch | 1, n_head | 1, query_len | 1, key_len | 1).
        scale: None is 1 / sqrt(d_k). A learned temperature multiplies `query` before the call.
        sinks: (n_head,), one more logit per head, whose value is zero.
        dropout_p: the share of weights set to zero, the others scaled up; applied if above 0.
        query_offset: the position of the first query, an int or one per sample. Needed where
            query_len != key_len and the mask or bias depends on positions.
        engine: "auto", or the name of one; a named engine runs or raises. `explain` lists them.
        mesh: Ring(mesh), AllToAll(mesh), or Ranks(mesh), which takes the cheaper of both: query,
            key and value are this rank's share of the tokens, mask and bias the whole text's.
        return_lse: return Partial(out, lse); lse is the logsumexp of each row of scores and sink.

    Raises:
        ArgumentError, KindError: sizes, dtypes or devices that disagree, all in the message; over a
            mesh also ranks that disagree, on every rank.
        EngineError: the named engine cannot run the call, with every engine's reasons.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1.

    >>> import torch
    >>> from wqkv import Causal
    >>> q = torch.randn(2, 8, 17, 64)
    >>> attention(q, q, q, mask=Causal()).shape
    torch.Size([2, 8, 17, 64])
    """
    ask = partial(
        _asked, query, key, value, mask=mask, bias=bias, scale=scale, softcap=softcap, sinks=sinks,
        dropout_p=dropout_p, query_offset=query_offset, return_lse=return_lse,
    )  # fmt: skip
    result = _attend(ask, engine, mesh)
    return result if return_lse else result.out


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rules: Rules,
    *,
    engine: str = "auto",
    mesh: Ranks | None = None,
    return_lse: bool = True,
) -> Partial:
    """`attention` with its rules given as one `Rules`, as layers and models pass them.

    With `return_lse` False the result's lse may be NaN, because some engines have none then.
    """
    return _attend(partial(call_of, query, key, value, rules, return_lse=return_lse), engine, mesh)


def _attend(ask: Callable[..., Call], engine: str, mesh: Ranks | None) -> Partial:
    """Run the call that `ask` makes; over ranks, its errors are told to the others."""
    if mesh is None:
        call = ask()
        module = engines.choose(call, engine)
        result: Partial = _heard(call, module) if heard.listened() else module.run(call)
        return result
    if not isinstance(mesh, Ranks):
        raise KindError(
            f"`mesh` is Ring(mesh), AllToAll(mesh) or Ranks(mesh), not {describe(mesh)}."
        )
    share = partial(ask, ranks=mesh.size)
    if not heard.listened():
        return parallel.attend(share, mesh)
    heard.tell_unheard(heard.SHARED)
    with heard.inside():
        return parallel.attend(share, mesh)


def _heard(call: Call, module: ModuleType) -> Partial:
    """Run a call and tell whoever listens."""
    if module is not engines.reference:  # it draws its dropout without a seed
        call = seeded(call)
    with heard.inside():
        result: Partial = module.run(call)
    heard.tell(heard.HeardCall(call, result.out))
    return result


#: `request`, which first checks the types of its arguments. Over ranks it is called where an error
#: on one rank is told to the others.
_asked = door(request, name="attention")


class Explanation(str):
    """A report that prints itself."""

    def __repr__(self) -> str:
        return str(self)


@door
def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Mask | Tensor = FULL,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout_p: float = 0.0,
    query_offset: int | Tensor | None = None,
    engine: str = "auto",
    return_lse: bool = False,
) -> Explanation:
    """Which engine would run `attention` with these arguments, by which plan; why others would not.

    A plan says how many rectangles of the N x N pairs are computed, and by what: torch's fused
    kernel (its own causal mask, where that is all), or the reference, one rectangle at a time.

    Raises:
        ArgumentError, KindError: what `attention` would raise for them.

    >>> import torch
    >>> q = torch.randn(2, 8, 17, 64)
    >>> print(explain(q, q, q, dropout_p=0.1))
    attention of query f32[2, 8, 17, 64] on cpu, key f32[2, 8, 17, 64] on cpu, mask Full()
    engine: tiled, 1 rectangle by the reference, 100% of all pairs
      fused      the kernels have no dropout that a backward pass can repeat
      tiled      can run
      reference  can run
      flex       FlexAttention has no dropout
    """
    call = request(
        query, key, value, mask=mask, bias=bias, scale=scale, softcap=softcap, sinks=sinks,
        dropout_p=dropout_p, query_offset=query_offset, return_lse=return_lse,
    )  # fmt: skip
    try:
        module = engines.choose(call, engine)
        chosen = f"{engines.name(module)}, {engines.planned(call, module)}"
    except EngineError as error:
        chosen = f"none: {str(error).splitlines()[0]}"
    return Explanation(
        f"attention of query {describe(query)}, key {describe(key)}, mask {call.rules.mask!r}\n"
        f"engine: {chosen}\n{engines.report(call)}"
    )
