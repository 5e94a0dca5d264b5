"""The one place that opens checkpoints with transformers: no Python of a checkpoint ever runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wqkv.errors import ArgumentError, need, watch_instead
from wqkv.sentences.errors import mistake


# Any: the arguments and results are those of whatever function of transformers is called.
def opened(what: str, make: Callable[..., Any], *given: Any, **rest: Any) -> Any:
    """Call a `from_pretrained` or `from_config` of transformers on the checkpoint `what`.

    No Python of the checkpoint runs. `trust_remote_code` is always given, because without it
    transformers asks on standard input whether to run it.

    Raises:
        ArgumentError: it does not open without its own Python.
    """
    try:
        return make(*given, trust_remote_code=False, **rest)
    except ValueError as error:  # transformers has no class of its own for this one
        if "trust_remote_code" not in str(error):
            raise
        raise watch_instead(
            mistake("own_python", name=what),
            "import transformers, wqkv",
            f"model = transformers.AutoModel.from_pretrained({what!r}, trust_remote_code=True)",
            call="model(**inputs)",
        ) from None


def configuration(what: str, where: Any, **rest: Any) -> Any:
    """The configuration of a checkpoint; raises if it is an adapter for another model.

    What it says of how attention and experts are computed is removed, because a checkpoint can name
    kernels there, which transformers would fetch and run.
    """
    transformers: Any = need("transformers", "hf", mistake("opening"))
    config = opened(what, transformers.AutoConfig.from_pretrained, where, **rest)
    if transformers.utils.find_adapter_config_file(where) is not None:
        raise ArgumentError(mistake("adapter", name=what))
    config._attn_implementation = config._experts_implementation = None
    return config
