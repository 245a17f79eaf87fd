"""CoNLL columns: read in every scheme and written by hand, and each error by its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from cllmfs.errors import DataError
from cllmfs.formats import read_examples, write_examples
from cllmfs.schema import Example, Span
from tests.formats.conftest import (
    TAG_SCHEMES,
    keys,
    tokens_of,
    write,
)

CONLL = """-DOCSTART- -X- -X- O

Ada NNP B-NP {ada}
Byron NNP I-NP {byron}
met VBD B-VP O
Bo NNP B-NP {bo}

Rome NNP B-NP {rome}
"""

CONLL_TAGS = {
    "iob1": ("I-PER", "I-PER", "I-PER", "I-LOC"),
    "iob2": ("B-PER", "I-PER", "B-PER", "B-LOC"),
    "io": ("I-PER", "I-PER", "I-PER", "I-LOC"),
    "bioes": ("B-PER", "E-PER", "S-PER", "S-LOC"),
    "bilou": ("B-PER", "L-PER", "U-PER", "U-LOC"),
}


@pytest.mark.parametrize("scheme", TAG_SCHEMES)
@pytest.mark.parametrize("tabs", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("forced", [False, True])
def test_conll_by_hand(tmp_path: Path, scheme: str, tabs: bool, line_end: str, bom: bytes, forced: bool) -> None:
    content = CONLL.format(**dict(zip(("ada", "byron", "bo", "rome"), CONLL_TAGS[scheme], strict=True)))
    content = content.replace("\n", line_end).replace(" ", "\t" if tabs else "  ")
    path = write(tmp_path, bom + content.encode(), "data.conll")
    first, second = read_examples(path, scheme=scheme if forced else None)
    assert (first.text, keys(first)) == ("Ada Byron met Bo", [(0, 9, "PER"), (14, 16, "PER")])
    assert (second.text, keys(second), second.source) == ("Rome", [(0, 4, "LOC")], f"{path}:8")


def test_tokens_with_odd_spaces_survive_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a\u00a0b O\nc\u2028d\tB-X\n\u0085\tO\ntwo words\tI-X\n", "a.conll")
    (example,) = read_examples(path)
    assert tokens_of(example) == ["a\u00a0b", "c\u2028d", "\u0085", "two words"]


@pytest.mark.parametrize(
    ("content", "scheme", "message"),
    [
        ("Ada B-PER\nmet\n", None, ":2, field 'tag': a line needs a token and a tag, got one column: str 'met'"),
        ("Ada B-PER\n\tO\n", None, ":2, field 'token': the first column must hold a token"),
        ("Ada B-PER\nmet PER\n", None, ":2, field 'tag': a tag is O or one of .*got 'PER'"),
        ("Ada S-PER\n", "iob2", "a tag in scheme iob2 is O or one of B-TYPE, I-TYPE, got 'S-PER'"),
        ("Ada\tO\rmet\tO\r", None, "carriage return inside it"),
        ("\n-DOCSTART- O\n\n", None, "the file holds no records"),
    ],
)
def test_bad_columns(tmp_path: Path, content: str, scheme: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_examples(write(tmp_path, content, "a.conll"), scheme=scheme)


def test_bad_bytes_in_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=":2: files must be UTF-8"):
        read_examples(write(tmp_path, "Bo O\nZoë O\n".encode("latin-1"), "a.conll"))


def test_conll_is_written_by_hand(tmp_path: Path) -> None:
    examples = [Example("Zoë's here.", (Span(0, 3, "PER"),)), Example("Rome", (Span(0, 2, "X"),))]
    write_examples(examples, tmp_path / "a.conll", format="conll", scheme="bioes")
    expected = "Zoë\tS-PER\n'\tO\ns\tO\nhere\tO\n.\tO\n\nRo\tS-X\nme\tO\n\n"  # the span's edge cuts the second word
    assert (tmp_path / "a.conll").read_bytes().decode() == expected
