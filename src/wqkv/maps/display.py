"""How a number looks in every picture and on every page: the color of a weight, and the digits.

The explorer's page computes the same colors and digits in JavaScript; its tests compare the two.
"""

from __future__ import annotations

from typing import TypeAlias
from unicodedata import east_asian_width

Color: TypeAlias = tuple[int, int, int]  # red, green, blue, from 0 to 255

#: The color that marks what was asked about, and the line between two parts.
MARK = "#d95f02"
#: The colors of the weights 0, 1/4 and 1, of one hue, on a light ground and on a dark one. The
#: larger the weight, the further its color is from the ground.
LIGHT: tuple[Color, Color, Color] = ((239, 244, 250), (49, 127, 201), (8, 36, 84))
DARK: tuple[Color, Color, Color] = ((29, 36, 46), (47, 123, 196), (214, 236, 255))


def color(level: float, stops: tuple[Color, Color, Color] = LIGHT) -> Color:
    """The color at `level` (0 to 1), mixed from the two stops around it.

    The color of a weight is the one at its square root: small weights would all look like 0.

    >>> color(0.0), color(0.25), color(1.0)
    ((239, 244, 250), (144, 186, 226), (8, 36, 84))
    """
    first, middle, last = stops
    at = 2 * level
    low, high, share = (first, middle, at) if at < 1 else (middle, last, at - 1)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def points(text: str, size: float) -> float:
    """About how wide a text is, in the unit of its size; a Chinese character is a square.

    >>> points("four", 10.0), points("四", 10.0)
    (25.0, 10.0)
    """
    return sum(size * (1.0 if east_asian_width(c) in "WF" else 0.625) for c in text)


def number(value: float) -> str:
    """A score or a channel with two decimals, or as a power of ten where it is large.

    >>> number(-4.214), number(-0.001), number(31415.9)
    ('-4.21', '0.00', '3.1e+04')
    """
    if not abs(value) < 9999.995:  # also infinity and NaN
        return f"{value:.1e}"
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0 turns -0.0 into 0.0


def weight(value: float) -> str:
    """A weight with three decimals, or as a power of ten where that would round to 0.

    >>> weight(0.6766), weight(0.0), weight(0.0000042)
    ('0.677', '0.000', '4.2e-06')
    """
    return f"{value:.3f}" if value == 0 or not value < 0.0005 else f"{value:.1e}"


def visible(text: str, encoding: str = "utf-8") -> str:
    r"""Return a text as it can be printed: line breaks as `\n`, what `encoding` lacks as `\u732b`.

    >>> visible("a\nb"), visible("  ")
    ('a\\nb', "'  '")
    """
    if not text.strip(" "):
        return repr(text)
    # Characters that turn the reading direction are not printable either. They would mirror a line.
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def short(text: str) -> str:
    """Return a text, cut to 17 characters and "..." if it has more than 20."""
    return text if len(text) <= 20 else text[:17] + "..."
