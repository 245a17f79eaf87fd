"""What the baselines share: a recipe, BIO tags, batches, and a program that does a benchmark's task.

A baseline is two functions, one that fine-tunes an encoder on shots and one that finds spans; :func:`main` makes a
system of ``cllmfs benchmark`` of them. Knows nothing of any baseline.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cllmfs.benchmark_task import Task, serve
from cllmfs.formats import tokenised
from cllmfs.schema import Document, Example
from cllmfs.tagging import TokenSpan, tags_of_spans


@dataclass(frozen=True)
class Recipe:
    """Settings of a fine-tuning; each baseline says in its docstring where its defaults come from."""

    learning_rate: float = 5e-5
    epochs: int = 20
    min_steps: int = 300
    max_steps: int = 3000
    batch_size: int = 4
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def steps(self, rows: int) -> int:
        """Optimiser steps for so many training rows."""
        return min(max(self.epochs * -(-rows // self.batch_size), self.min_steps), self.max_steps)


@dataclass(frozen=True)
class Baseline:
    """A system that is compared.

    Attributes:
        name: as ``--help`` shows it.
        recipe: its default settings.
        fine_tune: (encoder folder, shots, recipe, seed) to a model.
        predict: (model, examples) to their documents, in order.
        packages: distributions whose versions are recorded.
    """

    name: str
    recipe: Recipe
    fine_tune: Callable[[str, Sequence[Example], Any, int], Any]
    predict: Callable[[Any, Sequence[Example]], list[Document]]
    packages: tuple[str, ...]


def token_spans(example: Example) -> list[TokenSpan]:
    """The spans in tokens, end exclusive."""
    return tokenised(example)[1]


def to_tags(spans: Iterable[TokenSpan], length: int) -> list[str]:
    """BIO tags of flat spans; of overlapping spans the first stays."""
    flat: list[TokenSpan] = []
    for span in sorted(spans):
        if not flat or span[0] >= flat[-1][1]:
            flat.append(span)
    return tags_of_spans(flat, length)


def tag_names(shots: Iterable[Example]) -> list[str]:
    """The BIO tags of the shots' labels, ``O`` first."""
    return ["O"] + [f"{edge}-{label}" for label in sorted({x for s in shots for x in s.labels}) for edge in "BI"]


def drawn_batches(rows: int, recipe: Recipe, seed: int) -> Iterator[list[int]]:
    """The numbers of the rows of each step; every pass has an order of its own, and its last batch may be small."""
    shuffler, order = random.Random(seed), list[int]()
    for _ in range(recipe.steps(rows)):
        order = order or shuffler.sample(range(rows), rows)
        yield order[: recipe.batch_size]
        order = order[recipe.batch_size :]


def main(baseline: Baseline) -> None:
    """Do the task that the command line names."""
    parser = argparse.ArgumentParser(description=f"{baseline.name} as a system of a benchmark.")
    parser.add_argument("task", type=Path, help="folder of the task, see cllmfs.benchmark_task")
    parser.add_argument("--encoder", required=True, help="folder with config.json, weights and tokenizer")
    parser.add_argument("--learning-rate", type=float, default=baseline.recipe.learning_rate)
    parser.add_argument("--epochs", type=int, default=baseline.recipe.epochs)
    arguments = parser.parse_args()
    recipe = replace(baseline.recipe, learning_rate=arguments.learning_rate, epochs=arguments.epochs)

    def learn(task: Task) -> Any:
        return baseline.fine_tune(arguments.encoder, task.shots, recipe, task.seed)

    def facts(_: Any, task: Task) -> dict[str, Any]:
        return {"recipe": asdict(recipe), "steps": recipe.steps(len(task.shots))}

    serve(arguments.task, learn, baseline.predict, facts, baseline.packages)
