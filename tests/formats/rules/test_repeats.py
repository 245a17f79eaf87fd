"""Texts that occur twice: copies, contradictions, two annotators, and sentences of both a training and a test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cllmfs.formats import trouble_in, validate_file
from cllmfs.formats.rules.repeats import Repeat, repeats, sentence_key
from cllmfs.schema import Example, Span
from tests.formats.conftest import lines_of, write

ADA = (Span(0, 3, "PER"),)


def example(spans: tuple[Span, ...] = ADA, text: str = "Ada left.", **more: Any) -> Example:
    return Example(text, spans, **more)


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (example(), example(), [Repeat(1, 0, False, "")]),
        (example(), example(()), [Repeat(1, 0, True, "")]),
        (example(), example((Span(0, 3, "ORG"),)), [Repeat(1, 0, True, "")]),
        (example(), example(text="ada left."), []),
        (example((), " "), example((), " "), []),
        # parts of one answer
        (example(annotated=frozenset({"PER"})), example((), annotated=frozenset({"LOC"})), []),
        (example(annotated=frozenset({"PER"})), example(), [Repeat(1, 0, False, "")]),
        (
            example(annotated=frozenset({"PER", "LOC"})),
            example((), annotated=frozenset({"PER"})),
            [Repeat(1, 0, True, "")],
        ),
        (
            example(extra={"annotator": "ada"}),
            example((), extra={"annotator": "bob"}),
            [Repeat(1, 0, True, "two annotators of one text (annotator 'ada' and 'bob')")],
        ),
        (example(extra={"_session_id": 1}), example((), extra={"_session_id": 1}), [Repeat(1, 0, True, "")]),
        (example(extra={"user": ["ada"]}), example((), extra={"user": ["bob"]}), [Repeat(1, 0, True, "")]),
    ],
)
def test_repeats(first: Example, second: Example, found: list[Repeat]) -> None:
    assert list(repeats([first, second])) == found


def test_a_third_part_is_compared_with_each_other_part() -> None:
    parts = [example(annotated=frozenset({name})) for name in ("LOC", "PER")]
    parts[0] = example((), annotated=frozenset({"LOC"}))
    third = example((), annotated=frozenset({"PER"}))
    assert list(repeats([*parts, third])) == [Repeat(2, 1, True, "")]


def test_white_space_and_case_do_not_tell_sentences_apart() -> None:
    assert sentence_key("Ada  LEFT .\n") == sentence_key("ada left.") != sentence_key("Ada left")
    assert sentence_key(" \u200b") == ""


def test_trouble_has_a_line_for_each_kind() -> None:
    learned = [
        example(source="a:1", extra={"annotator": "ada"}),
        example((), source="a:2", extra={"annotator": "bob"}),
        example(source="a:3"),
        example((), source="a:4"),
        example((), "It rains.", source="a:5"),
        example((), "It rains.", source="a:6"),
    ]
    dev = [example((), "It  RAINS.", source="b:1"), example((), "It snows.", source="b:2"), example((), "")]
    assert trouble_in(learned, dev) == [
        "2 training sentences repeat the text of another one with other spans, such as a:2 (a:1): two annotators of "
        "one text (annotator 'ada' and 'bob'); keep one record of each text",
        "2 training sentences repeat another one exactly, such as a:3 (a:1)",
        "1 of 3 held-out sentences are training sentences, too, such as b:1 (a:5); the score on them says nothing "
        "about new texts",
    ]
    assert trouble_in([example((), "It rains."), example((), "It rains.")]) == [
        "1 training sentence repeats another one exactly, such as training sentence 2 (training sentence 1)"
    ]
    assert trouble_in(iter(learned[:1]), iter(dev)) == []
    assert trouble_in([]) == []


def test_validation_tells_repeats_and_sentences_of_other_files(tmp_path: Path) -> None:
    span = {"start": 0, "end": 3, "label": "PER"}
    learned = write(
        tmp_path,
        lines_of(
            {"text": "Ada left.", "spans": [span], "_annotator_id": "ada"},
            {"text": "Ada left.", "spans": [], "_annotator_id": "bob"},
            {"text": "It rains.", "spans": []},
            {"text": "It snows.", "spans": []},
        ),
    )
    test = write(tmp_path, "ADA\tO\nleft\tO\n.\tO\n\nIt\tO\nblows\tO\n", "test.conll")
    dev = write(tmp_path, lines_of({"text": "It  rains.", "spans": []}), "dev.jsonl")
    issues = validate_file(learned, against=[test, dev]).issues
    place = "a sentence should not be both learned and scored; it is also in"
    assert [(issue.line, issue.field, issue.rule, issue.severity, issue.message) for issue in issues] == [
        (1, "text", "seen-elsewhere", "warning", f"{place} {test}:1"),
        (
            2,
            "text",
            "conflicting-duplicate",
            "error",
            "two annotators of one text (_annotator_id 'ada' and 'bob'): the same text must have the same spans; on "
            "line 1 it has others: keep one of the two",
        ),
        (2, "text", "seen-elsewhere", "warning", f"{place} {test}:1"),
        (3, "text", "seen-elsewhere", "warning", f"{place} {dev}:1"),
    ]
