"""The fitted map against the maps that spans were drawn from; thresholds against brute force over all cuts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cllmfs.decoding.calibration import Calibration
from cllmfs.training.calibrate import JudgedSpan, best_threshold, expected_best_threshold, fit_calibration

PRIOR = Calibration(1.0, 0.0, 0.15)
HUNDREDTHS = st.integers(1, 100).map(lambda number: number / 100)
VOTES = st.floats(-8.0, 0.0)
JUDGED = st.builds(JudgedSpan, st.floats(0.0, 1.0), st.booleans(), st.sampled_from(["person", "place"]), VOTES)


def logistic(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))


def log_odds(score: float) -> float:
    return math.log(score) - math.log1p(-score)


def f1_of(kept: Sequence[float | bool], gold: int) -> float:
    """F1 of reported spans that are right with these probabilities (or are right, or not)."""
    return 2 * sum(kept) / (len(kept) + gold) if len(kept) + gold else 0.0


# the map


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.6, -0.8), (1.5, 0.7)])
def test_many_spans_show_the_map_they_were_drawn_from(slope: float, shift: float) -> None:
    draw = random.Random(0)
    points = [draw.uniform(-4, 4) for _ in range(6000)]
    judged = [JudgedSpan(logistic(x), draw.random() < logistic(slope * x + shift), "person") for x in points]
    made = fit_calibration(judged, {"person": 3000}, PRIOR)
    # Three standard errors are about 0.06 for the slope and 0.1 for the shift.
    assert made.slope == pytest.approx(slope, abs=0.07) and made.shift == pytest.approx(shift, abs=0.1)
    confidences = [made.confidence(one.score) for one in judged]
    assert sum(confidences) / 6000 == pytest.approx(sum(one.right for one in judged) / 6000, abs=0.005)


@pytest.mark.parametrize("vote", [0.0, 0.25, 0.7])
def test_many_spans_show_what_votes_weigh(vote: float) -> None:
    draw = random.Random(1)
    judged = []
    for _ in range(6000):
        x, cast = draw.uniform(-4, 4), -draw.expovariate(0.4)
        right = logistic(0.6 * x + vote * (cast + math.log(8)) - 0.5)
        judged.append(JudgedSpan(logistic(x), draw.random() < right, "person", cast))
    made = fit_calibration(judged, {"person": 3000}, Calibration(0.4, 0.0, 0.2, vote=0.3))
    assert (made.slope, made.vote, made.shift) == pytest.approx((0.6, vote, -0.5), abs=0.1)
    without = fit_calibration(judged, {"person": 3000}, Calibration(0.4, 0.0, 0.2))
    assert without.vote == 0.0


def test_votes_of_what_is_wrong_never_count_for_it() -> None:
    judged = [JudgedSpan(0.5, number % 2 == 0, "a", -4.0 * (number % 2 == 0)) for number in range(200)]
    assert fit_calibration(judged, {"a": 100}, Calibration(0.4, 0.0, 0.2, vote=0.3)).vote == 0.0


@given(
    st.lists(st.builds(JudgedSpan, st.floats(0.05, 0.95), st.booleans(), st.just("a"), VOTES), min_size=1, max_size=4)
)
def test_few_spans_move_the_prior_little(judged: list[JudgedSpan]) -> None:
    prior = Calibration(0.8, -0.5, 0.3)
    made = fit_calibration(judged, {"a": 5}, prior)
    # At the optimum each span pulls with at most 1 (times its log-odds), against 1 / sd**2 of the prior.
    assert abs(made.shift - prior.shift) <= len(judged) * 0.5**2 + 1e-3
    assert abs(made.slope - prior.slope) <= sum(abs(log_odds(one.score)) for one in judged) * 0.25**2 + 1e-3


@pytest.mark.parametrize(("count", "right"), [(1, 0), (10, 1), (1000, 900)])
def test_scores_of_one_half_move_the_shift_alone(count: int, right: int) -> None:
    prior = Calibration(0.8, -0.5, 0.3)
    made = fit_calibration([JudgedSpan(0.5, number < right, "a") for number in range(count)], {"a": count}, prior)
    low, high = -10.0, 10.0  # halving: where the pull of the prior, 1 / 0.5**2, meets that of the spans
    for _ in range(60):
        middle = (low + high) / 2
        pulled = (middle - prior.shift) / 0.5**2 + count * logistic(middle) - right
        low, high = (low, middle) if pulled > 0 else (middle, high)
    assert made.slope == 0.8 and made.shift == pytest.approx(low, abs=1e-4)


VOTED = st.builds(JudgedSpan, st.floats(0.001, 0.999), st.booleans(), st.just("a"), VOTES)


@given(st.lists(VOTED, min_size=1, max_size=30))
def test_no_other_map_explains_the_spans_and_the_prior_better(judged: list[JudgedSpan]) -> None:
    prior = Calibration(1.2, -0.3, 0.2, vote=0.4)

    def cost(slope: float, vote: float, shift: float) -> float:
        moved = (slope - prior.slope) / 0.25, (vote - prior.vote) / 0.15, (shift - prior.shift) / 0.5
        signs = [1 if one.right else -1 for one in judged]
        values = [slope * log_odds(one.score) + vote * (one.vote + math.log(8)) + shift for one in judged]
        misses = (math.log1p(math.exp(-sign * value)) for sign, value in zip(signs, values, strict=True))
        return sum(move**2 / 2 for move in moved) + sum(misses)

    made = fit_calibration(judged, {"a": len(judged)}, prior)
    assume(made.slope > 0.06 and made.vote > 0.01)  # they are kept above 0.05 and 0
    here = cost(made.slope, made.vote, made.shift)
    steps = product((-0.01, 0, 0.01), (-0.005, 0, 0.005), (-0.02, 0, 0.02))
    around = [(made.slope + a, made.vote + b, made.shift + c) for a, b, c in steps if (a, b, c) != (0, 0, 0)]
    assert all(cost(*other) > here for other in around)


@pytest.mark.parametrize("lift", [0.2, 1.0])
def test_a_lift_reports_what_raised_confidences_would_and_raises_none(lift: float) -> None:
    judged = [JudgedSpan((number + 1) / 1000, False, "ab"[number % 2]) for number in range(10)]
    judged += [JudgedSpan(0.2 + number / 50, number % 3 > 0, "ab"[number % 2]) for number in range(30)]
    gold, prior = {"a": 20, "b": 20}, Calibration(0.8, -0.5, 0.3)
    plain, lifted = fit_calibration(judged, gold, prior), fit_calibration(judged, gold, prior, lift)
    assert (lifted.slope, lifted.shift) == (plain.slope, plain.shift)
    raised = replace(plain, shift=plain.shift + lift)
    confidences = [raised.confidence(one.score) for one in judged]
    common = expected_best_threshold(confidences, 55)
    thresholds = {}
    for label, mentions in gold.items():
        own = sorted(
            ((c, one.right) for c, one in zip(confidences, judged, strict=True) if one.label == label), reverse=True
        )
        weight = mentions / (mentions + 20)
        thresholds[label] = weight * best_threshold(own, mentions) + (1 - weight) * common
    reported = [one for one in judged if lifted.confidence(one.score) >= lifted.threshold_of(one.label)]
    assert reported == [one for one, c in zip(judged, confidences, strict=True) if c >= thresholds[one.label]]
    assert 0 < len(reported) < len(judged)
    assert [one for one in judged if lifted.confidence(one.score) >= lifted.threshold] == [
        one for one, c in zip(judged, confidences, strict=True) if c >= common
    ]


@given(st.lists(JUDGED, min_size=1, max_size=12), st.lists(st.floats(0.0, 1.0), min_size=2))
def test_a_higher_score_never_means_less_confidence(judged: list[JudgedSpan], scores: list[float]) -> None:
    made = fit_calibration(judged, {"person": 3, "place": 2}, PRIOR)
    assert made.slope > 0
    confidences = [made.confidence(score) for score in sorted(scores)]
    assert confidences == sorted(confidences) and all(0.0 <= one <= 1.0 for one in confidences)


def test_scores_that_mislead_leave_a_map_that_still_rises() -> None:
    judged = [JudgedSpan(0.99, False, "a")] * 400 + [JudgedSpan(0.01, True, "a")] * 400
    made = fit_calibration(judged, {"a": 400}, PRIOR)
    assert made.slope == 0.05
    assert 0.3 < made.confidence(0.01) < made.confidence(0.99) < 0.7


def test_scores_of_0_and_1_can_be_fitted() -> None:
    judged = [JudgedSpan(1.0, True, "a"), JudgedSpan(1.0, False, "a"), JudgedSpan(0.0, False, "a")]
    made = fit_calibration(judged, {"a": 2}, PRIOR)
    assert all(math.isfinite(value) for value in (made.slope, made.shift, made.threshold))
    assert made.confidence(1.0) < 0.9999  # one of two was wrong


@pytest.mark.parametrize(("judged", "gold"), [([], {"a": 3}), ([JudgedSpan(0.9, False, "a")], {}), ([], {})])
def test_where_nothing_can_be_judged_the_prior_stays(judged: list[JudgedSpan], gold: dict[str, int]) -> None:
    assert fit_calibration(judged, gold, PRIOR) is PRIOR


# thresholds


def test_threshold_to_expect_by_hand() -> None:
    # Kept 1: 1.8 / 4; 2: 3.4 / 5; 3: 4.4 / 6 = 0.733; 4: 4.6 / 7 = 0.657.
    assert expected_best_threshold([0.1, 0.8, 0.9, 0.5], 3) == pytest.approx(0.733 / 2, abs=5e-4)
    assert expected_best_threshold([], 3) == 0.0


@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.99])
@pytest.mark.parametrize("gold", [1, 5, 40])
def test_easy_shots_do_not_make_a_silent_model(confidence: float, gold: int) -> None:
    # All that there is was found, with high confidence: spans of harder texts must still be reported from 0.5 on.
    assert expected_best_threshold([confidence] * gold, gold) <= 0.5
    assert best_threshold([(confidence, True)] * gold, gold) <= 0.5
    made = fit_calibration([JudgedSpan(confidence, True, "a")] * gold, {"a": gold}, PRIOR)
    assert made.threshold_of("a") <= 0.5
    assert made.threshold_of("a") < made.confidence(confidence)


@given(st.lists(JUDGED, min_size=1, max_size=40), st.integers(1, 60), st.integers(0, 60))
def test_no_threshold_exceeds_what_calibrated_confidences_justify(judged: list[JudgedSpan], a: int, b: int) -> None:
    made = fit_calibration(judged, {"person": a, "place": b}, PRIOR)
    assert all(made.threshold_of(label) <= 0.5 for label in ("person", "place", "other"))


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), st.integers(1, 15))
def test_threshold_to_expect_is_the_best_of_all_cuts(confidences: list[float], missed: int) -> None:
    gold = missed + math.ceil(sum(confidences))  # no fewer than are expected to be found
    threshold = expected_best_threshold(confidences, gold)
    reached = f1_of([one for one in confidences if one >= threshold], gold)
    assert reached == pytest.approx(max(f1_of([o for o in confidences if o >= cut], gold) for cut in confidences))
    # It is half of that F1, as near as the confidences come.
    assert all((2 * one >= reached - 1e-9) if one >= threshold else (2 * one <= reached + 1e-9) for one in confidences)


def test_best_threshold_by_hand() -> None:
    ranked = [(0.9, True), (0.8, True), (0.6, False), (0.5, True), (0.2, False)]
    assert best_threshold(ranked, 3) == pytest.approx(0.35)  # 6 / 7, halfway from 0.5 to 0.2
    # Of two mentions both are found at 0.8, so 0.7 would do, but no threshold above 0.5 is given.
    assert best_threshold(ranked, 2) == 0.5
    assert best_threshold([(0.6, True)], 1) == pytest.approx(0.3)


@given(st.lists(st.tuples(HUNDREDTHS, st.booleans()), min_size=1, max_size=12), st.integers(0, 6))
def test_best_threshold_is_the_best_of_all_cuts(pairs: list[tuple[float, bool]], missed: int) -> None:
    gold = sum(right for _, right in pairs) + missed
    assume(gold)
    threshold = best_threshold(sorted(pairs, reverse=True), gold)
    reached = f1_of([right for confidence, right in pairs if confidence >= threshold], gold)
    cuts = [number / 200 for number in range(202)]
    if threshold == 0.5:  # the highest that is given
        return
    assert reached == pytest.approx(max(f1_of([right for one, right in pairs if one >= cut], gold) for cut in cuts))
    if threshold > 0:  # halfway: as far from the spans kept as from those dropped
        kept = min(one for one, _ in pairs if one >= threshold)
        dropped = max((one for one, _ in pairs if one < threshold), default=0.0)
        assert threshold - dropped == pytest.approx(kept - threshold)


def test_the_common_threshold_is_the_one_to_expect_of_the_confidences() -> None:
    draw = random.Random(1)
    judged = [
        JudgedSpan(score, draw.random() < score, "ab"[number % 2]) for number in range(40) for score in [draw.random()]
    ]
    made = fit_calibration(judged, {"a": 15, "b": 19}, PRIOR)
    confidences = [made.confidence(one.score) for one in judged]
    best = max(f1_of([one for one in confidences if one >= cut], 34) for cut in confidences)
    assert f1_of([one for one in confidences if one >= made.threshold - 1e-3], 34) == pytest.approx(best, abs=2e-3)
    assert made.thresholds == {}  # fewer than 20 mentions of either


@given(st.lists(VOTED, min_size=1, max_size=15))
def test_the_span_that_sets_the_threshold_is_reported(judged: list[JudgedSpan]) -> None:
    made = fit_calibration(judged, {"a": 10}, PRIOR)
    confidences = [made.confidence(one.score, one.vote) for one in judged]
    kept = [one for one in confidences if one >= made.threshold_of("a")]
    best = max(f1_of([one for one in confidences if one >= cut], 10) for cut in confidences)
    assert f1_of(kept, 10) == pytest.approx(best, abs=1e-3)


def test_a_label_with_many_mentions_has_a_threshold_between_its_own_and_the_common_one() -> None:
    frequent = [JudgedSpan(0.9, True, "a")] * 30 + [JudgedSpan(0.6, False, "a")] * 30
    judged = [*frequent, *[JudgedSpan(0.6, True, "b")] * 19]
    made = fit_calibration(judged, {"a": 30, "b": 19, "c": 40}, PRIOR)
    assert made.thresholds.keys() == {"a"}  # of b there are too few; of c nothing was found
    own = min(0.5, (made.confidence(0.9) + made.confidence(0.6)) / 2)  # all that is right, and nothing else
    weight = 30 / (30 + 20)
    assert made.threshold < own
    assert made.thresholds["a"] == pytest.approx(weight * own + (1 - weight) * made.threshold, abs=2e-4)
    assert made.threshold_of("b") == made.threshold_of("c") == made.threshold
