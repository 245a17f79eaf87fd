"""What tuning makes a base forget: its F1 on types that the shots do not have, before and after.

The sentences ship with the package (``retention.jsonl``). They were written for this measure; neither the training of
cllmfs-mini nor the replay of tuning contains them. Both sides are scored with the same calibration and thresholds,
those of the base, so that nothing but the weights differs. This file knows extraction and scores; it trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Self

from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.prompts import verbalize
from cllmfs.errors import ModelError
from cllmfs.evaluation import Counts, evaluate_spans
from cllmfs.schema import Example, LabelSet
from cllmfs.training.replay import GeneralSentence, parse_sentences

NOTICE_POINTS = 2.0  # a fall of the F1, in points, from which the user is told
_SIDES = ("before", "after")


@dataclass(frozen=True)
class RetentionReport:
    """Strict counts on types that were not tuned, by the base and by the tuned model.

    Attributes:
        before: the counts of the base.
        after: the counts of the tuned model, on the same sentences and types and with the same thresholds.
        types: number of different types that were asked for.
        sentences: number of sentences.
    """

    before: Counts
    after: Counts
    types: int
    sentences: int

    @property
    def drop(self) -> float:
        """By how many points the F1 fell, to one decimal; below 0 if it rose."""
        return round(100 * (self.before.f1 - self.after.f1), 1)

    def summary(self) -> str:
        """The two figures in one line."""
        before, after = (f"{100 * counts.f1:.1f}" for counts in (self.before, self.after))
        course = f"{'fell' if self.drop > 0 else 'rose'} from {before} to {after}"
        return f"after tuning, F1 on {self.types} other types {course if self.drop else f'stayed at {before}'}"

    def notice(self) -> str | None:
        """The summary with what to do about it, if the F1 fell by :data:`NOTICE_POINTS` or more, otherwise ``None``."""
        if self.drop < NOTICE_POINTS:
            return None
        return (
            f"{self.summary()}: the model forgets what the base knew; if you ask it for other types than those of the "
            "shots, raise train.replay, set fewer train.steps or a smaller lora.keep, or use the base itself for them"
        )

    def to_dict(self) -> dict[str, Any]:
        """A record for the manifest of a model, with all rates and counts."""
        sides = {side: getattr(self, side).to_dict() for side in _SIDES}
        return {**sides, "types": self.types, "sentences": self.sentences}

    @classmethod
    def from_dict(cls, record: Any, source: str) -> Self:
        """Inverse of :meth:`to_dict`; a count that is missing or is no whole number is a :class:`ModelError`."""
        try:
            before, after = (Counts(*(_whole(record[side][n]) for n in ("tp", "fp", "fn"))) for side in _SIDES)
            return cls(before, after, _whole(record["types"]), _whole(record["sentences"]))
        except (KeyError, TypeError, ValueError) as error:
            message = f"{source}: what was measured of other types (retention) must be counts, got {error!r:.80}"
            raise ModelError(message) from error


class Retention:
    """Scores the base when it is made, and the tuned model when the report is asked for.

    Args:
        extractor: its backbone must have no adapter attached.
        calibration: what is expected of the base itself; it serves both sides.
        tuned: the labels of the shots. Types of the same name in words are left out, because tuning is meant to change
            them.
        sentences: other sentences than those that ship with the package.
    """

    def __init__(
        self,
        extractor: Extractor,
        calibration: Calibration,
        tuned: Iterable[str],
        sentences: Sequence[GeneralSentence] | None = None,
    ) -> None:
        self.extractor, self.calibration = extractor, calibration
        self._groups = _by_types(retention_sentences() if sentences is None else sentences, tuned)
        self._before = self._score()

    def report(self) -> RetentionReport:
        """Compare the backbone as it is now, with the adapter that is attached to it, with the base."""
        types = {_words(name) for labels in self._groups for name in labels}
        return RetentionReport(self._before, self._score(), len(types), sum(map(len, self._groups.values())))

    def _score(self) -> Counts:
        """Strict counts over all sentences, each asked for the types of its subject alone."""
        counts = Counts()
        for labels, examples in self._groups.items():
            found = self.extractor.extract([example.text for example in examples], labels, self.calibration)
            counts += evaluate_spans(examples, found, labels, scenarios=False).micro
        return counts


@lru_cache(maxsize=1)
def retention_sentences() -> tuple[GeneralSentence, ...]:
    """All sentences that ship with the package for this measure."""
    return tuple(parse_sentences((files("cllmfs.assurance") / "retention.jsonl").read_text(encoding="utf-8")))


def _by_types(sentences: Iterable[GeneralSentence], tuned: Iterable[str]) -> dict[LabelSet, list[Example]]:
    """The sentences that are asked for the same types, with their gold spans; tuned types are left out."""
    left_out = {_words(label) for label in tuned}
    groups: dict[LabelSet, list[Example]] = {}
    for sentence in sentences:
        kept = [kind for kind in sentence.types if _words(kind.name) not in left_out]
        if kept:
            labels = LabelSet({kind.name: kind.description for kind in kept})
            spans = tuple(span for kind in kept for span in kind.spans)
            groups.setdefault(labels, []).append(Example(sentence.text, spans))
    return groups


def _words(label: str) -> str:
    return verbalize(label).casefold()


def _whole(value: Any) -> int:
    """The value, if it is a count."""
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value
