"""Measures speed and memory: cllmfs with trees, cllmfs with separate rows, the naive way, and encoders.

    python -m benchmarks.speed.run --encoder DIR --output benchmarks/speed/results.json

Each measurement runs its contenders in turn in one process, and its result is written at once. Measurements that are in
the file already are skipped, so a stopped benchmark continues where it was. ``report.py`` makes the page of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.speed import workload
from benchmarks.speed.contenders import (
    STEP_SENTENCES,
    NaiveTraining,
    Recognizer,
    TokenClassifier,
    Training,
    loaded,
)
from benchmarks.speed.measuring import in_turn, machine
from benchmarks.speed.naive import NaiveDecoder, padded
from benchmarks.speed.peers import Peer
from benchmarks.speed.processes import STARTS, peak, start
from benchmarks.speed.roofline import copies, operations, products
from cllmfs.benchmark.runs import write_result
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.decoding.greedy import Rules
from cllmfs.formats import write_examples
from cllmfs.model.backbone import Backbone

HERE = Path(__file__).parent
FIT_TYPES = 8
TREES, ROWS, NAIVE, CLASSIFIER = "trees", "separate rows", "naive", "token classifier"

Config = Mapping[str, Any]
Measurement = tuple[str, Callable[[], dict[str, Any]]]  # its name in the results, and the function that makes it


def record(seconds: Mapping[str, Sequence[float]], amount: int, unit: str) -> dict[str, Any]:
    """The result of a measurement: the seconds of every repetition, and the median rate of each contender."""
    rates = {name: amount / statistics.median(times) for name, times in seconds.items()}
    return {
        "seconds": {name: [round(one, 4) for one in times] for name, times in seconds.items()},
        unit: amount,
        f"{unit}_per_second": {name: round(rate, 3) for name, rate in rates.items()},
    }


@dataclass(frozen=True)
class Others:
    """The systems on an encoder.

    Attributes:
        encoder: the folder of their common encoder.
        peers: the Python of each system that has an environment of its own.
    """

    encoder: str
    peers: Mapping[str, str]


def decoding(
    config: Config, others: Others, types: int, tokens: int, naive: bool, vocabulary: int = 0
) -> dict[str, Any]:
    """Decoding with all contenders; also the spans that trees find, and how many of them separate rows find."""
    backbone, labels = loaded(config["base"], vocabulary), workload.type_names(types)
    trees, rows = (Recognizer(backbone, tree) for tree in (True, False))
    texts = workload.texts(backbone.prompt.tokenizer, tokens, config["sentences"], config["seed"])
    contenders: dict[str, Callable[[], Any]] = {
        TREES: partial(trees.predict, texts, labels),
        ROWS: partial(rows.predict, texts, labels),
        CLASSIFIER: partial(TokenClassifier(others.encoder, labels).predict, texts),
    }
    peers = {name: Peer(python, name, others.encoder, labels, texts) for name, python in others.peers.items()}
    if naive:
        decoder = NaiveDecoder(backbone, config["naive_batch"])
        contenders[NAIVE] = partial(decoder.predict, texts, labels)
    found, apart = trees.predict(texts, labels), rows.predict(texts, labels)
    same = sum(len(one & other) for one, other in zip(found, apart, strict=True))
    made = record(in_turn({**contenders, **peers}, config["repetitions"]), len(texts), "sentences")
    for peer in peers.values():
        peer.close()
    return made | {"spans": sum(map(len, found)), "same_spans": same}


def variants(
    config: Config, axis: str, make: Callable[[Backbone, Any], Recognizer], sentences: int, shares: bool = False
) -> dict[str, Any]:
    """Trees with each value of an axis; with ``shares``, also the share of empty answers."""
    backbone, labels = loaded(config["base"]), workload.type_names(config["types"])
    made = {str(value): make(backbone, value) for value in config["axes"][axis]}
    texts = workload.texts(backbone.prompt.tokenizer, config["tokens"], sentences, config["seed"])
    empty = {name: round(one.empty_share(texts, labels), 4) for name, one in made.items()} if shares else {}
    contenders = {name: partial(one.predict, texts, labels) for name, one in made.items()}
    measured = record(in_turn(contenders, config["repetitions"]), len(texts), "sentences")
    return measured | ({"empty_share": empty} if shares else {})


def with_batches(backbone: Backbone, tokens: int) -> Recognizer:
    """A recognizer with batches of this size."""
    return Recognizer(backbone, True, [f"runtime.batch_tokens={tokens}"])


def with_bias(backbone: Backbone, bias: float) -> Recognizer:
    """A recognizer that adds a bias to the logit that ends an answer."""
    return Recognizer(backbone, True, rules=Rules(end_bias=bias))


def floors(config: Config) -> dict[str, Any]:
    """A prediction and a training step on trees, and plain matrix products of the model's shapes, in the same run."""
    trees = Recognizer(loaded(config["base"]), True)
    labels, width = workload.type_names(config["types"]), trees.extractor.backbone.width
    texts = workload.texts(
        trees.extractor.backbone.prompt.tokenizer, config["tokens"], config["sentences"], config["seed"]
    )
    learner = Training(loaded(config["base"]), workload.training_labels(config["types"]), True)
    work: dict[str, Callable[[], Any]] = {
        "prediction": partial(trees.predict, texts, labels),
        "training": partial(learner.steps, config["steps"]),
    }
    counted = {name: operations(one) for name, one in work.items()}
    rates: dict[str, list[float]] = {"products": [], "copies": []}
    multiply, copy = products(2048, width, 4 * width, 40), copies(64, 20)
    work["products"], work["copies"] = (
        lambda: rates["products"].append(multiply()),
        lambda: rates["copies"].append(copy()),
    )
    seconds = in_turn(work, config["repetitions"])
    found: dict[str, Any] = {
        "flops_per_second": round(statistics.median(rates["products"])),
        "bytes_per_second": round(statistics.median(rates["copies"])),
    }
    for name, count in counted.items():
        measured = statistics.median(seconds[name])
        floor = count / found["flops_per_second"]
        found[name] = {"flops": count, "seconds": round(measured, 4), "floor": round(floor, 4)}
    return found | {"sentences": {"prediction": len(texts), "training": STEP_SENTENCES * config["steps"]}}


def training(config: Config, vocabulary: int = 0) -> dict[str, Any]:
    """Training steps with trees, with separate rows and in the naive way."""
    labels, steps = workload.training_labels(config["types"]), config["steps"]
    contenders = {
        TREES: Training(loaded(config["base"], vocabulary), labels, True),
        ROWS: Training(loaded(config["base"], vocabulary), labels, False),
        NAIVE: NaiveTraining(loaded(config["base"], vocabulary), labels),
    }
    seconds = in_turn({name: partial(one.steps, steps) for name, one in contenders.items()}, config["repetitions"])
    return record(seconds, STEP_SENTENCES * steps, "sentences")


def objectives(config: Config) -> dict[str, Any]:
    """Training steps on trees with several objectives."""
    labels, steps = workload.training_labels(config["types"]), config["steps"]
    made = {
        name: Training(loaded(config["base"]), labels, True, settings)
        for name, settings in config["objectives"].items()
    }
    seconds = in_turn({name: partial(one.steps, steps) for name, one in made.items()}, config["repetitions"])
    return record(seconds, STEP_SENTENCES * steps, "sentences")


def memory(config: Config) -> dict[str, Any]:
    """Peak memory of processes that decode, train, or predict a stream of documents."""
    found: dict[str, Any] = {}
    for work in ("decoding", "training"):
        for way in (TREES, ROWS, NAIVE):
            for size in config["axes"]["vocabulary"]:
                found[f"{work}, {way}, vocabulary {size}"] = peak(config, work, way, size)
    for megabytes in (config["stream_megabytes"] // 10, config["stream_megabytes"]):
        with tempfile.TemporaryDirectory() as folder:
            found[f"stream of {megabytes} MB"] = peak(config, "stream", folder, megabytes)
    return found


def logits(config: Config) -> dict[str, Any]:
    """Megabytes of the logits of a training step at the largest vocabulary, restricted and in full."""
    labels, vocabulary = workload.training_labels(config["types"]), max(config["axes"]["vocabulary"])
    trees = Training(loaded(config["base"]), labels, True).batches(0)
    naive = NaiveTraining(loaded(config["base"]), labels)
    rows = [naive.rows[index] for index in range(STEP_SENTENCES * naive.types)]
    return {
        "restricted": round(sum(batch.allowed.numel() for batch in trees) * 4 / 1e6, 3),
        "whole": round(padded(rows)["input_ids"].numel() * vocabulary * 4 / 1e6, 3),
    }


def starts(config: Config) -> dict[str, Any]:
    """Seconds from the start to the end of processes; the last one trains on shots and saves the model."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {**STARTS, f"5 shots of {FIT_TYPES} types to a saved model": fit_command(config, Path(folder))}
        seconds = in_turn({name: start(command) for name, command in commands.items()}, config["repetitions"])
    return {name: round(statistics.median(times), 3) for name, times in seconds.items()}


def fit_command(config: Config, folder: Path) -> list[str]:
    """``cllmfs train`` on 5 shots drawn from the example, with more types than it has."""
    shots, labels = folder / "shots.jsonl", folder / "labels.txt"
    write_examples(sample_k_shot(workload.example_sentences(), 5, config["seed"]), shots)
    labels.write_text("".join(f"{name}\n" for name in workload.training_labels(FIT_TYPES)), encoding="utf-8")
    paths = [str(shots), "--labels", str(labels), "--output", str(folder / "model")]
    return [sys.executable, "-m", "cllmfs", "train", *paths, "--base", config["base"], "--overwrite"]


def measurements(config: Config, others: Others) -> Iterator[Measurement]:
    """All measurements in order."""
    axes, alone = config["axes"], Others(others.encoder, {})
    for types in axes["types"]:
        naive = types <= config["naive_most_types"]
        yield f"decoding, {types} types", partial(decoding, config, others, types, config["tokens"], naive)
    for tokens in axes["tokens"]:
        naive = tokens <= config["naive_most_tokens"]
        beside = others if tokens <= config["peers_most_tokens"] else alone
        yield f"decoding, {tokens} tokens", partial(decoding, config, beside, config["types"], tokens, naive)
    for size in axes["vocabulary"]:  # the other systems have no such vocabulary
        measured = partial(decoding, config, alone, config["types"], config["tokens"], True, size)
        yield f"decoding, vocabulary {size}", measured
        yield f"training, vocabulary {size}", partial(training, config, size)
    yield (
        "decoding, tokens in a batch",
        partial(variants, config, "batch_tokens", with_batches, 4 * config["sentences"]),
    )
    yield "decoding, empty answers", partial(variants, config, "end_bias", with_bias, config["sentences"], True)
    yield "training, objectives", partial(objectives, config)
    yield "floors", partial(floors, config)
    yield "logits", partial(logits, config)
    yield "starts", partial(starts, config)
    yield "memory", partial(memory, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--encoder", required=True, help="folder of the encoder of the other systems")
    parser.add_argument(
        "--span-marker", metavar="PYTHON", help="Python of SpanMarker's environment; without it, SpanMarker is left out"
    )
    parser.add_argument(
        "--spacy", metavar="PYTHON", help="Python of spaCy's environment; without it, spaCy is left out"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves the choice to torch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    config = tomllib.loads(arguments.config.read_text(encoding="utf-8"))
    content = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"cells": {}}
    content |= {"machine": machine(), "config": config}
    pythons = {"span-marker": arguments.span_marker, "spacy": arguments.spacy}
    others = Others(arguments.encoder, {name: python for name, python in pythons.items() if python})
    for name, measure in measurements(config, others):
        if name not in content["cells"]:
            content["cells"][name] = measure()
            write_result(arguments.output, content)
        print(name, json.dumps(content["cells"][name]), flush=True)


if __name__ == "__main__":
    main()
