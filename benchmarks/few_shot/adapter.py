"""What the baselines share: a recipe, BIO tags, batches, and a program that does a benchmark's task.

A baseline is two functions, one that fine-tunes an encoder on shots and one that finds spans; :func:`main` makes a
system of ``cllmfs benchmark`` of them. Knows nothing of any baseline.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cllmfs.benchmark.task import Task, serve
from cllmfs.formats.tagging import TokenSpan, tags_of_spans
from cllmfs.formats.writing import tokenised
from cllmfs.schema import Document, Example, Span


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
        if not rows:
            return 0
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
        options: fields of the recipe that the command line may set, beside rate and passes.
        base: the causal base unless ``--base`` names another; if empty, ``--encoder`` must name an encoder.
        asks: ``fine_tune`` also takes ``labels``, all types of the data set, and asks them of every text.
        facts: what is recorded of a model once it has answered, beside recipe and steps.
    """

    name: str
    recipe: Recipe
    fine_tune: Callable[..., Any]
    predict: Callable[[Any, Sequence[Example]], list[Document]]
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    base: str = ""
    asks: bool = False
    facts: Callable[[Any], dict[str, Any]] = lambda _: {}


def token_texts(example: Example) -> list[str]:
    """The tokens."""
    return [example.text[start:end] for start, end in example.token_offsets or ()]


def token_spans(example: Example) -> list[TokenSpan]:
    """The spans in tokens, end exclusive."""
    return tokenised(example)[1]


def found_document(text: str, found: Iterable[tuple[int, int, str]]) -> Document:
    """A text with spans that have no score; start and end in characters, and the label."""
    return Document(text, tuple(Span(s, e, label, None, text[s:e]) for s, e, label in sorted(found)))


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


def add_options(parser: argparse.ArgumentParser, recipe: Recipe, names: Iterable[str]) -> None:
    """An option for each of these fields; what a field may be and means is in its metadata (choices, help)."""
    known = {field.name: field for field in fields(recipe)}
    for name in names:
        default, metadata = getattr(recipe, name), known[name].metadata
        kind: dict[str, Any] = {"type": type(default), "choices": metadata.get("choices")}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=metadata.get("help"), **kind)


def main(baseline: Baseline) -> None:
    """Do the task that the command line names."""
    parser = argparse.ArgumentParser(description=f"{baseline.name} as a system of a benchmark.")
    parser.add_argument("task", type=Path, help="folder of the task, see cllmfs.benchmark.task")
    if baseline.base:
        parser.add_argument("--base", dest="model", default=baseline.base, help="folder of a causal base, or its name")
    else:
        told = "folder with config.json, weights and tokenizer"
        parser.add_argument("--encoder", dest="model", metavar="ENCODER", required=True, help=told)
    options = ("learning_rate", "epochs", *baseline.options)
    add_options(parser, baseline.recipe, options)
    arguments = parser.parse_args()
    recipe = replace(baseline.recipe, **{name: getattr(arguments, name) for name in options})

    def learn(task: Task) -> Any:
        asked = {"labels": task.labels} if baseline.asks else {}
        return baseline.fine_tune(arguments.model, task.shots, recipe, task.seed, **asked)

    def facts(model: Any, task: Task) -> dict[str, Any]:
        return {"recipe": asdict(recipe), "steps": recipe.steps(len(task.shots)), **baseline.facts(model)}

    serve(arguments.task, learn, baseline.predict, facts, baseline.packages)
