"""What the baselines share: the recipe's shape, BIO tags, the loop over runs, the results file.

A baseline is two functions, one that fine-tunes an encoder on shots and one that finds spans; :func:`main` makes a
program of them. The output file is written after every run and runs in it are skipped, so a stopped job goes on where
it was. It holds scores, settings and counts, no text. Knows nothing of any baseline.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.few_shot import datasets as benchmark_data
from benchmarks.few_shot.results import write_content
from cllmfs.evaluation import evaluate_spans
from cllmfs.formats import tokenised
from cllmfs.sampling import shortfalls
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


def run(
    baseline: Baseline, plan: dict[str, Any], test: Sequence[Example], arguments: argparse.Namespace
) -> dict[str, Any]:
    """One support set: train, predict, score; the record that goes into the output."""
    name, k, recipe = plan["dataset"], plan["k"], plan["recipe"]
    pool = benchmark_data.unique(benchmark_data.load(name, "train", arguments.data))
    shots = benchmark_data.supports(name, k, plan["seed"], arguments.data)
    started = time.perf_counter()
    model = baseline.fine_tune(arguments.encoder, shots, recipe, plan["seed"])
    trained = time.perf_counter()
    found = baseline.predict(model, test)
    finished = time.perf_counter()
    scores = evaluate_spans(test, found, scenarios=False)
    micro, texts, encoder = scores.micro, {example.text for example in test}, Path(arguments.encoder)
    return {
        **plan,
        **micro.rates._asdict(),
        "correct": micro.tp,
        "predicted": micro.tp + micro.fp,
        "gold": micro.support,
        "boundary_f1": scores.boundary.f1,
        "ungrounded": scores.ungrounded,
        "sentences": len(test),
        "support_sentences": len(shots),
        "support_mentions": dict(sorted(Counter(span.label for shot in shots for span in shot.spans).items())),
        "support_shortfalls": shortfalls(pool, shots, k),
        "support_in_split": sum(shot.text in texts for shot in shots),
        "support_sha256": hashlib.sha256(json.dumps([shot.to_dict() for shot in shots]).encode()).hexdigest(),
        "recipe": asdict(recipe),
        "steps": recipe.steps(len(shots)),
        "encoder": encoder.resolve().parent.name if encoder.name == "model" else encoder.name,
        "versions": {package: version(package) for package in baseline.packages},
        "train_seconds": round(trained - started, 2),
        "predict_seconds": round(finished - trained, 2),
    }


def identity(record: dict[str, Any]) -> str:
    """What makes a run the same run."""
    return json.dumps([record[key] for key in ("dataset", "split", "k", "seed", "recipe")], sort_keys=True)


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    """Write all runs and their summary."""
    groups: dict[str, list[float]] = {}
    for record in runs:
        setting = " ".join(f"{key}={value}" for key, value in record["recipe"].items())
        groups.setdefault(f"{record['dataset']} {record['split']} {record['k']}-shot {setting}", []).append(
            100 * record["f1"]
        )
    summary = {
        name: {
            "runs": len(values),
            "f1_mean": round(statistics.mean(values), 2),
            "f1_sd": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        }
        for name, values in sorted(groups.items())
    }
    write_content(path, {"summary": summary, "runs": runs})


def parse(baseline: Baseline) -> argparse.Namespace:
    """The command line of a baseline."""
    parser = argparse.ArgumentParser(description=f"Few-shot {baseline.name}.")
    parser.add_argument("--encoder", required=True, help="folder with config.json, weights and tokenizer")
    benchmark_data.add_options(parser)
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[baseline.recipe.learning_rate])
    parser.add_argument("--epochs", type=int, nargs="+", default=[baseline.recipe.epochs])
    return parser.parse_args()


def main(baseline: Baseline) -> None:
    """Run every number of shots, seed, data set and setting that the output does not hold yet."""
    arguments = parse(baseline)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    output: Path = arguments.output
    runs = json.loads(output.read_text(encoding="utf-8"))["runs"] if output.exists() else []
    done = {(identity(record), record["sentences"]) for record in runs}
    tests = benchmark_data.scored(arguments)
    settings = itertools.product(arguments.learning_rate, arguments.epochs)
    recipes = [replace(baseline.recipe, learning_rate=rate, epochs=epochs) for rate, epochs in settings]
    for k, seed, name, recipe in itertools.product(arguments.k, arguments.seeds, arguments.datasets, recipes):
        plan = {"dataset": name, "split": arguments.split, "k": k, "seed": seed, "recipe": recipe}
        if (identity({**plan, "recipe": asdict(recipe)}), len(tests[name])) in done:
            continue
        record = run(baseline, plan, tests[name], arguments)
        runs.append(record)
        write(output, runs)
        print(
            f"{name} {arguments.split} {k}-shot seed {seed} lr {recipe.learning_rate:g} epochs {recipe.epochs}: F1 "
            f"{100 * record['f1']:.2f} ({record['support_sentences']} shots, {record['steps']} steps, "
            f"{record['train_seconds']} + {record['predict_seconds']} s)",
            flush=True,
        )
