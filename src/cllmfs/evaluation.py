"""Scores of predicted spans: strict precision, recall and F1, and measures of the kinds of errors.

Every rate is computed from whole-number counts on access. Counts can be added, so the scores of parts sum to those of
the whole. This file knows gold and predicted spans of the same texts; it knows nothing of models or files.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import zip_longest
from operator import add
from typing import Any, NamedTuple, Self

from cllmfs.errors import DataError
from cllmfs.schema import Document, Example, Span

Text = Example | Document
Key = tuple[int, int, str]  # start, end, label
PAPER_LINE_NOTE = "oracle types, lower-cased strings, not comparable with the strict scores"


class Rates(NamedTuple):
    """Precision, recall and F1, each in [0, 1]; a rate whose denominator is 0 is 0.0."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, right: float, predicted: int, found: float, gold: int) -> Rates:
        """The rates for ``right`` of the ``predicted`` spans and ``found`` of the ``gold`` spans."""
        precision, recall = right / predicted if predicted else 0.0, found / gold if gold else 0.0
        both = precision + recall
        return cls(precision, recall, 2 * precision * recall / both if both else 0.0)


class _Addable:
    """A frozen dataclass of whole numbers, which are added field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(add, self.counts().values(), other.counts().values()))

    def counts(self) -> dict[str, int]:
        """The whole numbers by name."""
        return dict(vars(self))


class _Rated(_Addable):
    """Counts with ``precision``, ``recall`` and ``f1``, each 0.0 if its denominator is 0."""

    @property
    def rates(self) -> Rates:
        """Precision over the predictions, recall over the gold spans, and F1."""
        return Rates.of(*self._sides())

    def _sides(self) -> tuple[float, int, float, int]:
        raise NotImplementedError  # the arguments of Rates.of

    @property
    def precision(self) -> float:
        return self.rates.precision

    @property
    def recall(self) -> float:
        return self.rates.recall

    @property
    def f1(self) -> float:
        return self.rates.f1

    def to_dict(self) -> dict[str, Any]:
        """Rates and counts, JSON-ready."""
        return {**self.rates._asdict(), **self.counts()}


@dataclass(frozen=True)
class Counts(_Rated):
    """True positives, false positives and false negatives; add them with ``sum(parts, Counts())``."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    @classmethod
    def of(cls, gold: Set[Any], predicted: Set[Any]) -> Counts:
        """The counts of a set of predictions against a set of gold items."""
        return cls(len(gold & predicted), len(predicted - gold), len(gold - predicted))

    def _sides(self) -> tuple[float, int, float, int]:
        return self.tp, self.tp + self.fp, self.tp, self.support

    @property
    def support(self) -> int:
        """Number of gold spans."""
        return self.tp + self.fn


@dataclass(frozen=True)
class SentenceCounts(_Addable):
    """Counts of whole sentences, which can be added.

    Attributes:
        count: sentences scored.
        exact: sentences whose predicted spans are exactly the gold spans (both may be empty).
        without_gold: sentences without any gold span.
        clean: those of ``without_gold`` for which nothing was predicted.
    """

    count: int = 0
    exact: int = 0
    without_gold: int = 0
    clean: int = 0


@dataclass(frozen=True)
class MatchCounts(_Rated):
    """The counts of one SemEval-2013 scenario, as nervaluate defines them; a partial match is half a match."""

    correct: int = 0
    incorrect: int = 0
    partial: int = 0
    missed: int = 0
    spurious: int = 0

    def _sides(self) -> tuple[float, int, float, int]:
        matched, shared = self.correct + 0.5 * self.partial, self.correct + self.incorrect + self.partial
        return matched, shared + self.spurious, matched, shared + self.missed


@dataclass(frozen=True)
class StringCounts(_Rated):
    """The counts of the protocol used in the paper's line of work, which are not comparable with the strict scores.

    Only types that occur in the gold spans of a sentence count (a type oracle: a false type costs nothing), and
    lower-cased strings are compared for each (sentence, type). Predictions are de-duplicated but gold mentions are not,
    so a string predicted once finds every gold mention of it; hence two numerators. This is the protocol of the public
    code nearest to the paper (BANER, github.com/UESTC-GQJ/BANER); as there, predicted strings that do not occur in the
    text are ignored.

    Attributes:
        gold: gold mentions.
        gold_found: gold mentions whose string was predicted.
        predicted: distinct predicted strings.
        predicted_right: distinct predicted strings that are the string of a gold mention.
    """

    gold: int = 0
    gold_found: int = 0
    predicted: int = 0
    predicted_right: int = 0

    def _sides(self) -> tuple[float, int, float, int]:
        return self.predicted_right, self.predicted, self.gold_found, self.gold

    def to_dict(self) -> dict[str, Any]:
        """The warning, rates and counts, JSON-ready."""
        return {"note": PAPER_LINE_NOTE, **super().to_dict()}


# Our name -> the class in nervaluate.strategies, without the suffix "Evaluation".
_SCENARIOS = {"strict": "Strict", "exact": "Exact", "partial": "Partial", "type": "EntityType"}


@dataclass(frozen=True)
class Scores:
    """All scores of some sentences; by default of none, so ``sum(parts, Scores())`` gives the scores of the whole.

    Attributes:
        per_label: strict counts of each label that was asked for or occurs, sorted by name.
        boundary: counts of distinct (start, end), ignoring labels.
        located: predictions that have the boundaries of a gold span.
        sentences: counts of whole sentences.
        scenarios: ``strict``, ``exact``, ``partial``, ``type`` of nervaluate; ``None`` if not asked for. nervaluate
            matches overlapping predictions greedily from left to right, so ``strict`` equals :attr:`micro` on flat
            spans only. An overlap counts if it has at least 1 % of the gold span's characters.
        paper_line: counts of the string protocol used in the paper's line of work.
        ungrounded: predicted spans outside the text, or whose ``text`` differs from the text at their offsets.
    """

    per_label: dict[str, Counts] = field(default_factory=dict)
    boundary: Counts = Counts()
    located: int = 0
    sentences: SentenceCounts = SentenceCounts()
    scenarios: dict[str, MatchCounts] | None = field(default_factory=lambda: dict.fromkeys(_SCENARIOS, MatchCounts()))
    paper_line: StringCounts = StringCounts()
    ungrounded: int = 0

    def __add__(self, other: Scores) -> Scores:
        mine, theirs, none = self.per_label, other.per_label, Counts()
        labels = {name: mine.get(name, none) + theirs.get(name, none) for name in sorted(mine.keys() | theirs.keys())}
        scenarios = None
        if self.scenarios is not None and other.scenarios is not None:
            scenarios = {name: self.scenarios[name] + other.scenarios[name] for name in _SCENARIOS}
        names = ("boundary", "located", "sentences", "paper_line", "ungrounded")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Scores(labels, scenarios=scenarios, **sums)

    @property
    def micro(self) -> Counts:
        """Strict counts over all labels: a span is correct if its start, end and label are."""
        return sum(self.per_label.values(), Counts())

    @property
    def macro(self) -> Rates:
        """Unweighted mean of the rates of all labels that occur in gold or predicted spans; 0.0 if there are none."""
        seen = [counts.rates for counts in self.per_label.values() if counts != Counts()]
        return Rates(*map(statistics.fmean, zip(*seen, strict=True))) if seen else Rates(0.0, 0.0, 0.0)

    @property
    def typing_accuracy(self) -> float | None:
        """The share of the correctly located predictions whose label is correct too; ``None`` if there are none."""
        return self.micro.tp / self.located if self.located else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, rates unrounded."""
        matches = None if self.scenarios is None else {name: m.to_dict() for name, m in self.scenarios.items()}
        return {
            "micro": self.micro.to_dict(),
            "macro": self.macro._asdict(),
            "per_label": {name: {**c.to_dict(), "support": c.support} for name, c in self.per_label.items()},
            "boundary": self.boundary.to_dict(),
            "typing_accuracy": self.typing_accuracy,
            "sentences": self.sentences.counts(),
            "scenarios": matches,
            "paper_line": self.paper_line.to_dict(),
            "ungrounded": self.ungrounded,
        }


class _Sentence(NamedTuple):
    """A text with its distinct gold and predicted spans, and the predictions as they were given."""

    text: str
    gold: set[Key]
    predicted: set[Key]
    answers: Sequence[Span]


def evaluate_spans(
    gold: Sequence[Text], predicted: Sequence[Text], labels: Iterable[str] | None = None, *, scenarios: bool = True
) -> Scores:
    """Score predicted spans against the gold spans of the same texts, in the same order.

    In a gold example that says which labels were annotated, predictions of other labels are not counted at all: nobody
    knows whether they are right.

    Args:
        predicted: the same texts with predicted spans; a prediction outside the text is counted, and raises no error.
        labels: labels that were asked for, which are listed even without support. This is not a filter: hiding the gold
            spans of other labels would inflate the scores.
        scenarios: whether to compute the scenarios of nervaluate, which is imported only for them.

    Raises:
        DataError: if the lengths or the texts differ, or a gold span is empty, outside its text or without a label.
    """
    sentences = _paired(gold, predicted)
    boundary, whole, paper_line, located, ungrounded = Counts(), SentenceCounts(), StringCounts(), 0, 0
    for sentence in sentences:
        right, found = ({key[:2] for key in keys} for keys in (sentence.gold, sentence.predicted))
        boundary += Counts.of(right, found)
        located += sum(key[:2] in right for key in sentence.predicted)
        exact, empty = sentence.gold == sentence.predicted, not sentence.gold
        whole += SentenceCounts(1, int(exact), int(empty), int(empty and exact))
        paper_line += _strings(sentence)
        for span in sentence.answers:
            inside = 0 <= span.start < span.end <= len(sentence.text)
            ungrounded += not (inside and span.text in (None, sentence.text[span.start : span.end]))
    matches = _scenarios(sentences) if scenarios else None
    return Scores(_per_label(sentences, labels or ()), boundary, located, whole, matches, paper_line, ungrounded)


def _paired(gold: Sequence[Text], predicted: Sequence[Text]) -> list[_Sentence]:
    if len(gold) != len(predicted):
        raise DataError(
            f"every gold text needs one prediction, got {len(gold)} gold texts and {len(predicted)} predictions; "
            "predict the same file that you score against"
        )
    sentences = []
    for index, (right, answer) in enumerate(zip(gold, predicted, strict=True)):
        where = getattr(right, "source", None) or f"gold text {index}"
        if right.text != answer.text:
            at = next(i for i, (a, b) in enumerate(zip_longest(right.text, answer.text)) if a != b)
            raise DataError(
                f"gold and prediction {index} must have the same text, got {right.text[at : at + 40]!r} and "
                f"{answer.text[at : at + 40]!r} from code point {at} on; keep the order and the texts of the gold file",
                source=where,
            )
        asked = getattr(right, "annotated", None)
        # A repeated gold span is harmless.
        Example(right.text, tuple(set(right.spans)), source=where, annotated=asked).check()
        answers = [span for span in answer.spans if asked is None or span.label in asked]
        gold_keys, found_keys = ({span.key for span in spans} for spans in (right.spans, answers))
        sentences.append(_Sentence(right.text, gold_keys, found_keys, answers))
    return sentences


def _per_label(sentences: Iterable[_Sentence], labels: Iterable[str]) -> dict[str, Counts]:
    tp, fp, fn = Counter[str](), Counter[str](), Counter[str]()
    for s in sentences:
        for counter, keys in ((tp, s.gold & s.predicted), (fp, s.predicted - s.gold), (fn, s.gold - s.predicted)):
            counter.update(label for _, _, label in keys)
    return {label: Counts(tp[label], fp[label], fn[label]) for label in sorted({*labels, *tp, *fp, *fn})}


def _scenarios(sentences: Iterable[_Sentence]) -> dict[str, MatchCounts]:
    # Imported here because no other score needs it. Its Evaluator would repeat all the work for each label.
    from nervaluate import strategies
    from nervaluate.entities import Entity

    totals = dict.fromkeys(_SCENARIOS, MatchCounts())
    matchers = {name: getattr(strategies, f"{of}Evaluation")() for name, of in _SCENARIOS.items()}
    for sentence in sentences:
        # The ends of nervaluate are inclusive, and its matching depends on the order.
        right, found = (
            [Entity(label=label, start=start, end=end - 1) for start, end, label in sorted(keys)]
            for keys in (sentence.gold, sentence.predicted)
        )
        for name, matcher in matchers.items():
            m, _ = matcher.evaluate(right, found, [])
            totals[name] += MatchCounts(m.correct, m.incorrect, m.partial, m.missed, m.spurious)
    return totals


def _strings(sentence: _Sentence) -> StringCounts:
    text, predicted = sentence.text, set()
    gold = [(label, text[start:end].lower()) for start, end, label in sentence.gold]
    present = {label for label, _ in gold}
    for span in sentence.answers:  # the string of a prediction is its own text, else the text at its offsets
        string = (text[max(span.start, 0) : max(span.end, 0)] if span.text is None else span.text).lower()
        if span.label in present and string and string in text.lower():
            predicted.add((span.label, string))
    found = sum(mention in predicted for mention in gold)
    return StringCounts(len(gold), found, len(predicted), len(predicted.intersection(gold)))


class Bin(NamedTuple):
    """A bin of a reliability diagram: its spans, their mean confidence, and the share of them that is correct."""

    low: float
    high: float
    spans: int
    confidence: float
    accuracy: float


def reliability(pairs: Iterable[tuple[float, bool]], bins: int = 10) -> list[Bin]:
    """Pairs of confidence and correctness, counted in bins of equal width; empty bins are left out."""
    groups: dict[int, list[tuple[float, bool]]] = {}
    for confidence, correct in pairs:
        groups.setdefault(min(int(confidence * bins), bins - 1), []).append((confidence, correct))
    made = []
    for number, group in sorted(groups.items()):
        confidence, accuracy = (sum(values) / len(group) for values in zip(*group, strict=True))
        made.append(Bin(number / bins, (number + 1) / bins, len(group), confidence, accuracy))
    return made


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their spans (arXiv 1706.04599)."""
    total = sum(one.spans for one in bins)
    return sum(one.spans * abs(one.confidence - one.accuracy) for one in bins) / total if total else 0.0
