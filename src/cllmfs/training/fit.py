"""The stages of fitting, in order: encode the shots, plan, cross-validate, train, choose.

Parts of the shots are held out in turn. What models of the other parts find in them decides the calibration, the
thresholds and, if there are many shots, how much of the update is kept (arXiv 2109.01903), without any further labels.
A dev set takes the place of the held-out parts. This file knows training and extraction; it knows nothing of folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cllmfs.config import FIXED
from cllmfs.decoding.calibration import Calibration, ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.errors import DataError
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.schema import Example, LabelSet
from cllmfs.training.calibrate import Choice, HeldOutText, Trial, choose, judge
from cllmfs.training.loop import Optimization, Progress, Trainer
from cllmfs.training.recipe import Recipe
from cllmfs.training.replay import Replay
from cllmfs.training.shots import (
    Shot,
    ShotBatches,
    VariedShots,
    answered_labels,
    check_shots,
    encode_shots,
    has_answers,
)

logger = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """The result of fitting."""

    steps: int  # optimizer steps done
    learning_rate: float  # the peak
    keep: float  # share of the trained update that was kept
    calibration: Calibration
    dev_f1: float | None = None  # strict micro-F1 on the dev set, if any, with the chosen weights and thresholds
    held_out_f1: float | None = None  # the same on the held-out parts, if any, each by a model that did not see it
    held_out: Sequence[HeldOutText] = ()  # what those models found in each text of those parts


def fit(
    extractor: Extractor,
    examples: Sequence[Example],
    labels: LabelSet,
    expected: ExpectedCalibrations,
    *,
    dev: Sequence[Example] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Fit a new adapter to labeled sentences; it stays attached to the extractor's backbone.

    Args:
        extractor: its backbone must have no adapter attached.
        examples: the shots.
        labels: the types.
        expected: the calibrations expected of the base.
        dev: sentences whose strict F1 decides when to stop, which weights stay, and how scores are calibrated.
        checkpoint: folder for the state of the training.
        resume: continue from the checkpoint, if there is one.
        changes: changes to the planned recipe.
        on_progress: called after every step.

    Raises:
        ConfigError: if a change to the recipe is not possible.
        DataError: if nothing can be learned from the shots.
        ModelError: if the checkpoint is damaged or that of another run.
    """
    config = extractor.config
    window = extractor.encoder.window(extractor.encoder.queries(labels))
    shots = encode_shots(examples, extractor.encoder, window)
    check_shots(examples, shots, extractor.encoder)  # bad shots are reported before anything is trained
    if not has_answers(shots):
        raise DataError("nothing can be learned: each sentence with a span has one that no answer can contain")
    answered = answered_labels(labels, shots)
    lost = [label for label in labels if label not in answered and any(shot.gold.get(label) for shot in shots)]
    if lost:
        logger.warning(
            "%s: asked as the base knows it, not trained: each sentence with it has a span that cannot be learned",
            ", ".join(lost),
        )
    if missing := [label for label in labels if label not in answered and label not in lost]:
        logger.warning("no example for %s: asked as the base knows it, not trained", ", ".join(missing))
    recipe = Recipe.plan(config, len(shots), extractor.backbone.width, changes)
    prior = expected.few_mentions if recipe.has_few_mentions(examples) else expected.trained
    fitting = Fitting(extractor, examples, shots, labels, window, recipe, prior)

    planned = config.lora.keep or fitting.plan_share()
    trial = None if dev else fitting.cross_validate(planned, on_progress)
    trainer = fitting.train(shots, recipe.steps, dev, checkpoint, resume, on_progress)
    if dev:
        shares = (planned,) if config.lora.keep else (planned, *recipe.dev_shares)
        trial = judge(extractor, dev, labels, shares, prior)
    judged = trial is not None and bool(trial.judged)
    choice = choose(trial, planned, prior, recipe) if trial and judged else Choice(planned, prior, 0.0)
    slot = extractor.backbone.adapters
    slot.keep(slot.update(), choice.share)
    steps, f1 = trainer.optimization.done, choice.f1 if judged else None
    dev_f1, held_out_f1 = (f1, None) if dev else (None, f1)
    held_out = trial.by_text(choice) if trial and judged and not dev else ()
    return Outcome(steps, recipe.learning_rate, choice.share, choice.calibration, dev_f1, held_out_f1, held_out)


@dataclass
class Fitting:
    """What the stages of one fitting share."""

    extractor: Extractor
    examples: Sequence[Example]
    shots: Sequence[Shot]  # the examples, encoded
    labels: LabelSet
    window: int  # longest sentence, in tokens
    recipe: Recipe
    prior: Calibration  # expected before fitting

    def plan_share(self) -> float:
        """The share of the update to keep unless a measurement decides otherwise; to be called before training."""
        count, recipe = len(self.examples), self.recipe
        share = recipe.share(count, base_f1=0.0)
        if share <= recipe.known_share:
            return share  # the base's F1 could not lower it
        sample = self.examples[:: math.ceil(count / recipe.sample)]
        return recipe.share(count, self.score(sample).micro.f1)

    def score(self, examples: Sequence[Example]) -> Scores:
        """Strict scores of the backbone as it is, with the expected calibration."""
        found = self.extractor.extract([example.text for example in examples], self.labels, self.prior)
        return evaluate_spans(examples, found, self.labels, scenarios=False)

    def cross_validate(self, planned: float, on_progress: OnProgress | None) -> Trial | None:
        """Hold out each part of the shots and judge a model of the others on it; ``None`` if there are no parts."""
        config, recipe, count = self.extractor.config, self.recipe, len(self.examples)
        folds = recipe.folds(self.examples, config.calibrate.folds, config.train.seed)
        if not folds:
            return None
        settled = config.lora.keep or count <= recipe.many_shots
        shares = (planned,) if settled else (planned, *recipe.held_out_shares)
        trial = Trial({}, Counter(), len(folds[0]) / count)
        for part, fold in enumerate(folds, start=1):
            held_out = set(fold)
            rest = [shot for shot in self.shots if shot.example not in held_out]
            if not has_answers(rest):
                continue  # nothing could be learned from the other parts
            steps = recipe.steps_without(count - len(fold), count)
            self.train(rest, steps, on_progress=on_progress, phase=f"calibrating, part {part} of {len(folds)}")
            trial.add(judge(self.extractor, [self.examples[n] for n in fold], self.labels, shares, self.prior))
            self.extractor.backbone.adapters.detach()
        return trial

    def train(
        self,
        shots: Sequence[Shot],
        steps: int,
        dev: Sequence[Example] | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
        on_progress: OnProgress | None = None,
        phase: str = "training",
    ) -> Trainer:
        """Attach a new adapter and train it on all shots or a part of them."""
        backbone, config, encoder = self.extractor.backbone, self.extractor.config, self.extractor.encoder
        seed, replay = config.train.seed, config.train.replay
        torch.manual_seed(seed)  # the adapter begins with random weights
        backbone.adapters.attach(config.lora)
        varied = VariedShots(self.examples, shots, encoder, self.window, config.train.swap_mentions, seed)
        general = Replay(encoder, replay, seed) if replay else None
        batches = ShotBatches(varied, answered_labels(self.labels, shots), encoder, config.train, self.recipe, general)
        optimization = Optimization(backbone, batches, config, replace(self.recipe, steps=steps))
        evaluate = (lambda: self.score(dev).micro.f1) if dev else None
        trainer = Trainer(optimization, evaluate, checkpoint, self._digest(dev) if checkpoint else "")
        trainer.train(resume, on_progress, phase)
        return trainer

    def _digest(self, dev: Sequence[Example] | None) -> str:
        """Identifies everything that the training depends on, apart from the base."""
        settings = {name: part for name, part in self.extractor.config.to_dict().items() if name in FIXED}
        sentences = [[replace(example, extra={}).to_dict() for example in part] for part in (self.examples, dev or ())]
        content = [settings, asdict(self.recipe), list(self.labels.items()), sentences]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
