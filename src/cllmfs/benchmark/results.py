"""Results of a benchmark: reading them, refusing comparisons that would be unfair, means and bootstrap intervals.

Knows the results folder; knows nothing of pages and pictures. Intervals need scipy.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cllmfs.errors import ConfigError, DataError
from cllmfs.evaluation import Counts, StringCounts

RESAMPLES = 10_000  # of a bootstrap


class EpisodeCounts(NamedTuple):
    """Counts of an episode: those of Few-NERD's metric over the joined query sentences, and the strict ones."""

    joined: Counts
    strict: Counts


@dataclass(frozen=True)
class Run:
    """The result of one run of one system.

    Attributes:
        k: the shots of each label; 0 for zero-shot.
        seed: the number of the support set.
        f1: strict micro-F1 in percent.
        sentences: the number of sentences that were scored.
        shots: a digest of the sentences that the system learned from.
        ece: the expected calibration error in [0, 1], if the system has confidences.
        paper_line: F1 in percent under the paper line's protocol (:class:`~cllmfs.evaluation.StringCounts`), if the
            result has it; it must never be compared with ``f1``.
        boundary: F1 in percent of spans whose labels are ignored.
        typing: the percentage of correct labels among the spans with correct boundaries, if there are such spans.
        train_seconds: the duration of learning on a CPU, if the system reports it; times on GPUs are not comparable.
        sentences_per_second: the speed of prediction on a CPU, if the system reports its duration.
        episode: counts to be summed, if the run is an episode.
        limit: the most sentences that would have been scored; ``None`` if the whole split was.
    """

    dataset: str
    k: int
    seed: int
    f1: float
    sentences: int
    shots: str
    ece: float | None = None
    paper_line: float | None = None
    boundary: float | None = None
    typing: float | None = None
    train_seconds: float | None = None
    sentences_per_second: float | None = None
    episode: EpisodeCounts | None = None
    limit: int | None = None


Systems = Mapping[str, Sequence[Run]]  # the runs of each system, in the order of the columns
Value = Callable[[Run], float | None]  # a figure of a run, if the run has it
f1_of: Value = attrgetter("f1")  # the strict micro-F1


class Summary(NamedTuple):
    """Mean and sample standard deviation over support sets; the deviation over one support set is 0.0."""

    mean: float
    sd: float
    supports: int

    def text(self, digits: int = 1) -> str:
        """The summary as it appears in a table; the deviation is left out for one support set."""
        spread = f" ± {self.sd:.{digits}f}" if self.supports > 1 else ""
        return f"{self.mean:.{digits}f}{spread} ({self.supports})"


class Interval(NamedTuple):
    """A mean and the two ends of its bootstrap interval, which are ``nan`` if a group has only one value."""

    mean: float
    low: float
    high: float


def read_results(folder: str | Path, split: str) -> dict[str, list[Run]]:
    """All runs of a split in a results folder, by system; the systems are sorted by name.

    Raises:
        DataError: if the folder does not exist, or a file in it is not a result.
    """
    if not Path(folder).is_dir():
        raise DataError(f"a results folder must exist, got {str(folder)!r}")
    systems: dict[str, list[Run]] = {}
    for path in sorted(Path(folder).glob("*/*/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["split"] == split:
                if not isinstance(record["system"], str):
                    raise ValueError(f"system = {record['system']!r:.60}")
                systems.setdefault(record["system"], []).append(_checked(_run(record)))
        except (OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            message = f"a result must have the form that `cllmfs benchmark` writes, got {error!r:.200}"
            raise DataError(message, source=str(path)) from error
    return systems


def _run(record: Mapping[str, Any]) -> Run:
    scores, strings = record["scores"], record["scores"].get("paper_line")
    seconds = record.get("seconds", {}) if record.get("device", "cpu") == "cpu" else {}
    count = scores["sentences"]["count"]
    return Run(
        record["dataset"],
        int(record["k"]),
        int(record["seed"]),
        100 * _counts(scores["micro"]).f1,
        count,
        record["shots"]["sha256"],
        ece=(record["confidence"] or {}).get("ece"),
        paper_line=100 * StringCounts(*(strings[name] for name in StringCounts().counts())).f1 if strings else None,
        boundary=_percent(scores.get("boundary", {}).get("f1")),
        typing=_percent(scores.get("typing_accuracy")),
        train_seconds=seconds.get("train"),
        sentences_per_second=count / seconds["predict"] if seconds.get("predict") else None,
        episode=EpisodeCounts(_counts(scores["episode"]), _counts(scores["micro"])) if "episode" in scores else None,
        limit=record.get("limit"),
    )


def _checked(run: Run) -> Run:
    """The run; a ValueError if one of its values has another type than it should have, or is not finite."""
    for name, value in vars(run).items():
        if name in ("dataset", "shots"):
            valid = isinstance(value, str)
        elif name in ("k", "seed", "sentences"):
            valid = _is_count(value)
        else:
            valid = name == "episode" or value is None or (isinstance(value, int | float) and math.isfinite(value))
        if not valid:
            raise ValueError(f"{name} = {value!r:.60}")
    return run


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _counts(record: Mapping[str, Any]) -> Counts:
    counts = [record[name] for name in ("tp", "fp", "fn")]
    if not all(map(_is_count, counts)):
        raise ValueError(f"counts = {counts!r:.60}")
    return Counts(*counts)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def refuse_unequal(systems: Systems) -> None:
    """Raise DataError if runs scored different numbers of sentences of a data set, or shots of a support set differ."""
    sentences: dict[str, tuple[int, str]] = {}
    shots: dict[tuple[str, int, int], tuple[str, str]] = {}
    for name, runs in systems.items():
        for run in runs:
            where = f"{run.dataset}, {run.k}-shot, seed {run.seed}"
            scored_set = run.dataset if run.episode is None else where  # each episode has its own query sentences
            scored, scorer = sentences.setdefault(scored_set, (run.sentences, name))
            if scored != run.sentences:
                got = f"got {scored} ({scorer}) and {run.sentences} ({name}, {where}); score the whole split"
                raise DataError(f"all runs must score the same sentences of {run.dataset}, {got}")
            digest, learner = shots.setdefault((run.dataset, run.k, run.seed), (run.shots, name))
            if digest != run.shots:
                pair = f"{learner} and {name}"
                raise DataError(f"all systems must learn from the same shots, but {pair} did not: {where}")


def mean_sd(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1), which is 0.0 for one value; raises DataError if there is none."""
    values = [float(value) for value in values]
    if not values:
        raise DataError("a mean needs at least one value, got none")
    return math.fsum(values) / len(values), statistics.stdev(values) if len(values) > 1 else 0.0


def summarize(runs: Iterable[Run], dataset: str, k: int, value: Value = f1_of) -> Summary | None:
    """F1, or another value of a run, over the support sets of a data set and k; ``None`` if there is none."""
    chosen = [run for run in runs if run.dataset == dataset and run.k == k]
    values = [figure for run in chosen if (figure := value(run)) is not None]
    return Summary(*mean_sd(values), len(values)) if values else None


def curve(runs: Sequence[Run], dataset: str) -> list[tuple[int, Summary]]:
    """The summaries of a data set in order of k, zero-shot first."""
    ks = sorted({run.k for run in runs if run.dataset == dataset})
    return [(k, one) for k in ks if (one := summarize(runs, dataset, k))]


def zero_shot_systems(systems: Systems) -> list[str]:
    """The systems that have zero-shot runs."""
    return [name for name, runs in systems.items() if any(run.k == 0 for run in runs)]


def measured(systems: Systems) -> tuple[list[str], list[int]]:
    """The data sets by name and every k above 0 in order, of all runs that are not episodes."""
    runs = [run for each in systems.values() for run in each if run.episode is None]
    return sorted({run.dataset for run in runs}), sorted({run.k for run in runs if run.k})


def differences_on(
    runs: Iterable[Run], baseline: Iterable[Run], dataset: str, k: int, value: Value = f1_of
) -> list[float]:
    """A value minus that of the baseline, for each support set on which both have it, in order of the seeds."""

    def by_seed(each: Iterable[Run]) -> dict[int, float]:
        chosen = (run for run in each if run.dataset == dataset and run.k == k)
        return {run.seed: figure for run in chosen if (figure := value(run)) is not None}

    ours, theirs = by_seed(runs), by_seed(baseline)
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def grouped_differences(systems: Systems, name: str, baseline: str, k: int, value: Value = f1_of) -> list[list[float]]:
    """The differences between a system and the baseline at k, one list for each data set that has any."""
    found = (differences_on(systems[name], systems[baseline], dataset, k, value) for dataset in measured(systems)[0])
    return [each for each in found if each]


def compared(systems: Systems, baseline: str) -> dict[tuple[int, str], list[list[float]]]:
    """The differences in F1 by k and system, for the systems that share support sets with the baseline."""
    others = [(k, name) for k in measured(systems)[1] for name in systems if name != baseline]
    return {(k, name): groups for k, name in others if (groups := grouped_differences(systems, name, baseline, k))}


def mean_difference(runs: Iterable[Run], baseline: Iterable[Run], dataset: str, k: int) -> float | None:
    """Mean F1 minus that of the baseline, over the support sets that both have; ``None`` if they share none."""
    found = differences_on(runs, baseline, dataset, k)
    return mean_sd(found)[0] if found else None


def bootstrap_interval(groups: Sequence[Sequence[float]], *, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean over groups of their means, with a percentile bootstrap interval (Efron 1979).

    Values are resampled within each group: the groups are fixed, such as data sets, and the values are samples, such as
    support sets. If a group has fewer than about five values, the interval is too narrow.

    Args:
        groups: the values of each group, such as differences between two systems on the same support sets.
        level: the share of the resampled means that the interval contains.
        seed: the seed of the resampling; the same seed gives the same interval.

    Raises:
        DataError: if there is no group, or a group has no values.
        ConfigError: if the level is not between 0 and 1, or scipy is missing.
    """
    if not groups or not all(groups):
        raise DataError(f"a mean over groups needs a value in each group, got {[len(group) for group in groups]}")
    if not 0 < level < 1:
        raise ConfigError(f"the level must be between 0 and 1, got {level}")
    mean = math.fsum(map(statistics.fmean, groups)) / len(groups)
    if any(len(group) == 1 for group in groups):
        return Interval(mean, math.nan, math.nan)
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise ConfigError("the intervals need scipy; run pip install 'cllmfs[benchmark]'") from error
    made = bootstrap(
        [np.array(group) for group in groups],
        lambda *samples, axis: sum(sample.mean(axis) for sample in samples) / len(samples),
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(made.confidence_interval.low), float(made.confidence_interval.high))
