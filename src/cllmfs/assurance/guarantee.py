"""A guarantee: what is promised of the thresholds of a model, where it is kept, and when it holds.

This file knows the record of a guarantee and the manifest that it is kept in; it knows nothing of how the thresholds
were chosen (:mod:`cllmfs.assurance.thresholds`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from cllmfs.config import RuntimeConfig
from cllmfs.decoding.calibration import Calibration
from cllmfs.errors import ConfigError, ModelError
from cllmfs.files import whole_file
from cllmfs.model.folder import read_manifest
from cllmfs.model.inspection import TRAINED

KEY = "guarantee"  # in a manifest, and in what is predicted
SETTINGS = ("weights", "window_tokens", "overlap_tokens")  # of the section runtime: they change what is decoded


@dataclass(frozen=True)
class Risk:
    """What is to be promised: a recall, a precision or both, and the confidence of each promise."""

    recall: float | None = None
    precision: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            missing = value is None and name != "confidence"
            if not (missing or (number and 0.0 < value < 1.0)):
                raise ConfigError(f"{name} must lie between 0 and 1, both excluded, got {value!r:.40}")
        if self.recall is None and self.precision is None:
            raise ConfigError("a guarantee is about recall or precision: name a value for one of them, or for both")


@dataclass(frozen=True)
class Guarantee:
    """Thresholds, what is promised at them, and what the promise rests on.

    Attributes:
        recall: on average, at least this share of the mentions of a text is found; ``None`` if that is not promised.
            Texts without mentions do not count.
        precision: on average, at least this share of the spans reported in a text is right; ``None`` if that is not
            promised. Texts without reported spans do not count.
        confidence: of each promise by itself.
        estimated: the texts were parts of the shots, each read by a model that learned from the others; then nothing is
            promised about the model of all shots.
        texts: labeled texts that the thresholds were chosen on, of which ``recall_texts`` have mentions and
            ``precision_texts`` have reported spans.
        mentions: gold mentions in these texts.
        threshold: the confidence from which spans are reported.
        thresholds: the same for the labels whose own recall is promised, too.
        unpromised: the labels whose own recall is not promised, with the reason.
        labels: the labels asked for, with their descriptions.
        settings: the settings of ``runtime`` that the texts were read with.
        before: strict precision, recall and F1 of the model on these texts with its ordinary thresholds.
        after: the same with the new thresholds. The texts chose them, so expect a little less of other texts.
    """

    recall: float | None
    precision: float | None
    confidence: float
    estimated: bool
    texts: int
    recall_texts: int
    precision_texts: int
    mentions: int
    threshold: float
    thresholds: Mapping[str, float]
    unpromised: Mapping[str, str]
    labels: Mapping[str, str]
    settings: Mapping[str, int | str]
    before: Mapping[str, float]
    after: Mapping[str, float]

    def calibration(self, calibration: Calibration) -> Calibration:
        """The same confidences with the thresholds of the guarantee; conflicts must be resolved before they apply."""
        return replace(calibration, threshold=self.threshold, thresholds=dict(self.thresholds))

    def covers(self, labels: Mapping[str, str]) -> bool:
        """Whether these are the labels, with the descriptions, that the guarantee is about, in any order."""
        return dict(labels) == dict(self.labels)

    def promise(self) -> dict[str, float] | None:
        """What a predicted document says of it; ``None`` of an estimate, which promises nothing."""
        values = {"recall": self.recall, "precision": self.precision, "confidence": self.confidence}
        return None if self.estimated else {name: value for name, value in values.items() if value is not None}

    def statement(self) -> str:
        """What is promised, in one sentence."""
        parts = []
        if self.recall is not None:
            parts.append(f"at most {_percent(1 - self.recall)} of the mentions of a text are missed")
        if self.precision is not None:
            parts.append(f"at most {_percent(1 - self.precision)} of the spans reported in a text are wrong")
        sure = f"with {_percent(self.confidence)} confidence{' for each' if len(parts) > 1 else ''}"
        if self.estimated:
            return (
                f"Estimated, not promised: on average, {' and '.join(parts)}, {sure}, by models that learned from a "
                f"part of the {self.texts} shots, in texts like the other part; this model, which learned from all of "
                "them, was not measured."
            )
        return f"On average, {' and '.join(parts)}, {sure}, in texts like the {self.texts} that this was measured on."

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Any, source: str) -> Self:
        """Inverse of :meth:`to_dict`; anything missing, unknown, or of another type is a :class:`ModelError`."""
        try:
            if set(record) != set(_CHECKS):
                raise ValueError(f"the entries must be {', '.join(_CHECKS)}")
            for name, check in _CHECKS.items():
                if not check(record[name]):
                    raise ValueError(f"{name} cannot be {record[name]!r:.60}")
            if set(record["settings"]) != set(SETTINGS) or not set(record["thresholds"]) <= set(record["labels"]):
                raise ValueError(f"settings must be {', '.join(SETTINGS)}, and thresholds must be those of its labels")
            Risk(record["recall"], record["precision"], record["confidence"])
        except (TypeError, ValueError, AttributeError, ConfigError) as error:
            message = (
                f"{source}: the guarantee is damaged ({error}); take it out with `cllmfs calibrate MODEL --remove`"
            )
            raise ModelError(message) from error
        return cls(**record)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _mapping_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(check(each) for each in value.values())


_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("recall", "precision"), lambda value: value is None or _is_share(value)),
    "confidence": _is_share,
    "estimated": lambda value: isinstance(value, bool),
    **dict.fromkeys(("texts", "recall_texts", "precision_texts", "mentions"), _is_count),
    "threshold": _is_share,
    "thresholds": _mapping_of(_is_share),
    **dict.fromkeys(("unpromised", "labels"), _mapping_of(lambda value: isinstance(value, str))),
    "settings": _mapping_of(lambda value: isinstance(value, str) or _is_count(value)),
    **dict.fromkeys(("before", "after"), _mapping_of(_is_share)),
}


def applies(guarantee: Guarantee, labels: Mapping[str, str], threshold: float | None, runtime: RuntimeConfig) -> bool:
    """Whether the promise holds for a prediction.

    It does for the labels that it is about, read with the settings that it was measured with, and its own thresholds.

    Args:
        guarantee: that of the model.
        labels: those asked for.
        threshold: the threshold that the caller gives in place of those of the model, if any.
        runtime: the settings of the prediction.
    """
    same = all(getattr(runtime, name) == value for name, value in guarantee.settings.items())
    return threshold is None and not runtime.threshold and same and guarantee.covers(labels)


def text_hash(text: str) -> str:
    """What a manifest keeps of a shot, so that it can be recognized: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def store(folder: str | Path, made: Guarantee | None) -> None:
    """Write a guarantee into the manifest of a model folder, or remove it with ``None``; all else stays as it is.

    Raises:
        ModelError: if the folder is no whole model.
        DataError: if the manifest cannot be written.
    """
    read_manifest(folder)  # which checks it, and may convert it: what is written is the file itself with one more entry
    path = Path(folder) / TRAINED
    record = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key != KEY}
    if made is not None:
        record[KEY] = made.to_dict()
    with whole_file(path) as handle:
        handle.write((json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
