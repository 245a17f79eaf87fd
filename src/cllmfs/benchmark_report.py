"""Results of a benchmark as a page: tables and pictures, from the results folder and nothing else.

What the folder does not hold is shown as missing; systems that were not measured on the same shots and sentences are
refused, not compared. The same folder gives the same page. Knows results; knows nothing of data sets or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cllmfs.benchmark_figures import plot_curves, plot_reliability
from cllmfs.benchmark_results import (
    Run,
    Systems,
    cell,
    check,
    difference,
    measured,
    read_results,
    zero_shot_systems,
)
from cllmfs.errors import ConfigError, DataError
from cllmfs.evaluation import PAPER_LINE_NOTE, mean_sd

MISSING = "-"


def table(systems: Systems, baseline: str) -> list[list[str]]:
    """The F1 table, its head first: a row for each data set and k, then an average row for each k."""
    zero, others = zero_shot_systems(systems), [name for name in systems if name != baseline]
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
        average(difference(runs, systems[baseline], dataset, k) for dataset in sets)
        for name, runs in systems.items()
        if name != baseline
    ]
    of = f"{len(sets)}" if len(sets) == len(datasets) else f"{len(sets)} of {len(datasets)}"
    row = [f"average of {of}", str(k), *(MISSING if figure is None else f"{figure:.1f}" for figure in figures)]
    return row + [_signed(gap) for gap in gaps]


def _signed(value: float | None) -> str:
    # A difference that rounds to zero has no sign.
    return MISSING if value is None else f"{round(value, 1) + 0.0:+.1f}".replace("+0.0", "0.0")


def calibration_table(systems: Systems) -> list[list[str]]:
    """The expected calibration errors, the head first, of the systems that have any; empty if none has."""
    return _value_table(systems, lambda run: run.ece, 3)


def paper_line_table(systems: Systems) -> list[list[str]]:
    """F1 under the paper line's protocol, the head first, of the systems that have it; empty if none has."""
    return _value_table(systems, lambda run: run.paper_line, 1)


def _value_table(systems: Systems, value: Callable[[Run], float | None], digits: int) -> list[list[str]]:
    able = [name for name, runs in systems.items() if any(value(run) is not None for run in runs)]
    if not able:
        return []
    rows = [["data set", "k", *able]]
    for dataset, k in sorted({(r.dataset, r.k) for name in able for r in systems[name] if value(r) is not None}):
        cells = (cell(systems[name], dataset, k, value) for name in able)
        rows.append([dataset, str(k), *(MISSING if one is None else one.text(digits) for one in cells)])
    return rows


def markdown(
    systems: Systems, baseline: str, split: str, curves: str | None = None, diagrams: str | None = None
) -> str:
    """The whole page; ``curves`` and ``diagrams`` are the addresses of the pictures."""
    parts = [
        "# Few-shot results",
        "Written by `cllmfs report` from the results; change those, not this page.",
        f"Strict micro-F1 in per cent (exact start, end and label; all types on every sentence of the {split} split): "
        "mean ± sd over supports, their number in brackets. k: mentions of each type in a support, at least. "
        f"Differences are means over the supports that both systems have. A dash ({MISSING}) was not measured. "
        "Averages are over all data sets that were measured at this k; a system that lacks one of them has none.",
        pipes(table(systems, baseline)),
    ]
    if curves:
        parts.append(f"![Strict F1 over k, a panel for each data set]({curves})")
        parts.append("Bands: ± sd over supports. Dashed: zero-shot. Each panel has its own scale, from 0.")
    calibration = calibration_table(systems)
    if calibration:
        parts.append("## Calibration")
        parts.append(
            "Expected calibration error of the predicted spans' confidences, in [0, 1]: 0 is best. k 0 is zero-shot."
        )
        parts.append(pipes(calibration))
    if diagrams:
        parts.append(f"![Share of spans that are right over their confidence, a panel for each data set]({diagrams})")
        parts.append("Spans of all supports together; bins of few spans are left out. On the dashed line: calibrated.")
    if strings := paper_line_table(systems):
        parts.append("## The paper line's protocol")
        parts.append(f"F1 in per cent of the runs whose results hold it: {PAPER_LINE_NOTE}.")
        parts.append(pipes(strings))
    return "\n\n".join(parts) + "\n"


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the head first; all columns but the first are set to the right."""
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ordered(systems: Systems, first: Sequence[str]) -> dict[str, Sequence[Run]]:
    """The systems named first, in that order, then the others.

    Raises:
        ConfigError: if a name is no system's.
    """
    if unknown := [name for name in first if name not in systems]:
        raise ConfigError(f"there is no result of {unknown[0]!r}; there are {', '.join(map(repr, systems)) or 'none'}")
    return {name: systems[name] for name in dict.fromkeys([*first, *systems])}


def write_report(
    results: str | Path, output: str | Path, *, split: str = "test", order: Sequence[str] = (), plot: bool = True
) -> None:
    """Write the page, and its pictures beside it.

    Args:
        results: a results folder.
        output: the page's file; pictures are named after it.
        split: which split's results.
        order: systems that come first; the second is the baseline, with which all are compared.
        plot: draw the pictures.

    Raises:
        DataError: if the results cannot be read or compared, or there is none with shots.
        ConfigError: if a name in ``order`` is no system's, or the pictures cannot be drawn.
    """
    systems = ordered(read_results(results, split), order)
    check(systems)
    if not measured(systems)[1]:
        raise DataError(f"{results} must hold results with shots, got none of the {split} split")
    baseline = list(systems)[min(1, len(systems) - 1)]
    page = Path(output)
    confident = next((runs for runs in systems.values() if any(run.bins for run in runs)), [])
    curves, diagrams = page.with_suffix(".png"), page.with_name(f"{page.stem}_reliability.png")
    pictures = [curves.name, *([diagrams.name] if confident else [])] if plot else []
    page.write_text(markdown(systems, baseline, split, *pictures), encoding="utf-8")
    if plot:
        plot_curves(systems, curves)
    if plot and confident:
        plot_reliability(confident, diagrams)
