"""Means and resampling, against figures worked out by hand."""

from __future__ import annotations

import itertools
import math
import statistics
import sys

import pytest

from cllmfs.benchmark.results import Interval, bootstrap_interval, mean_sd
from cllmfs.errors import ConfigError, DataError


def test_mean_sd() -> None:
    assert mean_sd([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx((5.0, math.sqrt(32 / 7)))
    assert mean_sd([0.25]) == (0.25, 0.0)
    assert mean_sd(iter([1.0, 3.0])) == pytest.approx((2.0, math.sqrt(2)))
    with pytest.raises(DataError, match="at least one value"):
        mean_sd([])


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


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [[1.0, 2.0, 4.0, 8.0, 16.0], [0.0, 3.0, 7.0]]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert len({bootstrap_interval(values, seed=seed) for seed in range(3)}) > 1


def test_groups_weigh_the_same_whatever_they_hold() -> None:
    assert bootstrap_interval([[0.0] * 9, [3.0] * 2]) == Interval(1.5, 1.5, 1.5)


def test_a_group_of_one_value_leaves_no_interval() -> None:
    mean, low, high = bootstrap_interval([[1.0], [4.0, 6.0]])
    assert mean == 3.0 and math.isnan(low) and math.isnan(high)


def test_what_cannot_be_resampled_is_reported() -> None:
    for groups in ([], [[1.0], []]):
        with pytest.raises(DataError, match="a value in each group"):
            bootstrap_interval(groups)
    with pytest.raises(ConfigError, match="the level must be between 0 and 1, got 1"):
        bootstrap_interval([[1.0]], level=1.0)


def test_the_interval_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ConfigError, match=r"need scipy; run pip install"):
        bootstrap_interval([[1.0, 2.0]])
