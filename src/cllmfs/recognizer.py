"""The recogniser: fit on few sentences, predict exact spans, evaluate, save, load.

The one place where training and decoding meet. Knows every module below; knows nothing of the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import torch
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from cllmfs.config import Config, LoraConfig
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.errors import DataError, ModelError
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.files import whole_folder
from cllmfs.model.bases import MINI, fingerprint
from cllmfs.model.folder import ADAPTER, is_model_folder, read_manifest, versions, write_model
from cllmfs.model.loading import load_backbone, write_base
from cllmfs.schema import Document, Example, LabelSet
from cllmfs.training.fit import Adaptation, prior_calibration, zero_shot_calibration
from cllmfs.training.shots import Progress

_STREAM_BATCH = 64
Labels = LabelSet | Mapping[str, str] | Iterable[str]


class EntityRecognizer:
    """Few-shot named entity recognition with a causal LM.

    ::

        ner = EntityRecognizer().fit(read_examples("shots.jsonl"))
        for span in ner.predict("The rear hub has play.").spans:
            print(span.start, span.end, span.label, span.score, span.text)

    Args:
        base: ``cllmfs-mini``, a folder or a hub id of a causal LM.
        labels: types that are asked when none are named elsewhere; with descriptions if a mapping.
        config: all settings; the defaults when not given.
        device: a torch device; a GPU where there is one, when not given.

    Raises:
        ModelError: if the base cannot be loaded.
    """

    def __init__(
        self,
        base: str = MINI,
        *,
        labels: Labels | None = None,
        config: Config | None = None,
        device: str | None = None,
    ) -> None:
        self.base = base
        self.config = config or Config()
        self.labels = None if labels is None else _label_set(labels)
        self.shots: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        self.calibration = zero_shot_calibration(self.config)
        self._backbone = load_backbone(base, device=device, weights=self.config.model.weights)
        self._extractor  # noqa: B018 - settings that the model cannot follow are told now

    @property
    def trained(self) -> bool:
        """Whether an adapter was trained or loaded."""
        return self._backbone.peft is not None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._backbone.device

    def fit(
        self,
        examples: Sequence[Example],
        *,
        dev: Sequence[Example] | None = None,
        labels: Labels | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> EntityRecognizer:
        """Train a LoRA adapter on labelled sentences.

        Args:
            examples: the shots.
            dev: sentences whose strict F1 decides when to stop and which weights stay.
            labels: the types, with descriptions if a mapping; those of ``examples`` when not given.
            checkpoint: folder in which the state is saved now and then.
            resume: go on from ``checkpoint`` if there is one.
            on_progress: called after every step.

        Returns:
            This recogniser, trained.

        Raises:
            DataError: if there is nothing to learn from or an example carries an unknown label.
            ModelError: if the checkpoint does not fit, or an adapter is there already.
        """
        if self.trained:
            raise ModelError("this recogniser is trained already; begin with EntityRecognizer(base)")
        asked = self._choose_labels(examples, dev, labels)
        adaptation = Adaptation(self._extractor, examples, asked)
        outcome = adaptation.run(dev, None if checkpoint is None else Path(checkpoint), resume, on_progress)
        self._backbone.merge_lora()
        self.labels, self.calibration = asked, outcome.calibration
        mentions = Counter(span.label for example in examples for span in example.spans)
        self.shots = {
            "sentences": len(examples),
            "mentions": dict(sorted(mentions.items())),
            "steps": outcome.steps,
            "learning_rate": outcome.learning_rate,
            "keep": round(outcome.keep, 4),
        }
        measured = {"dev strict micro F1": outcome.dev_f1, "held-out shots strict micro F1": outcome.held_out_f1}
        self.scores = {name: round(f1, 4) for name, f1 in measured.items() if f1 is not None}
        return self

    # A str is an iterable of str too; the first signature wins, which is meant.
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
        """Spans of a text, or of each of several texts.

        Args:
            texts: one text or many; any length, any script.
            labels: the types to ask; those trained on, or given at construction, when not given.
            threshold: spans of lower confidence are dropped; ``decode.threshold``, or the thresholds that were
                fitted on the shots, when not given.

        Raises:
            DataError: if no labels are known, or a text is no string.
        """
        if isinstance(texts, str):
            return next(self.stream([texts], labels=labels, threshold=threshold))
        return list(self.stream(texts, labels=labels, threshold=threshold))

    def stream(
        self, texts: Iterable[str], *, labels: Labels | None = None, threshold: float | None = None
    ) -> Iterator[Document]:
        """Like :meth:`predict`, one document at a time, reading ahead by a batch; for inputs of any size."""
        asked = self._asked(labels)
        limit = self.config.decode.threshold or None if threshold is None else threshold
        if limit is not None and not 0.0 <= limit <= 1.0:
            raise DataError(f"threshold must lie in 0 to 1, got {limit}")
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise DataError(f"texts must be strings, one or many, got {type(texts).__name__} {str(texts)[:40]!r}")
        source, done, extractor = iter(texts), 0, self._extractor
        while chunk := list(islice(source, _STREAM_BATCH)):
            for number, text in enumerate(chunk, done):
                if not isinstance(text, str):
                    raise DataError(f"a text must be a string, got {type(text).__name__} at position {number}")
            yield from extractor.extract(chunk, asked, self.calibration, limit)
            done += len(chunk)

    def evaluate(self, examples: Sequence[Example], *, labels: Labels | None = None, quick: bool = False) -> Scores:
        """Strict scores on gold examples: every type is asked of every sentence, offsets must be exact.

        Args:
            examples: gold sentences.
            labels: the types to ask; the recogniser's own, else those of ``examples``, when not given.
            quick: leave out the nervaluate scenarios.
        """
        if not examples:
            raise DataError("evaluation needs at least one sentence, got none")
        if labels is None and self.labels is None:
            labels = LabelSet.of_examples(examples)
        asked = self._asked(labels)
        documents = list(self.stream([example.text for example in examples], labels=asked))
        return evaluate_spans(examples, documents, asked, scenarios=not quick)

    def save(self, folder: str | Path) -> Path:
        """Write a model folder; whole or not at all.

        Raises:
            ModelError: if nothing was trained, or the folder holds something else.
        """
        if not self.trained or self.labels is None:
            raise ModelError("there is no adapter to save: call fit() first")
        return write_model(Path(folder), self.info(), self._backbone.peft)

    def save_base(self, folder: str | Path) -> Path:
        """Write base and adapter as one base: an ordinary model folder, to be adapted further or used elsewhere.

        Types and calibration belong to the trained model and are not in it. The folder appears whole or not at all.

        Raises:
            ModelError: if nothing was trained, the folder holds something, or the weights are not in fp32.
        """
        target = Path(folder)
        if not self.trained:
            raise ModelError("there is no adapter to put into the base: call fit() first")
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise ModelError(f"{target} holds something already; a base is written to a new folder")
        try:
            with whole_folder(target) as aside:
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
        device: str | None = None,
    ) -> EntityRecognizer:
        """A trained folder, or a base, which answers zero-shot.

        Args:
            model: a folder that :meth:`save` wrote, ``cllmfs-mini``, a folder of a causal LM, or a hub id.
            labels: for a base, the types to ask; for a trained model, they replace its own.
            config: replaces the saved settings.
            device: as in the constructor.

        Raises:
            ModelError: if the folder is damaged, or its base is not the one it was trained on.
        """
        if not is_model_folder(model) and not (Path(model) / ADAPTER).is_file():
            return cls(str(model), labels=labels, config=config, device=device)
        record = read_manifest(model).record
        saved = Config.from_dict(record["config"], f"{model}/cllmfs.json")
        made = cls(
            record["base"], labels=record["labels"] if labels is None else labels, config=config or saved, device=device
        )
        found = made._fingerprint()
        if found != record["base_hash"]:
            raise ModelError(
                f"{model} was trained on another version of {made.base!r} ({record['base_hash'][:20]}…, found "
                f"{found[:20]}…); train it again, or install the version of cllmfs it names: "
                f"{record.get('versions', {}).get('cllmfs')}"
            )
        if made._backbone.prompt.template != PromptTemplate.from_dict(record["prompt"], f"{model}/cllmfs.json"):
            raise ModelError(
                f"{model} was trained with another prompt than {made.base!r} has now; put the base's "
                "cllmfs_prompt.json back as it was, or train again"
            )
        made._load_adapter(Path(model) / ADAPTER, saved.lora)
        made.shots, made.scores = record.get("shots", {}), record.get("scores", {})
        made.calibration = prior_calibration(made.config)
        if "calibration" in record:
            made.calibration = Calibration.from_dict(record["calibration"], f"{model}/cllmfs.json")
        return made

    def info(self) -> dict[str, Any]:
        """What the manifest of a model folder holds, JSON-ready."""
        return {
            "base": self.base,
            "base_hash": self._fingerprint(),
            "trained": self.trained,
            "labels": dict(self.labels or {}),
            "prompt": self._backbone.prompt.template.to_dict(),
            "config": self.config.to_dict(),
            "versions": versions(),
            "shots": self.shots,
            "scores": self.scores,
            "calibration": self.calibration.to_dict(),
        }

    @property
    def _extractor(self) -> Extractor:
        """Reads with the settings of this moment."""
        return Extractor(self._backbone, self.config)

    def _fingerprint(self) -> str:
        return fingerprint(self.base, getattr(self._backbone.model.config, "_commit_hash", None))

    def _choose_labels(
        self, examples: Sequence[Example], dev: Sequence[Example] | None, labels: Labels | None
    ) -> LabelSet:
        if not examples:
            raise DataError("training needs at least one labelled sentence, got none")
        for example in [*examples, *(dev or ())]:
            example.check()
        if not any(example.spans for example in examples):
            raise DataError(f"none of the {len(examples)} sentences has a labelled span; label a few first")
        if labels is not None:
            asked = _label_set(labels)
        elif self.labels is not None:
            asked = self.labels
        else:
            asked = LabelSet.of_examples(examples)
        for example in [*examples, *(dev or ())]:
            for span in example.spans:
                if span.label not in asked:
                    raise DataError(
                        f"the label {span.label!r} is not among the labels given ({', '.join(asked)}); add it to them",
                        source=example.source,
                    )
        return asked

    def _asked(self, labels: Labels | None) -> LabelSet:
        if labels is not None:
            return _label_set(labels)
        if self.labels is None:
            raise DataError("which types? this base is not trained: name them with labels=… (or --labels, --label)")
        return self.labels

    def _load_adapter(self, path: Path, lora: LoraConfig) -> None:
        self._backbone.attach_lora(replace(lora, dropout=0.0))
        try:
            outcome = set_peft_model_state_dict(self._backbone.peft, load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise ModelError(f"{path} does not fit its base: {str(error).splitlines()[0]}") from error
        if wrong := [*outcome.unexpected_keys, *(key for key in outcome.missing_keys if "lora_" in key)]:
            raise ModelError(f"{path} does not fit its base: the weight {wrong[0]!r} is unknown or missing")
        self._backbone.model.eval()
        self._backbone.merge_lora()


def _label_set(labels: Labels) -> LabelSet:
    if isinstance(labels, str):
        raise DataError(f"labels must be a list or a mapping, got the string {labels!r}; write [{labels!r}]")
    return labels if isinstance(labels, LabelSet) else LabelSet(labels)
