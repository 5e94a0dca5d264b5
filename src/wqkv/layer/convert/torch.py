"""from_torch, to_torch and convert: nn.MultiheadAttention as our layer, and back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wqkv.attend.bias import Bias
from wqkv.attend.call import Call, call_of
from wqkv.attend.engines import reference
from wqkv.attend.masks import Causal, Dense
from wqkv.attend.masks.algebra import Full, Mask
from wqkv.attend.rules import as_bias
from wqkv.doors import door
from wqkv.errors import ArgumentError, EngineError, KindError, message
from wqkv.layer import checks
from wqkv.layer.attention import MATRICES, MultiheadAttention
from wqkv.layer.node import one_node
from wqkv.layer.plain import besides
from wqkv.layer.trace import all_steps
from wqkv.named_attention import attention_like
from wqkv.upstream import of_torch

#: {a parameter of nn.MultiheadAttention: the parameters of ours whose rows it holds, in order}.
HELD = {
    "in_proj_weight": ("WQ.weight", "WK.weight", "WV.weight"),
    "q_proj_weight": ("WQ.weight",),
    "k_proj_weight": ("WK.weight",),
    "v_proj_weight": ("WV.weight",),
    "in_proj_bias": ("WQ.bias", "WK.bias", "WV.bias"),
    "out_proj.weight": ("WO.weight",),
    "out_proj.bias": ("WO.bias",),
    "bias_k": ("persistent_k",),
    "bias_v": ("persistent_v",),
}

_Model = TypeVar("_Model", bound=nn.Module)
_Layer = TypeVar("_Layer", bound=MultiheadAttention)


@door
def from_torch(module: nn.MultiheadAttention) -> MultiheadAttention:
    """Our layer with the numbers of torch's: in_proj_weight is WQ, WK and WV, out_proj is WO.

    The numbers are copied; dtype, device, dropout, training and requires_grad stay. Our layer takes
    (batch, length, d), whatever `batch_first` was, and masks in which True = may attend; `convert`
    keeps torch's call. bias_k and bias_v become a persistent key and value, add_zero_attn becomes a
    sink of logit 0.

    Raises:
        KindError: it is a subclass, whose forward may do anything.
        ArgumentError: it has more than its parameters, which a copy would lose: hooks, a replaced
            forward, parametrizations, parameters of another class.

    >>> from_torch(nn.MultiheadAttention(512, 8))(torch.randn(2, 17, 512)).shape
    torch.Size([2, 17, 512])
    """
    return _our_layer(module, MultiheadAttention)


def _our_layer(module: nn.MultiheadAttention, kind: type[_Layer]) -> _Layer:
    if type(module) is not nn.MultiheadAttention:
        raise KindError(f"nn.MultiheadAttention itself is asked for, not {type(module).__name__}.")
    _check_copied(module)
    theirs = module.state_dict()
    if more := theirs.keys() - HELD:
        raise ArgumentError(
            f"nn.MultiheadAttention has {', '.join(sorted(more))}, which our layer has no place "
            f"for.\nIt takes {', '.join(HELD)}."
        )
    ours = _ours(theirs, module.num_heads)
    layer = kind(
        module.embed_dim,
        module.num_heads,
        kdim=module.kdim,
        vdim=module.vdim,
        bias=[name for name in MATRICES if f"{name}.bias" in ours],
        sinks=module.add_zero_attn,
        persistent=int("bias_k" in theirs),
        dropout=module.dropout,
        device="meta",
    )
    if module.add_zero_attn:
        ours["sinks"] = theirs["out_proj.weight"].new_zeros(module.num_heads)
    layer.load_state_dict({name: part.clone() for name, part in ours.items()}, assign=True)
    layer.requires_grad_(False)
    for held, parameter in module.named_parameters():
        for name in HELD[held]:
            layer.get_parameter(name).requires_grad_(parameter.requires_grad)
    return layer.train(module.training)


def _check_copied(module: nn.Module) -> None:
    """Raise if a copy of a module's parameters would lose something."""
    for path, part in module.named_modules():
        if more := besides(part):
            raise ArgumentError(
                f"{f'{path} ' if path else 'it '}has {', '.join(more)}, which would be lost.\n"
                "Remove them, and put them on the new module; gather or dequantize parameters."
            )


def _ours(theirs: Mapping[str, Tensor], n_head: int) -> dict[str, Tensor]:
    """The parameters of nn.MultiheadAttention by our names."""
    return {
        name: part.reshape(n_head, 1, -1) if name.startswith("persistent") else part
        for held, names in HELD.items()
        if held in theirs
        for name, part in zip(names, theirs[held].chunk(len(names)), strict=False)
    }


@overload
def to_torch(module: MultiheadAttention) -> nn.MultiheadAttention: ...
@overload
def to_torch(module: _Model) -> _Model: ...
@door
def to_torch(module: nn.Module) -> Any:
    """nn.MultiheadAttention with the numbers of our layer; or a converted model as it was before.

    A layer gives one with batch_first=True. In a model, every layer that `convert` put there is
    replaced in place, and no other of ours. The numbers are copied.

    Raises:
        ArgumentError: nn.MultiheadAttention cannot hold a layer; every reason is named.

    >>> to_torch(MultiheadAttention(512, 8)).in_proj_weight.shape
    torch.Size([1536, 512])
    """
    if isinstance(module, MultiheadAttention):
        return _torch_layer(module)
    model = _replace_modules(module, StandIn, _torch_layer)
    for encoder in model.modules():
        if vars(encoder).pop("nested_before_convert", False):
            encoder.use_nested_tensor = True
    return model


def _torch_layer(layer: MultiheadAttention) -> nn.MultiheadAttention:
    if reasons := _reasons_against(layer):
        raise ArgumentError(
            f"nn.MultiheadAttention cannot hold this layer: {'; '.join(reasons)}.\n"
            "It has d_model, n_head, kdim, vdim, dropout, and one switch for all biases."
        )
    _check_copied(layer)
    ours = dict(layer.named_parameters(remove_duplicate=False))
    made = nn.MultiheadAttention(
        layer.d_model,
        layer.n_head,
        layer.dropout,
        bias="WO.bias" in ours,
        add_bias_kv=layer.persistent == 1,
        add_zero_attn=layer.sinks is not None,
        kdim=layer.kdim,
        vdim=layer.vdim,
        batch_first=getattr(layer, "batch_first", True),
        device="meta",
    )
    state = {}
    for held, like in made.state_dict().items():
        parts = {name: ours[name] for name in HELD[held]}
        if len({(x.dtype, x.device, x.requires_grad) for x in parts.values()}) > 1:
            came = {
                name + (", learned" if x.requires_grad else ", frozen"): x.detach()
                for name, x in parts.items()
            }
            what = f"`{held}` is one parameter, and its parts are not of one kind."
            raise ArgumentError(message(what, came, "Make them alike."))
        state[held] = torch.cat([x.detach() for x in parts.values()]).view(like.shape)
    made.load_state_dict(state, assign=True)
    for held, parameter in made.named_parameters():
        parameter.requires_grad_(ours[HELD[held][0]].requires_grad)
    return made.train(layer.training)


def _reasons_against(layer: MultiheadAttention) -> list[str]:
    """What nn.MultiheadAttention cannot hold: how the layer differs from one that it can."""
    if type(layer) not in (MultiheadAttention, StandIn):
        return [f"it is a {type(layer).__name__}"]
    modules = {name: getattr(layer, name) for name in MATRICES}
    if reasons := [
        f"{name} is a {type(module).__module__}.{type(module).__name__}, not nn.Linear"
        for name, module in modules.items()
        if type(module) is not nn.Linear
    ]:
        return reasons
    if layer.d_model % layer.n_head:
        return [f"d_model {layer.d_model} is not a multiple of n_head {layer.n_head}"]
    plain = MultiheadAttention(
        layer.d_model,
        layer.n_head,
        kdim=layer.kdim,
        vdim=layer.vdim,
        bias=modules["WO"].bias is not None,
        sinks=layer.sinks is not None and not layer.sinks.requires_grad and not layer.sinks.any(),
        persistent=min(layer.persistent, 1),
        dropout=layer.dropout,
        engine=layer.engine,
        device="meta",
    ).train(layer.training)
    # Attributes are compared by name, so that an argument that is added later is compared too.
    own, usual = dict(vars(layer)), {**vars(plain), "position": plain.position}
    own["position"] = layer.position
    if own["scale"] is not None and math.isclose(own["scale"], layer.d_k**-0.5):
        own["scale"] = None
    reasons = [
        f"{name} is {own[name]!r}, not {usual[name]!r}"
        for name in usual
        if name in own and not name.startswith("_") and own[name] != usual[name]
    ]
    has, wants = _parts(layer), _parts(plain)
    reasons += [f"it has {name}" for name in sorted(has.keys() - wants)]
    reasons += [f"it has no {name}" for name in sorted(wants.keys() - has)]
    return reasons or [  # a shape follows from the sizes, unless a matrix was put in its place
        f"{name} is {has[name]}, not {wants[name]}"
        for name in sorted(has)
        if has[name] != wants[name]
    ]


def _parts(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of its parameters; () for a part without any, such as a norm without weights."""
    shapes = {name: tuple(x.shape) for name, x in layer.state_dict().items()}
    return shapes | {name: () for name, part in layer.named_children() if not part.state_dict()}


@door
def convert(model: _Model) -> _Model:
    """The model with our layer wherever it had nn.MultiheadAttention; in place, and returned.

    Each becomes a wqkv.MultiheadAttention that is called as before: with batch_first, without a
    batch, and with torch's masks (True = hidden, floats are added). So nn.Transformer and its
    layers work as before; their fast paths, which do not call the module, are not taken.
    Rows that may see nothing get context 0; torch has NaN or 0 there, depending on its path.
    The model loads both its old state_dict and its new one; `to_torch` gives the old modules back.
    The parameters are new: make an optimizer after this.

    `conversion(model)` says what was replaced. Attention of other classes is left as it is: a
    warning says how many modules of which, or that nothing was replaced.

    Raises:
        KindError, ArgumentError: what `from_torch` raises for one of them, with its name; or one
            shares a parameter with another module, or the model is wrapped for data parallelism.
            The model is then as it was.

    >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, batch_first=True), 2)
    >>> convert(encoder)(torch.randn(2, 17, 512)).shape
    torch.Size([2, 17, 512])
    """
    model = _replace_modules(model, nn.MultiheadAttention, StandIn.of)
    encoder: Any  # nn.TransformerEncoder passes nested tensors to its layers' fast path
    for encoder in model.modules():
        ours = any(isinstance(part, StandIn) for part in encoder.modules())
        if ours and getattr(encoder, "use_nested_tensor", False):
            encoder.use_nested_tensor, encoder.nested_before_convert = False, True
    account = conversion(model)
    if account.left or not account.replaced:
        do = "wqkv.watch looks at attention as it is; wqkv.use is for Hugging Face models."
        warnings.warn(f"{account}\n{do}", UserWarning, stacklevel=3)
    return model


@dataclass(frozen=True, repr=False)
class Conversion:
    """What `convert` has made of a model, by the names of its modules."""

    model: str  # its class
    replaced: tuple[str, ...]
    left: Mapping[str, tuple[str, ...]]  # by their class, which is not nn.MultiheadAttention

    def __repr__(self) -> str:
        count = sum(map(len, self.left.values()))
        lines = [f"{self.model}: {len(self.replaced)} attention modules replaced, {count} left"]
        for kind, names in self.left.items():
            shown = [*names[:2], "...", names[-1]] if len(names) > 3 else names
            lines.append(f"  left, because it is a {kind}: {', '.join(shown)}")
        return "\n".join(lines)


@door
def conversion(model: nn.Module) -> Conversion:
    """Which attention modules of a model `convert` has replaced, and which it left, and why.

    It left those that are not nn.MultiheadAttention. They are found by their names and parts; our
    own layers that were in the model before are in neither list.

    >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, batch_first=True), 2)
    >>> conversion(convert(encoder))
    TransformerEncoder: 2 attention modules replaced, 0 left
    """
    like, left = attention_like(model), dict[str, list[str]]()
    for name, module in model.named_modules():
        if module in like and not isinstance(module, MultiheadAttention):
            kind = f"{type(module).__module__}.{type(module).__name__}"
            left.setdefault(kind, []).append(name)
    title, parts = type(model).__name__, model.named_modules()
    replaced = tuple(name or title for name, part in parts if isinstance(part, StandIn))
    return Conversion(title, replaced, {kind: tuple(names) for kind, names in left.items()})


def _replace_modules(model: Any, kind: type[Any], make: Callable[[Any], nn.Module]) -> Any:
    """Replace the modules of one kind, all or none; a module in two places stays one module."""
    made: dict[nn.Module, nn.Module] = {}
    places = _places(model)
    for path, module in model.named_modules():
        wrapped = isinstance(module, DistributedDataParallel)
        if wrapped and any(isinstance(part, kind) for part in module.modules()):
            raise ArgumentError(
                f"{path or 'The model'} is DistributedDataParallel, which averages the gradients "
                "of the parameters that it was given, and of no new ones.\n"
                "Pass the model before it is wrapped."
            )
        if not isinstance(module, kind):
            continue
        try:
            made[module] = make(module)
            for parameter in module.parameters():
                if len(shared := places[parameter]) > 1:
                    raise ArgumentError(
                        f"one parameter is {' and '.join(shared)}, and would become several.\n"
                        "Give each its own, and tie the new ones after this."
                    )
        except (ArgumentError, KindError) as error:
            raise type(error)(f"{path or type(model).__name__}: {error}") from None
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in made:
                setattr(parent, name, made[child])
    return made.get(model, model)


def _places(model: nn.Module) -> dict[Tensor, list[str]]:
    """The names of each parameter of a model; a module in two places counts once."""
    places: dict[Tensor, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in of_torch.parameters_of(module).items():
            if parameter is not None:
                places.setdefault(parameter, []).append(f"{path}.{name}".lstrip("."))
    return places


class StandIn(MultiheadAttention):
    """Our layer with the forward of nn.MultiheadAttention; `trace`, `map` and `qkv` stay ours."""

    batch_first = False
    # torch's encoders read these two; with these values they call the module, on no fast path.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    @classmethod
    def of(cls, module: nn.MultiheadAttention) -> StandIn:
        layer = _our_layer(module, cls)
        layer.batch_first = module.batch_first
        return layer

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights before dropout (batch, [n_head,] query_len, key_len) or None.

        Asking for weights does not change the output. bias_k adds a column to them, and so does
        add_zero_attn: every query sees these keys, whatever a mask says.
        With `is_causal` the mask is Causal(), whatever `attn_mask` says.
        """
        rest = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
        if (node := one_node(self, query, key, value, *rest)) is not None:
            return node  # type: ignore[no-any-return]
        checks.tensors(query=query, key=key, value=value)
        if query.ndim not in (2, 3):
            came = {"query": query}
            do = "Pass (length, d), or three axes with a batch."
            raise ArgumentError(message(f"`query` has {query.ndim} axes, not 2 or 3.", came, do))
        single, length_first = query.ndim == 2, query.ndim == 3 and not self.batch_first
        Q, K, V = (
            x[None] if single else x.transpose(0, 1) if length_first else x
            for x in (query, key, value)
        )
        if single and key_padding_mask is not None:
            key_padding_mask = key_padding_mask[None]
        mask, bias = self._rules(Q, K, key_padding_mask, None if is_causal else attn_mask)
        if is_causal:
            mask = mask & Causal()
        q, held, where = self._project(Q, K, V, mask, None, 0, None)
        q, held, _ = self._attention_inputs(q, held)
        ((piece, rules),) = self._rules_per_piece(held, where)
        pieces = [(piece, replace(rules, bias=bias))]
        output = self._output(self._attended(q, pieces), Q)
        output = output[0] if single else output.transpose(0, 1) if length_first else output
        if not need_weights:
            return output, None
        calls = [
            call_of(q, piece.k, piece.v, rules) for piece, rules in (*pieces, *self._beside(q))
        ]
        weights = self._weights(calls).to(output.dtype)
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return output, weights[0] if single else weights

    def _rules(
        self, Q: Tensor, K: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
    ) -> tuple[Mask, Bias | None]:
        """torch's masks as ours, and what they add to the scores."""
        rules = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
        checks.tensors(**{name: rule for name, rule in rules.items() if rule is not None})
        batch, query_len, key_len = Q.shape[0], Q.shape[1], K.shape[1]
        given = []
        if key_padding_mask is not None:
            _check("key_padding_mask", key_padding_mask, batch, key_len)
            given.append(key_padding_mask[:, None, None])
        if attn_mask is not None and attn_mask.ndim == 2:
            _check("attn_mask", attn_mask, query_len, key_len)
            given.append(attn_mask[None, None])
        elif attn_mask is not None:
            _check("attn_mask", attn_mask, batch * self.n_head, query_len, key_len)
            given.append(torch.unflatten(attn_mask, 0, (batch, self.n_head)))
        mask: Mask = Full()
        bias: Tensor | None = None
        for four in given:
            if four.dtype == torch.bool:
                mask = mask & Dense(~four)
            else:
                bias = four if bias is None else bias + four
        return mask, as_bias(bias)

    def _weights(self, calls: list[Call]) -> Tensor:
        if reasons := reference.reasons_against(calls[0]):
            raise EngineError(f"All weights are asked for: {reasons[0]}.\nPass need_weights=False.")
        _, weights, _ = all_steps(calls)
        if self.sinks is None:
            return weights
        return torch.cat((weights, 1 - weights.sum(dim=-1, keepdim=True)), dim=-1)  # the sink's

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Load by our names, or by those of nn.MultiheadAttention."""
        held = {name: state_dict.pop(prefix + name) for name in HELD if prefix + name in state_dict}
        if held and self.sinks is not None:
            state_dict.setdefault(f"{prefix}sinks", torch.zeros_like(self.sinks))
        ours = _ours(held, self.n_head)
        state_dict.update({prefix + name: part for name, part in ours.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _check(name: str, mask: Tensor, *shape: int) -> None:
    if tuple(mask.shape) != shape:
        raise ArgumentError(
            message(
                f"`{name}` has shape {tuple(mask.shape)}; for this call it is {shape}.",
                {name: mask},
                "It is (batch, key_len), or (query_len, key_len), or that for every head of every "
                "sample: (batch * n_head, query_len, key_len).",
            )
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise KindError(
            message(
                f"`{name}` holds {mask.dtype}.",
                {name: mask},
                "Pass bool (True = hidden), or floats that are added to the scores.",
            )
        )
