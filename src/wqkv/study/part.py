"""The attention layers of a model as ours, and hooks that record what goes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wqkv.errors import ArgumentError
from wqkv.layer.attention import MultiheadAttention
from wqkv.layer.convert import huggingface
from wqkv.sentences.errors import mistake
from wqkv.study.tokens import TokenizedText
from wqkv.upstream import of_transformers as upstream

#: The attention outputs of all layers are kept up to this many numbers. Of a longer text only
#: SAMPLED_ROWS rows of each layer are kept, evenly spaced from the first token to the last.
KEPT_OUTPUTS, SAMPLED_ROWS = 2**26, 64
#: The name of the only part of a model of one text.
ONLY_PART = "text"


class PartSizes(NamedTuple):
    """How large the attention of a part is."""

    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_k: int


@dataclass(frozen=True)
class TextReading(TokenizedText):
    """A text as the model read it: its tokens, and each layer's input and attention output."""

    inputs: list[Tensor]  # per layer (1, n, d_model)
    outputs: list[Tensor]  # per layer (1, len(rows), d_model)
    rows: Tensor  # the tokens whose outputs were kept
    final: Tensor | None = None  # (1, n, d_model), the last hidden state, once the model has run
    logits: Tensor | None = None  # (vocabulary,) for the token after the last, if it has a head
    source: TextReading | None = None  # in "cross": the text whose `final` makes the keys


class ModelPart:
    """Attention layers of a model as ours: all of them, or those of one of its three parts.

    Args:
        name: what the model is called.
        part: "encoder", "decoder" or "cross" of a model of two texts, else ONLY_PART.
        inside: the name of the model inside whose layers these are, where it is a part of a whole.
    """

    def __init__(
        self, model: nn.Module, name: str, part: str = ONLY_PART, inside: str | None = None
    ) -> None:
        self.model, self.name, self.part = model, name, part
        config: Any = model.config  # of transformers: its fields differ from family to family
        self.config, self.family = config, str(config.model_type)
        self.hf_part = inside if part == ONLY_PART else part
        self.sizes = PartSizes(**huggingface.sizes(model, self.hf_part))
        self._layers = [
            huggingface.from_hf(model, i, part=self.hf_part) for i in range(self.sizes.n_layer)
        ]

    def layer(self, layer: int) -> MultiheadAttention:
        """Layer number `layer` as our layer."""
        return self._layers[in_range("layer", layer, len(self._layers))]

    def _modules(self, name: str) -> list[nn.Module]:
        """The model's own modules that hold the matrix `name`; layers may share one module."""
        found = [
            huggingface.matrices(self.model, i, self.hf_part)[name]
            for i in range(len(self._layers))
        ]
        return list({id(module): module for module in found}.values())

    def again(self, reading: TextReading) -> None:
        """Run the model on a text that it has read once more.

        Raises:
            ArgumentError: this is a decoder's attention to its own text, which does not know the
                other one.
        """
        model: Any = self.model
        if self.part == ONLY_PART:
            model(**reading.called_with)
        elif self.part == "encoder":
            model.get_encoder()(**reading.called_with)
        elif reading.source is not None:
            states = upstream.BaseModelOutput(last_hidden_state=reading.source.final)
            ids = torch.tensor([reading.ids], device="cpu")
            model(encoder_outputs=states, decoder_input_ids=ids, use_cache=False)
        else:
            raise ArgumentError(mistake("text_looked_at", part=self.part, model=self.name))

    @contextmanager
    def after_each_layer(self, then: Callable[[Tensor], None]) -> Iterator[None]:
        """Context in which `then` is called with the attention output of every layer that runs.

        The model stops if `then` raises.
        """
        WOs = self._modules("WO")
        hooks = [WO.register_forward_hook(lambda _, __, y: then(y)) for WO in WOs]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def record(
        self,
        text: TokenizedText,
        contexts: Mapping[tuple[int, int], Tensor] = MappingProxyType({}),
        each: Callable[[TextReading], None] = lambda reading: None,
        source: TextReading | None = None,
    ) -> Iterator[TextReading]:
        """A reading of `text`, which grows layer by layer while the caller runs the model on it.

        Args:
            contexts: by (layer, head), what these heads hand to WO in place of their own context,
                (n, d_v) or what broadcasts to it: 0 switches a head off.
            each: is called with the reading so far after every layer; raise from it to cancel.
            source: the text that `text` looks at, if that is another one.
        """
        count, n = len(self._layers), len(text.ids)
        rows = torch.arange(n, device="cpu")
        kept: Tensor | slice = slice(None)
        if count * n * self.sizes.d_model > KEPT_OUTPUTS:
            rows = kept = spaced(n, SAMPLED_ROWS)
        given = {field.name: getattr(text, field.name) for field in fields(TokenizedText)}
        reading = TextReading(**given, inputs=[], outputs=[], rows=rows, source=source)

        def keep_input(_: nn.Module, args: tuple[Any, ...]) -> None:
            if (found := args[0].shape[-2]) != n:
                raise ArgumentError(mistake("other_count", model=self.name, found=found, n=n))
            reading.inputs.append(args[0].detach())

        def replace_contexts(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            # Layers may share modules, so the number of the layer is how many have ended.
            here = {
                head: new
                for (layer, head), new in contexts.items()
                if layer == len(reading.outputs)
            }
            if not here:
                return None
            context = torch.unflatten(args[0], -1, (self.sizes.n_head, -1)).clone()
            for head, new in here.items():
                context[..., head, :] = new
            return context.flatten(-2), *args[1:]

        def keep_output(y: Tensor) -> None:
            reading.outputs.append(y.detach()[:, kept])
            each(reading)

        hooks = [WQ.register_forward_pre_hook(keep_input) for WQ in self._modules("WQ")]
        hooks += [WO.register_forward_pre_hook(replace_contexts) for WO in self._modules("WO")]
        try:
            with self.after_each_layer(keep_output):
                yield reading
        finally:
            for hook in hooks:
                hook.remove()
        assert len(reading.inputs) == len(reading.outputs) == count


def scale_of(layer: MultiheadAttention) -> float:
    """What q k^T is multiplied by: 1 / sqrt(d_k), unless the layer has a scale of its own."""
    return layer.d_k**-0.5 if layer.scale is None else layer.scale


def position_of(layer: MultiheadAttention) -> str:
    """How the layer itself places q and k, such as "RoPE(theta=10000.0)"; "" if it does not."""
    return "" if layer.position is None else repr(layer.position)


def spaced(n: int, count: int) -> Tensor:
    """`count` of n positions, evenly spaced from the first to the last."""
    return torch.linspace(0, n - 1, count, dtype=torch.float64, device="cpu").round().long()


def in_range(what: str, number: int, count: int) -> int:
    """The number itself, or an error that names the range."""
    if not 0 <= number < count:
        raise ArgumentError(mistake(f"no_{what}", number=number, count=count, last=count - 1))
    return number
