"""Fits a calibration, thresholds and the share of the update to keep, on held-out sentences.

Platt scaling (Platt 1999) with a prior turns the scores and votes of judged spans into probabilities; thresholds then
maximize the expected F1. This file knows spans that were judged right or wrong; it trains nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from cllmfs.decoding.calibration import EVEN_VOTE, Calibration, log_odds, logistic
from cllmfs.decoding.extraction import Extractor, resolve_conflicts
from cllmfs.schema import Example, LabelSet, mentions
from cllmfs.training.recipe import Recipe

# No higher threshold can maximize F1 if confidences are true probabilities: the best one is half of the best F1. Where
# every held-out span was right, higher ones are no worse there, but would withhold spans of harder texts.
_HIGHEST = 0.5
_LABEL_MENTIONS = 20  # gold mentions from which a label gets its own threshold, at half the weight
_SLOPE_SD, _VOTE_SD, _SHIFT_SD = 0.25, 0.15, 0.5  # standard deviations of the prior of the fitted map


class JudgedSpan(NamedTuple):
    """A span predicted in a held-out sentence: its score in [0, 1], whether it is right, its label and its vote."""

    score: float
    right: bool
    label: str
    vote: float = 0.0


# A held-out text, its gold mentions by label, and its judged spans: confidence, whether it is right, label.
HeldOutText = tuple[str, Counter[str], list[tuple[float, bool, str]]]


@dataclass
class Trial:
    """JudgedSpan spans for each share of the update that was tried.

    ``gold`` has the number of gold mentions of each label in the judged sentences.
    """

    judged: dict[float, list[JudgedSpan]]
    gold: Counter[str]
    unseen: float = 0.0  # the proportion of the shots that the judged models did not learn from
    # For each share, the judged texts with the number of their spans, which follow one another.
    texts: dict[float, list[tuple[Example, int]]] = field(default_factory=dict)

    def add(self, other: Trial) -> None:
        """Add the spans of another part of the shots."""
        self.gold += other.gold
        for share, spans in other.judged.items():
            self.judged.setdefault(share, []).extend(spans)
            self.texts.setdefault(share, []).extend(other.texts.get(share, ()))

    def by_text(self, choice: Choice) -> list[HeldOutText]:
        """The judged spans of each text, with the confidences of a choice."""
        spans, parts = iter(self.judged.get(choice.share, ())), self.texts.get(choice.share, ())
        rate = choice.calibration.confidence
        return [
            (text.text, mentions([text]), [(rate(one.score, one.vote), one.right, one.label) for one in found])
            for text, count in parts
            for found in [list(islice(spans, count))]
        ]


class Choice(NamedTuple):
    """The share of the update that a trial recommends, its calibration, and its strict micro-F1 in the trial."""

    share: float
    calibration: Calibration
    f1: float


def judge(
    extractor: Extractor, examples: Sequence[Example], labels: LabelSet, shares: Sequence[float], prior: Calibration
) -> Trial:
    """Judge what the attached adapter finds in held-out sentences, once for each share of its update.

    The adapter must not be merged; its full update is restored at the end. The confidences of the prior resolve
    conflicts between types.
    """
    slot = extractor.backbone.adapters
    update, judged, texts = slot.update(), dict[float, list[JudgedSpan]](), dict[float, list[tuple[Example, int]]]()
    for share in dict.fromkeys(shares):
        slot.keep(update, share)
        found = extractor.candidates([example.text for example in examples], labels, prior.vote > 0)
        judged[share], texts[share] = [], []
        for example, (candidates, _) in zip(examples, found, strict=True):
            gold = {span.key for span in example.spans}
            known = (one for one in candidates if example.annotated is None or one.label in example.annotated)
            spans = {(one.start, one.end, one.label): one for one in known}
            confident = [one.span(example.text, prior) for one in spans.values()]
            winners = [spans[span.key] for span in resolve_conflicts(confident, extractor.encoder.nested)]
            judged[share] += [JudgedSpan(one.score, one[:3] in gold, one.label, one.vote) for one in winners]
            texts[share].append((example, len(winners)))
    slot.keep(update, 1.0)
    return Trial(judged, mentions(examples), texts=texts)


def choose(trial: Trial, planned: float, prior: Calibration, recipe: Recipe) -> Choice:
    """The share of the update with the highest F1 on the held-out sentences, with its calibration and that F1.

    A share other than the planned one must gain more than chance would bring: one standard deviation of the difference,
    estimated as half the standard deviation of an F1 of 0.5 over as many mentions.
    """
    total = sum(trial.gold.values())
    chance = recipe.chance / max(1, total) ** 0.5
    options: list[tuple[float, Choice]] = []
    for share, judged in trial.judged.items():
        calibration = fit_calibration(judged, trial.gold, prior, recipe.lift * trial.unseen)
        rated = [(calibration.confidence(one.score, one.vote), one) for one in judged]
        kept = [one for confidence, one in rated if confidence >= calibration.threshold_of(one.label)]
        f1 = 2 * sum(one.right for one in kept) / (len(kept) + total) if total else 0.0
        options.append((f1 + (chance if share == planned else 0.0), Choice(share, calibration, f1)))
    return max(options, key=lambda option: (option[0], option[1].share))[1]


def fit_calibration(
    judged: Sequence[JudgedSpan], gold: Mapping[str, int], prior: Calibration, lift: float = 0.0
) -> Calibration:
    """Fit the map from scores to confidences, then the thresholds that maximize the expected micro-F1.

    Args:
        judged: predicted spans of held-out sentences, whatever their score.
        gold: the number of mentions of each label in the same sentences.
        prior: a normal prior lies around its slope, vote and shift, so few judged spans move the map little; it is
            returned if there are no judged spans or no mentions.
        lift: log-odds by which the model to be calibrated may be right more often than the judged one. The thresholds
            are chosen as if it were, so that more spans are reported; the confidences stay as they are fitted.
    """
    total = sum(gold.values())
    if not (judged and total):
        return prior
    fitted = _fit_map(judged, prior)
    lifted = replace(fitted, shift=fitted.shift + lift)
    ranked = sorted(((lifted.confidence(one.score, one.vote), one.right, one.label) for one in judged), reverse=True)
    threshold = expected_best_threshold([confidence for confidence, _, _ in ranked], total)
    thresholds = {}
    for label, count in sorted(gold.items()):
        own = [(confidence, right) for confidence, right, of in ranked if of == label]
        if count >= _LABEL_MENTIONS and own:
            weight = count / (count + _LABEL_MENTIONS)
            best = weight * best_threshold(own, count) + (1 - weight) * threshold
            thresholds[label] = logistic(log_odds(best) - lift)
    return replace(fitted, threshold=logistic(log_odds(threshold) - lift), thresholds=thresholds)


def expected_best_threshold(confidences: Sequence[float], gold: int) -> float:
    """The threshold with the highest expected F1, if confidences are true probabilities, for so many gold mentions.

    It is half of that F1 (Lipton, Elkan and Naryanaswamy 2014, arXiv 1402.1892): one more span raises F1 if and only if
    its confidence is above that.
    """
    best, right = 0.0, 0.0
    for count, confidence in enumerate(sorted(confidences, reverse=True), start=1):
        right += confidence
        best = max(best, 2 * right / (count + gold))
    return min(best / 2, _HIGHEST)


def best_threshold(ranked: Sequence[tuple[float, bool]], gold: int) -> float:
    """The threshold with the highest F1 for (confidence, right) pairs in falling order, at most 0.5.

    It lies halfway to the next pair.
    """
    best, threshold, right = -1.0, 0.0, 0
    for count, ((confidence, is_right), (following, _)) in enumerate(pairwise([*ranked, (0.0, False)]), start=1):
        right += is_right
        f1 = 2 * right / (count + gold)
        if f1 > best and following < confidence:
            best, threshold = f1, (confidence + following) / 2
    return min(threshold, _HIGHEST)


def _fit_map(judged: Sequence[JudgedSpan], prior: Calibration) -> Calibration:
    """The map with the highest posterior, which is log-concave, by Newton's method; it votes only if the prior does."""
    expected = np.array([prior.slope, prior.vote, prior.shift])
    precision = np.array([_SLOPE_SD, _VOTE_SD, _SHIFT_SD]) ** -2.0
    points = np.array([(log_odds(one.score), one.vote - EVEN_VOTE, 1.0) for one in judged])  # [spans, 3]
    right = np.array([one.right for one in judged], dtype=float)
    free = [0, 1, 2] if prior.vote > 0 else [0, 2]
    found = expected.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(points @ found, -700, 700)))
        gradient = (precision * (found - expected) + points.T @ (p - right))[free]
        curvature = (np.diag(precision) + (points.T * (p * (1 - p))) @ points)[np.ix_(free, free)]
        step = np.linalg.solve(curvature, gradient)
        largest = np.abs(step).max()
        found[free] -= step * min(1.0, 1.0 / max(largest, 1e-12))  # from far off, a whole step may overshoot
        if largest < 1e-6:
            break
    slope, vote, shift = found.tolist()
    return Calibration(max(slope, 0.05), shift, vote=max(vote, 0.0))
