"""Spans, examples, documents and label sets: their rules, one by one."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.errors import DataError
from cllmfs.schema import Document, Example, LabelSet, Span


def test_span_equality_is_place_and_label() -> None:
    span = Span(0, 3, "person")
    assert span == Span(0, 3, "person", score=0.5, text="Ada") and hash(span) == hash(Span(0, 3, "person", 0.5))
    assert span != Span(0, 3, "place") and span != Span(0, 4, "person")
    assert span.key == (0, 3, "person")


def test_spans_sort_by_start_end_label() -> None:
    spans = [Span(4, 5, "b"), Span(0, 3, "b"), Span(0, 2, "z"), Span(0, 3, "a", 0.9)]
    assert [span.key for span in sorted(spans)] == [(0, 2, "z"), (0, 3, "a"), (0, 3, "b"), (4, 5, "b")]


@pytest.mark.parametrize(
    ("span", "record"),
    [
        (Span(0, 3, "x"), {"start": 0, "end": 3, "label": "x"}),
        (Span(0, 3, "x", 0.12345678, "Ada"), {"start": 0, "end": 3, "label": "x", "score": 0.123457, "text": "Ada"}),
        (Span(0, 3, "x", 0.0), {"start": 0, "end": 3, "label": "x", "score": 0.0}),
    ],
)
def test_span_records(span: Span, record: dict[str, Any]) -> None:
    assert span.to_dict() == record


def test_examples_sort_their_spans() -> None:
    example = Example("Ada in Rome", (Span(7, 11, "place"), Span(0, 3, "person")))
    assert [span.start for span in example.spans] == [0, 7]
    assert example.labels == {"person", "place"}
    assert example == Example("Ada in Rome", example.spans, token_offsets=((0, 3),), source="a:1")
    assert example.to_dict() == {
        "text": "Ada in Rome",
        "spans": [{"start": 0, "end": 3, "label": "person"}, {"start": 7, "end": 11, "label": "place"}],
    }
    assert Document(example.text, example.spans, windows=2).to_dict() == example.to_dict()


@pytest.mark.parametrize(
    "spans",
    [
        (),
        (Span(0, 11, "all"),),
        (Span(0, 3, "a"), Span(0, 3, "b"), Span(0, 9, "a"), Span(2, 5, "a")),  # nesting and overlap are allowed
    ],
)
def test_rules_kept(spans: tuple[Span, ...]) -> None:
    Example("Ada in Rome", spans).check()


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (Span(0, 3, ""), "a:7, field 'spans': a span's label must not be empty"),
        (Span(0, 3, " "), "a:7, field 'spans': a span's label must not be empty"),
        (Span(3, 3, "x"), "a:7, field 'spans': a span must hold at least one character, got start 3, end 3"),
        (Span(4, 3, "x"), "a:7, field 'spans': a span must hold at least one character, got start 4, end 3"),
        (
            Span(-1, 3, "x"),
            "a:7, field 'spans': a span must lie in the text (0 to 11 code points), got -1 to 3 (x); "
            "offsets in bytes or UTF-16 units must be converted",
        ),
        (
            Span(7, 12, "x"),
            "a:7, field 'spans': a span must lie in the text (0 to 11 code points), got 7 to 12 (x); "
            "offsets in bytes or UTF-16 units must be converted",
        ),
        (Span(0, 2, "y"), "a:7, field 'spans': the span (0, 2, 'y') is given twice"),
    ],
)
def test_rules_broken(span: Span, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Example("Ada in Rome", (span, Span(0, 2, "y")), source="a:7").check()
    assert str(caught.value) == message
    assert (caught.value.source, caught.value.field) == ("a:7", "spans")


def test_annotated_labels_and_other_fields() -> None:
    example = Example(
        "Ada", (Span(0, 3, "person"),), annotated=frozenset({"place", "person"}), extra={"id": 7, "text": 0}
    )
    example.check()
    assert example.to_dict() == {
        "text": "Ada",
        "spans": [{"start": 0, "end": 3, "label": "person"}],
        "labels": ["person", "place"],
        "id": 7,
    }
    assert example == replace(example, extra={}) != replace(example, annotated=None)
    assert hash(example) == hash(replace(example, extra={"id": 8}))
    assert pickle.loads(pickle.dumps(example)).extra == example.extra
    assert Example("Ada", annotated=["person"]).annotated == frozenset({"person"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            Example("Ada", (Span(0, 3, "person"),), annotated=frozenset({"place", "boat"})),
            "field 'spans': a span's label must be one of its record's \"labels\", which name what was annotated "
            "(boat, place); got 'person': add it there, or remove the span",
        ),
        (
            Example("Ada", annotated=frozenset()),
            "field 'labels': the annotated labels must be non-empty names, at least one; got []: leave them out if all "
            "labels were annotated",
        ),
        (
            Example("Ada", annotated=frozenset({" "})),
            "field 'labels': the annotated labels must be non-empty names, at least one; got [' ']: leave them out if "
            "all labels were annotated",
        ),
    ],
)
def test_annotated_labels_are_checked(example: Example, message: str) -> None:
    with pytest.raises(DataError) as caught:
        example.check()
    assert str(caught.value) == message


def test_a_stated_text_must_be_the_text_at_the_offsets() -> None:
    Example("Zoë  Lee", (Span(0, 8, "x", text="Zoe\u0308 Lee"), Span(0, 3, "x", text="Zoë"))).check()
    with pytest.raises(DataError, match=r"got 'Zoë' for 'oë ' \(1 to 4\)"):
        Example("Zoë Lee", (Span(1, 4, "x", text="Zoë"),)).check()


@pytest.mark.parametrize(
    ("text", "spans", "trimmed"),
    [
        ("in Rome ,", [(2, 8)], [(3, 7)]),
        ("\u200b\ufeffRome\u00a0\u3000\n", [(0, 9)], [(2, 6)]),
        ("in Rome", [(3, 7), (2, 7)], [(3, 7)]),
        ("New York", [(0, 8)], [(0, 8)]),
        ("a\u200bb", [(0, 3), (0, 2)], [(0, 3), (0, 1)]),
    ],
)
def test_spans_are_trimmed(text: str, spans: list[tuple[int, int]], trimmed: list[tuple[int, int]]) -> None:
    example = Example(text, tuple(Span(*span, "x") for span in spans), source="a:1", extra={"id": 1})
    made = example.trimmed()
    assert made == Example(text, tuple(Span(*span, "x") for span in trimmed))
    assert (made.source, made.extra) == ("a:1", {"id": 1})
    assert (made is example) == (spans == trimmed)


def test_trimming_keeps_scores_and_refuses_white_space() -> None:
    (span,) = Example("in Rome", (Span(2, 7, "x", 0.5, " Rome"),)).trimmed().spans
    assert (span.key, span.score, span.text) == ((3, 7, "x"), 0.5, "Rome")
    with pytest.raises(DataError, match=r"a:1, .* a span must cover more than white space, got \(1, 3, 'x'\)"):
        Example("a \u200b b", (Span(1, 3, "x"),), source="a:1").trimmed()


def test_from_tokens_by_hand() -> None:
    example = Example.from_tokens(["Ada", "Byron", "in", "東京"], [(3, 4, "place"), (0, 2, "person")], "t:2")
    assert example.text == "Ada Byron in 東京"
    assert example.spans == (Span(0, 9, "person"), Span(13, 15, "place"))
    assert example.token_offsets == ((0, 3), (4, 9), (10, 12), (13, 15))
    assert example.source == "t:2"
    assert Example.from_tokens([], []) == Example("")
    joined = Example.from_tokens(["re", "-", "in", "2"], [(0, 3, "x"), (3, 4, "y")], spaces=[False, False, True, True])
    assert (joined.text, joined.token_offsets) == ("re-in 2", ((0, 2), (2, 3), (3, 5), (6, 7)))
    assert joined.spans == (Span(0, 5, "x"), Span(6, 7, "y"))
    assert Example.from_tokens([], [], spaces=[]) == Example("")


@given(st.lists(st.text("aé京", min_size=1), min_size=1), st.data())
def test_from_tokens_keeps_the_tokens(tokens: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    example = Example.from_tokens(iter(tokens), iter([(start, end, "x")]))
    example.check()
    assert example.token_offsets is not None
    assert [example.text[s:e] for s, e in example.token_offsets] == tokens
    (span,) = example.spans
    assert example.text[span.start : span.end] == " ".join(tokens[start:end])


@pytest.mark.parametrize(
    ("tokens", "span", "message"),
    [
        (["a", ""], (0, 1), "t:2, field 'tokens': token 1 is empty"),
        (["a", "b"], (0, 3), "t:2, field 'spans': a token span must lie in 0 to 2 and hold a token, got [0, 3)"),
        (["a", "b"], (1, 1), "t:2, field 'spans': a token span must lie in 0 to 2 and hold a token, got [1, 1)"),
        (["a", "b"], (-1, 1), "t:2, field 'spans': a token span must lie in 0 to 2 and hold a token, got [-1, 1)"),
    ],
)
def test_from_tokens_refuses(tokens: list[str], span: tuple[int, int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Example.from_tokens(tokens, [(*span, "x")], "t:2")
    assert str(caught.value) == message


def test_label_sets_by_hand() -> None:
    labels = LabelSet({"person": " A  human\nbeing ", "place": ""})
    assert dict(labels) == {"person": "A human being", "place": ""}
    assert list(labels) == ["person", "place"] and len(labels) == 2 and "person" in labels
    assert list(LabelSet(["b", "a"])) == ["b", "a"]  # the order given
    assert LabelSet(["b", "a"])["b"] == ""
    assert LabelSet(labels) == labels and hash(LabelSet(labels)) == hash(labels)
    assert LabelSet(["a", "b"]) != LabelSet(["b", "a"])  # order is the order of asking
    assert LabelSet({"a": ""}) == LabelSet(["a"]) != {"a": ""}
    assert LabelSet({"a": None})["a"] == ""  # type: ignore[dict-item]
    assert repr(LabelSet(["a"])) == "LabelSet({'a': ''})"
    with pytest.raises(KeyError):
        labels["boat"]


def test_labels_of_examples() -> None:
    one = Example("Ada", (Span(0, 3, "person"), Span(0, 1, "letter")))
    assert list(LabelSet.of_examples([one, Example("")])) == ["letter", "person"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "field 'labels': at least one label is needed, got none"),
        ({}, "field 'labels': at least one label is needed, got none"),
        (["a", ""], "field 'labels': a label must be a non-empty string, got ''"),
        (["  "], "field 'labels': a label must be a non-empty string, got '  '"),
        ([3], "field 'labels': a label must be a non-empty string, got 3"),
        (5, "field 'labels': labels must be a list or a mapping, got 5"),
        (["\ud800"], "field 'labels': a label must be valid Unicode, got '\\ud800': ''"),
        (["a", "b", "a"], "field 'labels': the label 'a' is given twice"),
        ("PER", "field 'labels': labels must be a list or a mapping, got the string 'PER': write ['PER']"),
    ],
)
def test_label_sets_refuse(labels: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        LabelSet(labels)
    assert str(caught.value) == message


def test_no_labels_in_examples() -> None:
    with pytest.raises(DataError, match="at least one label is needed"):
        LabelSet.of_examples([Example("Ada")])
