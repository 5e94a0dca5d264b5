"""A checkpoint says by which rules (mask, position, scale, ...) its tensors were learned.

They are kept in the metadata of a state_dict, beside torch's own version number. Tensors, keys and
strict loading stay as they are. Loading warns if the rules of the layer are others; a file that
holds tensors alone has no metadata, and gives no warning.
"""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

from torch import nn

from wqkv.attend.forms import Form, alike, outline
from wqkv.upstream import of_torch

#: Arguments that are not compared: they change no result, or the tensors show them.
_NOT_COMPARED = {
    "d_model", "kdim", "vdim", "rank", "q_rank", "bias", "WO", "sinks", "dropout", "engine",
}  # fmt: skip
#: Counts of which a rank has its share (`shard_heads`). If these alone differ, nothing is wrong.
_COUNTS = {"n_head", "n_kv_head"}


class SavesRules(nn.Module, Form):
    """A module with a JSON form, whose state_dict metadata keeps the arguments it was made with."""

    # Any in these two: the signatures are torch's; metadata is JSON.

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        said = of_torch.said_of(destination, prefix)
        if said is not None:
            said["rules"] = _rules(self)

    # torch's signature; the metadata is JSON.
    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        if "rules" in local_metadata:
            _compare(local_metadata["rules"], _rules(self), prefix[:-1])
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def _rules(module: SavesRules) -> dict[str, Any]:  # JSON
    """The arguments that change the result, as plain values."""
    given = module.arguments().items()
    rules = {name: outline(value) for name, value in given if name not in _NOT_COMPARED}
    if rules["scale"] is None:
        rules["scale"] = 1 / math.sqrt(module.arguments()["d_k"])
    return rules


def _compare(saved: dict[str, Any], own: dict[str, Any], name: str) -> None:  # both JSON
    """Warn if a rule of the checkpoint is another than the layer's; one may be missing."""
    odd = [rule for rule in own if rule in saved and not alike(saved[rule], own[rule])]
    if set(odd) <= _COUNTS:
        return
    shown = [f"  {rule}: {_text(saved[rule])} there, {_text(own[rule])} here" for rule in odd]
    warnings.warn(
        "\n".join(
            [
                f"The checkpoint of {f'`{name}`' if name else 'this layer'} was made by other "
                f"rules than the layer has: {', '.join(odd)}.",
                *shown,
                "Its tensors are loaded. Make the layer by the rules of the checkpoint, or, if the "
                "new rules are meant, pass load_state_dict(dict(state_dict)), which says nothing.",
            ]
        ),
        UserWarning,
        stacklevel=2,
    )


def _text(form: Any) -> str:
    text = json.dumps(form)
    return text if len(text) <= 200 else f"{text[:197]}..."


def has_bias(module: nn.Module | None) -> bool:
    """Whether a projection adds a bias; in a Sequential (LatentAttention's WQ) its first part."""
    first = module[0] if isinstance(module, nn.Sequential) else module
    return getattr(first, "bias", None) is not None
