"""Varied shots: which mentions are replaced, which stay, and that spans still cover their mentions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.encoding.encoder import Encoder
from cllmfs.schema import Example, Span
from cllmfs.training.shots import VariedShots, encode_shots, mention_pool, swap_mentions
from tests.conftest import tiny_backbone
from tests.training.test_shots import example

LABELS = ("person", "place", "boat")
POOL = {
    "person": ("Ada", "Zoë de Vries", "Bo"),
    "place": ("Rome", "東京", "the old harbor of Oslo"),
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
    text = "Al sailed the Old Harbor of Oslo with Jo"
    spans = (Span(0, 2, "person"), Span(10, 32, "boat"), Span(28, 32, "place"), Span(38, 40, "person"))
    pool = {"person": ("Zoë",), "place": ("Rome",), "boat": ("Kon",)}
    made = swap_mentions(Example(text, spans), pool, 1.0, random.Random(0))
    assert made.text == "Zoë sailed the Old Harbor of Oslo with Zoë"
    assert covered(made) == ["Zoë", "the Old Harbor of Oslo", "Oslo", "Zoë"]


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


def swapped_letters(pool: Sequence[str], rate: float) -> str:
    """What becomes of 4,000 mentions, fifty in each text."""
    text = Example("a" * 50, tuple(Span(at, at + 1, "letter") for at in range(50)))
    rng = random.Random(0)
    return "".join(swap_mentions(text, {"letter": pool}, rate, rng).text for _ in range(80))


@pytest.mark.parametrize("rate", [0.25, 0.7])
def test_the_rate_is_the_share_of_mentions_that_are_replaced(rate: float) -> None:
    letters = swapped_letters("b", rate)
    assert len(letters) == 4000
    assert abs(letters.count("b") / 4000 - rate) < 4 * (rate * (1 - rate) / 4000) ** 0.5


def test_all_mentions_of_the_pool_are_drawn_equally_often() -> None:
    letters = swapped_letters("bcd", 1.0)
    assert all(abs(letters.count(letter) / 4000 - 1 / 3) < 0.03 for letter in "bcd")


def test_tokens_of_the_old_text_are_forgotten() -> None:
    example = Example.from_tokens(["Ada", "sat"], [(0, 1, "person")])
    assert example.token_offsets is not None
    assert swap_mentions(example, {"person": ("Zoë",)}, 1.0, random.Random(0)).token_offsets is None


# the shots of an epoch


SHOTS = (
    example("Ada met Bo in Rome.", person=["Ada", "Bo"], place=["Rome"]),
    example("It rained."),
    Example(""),
    example("Zoe left Oslo.", person=["Zoe"], place=["Oslo"]),
)


def varied(rate: float = 0.7, seed: int = 0, window: int = 512, left_out: int | None = None) -> VariedShots:
    encoder = Encoder(tiny_backbone("llama").prompt, overlap_tokens=4)
    shots = [shot for shot in encode_shots(SHOTS, encoder, window) if shot.example != left_out]
    return VariedShots(SHOTS, shots, encoder, window, rate, seed)


def mentions(made: VariedShots, epoch: int) -> set[str]:
    return {
        shot.sentence.text[slice(*shot.sentence.char_range(first, last))]
        for shot in made(epoch)
        for spans in shot.gold.values()
        for first, last in spans
    }


def test_the_first_epoch_has_the_shots_as_they_are() -> None:
    made = varied()
    assert made(0) is made.shots
    assert any(made(epoch) != made.shots for epoch in range(1, 4))


def test_at_rate_0_every_epoch_has_the_shots_as_they_are() -> None:
    made = varied(rate=0.0)
    assert all(made(epoch) is made.shots for epoch in range(4))


def test_an_epoch_depends_on_its_number_and_the_seed_alone() -> None:
    made, same, other = varied(), varied(), varied(seed=1)
    later = made(3)
    assert later == same(3) == made(3)
    assert any(made(epoch) != other(epoch) for epoch in range(1, 4))


def test_mentions_of_shots_that_are_held_out_are_never_drawn() -> None:
    """Otherwise a model would have seen what it is judged on."""
    made = varied(rate=1.0, left_out=0)
    assert set().union(*(mentions(made, epoch) for epoch in range(20))) == {"Zoe", "Oslo"}
    assert set().union(*(mentions(varied(rate=1.0), epoch) for epoch in range(20))) == {
        "Ada", "Bo", "Zoe", "Rome", "Oslo"
    }  # fmt: skip


def test_variants_that_need_another_number_of_windows_are_not_used() -> None:
    """The batches of an epoch rely on the number of shots."""
    long = (
        example("Bo sat in the sun", person=["Bo"]),
        example("Wilhelmina Elisabeth ran", person=["Wilhelmina Elisabeth"]),
    )
    encoder = Encoder(tiny_backbone("llama").prompt, overlap_tokens=4)
    shots = encode_shots(long, encoder, 26)
    made = VariedShots(long, shots, encoder, 26, 1.0, 0)
    epochs = [made(epoch) for epoch in range(1, 12)]
    assert {len(epoch) for epoch in epochs} == {len(shots)}
    assert any(epoch is made.shots for epoch in epochs)
    assert any(epoch is not made.shots for epoch in epochs)
