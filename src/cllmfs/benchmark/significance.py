"""How sure a comparison is: means over support sets, and what resampling them says of a difference.

Knows numbers; knows nothing of what they measure.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cllmfs.errors import ConfigError, DataError

SAMPLES = 10_000  # draws of a bootstrap


def mean_sd(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the latter is 0.0 for one value.

    Raises:
        DataError: if there is no value.
    """
    values = [float(value) for value in values]
    if not values:
        raise DataError("a mean needs at least one value, got none")
    return math.fsum(values) / len(values), statistics.stdev(values) if len(values) > 1 else 0.0


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, samples: int = SAMPLES, seed: int = 0) -> float:
    """One-sided p-value of "``a`` is better than ``b`` on average", by resampling pairs (Koehn 2004, W04-3250).

    Pairs are drawn with replacement; the value is the share of draws whose mean difference is not above 0, with one
    added to both counts so that it is never 0 (arXiv 1603.05766). With few pairs (under about ten) it is too small.

    Args:
        a, b: one score per support set, of two systems on the same support sets in the same order.
        samples: number of draws.
        seed: of the draws; the same seed gives the same value.

    Raises:
        DataError: if the lengths differ or there is no pair.
        ConfigError: if ``samples`` is below 1.
    """
    if len(a) != len(b) or not a:
        raise DataError(f"paired scores need two lists of one length, at least 1, got {len(a)} and {len(b)}")
    if samples < 1:
        raise ConfigError(f"samples must be at least 1, got {samples}")
    gains = [x - y for x, y in zip(a, b, strict=True)]
    draw = random.Random(seed).choices
    failed = sum(math.fsum(draw(gains, k=len(gains))) <= 0 for _ in range(samples))
    return (failed + 1) / (samples + 1)


class Interval(NamedTuple):
    """A mean and its bootstrap interval; both ends are ``nan`` where a group has but one value to resample."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    groups: Sequence[Sequence[float]], *, level: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> Interval:
    """The mean over groups of their means, and how far it may be off: a percentile bootstrap (Efron 1979).

    Values are drawn anew within each group: groups are fixed, such as data sets, and values stand for more of their
    kind, such as support sets. With few values in a group (under about five) the interval is too narrow.

    Args:
        groups: the values of each group, say differences between two systems on the same support sets.
        level: share of the draws that the interval holds, in (0, 1).
        samples: number of draws.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        DataError: if there is no group, or one without values.
        ConfigError: if ``level`` or ``samples`` is out of range.
    """
    if not groups or not all(groups):
        raise DataError(f"a mean over groups needs a value in each, got {[len(group) for group in groups]}")
    if samples < 1 or not 0 < level < 1:
        raise ConfigError(f"samples must be at least 1 and level in (0, 1), got {samples} and {level}")
    mean = math.fsum(map(statistics.fmean, groups)) / len(groups)
    if any(len(group) == 1 for group in groups):
        return Interval(mean, math.nan, math.nan)
    draw = random.Random(seed).choices
    drawn = (math.fsum(statistics.fmean(draw(group, k=len(group))) for group in groups) for _ in range(samples))
    means = sorted(total / len(groups) for total in drawn)
    outside = round(samples * (1 - level) / 2)  # draws left out at either end
    return Interval(mean, means[min(outside, samples // 2)], means[max(samples - 1 - outside, samples // 2)])
