"""The few-shot results as tables and pictures, from the results files and nothing else.

    python benchmarks/few_shot/report.py --system "cllmfs=benchmarks/few_shot/results/cllmfs_mini.json" \
        --system "token classifier=benchmarks/few_shot/results/token_classifier.json"

writes docs/few_shot.md and, with matplotlib (``pip install matplotlib``), the learning curves docs/few_shot.png and the
first system's reliability diagrams docs/few_shot_reliability.png, if it has confidences. A system may be given several
files. What no file holds is shown as missing; systems that were not measured on the same shots and sentences are
refused, not compared. The same files give the same output. Knows results; knows nothing of data sets or models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Run as a script, Python puts this folder first on the path, where datasets.py would hide the package of that name.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.few_shot.figures import plot_curves, plot_reliability
from benchmarks.few_shot.results import (
    SPLITS,
    Run,
    Systems,
    cell,
    check,
    difference,
    measured,
    read_runs,
    zero_shot_systems,
)
from cllmfs.errors import CllmfsError, ConfigError, DataError
from cllmfs.evaluation import mean_sd

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
    able = [name for name, runs in systems.items() if any(run.ece is not None for run in runs)]
    if not able:
        return []
    rows = [["data set", "k", *able]]
    for dataset, k in sorted({(r.dataset, r.k) for name in able for r in systems[name] if r.ece is not None}):
        cells = (cell(systems[name], dataset, k, lambda run: run.ece) for name in able)
        rows.append([dataset, str(k), *(MISSING if one is None else one.text(3) for one in cells)])
    return rows


def markdown(
    systems: Systems, baseline: str, split: str, curves: str | None = None, diagrams: str | None = None
) -> str:
    """The whole page; ``curves`` and ``diagrams`` are the addresses of the pictures."""
    parts = [
        "# Few-shot results",
        "Written by `benchmarks/few_shot/report.py` from the results files; change those, not this page.",
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
    return "\n\n".join(parts) + "\n"


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the head first; all columns but the first are set to the right."""
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def system_file(argument: str) -> tuple[str, Path]:
    """The name and the path of ``name=path``."""
    name, _, path = argument.partition("=")
    if not name.strip() or not path.strip():
        raise argparse.ArgumentTypeError(f'a system is given as "name=results.json", got {argument!r}')
    return name.strip(), Path(path.strip())


def write(arguments: argparse.Namespace) -> None:
    """Read, check and write.

    Raises:
        DataError: as :func:`read_runs` and :func:`check`, or if there is no run of the split.
        ConfigError: if the baseline is none of the systems, and as :func:`plot_curves`.
    """
    systems: dict[str, list[Run]] = {}
    for name, path in arguments.system:
        systems.setdefault(name, []).extend(read_runs(path, arguments.split))
    if arguments.baseline not in systems:
        raise ConfigError(
            f"the baseline must be one of the systems {', '.join(map(repr, systems))}, got {arguments.baseline!r}; "
            "name it with --baseline"
        )
    check(systems)
    if not measured(systems)[1]:
        raise DataError(f"the results files must hold runs with shots, got none of the {arguments.split} split")
    output: Path = arguments.output
    confident = next((runs for runs in systems.values() if any(run.bins for run in runs)), [])
    curves, diagrams = output.with_suffix(".png"), output.with_name(f"{output.stem}_reliability.png")
    pictures = [] if arguments.no_plot else [curves.name, *([diagrams.name] if confident else [])]
    output.write_text(markdown(systems, arguments.baseline, arguments.split, *pictures), encoding="utf-8")
    if pictures:
        plot_curves(systems, curves)
    if confident and pictures:
        plot_reliability(confident, diagrams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", type=system_file, action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--baseline", default="token classifier", help="the system that others are compared with")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--output", type=Path, default=Path("docs/few_shot.md"), help="the pictures lie beside it")
    parser.add_argument("--no-plot", action="store_true")
    try:
        write(parser.parse_args())
    except CllmfsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
