"""Note an error in our own code while a model runs, so that the model itself does not fail."""

from __future__ import annotations

from collections import Counter
from types import TracebackType

#: Whether a fault is raised all the same, as our own tests ask for.
RAISED = False


class Faults(Counter[str]):
    """What went wrong, and how often. A context of code that must not fail for a model's sake."""

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if kind is None or not issubclass(kind, Exception) or RAISED:
            return False
        self[f"{kind.__name__}: {error}".splitlines()[0]] += 1
        return True

    def lines(self) -> list[str]:
        """What the report says of them."""
        return [
            f"wqkv failed while it listened (count: {count}), and the model went on: {what}"
            for what, count in self.items()
        ]
