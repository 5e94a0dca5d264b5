"""What `why` answers: one number of the model, and what removing a part of it does to that number.

All effects are in the unit of that number, after - before: a negative effect says that the part
had spoken for the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from wqkv.maps.link_map import How

#: What may be removed together.
By: TypeAlias = Literal["head", "token", "span"]
GROUPS: tuple[By, ...] = ("head", "token", "span")
#: A prediction is marked where removing the link changes the token's hidden state by more than this
#: share of its length, or where computing the link's own block exactly moves the prediction by more
#: than that share of it. Both were read off true removals: of predictions off by more than half,
#: 79 % are marked, and of all links 23 % (benchmarks/effects.py; on prompts that were not used for
#: that, 79 % and 15 %).
LARGE_CHANGE, LARGE_MOVE = 0.18, 0.15


@dataclass(frozen=True)
class Question:
    """The number that is asked about.

    `kind` is "next token", "masked token", "similarity" or "function". `number` says it in words,
    such as "logit of ' Madrid' less logit of ' Rome'". `at` is the number of the token after which
    the next token is asked for, or of the masked token; None for the other two kinds.
    """

    kind: Literal["next token", "masked token", "similarity", "function"]
    number: str
    answer: str | None = None
    against: str | None = None
    at: int | None = None


@dataclass(frozen=True)
class LinkEffect:
    """One link: token `query` looks at token `key` in a head of a layer.

    `predicted` is the effect of its removal to first order, from gradients. `block` is the same
    with the link's own block computed exactly; None where that was not done. `true` is the effect
    of its removal in a model that ran again; None where it was not removed. `change` is how long
    the change of what attention adds to token `query` is, as a share of the length of the hidden
    state in front of the block.
    """

    part: str  # "text", or "encoder", "decoder", "cross" of a model of two texts
    layer: int
    head: int
    query: int
    key: int
    weight: float
    predicted: float
    change: float
    block: float | None = None
    true: float | None = None

    @property
    def warning(self) -> str:
        """The reason to doubt the prediction, known before the removal; "" if there is none.

        "large local change" or "its own block says otherwise".
        """
        if not self.change <= LARGE_CHANGE:
            return "large local change"
        if self.block is not None:
            size = max(abs(self.predicted), abs(self.block))
            if abs(self.block - self.predicted) > LARGE_MOVE * size:
                return "its own block says otherwise"
        return ""

    @property
    def miss(self) -> str:
        """How the prediction missed the true effect by more than half of it; "" if it did not.

        "wrong sign", "prediction too small" or "prediction too large".
        """
        true = self.true
        if true is None or not math.isfinite(true) or abs(self.predicted - true) <= abs(true) / 2:
            return ""
        if self.predicted * true < 0:
            return "wrong sign"
        return f"prediction too {'small' if abs(self.predicted) < abs(true) else 'large'}"


@dataclass(frozen=True)
class GroupEffect:
    """Several links removed together, for real: a head (output 0), a token or a span of tokens.

    A token or a span is hidden from all tokens outside it, in all layers and heads.
    """

    by: By
    part: str
    label: str  # the token, the text of the span, or "layer 3, head 4"
    true: float
    layer: int | None = None
    head: int | None = None
    first: int | None = None  # tokens first to last, both included
    last: int | None = None


@dataclass(frozen=True)
class Joint:
    """The strongest links, 8 at most, removed together, beside as many others of like weight.

    `links` is how many they are. `after` is the number that is asked about without them, and
    `others` the same number for each draw of other links of the same tokens, in any layer and head;
    it is empty where there are not as many others. `kept` counts links that stayed, because their
    row would have lost every key.
    """

    links: int
    after: float
    kept: int
    others: tuple[float, ...]

    @property
    def finite(self) -> tuple[float, ...]:
        """The finite numbers among `others`, sorted."""
        return tuple(sorted(filter(math.isfinite, self.others)))

    @property
    def spread(self) -> tuple[float, float] | None:
        """Between which numbers 5 to 95 % of the draws lie; None without finite ones."""
        draws, cut = self.finite, len(self.finite) // 20
        return (draws[cut], draws[-1 - cut]) if draws else None


@dataclass(frozen=True)
class Checked:
    """How good the predictions were, and what was not removed.

    `removed` links were removed for real, and `judged` of them have a true effect above rounding.
    Of these, `sign` were predicted with the right sign, and `close` within half of the true effect.
    The `left` other links have `share` of the sum of all |predicted effects|, and none has a larger
    |predicted effect| than `largest`; `heavy` of them weigh more than 0.5.
    The `heaviest` of a Why are removed to compare, and do not count here.
    """

    removed: int
    judged: int
    sign: int
    close: int
    left: int
    share: float
    largest: float
    heavy: int = 0


@dataclass(frozen=True)
class Why:
    """What an answer rests on.

    `before` is the number that is asked about, computed with our attention, and `off` by how much
    the model's own differs. An effect below `rounding` is rounding. `count` is how many links can
    be removed.
    `links` and `resting` were removed for real, and stand by falling |true|; `resting` are links to
    the first token, whose removal switches a resting head on, and which say nothing about what was
    read. `predicted` are the strongest links that were not removed. `heaviest` are the links of the
    largest weights, removed for real too: they show how little a weight says. `groups` is by
    "head", "token" and "span", as far as it was asked for.
    """

    model: str
    question: Question
    how: How
    tokens: Mapping[str, tuple[str, ...]]  # of the queries, by part
    keys: Mapping[str, tuple[str, ...]]  # of the keys, by part
    before: float
    off: float
    rounding: float
    count: int
    links: tuple[LinkEffect, ...]
    resting: tuple[LinkEffect, ...]
    predicted: tuple[LinkEffect, ...]
    checked: Checked
    heaviest: tuple[LinkEffect, ...] = ()
    together: Joint | None = None
    groups: Mapping[By, tuple[GroupEffect, ...]] | None = None
