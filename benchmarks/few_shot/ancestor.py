"""What the method came from: its contrast and its decoding on the same base, without what this project adds.

LoRA on the cross-entropy over the sentence's tokens, beside it the boundary contrast of the method's public ancestor
(:func:`cllmfs.training.contrast.ancestor`); answers are greedy and held to a bag: any token of the sentence, or a
delimiter, at any step. What an answer names may therefore stand nowhere in the sentence: that is counted and dropped;
the rest is read at its first place. Of spans of several types that overlap all stay, there being no score to choose by.
The prompt is that of the base, and types that a sentence does not hold are asked in training, too, which the ancestor
left out.

A system of ``cllmfs benchmark``, as config.toml names it; how the recipe was chosen is in the README.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.few_shot.adapter import found_document
from benchmarks.speed.naive import Found, grounded
from cllmfs.benchmark.system import run
from cllmfs.benchmark.task import Task
from cllmfs.config import Config
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.runners import CachedRunner, PlainRunner
from cllmfs.encoding.batches import Row, collate, pack
from cllmfs.encoding.tokens import tokenize
from cllmfs.model.loading import load_backbone
from cllmfs.schema import Document, Example, LabelSet
from cllmfs.training.fit import Adaptation

# The second rung of benchmarks/ablation and the ancestor's contrast at its own weight.
SETTINGS = (
    "loss.contrastive=ancestor",
    "loss.contrastive_weight=0.001",
    "loss.support=sentence",
    "lora.keep=1",
    "train.replay=0",
    "train.swap_mentions=0",
    "calibrate.folds=0",
)
_CHUNK = 64  # sentences read at once


@dataclass
class _Answer:
    """A branch while it answers: its row in the batch, its number in the row, its tokens so far."""

    row: int
    number: int
    emitted: list[int]


class BagReader:
    """Greedy answers of any tokens of the sentence, as they are read at its places.

    Args:
        extractor: the model, its rows and its settings.
        labels: the types asked of every text.
        cached: use the key-value cache where the model takes trees; without it every step runs the row anew, which
            must give the same.

    Attributes:
        counts: "answered" spans, of which some are "ungrounded", in no place of the sentence, or "repeated" more often
            than they stand there.
        chosen: steps and rate of the training, to be kept with the results.
    """

    def __init__(self, extractor: Extractor, labels: LabelSet, cached: bool = True) -> None:
        self.extractor = extractor
        self.labels = labels
        self.cached = cached and extractor.backbone.takes_trees()
        self.counts = Counter({"answered": 0, "ungrounded": 0, "repeated": 0})
        self.chosen: dict[str, Any] = {}

    def predict(self, texts: Sequence[str]) -> list[Found]:
        """The spans of each text, in characters; of long texts what one window holds."""
        extractor = self.extractor
        window, queries = extractor.window(self.labels), extractor.queries(self.labels)
        found: list[Found] = [set() for _ in texts]
        rows = list[Row]()
        for number, text in enumerate(texts):
            sentence = tokenize(extractor.backbone.tokenizer, text).slice(0, window)
            rows += extractor.builder.rows(sentence, queries, number) if len(sentence) else []
        for group in pack(rows, extractor.config.decode.batch_tokens):
            for answer in self._answers(group):
                row = group[answer.row]
                places = grounded(row.sentence, answer.emitted, extractor.backbone.prompt, self.counts)
                label = row.branches[answer.number].label
                found[row.index] |= {(*row.sentence.char_range(*place), label) for place in places}
        return found

    @torch.inference_mode()
    def _answers(self, rows: Sequence[Row]) -> list[_Answer]:
        backbone, budget = self.extractor.backbone, self.extractor.config.decode.batch_tokens
        with backbone.at_rest():
            batch = collate(rows).to(backbone.device)
            runner = (CachedRunner if self.cached else PlainRunner)(backbone, batch, self.extractor.bidirectional)
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
            candidates = rows[answer.row].candidates  # what stands behind them pads
            answer.emitted.append(candidates[int(scores[: len(candidates)].argmax())])

    def _goes_on(self, answer: _Answer, rows: Sequence[Row]) -> bool:
        row, backbone = rows[answer.row], self.extractor.backbone
        room = min(2 * len(row.sentence) + 1, backbone.max_positions - row.path_length(answer.number))
        return answer.emitted[-1] != backbone.prompt.end_id and len(answer.emitted) < room


def learn(task: Task, base: str, settings: Sequence[str]) -> BagReader:
    """Train on the task's shots by :data:`SETTINGS`, changed by ``settings``."""
    config = Config().with_settings([*SETTINGS, f"train.seed={task.seed}", *settings])
    labels = LabelSet(task.labels)
    extractor = Extractor(load_backbone(base), config)
    outcome = Adaptation(extractor, task.shots, labels).run()
    extractor.backbone.merge_lora()
    reader = BagReader(extractor, labels)
    reader.chosen = {"steps": outcome.steps, "learning_rate": outcome.learning_rate}
    return reader


def predict(reader: BagReader, examples: Sequence[Example]) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    texts = [example.text for example in examples]
    found = [one for start in range(0, len(texts), _CHUNK) for one in reader.predict(texts[start : start + _CHUNK])]
    return [found_document(text, spans) for text, spans in zip(texts, found, strict=True)]


def facts(reader: BagReader, _: Task) -> dict[str, Any]:
    """How it was trained, and what became of its answers."""
    device = reader.extractor.backbone.device.type
    return {"chosen": reader.chosen, "answers": dict(reader.counts), "device": device}


def main() -> None:
    """Do the task that the command line names."""
    run("The method's ancestor as a system of a benchmark.", learn, predict, facts)


if __name__ == "__main__":
    main()
