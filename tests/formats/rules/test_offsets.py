"""Offsets that contradict the text of their span: each way of counting is named; right offsets are never refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cllmfs.errors import DataError
from cllmfs.formats import convert, examples_of, read_examples, validate_file
from cllmfs.schema import Example, Span, alike
from tests.formats.conftest import keys, lines_of, write

LETTERS = [*"abcdeEF .,-", "é", "ü", "ß", "я", "ب", "ก", "中", "京", "東", "한", "😀", "👍", "𝔸", "\n"]
Place = tuple[int, int]
few = settings(deadline=None, max_examples=50)


def utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


# The offsets (start, end) in code points, as another tool would write them.
WAYS: dict[str, Callable[[str, Place], Place]] = {
    "counted in UTF-16 units": lambda text, at: (utf16(text[: at[0]]), utf16(text[: at[1]])),
    "counted in UTF-8 bytes": lambda text, at: (len(text[: at[0]].encode()), len(text[: at[1]].encode())),
    "counted with inclusive ends": lambda text, at: (at[0], at[1] - 1),
    "counted with two characters for each line end": lambda text, at: (
        at[0] + text[: at[0]].count("\n"),
        at[1] + text[: at[1]].count("\n"),
    ),
    "shifted by": lambda text, at: (at[0] + 2, at[1] + 2),
    "counted from 1, with inclusive ends": lambda text, at: (at[0] + 1, at[1]),
}


@st.composite
def texts_with_places(draw: st.DrawFn) -> list[tuple[str, list[Place]]]:
    """One to three texts with the places of spans that begin and end with a visible character."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        text = draw(st.text(st.sampled_from(LETTERS), min_size=4, max_size=24))
        visible = [at for at, char in enumerate(text) if not char.isspace()]
        assume(visible)
        starts = draw(st.lists(st.sampled_from(visible), min_size=1, max_size=3, unique=True))
        made.append((text, [(at, draw(st.sampled_from([end + 1 for end in visible if end >= at]))) for at in starts]))
    return made


def records(made: list[tuple[str, list[Place]]], way: Callable[[str, Place], Place]) -> list[dict[str, Any]]:
    return [
        {
            "text": text,
            "spans": [
                {"start": start, "end": end, "label": "X", "text": text[at[0] : at[1]]}
                for at in places
                for start, end in [way(text, at)]
            ],
        }
        for text, places in made
    ]


@few
@given(texts_with_places())
def test_right_offsets_are_never_refused(made: list[tuple[str, list[Place]]]) -> None:
    examples = examples_of(records(made, lambda _, at: at))
    assert [keys(example) for example in examples] == [sorted((*at, "X") for at in places) for _, places in made]


@pytest.mark.parametrize("name", WAYS)
@few
@given(made=texts_with_places())
def test_each_way_of_counting_is_named(name: str, made: list[tuple[str, list[Place]]]) -> None:
    given_ = records(made, WAYS[name])
    spans = [(one["text"], span) for one in given_ for span in one["spans"]]
    wrong = [span for text, span in spans if not alike(text[span["start"] : span["end"]], span["text"])]
    assume(wrong)
    try:
        examples_of(given_)
    except DataError as error:
        message = error.message
    else:
        raise AssertionError("wrong offsets were taken")
    if name.startswith("counted from 1"):  # one that is simpler may fit, too
        assert "fit" in message
    else:
        assert name in message


EMOJI = [
    ("👍 Nora Vale left.", "Nora Vale"),
    ("So did 😀😀 Bo Lind.", "Bo Lind"),
    ("Bo Lind stays.", "Bo Lind"),
]


def stated(text: str, mention: str, way: Callable[[str, Place], Place] = lambda _, at: at) -> dict[str, Any]:
    at = text.index(mention)
    start, end = way(text, (at, at + len(mention)))
    return {"text": text, "spans": [{"start": start, "end": end, "label": "PER", "text": mention}]}


@pytest.mark.parametrize(
    ("way", "explained"),
    [
        (
            "counted in UTF-16 units",
            "got 'Nora Vale' for 'ora Vale ' (3 to 12); all 3 spans of the file that state their text fit if their "
            "offsets are counted in UTF-16 units, so that this one is 2 to 11: convert them to code points",
        ),
        (
            "counted in UTF-8 bytes",
            "got 'Nora Vale' for 'a Vale le' (5 to 14); all 3 spans of the file that state their text fit if their "
            "offsets are counted in UTF-8 bytes, so that this one is 2 to 11: convert",
        ),
        (
            "counted with inclusive ends",
            "got 'Nora Vale' for 'Nora Val' (2 to 10); all 3 spans of the file that state their text fit if their "
            "offsets are counted with inclusive ends, so that this one is 2 to 11: convert",
        ),
        (
            "shifted by",
            "got 'Nora Vale' for 'ra Vale l' (4 to 13); all 3 spans of the file that state their text fit if their "
            "offsets are shifted by -2, so that this one is 2 to 11: convert",
        ),
        (
            "counted from 1, with inclusive ends",
            "got 'Nora Vale' for 'ora Vale' (3 to 11); all 3 spans of the file that state their text fit if their "
            "offsets are counted from 1, with inclusive ends, so that this one is 2 to 11: convert",
        ),
    ],
)
def test_the_message_names_what_was_found_and_what_mends_it(way: str, explained: str) -> None:
    with pytest.raises(DataError) as caught:
        examples_of([stated(text, mention, WAYS[way]) for text, mention in EMOJI])
    assert str(caught.value).startswith(
        f"records:1, field 'spans[0]': a span's text must be the text at its offsets, {explained}"
    )


def test_offsets_outside_the_text_and_empty_spans_are_explained_too(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of(stated("😀😀 Bo", "Bo", WAYS["counted in UTF-16 units"]), stated("Bo", "Bo")))
    (issue,) = validate_file(path).issues
    assert (issue.rule, issue.severity) == ("offset-out-of-range", "error")
    assert "got 5 to 7 (PER); all 2 spans of the file" in issue.message and "UTF-16 units" in issue.message
    way = WAYS["counted with inclusive ends"]
    path = write(tmp_path, lines_of(stated("Vitamin C", "C", way), stated("Ask Bo", "Bo", way)))
    assert [issue.rule for issue in validate_file(path).issues] == ["empty-span", "mention-mismatch"]
    assert all("counted with inclusive ends" in issue.message for issue in validate_file(path).issues)


def test_one_record_may_be_counted_otherwise_than_the_rest(tmp_path: Path) -> None:
    content = lines_of(stated("👍 Ada", "Ada", WAYS["counted in UTF-16 units"]), stated("é 👍 Bo", "Bo"))
    (issue,) = validate_file(write(tmp_path, content)).issues
    assert issue.line == 1
    assert "it fits if its offsets are counted in UTF-16 units" in issue.message


@pytest.mark.parametrize(
    ("mention", "end"),
    [
        ("so it is at 4 to 6", "correct the offsets or the text"),
        ("Bo L", "; correct the offsets or the text (that text is at 4 to 8)"),
    ],
)
def test_what_nothing_explains_is_refused_all_the_same(mention: str, end: str) -> None:
    record = {"text": "Ask Bo Lind.", "spans": [{"start": 4, "end": 11, "label": "PER", "text": mention}]}
    with pytest.raises(DataError) as caught:
        examples_of([record])
    assert caught.value.message.endswith(end)


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("Nora\nVale left", "Nora Vale"),
        ("Nora  Vale left", "Nora Vale"),
        ("Nora\u00a0Vale left", "Nora Vale"),
        ("Nora Vale left", " Nora Vale\n"),
        (unicodedata.normalize("NFD", "Zoë Vale left"), "Zoë Vale"),
        ("Zoë Vale left", unicodedata.normalize("NFD", "Zoë Vale")),
        ("\ufb01ne wine", "fine"),
        ("Nora Vale left", ""),
        ("Nora Vale left", None),
    ],
)
def test_white_space_and_normalization_may_differ(tmp_path: Path, text: str, mention: str | None) -> None:
    end = text.index(" left") if " left" in text else 3
    path = write(tmp_path, lines_of({"text": text, "spans": [{"start": 0, "end": end, "label": "X", "text": mention}]}))
    assert keys(read_examples(path)[0]) == [(0, end, "X")]
    report = validate_file(path)
    assert report.ok
    assert [issue.rule for issue in report.issues] == ["mention-mismatch"] * bool(mention)


def test_every_reader_refuses(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of({"text": "Ask Bo", "spans": [{"start": 3, "end": 5, "label": "P", "text": "Bo"}]}))
    with pytest.raises(DataError, match=r":1, field 'spans\[0\]': .* shifted by \+1, so that this one is 4 to 6"):
        read_examples(path)
    with pytest.raises(DataError, match="shifted by"):
        convert(path, tmp_path / "out.conll", to_format="conll")
    with pytest.raises(DataError, match=r"a span's text must be the text at its offsets, got 'Bo' for ' B' \(3 to 5\)"):
        Example("Ask Bo", (Span(3, 5, "P", text="Bo"),)).check()


def test_messages_quote_little() -> None:
    text = "a" * 100_000
    with pytest.raises(DataError) as caught:
        examples_of([{"text": text, "spans": [{"start": 0, "end": 99_999, "label": "b" * 9999, "text": "b" * 99_999}]}])
    assert len(str(caught.value)) < 500
