"""wqkv: multi-head attention that you can open.

q = X WQ, k = X WK, v = X WV; scores = q k^T / sqrt(d_k); weights = softmax(scores);
output = concat(weights v) WO.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wqkv import experiments as experiments
    from wqkv.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        """Import a public name or a submodule when it is first asked for, and torch with it.

        So `wqkv --help` does not wait for torch.
        """
        if name == "__all__" or not name.startswith("_"):
            if find_spec(f"wqkv.{name}"):
                return import_module(f"wqkv.{name}")
            public = import_module("wqkv.public")
            names = ("__all__", *public.__all__, *public.UNSTARRED)
            globals().update({known: getattr(public, known) for known in names})
            if name in names:
                return globals()[name]
        raise AttributeError(f"module 'wqkv' has no attribute {name!r}")

    def __dir__() -> list[str]:
        public = import_module("wqkv.public")
        return sorted({*globals(), *public.__all__, *public.UNSTARRED})

    # torch.export.load wants the operators of a saved program to be there, before any name is used
    if "torch" in sys.modules:
        import_module("wqkv.attend.engines.operator")
