"""The public method that cllmfs grew out of, on the same base: its contrastive objective and its decoding.

LoRA is trained with the cross-entropy over the tokens of the sentence and the boundary contrast of that method
(:func:`cllmfs.training.contrast.ancestor`). Decoding is greedy, and an answer is a bag of tokens: at any step it may
contain any token of the sentence, or a delimiter. A mention in an answer may therefore not occur in the sentence; such
mentions are counted and dropped, and the others are placed at their first occurrence. Spans of different types may
overlap, since there are no scores to choose between them. Unlike the original method, the prompt is that of the base,
and training also asks types that a sentence does not have.

A system of ``cllmfs benchmark``, see config.toml. The README states how the recipe was chosen.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.ablation import variants
from benchmarks.few_shot.baseline import found_document
from benchmarks.speed.naive import Found, grounded
from cllmfs.benchmark.system import PACKAGES, split_settings, system_parser
from cllmfs.benchmark.task import Task, serve
from cllmfs.config import Config
from cllmfs.decoding.calibration import ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.runners import CachedRunner, PlainRunner
from cllmfs.encoding.batches import collate, pack
from cllmfs.encoding.rows import Row
from cllmfs.model.loading import load_backbone
from cllmfs.schema import Document, Example, LabelSet
from cllmfs.training.fit import fit

# The second step of the ladder in benchmarks/ablation, plus the ancestor's contrastive objective at its own weight.
SETTINGS = (
    "loss.contrastive=ancestor",
    "loss.contrastive_weight=0.001",
    "lora.keep=1",
    "train.replay=0",
    "train.swap_mentions=0",
    "calibrate.folds=0",
)
_CHUNK = 64  # texts that are predicted at once


@dataclass
class _Answer:
    """The answer of a branch: its row in the batch, its number in the row, and its tokens so far."""

    row: int
    number: int
    emitted: list[int]


class BagReader:
    """Predicts spans from greedy answers that may contain any tokens of the sentence.

    Args:
        extractor: the model, its rows and its settings.
        labels: the types that are asked of every text.
        cached: use the key-value cache if the model supports trees; otherwise every step runs the whole row again, with
            the same result.

    Attributes:
        counts: the mentions that were "answered", those of them that are "ungrounded", because they do not occur in the
            sentence, and those that are "repeated" more often than they occur.
        chosen: the steps and the learning rate of the training, for the results.
    """

    def __init__(self, extractor: Extractor, labels: LabelSet, cached: bool = True) -> None:
        self.extractor = extractor
        self.labels = labels
        self.cached = cached and extractor.backbone.takes_trees()
        self.counts = Counter({"answered": 0, "ungrounded": 0, "repeated": 0})
        self.chosen: dict[str, Any] = {}

    def predict(self, texts: Sequence[str]) -> list[Found]:
        """The spans of each text, in characters; a long text is cut at the end of its first window."""
        extractor = self.extractor
        encoder, queries = extractor.encoder, extractor.encoder.queries(self.labels)
        window = encoder.window(queries)
        found: list[Found] = [set() for _ in texts]
        rows = list[Row]()
        for number, text in enumerate(texts):
            sentence = encoder.tokenize(text).slice(0, window)
            rows += encoder.rows(sentence, queries, number) if len(sentence) else []
        for group in pack(rows, extractor.config.runtime.batch_tokens):
            for answer in self._answers(group):
                row = group[answer.row]
                places = grounded(row.sentence, answer.emitted, extractor.backbone.prompt, self.counts)
                label = row.branches[answer.number].label
                found[row.index] |= {(*row.sentence.char_range(*place), label) for place in places}
        return found

    @torch.inference_mode()
    def _answers(self, rows: Sequence[Row]) -> list[_Answer]:
        backbone, budget = self.extractor.backbone, self.extractor.config.runtime.batch_tokens
        with backbone.at_rest():
            batch = collate(rows).to(backbone.device)
            runner = (CachedRunner if self.cached else PlainRunner)(backbone, batch)
            answers = [_Answer(r, b, []) for r, row in enumerate(rows) for b in range(len(row.branches))]
            self._emit(answers, rows, runner.first(None)[0])
            going = [answer for answer in answers if self._goes_on(answer, rows)]
            for active in pack(going, budget, lambda one: rows[one.row].path_length(one.number)):
                while active:
                    self._emit(active, rows, runner.feed(active, [()] * len(active))[:, 0])
                    active = [answer for answer in active if self._goes_on(answer, rows)]
        return answers

    def _emit(self, answers: Sequence[_Answer], rows: Sequence[Row], logits: Any) -> None:
        for answer, scores in zip(answers, logits, strict=True):
            candidates = rows[answer.row].candidates  # columns beyond them are padding
            answer.emitted.append(candidates[int(scores[: len(candidates)].argmax())])

    def _goes_on(self, answer: _Answer, rows: Sequence[Row]) -> bool:
        row, backbone = rows[answer.row], self.extractor.backbone
        room = min(2 * len(row.sentence) + 1, backbone.max_positions - row.path_length(answer.number))
        return answer.emitted[-1] != backbone.prompt.end_id and len(answer.emitted) < room


def learn(task: Task, arguments: argparse.Namespace) -> BagReader:
    """Train on the shots with :data:`SETTINGS` and the settings of the command line."""
    variants.install("sentence-loss")
    settings, changes = split_settings([*SETTINGS, f"train.seed={task.seed}", *arguments.set])
    labels, backbone = LabelSet(task.labels), load_backbone(arguments.base)
    extractor = Extractor(backbone, Config().with_settings(settings))
    outcome = fit(extractor, task.shots, labels, ExpectedCalibrations(), changes=changes)
    backbone.adapters.merge()
    reader = BagReader(extractor, labels)
    reader.chosen = {"steps": outcome.steps, "learning_rate": outcome.learning_rate}
    return reader


def predict(reader: BagReader, examples: Sequence[Example]) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    texts = [example.text for example in examples]
    found = [one for start in range(0, len(texts), _CHUNK) for one in reader.predict(texts[start : start + _CHUNK])]
    return [found_document(text, spans) for text, spans in zip(texts, found, strict=True)]


def facts(reader: BagReader, *_: Any) -> dict[str, Any]:
    """The training, the counts of the answers and the device."""
    device = reader.extractor.backbone.device.type
    return {"chosen": reader.chosen, "answers": dict(reader.counts), "device": device}


def main() -> None:
    """Do the task that the command line names."""
    serve(system_parser("The method's ancestor as a system of a benchmark."), learn, predict, facts, PACKAGES)


if __name__ == "__main__":
    main()
