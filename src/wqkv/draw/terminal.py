"""One story as a terminal picture, with colors or with shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from wqkv.draw import steps
from wqkv.draw.matrix import (
    Product,
    WrittenSum,
    legend,
    pixels,
    scale_ends,
    side_by_side,
    write_sum,
)
from wqkv.errors import need
from wqkv.maps import display
from wqkv.maps.display import visible
from wqkv.maps.png import BLUE, ORANGE
from wqkv.sentences import LANGUAGES, LETTERS, in_language, translated
from wqkv.sentences.errors import mistake
from wqkv.sentences.seen import SEEN
from wqkv.study.hit_rate import known_rate
from wqkv.study.one_token import TokenStory

need("rich", "show", mistake("terminal"))

from rich.cells import cell_len, set_cell_size  # noqa: E402
from rich.console import Console  # noqa: E402  only after `need` has spoken for a missing rich
from rich.text import Text  # noqa: E402

from wqkv.draw.line_breaks import line_breaks  # noqa: E402

#: The color of 0. The larger a number is, the nearer it comes to BLUE or, if negative, to ORANGE.
GRAY: display.Color = (118, 118, 118)
#: A bar of one cell above and below the line in four heights, and the end of a bar in eighths.
UP, DOWN = " ▁▄█", " ▔▀█"
BAR = " ▏▎▍▌▋▊▉"
#: One character for one character, so that columns stay columns.
TO_ASCII = str.maketrans("▁▄█▔▀▏▎▍▌▋▊▉…", ".o#'o...####~")
#: The style of the token that is followed.
CHOSEN = "bold reverse"
#: Lines of the picture of a matrix, columns between two pictures, and from which shares of the end
#: of a scale a sign stands for a number: + and - from the first, # and = from the second.
HEAT, GAP, SIGNS = 8, 2, (0.125, 0.5)
#: Columns before a line, tokens in the table of weights at most, columns before a vector's bars.
INDENT, TOP, GUTTER = 3, 12, 30


def see(story: TokenStory, console: Console, lang: str = "en") -> None:
    """Print what one head does to one token, in seven steps and a proof.

    The lines fit the console's width. There are no escape codes unless the console shows colors.

    Args:
        lang: one of LANGUAGES.
    """
    pen = Pen(console, lang)
    lang = pen.lang
    say, groups = in_language(SEEN, lang), side_by_side(story)
    pen.write(Text(visible(steps.where(story, lang), pen.encoding), "bold"), indent=0)
    if unread := steps.cannot_read(story.unread, story.model, lang):
        pen.write(Text(visible(unread, pen.encoding)), indent=0)
    if not story.proof.holds:
        _proof(pen, story, lang)
    for i, step in enumerate(steps.tell(story, pen.encoding, lang), start=1):
        pen.write(Text())
        pen.write(Text.assemble((f"{i}  {step.name}", "bold")), indent=0)
        pen.write(Text(step.sentence))
        if i == 1:
            _text_around(pen, story, say)
        pen.write(Text(step.formula, "italic cyan"))
        match i:
            case 1:
                _vector(pen, "x", story.x, lang)
                pen.write(Text(say["bars"], "dim"))
            case 2:
                for group in groups[:-1]:
                    _matrices(pen, group, lang)
                if not groups:
                    pen.write(Text(say["no_matrices"], "dim"))
            case 3:
                _vector(pen, "q = x WQ", story.q, lang)
                _vector(pen, "k = x WK", story.k, lang)
                _vector(pen, "v = x WV", story.v, lang)
            case 5:
                _ranking(pen, story, lang)
            case 6:
                _vector(pen, "context", story.context, lang)
            case 7:
                for group in groups[-1:]:
                    _matrices(pen, group, lang)
                _vector(pen, steps.share_name(story), story.share, lang)
                _vector(pen, say["output"].format(n_head=story.n_head), story.output, lang)
    pen.write(Text())
    if rate := known_rate(story.model, story.sentence, story.layer, story.head):
        pen.write(Text(pen.said(rate)), indent=0)
    _proof(pen, story, lang)


class Pen:
    """Writes lines that a console can show: in its width, in its encoding, in colors or without."""

    def __init__(self, console: Console, lang: str = LANGUAGES[0]) -> None:
        self.console = console
        self.encoding = console.encoding
        # Where the encoding lacks the characters, English is better than their codes.
        self.lang = lang if visible(LETTERS[lang], self.encoding) == LETTERS[lang] else "en"
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
        return sentence and visible(translated(sentence, self.lang), self.encoding)

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
        text = Text(visible(token, self.encoding), style)
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


def _text_around(pen: Pen, story: TokenStory, say: dict[str, str]) -> None:
    """Print the text, or as much of it around the chosen token as fits in three lines."""
    texts = [pen.token(story, j, min(24, pen.width)) for j in range(len(story.tokens))]
    shown = pen.around(texts, story.token)
    if len(shown) < len(texts):
        note = say["some_words"].format(first=shown[0], last=shown[-1], end=len(texts) - 1)
        pen.write(Text(f"({note})", "dim"))


def _vector(pen: Pen, name: str, values: Tensor, lang: str) -> None:
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
    spread = steps.spread(values, lang)
    if gutter:
        pen.rows(
            Text.assemble((set_cell_size(name, gutter), "bold"), above),
            Text.assemble((set_cell_size(spread, gutter), "dim"), below),
        )
    else:
        pen.write(Text.assemble((name, "bold"), "  ", (spread, "dim")))
        pen.rows(above, below)
    if per > 1:
        pen.write(Text(in_language(SEEN, lang)["mean_of"].format(per=per), "dim"))


def _matrices(pen: Pen, parts: Sequence[Product], lang: str) -> None:
    """Print matrices that multiply one vector side by side, and one column of the first as a sum.

    With colors a character is two numbers, one above the other, and the vector is a column of
    colors. Without them a character is the sign and size of one number, and the vector is written.
    """
    say, first = in_language(SEEN, lang), parts[0]
    blocks = pen.color and not pen.ascii
    gutter = 2 if blocks else 9 if pen.width >= 30 else 0
    room = max((pen.width - gutter + GAP) // len(parts) - GAP, 1)
    high = 2 if blocks else 1  # how many rows of numbers a line shows
    shown = first.order[: HEAT * high]
    given = first.given[shown, None]
    columns = max(math.ceil(part.numbers.shape[1] / room) for part in parts)  # in one character
    wide = [math.ceil(part.numbers.shape[1] / columns) for part in parts]
    ends = scale_ends(parts)

    def line(start: str | Text, drawn: Sequence[str | Text], style: str = "") -> None:
        """Print the gutter, and one line of each picture."""
        row = Text.assemble(start) if gutter else Text()
        for text, width in zip(drawn, wide, strict=True):
            cells = Text.assemble(text, style=style)
            cells.truncate(room if len(drawn) == 1 else width, pad=True)
            row.append_text(cells).append(" " * GAP)
        pen.rows(row)

    def cells(numbers: Sequence[Tensor], end: float) -> list[Text]:
        return [
            _cells(pixels(part, len(part), width).numbers, end, blocks)
            for part, width in zip(numbers, wide, strict=True)
        ]

    blank, name = " " * gutter, first.given_name
    sized = [f"{part.name} {part.numbers.shape[0]} x {part.numbers.shape[1]}" for part in parts]
    if len(parts) > 1 and any(len(t) > width for t, width in zip(sized, wide, strict=True)):
        sized = [part.name for part in parts]
    line(f"{name:>{gutter - 1}} " if len(name) < gutter else blank, sized, "bold")
    mark = " " * (first.column // columns) + ("v" if pen.ascii else "▼")
    line(blank, [mark, *[""] * (len(parts) - 1)])
    for at in range(0, len(shown), high):
        rows = shown[at : at + high]
        if blocks:
            start = Text.assemble(_cells(given[at : at + high], ends[1].end, blocks), " ")
        else:
            start = Text(f"{display.number(given[at].item()):>8} ")
        line(start, cells([part.numbers[rows] for part in parts], ends[0].end))
    made = [f"= {say[part.made_name]}" for part in parts]
    if any(cell_len(text) > width for text, width in zip(made, wide, strict=True)):
        made = [f"= {part.made_name}" for part in parts]
    line(blank, made, "bold")
    line(blank, cells([part.made[None] for part in parts], ends[2].end))

    block = pixels(first.numbers[shown], len(shown), wide[0])
    for note in legend(parts, len(shown), block, "blocks" if blocks else "signs", lang):
        pen.write(Text(note, "dim"))
    _sum(pen, write_sum(first, lang))


def _sum(pen: Pen, told: WrittenSum) -> None:
    """Print a worked sum with its numbers below one another."""
    pen.write(Text(told.says))
    left, right = (max(cell_len(line[i]) for line in told.lines) for i in (0, 1))
    for added, number in told.lines:
        style = "bold" if (added, number) == told.lines[-1] else ""
        pen.rows(Text(f"{set_cell_size(added, left)} = {number:>{right}}", style))


def _cells(numbers: Tensor, end: float, blocks: bool) -> Text:
    """Return one line of a picture: two rows of numbers as half blocks, or one row as signs."""
    text = Text()
    for column in numbers.T.tolist():
        if any(map(math.isnan, column)):
            text.append("?")
        elif blocks:
            above, *below = [_tint(value / end) for value in column]
            text.append("▀" if below else "█", f"{above} on {below[0]}" if below else above)
        else:
            level = sum(abs(column[0]) / end >= edge for edge in SIGNS)
            text.append((".+#" if column[0] > 0 else ".-=")[level])
    return text


def _tint(size: float) -> str:
    """A color from ORANGE at -1 or less over GRAY at 0 to BLUE at 1 or more."""
    return _shade(BLUE if size > 0 else ORANGE, min(abs(size), 1.0) ** 2)


def _ranking(pen: Pen, story: TokenStory, lang: str) -> None:
    """Print the tokens by falling weight, then one line each for the rest and the hidden ones."""
    say = in_language(SEEN, lang)
    seen, hidden = steps.seen(story), steps.hidden(story)
    shown = seen[:TOP]
    texts = [pen.token(story, j, pen.width) for j in shown]
    width = min(max((t.cell_len for t in texts), default=4), max(pen.width - 30, 6), 32)
    at = max(len(str(len(story.tokens) - 1)), cell_len(say["at"]))
    if shown:
        head = " ".join(
            " " * (cells - cell_len(say[name])) + say[name]
            for name, cells in (("score", 7), ("weight", 7))
        )
        place = " " * (at - cell_len(say["at"])) + say["at"]
        pen.rows(Text(f"{place} {set_cell_size(say['word'], width)} {head}", "dim"))
    room = pen.width - at - width - 18
    top = max((story.weights[j].item() for j in shown), default=0.0) or 1.0
    for j in shown:
        score, weight = story.scores[j].item(), story.weights[j].item()
        row = Text.assemble(
            (f"{j:>{at}} ", "dim"),
            pen.token(story, j, width, pad=True),
            f" {display.number(score):>7} {display.weight(weight):>7} ",
            (_bar(weight / top, min(room, 60)), _shade(BLUE, 1.0)),
        )
        pen.rows(row)
    if rest := seen[TOP:]:
        pen.write(Text(steps.others(story, rest, lang), "dim"))
    if hidden:
        before, after = say["hidden_words"].split("{words}")
        line = Text(before)
        line.append_text(Text(" ").join([pen.token(story, j, 24) for j in hidden[:8]]))
        line.append(after)
        if len(hidden) > 8:
            line.append(say["more_hidden"].format(count=len(hidden) - 8))
        line.stylize("dim")
        pen.write(line)


def _proof(pen: Pen, story: TokenStory, lang: str) -> None:
    style = "bold green" if story.proof.holds else "bold white on red"
    pen.write(Text(visible(steps.prove(story, lang), pen.encoding), style), indent=0)


def _bar(part: float, room: int) -> str:
    """A bar as long as `part` (0 to 1) of `room` cells, to an eighth of a cell; none for NaN."""
    eighths = round(part * room * 8) if math.isfinite(part) else 0
    return "█" * (eighths // 8) + BAR[eighths % 8].strip()


def _shade(color: display.Color, size: float) -> str:
    """A color that fades into gray as the root of `size` falls from 1 to 0."""
    red, green, blue = (
        round(g + (c - g) * math.sqrt(size)) for c, g in zip(color, GRAY, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}"
