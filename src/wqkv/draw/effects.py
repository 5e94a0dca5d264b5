"""What an answer rests on, in sentences: the question, what was removed, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from wqkv.draw import steps
from wqkv.effects.records import GroupEffect, LinkEffect, Why
from wqkv.maps.display import short, visible
from wqkv.sentences import say
from wqkv.sentences.counts import count_of
from wqkv.sentences.why import LISTED, QUESTION, TOGETHER, UNCHECKED

#: What the model did with a text.
READ, WRITTEN = say(QUESTION["read"]), say(QUESTION["written"])
#: How many links a list shows, except the first: that one shows those that were removed together.
FEW = 5


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
        return Sides(say(QUESTION["raises"]), say(QUESTION["lowers"]))
    if question.kind == "similarity" and not rival:
        return Sides(say(QUESTION["more_alike"]), say(QUESTION["less_alike"]))
    rivals = say(QUESTION["speaks_for" if rival else "speaks_against"], answer=rival)
    return Sides(say(QUESTION["speaks_for"], answer=answer), rivals)


def names(found: Why) -> tuple[str, str]:
    """Return the answer and its rival ("" if there is none) in quotes, as sentences name them.

    The blank before a token is left out, unless the two differ in nothing else.
    """
    answer, rival = found.question.answer or "", found.question.against or ""
    if answer.strip(" ") != rival.strip(" "):
        answer, rival = (text.strip(" ") or text for text in (answer, rival))
    named = _quoted(answer) if answer else say(QUESTION["the_answer"])
    return named, (_quoted(rival) if rival else "")


def _quoted(text: str) -> str:
    return f"'{short(visible(text))}'" if text.strip(" ") else repr(text)


def texts(found: Why) -> dict[str, tuple[str, ...]]:
    """Return the tokens of each text by what the model did with it, the one asked about last."""
    if "text" in found.tokens:
        return {READ: found.tokens["text"]}
    return {READ: found.tokens["encoder"], WRITTEN: found.tokens["decoder"]}


def asked_text(found: Why) -> tuple[str, ...]:
    """Return the tokens that `question.at` counts."""
    *_, last = texts(found).values()
    return last


def title(found: Why) -> str:
    """Return the question in short."""
    what = "answer" if found.question.kind in ("next token", "masked token") else "number"
    return say(QUESTION[f"title_{what}"], model=found.model)


def asked(found: Why) -> str:
    """Return the question and its number: `logit of ' Madrid', for the token after is@18: 7.90`."""
    question, token, which = found.question, "", "asked"
    if question.at is not None:
        token = f"{steps.label(asked_text(found), question.at)}@{question.at}"
        which = f"at_{question.kind}" if f"at_{question.kind}" in QUESTION else "at_other"
    return say(
        QUESTION[which],
        number=question.number,
        token=token,
        value=level(found.before, places(found)),
        wins=_winner(found, found.before, "wins"),
    )


def _winner(found: Why, number: float, wins: str) -> str:
    """Which of two answers has the larger number; "" where one alone is asked about."""
    answer, rival = names(found)
    if not rival or not math.isfinite(number):
        return ""
    return say(QUESTION[wins], answer=answer if number > 0 else rival)


def own(found: Why) -> str:
    """Return how the model's own number differs from the one that our attention gives."""
    return say(QUESTION["own" if found.off else "own_same"], off=abs(found.off))


def counted(found: Why) -> str:
    """Return how many tokens and links there are, and how many were removed and how."""
    tokens = ""
    for done, of_text in texts(found).items():
        one = say(QUESTION["tokens_done"], tokens=count_of(len(of_text), "token"), done=done)
        tokens = say(QUESTION["both"], first=tokens, second=one) if tokens else one
    return say(
        QUESTION["counted"],
        tokens=tokens,
        links=count_of(found.count, "link"),
        removed=found.checked.removed,
        removal=say(QUESTION[f"removal_{found.how}"]),
        how=found.how,
    )


def meant(found: Why) -> str:
    """Return what the sign of an effect says."""
    down, up = sides(found)
    return say(QUESTION["meant"], down=down, up=up)


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
    reasons = [say(LISTED[reason]) for reason in (link.warning, link.miss) if reason]
    if len(reasons) == 2:
        return say(LISTED["doubts"], first=reasons[0], second=reasons[1])
    return say(LISTED["doubt"], first=reasons[0]) if reasons else ""


def unsaid(found: Why, value: float) -> str:
    """Return why an effect says nothing; "" if it says something."""
    if not math.isfinite(value):
        return say(LISTED["not_removable"])
    return say(LISTED["below"]) if abs(value) < found.rounding else ""


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
        LinkList(name, say(LISTED[title]), links[:count], links[count:])
        for name, title, links, count in (
            ("links", "links", found.links, first),
            ("resting", f"resting_{found.how}", found.resting, FEW),
            ("heaviest", "heaviest", found.heaviest, len(found.heaviest)),
            ("predicted", "predicted", found.predicted, FEW),
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
    name = visible(group.label)
    if group.by == "head":
        name = say(LISTED["a_head"], layer=group.layer, head=group.head)
    if group.by == "token":
        name += f"@{group.first}"
    if group.by == "span":
        name = say(LISTED["a_span"], first=group.first, last=group.last, text=name)
    return in_part(found, group.part, name)


def in_part(found: Why, part: str, name: str) -> str:
    """Return a name behind the part of the model that it is of, if there are several."""
    if len(found.tokens) == 1:
        return name
    return say(LISTED["of_part"], part=say(LISTED[part]), name=name)


def together(found: Why) -> list[str]:
    """Return what removing the strongest links together does, in sentences; none if not tried."""
    joint, decimals = found.together, places(found)
    if joint is None:
        return []
    before, after = level(found.before, decimals), level(joint.after, decimals)
    kept = say(TOGETHER["kept"], kept=joint.kept) if joint.kept else ""
    wins = _winner(found, joint.after, "still_wins" if joint.after * found.before > 0 else "wins")
    lines: list[str] = [
        say(
            TOGETHER["all" if joint.links > 1 else "one"],
            links=count_of(joint.links, "link"),
            kept=kept,
            before=before,
            after=after,
            wins=wins,
        )
    ]
    if joint.spread is not None:
        low, high = (level(number, decimals) for number in joint.spread)
        draws = count_of(len(joint.finite), "draw")
        if len(joint.finite) > 1:
            draws = say(TOGETHER["draws"], draws=draws)
        until = say(TOGETHER["until"], high=high) if low != high else ""
        lines.append(say(TOGETHER["others"], before=before, low=low, until=until, draws=draws))
    else:
        lines.append(say(TOGETHER["no_others"]))
    single = [link.true for link in found.links[: joint.links] if link.true is not None]
    total = sum(filter(math.isfinite, single))
    change = joint.after - found.before
    if joint.links > 1 and math.isfinite(change):
        lines.append(
            say(
                TOGETHER["sum"],
                total=effect(total, decimals),
                change=effect(change, decimals),
                compared=say(TOGETHER[_compared(total, change)]),
            )
        )
    return lines


def _compared(total: float, change: float) -> str:
    if abs(total - change) <= 0.05 * max(abs(total), abs(change)):
        return "add_up"
    if total * change < 0:
        return "not_add_up"
    return "overlap" if abs(change) < abs(total) else "do_more"


def unchecked(found: Why) -> list[str]:
    """Return what was not removed, and how often the predictions were right, in sentences."""
    checked = found.checked
    left, right = say(UNCHECKED["none_left"]), say(UNCHECKED["no_effect"])
    if checked.left:
        left = say(
            UNCHECKED["left"],
            links=count_of(checked.left, "link"),
            share=100 * checked.share,
            heavy=say(UNCHECKED["heavy"], count=checked.heavy) if checked.heavy else "",
            limit=level(checked.largest, places(found)),
        )
    if checked.judged:
        right = say(
            UNCHECKED["missed"],
            links=count_of(checked.judged, "removed link"),
            clear=say(UNCHECKED["clear"]) if checked.judged < checked.removed else "",
            sign=checked.sign,
            close=checked.close,
        )
    return [left, right, say(UNCHECKED["caveat"])]
