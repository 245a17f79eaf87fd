"""What a sample of losses says about their mean: p-values for samples of any size, and thresholds that rest on them.

A loss is a number in [0, 1]; the risk is its mean over all texts of the kind that was sampled. This file knows losses,
confidences and thresholds; it knows nothing of texts, spans or models.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

# A threshold lies this far below the confidence that it keeps, because rounding moves confidences a little.
MARGIN = 1e-4
# The thresholds at which precision is tested, from the highest to the lowest. They are fixed before anything is seen.
STEPS = tuple(1 / (1 + math.exp(-step / 8)) for step in range(48, -49, -1))

MOST_SEQUENCES = 4


class Losses(NamedTuple):
    """The sum of the losses of some texts, and the number of these texts."""

    total: float
    texts: int

    @property
    def mean(self) -> float:
        """The mean loss; 0.0 of no texts."""
        return self.total / self.texts if self.texts else 0.0


def p_value(losses: Losses, risk: float) -> float:
    """How probable losses as low as these are at most, if their mean over all texts is above ``risk``.

    The smaller of Hoeffding's and Bentkus' bounds for means of independent losses in [0, 1] (arXiv 2101.02703,
    2110.01052), at any number of texts.
    """
    if not losses.texts:
        return 1.0
    mean = min(losses.mean, risk)
    divergence = _entropy_term(mean, risk) + _entropy_term(1 - mean, 1 - risk)
    whole = math.ceil(losses.total - 1e-9)  # a sum of shares such as three thirds may be off by a rounding error
    return min(1.0, math.exp(-losses.texts * divergence), math.e * binomial_tail(whole, losses.texts, risk))


def _entropy_term(share: float, expected: float) -> float:
    return share * math.log(share / expected) if share else 0.0


def binomial_tail(most: int, count: int, chance: float) -> float:
    """The probability of at most ``most`` successes in ``count`` trials, each of which succeeds with this chance."""
    if most >= count:
        return 1.0
    rest = math.log1p(-chance)
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(chance)
        + (count - k) * rest
        for k in range(most + 1)
    ]
    top = max(logs)
    return min(1.0, math.exp(top) * math.fsum(math.exp(each - top) for each in logs))


def smallest_count(risk: float, confidence: float) -> int:
    """The number of texts below which no losses, not even zeros, can show that the risk is at most ``risk``."""
    count = max(1, math.ceil(math.log1p(-confidence) / math.log1p(-risk)) - 1)
    while p_value(Losses(0.0, count), risk) > 1 - confidence:
        count += 1
    return count


def smallest_risk(losses: Losses, confidence: float) -> float:
    """The upper confidence bound of the risk, rounded up to a thousandth; 1.0 if there is none."""
    shown = bisect_left(range(1, 1000), True, key=lambda k: p_value(losses, k / 1000) <= 1 - confidence)
    return (shown + 1) / 1000


def highest_threshold(found: Sequence[tuple[float, float]], count: int, risk: float, confidence: float) -> float | None:
    """The highest threshold at which the loss is shown to be at most ``risk``, where losses rise with the threshold.

    The bound holds at every lower threshold, too, so the threshold is that of a risk-controlling prediction set (arXiv
    2101.02703).

    Args:
        found: pairs of a confidence and what reporting it takes off the sum of the losses.
        count: the number of texts; the loss of each is 1 if nothing is reported.

    Returns:
        The threshold, ``None`` if the loss is too high even if everything is reported.
    """
    ranked = sorted(found, reverse=True)
    saved = [0.0, *accumulate(part for _, part in ranked)]
    low, high = 1, len(ranked) + 1  # how many spans must be reported; the last number stands for "more than there are"
    while low < high:
        middle = (low + high) // 2
        if p_value(Losses(max(0.0, count - saved[middle]), count), risk) > 1 - confidence:
            low = middle + 1
        else:
            high = middle
    return max(0.0, ranked[low - 1][0] - MARGIN) if low <= len(ranked) else None


def passing_thresholds(found: Sequence[Sequence[tuple[float, bool]]], risk: float, confidence: float) -> list[float]:
    """The thresholds at which the mean share of wrong spans is shown to be at most ``risk``, in falling order.

    The share need not fall as the threshold rises, so thresholds are tested in a sequence (learn then test, arXiv
    2110.01052): from the first of :data:`STEPS` at which enough texts report a span, downward until a test fails. There
    are up to four such sequences, which begin at 1, 2, 4 and 8 times the smallest number of texts and share the error
    probability evenly. The order depends on confidences alone, never on which spans are right. So with the given
    confidence all results hold at once, and any of them may be chosen for any reason.

    Args:
        found: for each text, the confidence of each span and whether it is right. Texts without a span at a threshold
            do not count there.
        risk: the largest mean share of wrong spans.
        confidence: with which all results hold together.
    """
    needed = {n: smallest_count(risk, 1 - (1 - confidence) / n) for n in range(1, MOST_SEQUENCES + 1)}
    sequences = max((n for n in needed if needed[n] * 2 ** (n - 1) <= len(found)), default=1)
    error, begins = (1 - confidence) / sequences, [needed[sequences] * 2**n for n in range(sequences)]
    going, shown = dict.fromkeys(begins, True), list[float]()
    ranked = sorted((-one, text, right) for text, spans in enumerate(found) for one, right in spans)
    reported, rights, losses, at = Counter[int](), Counter[int](), dict[int, float](), 0
    for threshold in STEPS:
        while at < len(ranked) and -ranked[at][0] >= threshold:
            _, text, right = ranked[at]
            reported[text] += 1
            rights[text] += right
            losses[text] = 1 - rights[text] / reported[text]
            at += 1
        if len(losses) < begins[0]:
            continue
        rejected = p_value(Losses(math.fsum(losses.values()), len(losses)), risk) <= error
        if rejected and any(going[least] for least in begins if len(losses) >= least):
            shown.append(threshold)
        going = {least: on and (rejected or len(losses) < least) for least, on in going.items()}
        if not any(going.values()):
            break
    return shown
