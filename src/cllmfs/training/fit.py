"""Adapting a base to the shots: how strongly, how much of it is kept, and how far the scores can be trusted.

Parts of the shots are left out in turn, and what is found in them by learning from the rest tells calibration,
thresholds and, of many shots, how much of the update is kept (arXiv 2109.01903), without any further labels. A dev set
takes their place. Knows training and extraction; knows nothing of files of finished models.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration, Judged, fit_calibration
from cllmfs.decoding.extraction import Candidate, Extractor
from cllmfs.encoding.windows import resolve_conflicts
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.schema import Example, LabelSet
from cllmfs.training.augmentation import mention_pool, swap_mentions
from cllmfs.training.loop import Optimisation
from cllmfs.training.replay import Replay
from cllmfs.training.shots import (
    Progress,
    Shot,
    ShotBatches,
    Trainer,
    answered_labels,
    choose_rate,
    choose_steps,
    prepare_shots,
)

_Found = TypeVar("_Found")

_SHARES = (1.0, 0.5, 0.25, 0.0)  # of the trained update, tried on a dev set beside the usual share
_PART_SHARES = (1.0, 0.8, 0.5)  # tried on a part left out of many shots; models of half of few shots want less of it
_CHANCE = 0.24  # over the root of the gold mentions: the gain in F1 that another share must bring
_KNOWN = 0.25  # F1 of the base on the shots from which it is said to know their types
_KNOWN_SHARE = 0.8  # of an update to a base that knows the types, at most
_SAMPLE = 50  # shots that tell whether it does, at most
_LIFT = 0.4  # of log-odds, by which models that learnt from none of the shots would be less right than from all
_CHUNK = 64  # sentences extracted at once
_MANY = 100  # shots beyond which a single part is left out, a third of them
_PART = 300  # of them at most
_SCARCE = 3  # mentions a label, on average, below which no shots can be left out
_FOLD_STEPS = 240  # beyond half of the steps: at most, for a model that only serves calibration


@dataclass(frozen=True)
class Outcome:
    """What was chosen while adapting.

    Attributes:
        steps: optimiser steps done.
        learning_rate: peak rate.
        keep: share of the trained update that was kept.
        calibration: what turns scores into confidences.
        dev_f1: strict micro-F1 on the dev set with the weights and thresholds kept; ``None`` without a dev set.
        held_out_f1: the same over the parts left out, each by a model that did not see it; ``None`` if none was.
    """

    steps: int
    learning_rate: float
    keep: float
    calibration: Calibration
    dev_f1: float | None = None
    held_out_f1: float | None = None


@dataclass
class _Trial:
    """Judged spans by share of the update, and the gold mentions of the sentences they are from.

    ``missed`` is the part of the shots that the models judged did not learn from.
    """

    judged: dict[float, list[Judged]]
    gold: Counter[str]
    missed: float = 0.0

    def add(self, other: _Trial) -> None:
        self.gold += other.gold
        for share, spans in other.judged.items():
            self.judged.setdefault(share, []).extend(spans)


class Adaptation:
    """One adaptation of the extractor's backbone.

    Args:
        extractor: its backbone carries no adapter yet.
        examples: the shots.
        labels: the types.
    """

    def __init__(self, extractor: Extractor, examples: Sequence[Example], labels: LabelSet) -> None:
        self.extractor = extractor
        self.examples = examples
        self.labels = labels
        self.config = extractor.config
        self.prior = scarce_calibration(self.config) if are_scarce(examples) else prior_calibration(self.config)

    def run(
        self,
        dev: Sequence[Example] | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Outcome:
        """Adapt; the adapter is left attached.

        Raises:
            DataError: if nothing can be learnt from the shots.
            ModelError: if the checkpoint does not fit.
        """
        backbone, lora = self.extractor.backbone, self.config.lora
        shots = self._prepare(self.examples)  # bad shots are told before anything is trained
        answered_labels(self.labels, shots)
        train = self.config.train
        rate = train.learning_rate or choose_rate(backbone.width)
        steps = train.steps or choose_steps(len(shots), train.batch_sentences)
        settled, trial = lora.dora or lora.keep, None
        usual = 1.0 if lora.dora else lora.keep or self._usual_share()  # dora's magnitudes cannot be scaled
        share = usual
        if not dev and (folds := fold_examples(self.examples, self.config.calibrate.folds, train.seed)):
            tried = (usual,) if settled or len(self.examples) <= _MANY else (usual, *_PART_SHARES)
            trial = self._cross_validate(folds, rate, tried, steps, on_progress)
        trainer = self._trainer(self.examples, rate, dev, checkpoint, steps)
        trainer.run(resume, on_progress)
        if dev:
            trial = self._judge(dev, (usual,) if settled else (usual, *_SHARES))
        calibration, f1 = self.prior, None
        if trial is not None and trial.judged:
            share, calibration, f1 = self._choose(trial, usual)
        backbone.scale_lora(share)
        done = trainer.optimisation.done
        if dev:
            return Outcome(done, rate, share, calibration, dev_f1=f1)
        return Outcome(done, rate, share, calibration, held_out_f1=f1)

    def _usual_share(self) -> float:
        """The share of the update to keep unless something tells better; before training."""
        count = len(self.examples)
        share = choose_share(count, base_f1=0.0)
        if share <= _KNOWN_SHARE:
            return share  # whatever the base knows
        return choose_share(count, self.score(self.examples[:: -(-count // _SAMPLE)]).micro.f1)

    def _prepare(self, examples: Sequence[Example], quiet: bool = False) -> list[Shot]:
        extractor, decode = self.extractor, self.config.decode
        window = extractor.window(self.labels)
        return prepare_shots(
            examples, extractor.backbone, extractor.builder, decode.edges, window, decode.overlap_tokens, quiet
        )

    def score(self, examples: Sequence[Example]) -> Scores:
        """Strict scores with the backbone as it is and the calibration expected."""
        found = self._in_chunks(examples, lambda texts: self.extractor.extract(texts, self.labels, self.prior))
        return evaluate_spans(examples, found, self.labels, scenarios=False)

    def _in_chunks(self, examples: Sequence[Example], extract: Callable[[list[str]], list[_Found]]) -> list[_Found]:
        texts = [example.text for example in examples]
        return [found for start in range(0, len(texts), _CHUNK) for found in extract(texts[start : start + _CHUNK])]

    def _trainer(
        self,
        examples: Sequence[Example],
        rate: float,
        dev: Sequence[Example] | None,
        checkpoint: Path | None,
        steps: int,
    ) -> Trainer:
        """Attaches a fresh adapter and sets its training up."""
        backbone, config = self.extractor.backbone, self.config
        train = replace(config.train, learning_rate=rate)
        torch.manual_seed(train.seed)  # the adapter begins with random weights
        backbone.attach_lora(config.lora)
        shots = self._prepare(examples, quiet=True)
        pool = mention_pool(examples)

        def varied(epoch: int) -> Sequence[Shot]:
            rng = random.Random(f"{train.seed}/{epoch}/mentions")
            swapped = [swap_mentions(example, pool, train.swap_mentions, rng) for example in examples]
            made = self._prepare(swapped, quiet=True)
            return made if len(made) == len(shots) else shots  # a longer mention may need another window

        asked = answered_labels(self.labels, shots, quiet=True)
        builder = self.extractor.builder
        batches = ShotBatches(
            shots,
            asked,
            backbone,
            builder,
            config,
            varied if train.swap_mentions else None,
            Replay(backbone, builder, train.replay, train.seed) if train.replay else None,
        )
        optimisation = Optimisation(backbone, batches, steps, config.loss, train, self.extractor.bidirectional)
        return Trainer(optimisation, (lambda: self.score(dev).micro.f1) if dev else None, checkpoint)

    def _cross_validate(
        self,
        folds: Sequence[Sequence[int]],
        rate: float,
        shares: Sequence[float],
        whole: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> _Trial:
        """What models that did not see a part find in it, over all parts."""
        trial = _Trial({}, Counter(), len(folds[0]) / len(self.examples))
        for part, fold in enumerate(folds, start=1):
            out = set(fold)
            rest = [example for number, example in enumerate(self.examples) if number not in out]
            if not any(example.spans for example in rest):
                continue  # nothing could be learnt from it
            phase = f"calibrating, part {part} of {len(folds)}"
            passes = -(-whole * len(rest) // len(self.examples))  # the steps of as many passes as the whole takes
            steps = min(passes, max(_FOLD_STEPS, whole // 2))
            self._trainer(rest, rate, None, None, steps).run(on_progress=on_progress, phase=phase)
            trial.add(self._judge([self.examples[number] for number in fold], shares))
            self.extractor.backbone.detach_lora()
        return trial

    def _judge(self, examples: Sequence[Example], shares: Sequence[float]) -> _Trial:
        judged: dict[float, list[Judged]] = {}
        for share in dict.fromkeys(shares):
            self.extractor.backbone.scale_lora(share)
            found = self._in_chunks(
                examples, lambda texts: self.extractor.candidates(texts, self.labels, self.prior.vote > 0)
            )
            judged[share] = [
                Judged(winner.score, (winner.start, winner.end, winner.label) in gold, winner.label, winner.vote)
                for example, (candidates, _) in zip(examples, found, strict=True)
                for gold in [{span.key for span in example.spans}]
                for winner in self._winners(example.text, candidates)
            ]
        return _Trial(judged, _mentions(examples))

    def _winners(self, text: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that stay when conflicts are settled by the confidences expected."""
        expected = {span.key: (span, one) for one in candidates for span in [one.span(text, self.prior)]}
        kept = resolve_conflicts([span for span, _ in expected.values()], self.config.decode.nested)
        return [expected[span.key][1] for span in kept]

    def _choose(self, trial: _Trial, usual: float) -> tuple[float, Calibration, float]:
        """The share with the highest F1 on the sentences left out, its calibration and that F1.

        A gain over the usual share must be larger than chance would bring: one standard deviation of the difference,
        taken as half that of an F1 of 0.5 over as many mentions.
        """
        total = sum(trial.gold.values())
        chance = _CHANCE / max(1, total) ** 0.5
        options: list[tuple[float, float, Calibration, float]] = []
        for share, judged in trial.judged.items():
            calibration = fit_calibration(judged, trial.gold, self.prior, _LIFT * trial.missed)
            trusted = [(calibration.confidence(one.score, one.vote), one) for one in judged]
            kept = [one for confidence, one in trusted if confidence >= calibration.limit(one.label)]
            right = sum(one.right for one in kept)
            f1 = 2 * right / (len(kept) + total) if total else 0.0
            options.append((f1 + (chance if share == usual else 0.0), share, calibration, f1))
        _, share, calibration, f1 = max(options, key=lambda option: option[:2])
        return share, calibration, f1


def choose_share(shots: int, base_f1: float) -> float:
    """The share of the update to keep where nothing tells better: the fewer shots, the less is kept.

    At most 0.8 of it if the base knows the types, which is told by its F1 on the shots before training: what it knows
    is worth keeping. Chosen on development data; ``docs/log.md`` has the figures.
    """
    return min(_KNOWN_SHARE if base_f1 >= _KNOWN else 1.0, shots / (shots + 4))


def prior_calibration(config: Config) -> Calibration:
    """What the settings expect of a trained model's scores before anything is measured."""
    expected = config.calibrate
    return Calibration(expected.slope, expected.shift, expected.threshold, vote=expected.vote)


def scarce_calibration(config: Config) -> Calibration:
    """What the settings expect of the scores of a model of shots that are too few to measure anything.

    Their confidences lie lower; by its threshold the same spans are reported as by :func:`prior_calibration`'s.
    """
    expected = config.calibrate
    return Calibration(expected.slope, expected.scarce_shift, expected.scarce_threshold, vote=expected.vote)


def zero_shot_calibration(config: Config) -> Calibration:
    """What the settings expect of an untrained base's scores."""
    expected = config.calibrate
    slope, shift, threshold = expected.zero_shot_slope, expected.zero_shot_shift, expected.zero_shot_threshold
    return Calibration(slope, shift, threshold, vote=expected.vote)


def are_scarce(examples: Sequence[Example]) -> bool:
    """Whether there are fewer than three mentions a label, on average: without half of them a type is hardly learnt."""
    mentions = _mentions(examples)
    return sum(mentions.values()) < _SCARCE * len(mentions)


def fold_examples(examples: Sequence[Example], folds: int, seed: int) -> list[list[int]]:
    """Numbers of the examples in parts to leave out in turn; none where the shots are too few to leave any out.

    Rare labels are spread first, so that what is left holds every label that occurs often enough. Of more than 100
    examples one part is enough: a third of them, at most 300.
    """
    if folds < 2 or len(examples) < 2 * folds or are_scarce(examples):
        return []
    mentions = _mentions(examples)
    rng = random.Random(f"{seed}/folds")
    order = sorted(range(len(examples)), key=lambda _: rng.random())
    if len(examples) > _MANY:
        return [sorted(order[: min(_PART, len(examples) // 3)])]
    order.sort(key=lambda number: min((mentions[span.label] for span in examples[number].spans), default=1 << 30))
    parts: list[list[int]] = [[] for _ in range(folds)]
    held: list[Counter[str]] = [Counter() for _ in range(folds)]
    for number in order:
        labels = [span.label for span in examples[number].spans]
        rarest = min(labels, key=mentions.__getitem__, default="")
        part = min(range(folds), key=lambda index: (held[index][rarest], len(parts[index])))
        parts[part].append(number)
        held[part].update(labels)
    return [sorted(part) for part in parts]


def _mentions(examples: Sequence[Example]) -> Counter[str]:
    return Counter(span.label for example in examples for span in example.spans)
