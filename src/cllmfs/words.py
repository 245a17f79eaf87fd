"""Word boundaries and grapheme clusters of a text in any script.

Grapheme clusters (a base character with its combining marks, an emoji sequence, a flag) are those of Unicode annex 29,
as the ``regex`` package implements them. A word unit never ends inside a cluster. This file knows code points; it knows
nothing of tokenizers or spans.
"""

from __future__ import annotations

import re

import regex

# The two strings below are the inside of a character class, both for ``regex`` and for the Oniguruma patterns of the
# tokenizers library (:mod:`cllmfs.encoding.tokens`): the two must agree on them.
UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Tibetan}\p{Myanmar}\p{Khmer}"
    r"\u30fc\uff70"  # the Japanese long-vowel marks, which Unicode assigns to no single script
)
"""Scripts that are written without spaces between words: each of their clusters is a word unit."""

SEPARATORS = r"\u200b\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\u2060\ufeff"
"""Zero-width space, word joiner, byte-order mark, bidirectional marks and isolates.

They are units of their own, so that a mention can end beside one.
"""

_SPACE = r"[\s\x1c-\x1f]"  # as str.isspace defines it
_WORD = rf"[[\p{{L}}\p{{N}}\p{{Pc}}]--[{UNSPACED}\p{{GCB=Extend}}]]"
# Annex 29 separates some marks and format characters (such as the soft hyphen) from the character before them; a word
# unit keeps them together.
_ATTACHED = rf"[[\p{{M}}\p{{Cf}}\p{{GCB=Extend}}]--[{SEPARATORS}\p{{GCB=Prepend}}]]"

_CLUSTERS = regex.compile(rf"\r\n|{_SPACE}|\X", regex.V1)
_UNITS = regex.compile(rf"(?:(?=\p{{GCB=Prepend}}*{_WORD})\X{_ATTACHED}*)+|(?!{_SPACE})\X{_ATTACHED}*", regex.V1)
# Characters that may share a cluster or a unit with a neighbor that is no letter, digit or underscore.
_JOINING = regex.compile(
    rf"{_ATTACHED}|[^\p{{GCB=Other}}\p{{GCB=Control}}\p{{GCB=CR}}\p{{GCB=LF}}\p{{GCB=LV}}\p{{GCB=LVT}}]", regex.V1
)
_IN_WORD = regex.compile(_WORD, regex.V1)


def clusters(text: str) -> list[tuple[int, int]]:
    """Grapheme clusters as (start, end); each white space character is a cluster, and CR LF together is one."""
    return [found.span() for found in _CLUSTERS.finditer(text)]


class _Classes(dict[int, str]):
    """One letter for each code point, computed on first use: ``j`` joining, ``w`` in a word, ``.`` alone, space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        letter = "j" if _JOINING.match(char) else "w" if _IN_WORD.match(char) else "."
        self[code] = found = " " if char.isspace() else letter
        return found


_CLASSES = _Classes()
_PLAIN_UNITS = re.compile(r"w+|\.")


def word_units(text: str) -> list[tuple[int, int]]:
    """Words as (start, end): runs of letters, digits, marks and underscores; any other visible cluster stands alone.

    Every character that is not white space lies in exactly one unit.
    """
    classes = text.translate(_CLASSES)
    if "j" not in classes:  # as in most texts: every character is a cluster, and this is seven times as fast
        return [found.span() for found in _PLAIN_UNITS.finditer(classes)]
    return joined_units(text)


def joined_units(text: str) -> list[tuple[int, int]]:
    """Like :func:`word_units`, for any text: clusters are found first, which is slower."""
    return [found.span() for found in _UNITS.finditer(text)]
