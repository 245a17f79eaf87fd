"""How right predicted spans are: strict scores, and where they go wrong.

Every rate is computed from whole-number counts when it is read; counts add up, so the scores of parts give those of the
whole. Knows gold and predicted spans of the same texts; knows nothing of models, files or how a prediction was made.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, zip_longest
from operator import add
from typing import Any, NamedTuple, Self

from cllmfs.errors import DataError
from cllmfs.schema import Document, Example, Span

Text = Example | Document
Key = tuple[int, int, str]  # start, end, label
PAPER_LINE_NOTE = "oracle types, lower-cased strings, not comparable with the strict scores"


class Rates(NamedTuple):
    """Precision, recall and F1, each in [0, 1]; one without a denominator is 0.0."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, right: float, predicted: int, found: float, gold: int) -> Rates:
        """From the right ones of the predictions and the found ones of the gold spans."""
        precision, recall = right / predicted if predicted else 0.0, found / gold if gold else 0.0
        both = precision + recall
        return cls(precision, recall, 2 * precision * recall / both if both else 0.0)


class _Addable:
    """A frozen dataclass of whole numbers; adds up field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(add, self.counts().values(), other.counts().values()))

    def counts(self) -> dict[str, int]:
        """The whole numbers by name."""
        return dict(vars(self))


class _Rated(_Addable):
    """Counts with ``precision``, ``recall`` and ``f1``, each 0.0 without a denominator."""

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
    """Spans found (``tp``), made up (``fp``) and missed (``fn``); ``sum`` them from ``Counts()``."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def _sides(self) -> tuple[float, int, float, int]:
        return self.tp, self.tp + self.fp, self.tp, self.support

    @property
    def support(self) -> int:
        """Number of gold spans."""
        return self.tp + self.fn


@dataclass(frozen=True)
class SentenceCounts(_Addable):
    """What holds of whole sentences; adds up.

    Attributes:
        count: sentences scored.
        exact: sentences whose predicted spans are the gold spans, no more and no less (none and none included).
        without_gold: sentences without any gold span.
        clean: those of ``without_gold`` for which nothing was predicted.
    """

    count: int = 0
    exact: int = 0
    without_gold: int = 0
    clean: int = 0


@dataclass(frozen=True)
class MatchCounts(_Rated):
    """The counts of one SemEval-2013 scenario, as nervaluate defines them; adds up. A partial match is half a match."""

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
    """The counts of the paper's line of work; adds up. Not comparable with the strict scores.

    Only types present in a sentence's gold are looked at (a type oracle: a made-up type costs nothing), and lower-cased
    strings are compared per (sentence, type). Predictions are de-duplicated, gold mentions are not, so a string said
    once finds every gold mention of it; hence two numerators. This is the protocol of the public code nearest to the
    paper (BANER, github.com/UESTC-GQJ/BANER); as there, predicted strings that the text does not hold are dropped.

    Attributes:
        gold: gold mentions.
        gold_found: gold mentions whose string was predicted.
        predicted: distinct predicted strings.
        predicted_right: distinct predicted strings that are a gold mention's.
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


# Our name -> the class in nervaluate.strategies, less "Evaluation".
_SCENARIOS = {"strict": "Strict", "exact": "Exact", "partial": "Partial", "type": "EntityType"}


@dataclass(frozen=True)
class Scores:
    """All scores of some sentences; of none by default, so ``sum(parts, Scores())`` is exactly that of the whole.

    Attributes:
        per_label: strict counts of each label that was asked for or occurs, sorted by name.
        boundary: counts of distinct (start, end), label ignored.
        located: predictions whose boundaries are a gold span's.
        sentences: counts of whole sentences.
        scenarios: ``strict``, ``exact``, ``partial``, ``type`` of nervaluate; ``None`` if not asked for. Overlapping
            predictions are matched greedily from left to right there, so ``strict`` equals :attr:`micro` on flat spans
            only. An overlap counts from 1 % of the gold span's characters on.
        paper_line: the string protocol of the paper's line of work.
        ungrounded: predicted spans whose ``text`` is not what the text holds there, or that do not lie in the text.
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
        """Strict counts over all labels: a span is right if start, end and label are."""
        return sum(self.per_label.values(), Counts())

    @property
    def macro(self) -> Rates:
        """Unweighted mean of the per-label rates over labels that occur in gold or predictions; 0.0 if none does."""
        seen = [counts.rates for counts in self.per_label.values() if counts != Counts()]
        return Rates(*map(statistics.fmean, zip(*seen, strict=True))) if seen else Rates(0.0, 0.0, 0.0)

    @property
    def typing_accuracy(self) -> float | None:
        """Among predictions with a gold span's boundaries, the share with its label; ``None`` if there is none."""
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
    """A text with its distinct gold and predicted spans, and the predictions as given."""

    text: str
    gold: set[Key]
    predicted: set[Key]
    answers: Sequence[Span]


def evaluate_spans(
    gold: Sequence[Text], predicted: Sequence[Text], labels: Iterable[str] | None = None, *, scenarios: bool = True
) -> Scores:
    """Score predicted spans against the gold spans of the same texts, in the same order.

    Args:
        gold: texts with their right spans.
        predicted: the same texts with predicted spans; ill-placed predictions are counted, never an error.
        labels: labels that were asked for; listed even without support. No filter: hiding the gold spans of a label
            that was not asked for would flatter the scores.
        scenarios: compute nervaluate's scenarios too; without them nervaluate is not imported.

    Raises:
        DataError: if the lengths or the texts differ, or a gold span is empty, out of its text or without a label.
    """
    sentences = _paired(gold, predicted)
    boundary, whole, paper_line, located, ungrounded = Counts(), SentenceCounts(), StringCounts(), 0, 0
    for sentence in sentences:
        right, found = ({key[:2] for key in keys} for keys in (sentence.gold, sentence.predicted))
        boundary += _compared(right, found)
        located += sum(key[:2] in right for key in sentence.predicted)
        exact, empty = sentence.gold == sentence.predicted, not sentence.gold
        whole += SentenceCounts(1, int(exact), int(empty), int(empty and exact))
        paper_line += _strings(sentence)
        for span in sentence.answers:
            inside = 0 <= span.start < span.end <= len(sentence.text)
            ungrounded += not (inside and span.text in (None, sentence.text[span.start : span.end]))
    matches = _scenarios(sentences) if scenarios else None
    return Scores(_per_label(sentences, labels or ()), boundary, located, whole, matches, paper_line, ungrounded)


def _compared(gold: set[Any], predicted: set[Any]) -> Counts:
    return Counts(len(gold & predicted), len(predicted - gold), len(gold - predicted))


def _paired(gold: Sequence[Text], predicted: Sequence[Text]) -> list[_Sentence]:
    if len(gold) != len(predicted):
        raise DataError(
            f"every gold text needs one prediction, got {len(gold)} gold texts and {len(predicted)} predictions; "
            "predict the file that you score against"
        )
    sentences = []
    for index, (right, answer) in enumerate(zip(gold, predicted, strict=True)):
        where = getattr(right, "source", None) or f"gold text {index}"
        if right.text != answer.text:
            at = next(i for i, (a, b) in enumerate(zip_longest(right.text, answer.text)) if a != b)
            raise DataError(
                f"gold and prediction {index} must hold the same text, got {right.text[at : at + 40]!r} and "
                f"{answer.text[at : at + 40]!r} from code point {at} on; keep the gold file's order and texts",
                source=where,
            )
        Example(right.text, tuple(set(right.spans)), source=where).check()  # the same span twice does no harm
        gold_keys, found_keys = ({span.key for span in side.spans} for side in (right, answer))
        sentences.append(_Sentence(right.text, gold_keys, found_keys, answer.spans))
    return sentences


def _per_label(sentences: Iterable[_Sentence], labels: Iterable[str]) -> dict[str, Counts]:
    tp, fp, fn = Counter[str](), Counter[str](), Counter[str]()
    for s in sentences:
        for counter, keys in ((tp, s.gold & s.predicted), (fp, s.predicted - s.gold), (fn, s.gold - s.predicted)):
            counter.update(label for _, _, label in keys)
    return {label: Counts(tp[label], fp[label], fn[label]) for label in sorted({*labels, *tp, *fp, *fn})}


def _scenarios(sentences: Iterable[_Sentence]) -> dict[str, MatchCounts]:
    # Imported here: no other score needs it. Its Evaluator also repeats everything per label, which is not used.
    from nervaluate import strategies
    from nervaluate.entities import Entity

    totals = dict.fromkeys(_SCENARIOS, MatchCounts())
    matchers = {name: getattr(strategies, f"{of}Evaluation")() for name, of in _SCENARIOS.items()}
    for sentence in sentences:
        # nervaluate's end is inclusive, and its matching depends on the order.
        right, found = (
            [Entity(label=label, start=start, end=end - 1) for start, end, label in sorted(keys)]
            for keys in (sentence.gold, sentence.predicted)
        )
        for name, matcher in matchers.items():
            m, _ = matcher.evaluate(right, found, [])
            totals[name] += MatchCounts(m.correct, m.incorrect, m.partial, m.missed, m.spurious)
    return totals


def _strings(sentence: _Sentence) -> StringCounts:
    text, said = sentence.text, set()
    gold = [(label, text[start:end].lower()) for start, end, label in sentence.gold]
    present = {label for label, _ in gold}
    for span in sentence.answers:  # a prediction names its own text, else what its offsets cover
        string = (text[max(span.start, 0) : max(span.end, 0)] if span.text is None else span.text).lower()
        if span.label in present and string and string in text.lower():
            said.add((span.label, string))
    return StringCounts(len(gold), sum(mention in said for mention in gold), len(said), len(said.intersection(gold)))


def episode_scores(gold_token_tags: Sequence[Sequence[str]], predicted_token_tags: Sequence[Sequence[str]]) -> Counts:
    """Few-NERD's episode metric (Ding et al. 2021, arXiv 2105.07464): IO spans over the flattened query batch.

    The tags of all query sentences are joined into one sequence; a span is a longest run of one tag other than ``O``.
    Neighbours of one type are one span, **also across a sentence's end**, unlike in :func:`evaluate_spans`.
    Sum the counts over episodes, then take the rates.

    Args:
        gold_token_tags: a sequence of tags per query sentence; a tag is a bare type or ``O``, without B- or I-.
        predicted_token_tags: the same shape.

    Raises:
        DataError: if the shapes differ or a tag begins with ``I-``.
    """
    shape, other = ([len(tags) for tags in batch] for batch in (gold_token_tags, predicted_token_tags))
    if shape != other:
        raise DataError(f"gold and predicted tags must have one shape, got {shape} and {other}; tag every query token")
    return _compared(*(_runs(chain.from_iterable(batch)) for batch in (gold_token_tags, predicted_token_tags)))


def _runs(tags: Iterable[str]) -> set[Key]:
    spans, position = set(), 0
    for tag, run in groupby(tags):
        if tag.startswith("I-"):
            raise DataError(f"episode tags are bare types or O, got {tag!r}; strip the B- and I- prefixes")
        start, position = position, position + sum(1 for _ in run)
        if tag != "O":
            spans.add((start, position, tag))
    return spans
