"""One story as a terminal picture, with colors or with shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from wqkv.draw import steps
from wqkv.errors import need
from wqkv.maps import display
from wqkv.sentences import LANGUAGES, LETTERS, translated
from wqkv.sentences.errors import mistake
from wqkv.study.one_token import TokenStory

need("rich", "show", mistake("terminal"))

from rich.console import Console  # noqa: E402  only after `need` has spoken for a missing rich
from rich.text import Text  # noqa: E402

from wqkv.draw.line_breaks import line_breaks  # noqa: E402

#: Positive numbers are blue, negative ones orange, and both fade into gray towards 0.
BLUE, ORANGE, GRAY = (67, 147, 230), (232, 134, 46), (118, 118, 118)
#: A bar of one cell above and below the line in four heights, and the end of a bar in eighths.
UP, DOWN = " ▁▄█", " ▔▀█"
BAR = " ▏▎▍▌▋▊▉"
#: One character for one character, so that columns stay columns.
TO_ASCII = str.maketrans("▁▄█▔▀▏▎▍▌▋▊▉…", ".o#'o...####~")
#: The style of the token that is followed.
CHOSEN = "bold reverse"
#: Columns before a line, tokens in the table of weights at most, columns before a vector's bars.
INDENT, TOP, GUTTER = 3, 12, 30


def see(story: TokenStory, console: Console) -> None:
    """Print what one head does to one token, in seven steps and a proof.

    The lines fit the console's width. There are no escape codes unless the console shows colors.
    """
    pen = Pen(console)
    told = steps.tell(story, pen.encoding)
    title = (
        f"{story.model}, layer {story.layer} of 0 to {story.n_layer - 1},"
        f" head {story.head} of 0 to {story.n_head - 1}"
    )
    if story.n_kv_head != story.n_head:
        title += f" (the {story.n_head} heads share {story.n_kv_head} of k and v)"
    pen.write(Text(steps.visible(title, pen.encoding), "bold"), indent=0)
    if unread := steps.cannot_read(story.unread, story.model):
        pen.write(Text(steps.visible(unread, pen.encoding)), indent=0)
    if not story.proof.holds:
        _proof(pen, story)
    for i, step in enumerate(told, start=1):
        pen.write(Text())
        pen.write(Text.assemble((f"{i}  {step.name}", "bold")), indent=0)
        pen.write(Text(step.sentence))
        if i == 1:
            _text_around(pen, story)
        pen.write(Text(step.formula, "italic cyan"))
        match i:
            case 1:
                _vector(pen, "x", story.x)
                pen.write(Text("above the middle: positive, below: negative; height: size", "dim"))
            case 3:
                _vector(pen, "q = x WQ", story.q)
                _vector(pen, "k = x WK", story.k)
                _vector(pen, "v = x WV", story.v)
            case 5:
                _ranking(pen, story)
            case 6:
                _vector(pen, "context", story.context)
            case 7:
                _vector(pen, "share = context WO", story.share)
                _vector(pen, f"output of {story.n_head} heads", story.output)
    pen.write(Text())
    _proof(pen, story)


class Pen:
    """Writes lines that a console can show: in its width, in its encoding, in colors or without."""

    def __init__(self, console: Console, lang: str = LANGUAGES[0]) -> None:
        self.console = console
        self.encoding = console.encoding
        # Where the encoding lacks the characters, English is better than their codes.
        self.lang = lang if steps.visible(LETTERS[lang], self.encoding) == LETTERS[lang] else "en"
        self.width = max(console.width - INDENT, 12)
        # Without colors rich still writes codes for bold and dim; NO_COLOR asks for none at all.
        self.color = (
            console.is_terminal and not console.no_color and console.color_system is not None
        )
        try:
            (UP + DOWN + BAR + "…").encode(self.encoding)
            self.ascii = False
        except UnicodeEncodeError:
            self.ascii = True

    def said(self, sentence: str) -> str:
        """Return a sentence as it is printed: in the pen's language, if it knows itself in it."""
        return sentence and steps.visible(translated(sentence, self.lang), self.encoding)

    def write(self, text: Text, indent: int = INDENT) -> None:
        """Print one text, wrapped at blanks and indented."""
        for line in text.divide(line_breaks(text.plain, self.width + INDENT - indent)):
            line.rstrip()
            if self.ascii:
                line.plain = line.plain.translate(TO_ASCII)
            line.pad_left(indent if line.plain else 0)
            shown = line if self.color else Text(line.plain)
            self.console.print(shown, no_wrap=True, overflow="ignore", crop=False, highlight=False)

    def rows(self, *rows: Text) -> None:
        """Print texts that must not be wrapped; what does not fit is cut off."""
        for row in rows:
            row.truncate(self.width)
            self.write(row.copy() if row.plain.strip() else Text(""))

    def token(self, story: TokenStory, j: int, width: int, pad: bool = False) -> Text:
        """Return token j in at most `width` cells, bold if it is chosen, and dim if special.

        Args:
            pad: fill up with blanks to `width` cells.
        """
        style = CHOSEN if j == story.token else "dim" if story.special[j] else ""
        text = self.fit(story.tokens[j], width, style)
        if pad:
            text = Text.assemble(text, " " * (width - text.cell_len))
        return text

    def fit(self, token: str, width: int, style: str = "") -> Text:
        """Return a token in at most `width` cells; one that is CHOSEN is marked by shapes too."""
        text = Text(steps.visible(token, self.encoding), style)
        if style == CHOSEN and not self.color:
            text = Text(f">{text.plain}<")
        text.truncate(width, overflow="ellipsis")
        return text

    def around(self, tokens: Sequence[Text], at: int) -> range:
        """Print as many tokens around number `at` as fit in three lines, and return which."""
        first = last = at
        room = 3 * self.width - tokens[at].cell_len - 24
        while True:
            grown = False
            if last + 1 < len(tokens) and tokens[last + 1].cell_len < room:
                last, grown = last + 1, True
                room -= tokens[last].cell_len + 1
            if first > 0 and tokens[first - 1].cell_len < room:
                first, grown = first - 1, True
                room -= tokens[first].cell_len + 1
            if not grown:
                break
        self.write(Text(" ").join(tokens[first : last + 1]))
        return range(first, last + 1)


def _text_around(pen: Pen, story: TokenStory) -> None:
    """Print the text, or as much of it around the chosen token as fits in three lines."""
    texts = [pen.token(story, j, min(24, pen.width)) for j in range(len(story.tokens))]
    shown = pen.around(texts, story.token)
    if len(shown) < len(texts):
        note = f"(words {shown[0]} to {shown[-1]} of 0 to {len(texts) - 1})"
        pen.write(Text(note, "dim"))


def _vector(pen: Pen, name: str, values: Tensor) -> None:
    """Print a vector as bars on two rows, positive ones above and negative ones below."""
    gutter = GUTTER if pen.width >= 70 else 0
    room = pen.width - gutter
    cells, per = steps.bars(values, room)
    wide = 2 if 2 * len(cells) <= room else 1
    top = max((abs(c) for c in cells if math.isfinite(c)), default=0.0) or 1.0
    above, below = Text(), Text()
    for cell in cells:
        if not math.isfinite(cell):
            above.append("?" * wide)
            below.append("?" * wide)
            continue
        size = abs(cell) / top
        # The characters are 0, 1/8, 1/2 and 1 cell high; the edges lie in the middle between them.
        level = sum(size >= edge for edge in (0.0625, 0.3125, 0.75))
        style = _shade(BLUE if cell > 0 else ORANGE, size)
        above.append((UP[level] if cell > 0 else " ") * wide, style)
        below.append((DOWN[level] if cell < 0 else " ") * wide, style)
    if gutter:
        pen.rows(
            Text.assemble((f"{name:<{gutter}}", "bold"), above),
            Text.assemble((f"{steps.spread(values):<{gutter}}", "dim"), below),
        )
    else:
        pen.write(Text.assemble((name, "bold"), "  ", (steps.spread(values), "dim")))
        pen.rows(above, below)
    if per > 1:
        pen.write(Text(f"each bar is the mean of {per} neighboring numbers", "dim"))


def _ranking(pen: Pen, story: TokenStory) -> None:
    """Print the tokens by falling weight, then one line each for the rest and the hidden ones."""
    seen, hidden = steps.seen(story), steps.hidden(story)
    shown = seen[:TOP]
    texts = [pen.token(story, j, pen.width) for j in shown]
    width = min(max((t.cell_len for t in texts), default=4), max(pen.width - 30, 6), 32)
    at = len(str(len(story.tokens) - 1))
    if shown:
        head = f"{'at':>{max(at, 2)}} {'word':<{width}} {'score':>7} {'weight':>7}"
        pen.rows(Text(head, "dim"))
    room = pen.width - max(at, 2) - width - 18
    top = max((story.weights[j].item() for j in shown), default=0.0) or 1.0
    for j in shown:
        score, weight = story.scores[j].item(), story.weights[j].item()
        row = Text.assemble(
            (f"{j:>{max(at, 2)}} ", "dim"),
            pen.token(story, j, width, pad=True),
            f" {display.number(score):>7} {display.weight(weight):>7} ",
            (_bar(weight / top, min(room, 60)), _shade(BLUE, 1.0)),
        )
        pen.rows(row)
    if rest := seen[TOP:]:
        share = display.weight(sum(story.weights[j].item() for j in rest))
        who = "1 more word has" if len(rest) == 1 else f"{len(rest)} more words share"
        pen.write(Text(f"and {who} {share}", "dim"))
    if hidden:
        line = Text("hidden, no score: ")
        line.append_text(Text(" ").join([pen.token(story, j, 24) for j in hidden[:8]]))
        if len(hidden) > 8:
            line.append(f" and {len(hidden) - 8} more")
        line.stylize("dim")
        pen.write(line)


def _proof(pen: Pen, story: TokenStory) -> None:
    style = "bold green" if story.proof.holds else "bold white on red"
    pen.write(Text(steps.visible(steps.prove(story), pen.encoding), style), indent=0)


def _bar(part: float, room: int) -> str:
    """A bar as long as `part` (0 to 1) of `room` cells, to an eighth of a cell; none for NaN."""
    eighths = round(part * room * 8) if math.isfinite(part) else 0
    return "█" * (eighths // 8) + BAR[eighths % 8].strip()


def _shade(color: tuple[int, int, int], size: float) -> str:
    """A color that fades into gray as `size` falls from 1 to 0."""
    red, green, blue = (
        round(g + (c - g) * math.sqrt(size)) for c, g in zip(color, GRAY, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}"
