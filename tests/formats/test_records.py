"""Lines of a file: encodings, and places of what is not text."""

from __future__ import annotations

from pathlib import Path

import pytest

from cllmfs.errors import DataError
from cllmfs.formats import iter_texts, read_examples
from tests.formats.conftest import (
    write,
)


def test_a_bad_byte_is_counted_from_the_files_first(tmp_path: Path) -> None:
    texts = iter_texts(write(tmp_path, b"\xef\xbb\xbfab\nc\xff\n", "a.txt"))
    assert next(texts) == "ab"
    with pytest.raises(DataError, match=r":2: .* got the byte 0xff .byte 2 of the line, 8 of the file"):
        next(texts)
    with pytest.raises(DataError, match=r":1: .* got the byte 0xff .byte 5 of the line, 5 of the file"):
        list(iter_texts(write(tmp_path, b"\xef\xbb\xbfa\xff", "a.txt")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"text": "Zoë", "spans": []}\n'.encode("latin-1"),
            "must be UTF-8, got the byte 0xeb .byte 13 of the line, "
            "13 of the file.; convert the file, for instance with iconv -f WINDOWS-1252 -t UTF-8",
        ),
        ('{"text": "a"}'.encode("utf-16"), "got UTF-16 .*iconv -f UTF-16 -t UTF-8"),
        (b"PK\x03\x04\x00\x00junk\n", "got a NUL byte .byte 5 of the line.: this is a binary file"),
        (b"\x1f\x8b\x08rest", "got gzip data; unpack it with gunzip"),
    ],
)
def test_files_that_are_not_utf8(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        read_examples(path)
