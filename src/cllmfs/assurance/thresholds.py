"""Chooses thresholds at which a recall or a precision can be promised.

A text is the unit: labeled texts stand for texts of the same kind, and the loss of a text is the share of its mentions
that are missed, or of its reported spans that are wrong. Spans that overlap are settled among all spans of a text
before thresholds apply, so that a lower threshold never takes a span away. This file knows labeled texts and what was
decoded in them; it knows nothing of training. The statistics are in :mod:`cllmfs.assurance.bounds`.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cllmfs.assurance.bounds import Losses, highest_threshold, passing_thresholds, smallest_count, smallest_risk
from cllmfs.assurance.guarantee import SETTINGS, Guarantee, Risk, text_hash
from cllmfs.config import RuntimeConfig
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.extraction import Candidate, Extractor, resolve_conflicts
from cllmfs.errors import DataError
from cllmfs.evaluation import Counts
from cllmfs.schema import Example, LabelSet

logger = logging.getLogger(__name__)


class Judged(NamedTuple):
    """A span that a text would have at threshold 0: its confidence, whether it is right, and its label."""

    confidence: float
    right: bool
    label: str


@dataclass(frozen=True)
class JudgedText:
    """What was found in a labeled text.

    Attributes:
        found: the spans that remain when conflicts are resolved, whatever their confidence.
        gold: the number of gold mentions of each label.
        ordinary: counts with the ordinary thresholds of the model, which apply before conflicts are resolved.
    """

    found: tuple[Judged, ...]
    gold: Mapping[str, int]
    ordinary: Counts


def judge_text(example: Example, candidates: Iterable[Candidate], calibration: Calibration, nested: bool) -> JudgedText:
    """Judge everything that was decoded in a labeled text."""
    spans = [one.span(example.text, calibration) for one in candidates]
    gold = {span.key for span in example.spans}
    kept = [span for span in spans if (span.score or 0.0) >= calibration.threshold_of(span.label)]
    found = [Judged(one.score or 0.0, one.key in gold, one.label) for one in resolve_conflicts(spans, nested)]
    ordinary = Counts.of(gold, {span.key for span in resolve_conflicts(kept, nested)})
    return JudgedText(tuple(found), Counter(span.label for span in example.spans), ordinary)


def judge_texts(
    extractor: Extractor, examples: Sequence[Example], labels: LabelSet, calibration: Calibration
) -> list[JudgedText]:
    """Read labeled texts with the model as it is at the time, and judge what is decoded in them."""
    found = extractor.candidates([example.text for example in examples], labels, calibration.vote > 0)
    nested = extractor.encoder.nested
    return [judge_text(one, part.candidates, calibration, nested) for one, part in zip(examples, found, strict=True)]


def distinct_texts(
    examples: Sequence[Example], risk: Risk, labels: LabelSet, shots: Collection[str] = ()
) -> list[Example]:
    """The examples that a guarantee may rest on, each text once, before anything is decoded in them.

    Args:
        examples: labeled texts; a text that is repeated counts once, and one in which only some of the labels were
            annotated does not count, with a warning.
        risk: what is to be promised.
        labels: the labels of the model.
        shots: the :func:`text_hash` of each text that the model learned from.

    Raises:
        DataError: if they are too few, one of them is a shot, or one has a label that is not asked for.
    """
    first: dict[str, Example] = {}
    whole = [one for one in examples if one.annotated is None or one.annotated >= set(labels)]
    for example in examples:
        example.check()
        if unknown := {span.label for span in example.spans} - set(labels):
            raise DataError(
                f"the model does not know the label {min(unknown)!r}, but only {', '.join(labels)}: its mentions would "
                "all be missed; take them out, or train with the label",
                source=example.source,
            )
        if text_hash(example.text) in shots:
            raise DataError(
                f"a guarantee needs texts that the model has not learned from, got a shot: {example.text[:60]!r}; "
                "take the shots out of the file",
                source=example.source,
            )
    for example in whole:
        first.setdefault(example.text, example)
    kept = list(first.values())
    if repeated := len(whole) - len(kept):
        logger.warning("%d texts repeat others and are left out: a text counts once", repeated)
    if partly := len(examples) - len(whole):
        logger.warning("%d texts are left out: only some of the labels were annotated in them", partly)
    if risk.recall is not None:
        _check_count(sum(bool(one.spans) for one in kept), "recall", risk.recall, risk.confidence)
    if risk.precision is not None:
        _check_count(len(kept), "precision", risk.precision, risk.confidence)
    return kept


def _check_count(count: int, name: str, target: float, confidence: float) -> None:
    needed = smallest_count(1 - target, confidence)
    if count >= needed:
        return
    what = "with a mention" if name == "recall" else "in which spans are found"
    most = 1 - smallest_risk(Losses(0.0, count), confidence)
    raise DataError(
        f"a {name} of {target:g} at {confidence:g} confidence needs at least {needed} labeled texts {what}, got "
        f"{count}; label more{f', or ask for at most {most:.3f}' if most > 0 else ''}"
    )


def choose_thresholds(
    texts: Sequence[JudgedText], risk: Risk, labels: LabelSet, runtime: RuntimeConfig, *, estimated: bool = False
) -> Guarantee:
    """Choose thresholds at which the promise can be made.

    Recall rises as thresholds fall, so the highest threshold that is low enough is taken, for all labels together.
    Unless a precision is to be promised, too, the same is done for each label that has enough texts, and of the two
    thresholds the lower one applies to it. Precision is tested at one threshold for all labels.

    Args:
        texts: what was found in each text.
        risk: what is to be promised.
        labels: the labels asked for.
        runtime: the settings that the texts were read with.
        estimated: whether other models read the texts: see :class:`Guarantee`.

    Raises:
        DataError: if there are too few texts, or no threshold is good enough.
    """
    thresholds, unpromised = dict[str, float](), dict[str, str]()
    highest = 1.0 if risk.recall is None else _recall_threshold(texts, risk.recall, risk.confidence)
    if risk.precision is not None:
        threshold = _precision_threshold(texts, risk, risk.precision, highest)
    else:
        threshold = highest
        for label in labels:
            own = _threshold_of(texts, label, 1 - (risk.recall or 0.0), risk.confidence)
            if isinstance(own, str):
                unpromised[label] = own
            else:
                thresholds[label] = min(threshold, own)
    kept = [[one for one in text.found if one.confidence >= thresholds.get(one.label, threshold)] for text in texts]
    gold, right = sum(sum(text.gold.values()) for text in texts), sum(one.right for spans in kept for one in spans)
    after = Counts(right, sum(map(len, kept)) - right, gold - right)
    return Guarantee(
        recall=risk.recall,
        precision=risk.precision,
        confidence=risk.confidence,
        estimated=estimated,
        texts=len(texts),
        recall_texts=sum(any(text.gold.values()) for text in texts),
        precision_texts=sum(map(bool, kept)),
        mentions=gold,
        threshold=threshold,
        thresholds=thresholds,
        unpromised=unpromised,
        labels=dict(labels),
        settings={name: getattr(runtime, name) for name in SETTINGS},
        before=sum((text.ordinary for text in texts), Counts()).rates._asdict(),
        after=after.rates._asdict(),
    )


def _found_mentions(texts: Sequence[JudgedText], label: str | None = None) -> tuple[list[tuple[float, float]], int]:
    """The confidence of each mention that is found, with its share of its text, and the number of texts with mentions.

    With a label, mentions of other labels do not count.
    """
    found, count = list[tuple[float, float]](), 0
    for text in texts:
        if of_text := sum(text.gold.values()) if label is None else text.gold.get(label, 0):
            count += 1
            found += [(one.confidence, 1 / of_text) for one in text.found if one.right and label in (None, one.label)]
    return found, count


def _recall_threshold(texts: Sequence[JudgedText], recall: float, confidence: float) -> float:
    """The highest threshold at which the recall of all labels together can be promised."""
    found, count = _found_mentions(texts)
    _check_count(count, "recall", recall, confidence)
    threshold = highest_threshold(found, count, 1 - recall, confidence)
    if threshold is None:
        missed, most = _at_best(found, count, confidence)
        raise DataError(
            f"a recall of {recall:g} cannot be promised: even if every span that is decoded is reported, {missed:.1%} "
            f"of the mentions of a text are missed on average; ask for at most {most:.3f}, or train with more shots"
        )
    return threshold


def _threshold_of(texts: Sequence[JudgedText], label: str, risk: float, confidence: float) -> float | str:
    """The highest threshold at which the recall of a label can be promised, or the reason why there is none."""
    found, count = _found_mentions(texts, label)
    if count < (needed := smallest_count(risk, confidence)):
        return f"{count} texts with a mention, {needed} are needed"
    threshold = highest_threshold(found, count, risk, confidence)
    if threshold is None:
        return f"a recall of at most {_at_best(found, count, confidence)[1]:.3f} can be promised"
    return threshold


def _at_best(found: Sequence[tuple[float, float]], count: int, confidence: float) -> tuple[float, float]:
    """The mean loss if everything is reported, and the highest recall that can be promised then."""
    losses = Losses(max(0.0, count - math.fsum(part for _, part in found)), count)
    return losses.mean, 1 - smallest_risk(losses, confidence)


def _precision_threshold(texts: Sequence[JudgedText], risk: Risk, precision: float, highest: float) -> float:
    """The lowest threshold at which the precision can be promised; with a recall, the highest up to ``highest``."""
    found = [[(one.confidence, one.right) for one in text.found] for text in texts]
    _check_count(sum(map(bool, found)), "precision", precision, risk.confidence)
    shown = passing_thresholds(found, 1 - precision, risk.confidence)
    if not shown:
        low, high = 0, 99  # hundredths: the last that can be promised is sought
        while low < high:
            middle = (low + high + 1) // 2
            if passing_thresholds(found, 1 - middle / 100, risk.confidence):
                low = middle
            else:
                high = middle - 1
        raise DataError(
            f"a precision of {precision:g} cannot be promised: spans are not shown to be right so often at any "
            f"threshold; {f'ask for at most {low / 100:g}, or ' if low else ''}label more texts"
        )
    if risk.recall is None:
        return shown[-1]
    both = [threshold for threshold in shown if threshold <= highest]
    if not both:
        raise DataError(
            f"a recall of {risk.recall:g} and a precision of {precision:g} cannot be promised together: the recall "
            f"needs a threshold of at most {highest:.3f}, the precision one of at least {shown[-1]:.3f}; ask for one "
            "of them, or for less"
        )
    return both[0]


def estimate(
    held_out: Sequence[tuple[str, Mapping[str, int], Sequence[tuple[float, bool, str]]]],
    risk: Risk,
    labels: LabelSet,
    calibration: Calibration,
    runtime: RuntimeConfig,
) -> Guarantee | None:
    """The thresholds at which models of a part of the shots keep a recall or a precision on the others.

    Args:
        held_out: each held-out text with its gold mentions by label, and its spans, each as confidence, whether it is
            right, and label. A text that is repeated counts once.
        risk: what is wanted.
        labels: the labels asked for.
        calibration: that of the model, whose thresholds are the ordinary ones.
        runtime: the settings that the texts were read with.

    Returns:
        ``None``, with a warning, if there are too few texts or no threshold is good enough.
    """
    if not held_out:
        logger.warning("no shots were held out, so no risk can be estimated: train with more shots, or calibrate")
        return None
    texts, seen = [], set[str]()
    for text, gold, spans in held_out:
        if text in seen:
            continue
        seen.add(text)
        found = tuple(Judged(*span) for span in spans)
        kept = [one for one in found if one.confidence >= calibration.threshold_of(one.label)]
        right = sum(one.right for one in kept)
        texts.append(JudgedText(found, gold, Counts(right, len(kept) - right, sum(gold.values()) - right)))
    try:
        return choose_thresholds(texts, risk, labels, runtime, estimated=True)
    except DataError as error:
        logger.warning("%s. The thresholds stay those that were fitted on the shots", error)
        return None
