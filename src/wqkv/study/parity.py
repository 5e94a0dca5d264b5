"""Parity: every layer of a model as ours, against the model's own on the same hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wqkv.doors import door
from wqkv.errors import ArgumentError, WqkvError, describe, watch_instead
from wqkv.layer.convert.huggingface import from_hf, matrices, stacks
from wqkv.maps.proof import Proof, sum_rounding
from wqkv.sentences import say
from wqkv.sentences.errors import mistake
from wqkv.sentences.parity import PARITY
from wqkv.study.callbacks import Progress, silent
from wqkv.wrappers import unwrapped

#: How many random tokens a model reads if it is given nothing else.
RANDOM_TOKENS = 64


@door
@dataclass(frozen=True)
class LayerParity:
    """One layer of a part of a model, counted from 0: its proof, or why there is none."""

    part: str
    layer: int
    proof: Proof | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        if self.proof is None:
            return "not compared"
        return "holds" if self.proof.holds else "EXCEEDS"


@door
@dataclass(frozen=True)
class Parity:
    """The proofs of all layers of a model; `print` shows them as a table."""

    family: str
    inputs: str  # what the model read, such as "input_ids i64[1, 64] on cpu"
    layers: tuple[LayerParity, ...]

    @property
    def holds(self) -> bool:
        """Whether layers were compared and none differs by more than its rounding allows."""
        verdicts = {layer.verdict for layer in self.layers}
        return "holds" in verdicts and "EXCEEDS" not in verdicts

    def lines(self) -> list[tuple[str, str]]:
        """(line, verdict) of every layer."""
        part = max((len(layer.part) for layer in self.layers), default=0)
        number = len(str(max((layer.layer for layer in self.layers), default=0)))
        lines: list[tuple[str, str]] = []
        for layer in self.layers:
            named = {"part": f"{layer.part:<{part}}", "layer": f"{layer.layer:>{number}}"}
            verdict, proof = say(PARITY[layer.verdict]), layer.proof
            if proof is None:
                line = say(PARITY["no_proof"], **named, verdict=verdict, reason=layer.reason)
            else:
                numbers = {"difference": proof.difference, "tolerance": proof.tolerance}
                line = say(PARITY["difference"], **named, **numbers, verdict=verdict)
            lines.append((line, layer.verdict))
        return lines

    @property
    def end(self) -> str:
        """How many layers hold: "parity holds in 12 of 12 layers"."""
        held = sum(layer.verdict == "holds" for layer in self.layers)
        return say(PARITY["end"], held=held, count=len(self.layers))

    def __str__(self) -> str:
        return "\n".join([*(line for line, _ in self.lines()), self.end])


#: A part of the model, and the number of a layer in it.
LayerPlace = tuple[str, int]


@door
def parity(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,  # keyword arguments of the model
    *,
    progress: Progress = silent,
) -> Parity:
    """max |ours(x) - y| of every layer: x reached the model's own attention and y left it.

    The model runs once, as it is. Allowed are d_model products in another order, each rounded by
    half a last digit of y's largest number; in half precision, whose sums are kept in float32,
    eight last digits. A layer that does not attend, or cannot be ours, is listed with the reason.

    Args:
        inputs: what the model is called with, without padding; None is random tokens, a random
            picture or a random sound.

    Raises:
        ArgumentError: the family has no table row; the model trains; it does not run on the inputs.

    >>> from transformers import GPT2Config, GPT2Model
    >>> parity(GPT2Model(GPT2Config(n_layer=2, n_embd=24, n_head=3)).eval()).holds
    True
    """
    model = unwrapped(model)
    parts = stacks(model)
    if model.training:
        raise ArgumentError("The model trains, so dropout may change it.\nCall model.eval() first.")
    # Keyword arguments of the model's own forward, which differ from family to family.
    given = _random_inputs(model) if inputs is None else dict(inputs)
    padding = given.get("attention_mask")
    if isinstance(padding, Tensor) and not bool(padding.all()):
        raise ArgumentError("`inputs` has padding.\nPass samples of one length.")

    found: dict[LayerPlace, LayerParity] = {}
    modules: dict[LayerPlace, dict[str, nn.Module]] = {}
    for place in ((part, layer) for part in parts for layer in range(len(parts[part]))):
        reason: str = say(PARITY["not_called"])
        try:
            modules[place] = matrices(model, place[1], place[0])
        except ArgumentError as error:
            reason = error.args[0]
        found[place] = LayerParity(*place, None, reason)
    done = 0

    def compare(place: LayerPlace, Q: Tensor, K: Tensor | None, y: Tensor) -> None:
        nonlocal done
        found[place] = _compare_layer(model, place, Q, K, y)
        progress(done := done + 1, len(modules))

    with torch.no_grad(), _hooked(modules, compare):
        try:
            model(**given)
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
            if isinstance(error, WqkvError):
                raise
            reason = next(iter(str(error).splitlines()), "")[:200]
            read = "random " * (inputs is None) + (" and ".join(given) or "no `inputs`")
            kind = type(error).__name__
            raise ArgumentError(
                mistake("does_not_run", read=read, kind=kind, reason=reason)
            ) from error
    read = ", ".join(f"{name} {describe(value)}" for name, value in given.items())
    config: Any = model.config
    return Parity(str(config.model_type), read, tuple(found.values()))


@contextmanager
def _hooked(
    modules: Mapping[LayerPlace, Mapping[str, nn.Module]],
    compare: Callable[[LayerPlace, Tensor, Tensor | None, Tensor], None],
) -> Iterator[None]:
    """Call compare(place, Q, K, y) for every attention that runs; K is None if it is Q."""
    turns: dict[nn.Module, list[LayerPlace]] = {}  # layers that share modules differ by their turn
    readers: dict[nn.Module, str] = {}  # the modules that read Q, or K in cross-attention
    read: dict[str, Tensor] = {}  # by the layer that runs
    hooks: list[RemovableHandle] = []
    for place, holds in modules.items():
        turns.setdefault(holds["WO"], []).append(place)
        readers[holds["WQ"]] = "Q"
        if place[0].endswith("cross"):
            readers[holds["WK"]] = "K"

    def keep_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        read[readers[module]] = args[0]

    def layer_ran(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        remove_hooks()  # our layer is made of these very modules, and may call them
        compare(turns[module].pop(0), read.pop("Q"), read.pop("K", None), y)
        add_hooks()

    def add_hooks() -> None:
        # Ours comes before all other hooks on what is read: our layer calls the module with them,
        # so it must be given what they were given.
        hooks.extend(m.register_forward_pre_hook(keep_input, prepend=True) for m in readers)
        hooks.extend(module.register_forward_hook(layer_ran) for module in turns)

    def remove_hooks() -> None:
        while hooks:
            hooks.pop().remove()

    add_hooks()
    try:
        yield
    finally:
        remove_hooks()


def _compare_layer(
    model: nn.Module, place: LayerPlace, Q: Tensor, K: Tensor | None, y: Tensor
) -> LayerParity:
    part, layer = place
    if Q.ndim != 3:
        return LayerParity(part, layer, None, f"it reads {describe(Q)}, samples in one row")
    try:
        ours = from_hf(model, layer, part=part)(Q, K)
    except WqkvError as error:
        return LayerParity(part, layer, None, " ".join(str(error).split()))
    proof = Proof.compare(ours, y, sum_rounding(y), rows=y[..., 0].numel())
    return LayerParity(part, layer, proof)


def _random_inputs(model: Any) -> dict[str, Tensor]:
    """Random tokens, a random picture or a random sound: one sample of what the model reads."""
    config = model.config
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device="cpu").to(model.device, model.dtype)

    def tokens(n: int = RANDOM_TOKENS) -> Tensor:
        if not getattr(config, "vocab_size", None):
            why = mistake("unknown_inputs", family=config.model_type)
            raise watch_instead(why, call="model(**inputs)")
        for name in ("max_position_embeddings", "max_seq_len", "max_target_positions"):
            n = min(n, (getattr(config, name, None) or n + 2) - 2)  # some number positions from 2
        numbers = torch.randint(
            5, config.vocab_size, (1, max(n, 1)), generator=random, device="cpu"
        )
        return numbers.to(model.device)

    match model.main_input_name:
        case "pixel_values":
            side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
            given = {"pixel_values": normal(1, config.num_channels, side, side)}
        case "input_values":
            given = {"input_values": normal(1, 4000)}
        case "input_features":
            frames = 2 * config.max_source_positions  # two of them are one position
            given = {"input_features": normal(1, config.num_mel_bins, frames)}
        case _:
            given = {"input_ids": tokens()}
    if config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens(RANDOM_TOKENS // 2)
    return given
