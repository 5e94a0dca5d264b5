"""`wqkv models`."""

from __future__ import annotations

import argparse
from typing import Any

from wqkv.commands.given import Commands, add_language
from wqkv.commands.screen import print_json
from wqkv.sentences import say, translated
from wqkv.sentences.commands import LIST
from wqkv.sentences.errors import mistake


def add(commands: Commands) -> None:
    what = "list the models that open without a network, and how to get more"
    parser = commands.add_parser(
        "models", help=what, description=what.capitalize() + ".", allow_abbrev=False
    )
    parser.set_defaults(command=run)
    add_language(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the list")


def run(args: argparse.Namespace) -> None:
    from wqkv import __version__
    from wqkv.study.packaged import PACKAGED

    cached = _cached()
    if args.json:
        packaged = [
            {**model._asdict(), "installed": model.folder is not None}
            for model in PACKAGED.values()
        ]
        print_json({"wqkv": __version__, "packaged": packaged, "cached": cached})
        return

    def said(name: str, /, **facts: object) -> str:
        return translated(say(LIST[name], **facts), args.lang)

    print(said("packaged"))
    for model in PACKAGED.values():
        state = "not_installed" if model.folder is None else "installed"
        bits = "" if model.bits is None else say(LIST["bits"], bits=model.bits)
        print(f"  {model.alias:8}{said('reads', name=model.name, reads=model.reads, bits=bits)}")
        print(f"{'':10}{said(state, pip=model.pip)}")
    print(f"\n{said('cached')}")
    print("\n".join(f"  {name}" for name in cached) or f"  {said('none')}")
    print(f"\n{said('more')}")


def _cached() -> list[str]:
    """The names of the models in the cache of the hub's library."""
    from wqkv.errors import need

    hub: Any = need("huggingface_hub", "hf", mistake("listing"))
    try:
        repos = hub.scan_cache_dir().repos
    except hub.CacheNotFound:  # nothing was ever downloaded
        return []
    return sorted(repo.repo_id for repo in repos if repo.repo_type == "model")
