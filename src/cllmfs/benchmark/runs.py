"""Runs a benchmark: every cell once, one JSON file for each, so that a stopped job goes on where it was.

A cell's system runs in a process of its own and answers every text of the split, all types asked; what it answers is
scored here, by one scorer for all. Knows data sets, tasks and scores; knows nothing of what a system is made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cllmfs.benchmark.config import BenchmarkConfig, Cell, DataSource, filled
from cllmfs.benchmark.task import Task, read_answer, write_task
from cllmfs.datasets.episodes import episode_counts, read_episodes
from cllmfs.datasets.sampling import Episode, sample_episode, sample_k_shot, shortfalls
from cllmfs.datasets.splits import below, load_split, without_twins
from cllmfs.decoding.calibration import expected_calibration_error, reliability
from cllmfs.errors import ConfigError, DataError, ModelError
from cllmfs.evaluation import evaluate_spans
from cllmfs.formats.writing import read_examples
from cllmfs.schema import Document, Example, LabelSet

_KEPT_LINES = 5  # of what a system that failed said last


@dataclass(frozen=True)
class _Loaded:
    """A data set or an episode: sentences to draw shots from, sentences to score, and all types."""

    pool: list[Example]
    scored: list[Example]
    labels: tuple[str, ...]


class Benchmark:
    """A benchmark on its way.

    Args:
        config: what to run.
        data: folder of the data sets.
        output: folder of the results, a file for each cell.
        values: of the placeholders in the systems' commands.
    """

    def __init__(self, config: BenchmarkConfig, data: Path, output: Path, values: Mapping[str, str]) -> None:
        self.config = config
        self.data = data
        self.output = output
        self.values = {"python": sys.executable, **values}
        self._splits: dict[tuple[str, str], list[Example]] = {}  # by path and name; many episodes may be of one
        self._loaded: dict[str, _Loaded] = {}
        self._drawn: dict[tuple[str, int, int], list[Example]] = {}  # all systems learn from the same
        self._episodes: dict[Path, list[Episode]] = {}

    def open_cells(self, systems: Sequence[str] = ()) -> list[Cell]:
        """The cells that have no result yet, in order.

        Args:
            systems: of these systems only, if any is named.

        Raises:
            ConfigError: if a system is unknown, or a result is of other settings.
        """
        if unknown := [name for name in systems if name not in self.config.systems]:
            raise ConfigError(f"there is no system {unknown[0]!r}; there are {', '.join(self.config.systems)}")
        return [
            cell for cell in self.config.cells if (not systems or cell.system in systems) and not self._is_done(cell)
        ]

    def check(self, cells: Iterable[Cell]) -> None:
        """See that all that the cells need is there, before hours are spent on some of them.

        Raises:
            ConfigError: if a placeholder of a command has no value, or a data set's name is wrong.
            DataError: if a data set or a support set cannot be read, or a licence must be accepted first.
        """
        for cell in cells:
            filled(self.config.systems[cell.system].command, self.values)
            self.shots(cell)

    def path(self, cell: Cell) -> Path:
        """The file of a cell's result."""
        return result_path(self.output, cell, self.config.split)

    def _is_done(self, cell: Cell) -> bool:
        path = self.path(cell)
        if not path.is_file():
            return False
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            same = (record["command"], record["limit"]) == (
                list(self.config.systems[cell.system].command),
                self.config.limit,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no result of a benchmark ({error!r}); take it away") from error
        if not same:
            raise ConfigError(f"{path} is the result of another command or limit; take it away, or write elsewhere")
        return True

    def run(self, cell: Cell) -> dict[str, Any]:
        """Run a cell and write its result.

        Raises:
            ConfigError, DataError: as :meth:`check`.
            ModelError: if the system fails, or its answer cannot be read.
        """
        system, loaded, shots = self.config.systems[cell.system], self._load(cell), self.shots(cell)
        texts = tuple(Example(text.text, (), text.token_offsets) for text in loaded.scored)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_task(folder, Task(tuple(shots), texts, loaded.labels, cell.seed))
            began = time.monotonic()
            _call([*filled(system.command, self.values), str(folder)])
            seconds = time.monotonic() - began
            try:
                documents, facts = read_answer(folder, texts)
            except DataError as error:
                raise ModelError(f"{cell.system}: {error}") from error
        scores = evaluate_spans(loaded.scored, documents, loaded.labels, scenarios=False).to_dict()
        if self.config.source(cell.dataset).episodic:
            scores["episode"] = episode_counts(loaded.scored, documents).to_dict()
        record = {
            **dict(zip(("system", "dataset", "k", "seed"), cell, strict=True)),
            "split": self.config.split,
            "limit": self.config.limit,
            "command": list(system.command),
            "shots": shots_record(shots, loaded.pool, loaded.scored, cell.k),
            "scores": scores,
            "confidence": confidence_record(loaded.scored, documents),
            "process_seconds": round(seconds, 2),
            **facts,
        }
        write_result(self.path(cell), record)
        return record

    def shots(self, cell: Cell) -> list[Example]:
        """The support set of a cell; empty for k 0.

        Raises:
            DataError: if it cannot be drawn or read.
        """
        support = (cell.dataset, cell.k, cell.seed)
        if support not in self._drawn:
            self._drawn[support] = self._draw(cell) if cell.k else []
        return self._drawn[support]

    def _draw(self, cell: Cell) -> list[Example]:
        source = self.config.source(cell.dataset)
        if source.episodic:
            return self._load(cell).pool
        if source.supports:
            return self._published(source, cell)
        return sample_k_shot(self._load(cell).pool, cell.k, cell.seed)

    def _published(self, source: DataSource, cell: Cell) -> list[Example]:
        path = self.data / source.supports.format(k=cell.k, seed=cell.seed)
        shots, known = [_renamed(shot, source.rename) for shot in read_examples(path)], self._load(cell).labels
        if unknown := sorted({label for shot in shots for label in shot.labels} - set(known)):
            raise DataError(
                f"the shots have labels of {cell.dataset} ({', '.join(known)}), got {unknown[0]!r}; name what it is "
                f"called there in [data.{cell.dataset}]: rename = {{ {unknown[0]} = ... }}",
                source=str(path),
            )
        return shots

    def _load(self, cell: Cell) -> _Loaded:
        source = self.config.source(cell.dataset)
        if source.episodic:
            episode = self._episode(source, cell)
            return _Loaded(list(episode.support), list(episode.query), episode.labels)
        if cell.dataset not in self._loaded:
            train, scored = (self._split(source, split) for split in ("train", self.config.split))
            labels = tuple(LabelSet.of_examples([*train, *scored]))
            self._loaded[cell.dataset] = _Loaded(without_twins(train), scored[: self.config.limit], labels)
        return self._loaded[cell.dataset]

    def _split(self, source: DataSource, split: str) -> list[Example]:
        key = (source.path, split)
        if key not in self._splits:
            place = below(self.data, source.path)
            self._splits[key] = load_split(place, split, licence_accepted=source.licence_accepted)
        return self._splits[key]

    def _episode(self, source: DataSource, cell: Cell) -> Episode:
        if source.n_way:
            pool = without_twins(self._split(source, self.config.split))
            return sample_episode(pool, source.n_way, cell.k, cell.seed, queries=source.queries)
        path = self.data / source.episodes.format(k=cell.k)
        if path not in self._episodes:
            self._episodes[path] = read_episodes(path)
        episodes = self._episodes[path]
        if cell.seed >= len(episodes):
            raise DataError(f"there are {len(episodes)} episodes, counted from 0, got {cell.seed}", source=str(path))
        return episodes[cell.seed]


def _renamed(example: Example, names: Mapping[str, str]) -> Example:
    return replace(example, spans=tuple(replace(s, label=names.get(s.label, s.label)) for s in example.spans))


def result_path(output: Path, cell: Cell, split: str) -> Path:
    """Where a cell's result lies in the results folder."""
    system, dataset = (re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_").lower() for name in (cell.system, cell.dataset))
    return output / system / dataset / f"{split}-{cell.k}-shot-{cell.seed}.json"


def write_result(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def shots_record(
    shots: Sequence[Example], pool: Sequence[Example], scored: Sequence[Example], k: int
) -> dict[str, Any]:
    """What is kept of a support set: counts and a digest, no text."""
    known = {example.text for example in scored}
    mentions = Counter(span.label for shot in shots for span in shot.spans)
    return {
        "sentences": len(shots),
        "mentions": dict(sorted(mentions.items())),
        "shortfalls": shortfalls(pool, shots, k) if k else {},
        "in_split": sum(shot.text in known for shot in shots),
        "sha256": hashlib.sha256(json.dumps([shot.to_dict() for shot in shots]).encode()).hexdigest(),
    }


def confidence_record(gold: Sequence[Example], documents: Sequence[Document]) -> dict[str, Any] | None:
    """Calibration error and reliability of the answered spans; ``None`` if a span has no score."""
    if any(span.score is None for document in documents for span in document.spans):
        return None
    bins = reliability(_confidences(gold, documents))
    return {
        "ece": round(expected_calibration_error(bins), 4),
        "bins": [[*one[:3], round(one.confidence, 4), round(one.accuracy, 4)] for one in bins],
    }


def _confidences(gold: Iterable[Example], documents: Iterable[Document]) -> Iterator[tuple[float, bool]]:
    for example, document in zip(gold, documents, strict=True):
        right = {span.key for span in example.spans}
        yield from ((span.score or 0.0, span.key in right) for span in document.spans)


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise ModelError(f"the system cannot be started: {error}; mend its command") from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-_KEPT_LINES:])
        raise ModelError(f"the system ended with {done.returncode}: {said or 'it said nothing'}")
