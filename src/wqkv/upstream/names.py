"""A name from inside another package, or an error that says which version lacks it."""

from __future__ import annotations

from importlib import metadata
from pkgutil import resolve_name
from typing import Any

from wqkv.errors import UpstreamError


def find(path: str, tested: str) -> Any:  # Any: whatever stands there
    """Return the object at a path, such as "transformers.masking_utils:sdpa_mask".

    Args:
        tested: the versions of the package that wqkv is tested with.

    Raises:
        UpstreamError: the installed version has no such name.
    """
    try:
        return resolve_name(path)
    except (ImportError, AttributeError) as error:
        raise _lacks(path, tested, error) from error


def member(thing: object, path: str, tested: str) -> Any:
    """Return the last name of a path as a member of `thing`.

    Args:
        path: where the class of `thing` defines the member, such as "torch:nn.Module._parameters".
        tested: the versions of the package that wqkv is tested with.

    Raises:
        UpstreamError: it has no such member in the installed version.
    """
    try:
        return getattr(thing, path.rpartition(".")[2])
    except AttributeError as error:
        raise _lacks(path, tested, error) from error


def _lacks(path: str, tested: str, error: Exception) -> UpstreamError:
    package = path.partition(":")[0].partition(".")[0]
    return UpstreamError(
        f"{package} {metadata.version(package)} has no `{path.strip(':').replace(':', '.')}`, "
        f"which wqkv uses: {error}.\n"
        f"Install a version that wqkv is tested with: {package} {tested}."
    )
