"""Ranks agree about a call before anything travels, or all of them raise.

All that must be equal on all ranks is written as a text, and the text's digest is one number, so
a call costs one all_gather of 8 bytes per rank. Only if the digests differ are the texts sent too,
for the message.
"""

from __future__ import annotations

import ctypes
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from wqkv.attend.bias import Bias
from wqkv.attend.call import Call
from wqkv.attend.masks.algebra import Mask
from wqkv.attend.parallel import messages
from wqkv.errors import ArgumentError, EngineError, describe

#: A checksum reads at most so many numbers of a tensor, evenly spread.
CHECKED_NUMBERS = 2**14
#: An error shows at most so many sides, and so many characters of a value.
SHOWN_SIDES, SHOWN_CHARACTERS = 4, 160


def agree(group: ProcessGroup, asked: Mapping[str, str]) -> None:
    """Raise on every rank if the ranks ask for different things. Every rank must call this.

    Cost: 0.1 ms with gloo on 2 ranks of one idle machine, and 0.03 ms to write the text. That is
    7 percent of the forward pass of a causal ring of 8 heads at 256 tokens, and 2 percent at 1,024.
    In a group that has GPUs alone (nccl), every rank waits for its GPU. In a group that has a
    backend for the CPU too (init_process_group() makes one if no backend is named), none waits.

    Raises:
        ArgumentError: what the ranks ask for differs, with the sides and their ranks; or another
            rank has raised inside `together`, with its error.
    """
    texts = _every(group, json.dumps(asked))
    if len(set(texts)) > 1:
        raise ArgumentError(_difference([json.loads(text) for text in texts]))


def together(group: ProcessGroup | None) -> AbstractContextManager[None]:
    """Context for the work before `agree`: if one rank raises in it, all others raise in `agree`.

    A group of None is a call of one process, which has nobody to tell.
    """
    return nullcontext() if group is None else _together(group)


@contextmanager
def _together(group: ProcessGroup) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        with suppress(EngineError):  # if the other ranks are gone, this rank's error says more
            _every(group, json.dumps({"error": f"{type(error).__name__}: {error}"}))
        raise


def question(call: Call, asked: str) -> dict[str, str]:
    """What must be equal on all ranks that share a call."""
    rules = call.rules
    return {
        "asked": asked,
        **{name: shown(getattr(call, name)) for name in ("query", "key", "value")},
        **{name: read(getattr(rules, name)) for name in ("mask", "bias", "sinks")},
        "query_offset": read(call.query_offset),
        "scale": repr(call.scale),
        **{name: repr(getattr(rules, name)) for name in ("softcap", "dropout_p")},
        "gradients": "wanted" if call.wants_grad() or call.wants_bias_grad() else "none",
    }


def shown(thing: object) -> str:
    """Describe a tensor or rule alike on all ranks: without the number of a GPU or an address."""
    text = describe(thing) if isinstance(thing, Tensor) else repr(thing)
    return re.sub(r" at 0x[0-9a-f]+|(?<=[a-z]):\d+", "", text)


def read(thing: object) -> str:
    """Describe a tensor or rule as `shown` does, with a checksum of each tensor it is made of."""
    tensors: tuple[Tensor, ...] = (thing,) if isinstance(thing, Tensor) else ()
    if isinstance(thing, Mask | Bias):
        tensors = thing.tensors()
    return " ".join([shown(thing), *map(_checksum, tensors)])


def _checksum(x: Tensor) -> str:
    """A checksum of a tensor's numbers, or of some of them; "" for a tensor on a GPU."""
    x = x.detach()
    if type(x) is not Tensor or x.device.type != "cpu" or not x.numel():
        return ""
    # an expanded axis (stride 0) holds the same numbers over and over: one of them is enough
    x = x[tuple(slice(0, 1) if step == 0 else slice(None) for step in x.stride())]
    if x.numel() > CHECKED_NUMBERS:
        if not x.is_contiguous():
            return ""
        x = x.view(-1)[:: x.numel() // CHECKED_NUMBERS | 1]  # an odd step visits all columns
    x = torch.func.debug_unwrap(x.contiguous())
    numbers = (ctypes.c_char * (x.numel() * x.element_size())).from_address(x.data_ptr())
    return f"#{zlib.crc32(numbers):08x}"


def _every(group: ProcessGroup, text: str) -> list[str]:
    """Every rank's text; the texts are sent only if they differ."""
    size = group.size()
    if size == 1:
        return [text]
    digest = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
    mine = torch.tensor([digest], device=_device(group))
    if len(set(torch.cat(messages.gathered(group, mine)).tolist())) == 1:
        return [text] * size
    return messages.gathered_texts(group, text)


def _device(group: ProcessGroup) -> torch.device:
    """The device of the tensors that a group sends: the CPU if it has a backend for it."""
    if "cpu" in dist.get_backend_config(group):
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return torch.device(kind.type, torch.accelerator.current_device_index())


def _difference(asked: list[dict[str, str]]) -> str:
    """The message: what differs between the ranks, and which ranks say what about it."""
    failed = [rank for rank, one in enumerate(asked) if "error" in one]
    if failed:
        return (
            f"{_ranks(failed)} met an error before anything was sent, so all ranks raise:\n"
            f"{asked[failed[0]]['error']}"
        )
    names = [name for name in asked[0] if len({one.get(name) for one in asked}) > 1]
    what = "ask for different things"
    if names[0] != "asked":  # else the calls differ, and so whatever is in them
        what = f"disagree about {', '.join(f'`{name}`' for name in names)}"
    names = names[:1] if names[0] == "asked" else names
    sides: dict[tuple[str, ...], list[int]] = {}
    for rank, one in enumerate(asked):
        sides.setdefault(tuple(one[name] for name in names), []).append(rank)
    lines = [f"The ranks {what}."]
    for values, ranks in list(sides.items())[:SHOWN_SIDES]:
        pairs = zip(names, values, strict=True)
        lines.append(f"  {_ranks(ranks)}: " + "; ".join(f"{n} {_cut(v)}" for n, v in pairs))
    if len(sides) > SHOWN_SIDES:
        lines.append(f"  and {len(sides) - SHOWN_SIDES} other sides")
    return "\n".join([*lines, "Ask for the same on every rank."])


def _cut(value: str) -> str:
    value = " ".join(value.split())
    return value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}..."


def _ranks(ranks: list[int]) -> str:
    """`Rank 0`, `Ranks 1, 2 and 3`."""
    *first, last = map(str, ranks)
    if len(first) > 3:
        first, last = first[:3], f"{len(ranks) - 3} more"
    return f"Ranks {', '.join(first)} and {last}" if first else f"Rank {last}"
