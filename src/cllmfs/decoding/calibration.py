"""From the scores and votes of spans to calibrated confidences, and the thresholds from which spans are reported.

A calibration is fitted on held-out shots (:mod:`cllmfs.training.calibrate`). If there are too few of them, the one
expected of the base takes its place. This file knows numbers and labels; it knows nothing of texts or models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from cllmfs.errors import ModelError

EVEN_VOTE = math.log(1 / 8)  # a vote is the log of a share; this one neither raises nor lowers a confidence
_LEAST = 1e-6  # scores are kept this far from 0 and 1, where log-odds are infinite


@dataclass(frozen=True)
class Calibration:
    """A monotone map from scores to confidences, and the thresholds from which spans are reported.

    Attributes:
        slope: factor on the log-odds of a score, the inverse of a temperature; above 0.
        shift: added to the log-odds.
        threshold: confidence from which a span is reported, in [0, 1].
        thresholds: the same for single labels that have enough mentions to fit one.
        vote: weight of the contrastive vote, 0 or more: weight times (vote - EVEN_VOTE) is added to the log-odds.
    """

    slope: float = 1.0
    shift: float = 0.0
    threshold: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    vote: float = 0.0

    def confidence(self, score: float, vote: float = 0.0) -> float:
        """The calibrated probability that a span with this score and vote is correct."""
        if (self.slope, self.shift, self.vote) == (1.0, 0.0, 0.0):
            return score
        return logistic(self.slope * log_odds(score) + self.vote * (vote - EVEN_VOTE) + self.shift)

    def threshold_of(self, label: str) -> float:
        """The confidence from which a span of this label is reported."""
        return self.thresholds.get(label, self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {**vars(self), "thresholds": dict(self.thresholds)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], source: str) -> Calibration:
        """Inverse of :meth:`to_dict`; a figure that is missing or is not a number is a :class:`ModelError`."""
        try:
            thresholds = {str(label): _number(value) for label, value in record.get("thresholds", {}).items()}
            slope, shift, threshold = (_number(record[name]) for name in ("slope", "shift", "threshold"))
            vote = _number(record.get("vote", 0.0))  # old models have no vote
            if slope <= 0 or vote < 0 or not all(0 <= value <= 1 for value in (threshold, *thresholds.values())):
                raise ValueError("slope must be above 0, vote at least 0, and thresholds must lie in 0 to 1")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"{source}: a calibration must hold the numbers slope, shift and threshold: {error!r}"
            raise ModelError(message) from error
        return cls(slope, shift, threshold, thresholds, vote)


@dataclass(frozen=True)
class ExpectedCalibrations:
    """The calibrations that are expected of a base before anything is fitted.

    Those of a base are in ``cllmfs_calibration.json`` in its folder, fitted on development data. Without such a file,
    the defaults below apply: log-odds are changed by the vote alone.
    """

    trained: Calibration = Calibration(threshold=0.2, vote=0.5)  # of a model that was trained on shots
    few_mentions: Calibration = Calibration(threshold=0.2, vote=0.5)  # the same, with too few mentions to fit one
    zero_shot: Calibration = Calibration(threshold=0.2, vote=0.5)  # of the base itself

    @classmethod
    def of_base(cls, figures: Mapping[str, Any], votes: bool, source: str) -> Self:
        """From the content of ``cllmfs_calibration.json``, which may be empty.

        Args:
            figures: a calibration for each attribute of this class.
            votes: whether the contrastive similarities vote.
            source: the file's name in messages.

        Raises:
            ModelError: if a calibration is missing or unknown, or a figure is missing or is not a number.
        """
        names = ("trained", "few_mentions", "zero_shot")
        if figures and set(figures) != set(names):
            raise ModelError(f"{source}: the file must hold {', '.join(names)}, got {', '.join(figures)}")
        expected = cls(**{name: Calibration.from_dict(record, source) for name, record in figures.items()})
        return expected if votes else cls(**{name: replace(getattr(expected, name), vote=0.0) for name in names})


def log_odds(score: float) -> float:
    """The log-odds of a probability, which are finite for 0 and 1, too."""
    inside = min(max(score, _LEAST), 1 - _LEAST)
    return math.log(inside / (1 - inside))


def logistic(value: float) -> float:
    """The probability that has these log-odds."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _number(value: Any) -> float:
    """The value, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(f"a finite number is needed, got {value!r:.40}")
    return float(value)
