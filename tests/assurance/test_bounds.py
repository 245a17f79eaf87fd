"""Bounds against scipy and by hand; thresholds against brute force; how often promises break, by simulation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from cllmfs.assurance.bounds import (
    MARGIN,
    STEPS,
    Losses,
    binomial_tail,
    highest_threshold,
    p_value,
    passing_thresholds,
    smallest_count,
    smallest_risk,
)

RISKS = st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.37, 0.5, 0.9])
CONFIDENCES = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99])

# p-values


@pytest.mark.parametrize("count", [1, 2, 30, 59, 400, 5000])
@pytest.mark.parametrize("chance", [0.001, 0.05, 0.3, 0.5, 0.95])
def test_the_binomial_tail_is_that_of_scipy(count: int, chance: float) -> None:
    for most in {0, 1, count // 20, count // 3, count // 2, count - 1, count, count + 1}:
        expected = float(binom.cdf(most, count, chance))
        # The sum of up to thousands of logarithms is good to nine digits.
        assert binomial_tail(most, count, chance) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.integers(1, 300), st.floats(0.0, 1.0), RISKS)
def test_the_p_value_is_the_smaller_of_hoeffding_and_bentkus(texts: int, share: float, risk: float) -> None:
    total = share * texts
    mean = min(share, risk)
    hoeffding = math.exp(
        -texts * ((mean * math.log(mean / risk) if mean else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - risk)))
    )
    bentkus = math.e * float(binom.cdf(math.ceil(total - 1e-9), texts, risk))
    assert p_value(Losses(total, texts), risk) == pytest.approx(min(1.0, hoeffding, bentkus), rel=1e-6)


def test_the_p_value_of_no_losses_is_exact_and_that_of_no_texts_is_one() -> None:
    assert p_value(Losses(0.0, 59), 0.05) == pytest.approx(0.95**59)
    assert p_value(Losses(0.0, 0), 0.05) == 1.0
    assert p_value(Losses(30.0, 30), 0.05) == 1.0


def test_shares_that_add_up_to_a_whole_count_as_it() -> None:
    total = sum([0.1] * 10)
    assert total != 1.0
    assert p_value(Losses(total, 50), 0.1) == pytest.approx(p_value(Losses(1.0, 50), 0.1))


@given(st.integers(1, 200), st.floats(0.0, 1.0), st.floats(0.0, 1.0), RISKS)
def test_the_p_value_rises_with_the_losses(texts: int, one: float, other: float, risk: float) -> None:
    low, high = sorted((one * texts, other * texts))
    assert p_value(Losses(low, texts), risk) <= p_value(Losses(high, texts), risk) + 1e-12


# how many texts


@pytest.mark.parametrize(
    ("risk", "confidence", "count"),
    [(0.05, 0.95, 59), (0.1, 0.95, 29), (0.05, 0.9, 45), (0.2, 0.95, 14), (0.01, 0.95, 299), (0.5, 0.5, 1)],
)
def test_the_smallest_count_is_where_zeros_are_enough(risk: float, confidence: float, count: int) -> None:
    assert smallest_count(risk, confidence) == count
    assert (1 - risk) ** count <= 1 - confidence + 1e-12
    assert (1 - risk) ** (count - 1) > 1 - confidence


@given(st.integers(1, 400), st.floats(0.0, 1.0), CONFIDENCES)
def test_the_smallest_risk_is_shown_and_a_smaller_one_is_not(texts: int, share: float, confidence: float) -> None:
    losses = Losses(share * texts, texts)
    risk = smallest_risk(losses, confidence)
    if risk < 1:
        assert p_value(losses, risk) <= 1 - confidence
    if risk > 0.001:
        assert p_value(losses, risk - 0.001) > 1 - confidence
    assert risk >= share


# thresholds for a recall

Texts = list[list[tuple[float, bool]]]


def mentions(texts: list[list[float | None]]) -> list[tuple[float, float]]:
    """The pairs of texts whose mentions are found with a confidence, or not at all."""
    return [(one, 1 / len(text)) for text in texts for one in text if one is not None]


@given(
    st.lists(st.lists(st.none() | st.floats(0.01, 1.0), min_size=1, max_size=3), min_size=1, max_size=40),
    st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from([0.5, 0.8, 0.95]),
)  # fmt: skip
def test_the_threshold_is_the_highest_at_which_the_loss_is_shown(
    texts: list[list[float | None]], risk: float, confidence: float
) -> None:
    def shown(threshold: float) -> bool:
        missed = [sum(one is None or one < threshold for one in text) / len(text) for text in texts]
        return p_value(Losses(math.fsum(missed), len(texts)), risk) <= 1 - confidence

    found = highest_threshold(mentions(texts), len(texts), risk, confidence)
    passed = [one for text in texts for one in text if one is not None and shown(one)]
    assert found == (pytest.approx(max(passed) - MARGIN) if passed else None)
    if found is not None:
        assert shown(found) and shown(found / 2) and shown(0.0)


def test_no_threshold_is_high_enough_where_too_much_is_never_found() -> None:
    assert highest_threshold(mentions([[0.9]] * 50 + [[None]] * 50), 100, 0.3, 0.95) is None
    assert highest_threshold([], 100, 0.3, 0.95) is None
    assert highest_threshold(mentions([[0.9]] * 100), 100, 0.3, 0.95) == pytest.approx(0.9 - MARGIN)


# thresholds for a precision


def wrong_shares(texts: Texts, threshold: float) -> list[float]:
    kept = [[right for one, right in spans if one >= threshold] for spans in texts]
    return [1 - sum(rights) / len(rights) for rights in kept if rights]


def slow_tests(texts: Texts, risk: float, confidence: float) -> list[float]:
    """The sequences one by one, each from its own beginning."""
    error, shown = 1 - confidence, set[float]()
    many = max((n for n in range(1, 5) if smallest_count(risk, 1 - error / n) * 2 ** (n - 1) <= len(texts)), default=1)
    for number in range(many):
        begins = smallest_count(risk, 1 - error / many) * 2**number
        for threshold in STEPS:
            shares = wrong_shares(texts, threshold)
            if len(shares) < begins:
                continue
            if p_value(Losses(math.fsum(shares), len(shares)), risk) > error / many:
                break
            shown.add(threshold)
    return sorted(shown, reverse=True)


def drawn_spans(draw: random.Random, count: int, right: Callable[[float], float]) -> Texts:
    texts = []
    for _ in range(count):
        confidences = [draw.random() for _ in range(draw.choice((0, 1, 1, 2, 4)))]
        texts.append([(one, draw.random() < right(one)) for one in confidences])
    return texts


@pytest.mark.parametrize("seed", range(12))
def test_sequences_run_together_as_they_would_alone(seed: int) -> None:
    draw = random.Random(seed)
    texts = drawn_spans(draw, draw.choice((5, 40, 150)), lambda one: one ** draw.choice((0.2, 0.5, 1)))
    for risk in (0.1, 0.3, 0.5):
        assert passing_thresholds(texts, risk, 0.9) == slow_tests(texts, risk, 0.9)


def test_the_first_test_is_made_where_enough_texts_report_something() -> None:
    right = [[(0.9, True)]] * 29
    assert passing_thresholds(right, 0.1, 0.95)[0] == max(step for step in STEPS if step <= 0.9)
    assert passing_thresholds(right[:28], 0.1, 0.95) == []
    assert passing_thresholds([*right[:28], [(0.9, False)]], 0.1, 0.95) == []
    # Wrong spans below the right ones end the sequence there.
    lowest = passing_thresholds([*right, *[[(0.3, False)]] * 10], 0.1, 0.95)[-1]
    assert lowest == min(step for step in STEPS if step > 0.3)


# how often a promise breaks

DRAWS, CONFIDENCE = 2000, 0.9
# Draws of a fair promise break it in a tenth of the cases; three standard deviations are for chance.
ALLOWED = (1 - CONFIDENCE) + 3 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / DRAWS)


@pytest.mark.parametrize("mentions_each", [(1,), (1, 2, 5)])
@pytest.mark.parametrize("texts", [25, 120])
def test_a_promised_recall_breaks_seldom(texts: int, mentions_each: tuple[int, ...]) -> None:
    """Nine of ten mentions are found, with a confidence that is uniform: the loss at a threshold is known."""
    draw, broken, given_ = random.Random(texts), 0, 0
    for _ in range(DRAWS):
        sample: list[list[float | None]] = [
            [draw.random() if draw.random() < 0.9 else None for _ in range(draw.choice(mentions_each))]
            for _ in range(texts)
        ]
        threshold = highest_threshold(mentions(sample), texts, 0.3, CONFIDENCE)
        given_ += threshold is not None
        broken += threshold is not None and 1 - 0.9 * (1 - threshold) > 0.3
    assert given_ > DRAWS / 4
    assert broken / DRAWS <= ALLOWED


@pytest.mark.parametrize(
    ("right", "least"),
    [
        (lambda one: one, 0.6),  # a true probability: of the spans from 0.6 on, four in five are right
        (lambda one: 0.5 if one < 0.6 else 0.8, 0.6),  # the risk is at its bound wherever a test is made
    ],
)
def test_a_promised_precision_breaks_seldom(right: Callable[[float], float], least: float) -> None:
    draw, broken, draws = random.Random(1), 0, 600
    for _ in range(draws):
        shown = passing_thresholds(drawn_spans(draw, 100, right), 0.2, CONFIDENCE)
        broken += bool(shown) and shown[-1] < least - 1e-9
    assert broken / draws <= (1 - CONFIDENCE) + 3 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws)
