"""How a benchmark and a system talk: a folder with shots and texts, and in it the system's spans and facts.

    task.json    {"labels": [...], "seed": 0}
    shots.jsonl  {"text": "...", "tokens": [[0, 3], ...], "spans": [{"start": 0, "end": 3, "label": "..."}]}
    texts.jsonl  {"text": "...", "tokens": [[0, 3], ...]}
    spans.jsonl  {"spans": [{"start": 0, "end": 3, "label": "...", "score": 0.9}]}, a line for each text, by the system
    facts.json   {"seconds": {"train": 1.0, "predict": 2.0}, "peak_megabytes": 300, "versions": {...}, ...}, likewise;
                 "device" is the type of a torch device; cpu, if it is not there

All offsets are code points, the end exclusive. A system is any program that reads the first three and writes the last
two. Knows this folder; needs nothing but Python, so that a peer's environment can import it.
"""

from __future__ import annotations

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
    """What a system is given.

    Attributes:
        shots: labelled sentences; none for an answer without shots.
        texts: sentences to answer, without spans.
        labels: all types of the data set.
        seed: of whatever is random in the system.
    """

    shots: tuple[Example, ...]
    texts: tuple[Example, ...]
    labels: tuple[str, ...]
    seed: int


def write_task(folder: Path, task: Task) -> None:
    """Write what the system reads."""
    (folder / "task.json").write_text(json.dumps({"labels": task.labels, "seed": task.seed}), encoding="utf-8")
    shots = ({**_given(shot), "spans": [span.to_dict() for span in shot.spans]} for shot in task.shots)
    _write_lines(folder / "shots.jsonl", shots)
    _write_lines(folder / "texts.jsonl", map(_given, task.texts))


def _given(example: Example) -> dict[str, Any]:
    return {"text": example.text, "tokens": example.token_offsets}


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_task(folder: Path) -> Task:
    """Read what :func:`write_task` wrote."""
    facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    shots, texts = (tuple(map(_example, _read_lines(folder / f"{name}.jsonl"))) for name in ("shots", "texts"))
    return Task(shots, texts, tuple(facts["labels"]), facts["seed"])


def _example(record: Mapping[str, Any]) -> Example:
    offsets = None if record["tokens"] is None else tuple((start, end) for start, end in record["tokens"])
    return Example(record["text"], tuple(Span(**span) for span in record.get("spans", ())), offsets)


def read_answer(folder: Path, texts: Sequence[Example]) -> tuple[list[Document], dict[str, Any]]:
    """The system's spans of each text, and its facts; no facts if it wrote none.

    Raises:
        DataError: if there is no answer, or not one for each text.
    """
    path = folder / "spans.jsonl"
    try:
        records = _read_lines(path)
        found = [
            tuple(Span(s["start"], s["end"], s["label"], s.get("score"), s.get("text")) for s in record["spans"])
            for record in records
        ]
        written = folder / "facts.json"
        facts = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"a system must write spans.jsonl as said in cllmfs.benchmark.task, got {error!r}") from error
    if len(found) != len(texts):
        raise DataError(f"a system must answer every text, got {len(found)} lines of spans for {len(texts)} texts")
    return [Document(text.text, spans) for text, spans in zip(texts, found, strict=True)], facts


def serve(
    folder: Path,
    learn: Callable[[Task], Model],
    predict: Callable[[Model, Sequence[Example]], Sequence[Document]],
    facts: Callable[[Model, Task], Mapping[str, Any]],
    packages: Sequence[str],
) -> None:
    """Do a task: learn, answer, and write both with the seconds that they took.

    Args:
        folder: the task.
        learn: makes a model of the task's shots.
        predict: the spans of each text, in order.
        facts: what else is kept of the model and its task, JSON-ready.
        packages: distributions whose versions are kept.
    """
    task = read_task(folder)
    began = time.perf_counter()
    model = learn(task)
    learned = time.perf_counter()
    documents = predict(model, task.texts)
    finished = time.perf_counter()
    record = {
        **facts(model, task),
        "seconds": {"train": round(learned - began, 2), "predict": round(finished - learned, 2)},
        "peak_megabytes": round(peak_megabytes()),
        "versions": {package: version(package) for package in packages},
    }
    (folder / "facts.json").write_text(json.dumps(record), encoding="utf-8")
    _write_lines(folder / "spans.jsonl", ({"spans": [s.to_dict() for s in one.spans]} for one in documents))


def peak_megabytes() -> float:
    """The largest resident size of this process so far."""
    # Linux hands ru_maxrss on to the programs that a process starts: a small one would show its large parent's peak.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024 * 1024)
