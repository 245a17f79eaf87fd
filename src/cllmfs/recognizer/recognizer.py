"""The recognizer: fit, predict, evaluate, save, load.

This file combines the parts: a base, an adapter, an encoder, a calibration. What each part does is in its own package.
"""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import torch

from cllmfs.assurance.guarantee import Guarantee, Risk, applies, text_hash
from cllmfs.assurance.retention import Retention, RetentionReport
from cllmfs.assurance.thresholds import choose_thresholds, distinct_texts, estimate, judge_texts
from cllmfs.config import Config, RuntimeConfig
from cllmfs.decoding.calibration import ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Rules
from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import ConfigError, DataError, ModelError
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.model.adapter import Adapter
from cllmfs.model.backbone import Backbone
from cllmfs.model.bases import MINI, locate_base
from cllmfs.model.folder import ADAPTER, is_model_folder, read_manifest, write_model
from cllmfs.model.inspection import is_kind
from cllmfs.model.loading import FIGURES_FILE, load_backbone
from cllmfs.progress import TrainingProgress, is_watched
from cllmfs.recognizer.arguments import (
    Labels,
    check_risk,
    check_shared,
    checked_config,
    checked_texts,
    checked_threshold,
    gold_examples,
    labels_to_fit,
)
from cllmfs.recognizer.notices import Notices
from cllmfs.recognizer.storage import manifest, pickled, restore, save_merged, settings_of, unpickle
from cllmfs.schema import Document, Example, LabelSet, mentions
from cllmfs.training.fit import fit
from cllmfs.training.loop import Progress
from cllmfs.training.shots import settle_spans

logger = logging.getLogger(__name__)

_STREAM_BATCH = 64


class EntityRecognizer:
    """Few-shot named entity recognition with a causal LM.

    ::

        ner = EntityRecognizer().fit(read_examples("shots.jsonl"))
        for span in ner.predict("The rear hub has play.").spans:
            print(span.start, span.end, span.label, span.score, span.text)

    Args:
        base: ``cllmfs-mini``, or a folder or hub id of a causal LM.
        labels: the types to ask for unless others are named; a mapping gives each a description.
        config: all settings; the defaults if not given.
        device: a torch device; by default a GPU where there is one.
        share: a recognizer of the same base, whose loaded weights are used again. The two keep their own adapters, and
            take turns.

    Raises:
        ConfigError: if ``config`` is not a :class:`~cllmfs.config.Config`, or ``share`` has another base.
        ModelError: if the base cannot be loaded, or cannot do what the settings ask for.
    """

    def __init__(
        self,
        base: str = MINI,
        *,
        labels: Labels | None = None,
        config: Config | None = None,
        device: str | None = None,
        share: EntityRecognizer | None = None,
    ) -> None:
        self.base = base
        self.config = checked_config(config)
        self.labels = self._given = None if labels is None else LabelSet(labels)
        self.shots: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        weights = self.config.runtime.weights
        check_shared(share, base, weights, device)
        shared = None if share is None else share._backbone
        self._backbone: Backbone = shared or load_backbone(base, device=device, weights=weights)
        self._prepare(self.config, None)
        figures, votes = self._backbone.figures, self.config.calibrate.votes
        self._expected = ExpectedCalibrations.of_base(figures, votes, f"{base}: {FIGURES_FILE}")
        self.calibration = self._expected.zero_shot
        self.guarantee: Guarantee | None = None
        self.retention: RetentionReport | None = None
        self._adapter: Adapter | None = None

    def _prepare(self, config: Config, rules: Rules | None) -> None:
        """Make what reads texts with the settings, which in ``spans`` may be those that the shots decided."""
        self._notices = Notices(self._backbone.prompt, self.base)
        self._extractor = self._reader(config, rules)

    def _reader(self, config: Config, rules: Rules | None) -> Extractor:
        plain = rules is None
        extractor = Extractor(self._backbone, config) if plain else Extractor(self._backbone, config, rules=rules)
        extractor.on_read = self._notices.of_texts
        return extractor

    def __getstate__(self) -> dict[str, Any]:
        return pickled(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        unpickle(self, state)

    @property
    def trained(self) -> bool:
        """Whether an adapter was trained or loaded."""
        return self._adapter is not None

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self._backbone.device

    def fit(
        self,
        examples: Iterable[Example | Mapping[str, Any]],
        *,
        dev: Iterable[Example | Mapping[str, Any]] | None = None,
        labels: Labels | None = None,
        risk: Risk | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        quiet: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> EntityRecognizer:
        """Train a LoRA adapter on labeled sentences, and return this recognizer.

        It may be called again, for example with more sentences: every training begins with the untouched base, and its
        adapter replaces the previous one. If training fails or is interrupted, the previous adapter stays.

        Args:
            examples: the shots, as examples or as records of the format jsonl.
            dev: sentences whose strict F1 decides when to stop, which weights to keep, and how scores are calibrated.
            labels: the types, with descriptions if a mapping. By default those of the constructor, otherwise those of
                ``examples``, with the descriptions that the recognizer already has.
            risk: choose the thresholds such that models which learned from a part of the shots keep a recall or a
                precision on the other part. This is an estimate; :meth:`calibrate` gives a guarantee.
            checkpoint: folder in which the state of the training is saved at intervals.
            resume: continue from ``checkpoint``, if there is one.
            quiet: show no progress. By default, progress is shown on a terminal and in a notebook.
            on_progress: called after every step, in place of the display.
            recipe: changes to fields of :class:`~cllmfs.training.recipe.Recipe`, for experiments.

        Raises:
            ConfigError: if a change to the recipe is not possible.
            DataError: if there is nothing to learn from, or an example has a label that is not among ``labels``.
            ModelError: if the checkpoint is damaged or that of another run, or this is called by ``on_progress``.
        """
        shots, held_out = gold_examples(examples), gold_examples(dev or ())
        check_risk(risk, self.config, bool(held_out))
        given = self._given if labels is None else LabelSet(labels)
        asked = labels_to_fit(shots, held_out, given, self.labels)
        folder = None if checkpoint is None else Path(checkpoint)
        shown = TrainingProgress() if on_progress is None and not quiet and is_watched() else None
        with self._backbone.training(), shown or contextlib.nullcontext():
            split = partial(tokenize, self._backbone.prompt.tokenizer)
            self._notices.of_training(shots, held_out, asked, (split(shot.text) for shot in shots))
            extractor = self._reader(settle_spans(self.config, shots, split), self._extractor.rules)
            measured = self._backbone.figures if self.config.train.retention else None
            retention = Retention(extractor, self._expected.zero_shot, asked) if measured else None
            outcome = fit(
                extractor,
                shots,
                asked,
                self._expected,
                dev=held_out,
                checkpoint=folder,
                resume=resume,
                changes=recipe,
                on_progress=on_progress or shown,
            )
            report = retention.report() if retention else None
            guarantee = risk and estimate(outcome.held_out, risk, asked, outcome.calibration, self._run_as())
            # Still under the lock: another thread must never combine the new adapter with the old labels.
            self._adapter = self._backbone.adapters.capture()
            self.labels, self.calibration, self._extractor = asked, outcome.calibration, extractor
            self.guarantee, self.retention = guarantee or None, report
            self.shots = {
                "sentences": len(shots),
                "mentions": dict(sorted(mentions(shots).items())),
                "steps": outcome.steps,
                "learning_rate": outcome.learning_rate,
                "keep": round(outcome.keep, 4),
                "hashes": sorted({text_hash(shot.text) for shot in shots}),
            }
            found = {"dev strict micro F1": outcome.dev_f1, "held-out shots strict micro F1": outcome.held_out_f1}
            self.scores = {name: round(f1, 4) for name, f1 in found.items() if f1 is not None}
        if report is not None and (notice := report.notice()):
            logger.warning("%s", notice)
        return self

    # A str is an iterable of str, too; the first signature wins, which is intended.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, texts: str, *, labels: Labels | None = None, threshold: float | None = None
    ) -> Document: ...

    @overload
    def predict(
        self, texts: Iterable[str], *, labels: Labels | None = None, threshold: float | None = None
    ) -> list[Document]: ...

    def predict(
        self, texts: str | Iterable[str], *, labels: Labels | None = None, threshold: float | None = None
    ) -> Document | list[Document]:
        """The spans of a text, or of each of several texts.

        Args:
            texts: one text or several, of any length and script.
            labels: the types to ask for; by default those of the training or the constructor.
            threshold: spans of lower confidence are not reported; by default ``runtime.threshold``, otherwise the
                thresholds that were fitted on the shots.

        Raises:
            ConfigError: if the threshold is not between 0 and 1.
            DataError: if no labels are known, or a text is not a string.
        """
        if isinstance(texts, str):
            return next(self.stream([texts], labels=labels, threshold=threshold))
        return list(self.stream(texts, labels=labels, threshold=threshold))

    def stream(
        self, texts: Iterable[str], *, labels: Labels | None = None, threshold: float | None = None
    ) -> Iterator[Document]:
        """Like :meth:`predict`, but one document at a time, for inputs of any size; texts are read a batch ahead."""
        with self._backbone.lock:  # a training in another thread replaces these together
            asked, adapter, extractor = self._asked(labels), self._adapter, self._extractor
            calibration, guarantee = self.calibration, self.guarantee
        least = checked_threshold(threshold, self.config.runtime.threshold)
        kept = guarantee if guarantee and applies(guarantee, asked, threshold, self._run_as()) else None
        chosen, promise = (kept.calibration(calibration), kept.promise()) if kept else (calibration, None)
        self._notices.of_labels(asked)
        numbered = enumerate(checked_texts(texts))
        while chunk := list(islice(numbered, _STREAM_BATCH)):
            for number, text in chunk:
                if not isinstance(text, str):
                    raise DataError(f"a text must be a string, got {type(text).__name__} at position {number}")
            with self._backbone.reading(adapter):
                found = extractor.extract(
                    [text for _, text in chunk], asked, chosen, least, conflicts_first=kept is not None
                )
            yield from (replace(document, guarantee=promise) for document in found) if promise else found

    def calibrate(
        self,
        examples: Iterable[Example | Mapping[str, Any]],
        *,
        recall: float | None = None,
        precision: float | None = None,
        confidence: float = 0.95,
    ) -> Guarantee:
        """Choose thresholds at which a recall, a precision or both can be promised; predictions use them from then on.

        Args:
            examples: labeled texts of the kind that the model will read, chosen at random, and none of its shots.
            recall: the share of the mentions of a text that is found on average.
            precision: the share of the spans reported in a text that is right on average.
            confidence: the confidence of each promise.

        Raises:
            ConfigError: if a share does not lie between 0 and 1, or none is given, or ``runtime.threshold`` is set.
            DataError: if the texts are too few, or no threshold is good enough; nothing is changed then.
        """
        risk, gold = Risk(recall, precision, confidence), gold_examples(examples)
        check_risk(risk, self.config)
        with self._backbone.lock:  # no training may replace the model in the meantime
            asked = self._asked(None)
            texts = distinct_texts(gold, risk, asked, self.shots.get("hashes", ()))
            with self._backbone.reading(self._adapter):
                judged = judge_texts(self._extractor, texts, asked, self.calibration)
            self.guarantee = made = choose_thresholds(judged, risk, asked, self._run_as())
        return made

    def _run_as(self) -> RuntimeConfig:
        """How the model is run, with the number format that ``auto`` has become."""
        return self.config.runtime.model_copy(update={"weights": self._backbone.weights})

    def evaluate(
        self, examples: Iterable[Example | Mapping[str, Any]], *, labels: Labels | None = None, quick: bool = False
    ) -> Scores:
        """Strict scores on gold examples: every type is asked of every sentence, and offsets must be exact.

        Args:
            examples: gold sentences, as examples or as records of the format jsonl.
            labels: the types to ask for; by default the recognizer's own, otherwise those of ``examples``.
            quick: leave out the scenarios of nervaluate.

        Raises:
            DataError: if there are no examples, or one breaks a rule.
        """
        gold = gold_examples(examples)
        if not gold:
            raise DataError("evaluation needs at least one sentence, got none")
        with self._backbone.lock:  # no training may replace the model in the meantime
            asked = self._asked(LabelSet.of_examples(gold) if labels is None and self.labels is None else labels)
            self._notices.of_scores(gold, asked, self.shots.get("hashes", ()))
            documents = list(self.stream([example.text for example in gold], labels=asked))
        return evaluate_spans(gold, documents, asked, scenarios=not quick)

    def save(self, folder: str | Path) -> Path:
        """Write a model folder, which appears whole or not at all.

        Raises:
            ModelError: if nothing was trained, or the folder contains something other than a model.
        """
        with self._backbone.lock:
            adapter, record = self._adapter, self.info()
        if adapter is None:
            raise ModelError("there is no adapter to save: call fit() first")
        base = None if self.base == MINI else self._backbone.fingerprint.folder
        return write_model(Path(folder), record, adapter.save, base)

    def save_base(self, folder: str | Path) -> Path:
        """Write base and adapter merged into a new base, an ordinary causal LM to be trained further or used elsewhere.

        The types and the calibration are not part of the base. The folder appears whole or not at all.

        Raises:
            ModelError: if nothing was trained, the folder is not empty, or the weights are not in fp32.
        """
        save_merged(self, Path(folder))
        return Path(folder)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        labels: Labels | None = None,
        config: Config | None = None,
        runtime: RuntimeConfig | None = None,
        base: str | None = None,
        device: str | None = None,
        share: EntityRecognizer | None = None,
    ) -> EntityRecognizer:
        """Load a trained model, or a base, which predicts without shots.

        Args:
            model: a folder that :meth:`save` wrote, ``cllmfs-mini``, or a folder or hub id of a causal LM.
            labels: for a base, the types to ask for; for a trained model, they replace its own.
            config: the settings of a base. Those of a trained model are fixed: a config that differs from them in
                anything but ``runtime`` is refused.
            runtime: how the model is run, in place of the settings that it was saved with.
            base: where the base of a trained model is, if it has moved; it must be the same base.
            device: as in the constructor.
            share: as in the constructor.

        Raises:
            ConfigError: if ``config`` has other values for settings that training fixed, or ``base`` is given for a
                model that is a base itself.
            ModelError: if the folder is damaged, or its base is not found or not the one that it was trained on.
        """
        if not is_model_folder(model) and not is_kind(Path(model) / ADAPTER, stat.S_IFREG):
            if base is not None:
                raise ConfigError(f"base= is where the base of a trained model is, and {model} is none; leave it out")
            settings = checked_config(config).with_runtime(runtime)
            return cls(str(model), labels=labels, config=settings, device=device, share=share)
        record = read_manifest(model)
        settings = settings_of(model, record, config, runtime)
        known = record["labels"] if labels is None else labels
        made = cls(locate_base(model, record, base), labels=known, config=settings, device=device, share=share)
        restore(made, model, record)
        if labels is None:
            made._given = None  # new shots may bring new labels
        return made

    def info(self) -> dict[str, Any]:
        """The content of the manifest of a model folder, ready for JSON."""
        return manifest(self)

    def _asked(self, labels: Labels | None) -> LabelSet:
        if labels is not None:
            return LabelSet(labels)
        if self.labels is None:
            raise DataError(
                "no types are known: this base is not trained; name them with labels=… (or --labels, --label)"
            )
        return self.labels
