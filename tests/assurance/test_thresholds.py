"""Thresholds on judged texts, by hand and on a tiny model; what texts are refused."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.assurance.bounds import MARGIN
from cllmfs.assurance.guarantee import Risk, text_hash
from cllmfs.assurance.thresholds import (
    Judged,
    JudgedText,
    choose_thresholds,
    distinct_texts,
    estimate,
    judge_text,
    judge_texts,
)
from cllmfs.config import Config, RuntimeConfig
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.extraction import Candidate, Extractor, resolve_conflicts
from cllmfs.decoding.greedy import Rules
from cllmfs.errors import DataError
from cllmfs.evaluation import Counts
from cllmfs.schema import Example, LabelSet, Span
from tests.conftest import tiny_backbone
from tests.decoding.test_extraction import spans

LABELS = LabelSet({"person": "a human", "place": ""})
RUNTIME = RuntimeConfig()


def text(*found: tuple[float, bool, str], **gold: int) -> JudgedText:
    return JudgedText(tuple(Judged(*one) for one in found), Counter(gold), Counts())


def rates(texts: Sequence[JudgedText], threshold: float, own: Mapping[str, float] | None = None) -> tuple[float, float]:
    """The mean share of missed mentions and that of wrong spans."""
    missed, wrong = [], []
    for one in texts:
        kept = [span for span in one.found if span.confidence >= (own or {}).get(span.label, threshold)]
        if total := sum(one.gold.values()):
            missed.append(1 - sum(span.right for span in kept) / total)
        if kept:
            wrong.append(1 - sum(span.right for span in kept) / len(kept))
    return sum(missed) / len(missed), sum(wrong) / len(wrong)


# spans that overlap


@given(spans(), st.sampled_from([0.0, 0.1, 0.15, 0.2, 0.5, 0.9, 1.0]), st.booleans())
@settings(deadline=None)
def test_one_threshold_gives_the_same_before_and_after_conflicts_are_resolved(
    found: list[Span], threshold: float, nested: bool
) -> None:
    first = resolve_conflicts([one for one in found if (one.score or 0.0) >= threshold], nested)
    then = [one for one in resolve_conflicts(found, nested) if (one.score or 0.0) >= threshold]
    assert first == then


def test_a_lower_threshold_of_a_label_takes_no_span_of_another_away() -> None:
    example = Example("Ada Byron", (Span(0, 3, "person"),))
    candidates = [Candidate(0, 3, "person", 0.5, 0.0), Candidate(0, 9, "place", 0.6, 0.0)]
    calibration = Calibration(thresholds={"place": 0.7})
    # With the thresholds applied first, "person" is reported, and no longer if the threshold of "place" falls to 0.6.
    judged = judge_text(example, candidates, calibration, nested=False)
    assert judged == JudgedText((Judged(0.6, False, "place"),), Counter(person=1), Counts(tp=1))
    both = judge_text(example, candidates, calibration, nested=True)
    assert set(both.found) == {Judged(0.5, True, "person"), Judged(0.6, False, "place")}


# recall


def test_a_recall_takes_the_highest_threshold_and_pays_in_precision() -> None:
    texts = [text((0.9, True, "person"), (0.5, False, "place"), person=1) for _ in range(60)]
    texts += [text((0.4, True, "place"), (0.3, False, "person"), place=1) for _ in range(40)]
    texts += [text((0.8, False, "person")) for _ in range(20)]
    made = choose_thresholds(texts, Risk(recall=0.9), LABELS, RUNTIME)
    # Above 0.4, two of five texts lose their mention.
    assert made.threshold == pytest.approx(0.4 - MARGIN)
    assert made.thresholds == {"person": made.threshold, "place": made.threshold}  # the lower of the two applies
    assert (made.texts, made.recall_texts, made.precision_texts, made.mentions) == (120, 100, 120, 100)
    assert (made.unpromised, made.precision, made.estimated) == ({}, None, False)
    assert made.after["recall"] == 1.0
    assert made.after["precision"] == pytest.approx(100 / 180)


def test_a_label_has_its_own_threshold_where_there_is_enough_of_it() -> None:
    texts = [text((0.9, True, "person"), person=1) for _ in range(300)]
    texts += [text((0.2, True, "place"), place=1) for _ in range(29)]
    made = choose_thresholds(texts, Risk(recall=0.8), LABELS, RUNTIME)
    assert made.threshold == pytest.approx(0.9 - MARGIN)
    assert made.thresholds == {"person": pytest.approx(0.9 - MARGIN), "place": pytest.approx(0.2 - MARGIN)}
    few = choose_thresholds(texts[:310], Risk(recall=0.8), LABELS, RUNTIME)
    assert few.thresholds == {"person": pytest.approx(0.9 - MARGIN)}
    assert few.unpromised == {"place": "10 texts with a mention, 14 are needed"}
    missed = [*texts[:300], *[text(place=1) for _ in range(14)]]
    lost = choose_thresholds(missed, Risk(recall=0.8), LABELS, RUNTIME)
    assert lost.unpromised == {"place": "a recall of at most 0.000 can be promised"}


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_what_is_promised_of_all_labels_and_of_each_holds_where_it_was_chosen(seed: int) -> None:
    draw, texts = random.Random(seed), []
    for _ in range(150):
        gold = Counter(draw.choices(("person", "place"), k=draw.choice((0, 1, 1, 2))))
        right = [(draw.random(), True, label) for label in gold.elements() if draw.random() < 0.95]
        wrong = [(draw.random() / 2, False, draw.choice(("person", "place"))) for _ in range(draw.choice((0, 1, 2)))]
        texts.append(text(*right, *wrong, **gold))
    made = choose_thresholds(texts, Risk(recall=0.6), LABELS, RUNTIME)
    assert rates(texts, made.threshold)[0] < 0.4
    assert rates(texts, made.threshold, made.thresholds)[0] <= rates(texts, made.threshold)[0]
    for label, threshold in made.thresholds.items():
        assert threshold <= made.threshold
        own = [text(*(one for one in each.found if one.label == label), **{label: each.gold[label]}) for each in texts]
        assert rates(own, threshold)[0] < 0.4


def test_a_recall_beyond_reach_is_refused_with_the_one_in_reach() -> None:
    texts = [text((0.9, True, "person"), person=2) for _ in range(400)]
    with pytest.raises(DataError, match=r"a recall of 0\.8 cannot be promised: .* 50\.0% of the mentions") as refused:
        choose_thresholds(texts, Risk(recall=0.8), LABELS, RUNTIME)
    reachable = float(str(refused.value).partition("at most ")[2][:5])
    assert 0.4 < reachable < 0.5
    assert choose_thresholds(texts, Risk(recall=reachable), LABELS, RUNTIME).recall == reachable
    with pytest.raises(DataError):
        choose_thresholds(texts, Risk(recall=reachable + 0.002), LABELS, RUNTIME)


# precision


def test_a_precision_takes_the_lowest_threshold_that_passes() -> None:
    texts = [text((0.9, True, "person"), (0.2, False, "place"), person=1) for _ in range(60)]
    made = choose_thresholds(texts, Risk(precision=0.9), LABELS, RUNTIME)
    assert 0.2 < made.threshold < 0.23
    assert (made.thresholds, made.unpromised, made.precision_texts) == ({}, {}, 60)
    assert made.after == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_a_precision_beyond_reach_is_refused_with_the_one_in_reach() -> None:
    draw = random.Random(0)
    texts = [text((0.9, draw.random() < 0.8, "person"), person=1) for _ in range(300)]
    with pytest.raises(DataError, match=r"a precision of 0\.95 cannot be promised.*ask for at most 0\.\d+") as refused:
        choose_thresholds(texts, Risk(precision=0.95), LABELS, RUNTIME)
    reachable = float(str(refused.value).partition("at most ")[2].partition(",")[0])
    assert 0.7 < reachable < 0.8
    assert choose_thresholds(texts, Risk(precision=reachable), LABELS, RUNTIME).precision == reachable


def test_both_hold_at_one_threshold_or_it_is_said_which_thresholds_they_need() -> None:
    texts = [text((0.9, True, "person"), (0.2, False, "place"), person=1) for _ in range(100)]
    both = choose_thresholds(texts, Risk(recall=0.9, precision=0.9), LABELS, RUNTIME)
    assert both.thresholds == {} and 0.8 < both.threshold < 0.9
    assert rates(texts, both.threshold) == (0.0, 0.0)
    texts += [text((0.1, True, "place"), (0.5, False, "person"), place=1) for _ in range(100)]
    for risk in (Risk(recall=0.9), Risk(precision=0.9)):
        choose_thresholds(texts, risk, LABELS, RUNTIME)
    with pytest.raises(DataError, match=r"together: the recall needs a threshold of at most 0\.100, the precision one"):
        choose_thresholds(texts, Risk(recall=0.9, precision=0.9), LABELS, RUNTIME)


# too few


@pytest.mark.parametrize(("name", "what"), [("recall", "with a mention"), ("precision", "in which spans are found")])
def test_below_the_smallest_number_nothing_is_promised(name: str, what: str) -> None:
    texts = [text((0.9, True, "person"), person=1) for _ in range(59)]
    risk = Risk(**{name: 0.95})
    assert getattr(choose_thresholds(texts, risk, LABELS, RUNTIME), name) == 0.95
    said = rf"{name} of 0\.95 at 0\.95 confidence needs at least 59 labeled texts {what}, got 58; label more, or ask "
    with pytest.raises(DataError, match=said) as refused:
        choose_thresholds(texts[:58], risk, LABELS, RUNTIME)
    most = float(str(refused.value).rpartition(" ")[2])
    assert choose_thresholds(texts[:58], Risk(**{name: most}), LABELS, RUNTIME).texts == 58
    with pytest.raises(DataError, match=r"got 0; label more$"):
        choose_thresholds([text()] * 100, risk, LABELS, RUNTIME)


# the texts


def example(number: int, label: str = "person") -> Example:
    return Example(f"Ada {number}", (Span(0, 3, label),))


def test_too_few_texts_are_refused_before_they_are_read() -> None:
    examples = [example(number) for number in range(28)] + [Example("Rain.")] * 10
    with pytest.raises(DataError, match="at least 29 labeled texts with a mention, got 28"):
        distinct_texts(examples, Risk(recall=0.9), LABELS)
    assert len(distinct_texts([*examples, example(28)], Risk(recall=0.9), LABELS)) == 30
    with pytest.raises(DataError, match="needs at least 29 labeled texts in which spans are found, got 1"):
        distinct_texts([Example("Rain.")] * 99, Risk(precision=0.9), LABELS)


def test_shots_and_unknown_labels_are_refused() -> None:
    examples = [example(number) for number in range(40)]
    with pytest.raises(DataError, match="has not learned from, got a shot: 'Ada 7'"):
        distinct_texts(examples, Risk(recall=0.9), LABELS, [text_hash("Ada 7"), text_hash("Zoë")])
    with pytest.raises(DataError, match="does not know the label 'boat', but only person, place"):
        distinct_texts([*examples, example(40, "boat")], Risk(recall=0.9), LABELS)
    with pytest.raises(DataError, match="a span must lie in the text"):
        distinct_texts([*examples, Example("Ada", (Span(0, 4, "person"),))], Risk(recall=0.9), LABELS)


def test_a_repeated_text_and_a_partly_annotated_one_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    examples = [example(number) for number in range(30)]
    partly = Example("Ada there", (Span(0, 3, "person"),), annotated=frozenset({"person"}))
    whole = Example("Ada here", (Span(0, 3, "person"),), annotated=frozenset({"person", "place", "boat"}))
    with caplog.at_level(logging.WARNING):
        assert distinct_texts([*examples, *examples[:5], partly, whole], Risk(recall=0.9), LABELS) == [*examples, whole]
    assert [record.getMessage() for record in caplog.records] == [
        "5 texts repeat others and are left out: a text counts once",
        "1 texts are left out: only some of the labels were annotated in them",
    ]


def test_a_hash_is_that_of_the_utf8_text() -> None:
    assert text_hash("abc") == "ba7816bf8f01cfea"  # SHA-256 of "abc" begins so (FIPS 180-2)
    assert len(text_hash("\ud800")) == 16


# parts of the shots


def test_held_out_shots_give_an_estimate_or_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    found = [(0.6, True, "person"), (0.3, False, "place"), (0.2, False, "place")]
    held_out = [(f"text {number}", {"person": 1}, found) for number in range(40)]
    calibration = Calibration(threshold=0.25, thresholds={"person": 0.7})
    made = estimate(held_out, Risk(recall=0.9), LABELS, calibration, RUNTIME)
    assert made is not None and made.estimated and made.promise() is None
    assert made.threshold == pytest.approx(0.6 - MARGIN) and made.thresholds == {"person": made.threshold}
    assert made.before == {"precision": 0.0, "recall": 0.0, "f1": 0.0}  # the person lies below its ordinary threshold
    assert made.after == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert caplog.records == []
    assert estimate(held_out[:20] * 3, Risk(recall=0.9), LABELS, calibration, RUNTIME) is None  # a text counts once
    (record,) = caplog.records
    assert "needs at least 29 labeled texts with a mention, got 20" in record.getMessage()
    assert record.getMessage().endswith("The thresholds stay those that were fitted on the shots")


# a tiny model


def test_the_thresholds_on_a_tiny_model_are_those_of_what_it_decodes() -> None:
    """Gold are some of the spans that the model finds, so that a recall is within reach."""
    extractor = Extractor(tiny_backbone("llama"), Config(), rules=Rules(open_at=0.02))
    calibration = Calibration(slope=0.7, shift=0.2, threshold=0.3, thresholds={"place": 0.5})
    words, draw = ["Ada", "Rome", "met", "Zoë", "Oslo"], random.Random(3)
    sentences = [" ".join(draw.choices(words, k=2)) + f" {number}" for number in range(36)]
    found = extractor.extract(sentences, LABELS, calibration, threshold=0.0)
    kept = [one.spans[:: draw.choice((1, 1, 2))] for one in found]
    examples = [
        Example(sentence, tuple(Span(one.start, one.end, one.label) for one in spans))
        for sentence, spans in zip(sentences, kept, strict=True)
    ]
    assert sum(bool(one.spans) for one in examples) >= 29
    judged = judge_texts(extractor, examples, LABELS, calibration)
    assert [len(one.found) for one in judged] == [len(one.spans) for one in found]
    assert [one.ordinary for one in judged] == [
        Counts.of({span.key for span in gold.spans}, {span.key for span in document.spans})
        for gold, document in zip(examples, extractor.extract(sentences, LABELS, calibration), strict=True)
    ]
    made = choose_thresholds(judged, Risk(recall=0.8), LABELS, RUNTIME)
    assert rates(judged, made.threshold)[0] < 0.2
    assert made.after["recall"] > 0.8 and made.settings["window_tokens"] == 0
