"""Which installed fonts can draw a text, and what is drawn where none can."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from wqkv.sentences import LANGUAGES, LETTERS

#: Fonts that say they can draw a letter, and draw a box or another letter.
NOT_TEXT = ("Last Resort", "cm", "STIX")
#: The scripts that a font of the Noto family is named after.
SCRIPTS = ("ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "ARMENIAN", "GEORGIAN")


def fonts_for(characters: Iterable[int]) -> str:
    """Return fonts that have some characters: free ones, one for each of their scripts.

    >>> fonts_for(map(ord, "猫آ한"))
    'Noto Sans Arabic, Noto Sans CJK SC'
    """
    scripts = {unicodedata.name(chr(code), "?").split()[0] for code in characters}
    return ", ".join(sorted({_noto(script) for script in scripts}))


def _noto(script: str) -> str:
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH"):
        return "Noto Sans CJK SC"
    return f"Noto Sans {script.title()}" if script in SCRIPTS else "Noto Sans Symbols, Noto Emoji"


def drawable(lang: str) -> str:
    """Return the language if an installed font has its letters, and else the first of LANGUAGES."""
    return LANGUAGES[0] if fonts("", lang)[1] else lang


def fonts(text: str, lang: str = LANGUAGES[0]) -> tuple[list[str], dict[int, str]]:
    r"""Return the installed font families that can draw `text`, and what replaces the rest.

    A character that no font has is replaced by its code: `\u732b`.

    Args:
        lang: one of LANGUAGES, the language of sentences that are drawn besides.
    """
    from matplotlib import font_manager, ft2font

    families = ["DejaVu Sans"]  # comes with matplotlib
    shipped = ft2font.FT2Font(font_manager.findfont(families[0]))
    missing = {c for c in text + LETTERS[lang] if not shipped.get_char_index(ord(c))}
    upright = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight == 400 and not font.name.startswith(NOT_TEXT)
    ]
    for font in sorted(upright, key=lambda font: ("Sans" not in font.name, font.name)):
        if not missing:
            break
        try:
            face = ft2font.FT2Font(font.fname)
        except RuntimeError:  # a font of bitmaps alone, as colored emoji are
            continue
        if found := {c for c in missing if face.get_char_index(ord(c))}:
            families.append(font.name)
            missing -= found
    return families, {ord(c): c.encode("unicode_escape").decode("ascii") for c in missing}
