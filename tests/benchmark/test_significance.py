"""Means and resampling, against figures worked out by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest

from cllmfs.benchmark.significance import Interval, bootstrap_interval, mean_sd, paired_bootstrap
from cllmfs.errors import ConfigError, DataError


def test_mean_sd() -> None:
    assert mean_sd([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx((5.0, math.sqrt(32 / 7)))
    assert mean_sd([0.25]) == (0.25, 0.0)
    assert mean_sd(iter([1.0, 3.0])) == pytest.approx((2.0, math.sqrt(2)))
    with pytest.raises(DataError, match="at least one value"):
        mean_sd([])


def test_paired_bootstrap_at_the_ends() -> None:
    better, worse = [0.5, 0.6, 0.7], [0.4, 0.5, 0.6]
    assert paired_bootstrap(better, worse, samples=999) == 1 / 1000
    assert paired_bootstrap(worse, better, samples=999) == 1.0
    assert paired_bootstrap(better, better) == 1.0


def test_paired_bootstrap_value() -> None:
    # Gains 3 and -1: of the four equally likely draws of two pairs only (-1, -1) has a mean not above 0.
    assert paired_bootstrap([3.0, 0.0], [0.0, 1.0]) == pytest.approx(0.25, abs=0.02)
    # Gains 1 and -1: three of four draws fail.
    assert paired_bootstrap([1.0, 0.0], [0.0, 1.0]) == pytest.approx(0.75, abs=0.02)


def test_paired_bootstrap_is_seeded_and_checked() -> None:
    a, b = [0.5, 0.3, 0.8, 0.4], [0.4, 0.4, 0.6, 0.45]
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert len({paired_bootstrap(a, b, seed=seed) for seed in range(5)}) > 1
    with pytest.raises(DataError, match="got 1 and 2"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="at least 1"):
        paired_bootstrap([], [])
    with pytest.raises(ConfigError, match="samples"):
        paired_bootstrap([1.0], [0.0], samples=0)


def test_an_interval_is_of_all_draws() -> None:
    groups = [[0.0, 1.0, 5.0], [2.0, 4.0]]
    # Every draw there is, each as likely as the others.
    draws = itertools.product(itertools.product(groups[0], repeat=3), itertools.product(groups[1], repeat=2))
    means = sorted(statistics.fmean(map(statistics.fmean, draw)) for draw in draws)
    mean, low, high = bootstrap_interval(groups, level=0.8)
    assert mean == pytest.approx(2.5)
    for end, share in ((low, 0.1), (high, 0.9)):
        assert sum(one < end for one in means) / len(means) <= share + 0.02
        assert sum(one <= end for one in means) / len(means) >= share - 0.02


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = [[1.0, 2.0, 4.0, 8.0, 16.0]]
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert bootstrap_interval(values, samples=1).low == bootstrap_interval(values, samples=1).high


def test_groups_weigh_the_same_whatever_they_hold() -> None:
    assert bootstrap_interval([[0.0] * 9, [3.0] * 2]) == Interval(1.5, 1.5, 1.5)


def test_a_group_of_one_value_leaves_no_interval() -> None:
    mean, low, high = bootstrap_interval([[1.0], [4.0, 6.0]])
    assert mean == 3.0 and math.isnan(low) and math.isnan(high)


def test_what_cannot_be_resampled_is_told() -> None:
    for groups in ([], [[1.0], []]):
        with pytest.raises(DataError, match="a value in each"):
            bootstrap_interval(groups)
    for wrong in ({"level": 1.0}, {"samples": 0}):
        with pytest.raises(ConfigError, match="samples must be at least 1"):
            bootstrap_interval([[1.0]], **wrong)
