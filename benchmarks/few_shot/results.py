"""The few-shot results files: writing and reading them, refusing what must not be compared, means over supports."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cllmfs.errors import DataError
from cllmfs.evaluation import mean_sd

SPLITS = ("dev", "test")
KEY = re.compile(rf"(?P<dataset>\S+) (?P<split>{'|'.join(SPLITS)}) (?P<k>\d+)-shot (?P<seed>\d+)")


class Bin(NamedTuple):
    """Predicted spans of like confidence: the least it may be, their number, mean confidence and the share right."""

    low: float
    spans: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Run:
    """One run of one system.

    Attributes:
        dataset: the data set's name.
        k: shots of each label; 0 for an answer without shots.
        seed: which support set.
        f1: strict micro-F1 in percent.
        sentences: how many sentences were scored.
        shots: how many sentences were learned from.
        ece: expected calibration error in [0, 1], if the file has it.
        bins: of a reliability diagram, if the file has them.
    """

    dataset: str
    k: int
    seed: int
    f1: float
    sentences: int
    shots: int
    ece: float | None = None
    bins: tuple[Bin, ...] = ()


Systems = Mapping[str, Sequence[Run]]  # the runs of each system, in the order of the columns


class Cell(NamedTuple):
    """Mean and sample standard deviation over so many supports; the latter is 0.0 for one."""

    mean: float
    sd: float
    supports: int

    def text(self, digits: int = 1) -> str:
        """As the table shows it; one support has no deviation."""
        spread = f" ± {self.sd:.{digits}f}" if self.supports > 1 else ""
        return f"{self.mean:.{digits}f}{spread} ({self.supports})"


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write a results file; it is replaced in one step, so a stop never leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_runs(path: Path, split: str) -> list[Run]:
    """The runs of a split in a results file: of run.py (a mapping, percent) or of the other systems (a list, shares).

    Raises:
        DataError: if the file is missing or is not a results file.
    """
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        if isinstance(runs, dict):
            return [_keyed(match, record) for match, record in _matches(runs) if match["split"] == split]
        return [_listed(record) for record in runs if record["split"] == split]
    except OSError as error:
        raise DataError(f"a results file must be readable: {error}", source=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"a results file must hold runs as run.py writes them: {error!r}", source=str(path)) from error


def _matches(runs: Mapping[str, Any]) -> Iterable[tuple[re.Match[str], Any]]:
    for key, record in runs.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r} is no run's name")
        yield match, record


def _keyed(match: re.Match[str], record: Mapping[str, Any]) -> Run:
    dataset, k, seed = match["dataset"], int(match["k"]), int(match["seed"])
    bins = tuple(Bin(*figures) for figures in record.get("reliability", ()))
    return Run(dataset, k, seed, float(record["f1"]), record["sentences"], record["shots"], record.get("ece"), bins)


def _listed(record: Mapping[str, Any]) -> Run:
    dataset, k, seed = record["dataset"], int(record["k"]), int(record["seed"])
    f1, shots = 100 * float(record["f1"]), record["support_sentences"]
    return Run(dataset, k, seed, f1, record["sentences"], shots, record.get("ece"))


def check(systems: Systems) -> None:
    """Refuse what must not be compared.

    Raises:
        DataError: if a system has two runs of one support, or two systems differ in the sentences scored on a data set
            or in the number of shots of a support.
    """
    sentences: dict[str, tuple[int, str]] = {}
    shots: dict[tuple[str, int, int], tuple[int, str]] = {}
    for name, runs in systems.items():
        seen = set()
        for run in runs:
            support = (run.dataset, run.k, run.seed)
            where = f"{run.dataset}, {run.k}-shot, seed {run.seed}"
            if support in seen:
                raise DataError(f"{name} must have one run a support, got two of {where}; give one recipe's file only")
            seen.add(support)
            scored, scorer = sentences.setdefault(run.dataset, (run.sentences, name))
            if scored != run.sentences:
                raise DataError(
                    f"all runs must score the same sentences of {run.dataset}, got {scored} ({scorer}) and "
                    f"{run.sentences} ({name}, {where}); score the whole split"
                )
            learned, learner = shots.setdefault(support, (run.shots, name))
            if learned != run.shots:
                raise DataError(
                    f"all systems must learn from the same shots, got {learned} ({learner}) and {run.shots} ({name}) "
                    f"sentences for {where}"
                )


def cell(runs: Iterable[Run], dataset: str, k: int, value: Callable[[Run], float | None] | None = None) -> Cell | None:
    """F1, or another value of a run, over the supports of a data set and k; ``None`` if there is none."""
    chosen = [run for run in runs if run.dataset == dataset and run.k == k]
    values = [figure for run in chosen if (figure := value(run) if value else run.f1) is not None]
    return Cell(*mean_sd(values), len(values)) if values else None


def difference(runs: Iterable[Run], baseline: Iterable[Run], dataset: str, k: int) -> float | None:
    """Mean F1 less the baseline's, over the supports that both have; ``None`` if they share none."""
    theirs = {run.seed: run.f1 for run in baseline if run.dataset == dataset and run.k == k}
    gaps = [run.f1 - theirs[run.seed] for run in runs if run.dataset == dataset and run.k == k and run.seed in theirs]
    return mean_sd(gaps)[0] if gaps else None


def zero_shot_systems(systems: Systems) -> list[str]:
    """The systems that were asked without shots."""
    return [name for name, runs in systems.items() if any(run.k == 0 for run in runs)]


def measured(systems: Systems) -> tuple[list[str], list[int]]:
    """The data sets by name and the k above 0 by size that any system has."""
    runs = [run for each in systems.values() for run in each]
    return sorted({run.dataset for run in runs}), sorted({run.k for run in runs if run.k})


def curve(runs: Sequence[Run], dataset: str) -> list[tuple[int, Cell]]:
    """The cells of a data set by k, from 1 shot on."""
    ks = sorted({run.k for run in runs if run.dataset == dataset and run.k})
    return [(k, one) for k in ks if (one := cell(runs, dataset, k))]


def pooled_bins(runs: Iterable[Run], dataset: str, k: int) -> list[Bin]:
    """The reliability of all supports' spans together, bins in rising order."""
    groups: dict[float, list[Bin]] = {}
    for run in runs:
        if (run.dataset, run.k) == (dataset, k):
            for one in run.bins:
                groups.setdefault(one.low, []).append(one)
    pooled = []
    for low, bins in sorted(groups.items()):
        total = sum(one.spans for one in bins)
        confidence = sum(one.spans * one.confidence for one in bins) / total
        pooled.append(Bin(low, total, confidence, sum(one.spans * one.accuracy for one in bins) / total))
    return pooled
