"""Record the attention of a running Hugging Face model, which computes as if nobody looked.

One door is watched: the interface through which a model gets its attention function. The function
runs unchanged; what goes in and comes out is kept, recognised and proved (records.py).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, overload

import torch
from torch import nn

from wqkv import pictures
from wqkv.doors import door
from wqkv.errors import ArgumentError, KindError, MissedError, WqkvError, describe, need
from wqkv.look.parts import (
    Kind,
    attention_like,
    bound,
    compiled,
    device,
    goes_on,
    kind,
    reads_others,
)
from wqkv.look.readings import Refusal, read
from wqkv.look.records import Run, Statistics
from wqkv.look.runs import record, repeat
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.weights import aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Map = AttentionMap | Statistics


@door
def watch(
    model: nn.Module,
    layers: Iterable[int] | None = None,
    keep: Literal["all", "statistics"] = "all",
) -> Seen:
    """Record q, k and the mask of every attention layer while a Hugging Face model runs.

    The model's own function computes, so its outputs are bit-identical. Each layer is proved when
    it is recorded: P V, of the weights that are shown, against the model's own output.
    Where tensor parallelism shares the heads, each rank sees its own: see `SharedMap.heads`.

    Args:
        layers: the numbers of the layers to record, in the order in which they first run; None is
            all. They count every kind of attention.
        keep: "statistics" keeps each forward's entropy and received alone, not q and k.

    Raises:
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
    return Seen(model, layers, keep)


class Layer(NamedTuple):
    """One attention layer of a model: `captured`, `missed` (and why), or `not asked for`."""

    name: str
    kind: Kind
    state: str
    reason: str


class _Place:
    """What is known of one layer."""

    def __init__(self, name: str, module: nn.Module, kind: Kind | None, wanted: bool) -> None:
        self.name, self.module, self.wanted = name, module, wanted
        self.known = kind
        self.runs: list[Run] = []
        self.reason: str | None = None  # why the last call was not recorded

    @property
    def kind(self) -> Kind:
        """As its name says, or else its mask."""
        if self.known is not None or not self.runs:
            return self.known or "encoder"
        pattern = self.runs[-1].pattern
        return "decoder" if pattern is not None and pattern.after == 0 else "encoder"

    def why(self) -> str | None:
        """Why there is no map; None if there is one."""
        if not self.wanted:
            return "it was not asked for: see `layers`"
        if self.reason is not None:
            return self.reason
        if not self.runs:
            return "it does not use the attention interface"
        return self.runs[-1].refused


class _Frame(NamedTuple):
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    goes_on: bool


@door
class Seen(Sequence[Map]):
    """What `watch` saw: seen[layer] is the map of a layer, in the order of their first run.

    A layer that was missed, or whose proof failed, raises MissedError with the reason.
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[int] | None, keep: Literal["all", "statistics"]
    ) -> None:
        if keep not in ("all", "statistics"):
            raise ArgumentError(f"`keep` is {keep!r}.\nPass 'all' or 'statistics'.")
        wanted = None if layers is None else list(layers)
        for number in wanted or ():
            if not isinstance(number, int) or isinstance(number, bool):
                raise KindError(f"`layers` holds numbers of layers, not {describe(number)}.")
            if number < 0:
                raise ArgumentError(f"`layers` holds {number}.\nPass 0 or more.")
        self._wanted, self._keep = wanted, keep
        self._model = getattr(model, "_orig_mod", model)
        self._compiled = compiled(model)
        self._names = {
            module: name.replace("._orig_mod", "") for name, module in self._model.named_modules()
        }
        self._like = attention_like(self._model)
        self._places: dict[tuple[nn.Module, int], _Place] = {}
        self._visits: Counter[nn.Module] = Counter()
        self._calls: Counter[nn.Module] = Counter()
        self._stack: list[_Frame] = []
        self._masks: dict[Any, Any] = {}
        self._exit: ExitStack | None = None

    # Coming and going

    def __enter__(self) -> Self:
        if self._exit is not None:
            raise ArgumentError("This watch is on already.\nCall `watch` again for another.")
        need("transformers", "hf", "watch")
        with ExitStack() as stack:
            for module in self._names:
                if any(True for _ in module.children()):
                    before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                    stack.callback(before.remove)
                    after = module.register_forward_hook(self._leave, always_call=True)
                    stack.callback(after.remove)
            _install(self)
            stack.callback(_uninstall, self)
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
        self._stack.clear()
        self._masks.clear()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        if not self._stack:  # a forward begins
            self._visits.clear()
        self._stack.append(_Frame(module, args, kwargs, goes_on(module, args, kwargs)))
        self._visits[module] += 1
        self._calls[module] = 0
        if module in self._like:
            self._place(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        while self._stack and self._stack.pop().module is not module:
            pass
        if not self._stack:
            self._masks.clear()
        place = self._places.get((module, max(self._visits[module] - 1, 0)))
        if place is not None and place.runs and not self._calls[module] and output is not None:
            place.reason = "a later call of it did not use the attention interface"
        if self._keep == "statistics" and place is not None and place.runs and place.runs[-1].kept:
            with aside(place.runs[-1].key.data.device):
                place.runs[-1].reduce()

    def _place(self, module: nn.Module) -> _Place:
        key = (module, max(self._visits[module] - 1, 0))
        if key not in self._places:
            number = len(self._places)
            wanted = self._wanted is None or number in self._wanted
            name = self._names[module]
            if key[1]:
                name = f"{name} (run {key[1] + 1})"
            self._places[key] = _Place(name, module, kind(self._names[module], module), wanted)
        return self._places[key]

    # One call

    def _holds(self, module: object) -> bool:
        return isinstance(module, nn.Module) and module in self._names

    def _take(
        self, rule: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Record one call of a model's attention function."""
        place = self._place(module)
        count, self._calls[module] = self._calls[module], self._calls[module] + 1
        if not place.wanted:
            return
        frame = next((one for one in reversed(self._stack) if one.module is module), None)
        given = bound(module, frame.args, frame.kwargs) if frame is not None else {}
        cross = place.kind == "cross" or reads_others(given)
        if cross:
            place.known = "cross"
        with aside(device(module, args, kwargs)):
            try:
                later = frame is not None and frame.goes_on
                asked = read(rule, module, args, kwargs, out, self._masks, cross, later)
                if count and place.runs and place.reason is None:
                    repeat(place.runs[-1], asked)
                    return
                run, new = record(place.runs[-1] if place.runs else None, asked)
            except Refusal as refusal:
                place.reason = str(refusal)
                return
            except WqkvError as error:
                place.reason = "its call is not understood: " + str(error).partition("\n")[0]
                return
        place.reason = None
        if new:
            place.runs.append(run)

    # What was seen

    @property
    def _all(self) -> list[_Place]:
        """The layers, without helpers inside a module that uses the interface itself."""
        places = list(self._places.values())
        places += [
            _Place(name, module, kind(name, module), True)
            for module, name in self._names.items()
            if module in self._like & self._compiled - {place.module for place in places}
        ]
        used = [self._names[place.module] for place in places if place.runs]
        return [
            place
            for place in places
            if place.runs
            or place.reason
            or not any(self._names[place.module].startswith(f"{name}.") for name in used)
        ]

    @property
    def layers(self) -> list[Layer]:
        """Every attention layer that ran: its name, kind, state and reason."""
        found = []
        for place in self._all:
            why = self._why(place)
            state = "captured" if why is None else "missed" if place.wanted else "not asked for"
            found.append(Layer(place.name, place.kind, state, why or ""))
        return found

    def _why(self, place: _Place) -> str | None:
        why = place.why()
        if place.module in self._compiled and why is not None and place.wanted and not place.runs:
            return "it runs compiled, out of sight"
        return why

    def _map(self, place: _Place, run: int = -1) -> Map:
        why = self._why(place) if run == -1 else None
        if why is not None:
            raise MissedError(f"There is no map of {place.name}: {why}.")
        return place.runs[run].map()

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, layer: int) -> Map: ...
    @overload
    def __getitem__(self, layer: slice) -> list[Map]: ...
    @door
    def __getitem__(self, layer: int | slice) -> Map | list[Map]:
        places = self._all
        if isinstance(layer, slice):
            return [self._map(place) for place in places[layer]]
        return self._map(_in(places, layer))

    def runs(self, layer: int) -> Sequence[Map]:
        """All runs of a layer, oldest first: one a forward, or one a whole generation."""
        return [run.map() for run in _in(self._all, layer).runs]

    @property
    def encoder(self) -> Sequence[Map]:
        """The maps of the layers that read a text as a whole."""
        return self._of("encoder")

    @property
    def decoder(self) -> Sequence[Map]:
        """The maps of the layers that write a text."""
        return self._of("decoder")

    @property
    def cross(self) -> Sequence[Map]:
        """The maps of the layers that look at another text or picture."""
        return self._of("cross")

    def _of(self, kind: Kind) -> _Part:
        return _Part(self, [place for place in self._all if place.kind == kind])

    # In a notebook

    def _repr_html_(self) -> str:
        found = self._pictures(pictures.LOOKED)
        return pictures.html(self.report(), found, "the mean of all heads" if found else "")

    def plot(self) -> Figure:
        """The mean of all heads of every layer that was captured, as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        need("matplotlib", "show", "A plot")
        return pictures.figure(type(self._model).__name__, self._pictures())

    def _pictures(self, most: float = math.inf) -> list[pictures.Picture]:
        """Block means of the first sample, as long as they take at most so many weights."""
        found: list[pictures.Picture] = []
        for place in self._all:
            m = None if self._why(place) else self._map(place)
            if isinstance(m, AttentionMap) and m.shape[0]:
                most -= math.prod(m.shape)
                if most < 0:
                    break
                found.append((place.name, m.thumbnail(pictures.SIDE)[0].mean(dim=0)))
        return found

    def report(self) -> str:
        """How many layers were captured, the proof of each, and what was missed and why."""
        places = self._all
        whys = [self._why(place) for place in places]
        good = sum(why is None for why in whys)
        unasked = sum(not place.wanted for place in places)
        name = type(self._model).__name__
        if not places:
            return f"captured 0 of 0 layers of {name}: no attention layer ran in sight"
        rest = f" ({unasked} not asked for)" if unasked else ""
        lines = [f"captured {good} of {len(places)} layers of {name}{rest}"]
        width = max(len(place.name) for place in places)
        for number, (place, why) in enumerate(zip(places, whys, strict=True)):
            head = f"{number:>3}  {place.name:<{width}}  {place.kind:<7}"
            lines.append(f"{head}  {_shown(place.runs) if why is None else _missed(place, why)}")
        beyond = [n for n in self._wanted or () if n >= len(places)]
        if beyond:
            lines.append(f"there is no layer {', '.join(map(str, beyond))}: asked for by `layers`")
        return "\n".join(lines)


class _Part(Sequence[Map]):
    """The layers of one kind."""

    def __init__(self, seen: Seen, places: list[_Place]) -> None:
        self._seen, self._places = seen, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, layer: int) -> Map: ...
    @overload
    def __getitem__(self, layer: slice) -> list[Map]: ...
    def __getitem__(self, layer: int | slice) -> Map | list[Map]:
        if isinstance(layer, slice):
            return [self._seen._map(place) for place in self._places[layer]]
        return self._seen._map(_in(self._places, layer))


def _in(places: list[_Place], layer: int) -> _Place:
    if not -len(places) <= layer < len(places):
        raise IndexError(f"There is no layer {layer}: {len(places)} ran.")
    return places[layer]


def _missed(place: _Place, why: str) -> str:
    return f"missed: {why}" if place.wanted else "not asked for"


def _shown(runs: list[Run]) -> str:
    """A captured layer in the report."""
    run = runs[-1]
    parts = [
        f"{list(run.shape)} {run.shown}",
        f"proof {run.error:.1e}, {run.share:.0%} of rounding",
    ]
    rows = f"{run.rows} rows"
    if run.empty:
        rows += f", {run.empty} empty"
    parts[1] += f" ({rows})"
    if run.start:
        parts.append(f"rows from {run.start} on")
    if len(runs) > 1:
        parts.append(f"the last of {len(runs)} runs")
    return "  ".join(parts)


# The door

_ACTIVE: list[Seen] = []
_ORIGINAL: list[Any] = []


def _install(seen: Seen) -> None:
    from transformers.modeling_utils import AttentionInterface

    if not _ACTIVE:
        original: Any = AttentionInterface.__dict__["get_interface"]
        _ORIGINAL.append(original)

        @functools.wraps(original)
        def get_interface(self: Any, attn_implementation: Any, default: Any) -> Any:
            function = original(self, attn_implementation, default)
            if torch.compiler.is_compiling():
                return function
            return _listening(function, _rule(str(attn_implementation), function is default))

        AttentionInterface.get_interface = get_interface
    _ACTIVE.append(seen)


def _uninstall(seen: Seen) -> None:
    from transformers.modeling_utils import AttentionInterface

    _ACTIVE.remove(seen)
    if not _ACTIVE:
        AttentionInterface.get_interface = _ORIGINAL.pop()


def _rule(name: str, is_default: bool) -> str:
    """By whose rules a missing mask is read."""
    if is_default:
        return "eager"
    if name == "wqkv":  # ours follows sdpa
        return "sdpa"
    return next((rule for rule in ("sdpa", "flash", "flex") if rule in name), "other")


def _listening(function: Callable[..., Any], rule: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        out = function(module, *args, **kwargs)
        for seen in tuple(_ACTIVE):
            if seen._holds(module):
                seen._take(rule, module, args, kwargs, out)
        return out

    return call
