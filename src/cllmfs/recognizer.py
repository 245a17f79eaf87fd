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

from cllmfs.alignment import tokenize
from cllmfs.batching import RowBuilder, TypeQuery, split_queries
from cllmfs.config import Config, LoraConfig
from cllmfs.decoding import Request, VoteSettings, decode
from cllmfs.errors import DataError, ModelError
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.model import MINI, fingerprint, load_backbone
from cllmfs.optimisation import Optimisation, autocast
from cllmfs.schema import Document, Example, LabelSet, Span
from cllmfs.store import ADAPTER, is_model_folder, read_manifest, versions, write_model
from cllmfs.training import Progress, ShotBatches, Trainer, answered_labels, choose_rate, choose_steps, prepare_shots
from cllmfs.windows import resolve_conflicts, windows

_STREAM_BATCH = 64
_PROBED = 50  # shots at most on which the base is tried before training
_SHARES = (0.8, 0.6, 0.4)  # of the trained update, tried on a dev set
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
        self._backbone = load_backbone(base, device=device)
        self._set_up()

    @property
    def trained(self) -> bool:
        """Whether an adapter was trained or loaded."""
        return self._backbone.peft is not None

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
        edges, overlap = self.config.decode.edges, self.config.decode.overlap_tokens
        shots = prepare_shots(examples, self._backbone, self._builder, edges, self._window(asked), overlap)
        torch.manual_seed(self.config.train.seed)  # the adapter begins with random weights
        train = self.config.train
        settled = train.learning_rate and (dev or self.config.lora.keep)
        probed = [] if settled else examples[:: -(-len(examples) // _PROBED)]
        known = self.evaluate(probed, labels=asked, quick=True).micro.f1 if probed else 0.0
        train = replace(train, learning_rate=train.learning_rate or choose_rate(known))
        self._backbone.attach_lora(self.config.lora)
        self.labels = asked
        batches = ShotBatches(shots, answered_labels(asked, shots), self._backbone, self._builder, self.config)
        steps = train.steps or choose_steps(len(shots), train.batch_sentences)
        optimisation = Optimisation(self._backbone, batches, steps, self.config.loss, train, self._bidirectional)
        evaluate = None if not dev else lambda: self.evaluate(dev, quick=True).micro.f1
        trainer = Trainer(optimisation, evaluate, None if checkpoint is None else Path(checkpoint))
        trainer.run(resume, on_progress)
        share, dev_f1 = self._move_back(evaluate, trainer.best_f1, known)
        mentions = Counter(span.label for example in examples for span in example.spans)
        counted = {"sentences": len(examples), "mentions": dict(sorted(mentions.items()))}
        self.shots = {**counted, "steps": optimisation.done, "learning_rate": train.learning_rate, "keep": share}
        self.scores = {} if dev_f1 is None else {"dev strict micro F1": round(dev_f1, 4)}
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
            threshold: spans with a lower score are dropped; ``decode.threshold`` when not given.

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
        limit = self.config.decode.threshold if threshold is None else threshold
        if not 0.0 <= limit <= 1.0:
            raise DataError(f"threshold must lie in 0 to 1, got {limit}")
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise DataError(f"texts must be strings, one or many, got {type(texts).__name__} {str(texts)[:40]!r}")
        source, done = iter(texts), 0
        while chunk := list(islice(source, _STREAM_BATCH)):
            for number, text in enumerate(chunk, done):
                if not isinstance(text, str):
                    raise DataError(f"a text must be a string, got {type(text).__name__} at position {number}")
            yield from self._predict_chunk(chunk, asked, limit)
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
        found = fingerprint(made.base, made._backbone.model)
        if found != record["base_hash"]:
            raise ModelError(
                f"{model} was trained on another version of {made.base!r} ({record['base_hash'][:20]}…, found "
                f"{found[:20]}…); train it again, or install the version of cllmfs it names: "
                f"{record.get('versions', {}).get('cllmfs')}"
            )
        if made._backbone.prompt.template.to_dict() != record["prompt"]:
            raise ModelError(
                f"{model} was trained with another prompt than {made.base!r} has now; put the base's "
                "cllmfs_prompt.json back as it was, or train again"
            )
        made._load_adapter(Path(model) / ADAPTER, saved.lora)
        made.shots, made.scores = record.get("shots", {}), record.get("scores", {})
        return made

    def info(self) -> dict[str, Any]:
        """What the manifest of a model folder holds, JSON-ready."""
        return {
            "base": self.base,
            "base_hash": fingerprint(self.base, self._backbone.model),
            "trained": self.trained,
            "labels": dict(self.labels or {}),
            "prompt": self._backbone.prompt.template.to_dict(),
            "config": self.config.to_dict(),
            "versions": versions(),
            "shots": self.shots,
            "scores": self.scores,
        }

    def _move_back(
        self, evaluate: Callable[[], float] | None, dev_f1: float | None, known: float
    ) -> tuple[float, float | None]:
        """Interpolate the trained weights with the base's (arXiv 2109.01903); the share kept, and its dev F1.

        Without a dev set the base's F1 on the shots before training, ``known``, tells how much there is to lose:
        ``docs/log.md`` has the measurements.
        """
        lora = self.config.lora
        if lora.dora:  # its magnitudes are no update that could be scaled
            return 1.0, dev_f1
        if lora.keep or evaluate is None:
            share = lora.keep or max(0.5, 1.0 - 1.25 * known)
            self._backbone.scale_lora(share)
            return round(share, 4), None if evaluate is None else evaluate()
        best, now = (dev_f1 or 0.0, 1.0), 1.0
        for share in _SHARES:
            self._backbone.scale_lora(share / now)
            now = share
            best = max(best, (evaluate(), share))
        self._backbone.scale_lora(best[1] / now)
        return best[1], best[0]

    def _set_up(self) -> None:
        prompt, wish = self.config.prompt, self.config.prompt.prefix_attention
        attention = self._backbone.prompt.template.prefix_attention if wish == "auto" else wish
        takes_trees = self._backbone.takes_trees()
        if prompt.tree == "on" and not takes_trees:
            raise ModelError(f"prompt.tree = on, but {self.base} cannot share a sentence between types; set it to auto")
        self._bidirectional = attention == "bidirectional" and prompt.order == "sentence-first"
        if self._bidirectional and not takes_trees:
            raise ModelError(f"{self.base} takes no 4-D attention mask, so prompt.prefix_attention must be causal")
        tree = takes_trees and prompt.tree != "off"
        self._builder = RowBuilder(self._backbone.prompt, prompt.order, tree, self.config.decode.nested)

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

    def _predict_chunk(self, texts: Sequence[str], labels: LabelSet, threshold: float) -> list[Document]:
        config = self.config.decode
        described = self.config.prompt.descriptions
        queries = tuple(
            TypeQuery(label, tuple(self._backbone.prompt.query(label, description if described else "")))
            for label, description in labels.items()
        )
        requests: list[Request] = []
        origins: list[tuple[int, tuple[int, int]]] = []  # the text of each request, and the tokens it owns
        counts = [0] * len(texts)
        limit = self._window(labels)
        for number, text in enumerate(texts):
            tokens = tokenize(self._backbone.tokenizer, text, config.edges)
            for part in windows(tokens, limit, self.config.decode.overlap_tokens):
                counts[number] += 1
                sentence = tokens.slice(part.start, part.end)
                for group in split_queries(queries, config.batch_tokens - len(sentence)):
                    requests.append(Request(sentence, group))
                    origins.append((number, (part.owns[0] - part.start, part.owns[1] - part.start)))
        with autocast(self._backbone.device, self.config.train.precision):
            answers = decode(
                self._backbone, self._builder, requests, config,
                bidirectional=self._bidirectional, voting=self._voting(),
            )  # fmt: skip
        found: list[list[Span]] = [[] for _ in texts]
        for request, (number, owns), spans in zip(requests, origins, answers, strict=True):
            for span in spans:
                if owns[0] <= span.first < owns[1] and span.score >= threshold:
                    start, end = request.sentence.char_range(span.first, span.last)
                    found[number].append(Span(start, end, span.label, span.score, texts[number][start:end]))
        return [
            Document(text, tuple(resolve_conflicts(spans, config.nested)), max(count, 1))
            for text, spans, count in zip(texts, found, counts, strict=True)
        ]

    def _voting(self) -> VoteSettings:
        loss, weight = self.config.loss, self.config.decode.vote_weight
        return VoteSettings(weight, self._backbone.layer_index(loss.contrastive_layer), loss.temperature)

    def _window(self, labels: LabelSet) -> int:
        """Sentence tokens read at once: what is set, within what the model's positions leave beside the query."""
        prompt = self._backbone.prompt
        described = self.config.prompt.descriptions
        query = max(len(prompt.query(label, text if described else "")) for label, text in labels.items())
        frame = len(prompt.bos) + len(prompt.before) + len(prompt.after) + len(prompt.open) + query
        wished = self.config.decode.window_tokens or min(512, self._backbone.max_positions // 2)
        # An answer can be as long as the sentence and a delimiter a token: leave room for a quarter of that.
        room = int((self._backbone.max_positions - frame) / 1.5)
        if room < 8:
            raise DataError(
                f"a label's description is too long: the query takes {frame} of the model's "
                f"{self._backbone.max_positions} positions; shorten it or set prompt.descriptions=false"
            )
        return min(wished, room)

    def _load_adapter(self, path: Path, lora: LoraConfig) -> None:
        self._backbone.attach_lora(replace(lora, dropout=0.0))
        try:
            outcome = set_peft_model_state_dict(self._backbone.peft, load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise ModelError(f"{path} does not fit its base: {str(error).splitlines()[0]}") from error
        if wrong := [*outcome.unexpected_keys, *(key for key in outcome.missing_keys if "lora_" in key)]:
            raise ModelError(f"{path} does not fit its base: the weight {wrong[0]!r} is unknown or missing")
        self._backbone.model.eval()


def _label_set(labels: Labels) -> LabelSet:
    if isinstance(labels, str):
        raise DataError(f"labels must be a list or a mapping, got the string {labels!r}; write [{labels!r}]")
    return labels if isinstance(labels, LabelSet) else LabelSet(labels)
