"""Data files: round trips over odd Unicode, every format by hand, and each error by its text."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.writing import (
    convert,
    iter_texts,
    read_examples,
    read_labels,
    tokenised,
    write_examples,
    write_labels,
)
from cllmfs.schema import Example, LabelSet, Span

SCHEMES = ("iob1", "iob2", "io", "bioes", "bilou")
in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)

# What breaks careless readers: emoji beyond the BMP, marks, joiners, right-to-left, and Unicode's own line ends.
ODD = [
    *"abZ0_.-'\"\\/{}[],:#",
    *("\u0301", "\u200d", "\ufe0f", "\u200f", "\ufeff", "\u0e01", "\u4e2d", "\u0434"),
    *("\U0001f469", "\U0001f3fd", "\U0001d49c", "\u05d0", "\u05d1", "\u0627", "\ufb01"),
    *(" ", "\u00a0", "\u2028", "\u2029", "\u0085", "\u3000", "\t", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x00", "\x7f"),
]
odd_text = st.text(st.sampled_from(ODD), max_size=24)
labels = st.sampled_from(["PER", "odd label", "a-b", "\u4eba\u540d", "O"])


@st.composite
def text_examples(draw: st.DrawFn) -> Example:
    """A text with any spans, nested and crossing ones too, no two the same."""
    text = draw(odd_text)
    spans: set[Span] = set()
    if text:
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, len(text) - 1))
            spans.add(Span(start, draw(st.integers(start + 1, len(text))), draw(labels)))
    return Example(text, tuple(spans))


@st.composite
def token_examples(draw: st.DrawFn, flat: bool = False) -> Example:
    """Tokens of visible characters with any spans of them, or with spans that do not overlap."""
    visible = [char for char in ODD if not char.isspace() and char not in "\x00\ufeff"]
    tokens = draw(st.lists(st.text(st.sampled_from(visible), min_size=1, max_size=4), min_size=1, max_size=7))
    spans: set[tuple[int, int, str]] = set()
    cuts = sorted(draw(st.sets(st.integers(0, len(tokens)))))
    for start, end in itertools.pairwise(cuts):
        if draw(st.booleans()):
            spans.add((start, end if flat else draw(st.integers(end, len(tokens))), draw(labels)))
    return Example.from_tokens(tokens, spans)


def write(folder: Path, content: str | bytes, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def lines_of(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def keys(example: Example) -> list[tuple[int, int, str]]:
    return [span.key for span in example.spans]


def tokens_of(example: Example) -> list[str]:
    assert example.token_offsets is not None
    return [example.text[start:end] for start, end in example.token_offsets]


def as_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# --- round trips -----------------------------------------------------------------------------------------------------


@in_folder
@given(st.lists(text_examples(), min_size=1, max_size=4))
def test_jsonl_round_trip(tmp_path: Path, examples: list[Example]) -> None:
    path = tmp_path / "out.jsonl"
    assert write_examples(examples, path) == len(examples)
    assert read_examples(path) == examples
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(examples)  # for readers that split as str does
    assert list(iter_texts(path)) == [example.text for example in examples]


@in_folder
@given(st.lists(token_examples(), min_size=1, max_size=4))
def test_tokens_round_trip(tmp_path: Path, examples: list[Example]) -> None:
    path = tmp_path / "out.jsonl"
    write_examples(examples, path, format="tokens")
    for format in (None, "tokens"):
        again = read_examples(path, format=format)
        assert again == examples
        assert [tokens_of(example) for example in again] == [tokens_of(example) for example in examples]


@in_folder
@given(st.lists(token_examples(flat=True), min_size=1, max_size=4), st.sampled_from(SCHEMES), st.booleans())
def test_tag_formats_round_trip(tmp_path: Path, examples: list[Example], scheme: str, forced: bool) -> None:
    for format, name in (("tags", "out.jsonl"), ("conll", "out.conll")):
        try:
            write_examples(examples, tmp_path / name, format=format, scheme=scheme)
        except DataError as error:
            assume("neighbours" not in error.message)
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


@in_folder
@given(
    st.dictionaries(
        st.text(st.sampled_from(ODD), min_size=1, max_size=6).filter(str.strip), odd_text, min_size=1, max_size=4
    )
)
def test_labels_round_trip(tmp_path: Path, described: dict[str, str]) -> None:
    write_labels(LabelSet(described), tmp_path / "labels.toml")
    assert read_labels(tmp_path / "labels.toml") == LabelSet(described)


# --- reading by hand -------------------------------------------------------------------------------------------------


def test_native_formats_by_hand(tmp_path: Path) -> None:
    records = [
        {"text": "Ada met Bo", "spans": [{"start": 8, "end": 10, "label": "PER", "score": 0.5}], "id": 7},
        {"tokens": ["Ada", "met", "Bo"], "spans": [[0, 1, "PER"]], "id": 8},
        {"tokens": ["Ada", "met", "Bo"], "ner_tags": ["O", "O", "B-PER"]},
    ]
    first, second, third = read_examples(write(tmp_path, lines_of(*records)))
    assert (first.text, keys(first), first.token_offsets) == ("Ada met Bo", [(8, 10, "PER")], None)
    assert first.spans[0].score == 0.5
    assert (second.text, keys(second)) == ("Ada met Bo", [(0, 3, "PER")])
    assert (third.text, keys(third), tokens_of(third)) == ("Ada met Bo", [(8, 10, "PER")], ["Ada", "met", "Bo"])
    assert third.source == f"{tmp_path / 'data.jsonl'}:3"


def test_a_tokenised_record_keeps_its_own_text(tmp_path: Path) -> None:
    both = {"text": " Ada, Bo", "tokens": ["Ada", ",", "Bo"]}
    content = lines_of({**both, "spans": [[2, 3, "PER"]]}, {**both, "ner_tags": ["B-PER", "O", "O"]})
    first, second = read_examples(write(tmp_path, content))
    assert (first.text, keys(first), tokens_of(first)) == (" Ada, Bo", [(6, 8, "PER")], ["Ada", ",", "Bo"])
    assert (second.text, keys(second)) == (" Ada, Bo", [(1, 4, "PER")])
    other = {"text": "something else", "tokens": ["Ada", "!"], "spans": [[0, 1, "PER"]]}
    (third,) = read_examples(write(tmp_path, lines_of(other)))
    assert third.text == "Ada !"
    longer = {"text": "Ada met Bo", "tokens": ["Ada", "met"], "spans": [[0, 1, "PER"]]}
    (fourth,) = read_examples(write(tmp_path, lines_of(longer)))
    assert fourth.text == "Ada met"


def test_a_text_may_carry_token_offsets(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 3, "label": "PER"}]
    objects = [{"text": "Ada", "start": 0, "end": 3}, {"text": "'s", "start": 3, "end": 5}]
    content = lines_of(
        {"text": "Ada's", "spans": spans, "tokens": objects},
        {"text": "Ada's", "spans": spans, "tokens": ["Ada", "'s"]},
        {"text": "Ada's", "spans": spans, "tokens": 3},
        {"text": "Ada's", "spans": spans, "tokens": [{"start": "x"}]},
    )
    assert [example.token_offsets for example in read_examples(write(tmp_path, content))] == [
        ((0, 3), (3, 5)),
        ((0, 3), (3, 5)),
        None,
        None,
    ]


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


@pytest.mark.parametrize("scheme", SCHEMES)
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


def test_iob1_and_io_differ_at_neighbours_only(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path, "Ada\tI-PER\nBo\tB-PER\nRome\tI-LOC\n", "a.conll"))
    assert keys(example) == [(0, 3, "PER"), (4, 6, "PER"), (7, 11, "LOC")]
    (example,) = read_examples(write(tmp_path, "Ada\tI-PER\nBo\tI-PER\n", "a.conll"))
    assert keys(example) == [(0, 6, "PER")]


def test_damaged_tags_are_read(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path, "Ada\tI-PER\nmet\tO\nBo\tB-PER\nCo\tI-ORG\n", "a.conll"), scheme="iob2")
    assert keys(example) == [(0, 3, "PER"), (8, 10, "PER"), (11, 13, "ORG")]


def test_tokens_with_odd_spaces_survive_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a\u00a0b O\nc\u2028d\tB-X\n\u0085\tO\ntwo words\tI-X\n", "a.conll")
    (example,) = read_examples(path)
    assert tokens_of(example) == ["a\u00a0b", "c\u2028d", "\u0085", "two words"]


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


# --- reading what is wrong -------------------------------------------------------------------------------------------

GOOD = {"text": "Zoë saw Bo", "spans": []}


def spanned(start: Any, end: Any, label: Any = "PER", text: str = "Zoë saw Bo") -> dict[str, Any]:
    return {"text": text, "spans": [{"start": start, "end": end, "label": label}]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            spanned(8, 11),
            r"field 'spans\[0\]': a span must lie in 0 to 10 \(code points\), got 8 to 11 .*UTF-8 bytes "
            r"\(that is 7 to 10 in code points: ' Bo'\)",
        ),
        (spanned(3, 12), r"got 3 to 12 \(PER\)$"),  # inside a character in bytes, too long in UTF-16: no hint
        (
            spanned(4, 6, text="\U0001f600 Bo!"),
            r"UTF-8 bytes \(that is 1 to 3 .*: ' B'\) or in UTF-16 units \(that is 3 to 5 "
            r"in code points: 'o!'\): convert them",
        ),
        (spanned(-1, 2), "must lie in 0 to 10"),
        (spanned(3, 3), "a span must hold something, its end being exclusive .*, got 3 to 3"),
        (spanned(5, 3), "got 5 to 3"),
        (spanned(True, 3), "start must be a whole number, got bool True"),
        (spanned(0.0, 3), "start must be a whole number, got float 0.0"),
        (spanned(0, "3"), "end must be a whole number, got str '3'"),
        (spanned(0, None), "end must be a whole number, got NoneType None"),
        (spanned(0, 3, ""), "a span's label must not be empty, got ''"),
        (spanned(0, 3, " "), "a span's label must not be empty, got ' '"),
        (spanned(0, 3, 5), "label must be a string, got int 5"),
        ({"text": "Ada", "spans": [{"start": 0, "label": "X"}]}, "a span needs start, end and label; end is missing"),
        ({"text": "Ada", "spans": [[0, 1, "X"]]}, 'lists are token spans and need "tokens"'),
        ({"text": "Ada", "spans": {}}, "'spans' must be a list, got dict {}"),
        ({"text": 5, "spans": []}, "field 'text': 'text' must be a string, got int 5"),
        ({"text": "Ada", "entities": []}, "field 'spans' is missing, the record's keys are: 'text', 'entities'"),
        ({"sentence": "Ada"}, "field 'text' is missing"),
        (
            {"text": "Ada", "spans": [{"start": 0, "end": 3, "label": "X"}] * 2},
            r"given once, got \(0, 3, 'X'\) 2 times",
        ),
        ({"text": "\ud83d", "spans": []}, r"half of a surrogate pair is no character, got '\\ud83d'"),
        ({"tokens": ["Ada"], "spans": [[0, 2, "X"]]}, r"must lie in 0 to 1 \(tokens\), got 0 to 2"),
        ({"tokens": ["Ada"], "spans": [[0, 0, "X"]]}, r"one token: end = start \+ 1"),
        ({"tokens": ["Ada"], "spans": [[0, 1]]}, r'a token span is a list \[first, end, "label"\], got list'),
        ({"tokens": ["Ada"], "spans": [[0, 1, "X"], [0, 1, "X"]]}, "given once"),
        ({"tokens": ["Ada", ""], "spans": []}, r"field 'tokens\[1\]': a token must be a non-empty string, got str ''"),
        ({"tokens": "Ada", "spans": []}, "'tokens' must be a list, got str 'Ada'"),
        ({"tokens": ["Ada"]}, "field 'spans' is missing"),
        ({"tokens": ["Ada"], "ner_tags": ["O", "O"]}, "one tag a token, got 1 tokens, 2 tags"),
        ({"tokens": ["Ada"], "ner_tags": [3]}, "got int 3; turn tag numbers into their names"),
        ({"tokens": ["Ada"], "ner_tags": ["X-PER"]}, r"field 'ner_tags\[0\]': a tag is O or one of B-TYPE, .*'X-PER'"),
        ({"tokens": ["Ada"], "ner_tags": ["B-"]}, "a tag's type must not be empty, got 'B-'"),
    ],
)
def test_bad_records(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = write(tmp_path, lines_of(GOOD, record))
    with pytest.raises(DataError, match=message) as caught:
        read_examples(path)
    assert (caught.value.source, caught.value.line) == (str(path), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file holds no records"),
        (b"\n\r\n  \n", "the file holds no records"),
        (b"\xef\xbb\xbf", "the file holds no records"),
        (b'{"text": "a", "spans": []}\n{"text": \n', r":2: a line must be one JSON object: Expecting value at column"),
        (b"{'text': 'a'}\n", ":1: a line must be one JSON object: Expecting property name"),
        (b'[{"text": "a", "spans": []}]\n', "got list .*jq -c"),
        (b'[\n{"text": "a"}\n]\n', "jq -c"),
        (b"17\n", "must be one JSON object, got int 17"),
        (b"[" * 100_000, "a line must be one JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a line must be one JSON object"),
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
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        read_examples(path)


def test_a_bad_byte_is_counted_from_the_files_first(tmp_path: Path) -> None:
    texts = iter_texts(write(tmp_path, b"\xef\xbb\xbfab\nc\xff\n", "a.txt"))
    assert next(texts) == "ab"
    with pytest.raises(DataError, match=r":2: .* got the byte 0xff .byte 2 of the line, 8 of the file"):
        next(texts)
    with pytest.raises(DataError, match=r":1: .* got the byte 0xff .byte 5 of the line, 5 of the file"):
        list(iter_texts(write(tmp_path, b"\xef\xbb\xbfa\xff", "a.txt")))


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


def test_a_forced_format_is_kept_to(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of({"tokens": ["Ada"], "spans": []}))
    with pytest.raises(DataError, match="the field 'text' is missing"):
        read_examples(path, format="jsonl")
    with pytest.raises(DataError, match="the field 'ner_tags' is missing"):
        read_examples(path, format="tags")


# --- texts -----------------------------------------------------------------------------------------------------------


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
    assert next(texts) == "first"  # streamed: what stands before the error arrives
    with pytest.raises(DataError, match=message):
        next(texts)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_conll_is_written_by_hand(tmp_path: Path) -> None:
    examples = [Example("Zoë's here.", (Span(0, 3, "PER"),)), Example("Rome", (Span(0, 2, "X"),))]
    write_examples(examples, tmp_path / "a.conll", format="conll", scheme="bioes")
    expected = "Zoë\tS-PER\n'\tO\ns\tO\nhere\tO\n.\tO\n\nRo\tS-X\nme\tO\n\n"  # the span's edge cuts the second word
    assert (tmp_path / "a.conll").read_bytes().decode() == expected


def test_own_tokens_are_kept_and_split() -> None:
    text = "New York-based"
    assert tokenised(Example(text, (Span(0, 8, "LOC"),), ((0, 14),))) == (["New York", "-based"], [(0, 1, "LOC")])
    assert tokenised(Example(text, (Span(4, 8, "LOC"),), ((0, 8), (8, 14)))) == (
        ["New", "York", "-based"],
        [(1, 2, "LOC")],
    )


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
        (Example.from_tokens(["-DOCSTART-"], []), "conll", "is not -DOCSTART-; got '-DOCSTART-'"),
        (Example.from_tokens(["a\tb"], []), "conll", r"a conll column holds no tab, .*got 'a\\tb'"),
        (Example.from_tokens(["a"], [(0, 1, "x\ny")]), "conll", "a conll column holds no tab"),
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


# --- labels ----------------------------------------------------------------------------------------------------------

LABELS = LabelSet({"PER": "a person", "odd name": ""})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", '[labels]\nPER = "a person"\n"odd name" = ""\n'),
        ("a.toml", '[[label]]\nname = "PER"\ndescription = "a person"\n[[label]]\nname = "odd name"\n'),
        ("a.toml", 'PER = "a person"\n"odd name" = ""\n'),
        ("a.txt", "PER\ta person\r\n\nodd name\n"),
        ("a.json", '{"PER": "a person", "odd name": ""}'),
        ("a.json", '{\n"labels": {"PER": "a  person", "odd name": ""}}'),
        ("a.json", '[{"name": "PER", "description": "a person"}, "odd name"]'),
    ],
)
def test_label_files(tmp_path: Path, name: str, content: str) -> None:
    assert read_labels(write(tmp_path, content, name)) == LABELS


def test_plain_label_lists(tmp_path: Path) -> None:
    for name, content in (("a.toml", 'labels = ["PER", "LOC"]'), ("a.json", '["PER", "LOC"]'), ("a.txt", "PER\nLOC")):
        assert read_labels(write(tmp_path, content, name)) == LabelSet(["PER", "LOC"])


def test_labels_are_written_by_hand(tmp_path: Path) -> None:
    write_labels(LabelSet({"PER": 'say "who"', "a.b": "", "\u4eba": "x\x7fy"}), tmp_path / "labels.toml")
    expected = '[labels]\nPER = "say \\"who\\""\n"a.b" = ""\n"\u4eba" = "x\\u007fy"\n'
    assert (tmp_path / "labels.toml").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "[labels\n", "a.toml: the file must be TOML: "),
        ("a.toml", "[labels]\nPER = 5\n", r"labels\[0\]'.*are strings; got .*5"),
        ("a.toml", "[labels]\n", "at least one label is needed"),
        ("a.toml", '[labels]\nPER = ""\nPER = ""\n', "must be TOML"),
        ("a.toml", '[[label]]\nname = "PER"\n[[label]]\nname = "PER"\n', "the label 'PER' is given twice"),
        ("a.toml", '[[label]]\ndescription = "PER"\n', "has a name and a description"),
        ("a.json", "{", "the file must be JSON: "),
        ("a.json", '{"PER": "", "PER": ""}', "the label 'PER' is given twice"),
        ("a.json", "[1]", "has a name and a description that are strings; got 1"),
        ("a.json", "7", "has a name and a description that are strings; got 7"),
        ("a.txt", "PER\nPER\n", "a.txt, field 'labels': the label 'PER' is given twice"),
        ("a.txt", "\tdescription\n", "must be a non-empty string"),
        ("a.txt", "", "at least one label is needed"),
        ("a.yaml", "PER: x", "a label file ends in .toml, .json or .txt, got '.yaml'"),
    ],
)
def test_bad_label_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path, content, name))
