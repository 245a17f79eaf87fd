"""JSON records of the three kinds: round trips over odd Unicode, records by hand, and each error by its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.errors import DataError
from cllmfs.formats import iter_texts, read_examples, validate_file, write_examples
from cllmfs.schema import Example
from cllmfs.words import word_units
from tests.formats.conftest import (
    in_folder,
    keys,
    lines_of,
    text_examples,
    token_examples,
    tokens_of,
    write,
)


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


def test_a_tokenized_record_keeps_its_own_text(tmp_path: Path) -> None:
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


def test_annotated_labels(tmp_path: Path) -> None:
    span = {"start": 0, "end": 3, "label": "PER"}
    records = [
        {"text": "Ada", "spans": [span], "labels": ["PER", "LOC"]},
        {"tokens": ["Ada"], "spans": [[0, 1, "PER"]], "labels": ["PER"]},
        {"tokens": ["Ada"], "ner_tags": ["B-PER"], "labels": ["PER"]},
        {"text": "Ada", "spans": [span]},
        {"text": "Ada", "spans": [span], "labels": [[0, 3, "PER"]]},  # doccano's, which are spans
    ]
    path = write(tmp_path, lines_of(*records))
    examples = read_examples(path)
    assert [example.annotated for example in examples] == [{"PER", "LOC"}, {"PER"}, {"PER"}, None, None]
    for format in ("jsonl", "tokens", "tags"):
        write_examples(examples, tmp_path / "again.jsonl", format=format)
        assert read_examples(tmp_path / "again.jsonl") == examples


@pytest.mark.parametrize("spans", [{"spans": [[0, 1, "PER"]]}, {"ner_tags": ["B-PER"]}])
def test_a_span_of_a_label_that_was_not_annotated(tmp_path: Path, spans: dict[str, Any]) -> None:
    path = write(tmp_path, lines_of({"tokens": ["Ada"], **spans, "labels": ["LOC"]}))
    with pytest.raises(
        DataError, match=r":1, field 'spans': a span's label must be one of its record's .*\(LOC\); got 'PE"
    ):
        read_examples(path)


def test_other_fields_survive(tmp_path: Path) -> None:
    odd = {
        "id": 7,
        "meta": {"a": [1.5, None, "ü\u2028"], "half": "\ud83d"},
        "answer": "Paris",
        "labels": [[0, 3, "PER"]],
    }
    records = [
        {"id": 0, "text": "Ada", "spans": [{"start": 0, "end": 3, "label": "PER", "score": 0.5}], "answer": "accept"},
        {**odd, "tokens": ["Ada"], "spans": [[0, 1, "PER"]]},
        {**odd, "tokens": ["Ada"], "ner_tags": ["B-PER"]},
    ]
    path = write(tmp_path, lines_of(*records))
    examples = read_examples(path)
    assert [example.extra for example in examples] == [{"id": 0}, odd, odd]
    write_examples(examples, tmp_path / "again.jsonl")
    lines = (tmp_path / "again.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {"text": "Ada", "spans": [{"start": 0, "end": 3, "label": "PER"}], **odd}
    assert list(json.loads(lines[0])) == ["text", "spans", "id"]
    for format in ("jsonl", "tokens", "tags"):
        write_examples(examples, tmp_path / "again.jsonl", format=format)
        assert [example.extra for example in read_examples(tmp_path / "again.jsonl")] == [{"id": 0}, odd, odd]


def test_other_fields_must_be_json_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="example 1: the other fields of a record must be JSON: Object of type set"):
        write_examples([Example("Ada", extra={"id": {1}})], tmp_path / "out")


def answered(answer: Any, **more: Any) -> dict[str, Any]:
    return {"text": f"Ada {answer}", "spans": [{"start": 0, "end": 3, "label": "PER"}], "answer": answer, **more}


def test_records_that_were_not_accepted_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hashed = {"_input_hash": 1, "_task_hash": 2}
    answers = [answered("reject"), answered("accept"), answered("ignore", spans=None), answered(None, **hashed)]
    path = write(tmp_path, lines_of(*answers, answered("Ada", id=1)))
    first, second = read_examples(path)
    assert (first.text, first.extra) == ("Ada accept", {})
    assert (second.text, second.extra) == ("Ada Ada", {"answer": "Ada", "id": 1})  # an answer to something else
    message = '3 of 5 records are left out, because their "answer" is not "accept" (reject 1, ignore 1, none 1)'
    assert caplog.messages == [f"{path}: {message}"]
    report = validate_file(path)
    assert [(issue.line, issue.rule, issue.message) for issue in report.issues] == [(1, "left-out", message)]
    assert (report.sentences, report.unreadable, report.ok) == (2, 0, True)


def test_nothing_accepted_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of(answered("reject"), answered("reject")))
    with pytest.raises(DataError, match=r":1, field \'answer\': 2 of 2 records .*\(reject 2\): accept some first"):
        read_examples(path)


@in_folder
@given(st.lists(token_examples(), min_size=1, max_size=4))
def test_tokens_survive_beside_the_text(tmp_path: Path, examples: list[Example]) -> None:
    write_examples(examples, tmp_path / "out.jsonl")
    again = read_examples(tmp_path / "out.jsonl")
    assert again == examples
    found = [one.token_offsets or tuple(word_units(one.text)) for one in again]
    assert found == [one.token_offsets for one in examples]


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
        (spanned(3, 3), "a span must not be empty; its end is exclusive .*, got 3 to 3"),
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
        ({"text": "\ud83d", "spans": []}, r"half of a surrogate pair is not a character, got '\\ud83d'"),
        ({"tokens": ["Ada"], "spans": [[0, 2, "X"]]}, r"must lie in 0 to 1 \(tokens\), got 0 to 2"),
        ({"tokens": ["Ada"], "spans": [[0, 0, "X"]]}, r"one token: end = start \+ 1"),
        ({"tokens": ["Ada"], "spans": [[0, 1]]}, r'a token span is a list \[first, end, "label"\], got list'),
        ({"tokens": ["Ada"], "spans": [[0, 1, "X"], [0, 1, "X"]]}, "given once"),
        ({"tokens": ["Ada", ""], "spans": []}, r"field 'tokens\[1\]': a token must be a non-empty string, got str ''"),
        ({"tokens": "Ada", "spans": []}, "'tokens' must be a list, got str 'Ada'"),
        ({"tokens": ["Ada"]}, "field 'spans' is missing"),
        ({"tokens": ["Ada"], "ner_tags": ["O", "O"]}, "each token needs one tag, got 1 tokens, 2 tags"),
        ({"tokens": ["Ada"], "ner_tags": [3]}, "got int 3; replace tag numbers by their names"),
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
        (b'{"text": "a", "spans": []}\n{"text": \n', r":2: a line must be one JSON object: Expecting value at column"),
        (b"{'text': 'a'}\n", ":1: a line must be one JSON object: Expecting property name"),
        (b'[{"text": "a", "spans": []}]\n', "got list .*jq -c"),
        (b'[\n{"text": "a"}\n]\n', "jq -c"),
        (b"17\n", "must be one JSON object, got int 17"),
        (b"[" * 100_000, "a line must be one JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a line must be one JSON object"),
    ],
)
def test_bad_lines(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        read_examples(path)
