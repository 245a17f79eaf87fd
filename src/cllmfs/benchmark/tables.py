"""Results of a benchmark as tables: rows of text, the head first.

Knows results; knows nothing of the page that they stand on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from cllmfs.benchmark.results import (
    Run,
    Systems,
    Value,
    cell,
    compared,
    difference,
    grouped_gaps,
    measured,
    zero_shot_systems,
)
from cllmfs.benchmark.significance import bootstrap_interval, mean_sd
from cllmfs.evaluation import Counts

MISSING = "-"


def table(systems: Systems, baseline: str) -> list[list[str]]:
    """The F1 table, its head first: a row for each data set and k, then an average row for each k.

    The last column is the first system's distance to the baseline, unless that is itself; of the others
    :func:`differences` tells.
    """
    zero, others = zero_shot_systems(systems), _first(systems, baseline)
    head = ["data set", "k", *("zero-shot" if len(zero) == 1 else f"zero-shot {name}" for name in zero), *systems]
    rows = [[*head, *(f"{name} less {baseline}" for name in others)]]
    datasets, ks = measured(systems)
    for dataset, k in ((dataset, k) for dataset in datasets for k in ks):
        free = (cell(systems[name], dataset, 0) for name in zero)
        learned = (cell(runs, dataset, k) for runs in systems.values())
        gaps = (difference(systems[name], systems[baseline], dataset, k) for name in others)
        row = [dataset, str(k), *(MISSING if one is None else f"{one.mean:.1f}" for one in free)]
        row += [MISSING if one is None else one.text() for one in learned]
        rows.append(row + [_signed(gap) for gap in gaps])
    return rows + [_average_row(systems, baseline, datasets, k) for k in ks]


def _first(systems: Systems, baseline: str) -> list[str]:
    return [name for name in list(systems)[:1] if name != baseline]


def _average_row(systems: Systems, baseline: str, datasets: Sequence[str], k: int) -> list[str]:
    """Means over all data sets with this k; a system that lacks one has none, or it would be of other sets."""
    sets = [name for name in datasets if any(cell(runs, name, k) for runs in systems.values())]

    def average(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return mean_sd(known)[0] if known and len(known) == len(sets) else None

    def means(name: str, shots: int) -> Iterable[float | None]:
        return (None if (one := cell(systems[name], dataset, shots)) is None else one.mean for dataset in sets)

    figures = [average(means(name, 0)) for name in zero_shot_systems(systems)]
    figures += [average(means(name, k)) for name in systems]
    gaps = [
        average(difference(systems[name], systems[baseline], dataset, k) for dataset in sets)
        for name in _first(systems, baseline)
    ]
    of = f"{len(sets)}" if len(sets) == len(datasets) else f"{len(sets)} of {len(datasets)}"
    row = [f"average of {of}", str(k), *(MISSING if figure is None else f"{figure:.1f}" for figure in figures)]
    return row + [_signed(gap) for gap in gaps]


def _signed(value: float | None) -> str:
    # A difference that rounds to zero has no sign.
    return MISSING if value is None else f"{round(value, 1) + 0.0:+.1f}".replace("+0.0", "0.0")


def differences(systems: Systems, baseline: str) -> list[list[str]]:
    """How far the systems are from the baseline over all data sets, the head first; empty if none shares a support."""
    rows = [["system", "k", "data sets", "supports", "strict F1", "boundary F1", "right types"]]
    values: tuple[Value, ...] = (lambda run: run.boundary, lambda run: run.typing)
    for (k, name), groups in compared(systems, baseline).items():
        others = (grouped_gaps(systems, name, baseline, k, value) for value in values)
        shared = [str(len(groups)), str(sum(map(len, groups)))]
        # A figure that only some of these runs have would be of other runs.
        whole = (each if [*map(len, each)] == [*map(len, groups)] else [] for each in others)
        rows.append([name, str(k), *shared, *map(_interval, (groups, *whole))])
    return rows if len(rows) > 1 else []


def _interval(groups: Sequence[Sequence[float]]) -> str:
    if not groups:
        return MISSING
    mean, low, high = bootstrap_interval(groups)
    return _signed(mean) if math.isnan(low) else f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]"


def costs(systems: Systems) -> list[list[str]]:
    """Seconds of learning and sentences answered in a second, medians over all runs with a k, the head first."""
    kinds: dict[str, Value] = {
        "seconds of learning": lambda run: run.train_seconds,
        "sentences a second": lambda run: run.sentences_per_second,
    }
    able = [name for name, runs in systems.items() if any(run.train_seconds is not None for run in runs)]
    rows = [["figure", "k", *able]]
    for title, k in ((title, k) for title in kinds for k in measured(systems)[1]):
        each = ([figure for run in systems[name] if run.k == k and (figure := kinds[title](run))] for name in able)
        rows.append([title, str(k), *(f"{statistics.median(some):.3g}" if some else MISSING for some in each)])
    return rows if able else []


def calibration_table(systems: Systems) -> list[list[str]]:
    """The expected calibration errors, the head first, of the systems that have any; empty if none has."""
    return _value_table(systems, lambda run: run.ece, 3)


def paper_line_table(systems: Systems) -> list[list[str]]:
    """F1 under the paper line's protocol, the head first, of the systems that have it; empty if none has."""
    return _value_table(systems, lambda run: run.paper_line, 1)


def _value_table(systems: Systems, value: Value, digits: int) -> list[list[str]]:
    # Episodes are scored in sum, not one by one.
    known = {
        name: [run for run in runs if value(run) is not None and run.episode is None] for name, runs in systems.items()
    }
    able = {name: runs for name, runs in known.items() if runs}
    if not able:
        return []
    rows = [["data set", "k", *able]]
    for dataset, k in sorted({(run.dataset, run.k) for runs in able.values() for run in runs}):
        cells = (cell(runs, dataset, k, value) for runs in able.values())
        rows.append([dataset, str(k), *(MISSING if one is None else one.text(digits) for one in cells)])
    return rows


def episode_table(systems: Systems) -> list[list[str]]:
    """F1 of episodes from the sums of their counts, the head first; empty if there is none.

    Of each system Few-NERD's metric, then that of single sentences, then the number of episodes.
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
    joined, apart = (100 * sum(side, Counts()).f1 for side in zip(*counts, strict=True))
    return f"{joined:.1f} / {apart:.1f} ({len(counts)})"
