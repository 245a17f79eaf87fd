"""Shots are the labeled sentences of a training: they are encoded, varied in each epoch, and grouped into batches.

This file knows examples and the encoder; it knows nothing of losses, optimizers or decoding.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cllmfs.config import TrainConfig
from cllmfs.encoding.batches import Batch, collate, pack
from cllmfs.encoding.encoder import Answers, Encoder
from cllmfs.encoding.rows import Row
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.errors import DataError
from cllmfs.schema import Example, LabelSet, Span
from cllmfs.training.recipe import Recipe, choose_negatives

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shot:
    """A sentence to learn from, in tokens; a long text gives one shot for each window."""

    sentence: TokenizedText
    gold: Answers  # by label
    example: int = 0  # number of the example that it comes from


def encode_shots(examples: Iterable[Example], encoder: Encoder, window: int) -> list[Shot]:
    """The examples in tokens, long ones in windows of at most ``window`` tokens."""
    return [
        Shot(part.tokens, encoder.answers(part.tokens, example.spans), number)
        for number, example in enumerate(examples)
        for part in encoder.sentences(example.text, window)
    ]


def check_shots(examples: Sequence[Example], shots: Sequence[Shot]) -> None:
    """Warn of gold spans that no answer can contain.

    Raises:
        DataError: if no example has a token, or there are gold spans and no answer can contain any of them.
    """
    if not shots:
        raise DataError(f"training needs at least one sentence with words in it, got {len(examples)} empty texts")
    kept = {
        (shot.example, *shot.sentence.char_range(first, last), label)
        for shot in shots
        for label, spans in shot.gold.items()
        for first, last in spans
    }
    given = [(number, span) for number, example in enumerate(examples) for span in example.spans]
    lost = [(examples[number], span) for number, span in given if (number, *span.key) not in kept]
    if not lost:
        return
    example, span = lost[0]
    what = (
        f"{len(lost)} gold span(s) are left out of training, because they end inside a word, overlap another span of "
        f"their label or fit no window, such as {example.text[span.start : span.end]!r} ({span.label}) in "
        f"{example.source or repr(example.text[:40])}; spans.edges=token, spans.nested=true or a larger "
        "runtime.window_tokens may help"
    )
    if len(lost) == len(given):
        raise DataError(f"training needs at least one span that an answer can hold; {what}")
    logger.warning("%s", what)


def answered_labels(labels: LabelSet, shots: Sequence[Shot]) -> LabelSet:
    """The labels with a span in some shot. Of any other label, only empty answers would be learned."""
    seen = {label for shot in shots for label, spans in shot.gold.items() if spans}
    return LabelSet({label: text for label, text in labels.items() if label in seen})


def mention_pool(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """The different mentions of each label, in the order of their first occurrence."""
    pool: dict[str, dict[str, None]] = {}
    for example in examples:
        for span in example.spans:
            pool.setdefault(span.label, {})[example.text[span.start : span.end]] = None
    return {label: tuple(mentions) for label, mentions in pool.items()}


def swap_mentions(example: Example, pool: Mapping[str, Sequence[str]], rate: float, rng: random.Random) -> Example:
    """The example with some mentions replaced by mentions of the same label.

    ``rate`` is the probability that a mention is replaced by one of the ``pool`` (:func:`mention_pool`). Mentions that
    overlap others stay: it is not known what a nested span would cover after the replacement.
    """
    text, spans, at = "", [], 0
    for span in example.spans:
        if any(_overlap(span, other) for other in example.spans):
            shift = len(text) - at
            spans.append(Span(span.start + shift, span.end + shift, span.label))
        else:
            others = pool.get(span.label, ())
            old = example.text[span.start : span.end]
            new = rng.choice(others) if others and rng.random() < rate else old
            text, at = text + example.text[at : span.start] + new, span.end
            spans.append(Span(len(text) - len(new), len(text), span.label))
    return replace(example, text=text + example.text[at:], spans=tuple(spans), token_offsets=None)


def _overlap(one: Span, other: Span) -> bool:
    return one.key != other.key and one.start < other.end and other.start < one.end


@dataclass(eq=False)
class VariedShots:
    """The shots of each epoch: unchanged in the first epoch, with swapped mentions in the others."""

    examples: Sequence[Example]  # the sentences that :attr:`Shot.example` is an index into
    shots: Sequence[Shot]  # those to learn from; they may come from a part of the examples
    encoder: Encoder
    window: int  # as for :func:`encode_shots`
    rate: float  # as for :func:`swap_mentions`
    seed: int

    def __post_init__(self) -> None:
        self.used = [self.examples[number] for number in dict.fromkeys(shot.example for shot in self.shots)]
        self.pool = mention_pool(self.used)

    def __call__(self, epoch: int) -> Sequence[Shot]:
        """As many shots as there are in the first epoch, in the same order."""
        if not (epoch and self.rate):
            return self.shots
        rng = random.Random(f"{self.seed}/{epoch}/mentions")
        swapped = [swap_mentions(example, self.pool, self.rate, rng) for example in self.used]
        varied = encode_shots(swapped, self.encoder, self.window)
        return varied if len(varied) == len(self.shots) else self.shots  # a longer mention may need one more window


@dataclass(eq=False)
class ShotBatches:
    """The batches of every step, as a function of the step's number.

    Each epoch visits every sentence once, in an order drawn from the seed and the epoch. A sentence is asked for all
    types that it mentions and for some that it does not mention, drawn anew in each epoch.
    """

    shots_of: Callable[[int], Sequence[Shot]]  # the shots of an epoch; their number is the same in all epochs
    labels: LabelSet  # the types that may be asked for
    encoder: Encoder
    train: TrainConfig
    recipe: Recipe
    general: Callable[[int], Sequence[Row]] | None = None  # rows of general sentences that are added to a step

    def __post_init__(self) -> None:
        self.epoch, self.shots = 0, self.shots_of(0)
        negatives = self.recipe.negatives
        self.negatives = negatives if negatives >= 0 else choose_negatives(len(self.shots))
        self.queries = self.encoder.queries(self.labels)
        self.steps_per_epoch = max(1, math.ceil(len(self.shots) / self.train.batch_sentences))

    def __call__(self, step: int) -> list[Batch]:
        """The batches of a step, each within ``train.batch_tokens``."""
        epoch, part = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.shots = epoch, self.shots_of(epoch)
        seed, size = self.train.seed, self.train.batch_sentences
        rng = random.Random(f"{seed}/{epoch}")
        order = sorted(range(len(self.shots)), key=lambda _: rng.random())
        rows: list[Row] = []
        for index in order[part * size : (part + 1) * size]:
            rows += self._rows(index, random.Random(f"{seed}/{epoch}/{index}"))
        if self.general is not None:
            rows += self.general(step)
        return [collate(group) for group in pack(rows, self.train.batch_tokens)]

    def _rows(self, index: int, rng: random.Random) -> list[Row]:
        shot = self.shots[index]
        queries = [replace(query, spans=tuple(shot.gold.get(query.label, ()))) for query in self.queries]
        absent = [query.label for query in queries if not query.spans]
        drawn = set(sorted(absent, key=lambda _: rng.random())[: self.negatives])
        asked = [query for query in queries if query.spans or query.label in drawn]
        return self.encoder.rows(shot.sentence, asked, index)
