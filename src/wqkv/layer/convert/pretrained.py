"""The one way to what transformers opens: nothing that a checkpoint brings along ever runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wqkv.errors import ArgumentError, need


def opened(what: str, make: Callable[..., Any], *given: Any, **rest: Any) -> Any:
    """Call a `from_pretrained` or `from_config` of transformers on the checkpoint `what`.

    No Python of the checkpoint runs, and nothing is asked on standard input: transformers asks for
    leave to run it where `trust_remote_code` is not given.

    Raises:
        ArgumentError: it does not open without its own Python.
    """
    try:
        return make(*given, trust_remote_code=False, **rest)
    except ValueError as error:  # transformers has no class of its own for this one
        if "trust_remote_code" not in str(error):
            raise
        raise ArgumentError(
            f"{what!r} brings Python of its own, which wqkv never runs.\n"
            "Pass a model of a family that transformers itself has."
        ) from None


def configuration(what: str, where: Any, **rest: Any) -> Any:
    """The configuration of a checkpoint, which is a whole model and no adapter.

    How attention and experts are computed is left to transformers, because a checkpoint can name
    kernels there, which would be fetched and run.
    """
    transformers: Any = need("transformers", "hf", "Opening a model")
    config = opened(what, transformers.AutoConfig.from_pretrained, where, **rest)
    if transformers.utils.find_adapter_config_file(where) is not None:
        raise ArgumentError(
            f"{what!r} has an adapter_config.json, so its weights belong on those of another model."
            "\nPass the merged model: peft's merge_and_unload() makes it."
        )
    config._attn_implementation = config._experts_implementation = None
    return config
