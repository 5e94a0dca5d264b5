"""The types of the API's answers for the page, generated from the records of explorer/schema.py.

`python -m tests.browser.page_types` writes page/types.d.ts; test_types.py says when it is old.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from wqkv.explorer import schema

PAGE = Path(schema.__file__).parent / "page"
FILE = PAGE / "types.d.ts"
HEAD = """\
// The records of explorer/schema.py as types. Generated: python -m tests.browser.page_types
"""
PLAIN = {int: "number", float: "number", str: "string", bool: "boolean", type(None): "null"}


def written() -> str:
    """The whole file: an interface for each record, in the order in which they stand there."""
    found = [record for record in vars(schema).values() if is_typeddict(record)]
    return "\n".join([HEAD, *map(interface, found)])


def interface(record: type) -> str:
    """A record as an interface of TypeScript; a key that may be missing has a question mark."""
    lines = [f"/** {inspect.cleandoc(record.__doc__ or '').replace(chr(10), chr(10) + ' * ')} */"]
    lines.append(f"export interface {record.__name__} {{")
    for name, hint in get_type_hints(record, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        kind = typed(get_args(hint)[0] if optional else hint)
        lines.append(f"  {name}{'?' * optional}: {kind};")
    return "\n".join([*lines, "}", ""])


def typed(hint: Any) -> str:
    """The type of a value, as TypeScript writes it."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint]
    if is_typeddict(hint):
        return str(hint.__name__)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(typed, inner)))
    if origin is Literal:
        return " | ".join(map(json.dumps, inner))
    if origin is tuple:
        return f"[{', '.join(map(typed, inner))}]"
    if origin is dict:
        return f"{{ [name: string]: {typed(inner[1])} }}"
    if origin is Sequence:
        kind = typed(inner[0])
        return f"({kind})[]" if "|" in kind else f"{kind}[]"
    raise TypeError(f"{hint} has no type in TypeScript yet: give it a line in page_types.py.")


if __name__ == "__main__":
    FILE.write_text(written(), "utf-8")
