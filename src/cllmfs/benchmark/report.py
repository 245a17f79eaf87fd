"""Results of a benchmark as a page: tables and pictures, made from the results folder and nothing else.

Results that the folder does not have are shown as missing; a comparison of systems that were not measured on the same
shots and sentences is refused. The same folder always gives the same page. Knows results; knows nothing of data sets or
models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cllmfs.benchmark import tables
from cllmfs.benchmark.figures import MOST_CURVES, plot_curves, plot_differences
from cllmfs.benchmark.results import Run, Systems, compared, measured, read_results, refuse_unequal
from cllmfs.errors import ConfigError, DataError
from cllmfs.evaluation import PAPER_LINE_NOTE
from cllmfs.files import whole_file

TITLE = "Few-shot results"
_MOST_COLUMNS = 12  # of a table that fits the page
CURVES, DIFFERENCES = "curves", "differences"  # the pictures


def markdown(
    systems: Systems, baseline: str, split: str, pictures: Mapping[str, str] | None = None, title: str = TITLE
) -> str:
    """The whole page; ``pictures`` maps the pictures that there are to their addresses."""
    shown = pictures or {}
    parts = [f"# {title}", "`cllmfs report` wrote this page from the results; edit those, not this page."]
    if measured(systems)[1]:
        parts += [
            f"Strict micro-F1 in percent: start, end and label must be exact. {scored_sentences(systems, split)} All "
            "types of a data set are asked of each of these sentences. Each cell is the mean ± sd over support sets, "
            "with their number in parentheses; a zero-shot figure is that of one run. k is the minimum number of "
            "mentions of each type in a support set. The difference between two systems is a mean over the support "
            f"sets that both have. {tables.MISSING} means not measured. An average is over all data sets measured at "
            "this k, with the number of support sets of a data set in parentheses; a system that lacks one of the data "
            "sets has no average.",
            pipes(fit_to_page(tables.f1_table(systems, baseline))),
        ]
    if CURVES in shown:
        parts.append(f"![Strict F1 over the number of shots, one panel for each data set]({shown[CURVES]})")
        parts.append("Bars: ± sd over support sets. Each panel has its own scale, which begins at 0.")
    parts += _differences_part(systems, baseline, shown.get(DIFFERENCES))
    parts += _section(
        "Episodes",
        "F1 in percent, computed from the summed counts of all episodes, with their number in parentheses: first "
        "Few-NERD's metric, which reads runs of one type over all query sentences joined, then the strict metric. The "
        f"types of an episode are asked of all of its query sentences: {_query_sentences(systems)}.",
        tables.episode_table(systems),
    )
    parts += _section(
        "Calibration",
        "Expected calibration error of the confidences of predicted spans, in [0, 1]; 0 is best. k = 0 is zero-shot.",
        tables.calibration_table(systems),
    )
    parts += _section(
        "Time",
        "Medians over all runs on a CPU that had other work as well, with the number of runs in parentheses; they only "
        "show orders of magnitude.",
        tables.costs(systems),
    )
    parts += _section(
        "The paper line's protocol",
        f"F1 in percent of the runs whose results include it: {PAPER_LINE_NOTE}.",
        tables.paper_line_table(systems),
    )
    return "\n\n".join(parts) + "\n"


def scored_sentences(systems: Systems, split: str) -> str:
    """Which sentences of each data set were scored, as one sentence.

    A split counts as scored in full if a run had no limit, or one that the split did not reach. Episodes are left out.
    """
    whole, first = [], dict[int, list[str]]()
    for dataset in measured(systems)[0]:
        runs = [run for each in systems.values() for run in each if run.dataset == dataset and run.episode is None]
        count = runs[0].sentences  # the same in all runs, see refuse_unequal
        if any(run.limit is None or run.limit > count for run in runs):
            whole.append(f"{dataset} ({count:,})")
        else:
            first.setdefault(count, []).append(dataset)
    parts = [f"every sentence of the {split} split of {_listed(whole)}"] if whole else []
    for count, names in sorted(first.items()):
        parts.append(f"the first {count:,} sentences of the {split} split of {_listed(names)}")
    return f"The systems are scored on {', and on '.join(parts)}."


def _query_sentences(systems: Systems) -> str:
    """The number of query sentences of the episodes by data set and k."""
    sentences = {
        (run.dataset, run.k, run.seed): run.sentences
        for runs in systems.values()
        for run in runs
        if run.episode is not None
    }
    counts = Counter[tuple[str, int]]()
    for (dataset, k, _), count in sentences.items():
        counts[dataset, k] += count
    return _listed([f"{count:,} of {dataset} at k = {k}" for (dataset, k), count in sorted(counts.items())])


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _section(title: str, explanation: str, rows: list[list[str]]) -> list[str]:
    return [f"## {title}", explanation, pipes(fit_to_page(rows))] if rows else []


def _differences_part(systems: Systems, baseline: str, picture: str | None) -> list[str]:
    rows = tables.differences(systems, baseline)
    if not rows:
        return []
    parts = [
        f"## Differences from {baseline}",
        "In points, over the support sets that both systems have: the mean over data sets of the mean over support "
        "sets, with the 95 % interval of a bootstrap that resamples the support sets of each data set. The interval is "
        "too narrow where there are few support sets, and missing where a data set has only one. Boundary F1 ignores "
        "labels; correct types is the share of correct labels among the spans with correct boundaries.",
        pipes(rows),
    ]
    return [*parts, f"![Differences in strict F1 with their intervals]({picture})"] if picture else parts


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is the head; all columns but the first are aligned to the right."""
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fit_to_page(rows: list[list[str]]) -> list[list[str]]:
    """A table with one column for each system, or transposed if it has too many columns and few rows."""
    head, *body = rows
    if len(head) <= max(_MOST_COLUMNS, len(rows)):
        return rows
    transposed = [["system", *(f"{name}, k = {k}" for name, k, *_ in body)]]
    return transposed + [[head[column], *(row[column] for row in body)] for column in range(2, len(head))]


def ordered(systems: Systems, first: Sequence[str]) -> dict[str, Sequence[Run]]:
    """The systems named first, in that order, then the others; raises ConfigError if a name is unknown."""
    refuse_unknown(systems, first)
    return {name: systems[name] for name in dict.fromkeys([*first, *systems])}


def refuse_unknown(systems: Systems, names: Sequence[str]) -> None:
    """Raise :class:`~cllmfs.errors.ConfigError` if one of the names is not a system with results."""
    if unknown := [name for name in names if name not in systems]:
        raise ConfigError(f"there is no result of {unknown[0]!r}; there are {', '.join(map(repr, systems)) or 'none'}")


def write_report(
    results: str | Path,
    output: str | Path,
    *,
    split: str = "test",
    order: Sequence[str] = (),
    baseline: str | None = None,
    curves: Sequence[str] = (),
    plot: bool = True,
    title: str = TITLE,
) -> None:
    """Write the page, and its pictures beside it.

    Args:
        output: the file of the page; its folder is made if it does not exist, and pictures are named after the file.
        split: the split whose results are reported.
        order: systems that come first.
        baseline: the system that all others are compared with; the second one if not given.
        curves: systems whose learning curves are drawn; the first ones if empty.

    Raises:
        DataError: if the results cannot be read or compared, or none of them has shots.
        ConfigError: if a name in ``order`` or ``curves`` or the baseline is unknown, or a picture cannot be drawn.
    """
    systems = ordered(read_results(results, split), order)
    refuse_unknown(systems, [*curves, *([] if baseline is None else [baseline])])
    refuse_unequal(systems)
    if not any(run.k for runs in systems.values() for run in runs):
        raise DataError(f"{results} must hold results with shots, got none of the {split} split")
    baseline = baseline or list(systems)[min(1, len(systems) - 1)]
    page = Path(output)
    page.parent.mkdir(parents=True, exist_ok=True)
    drawn = {name: systems[name] for name in curves or list(systems)[:MOST_CURVES]}
    pictures = _draw(systems, baseline, drawn, page) if plot else {}
    with whole_file(page) as handle:
        handle.write(markdown(systems, baseline, split, pictures, title).encode("utf-8"))


def _draw(systems: Systems, baseline: str, drawn: Systems, page: Path) -> dict[str, str]:
    """Draw the pictures that the results allow; returns their file names."""
    pictures = {}
    if len(measured(drawn)[1]) > 1:  # a single k is shown well enough by the table
        pictures[CURVES] = page.with_suffix(".png").name
        plot_curves(drawn, page.with_suffix(".png"))
    if compared(systems, baseline):
        pictures[DIFFERENCES] = f"{page.stem}_{DIFFERENCES}.png"
        plot_differences(systems, baseline, page.with_name(pictures[DIFFERENCES]))
    return pictures
