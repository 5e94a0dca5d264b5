"""watch(model): record the attention of any running PyTorch model, which computes unchanged.

Three doors lead to one record, a run of a layer (run.py): transformers' attention interface
(overhear.py, arguments.py, read_mask.py, follow.py), calls of our own attention (own.py), and what
any other model does, heard at its operators (operators/). Each thread has a listener that knows
which modules run (listen.py); watching.py has the hooks; prove_call.py makes the proofs. This file
has what a user calls: `watch` and `Seen`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

import torch
from torch import Tensor, nn

from wqkv.attend.geometry import check_held
from wqkv.doors import door
from wqkv.errors import ArgumentError, MissedError, need
from wqkv.maps import pictures
from wqkv.maps.attention_map import AttentionMap
from wqkv.maps.link_map import How
from wqkv.record.captured import Refusal
from wqkv.record.kept import KeptLayer, KeptModel, KeptThread, write_recording
from wqkv.record.layer_runs import LayerRuns, State, numbered
from wqkv.record.listen import Listener
from wqkv.record.modules import AttentionKind, ended_by, kind_of
from wqkv.record.report import layer_lines
from wqkv.record.run import Statistics
from wqkv.record.seen_effects import SeenEffects
from wqkv.record.watching import Watching
from wqkv.record.writes import LayerWrites, WriteQuestion, head_writes

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
    processor: Any = None,
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
    processor: Any = None,
) -> Seen[AttentionMap] | Seen[Statistics]:
    """Record the attention of every layer while a PyTorch model runs: q, k and the rules.

    The model computes as it would: its outputs and gradients are bit-identical, in eval and in
    train, under no_grad, inference_mode and autocast. It may be of any library, and only torch is
    needed. Heard are models that ask transformers' attention interface, our own layers, fused
    kernels, FlexAttention, nn.MultiheadAttention and nn.TransformerEncoder with their fast path,
    and softmax(q k^T) v as people write it out.

    Each layer is *proved*: P V, of the weights that are shown, gives the model's own output.
    Where more enters the scores than one product and the rules of a map, such as DeBERTa's terms
    of positions or heads that are mixed, it is *captured*: what the model did is computed again and
    compared. Otherwise it is *missed*, with the reason: see `Seen.layers` and `Seen.report()`.

    What is kept is O(q and k): no matrix of weights, and masks as values or by reference. Proofs
    are made when they are asked for. A tensor that was changed in place since refuses the map.

    All steps of a generation are one map, also in a beam search: `Seen.sample_of` says which sample
    is a returned text. Threads have maps of their own: see `Seen.threads`. What runs compiled stays
    compiled and is not heard; the report says so, and no older map is shown in its place.
    Where tensor parallelism shares the heads, each rank sees its own: see `SharedMap.heads`.

    Args:
        layers: the numbers of the layers to record, in the order in which they first run; None is
            all. They count every kind of attention.
        keep: "statistics" keeps only `entropy` and `received` of each forward, and not q and k.
        gradients: keep v and the heads' output, for `Seen.writes`, and, while your own backward
            pass runs, the gradient with respect to that output, for `Seen.effects`. All gradients
            stay bit-identical. Under gradient checkpointing a layer that runs again counts once.
        processor: the tokenizer or processor that made the model's inputs. It names the tokens of
            `map.keys` and `map.queries`, and undoes what it did to the pixels of a picture.

    Raises:
        ArgumentError: gradients of what keep="statistics" does not keep.

    >>> layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, 2).eval()
    >>> with torch.no_grad(), watch(model) as seen:
    ...     _ = model(torch.randn(1, 5, 16))
    >>> seen[1]
    AttentionMap[1, 2, 5, 5] of query f32[1, 2, 5, 8] on cpu, mask Full()
    >>> print(seen.report())
    captured 2 of 2 layers of TransformerEncoder
      0  layers.0  encoder  [1, 2, 5, 5] Full()  proof ...
      1  layers.1  encoder  [1, 2, 5, 5] Full()  proof ...
    """
    return Seen(model, layers, keep, gradients, processor)


class Layer(NamedTuple):
    """One attention layer of a watched model, and the state of its map.

    `proved`: its weights, of q, k, mask and rules, give the model's own output. `captured`: more
    enters its scores, or its heads are mixed; what the model did was computed again and compared,
    and the map shows the softmax that it took. `missed` or `not asked for`: it has no map. `reason`
    says why; it is empty if the layer is proved.
    """

    name: str
    kind: AttentionKind
    state: State
    reason: str


@door
class Seen(Watching, Sequence[Kept]):
    """What `watch` saw: seen[layer] is the map of a layer, numbered in the order of first runs.

    A layer that was missed, or whose proof failed, raises MissedError with the reason.
    """

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
        listener.settle()
        return listener

    @property
    def _name(self) -> str:
        return type(self._watched.model).__name__

    @property
    def _gradients(self) -> bool:
        """Whether v, the outputs of the heads and their gradients are kept."""
        return self._watched.gradients

    @property
    def _hidden(self) -> set[nn.Module]:
        """The modules that run compiled, or did."""
        return self._compiled | self._here.passed

    @property
    def _all(self) -> list[LayerRuns]:
        """The layers, without modules inside or around one that was heard itself.

        Modules that run compiled are layers too: they would call the interface if they did not.
        """
        layers, names = list(self._here.layers.values()), self._watched.names
        layers += [
            LayerRuns(name, module, kind_of(name, module), True)
            for module, name in names.items()
            if module in self._watched.like & self._hidden - {layer.module for layer in layers}
        ]
        used = [names[layer.module] for layer in layers if layer.runs or layer.reason]
        return [
            layer
            for layer in layers
            if layer.runs
            or layer.reason
            or not any(_nested(names[layer.module], name) for name in used)
        ]

    @property
    def layers(self) -> list[Layer]:
        """Every attention layer that ran: its name, kind, state and reason."""
        found = []
        for one in self._all:
            state = one.state(one.module in self._hidden)
            reason = one.runs[-1].captured if state == "captured" else self._why(one) or ""
            found.append(Layer(one.name, one.kind, state, reason))
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

    def __iter__(self) -> Iterator[Kept]:
        """The maps that there are: layers that were missed are left out."""
        return iter(self[:])

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
        if not self._gradients:
            raise MissedError(
                f"The gradients of {self._name} were not kept.\n"
                "Watch it with gradients=True; to have them in a file too, save with values=True."
            )
        layers = [
            (one.name, self._why(one) or one.runs[-1].without_effects or one.runs[-1])
            for one in self._all
        ]
        return SeenEffects(layers, how)

    def writes(
        self,
        layer: int,
        at: int = -1,
        *,
        answer: int | None = None,
        against: int | None = None,
        sample: int = 0,
        k: int = 8,
    ) -> LayerWrites:
        """What each head of a layer writes at one token: o_h WO_h, as a change of the logits.

        The part of head h of the logit of token t is (o_h WO_h) . u, where u is row t of the output
        matrix, taken back through the last norm with the scale that it has at this token. The parts
        of all layers, of the MLPs and of the embedding sum to the logit, and a head's part is the
        sum over the tokens that it reads of P_ij v_j . (WO_h u). It is what the head writes by
        itself (the "logit lens", or direct logit attribution): what later layers make of it is not
        in it. The model was watched with gradients=True; no backward pass is needed.

        Args:
            at: the row of the token, at whose place the next token is predicted.
            answer: the token id whose logit is asked about; None is the likeliest.
            against: a token id whose logit is subtracted.
            k: how many tokens each list names.

        Raises:
            ArgumentError: no such sample, row or token id, `k` below 1, or the watch is still on.
            MissedError: the layer was missed; the model was watched without gradients=True; or what
                stands between the heads and the logits is not WO, a sum, a norm and one matrix.

        Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; Elhage et al. 2021, "A
        Mathematical Framework for Transformer Circuits".

        >>> from transformers import AutoModelForCausalLM, LlamaConfig
        >>> config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        ...                      num_attention_heads=2, vocab_size=31)
        >>> model = AutoModelForCausalLM.from_config(config).eval()
        >>> with torch.no_grad(), watch(model, gradients=True) as seen:
        ...     _ = model(torch.arange(5)[None])
        >>> found = seen.writes(1, answer=7)
        >>> [head.head for head in found.heads], len(found.heads[0].sources), found.off < 1e-5
        ([0, 1], 5, True)
        """
        if self._exit is not None:
            raise ArgumentError(
                "`writes` runs parts of the model, and the watch is still on.\n"
                "Ask behind the with-block."
            )
        if k < 1:
            raise ArgumentError(f"`k` is {k}, how many tokens to name.\nPass 1 or more.")
        path, one = self._here.path, numbered(self._all, layer)
        if path is None:
            raise MissedError(
                f"What stands behind the heads of {self._name} was not kept.\n"
                "Watch it with gradients=True, and ask before it is saved: a file has no modules."
            )
        why = self._why(one)
        try:
            if why is not None:
                raise Refusal(why)
            ask = WriteQuestion(layer % len(self), at, sample, answer, against, k)
            return head_writes(path, one, ask)
        except Refusal as refusal:
            why = f"There are no writes of {one.name}: {refusal}."
            raise MissedError(why) from None

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

    # In a file

    def save(self, path: str | PathLike[str], values: bool = False) -> None:
        """Write the recording to a file, which `load_recording` reads on any machine.

        It is one safetensors file, with q, k, the rules and lse of every run, the token ids, what
        the queries and keys are (with the picture or sound that the model was given), the proofs,
        and the names, states and reasons of the layers. What is read from it answers as
        this does, but for `writes`, which needs the model's modules. A file that is there is
        replaced when the new one is whole.

        Its size is that of q and k, batch (n_head query_len + n_kv_head key_len) d_k numbers in the
        model's own dtype for each run, and 4 bytes for each row: 72.6 MiB of GPT-2 small at 1,024
        tokens in float32. A mask or bias that is a matrix is kept once for all layers, and a layer
        that is captured and not proved has its scores, n_head query_len key_len numbers. With
        keep="statistics" it is 4 bytes for each row and each key of every head. While it is
        written, it takes as much memory as the file has bytes.

        Args:
            values: keep v, the outputs of the heads and their gradients too, for `effects`. Watch
                with gradients=True.

        Raises:
            ArgumentError: it cannot be written there, or a tensor of a layer was changed in place
                since it was recorded.
            KindError: the mask or bias of a layer is of a class of your own, without a form.
            MissedError: `values` is True, and none were kept.
            MissingExtraError: safetensors is not installed.

        >>> from tempfile import TemporaryDirectory
        >>> from wqkv import load_recording
        >>> layer = nn.TransformerEncoderLayer(24, 4, batch_first=True).eval()
        >>> with torch.no_grad(), watch(layer) as seen:
        ...     _ = layer(torch.randn(1, 5, 24))
        >>> with TemporaryDirectory() as folder:
        ...     seen.save(f"{folder}/seen.safetensors")
        ...     load_recording(f"{folder}/seen.safetensors").layers == seen.layers
        True
        """
        threads = [self] if self._only is not None else self.threads or [self]
        kept = [one._as_kept() for one in threads]
        write_recording(path, KeptModel(self._name, kept, values))

    def _as_kept(self) -> KeptThread:
        """What its thread saw, as a file keeps it."""
        layers = [
            KeptLayer(*said, [run for run in one.runs if run.refused is None])
            for said, one in zip(self.layers, self._all, strict=True)
        ]
        text, ends = self._here.text, ended_by(self._watched.model)
        return KeptThread(self.thread, self.report(), layers, text, ends)

    def __repr__(self) -> str:
        return f"Seen of {self._name}: .report() says what was heard, .plot() draws it"

    # In a notebook

    def _repr_html_(self) -> str:
        found = self._pictures(pictures.LOOKED) if self._listener is not None else []
        return pictures.html(self.report(), found, "the mean of all heads" if found else "")

    def plot(self) -> Figure:
        """The mean of all heads of every layer that has a map, as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        need("matplotlib", "show", "A plot")
        return pictures.figure(f"{self._name}: the mean of all heads", self._pictures())

    def _pictures(self, most: float = math.inf) -> list[pictures.Picture]:
        """Block means of the first sample, of as many layers as have `most` weights together."""
        found: list[pictures.Picture] = []
        for one in self._all:
            m = None if self._why(one) else self._map(one)
            if isinstance(m, AttentionMap) and m.shape[0]:
                most -= math.prod(m.shape)
                if most < 0:
                    break
                means = m.thumbnail(pictures.SIDE)[0].mean(dim=0)
                found.append(pictures.of_means(one.name, means, *m._sides(0)))
        return found

    def report(self) -> str:
        """How many layers have maps, the proof of each, and what was missed and why."""
        listener = self._listener
        if listener is None:
            names = [f"thread {one.name}:" for one in self._listeners]
            reports = [one.report() for one in self.threads]
            return "\n".join(line for pair in zip(names, reports, strict=True) for line in pair)
        layers = self._all
        reasons = [(one, self._why(one)) for one in layers]
        ran = listener.forwards or listener.unseen
        nothing = "it ran, and no attention was heard in it" if ran else "no forward of it ran"
        lines = layer_lines(self._name, reasons, self._watched.gradients, nothing)
        if listener.failed:
            lines.append(
                f"the last forward ended in {listener.failed}: what comes after it did not run"
            )
        beyond = [n for n in self._watched.wanted or () if n >= len(layers)]
        if beyond and layers:
            asked = ", ".join(map(str, beyond))
            lines.append(f"`layers` asks for {asked}, and {len(layers)} layers ran, from 0 on")
        if listener.unseen:
            lines.append(
                f"compiled steps that went by unseen: {listener.unseen}. To see them, run them "
                'uncompiled, under torch.compiler.set_stance("force_eager")'
            )
        elif any(one.wanted and not one.runs and one.module in self._hidden for one in layers):
            lines.append(
                "To see what runs compiled, run it uncompiled, under "
                'torch.compiler.set_stance("force_eager")'
            )
        if self._other_compiled:
            lines.append(
                f"calls of other compiled functions: {self._other_compiled}. "
                "Whether they ran the model, or an attention of it, is not known"
            )
        if self._copies > 1:
            lines.append(
                f"DataParallel runs copies of {self._name} on {self._copies} devices, which are "
                "not followed. To see them, call its `module`, on one device"
            )
        if self._other_repeated:
            lines.append(
                f"calls in a backward pass that repeat no run: {self._other_repeated}. "
                "They were not recorded"
            )
        lines += listener.faults.lines()
        if self._only is None and (others := len(self._listeners) - 1) > 0:
            lines.append(f"{others} other threads ran it too: see `threads`")
        return "\n".join(lines)


def _nested(one: str, other: str) -> bool:
    """Return whether one of two modules is inside the other. Their full names tell it."""
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")


class _LayerMaps(Sequence[Kept]):
    """The maps of some layers, made when they are asked for.

    One layer that was missed raises; in a slice or a loop it is left out.
    """

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
            some = self._layers[layer]
            return [self._seen._map(one) for one in some if self._seen._why(one) is None]
        return self._seen._map(numbered(self._layers, layer))

    def __iter__(self) -> Iterator[Kept]:
        return iter(self[:])
