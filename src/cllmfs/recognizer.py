"""The recognizer: fit, predict, evaluate, save, load.

This file combines the parts: a base, an adapter, an encoder, a calibration. What each part does is in its own package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import torch

from cllmfs.config import Config, RuntimeConfig
from cllmfs.decoding.calibration import Calibration, ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.errors import ConfigError, DataError, ModelError
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.files import whole_folder
from cllmfs.model.adapter import Adapter
from cllmfs.model.backbone import Backbone
from cllmfs.model.bases import MINI
from cllmfs.model.folder import ADAPTER, changed_by, is_model_folder, read_manifest, versions, write_model
from cllmfs.model.loading import FIGURES_FILE, load_backbone, write_base
from cllmfs.progress import TrainingProgress, is_watched
from cllmfs.schema import Document, Example, LabelSet, mentions
from cllmfs.training.fit import fit
from cllmfs.training.loop import Progress

_STREAM_BATCH = 64
Labels = LabelSet | Mapping[str, str] | Iterable[str]


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
        self.config = _checked(config)
        self.labels = self._given = None if labels is None else LabelSet(labels)
        self.shots: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        weights = self.config.runtime.weights
        self._backbone = _shared(share, base, weights, device) or load_backbone(base, device=device, weights=weights)
        self._extractor = Extractor(self._backbone, self.config)
        figures, votes = self._backbone.figures, self.config.calibrate.votes
        self._expected = ExpectedCalibrations.of_base(figures, votes, f"{base}: {FIGURES_FILE}")
        self.calibration = self._expected.zero_shot
        self._adapter: Adapter | None = None

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
        examples: Sequence[Example],
        *,
        dev: Sequence[Example] | None = None,
        labels: Labels | None = None,
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
            examples: the shots.
            dev: sentences whose strict F1 decides when to stop, which weights to keep, and how scores are calibrated.
            labels: the types, with descriptions if a mapping. By default those of the constructor, otherwise those of
                ``examples``, with the descriptions that the recognizer already has.
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
        asked = self._labels_to_fit(examples, dev or (), labels)
        folder = None if checkpoint is None else Path(checkpoint)
        shown = TrainingProgress() if on_progress is None and not quiet and is_watched() else None
        with self._backbone.training(), shown or contextlib.nullcontext():
            outcome = fit(
                self._extractor,
                examples,
                asked,
                self._expected,
                dev=dev,
                checkpoint=folder,
                resume=resume,
                changes=recipe,
                on_progress=on_progress or shown,
            )
            # Still under the lock: another thread must never combine the new adapter with the old labels.
            self._adapter = self._backbone.adapters.capture()
            self.labels, self.calibration = asked, outcome.calibration
            self.shots = {
                "sentences": len(examples),
                "mentions": dict(sorted(mentions(examples).items())),
                "steps": outcome.steps,
                "learning_rate": outcome.learning_rate,
                "keep": round(outcome.keep, 4),
            }
            measured = {"dev strict micro F1": outcome.dev_f1, "held-out shots strict micro F1": outcome.held_out_f1}
            self.scores = {name: round(f1, 4) for name, f1 in measured.items() if f1 is not None}
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
        with self._backbone.lock:  # a training in another thread replaces these three together
            asked, adapter, calibration = self._asked(labels), self._adapter, self.calibration
        least = self.config.runtime.threshold or None if threshold is None else threshold
        if least is not None and not (isinstance(least, int | float) and 0.0 <= least <= 1.0):
            raise ConfigError(f"threshold must lie in 0 to 1, got {least!r}")
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise DataError(f"texts must be strings, one or many, got {type(texts).__name__} {str(texts)[:40]!r}")
        numbered = enumerate(texts)
        while chunk := list(islice(numbered, _STREAM_BATCH)):
            for number, text in chunk:
                if not isinstance(text, str):
                    raise DataError(f"a text must be a string, got {type(text).__name__} at position {number}")
            with self._backbone.reading(adapter):
                documents = self._extractor.extract([text for _, text in chunk], asked, calibration, least)
            yield from documents

    def evaluate(self, examples: Sequence[Example], *, labels: Labels | None = None, quick: bool = False) -> Scores:
        """Strict scores on gold examples: every type is asked of every sentence, and offsets must be exact.

        Args:
            examples: gold sentences.
            labels: the types to ask for; by default the recognizer's own, otherwise those of ``examples``.
            quick: leave out the scenarios of nervaluate.

        Raises:
            DataError: if there are no examples, or one breaks a rule.
        """
        if not examples:
            raise DataError("evaluation needs at least one sentence, got none")
        if labels is None and self.labels is None:
            labels = LabelSet.of_examples(examples)
        asked = self._asked(labels)
        documents = list(self.stream([example.text for example in examples], labels=asked))
        return evaluate_spans(examples, documents, asked, scenarios=not quick)

    def save(self, folder: str | Path) -> Path:
        """Write a model folder, which appears whole or not at all.

        Raises:
            ModelError: if nothing was trained, or the folder contains something other than a model.
        """
        with self._backbone.lock:
            adapter, record = self._adapter, self.info()
        if adapter is None:
            raise ModelError("there is no adapter to save: call fit() first")
        return write_model(Path(folder), record, adapter.save)

    def save_base(self, folder: str | Path) -> Path:
        """Write base and adapter merged into a new base, an ordinary causal LM to be trained further or used elsewhere.

        The types and the calibration are not part of the base. The folder appears whole or not at all.

        Raises:
            ModelError: if nothing was trained, the folder is not empty, or the weights are not in fp32.
        """
        target = Path(folder)
        if not self.trained:
            raise ModelError("there is no adapter to merge into the base: call fit() first")
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise ModelError(f"{target} holds something already; a base is written to a new folder")
        try:
            with self._backbone.reading(self._adapter), whole_folder(target) as aside:
                write_base(self._backbone, aside)
        except OSError as error:
            raise ModelError(f"the base cannot be written to {target}: {error}") from error
        return target

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        labels: Labels | None = None,
        config: Config | None = None,
        runtime: RuntimeConfig | None = None,
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
            device: as in the constructor.
            share: as in the constructor.

        Raises:
            ConfigError: if ``config`` has other values for settings that training fixed.
            ModelError: if the folder is damaged, or its base is not the one that it was trained on.
        """
        if not is_model_folder(model) and not (Path(model) / ADAPTER).is_file():
            settings = _checked(config).with_runtime(runtime)
            return cls(str(model), labels=labels, config=settings, device=device, share=share)
        record = read_manifest(model)
        saved = Config.from_dict(record["config"], f"{model}/cllmfs.json")
        if config is not None:
            if changed := changed_by(_checked(config).to_dict(), saved.to_dict()):
                raise ConfigError(
                    f"{model} was trained with another {', '.join(changed)}, which training fixes; pass runtime= to "
                    "change how the model is run, or train again"
                )
            runtime = runtime or config.runtime
        known = record["labels"] if labels is None else labels
        made = cls(record["base"], labels=known, config=saved.with_runtime(runtime), device=device, share=share)
        made._take_over(model, record)
        if labels is None:
            made._given = None  # new shots may bring new labels
        return made

    def _take_over(self, model: str | Path, record: Mapping[str, Any]) -> None:
        """Load what a model folder contains besides settings, if its base and prompt are those of this recognizer."""
        found = self._backbone.fingerprint.value
        if found != record["base_hash"]:
            raise ModelError(
                f"{model} was trained on another version of {self.base!r} ({record['base_hash'][:20]}…, found "
                f"{found[:20]}…); train it again, or install the version of cllmfs that it names: "
                f"{record.get('versions', {}).get('cllmfs')}"
            )
        if self._backbone.prompt.template != PromptTemplate.from_dict(record["prompt"], f"{model}/cllmfs.json"):
            raise ModelError(
                f"{model} was trained with another prompt than {self.base!r} has now; restore the base's "
                "cllmfs_prompt.json, or train again"
            )
        self._adapter = Adapter.load(Path(model))
        self.shots, self.scores = record.get("shots", {}), record.get("scores", {})
        self.calibration = self._expected.trained
        if "calibration" in record:
            self.calibration = Calibration.from_dict(record["calibration"], f"{model}/cllmfs.json")
        with self._backbone.reading(self._adapter):
            pass  # so that an adapter that does not fit its base is reported now

    def info(self) -> dict[str, Any]:
        """The content of the manifest of a model folder, ready for JSON."""
        return {
            "base": self.base,
            "base_hash": self._backbone.fingerprint.value,
            "trained": self.trained,
            "labels": dict(self.labels or {}),
            "prompt": self._backbone.prompt.template.to_dict(),
            "config": self.config.to_dict(),
            "versions": versions(),
            "shots": self.shots,
            "scores": self.scores,
            "calibration": self.calibration.to_dict(),
        }

    def _labels_to_fit(self, examples: Sequence[Example], dev: Sequence[Example], labels: Labels | None) -> LabelSet:
        if not examples:
            raise DataError("training needs at least one labeled sentence, got none")
        for example in [*examples, *dev]:
            example.check()
        if not any(example.spans for example in examples):
            raise DataError(f"none of the {len(examples)} sentences has a labeled span; label a few first")
        asked = self._given if labels is None else LabelSet(labels)
        if asked is None:
            known = dict(self.labels or {})
            asked = LabelSet({label: known.get(label, "") for label in LabelSet.of_examples(examples)})
        for example in [*examples, *dev]:
            for span in example.spans:
                if span.label not in asked:
                    raise DataError(
                        f"the label {span.label!r} is not among the labels given ({', '.join(asked)}); add it to them",
                        source=example.source,
                    )
        return asked

    def _asked(self, labels: Labels | None) -> LabelSet:
        if labels is not None:
            return LabelSet(labels)
        if self.labels is None:
            raise DataError(
                "no types are known: this base is not trained; name them with labels=… (or --labels, --label)"
            )
        return self.labels


def _checked(config: Config | None) -> Config:
    """The config, or the defaults."""
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config must be a Config, got {type(config).__name__}; Config.from_dict(...) checks a dict")
    return config or Config()


def _shared(other: EntityRecognizer | None, base: str, weights: str, device: str | None) -> Backbone | None:
    """The loaded base of another recognizer, if there is one and it is what would be loaded."""
    if other is None:
        return None
    if not isinstance(other, EntityRecognizer) or other.base != base:
        got = f"one of {other.base!r}" if isinstance(other, EntityRecognizer) else f"{other!r:.60}"
        raise ConfigError(f"share must be a recognizer of the same base, {base!r}, got {got}")
    elsewhere = device is not None and not str(other.device).startswith(device)  # "cuda" means "cuda:0", too
    if weights not in ("auto", other.config.runtime.weights) or elsewhere:
        raise ConfigError(
            f"the shared base has runtime.weights={other.config.runtime.weights} and is on {other.device}; leave "
            "runtime.weights and device out, or load the base again"
        )
    return other._backbone
