"""How far scores can be trusted: from path probabilities to calibrated confidences, and from which one a span counts.

Scores and votes of held-out spans and whether they were right go in; a monotone map (Platt scaling: a temperature and
a shift on the log-odds, and a weight of the votes) and thresholds come out. Knows numbers and labels; knows nothing of
texts or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from cllmfs.errors import ModelError

_LEAST = 1e-6  # scores are kept this far from 0 and 1, where log-odds end
_EVEN = math.log(1 / 8)  # a vote that speaks neither for a span nor against it
_HAIR = 1e-4  # the same span's confidence may differ by less, once an adapter is merged
_LABEL_MENTIONS = 20  # gold mentions at which a label's own threshold weighs as much as the one of all labels
_SLOPE_SD, _VOTE_SD, _SHIFT_SD = 0.25, 0.15, 0.5  # how far the fitted map may lie from the prior


class Judged(NamedTuple):
    """A predicted span of a held-out sentence: its score in [0, 1], whether it was right, its label, and its vote."""

    score: float
    right: bool
    label: str
    vote: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """A monotone map of scores, and the confidences from which spans are reported.

    Attributes:
        slope: factor on a score's log-odds, the inverse of a temperature; above 0.
        shift: added to them.
        threshold: confidence from which a span is reported, in [0, 1].
        thresholds: the same for single labels, where the shots allow to tell.
        vote: weight of the contrastive vote, beside the log-odds; 0 or above. A vote is the log of a share and counts
            by how far it lies from that of an eighth.
    """

    slope: float = 1.0
    shift: float = 0.0
    threshold: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    vote: float = 0.0

    def confidence(self, score: float, vote: float = 0.0) -> float:
        """The calibrated probability that a span of this score and vote is right."""
        if (self.slope, self.shift, self.vote) == (1.0, 0.0, 0.0):
            return score
        return _logistic(self.slope * _log_odds(score) + self.vote * (vote - _EVEN) + self.shift)

    def limit(self, label: str) -> float:
        """The confidence from which a span of the label is reported."""
        return self.thresholds.get(label, self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {**vars(self), "thresholds": dict(self.thresholds)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], source: str) -> Calibration:
        """Inverse of :meth:`to_dict`.

        Raises:
            ModelError: if a figure is missing or no number.
        """
        try:
            thresholds = {str(label): float(value) for label, value in record["thresholds"].items()}
            slope, shift, threshold = (float(record[name]) for name in ("slope", "shift", "threshold"))
            return cls(slope, shift, threshold, thresholds, float(record.get("vote", 0.0)))  # older models have no vote
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{source}: a calibration holds slope, shift, threshold and thresholds: {error}"
            ) from error


def fit_calibration(
    judged: Sequence[Judged], gold: Mapping[str, int], prior: Calibration, lift: float = 0.0
) -> Calibration:
    """Platt scaling (Platt 1999) with a prior, then the thresholds that maximise the micro-F1 to be expected.

    Few judged spans move the map little: the prior is normal around ``prior``'s slope, vote and shift. A prior without
    a vote gives a map without one.

    Args:
        judged: predicted spans of held-out sentences, at a low threshold.
        gold: mentions of each label in the same sentences.
        prior: the map expected before anything was seen; returned as it is if nothing was judged.
        lift: log-odds by which the model to be calibrated may be more often right than the one judged. The thresholds
            are chosen as if it were, which reports more; the confidences stay as they were fitted.
    """
    if not judged or not sum(gold.values()):
        return prior
    fitted = _fit_map(judged, prior)
    lifted = replace(fitted, shift=fitted.shift + lift)
    ranked = sorted(((lifted.confidence(one.score, one.vote), one.right, one.label) for one in judged), reverse=True)
    total = sum(gold.values())
    threshold = expected_best_threshold([confidence for confidence, _, _ in ranked], total)
    thresholds = {}
    for label, mentions in sorted(gold.items()):
        own = [(confidence, right) for confidence, right, of in ranked if of == label]
        if mentions >= _LABEL_MENTIONS and own:
            weight = mentions / (mentions + _LABEL_MENTIONS)
            best = best_threshold(own, mentions)
            thresholds[label] = weight * best + (1 - weight) * threshold
    lowered = {label: _logistic(_log_odds(limit) - lift) for label, limit in thresholds.items()}
    return replace(fitted, threshold=_logistic(_log_odds(threshold) - lift), thresholds=lowered)


def expected_best_threshold(confidences: Sequence[float], gold: int) -> float:
    """The threshold of the highest F1 to be expected if the confidences are the spans' true probabilities.

    It lies near half of that F1 (Lipton, Elkan and Naryanaswamy 2014, arXiv 1402.1892), a hair below the last span that
    counts.
    """
    ranked = [*sorted(confidences, reverse=True), 0.0]
    best, threshold, right = 0.0, 0.0, 0.0
    for count, (confidence, following) in enumerate(pairwise(ranked), start=1):
        right += confidence
        f1 = 2 * right / (count + gold)
        if f1 > best:
            best, threshold = f1, max(confidence - _HAIR, (confidence + following) / 2)
    return threshold


def best_threshold(ranked: Sequence[tuple[float, bool]], gold: int) -> float:
    """The threshold of the highest F1 among (confidence, right) pairs in falling order; halfway to the next one."""
    best, threshold, right = -1.0, 0.0, 0
    for count, (confidence, is_right) in enumerate(ranked, start=1):
        right += is_right
        following = ranked[count][0] if count < len(ranked) else 0.0
        f1 = 2 * right / (count + gold)
        if f1 > best and following < confidence:
            best, threshold = f1, (confidence + following) / 2
    return threshold


class Bin(NamedTuple):
    """A bin of a reliability diagram: spans in it, their mean confidence and the share that was right."""

    low: float
    high: float
    spans: int
    confidence: float
    accuracy: float


def reliability(pairs: Iterable[tuple[float, bool]], bins: int = 10) -> list[Bin]:
    """(confidence, right) pairs in bins of equal width; empty bins are left out."""
    groups: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in pairs:
        groups.setdefault(min(int(confidence * bins), bins - 1), []).append((confidence, right))
    return [
        Bin(
            number / bins,
            (number + 1) / bins,
            len(group),
            sum(confidence for confidence, _ in group) / len(group),
            sum(right for _, right in group) / len(group),
        )
        for number, group in sorted(groups.items())
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their spans (arXiv 1706.04599)."""
    total = sum(one.spans for one in bins)
    return sum(one.spans * abs(one.confidence - one.accuracy) for one in bins) / total if total else 0.0


def _fit_map(judged: Sequence[Judged], prior: Calibration) -> Calibration:
    """Newton's method on the penalised log-likelihood, which is concave in slope, vote and shift.

    A prior without votes leaves them out.
    """
    expected, spread = [prior.slope, prior.vote, prior.shift], [_SLOPE_SD, _VOTE_SD, _SHIFT_SD]
    free = [0, 1, 2] if prior.vote > 0 else [0, 2]
    points = [(_log_odds(one.score), one.vote - _EVEN, 1.0) for one in judged]
    found = list(expected)
    for _ in range(50):
        gradient = [(found[i] - expected[i]) / spread[i] ** 2 for i in free]
        curvature = [[1 / spread[i] ** 2 if i == j else 0.0 for j in free] for i in free]
        for point, one in zip(points, judged, strict=True):
            p = _logistic(sum(weight * value for weight, value in zip(found, point, strict=True)))
            for row, i in enumerate(free):
                gradient[row] += (p - one.right) * point[i]
                for column, j in enumerate(free):
                    curvature[row][column] += p * (1 - p) * point[i] * point[j]
        step = _solve(curvature, gradient)
        largest = max(map(abs, step))
        for i, move in zip(free, step, strict=True):
            found[i] -= move * min(1.0, 1.0 / max(largest, 1e-12))  # far off, a whole step may leap past the optimum
        if largest < 1e-6:
            break
    slope, vote, shift = found
    return Calibration(max(slope, 0.05), shift, vote=max(vote, 0.0))


def _solve(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    """The solution of a system of linear equations whose matrix is positive definite."""
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    for i, row in enumerate(rows):
        for other in rows[i + 1 :]:
            factor = other[i] / row[i]
            other[i:] = [value - factor * above for value, above in zip(other[i:], row[i:], strict=True)]
    solved: list[float] = []  # from the last unknown back
    for i, row in reversed(list(enumerate(rows))):
        known = sum(factor * value for factor, value in zip(row[-2:i:-1], solved, strict=True))
        solved.append((row[-1] - known) / row[i])
    return solved[::-1]


def _log_odds(score: float) -> float:
    inside = min(max(score, _LEAST), 1 - _LEAST)
    return math.log(inside / (1 - inside))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
