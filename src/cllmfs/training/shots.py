"""Few-shot training: which rows stand in which step, how many steps there are, when to stop.

Turns labelled sentences into steps for :mod:`cllmfs.training.loop`, evaluates on a dev set through a callable, keeps
the best adapter, saves checkpoints. Knows nothing of decoding, metrics, folders of finished models or progress bars.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cllmfs.config import Config
from cllmfs.encoding.batches import Batch, Row, RowBuilder, TypeQuery, collate, pack
from cllmfs.encoding.tokens import TokenizedText, align, tokenize
from cllmfs.encoding.windows import gold_in_window, windows
from cllmfs.errors import DataError
from cllmfs.model.backbone import Backbone
from cllmfs.schema import Example, LabelSet
from cllmfs.training.loop import Optimisation, Step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where training stands after a step.

    Attributes:
        step: the step's losses.
        tokens_per_second: since training began or resumed.
        dev_f1: strict micro-F1 of the last evaluation on the dev set, or ``None``.
        best_f1: the best so far, or ``None``.
        phase: what is being trained.
    """

    step: Step
    tokens_per_second: float
    dev_f1: float | None = None
    best_f1: float | None = None
    phase: str = "training"


@dataclass(frozen=True)
class Shot:
    """A training sentence in tokens, with its gold answers: (first, last) token spans by label."""

    sentence: TokenizedText
    gold: Mapping[str, tuple[tuple[int, int], ...]]


def prepare_shots(
    examples: Sequence[Example],
    backbone: Backbone,
    builder: RowBuilder,
    edges: str,
    window: int,
    overlap: int,
    quiet: bool = False,
) -> list[Shot]:
    """Tokenise the examples, long ones in windows; gold spans that cannot be emitted are named in a warning.

    With ``quiet`` nothing is said and nothing raised: for examples that were prepared before, varied or in part.

    Raises:
        DataError: if no example has a token, or there are gold spans and none can be emitted.
    """
    shots, lost, total = [], [], 0
    for example in examples:
        tokens = tokenize(backbone.tokenizer, example.text, edges)
        spans, off = align(tokens, example.spans)
        total += len(example.spans)
        lost += [(example, span.start, span.end, span.label) for span in off]
        kept: set[tuple[int, int, str]] = set()
        for part in windows(tokens, window, overlap):
            sentence = tokens.slice(part.start, part.end)
            automaton = builder.automaton(sentence)
            inside = gold_in_window(part, spans)
            gold = {}
            for label in sorted({label for _, _, label in inside}):
                asked = [(first, last) for first, last, name in inside if name == label]
                gold[label] = tuple(automaton.emittable(asked))
                kept |= {(first + part.start, last + part.start, label) for first, last in gold[label]}
            shots.append(Shot(sentence, gold))
        for first, last, label in spans:
            if (first, last, label) not in kept:
                lost.append((example, *tokens.char_range(first, last), label))
    if quiet:
        return shots
    if not shots:
        raise DataError(f"training needs at least one sentence with words in it, got {len(examples)} empty texts")
    if lost:
        example, start, end, label = lost[0]
        what = (
            f"{len(lost)} gold span(s) are left out of training: they end inside a word, overlap another span of their "
            f"label or fit no window, such as {example.text[start:end]!r} ({label}) in "
            f"{example.source or repr(example.text[:40])}; decode.edges=token, decode.nested=true or a larger "
            "decode.window_tokens may let them in"
        )
        if len(lost) == total:
            raise DataError(f"training needs at least one span that can be answered; all {what}")
        logger.warning("%s", what)
    return shots


def answered_labels(labels: LabelSet, shots: Sequence[Shot], quiet: bool = False) -> LabelSet:
    """Labels that some shot answers: one that none does would only ever be taught to answer nothing."""
    seen = {label for shot in shots for label, spans in shot.gold.items() if spans}
    missing = [label for label in labels if label not in seen]
    if missing and not quiet:
        logger.warning("no example for %s: asked as the base knows it, not trained", ", ".join(missing))
    return LabelSet({label: text for label, text in labels.items() if label in seen})


def choose_steps(shots: int, batch_sentences: int) -> int:
    """Steps for a number of training sentences: 20 passes, beyond 480 steps fewer, at least 6; from 60 to 2,000 steps.

    Twice as many passes were no better on development data (``docs/log.md``).
    """
    per_epoch = max(1, -(-shots // batch_sentences))
    return min(2000, max(60, min(20 * per_epoch, max(480, 6 * per_epoch))))


def choose_rate(width: int) -> float:
    """The learning rate for a base of this hidden width: 2e-3 up to 384, chosen on development data, then falling.

    The best rate falls as 1 / width (arXiv 2203.03466): 1.9e-4 at 4,096.
    """
    return 2e-3 * min(1.0, 384 / width)


def choose_negatives(shots: int) -> int:
    """Absent types to ask of a sentence: 8, of more than 100 shots 20.

    Many shots are passed over less often, so that a sentence would be asked for each of many types hardly once. Chosen
    on development data; ``docs/log.md`` has the figures.
    """
    return 20 if shots > 100 else 8


class ShotBatches:
    """The batches of every step, as a function of the step's number.

    Each epoch visits every sentence once, in an order drawn from (seed, epoch). A sentence is asked all its present
    types and some absent ones (``train.negatives``), drawn anew each epoch.

    Args:
        shots: the sentences.
        labels: the types that may be asked.
        backbone: encodes the queries.
        builder: makes the rows.
        config: batch sizes, negatives, seed.
        varied: the shots of an epoch other than the first, as many as ``shots``; always ``shots`` when not given.
        general: rows of other sentences that are mixed into a step.
    """

    def __init__(
        self,
        shots: Sequence[Shot],
        labels: LabelSet,
        backbone: Backbone,
        builder: RowBuilder,
        config: Config,
        varied: Callable[[int], Sequence[Shot]] | None = None,
        general: Callable[[int], Sequence[Row]] | None = None,
    ) -> None:
        self.shots = shots
        self.varied = varied
        self.general = general
        self._epoch: tuple[int, Sequence[Shot]] = (0, shots)
        self.builder = builder
        self.config = config
        asked = config.train.negatives
        self.negatives = asked if asked >= 0 else choose_negatives(len(shots))
        described = config.prompt.descriptions
        self.queries = {
            label: tuple(backbone.prompt.query(label, description if described else ""))
            for label, description in labels.items()
        }
        self.per_epoch = max(1, -(-len(shots) // config.train.batch_sentences))

    def __call__(self, step: int) -> list[Batch]:
        """The batches of a step, each within ``train.batch_tokens``."""
        epoch, part = divmod(step, self.per_epoch)
        rng = random.Random(f"{self.config.train.seed}/{epoch}")
        order = sorted(range(len(self.shots)), key=lambda _: rng.random())
        if self.varied is not None and epoch != self._epoch[0]:
            self._epoch = (epoch, self.varied(epoch) if epoch else self.shots)
        size = self.config.train.batch_sentences
        rows: list[Row] = []
        for index in order[part * size : (part + 1) * size]:
            rows += self._rows(index, random.Random(f"{self.config.train.seed}/{epoch}/{index}"))
        if self.general is not None:
            rows += self.general(step)
        return [collate(group) for group in pack(rows, self.config.train.batch_tokens)]

    def _rows(self, index: int, rng: random.Random) -> list[Row]:
        shot = self._epoch[1][index]
        present = [label for label in self.queries if shot.gold.get(label)]
        absent = [label for label in self.queries if not shot.gold.get(label)]
        drawn = set(present) | set(sorted(absent, key=lambda _: rng.random())[: self.negatives])
        asked = [
            TypeQuery(label, ids, tuple(shot.gold.get(label, ())))
            for label, ids in self.queries.items()
            if label in drawn
        ]
        return self.builder.rows(shot.sentence, asked, index)


class Trainer:
    """Runs an optimisation with early stopping and checkpoints.

    Args:
        optimisation: the loop, not yet begun.
        evaluate: strict F1 on the dev set with the present weights; ``None`` without a dev set.
        checkpoint: folder for checkpoints; ``None`` saves none.
    """

    def __init__(
        self, optimisation: Optimisation, evaluate: Callable[[], float] | None, checkpoint: Path | None
    ) -> None:
        self.optimisation = optimisation
        self.evaluate = evaluate
        self.checkpoint = checkpoint
        train, total = optimisation.train, optimisation.total
        self.evaluate_every = train.evaluate_every or max(1, total // 10)
        self.best: dict[str, Tensor] = {}
        self.best_f1: float | None = None
        self.last_f1: float | None = None
        self.without_gain = 0

    def run(
        self,
        resume: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        phase: str = "training",
    ) -> None:
        """Train to the end or to the early stop; the best weights by dev F1 are left in place.

        Raises:
            ModelError: if ``resume`` meets a damaged checkpoint or one of another run.
        """
        if resume and self.checkpoint is not None and self.checkpoint.is_dir():
            self._load(self.checkpoint)
        elif self.evaluate is not None:
            self._evaluate(self.evaluate)  # the base itself is the first candidate
        began, tokens = time.monotonic(), 0
        if not self._stopped():
            for step in self.optimisation.steps():
                tokens += step.tokens
                self._after(step)
                if on_progress is not None:
                    speed = tokens / max(time.monotonic() - began, 1e-9)
                    on_progress(Progress(step, speed, self.last_f1, self.best_f1, phase))
                if self._stopped():
                    break
        if self.best:
            with torch.no_grad():
                for name, parameter in self.optimisation.parameters.items():
                    parameter.copy_(self.best[name])

    def _stopped(self) -> bool:
        return self.without_gain >= self.optimisation.train.patience

    def _after(self, step: Step) -> None:
        last = step.number == step.total
        if self.evaluate is not None and (step.number % self.evaluate_every == 0 or last):
            self._evaluate(self.evaluate)
        due = step.number % self.optimisation.train.checkpoint_every == 0 or last or self._stopped()
        if self.checkpoint is not None and due:
            facts = {"best_f1": self.best_f1, "last_f1": self.last_f1, "without_gain": self.without_gain}
            self.optimisation.save(self.checkpoint, facts, self.best)

    def _evaluate(self, evaluate: Callable[[], float]) -> None:
        self.last_f1 = evaluate()
        if self.best_f1 is None or self.last_f1 > self.best_f1:
            self.best_f1, self.without_gain = self.last_f1, 0
            self.best = {name: p.detach().clone() for name, p in self.optimisation.parameters.items()}
        else:
            self.without_gain += 1

    def _load(self, checkpoint: Path) -> None:
        facts, self.best = self.optimisation.load(checkpoint)
        self.best_f1, self.last_f1 = facts["best_f1"], facts["last_f1"]
        self.without_gain = int(facts["without_gain"])
