"""Where words begin and end in a text of any script.

Cuts a text into word units on code points alone; knows nothing of tokenizers or spans. A unit never ends inside a
grapheme cluster (a base character with its combining marks, an emoji sequence, a flag).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_JOINER = "\u200d"
# Scripts written without spaces between words: each cluster is a unit of its own.
_UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3100, 0x312F),  # Bopomofo
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x20000, 0x323AF),  # Han extensions B and later
)
# Graphemes' extenders that are letters by category: Thai and Lao vowel AM, half-width voicing marks of Katakana.
_LETTER_EXTENDERS = "\u0e33\u0eb3\uff9e\uff9f"
# Signs that hang the next consonant under or onto the one before: viramas of Indic scripts, Myanmar's and Khmer's.
_LINKERS = "\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d\u1039\u17d2"
# Format characters that part words rather than belong to one: zero-width space, bidirectional marks and isolates. They
# are units of their own, so that a mention beside one can be told from it.
_SEPARATORS = "\u200b\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_REGIONAL_A, _REGIONAL_Z = "\U0001f1e6", "\U0001f1ff"
_SKIN_TONE_1, _SKIN_TONE_5 = "\U0001f3fb", "\U0001f3ff"


@lru_cache(maxsize=16384)
def _kind(char: str) -> str:
    """One of ``space``, ``extend`` (belongs to what stands before), ``word``, ``single``."""
    if char.isspace():
        return "space"
    if char in _SEPARATORS:
        return "single"
    category = unicodedata.category(char)
    if category[0] == "M" or category == "Cf" or char in _LETTER_EXTENDERS or _SKIN_TONE_1 <= char <= _SKIN_TONE_5:
        return "extend"
    if any(low <= ord(char) <= high for low, high in _UNSPACED_RANGES):
        return "single"
    return "word" if char.isalnum() or category == "Pc" else "single"


def _joins(previous: str, char: str, base: str) -> bool:
    """Whether ``char`` belongs to the cluster that begins with ``base`` and ends with ``previous``."""
    if previous.isspace():
        return previous == "\r" and char == "\n"
    if _kind(char) == "extend":
        return True
    if previous == _JOINER:
        return _kind(char) == "single" and _kind(base) == "single"
    if previous in _LINKERS:
        return unicodedata.category(char) == "Lo"
    # A Hangul syllable in parts: leading consonants, then a vowel and final consonants.
    return (_leads(previous) and (_leads(char) or "\uac00" <= char <= "\ud7a3")) or (
        ("\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7ff")
        and (_leads(previous) or "\u1160" <= previous <= "\u11ff" or "\uac00" <= previous <= "\ud7ff")
    )


def _leads(char: str) -> bool:
    return "\u1100" <= char <= "\u115f" or "\ua960" <= char <= "\ua97f"


def clusters(text: str) -> list[tuple[int, int]]:
    """Grapheme clusters as (start, end); white space is a cluster a character.

    Enough of Unicode annex 29 for spans: marks, format characters, skin tones and joined emoji stay with their base,
    regional indicators pair up to flags; conjunct consonants, the parts of a Hangul syllable and CR LF stay together.
    """
    found: list[tuple[int, int]] = []
    lone_flag = False
    for index, char in enumerate(text):
        regional = _REGIONAL_A <= char <= _REGIONAL_Z
        # A regional indicator belongs to the one before it alone, whatever else it follows: a joiner does not hold it.
        joins = lone_flag if regional else bool(found) and _joins(text[index - 1], char, text[found[-1][0]])
        if joins:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
        lone_flag = regional and not joins
    return found


class _Classes(dict[int, str]):
    """A letter for each code point, made when it is first asked for: what :func:`word_units` needs to know of it."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        jamo = "\u1100" <= char <= "\u11ff" or "\ua960" <= char <= "\ua97f" or "\ud7b0" <= char <= "\ud7ff"
        joins = jamo or _REGIONAL_A <= char <= _REGIONAL_Z or _kind(char) == "extend"
        self[code] = found = "j" if joins else {"space": " ", "word": "w", "single": "."}[_kind(char)]
        return found


_CLASSES = _Classes()
_UNIT = re.compile(r"w+|\.")


def word_units(text: str) -> list[tuple[int, int]]:
    """Words as (start, end): runs of letters, digits, marks and underscores; any other visible cluster stands alone.

    Every character that is not white space lies in exactly one unit.
    """
    classes = text.translate(_CLASSES)
    if "j" not in classes:  # every character is a cluster: most texts, and much faster
        return [unit.span() for unit in _UNIT.finditer(classes)]
    return _units_of_clusters(text)


def _units_of_clusters(text: str) -> list[tuple[int, int]]:
    units: list[tuple[int, int]] = []
    open_word = False
    for start, end in clusters(text):
        kind = _kind(text[start])
        if kind == "space":
            open_word = False
        elif kind == "word" and open_word:
            units[-1] = (units[-1][0], end)
        else:
            units.append((start, end))
            open_word = kind == "word"
    return units
