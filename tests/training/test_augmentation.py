"""Varied shots: what is swapped, what stays, and that spans still cover their mentions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.schema import Example, Span
from cllmfs.training.augmentation import mention_pool, swap_mentions

LABELS = ("person", "place", "boat")
POOL = {
    "person": ("Ada", "Zoë de Vries", "Bo"),
    "place": ("Rome", "東京", "the old harbour of Oslo"),
}  # no boats


def covered(example: Example) -> list[str]:
    return [example.text[span.start : span.end] for span in example.spans]


def is_alone(span: Span, others: Sequence[Span]) -> bool:
    """Whether no other span shares a character with it."""
    own = set(range(span.start, span.end))
    return not any(other.key != span.key and own & set(range(other.start, other.end)) for other in others)


def outside(example: Example) -> list[str]:
    """The stretches of text that no span covers, one before, between and after each run of touching characters."""
    inside = {at for span in example.spans for at in range(span.start, span.end)}
    marked = "".join("\0" if at in inside else char for at, char in enumerate(example.text))
    return [part for part in marked.split("\0") if part]


words = st.lists(st.sampled_from(["met", "in", "quietly", "東", "é", ",", "👩‍🚀", "x"]), max_size=3).map(" ".join)


@st.composite
def flat_examples(draw: st.DrawFn) -> Example:
    """Texts with spans that do not overlap; they may touch one another and the text's ends."""
    text, spans = draw(words), []
    for label in draw(st.lists(st.sampled_from(LABELS), max_size=5)):
        mention = draw(st.sampled_from(["Al", "an inn by the sea", "Z", "Ada"]))
        spans.append(Span(len(text), len(text) + len(mention), label))
        text += mention + draw(st.sampled_from(["", " "])) + draw(words)
    return Example(text, tuple(spans), source="notes.jsonl:7")


@st.composite
def any_examples(draw: st.DrawFn) -> Example:
    """Texts with spans anywhere: nested, crossing, touching, two labels on one stretch."""
    text = draw(st.text("abcdé 東", min_size=1, max_size=24))
    edges = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).filter(lambda pair: pair[0] != pair[1])
    found = draw(st.lists(st.tuples(edges, st.sampled_from(LABELS)), max_size=5))
    return Example(text, tuple({Span(min(pair), max(pair), label) for pair, label in found}))


examples = st.one_of(flat_examples(), any_examples())


def test_the_pool_holds_each_labels_different_mentions_in_order() -> None:
    shots = [
        Example("Bo met Ada in Oslo", (Span(0, 2, "person"), Span(7, 10, "person"), Span(14, 18, "place"))),
        Example("Bo saw Oslo", (Span(0, 2, "person"), Span(7, 11, "boat"), Span(7, 11, "place"))),
        Example("Nobody", ()),
    ]
    assert mention_pool(shots) == {"person": ("Bo", "Ada"), "place": ("Oslo",), "boat": ("Oslo",)}
    assert mention_pool([]) == {}


def test_a_longer_mention_moves_what_comes_after_it() -> None:
    text = "Al met Jo by the sea, at noon."
    spans = (Span(0, 2, "person"), Span(7, 9, "person"), Span(13, 20, "place"))
    assert covered(Example(text, spans)) == ["Al", "Jo", "the sea"]
    pool = {"person": ("Zoë de Vries",), "place": ("Rome",)}
    made = swap_mentions(Example(text, spans), pool, 1.0, random.Random(0))
    assert made.text == "Zoë de Vries met Zoë de Vries by Rome, at noon."
    assert [span.key for span in made.spans] == [(0, 12, "person"), (17, 29, "person"), (33, 37, "place")]


def test_overlapping_mentions_stay_and_move_along() -> None:
    text = "Al sailed the Old Harbour of Oslo with Jo"
    spans = (Span(0, 2, "person"), Span(10, 33, "boat"), Span(29, 33, "place"), Span(39, 41, "person"))
    pool = {"person": ("Zoë",), "place": ("Rome",), "boat": ("Kon",)}
    made = swap_mentions(Example(text, spans), pool, 1.0, random.Random(0))
    assert made.text == "Zoë sailed the Old Harbour of Oslo with Zoë"
    assert covered(made) == ["Zoë", "the Old Harbour of Oslo", "Oslo", "Zoë"]


def test_a_mention_with_two_labels_stays() -> None:
    example = Example("Oslo left", (Span(0, 4, "boat"), Span(0, 4, "place")))
    assert swap_mentions(example, {"boat": ("Kon",), "place": ("Rome",)}, 1.0, random.Random(0)) == example


def test_mentions_that_touch_do_not_overlap() -> None:
    example = Example("東京ローマ", (Span(0, 2, "place"), Span(2, 5, "place")))
    made = swap_mentions(example, {"place": ("オスロ",)}, 1.0, random.Random(0))
    assert (made.text, covered(made)) == ("オスロオスロ", ["オスロ", "オスロ"])


@given(examples, st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_every_span_covers_a_mention_of_the_pool_or_its_old_text(example: Example, rate: float, seed: int) -> None:
    made = swap_mentions(example, POOL, rate, random.Random(seed))
    made.check()
    assert sorted(span.label for span in made.spans) == sorted(span.label for span in example.spans)
    assert outside(made) == outside(example)
    alone = [span for span in example.spans if is_alone(span, example.spans)]
    alone_now = [span for span in made.spans if is_alone(span, made.spans)]
    for old, new in zip(alone, alone_now, strict=True):  # nothing begins or ceases to overlap
        before, after = example.text[old.start : old.end], made.text[new.start : new.end]
        assert new.label == old.label and after in (before, *POOL.get(old.label, ()))
    rest, rest_now = (
        [(one.text[span.start : span.end], span.label) for span in one.spans if span not in kept]
        for one, kept in ((example, alone), (made, alone_now))
    )
    assert rest_now == rest


@given(flat_examples(), st.integers(0, 2**32))
def test_at_rate_1_every_mention_with_a_pool_is_drawn_from_it(example: Example, seed: int) -> None:
    made = swap_mentions(example, POOL, 1.0, random.Random(seed))
    for text, span, old in zip(covered(made), made.spans, covered(example), strict=True):
        assert text in POOL.get(span.label, (old,))


@given(examples, st.integers(0, 2**32))
def test_at_rate_0_nothing_changes(example: Example, seed: int) -> None:
    made = swap_mentions(example, POOL, 0.0, random.Random(seed))
    assert made == example and made.source == example.source


@given(flat_examples(), st.integers(0, 2**32))
def test_the_same_draw_gives_the_same_example(example: Example, seed: int) -> None:
    one, two = (swap_mentions(example, POOL, 0.5, random.Random(seed)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("rate", [0.25, 0.7])
def test_the_rate_is_the_share_of_mentions_swapped(rate: float) -> None:
    count = 4000
    example = Example("a" * count, tuple(Span(at, at + 1, "letter") for at in range(count)))
    made = swap_mentions(example, {"letter": ("b",)}, rate, random.Random(0))
    assert abs(made.text.count("b") / count - rate) < 4 * (rate * (1 - rate) / count) ** 0.5


def test_all_mentions_of_the_pool_come_up_equally_often() -> None:
    count = 3000
    example = Example("a" * count, tuple(Span(at, at + 1, "letter") for at in range(count)))
    made = swap_mentions(example, {"letter": ("b", "c", "d")}, 1.0, random.Random(0))
    assert all(abs(made.text.count(letter) / count - 1 / 3) < 0.035 for letter in "bcd")


def test_tokens_of_the_old_text_are_forgotten() -> None:
    example = Example.from_tokens(["Ada", "sat"], [(0, 1, "person")])
    assert example.token_offsets is not None
    assert swap_mentions(example, {"person": ("Zoë",)}, 1.0, random.Random(0)).token_offsets is None
