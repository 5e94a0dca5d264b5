"""What an answer rests on, in sentences: the question, what was removed, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from wqkv.draw import steps
from wqkv.effects.records import GroupEffect, LinkEffect, Why

#: What becomes of the weight of a link that is removed.
REMOVALS = {
    "renormalize": "its weight goes to the row's other keys",
    "zero": "its weight stays, and the value that it carries becomes 0",
}
#: What is removed with a group.
GROUP_REMOVALS = {
    "head": "Heads, the output of each set to 0",
    "token": "Tokens, each hidden from all others that could see it, in all layers and heads",
    "span": "Spans, each hidden from all tokens outside that could see it, in all layers and heads",
}
#: What is said above each list of links.
STRONGEST = "The strongest links, by true effect:"
FIRST_TOKEN = {
    "renormalize": "Links to the first token. Removing one switches a resting head on, and says"
    " nothing about what was read. This list may miss some:",
    "zero": "Links to the first token, which a resting head looks at. They say nothing about what"
    " was read, and this list may miss some:",
}
HEAVIEST = (
    "The heaviest links of all layers and heads, to compare: a weight says little about an effect."
)
UNREMOVED = "The strongest of the links that were not removed, predicted only:"
#: How many links a list shows, except the first: that one shows those that were removed together.
FEW = 5
MARKS = (
    "! marks a prediction that was doubtful before the removal (large local change, its own block"
    " says otherwise), or that missed by more than half (wrong sign, too small, too large)."
)
CAVEAT = "This is not a proof that nothing else matters."


class Sides(NamedTuple):
    """What a link does: one whose removal lowers the number, and one whose removal raises it."""

    speaks_for: str
    speaks_against: str


def sides(found: Why) -> Sides:
    """Return what a negative and a positive effect say about a link.

    A link with a negative effect `speaks for 'Madrid'`.
    """
    question = found.question
    answer, rival = names(found)
    if question.kind == "function":
        return Sides("raises the number", "lowers the number")
    if question.kind == "similarity" and not rival:
        return Sides("makes the texts more alike", "makes the texts less alike")
    return Sides(f"speaks for {answer}", f"speaks for {rival}" if rival else "speaks against it")


def names(found: Why) -> tuple[str, str]:
    """Return the answer and its rival ("" if there is none) in quotes, as sentences name them.

    The blank before a token is left out, unless the two differ in nothing else.
    """
    answer, rival = found.question.answer or "", found.question.against or ""
    if answer.strip(" ") != rival.strip(" "):
        answer, rival = (text.strip(" ") or text for text in (answer, rival))
    return (_quoted(answer) if answer else "the answer"), (_quoted(rival) if rival else "")


def _quoted(text: str) -> str:
    return f"'{steps.short(steps.visible(text))}'" if text.strip(" ") else repr(text)


def texts(found: Why) -> dict[str, tuple[str, ...]]:
    """Return the tokens of each text by what the model did with it, the one asked about last."""
    if "text" in found.tokens:
        return {"read": found.tokens["text"]}
    return {"read": found.tokens["encoder"], "written": found.tokens["decoder"]}


def asked_text(found: Why) -> tuple[str, ...]:
    """Return the tokens that `question.at` counts."""
    *_, last = texts(found).values()
    return last


def title(found: Why) -> str:
    """Return the question in short."""
    what = "answer" if found.question.kind in ("next token", "masked token") else "number"
    return f"What does this {what} of {found.model} rest on?"


def asked(found: Why) -> str:
    """Return the question and its number: `logit of ' Madrid', for the token after is@18: 7.90`."""
    question = found.question
    said = steps.visible(question.number)
    if question.at is not None:
        which = {"next token": "the token after", "masked token": "the masked token"}
        name = f"{steps.label(asked_text(found), question.at)}@{question.at}"
        said += f", for {which.get(question.kind, 'the token')} {name}"
    return f"{said}: {level(found.before, places(found))}{_winner(found, found.before)}"


def _winner(found: Why, number: float, still: str = "") -> str:
    """Which of two answers has the larger number; "" where one alone is asked about."""
    answer, rival = names(found)
    if not rival or not math.isfinite(number):
        return ""
    return f", so {answer if number > 0 else rival} {still}wins"


def own(found: Why) -> str:
    """Return how the model's own number differs from the one that our attention gives."""
    off = f"differs by {abs(found.off):.1e}" if found.off else "is the same"
    return f"Computed with our attention; the model's own number {off}."


def counted(found: Why) -> str:
    """Return how many tokens and links there are, and how many were removed and how."""
    tokens = [f"{_some(len(tokens), 'token')} {done}" for done, tokens in texts(found).items()]
    return (
        f"{' and '.join(tokens)}, {_some(found.count, 'link')} in all layers and heads."
        f" {found.checked.removed:,} of them were removed for real, each by itself:"
        f' {REMOVALS[found.how]} ("{found.how}").'
    )


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def meant(found: Why) -> str:
    """Return what the sign of an effect says."""
    down, up = sides(found)
    return (
        "The effect of a link is the number without it less the number with it."
        f" A link with an effect below 0 {down}, one above 0 {up}."
    )


def places(found: Why) -> int:
    """Return how many decimals the effects are shown with: three digits of the largest, >= 2."""
    links = (*found.links, *found.resting, *found.predicted)
    largest = max(map(size, links), default=0.0) or 1.0
    return min(max(2, 2 - math.floor(math.log10(largest))), 6)


def value(link: LinkEffect) -> float:
    """Return what is known best of a link's effect: the true one, or the predicted one."""
    return link.predicted if link.true is None else link.true


def size(link: LinkEffect) -> float:
    """Return |value(link)|, and 0 for a link that cannot be removed."""
    return abs(value(link)) if math.isfinite(value(link)) else 0.0


def effect(value: float | None, decimals: int) -> str:
    """Return an effect with its sign; what would round to 0 as a power of ten, and none as `-`.

    >>> effect(-11.338, 2), effect(0.00042, 2), effect(None, 2)
    ('-11.34', '+4.2e-04', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    shown = f"{value:+.{decimals}f}"
    if abs(value) >= 9999.995 or (value and not float(shown)):
        return f"{value:+.1e}"
    return shown


def cell(found: Why, value: float | None) -> str:
    """Return an effect as a list shows it: one below rounding has no digits."""
    below = value is not None and abs(value) < found.rounding
    return "~0" if below else effect(value, places(found))


def level(value: float, decimals: int) -> str:
    """Return the number itself, which has a sign only where it is negative."""
    return effect(value, decimals).removeprefix("+")


def mark(found: Why, link: LinkEffect) -> str:
    """Return why a row is to be read with care; "" if it is not.

    A prediction is doubted before the removal (`warning`) and found to have missed (`miss`) after.
    """
    if nothing := unsaid(found, value(link)):
        return nothing
    reasons = [reason for reason in (link.warning, link.miss) if reason]
    return f"! {', '.join(reasons)}" if reasons else ""


def unsaid(found: Why, value: float) -> str:
    """Return why an effect says nothing; "" if it says something."""
    if not math.isfinite(value):
        return "cannot be removed: a row has no other key"
    return "below rounding" if abs(value) < found.rounding else ""


class LinkList(NamedTuple):
    """A list of links: its name, what is said above it, what it shows, and the rest."""

    name: str  # "links", "resting", "heaviest" or "predicted"
    title: str
    links: tuple[LinkEffect, ...]
    rest: tuple[LinkEffect, ...]


def lists(found: Why) -> list[LinkList]:
    """Return the lists of links that are shown, as far as they have any."""
    first = found.together.links if found.together is not None else FEW
    return [
        LinkList(name, title, links[:count], links[count:])
        for name, title, links, count in (
            ("links", STRONGEST, found.links, first),
            ("resting", FIRST_TOKEN[found.how], found.resting, FEW),
            ("heaviest", HEAVIEST, found.heaviest, len(found.heaviest)),
            ("predicted", UNREMOVED, found.predicted, FEW),
        )
        if links
    ]


def place(found: Why, link: LinkEffect) -> tuple[str, str]:
    """Return the two tokens of a link: the query's, which looks, and the key's."""
    return found.tokens[link.part][link.query], found.keys[link.part][link.key]


def named(found: Why, link: LinkEffect, cut: Callable[[str], str]) -> str:
    """Return a link's two tokens, each cut to what there is room for: `is@18 -> Spain@17`."""
    query, key = map(cut, place(found, link))
    return f"{query}@{link.query} -> {key}@{link.key}"


def named_group(found: Why, group: GroupEffect) -> str:
    """Return what a group is: `layer 3, head 4`, `Spain@17` or `tokens 0 to 6: The capital of`."""
    name = steps.visible(group.label)
    if group.by == "token":
        name += f"@{group.first}"
    if group.by == "span":
        name = f"tokens {group.first} to {group.last}: {name}"
    return f"{group.part}, {name}" if len(found.tokens) > 1 else name


def together(found: Why) -> list[str]:
    """Return what removing the strongest links together does, in sentences; none if not tried."""
    joint, decimals = found.together, places(found)
    if joint is None:
        return []
    before, after = level(found.before, decimals), level(joint.after, decimals)
    which, more = "The link", ""
    if joint.links > 1:
        which, more = f"All {_some(joint.links, 'link')}", " together"
    if joint.kept:
        more += f" ({joint.kept:,} stayed, because the row would have lost every key)"
    still = "still " if joint.after * found.before > 0 else ""
    lines = [
        f"{which} of the first list removed{more}:"
        f" {before} -> {after}{_winner(found, joint.after, still)}."
    ]
    if joint.spread is not None:
        low, high = (level(number, decimals) for number in joint.spread)
        count = len(joint.finite)
        draws = f"{count} draws, 5 to 95 %" if count > 1 else "1 draw"
        until = f" to {high}" if low != high else ""
        lines.append(
            f"As many other links of like weight, of the same tokens: {before} -> {low}{until}"
            f" ({draws})."
        )
    else:
        lines.append("There were no other links of like weight to compare with.")
    single = [link.true for link in found.links[: joint.links] if link.true is not None]
    total = sum(filter(math.isfinite, single))
    change = joint.after - found.before
    if joint.links > 1 and math.isfinite(change):
        lines.append(
            f"Single effects sum to {effect(total, decimals)}, together they are"
            f" {effect(change, decimals)}: {_compared(total, change)}."
        )
    return lines


def _compared(total: float, change: float) -> str:
    if abs(total - change) <= 0.05 * max(abs(total), abs(change)):
        return "they add up"
    if total * change < 0:
        return "they do not add up"
    return "they overlap" if abs(change) < abs(total) else "together they do more"


def unchecked(found: Why) -> list[str]:
    """Return what was not removed, and how often the predictions were right, in sentences."""
    checked = found.checked
    left, right = (
        "Every link was removed for real.",
        "No removed link has an effect above rounding.",
    )
    if checked.left:
        heavy = f", {checked.heavy:,} of them of weight above 0.5" if checked.heavy else ""
        left = (
            f"Not removed: {_some(checked.left, 'link')} with {100 * checked.share:.3g} % of all"
            f" predicted effect{heavy}; none is predicted beyond"
            f" {level(checked.largest, places(found))}."
        )
    if checked.judged:
        clear = " with an effect above rounding" if checked.judged < checked.removed else ""
        right = (
            f"Predictions can miss: of those for {_some(checked.judged, 'removed link')}{clear},"
            f" {checked.sign:,} had the right sign, and {checked.close:,} lay within 50 % of the"
            " true effect."
        )
    return [left, right, CAVEAT]
