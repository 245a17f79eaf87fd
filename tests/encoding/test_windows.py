"""Long texts: nothing is left out, and cuts stand at good places."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.encoding.tokens import TokenizedText
from cllmfs.encoding.windows import Window, windows
from cllmfs.words import word_units


def toy(text: str, size: int = 1, leading_space: bool = False) -> TokenizedText:
    """Tokens of ``size`` characters, none across a word's edge; white space is tokens of its own or leads a word."""
    ranges: list[tuple[int, int]] = []
    start_ok, end_ok, char_start, char_end = [], [], [], []
    done = 0

    def add(start: int, end: int, first: int = -1, last: int = -1) -> None:
        ranges.append((start, end))
        start_ok.append(first >= 0)
        end_ok.append(last >= 0)
        char_start.append(first)
        char_end.append(last)

    for begin, stop in word_units(text):
        lead = begin - 1 if leading_space and begin > done else begin
        for space in range(done, lead):
            add(space, space + 1)
        for start in range(begin, stop, size):
            end = min(start + size, stop)
            first = start == begin
            add(lead if first else start, end, begin if first else -1, stop if end == stop else -1)
        done = stop
    for space in range(done, len(text)):
        add(space, space + 1)
    fields = (tuple(values) for values in (start_ok, end_ok, char_start, char_end))
    return TokenizedText(text, tuple(range(len(ranges))), *fields)


def texts() -> st.SearchStrategy[str]:
    pieces = st.sampled_from([" ", " ", "\n", ".", ". ", "。", "-", "a", "word", "京", "x" * 40, "   ", "Ada met Bo."])
    return st.lists(pieces, max_size=40).map("".join)


# windows


@given(texts(), st.integers(1, 40), st.integers(0, 50), st.integers(1, 4), st.booleans())
@settings(deadline=None, max_examples=300)
def test_every_token_is_read_and_owned_once(text: str, limit: int, overlap: int, size: int, lead: bool) -> None:
    tokens = toy(text, size, lead)
    made = windows(tokens, limit, overlap)
    if not len(tokens):
        assert made == []
        return
    assert made[0].start == 0 and made[-1].end == len(tokens)
    assert all(0 < window.end - window.start <= limit for window in made)
    assert all(before.start < after.start <= before.end for before, after in pairwise(made))
    owned = [place for window in made for place in range(*window.owns)]
    assert owned == list(range(len(tokens)))
    assert all(window.start <= window.owns[0] <= window.owns[1] <= window.end for window in made)


@given(texts(), st.integers(4, 40), st.integers(0, 50), st.booleans())
@settings(deadline=None)
def test_a_short_span_lies_in_the_window_that_owns_its_start(text: str, limit: int, overlap: int, lead: bool) -> None:
    """Neighbors share at least the overlap, and the border of what they own halves what they share."""
    tokens = toy(text, 1, lead)
    made = windows(tokens, limit, overlap)
    shared = min(overlap, limit // 4)
    for before, after in pairwise(made):
        assert before.end - after.start >= shared
        assert before.end - before.owns[1] >= shared // 2
        assert after.owns[0] - after.start >= shared // 2


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_giant_word_is_cut_and_does_not_stop_progress(size: int) -> None:
    tokens = toy("go " + "x" * 5000 + " stop", size)
    limit = 64
    made = windows(tokens, limit, 16)
    assert made[-1].end == len(tokens)
    assert len(made) <= len(tokens) / (limit // 4) + 2


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_tiny_limit_ends_too(limit: int) -> None:
    made = windows(toy("a bbbbbb cc"), limit, 32)
    assert made[-1].end == len("a bbbbbb cc") and len(made) <= len("a bbbbbb cc")


def test_many_windows_do_not_take_quadratic_time() -> None:
    for text in ("x" * 100_000, " " * 100_000, "a " * 50_000):
        made = windows(toy(text), 512, 32)
        assert 195 <= len(made) <= 260, text[:2]


@pytest.mark.parametrize(
    "text, limit, end",
    [
        ("abc def. ghi jkl mn", 12, 9),  # a sentence's end before a later space
        ("abc def.\nghi jkl mn", 12, 9),
        ("abcdef\nghi jklmnop", 12, 7),  # a line's end, too
        ("東京は。大阪は雨です", 6, 4),  # no space follows this full stop
        ("v1.2 of it all goes on", 6, 5),  # a point inside a number is no sentence's end
        ("abcdef gh-ijklmnop", 12, 7),  # white space before a later word edge
        ("abcdefgh-ijklmnop", 12, 9),  # the last edge of a word
        ("abcdefghijklmnop", 12, 12),  # no edge at all
        ("ab. cdefghijklmnop", 12, 12),  # a sentence's end in the first half is too early
    ],
)
def test_where_a_window_ends(text: str, limit: int, end: int) -> None:
    assert windows(toy(text), limit, 0)[0].end == end


def test_white_space_that_leads_a_word_counts_like_tokens_of_its_own() -> None:
    tokens = toy("Up it went. Down it came again", 20, leading_space=True)  # Up| it| went|.| Down| it| came| again
    assert [(w.start, w.end) for w in windows(tokens, 6, 0)] == [(0, 4), (4, 8)]


def test_windows_begin_with_a_word() -> None:
    tokens = toy("seven " * 60)
    made = windows(tokens, 48, 8)
    assert len(made) > 5
    assert all(tokens.start_ok[window.start] for window in made)
    assert all(8 <= before.end - after.start < 8 + 6 for before, after in pairwise(made))


def test_a_text_within_the_limit_is_one_window() -> None:
    tokens = toy("Ada met Bo.")
    assert windows(tokens, len(tokens), 4) == [Window(0, len(tokens), (0, len(tokens)))]
    assert windows(tokens, 10_000, 4) == [Window(0, len(tokens), (0, len(tokens)))]


def test_an_empty_text_has_no_window() -> None:
    assert windows(toy(""), 16, 4) == []


def test_white_space_alone_is_read_and_has_no_edges() -> None:
    assert [(w.start, w.end) for w in windows(toy("  \n "), 16, 4)] == [(0, 4)]
