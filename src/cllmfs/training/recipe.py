"""The recipe of a training: every number that is chosen for the user, and where it comes from.

A :class:`Recipe` is planned from the settings, the shots and the base; settings other than 0 take precedence. Its other
fields are constants that experiments may change (``EntityRecognizer.fit(..., recipe={"negatives": 0})``). "Development
data" below means the dev splits that ``docs/log.md`` names, with the figures. This file knows numbers and examples; it
trains nothing.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from cllmfs.config import Config
from cllmfs.errors import ConfigError
from cllmfs.schema import Example, mentions

SCHEDULES = ("linear", "cosine", "constant_with_warmup")


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training."""

    learning_rate: float  # the peak learning rate of AdamW
    steps: int  # optimizer steps
    # Types without a mention that a sentence is asked for, drawn anew in each epoch; with -1, choose_negatives decides.
    negatives: int = -1
    warmup: float = 0.1  # share of the steps in which the learning rate rises linearly from 0
    schedule: str = "linear"  # course of the learning rate after that, by its name in transformers
    weight_decay: float = 0.01  # decoupled weight decay of AdamW
    max_grad_norm: float = 1.0  # gradients are scaled down to this L2 norm; 0 leaves them as they are
    evaluate_every: int = 0  # steps between evaluations on a dev set; 0 makes about ten evaluations
    patience: int = 3  # evaluations without a better dev F1 before training stops
    checkpoint_every: int = 50  # steps between checkpoints
    noise_alpha: float = 5.0  # magnitude of the noise of ``neftune`` (arXiv 2310.05914)
    epsilon: float = 1.0  # L2 norm of the perturbation of a row's embeddings by ``fgm``
    known_f1: float = 0.25  # F1 on the shots, before training, from which a base counts as knowing their types
    known_share: float = 0.8  # largest share of the update that is kept for a base that knows the types
    sample: int = 50  # largest number of shots on which that F1 is measured
    many_shots: int = 100  # number of shots above which a single part is held out, a third of them
    held_out: int = 300  # largest size of that part
    # Mean number of mentions of a label below which no shots are held out: half of them would hardly teach the label.
    few_mentions: int = 3
    # A model that only serves calibration trains for half of the steps, or for this many if that is more, but for no
    # more passes than the whole training.
    fold_steps: int = 240
    # Shares of the update that are tried on a dev set, besides the planned one, and on the held-out part of many shots.
    # With few shots none are tried: a model of half of them needs a smaller share than a model of all.
    dev_shares: tuple[float, ...] = (1.0, 0.5, 0.25, 0.0)
    held_out_shares: tuple[float, ...] = (1.0, 0.8, 0.5)
    # A share other than the planned one must gain this much F1, divided by the square root of the number of mentions.
    chance: float = 0.24
    # Log-odds by which a model of all shots is more often right than one of none; one of a part of them lies between.
    lift: float = 0.4

    @classmethod
    def plan(cls, config: Config, sentences: int, width: int, changes: Mapping[str, Any] | None = None) -> Self:
        """The recipe for a number of training sentences and a base.

        Args:
            config: its settings take precedence unless they are 0.
            sentences: sentences to train on; a long text counts once for each window.
            width: size of the base's hidden states.
            changes: other values for some of the fields.

        Raises:
            ConfigError: if a field is unknown or its value has another type or is out of range.
        """
        train = config.train
        steps = train.steps or choose_steps(sentences, train.batch_sentences)
        recipe = cls(train.learning_rate or choose_rate(width), steps)
        for name, value in (changes or {}).items():
            if name not in vars(recipe):
                raise ConfigError(f"recipe: unknown field {name!r}; there are {', '.join(sorted(vars(recipe)))}")
            kind = type(getattr(recipe, name))
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ConfigError(f"recipe.{name} must be of type {kind.__name__}, got {value!r}")
            numbers = value if kind is tuple else (value,) if kind is not str else ()
            if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
                raise ConfigError(f"recipe.{name} must be finite, got {value!r}")
        planned = replace(recipe, **(changes or {}))
        if planned.schedule not in SCHEDULES:
            raise ConfigError(f"recipe.schedule must be one of {', '.join(SCHEDULES)}, got {planned.schedule!r}")
        for name in ("steps", "patience", "checkpoint_every", "sample"):
            if getattr(planned, name) < 1:
                raise ConfigError(f"recipe.{name} must be at least 1, got {getattr(planned, name)}")
        return planned

    def share(self, shots: int, base_f1: float) -> float:
        """The share of the update to keep where no measurement decides: the fewer the shots, the smaller.

        What a base knows is worth keeping, so at most ``known_share`` is kept if the base knows the types, which its F1
        on the shots before training shows. Chosen on development data.
        """
        return min(self.known_share if base_f1 >= self.known_f1 else 1.0, shots / (shots + 4))

    def has_few_mentions(self, examples: Sequence[Example]) -> bool:
        """Whether the shots have so few mentions of each label that none are held out."""
        counts = mentions(examples)
        return sum(counts.values()) < self.few_mentions * len(counts)

    def folds(self, examples: Sequence[Example], count: int, seed: int) -> list[list[int]]:
        """The parts to hold out in turn, as numbers of the examples; no parts if there are too few shots.

        Rare labels are spread over the parts first, so that the other parts have every label that occurs often enough.
        With many shots, one part is enough. Repetitions of a text are in one part: no part may know another's texts.
        """
        if count < 2 or len(examples) < 2 * count or self.has_few_mentions(examples):
            return []
        counts = mentions(examples)
        rng = random.Random(f"{seed}/folds")
        order = sorted(range(len(examples)), key=lambda _: rng.random())
        if len(examples) > self.many_shots:
            held_texts = {examples[number].text for number in order[: min(self.held_out, len(examples) // 3)]}
            return [[number for number, example in enumerate(examples) if example.text in held_texts]]
        order.sort(key=lambda number: min((counts[span.label] for span in examples[number].spans), default=1 << 30))
        parts: list[list[int]] = [[] for _ in range(count)]
        held: list[Counter[str]] = [Counter() for _ in range(count)]
        part_of: dict[str, int] = {}
        for number in order:
            labels = [span.label for span in examples[number].spans]
            rarest = min(labels, key=counts.__getitem__, default="")
            emptiest = min(range(count), key=lambda index: (held[index][rarest], len(parts[index])))
            part = part_of.setdefault(examples[number].text, emptiest)
            parts[part].append(number)
            held[part].update(labels)
        return [sorted(part) for part in parts]

    def steps_without(self, left: int, of: int) -> int:
        """Steps for a model that learns from ``left`` of ``of`` shots, only to be judged on the others."""
        same_passes = math.ceil(self.steps * left / of)
        return min(same_passes, max(self.fold_steps, self.steps // 2))


def choose_steps(sentences: int, batch_sentences: int) -> int:
    """Steps for a number of training sentences: 20 passes, but at most 480 steps or 6 passes, whichever is more.

    The number of steps is at least 60 and at most 2,000. Twice as many passes were no better on development data.
    """
    per_epoch = max(1, math.ceil(sentences / batch_sentences))
    return min(2000, max(60, min(20 * per_epoch, max(480, 6 * per_epoch))))


def choose_rate(width: int) -> float:
    """The learning rate for a base of this width: 2e-3 up to a width of 384, chosen on development data, then less.

    The best rate falls as 1 / width (arXiv 2203.03466): 1.9e-4 at 4,096.
    """
    return 2e-3 * min(1.0, 384 / width)


def choose_negatives(sentences: int) -> int:
    """Types without a mention to ask a sentence for: 8, or 20 if there are more than 100 sentences.

    With many sentences there are fewer passes, so a sentence would hardly be asked once for each of many types. Chosen
    on development data.
    """
    return 20 if sentences > 100 else 8
