"""Runs a benchmark: each planned run once, with one JSON file as its result, so that a stopped benchmark can go on.

The system of a run works in a process of its own and answers every text of the split for all types; its answers are
scored here, with the same scorer for all systems. Knows data sets, tasks and scores; knows nothing of how a system
works.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cllmfs.benchmark.config import BenchmarkConfig, DataSource, PlannedRun, fill_placeholders
from cllmfs.benchmark.task import Task, read_answer, write_task
from cllmfs.datasets.episodes import episode_counts, read_episodes
from cllmfs.datasets.sampling import Episode, sample_episode, sample_k_shot, shortfalls
from cllmfs.datasets.splits import load_split, resolve, without_duplicates
from cllmfs.errors import ConfigError, DataError, ModelError
from cllmfs.evaluation import evaluate_spans, expected_calibration_error, reliability
from cllmfs.files import scratch_folder, whole_file
from cllmfs.formats import read_examples
from cllmfs.schema import Document, Example, LabelSet, mentions

_SHOWN_LINES = 5  # of the error output of a system that failed


@dataclass(frozen=True)
class _Loaded:
    """A data set or an episode: the sentences that shots come from, the sentences that are scored, and all types."""

    pool: list[Example]
    scored: list[Example]
    labels: tuple[str, ...]


class Benchmark:
    """A benchmark whose runs can be made.

    Args:
        data: the folder of the data sets.
        output: the folder of the results, with one file for each run.
        here: the folder of the configuration. Systems can import modules from ``{root}``, the first folder from there
            upwards that is not a package.
        values: the values of further placeholders in the systems' commands.
    """

    def __init__(
        self, config: BenchmarkConfig, data: Path, output: Path, here: Path, values: Mapping[str, str] | None = None
    ) -> None:
        self.config, self.data, self.output = config, data, output
        here = root = here.resolve()
        while (root / "__init__.py").is_file():
            root = root.parent
        self.values = {"python": sys.executable, "here": str(here), "root": str(root), **(values or {})}
        self._loaded: dict[str, _Loaded] = {}
        self._load_split = cache(load_split)  # many episodes may share a split
        self._read_episodes = cache(read_episodes)
        self._drawn = cache(self._draw)

    def open_runs(self, systems: Sequence[str] = ()) -> list[PlannedRun]:
        """The planned runs of the given systems (of all if empty) that have no result yet, in order.

        Raises:
            ConfigError: if a system is unknown, or a result was made with other settings.
        """
        if unknown := [name for name in systems if name not in self.config.systems]:
            raise ConfigError(f"there is no system {unknown[0]!r}; there are {', '.join(self.config.systems)}")
        return [run for run in self.config.runs if (not systems or run.system in systems) and not self._is_done(run)]

    def verify(self, runs: Iterable[PlannedRun]) -> None:
        """Check that everything that the runs need is there, before hours are spent on some of them.

        Raises:
            ConfigError: if a placeholder of a command has no value, or the name of a data set is wrong.
            DataError: if a data set or a support set cannot be read, or a license must be accepted first.
        """
        for run in runs:
            self._command(run)
            self.shots(run)

    def path(self, run: PlannedRun) -> Path:
        """The file of a run's result."""
        return result_path(self.output, run, self.config.split)

    def _command(self, run: PlannedRun) -> list[str]:
        return fill_placeholders(self.config.systems[run.system].arguments, self.values)

    def _is_done(self, run: PlannedRun) -> bool:
        path = self.path(run)
        if not path.is_file():
            return False
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            expected = self.config.systems[run.system].record()
            differs = result["limit"] != self.config.limit or any(result.get(k) != v for k, v in expected.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path} is not the result of a benchmark ({error!r:.200}); move it away") from error
        if differs:
            hint = "move it away or choose another folder"
            raise ConfigError(f"{path} was made with another command, base, setting or limit; {hint}")
        return True

    def make(self, run: PlannedRun) -> dict[str, Any]:
        """Make a run and write its result.

        Raises:
            ConfigError, DataError: as :meth:`verify`.
            ModelError: if the system fails, or its answer cannot be read.
        """
        loaded, shots = self._load(run), self.shots(run)
        texts = tuple(Example(text.text, (), text.token_offsets) for text in loaded.scored)
        with scratch_folder(self.path(run)) as folder:
            write_task(folder, Task(tuple(shots), texts, loaded.labels, run.seed))
            began = time.monotonic()
            _call([*self._command(run), str(folder)], self.values["root"])
            seconds = time.monotonic() - began
            try:
                documents, facts = read_answer(folder, texts)
            except DataError as error:
                raise ModelError(f"{run.system}: {error}") from error
        scores = evaluate_spans(loaded.scored, documents, loaded.labels, scenarios=False).to_dict()
        if self.config.source(run.dataset).episodic:
            scores["episode"] = episode_counts(loaded.scored, documents).to_dict()
        record = {
            **run._asdict(),
            "split": self.config.split,
            "limit": self.config.limit,
            **self.config.systems[run.system].record(),
            "shots": shots_record(shots, loaded.pool, loaded.scored, run.k),
            "scores": scores,
            "confidence": confidence_record(loaded.scored, documents),
            "process_seconds": round(seconds, 2),
            **facts,
        }
        write_result(self.path(run), record)
        return record

    def shots(self, run: PlannedRun) -> list[Example]:
        """The support set of a run, empty if it is zero-shot; raises DataError if it cannot be drawn or read."""
        return self._drawn(run._replace(system="")) if run.k else []  # all systems learn from the same shots

    def _draw(self, run: PlannedRun) -> list[Example]:
        source = self.config.source(run.dataset)
        if source.episodic:
            return self._load(run).pool
        if source.supports:
            return self._published(source, run)
        return sample_k_shot(self._load(run).pool, run.k, run.seed)

    def _published(self, source: DataSource, run: PlannedRun) -> list[Example]:
        path = self.data / source.supports.format(k=run.k, seed=run.seed)
        shots, known = [_renamed(shot, source.rename) for shot in read_examples(path)], self._load(run).labels
        if unknown := sorted({label for shot in shots for label in shot.labels} - set(known)):
            raise DataError(
                f"the labels of the shots must be labels of {run.dataset} ({', '.join(known)}), got {unknown[0]!r}; if "
                f"that is another name of one of them, add to [data.{run.dataset}]: rename = {{ {unknown[0]} = ... }}",
                source=str(path),
            )
        return shots

    def _load(self, run: PlannedRun) -> _Loaded:
        source = self.config.source(run.dataset)
        if source.episodic:
            episode = self._episode(source, run)
            return _Loaded(list(episode.support), list(episode.query), episode.labels)
        if run.dataset not in self._loaded:
            train, scored = (self._split(source, split) for split in ("train", self.config.split))
            labels = tuple(LabelSet.of_examples([*train, *scored]))
            self._loaded[run.dataset] = _Loaded(without_duplicates(train), scored[: self.config.limit], labels)
        return self._loaded[run.dataset]

    def _split(self, source: DataSource, split: str) -> list[Example]:
        place = resolve(self.data, source.path)
        return self._load_split(place, split, license_accepted=source.license_accepted)

    def _episode(self, source: DataSource, run: PlannedRun) -> Episode:
        if source.n_way:
            pool = without_duplicates(self._split(source, self.config.split))
            return sample_episode(pool, source.n_way, run.k, run.seed, queries=source.queries)
        path = self.data / source.episodes.format(k=run.k)
        episodes = self._read_episodes(path)
        if run.seed >= len(episodes):
            rule = f"the number of an episode must be below {len(episodes)}, the number of episodes"
            raise DataError(f"{rule}, got {run.seed}", source=str(path))
        return episodes[run.seed]


def _renamed(example: Example, names: Mapping[str, str]) -> Example:
    spans = tuple(replace(span, label=names.get(span.label, span.label)) for span in example.spans)
    known = example.annotated
    annotated = None if known is None else frozenset(names.get(label, label) for label in known)
    return replace(example, spans=spans, annotated=annotated)


def result_path(output: Path, run: PlannedRun, split: str) -> Path:
    """The file of a run's result in the results folder."""
    system, dataset = (re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_").lower() for name in (run.system, run.dataset))
    return output / system / dataset / f"{split}-{run.k}-shot-{run.seed}.json"


def write_result(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def shots_record(
    shots: Sequence[Example], pool: Sequence[Example], scored: Sequence[Example], k: int
) -> dict[str, Any]:
    """What a result states about a support set: counts and a digest, but no text."""
    known = {example.text for example in scored}
    return {
        "sentences": len(shots),
        "mentions": dict(sorted(mentions(shots).items())),
        "shortfalls": shortfalls(pool, shots, k) if k else {},
        "in_split": sum(shot.text in known for shot in shots),
        "sha256": hashlib.sha256(json.dumps([shot.to_dict() for shot in shots]).encode()).hexdigest(),
    }


def confidence_record(gold: Sequence[Example], documents: Sequence[Document]) -> dict[str, Any] | None:
    """Calibration error and reliability of the predicted spans; ``None`` if a span has no score."""
    if any(span.score is None for document in documents for span in document.spans):
        return None
    bins = reliability(
        (span.score or 0.0, span in text.spans)
        for text, document in zip(gold, documents, strict=True)
        for span in document.spans
        if text.annotated is None or span.label in text.annotated  # of others nobody knows whether they are right
    )
    return {
        "ece": round(expected_calibration_error(bins), 4),
        "bins": [[*one[:3], round(one.confidence, 4), round(one.accuracy, 4)] for one in bins],
    }


def _call(command: Sequence[str], root: str) -> None:
    """Run a system; it can import modules from ``root``, whatever the working directory is."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise ModelError(f"the system cannot be started: {error}; correct its command") from error
    if done.returncode:
        shown = "\n".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
        raise ModelError(f"the system ended with exit status {done.returncode}: {shown or 'no error output'}")
