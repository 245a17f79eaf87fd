"""The folder through which a benchmark and a system communicate.

The benchmark writes the first three files, the system the last two:

    task.json    {"labels": [...], "seed": 0}
    shots.jsonl  {"text": "...", "tokens": [[0, 3], ...], "spans": [{"start": 0, "end": 3, "label": "..."}]}
                 and "labels": [...] if only these labels were annotated in the text
    texts.jsonl  {"text": "...", "tokens": [[0, 3], ...]}
    spans.jsonl  {"spans": [{"start": 0, "end": 3, "label": "...", "score": 0.9}]}, one line for each text
    facts.json   {"seconds": {"train": 1.0, "predict": 2.0}, "peak_megabytes": 300, "versions": {...}, ...}; "device" is
                 the type of a torch device, and cpu if it is missing

All offsets count code points, and the end is exclusive. A system is any program that takes this folder as its last
argument. Knows this folder; needs nothing but Python, so that it can be imported in the environment of any system.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from cllmfs.errors import DataError
from cllmfs.schema import Document, Example, Span

Model = TypeVar("Model")


@dataclass(frozen=True)
class Task:
    """The input of a system.

    Attributes:
        shots: labeled sentences; none if the system is to predict zero-shot.
        texts: the sentences to predict, without spans.
        labels: all types of the data set.
        seed: the seed of everything random in the system.
    """

    shots: tuple[Example, ...]
    texts: tuple[Example, ...]
    labels: tuple[str, ...]
    seed: int


def write_task(folder: Path, task: Task) -> None:
    """Write the files that the system reads."""
    (folder / "task.json").write_text(json.dumps({"labels": task.labels, "seed": task.seed}), encoding="utf-8")
    _write_lines(folder / "shots.jsonl", map(_shot, task.shots))
    _write_lines(folder / "texts.jsonl", map(_given, task.texts))


def _given(example: Example) -> dict[str, Any]:
    return {"text": example.text, "tokens": example.token_offsets}


def _shot(example: Example) -> dict[str, Any]:
    annotated = {} if example.annotated is None else {"labels": sorted(example.annotated)}
    return {**_given(example), "spans": [span.to_dict() for span in example.spans], **annotated}


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_task(folder: Path) -> Task:
    """Read the files that :func:`write_task` wrote."""
    facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    shots, texts = (tuple(map(_example, _read_lines(folder / f"{name}.jsonl"))) for name in ("shots", "texts"))
    return Task(shots, texts, tuple(facts["labels"]), facts["seed"])


def _example(record: Mapping[str, Any]) -> Example:
    offsets = None if record["tokens"] is None else tuple((start, end) for start, end in record["tokens"])
    spans = tuple(Span(**span) for span in record.get("spans", ()))
    return Example(record["text"], spans, offsets, annotated=record.get("labels"))


def read_answer(folder: Path, texts: Sequence[Example]) -> tuple[list[Document], dict[str, Any]]:
    """The spans that the system predicted for each text, and its facts, which may be missing.

    Raises:
        DataError: if there is no answer, or not one line for each text.
    """
    try:
        found = [
            tuple(Span(s["start"], s["end"], s["label"], s.get("score"), s.get("text")) for s in record["spans"])
            for record in _read_lines(folder / "spans.jsonl")
        ]
        written = folder / "facts.json"
        facts = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"a system must write spans.jsonl as cllmfs.benchmark.task describes it, got {error!r:.200}"
        raise DataError(message) from error
    if len(found) != len(texts):
        got = f"got {len(found)} lines for {len(texts)} texts"
        raise DataError(f"a system must write one line of spans for each text, {got}")
    return [Document(text.text, spans) for text, spans in zip(texts, found, strict=True)], facts


def serve(
    parser: argparse.ArgumentParser,
    learn: Callable[[Task, argparse.Namespace], Model],
    predict: Callable[[Model, Sequence[Example]], Sequence[Document]],
    facts: Callable[[Model, Task, argparse.Namespace], Mapping[str, Any]],
    packages: Sequence[str],
) -> None:
    """Run a Python program as a system: learn from the task, predict its texts, and write the spans and the facts.

    Args:
        parser: the options of the program; the task folder is added to them.
        learn: makes a model from the task's shots and the options.
        predict: returns the documents of the texts, in order.
        facts: returns further facts about the model, ready for JSON.
        packages: the packages whose versions are recorded.
    """
    parser.add_argument("task", type=Path, help="the task folder, see cllmfs.benchmark.task")
    arguments = parser.parse_args()
    task = read_task(arguments.task)
    began = time.perf_counter()
    model = learn(task, arguments)
    learned = time.perf_counter()
    documents = predict(model, task.texts)
    finished = time.perf_counter()
    record = {
        **facts(model, task, arguments),
        "seconds": {"train": round(learned - began, 2), "predict": round(finished - learned, 2)},
        "peak_megabytes": round(peak_megabytes()),
        "versions": {package: version(package) for package in packages},
    }
    (arguments.task / "facts.json").write_text(json.dumps(record), encoding="utf-8")
    _write_lines(arguments.task / "spans.jsonl", ({"spans": [s.to_dict() for s in one.spans]} for one in documents))


def peak_megabytes() -> float:
    """The largest resident set size of this process so far."""
    # On Linux, ru_maxrss is inherited by a started program: a small one would report the peak of its large parent.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024 * 1024)  # macOS counts bytes, others kibibytes
