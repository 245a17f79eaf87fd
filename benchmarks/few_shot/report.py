"""The few-shot results as a table and as learning curves, from the results files and nothing else.

    python benchmarks/few_shot/report.py --system "cllmfs=benchmarks/few_shot/results/cllmfs_mini.json" \
        --system "token classifier=benchmarks/few_shot/results/token_classifier.json"

writes docs/few_shot.md and, with matplotlib (``pip install matplotlib``), docs/few_shot.png. A system may be given
several files. What no file holds is shown as missing; systems that were not measured on the same shots and sentences
are refused, not compared. The same files give the same output. Knows results; knows nothing of data sets or models.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cllmfs.errors import CllmfsError, ConfigError, DataError
from cllmfs.evaluation import mean_sd

MISSING = "-"
SPLITS = ("dev", "test")
KEY = re.compile(rf"(?P<dataset>\S+) (?P<split>{'|'.join(SPLITS)}) (?P<k>\d+)-shot (?P<seed>\d+)")

# Okabe and Ito's colours, which the colour-blind tell apart, and markers for print without colours.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
TICKS = (1, 5, 10, 20, 50)
DASHES = (0, (4, 2))


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
    """

    dataset: str
    k: int
    seed: int
    f1: float
    sentences: int
    shots: int
    ece: float | None = None


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
    return Run(dataset, k, seed, float(record["f1"]), record["sentences"], record["shots"], record.get("ece"))


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
    """Means over the data sets that all systems with this k have: else systems would be averaged over other sets."""
    present = {name: runs for name, runs in systems.items() if any(run.k == k for run in runs)}
    sets = [name for name in datasets if all(cell(runs, name, k) for runs in present.values())]

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


def markdown(systems: Systems, baseline: str, split: str, image: str | None = None) -> str:
    """The whole page; ``image`` is the address of the curves."""
    parts = [
        "# Few-shot results",
        "Written by `benchmarks/few_shot/report.py` from the results files; change those, not this page.",
        f"Strict micro-F1 in per cent (exact start, end and label; all types on every sentence of the {split} split): "
        "mean ± sd over supports, their number in brackets. k: mentions of each type in a support, at least. "
        f"Differences are means over the supports that both systems have. A dash ({MISSING}) was not measured. "
        "Averages are over the data sets that every system has at this k, systems without any run at this k left out.",
        _pipes(table(systems, baseline)),
    ]
    if image:
        parts.append(f"![Strict F1 over k, a panel for each data set]({image})")
        parts.append("Bands: ± sd over supports. Dashed: zero-shot. Each panel has its own scale, from 0.")
    calibration = calibration_table(systems)
    if calibration:
        parts.append("## Calibration")
        parts.append(
            "Expected calibration error of the predicted spans' confidences, in [0, 1]: 0 is best. k 0 is zero-shot."
        )
        parts.append(_pipes(calibration))
    return "\n\n".join(parts) + "\n"


def _pipes(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def curve(runs: Sequence[Run], dataset: str) -> list[tuple[int, Cell]]:
    """The cells of a data set by k, from 1 shot on."""
    ks = sorted({run.k for run in runs if run.dataset == dataset and run.k})
    return [(k, one) for k in ks if (one := cell(runs, dataset, k))]


def plot(systems: Systems, path: Path) -> None:
    """Draw the learning curves into a PNG file, a panel for each data set.

    Raises:
        ConfigError: if matplotlib is missing, or there are more systems than colours that can be told apart.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise ConfigError("the curves need matplotlib; pip install matplotlib, or pass --no-plot") from error
    if len(systems) > len(STYLES):
        raise ConfigError(f"the curves show at most {len(STYLES)} systems, got {len(systems)}; pass --no-plot or fewer")
    datasets, ks = measured(systems)
    across = min(4, math.ceil(math.sqrt(len(datasets))))
    down = math.ceil(len(datasets) / across)
    figure = Figure(figsize=(0.6 + 2.5 * across, 0.9 + 2.0 * down), layout="constrained")
    panels = list(figure.subplots(down, across, sharex=True, squeeze=False).flat)
    for panel, dataset in zip(panels, datasets, strict=False):
        _draw(panel, systems, dataset)
    for panel in panels[len(datasets) :]:
        panel.remove()
    for panel in panels[max(0, len(datasets) - across) : len(datasets)]:
        panel.tick_params(labelbottom=True)  # the panel below may have been removed
    ticks = sorted({*TICKS, *ks})
    panels[0].set_xlim(0.85 * ticks[0], ticks[-1] / 0.85)
    panels[0].set_xticks(ticks, [str(tick) for tick in ticks])
    figure.supxlabel("k: mentions of each type to learn from", fontsize=8)
    figure.supylabel("strict F1 in per cent", fontsize=8)
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=4, linewidth=1.5, label=name)
        for name, (color, marker) in zip(systems, STYLES, strict=False)
    ]
    handles += [
        Line2D([], [], color=color, linestyle=DASHES, linewidth=1.2, label=f"{name}, zero-shot")
        for name, (color, _) in zip(systems, STYLES, strict=False)
        if name in zero_shot_systems(systems)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5), frameon=False, fontsize=8)
    # Without the library's version in it the file depends on the results alone.
    figure.savefig(path, dpi=200, metadata={"Software": None})


def _draw(panel: Any, systems: Systems, dataset: str) -> None:
    # Drawn from the last to the first, so that the first system lies on top.
    for runs, (color, marker) in reversed(list(zip(systems.values(), STYLES, strict=False))):
        points = curve(runs, dataset)
        ks, means, sds = [k for k, _ in points], [one.mean for _, one in points], [one.sd for _, one in points]
        low = [mean - sd for mean, sd in zip(means, sds, strict=True)]
        high = [mean + sd for mean, sd in zip(means, sds, strict=True)]
        if len(points) > 1:
            panel.fill_between(ks, low, high, color=color, alpha=0.18, linewidth=0)
        else:  # a band needs two points
            panel.vlines(ks, low, high, color=color, linewidth=1.2)
        panel.plot(ks, means, color=color, marker=marker, markersize=3.5, linewidth=1.4)
        free = cell(runs, dataset, 0)
        if free is not None:
            panel.axhline(free.mean, color=color, linestyle=DASHES, linewidth=1.2)
    panel.set_title(dataset, fontsize=9)
    panel.set_xscale("log")
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.tick_params(labelsize=7, length=2.5)
    panel.grid(axis="y", color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


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
        ConfigError: if the baseline is none of the systems, and as :func:`plot`.
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
    image = None if arguments.no_plot else arguments.output.with_suffix(".png")
    page = markdown(systems, arguments.baseline, arguments.split, image.name if image else None)
    arguments.output.write_text(page, encoding="utf-8")
    if image is not None:
        plot(systems, image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", type=system_file, action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--baseline", default="token classifier", help="the system that others are compared with")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--output", type=Path, default=Path("docs/few_shot.md"), help="the curves lie beside it")
    parser.add_argument("--no-plot", action="store_true")
    try:
        write(parser.parse_args())
    except CllmfsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
