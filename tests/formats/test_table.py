"""The table of formats: how a format is found, and that one line of it is all that a new format needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cllmfs.datasets.splits import load_split
from cllmfs.errors import DataError
from cllmfs.formats import convert, read_examples, validate_file, write_examples
from cllmfs.formats.records import Draft, Source, write_lines
from cllmfs.formats.table import FORMATS, Format
from cllmfs.schema import Example, Span
from tests.formats.conftest import (
    lines_of,
    write,
)


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("a.txt", "Ada B-PER\n", 1),
        ("a.txt", '\n{"text": "Ada", "spans": []}\n', 1),
        ("a", '{ "tokens": ["Ada"], "spans": []}\n', 1),
        ("a.txt", "{ O\n} O\n\n{ O\n", 2),
        ("a.JSONL", '{"text": "Ada", "spans": []}\n', 1),
        ("a.json", '\ufeff{"text": "Ada", "spans": []}\r\n\r\n{"text": "Bo", "spans": []}', 2),
    ],
)
def test_format_is_found(tmp_path: Path, name: str, content: str, count: int) -> None:
    assert len(read_examples(write(tmp_path, content, name))) == count


def test_a_forced_format_is_kept_to(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of({"tokens": ["Ada"], "spans": []}))
    with pytest.raises(DataError, match="the field 'text' is missing"):
        read_examples(path, format="jsonl")
    with pytest.raises(DataError, match="the field 'ner_tags' is missing"):
        read_examples(path, format="tags")


def read_shouts(source: Source) -> Iterator[Draft]:
    """A made-up format that is read from a path: each line is a text, each word in capitals a span."""
    for number, text in enumerate(Path(source.path).read_text(encoding="utf-8").splitlines(), 1):
        tokens = text.split()
        spans = [(at, at + 1, "LOUD") for at, token in enumerate(tokens) if token.isupper()]
        yield Draft(number, f"{source.name}:{number}", example=Example.from_tokens(tokens, spans))


def write_shouts(examples: Iterable[Example], path: str | Path, scheme: str) -> int:
    return write_lines(lambda example, _: example.text + "\n", examples, path, scheme)


SHOUTS = Format("shouts", read_shouts, write_shouts, (".shout",), lambda source: str(source.path).endswith("loud"))


def test_a_new_format_needs_a_line_of_the_table_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "shouts", SHOUTS)
    expected = [Example("ADA sings", (Span(0, 3, "LOUD"),)), Example("quiet")]
    for name, format in (("a.shout", None), ("loud", None), ("a.txt", "shouts")):
        assert read_examples(write(tmp_path, "ADA sings\nquiet\n", name), format=format) == expected
    assert validate_file(tmp_path / "a.shout").mentions == {"LOUD": 1}
    assert write_examples(expected, tmp_path / "b.shout", format="shouts") == 2
    assert convert(tmp_path / "b.shout", tmp_path / "b.conll", to_format="conll") == 2
    assert convert(tmp_path / "b.conll", tmp_path / "c", to_format="shouts") == 2
    assert (tmp_path / "c").read_text(encoding="utf-8") == "ADA sings\nquiet\n"
    assert load_split(tmp_path.joinpath("a.shout").rename(tmp_path / "dev.shout").parent, "dev") == expected


def test_the_command_line_offers_a_new_format(tmp_path: Path) -> None:
    code = "from tests.formats.test_table import FORMATS, SHOUTS; FORMATS['shouts'] = SHOUTS; "
    code += "from cllmfs.cli import main; main()"

    def run(*words: str | Path) -> str:
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    assert "shouts" in run("validate", "--help") and "shouts" in run("convert", "--help")
    source = write(tmp_path, "ADA sings\n", "a.shout")
    assert "1 mentions" in run("validate", source)
    run("convert", source, tmp_path / "a.jsonl")
    run("convert", tmp_path / "a.jsonl", tmp_path / "b.shout")
    assert (tmp_path / "b.shout").read_text(encoding="utf-8") == "ADA sings\n"
