"""Reading: tag schemes of a whole file, arguments, and texts to predict on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats import iter_texts, read_examples, write_examples
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
