"""The common part of the baselines: a training recipe, BIO tags, batches, and the program that does a task.

A baseline consists of a function that fine-tunes a model on shots and a function that predicts spans; :func:`main`
turns them into a system of ``cllmfs benchmark``. Knows nothing of any particular baseline.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cllmfs.benchmark.task import Task, serve
from cllmfs.formats.tagging import TokenSpan, tags_of_spans, tokenized
from cllmfs.schema import Document, Example, Span


@dataclass(frozen=True)
class Recipe:
    """Training settings; the docstring of each baseline states where its defaults come from."""

    learning_rate: float = 5e-5
    epochs: int = 20
    min_steps: int = 300
    max_steps: int = 3000
    batch_size: int = 4
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def steps(self, rows: int) -> int:
        """The number of optimizer steps for this number of training rows."""
        if not rows:
            return 0
        return min(max(self.epochs * -(-rows // self.batch_size), self.min_steps), self.max_steps)


@dataclass(frozen=True)
class Baseline:
    """A system that cllmfs is compared with.

    Attributes:
        name: its name in ``--help``.
        recipe: its default settings.
        fine_tune: makes a model from the encoder's folder, the shots, a recipe and a seed.
        predict: returns the documents of examples, in order.
        packages: the packages whose versions are recorded.
        options: fields of the recipe that have an option, besides the learning rate and the epochs.
        base: the default of ``--base`` for systems on a causal base; if empty, ``--encoder`` must name an encoder.
        asks: whether ``fine_tune`` also takes ``labels``, all types of the data set.
        facts: further facts about a model that has predicted, besides the recipe and the steps.
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
    """The spans in tokens, with exclusive ends."""
    return tokenized(example)[1]


def found_document(text: str, found: Iterable[tuple[int, int, str]]) -> Document:
    """A document whose spans have no score, from their start and end in characters and their label."""
    return Document(text, tuple(Span(s, e, label, None, text[s:e]) for s, e, label in sorted(found)))


def to_tags(spans: Iterable[TokenSpan], length: int) -> list[str]:
    """BIO tags; of spans that overlap, only the first is kept."""
    flat: list[TokenSpan] = []
    for span in sorted(spans):
        if not flat or span[0] >= flat[-1][1]:
            flat.append(span)
    return tags_of_spans(flat, length)


def tag_names(shots: Iterable[Example]) -> list[str]:
    """The BIO tags of the labels in the shots, ``O`` first."""
    return ["O"] + [f"{edge}-{label}" for label in sorted({x for s in shots for x in s.labels}) for edge in "BI"]


def drawn_batches(rows: int, recipe: Recipe, seed: int) -> Iterator[list[int]]:
    """The indices of the rows of each step; the rows are shuffled in each epoch, whose last batch may be smaller."""
    shuffler, order = random.Random(seed), list[int]()
    for _ in range(recipe.steps(rows)):
        order = order or shuffler.sample(range(rows), rows)
        yield order[: recipe.batch_size]
        order = order[recipe.batch_size :]


def add_options(parser: argparse.ArgumentParser, recipe: Recipe, names: Iterable[str]) -> None:
    """Add an option for each of these fields; its choices and its help are in the metadata of the field."""
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
    if baseline.base:
        parser.add_argument("--base", dest="model", default=baseline.base, help="name or folder of a causal base")
    else:
        text = "folder with config.json, weights and tokenizer"
        parser.add_argument("--encoder", dest="model", metavar="ENCODER", required=True, help=text)
    options = ("learning_rate", "epochs", *baseline.options)
    add_options(parser, baseline.recipe, options)

    def recipe(arguments: argparse.Namespace) -> Recipe:
        return replace(baseline.recipe, **{name: getattr(arguments, name) for name in options})

    def learn(task: Task, arguments: argparse.Namespace) -> Any:
        asked = {"labels": task.labels} if baseline.asks else {}
        return baseline.fine_tune(arguments.model, task.shots, recipe(arguments), task.seed, **asked)

    def facts(model: Any, task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
        used = recipe(arguments)
        return {"recipe": asdict(used), "steps": used.steps(len(task.shots)), **baseline.facts(model)}

    serve(parser, learn, baseline.predict, facts, baseline.packages)
