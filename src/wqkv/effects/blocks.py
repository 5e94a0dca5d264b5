"""Run a model block by block, where a pass decides what each block and each attention returns.

A block is a layer with its attention, its MLP and what stands between them. While a pass runs, the
model's own code calls the blocks in its own order; a pass may run a block, run it on other hidden
states, or answer in its place. Every attention function is answered by the pass, so the pass alone
says what is a query's output. Other threads that run the same model see nothing of this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor, nn

from wqkv.layer.convert import huggingface
from wqkv.record.arguments import BY_PLACE
from wqkv.record.overhear import answered
from wqkv.study.model import TextModel


class AttentionSite(NamedTuple):
    """One attention of a model: the part of the model, and the number of the layer in it."""

    part: str
    layer: int


class SiteInput(NamedTuple):
    """What an attention function was given."""

    query: Tensor  # (batch, n_head, rows, d_k)
    key: Tensor  # (batch, n_kv_head, keys, d_k)
    value: Tensor  # (batch, n_kv_head, keys, d_v)
    scale: float | None  # what the model multiplies q k^T by; None is 1 / sqrt(d_k)


class BlockCall(NamedTuple):
    """One call of a block, in the middle of a forward of the model."""

    number: int  # how many blocks of the forward came before it
    forward: Callable[..., Any]  # runs the block; its arguments and result are those of its family
    args: tuple[Any, ...]
    kwargs: dict[str, Any]  # keyword arguments of each model's own code

    def run(self, hidden: Tensor | None = None) -> Any:
        """Run the block, on other hidden states if they are given."""
        if hidden is None:
            return self.forward(*self.args, **self.kwargs)
        if self.args:
            return self.forward(hidden, *self.args[1:], **self.kwargs)
        return self.forward(**{**self.kwargs, "hidden_states": hidden})

    @property
    def hidden(self) -> Tensor:
        """The hidden states that it is given."""
        found: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return found


#: What a block returns: its hidden states, or a tuple that begins with them.
BlockOutput: TypeAlias = Any


def hidden_of(output: BlockOutput) -> Tensor:
    """The hidden states that a block returned."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def with_hidden(output: BlockOutput, hidden: Tensor) -> BlockOutput:
    """What a block returned, with other hidden states."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


#: Passes of several threads run one after the other, because each replaces `forward` of the blocks.
_RUNNING = threading.Lock()


class Pass(Protocol):
    """One forward of the model, and what is returned in it."""

    def block(self, call: BlockCall) -> BlockOutput:
        """What a block returns."""

    def attend(self, block: int, turn: int, part: str, given: SiteInput) -> Tensor:
        """The heads' outputs, (batch, n_head, rows, d_v), of attention number `turn` of a block."""


class Blocks:
    """The blocks of a model, and the part that each of its attention modules belongs to."""

    def __init__(self, model: TextModel) -> None:
        self.name = model.name
        self._part_of: dict[nn.Module, str] = {}
        self._modules: list[nn.Module] = []
        for name, part in model.parts.items():
            stack = huggingface.stack(part.model, part.hf_part)
            for layer in range(len(stack)):
                path = stack.spot(layer).at
                block = huggingface.block_path(stack.base, path)
                self._part_of |= dict.fromkeys(stack.base.get_submodule(path).modules(), name)
                module = stack.base.get_submodule(block)
                if module not in self._modules:
                    self._modules.append(module)

    @contextmanager
    def running(self, one: Pass) -> Iterator[None]:
        """Context in which the forwards of this thread are run by a pass."""
        thread, began, inside = threading.get_ident(), 0, (-1, 0)

        def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal began
                if threading.get_ident() != thread:
                    return forward(*args, **kwargs)
                number, began = began, began + 1

                # A pass that checkpoints runs a block a second time: it is the same block.
                def run(*args: Any, **kwargs: Any) -> Any:
                    nonlocal inside
                    inside = number, 0
                    return forward(*args, **kwargs)

                return one.block(BlockCall(number, run, args, kwargs))

            return call

        # By place, and keyword arguments of a foreign attention function.
        def answer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
            nonlocal inside
            part = self._part_of.get(module)
            if part is None or threading.get_ident() != thread:
                return None
            given = {**dict(zip(BY_PLACE, args, strict=False)), **kwargs}
            (block, turn), inside = inside, (inside[0], inside[1] + 1)
            site = SiteInput(given["query"], given["key"], given["value"], given.get("scaling"))
            return one.attend(block, turn, part, site).transpose(1, 2), None

        with _RUNNING:
            # None where the class has the forward, as nearly always
            own = [module.__dict__.get("forward") for module in self._modules]
            for module in self._modules:
                module.forward = wrap(module.forward)
            try:
                with answered(answer):
                    yield
            finally:
                for module, forward in zip(self._modules, own, strict=True):
                    del module.forward
                    if forward is not None:
                        module.forward = forward
