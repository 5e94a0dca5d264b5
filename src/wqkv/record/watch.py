"""watch(model): record the attention of a running Hugging Face model, which computes unchanged.

What goes into its attention functions and comes out is overheard (overhear.py), read (arguments.py,
read_mask.py), taken into runs for each thread (listen.py, follow.py) and proved (prove_call.py).
This file has what a user calls: `watch` and `Seen`.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, overload

import torch
from torch import Tensor, nn

from wqkv.attend.geometry import check_held
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, MissedError, describe, need
from wqkv.maps import pictures
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.link_map import How
from wqkv.record.arguments import OverheardCall
from wqkv.record.listen import LayerRuns, Listener, WatchedModel, in_backward, numbered, repeated
from wqkv.record.modules import (
    AttentionKind,
    ModuleCall,
    compiled,
    kind_of,
    reached,
)
from wqkv.record.overhear import install, uninstall
from wqkv.record.report import layer_lines
from wqkv.record.run import Statistics
from wqkv.record.seen_effects import SeenEffects
from wqkv.wrappers import unwrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Map = AttentionMap | Statistics
#: What is kept of a layer: AttentionMap, or Statistics under keep="statistics".
Kept = TypeVar("Kept", bound=Map)


@overload
def watch(
    model: nn.Module,
    layers: Iterable[int] | None = None,
    keep: Literal["all"] = "all",
    gradients: bool = False,
) -> Seen[AttentionMap]: ...
@overload
def watch(
    model: nn.Module, layers: Iterable[int] | None = None, *, keep: Literal["statistics"]
) -> Seen[Statistics]: ...
@door
def watch(
    model: nn.Module,
    layers: Iterable[int] | None = None,
    keep: Literal["all", "statistics"] = "all",
    gradients: bool = False,
) -> Seen[AttentionMap] | Seen[Statistics]:
    """Record q, k and the mask of every attention layer while a Hugging Face model runs.

    The model's own function computes, so its outputs are bit-identical. Each layer is proved when
    it is recorded: P V, of the weights that are shown, against the model's own output.
    All steps of a generation are one map, also in a beam search: `Seen.sample_of` says which sample
    is a returned text. Threads have maps of their own: see `Seen.threads`. Steps that run compiled
    cannot be seen; the report counts them, and no older map is shown in their place.
    Where tensor parallelism shares the heads, each rank sees its own: see `SharedMap.heads`.

    Args:
        layers: the numbers of the layers to record, in the order in which they first run; None is
            all. They count every kind of attention.
        keep: "statistics" keeps only `entropy` and `received` of each forward, and not q and k.
        gradients: keep v, the heads' output and, while your own backward pass runs, the gradient
            with respect to that output, for `Seen.effects`. All gradients stay bit-identical.

    Raises:
        ArgumentError: gradients of what keep="statistics" does not keep.
        MissingExtraError: transformers is not installed.

    >>> from transformers import AutoModel, LlamaConfig
    >>> config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    ...                      num_attention_heads=2, vocab_size=31)
    >>> model = AutoModel.from_config(config).eval()
    >>> with watch(model) as seen:
    ...     _ = model(torch.arange(5)[None])
    >>> seen[1]
    AttentionMap[1, 2, 5, 5] of query f32[1, 2, 5, 8] on cpu, mask Causal()
    >>> print(seen.report())
    captured 2 of 2 layers of LlamaModel
      0  layers.0.self_attn  decoder  [1, 2, 5, 5] Causal()  proof ...
      1  layers.1.self_attn  decoder  [1, 2, 5, 5] Causal()  proof ...
    """
    return Seen(model, layers, keep, gradients)


class Layer(NamedTuple):
    """One attention layer of a model: `captured`, `missed` (and why), or `not asked for`."""

    name: str
    kind: AttentionKind
    state: str
    reason: str


@door
class Seen(Sequence[Kept]):
    """What `watch` saw: seen[layer] is the map of a layer, numbered in the order of first runs.

    A layer that was missed, or whose proof failed, raises MissedError with the reason.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[int] | None,
        keep: Literal["all", "statistics"],
        gradients: bool = False,
    ) -> None:
        if keep not in ("all", "statistics"):
            raise ArgumentError(f"`keep` is {keep!r}.\nPass 'all' or 'statistics'.")
        if gradients and keep == "statistics":
            raise ArgumentError(
                "`gradients` is True, and `keep` is 'statistics': an effect needs q and k.\n"
                "Pass keep='all', or no gradients."
            )
        wanted = None if layers is None else list(layers)
        for number in wanted or ():
            if not isinstance(number, int) or isinstance(number, bool):
                raise KindError(f"`layers` holds numbers of layers, not {describe(number)}.")
            if number < 0:
                raise ArgumentError(f"`layers` holds {number}.\nPass 0 or more.")
        self._watched = WatchedModel(unwrapped(model), wanted, keep, gradients)
        self._compiled = compiled(model)
        self._thread = threading.local()
        self._listeners: list[Listener] = []
        self._only: Listener | None = None
        self._reached: dict[int, tuple[object, set[nn.Module]]] = {}
        self._other_compiled = 0  # calls of compiled functions that may run any model
        self._other_repeated = 0  # calls in a backward pass that repeat none that was seen
        self._exit: ExitStack | None = None

    # Begin and end

    def __enter__(self) -> Self:
        if self._exit is not None:
            raise ArgumentError("This watch is on already.\nCall `watch` again for another.")
        need("transformers", "hf", "watch")
        with ExitStack() as stack:
            for module in self._watched.names:
                if any(True for _ in module.children()):  # no leaf calls an attention function
                    before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                    stack.callback(before.remove)
                    after = module.register_forward_hook(self._leave, always_call=True)
                    stack.callback(after.remove)
            install(self)
            stack.callback(uninstall, self)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stack, self._exit = self._exit, None
        if stack is not None:
            stack.close()
        self._reached.clear()
        for listener in self._listeners:
            listener.stop()

    # Hooks, as torch calls them, with the keyword arguments of each model's own code.
    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # First of all whether it compiles: whatever follows would be traced.
        if torch.compiler.is_compiling() or in_backward():
            return
        self._running().enter(ModuleCall(module, args, kwargs))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if torch.compiler.is_compiling() or in_backward():
            return
        self._running().leave(module, output)

    def _running(self) -> Listener:
        """The listener of the thread that runs."""
        listener: Listener | None = getattr(self._thread, "listener", None)
        if listener is None:
            listener = self._thread.listener = Listener(self._watched)
            self._listeners.append(listener)
        return listener

    def _heard(self, call: OverheardCall) -> None:
        """An attention function was called, by any model: see `overhear.Subscriber`."""
        if call.module not in self._watched.names:
            return
        if not in_backward():
            self._running().take(call)
        elif self._watched.keep == "all":  # statistics keep nothing that could be compared
            layers = (layer for one in self._listeners for layer in tuple(one.layers.values()))
            self._other_repeated += not repeated(layers, call)

    def _compiled_called(self, function: object) -> None:
        """A compiled function was called, that may run any model: see `overhear.Subscriber`."""
        key = id(function)  # its id, because a callable may have no hash
        if key not in self._reached:
            self._reached[key] = function, reached(function, self._watched.model)
        if modules := self._reached[key][1]:
            self._running().pass_by(modules)
        else:
            self._other_compiled += 1

    # What was seen

    @property
    def threads(self) -> list[Seen[Kept]]:
        """One Seen for each thread that ran the model, in the order in which they first ran it.

        A Seen answers for the thread that asks. If that one did not run the model, it answers for
        the only thread that did; if several did, take one of these.
        """
        return [self._of_thread(listener) for listener in tuple(self._listeners)]

    @property
    def thread(self) -> str:
        """The name of the thread that this Seen answers for."""
        return self._here.name

    def _of_thread(self, listener: Listener) -> Seen[Kept]:
        one = copy.copy(self)
        one._only = listener
        return one

    @property
    def _listener(self) -> Listener | None:
        """The listener of the thread that is asked about; None if several others may be meant."""
        own: Listener | None = self._only or getattr(self._thread, "listener", None)
        if own is None and len(self._listeners) < 2:
            return self._listeners[0] if self._listeners else Listener(self._watched)
        return own

    @property
    def _here(self) -> Listener:
        listener = self._listener
        if listener is None:
            names = ", ".join(one.name for one in self._listeners)
            raise MissedError(
                f"{len(self._listeners)} other threads ran {self._name}: {names}.\n"
                "Ask one of them, as in seen.threads[0]."
            )
        return listener

    @property
    def _name(self) -> str:
        return type(self._watched.model).__name__

    @property
    def _hidden(self) -> set[nn.Module]:
        """The modules that run compiled, or did."""
        return self._compiled | self._here.passed

    @property
    def _all(self) -> list[LayerRuns]:
        """The layers, without modules inside one that calls the attention interface itself.

        Modules that run compiled are layers too: they would call the interface if they did not.
        """
        layers, names = list(self._here.layers.values()), self._watched.names
        layers += [
            LayerRuns(name, module, kind_of(name, module), True)
            for module, name in names.items()
            if module in self._watched.like & self._hidden - {layer.module for layer in layers}
        ]
        used = [names[layer.module] for layer in layers if layer.runs]
        return [
            layer
            for layer in layers
            if layer.runs
            or layer.reason
            or not any(names[layer.module].startswith(f"{name}.") for name in used)
        ]

    @property
    def layers(self) -> list[Layer]:
        """Every attention layer that ran: its name, kind, state and reason."""
        found = []
        for one in self._all:
            why = self._why(one)
            state = "captured" if why is None else "missed" if one.wanted else "not asked for"
            found.append(Layer(one.name, one.kind, state, why or ""))
        return found

    def _why(self, one: LayerRuns) -> str | None:
        return one.why_missed(compiled=one.module in self._hidden)

    def _map(self, one: LayerRuns) -> Kept:
        why = self._why(one)
        if why is not None:
            raise MissedError(f"There is no map of {one.name}: {why}.")
        return self._kept(one.runs[-1].map())

    def _kept(self, found: Map) -> Kept:
        """Return the map as the type that `keep` asked for, which type checkers cannot infer."""
        return found  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, layer: int) -> Kept: ...
    @overload
    def __getitem__(self, layer: slice) -> list[Kept]: ...
    @door
    def __getitem__(self, layer: int | slice) -> Kept | list[Kept]:
        return _LayerMaps(self, self._all)[layer]

    def runs(self, layer: int) -> Sequence[Kept]:
        """All runs of a layer, the oldest first: each is one forward, or one whole generation.

        A step that does not continue the run before it begins another. Runs whose proof failed are
        left out.
        """
        runs = numbered(self._all, layer).runs
        return [self._kept(run.map()) for run in runs if run.refused is None]

    def effects(self, how: How = "renormalize") -> SeenEffects:
        """What removing each link does to a user's own loss, to first order, of all layers.

        The loss is what `backward` was called on while the model was watched with gradients=True;
        those of several backward passes through one forward add up. effects()[layer] is the map of
        a layer's last run, and effects().top(k) finds the strongest links of all layers. See
        `AttentionMap.effects` for the formula and its limits: a heavy link should be removed for
        real before anything is said of it.

        Args:
            how: "renormalize" gives a link's weight to the other keys of its row; "zero" sets the
                value that it carries to 0.

        Raises:
            ArgumentError: an unknown `how`.
            MissedError: the model was watched without gradients=True.

        >>> from transformers import AutoModelForCausalLM, LlamaConfig
        >>> config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        ...                      num_attention_heads=2, vocab_size=31)
        >>> model, ids = AutoModelForCausalLM.from_config(config), torch.arange(5)[None]
        >>> with watch(model, gradients=True) as seen:
        ...     model(ids, labels=ids).loss.backward()
        >>> seen.effects()[1]
        EffectMap[1, 2, 5, 5]: effects of removal, renormalize
        >>> len(seen.effects().top(20))
        20
        """
        if not self._watched.gradients:
            raise MissedError(
                f"The gradients of {self._name} were not kept.\nWatch it with gradients=True."
            )
        layers = [
            (one.name, self._why(one) or one.runs[-1].without_effects or one.runs[-1])
            for one in self._all
        ]
        return SeenEffects(layers, how)

    def sample_of(self, sequence: Tensor | Sequence[int]) -> int:
        """Which sample of the last text holds a returned sequence of token ids, also with beams.

        A model never reads the last token that it writes, so a sequence of n tokens that ends with
        it has the rows seen[layer][sample, :, : n - 1]. Of an encoder-decoder model it is the text
        of the decoder.

        Raises:
            MissedError: no sample holds it (a beam that ended may have given its place to another),
                samples with other sources hold it too, or the token ids are not known.

        >>> from transformers import AutoModelForCausalLM, LlamaConfig
        >>> config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        ...                      num_attention_heads=2, vocab_size=31, eos_token_id=None)
        >>> model = AutoModelForCausalLM.from_config(config).eval()
        >>> with watch(model) as seen:
        ...     text = model.generate(torch.tensor([[3, 5, 7]]), num_beams=4, max_new_tokens=6)
        >>> seen[0][seen.sample_of(text[0])].shape
        torch.Size([2, 8, 8])
        """
        if isinstance(sequence, Tensor):
            check_held("sequence", sequence)
        return self._here.sample_of(torch.as_tensor(sequence, device="cpu").flatten().tolist())

    @property
    def encoder(self) -> Sequence[Kept]:
        """The maps of the layers that read a text as a whole."""
        return self._of("encoder")

    @property
    def decoder(self) -> Sequence[Kept]:
        """The maps of the layers that write a text."""
        return self._of("decoder")

    @property
    def cross(self) -> Sequence[Kept]:
        """The maps of the layers that look at another text or picture."""
        return self._of("cross")

    def _of(self, kind: AttentionKind) -> _LayerMaps[Kept]:
        return _LayerMaps(self, [one for one in self._all if one.kind == kind])

    # In a notebook

    def _repr_html_(self) -> str:
        found = self._pictures(pictures.LOOKED) if self._listener is not None else []
        return pictures.html(self.report(), found, "the mean of all heads" if found else "")

    def plot(self) -> Figure:
        """The mean of all heads of every layer that was captured, as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        need("matplotlib", "show", "A plot")
        return pictures.figure(self._name, self._pictures())

    def _pictures(self, most: float = math.inf) -> list[pictures.Picture]:
        """Block means of the first sample, of as many layers as have `most` weights together."""
        found: list[pictures.Picture] = []
        for one in self._all:
            m = None if self._why(one) else self._map(one)
            if isinstance(m, AttentionMap) and m.shape[0]:
                most -= math.prod(m.shape)
                if most < 0:
                    break
                found.append((one.name, m.thumbnail(pictures.SIDE)[0].mean(dim=0)))
        return found

    def report(self) -> str:
        """How many layers were captured, the proof of each, and what was missed and why."""
        listener = self._listener
        if listener is None:
            names = [f"thread {one.name}:" for one in self._listeners]
            reports = [one.report() for one in self.threads]
            return "\n".join(line for pair in zip(names, reports, strict=True) for line in pair)
        layers = self._all
        reasons = [(one, self._why(one)) for one in layers]
        lines = layer_lines(self._name, reasons, self._watched.gradients)
        beyond = [n for n in self._watched.wanted or () if n >= len(layers)]
        if beyond and layers:
            lines.append(f"there is no layer {', '.join(map(str, beyond))}: asked for by `layers`")
        if listener.unseen:
            lines.append(
                f"compiled steps that went by unseen: {listener.unseen}. To see them, run them "
                'uncompiled, under torch.compiler.set_stance("force_eager")'
            )
        if self._other_compiled:
            lines.append(
                f"calls of other compiled functions: {self._other_compiled}. "
                "Whether they ran the model is not known"
            )
        if self._other_repeated:
            lines.append(
                f"calls in a backward pass that repeat no run: {self._other_repeated}. "
                "They were not recorded"
            )
        if self._only is None and (others := len(self._listeners) - 1) > 0:
            lines.append(f"{others} other threads ran it too: see `threads`")
        return "\n".join(lines)


class _LayerMaps(Sequence[Kept]):
    """The maps of some layers, made when they are asked for."""

    def __init__(self, seen: Seen[Kept], layers: list[LayerRuns]) -> None:
        self._seen, self._layers = seen, layers

    def __len__(self) -> int:
        return len(self._layers)

    @overload
    def __getitem__(self, layer: int) -> Kept: ...
    @overload
    def __getitem__(self, layer: slice) -> list[Kept]: ...
    def __getitem__(self, layer: int | slice) -> Kept | list[Kept]:
        if isinstance(layer, slice):
            return [self._seen._map(one) for one in self._layers[layer]]
        return self._seen._map(numbered(self._layers, layer))
