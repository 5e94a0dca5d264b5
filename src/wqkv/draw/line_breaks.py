"""Where a line may break: after a blank, and between characters of scripts without blanks."""

from __future__ import annotations

from rich.cells import cell_len

#: Marks that do not begin a line, and marks that do not end one.
NOT_FIRST, NOT_LAST = "，。；：、）”！？》」』】…", "（“《「『【"


def line_breaks(text: str, width: int) -> list[int]:
    """Return the positions at which a text is cut into lines of at most `width` cells.

    Chinese, Japanese and Korean characters (from U+2E80 on) may stand on both sides of a break, and
    blanks at the end of a line do not count. What has no such place is cut anywhere.

    >>> line_breaks("one two three", 8), line_breaks("一二三，四", 6)
    ([8], [2])
    """
    cuts, start, free = [], 0, 0  # `free`: the last place of this line where it may break
    used = 0
    for at, char in enumerate(text):
        if at > start and may_break(text, at):
            free = at
        if not char.isspace() and used + cell_len(char) > width and at > start:
            start = free if free > start else at
            cuts.append(start)
            used = cell_len(text[start:at])
        used += cell_len(char)
    return cuts


def may_break(text: str, at: int) -> bool:
    """Whether a line may break between the characters before and at `at`."""
    before, after = text[at - 1], text[at]
    if after.isspace() or after in NOT_FIRST or before in NOT_LAST:
        return False
    return before.isspace() or before >= "\u2e80" or after >= "\u2e80"
