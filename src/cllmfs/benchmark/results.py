"""Results of a benchmark: reading them, refusing what must not be compared, means over supports.

Knows the results folder; knows nothing of pages and pictures.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cllmfs.benchmark.significance import mean_sd
from cllmfs.decoding.calibration import Bin
from cllmfs.errors import DataError
from cllmfs.evaluation import Counts, StringCounts


class EpisodeCounts(NamedTuple):
    """Counts of an episode: by Few-NERD's metric over the joined query sentences, and strict ones of each sentence."""

    joined: Counts
    apart: Counts


@dataclass(frozen=True)
class Run:
    """One run of one system.

    Attributes:
        dataset: the data set's name.
        k: shots of each label; 0 for an answer without shots.
        seed: which support set.
        f1: strict micro-F1 in percent.
        sentences: how many sentences were scored.
        shots: digest of the sentences that were learned from.
        ece: expected calibration error in [0, 1], of systems with confidences.
        bins: of a reliability diagram, likewise.
        paper_line: F1 in percent under the paper line's protocol, if the result has it
            (:class:`~cllmfs.evaluation.StringCounts`); never to be compared with ``f1``.
        boundary: F1 in percent of spans whose label is ignored.
        typing: share in percent of right labels among spans with right boundaries, if there is such a span.
        train_seconds: that learning took on a CPU, if the system said so; those of GPUs are not comparable.
        sentences_per_second: that were answered, likewise.
        episode: counts to be summed, if the run is an episode.
    """

    dataset: str
    k: int
    seed: int
    f1: float
    sentences: int
    shots: str
    ece: float | None = None
    bins: tuple[Bin, ...] = ()
    paper_line: float | None = None
    boundary: float | None = None
    typing: float | None = None
    train_seconds: float | None = None
    sentences_per_second: float | None = None
    episode: EpisodeCounts | None = None


Systems = Mapping[str, Sequence[Run]]  # the runs of each system, in the order of the columns
Value = Callable[[Run], float | None]  # a figure of a run, if it has it


class Cell(NamedTuple):
    """Mean and sample standard deviation over so many supports; the latter is 0.0 for one."""

    mean: float
    sd: float
    supports: int

    def text(self, digits: int = 1) -> str:
        """As the table shows it; one support has no deviation."""
        spread = f" ± {self.sd:.{digits}f}" if self.supports > 1 else ""
        return f"{self.mean:.{digits}f}{spread} ({self.supports})"


def read_results(folder: str | Path, split: str) -> dict[str, list[Run]]:
    """All runs of a split in a results folder, by system; systems in order of their names.

    Raises:
        DataError: if there is no such folder, or a file in it is no result.
    """
    if not Path(folder).is_dir():
        raise DataError(f"a results folder must exist, got {str(folder)!r}")
    systems: dict[str, list[Run]] = {}
    for path in sorted(Path(folder).glob("*/*/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["split"] == split:
                systems.setdefault(record["system"], []).append(_run(record))
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"a result must be as `cllmfs benchmark` writes it: {error!r}"
            raise DataError(message, source=str(path)) from error
    return systems


def _run(record: Mapping[str, Any]) -> Run:
    scores, confidence = record["scores"], record["confidence"] or {}
    seconds = record.get("seconds", {}) if record.get("device", "cpu") == "cpu" else {}
    count, strings = scores["sentences"]["count"], scores.get("paper_line")
    names = StringCounts().counts()
    return Run(
        record["dataset"],
        int(record["k"]),
        int(record["seed"]),
        100 * _counts(scores["micro"]).f1,
        count,
        record["shots"]["sha256"],
        confidence.get("ece"),
        tuple(Bin(*figures) for figures in confidence.get("bins", ())),
        100 * StringCounts(*(strings[name] for name in names)).f1 if strings else None,
        _percent(scores.get("boundary", {}).get("f1")),
        _percent(scores.get("typing_accuracy")),
        seconds.get("train"),
        count / seconds["predict"] if seconds.get("predict") else None,
        EpisodeCounts(_counts(scores["episode"]), _counts(scores["micro"])) if "episode" in scores else None,
    )


def _counts(record: Mapping[str, int]) -> Counts:
    return Counts(record["tp"], record["fp"], record["fn"])


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def check(systems: Systems) -> None:
    """Refuse what must not be compared.

    Raises:
        DataError: if two runs differ in the number of sentences scored on a data set, or in the shots of a support.
    """
    sentences: dict[str, tuple[int, str]] = {}
    shots: dict[tuple[str, int, int], tuple[str, str]] = {}
    for name, runs in systems.items():
        for run in runs:
            where = f"{run.dataset}, {run.k}-shot, seed {run.seed}"
            scored_set = run.dataset if run.episode is None else where  # each episode has query sentences of its own
            scored, scorer = sentences.setdefault(scored_set, (run.sentences, name))
            if scored != run.sentences:
                raise DataError(
                    f"all runs must score the same sentences of {run.dataset}, got {scored} ({scorer}) and "
                    f"{run.sentences} ({name}, {where}); score the whole split"
                )
            learned, learner = shots.setdefault((run.dataset, run.k, run.seed), (run.shots, name))
            if learned != run.shots:
                raise DataError(f"all systems must learn from the same shots, {learner} and {name} did not: {where}")


def f1_of(run: Run) -> float:
    """The strict micro-F1 of a run."""
    return run.f1


def cell(runs: Iterable[Run], dataset: str, k: int, value: Value = f1_of) -> Cell | None:
    """F1, or another value of a run, over the supports of a data set and k; ``None`` if there is none."""
    chosen = [run for run in runs if run.dataset == dataset and run.k == k]
    values = [figure for run in chosen if (figure := value(run)) is not None]
    return Cell(*mean_sd(values), len(values)) if values else None


def gaps(runs: Iterable[Run], baseline: Iterable[Run], dataset: str, k: int, value: Value = f1_of) -> list[float]:
    """A value less the baseline's, on each support that both have it for, in order of the seeds."""

    def by_seed(each: Iterable[Run]) -> dict[int, float]:
        chosen = (run for run in each if run.dataset == dataset and run.k == k)
        return {run.seed: figure for run in chosen if (figure := value(run)) is not None}

    ours, theirs = by_seed(runs), by_seed(baseline)
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def grouped_gaps(systems: Systems, name: str, baseline: str, k: int, value: Value = f1_of) -> list[list[float]]:
    """The gaps of a system to the baseline at k, by data set; sets without any are left out."""
    found = (gaps(systems[name], systems[baseline], dataset, k, value) for dataset in measured(systems)[0])
    return [each for each in found if each]


def compared(systems: Systems, baseline: str) -> dict[tuple[int, str], list[list[float]]]:
    """The gaps in F1 by k and system, of those that share supports with the baseline, in order of k and the systems."""
    others = [(k, name) for k in measured(systems)[1] for name in systems if name != baseline]
    found = {(k, name): grouped_gaps(systems, name, baseline, k) for k, name in others}
    return {key: groups for key, groups in found.items() if groups}


def difference(runs: Iterable[Run], baseline: Iterable[Run], dataset: str, k: int) -> float | None:
    """Mean F1 less the baseline's, over the supports that both have; ``None`` if they share none."""
    found = gaps(runs, baseline, dataset, k)
    return mean_sd(found)[0] if found else None


def zero_shot_systems(systems: Systems) -> list[str]:
    """The systems that were asked without shots."""
    return [name for name, runs in systems.items() if any(run.k == 0 for run in runs)]


def measured(systems: Systems) -> tuple[list[str], list[int]]:
    """The data sets by name and the k above 0 by size that any system has, episodes left out."""
    runs = [run for each in systems.values() for run in each if run.episode is None]
    return sorted({run.dataset for run in runs}), sorted({run.k for run in runs if run.k})


def curve(runs: Sequence[Run], dataset: str) -> list[tuple[int, Cell]]:
    """The cells of a data set by k, from 1 shot on."""
    ks = sorted({run.k for run in runs if run.dataset == dataset and run.k})
    return [(k, one) for k in ks if (one := cell(runs, dataset, k))]


def timed(runs: Sequence[Run], dataset: str) -> list[tuple[int, float, float]]:
    """k, median seconds of learning and mean F1 of a data set's runs with shots, those that were timed."""
    chosen = [run for run in runs if run.dataset == dataset and run.k and run.train_seconds is not None]
    found = []
    for k in sorted({run.k for run in chosen}):
        same = [run for run in chosen if run.k == k]
        seconds = statistics.median(run.train_seconds or 0.0 for run in same)
        found.append((k, seconds, statistics.fmean(run.f1 for run in same)))
    return found


def pooled_bins(runs: Iterable[Run], dataset: str, k: int) -> list[Bin]:
    """The reliability of all supports' spans together, bins in rising order."""
    groups: dict[tuple[float, float], list[Bin]] = {}
    for run in runs:
        if (run.dataset, run.k) == (dataset, k):
            for one in run.bins:
                groups.setdefault((one.low, one.high), []).append(one)
    pooled = []
    for edges, bins in sorted(groups.items()):
        total = sum(one.spans for one in bins)
        confidence = sum(one.spans * one.confidence for one in bins) / total
        pooled.append(Bin(*edges, total, confidence, sum(one.spans * one.accuracy for one in bins) / total))
    return pooled
