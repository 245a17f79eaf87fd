"""Reading: tag schemes of a whole file, arguments, and texts to predict on."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats import examples_of, iter_texts, read_examples, write_examples
from cllmfs.formats.reading import unlabeled_batches
from cllmfs.schema import Example, Span
from tests.formats.conftest import (
    keys,
    lines_of,
    write,
)


def test_iob1_and_io_differ_for_adjacent_spans_only(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path, "Ada\tI-PER\nBo\tB-PER\nRome\tI-LOC\n", "a.conll"))
    assert keys(example) == [(0, 3, "PER"), (4, 6, "PER"), (7, 11, "LOC")]
    (example,) = read_examples(write(tmp_path, "Ada\tI-PER\nBo\tI-PER\n", "a.conll"))
    assert keys(example) == [(0, 6, "PER")]


def test_damaged_tags_are_read(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path, "Ada\tI-PER\nmet\tO\nBo\tB-PER\nCo\tI-ORG\n", "a.conll"), scheme="iob2")
    assert keys(example) == [(0, 3, "PER"), (8, 10, "PER"), (11, 13, "ORG")]


def test_bad_arguments(tmp_path: Path) -> None:
    path = write(tmp_path, "Ada O\n", "a.conll")
    with pytest.raises(ConfigError, match="format must be one of jsonl, tokens, tags, conll, got 'xml'"):
        read_examples(path, format="xml")
    with pytest.raises(ConfigError, match="scheme must be one of"):
        read_examples(path, scheme="bmes")
    with pytest.raises(ConfigError, match="format must be one of"):
        write_examples([], tmp_path / "out", format="xml")
    with pytest.raises(ConfigError, match="format must be jsonl or text"):
        list(iter_texts(path, format="conll"))
    with pytest.raises(DataError, match=r"absent.jsonl: the file cannot be read: No such file"):
        read_examples(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path)


def test_texts_keep_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffone\u2028half\r\n\n {"text": 1}\nlast\u0085', "a.txt")
    assert list(iter_texts(path)) == ["one\u2028half", "", ' {"text": 1}', "last\u0085"]
    assert list(iter_texts(write(tmp_path, "", "a.txt"))) == []


def test_texts_of_records(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of({"text": "a\nb", "tokens": ["x"]}, {"tokens": ["c", "d"]}, {"text": ""}))
    assert list(iter_texts(path)) == ["a\nb", "c d", ""]
    assert list(iter_texts(path, format="text"))[1] == '{"tokens": ["c", "d"]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence": "a"}', r':2, field \'text\': a record needs a string "text" or a list of strings "tokens"'),
        ('{"text": 5}', "needs a string"),
        ('{"tokens": ["a", 5]}', "needs a string"),
        ("plain", ":2: a line must be one JSON object"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_texts_stop_at_a_bad_record(tmp_path: Path, line: str, message: str) -> None:
    texts = iter_texts(write(tmp_path, '{"text": "first"}\n' + line + "\n"))
    assert next(texts) == "first"  # streamed: the lines before the error arrive
    with pytest.raises(DataError, match=message):
        next(texts)


ADA = {"text": "Ada", "spans": [{"start": 0, "end": 3, "label": "PER"}]}


class Frame:
    """What a pandas data frame is to us: iterating it gives its columns."""

    def __iter__(self) -> Iterator[str]:
        return iter(["text", "spans"])

    def itertuples(self) -> None: ...

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [ADA]


def test_examples_of_records_in_memory() -> None:
    example = Example("Ada", (Span(0, 3, "PER"),))
    given: list[Any] = [
        [ADA, example],
        (one for one in [ADA, example]),
        ({"text": "Ada", "spans": (Span(0, 3, "PER", text="Ada"),)}, example),
        [types.MappingProxyType({"tokens": ("Ada",), "spans": [(0, 1, "PER")]}), ADA],
        [{"tokens": ["Ada"], "ner_tags": numpy_like(["B-PER"])}, example],
    ]
    for records in given:
        assert examples_of(records) == [example, example]
    assert examples_of(Frame()) == [example]
    assert examples_of([example])[0] is example
    assert examples_of([]) == examples_of(iter(())) == []
    assert examples_of([{**ADA, "id": 3, "labels": ["PER"]}])[0].to_dict() == {**ADA, "labels": ["PER"], "id": 3}


def numpy_like(values: list[Any]) -> Any:
    return types.SimpleNamespace(tolist=lambda: values)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ("shots.jsonl", r"records are needed, got str 'shots.jsonl': read a file with read_examples\(path\)"),
        (Path("shots.jsonl"), "read a file with read_examples"),
        (ADA, r"a list of records is needed, got dict .*write \[record\] for a single one"),
        (Example("Ada"), r"a list of records is needed, got Example .*write \[record\]"),
        (5, "a list of records is needed, got int 5"),
        (None, "a list of records is needed, got NoneType"),
        ([ADA, "Ada"], r"^records:2: a record must be an Example or a mapping .*, got str 'Ada'"),
        ([ADA, ("Ada", [])], "^records:2: a record must be an Example or a mapping"),
        ([ADA, {"text": "Ada"}], "^records:2, field 'spans': the field 'spans' is missing"),
        (iter([ADA, {**ADA, "text": "A"}]), r"^records:2, field 'spans\[0\]': a span must lie in 0 to 1"),
    ],
)
def test_what_is_no_record(records: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        examples_of(records)


@pytest.mark.parametrize(
    "name", ["in.csv", "in.CSV", "in.tsv", "in.xlsx", "in.parquet", "in.conll", "in.bio", "in.docx"]
)
def test_files_whose_lines_are_no_texts_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "id,text\n1,Ada\n", name)
    with pytest.raises(ConfigError, match=r"one text on each line, or JSON lines with a key .*--format text takes"):
        iter_texts(path)
    assert list(iter_texts(path, format="text")) == ["id,text", "1,Ada"]


def test_the_advice_for_a_file_fits_its_kind() -> None:
    with pytest.raises(ConfigError, match=r"pandas.read_csv\('in.csv'\).to_json\('texts.jsonl', orient='records'"):
        iter_texts("in.csv")
    with pytest.raises(ConfigError, match=r"pandas.read_excel\('in.xlsx'\)"):
        iter_texts("in.xlsx")
    with pytest.raises(ConfigError, match=r"cllmfs convert in.conll in.jsonl"):
        iter_texts("in.conll")


def test_texts_keep_the_other_fields_of_their_records(tmp_path: Path) -> None:
    records = [{"id": 1, **ADA, "meta": {"a": 1}, "labels": ["PER"]}, {"tokens": ["王", "明"], "id": 2}]
    (batch,) = unlabeled_batches(write(tmp_path, lines_of(*records)))
    found = [(example.text, example.spans, example.annotated, example.extra) for example in batch]
    assert found == [("Ada", (), None, {"id": 1, "meta": {"a": 1}}), ("王明", (), None, {"id": 2})]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where to write to what is read as standard input."""
    source, target = os.pipe()
    with open(source, "rb") as handle:
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=handle))
        yield target


def test_lines_of_a_pipe_come_when_they_are_there(pipe: int) -> None:
    batches = unlabeled_batches("-")
    for sent, found in (
        (b"one\n", ["one"]),
        (b"two\n\nthree\r\nfo", ["two", "", "three"]),
        (b"ur\n", ["four"]),
        (b"x\n" * 100, ["x"] * 64),
    ):
        os.write(pipe, sent)
        assert [example.text for example in next(batches)] == found
    assert len(list(next(batches))) == 36
    os.write(pipe, b"last \xff\xfe")
    os.close(pipe)
    with pytest.raises(DataError, match=r"<stdin>:106: files must be UTF-8, got the byte 0xff \(byte 6 of the line, 2"):
        next(batches)


def test_texts_before_a_bad_line_of_a_pipe_come_first(pipe: int) -> None:
    os.write(pipe, b'{"text": "a", "id": 1}\n\n{"text": "b"}\nno\n{"text": "c"}\n')
    os.close(pipe)
    batches = unlabeled_batches("-", format="jsonl")
    assert [(example.text, example.extra) for example in next(batches)] == [("a", {"id": 1}), ("b", {})]
    with pytest.raises(DataError, match="<stdin>:4: a line must be one JSON object"):
        next(batches)


def test_the_end_of_a_pipe_needs_no_line_end(pipe: int) -> None:
    os.write(pipe, b"\xef\xbb\xbfone\ntwo")
    os.close(pipe)
    assert [[example.text for example in batch] for batch in unlabeled_batches("-")] == [["one"], ["two"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file holds no records"),
        (b"\n\r\n  \n", "the file holds no records"),
        (b"\xef\xbb\xbf", "the file holds no records"),
    ],
)
def test_files_without_records(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        read_examples(path)
