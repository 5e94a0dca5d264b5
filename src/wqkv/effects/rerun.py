"""A model that read one text: what a number of it becomes where parts of the model are removed."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wqkv.attend.functional import attend
from wqkv.attend.rules import Rules
from wqkv.effects.asked import AskedText
from wqkv.effects.blocks import AttentionSite, Blocks
from wqkv.effects.passes import (
    BlockDone,
    BlockPass,
    GradientTaken,
    HiddenSpan,
    ModelChange,
    PlainPass,
    RemovedKeys,
    SiteLink,
    TailPass,
    rows_without,
)
from wqkv.errors import ArgumentError
from wqkv.layer.convert import huggingface
from wqkv.maps.link_map import How
from wqkv.sentences.errors import mistake
from wqkv.study.callbacks import Progress, silent
from wqkv.study.model import TextModel
from wqkv.study.opened_layer import rules_of

#: Texts of more tokens are read with checkpoints: each block runs twice, and O(n) less is kept.
CHECKPOINT_TOKENS = 1024
#: How many changes run as one batch at most, and how many tokens and bytes of keys they may have.
BATCH, BATCH_TOKENS, BATCH_BYTES = 32, 4096, 2**27
#: Effects below this share of the largest term of the number are rounding.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Rerun:
    """A model that read one text, ready to run again with changes.

    Args:
        taken: is called in a backward pass from the number; None: there is none.

    Raises:
        ArgumentError: an attention of the model cannot be answered from outside, its blocks take
            something else than the hidden states of one text, or the number is not finite.
    """

    @torch.no_grad()
    def __init__(
        self, model: TextModel, asked: AskedText, taken: GradientTaken | None = None
    ) -> None:
        self.model, self.asked, self._blocks = model, asked, Blocks(model)
        n = max(len(queries.ids) for queries, _ in asked.texts.values())
        self.plain = PlainPass(self._rules, taken, checkpointed=n > CHECKPOINT_TOKENS)
        own = self._terms()  # by the model's own attention
        if taken is None:
            with self._blocks.running(self.plain):
                terms = self._terms()
        else:
            terms = self._with_gradients()
        self._check_complete()
        self.before, self.off = float(terms.sum()), float((terms.sum() - own.sum()).abs())
        if not math.isfinite(self.before):
            raise ArgumentError(
                f"The number asked about ({asked.question.number}) is {self.before}.\n"
                "Look for NaN and inf among the parameters of the model."
            )
        # Some parts of a model may compute in fewer digits than others.
        share = max(ROUNDING[x.dtype] for x in (terms, self.plain.inputs[0]))
        self.rounding = max(share * max(1.0, float(own.abs().max())), self.off)
        # A model may count positions in a way of its own: then it always runs on all its tokens.
        self._skips_rows = asked.can_skip_rows and self.plain.causal
        if self._skips_rows and n > 1:
            alone = self._run([ModelChange()], "renormalize", start=0, row=n - 1)[0]
            self._skips_rows = abs(float(alone) - self.before) <= 10 * self.rounding

    def _with_gradients(self) -> Tensor:
        # Frozen inside: another thread's parameters come back when its own pass has ended.
        with torch.enable_grad(), self._blocks.running(self.plain), frozen(self.asked.speaker):
            terms = self._terms()
            if not terms.requires_grad:
                raise ArgumentError(
                    f"The number asked about ({self.asked.question.number}) has no gradient.\n"
                    "Make it of the model's output, by operations of torch that have gradients."
                )
            # A number may be made of the encoder's output alone.
            torch.autograd.grad(terms.sum(), self.plain.leaves, allow_unused=True)
        return terms.detach()

    def _terms(self, row: int = 0, batch: int = 1) -> Tensor:
        """What the number is the sum of, (batch, terms), in a run from `row` on."""
        terms = self.asked.terms(self.asked.run(row, batch))
        if len(terms) != batch:
            raise ArgumentError(
                f"`answer` returned {len(terms)} numbers for {batch} samples.\n"
                "Return one number per sample: a tensor (batch,) of floats."
            )
        return terms

    def _rules(self, site: AttentionSite) -> Rules:
        if site.layer == self.model.parts[site.part].sizes.n_layer:
            raise ArgumentError(
                f"{self.model.name} asks for its attention function more often than it has layers "
                f"in its part {site.part!r}.\nA layer that attends twice cannot be changed from "
                "outside, and an `answer` that is a function may not run the model."
            )
        return rules_of(self.model.parts[site.part].layer(site.layer))

    def _check_complete(self) -> None:
        for name, part in self.model.parts.items():
            found = sum(site.part == name for site in self.plain.given)
            if found != part.sizes.n_layer:
                named = {"model": self.model.name, "part": name}
                raise ArgumentError(
                    mistake("not_asking", **named, layers=part.sizes.n_layer, found=found)
                )

    @property
    def sites(self) -> list[AttentionSite]:
        """All attentions, in the order in which they run."""
        return list(self.plain.given)

    # Removed for real

    def after(
        self, changes: Sequence[ModelChange], how: How = "renormalize", progress: Progress = silent
    ) -> list[float]:
        """The number with each change by itself; `progress` counts changes."""
        begins = [self._begin(change) for change in changes]
        order = sorted(range(len(changes)), key=lambda n: begins[n])
        found, done = [0.0] * len(changes), 0
        while done < len(order):
            row, _ = begins[order[done]]
            chunk = order[done : done + self._room(row)]
            # Later rows may run with the batch of an earlier one where little is computed in vain.
            rows = self._n - row
            fit = [n for n in chunk if rows <= 1.3 * (self._n - begins[n][0]) + 4]
            chunk = chunk[: len(fit)]
            start = min(begins[n][1] for n in chunk)
            for n, number in zip(
                chunk,
                self._run([changes[n] for n in chunk], how, start=start, row=row).tolist(),
                strict=True,
            ):
                found[n] = number
            done += len(chunk)
            progress(done, len(changes))
        return found

    def together(self, links: Sequence[SiteLink], how: How) -> tuple[float, int]:
        """The number with all links removed at once, and how many stayed: see `rows_without`."""
        change = ModelChange(links=tuple(links))
        row, start = self._begin(change)
        one = TailPass(self.plain, [change], how, start=start, row=row)
        return float(self._finish(one, row, 1)[0]), one.kept

    def without_tokens(self, spans: Mapping[str, HiddenSpan]) -> float:
        """The number with spans of tokens hidden from all others, by part of the model."""
        row = max(span.last + 1 for span in spans.values()) if self._skips_rows else 0
        one = TailPass(self.plain, [ModelChange()], row=row, hidden=spans)
        return float(self._finish(one, row, 1)[0])

    def seen_by_nobody(self, spans: Mapping[str, HiddenSpan]) -> bool:
        """Whether the spans end their texts, where no token sees a later one."""
        return all(
            span.own
            and span.last + 1 == self.plain.given[site].key.shape[2]
            and self.plain.sees_no_later(site)
            for part, span in spans.items()
            for site in self.sites
            if site.part == part
        )

    def output(self, site: AttentionSite) -> Tensor:
        """The heads' outputs of an attention in the plain run: (n_head, n, d_v)."""
        given = self.plain.given[site]
        return attend(given.query, given.key, given.value, self.plain.rules[site]).out[0]

    @property
    def _n(self) -> int:
        return max(hidden.shape[1] for hidden in self.plain.inputs)

    def _begin(self, change: ModelChange) -> tuple[int, int]:
        """The first row and the first block that a change needs."""
        block_of = self.plain.block_of
        blocks = [block_of[link.site] for link in change.links]
        blocks += [block_of[site] for site, _ in change.heads]
        blocks += [block_of[put.site] for put in change.put]
        blocks += [put.block for put in change.put_hidden]
        whole = change.heads or change.put or not self._skips_rows
        rows = [link.query for link in change.links] + [put.row for put in change.put_hidden]
        return 0 if whole or not rows else min(rows), min(blocks, default=0)

    def _room(self, row: int) -> int:
        """How many changes from a row on run as one batch."""
        one = next(iter(self.plain.given.values()))
        of_keys = one.key[0].nbytes + one.value[0].nbytes
        return max(1, min(BATCH, BATCH_TOKENS // (self._n - row), BATCH_BYTES // max(1, of_keys)))

    @torch.no_grad()
    def _run(self, changes: Sequence[ModelChange], how: How, *, start: int, row: int) -> Tensor:
        one = TailPass(self.plain, changes, how, start=start, row=row)
        return self._finish(one, row, len(changes))

    @torch.no_grad()
    def _finish(self, one: TailPass, row: int, batch: int) -> Tensor:
        with self._blocks.running(one):
            return self._terms(row, batch).sum(dim=1)

    # One block alone

    @torch.no_grad()
    def block_changes(
        self, site: AttentionSite, links: Sequence[SiteLink], how: How
    ) -> tuple[Tensor, Tensor]:
        """What removing single links of an attention does to the token that looks, in its block.

        Returns the change of its hidden state after the block, (links, d_model), and the length of
        the change of what attention adds to it, as a share of the length of its hidden state in
        front of the block, (links,).
        """
        rows = sorted({link.query for link in links})
        place = {row: n for n, row in enumerate(rows)}
        given, rules = self.plain.given[site], self.plain.rules[site]
        n_head, key_len = given.query.shape[1], given.key.shape[2]
        queries = torch.tensor([*rows, *(link.query for link in links)], device="cpu")
        removed = RemovedKeys.zeros(len(queries), n_head, key_len, given.key.device)
        for n, link in enumerate(links, start=len(rows)):
            removed.keys[n, link.head, link.key] = True
        of_rows = given._replace(query=given.query[0][:, queries].transpose(0, 1))
        one = torch.zeros_like(queries)
        outputs, _ = rows_without(of_rows, one, queries, rules, removed, how)
        added: list[Tensor] = []
        thread = threading.get_ident()

        def keep(_: nn.Module, __: object, y: Tensor) -> None:
            if threading.get_ident() == thread:  # another one may run the model meanwhile
                added.append(y[:, 0])

        WO = huggingface.matrices(
            self.model.parts[site.part].model, site.layer, self.model.parts[site.part].hf_part
        )["WO"]
        hook = WO.register_forward_hook(keep)
        alone = BlockPass(self.plain, site, queries, outputs)
        try:
            with self._blocks.running(alone):
                self.asked.run_tokens(site.part, len(queries))
        except BlockDone:
            pass
        finally:
            hook.remove()
        assert alone.hidden is not None
        base = torch.tensor([place[link.query] for link in links], device="cpu")
        hidden = self.plain.inputs[self.plain.block_of[site]][0, queries[len(rows) :]]
        y = added[-1]
        lengths = (y[len(rows) :] - y[base]).norm(dim=1) / hidden.norm(dim=1)
        return alone.hidden[len(rows) :] - alone.hidden[base], lengths


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Context in which no parameter of a model wants a gradient: less is kept for the backward."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
