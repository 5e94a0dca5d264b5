"""Three passes over a model: as it is, from a block on with parts removed, and one block alone.

A link is removed by computing its row again without that key; what follows is the model's own code.
Blocks before the first one that changes are not computed again. In a causal model, neither are rows
before the first row that changes: their hidden states, keys and values cannot change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wqkv.attend.call import call_of
from wqkv.attend.engines import reference
from wqkv.attend.functional import attend
from wqkv.attend.geometry import At, Rect
from wqkv.attend.masks.algebra import Mask, either, opposite
from wqkv.attend.masks.dense import Entries
from wqkv.attend.partial import Partial
from wqkv.attend.rules import Rules
from wqkv.effects.blocks import (
    AttentionSite,
    BlockCall,
    BlockOutput,
    SiteInput,
    hidden_of,
    with_hidden,
)
from wqkv.effects.heap import give_back
from wqkv.errors import ArgumentError, describe
from wqkv.maps.link_map import How


class SiteLink(NamedTuple):
    """One link: a token `query` that looks at a token `key` in a head of an attention."""

    site: AttentionSite
    head: int
    query: int
    key: int


@dataclass(frozen=True)
class PutOutput:
    """Another output for some rows of a head (None: of all heads), (n_head | 1, rows, d_v)."""

    site: AttentionSite
    head: int | None
    output: Tensor


@dataclass(frozen=True)
class PutHidden:
    """Another hidden state, (d_model,), of one token in front of a block."""

    block: int
    row: int
    hidden: Tensor


@dataclass(frozen=True)
class ModelChange:
    """What is changed in one run of the model; nothing by default. A removed head's output is 0."""

    links: tuple[SiteLink, ...] = ()
    heads: tuple[tuple[AttentionSite, int], ...] = ()
    put: tuple[PutOutput, ...] = ()
    put_hidden: tuple[PutHidden, ...] = ()


@dataclass(frozen=True, match_args=False)  # it has no form as JSON
class HiddenSpan(Mask):
    """Hides tokens first to last from all others.

    `own`: the queries are tokens of the same text, and those of the span still see the span.
    """

    first: int
    last: int
    own: bool = True

    def visible(self, at: At) -> Tensor:
        hidden = (at.key_pos >= self.first) & (at.key_pos <= self.last)
        if self.own:
            hidden = hidden & ~((at.query_pos >= self.first) & (at.query_pos <= self.last))
        return ~hidden

    def region(self, rect: Rect) -> bool | None:
        outside = opposite(_within(rect.k0, rect.k1, self.first, self.last))
        if not self.own:
            return outside
        return either(outside, _within(rect.q0, rect.q1, self.first, self.last))


def _within(start: int, stop: int, first: int, last: int) -> bool | None:
    """Whether positions start to stop - 1 lie between first and last; None if some do."""
    if start > last or stop <= first:
        return False
    return True if start >= first and stop - 1 <= last else None


# As it is


class GradientTaken(Protocol):
    """Is called in the backward pass for every attention, the last one first."""

    def __call__(
        self, plain: PlainPass, site: AttentionSite, whole: Partial, grad: Tensor, behind: Tensor
    ) -> None:
        """Take an attention's output and the gradients of the number that is asked about.

        Args:
            whole: the output, and the lse of its rows.
            grad: with respect to the output.
            behind: with respect to the hidden states behind the attention's block.
        """


class PlainPass:
    """The model as it is, with our attention: keeps what each block and attention was given.

    Args:
        rules: the rules of an attention, but for its scale.
        taken: is called in the backward pass; None: there is none.
        checkpointed: whether blocks are computed again in the backward pass, which saves memory.
    """

    def __init__(
        self,
        rules: Callable[[AttentionSite], Rules],
        taken: GradientTaken | None = None,
        *,
        checkpointed: bool = False,
    ) -> None:
        self._rules, self._taken, self._checkpointed = rules, taken, checkpointed
        self.inputs: list[Tensor] = []  # per block (1, n, d_model)
        self.outputs: list[BlockOutput] = []
        self.sites: dict[tuple[int, int], AttentionSite] = {}  # by block and turn
        self.block_of: dict[AttentionSite, int] = {}
        self.given: dict[AttentionSite, SiteInput] = {}
        self.rules: dict[AttentionSite, Rules] = {}
        self.leaves: list[Tensor] = []  # what the gradient is asked for, so that it flows
        self._layers = Counter[str]()
        self._wholes: dict[AttentionSite, Partial] = {}  # of attentions that were not taken yet
        self._behind: tuple[int, Tensor]  # where backward is: a block, and the gradient behind it

    def block(self, call: BlockCall) -> BlockOutput:
        hidden = call.hidden
        if hidden.ndim != 3 or len(hidden) != 1:
            raise ArgumentError(
                f"Block {call.number} of the model is given {describe(hidden)}.\n"
                "Only models whose blocks take hidden states [1, n, d_model] can be run again with "
                "changes."
            )
        self.inputs.append(hidden.detach())
        if self._taken is None:
            output = call.run()
        else:
            if not hidden.requires_grad:  # the first block of a text: no parameter wants a gradient
                hidden = hidden.detach().requires_grad_()
                self.leaves.append(hidden)
            output = (
                checkpoint(call.run, hidden, use_reentrant=False)
                if self._checkpointed
                else call.run(hidden)
            )
            hidden_of(output).register_hook(lambda grad: self._arrive(call.number, grad))
            if self._checkpointed:
                give_back()
        kept = hidden_of(output).detach()
        self.outputs.append(with_hidden(output, kept))
        return output

    def attend(self, block: int, turn: int, part: str, given: SiteInput) -> Tensor:
        site, again = self.sites.get((block, turn)), True
        if site is None:
            site, again = AttentionSite(part, self._layers[part]), False
            self._layers[part] += 1
            self.sites[block, turn], self.block_of[site] = site, block
            self.rules[site] = replace(self._rules(site), scale=given.scale)
            self.given[site] = given._replace(
                query=given.query.detach(), key=given.key.detach(), value=given.value.detach()
            )
        whole = attend(given.query, given.key, given.value, self.rules[site])
        if self._taken is not None:
            if again or not self._checkpointed:  # else the outputs of all layers would be kept
                self._wholes[site] = Partial(whole.out.detach(), whole.lse.detach())
            if not again:
                whole.out.register_hook(lambda grad: self._take(site, grad))
        return whole.out

    def _arrive(self, block: int, behind: Tensor) -> None:
        self._behind = block, behind
        if self._checkpointed:
            give_back()

    def _take(self, site: AttentionSite, grad: Tensor) -> None:
        block, behind = self._behind
        # A block is left by its backward when all its attentions have been.
        assert self._taken is not None and block == self.block_of[site]
        self._taken(self, site, self._wholes.pop(site), grad, behind)

    def sees_no_later(self, site: AttentionSite) -> bool:
        """Whether no token sees a later one in an attention."""
        rules, n = self.rules[site], self.given[site].key.shape[2]
        return all(rules.mask.region(Rect(None, 0, i, i, n)) is False for i in range(1, n))

    @property
    def causal(self) -> bool:
        """Whether no token sees a later one in any attention."""
        return all(map(self.sees_no_later, self.given))


# From a block on


class TailPass:
    """The model from a block and a row on, with one change in each sample of the batch.

    Links are removed as `how` says. `kept` counts those that stayed, see `rows_without`.

    Args:
        hidden: by part, a mask that hides tokens there in every sample.
    """

    def __init__(
        self,
        plain: PlainPass,
        changes: Sequence[ModelChange],
        how: How = "renormalize",
        *,
        start: int = 0,
        row: int = 0,
        hidden: Mapping[str, Mask] = MappingProxyType({}),
    ) -> None:
        self._plain, self._changes, self._how = plain, changes, how
        self._start, self._row, self._hidden, self.kept = start, row, hidden, 0
        self._links: defaultdict[AttentionSite, list[tuple[int, SiteLink]]] = defaultdict(list)
        for member, change in enumerate(changes):
            for link in change.links:
                self._links[link.site].append((member, link))

    def block(self, call: BlockCall) -> BlockOutput:
        plain, batch, number = self._plain, len(self._changes), call.number
        if number < self._start:
            output = plain.outputs[number]
            return with_hidden(output, hidden_of(output)[:, self._row :].expand(batch, -1, -1))
        hidden = call.hidden
        if number == self._start:
            hidden = plain.inputs[number][:, self._row :].expand(batch, -1, -1)
        puts = [(m, put) for m, c in enumerate(self._changes) for put in c.put_hidden]
        if any(put.block == number for _, put in puts):
            hidden = hidden.clone()
            for member, put in puts:
                if put.block == number:
                    hidden[member, put.row - self._row] = put.hidden
        return call.run(hidden)

    def attend(self, block: int, turn: int, part: str, given: SiteInput) -> Tensor:
        site, row, batch = self._plain.sites[block, turn], self._row, len(self._changes)
        base, rules = self._plain.given[site], self._plain.rules[site]
        key, value = (x.expand(batch, *x.shape[1:]) for x in (given.key, given.value))
        if row:
            key = torch.cat((base.key[:, :, :row].expand(batch, -1, -1, -1), key), dim=2)
            value = torch.cat((base.value[:, :, :row].expand(batch, -1, -1, -1), value), dim=2)
            rules = replace(rules, query_offset=row)
        if part in self._hidden:
            rules = replace(rules, mask=rules.mask & self._hidden[part])
        out = attend(given.query, key, value, rules).out
        if links := self._links[site]:
            out = self._without(out, given._replace(key=key, value=value), rules, links)
        for member, change in enumerate(self._changes):
            for at, head in change.heads:
                if at == site:
                    out[member, head] = 0
            for put in change.put:
                if put.site == site:
                    out[member, slice(None) if put.head is None else put.head] = put.output[
                        ..., row:, :
                    ]
        return out

    def _without(
        self, out: Tensor, given: SiteInput, rules: Rules, links: list[tuple[int, SiteLink]]
    ) -> Tensor:
        """The output, with rows that lose links computed again without them."""
        rows = sorted({(member, link.query) for member, link in links})
        members, queries = torch.tensor(rows, device=out.device).T
        local, places = queries - self._row, {at: n for n, at in enumerate(rows)}
        removed = RemovedKeys.zeros(len(rows), out.shape[1], given.key.shape[2], out.device)
        for member, link in links:
            removed.keys[places[member, link.query], link.head, link.key] = True
        of_rows = given._replace(query=given.query[members, :, local])
        found, kept = rows_without(of_rows, members, queries, rules, removed, self._how)
        self.kept += kept
        out = out.clone()
        out[members, :, local] = torch.where(removed.heads, found, out[members, :, local])
        return out


class RemovedKeys(NamedTuple):
    """The keys that some rows lose: bool (rows, n_head, key_len)."""

    keys: Tensor

    @classmethod
    def zeros(cls, rows: int, n_head: int, key_len: int, device: torch.device) -> RemovedKeys:
        return cls(torch.zeros((rows, n_head, key_len), dtype=torch.bool, device=device))

    @property
    def heads(self) -> Tensor:
        """Which heads of a row lose keys: bool (rows, n_head, 1)."""
        return self.keys.any(dim=2, keepdim=True)


#: Rows are computed again in parts of about this many scores, or numbers of copied keys.
ROWS_AT_ONCE = 2**22


def rows_without(
    given: SiteInput,
    members: Tensor,
    queries: Tensor,
    rules: Rules,
    removed: RemovedKeys,
    how: How,
) -> tuple[Tensor, int]:
    """The outputs (rows, n_head, d_v) of single rows without some keys, and how many keys stayed.

    Under "renormalize" the weights of the row's other keys grow so that they sum to 1 again; a head
    whose row would lose every key keeps them all. Under "zero" the weights stay and the values of
    the removed keys are 0.

    Args:
        given: the queries of the rows (rows, n_head, d_k), and the keys and values of all samples.
        members, queries: which sample each row belongs to, and where its query stands.
    """
    kept, found = 0, []
    _, n_head, key_len = removed.keys.shape
    alone = len(given.key) == 1  # all rows look at the same keys, which then need no copies
    step = max(1, ROWS_AT_ONCE // max(1, n_head * key_len * (1 if alone else given.key.shape[3])))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        if alone:  # (rows, n_head, ...) -> (1, n_head, rows, ...)
            query, lost = (x[part].transpose(0, 1)[None] for x in (given.query, removed.keys))
            key, value, places = given.key, given.value, queries[part].view(1, 1, -1, 1)
        else:  # -> (rows, n_head, 1, ...)
            query, lost = (x[part].unsqueeze(2) for x in (given.query, removed.keys))
            key, value = given.key[members[part]], given.value[members[part]]
            places = queries[part].view(-1, 1, 1, 1)
        some = replace(rules, query_offset=0)
        call = call_of(query, key, value, some)
        at = call.places()._replace(query_pos=places, box=None)
        if how == "zero":
            steps = reference.steps(call, at)
            v = reference.repeat_heads(value.to(steps.weights.dtype), call.group)
            out = steps.out - ((steps.weights * lost) @ v).to(steps.out.dtype)
        else:
            less = replace(some, mask=some.mask & Entries(~lost))
            steps = reference.steps(replace(call, rules=less), at)
            out = steps.out
            empty = (steps.lse == -torch.inf).unsqueeze(-1) & lost
            if bool(empty.any()):
                kept += int(empty.sum())
                same = reference.steps(call, at).out
                out = torch.where(empty.any(dim=3, keepdim=True), same, out)
        found.append(out[0].transpose(0, 1) if alone else out.squeeze(2))
    return torch.cat(found), kept


# One block alone


class BlockDone(Exception):
    """Raised to leave the model when the block that was asked for has run."""


class BlockPass:
    """One block on single tokens, (tokens, 1, d_model): all of it but attention is row by row.

    The attention `site` returns `outputs`, (tokens, n_head, d_v). What the block computes before it
    is as it was; what comes after it looks at the same keys as before. (These change too where a
    block holds two layers, as ALBERT's may.)
    """

    def __init__(
        self, plain: PlainPass, site: AttentionSite, queries: Tensor, outputs: Tensor
    ) -> None:
        self._plain, self._site, self._queries, self._outputs = plain, site, queries, outputs
        self._block = plain.block_of[site]
        self.hidden: Tensor | None = None  # (tokens, d_model), behind the block

    def block(self, call: BlockCall) -> BlockOutput:
        if call.number < self._block:  # what it returns is not looked at
            output = self._plain.outputs[call.number]
            return with_hidden(output, hidden_of(output)[:, :1].expand(len(self._queries), 1, -1))
        output = call.run(self._plain.inputs[self._block][0, self._queries].unsqueeze(1))
        self.hidden = hidden_of(output)[:, 0]
        raise BlockDone

    def attend(self, block: int, turn: int, part: str, given: SiteInput) -> Tensor:
        site = self._plain.sites[block, turn]
        if site == self._site:
            return self._outputs.unsqueeze(2)
        # The other attention of a decoder's block. If it comes first, nothing in it has changed.
        base, rules = self._plain.given[site], self._plain.rules[site]
        first = self._plain.sites[block, 0] == site
        query = base.query[0][:, self._queries].transpose(0, 1) if first else given.query[:, :, 0]
        nothing = RemovedKeys.zeros(len(query), query.shape[1], base.key.shape[2], query.device)
        one = torch.zeros_like(self._queries)
        rows = base._replace(query=query)
        return rows_without(rows, one, self._queries, rules, nothing, "zero")[0].unsqueeze(2)
