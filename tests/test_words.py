"""Word units and grapheme clusters: a table by hand, and the rules that any text keeps."""

from __future__ import annotations

import re
import unicodedata

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cllmfs.words
from cllmfs.words import clusters, joined_units, word_units
from tests.conftest import TEXT_PIECES, texts


def cut(text: str, pieces: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in pieces]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("", []),
        (" \t\r\n\u00a0\u3000", []),
        ("Ada met Zoë.", ["Ada", "met", "Zoë", "."]),
        ("New-York's 3.5%", ["New", "-", "York", "'", "s", "3", ".", "5", "%"]),
        ("snake_case B2B ½ x²", ["snake_case", "B2B", "½", "x²"]),
        ("...", [".", ".", "."]),
        ("Zoe\u0308 e\u0301te\u0301", ["Zoe\u0308", "e\u0301te\u0301"]),  # marks stay with their letters
        ("İstanbul Straße", ["İstanbul", "Straße"]),
        ("東京都へ", ["東", "京", "都", "へ"]),  # scripts without spaces: each cluster
        ("か\u3099カー", ["か\u3099", "カ", "ー"]),
        ("ユーザーID 人々a", ["ユ", "ー", "ザ", "ー", "ID", "人", "々", "a"]),
        ("ｶﾞｰ", ["ｶﾞ", "ｰ"]),  # half-width voicing mark
        ("น้ำกก", ["น้ำ", "ก", "ก"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("서울에서 한국", ["서울에서", "한국"]),  # Hangul is written with spaces
        ("ऋषि क्षेत्र", ["ऋषि", "क्षेत्र"]),
        ("مَدِينَة، עִבְרִית", ["مَدِينَة", "،", "עִבְרִית"]),
        ("👩‍🚀👍🏽🇮🇹🇫🇷!", ["👩‍🚀", "👍🏽", "🇮🇹", "🇫🇷", "!"]),
        ("🇮🇹🇫", ["🇮🇹", "🇫"]),
        ("🇮 🇹", ["🇮", "🇹"]),
        ("❤️‍🔥1️⃣", ["❤️‍🔥", "1️⃣"]),
        ("🏴󠁧󠁢󠁳󠁣󠁴󠁿.", ["🏴󠁧󠁢󠁳󠁣󠁴󠁿", "."]),
        ("co\u00adop", ["co\u00adop"]),  # a soft hyphen parts no word
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("\u0301a", ["\u0301", "a"]),  # a mark without a base
        ("a \u0301b", ["a", "\u0301", "b"]),
        ("\ufeffAda", ["\ufeff", "Ada"]),
        ("ភ្នំ\u200bពេញ", ["ភ្នំ", "\u200b", "ពេ", "ញ"]),  # a zero-width space parts words
        ("שלום\u200f.", ["שלום", "\u200f", "."]),  # a mention can end before a bidirectional mark
        ("\u2068Ada\u2069", ["\u2068", "Ada", "\u2069"]),
        ("a\u200d!", ["a\u200d", "!"]),  # a joiner joins emoji, not letters and signs
        ("\x00a\x07", ["\x00", "a", "\x07"]),
        ("a\x1cb\x85c", ["a", "b", "c"]),  # separators that are control characters
    ],
)
def test_units_by_hand(text: str, units: list[str]) -> None:
    assert cut(text, word_units(text)) == units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\n\n\rb", ["a", "\r\n", "\n", "\r", "b"]),
        ("e\u0301\u0323x", ["e\u0301\u0323", "x"]),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", ["\u1112\u1161\u11ab", "\u1100\u1173\u11af"]),  # syllables in parts
        ("하\u11ab글", ["하\u11ab", "글"]),
        ("a\u1161", ["a", "\u1161"]),
        (" \u0301", [" ", "\u0301"]),
        ("🇮🇹🇫🇷🇩", ["🇮🇹", "🇫🇷", "🇩"]),
        ("🇮\u0301🇹🇫", ["🇮\u0301", "🇹🇫"]),
        ("👩\u200d🚀\u200d🇮🇹", ["👩\u200d🚀\u200d", "🇮🇹"]),  # no joiner parts a flag
        ("นำ", ["นำ"]),
        ("क्षत ស្រី", ["क्ष", "त", " ", "ស្រី"]),  # conjunct consonants
    ],
)
def test_clusters_by_hand(text: str, expected: list[str]) -> None:
    assert cut(text, clusters(text)) == expected


@given(st.one_of(texts(), st.text()))
def test_units_are_those_of_the_clusters(text: str) -> None:
    assert word_units(text) == joined_units(text)


@pytest.mark.parametrize("text", ["Ada 2_3\r\n\x1f-\x85b\u2028c\u3000d", "çé—“東京”", "\x00a\ud800b", ""])
def test_texts_without_joining_characters_take_the_fast_path(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = joined_units(text)
    monkeypatch.setattr(cllmfs.words, "joined_units", None)
    assert word_units(text) == expected


@given(texts())
@settings(deadline=None)
def test_clusters_cover_the_text(text: str) -> None:
    assert "".join(cut(text, clusters(text))) == text
    assert all(start < end for start, end in clusters(text))


@given(texts())
@settings(deadline=None)
def test_units_cover_each_visible_character_once_and_split_no_cluster(text: str) -> None:
    units = word_units(text)
    covered = [position for start, end in units for position in range(start, end)]
    assert covered == [position for position, char in enumerate(text) if not char.isspace()]
    edges = {edge for piece in clusters(text) for edge in piece}
    assert all(start in edges and end in edges and start < end for start, end in units)


@given(texts())
@settings(deadline=None)
def test_no_unit_begins_with_a_mark_that_has_a_base(text: str) -> None:
    for start, _ in word_units(text):
        if unicodedata.category(text[start])[0] == "M":
            assert start == 0 or text[start - 1].isspace()


@given(st.lists(st.sampled_from(TEXT_PIECES), max_size=8).map("".join))
@example("👩\u200d🚀\u200d🇮🇹")
@settings(deadline=None, max_examples=300)
def test_edges_of_units_are_edges_of_unicode_clusters(text: str) -> None:
    """No unit separates what Unicode annex 29 keeps together, except white space and a mark after it."""
    edges = {match.end() for match in regex.finditer(r"\X", text)} | {0}
    edges |= {position + 1 for position, char in enumerate(text) if char.isspace()} - {
        match.start() + 1 for match in re.finditer("\r\n", text)
    }
    assert {edge for unit in word_units(text) for edge in unit} <= edges, cut(text, word_units(text))
