"""Conflicts between the spans of several types, and what an extractor makes of texts."""

from __future__ import annotations

from itertools import pairwise, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.extraction import Candidate, Extractor, resolve_conflicts
from cllmfs.decoding.greedy import Rules
from cllmfs.schema import LabelSet, Span
from tests.conftest import EXAMPLES, tiny_backbone

# conflicts


def span(start: int, end: int, label: str = "a", score: float = 0.5) -> Span:
    return Span(start, end, label, score)


def overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def spans() -> st.SearchStrategy[list[Span]]:
    scores = st.sampled_from([0.1, 0.2, 0.5, 0.9])
    one = st.builds(
        lambda start, length, label, score: span(start, start + length, label, score),
        st.integers(0, 20), st.integers(1, 8), st.sampled_from("abc"), scores,
    )  # fmt: skip
    return st.lists(one, max_size=12)


@given(spans(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_flat_keeps_the_more_probable_of_overlapping_spans(found: list[Span], random: st.DataObject) -> None:
    kept = resolve_conflicts(found, nested=False)
    assert kept == sorted(kept)
    assert all(one.end <= other.start for one, other in pairwise(kept))
    for left_out in found:
        if left_out not in kept:
            assert any(overlap(left_out, winner) and winner.score >= left_out.score for winner in kept)
    shuffled = list(found)
    random.shuffle(shuffled)
    again = resolve_conflicts(shuffled, nested=False)
    assert [(s.key, s.score) for s in again] == [(s.key, s.score) for s in kept]


@given(spans(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_nested_drops_exact_repetitions_alone(found: list[Span], random: st.DataObject) -> None:
    best: dict[tuple[int, int, str], float] = {}
    for one in found:
        best[one.key] = max(best.get(one.key, 0.0), one.score or 0.0)
    random.shuffle(found)
    kept = resolve_conflicts(found, nested=True)
    assert [(s.key, s.score) for s in kept] == sorted(best.items())


def test_ties_go_to_the_longer_then_the_earlier_then_the_label() -> None:
    for order in permutations([span(0, 4), span(0, 9), span(5, 9)]):
        assert resolve_conflicts(order, nested=False) == [span(0, 9)]
    for order in permutations([span(0, 4), span(2, 6), span(4, 8)]):
        assert resolve_conflicts(order, nested=False) == [span(0, 4), span(4, 8)]
    for order in permutations([span(0, 4, "b"), span(0, 4, "a"), span(0, 4, "c")]):
        assert resolve_conflicts(order, nested=False) == [span(0, 4, "a")]


def test_a_probable_span_wins_over_two_that_it_covers() -> None:
    found = [span(0, 3, "a", 0.6), span(4, 7, "a", 0.7), span(0, 7, "b", 0.8), span(7, 9, "a", 0.1)]
    assert resolve_conflicts(found, nested=False) == [span(0, 7, "b"), span(7, 9, "a")]


# texts

LABELS = LabelSet({"person": "a human", "place": "", "boat": ""})
TEXTS = [*(text for text, _ in EXAMPLES), "", " ".join(text for text, _ in EXAMPLES)]


def extractor(*settings: str) -> Extractor:
    """A tiny model that finds many spans."""
    return Extractor(tiny_backbone("llama"), Config().with_settings(settings), rules=Rules(end_bias=-4.0))


def test_candidates_are_spans_of_the_text_at_word_edges() -> None:
    for changes, windows in (((), 1), (("runtime.window_tokens=16", "runtime.overlap_tokens=4"), 8)):
        found = extractor(*changes).candidates(TEXTS, LABELS, voting=False)
        assert found[4] == ((), 1), "an empty text is read in one window and has no spans"
        assert found[-1].windows >= windows and (found[-1].windows == 1) == (not changes)
        for text, (candidates, _) in zip(TEXTS, found, strict=True):
            assert len({candidate[:3] for candidate in candidates}) == len(candidates), "each is reported once"
            for start, end, label, score, vote in candidates:
                assert label in LABELS and text[start:end] == text[start:end].strip() != ""
                assert 0.0 <= score <= 1.0 and vote == 0.0
        assert any(one.candidates for one in found)


def test_spans_below_their_threshold_are_not_reported() -> None:
    reader = extractor("spans.nested=true")
    calibration = Calibration(0.5, 0.25, 0.5, {"place": 0.75, "boat": 0.0})
    rated = [
        [(one.start, one.end, one.label, calibration.confidence(one.score)) for one in found]
        for found, _ in reader.candidates(TEXTS, LABELS, voting=False)
    ]
    for threshold in (None, 0.0, 0.6, 1.0):
        documents = reader.extract(TEXTS, LABELS, calibration, threshold)
        for document, candidates in zip(documents, rated, strict=True):
            thresholds = {
                label: calibration.threshold_of(label) if threshold is None else threshold for label in LABELS
            }
            kept = sorted((s, e, label, c) for s, e, label, c in candidates if c >= thresholds[label])
            assert sorted((s.start, s.end, s.label, s.score) for s in document.spans) == kept
            assert all(span.text == document.text[span.start : span.end] for span in document.spans)


def test_votes_count_where_the_calibration_weighs_them() -> None:
    reader = extractor("loss.temperature=0.5")
    for weight in (0.0, 0.5):
        (found,) = reader.candidates(TEXTS[:1], LABELS, voting=weight > 0)
        (document,) = reader.extract(TEXTS[:1], LABELS, Calibration(vote=weight))
        spans = [one.span(TEXTS[0], Calibration(vote=weight)) for one in found.candidates]
        assert spans and list(document.spans) == resolve_conflicts(spans, nested=False)
        assert any(one.vote < 0 for one in found.candidates) == (weight > 0)


def test_a_candidate_becomes_a_span_with_its_confidence() -> None:
    found = Candidate(4, 7, "person", 0.2, 0.0).span("met Ada.", Calibration(0.5))
    assert (found.key, found.text) == ((4, 7, "person"), "Ada")
    assert found.score == Calibration(0.5).confidence(0.2)
