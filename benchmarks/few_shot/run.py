"""Few-shot and zero-shot scores of cllmfs: every type asked of every sentence, exact offsets, the whole split.

    python benchmarks/few_shot/run.py --data DIR --datasets wnut17 snips --k 5 --seeds 0 1 2 3 4 --output results.json

A run with ``--k 0`` is the base's zero-shot answer. The output file is written after every run and runs in it are
skipped, so a stopped job goes on where it was. It holds scores, settings and counts, no text.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path, where datasets.py would hide the Hugging Face package of
# that name from transformers.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.few_shot import datasets as benchmark_data
from benchmarks.few_shot.results import write_content
from cllmfs.calibration import expected_calibration_error, reliability
from cllmfs.config import Config
from cllmfs.evaluation import Scores, evaluate_spans, mean_sd
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Document, Example, LabelSet


def scores_record(scores: Scores) -> dict[str, Any]:
    """The figures that are kept of a run, in percent but for counts."""
    record = scores.to_dict()
    micro, spans = record["micro"], record["micro"]["tp"] + record["micro"]["fp"]
    return {
        "f1": round(100 * micro["f1"], 2),
        "precision": round(100 * micro["precision"], 2),
        "recall": round(100 * micro["recall"], 2),
        "macro_f1": round(100 * record["macro"]["f1"], 2),
        "boundary_f1": round(100 * record["boundary"]["f1"], 2),
        "typing_accuracy": record["typing_accuracy"],
        "spans": spans,
        "ungrounded": record["ungrounded"],
        "sentences": record["sentences"]["count"],
    }


def run(name: str, k: int, seed: int, test: list[Example], arguments: argparse.Namespace) -> dict[str, Any]:
    """One run: shots, training, the split's scores."""
    config = Config().with_settings([*arguments.set, f"train.seed={seed}"])
    labels = LabelSet.of_examples([*benchmark_data.load(name, "train", arguments.data), *test])
    recognizer = EntityRecognizer(arguments.base, labels=labels, config=config)
    began, shots = time.monotonic(), []
    if k:
        shots = benchmark_data.supports(name, k, seed, arguments.data)
        recognizer.fit(shots)
    trained = time.monotonic()
    documents = recognizer.predict([example.text for example in test])
    seconds = time.monotonic() - trained
    scores = evaluate_spans(test, documents, recognizer.labels, scenarios=False)
    bins = reliability(confidences(test, documents))
    return scores_record(scores) | {
        "shots": len(shots),
        "fit_seconds": round(trained - began, 1),
        "evaluate_seconds": round(seconds, 1),
        "ece": round(expected_calibration_error(bins), 4),
        "reliability": [[one.low, one.spans, round(one.confidence, 4), round(one.accuracy, 4)] for one in bins],
        "chosen": {**{key: value for key, value in recognizer.shots.items() if key != "mentions"}, **recognizer.scores},
        "calibration": recognizer.calibration.to_dict(),
    }


def confidences(test: list[Example], documents: list[Document]) -> Iterator[tuple[float, bool]]:
    """Each predicted span's confidence, and whether it is right."""
    for example, document in zip(test, documents, strict=True):
        gold = {span.key for span in example.spans}
        yield from ((span.score or 0.0, span.key in gold) for span in document.spans)


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Mean and sd over seeds, by data set and shots."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, record in runs.items():
        groups.setdefault(key.rsplit(" ", 1)[0], []).append(record)
    table = {}
    for group, records in groups.items():
        entry: dict[str, Any] = {"runs": len(records), "ungrounded": sum(r["ungrounded"] for r in records)}
        entry["spans"] = sum(r["spans"] for r in records)
        for name in ("f1", "precision", "recall", "boundary_f1", "ece", "fit_seconds"):
            entry[name] = [round(value, 4) for value in mean_sd([r[name] for r in records])]
        table[group] = entry
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmark_data.add_options(parser)
    parser.add_argument("--base", default="cllmfs-mini")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    content = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"runs": {}}
    tests = benchmark_data.scored(arguments)
    for k, seed, name in itertools.product(arguments.k, arguments.seeds, arguments.datasets):
        key = f"{name} {arguments.split} {k}-shot {seed}"
        if key in content["runs"] or (k == 0 and seed != arguments.seeds[0]):
            continue
        content["runs"][key] = run(name, k, seed, tests[name], arguments)
        content["settings"] = {"base": Path(arguments.base).name, "set": arguments.set}
        content["summary"] = summary(content["runs"])
        write_content(arguments.output, content)
        print(key, json.dumps(content["runs"][key]), flush=True)


if __name__ == "__main__":
    main()
