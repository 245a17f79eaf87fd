"""Writing and converting: round trips, what cannot be written, and that files appear whole or not at all."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cllmfs.errors import DataError
from cllmfs.formats import convert, iter_texts, read_examples, write_examples
from cllmfs.schema import Example, Span
from cllmfs.words import word_units
from tests.formats.conftest import (
    TAG_SCHEMES,
    in_folder,
    lines_of,
    text_examples,
    token_examples,
    tokens_of,
    write,
)


@in_folder
@given(st.lists(token_examples(flat=True), min_size=1, max_size=4), st.sampled_from(TAG_SCHEMES), st.booleans())
def test_tag_formats_round_trip(tmp_path: Path, examples: list[Example], scheme: str, forced: bool) -> None:
    for format, name in (("tags", "out.jsonl"), ("conll", "out.conll")):
        try:
            write_examples(examples, tmp_path / name, format=format, scheme=scheme)
        except DataError as error:
            assume("adjacent" not in error.message)
            raise
        again = read_examples(tmp_path / name, scheme=scheme if forced else None)
        assert again == examples
        assert [tokens_of(example) for example in again] == [tokens_of(example) for example in examples]


@in_folder
@given(text_examples())
def test_texts_become_tokens_without_losing_spans(tmp_path: Path, example: Example) -> None:
    def bare(value: str) -> str:
        return "".join(value.split())

    mentions = [bare(example.text[span.start : span.end]) for span in example.spans]
    assume(all(mentions))
    try:
        write_examples([example], tmp_path / "out.jsonl", format="tokens")
    except DataError as error:
        assume("spans must differ in their tokens" not in error.message)
        raise
    (again,) = read_examples(tmp_path / "out.jsonl")
    assert bare(again.text) == bare(example.text)
    found = sorted((bare(again.text[span.start : span.end]), span.label) for span in again.spans)
    assert found == sorted((mention, span.label) for mention, span in zip(mentions, example.spans, strict=True))


def as_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_streams(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    as_stdin(monkeypatch, "Zoë B-PER\n".encode())
    assert convert("-", "-", to_format="jsonl") == 1
    record = {"text": "Zoë", "spans": [{"start": 0, "end": 3, "label": "PER"}]}
    assert json.loads(capfdbinary.readouterr().out) == record
    as_stdin(monkeypatch, b"one\n\ntwo")
    assert list(iter_texts("-")) == ["one", "", "two"]
    as_stdin(monkeypatch, b"")
    with pytest.raises(DataError, match=r"^<stdin>: the file holds no records"):
        read_examples("-")


@pytest.mark.parametrize(
    ("example", "format", "message"),
    [
        (
            Example("a b c", (Span(0, 3, "X"), Span(2, 5, "Y"))),
            "conll",
            r"example 1, field 'spans': tags cannot hold overlapping spans, got token spans \(0, 2, 'X'\) and "
            r"\(1, 3, 'Y'\); write the format jsonl or tokens",
        ),
        (Example("a b c", (Span(0, 3, "X"), Span(2, 3, "Y"))), "tags", "tags cannot hold overlapping spans"),
        (Example("a  b", (Span(1, 3, "X"),)), "tokens", "a span must cover a token, got white space only"),
        (Example("a b", (Span(0, 1, "X"), Span(0, 2, "X"))), "tokens", "spans must differ in their tokens"),
        (Example("", ()), "conll", "conll cannot hold a sentence without tokens"),
        (Example.from_tokens(["-DOCSTART-"], []), "conll", "or begin with -DOCSTART-; got '-DOCSTART-'"),
        (Example.from_tokens(["a\tb"], []), "conll", r"a conll column must not contain a tab, .*got 'a\\tb'"),
        (Example.from_tokens(["a"], [(0, 1, "x\ny")]), "conll", "a conll column must not contain a tab"),
        (Example("ab", (Span(0, 3, "X"),)), "jsonl", "a span must lie in the text"),
        (Example("ab", (Span(0, 1, " "),)), "jsonl", "a span's label must not be empty"),
        (Example("a\ud800", ()), "jsonl", r"half of a surrogate pair cannot be written as UTF-8, got '\\ud800'"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, example: Example, format: str, message: str) -> None:
    path = write(tmp_path, "as it was", "out")
    with pytest.raises(DataError, match=message):
        write_examples([example], path, format=format)
    assert path.read_text() == "as it was"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"made-up.conll:9, field 'spans': a span must lie in the text"):
        write_examples([Example("ab"), Example("a", (Span(0, 9, "X"),), source="made-up.conll:9")], tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_writing_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written: No such file"):
        write_examples([], tmp_path / "absent" / "out")
    with pytest.raises(DataError, match="cannot be written: Is a directory"):
        write_examples([], tmp_path)
    target = write(tmp_path, "old", "target")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    assert write_examples([Example("new")], tmp_path / "link") == 1
    assert (tmp_path / "link").is_symlink()
    assert json.loads(target.read_text())["text"] == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert write_examples([Example("new")], os.devnull) == 1
    assert not Path(os.devnull).is_file()


def test_convert_over_itself(tmp_path: Path) -> None:
    path = write(tmp_path, "Ada\tI-PER\nBo\tB-PER\n", "a.conll")
    assert convert(path, path, to_format="conll", scheme_in="iob1", scheme_out="bilou") == 1
    assert path.read_text() == "Ada\tU-PER\nBo\tU-PER\n\n"


@st.composite
def spaced_examples(draw: st.DrawFn) -> Example:
    """A text of visible characters of any kind with single spaces, and flat spans that begin and end at words."""
    chars = st.one_of(
        st.sampled_from(
            [*"aZ09'’-–.,;:!?()[]{}<>/\\|@#$%&*+=~^`\"_", *"é中京。「」ไทกลา한글अमि", "😀", "“", "”", "…", "\u00ad"]
        ),
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), exclude_characters="\ufeff"),
    )
    text = " ".join(draw(st.lists(st.text(chars, min_size=1, max_size=6), min_size=1, max_size=5)))
    words = word_units(text)
    assume(words)
    cuts = sorted(draw(st.sets(st.integers(0, len(words)), max_size=4)))
    pairs = [pair for pair in itertools.pairwise(cuts) if draw(st.booleans())]
    return Example(
        text, tuple(Span(words[a][0], words[b - 1][1], draw(st.sampled_from(["PER", "a-b"]))) for a, b in pairs)
    )


@in_folder
@given(st.lists(spaced_examples(), min_size=1, max_size=4))
def test_texts_with_single_spaces_survive_conll(tmp_path: Path, examples: list[Example]) -> None:
    for format in ("conll", "tokens", "tags"):
        write_examples(examples, tmp_path / "out", format=format)
        again = read_examples(tmp_path / "out", format=format)
        assert again == examples


def test_conversion_there_and_back(tmp_path: Path) -> None:
    text = "The claimant's re-in (2024) cost $5."
    source = write(tmp_path, lines_of({"text": text, "spans": [{"start": 4, "end": 12, "label": "party"}]}))
    convert(source, tmp_path / "a.conll", to_format="conll")
    convert(tmp_path / "a.conll", tmp_path / "back.jsonl")
    assert (tmp_path / "back.jsonl").read_bytes() == source.read_bytes()
    tokens = write(tmp_path, "The\tO\nclaimant's\tB-party\nre-in\tO\n\n", "b.conll")
    convert(tokens, tmp_path / "b.jsonl")
    convert(tmp_path / "b.jsonl", tmp_path / "c.conll", to_format="conll")
    assert (tmp_path / "c.conll").read_bytes() == tokens.read_bytes()


def test_what_a_format_cannot_hold_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = [
        Example("a  b", (Span(0, 1, "X", score=0.5),), extra={"id": 1}),
        Example(" a", annotated=frozenset({"X"})),
        Example("a\nb", extra={"id": 2}),
        Example("a-b c"),
    ]
    write_examples(examples, tmp_path / "out", format="conll")
    assert caplog.messages == [
        "what conll cannot hold is left out: white space other than a space between tokens (3 sentences), other fields "
        "(2 sentences), scores (1 sentence), which labels were annotated (1 sentence)"
    ]
    caplog.clear()
    write_examples(examples, tmp_path / "out", format="tags")
    assert caplog.messages == ["what tags cannot hold is left out: scores (1 sentence)"]
    caplog.clear()
    write_examples(examples, tmp_path / "out")
    write_examples(examples[3:], tmp_path / "out", format="conll")
    assert caplog.messages == []
