"""Other inputs of the kinds that users report: spellings of answers, invisible characters, line ends, tables."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import DataError
from cllmfs.formats import read_examples
from cllmfs.schema import Example, Span
from cllmfs.words import word_units
from tests.conftest import tiny_backbone

SPAN = {"start": 0, "end": 4, "label": "person"}


def read(folder: Path, *records: object) -> list[Example]:
    path = folder / "file.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_examples(path)


@pytest.mark.parametrize("answer", ["reject", "REJECT", "rejected", " ignore ", "Ignored", False, None])
def test_no_spelling_of_a_rejected_answer_is_gold(
    answer: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = {"text": "Anna came", "spans": [SPAN], "answer": "Accept"}
    with caplog.at_level(logging.WARNING, "cllmfs"):
        found = read(tmp_path, accepted, {"text": "Otto left", "spans": [SPAN], "answer": answer})
    assert [one.text for one in found] == ["Anna came"] and found[0].extra == {}
    assert "1 of 2 records are left out" in caplog.text


def test_an_answer_of_another_meaning_is_kept(tmp_path: Path) -> None:
    (found,) = read(tmp_path, {"text": "Anna came", "spans": [SPAN], "answer": "Anna"})
    assert found.extra == {"answer": "Anna"}


INVISIBLE = ["\u200b", "\ufeff", "\u2060", "\u200e", "\u200f", "\u061c", "\u202a", "\u2069"]


@pytest.mark.parametrize("char", INVISIBLE)
@pytest.mark.parametrize("edges", ["word", "token"])
def test_invisible_characters_beside_a_name_do_not_move_its_edges(char: str, edges: str) -> None:
    text = f"We met {char}Anna{char} today, {char}Otto{char}"
    tokens = tokenize(tiny_backbone("llama").prompt.tokenizer, text, edges)
    for name in ("Anna", "Otto"):
        at = text.index(name)
        wide = Example(text, (Span(at - 1, at + 5, "person"),)).trimmed()
        assert wide.spans == (Span(at, at + 4, "person"),)
        assert tokens.token_range(at, at + 4) is not None
        assert (at, at + 4) in word_units(text)


def test_joiners_are_left_out_at_the_beginning_alone() -> None:
    assert Example("\u200cAnna", (Span(0, 5, "p"),)).trimmed().spans == (Span(1, 5, "p"),)
    assert Example("Anna\u200d", (Span(0, 5, "p"),)).trimmed().spans == (Span(0, 5, "p"),)


def test_line_ends_that_count_as_one_character_are_named(tmp_path: Path) -> None:
    spans = [
        {"start": 11, "end": 15, "label": "p", "text": "Anna"},
        {"start": 21, "end": 24, "label": "p", "text": "Bob"},
    ]
    with pytest.raises(DataError, match="one character for each line end, so that this one is 12 to 16"):
        read(tmp_path, {"text": "first line\r\nAnna came\r\nBob left", "spans": spans})


def test_no_advice_gives_a_mention_with_white_space_at_its_edge(tmp_path: Path) -> None:
    wrong = {"text": "so Anna came", "spans": [{"start": 2, "end": 6, "label": "p", "text": "Anna"}]}
    with pytest.raises(DataError) as caught:
        read(tmp_path, wrong)
    assert "3 to 7" in str(caught.value) and "2 to 7" not in str(caught.value)


@pytest.mark.parametrize("labels", ["p", 3, [1], {"p": 1}])
def test_labels_of_another_form_are_not_ignored(labels: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a list of the labels"):
        read(tmp_path, {"text": "Anna came", "spans": [], "labels": labels})


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".parquet"])
def test_tables_are_no_labeled_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_text("token,label\nAnna,B-p\n", encoding="utf-8")
    with pytest.raises(DataError, match="a table is not read as labeled text"):
        read_examples(path)
