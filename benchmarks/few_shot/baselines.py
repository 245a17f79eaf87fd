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
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.few_shot import datasets as benchmark_data
from cllmfs.evaluation import evaluate_spans
from cllmfs.sampling import shortfalls
from cllmfs.schema import Document, Example


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


def token_spans(example: Example) -> list[tuple[int, int, str]]:
    """The spans in tokens, end exclusive."""
    offsets = example.token_offsets or ()
    starts = {start: index for index, (start, _) in enumerate(offsets)}
    ends = {end: index + 1 for index, (_, end) in enumerate(offsets)}
    return [(starts[span.start], ends[span.end], span.label) for span in example.spans]


def to_tags(spans: Iterable[tuple[int, int, str]], length: int) -> list[str]:
    """BIO tags of flat spans; of overlapping spans the first stays."""
    tags = ["O"] * length
    for start, end, label in sorted(spans):
        if all(tag == "O" for tag in tags[start:end]):
            tags[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
    return tags


def tag_names(shots: Iterable[Example]) -> list[str]:
    """The BIO tags of the shots' labels, ``O`` first."""
    return ["O"] + [f"{edge}-{label}" for label in sorted({x for s in shots for x in s.labels}) for edge in "BI"]


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
    """Write all runs and their summary; the file is replaced in one step, so a stop never leaves half of it."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps({"summary": summary, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def parse(baseline: Baseline) -> argparse.Namespace:
    """The command line of a baseline."""
    parser = argparse.ArgumentParser(description=f"Few-shot {baseline.name}.")
    parser.add_argument("--encoder", required=True, help="folder with config.json, weights and tokenizer")
    parser.add_argument("--data", help=f"folder of the data sets; default: ${benchmark_data.ENVIRONMENT}")
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--k", type=int, nargs="+", default=[5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--limit", type=int, help="score the first N sentences only")
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[baseline.recipe.learning_rate])
    parser.add_argument("--epochs", type=int, nargs="+", default=[baseline.recipe.epochs])
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main(baseline: Baseline) -> None:
    """Run every number of shots, seed, data set and setting that the output does not hold yet."""
    arguments = parse(baseline)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    output: Path = arguments.output
    runs = json.loads(output.read_text(encoding="utf-8"))["runs"] if output.exists() else []
    done = {(identity(record), record["sentences"]) for record in runs}
    tests = {
        name: benchmark_data.load(name, arguments.split, arguments.data)[: arguments.limit]
        for name in arguments.datasets
    }
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
