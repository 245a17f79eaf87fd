"""Results of a benchmark as tables: rows of text, with the head as the first row.

Knows results; knows nothing of the page that the tables are part of.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from cllmfs.benchmark.results import (
    Run,
    Summary,
    Systems,
    Value,
    bootstrap_interval,
    compared,
    grouped_differences,
    mean_difference,
    measured,
    summarize,
    zero_shot_systems,
)
from cllmfs.evaluation import Counts

MISSING = "-"


def f1_table(systems: Systems, baseline: str) -> list[list[str]]:
    """The F1 table: a row for each data set and k, then a row of averages for each k.

    The last column is the difference between the first system and the baseline, unless these are the same;
    :func:`differences` has those of the other systems.
    """
    zero, others = zero_shot_systems(systems), _first(systems, baseline)
    head = ["data set", "k", *("zero-shot" if len(zero) == 1 else f"zero-shot {name}" for name in zero), *systems]
    rows = [[*head, *(f"{name} minus {baseline}" for name in others)]]
    datasets, ks = measured(systems)
    for dataset, k in ((dataset, k) for dataset in datasets for k in ks):
        unlearned = (summarize(systems[name], dataset, 0) for name in zero)
        learned = (summarize(runs, dataset, k) for runs in systems.values())
        gaps = (mean_difference(systems[name], systems[baseline], dataset, k) for name in others)
        row = [dataset, str(k), *(MISSING if one is None else f"{one.mean:.1f}" for one in unlearned)]
        row += [MISSING if one is None else one.text() for one in learned]
        rows.append(row + [_signed(gap) for gap in gaps])
    return rows + [_average_row(systems, baseline, datasets, k) for k in ks]


def _first(systems: Systems, baseline: str) -> list[str]:
    return [name for name in list(systems)[:1] if name != baseline]


def _average_row(systems: Systems, baseline: str, datasets: Sequence[str], k: int) -> list[str]:
    """Means over all data sets with this k.

    A system that lacks one of the data sets has no mean, since its mean would be over other data sets.
    """
    sets = [name for name in datasets if any(summarize(runs, name, k) for runs in systems.values())]
    zero = [[summarize(systems[name], each, 0) for each in sets] for name in zero_shot_systems(systems)]
    learned = [[summarize(runs, each, k) for each in sets] for runs in systems.values()]
    pairs = [(systems[name], systems[baseline]) for name in _first(systems, baseline)]
    gaps = [[mean_difference(*pair, each, k) for each in sets] for pair in pairs]
    of = f"{len(sets)}" if len(sets) == len(datasets) else f"{len(sets)} of {len(datasets)}"
    row = [f"average of {of}", str(k), *(_mean(column, supports=False) for column in zero), *map(_mean, learned)]
    return row + [_signed(None if None in column else _fmean(column)) for column in gaps]


def _mean(summaries: Sequence[Summary | None], supports: bool = True) -> str:
    """The mean over data sets and the number of support sets of each; :data:`MISSING` if a data set has no summary."""
    known = [one for one in summaries if one is not None]
    if len(known) < len(summaries):
        return MISSING
    mean, counts = f"{_fmean([one.mean for one in known]):.1f}", sorted({one.supports for one in known})
    return f"{mean} ({' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))})" if supports else mean


def _fmean(values: Sequence[float | None]) -> float:
    return statistics.fmean(value for value in values if value is not None)


def _signed(value: float | None) -> str:
    # A difference that rounds to zero has no sign.
    return MISSING if value is None else f"{round(value, 1) + 0.0:+.1f}".replace("+0.0", "0.0")


def differences(systems: Systems, baseline: str) -> list[list[str]]:
    """The differences between the systems and the baseline over all data sets, by k, the largest in F1 first.

    Empty if no system shares a support set with the baseline.
    """
    rows = [["system", "k", "data sets", "supports", "strict F1", "boundary F1", "correct types"]]
    values: tuple[Value, ...] = (lambda run: run.boundary, lambda run: run.typing)
    found = compared(systems, baseline)
    means = {key: statistics.fmean(map(statistics.fmean, groups)) for key, groups in found.items()}
    for (k, name), groups in sorted(found.items(), key=lambda item: (item[0][0], -means[item[0]])):
        others = (grouped_differences(systems, name, baseline, k, value) for value in values)
        shared = [str(len(groups)), str(sum(map(len, groups)))]
        # A figure that only some of these runs have would be a mean over other runs than F1 is.
        complete = (each if [*map(len, each)] == [*map(len, groups)] else [] for each in others)
        rows.append([name, str(k), *shared, *map(_interval, (groups, *complete))])
    return rows if len(rows) > 1 else []


def _interval(groups: Sequence[Sequence[float]]) -> str:
    if not groups:
        return MISSING
    mean, low, high = bootstrap_interval(groups)
    return _signed(mean) if math.isnan(low) else f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]"


def costs(systems: Systems) -> list[list[str]]:
    """Seconds of learning and sentences predicted per second: medians over all runs with a k."""
    kinds: dict[str, Value] = {
        "seconds of learning": lambda run: run.train_seconds,
        "sentences per second": lambda run: run.sentences_per_second,
    }
    timed = [name for name, runs in systems.items() if any(run.train_seconds is not None for run in runs)]
    rows = [["figure", "k", *timed]]
    for title, k in ((title, k) for title in kinds for k in measured(systems)[1]):
        each = ([figure for run in systems[name] if run.k == k and (figure := kinds[title](run))] for name in timed)
        cells = (f"{statistics.median(some):.3g} ({len(some)})" if some else MISSING for some in each)
        rows.append([title, str(k), *cells])
    return rows if timed else []


def calibration_table(systems: Systems) -> list[list[str]]:
    """The expected calibration errors of the systems that have any; empty if none has."""
    return _value_table(systems, lambda run: run.ece, 3)


def paper_line_table(systems: Systems) -> list[list[str]]:
    """F1 under the paper line's protocol, for the systems whose results have it; empty if none has."""
    return _value_table(systems, lambda run: run.paper_line, 1)


def _value_table(systems: Systems, value: Value, digits: int) -> list[list[str]]:
    # Episodes are left out: their scores are computed from sums, not one by one.
    known = {
        name: [run for run in runs if value(run) is not None and run.episode is None] for name, runs in systems.items()
    }
    able = {name: runs for name, runs in known.items() if runs}
    rows = [["data set", "k", *able]]
    for dataset, k in sorted({(run.dataset, run.k) for runs in able.values() for run in runs}):
        summaries = (summarize(runs, dataset, k, value) for runs in able.values())
        rows.append([dataset, str(k), *(MISSING if one is None else one.text(digits) for one in summaries)])
    return rows if able else []


def episode_table(systems: Systems) -> list[list[str]]:
    """F1 from the summed counts of the episodes; empty if there are none.

    For each system: F1 by Few-NERD's metric, strict F1, and the number of episodes.
    """
    episodes = {name: [run for run in runs if run.episode is not None] for name, runs in systems.items()}
    rows = [["episodes", "k", *(name for name, runs in episodes.items() if runs)]]
    for dataset, k in sorted({(run.dataset, run.k) for runs in episodes.values() for run in runs}):
        rows.append([dataset, str(k), *(_episodes(runs, dataset, k) for runs in episodes.values() if runs)])
    return rows if len(rows) > 1 else []


def _episodes(runs: Sequence[Run], dataset: str, k: int) -> str:
    counts = [run.episode for run in runs if run.dataset == dataset and run.k == k and run.episode is not None]
    if not counts:
        return MISSING
    joined, strict = (100 * sum(side, Counts()).f1 for side in zip(*counts, strict=True))
    return f"{joined:.1f} / {strict:.1f} ({len(counts)})"
