"""Which place of a repeated string is reported: counts by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.trust.occurrences import OTHER, SAME, Occurrences, confusable, main, measure, places
from cllmfs.schema import Document, Example, Span
from tests.cli.conftest import jsonl


def at(text: str, word: str, number: int, label: str) -> Span:
    """The span of an occurrence of a word, counted from 0."""
    found = list(re.finditer(re.escape(word), text))[number]
    return Span(found.start(), found.end(), label)


def example(text: str, *spans: tuple[str, int, str]) -> Example:
    return Example(text, tuple(at(text, *span) for span in spans))


MAY = "Will May come in May, or may she stay?"
APPLE = "Apple ate an apple from Apple Farm, not applesauce."


def test_places_are_whole_words_in_any_case() -> None:
    assert places(MAY, at(MAY, "May", 0, "x")) == [(5, 8), (17, 20), (25, 28)]
    assert places(APPLE, at(APPLE, "Apple", 0, "x")) == [(0, 5), (13, 18), (24, 29)]
    assert places(APPLE, Span(0, 3, "x")) == []  # inside a word
    two = "New York or new york? New-York!"
    assert places(two, Span(0, 8, "x")) == [(0, 8), (12, 20)]
    assert places("Straße STRASSE", Span(0, 6, "x")) == [(0, 6), (7, 14)]


def test_what_can_be_confused() -> None:
    (one,) = confusable(example(MAY, ("May", 0, "person")))
    assert one == ("person", SAME, {(5, 8)}, {(17, 20), (25, 28)})
    by_label = {label: rest for label, *rest in confusable(example(MAY, ("May", 0, "person"), ("May", 1, "month")))}
    assert by_label["month"] == [SAME, {(17, 20)}, {(5, 8), (25, 28)}]
    (one,) = confusable(example(MAY, ("May", 0, "person"), ("May", 1, "person")))
    assert one == ("person", OTHER, {(5, 8), (17, 20)}, {(25, 28)})
    assert list(confusable(example("May met Bob.", ("May", 0, "person")))) == []
    assert list(confusable(example("Bo and Bo", ("Bo", 0, "person"), ("Bo", 1, "person")))) == []


@pytest.mark.parametrize(
    ("reported", "counts"),
    [
        ([], Occurrences(1, missed=1)),
        ([("May", 0, "person")], Occurrences(1, right=1)),
        ([("May", 1, "person")], Occurrences(1, wrong=1)),
        ([("may", 0, "person")], Occurrences(1, wrong=1)),
        ([("May", 0, "person"), ("May", 1, "person")], Occurrences(1, right=1, spurious=1)),
        ([("May", 1, "person"), ("may", 0, "person")], Occurrences(1, wrong=1, spurious=1)),
        ([("May", 1, "month"), ("come", 0, "person")], Occurrences(1, missed=1)),
    ],
)
def test_a_mention_is_right_wrong_or_missed(reported: list[tuple[str, int, str]], counts: Occurrences) -> None:
    gold = example(MAY, ("May", 0, "person"))
    found = Document(MAY, tuple(at(MAY, *span) for span in reported))
    assert measure([gold], [found]) == {SAME: counts, OTHER: Occurrences()}


def test_a_wrong_place_stands_for_one_mention_only() -> None:
    gold = example(MAY, ("May", 0, "person"), ("May", 1, "person"))
    found = Document(MAY, (at(MAY, "may", 0, "person"),))
    assert measure([gold, gold], [found, found])[OTHER] == Occurrences(4, wrong=2, missed=2)


def test_the_script_reads_files_and_writes_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cllmfs.recognizer

    class Fake:
        labels = None

        @classmethod
        def load(cls, model: str, labels: object) -> Fake:
            return cls()

        def predict(self, texts: list[str], *, labels: object, threshold: object) -> list[Document]:
            assert texts == [MAY]  # the other text has nothing to confuse
            return [Document(text, (at(text, "May", 1, "person"),)) for text in texts]

    monkeypatch.setattr(cllmfs.recognizer, "EntityRecognizer", Fake)
    gold = [example(MAY, ("May", 0, "person")), example("May met Bob.", ("May", 0, "person"))]
    jsonl(tmp_path / "test.jsonl", *[one.to_dict() for one in gold])
    monkeypatch.chdir(tmp_path)
    main(["some-model", "test.jsonl", "--output", "counts.json"])
    written = json.loads(Path("counts.json").read_text(encoding="utf-8"))
    assert written["files"]["test.jsonl"][SAME] == {"mentions": 1, "right": 0, "wrong": 1, "missed": 0, "spurious": 0}
    assert re.search(r"/test +same case +1 +0 +1 +0 +0 +100.0 %", capsys.readouterr().out)
