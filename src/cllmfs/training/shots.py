"""Shots are the labeled sentences of a training: they are encoded, varied in each epoch, and grouped into batches.

This file knows examples and the encoder; it knows nothing of losses, optimizers or decoding.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cllmfs.config import Config, SpansConfig, TrainConfig
from cllmfs.encoding.batches import Batch, collate, pack
from cllmfs.encoding.encoder import Answers, Encoder
from cllmfs.encoding.rows import Row
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.errors import DataError
from cllmfs.schema import Example, LabelSet, Span, mentions
from cllmfs.training.recipe import Recipe, choose_negatives

logger = logging.getLogger(__name__)


# Shares of all spans, and of those of one label, from which spans inside words, or inside others, decide how spans are
# read. Fewer, and a single one, are taken for mistakes of the annotation.
_ODD_SHARE, _ODD_SHARE_OF_LABEL = 0.05, 0.25
_UNUSABLE_SHARE = 0.1  # share of the spans that no answer can contain from which training would teach falsehoods


@dataclass(frozen=True)
class Shot:
    """A sentence to learn from, in tokens; a long text gives one shot for each window."""

    sentence: TokenizedText
    gold: Answers  # by label
    example: int = 0  # number of the example that it comes from
    unknown: frozenset[str] = frozenset()  # labels of which the gold answer is not known in full
    annotated: frozenset[str] | None = None  # the labels that were annotated; ``None``: all

    def knows(self, label: str) -> bool:
        """Whether the gold answer of a label is known, so that the sentence may be asked for it."""
        return label not in self.unknown and (self.annotated is None or label in self.annotated)


def encode_shots(examples: Iterable[Example], encoder: Encoder, window: int) -> list[Shot]:
    """The examples in tokens, long ones in windows of at most ``window`` tokens."""
    shots = []
    for number, example in enumerate(examples):
        parts = encoder.sentences(example.text, window)
        for part in parts:
            gold = encoder.answers(part.tokens, example.spans)
            starts, ends = (
                [at for at in part.tokens.char_start if at >= 0],
                [at for at in part.tokens.char_end if at >= 0],
            )
            # A tokenizer may drop characters at the edges of a text, which belong to its first and last part.
            begin = 0 if part is parts[0] or not starts else starts[0]
            end = len(example.text) if part is parts[-1] or not ends else ends[-1]
            reached = [span for span in example.spans if begin < span.end and span.start < end]
            unknown = {span.label for span in reached if _cut_off(span, part.tokens, gold.get(span.label, ()))}
            shots.append(Shot(part.tokens, gold, number, frozenset(unknown), example.annotated))
    return shots


def _cut_off(span: Span, sentence: TokenizedText, kept: Sequence[tuple[int, int]]) -> bool:
    """Whether a gold span of a sentence is outside its gold answer.

    In flat answers, the leftmost of overlapping spans stands for the others.
    """
    places = [sentence.char_range(first, last) for first, last in kept]
    return not any(start < span.end and span.start < end for start, end in places)


_Place = tuple[Example, Span]


def settle_spans(config: Config, examples: Sequence[Example], tokenize: Callable[[str, str], TokenizedText]) -> Config:
    """The config with the edges and the nesting of spans that the shots show, where it leaves them to the shots.

    Spans are read at the edges of tokens if a twentieth of the gold spans, or a quarter of those of a label, but two at
    least, begin or end inside a word (as in compounds, and in languages with particles or endings), and may nest if as
    many overlap an earlier one.

    Args:
        config: ``spans`` may be ``auto``.
        examples: the shots.
        tokenize: gives the tokens of a text for ``word`` or ``token`` edges.
    """
    spans, counts = config.spans, mentions(examples)
    edges, nested, total = spans.edges, spans.nested, sum(counts.values())
    if edges == "auto":
        odd = [
            (example, span)
            for example in examples
            for words, tokens in [(tokenize(example.text, "word"), tokenize(example.text, "token"))]
            for span in example.spans
            if not words.token_range(*span.key[:2]) and tokens.token_range(*span.key[:2])
        ]
        edges = "token" if _decide(odd, counts) else "word"
        if edges == "token":
            logger.warning(
                "%d of %d gold spans begin or end inside a word, such as %s: spans are read at the edges of tokens "
                "(spans.edges=token)", len(odd), total, _shown(*odd[0]),
            )  # fmt: skip
    inner = [
        (one, span)
        for one in examples
        for n, span in enumerate(one.spans)
        if any(_overlap(span, o) for o in one.spans[:n])
    ]
    if nested == "auto":
        nested = _decide(inner, counts)
    if inner:
        told = "nested spans are predicted (spans.nested=true)" if nested else "spans.nested=true would predict both"
        logger.warning(
            "%d of %d gold spans overlap an earlier one, such as %s: %s", len(inner), total, _shown(*inner[0]), told
        )
    return config.model_copy(update={"spans": SpansConfig(edges=edges, nested=nested)})


def _decide(odd: Sequence[_Place], counts: Counter[str]) -> bool:
    """Whether there are so many odd spans that they must be meant as they are."""
    by_label = Counter(span.label for _, span in odd)
    often = any(found >= max(2, _ODD_SHARE_OF_LABEL * counts[label]) for label, found in by_label.items())
    return often or len(odd) >= max(2, _ODD_SHARE * counts.total())


def check_shots(examples: Sequence[Example], shots: Sequence[Shot], encoder: Encoder) -> None:
    """Warn of gold spans that no answer can contain; their labels are not asked where they are.

    Raises:
        DataError: if no example has a token, or more than a tenth of the gold spans cannot be used.
    """
    if not shots:
        raise DataError(f"training needs at least one sentence with words in it, got {len(examples)} empty texts")
    kept: dict[int, set[tuple[int, int, str]]] = {}
    for shot in shots:
        places = ((*shot.sentence.char_range(*span), label) for label, spans in shot.gold.items() for span in spans)
        kept.setdefault(shot.example, set()).update(places)
    total, inside, covered, cut = 0, list[_Place](), list[_Place](), list[_Place]()
    for number, example in enumerate(examples):
        total += len(example.spans)
        lost = [span for span in example.spans if span.key not in kept.get(number, ())]
        tokens = encoder.tokenize(example.text) if lost else None
        for span in lost:
            same = [other for other in example.spans if other.label == span.label and _overlap(span, other)]
            odd = tokens is None or not tokens.token_range(span.start, span.end)
            (inside if odd else covered if same else cut).append((example, span))
    unusable = len(inside) + len(cut)
    problems = [
        (inside, "begin or end where no token does", "if the offsets are right, choose a base whose tokenizer "
         "cuts there, or label the whole words" if encoder.edges == "token" else "if the offsets are right, set "
         "spans.edges=token or label the whole words"),
        (cut, "fit no window", "set a larger runtime.window_tokens"),
        (covered, "overlap an earlier span of their label", "set spans.nested=true to learn both"),
    ]  # fmt: skip
    told = [f"{len(lost)} {what}, such as {_shown(*lost[0])}; {advice}" for lost, what, advice in problems if lost]
    if unusable > _UNUSABLE_SHARE * total:
        raise DataError(
            f"{unusable} of {total} gold spans cannot be learned, and training without them would teach that nothing "
            f"is there: {'. '.join(told)}"
        )
    if told:
        logger.warning("gold spans that are left out of training, of %d: %s", total, ". ".join(told))


def _shown(example: Example, span: Span) -> str:
    return f"{example.text[span.start : span.end]!r:.60} ({span.label}) in {example.source or repr(example.text[:40])}"


def has_answers(shots: Iterable[Shot]) -> bool:
    """Whether a gold span can be learned from the shots."""
    return any(spans and shot.knows(label) for shot in shots for label, spans in shot.gold.items())


def answered_labels(labels: LabelSet, shots: Sequence[Shot]) -> LabelSet:
    """The labels with a span in some shot. Of any other label, only empty answers would be learned."""
    seen = {label for shot in shots for label, spans in shot.gold.items() if spans and shot.knows(label)}
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
        known = [query for query in self.queries if shot.knows(query.label)]
        queries = [replace(query, spans=tuple(shot.gold.get(query.label, ()))) for query in known]
        absent = [query.label for query in queries if not query.spans]
        drawn = set(sorted(absent, key=lambda _: rng.random())[: self.negatives])
        asked = [query for query in queries if query.spans or query.label in drawn]
        return self.encoder.rows(shot.sentence, asked, index)
