"""Results of a benchmark as a page: tables and pictures, from the results folder and nothing else.

What the folder does not hold is shown as missing; systems that were not measured on the same shots and sentences are
refused, not compared. The same folder gives the same page. Knows results; knows nothing of data sets or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cllmfs.benchmark.figures import STYLES, plot_curves, plot_differences, plot_reliability, plot_times
from cllmfs.benchmark.results import Run, Systems, check, compared, measured, read_results, timed
from cllmfs.benchmark.tables import (
    MISSING,
    calibration_table,
    costs,
    differences,
    episode_table,
    paper_line_table,
    table,
)
from cllmfs.errors import ConfigError, DataError
from cllmfs.evaluation import PAPER_LINE_NOTE

TITLE = "Few-shot results"
_WIDEST = 12  # columns of a table that a page has room for
CURVES, DIAGRAMS, DISTANCES, TIMES = "curves", "reliability", "differences", "times"  # the pictures


def markdown(
    systems: Systems, baseline: str, split: str, pictures: Mapping[str, str] | None = None, title: str = TITLE
) -> str:
    """The whole page; ``pictures`` holds the addresses of those that there are."""
    shown = pictures or {}
    parts = [f"# {title}", "Written by `cllmfs report` from the results; change those, not this page."]
    if measured(systems)[1]:
        parts += [
            f"Strict micro-F1 in per cent (exact start, end and label; all types on every sentence of the {split} "
            "split): mean ± sd over supports, their number in brackets. k: mentions of each type in a support, at "
            "least. One system less another is a mean over the supports that both have. "
            f"A dash ({MISSING}) was not measured. Averages are over all data sets that were measured at this k; a "
            "system that lacks one of them has none.",
            pipes(readable(table(systems, baseline))),
        ]
    if CURVES in shown:
        parts.append(f"![Strict F1 over k, a panel for each data set]({shown[CURVES]})")
        left_out = f" Of the systems the first {len(STYLES)}." if len(systems) > len(STYLES) else ""
        parts.append(f"Bands: ± sd over supports. Dashed: zero-shot. Each panel has its own scale, from 0.{left_out}")
    parts += _differences_part(systems, baseline, shown.get(DISTANCES))
    if episodes := episode_table(systems):
        parts.append("## Episodes")
        parts.append(
            "F1 in per cent from the sums of all episodes' counts, their number in brackets: Few-NERD's metric (runs "
            "of one type over all query sentences joined) / the strict one of single sentences."
        )
        parts.append(pipes(readable(episodes)))
    if calibration := calibration_table(systems):
        parts.append("## Calibration")
        parts.append(
            "Expected calibration error of the predicted spans' confidences, in [0, 1]: 0 is best. k 0 is zero-shot."
        )
        parts.append(pipes(readable(calibration)))
    if DIAGRAMS in shown:
        alt = "Share of spans that are right over their confidence, a panel for each data set"
        parts.append(f"![{alt}]({shown[DIAGRAMS]})")
        parts.append("Spans of all supports together; bins of few spans are left out. On the dashed line: calibrated.")
    if seconds := costs(systems):
        parts.append("## Time")
        parts.append("Medians over all runs on a CPU, whatever else the machine was doing: orders of magnitude.")
        parts.append(pipes(readable(seconds)))
    if TIMES in shown:
        parts.append(f"![Strict F1 over seconds of learning, a panel for each data set]({shown[TIMES]})")
        parts.append("Numbers beside the points: k.")
    if strings := paper_line_table(systems):
        parts.append("## The paper line's protocol")
        parts.append(f"F1 in per cent of the runs whose results hold it: {PAPER_LINE_NOTE}.")
        parts.append(pipes(readable(strings)))
    return "\n\n".join(parts) + "\n"


def _differences_part(systems: Systems, baseline: str, picture: str | None) -> list[str]:
    rows = differences(systems, baseline)
    if not rows:
        return []
    parts = [
        f"## Differences from {baseline}",
        "In points, over the supports that both have: the mean over data sets of the mean over supports, with the 95 % "
        "interval of a bootstrap that draws the supports of each data set anew. Few supports make it too narrow; there "
        "is none where a data set has one. Boundary F1 ignores labels; right types are those of spans with right "
        "boundaries.",
        pipes(rows),
    ]
    return [*parts, f"![Differences in strict F1 with their intervals]({picture})"] if picture else parts


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the head first; all columns but the first are set to the right."""
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def readable(rows: list[list[str]]) -> list[list[str]]:
    """A table with a column for each system, or turned, if it had many columns and few rows: then a row for each."""
    head, *body = rows
    if len(head) <= max(_WIDEST, len(rows)):
        return rows
    turned = [["system", *(f"{name}, k = {k}" for name, k, *_ in body)]]
    return turned + [[head[column], *(row[column] for row in body)] for column in range(2, len(head))]


def ordered(systems: Systems, first: Sequence[str]) -> dict[str, Sequence[Run]]:
    """The systems named first, in that order, then the others.

    Raises:
        ConfigError: if a name is no system's.
    """
    known(systems, first)
    return {name: systems[name] for name in dict.fromkeys([*first, *systems])}


def known(systems: Systems, names: Sequence[str]) -> None:
    """Raise :class:`~cllmfs.errors.ConfigError` if a name is no system's."""
    if unknown := [name for name in names if name not in systems]:
        raise ConfigError(f"there is no result of {unknown[0]!r}; there are {', '.join(map(repr, systems)) or 'none'}")


def write_report(
    results: str | Path,
    output: str | Path,
    *,
    split: str = "test",
    order: Sequence[str] = (),
    baseline: str | None = None,
    plot: bool = True,
    title: str = TITLE,
) -> None:
    """Write the page, and its pictures beside it.

    Args:
        results: a results folder.
        output: the page's file, whose folder is made if need be; pictures are named after it.
        split: which split's results.
        order: systems that come first.
        baseline: system with which all are compared; the second, if none is named.
        plot: draw the pictures.
        title: the page's heading.

    Raises:
        DataError: if the results cannot be read or compared, or there is none with shots.
        ConfigError: if a name in ``order`` or the baseline's is no system's, or the pictures cannot be drawn.
    """
    systems = ordered(read_results(results, split), order)
    known(systems, [] if baseline is None else [baseline])
    check(systems)
    if not any(run.k for runs in systems.values() for run in runs):
        raise DataError(f"{results} must hold results with shots, got none of the {split} split")
    baseline = baseline or list(systems)[min(1, len(systems) - 1)]
    page = Path(output)
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = _draw(systems, baseline, page) if plot else {}
    page.write_text(markdown(systems, baseline, split, pictures, title), encoding="utf-8")


def _draw(systems: Systems, baseline: str, page: Path) -> dict[str, str]:
    """Draw the pictures that the results allow; their names."""
    confident = next((runs for runs in systems.values() if any(run.bins for run in runs)), [])
    paths = {CURVES: page.with_suffix(".png")}
    paths |= {kind: page.with_name(f"{page.stem}_{kind}.png") for kind in (DISTANCES, DIAGRAMS, TIMES)}
    drawn = []
    ks = measured(systems)[1]
    curves = len(ks) > 1 or bool(ks and len(systems) <= len(STYLES))  # a k of many systems is a table's matter
    if curves:
        plot_curves(systems, paths[CURVES])
        drawn.append(CURVES)
    if compared(systems, baseline):
        plot_differences(systems, baseline, paths[DISTANCES])
        drawn.append(DISTANCES)
    if confident:
        plot_reliability(confident, paths[DIAGRAMS])
        drawn.append(DIAGRAMS)
    if curves and any(timed(runs, dataset) for runs in systems.values() for dataset in measured(systems)[0]):
        plot_times(systems, paths[TIMES])
        drawn.append(TIMES)
    return {kind: paths[kind].name for kind in drawn}
