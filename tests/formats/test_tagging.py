"""Tag schemes: the table of every scheme, detection, conlleval's reading of damage, and the round trip."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.tagging import (
    SCHEMES,
    check_scheme,
    damage,
    detect_scheme,
    example_of_tokens,
    spans_of_tags,
    tag_problem,
    tags_of_spans,
    tokenized,
)
from cllmfs.schema import Example, Span

# Two people side by side, a place of three tokens, a lone company, a person at the end.
SPANS = [(0, 2, "PER"), (2, 3, "PER"), (4, 7, "LOC"), (7, 8, "ORG")]
WRITTEN = {
    "iob1": "I-PER I-PER B-PER O I-LOC I-LOC I-LOC I-ORG O",
    "iob2": "B-PER I-PER B-PER O B-LOC I-LOC I-LOC B-ORG O",
    "bioes": "B-PER E-PER S-PER O B-LOC I-LOC E-LOC S-ORG O",
    "bilou": "B-PER L-PER U-PER O B-LOC I-LOC L-LOC U-ORG O",
}


@pytest.mark.parametrize(("scheme", "tags"), WRITTEN.items())
def test_schemes_by_hand(scheme: str, tags: str) -> None:
    assert tags_of_spans(SPANS, 9, scheme) == tags.split()
    assert spans_of_tags(tags.split()) == SPANS
    assert detect_scheme([tags.split()]) == scheme
    assert list(damage(tags.split(), scheme)) == []


def test_io_by_hand() -> None:
    spans = [(0, 2, "PER"), (2, 3, "LOC"), (4, 5, "PER")]
    tags = ["I-PER", "I-PER", "I-LOC", "O", "I-PER"]
    assert tags_of_spans(spans, 5, "io") == tags
    assert spans_of_tags(tags) == spans
    assert detect_scheme([tags]) == "io"


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["O O"], "iob2"),
        ([""], "iob2"),
        (["I-A O I-A I-B"], "io"),
        (["I-A O", "I-A B-A"], "iob1"),
        (["I-A B-A B-A"], "iob1"),
        (["I-A O B-A"], "iob2"),  # a B- after O: only iob2, damaged, explains it
        (["I-A", "B-A"], "iob2"),  # the sentence before is not adjacent
        (["I-A B-B"], "iob2"),
        (["B-A I-A", "S-B"], "bioes"),
        (["B-A E-A"], "bioes"),
        (["B-A L-A"], "bilou"),
        (["U-A"], "bilou"),
        (["U-A S-A"], "bioes"),
        (["B-A-b I-A-b B-A-c"], "iob2"),
    ],
)
def test_detection(sentences: list[str], scheme: str) -> None:
    assert detect_scheme(sentence.split() for sentence in sentences) == scheme


@pytest.mark.parametrize(
    ("tags", "spans", "scheme", "damaged"),
    [
        ("O I-A I-A", [(1, 3, "A")], "iob2", [1]),
        ("B-A I-B", [(0, 1, "A"), (1, 2, "B")], "iob2", [1]),
        ("O B-A I-A", [(1, 3, "A")], "iob1", [1]),
        ("B-A I-A O", [(0, 2, "A")], "bioes", [1]),  # never closed
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")], "bioes", [0, 1]),
        ("E-A", [(0, 1, "A")], "bioes", [0]),
        ("B-A E-A E-A", [(0, 2, "A"), (2, 3, "A")], "bioes", [2]),
        ("S-A I-A", [(0, 1, "A"), (1, 2, "A")], "bioes", [1, 1]),  # continues nothing and is left open
        ("B-A L-A U-A", [(0, 2, "A"), (2, 3, "A")], "bioes", [1, 2]),  # tags of the other scheme
        ("I-A I-B", [(0, 1, "A"), (1, 2, "B")], "io", []),
    ],
)
def test_damage_is_read_as_conlleval_does(
    tags: str, spans: list[tuple[int, int, str]], scheme: str, damaged: list[int]
) -> None:
    assert spans_of_tags(tags.split()) == spans
    assert [index for index, _ in damage(tags.split(), scheme)] == damaged


@settings(deadline=None)  # the first call imports seqeval
@given(st.lists(st.sampled_from(["O", *(f"{prefix}-{label}" for prefix in "BIES" for label in "AB")]), max_size=12))
def test_reading_agrees_with_seqeval(tags: list[str]) -> None:
    """Seqeval follows conlleval, for IOB and BIOES alike; its ends are inclusive."""
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    assert spans_of_tags(tags) == [(start, end + 1, label) for label, start, end in labeling.get_entities(tags)]


@st.composite
def flat_spans(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, str]]]:
    """A number of tokens and spans of them that do not overlap."""
    length = draw(st.integers(0, 12))
    cuts = sorted(draw(st.sets(st.integers(0, length))))
    labels = st.sampled_from(["A", "B", "a-b", "O", "odd label"])
    pairs = [(a, b) for a, b in itertools.pairwise(cuts) if draw(st.booleans())]
    return length, [(a, b, draw(labels)) for a, b in pairs]


@given(flat_spans(), st.sampled_from(["iob1", "iob2", "bioes", "bilou"]))
def test_round_trip(drawn: tuple[int, list[tuple[int, int, str]]], scheme: str) -> None:
    length, spans = drawn
    tags = tags_of_spans(spans, length, scheme)
    assert len(tags) == length
    assert spans_of_tags(tags) == spans
    assert list(damage(tags, scheme)) == []
    assert all(tag_problem(tag, scheme) is None for tag in tags)


@given(flat_spans())
def test_io_round_trip_or_refusal(drawn: tuple[int, list[tuple[int, int, str]]]) -> None:
    length, spans = drawn
    if any(a[1] == b[0] and a[2] == b[2] for a, b in itertools.pairwise(spans)):
        with pytest.raises(DataError, match="io cannot separate adjacent"):
            tags_of_spans(spans, length, "io")
    else:
        assert spans_of_tags(tags_of_spans(spans, length, "io")) == spans


@pytest.mark.parametrize("scheme", SCHEMES)
def test_overlap_is_refused(scheme: str) -> None:
    with pytest.raises(DataError, match=r"overlapping spans, got token spans \(0, 3, 'A'\) and \(1, 2, 'B'\)"):
        tags_of_spans([(0, 3, "A"), (1, 2, "B")], 3, scheme)


@pytest.mark.parametrize("span", [(0, 4, "A"), (-1, 2, "A"), (2, 2, "A"), (2, 1, "A")])
def test_span_outside_the_tokens_is_refused(span: tuple[int, int, str]) -> None:
    with pytest.raises(DataError, match="must lie in 0 to 3 and hold a token"):
        tags_of_spans([span], 3)


@pytest.mark.parametrize(
    ("tag", "scheme", "rule"),
    [
        ("O", None, None),
        ("B-PER", None, None),
        ("U-PER", None, None),
        ("B-a-b", "iob2", None),
        ("X-PER", None, "bad-tag"),
        ("PER", None, "bad-tag"),
        ("PER-B", None, "bad-tag"),
        ("B_PER", None, "bad-tag"),
        ("o", None, "bad-tag"),
        ("b-PER", None, "bad-tag"),
        ("", None, "bad-tag"),
        ("-PER", None, "bad-tag"),
        ("BI-PER", None, "bad-tag"),
        ("O-PER", None, "bad-tag"),
        ("B-", None, "empty-label"),
        ("I-  ", None, "empty-label"),
        ("S-PER", "iob2", "bad-tag"),
        ("B-PER", "io", "bad-tag"),
        ("L-PER", "bioes", "bad-tag"),
    ],
)
def test_single_tags(tag: str, scheme: str | None, rule: str | None) -> None:
    problem = tag_problem(tag, scheme)
    assert (problem and problem[0]) == rule


def test_scheme_names() -> None:
    assert check_scheme("BILOU") == "bilou"
    assert check_scheme("bio") == "iob2"
    with pytest.raises(ConfigError, match="scheme must be one of iob1, iob2, io, bioes, bilou, got 'bmes'"):
        check_scheme("bmes")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("Ada met Bo .", "Ada met Bo ."),
        ("他 用 Python 写 代码 。", "他用 Python 写代码。"),
        ("他 说 ： “ 你好 ” ， 走 了 。", "他说：“你好”，走了。"),
        ("2024 年 3 月", "2024年3月"),
        ("i P h o n e 1 5 真 好", "iPhone15真好"),  # a character on each line
        ("王 小明 ( 男 ) Bo", "王小明(男) Bo"),
        ("東京 タワー に 行く", "東京タワーに行く"),
        ("สวัสดี ครับ Bo", "สวัสดีครับ Bo"),
        ("ສະບາຍດີ ທ່ານ", "ສະບາຍດີທ່ານ"),
        ("ជំរាប សួរ", "ជំរាបសួរ"),
        ("မြန်မာ စာ", "မြန်မာစာ"),
        ("서울 에서 온 사람", "서울 에서 온 사람"),
        ("그는 「 책 」 을", "그는 「 책 」 을"),
        ("he said “ … ” and", "he said “ … ” and"),
        ("नई दिल्ली", "नई दिल्ली"),
        ("a b c d", "a b c d"),
    ],
)
def test_tokens_are_joined_as_their_script_is_written(tokens: str, text: str) -> None:
    example = example_of_tokens(tokens.split(), [(0, 1, "X")], None)
    assert example.text == text
    assert [text[start:end] for start, end in example.token_offsets or ()] == tokens.split()
    assert example.spans[0].key == (0, len(tokens.split()[0]), "X")


def test_own_tokens_are_kept_and_split() -> None:
    text = "New York-based"
    assert tokenized(Example(text, (Span(0, 8, "LOC"),), ((0, 14),))) == (["New York", "-based"], [(0, 1, "LOC")])
    assert tokenized(Example(text, (Span(4, 8, "LOC"),), ((0, 8), (8, 14)))) == (
        ["New", "York", "-based"],
        [(1, 2, "LOC")],
    )
